//! AdamW on θ, in f32, the same bits on every rank.

use checkpoint::Vectors;

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

/// AdamW on θ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    options: AdamWOptions,
}

impl AdamW {
    /// With these settings.
    pub fn new(options: AdamWOptions) -> Self {
        Self { options }
    }

    /// Update number `step` (from 1) by `grad`: from the θ and moments of `before` to those of `after`, all of one length.
    /// `before` stays as it is, so it may be written to disk meanwhile. The constants are made in f64 and the elements
    /// updated in f32, one by one, without fused multiply-add: the result does not depend on the instruction set.
    pub fn update(&self, step: u64, learning_rate: f64, grad: &[f32], before: &Vectors, after: &mut Vectors) {
        let AdamWOptions { beta1, beta2, eps, weight_decay } = self.options;
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let bias1 = 1.0 - beta1.powf(step as f64);
        let root_bias2 = (1.0 - beta2.powf(step as f64)).sqrt() as f32;
        let step_size = (learning_rate / bias1) as f32;
        let (take1, keep2, take2, eps) =
            ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32, eps as f32);
        let old = before.theta.iter().zip(&before.exp_avg).zip(&before.exp_avg_sq);
        let new = after.theta.iter_mut().zip(&mut after.exp_avg).zip(&mut after.exp_avg_sq);
        for ((old, new), grad) in old.zip(new).zip(grad) {
            let ((theta, avg), avg_sq) = old;
            let ((new_theta, new_avg), new_avg_sq) = new;
            *new_avg = avg + take1 * (grad - avg);
            *new_avg_sq = keep2 * avg_sq + take2 * grad * grad;
            let denominator = new_avg_sq.sqrt() / root_bias2 + eps;
            *new_theta = theta * keep - step_size * (*new_avg / denominator);
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
        let grads = [[0.5f32, -0.25], [-1.0, 0.125]];
        let mut state = Vectors::starting_at(vec![1.0f32, -2.0]);
        let adam = AdamW::new(AdamWOptions::with_weight_decay(0.01));
        let mut expected = [1.0f64, -2.0];
        let (mut m, mut v) = ([0.0f64; 2], [0.0f64; 2]);
        for (k, grad) in grads.iter().enumerate() {
            let mut next = Vectors::starting_at(vec![f32::NAN; 2]);
            adam.update(k as u64 + 1, 0.1, grad, &state, &mut next);
            state = next;
            let theta = &state.theta;
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
