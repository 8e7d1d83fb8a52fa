use crate::Scope;

/// The factor of every group, s_j = 1/sqrt(max(n_j, 1)) in f32; ones where the map is not to be an isometry.
///
/// Bit for bit what the official implementation computed when it wrote its test cases; an empty group gets 1.
///
/// - Scope `transformer_block`: torch's `rsqrt`, which on CPU is the count rounded to f32, an IEEE square root and an
///   IEEE reciprocal, on every processor.
/// - Global scope: torch's `sqrt` and a reciprocal. On CPU torch leaves this square root to MKL, whose last bit
///   depends on the processor: it is correctly rounded where MKL runs its AVX2 code, and one unit in the last place
///   off for about one count in seven where it runs its SSE code, as it did for the official cases ([`mkl_sqrt`]).
///   Here every processor gives the bits of those cases.
pub fn scales(counts: &[u64], isometric: bool, scope: &Scope) -> Vec<f32> {
    if !isometric {
        return vec![1.0; counts.len()];
    }
    let root = match scope {
        Scope::Global => mkl_sqrt,
        Scope::Blocks(_) => f32::sqrt,
    };
    counts.iter().map(|&count| 1.0 / root(count.max(1) as f32)).collect()
}

/// The square root of MKL's vector library on its SSE path: Goldschmidt's iteration from an estimate of 1/sqrt(x),
/// then one correction, in f32 without fused operations. (Found by comparison: with the processor's own estimate,
/// `rsqrtss`, it equals MKL 2024's result for every integer up to 99,999.)
fn mkl_sqrt(x: f32) -> f32 {
    let estimate = rsqrt_estimate(x);
    let (root, half) = (x * estimate, 0.5 * estimate);
    let residue = 0.5 - root * half;
    let (root, half) = (root + root * residue, half + half * residue);
    root + (x - root * root) * half
}

/// What stands for `rsqrtss`, which is another table on every make of processor: 1/sqrt of the end of the interval of
/// 2^−13 in which the significand lies, rounded to 12 bits after the point. With it every scale of the official cases
/// comes out (group sizes up to 82); that processor's own table is not known.
fn rsqrt_estimate(x: f32) -> f32 {
    const KEPT: u32 = 13;
    const ROUNDED: u32 = 12;
    let step = 1 << (f32::MANTISSA_DIGITS - 1 - KEPT);
    let end = f32::from_bits((x.to_bits() & !(step - 1)) + step);
    let unit = 1_u64 << (f64::MANTISSA_DIGITS - 1 - ROUNDED);
    let exact = 1.0 / f64::from(end).sqrt();
    f64::from_bits((exact.to_bits() + unit / 2) & !(unit - 1)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_reciprocal_square_roots() {
        let blocks = Scope::Blocks(Vec::new());
        for scope in [&Scope::Global, &blocks] {
            let exact = scales(&[0, 1, 4, 16, 1 << 40], true, scope);
            assert_eq!(exact, [1.0, 1.0, 0.5, 0.25, 1.0 / 1_048_576.0]);
            assert_eq!(scales(&[0, 1, 4], false, scope), [1.0, 1.0, 1.0]);
        }
        let counts: Vec<u64> = (1..100_000).chain([1 << 24, (1 << 31) + 5, u64::MAX]).collect();
        let (global, block) = (scales(&counts, true, &Scope::Global), scales(&counts, true, &blocks));
        for ((global, block), count) in global.iter().zip(&block).zip(&counts) {
            assert_eq!(*block, 1.0 / (*count as f32).sqrt(), "{count}");
            assert!(global.to_bits().abs_diff(block.to_bits()) <= 2, "{count}: {global} {block}");
        }
    }

    #[test]
    fn the_global_scope_has_the_official_bits() {
        let counts: Vec<u64> = (1..=82).collect();
        let plain = Scope::Blocks(Vec::new());
        let pairs = scales(&counts, true, &Scope::Global).into_iter().zip(scales(&counts, true, &plain));
        let differing: Vec<u64> = pairs.zip(&counts).filter(|((a, b), _)| a != b).map(|(_, n)| *n).collect();
        assert_eq!(differing, [19, 34, 37, 42, 43, 55, 67, 75, 76]);
    }
}
