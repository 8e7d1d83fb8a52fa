//! NCCL's library, loaded when it is asked for.
//!
//! Loaded by ourselves: cudarc looks for `libnccl.so` alone, and what wheels and runtime packages have is
//! `libnccl.so.2`. Results stay plain numbers, since a newer library may return some that are not known here.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

use libloading::Library as Loaded;

use crate::{Missing, wheel_folders};

/// Oldest version that works, as `ncclGetVersion` numbers it.
const OLDEST: c_int = 21900;
/// What the wheel of libtorch brings.
const SUGGESTED: &str = "2.28.9";

/// `ncclSuccess`.
pub(super) const SUCCESS: c_int = 0;
/// `ncclInProgress`.
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclUint8`.
pub(super) const BYTE: c_int = 1;
/// `ncclInt64`.
pub(super) const INT64: c_int = 4;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// An `ncclComm_t`.
pub(super) type Comm = *mut c_void;
type Stream = *mut c_void;

/// An `ncclUniqueId`: what ranks need to find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UniqueId(pub(super) [u8; UniqueId::LENGTH]);

impl UniqueId {
    /// Bytes.
    pub(super) const LENGTH: usize = 128;

    /// From the bytes that another rank sent.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

/// `ncclConfig_t` as of 2.19; newer libraries read as much as `size` says and fill in the rest.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Calls return at once and go on in the background.
    pub(super) fn non_blocking() -> Self {
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST as u32,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions that are used.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn of(library: &Loaded) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of NCCL's header, the same since 2.19.
                    $($field: *unsafe { library.get($symbol) }?,)*
                })
            }
        }
    };
}

functions! {
    get_version = b"ncclGetVersion": fn(*mut c_int) -> c_int;
    get_unique_id = b"ncclGetUniqueId": fn(*mut UniqueId) -> c_int;
    init = b"ncclCommInitRankConfig": fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int;
    async_error = b"ncclCommGetAsyncError": fn(Comm, *mut c_int) -> c_int;
    finalize = b"ncclCommFinalize": fn(Comm) -> c_int;
    destroy = b"ncclCommDestroy": fn(Comm) -> c_int;
    abort = b"ncclCommAbort": fn(Comm) -> c_int;
    all_reduce = b"ncclAllReduce":
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
    all_gather = b"ncclAllGather": fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> c_int;
    broadcast = b"ncclBroadcast":
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
    send = b"ncclSend": fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
    receive = b"ncclRecv": fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int;
    error_string = b"ncclGetErrorString": fn(c_int) -> *const c_char;
    last_error = b"ncclGetLastError": fn(Comm) -> *const c_char;
}

/// The library.
pub(crate) struct Library {
    pub(super) call: Functions,
    version: c_int,
    /// What `call` points into stays loaded.
    _loaded: Loaded,
}

impl Library {
    /// Major, minor and patch.
    pub(crate) fn version(&self) -> (u32, u32, u32) {
        let version = self.version as u32;
        (version / 10_000, version % 10_000 / 100, version % 100)
    }

    /// What a result means, with NCCL's own last words.
    pub(super) fn words(&self, result: c_int) -> String {
        // SAFETY: both return texts that live as long as the library; a null communicator is allowed.
        let [what, last] =
            unsafe { [(self.call.error_string)(result), (self.call.last_error)(std::ptr::null_mut())] }.map(
                |text| match text.is_null() {
                    true => String::new(),
                    // SAFETY: not null, and ends with a zero.
                    false => unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned(),
                },
            );
        if last.is_empty() { what } else { format!("{what} ({last})") }
    }
}

/// The library, loaded at the first call.
///
/// # Errors
/// It is not there, too old, or lacks something.
pub(crate) fn library() -> Result<&'static Library, Missing> {
    static LIBRARY: OnceLock<Result<Library, Missing>> = OnceLock::new();
    LIBRARY.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Library, Missing> {
    let get = format!(
        "`pip install nvidia-nccl-cu13=={SUGGESTED}` brings it; then LD_LIBRARY_PATH=…/site-packages/nvidia/nccl/lib. \
         Debian and Ubuntu with NVIDIA's repository: apt-get install libnccl2"
    );
    // Beside libtorch, and in the active Python environment.
    let wheels = wheel_folders(&["nvidia/nccl/lib"]);
    let names = ["libnccl.so.2", "libnccl.so"].map(PathBuf::from);
    let candidates = names.into_iter().chain(wheels.iter().map(|folder| folder.join("libnccl.so.2")));
    // SAFETY: loading NCCL runs its initialisers, which is what it is made for.
    let Some(loaded) = candidates.into_iter().find_map(|path| unsafe { Loaded::new(path) }.ok()) else {
        let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let beside = wheels.iter().map(|folder| format!(", {}", folder.display())).collect::<String>();
        let what = format!(
            "NCCL's library libnccl.so.2 was not found (looked in LD_LIBRARY_PATH={path:?}, the system's folders{beside})"
        );
        return Err(Missing { what, hint: get });
    };
    let call = Functions::of(&loaded).map_err(|error| Missing {
        what: format!("NCCL's library lacks something that this gpart-dist needs: {error}"),
        hint: get.clone(),
    })?;
    let mut version = 0;
    // SAFETY: a place for the answer.
    let result = unsafe { (call.get_version)(&mut version) };
    let library = Library { call, version, _loaded: loaded };
    if result != SUCCESS || version < OLDEST {
        let (major, minor, patch) = library.version();
        let what = format!("NCCL {major}.{minor}.{patch} is too old: 2.19 or later is needed");
        return Err(Missing { what, hint: get });
    }
    Ok(library)
}
