//! What the bindings of libtorch lack: its part for CUDA, loaded when it is asked for; the switches that decide whether
//! results have the same bits every time; a few operations on tensors; its profiler.
//!
//! One binary serves hosts with and without GPUs: it links `libtorch_cpu` alone, and [`load_cuda`] opens
//! `libtorch_cuda.so` beside it before the first tensor is made. Its constructors then register the kernels for CUDA.

mod cuda;
mod profile;
mod tensors;

use std::ffi::{CStr, c_char, c_int};

pub use cuda::{CudaError, CudaLibrary, load_cuda};
pub use profile::{Profile, Span, empty_cache, peak_bytes, reset_peak_bytes, span};
pub use tensors::{Packed, copy_in_order, gradients, packed_attention, pinned, pinned_bytes};

unsafe extern "C" {
    fn gpart_last_error() -> *const c_char;
    fn gpart_set_deterministic(on: c_int) -> c_int;
    fn gpart_set_tf32(on: c_int) -> c_int;
    fn gpart_set_reduced_precision_sums(on: c_int) -> c_int;
    fn gpart_deterministic() -> c_int;
    fn gpart_tf32() -> c_int;
}

/// How libtorch computes on CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numerics {
    /// Only algorithms that give the same bits every time; an operation that has none is an error.
    pub deterministic: bool,
    /// float32 products by TF32 (10 bits of mantissa).
    pub tf32: bool,
}

/// Sets how libtorch computes from now on, in this process. Sums of half-precision products are made in float32 in any case.
///
/// # Panics
/// libtorch refuses a switch, which it does in no version that this is built for.
pub fn set_numerics(numerics: Numerics) {
    let Numerics { deterministic, tf32 } = numerics;
    // SAFETY: plain switches; no exception comes out of them.
    let refused = unsafe {
        gpart_set_deterministic(deterministic.into())
            + gpart_set_tf32(tf32.into())
            + gpart_set_reduced_precision_sums(0)
    };
    assert_eq!(refused, 0, "libtorch has these switches");
}

/// How libtorch computes now.
pub fn numerics() -> Numerics {
    // SAFETY: plain questions.
    unsafe { Numerics { deterministic: gpart_deterministic() != 0, tf32: gpart_tf32() != 0 } }
}

/// What a function of the shim came to; on an error what libtorch said.
fn done(result: c_int) -> Result<(), String> {
    match result {
        0 => Ok(()),
        // SAFETY: the text of this thread's last exception, which ends with a zero and is copied before the next call.
        _ => Err(unsafe { CStr::from_ptr(gpart_last_error()) }.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_set() {
        for numerics_wanted in [
            Numerics { deterministic: true, tf32: false },
            Numerics { deterministic: false, tf32: true },
            Numerics { deterministic: false, tf32: false },
        ] {
            set_numerics(numerics_wanted);
            assert_eq!(numerics(), numerics_wanted);
        }
    }
}
