//! Which rank does what. Pure: no I/O, no clock, no messages.

use std::ops::Range;

use miette::Diagnostic;
use thiserror::Error;

/// Degrees of parallelism along the three axes, and the number of ranks they must multiply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degrees {
    /// Plain copies of the model.
    pub dp_replicate: usize,
    /// Ranks that share one copy's weights.
    pub dp_shard: usize,
    /// Pipeline stages.
    pub pp: usize,
}

/// The ranks as a grid, checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mesh {
    degrees: Degrees,
}

/// A grid that the ranks cannot form.
#[derive(Debug, Error, Diagnostic, PartialEq, Eq)]
pub enum MeshError {
    /// The degrees do not multiply to the number of ranks.
    #[error(
        "dp-replicate {} × dp-shard {} × pp {} = {} is not the number of ranks that were started, {ranks}",
        degrees.dp_replicate, degrees.dp_shard, degrees.pp,
        degrees.dp_replicate.saturating_mul(degrees.dp_shard).saturating_mul(degrees.pp)
    )]
    #[diagnostic(
        code(input::mesh_product),
        help(
            "change the degrees or the number of ranks (mpirun -n); leave --dp-replicate out to use every rank"
        )
    )]
    Product {
        /// The degrees asked for.
        degrees: Degrees,
        /// Ranks that were started.
        ranks: usize,
    },
}

impl Mesh {
    /// The grid of `degrees` over `ranks`.
    ///
    /// # Errors
    /// [`MeshError::Product`] unless the degrees multiply to `ranks`.
    pub fn new(degrees: Degrees, ranks: usize) -> Result<Self, MeshError> {
        let product =
            degrees.dp_replicate.checked_mul(degrees.dp_shard).and_then(|p| p.checked_mul(degrees.pp));
        match product == Some(ranks) && ranks > 0 {
            true => Ok(Self { degrees }),
            false => Err(MeshError::Product { degrees, ranks }),
        }
    }

    /// The degrees.
    pub fn degrees(&self) -> Degrees {
        self.degrees
    }

    /// Number of ranks that compute micro-batches of their own.
    pub fn data_parallel(&self) -> usize {
        self.degrees.dp_replicate * self.degrees.dp_shard
    }
}

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

    #[test]
    fn a_bad_product_prints_the_equation() {
        let degrees = Degrees { dp_replicate: 2, dp_shard: 2, pp: 1 };
        assert!(Mesh::new(degrees, 4).is_ok());
        let error = Mesh::new(degrees, 8).expect_err("4 is not 8").to_string();
        assert_eq!(
            error,
            "dp-replicate 2 × dp-shard 2 × pp 1 = 4 is not the number of ranks that were started, 8"
        );
        let zero = Degrees { dp_replicate: 0, ..degrees };
        assert!(Mesh::new(zero, 0).is_err());
        let huge = Degrees { dp_replicate: usize::MAX, dp_shard: 2, pp: 1 };
        assert!(Mesh::new(huge, 1).is_err());
    }

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
