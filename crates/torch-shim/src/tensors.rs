//! Operations on tensors that the bindings leave out.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::done;

unsafe extern "C" {
    fn gpart_gradients(
        output: *const C_tensor,
        upstream: *const C_tensor,
        inputs: *const *const C_tensor,
        count: c_int,
        gradients: *mut *mut C_tensor,
    ) -> c_int;
    fn gpart_packed_attention(
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        cumulative: *const C_tensor,
        longest: i64,
        window: i64,
        attended: *mut *mut C_tensor,
    ) -> c_int;
    fn gpart_pinned_bytes(length: i64, pinned: *mut *mut C_tensor) -> c_int;
    fn gpart_copy_in_order(target: *const C_tensor, source: *const C_tensor) -> c_int;
    fn gpart_pinned(tensor: *const C_tensor, pinned: *mut *mut C_tensor) -> c_int;
}

/// Gradients of the sum of `output · upstream` by some tensors of its graph, in their order. The graph is used up.
///
/// # Errors
/// What libtorch says: no memory, or a tensor that is not part of the graph.
pub fn gradients(output: &Tensor, upstream: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let pointers: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let mut found = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: all tensors live through the call, and there is room for as many results as inputs.
    done(unsafe {
        gpart_gradients(
            output.as_ptr(),
            upstream.as_ptr(),
            pointers.as_ptr(),
            inputs.len() as c_int,
            found.as_mut_ptr(),
        )
    })?;
    // SAFETY: without an error every place holds a tensor that is ours.
    Ok(found.into_iter().map(|tensor| unsafe { Tensor::from_ptr(tensor) }).collect())
}

/// Sequences that lie end to end.
#[derive(Debug)]
pub struct Packed {
    /// Where each begins, and the end of the last: int32 `[sequences + 1]`, on the device.
    pub cumulative: Tensor,
    /// Length of the longest.
    pub longest: i64,
}

/// Causal attention within each of several sequences by one kernel of libtorch (FlashAttention-2, arXiv 2307.08691), on
/// CUDA, in half precision: `query` `[N, A, D]`, `key` and `value` `[N, K, D]` with `K` a divisor of `A` → `[N, A, D]`.
/// With `window` a token sees so many, itself included.
///
/// # Errors
/// What libtorch says: another device or dtype, a GPU of compute capability below 8.0, heads of more than 256 numbers or of
/// no multiple of 8, no memory.
pub fn packed_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    packed: &Packed,
    window: Option<i64>,
) -> Result<Tensor, String> {
    let mut attended = std::ptr::null_mut();
    // SAFETY: all tensors live through the call, and there is room for one result.
    done(unsafe {
        gpart_packed_attention(
            query.as_ptr(),
            key.as_ptr(),
            value.as_ptr(),
            packed.cumulative.as_ptr(),
            packed.longest,
            window.map_or(-1, |window| window - 1),
            &mut attended,
        )
    })?;
    // SAFETY: without an error this is a tensor that is ours.
    Ok(unsafe { Tensor::from_ptr(attended) })
}

/// A copy of a host tensor in page-locked memory.
///
/// # Errors
/// What libtorch says: no device, no memory.
pub fn pinned(tensor: &Tensor) -> Result<Tensor, String> {
    let mut pinned = std::ptr::null_mut();
    // SAFETY: the tensor lives through the call, and there is room for one result.
    done(unsafe { gpart_pinned(tensor.as_ptr(), &mut pinned) })?;
    // SAFETY: without an error this is a tensor that is ours.
    Ok(unsafe { Tensor::from_ptr(pinned) })
}

/// Page-locked memory, which a device copies from on its own: uint8 `[length]`, not initialised.
///
/// # Errors
/// What libtorch says: no device, no memory.
pub fn pinned_bytes(length: usize) -> Result<Tensor, String> {
    let mut pinned = std::ptr::null_mut();
    // SAFETY: there is room for one result.
    done(unsafe { gpart_pinned_bytes(length as i64, &mut pinned) })?;
    // SAFETY: without an error this is a tensor that is ours.
    Ok(unsafe { Tensor::from_ptr(pinned) })
}

/// Starts a copy of `source` into `target`, which have one shape, without waiting for it. What uses `target` later on the
/// device comes after it. Page-locked memory may be let go of at once; it must not be written to before the copy is done.
///
/// # Errors
/// What libtorch says.
pub fn copy_in_order(target: &Tensor, source: &Tensor) -> Result<(), String> {
    // SAFETY: both tensors live through the call.
    done(unsafe { gpart_copy_in_order(target.as_ptr(), source.as_ptr()) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn gradients_are_those_of_a_sum() {
        let leaf = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (a, b) = (leaf(&[3, 4]), leaf(&[4, 2]));
        let upstream = Tensor::randn([3, 2], (Kind::Float, Device::Cpu));
        let found = gradients(&a.matmul(&b), &upstream, &[&a, &b]).unwrap();
        let root = (a.matmul(&b) * &upstream).sum(Kind::Float);
        assert_eq!(found, Tensor::run_backward(&[root], &[&a, &b], false, false));
        let stranger = leaf(&[1]);
        let refused = gradients(&a.matmul(&b), &upstream, &[&stranger]).unwrap_err();
        assert!(refused.contains("not have been used in the graph"), "{refused}");
    }

    #[test]
    fn copies_convert() {
        let target = Tensor::zeros([3], (Kind::BFloat16, Device::Cpu));
        copy_in_order(&target, &Tensor::from_slice(&[1.0_f32, 2.0, 3.0078125])).unwrap();
        assert_eq!(target, Tensor::from_slice(&[1.0_f32, 2.0, 3.0]).to_kind(Kind::BFloat16));
        assert!(copy_in_order(&target, &Tensor::from_slice(&[1.0_f32, 2.0])).is_err());
    }

    #[test]
    fn what_needs_a_gpu_says_so() {
        let states = Tensor::zeros([5, 2, 8], (Kind::BFloat16, Device::Cpu));
        let packed = Packed { cumulative: Tensor::from_slice(&[0_i32, 2, 5]), longest: 3 };
        assert!(packed_attention(&states, &states, &states, &packed, None).is_err());
        if !tch::Cuda::is_available() {
            assert!(pinned(&states).is_err() && pinned_bytes(8).is_err());
        }
    }
}
