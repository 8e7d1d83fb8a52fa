//! How large the groups of a partition will be, before it is drawn.

use projection::FixedPoint;
use serde::Serialize;

use crate::facts::{Facts, Model, PartitionKind};

/// Group sizes. Those of a random partition are expectations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupSizes {
    /// Mean weights a group, N/d.
    pub mean: f64,
    /// Expected smallest group.
    pub min: f64,
    /// Expected largest group.
    pub max: f64,
    /// Expected number of groups without a weight.
    pub empty: f64,
    /// Smallest share of θ that one block has, groups; none where θ is shared by all.
    pub narrowest_block: Option<u64>,
    /// Some block would get more groups than it has weights, or none: the partition cannot be made.
    pub impossible: bool,
}

/// The fixed-point format of the sums, for the expected largest group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FixedPointFormat {
    /// b, the binary logarithm of the terms a group gets in a step, rounded up.
    pub bits: u32,
    /// Sums are in units of 2 to the minus this.
    pub exponent: i32,
    /// Gradients of single weights must be smaller than this in size.
    pub limit: f32,
}

impl From<FixedPoint> for FixedPointFormat {
    fn from(fixed: FixedPoint) -> Self {
        Self { bits: fixed.bits(), exponent: fixed.exponent(), limit: fixed.limit() }
    }
}

/// Equal weight spaces, each split into groups on its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pool {
    /// Groups of each.
    pub groups: u64,
    /// Weights of each.
    pub weights: u64,
    /// How many there are.
    pub repeat: u64,
}

impl GroupSizes {
    pub(crate) fn new(facts: &Facts) -> Self {
        let (d, adapted) = (facts.training.d, facts.model.adapted());
        let pools = match facts.training.block_scope {
            true => block_pools(&facts.model, d),
            false => vec![Pool { groups: d, weights: adapted, repeat: 1 }],
        };
        let random = facts.training.partition != PartitionKind::SignedMagnitude;
        let extremes = |pool: &Pool| if random { expected_extremes(pool) } else { equal_sizes(pool) };
        let sizes: Vec<(f64, f64)> = pools.iter().map(extremes).collect();
        // In the global scope an empty group is only a waste; a block must fill its slice of θ, and so must a sort.
        let strict = facts.training.block_scope || !random;
        let impossible = d == 0
            || pools.is_empty()
            || strict && pools.iter().any(|pool| pool.groups == 0 || pool.groups > pool.weights);
        Self {
            mean: if d == 0 { 0.0 } else { adapted as f64 / d as f64 },
            min: sizes.iter().map(|(min, _)| *min).reduce(f64::min).unwrap_or(0.0),
            max: sizes.iter().map(|(_, max)| *max).reduce(f64::max).unwrap_or(0.0),
            empty: if random { pools.iter().map(expected_empty).sum() } else { 0.0 },
            narrowest_block: facts
                .training
                .block_scope
                .then(|| pools.iter().map(|pool| pool.groups).min().unwrap_or(0)),
            impossible,
        }
    }

    /// The format of the sums over steps of `micro_batches`.
    pub(crate) fn fixed_point(&self, micro_batches: u64) -> FixedPointFormat {
        FixedPoint::new(self.max.ceil() as u64, micro_batches).into()
    }
}

/// Blocks with adapted weights share θ as equally as whole numbers allow, the first ones getting one more.
fn block_pools(model: &Model, d: u64) -> Vec<Pool> {
    let active = || model.blocks.iter().filter(|run| run.adapted() > 0 && run.repeat > 0);
    let blocks = active().fold(0_u64, |blocks, run| blocks.saturating_add(run.repeat));
    if blocks == 0 {
        return Vec::new();
    }
    let (each, more) = (d / blocks, d % blocks);
    let mut pools = Vec::new();
    let mut left = more;
    for run in active() {
        let wider = left.min(run.repeat);
        left -= wider;
        pools.push(Pool { groups: each.saturating_add(1), weights: run.adapted(), repeat: wider });
        pools.push(Pool { groups: each, weights: run.adapted(), repeat: run.repeat - wider });
    }
    pools.retain(|pool| pool.repeat > 0);
    pools
}

/// Sizes of a sorted pool cut by the floor rule, the g-th group being floor(g·n/k) to floor((g+1)·n/k) − 1: they
/// differ by at most one. Negative and other weights are two pools whose shares of θ are rounded, which moves their
/// quotient by at most half a group's worth; signs are not known here.
fn equal_sizes(pool: &Pool) -> (f64, f64) {
    match pool.groups {
        0 => (0.0, 0.0),
        groups => ((pool.weights / groups) as f64, pool.weights.div_ceil(groups) as f64),
    }
}

/// Expected number of groups that n weights, thrown at k groups, miss: k·(1 − 1/k)^n.
fn expected_empty(pool: &Pool) -> f64 {
    let (groups, weights) = (pool.groups as f64, pool.weights as f64);
    let each = match (pool.groups, pool.weights) {
        (0, _) => 0.0,
        (_, 0) => groups,
        (1, _) => 0.0,
        _ => groups * (weights * (-1.0 / groups).ln_1p()).exp(),
    };
    each * pool.repeat as f64
}

/// Below this mean the distribution is summed up term by term.
const SUMMED_UP_TO: f64 = 1e6;

/// Expected smallest and largest of the group sizes of a random pool.
///
/// A size is binomial with n weights and probability 1/k; the k sizes depend on each other only through their sum, so
/// for the extremes of many groups they are taken as independent, and for a large k as Poisson (Kolchin, Sevast'yanov,
/// Chistyakov, "Random Allocations", 1978, chapter II). For m independent sizes with distribution function F
///
///   E[max] = Σ_{x ≥ 0} (1 − F(x)^m),   E[min] = Σ_{x ≥ 0} (1 − F(x))^m.
///
/// Large means have too many terms, few groups are not Poisson: there F is normal with the variance n/k·(1 − 1/k) and a
/// first correction for the skew, and the mean of the largest is Gumbel's, the quantile at 1 − e^(−γ)/m.
pub(crate) fn expected_extremes(pool: &Pool) -> (f64, f64) {
    const FEW_GROUPS: u64 = 64;
    let Pool { groups, weights, repeat } = *pool;
    if groups == 0 || weights == 0 {
        return (0.0, 0.0);
    }
    let (mean, all) = (weights as f64 / groups as f64, groups as f64 * repeat as f64);
    if groups == 1 {
        return (mean, mean);
    }
    let (min, max) = match mean <= SUMMED_UP_TO && groups > FEW_GROUPS {
        true => poisson_extremes(mean, all),
        false => normal_extremes(mean, 1.0 - 1.0 / groups as f64, all),
    };
    // The mean of all lies between, and neither passes what there is.
    (min.clamp(0.0, mean.floor()), max.clamp(mean.ceil(), weights as f64))
}

/// The sums of [`expected_extremes`] over a window that leaves out less than 10^-20 of the probability.
fn poisson_extremes(mean: f64, all: f64) -> (f64, f64) {
    let low = (mean - 12.0 * mean.sqrt() - 40.0).max(0.0).floor();
    let high = (mean + 12.0 * mean.sqrt() + 60.0).ceil();
    let terms = (high - low) as usize;
    let probability: Vec<f64> =
        (0..terms).map(|x| low + x as f64).map(|x| (x * mean.ln() - mean - ln_factorial(x)).exp()).collect();
    let mut max = low;
    // Summed from the far end, so that small tails keep their digits.
    let mut above = 0.0_f64;
    for p in probability.iter().rev() {
        max -= (all * (-above.min(1.0)).ln_1p()).exp_m1();
        above += p;
    }
    let mut min = low;
    let mut up_to = 0.0_f64;
    for p in &probability {
        up_to += p;
        min += (all * (-up_to.min(1.0)).ln_1p()).exp();
    }
    (min, max)
}

/// Quantiles of a normal distribution, corrected for the skew of a Poisson one (Cornish and Fisher's first term).
fn normal_extremes(mean: f64, thinning: f64, all: f64) -> (f64, f64) {
    const EXP_MINUS_EULER_GAMMA: f64 = 0.561_459_483_566_885;
    let z = normal_quantile_above(EXP_MINUS_EULER_GAMMA / all);
    let (spread, skew) = (z * (mean * thinning).sqrt(), (z * z - 1.0) / 6.0);
    (mean - spread + skew, mean + spread + skew)
}

/// Where the standard normal distribution has `tail` (at most a half) above it; Abramowitz and Stegun 26.2.23, off by
/// less than 4.5e-4.
fn normal_quantile_above(tail: f64) -> f64 {
    let t = (-2.0 * tail.ln()).sqrt();
    let upper = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let lower = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    t - upper / lower
}

/// ln(x!) for whole x ≥ 0: the product, or Stirling's series.
fn ln_factorial(x: f64) -> f64 {
    if x < 16.0 {
        return (2..=x as u64).map(|k| k as f64).product::<f64>().ln();
    }
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests;
