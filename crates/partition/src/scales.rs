/// The factor of every group, s_j = 1/sqrt(max(n_j, 1)) in f32; ones where the map is not to be an isometry.
///
/// Bit for bit what torch computes in the global scope: the count rounded to f32, an f32 square root, an f32
/// reciprocal (not `rsqrt`, which differs in the last bit). An empty group gets 1.
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
