//! AdamW on θ, in f32, the same bits on every rank.

/// Settings of AdamW (arXiv 1711.05101), torch's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl AdamWOptions {
    /// Torch's defaults with `weight_decay`.
    pub fn with_weight_decay(weight_decay: f64) -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay }
    }
}

/// Moments of AdamW, each of length d.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    options: AdamWOptions,
    /// First moment.
    pub exp_avg: Vec<f32>,
    /// Second moment.
    pub exp_avg_sq: Vec<f32>,
}

impl AdamW {
    /// Zero moments for a vector of length `d`.
    pub fn new(options: AdamWOptions, d: usize) -> Self {
        Self { options, exp_avg: vec![0.0; d], exp_avg_sq: vec![0.0; d] }
    }

    /// Update number `step` (from 1) of `theta` by `grad`. The constants are made in f64 and the elements updated
    /// in f32, one by one, without fused multiply-add: the result does not depend on the instruction set.
    pub fn update(&mut self, step: u64, learning_rate: f64, theta: &mut [f32], grad: &[f32]) {
        let AdamWOptions { beta1, beta2, eps, weight_decay } = self.options;
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let bias1 = 1.0 - beta1.powf(step as f64);
        let root_bias2 = (1.0 - beta2.powf(step as f64)).sqrt() as f32;
        let step_size = (learning_rate / bias1) as f32;
        let (take1, keep2, take2, eps) =
            ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32, eps as f32);
        let moments = self.exp_avg.iter_mut().zip(&mut self.exp_avg_sq);
        for ((theta, grad), (avg, avg_sq)) in theta.iter_mut().zip(grad).zip(moments) {
            *avg += take1 * (grad - *avg);
            *avg_sq = keep2 * *avg_sq + take2 * grad * grad;
            let denominator = avg_sq.sqrt() / root_bias2 + eps;
            *theta = *theta * keep - step_size * (*avg / denominator);
        }
    }
}

/// L2 norm of `grad`, summed in f64 in index order.
pub fn l2_norm(grad: &[f32]) -> f64 {
    grad.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt()
}

/// Scales `grad` to a norm of at most `max_norm` (torch's rule, with its 1e-6); 0 leaves it as it is. Returns the
/// norm before.
pub fn clip(grad: &mut [f32], max_norm: f64) -> f64 {
    let norm = l2_norm(grad);
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        let factor = factor as f32;
        grad.iter_mut().for_each(|g| *g *= factor);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two updates of torch.optim.AdamW (lr 0.1, weight decay 0.01), from its published formula, in f64.
    #[test]
    fn updates_follow_the_formula() {
        let (mut theta, grads) = (vec![1.0f32, -2.0], [[0.5f32, -0.25], [-1.0, 0.125]]);
        let mut adam = AdamW::new(AdamWOptions::with_weight_decay(0.01), 2);
        let mut expected = [1.0f64, -2.0];
        let (mut m, mut v) = ([0.0f64; 2], [0.0f64; 2]);
        for (k, grad) in grads.iter().enumerate() {
            adam.update(k as u64 + 1, 0.1, &mut theta, grad);
            let t = (k + 1) as i32;
            for i in 0..2 {
                let g = f64::from(grad[i]);
                expected[i] *= 1.0 - 0.1 * 0.01;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                expected[i] -= 0.1 * mh / (vh.sqrt() + 1e-8);
                assert!((f64::from(theta[i]) - expected[i]).abs() < 1e-6, "{theta:?} {expected:?}");
            }
        }
    }

    #[test]
    fn clipping_keeps_small_gradients_and_scales_large_ones() {
        let mut small = vec![0.3f32, 0.4];
        assert!((clip(&mut small, 1.0) - 0.5).abs() < 1e-7);
        assert_eq!(small, [0.3, 0.4]);
        let mut large = vec![30.0f32, 40.0];
        assert_eq!(clip(&mut large, 1.0), 50.0);
        assert!((l2_norm(&large) - 1.0).abs() < 1e-5);
        let mut free = vec![30.0f32, 40.0];
        assert_eq!(clip(&mut free, 0.0), 50.0);
        assert_eq!(free, [30.0, 40.0]);
    }
}
