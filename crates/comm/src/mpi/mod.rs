//! MPI: one thread owns it, posts immediate operations and polls them, with sleeps between.
//!
//! A blocking MPI call spins, and a spinning rank takes the core that a peer computes on. Here the computing thread
//! hands operations to the owning thread and sleeps until they are done, or goes on computing and waits for them
//! later. When the last communicator is dropped, the thread finalises MPI and ends.

mod post;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mpi::ffi;

use crate::gather::{gather, number};
use crate::ledger::{Ledger, Operation, Traffic};
use crate::peers::Peer;
use crate::pending::{Account, Hurry};
use crate::{CommError, Communicator, OnLost, PIECE_ALIGNMENT, Pending, Piece, Region};
use post::{Handle, Posted};
use worker::Worker;

/// Name and version of the library.
pub(crate) fn library() -> String {
    mpi::environment::library_version()
        .map(|version| version.split(',').next().unwrap_or_default().trim_end_matches('\0').to_owned())
        .unwrap_or_else(|_| "MPI".to_owned())
}

/// A group of ranks of `MPI_COMM_WORLD`.
pub(crate) struct MpiComm {
    worker: Arc<Worker>,
    handle: Handle,
    rank: usize,
    size: usize,
    axis: &'static str,
    ledger: Ledger,
}

impl MpiComm {
    /// The world.
    pub(crate) fn start(on_lost: OnLost) -> Result<Self, CommError> {
        let (worker, world) = Worker::start(on_lost)?;
        let comm = Self::of(Arc::new(worker), world, "world", Ledger::default());
        comm.watch_peers();
        Ok(comm)
    }

    fn of(worker: Arc<Worker>, handle: Handle, axis: &'static str, ledger: Ledger) -> Self {
        let (rank, size) = worker.call(move || post::rank_and_size(handle));
        Self { worker, handle, rank, size, axis, ledger }
    }

    /// Collective: tells the worker which processes the ranks are.
    fn watch_peers(&self) {
        let own = Peer::this(self.rank);
        let bytes = serde_json::to_vec(&own).unwrap_or_default();
        let all = self.all_gather(&bytes);
        let peers = all.iter().filter_map(|bytes| serde_json::from_slice::<Peer>(bytes).ok());
        let seen: Vec<Peer> = peers.filter(|peer| own.sees(peer)).collect();
        self.worker.watch(own, seen, all.len());
    }

    fn account(&self, operation: Operation, bytes: usize) -> Account {
        self.ledger.count(self.axis, operation, bytes);
        Account { ledger: self.ledger.clone(), axis: self.axis, operation }
    }

    /// Posts an operation that owns its memory, and makes the result of the memory when it is done.
    fn operate<M: Send + 'static, T: Send + 'static>(
        &self,
        account: Account,
        mut memory: M,
        post: impl FnOnce(Handle, &mut M) -> Vec<ffi::MPI_Request> + Send + 'static,
        finish: fn(M) -> T,
    ) -> Pending<T> {
        let (name, handle) = (account.operation.name(), self.handle);
        let waited_for = Arc::new(AtomicBool::new(false));
        let (sender, pending) = Pending::going(account, self.hurry(Arc::clone(&waited_for)));
        self.worker.post(Box::new(move || {
            let requests = post(handle, &mut memory);
            // Whoever does not wait any more has no use for the result either.
            let done = Box::new(move || drop(sender.send(finish(memory))));
            Posted { requests, name, waited_for, done }
        }));
        pending
    }

    /// Marks an operation as waited for, and has the worker look at once. A pending operation does not keep MPI alive.
    fn hurry(&self, waited_for: Arc<AtomicBool>) -> Hurry {
        let worker = Arc::downgrade(&self.worker);
        Box::new(move || {
            waited_for.store(true, Ordering::Relaxed);
            if let Some(worker) = worker.upgrade() {
                worker.hurry();
            }
        })
    }

    /// One round of fixed-length blocks, by rank.
    fn gather_blocks(&self, block: &[u8]) -> Vec<u8> {
        let account = self.account(Operation::AllGather, block.len() * (self.size - 1));
        let memory = (block.to_vec(), vec![0; block.len() * self.size]);
        let post = |comm, (mine, all): &mut (Vec<u8>, Vec<u8>)| post::all_gather(comm, mine, all);
        self.operate(account, memory, post, |(_, all)| all).wait()
    }

    /// Every rank's `bytes`, which have one length, become those of `root`.
    fn broadcast_bytes(&self, root: usize, bytes: Vec<u8>) -> Vec<u8> {
        let account = self.account(Operation::Broadcast, bytes.len());
        let post = move |comm, bytes: &mut Vec<u8>| post::broadcast(comm, root, bytes);
        self.operate(account, bytes, post, |bytes| bytes).wait()
    }
}

impl Communicator for MpiComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn backend(&self) -> String {
        library()
    }

    fn all_reduce_sum(&self, values: &mut [i64]) {
        if self.size == 1 {
            return;
        }
        let account = self.account(Operation::AllReduce, size_of_val(values));
        let memory = (values.to_vec(), vec![0; values.len()]);
        let sums = match self.size {
            // Of two ranks each needs the other's vector, once: on a slow link a third of the time of what MPI does.
            2 => {
                let peer = 1 - self.rank;
                let post = move |comm, (own, theirs): &mut (Vec<i64>, Vec<i64>)| {
                    post::exchange(comm, peer, bytemuck::cast_slice(own), bytemuck::cast_slice_mut(theirs))
                };
                self.operate(account, memory, post, add).wait()
            }
            _ => {
                let post =
                    |comm, (own, sums): &mut (Vec<i64>, Vec<i64>)| post::all_reduce_sum(comm, own, sums);
                self.operate(account, memory, post, |(_, sums)| sums).wait()
            }
        };
        values.copy_from_slice(&sums);
    }

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        if self.size == 1 {
            return vec![bytes.to_vec()];
        }
        gather(bytes, |block| self.gather_blocks(block))
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        if self.size == 1 {
            return;
        }
        let length = self.broadcast_bytes(root, (bytes.len() as u64).to_le_bytes().to_vec());
        bytes.resize(number(&length) as usize, 0);
        *bytes = self.broadcast_bytes(root, std::mem::take(bytes));
    }

    fn split(&self, axis: &'static str, group: usize) -> Box<dyn Communicator> {
        let (handle, rank) = (self.handle, self.rank);
        let part = self.worker.call(move || post::split(handle, group, rank));
        Box::new(Self::of(Arc::clone(&self.worker), part, axis, self.ledger.clone()))
    }

    fn start_all_gather(&self, mine: Piece, mut all: Region) -> Pending<Region> {
        let length = mine.bytes().len();
        assert!(
            length.is_multiple_of(PIECE_ALIGNMENT) && all.len() == length * self.size,
            "pieces of one size"
        );
        if self.size == 1 {
            all.bytes_mut().copy_from_slice(mine.bytes());
            return Pending::done(all);
        }
        let account = self.account(Operation::AllGather, length * (self.size - 1));
        let post =
            |comm, (mine, all): &mut (Piece, Region)| post::all_gather(comm, mine.bytes(), all.bytes_mut());
        self.operate(account, (mine, all), post, |(_, all)| all)
    }

    fn start_send(&self, to: usize, message: Piece) -> Pending<()> {
        let account = self.account(Operation::Send, message.bytes().len());
        let post = move |comm, message: &mut Piece| post::send(comm, to, message.bytes());
        self.operate(account, message, post, drop)
    }

    fn start_receive(&self, from: usize, into: Region) -> Pending<Region> {
        let account = self.account(Operation::Receive, into.len());
        let post = move |comm, into: &mut Region| post::receive(comm, from, into.bytes_mut());
        self.operate(account, into, post, |into| into)
    }

    fn traffic(&self) -> Vec<Traffic> {
        self.ledger.totals()
    }
}

fn add((mut own, theirs): (Vec<i64>, Vec<i64>)) -> Vec<i64> {
    own.iter_mut().zip(&theirs).for_each(|(own, theirs)| *own = own.wrapping_add(*theirs));
    own
}
