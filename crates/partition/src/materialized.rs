//! The materialized backend: torch's stream of random integers, found again at any index.

mod twister;

use std::fmt;

use twister::{STATE_WORDS, State};

use crate::assignment::{check_within, reserve};
use crate::modulus::Modulus;
use crate::{Assignment, Cursor, Isa, PartitionError, Seed};

/// States between two snapshots: a snapshot every 65,520 words, and at most 104 steps from one to any index.
const STATES_PER_SNAPSHOT: u64 = 105;

const STATE_BYTES: u64 = (STATE_WORDS * size_of::<u32>()) as u64;

/// From this d on, torch takes 64 bits an id.
const WIDE_FROM: u64 = 1 << 28;

/// Torch draws these ids as signed integers of 32 bits.
const LARGEST_D: u64 = 1 << 31;

/// A partition drawn as torch's CPU generator draws `randint(0, d)`: MT19937, one output an id, reduced modulo d.
///
/// From d = 2^28 on an id takes two outputs, the first one as the high word. The official code keeps the ids in an
/// array, hence the backend's name; here only the generator's state is kept, 2496 bytes of it every 65,520 outputs
/// (0.04 bytes a weight, or 0.08 from d = 2^28 on), and the ids are made again where they are needed.
#[derive(Clone)]
pub struct Materialized {
    seed: Seed,
    total: u64,
    draw: Draw,
    isa: Isa,
    snapshots: Vec<State>,
}

impl Materialized {
    /// The partition of `total` weights into `d` groups that `seed` draws; only the seed's low 32 bits matter.
    ///
    /// Runs once through the stream, about half a nanosecond a weight on one thread. d may be above `total`.
    ///
    /// # Errors
    /// Unless d is between 1 and 2^31 and total is at most 2^62; when the snapshots do not fit in memory.
    pub fn new(seed: impl Into<Seed>, d: u64, total: u64) -> Result<Self, PartitionError> {
        match d {
            0 => return Err(PartitionError::GroupCount { d }),
            1..=LARGEST_D => {}
            _ => return Err(PartitionError::MaterializedGroups { d }),
        }
        if total > 1 << 62 {
            return Err(PartitionError::Range { start: 0, len: total });
        }
        let (seed, draw, isa) = (seed.into(), Draw::new(d), Isa::best());
        let count = snapshot_count(d, total);
        let mut snapshots = reserve("the states of the random generator", count)?;
        let mut state = State::new(seed.get() as u32);
        state.step(isa);
        for snapshot in 0..count {
            if snapshot > 0 {
                (0..STATES_PER_SNAPSHOT).for_each(|_| state.step(isa));
            }
            snapshots.push(state.clone());
        }
        Ok(Self { seed, total, draw, isa, snapshots })
    }

    /// The same partition, computed with another instruction set.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = isa;
        self
    }

    /// The seed, modulo 2^64.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The number of weights; indices from there on have no group.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The bytes of state that such a partition holds.
    pub fn bytes(d: u64, total: u64) -> u64 {
        snapshot_count(d, total).saturating_mul(STATE_BYTES)
    }
}

/// Without the snapshots, which are long and follow from the rest.
impl fmt::Debug for Materialized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Materialized")
            .field("seed", &self.seed)
            .field("d", &self.d())
            .field("total", &self.total)
            .field("isa", &self.isa)
            .finish_non_exhaustive()
    }
}

impl Assignment for Materialized {
    fn d(&self) -> u64 {
        self.draw.modulus.d
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(StreamCursor { partition: self, place: None })
    }
}

/// The number of snapshots for `total` ids.
fn snapshot_count(d: u64, total: u64) -> u64 {
    let words = total.saturating_mul(words_per_id(d));
    words.div_ceil(STATES_PER_SNAPSHOT * STATE_WORDS as u64)
}

const fn words_per_id(d: u64) -> u64 {
    if d < WIDE_FROM { 1 } else { 2 }
}

/// How outputs of the generator become ids.
#[derive(Debug, Clone, Copy)]
struct Draw {
    modulus: Modulus,
    /// floor((2^32 − 1) / d).
    barrett: u32,
}

impl Draw {
    fn new(d: u64) -> Self {
        Self { modulus: Modulus::new(d), barrett: (u64::from(u32::MAX) / d) as u32 }
    }

    fn words_per_id(&self) -> u64 {
        words_per_id(self.modulus.d)
    }
}

/// A place in the stream.
struct StreamCursor<'a> {
    partition: &'a Materialized,
    /// Nowhere before the first read.
    place: Option<Place>,
}

#[derive(Clone)]
struct Place {
    state: State,
    /// The number of `state` in the stream, from 0.
    number: u64,
}

impl StreamCursor<'_> {
    /// Moves to the state with this number, from the nearest one known at or before it.
    ///
    /// The caller has checked that the stream reaches so far.
    fn seek(&mut self, number: u64) -> &State {
        let snapshots = &self.partition.snapshots;
        let snapshot = number / STATES_PER_SNAPSHOT;
        let first = snapshot * STATES_PER_SNAPSHOT;
        let from_snapshot = || Place { state: snapshots[snapshot as usize].clone(), number: first };
        let place = self.place.get_or_insert_with(from_snapshot);
        if place.number > number || place.number < first {
            *place = from_snapshot();
        }
        while place.number < number {
            place.state.step(self.partition.isa);
            place.number += 1;
        }
        &place.state
    }
}

impl Cursor for StreamCursor<'_> {
    fn fill(&mut self, start: u64, mut out: &mut [u32]) -> Result<(), PartitionError> {
        let Materialized { total, draw, isa, .. } = *self.partition;
        check_within(start, out.len() as u64, total)?;
        let per_state = STATE_WORDS as u64 / draw.words_per_id();
        let mut index = start;
        while !out.is_empty() {
            let offset = (index % per_state) as usize;
            let (ids, rest) = out.split_at_mut(out.len().min(per_state as usize - offset));
            let state = self.seek(index / per_state);
            state.draw(isa, offset, &draw, ids);
            index += ids.len() as u64;
            out = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
