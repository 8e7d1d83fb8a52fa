/// The factor of every group, s_j = 1/sqrt(max(n_j, 1)) in f32; ones where the map is not to be an isometry.
///
/// The count rounded to f32, an IEEE square root, an IEEE reciprocal; an empty group gets 1. The same on every
/// processor and in either scope. In the scope `transformer_block` that is torch's `rsqrt` on CPU, bit for bit. In the
/// global scope the official code has `1 / sqrt`, whose square root torch's CPU build takes from MKL: these bits
/// again where MKL rounds it correctly (its AVX2 code), and off in the last bit for some counts elsewhere (of the
/// counts 1 to 99,999, 456 with AVX-512 and 13,711 with SSE on the same Intel processor, in torch 2.11).
pub fn scales(counts: &[u64], isometric: bool) -> Vec<f32> {
    if !isometric {
        return vec![1.0; counts.len()];
    }
    counts.iter().map(|&count| 1.0 / (count.max(1) as f32).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::scales;

    #[test]
    fn scales_are_reciprocal_square_roots() {
        assert_eq!(scales(&[0, 1, 4, 16, 1 << 40], true), [1.0, 1.0, 0.5, 0.25, 1.0 / 1_048_576.0]);
        assert_eq!(scales(&[0, 1, 4], false), [1.0, 1.0, 1.0]);
    }
}
