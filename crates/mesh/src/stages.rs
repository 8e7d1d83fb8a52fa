//! Which blocks a pipeline stage has.

use std::ops::Range;

use miette::Diagnostic;
use thiserror::Error;

/// Blocks that cannot be split.
#[derive(Debug, Error, Diagnostic, PartialEq, Eq)]
pub enum StageError {
    /// A stage would be empty.
    #[error("pp {stages} asks for more pipeline stages than the model has blocks, {blocks}")]
    #[diagnostic(
        code(input::more_stages_than_blocks),
        help("give --pp {blocks} or less; --dp-shard spreads weights over any number of ranks")
    )]
    TooMany {
        /// Stages asked for.
        stages: usize,
        /// Blocks there are.
        blocks: usize,
    },
}

/// Splits blocks over `stages`: contiguous, none empty, such that the most expensive stage costs as little as it
/// can and, within that, each costs as nearly as can be what is left on average. `costs` are of the blocks in any unit,
/// `ends` of what the first and the last stage do besides (the embedding; the head and the loss).
///
/// # Errors
/// [`StageError::TooMany`] when there are fewer blocks than stages, or no stage.
pub fn stages(costs: &[u64], ends: [u64; 2], stages: usize) -> Result<Vec<Range<usize>>, StageError> {
    let blocks = costs.len();
    if stages == 0 || stages > blocks {
        return Err(StageError::TooMany { stages, blocks });
    }
    let whole = sum(costs).saturating_add(ends[0]).saturating_add(ends[1]);
    // The smallest bound that a split keeps.
    let (mut low, mut high) = (0, whole);
    while low < high {
        let middle = low + (high - low) / 2;
        match fits(costs, ends, stages, middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(evenly(costs, ends, stages, high))
}

/// Whether every stage can keep below `bound`: each but the last takes as many blocks as it may.
fn fits(costs: &[u64], ends: [u64; 2], stages: usize, bound: u64) -> bool {
    let mut start = 0;
    for stage in 0..stages - 1 {
        let mut cost = if stage == 0 { ends[0] } else { 0 };
        // Later stages need a block each.
        let most = costs.len() - (stages - 1 - stage);
        let mut end = start;
        while end < most && (end == start || cost.saturating_add(costs[end]) <= bound) {
            cost = cost.saturating_add(costs[end]);
            end += 1;
        }
        if cost > bound {
            return false;
        }
        start = end;
    }
    let first = if stages == 1 { ends[0] } else { 0 };
    sum(&costs[start..]).saturating_add(first).saturating_add(ends[1]) <= bound
}

/// The split within `bound`, which one keeps, whose stages are nearest to the average of what is left.
fn evenly(costs: &[u64], ends: [u64; 2], stages: usize, bound: u64) -> Vec<Range<usize>> {
    let mut ranges = Vec::with_capacity(stages);
    let mut start = 0;
    for stage in 0..stages - 1 {
        let left = stages - stage;
        let before = if stage == 0 { ends[0] } else { 0 };
        let rest = sum(&costs[start..]).saturating_add(before).saturating_add(ends[1]);
        let average = rest / left as u64;
        let mut end = start + 1;
        let mut cost = before.saturating_add(costs[start]);
        while end < costs.len() - (left - 1) {
            let more = cost.saturating_add(costs[end]);
            let nearer = more.abs_diff(average) < cost.abs_diff(average) && more <= bound;
            // Where the stages after this one cannot do with the rest, this one takes more.
            if !nearer && fits(&costs[end..], [0, ends[1]], left - 1, bound) {
                break;
            }
            cost = more;
            end += 1;
        }
        ranges.push(start..end);
        start = end;
    }
    ranges.push(start..costs.len());
    ranges
}

fn sum(costs: &[u64]) -> u64 {
    costs.iter().fold(0, |sum, cost| sum.saturating_add(*cost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stages_are_balanced() {
        let check = |costs: &[u64], ends: [u64; 2], n: usize, expect: &[usize]| {
            let lengths: Vec<usize> =
                stages(costs, ends, n).expect("a split").iter().map(Range::len).collect();
            assert_eq!(lengths, expect, "{costs:?} {ends:?}");
        };
        check(&[1; 8], [0, 0], 4, &[2, 2, 2, 2]);
        check(&[1; 8], [0, 0], 3, &[2, 3, 3]);
        check(&[5; 32], [0, 11], 8, &[4, 4, 4, 4, 4, 5, 5, 2]);
        check(&[1; 8], [0, 2], 2, &[5, 3]);
        check(&[1; 4], [0, 100], 4, &[1, 1, 1, 1]);
        check(&[1; 4], [0, 100], 2, &[3, 1]);
        check(&[5, 1, 1, 1], [0, 0], 2, &[1, 3]);
        check(&[7], [1, 1], 1, &[1]);
    }

    #[test]
    fn more_stages_than_blocks_are_refused() {
        assert_eq!(stages(&[1, 1], [0, 0], 3), Err(StageError::TooMany { stages: 3, blocks: 2 }));
        assert!(stages(&[1, 1], [0, 0], 0).is_err());
    }

    /// The cheapest worst stage, by trying every split.
    fn best(costs: &[u64], ends: [u64; 2], n: usize) -> u64 {
        fn from(costs: &[u64], head: u64, tail: u64, n: usize) -> u64 {
            if n == 1 {
                return head + costs.iter().sum::<u64>() + tail;
            }
            let splits = 1..=costs.len() - (n - 1);
            let worst = |at: usize| {
                let own: u64 = head + costs[..at].iter().sum::<u64>();
                own.max(from(&costs[at..], 0, tail, n - 1))
            };
            splits.map(worst).min().expect("there is a block for each stage")
        }
        from(costs, ends[0], ends[1], n)
    }

    proptest! {
        #[test]
        fn the_split_is_the_best_one(
            costs in proptest::collection::vec(0u64..20, 1..9),
            ends in [0u64..30, 0u64..30],
            n in 1usize..6,
        ) {
            prop_assume!(n <= costs.len());
            let ranges = stages(&costs, ends, n).expect("enough blocks");
            let mut next = 0;
            let mut worst = 0;
            for (stage, range) in ranges.iter().enumerate() {
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty());
                next = range.end;
                let mut cost: u64 = costs[range.clone()].iter().sum();
                cost += if stage == 0 { ends[0] } else { 0 };
                cost += if stage + 1 == n { ends[1] } else { 0 };
                worst = worst.max(cost);
            }
            prop_assert_eq!(next, costs.len());
            prop_assert_eq!(worst, best(&costs, ends, n));
        }
    }
}
