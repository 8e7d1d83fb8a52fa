//! Tensors as the loops over weights see them: addresses and slices.

use projection::cuda::Element;
use tch::{Device, Kind, Tensor};

/// The address of a contiguous tensor of so many numbers.
pub(super) fn address(tensor: &Tensor, numel: usize) -> u64 {
    assert!(tensor.is_contiguous() && tensor.numel() == numel, "weights and gradients are contiguous");
    tensor.data_ptr() as u64
}

/// A compute dtype as kernels know it.
pub(super) fn element(kind: Kind) -> Element {
    match kind {
        Kind::BFloat16 => Element::Bf16,
        Kind::Half => Element::F16,
        _ => Element::F32,
    }
}

/// The elements of a contiguous f32 CPU tensor.
pub(super) fn f32_slice(tensor: &Tensor, numel: usize) -> &[f32] {
    check_layout(tensor, numel);
    // SAFETY: the tensor is a contiguous f32 CPU tensor of `numel` elements (checked above), and lives as long as
    // the borrow; nothing writes to it meanwhile, since writing goes through `f32_slice_mut`.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), numel) }
}

/// The elements of a contiguous f32 CPU tensor that only the caller holds, to be written behind libtorch's back.
pub(super) fn f32_slice_mut(tensor: &mut Tensor, numel: usize) -> &mut [f32] {
    check_layout(tensor, numel);
    // SAFETY: as in `f32_slice`; leaves that share the storage are not read until the next graph is built.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), numel) }
}

/// The bytes of a contiguous half-precision CPU tensor that only the caller holds, to be written likewise.
pub(super) fn half_bytes_mut(tensor: &mut Tensor, numel: usize) -> &mut [u8] {
    assert!(
        matches!(tensor.kind(), Kind::BFloat16 | Kind::Half)
            && tensor.device() == Device::Cpu
            && tensor.is_contiguous()
            && tensor.numel() == numel,
        "a rounded update is a contiguous CPU tensor of {numel} elements of 16 bits"
    );
    // SAFETY: the tensor is contiguous, on the CPU, of `numel` elements of two bytes (checked above), and lives as long
    // as the borrow; leaves that share the storage are not read meanwhile.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), numel * 2) }
}

fn check_layout(tensor: &Tensor, numel: usize) {
    assert!(
        tensor.kind() == Kind::Float
            && tensor.device() == Device::Cpu
            && tensor.is_contiguous()
            && tensor.numel() == numel,
        "an adapted weight is a contiguous f32 CPU tensor of {numel} elements"
    );
}
