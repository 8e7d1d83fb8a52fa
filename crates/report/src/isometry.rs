//! Whether ‖ΔW‖ is ‖θ‖, by adding up over the weights.
//!
//! GPart's map is an isometry: with n_j weights in group j and s_j = 1/sqrt(n_j), ΔW_i = s_g(i)·θ_g(i) has the norm of θ,
//! as long as no group is empty. Here the adapter's partition is drawn again and the squares of all ΔW_i are added, so
//! what is checked is the partition and the scales that were really used, in f32 as in training.

use std::time::Instant;

use adapter::Adapter;
use partition::{Assignment, Backend, CHUNK, PartitionError, Scope, Spec};
use rayon::prelude::*;
use serde::Serialize;

/// Weights that are added up as one piece. A constant, so that the sum has the same bits on any number of threads.
const PIECE: u64 = 1 << 20;

/// A number beyond this is a damaged one, and would be added up for days.
const MOST_WEIGHTS: u64 = 1 << 42;

/// What the check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Isometry {
    /// Adapted weights that were added up.
    pub weights: u64,
    /// ‖ΔW‖.
    pub delta_norm: f64,
    /// ‖θ‖.
    pub theta_norm: f64,
    /// ‖θ‖ over the groups that have weights, which ΔW can see.
    pub seen_norm: f64,
    /// Groups without a weight.
    pub empty_groups: u64,
    /// Smallest and largest group.
    pub group_sizes: (u64, u64),
    /// Whether the adapter's map is to be an isometry at all.
    pub isometric: bool,
    /// Whether the group sizes are those of the training, by their fingerprint; none where that is not known.
    pub same_partition: Option<bool>,
    /// Seconds that the check took.
    pub seconds: f64,
}

/// The group sizes of a partition.
pub(crate) struct Counted {
    spec: Spec,
    weights: u64,
    counts: Vec<u64>,
}

impl Isometry {
    /// ‖ΔW‖ / ‖θ‖ − 1 over the groups that have weights; 0 where both are 0.
    pub fn deviation(&self) -> f64 {
        if self.delta_norm == self.seen_norm { 0.0 } else { self.delta_norm / self.seen_norm - 1.0 }
    }

    /// Adds up an adapter's ΔW over its weights, on all of rayon's threads. `fingerprint` is that of `run.json`.
    ///
    /// # Errors
    /// In words, why there is nothing to check: the partition needs the model, or its settings are not legal.
    pub fn check(adapter: &Adapter, weights: Option<u64>, fingerprint: Option<&str>) -> Result<Self, String> {
        Self::check_with(adapter, weights, fingerprint, &mut None)
    }

    /// As [`Isometry::check`], with the group sizes counted for the adapter before: runs that are compared mostly have one
    /// partition.
    pub(crate) fn check_with(
        adapter: &Adapter,
        weights: Option<u64>,
        fingerprint: Option<&str>,
        counted: &mut Option<Counted>,
    ) -> Result<Self, String> {
        let started = Instant::now();
        let config = &adapter.config;
        let spec = spec(adapter)?;
        let weights = weights.ok_or("the number of adapted weights is not known (run.json has it)")?;
        if weights > MOST_WEIGHTS {
            return Err(format!("run.json tells of {weights} adapted weights, which no model has"));
        }
        let refused = |error: PartitionError| format!("the partition cannot be drawn: {error}");
        let partition = partition::build(&spec, weights, None).map_err(refused)?;
        if counted.as_ref().is_none_or(|known| known.spec != spec || known.weights != weights) {
            let counts = partition::count_parallel(&*partition, 0..weights, rayon::current_num_threads());
            *counted = Some(Counted { spec: spec.clone(), weights, counts: counts.map_err(refused)? });
        }
        let counts: &[u64] = counted.as_ref().map_or(&[], |known| &known.counts);
        let scales = partition::scales(counts, config.isometric, &spec.scope);
        let deltas = adapter.theta.iter().zip(&scales).map(|(theta, scale)| theta * scale);
        let squares: Vec<f64> = deltas.map(|delta| f64::from(delta).powi(2)).collect();
        let sum = sum_of_squares(&*partition, weights, &squares).map_err(refused)?;
        let norm = |keep: fn(u64) -> bool| {
            let kept = adapter.theta.iter().zip(counts).filter(|(_, count)| keep(**count));
            kept.map(|(theta, _)| f64::from(*theta).powi(2)).sum::<f64>().sqrt()
        };
        Ok(Self {
            weights,
            delta_norm: sum.sqrt(),
            theta_norm: norm(|_| true),
            seen_norm: norm(|count| count > 0),
            empty_groups: counts.iter().filter(|count| **count == 0).count() as u64,
            group_sizes: (
                counts.iter().copied().min().unwrap_or(0),
                counts.iter().copied().max().unwrap_or(0),
            ),
            isometric: config.isometric,
            same_partition: fingerprint.map(|known| known == fingerprint_of(counts)),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// The partition, where it follows from the adapter's settings alone.
fn spec(adapter: &Adapter) -> Result<Spec, String> {
    let config = &adapter.config;
    if config.grouping_strategy != "random" {
        return Err(format!("groups by {} follow from the model's weights", config.grouping_strategy));
    }
    if config.partition_scope != "global" {
        return Err(format!("the scope {} follows from the model's blocks", config.partition_scope));
    }
    let backend = match config.assignment_backend.as_str() {
        "materialized" => Backend::Materialized,
        _ => Backend::Stateless,
    };
    Ok(Spec { backend, d: config.d, seed: config.proj_seed.into(), scope: Scope::Global })
}

/// Σ over all weights of the square that its group has.
fn sum_of_squares(partition: &dyn Assignment, weights: u64, squares: &[f64]) -> Result<f64, PartitionError> {
    let pieces = (0..weights.div_ceil(PIECE)).into_par_iter().map(|piece| {
        let (mut start, end) = (piece * PIECE, ((piece + 1) * PIECE).min(weights));
        let (mut cursor, mut ids, mut sum) = (partition.cursor(), [0_u32; CHUNK], 0.0);
        while start < end {
            let ids = &mut ids[..(end - start).min(CHUNK as u64) as usize];
            cursor.fill(start, ids)?;
            // Counting has shown that every id is below d. One sum a chunk: sums of like size lose less.
            sum += ids.iter().map(|id| squares[*id as usize]).sum::<f64>();
            start += ids.len() as u64;
        }
        Ok(sum)
    });
    let sums: Vec<f64> = pieces.collect::<Result<_, PartitionError>>()?;
    Ok(sums.iter().sum())
}

/// As the trainer computes it: blake3 of the group sizes, little-endian u64, 32 hexadecimal digits.
fn fingerprint_of(counts: &[u64]) -> String {
    let mut hasher = blake3::Hasher::new();
    counts.iter().for_each(|count| {
        hasher.update(&count.to_le_bytes());
    });
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests;
