//! The inner loops over one chunk of weights, and their choice by instruction set.
//!
//! Every function gives the same bits on every instruction set: each output is made by the same f32 operations in
//! the same order, and none is fused.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use partition::Isa;
#[cfg(target_arch = "x86_64")]
use partition::IsaKind;

use crate::{Dropout, FixedPoint};

/// Calls a kernel in the module that belongs to the instruction set.
macro_rules! dispatch {
    ($isa:expr, $($call:tt)+) => {
        match $isa.kind() {
            // SAFETY: an `Isa` of this kind exists only where detection found what the module is compiled for.
            // Whatever else a kernel needs is promised by the caller of the function around.
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => unsafe { avx512::$($call)+ },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => unsafe { avx2::$($call)+ },
            // SAFETY: portable code; what else it needs is promised as above.
            #[allow(unused_unsafe)]
            _ => unsafe { scalar::$($call)+ },
        }
    };
}

/// The largest id; 0 where there is none.
pub(crate) fn max_id(isa: Isa, ids: &[u32]) -> u32 {
    dispatch!(isa, max_id(ids))
}

/// Writes the dropout multipliers of the weights from `first_index` on.
pub(crate) fn fill_mask(isa: Isa, dropout: &Dropout, first_index: u64, mut out: &mut [f32]) {
    let mut index = first_index;
    // The kernels start at the low half of a word.
    if index % 2 == 1
        && let Some((first, rest)) = std::mem::take(&mut out).split_first_mut()
    {
        *first = dropout.multiplier(index);
        (index, out) = (index.wrapping_add(1), rest);
    }
    dispatch!(isa, fill_mask(dropout, index / 2, out))
}

/// out_k = base_k + theta[ids_k] · mask_k, without the base or the mask where there is none.
///
/// # Safety
/// Every id is below `theta.len()`, and `ids`, `base`, `mask` and `out` are equally long.
pub(crate) unsafe fn apply(
    isa: Isa,
    theta: &[f32],
    ids: &[u32],
    base: Option<&[f32]>,
    mask: Option<&[f32]>,
    out: &mut [f32],
) {
    // Gathers read their indices as signed, so a longer theta is left to the portable kernel.
    let isa = if theta.len() > i32::MAX as usize { Isa::SCALAR } else { isa };
    match (base, mask) {
        (None, None) => dispatch!(isa, apply::<false, false>(theta, ids, &[], &[], out)),
        (Some(base), None) => dispatch!(isa, apply::<true, false>(theta, ids, base, &[], out)),
        (None, Some(mask)) => dispatch!(isa, apply::<false, true>(theta, ids, &[], mask, out)),
        (Some(base), Some(mask)) => dispatch!(isa, apply::<true, true>(theta, ids, base, mask, out)),
    }
}

/// terms_k = round-half-even(grad_k · mask_k · 2^e); 0, and true is returned, where that is out of range or NaN.
///
/// # Safety
/// `grad`, `mask` and `terms` are equally long.
pub(crate) unsafe fn quantize(
    isa: Isa,
    grad: &[f32],
    mask: Option<&[f32]>,
    fixed: &FixedPoint,
    terms: &mut [i64],
) -> bool {
    match mask {
        None => dispatch!(isa, quantize::<false>(grad, &[], fixed, terms)),
        Some(mask) => dispatch!(isa, quantize::<true>(grad, mask, fixed, terms)),
    }
}

/// sums[ids_k] += terms_k, one after the other.
///
/// Portable: a vector has no faster way to add to random places, some of which may be the same.
///
/// # Safety
/// Every id is below `sums.len()`.
pub(crate) unsafe fn scatter_add(ids: &[u32], terms: &[i64], sums: &mut [i64]) {
    for (&id, &term) in ids.iter().zip(terms) {
        // SAFETY: the caller promises that the id is in bounds.
        let sum = unsafe { sums.get_unchecked_mut(id as usize) };
        *sum = sum.wrapping_add(term);
    }
}

#[cfg(test)]
mod tests;
