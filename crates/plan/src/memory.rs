//! Bytes of a rank, by part and by phase.

use serde::Serialize;

use crate::count::{product, sum};
use crate::facts::{Dtype, Facts};
use crate::stage::Layout;
use crate::steps::Steps;
use crate::units::Units;
use crate::{PlanError, ranking, text};

mod parts;

/// A part of a rank's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// Parts that are alive together for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// What the rank is doing.
    pub name: &'static str,
    /// What that takes beyond what is held all the time.
    pub parts: Vec<Part>,
    /// Sum of the parts.
    pub bytes: u64,
}

/// What one rank needs: one of the stage that needs most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The stage.
    pub stage: u64,
    /// Peak of a rank of each stage.
    pub stage_peaks: Vec<u64>,
    /// Parts that live as long as the run.
    pub held: Vec<Part>,
    /// Sum of those.
    pub held_bytes: u64,
    /// What comes on top by turns.
    pub phases: Vec<Phase>,
    /// What is alive at the worst moment: held, and the largest phase.
    pub peak: u64,
    /// What the allocator is likely to hold beyond that: freed pieces of activations below 32 MiB go back to glibc's
    /// heap and not to the system. As many bytes as such pieces have; measured at 0.6 to 1.2 times those.
    pub allocator: u64,
    /// Ranks that share the memory: those on a host, or on a GPU.
    pub ranks_on_host: u64,
    /// All of those: each stage's own peak where these are all ranks, else `peak` for each.
    pub host_peak: u64,
    /// Memory of the host, or of a GPU, that a program could still get.
    pub available: Option<u64>,
}

/// A change of the settings, and what the host would need with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// The flags, or what else to do.
    pub change: String,
    /// Bytes of the host's peak with it.
    pub needed: u64,
}

/// The memory of a run, refused where the host certainly does not have it: to be asked before weights are loaded, with
/// rows and lengths as they turned out.
///
/// # Errors
/// [`PlanError::Memory`] when what is alive at the worst moment, on all ranks of the host, is more than the host has
/// available. What the allocator may hold on top does not refuse a run. [`PlanError::Mesh`] and [`PlanError::Stages`] when
/// the mesh is not one.
pub fn memory(facts: &Facts) -> Result<Memory, PlanError> {
    let memory = Memory::of(&Layout::new(facts)?, facts);
    match memory.available {
        Some(available) if memory.host_peak > available => Err(PlanError::Memory {
            needed: memory.host_peak,
            available,
            is_gpu: facts.host.is_gpu,
            ranks: memory.ranks_on_host,
            remedies: memory.remedies(facts),
            memory: Box::new(memory),
        }),
        _ => Ok(memory),
    }
}

impl Memory {
    pub(crate) fn of(layout: &Layout<'_>, facts: &Facts) -> Self {
        let units = Units { shards: layout.shards(), number: facts.training.dtype.bytes() };
        let (pipelines, micro_batches) = (layout.pipelines(), Steps::new(facts).busiest_rank);
        let rank = |stage| parts::Rank { facts, stage, units, pipelines, micro_batches };
        let of_stages: Vec<StageMemory> =
            layout.stages.iter().map(|stage| StageMemory::new(rank(stage))).collect();
        let ranks_on_host = facts.ranks.on_device.max(1);
        // The first one where several are as large.
        let (at, worst) = of_stages.iter().enumerate().rev().max_by_key(|(_, stage)| stage.peak).unzip();
        let worst = worst.cloned().unwrap_or_default();
        let stage_peaks: Vec<u64> = of_stages.iter().map(|stage| stage.peak).collect();
        let each = product([worst.peak, ranks_on_host]);
        let by_stage = product([sum(stage_peaks.iter().copied()), pipelines]);
        Self {
            stage: at.unwrap_or(0) as u64,
            stage_peaks,
            held: worst.held,
            held_bytes: worst.held_bytes,
            phases: worst.phases,
            peak: worst.peak,
            allocator: worst.allocator,
            ranks_on_host,
            host_peak: if ranks_on_host == facts.ranks.total { by_stage } else { each },
            available: facts.host.available_memory,
        }
    }

    /// The phase that makes the peak.
    pub fn largest_phase(&self) -> Option<&Phase> {
        // The first one where several are as large.
        self.phases.iter().rev().max_by_key(|phase| phase.bytes)
    }

    /// What all ranks of the host take with what the allocator may hold.
    pub fn host_with_allocator(&self) -> u64 {
        self.host_peak.saturating_add(product([self.allocator, self.ranks_on_host]))
    }

    /// Ranks on the host and what one needs: `2 ranks × 3.0 GiB`.
    pub(crate) fn ranks_text(&self) -> String {
        match self.host_peak == product([self.peak, self.ranks_on_host]) {
            true => text::ranks_times(self.ranks_on_host, self.peak),
            false => {
                let ranks = text::counted(self.ranks_on_host, "rank");
                format!("{ranks} of up to {}", text::bytes(self.peak))
            }
        }
    }

    /// The bytes of the part of this name, held or of the largest phase; 0 where there is none.
    pub fn part(&self, name: &str) -> u64 {
        let phase = self.largest_phase().map_or(&[][..], |phase| &phase.parts);
        let found = self.held.iter().chain(phase).find(|part| part.name == name);
        found.map_or(0, |part| part.bytes)
    }

    /// The changes that make the host's peak at least a hundredth smaller: single ones, most helpful first, then all
    /// of those together, then another mesh, then fewer ranks.
    pub fn remedies(&self, facts: &Facts) -> Vec<Remedy> {
        let remedy = |(change, changed): (String, Facts)| {
            let needed = Self::of(&Layout::new(&changed).ok()?, &changed).host_peak;
            (needed < self.host_peak - self.host_peak / 100).then_some(Remedy { change, needed })
        };
        let (mut single, together) = changes(facts);
        let mut remedies: Vec<Remedy> = single.drain(..).filter_map(remedy).collect();
        remedies.sort_by_key(|remedy| remedy.needed);
        if remedies.len() > 1 {
            remedies.extend(remedy(("all of these together".to_owned(), together)));
        }
        remedies.extend(ranking::smallest(facts).and_then(|mesh| {
            let mut changed = facts.clone();
            changed.ranks.mesh = mesh.degrees;
            remedy((mesh.flags(), changed))
        }));
        if facts.ranks.on_device > 1 {
            let mut fewer = facts.clone();
            fewer.ranks.on_device = 1;
            remedies.extend(remedy((format!("one rank a {}", facts.host.memory_of()), fewer)));
        }
        remedies
    }
}

/// A rank of one stage.
#[derive(Debug, Clone, Default)]
struct StageMemory {
    held: Vec<Part>,
    held_bytes: u64,
    phases: Vec<Phase>,
    peak: u64,
    allocator: u64,
}

impl StageMemory {
    fn new(rank: parts::Rank<'_>) -> Self {
        let held = parts::held(rank);
        let (phases, allocator) = parts::phases(rank);
        let held_bytes = sum(held.iter().map(|part| part.bytes));
        let largest = phases.iter().map(|phase| phase.bytes).max().unwrap_or(0);
        Self { peak: held_bytes.saturating_add(largest), held, held_bytes, phases, allocator }
    }
}

/// Each setting that can be traded for memory with the facts as they are then, and the facts with all of them.
fn changes(facts: &Facts) -> (Vec<(String, Facts)>, Facts) {
    const SHORTEST: u64 = 256;
    let mut changes = Vec::new();
    let mut all = facts.clone();
    let mut add = |text: String, change: &dyn Fn(&mut Facts)| {
        let mut changed = facts.clone();
        change(&mut changed);
        change(&mut all);
        changes.push((text, changed));
    };
    if !facts.training.recompute || facts.training.activation_memory.is_some() {
        let without =
            if facts.training.activation_memory.is_some() { " --activation-memory none" } else { "" };
        add(format!("--gradient-checkpointing{without}"), &|facts| {
            facts.training.recompute = true;
            facts.training.activation_memory = None;
        });
    }
    if facts.training.prefetch && facts.ranks.mesh.dp_shard > 1 {
        add("--prefetch false".to_owned(), &|facts| facts.training.prefetch = false);
    }
    if facts.training.pp_ahead && facts.ranks.mesh.pp > 1 {
        add("--pp-ahead false".to_owned(), &|facts| facts.training.pp_ahead = false);
    }
    if facts.training.dtype == Dtype::Float32 {
        add("--dtype bfloat16".to_owned(), &|facts| facts.training.dtype = Dtype::Bfloat16);
    }
    let (size, accumulation) = (facts.training.micro_batch_size, facts.training.accumulation);
    if size > 1 {
        let accumulation = product([size, accumulation]);
        add(format!("--micro-batch-size 1 --accumulation-steps {accumulation}"), &|facts| {
            facts.training.micro_batch_size = 1;
            facts.training.accumulation = accumulation;
        });
    }
    let shorter = (facts.data.longest() / 2).max(SHORTEST);
    if shorter < facts.data.longest() {
        add(format!("--max-seq-length {shorter}"), &|facts| facts.data.max_seq_length = shorter);
    }
    (changes, all)
}
