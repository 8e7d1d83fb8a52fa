//! A lane: one NCCL communicator with a stream and staging memory of its own. Its operations go one after the other;
//! those of other lanes go on beside them. What lies in the host's memory goes in pieces that fit the staging, what lies on
//! the device as it is ([`flight`](super::flight)).

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::Instant;

use super::cuda::{Device, Staging, Stream};
use super::flight::{Direct, Flights};
use super::library::{BYTE, Comm, Config, IN_PROGRESS, INT64, Library, SUCCESS, SUM, UniqueId};
use crate::{PIECE_ALIGNMENT, Pending, Region};

/// Bytes that are on the device at a time, each way.
const STAGING: usize = 16 << 20;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of 64-bit integers, wrapping.
    AllReduce,
    AllGather,
    Broadcast {
        root: usize,
    },
    /// To the other rank of a lane of two.
    Send,
    /// From the other rank of a lane of two.
    Receive,
}

/// Memory of a staged operation, and what becomes of it.
pub(super) trait Work: Send {
    /// What is sent.
    fn source(&self) -> &[u8];
    /// What is written.
    fn target(&mut self) -> &mut [u8];
    /// The operation is over.
    fn finish(self: Box<Self>);
}

/// An operation on memory of the host.
pub(super) struct Staged {
    /// For messages.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) work: Box<dyn Work>,
}

/// An operation.
pub(super) enum Operation {
    /// Through the lane's staging.
    Staged(Staged),
    /// From device to device.
    Direct(Direct),
}

impl Operation {
    /// For messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Staged(staged) => staged.name,
            Self::Direct(direct) => direct.name,
        }
    }
}

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// What all of `ranks` do together; this is `rank`.
    Together { rank: usize, ranks: usize },
    /// Messages to another rank.
    Outgoing,
    /// Messages from another rank.
    Incoming,
}

/// How the ranks of a lane find each other.
pub(super) enum Meeting {
    /// They know.
    Known(Box<UniqueId>),
    /// It is on its way.
    Coming(Option<Pending<Region>>),
}

enum State {
    Meeting(Option<Pending<Region>>),
    Starting,
    Ready,
    Closing,
}

enum Stage {
    /// NCCL gets the piece under way in the background.
    Launching,
    /// The device works at it.
    Running,
}

/// The staged operation at work, and the piece of it.
struct Current {
    operation: Staged,
    /// Bytes of the vector, or of a rank's piece, that are done.
    done: usize,
    piece: usize,
    stage: Stage,
}

/// One NCCL communicator.
pub(super) struct Lane {
    nccl: &'static Library,
    device: Arc<Device>,
    comm: Comm,
    stream: Stream,
    outgoing: Staging,
    incoming: Staging,
    rank: usize,
    ranks: usize,
    state: State,
    waiting: VecDeque<Operation>,
    current: Option<Current>,
    flights: Flights,
    is_closing: bool,
    /// Since when the rank waits for what is at work.
    pub(super) since: Instant,
}

impl Lane {
    /// A lane whose ranks are on their way to each other.
    pub(super) fn open(
        nccl: &'static Library,
        device: Arc<Device>,
        what_for: Use,
        meeting: Meeting,
    ) -> Result<Self, String> {
        let (rank, ranks) = match what_for {
            Use::Together { rank, ranks } => (rank, ranks),
            Use::Outgoing => (0, 2),
            Use::Incoming => (1, 2),
        };
        // A direction that is never used needs no memory to speak of.
        let length = |unused| if what_for == unused { PIECE_ALIGNMENT } else { STAGING };
        let mut lane = Self {
            nccl,
            device,
            comm: std::ptr::null_mut(),
            stream: Stream::new()?,
            outgoing: Staging::new(length(Use::Incoming))?,
            incoming: Staging::new(length(Use::Outgoing))?,
            rank,
            ranks,
            state: State::Meeting(None),
            waiting: VecDeque::new(),
            current: None,
            flights: Flights::default(),
            is_closing: false,
            since: Instant::now(),
        };
        match meeting {
            Meeting::Known(id) => lane.start(&id)?,
            Meeting::Coming(id) => lane.state = State::Meeting(id),
        }
        Ok(lane)
    }

    fn start(&mut self, id: &UniqueId) -> Result<(), String> {
        let mut config = Config::non_blocking();
        let (ranks, rank) = (self.ranks as c_int, self.rank as c_int);
        // SAFETY: places for the communicator and the settings, which NCCL copies.
        let result = unsafe { (self.nccl.call.init)(&mut self.comm, ranks, *id, rank, &mut config) };
        self.state = State::Starting;
        self.accepted(result)
    }

    /// Takes up an operation when those before it are done.
    pub(super) fn push(&mut self, operation: Operation) {
        if self.is_idle() {
            self.since = Instant::now();
        }
        self.waiting.push_back(operation);
    }

    /// Closes when all operations are done.
    pub(super) fn close(&mut self) {
        if !self.is_closing {
            self.is_closing = true;
            self.since = Instant::now();
        }
    }

    /// Whether its ranks have found each other.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Ready | State::Closing)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.has_no_work() && self.is_up() && !self.is_closing
    }

    /// Whether it is closed, or has never begun; it may be dropped then.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closing && self.comm.is_null() && self.has_no_work()
    }

    fn has_no_work(&self) -> bool {
        self.current.is_none() && self.flights.is_empty() && self.waiting.is_empty()
    }

    /// What this rank waits for.
    pub(super) fn name(&self) -> &'static str {
        let at_work = self.current.as_ref().map(|current| current.operation.name);
        let at_work = at_work.or(self.flights.name()).or(self.waiting.front().map(Operation::name));
        at_work.unwrap_or(if self.is_closing { "the end of NCCL" } else { "the start of NCCL" })
    }

    /// Goes on as far as it goes without waiting; whether it did.
    pub(super) fn progress(&mut self) -> Result<bool, String> {
        match &mut self.state {
            State::Meeting(coming) => {
                match coming.take().map(Pending::poll) {
                    Some(Ok(id)) => {
                        let id = UniqueId::of(id.bytes()).ok_or("a rank sent no place to meet")?;
                        self.start(&id)?;
                        return Ok(true);
                    }
                    Some(Err(still)) => self.state = State::Meeting(Some(still)),
                    // Nobody needs it any more.
                    None => {}
                }
                Ok(false)
            }
            State::Starting => {
                let is_up = self.is_settled()?;
                if is_up {
                    self.state = State::Ready;
                }
                Ok(is_up)
            }
            State::Ready => self.work(),
            State::Closing => {
                let is_over = self.is_settled()?;
                if is_over {
                    // SAFETY: finalised, destroyed once, and never used again.
                    unsafe { (self.nccl.call.destroy)(self.comm) };
                    self.comm = std::ptr::null_mut();
                }
                Ok(is_over)
            }
        }
    }

    fn work(&mut self) -> Result<bool, String> {
        if self.current.is_some() {
            return self.go_on();
        }
        let landed = self.land()?;
        if self.flights.is_launching() {
            let is_launched = self.is_settled()?;
            if is_launched {
                self.flights.take_off(&self.stream, &self.device)?;
            }
            return Ok(is_launched || landed);
        }
        match self.waiting.pop_front() {
            Some(Operation::Direct(operation)) => self.launch_direct(operation),
            // While it makes its round trips nobody would look whether these are over.
            Some(staged) if !self.flights.is_empty() => {
                self.waiting.push_front(staged);
                Ok(landed)
            }
            Some(Operation::Staged(operation)) => {
                self.since = Instant::now();
                self.current = Some(Current { operation, done: 0, piece: 0, stage: Stage::Launching });
                self.next_piece()
            }
            None if self.flights.is_empty() => Ok(self.begin_to_close()? || landed),
            None => Ok(landed),
        }
    }

    /// Lets go of the direct operations that are over.
    fn land(&mut self) -> Result<bool, String> {
        let landed = self.flights.land()?;
        if landed {
            // From now on the rank waits for the next one.
            self.since = Instant::now();
        } else if !self.flights.is_empty() {
            // An error of the network shows here alone: the device's work would never end.
            self.is_settled()?;
        }
        Ok(landed)
    }

    /// Hands NCCL an operation that goes behind those that are on the stream.
    fn launch_direct(&mut self, operation: Direct) -> Result<bool, String> {
        if self.flights.is_empty() {
            self.since = Instant::now();
        }
        // The default stream computes what is sent, and may still read what was in the memory that is written.
        self.stream.wait_for(&operation.after)?;
        let sides = (operation.source as *const c_void, operation.target as *mut c_void);
        let result = match operation.length {
            // Its mark alone: NCCL has nothing to do.
            0 => SUCCESS,
            length => self.launch(operation.kind, sides, length),
        };
        self.flights.launch(operation);
        self.accepted(result)?;
        Ok(true)
    }

    /// Goes on with the staged operation.
    fn go_on(&mut self) -> Result<bool, String> {
        let Some(current) = &mut self.current else { return Ok(false) };
        match current.stage {
            Stage::Launching => {
                if !self.is_settled()? {
                    return Ok(false);
                }
                self.after_launch()
            }
            Stage::Running => {
                if !self.stream.is_over()? {
                    // As in `land`.
                    self.is_settled()?;
                    return Ok(false);
                }
                self.take_piece();
                self.next_piece()
            }
        }
    }

    fn begin_to_close(&mut self) -> Result<bool, String> {
        if !self.is_closing {
            return Ok(false);
        }
        // SAFETY: the communicator is alive and has no work left.
        let result = unsafe { (self.nccl.call.finalize)(self.comm) };
        self.accepted(result)?;
        self.state = State::Closing;
        Ok(true)
    }

    /// Starts the next piece, or ends the operation after the last.
    fn next_piece(&mut self) -> Result<bool, String> {
        let Some(mut current) = self.current.take() else { return Ok(false) };
        let kind = current.operation.kind;
        let sends = match kind {
            Kind::Broadcast { root } => root == self.rank,
            other => other != Kind::Receive,
        };
        // All ranks have vectors of one length, so they cut alike.
        let total = match sends {
            true => current.operation.work.source().len(),
            false => current.operation.work.target().len(),
        };
        current.done += current.piece;
        if current.done == total {
            current.operation.work.finish();
            return Ok(true);
        }
        let most = match kind {
            Kind::AllGather => (STAGING / self.ranks / PIECE_ALIGNMENT * PIECE_ALIGNMENT).max(1),
            _ => STAGING,
        };
        current.piece = most.min(total - current.done);
        if sends {
            let range = current.done..current.done + current.piece;
            self.outgoing.bytes_mut()[..current.piece]
                .copy_from_slice(&current.operation.work.source()[range]);
            self.stream.upload(&self.outgoing, current.piece)?;
        }
        let sides = (self.outgoing.device().cast_const(), self.incoming.device());
        let result = self.launch(kind, sides, current.piece);
        current.stage = Stage::Launching;
        self.current = Some(current);
        self.accepted(result)?;
        Ok(true)
    }

    fn launch(&self, kind: Kind, (outgoing, incoming): (*const c_void, *mut c_void), length: usize) -> c_int {
        let call = &self.nccl.call;
        let (comm, stream) = (self.comm, self.stream.raw());
        let other = 1 - self.rank.min(1) as c_int;
        // SAFETY: the communicator is alive and settled, the stream is of its device, and both sides have room for
        // what is moved (`most` above, or the lengths of a direct operation), which is not touched until the mark behind it
        // is reached: the staging is the lane's, and direct memory is what its keeper and its starter keep it for.
        unsafe {
            match kind {
                Kind::AllReduce => {
                    (call.all_reduce)(outgoing, incoming, length / 8, INT64, SUM, comm, stream)
                }
                Kind::AllGather => (call.all_gather)(outgoing, incoming, length, BYTE, comm, stream),
                Kind::Broadcast { root } => {
                    (call.broadcast)(outgoing, incoming, length, BYTE, root as c_int, comm, stream)
                }
                Kind::Send => (call.send)(outgoing, length, BYTE, other, comm, stream),
                Kind::Receive => (call.receive)(incoming, length, BYTE, other, comm, stream),
            }
        }
    }

    /// NCCL has put its work on the stream: what comes back follows it there.
    fn after_launch(&mut self) -> Result<bool, String> {
        let Some(current) = &mut self.current else { return Ok(false) };
        let length = match current.operation.kind {
            Kind::AllGather => current.piece * self.ranks,
            Kind::Send => 0,
            _ => current.piece,
        };
        if length > 0 {
            self.stream.download(&mut self.incoming, length)?;
        }
        self.stream.mark()?;
        current.stage = Stage::Running;
        Ok(true)
    }

    /// Copies what has come to where it belongs.
    fn take_piece(&mut self) {
        let Some(current) = &mut self.current else { return };
        let (done, piece) = (current.done, current.piece);
        let target = current.operation.work.target();
        match current.operation.kind {
            Kind::Send => {}
            Kind::AllGather => {
                let length = target.len() / self.ranks;
                let pieces = self.incoming.bytes().chunks_exact(piece);
                for (rank, piece_of_rank) in pieces.take(self.ranks).enumerate() {
                    let start = rank * length + done;
                    target[start..start + piece].copy_from_slice(piece_of_rank);
                }
            }
            _ => target[done..done + piece].copy_from_slice(&self.incoming.bytes()[..piece]),
        }
    }

    /// Whether what NCCL does in the background is done.
    fn is_settled(&self) -> Result<bool, String> {
        let mut state = SUCCESS;
        // SAFETY: the communicator is alive; a place for the answer.
        let asked = unsafe { (self.nccl.call.async_error)(self.comm, &mut state) };
        self.accepted(asked)?;
        self.accepted(state)?;
        Ok(state == SUCCESS)
    }

    fn accepted(&self, result: c_int) -> Result<(), String> {
        match result {
            SUCCESS | IN_PROGRESS => Ok(()),
            error => Err(self.nccl.words(error)),
        }
    }

    /// Gives up at once whatever is under way. Its memory is left to the end of the process.
    pub(super) fn abort(self) {
        if !self.comm.is_null() {
            // SAFETY: alive, aborted once, and never used again.
            unsafe { (self.nccl.call.abort)(self.comm) };
        }
        std::mem::forget(self);
    }

    /// Whether it is to close.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }
}
