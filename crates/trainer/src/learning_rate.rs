//! Learning rate by update, transformers' schedules.

/// Shape after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// Half a cosine down to zero.
    Cosine,
    /// A line down to zero.
    Linear,
    /// No warm-up, no decay.
    Constant,
    /// Warm-up, then no decay.
    ConstantWithWarmup,
}

/// The learning rate of every update of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    peak: f64,
    decay: Decay,
    warmup: u64,
    total: u64,
}

impl LearningRate {
    /// Schedule over `total` updates. `warmup` below 1 is a share of them (rounded up), from 1 on a number.
    pub fn new(peak: f64, decay: Decay, warmup: f64, total: u64) -> Self {
        let warmup = if warmup >= 1.0 { warmup as u64 } else { (total as f64 * warmup).ceil() as u64 };
        Self { peak, decay, warmup, total }
    }

    /// Updates of the warm-up.
    pub fn warmup(&self) -> u64 {
        self.warmup
    }

    /// Rate of update `t`, counted from 0: with a warm-up the first update has rate 0, as in transformers.
    pub fn at(&self, t: u64) -> f64 {
        if self.decay == Decay::Constant {
            return self.peak;
        }
        if t < self.warmup {
            return self.peak * t as f64 / self.warmup as f64;
        }
        let rest = (self.total.saturating_sub(self.warmup)).max(1) as f64;
        let done = (t - self.warmup) as f64 / rest;
        match self.decay {
            Decay::Cosine => self.peak * (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
            Decay::Linear => self.peak * (1.0 - done).max(0.0),
            Decay::Constant | Decay::ConstantWithWarmup => self.peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_transformers() {
        let check = |decay, warmup, total, expect: &[(u64, f64)]| {
            let schedule = LearningRate::new(0.02, decay, warmup, total);
            for (t, rate) in expect {
                assert!((schedule.at(*t) - rate).abs() < 1e-12, "{decay:?} at {t}: {}", schedule.at(*t));
            }
        };
        // The official run over 18 updates, cosine, warm-up 0.05: one update at rate 0.
        let cosine = [(0, 0.0), (1, 0.02), (2, 0.019829730996839018), (17, 0.00017026900316098216)];
        check(Decay::Cosine, 0.05, 18, &cosine);
        check(Decay::Cosine, 0.0, 12, &[(0, 0.02), (6, 0.01)]);
        check(Decay::Linear, 0.1, 13, &[(0, 0.0), (1, 0.01), (2, 0.02), (12, 0.02 / 11.0)]);
        check(Decay::Linear, 2.0, 4, &[(1, 0.01), (2, 0.02), (3, 0.01), (4, 0.0), (9, 0.0)]);
        check(Decay::Constant, 0.5, 10, &[(0, 0.02), (9, 0.02)]);
        check(Decay::ConstantWithWarmup, 0.2, 10, &[(0, 0.0), (1, 0.01), (9, 0.02)]);
    }
}
