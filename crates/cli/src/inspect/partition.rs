//! `inspect partition`: ids, sizes and scales, with the keys of the official test cases.

use std::collections::VecDeque;

use clap::{Args, ValueEnum};
use miette::Diagnostic;
use partition::{Assignment, Backend, PartitionError, Scope, Seed, Spec, Stateless};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{boxed, hex, shown_seed};

/// A partition and a run of weights.
#[derive(Args)]
pub struct PartitionArgs {
    /// How ids are drawn
    #[arg(long, value_enum, default_value = "stateless")]
    backend: Drawn,
    /// Seed; taken modulo 2^64
    #[arg(long, allow_negative_numbers = true, default_value = "42")]
    seed: i128,
    /// Number of groups
    #[arg(long)]
    d: u64,
    /// Global index of the first weight
    #[arg(long, default_value = "0", conflicts_with = "layers")]
    start_offset: u64,
    /// Number of weights
    #[arg(long, required_unless_present = "layers", conflicts_with = "layers")]
    numel: Option<u64>,
    /// Materialized: numbers of weights of the adapted modules, in order
    #[arg(long, value_delimiter = ',', value_name = "N,N", required_if_eq("backend", "materialized"))]
    layers: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Drawn {
    Stateless,
    Materialized,
}

/// Ids shown at each end of a run of weights, and at each end of a module.
const ENDS: usize = 16;
const MODULE_ENDS: usize = 8;

/// Ids made at a time.
const CHUNK: usize = 1 << 16;

/// Facts about the partition, SHA-256 over all ids, group sizes (int64) and scales (f32), little-endian.
pub fn partition(args: &PartitionArgs) -> Result<Value, Box<dyn Diagnostic>> {
    match args.backend {
        Drawn::Stateless if !args.layers.is_empty() => layers(args, Backend::Stateless),
        Drawn::Stateless => stateless(args),
        Drawn::Materialized => layers(args, Backend::Materialized),
    }
    .map_err(boxed)
}

/// A run of weights anywhere, any d; ids as int64.
fn stateless(args: &PartitionArgs) -> Result<Value, PartitionError> {
    /// Sizes of more groups than can be trained would only fill the memory.
    const LARGEST_COUNTED: u64 = i32::MAX as u64;
    let partition = Stateless::new(Seed::from(args.seed), args.d)?;
    let (start, len) = (args.start_offset, args.numel.unwrap_or(0));
    let end = start.checked_add(len).filter(|end| *end <= partition::MAX_INDEX);
    let end = end.ok_or(PartitionError::Range { start, len })?;
    let mut run = Run::new(ENDS);
    let mut buffer = vec![0u64; CHUNK];
    let mut next = start;
    while next < end {
        let chunk = &mut buffer[..CHUNK.min((end - next) as usize)];
        partition.ids_u64(next, chunk)?;
        run.add(chunk.iter().map(|id| (*id, id.to_le_bytes())));
        next += chunk.len() as u64;
    }
    let mut facts = json!({"seed": shown_seed(args.seed), "d": args.d, "start_offset": start, "numel": len});
    run.write(&mut facts);
    if args.d <= LARGEST_COUNTED {
        sizes(&partition, start..end, &mut facts)?;
    }
    Ok(facts)
}

/// Modules one after the other; ids as int32.
fn layers(args: &PartitionArgs, backend: Backend) -> Result<Value, PartitionError> {
    let spec = Spec { backend, d: args.d, seed: args.seed.into(), scope: Scope::Global };
    let total = args.layers.iter().fold(0u64, |sum, numel| sum.saturating_add(*numel));
    let partition = partition::build(&spec, total, None)?;
    let mut cursor = partition.cursor();
    let mut buffer = vec![0u32; CHUNK];
    let mut next = 0;
    let mut shown = Vec::new();
    for &numel in &args.layers {
        let (mut run, end) = (Run::new(MODULE_ENDS), next + numel);
        while next < end {
            let chunk = &mut buffer[..CHUNK.min((end - next) as usize)];
            cursor.fill(next, chunk)?;
            run.add(chunk.iter().map(|id| (u64::from(*id), id.to_le_bytes())));
            next += chunk.len() as u64;
        }
        let mut layer = json!({"numel": numel});
        run.write(&mut layer);
        shown.push(layer);
    }
    let mut facts = json!({"seed": shown_seed(args.seed), "d": args.d, "layers": shown});
    sizes(partition.as_ref(), 0..total, &mut facts)?;
    Ok(facts)
}

fn sizes(
    partition: &dyn Assignment,
    range: std::ops::Range<u64>,
    facts: &mut Value,
) -> Result<(), PartitionError> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let counts = partition::count_parallel(partition, range, threads)?;
    let scales = partition::scales(&counts, true, &Scope::Global);
    let mut hasher = Sha256::new();
    counts.iter().for_each(|count| hasher.update(count.to_le_bytes()));
    facts["counts_sha256"] = hex(&hasher.finalize()).into();
    let mut hasher = Sha256::new();
    scales.iter().for_each(|scale| hasher.update(scale.to_le_bytes()));
    facts["scales_sha256"] = hex(&hasher.finalize()).into();
    Ok(())
}

/// The ids of a run of weights: both ends and a hash of all.
struct Run {
    ends: usize,
    first: Vec<u64>,
    last: VecDeque<u64>,
    hasher: Sha256,
}

impl Run {
    fn new(ends: usize) -> Self {
        Self { ends, first: Vec::new(), last: VecDeque::new(), hasher: Sha256::new() }
    }

    fn add<const N: usize>(&mut self, ids: impl Iterator<Item = (u64, [u8; N])>) {
        for (id, bytes) in ids {
            self.hasher.update(bytes);
            if self.first.len() < self.ends {
                self.first.push(id);
            }
            if self.last.len() == self.ends {
                self.last.pop_front();
            }
            self.last.push_back(id);
        }
    }

    fn write(self, facts: &mut Value) {
        facts["first"] = self.first.into();
        facts["last"] = Vec::from(self.last).into();
        facts["ids_sha256"] = hex(&self.hasher.finalize()).into();
    }
}
