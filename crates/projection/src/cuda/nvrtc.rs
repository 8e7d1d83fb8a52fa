//! NVRTC, NVIDIA's compiler as a library, loaded when it is asked for.
//!
//! Loaded by ourselves: cudarc looks for it by name alone, and a wheel's lies beside torch. Results stay plain numbers,
//! since another version may return some that are not known here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;

use libloading::Library;

use super::CudaError;
use super::image::{HEADER, HEADER_NAME, ImageKey, SOURCE};

/// The versions that are looked for, the newest first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
/// `NVRTC_SUCCESS`.
const SUCCESS: c_int = 0;

type Program = *mut c_void;

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of NVRTC's header, the same since 11.2.
                    $($field: *unsafe { library.get($symbol) }?,)*
                })
            }
        }
    };
}

functions! {
    version = b"nvrtcVersion": fn(*mut c_int, *mut c_int) -> c_int;
    count_architectures = b"nvrtcGetNumSupportedArchs": fn(*mut c_int) -> c_int;
    architectures = b"nvrtcGetSupportedArchs": fn(*mut c_int) -> c_int;
    create = b"nvrtcCreateProgram": fn(
        *mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    ) -> c_int;
    compile = b"nvrtcCompileProgram": fn(Program, c_int, *const *const c_char) -> c_int;
    destroy = b"nvrtcDestroyProgram": fn(*mut Program) -> c_int;
    log_size = b"nvrtcGetProgramLogSize": fn(Program, *mut usize) -> c_int;
    log = b"nvrtcGetProgramLog": fn(Program, *mut c_char) -> c_int;
    ptx_size = b"nvrtcGetPTXSize": fn(Program, *mut usize) -> c_int;
    ptx = b"nvrtcGetPTX": fn(Program, *mut c_char) -> c_int;
    cubin_size = b"nvrtcGetCUBINSize": fn(Program, *mut usize) -> c_int;
    cubin = b"nvrtcGetCUBIN": fn(Program, *mut c_char) -> c_int;
    error_string = b"nvrtcGetErrorString": fn(c_int) -> *const c_char;
}

/// The library.
pub struct Nvrtc {
    call: Functions,
    version: (i32, i32),
    /// What `call` points into stays loaded, and so does what it loads by name.
    _loaded: Vec<Library>,
}

impl Nvrtc {
    /// Loads NVRTC: the one in the system's search path (`LD_LIBRARY_PATH`), or else in one of `folders`.
    ///
    /// # Errors
    /// [`CudaError::Missing`] when there is none, or it lacks something.
    pub fn load(folders: &[PathBuf]) -> Result<Self, CudaError> {
        let hint = "`pip install nvidia-cuda-nvrtc==13.0.*` brings it (torch for CUDA has it with it); \
                    then LD_LIBRARY_PATH=…/site-packages/nvidia/cu13/lib";
        let missing = |what: String| CudaError::Missing { what, hint: hint.to_owned() };
        let named = NAMES.map(PathBuf::from).into_iter();
        let placed = folders.iter().flat_map(|folder| NAMES.map(|name| folder.join(name)));
        // SAFETY: loading NVRTC runs its initialisers, which is what it is made for.
        let Some(library) = named.chain(placed).find_map(|path| unsafe { Library::new(path) }.ok()) else {
            let beside = folders.iter().map(|folder| format!(", {}", folder.display())).collect::<String>();
            return Err(missing(format!(
                "NVRTC's library {} was not found (looked in LD_LIBRARY_PATH, the system's folders{beside})",
                NAMES[0]
            )));
        };
        let call = Functions::of(&library)
            .map_err(|error| missing(format!("NVRTC's library lacks something that is needed: {error}")))?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: places for the answer.
        if unsafe { (call.version)(&mut major, &mut minor) } != SUCCESS {
            return Err(missing("NVRTC's library does not tell its version".to_owned()));
        }
        let mut loaded = vec![library];
        // It opens this one by name alone, which finds what is loaded already.
        let builtins = format!("libnvrtc-builtins.so.{major}.{minor}");
        let places = std::iter::once(PathBuf::from(&builtins))
            .chain(folders.iter().map(|folder| folder.join(&builtins)));
        // SAFETY: as above. Where it is not found here, compiling says so.
        loaded.extend(places.into_iter().find_map(|path| unsafe { Library::new(path) }.ok()));
        Ok(Self { call, version: (major, minor), _loaded: loaded })
    }

    /// Major and minor.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What decides about the image for a GPU of this compute capability: its own architecture, or else the newest one
    /// that this NVRTC knows, for the driver to finish.
    ///
    /// # Errors
    /// Where it knows none that is old enough.
    pub fn key(&self, capability: (i32, i32)) -> Result<ImageKey, CudaError> {
        let wanted = capability.0 * 10 + capability.1;
        let known = self.architectures();
        let architecture = match known.iter().copied().filter(|known| *known <= wanted).max() {
            Some(known) if known == wanted => format!("sm_{wanted}"),
            Some(older) => format!("compute_{older}"),
            None => {
                return Err(CudaError::Compile {
                    nvrtc: self.words(),
                    architecture: format!("sm_{wanted}"),
                    log: format!("it knows no architecture as old as this GPU's, only {known:?}"),
                });
            }
        };
        let options = [
            "--std=c++17".to_owned(),
            // The CPU rounds every operation by itself.
            "--fmad=false".to_owned(),
            format!("--gpu-architecture={architecture}"),
        ];
        Ok(ImageKey { nvrtc: self.version, architecture, options: options.into() })
    }

    /// Major and minor as they are written.
    pub(super) fn words(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    fn architectures(&self) -> Vec<i32> {
        let mut count = 0;
        // SAFETY: a place for the answer.
        if unsafe { (self.call.count_architectures)(&mut count) } != SUCCESS {
            return Vec::new();
        }
        let mut known = vec![0; count.max(0) as usize];
        // SAFETY: as many places as there are answers.
        if unsafe { (self.call.architectures)(known.as_mut_ptr()) } != SUCCESS {
            return Vec::new();
        }
        known
    }

    /// The kernels as an image for the driver: machine code for a real architecture, else PTX.
    ///
    /// # Errors
    /// [`CudaError::Compile`].
    pub fn compile(&self, key: &ImageKey) -> Result<Vec<u8>, CudaError> {
        self.compiled(key, |program| self.image(key, program))
    }

    fn image(&self, key: &ImageKey, program: Program) -> Result<Vec<u8>, c_int> {
        if key.architecture.starts_with("sm_") {
            fetch(program, self.call.cubin_size, self.call.cubin)
        } else {
            fetch(program, self.call.ptx_size, self.call.ptx)
        }
    }

    /// The kernels as [`Nvrtc::compile`] gives them, and as PTX text.
    ///
    /// # Errors
    /// [`CudaError::Compile`].
    pub fn compile_with_text(&self, key: &ImageKey) -> Result<(Vec<u8>, String), CudaError> {
        self.compiled(key, |program| {
            let ptx = fetch(program, self.call.ptx_size, self.call.ptx)?;
            let text = String::from_utf8_lossy(&ptx).trim_end_matches('\0').to_owned();
            Ok((self.image(key, program)?, text))
        })
    }

    fn compiled<T>(
        &self,
        key: &ImageKey,
        take: impl FnOnce(Program) -> Result<T, c_int>,
    ) -> Result<T, CudaError> {
        let failed = |log: String| CudaError::Compile {
            nvrtc: self.words(),
            architecture: key.architecture.clone(),
            log: log.trim().to_owned(),
        };
        let text =
            |text: &str| CString::new(text).map_err(|_| failed("a zero byte in the source".to_owned()));
        let (source, name) = (text(SOURCE)?, text("kernels.cu")?);
        let (header, header_name) = (text(HEADER)?, text(HEADER_NAME)?);
        let mut program = std::ptr::null_mut();
        // SAFETY: texts that end with a zero and outlive the program, and one header with its name.
        let result = unsafe {
            let (header, header_name) = (header.as_ptr(), header_name.as_ptr());
            (self.call.create)(&mut program, source.as_ptr(), name.as_ptr(), 1, &header, &header_name)
        };
        if result != SUCCESS {
            return Err(failed(self.error(result)));
        }
        let options = key.options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>();
        let compiled = options.and_then(|options| {
            let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
            // SAFETY: a program, and as many options as are said.
            let result = unsafe { (self.call.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
            if result != SUCCESS {
                return Err(failed(format!("{}\n{}", self.error(result), self.log(program))));
            }
            take(program).map_err(|result| failed(self.error(result)))
        });
        // SAFETY: created above, destroyed once.
        unsafe { (self.call.destroy)(&mut program) };
        compiled
    }

    /// What the compiler says about a program.
    fn log(&self, program: Program) -> String {
        let log = fetch(program, self.call.log_size, self.call.log).unwrap_or_default();
        String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned()
    }

    fn error(&self, result: c_int) -> String {
        // SAFETY: returns a text that lives as long as the library.
        let text = unsafe { (self.call.error_string)(result) };
        if text.is_null() {
            return format!("error {result}");
        }
        // SAFETY: not null, and ends with a zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// Asks for a length, then for as many bytes.
fn fetch(
    program: Program,
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    content: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
) -> Result<Vec<u8>, c_int> {
    let mut length = 0;
    // SAFETY: a program that lives, and a place for the answer.
    match unsafe { size(program, &mut length) } {
        SUCCESS => {}
        error => return Err(error),
    }
    let mut bytes = vec![0_u8; length];
    // SAFETY: as many bytes as were asked for.
    match unsafe { content(program, bytes.as_mut_ptr().cast()) } {
        SUCCESS => Ok(bytes),
        error => Err(error),
    }
}
