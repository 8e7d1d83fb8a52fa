//! The fuzzer: `fuzz TARGET [libFuzzer's arguments]`, started by `cargo xtask fuzz`.
//!
//! A panic, an abort, a stack that overflows and an input that takes too long end the process, and libFuzzer keeps the
//! input. So does more memory than an input can need: the allocator refuses it, which code that asks with
//! `try_reserve` survives, as it would on a small machine, and no other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, c_char, c_int};
use std::io::Write;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuzz::{TARGETS, Target, target};
use libfuzzer_sys as _;

/// Bytes that may be in use at once.
const MOST_MEMORY: usize = 1 << 30;

static TARGET: OnceLock<Target> = OnceLock::new();

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

extern "C" fn run(bytes: *const u8, length: usize) -> c_int {
    let bytes = if length == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer passes a buffer of that length, which it leaves alone until this returns.
        unsafe { std::slice::from_raw_parts(bytes, length) }
    };
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
struct Limited(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Limited = Limited(AtomicUsize::new(0));

impl Limited {
    fn take(&self, size: usize) -> bool {
        let fits = self.0.fetch_add(size, Ordering::Relaxed).saturating_add(size) <= MOST_MEMORY;
        if !fits {
            self.0.fetch_sub(size, Ordering::Relaxed);
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
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
