//! Which rank does what. Pure: no I/O, no clock, no messages.
//!
//! Three axes: `pp` pipeline stages of contiguous blocks, each of them `dp_replicate` × `dp_shard` ranks that compute
//! different micro-batches. Ranks are numbered stage by stage, then copy by copy: `rank = (stage · R + replicate) · S +
//! shard`, so that ranks that share weights are neighbours, and results of the last stage gathered by rank are in
//! the order of micro-batches.

mod gathers;
mod grid;
mod pipeline;
mod stages;

pub use gathers::{Gather, StageUnits, Unit, piece_bytes, piece_rows};
pub use grid::{Coordinates, Degrees, Mesh, MeshError, Wanted};
pub use pipeline::{Action, one_forward_one_backward, warm_up};
pub use stages::{StageError, stages};

use std::ops::Range;

/// The part of `items` that falls to `member` of `members`: contiguous, in order, sizes differing by at most one.
pub fn share(items: usize, members: usize, member: usize) -> Range<usize> {
    let (each, more) = (items / members, items % members);
    let start = member * each + member.min(more);
    start..start + each + usize::from(member < more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_cover_every_item_once(items in 0usize..200, members in 1usize..20) {
            let mut next = 0;
            for member in 0..members {
                let range = share(items, members, member);
                prop_assert_eq!(range.start, next);
                prop_assert!(range.len().abs_diff(items / members) <= 1);
                next = range.end;
            }
            prop_assert_eq!(next, items);
        }
    }
}
