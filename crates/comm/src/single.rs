//! One rank, alone.

use crate::ledger::Traffic;
use crate::{Communicator, Pending, Piece, Region};

/// The world of one rank: every collective is what it is over one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Single;

impl Communicator for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn backend(&self) -> String {
        "single process".to_owned()
    }

    fn all_reduce_sum(&self, _values: &mut [i64]) {}

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        vec![bytes.to_vec()]
    }

    fn broadcast(&self, _root: usize, _bytes: &mut Vec<u8>) {}

    fn split(&self, _axis: &'static str, _group: usize) -> Box<dyn Communicator> {
        Box::new(Self)
    }

    fn start_all_gather(&self, mine: Piece, mut all: Region) -> Pending<Region> {
        all.bytes_mut()[..mine.bytes().len()].copy_from_slice(mine.bytes());
        Pending::done(all)
    }

    fn start_send(&self, to: usize, _message: Piece) -> Pending<()> {
        unreachable!("a message to rank {to} of a world of one")
    }

    fn start_receive(&self, from: usize, _into: Region) -> Pending<Region> {
        unreachable!("a message from rank {from} of a world of one")
    }

    fn traffic(&self) -> Vec<Traffic> {
        Vec::new()
    }
}
