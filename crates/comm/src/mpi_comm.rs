//! MPI: immediate operations, polled with short sleeps.
//!
//! A blocking MPI call spins, and a spinning rank takes the core that a peer computes on. Every collective here is
//! posted as an immediate operation and polled; the pause grows to a fraction of a millisecond.

use std::time::Duration;

use mpi::Threading;
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::environment::Universe;
use mpi::request::{Request, scope};
use mpi::topology::{Communicator as _, SimpleCommunicator};

use crate::{CommError, Communicator};

/// Elements a message: counts in MPI 3 are 32-bit.
const MESSAGE_ELEMENTS: usize = 1 << 27;

const FIRST_PAUSE: Duration = Duration::from_micros(5);
const LONGEST_PAUSE: Duration = Duration::from_micros(200);

/// The ranks of `MPI_COMM_WORLD`. The thread that made it owns MPI.
pub(crate) struct MpiComm {
    // Field order is drop order: the communicator goes before MPI is finalised.
    world: SimpleCommunicator,
    _universe: Universe,
}

impl MpiComm {
    pub(crate) fn start() -> Result<Self, CommError> {
        let (universe, _threading) =
            mpi::initialize_with_threading(Threading::Multiple).ok_or(CommError::Init)?;
        Ok(Self { world: universe.world(), _universe: universe })
    }
}

impl Communicator for MpiComm {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn backend(&self) -> String {
        mpi::environment::library_version()
            .map(|version| version.split(',').next().unwrap_or_default().trim_end_matches('\0').to_owned())
            .unwrap_or_else(|_| "MPI".to_owned())
    }

    fn all_reduce_sum(&self, values: &mut [i64]) {
        let mut sums = vec![0i64; values.len().min(MESSAGE_ELEMENTS)];
        for part in values.chunks_mut(MESSAGE_ELEMENTS) {
            let sums = &mut sums[..part.len()];
            scope(|s| {
                let sum = SystemOperation::sum();
                poll(self.world.immediate_all_reduce_into(s, &*part, sums, sum));
            });
            part.copy_from_slice(sums);
        }
    }

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lengths = vec![0u64; self.size()];
        let length = bytes.len() as u64;
        scope(|s| poll(self.world.immediate_all_gather_into(s, &length, &mut lengths[..])));
        let widest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut padded = bytes.to_vec();
        padded.resize(widest.max(1), 0);
        let mut all = vec![0u8; padded.len() * self.size()];
        scope(|s| poll(self.world.immediate_all_gather_into(s, &padded[..], &mut all[..])));
        all.chunks_exact(padded.len())
            .zip(&lengths)
            .map(|(chunk, length)| chunk[..*length as usize].to_vec())
            .collect()
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        let root = self.world.process_at_rank(root as i32);
        let mut length = bytes.len() as u64;
        scope(|s| poll(root.immediate_broadcast_into(s, &mut length)));
        bytes.resize(length as usize, 0);
        for part in bytes.chunks_mut(MESSAGE_ELEMENTS) {
            scope(|s| poll(root.immediate_broadcast_into(s, part)));
        }
    }
}

fn poll<'a, D: ?Sized, S: mpi::request::Scope<'a>>(mut request: Request<'a, D, S>) {
    let mut pause = FIRST_PAUSE;
    while let Err(pending) = request.test() {
        request = pending;
        rest(&mut pause);
    }
}

fn rest(pause: &mut Duration) {
    std::thread::sleep(*pause);
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}
