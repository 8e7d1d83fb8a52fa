//! NCCL: messages between GPUs, beside a control communicator that brings it up.
//!
//! One thread owns the device's context, the streams and NCCL's communicators, starts operations and polls them with
//! short sleeps, as `mpi` does. NCCL's calls return at once (non-blocking communicators), so that it never sits in one
//! while a rank is gone. What lies in the host's memory goes through page-locked memory to the device and back; what lies on
//! the device goes from there as it is, in the order of streams (`direct`, `flight`).
//!
//! NCCL makes the operations of one communicator one after the other, and two ranks that wait for each other's message
//! would wait for ever. So each direction between two ranks has a lane (a communicator of two) of its own, made at the
//! first message: the sender makes the place to meet, and it travels over the control communicator.
//!
//! Tests run this on doubles of the driver and of NCCL (`tests/fake_cuda`); on real GPUs it has not been run yet.
//!
//! Shutdown order: operations, NCCL's communicators, streams, the context, and then the control communicator.

mod cuda;
mod direct;
mod flight;
mod lane;
mod library;
mod worker;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

pub(crate) use cuda::probe;
pub(crate) use library::library;

use crate::gather::{gather, number};
use crate::ledger::{Ledger, Operation, Traffic};
use crate::peers::Peer;
use crate::pending::Account;
use crate::{Alarm, Communicator, DeviceCommunicator, PIECE_ALIGNMENT, Pending, Piece, Region};
use lane::{Kind, Meeting, Staged, Use, Work};
use library::UniqueId;
use worker::{LaneId, Worker};

/// A group of ranks with a GPU each.
pub(crate) struct NcclComm {
    // The order of these fields is the order of the shutdown.
    worker: Arc<Worker>,
    /// Its own part of the control communicator: nothing else is said there.
    control: Box<dyn Communicator>,
    /// The lane of what all ranks do together, from the first such operation on.
    together: OnceCell<LaneId>,
    /// Lanes of messages that go to, or come from, a rank.
    outgoing: RefCell<BTreeMap<usize, LaneId>>,
    incoming: RefCell<BTreeMap<usize, LaneId>>,
    axis: &'static str,
    ledger: Ledger,
}

impl NcclComm {
    /// Collective: all ranks of `control`, each on its device. An error names a rank and what went wrong there; every
    /// rank gets the same one.
    pub(crate) fn start(
        control: &dyn Communicator,
        device: usize,
        alarm: Alarm,
    ) -> Result<Self, (usize, String)> {
        let control = control.split("world", 0);
        let started = library()
            .map_err(|missing| missing.what)
            .and_then(|library| Worker::start(library, device, alarm));
        let worker = Arc::new(agree(control.as_ref(), started)?);
        let id = match control.rank() {
            0 => worker.unique_id().map(|id| id.0.to_vec()),
            _ => Ok(Vec::new()),
        };
        let mut bytes = agree(control.as_ref(), id)?;
        control.broadcast(0, &mut bytes);
        let all = Use::Together { rank: control.rank(), ranks: control.size() };
        let met = UniqueId::of(&bytes).ok_or_else(|| "rank 0 sent no place to meet".to_owned());
        let opened = met.and_then(|id| worker.open_now(all, Meeting::Known(Box::new(id))));
        let lane = agree(control.as_ref(), opened)?;
        let comm = Self::of(worker, control, "world", Ledger::default());
        let _ = comm.together.set(lane);
        comm.watch_peers();
        Ok(comm)
    }

    fn of(worker: Arc<Worker>, control: Box<dyn Communicator>, axis: &'static str, ledger: Ledger) -> Self {
        let (outgoing, incoming) = (RefCell::default(), RefCell::default());
        Self { worker, control, together: OnceCell::new(), outgoing, incoming, axis, ledger }
    }

    /// Collective: tells the worker which processes the ranks are.
    fn watch_peers(&self) {
        let own = Peer::this(self.rank());
        let all = self.control.all_gather(&serde_json::to_vec(&own).unwrap_or_default());
        let peers = all.iter().filter_map(|bytes| serde_json::from_slice::<Peer>(bytes).ok());
        let seen: Vec<Peer> = peers.filter(|peer| own.sees(peer)).collect();
        self.worker.watch(own, seen);
    }

    /// Collective at the first call: the lane of what all ranks do together.
    fn together(&self) -> LaneId {
        *self.together.get_or_init(|| {
            let mut bytes = if self.rank() == 0 { self.unique_id().0.to_vec() } else { Vec::new() };
            self.control.broadcast(0, &mut bytes);
            let all = Use::Together { rank: self.rank(), ranks: self.size() };
            match UniqueId::of(&bytes) {
                Some(id) => self.worker.open(all, Meeting::Known(Box::new(id))),
                None => self.worker.fail("rank 0 sent no place to meet".to_owned(), "the start of NCCL"),
            }
        })
    }

    fn unique_id(&self) -> Box<UniqueId> {
        self.worker.unique_id().unwrap_or_else(|error| self.worker.fail(error, "the start of NCCL"))
    }

    /// The lane of messages to a rank. Its place to meet goes ahead of the first of them.
    fn lane_to(&self, rank: usize) -> LaneId {
        *self.outgoing.borrow_mut().entry(rank).or_insert_with(|| {
            let id = self.unique_id();
            match Region::copy_of(&id.0) {
                // Nobody waits for it: the receiver's answer is that it comes to the meeting.
                Ok(bytes) => drop(self.control.start_send(rank, bytes.into())),
                Err(error) => self.worker.fail(error.to_string(), Operation::Send.name()),
            }
            self.worker.open(Use::Outgoing, Meeting::Known(id))
        })
    }

    /// The lane of messages from a rank.
    fn lane_from(&self, rank: usize) -> LaneId {
        *self.incoming.borrow_mut().entry(rank).or_insert_with(|| match Region::new(UniqueId::LENGTH) {
            Ok(into) => {
                let coming = self.control.start_receive(rank, into);
                self.worker.open(Use::Incoming, Meeting::Coming(Some(coming)))
            }
            Err(error) => self.worker.fail(error.to_string(), Operation::Receive.name()),
        })
    }

    /// Starts an operation that owns its memory, and makes the result of the memory when it is done.
    fn operate<M: Memory, T: Send + 'static>(
        &self,
        (lane, kind): (LaneId, Kind),
        (operation, bytes): (Operation, usize),
        memory: M,
        finish: fn(M) -> T,
    ) -> Pending<T> {
        self.ledger.count(self.axis, operation, bytes);
        let account = Account { ledger: self.ledger.clone(), axis: self.axis, operation };
        let (result, pending) = Pending::going(account, Box::new(|| ()));
        let work = Box::new(Job { memory, finish, result });
        let staged = Staged { name: operation.name(), kind, work };
        self.worker.operate(lane, lane::Operation::Staged(staged));
        pending
    }

    /// One round of blocks of one length, by rank.
    fn gather_blocks(&self, block: &[u8]) -> Vec<u8> {
        let bytes = block.len() * (self.size() - 1);
        let memory = (block.to_vec(), vec![0; block.len() * self.size()]);
        let lane = (self.together(), Kind::AllGather);
        self.operate(lane, (Operation::AllGather, bytes), memory, |(_, all)| all).wait()
    }

    /// Every rank's `bytes`, which have one length, become those of `root`.
    fn broadcast_bytes(&self, root: usize, bytes: Vec<u8>) -> Vec<u8> {
        let lane = (self.together(), Kind::Broadcast { root });
        let length = bytes.len();
        self.operate(lane, (Operation::Broadcast, length), bytes, |bytes| bytes).wait()
    }
}

impl Communicator for NcclComm {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn size(&self) -> usize {
        self.control.size()
    }

    fn backend(&self) -> String {
        match library() {
            Ok(library) => {
                let (major, minor, patch) = library.version();
                format!("NCCL {major}.{minor}.{patch}")
            }
            Err(_) => "NCCL".to_owned(),
        }
    }

    fn all_reduce_sum(&self, values: &mut [i64]) {
        if self.size() == 1 || values.is_empty() {
            return;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let (lane, length) = ((self.together(), Kind::AllReduce), bytes.len());
        let sums = self.operate(lane, (Operation::AllReduce, length), bytes, |bytes| bytes).wait();
        for (value, sum) in values.iter_mut().zip(sums.chunks_exact(8)) {
            *value = i64::from_ne_bytes(std::array::from_fn(|i| sum[i]));
        }
    }

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        match self.size() {
            1 => vec![bytes.to_vec()],
            _ => gather(bytes, |block| self.gather_blocks(block)),
        }
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        if self.size() == 1 {
            return;
        }
        let length = self.broadcast_bytes(root, (bytes.len() as u64).to_le_bytes().to_vec());
        bytes.resize(number(&length) as usize, 0);
        *bytes = self.broadcast_bytes(root, std::mem::take(bytes));
    }

    fn split(&self, axis: &'static str, group: usize) -> Box<dyn Communicator> {
        let part = self.control.split(axis, group);
        Box::new(Self::of(Arc::clone(&self.worker), part, axis, self.ledger.clone()))
    }

    fn start_all_gather(&self, mine: Piece, mut all: Region) -> Pending<Region> {
        let length = mine.bytes().len();
        assert!(
            length.is_multiple_of(PIECE_ALIGNMENT) && all.len() == length * self.size(),
            "pieces of one size"
        );
        if self.size() == 1 {
            all.bytes_mut().copy_from_slice(mine.bytes());
            return Pending::done(all);
        }
        let (lane, bytes) = ((self.together(), Kind::AllGather), length * (self.size() - 1));
        self.operate(lane, (Operation::AllGather, bytes), (mine, all), |(_, all)| all)
    }

    fn start_send(&self, to: usize, message: Piece) -> Pending<()> {
        let (lane, length) = ((self.lane_to(to), Kind::Send), message.bytes().len());
        self.operate(lane, (Operation::Send, length), message, drop)
    }

    fn start_receive(&self, from: usize, into: Region) -> Pending<Region> {
        let (lane, length) = ((self.lane_from(from), Kind::Receive), into.len());
        self.operate(lane, (Operation::Receive, length), into, |into| into)
    }

    fn on_device(&self) -> Option<&dyn DeviceCommunicator> {
        Some(self)
    }

    fn traffic(&self) -> Vec<Traffic> {
        self.ledger.totals()
    }
}

impl Drop for NcclComm {
    fn drop(&mut self) {
        let pairs = [self.outgoing.take(), self.incoming.take()].into_iter().flat_map(BTreeMap::into_values);
        self.worker.close(pairs.chain(self.together.take()).collect());
    }
}

/// Collective: `Ok` on every rank, or on every rank the error of the lowest that has one.
fn agree<T>(control: &dyn Communicator, result: Result<T, String>) -> Result<T, (usize, String)> {
    let said = result.as_ref().err().map_or(Vec::new(), |error| format!("!{error}").into_bytes());
    let all = control.all_gather(&said);
    match (all.iter().position(|said| !said.is_empty()), result) {
        (None, Ok(value)) => Ok(value),
        (Some(rank), _) => Err((rank, String::from_utf8_lossy(&all[rank][1..]).into_owned())),
        (None, Err(error)) => Err((control.rank(), error)),
    }
}

/// What an operation reads and writes. What it does not have is empty.
trait Memory: Send + 'static {
    fn source(&self) -> &[u8];
    fn target(&mut self) -> &mut [u8];
}

impl Memory for Vec<u8> {
    fn source(&self) -> &[u8] {
        self
    }
    fn target(&mut self) -> &mut [u8] {
        self
    }
}

impl Memory for (Vec<u8>, Vec<u8>) {
    fn source(&self) -> &[u8] {
        &self.0
    }
    fn target(&mut self) -> &mut [u8] {
        &mut self.1
    }
}

impl Memory for (Piece, Region) {
    fn source(&self) -> &[u8] {
        self.0.bytes()
    }
    fn target(&mut self) -> &mut [u8] {
        self.1.bytes_mut()
    }
}

impl Memory for Piece {
    fn source(&self) -> &[u8] {
        self.bytes()
    }
    fn target(&mut self) -> &mut [u8] {
        &mut []
    }
}

impl Memory for Region {
    fn source(&self) -> &[u8] {
        &[]
    }
    fn target(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}

struct Job<M, T> {
    memory: M,
    finish: fn(M) -> T,
    result: Sender<T>,
}

impl<M: Memory, T: Send> Work for Job<M, T> {
    fn source(&self) -> &[u8] {
        self.memory.source()
    }

    fn target(&mut self) -> &mut [u8] {
        self.memory.target()
    }

    fn finish(self: Box<Self>) {
        // Whoever does not wait any more has no use for the result either.
        let _ = self.result.send((self.finish)(self.memory));
    }
}
