//! The fuzzer: `fuzz TARGET [libFuzzer's arguments]`, started by `cargo xtask fuzz`.
//!
//! A panic, an abort, a stack that overflows and an input that takes too long end the process, and libFuzzer keeps the
//! input. So does more memory than an input can need: the allocator refuses it, which code that asks with
//! `try_reserve` survives, as it would on a small machine, and no other.
//!
//! Where the stack is used up libFuzzer has none left to keep the input with. So each input is also copied into the
//! file that `FUZZ_CURRENT` names, mapped into memory: its length (u64, little-endian), then its bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use fuzz::{TARGETS, Target, target};
use libfuzzer_sys as _;
use memmap2::MmapMut;

static TARGET: OnceLock<Target> = OnceLock::new();
static CURRENT: Mutex<Option<MmapMut>> = Mutex::new(None);

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        count: *mut c_int,
        words: *mut *mut *mut c_char,
        run: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

fn main() -> ExitCode {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let Some(chosen) = args.next().as_deref().and_then(target) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        let _ = writeln!(
            std::io::stderr(),
            "usage: fuzz TARGET [libFuzzer's arguments]\ntargets: {}",
            names.join(" ")
        );
        return ExitCode::from(2);
    };
    TARGET.get_or_init(|| chosen);
    ALLOCATOR.limit.store(chosen.most_memory, Ordering::Relaxed);
    if let Some(path) = std::env::var_os("FUZZ_CURRENT") {
        match map(Path::new(&path)) {
            Ok(map) => *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(map),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "cannot write {}: {error}", Path::new(&path).display());
                return ExitCode::FAILURE;
            }
        }
    }
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default_hook(panic);
        // Before the stack is unwound, so that nothing can take the panic for its own. Where `data` contains the
        // panics of a foreign decoder, it keeps them from this hook.
        std::process::abort();
    }));
    let words: Vec<CString> =
        std::iter::once(program).chain(args).filter_map(|word| CString::new(word).ok()).collect();
    let mut pointers: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let (mut count, mut start) = (words.len() as c_int, pointers.as_mut_ptr());
    // SAFETY: count and words are what `main` of a C program is given, terminated by null, and outlive the call;
    // libFuzzer does not write through them.
    let code = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut start, run) };
    ExitCode::from(code.clamp(0, 255) as u8)
}

/// A new file of a mebibyte, far above the length of an input, in memory.
fn map(path: &Path) -> std::io::Result<MmapMut> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(1 << 20)?;
    // SAFETY: the file was made for this process, and nobody else writes to it or cuts it while it runs.
    unsafe { MmapMut::map_mut(&file) }
}

fn keep(bytes: &[u8]) {
    if let Some(map) = &mut *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) {
        let (length, content) = map.split_at_mut(8);
        let kept = bytes.len().min(content.len());
        content[..kept].copy_from_slice(&bytes[..kept]);
        length.copy_from_slice(&(kept as u64).to_le_bytes());
    }
}

extern "C" fn run(bytes: *const u8, length: usize) -> c_int {
    let bytes = if length == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer passes a buffer of that length, which it leaves alone until this returns.
        unsafe { std::slice::from_raw_parts(bytes, length) }
    };
    keep(bytes);
    if let Some(target) = TARGET.get() {
        (target.run)(bytes);
    }
    0
}

/// What `libfuzzer_sys` calls instead where it has `main`, which here it has not.
#[unsafe(no_mangle)]
extern "Rust" fn rust_fuzzer_test_input(bytes: &[u8]) -> i32 {
    run(bytes.as_ptr(), bytes.len())
}

/// The system's allocator with a limit.
struct Limited {
    used: AtomicUsize,
    limit: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Limited = Limited { used: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) };

impl Limited {
    fn take(&self, size: usize) -> bool {
        let used = self.used.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        let fits = used <= self.limit.load(Ordering::Relaxed);
        if !fits {
            self.used.fetch_sub(size, Ordering::Relaxed);
        }
        fits
    }
}

// SAFETY: every call is passed on to the system's allocator as it came, or refused by a null pointer, which the
// contract allows.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !self.take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.take(new_size) {
            return std::ptr::null_mut();
        }
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
