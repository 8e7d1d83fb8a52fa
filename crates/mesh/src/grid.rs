//! Ranks as a grid of three axes.

use std::ops::Range;

use miette::Diagnostic;
use thiserror::Error;

use crate::share;

/// Degrees of parallelism along the three axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Degrees {
    /// Plain copies of the model, R.
    pub dp_replicate: usize,
    /// Ranks that share one copy's weights, S.
    pub dp_shard: usize,
    /// Pipeline stages, P.
    pub pp: usize,
}

impl Degrees {
    /// One rank.
    pub const ONE: Self = Self { dp_replicate: 1, dp_shard: 1, pp: 1 };

    /// R · S · P, the number of ranks, unless it is too large to count.
    pub fn product(&self) -> Option<usize> {
        self.dp_replicate.checked_mul(self.dp_shard)?.checked_mul(self.pp)
    }

    /// R · S: ranks of a stage, each with micro-batches of its own.
    pub fn data_parallel(&self) -> usize {
        self.dp_replicate.saturating_mul(self.dp_shard)
    }
}

/// Degrees as somebody asked for them; the rest follows from the number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// R, if it was said.
    pub dp_replicate: Option<usize>,
    /// S, if it was said.
    pub dp_shard: Option<usize>,
    /// P, if it was said.
    pub pp: Option<usize>,
}

impl Wanted {
    /// Fills in what was not said: one pipeline stage; then all ranks that are left share one copy's weights, or, where
    /// their number was said, are copies.
    pub fn over(self, ranks: usize) -> Degrees {
        let pp = self.pp.unwrap_or(1);
        let left = |taken: usize| (ranks / taken.saturating_mul(pp).max(1)).max(1);
        let (dp_replicate, dp_shard) = match (self.dp_replicate, self.dp_shard) {
            (Some(replicate), Some(shard)) => (replicate, shard),
            (None, Some(shard)) => (left(shard), shard),
            (Some(replicate), None) => (replicate, left(replicate)),
            (None, None) => (1, left(1)),
        };
        Degrees { dp_replicate, dp_shard, pp }
    }
}

/// A rank's place along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coordinates {
    /// Which copy, below R.
    pub replicate: usize,
    /// Which part of its weights, below S.
    pub shard: usize,
    /// Which stage, below P.
    pub stage: usize,
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
            "change the degrees or the number of ranks (mpirun -n); an axis that is left out takes the ranks that are over"
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
        match degrees.product() == Some(ranks) && ranks > 0 {
            true => Ok(Self { degrees }),
            false => Err(MeshError::Product { degrees, ranks }),
        }
    }

    /// The degrees.
    pub fn degrees(&self) -> Degrees {
        self.degrees
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.degrees.data_parallel() * self.degrees.pp
    }

    /// Where `rank` is.
    pub fn coordinates(&self, rank: usize) -> Coordinates {
        let Degrees { dp_replicate, dp_shard, .. } = self.degrees;
        Coordinates {
            shard: rank % dp_shard,
            replicate: rank / dp_shard % dp_replicate,
            stage: rank / dp_shard / dp_replicate,
        }
    }

    /// Who is there.
    pub fn rank_at(&self, place: Coordinates) -> usize {
        let Degrees { dp_replicate, dp_shard, .. } = self.degrees;
        (place.stage * dp_replicate + place.replicate) * dp_shard + place.shard
    }

    /// The pipeline that a rank belongs to, below R · S: the ranks at this place of each stage.
    pub fn pipeline_of(&self, rank: usize) -> usize {
        rank % self.degrees.data_parallel()
    }

    /// The group of ranks that share one stage of one copy with this one, below R · P.
    pub fn shard_group_of(&self, rank: usize) -> usize {
        rank / self.degrees.dp_shard
    }

    /// Which of a step's micro-batches the pipeline computes.
    pub fn micro_batches_of(&self, pipeline: usize, micro_batches: usize) -> Range<usize> {
        share(micro_batches, self.degrees.data_parallel(), pipeline)
    }

    /// How often the ranks of this one's shard group go through the model in a step: the most micro-batches that one of
    /// them has. The others take part in the gathers.
    pub fn rounds_of(&self, rank: usize, micro_batches: usize) -> usize {
        let mates = self.degrees.dp_shard;
        let first = self.pipeline_of(rank) / mates * mates;
        (first..first + mates)
            .map(|pipeline| self.micro_batches_of(pipeline, micro_batches).len())
            .max()
            .unwrap_or(0)
    }
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

    #[test]
    fn what_was_not_said_follows_from_the_ranks() {
        let check = |wanted: [Option<usize>; 3], ranks: usize, expect: [usize; 3]| {
            let [dp_replicate, dp_shard, pp] = wanted;
            let degrees = Wanted { dp_replicate, dp_shard, pp }.over(ranks);
            assert_eq!([degrees.dp_replicate, degrees.dp_shard, degrees.pp], expect, "{wanted:?} on {ranks}");
        };
        check([None, None, None], 8, [1, 8, 1]);
        check([None, None, Some(2)], 8, [1, 4, 2]);
        check([None, Some(2), None], 8, [4, 2, 1]);
        check([Some(8), None, None], 8, [8, 1, 1]);
        check([Some(2), None, Some(2)], 8, [2, 2, 2]);
        check([None, None, Some(3)], 8, [1, 2, 3]);
        check([None, None, Some(16)], 8, [1, 1, 16]);
        check([Some(0), None, Some(0)], 8, [0, 8, 0]);
    }

    proptest! {
        #[test]
        fn coordinates_and_ranks_are_one_to_one(r in 1usize..5, s in 1usize..5, p in 1usize..5) {
            let mesh = Mesh::new(Degrees { dp_replicate: r, dp_shard: s, pp: p }, r * s * p).expect("a grid");
            let mut seen = std::collections::BTreeSet::new();
            for rank in 0..mesh.ranks() {
                let place = mesh.coordinates(rank);
                prop_assert!(place.replicate < r && place.shard < s && place.stage < p);
                prop_assert_eq!(mesh.rank_at(place), rank);
                seen.insert((place.replicate, place.shard, place.stage));
                prop_assert_eq!(mesh.pipeline_of(rank), place.replicate * s + place.shard);
                prop_assert_eq!(mesh.shard_group_of(rank), place.stage * r + place.replicate);
            }
            prop_assert_eq!(seen.len(), r * s * p);
        }

        #[test]
        fn rounds_are_enough_and_equal_in_a_group(r in 1usize..4, s in 1usize..5, p in 1usize..4, n in 0usize..40) {
            let mesh = Mesh::new(Degrees { dp_replicate: r, dp_shard: s, pp: p }, r * s * p).expect("a grid");
            for rank in 0..mesh.ranks() {
                let rounds = mesh.rounds_of(rank, n);
                let place = mesh.coordinates(rank);
                let own = mesh.micro_batches_of(mesh.pipeline_of(rank), n).len();
                prop_assert!(own <= rounds && rounds <= own + 1);
                let mate = mesh.rank_at(Coordinates { shard: 0, ..place });
                prop_assert_eq!(mesh.rounds_of(mate, n), rounds);
                let below = mesh.rank_at(Coordinates { stage: 0, ..place });
                prop_assert_eq!(mesh.rounds_of(below, n), rounds);
            }
        }
    }
}
