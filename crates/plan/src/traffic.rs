//! Bytes that ranks send each other in a step.

use serde::Serialize;

use crate::count::product;
use crate::facts::Facts;
use crate::steps::Steps;

/// What moves in a step, axis by axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// One entry an axis along which there is more than one rank.
    pub axes: Vec<AxisTraffic>,
}

/// What moves along one axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AxisTraffic {
    /// The axis, as its flag names it.
    pub axis: &'static str,
    /// Ranks along it.
    pub ranks: u64,
    /// Length in bytes of the vector that is all-reduced: d integers of 64 bits and the overflow flag.
    pub all_reduce: u64,
    /// What a rank sends for that on a ring, 2(R − 1)/R of it: reduce-scatter and all-gather (Patarasuk and Yuan, 2009).
    pub all_reduce_sent: u64,
    /// What a rank sends in the step's small gathers on a ring, R − 1 times its own part: losses, verdicts and the hash
    /// of θ, each behind its length.
    pub gathers_sent: u64,
}

/// The step's gathers that every rank makes: after the micro-batches, the loss sums, the hash of θ, after the record.
const GATHERS: u64 = 4;
const LENGTH_BYTES: u64 = 8;
const VERDICT_BYTES: u64 = 1;
/// A blake3 hash in hexadecimal.
const HASH_BYTES: u64 = 64;

impl Traffic {
    pub(crate) fn new(facts: &Facts, steps: &Steps) -> Self {
        let ranks = facts.ranks.total;
        if ranks < 2 {
            return Self { axes: Vec::new() };
        }
        let all_reduce = product([facts.training.d.saturating_add(1), 8]);
        let own = (GATHERS * LENGTH_BYTES + 2 * VERDICT_BYTES + HASH_BYTES)
            .saturating_add(product([steps.busiest_rank, 8]));
        let twice = 2 * u128::from(all_reduce);
        let sent = twice - twice.div_ceil(u128::from(ranks));
        let axis = AxisTraffic {
            axis: "dp-replicate",
            ranks,
            all_reduce,
            all_reduce_sent: u64::try_from(sent).unwrap_or(u64::MAX),
            gathers_sent: product([own, ranks - 1]),
        };
        Self { axes: vec![axis] }
    }
}
