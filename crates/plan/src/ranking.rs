//! Which mesh of the ranks is the cheapest.

use std::cmp::Ordering;

use mesh::Degrees;
use serde::{Serialize, Serializer};

use crate::facts::{Facts, PartitionKind};
use crate::memory::Memory;
use crate::stage::{Layout, Stage};
use crate::steps::Steps;
use crate::time::{Rates, Timing};
use crate::traffic::Traffic;

/// Ranks are not ranked in larger numbers, nor in more stages.
const MOST_RANKS: u64 = 1 << 20;
const MOST_STAGES: u64 = 256;

/// A mesh, and what a run on it would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedMesh {
    /// The degrees.
    #[serde(serialize_with = "degrees")]
    pub degrees: Degrees,
    /// Bytes of the rank that needs most.
    pub peak: u64,
    /// Bytes of all ranks of a host.
    pub host_peak: u64,
    /// The host has them; none where its memory is not known.
    pub fits: Option<bool>,
    /// Bytes that the busiest rank moves in a step.
    pub bytes_moved: u64,
    /// Share of computing in which the stages of a pipeline wait for each other.
    pub bubble: f64,
    /// Seconds of a step by [`Timing`], with what was given or assumed of machines and links.
    pub step_seconds: f64,
}

/// As an object of the flags' names.
pub(crate) fn degrees<S: Serializer>(degrees: &Degrees, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named {
        dp_replicate: usize,
        dp_shard: usize,
        pp: usize,
    }
    let Degrees { dp_replicate, dp_shard, pp } = *degrees;
    Named { dp_replicate, dp_shard, pp }.serialize(serializer)
}

impl RankedMesh {
    /// The flags that ask for it.
    pub fn flags(&self) -> String {
        let Degrees { dp_replicate, dp_shard, pp } = self.degrees;
        format!("--dp-replicate {dp_replicate} --dp-shard {dp_shard} --pp {pp}")
    }

    /// Those that fit the memory first, then the faster, then those that move less, then fewer stages, then fewer
    /// shards: a total order.
    fn order(&self, other: &Self) -> Ordering {
        let misfit = |mesh: &Self| mesh.fits == Some(false);
        let mesh = |mesh: &Self| (mesh.degrees.pp, mesh.degrees.dp_shard);
        misfit(self)
            .cmp(&misfit(other))
            .then(self.step_seconds.total_cmp(&other.step_seconds))
            .then(self.bytes_moved.cmp(&other.bytes_moved))
            .then(mesh(self).cmp(&mesh(other)))
    }
}

/// All meshes of the facts' number of ranks, the cheapest first; the mesh of the facts is only looked at for what a
/// throughput of the whole run means. Groups by sign and size of the weights are made on ranks that have them all, so
/// that there is one mesh. None for more than 1,048,576 ranks.
pub fn meshes(facts: &Facts) -> Vec<RankedMesh> {
    let ranks = facts.ranks.total;
    if ranks == 0 || ranks > MOST_RANKS {
        return Vec::new();
    }
    let rates = Rates::of(facts);
    let mut changed = facts.clone();
    let mut ranked = Vec::new();
    let degree = |degree: u64| usize::try_from(degree).unwrap_or(usize::MAX);
    for pp in divisors(ranks).into_iter().filter(|pp| *pp <= MOST_STAGES) {
        // More stages than blocks are no mesh.
        let Ok(stages) = Stage::all(&facts.model, degree(pp)) else { continue };
        for shards in divisors(ranks / pp) {
            let (copies, dp_shard, pp) = (degree(ranks / pp / shards), degree(shards), degree(pp));
            if facts.training.partition != PartitionKind::SignedMagnitude || (dp_shard, pp) == (1, 1) {
                let degrees = Degrees { dp_replicate: copies, dp_shard, pp };
                changed.ranks.mesh = degrees;
                ranked.push(of_mesh(&changed, &Layout { degrees, stages: stages.clone() }, rates));
            }
        }
    }
    ranked.sort_by(RankedMesh::order);
    ranked
}

/// The cheapest mesh that fits; none when none does.
pub fn cheapest(facts: &Facts) -> Option<RankedMesh> {
    meshes(facts).into_iter().next().filter(|mesh| mesh.fits != Some(false))
}

/// The cheapest mesh that fits or, where none does, the one that needs least.
pub(crate) fn smallest(facts: &Facts) -> Option<RankedMesh> {
    let meshes = meshes(facts);
    let fits = meshes.iter().find(|mesh| mesh.fits != Some(false));
    fits.or_else(|| meshes.iter().min_by_key(|mesh| mesh.host_peak)).cloned()
}

fn of_mesh(facts: &Facts, layout: &Layout<'_>, rates: Rates) -> RankedMesh {
    let steps = Steps::new(facts);
    let memory = Memory::of(layout, facts);
    let timing = Timing::new(facts, layout, &steps, rates);
    RankedMesh {
        degrees: layout.degrees,
        peak: memory.peak,
        host_peak: memory.host_peak,
        fits: memory.available.map(|available| memory.host_peak <= available),
        bytes_moved: Traffic::new(facts, layout, &steps).busiest_rank,
        bubble: timing.bubble,
        step_seconds: timing.step_seconds,
    }
}

/// In rising order.
fn divisors(number: u64) -> Vec<u64> {
    let small = (1..).take_while(|low| low * low <= number).filter(|low| number.is_multiple_of(*low));
    let mut all: Vec<u64> = small.flat_map(|low| [low, number / low]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_all_there() {
        assert_eq!(divisors(1), [1]);
        assert_eq!(divisors(36), [1, 2, 3, 4, 6, 9, 12, 18, 36]);
        assert_eq!(divisors(7), [1, 7]);
    }
}
