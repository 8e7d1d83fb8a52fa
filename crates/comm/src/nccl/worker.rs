//! The thread that owns the device's context, the streams and NCCL's communicators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cuda::Device;
use super::lane::{Lane, Meeting, Operation, Use};
use super::library::{Library, SUCCESS, UniqueId};
use crate::peers::Peer;
use crate::{Alarm, Failure, LostRank};

const FIRST_PAUSE: Duration = Duration::from_micros(5);
const LONGEST_PAUSE: Duration = Duration::from_micros(200);

/// So long after an operation began, and then so often, the processes of this host are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// So long a rank that is not to speak leaves the one that is.
const SPEAKERS_LEAD: Duration = Duration::from_millis(500);
/// Most time for the ranks of a lane to find each other, and for a lane to close.
const PATIENCE: Duration = Duration::from_secs(120);

/// Number of a lane.
pub(super) type LaneId = usize;

enum Command {
    Open { id: LaneId, what_for: Use, meeting: Meeting, opened: Option<Sender<Result<(), String>>> },
    Operate(LaneId, Operation),
    UniqueId(Sender<Result<Box<UniqueId>, String>>),
    Watch { own: Peer, peers: Vec<Peer> },
    Close(Vec<LaneId>),
}

/// The thread, as its users see it.
pub(super) struct Worker {
    /// None once it is told to end.
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    next: AtomicUsize,
    /// What the thread computes on.
    pub(super) device: Arc<Device>,
    pub(super) alarm: Alarm,
}

impl Worker {
    /// Starts the thread and takes up the device on it.
    pub(super) fn start(nccl: &'static Library, device: usize, alarm: Alarm) -> Result<Self, String> {
        let (commands, inbox) = channel();
        let (started, outcome) = channel();
        let serve = move || match Device::take(device) {
            Err(error) => drop(started.send(Err(error))),
            Ok(device) => {
                let _ = started.send(Ok(Arc::clone(&device)));
                let (lanes, opened) = (BTreeMap::new(), BTreeMap::new());
                Server { inbox, nccl, lanes, opened, device, watch: None, alarm }.run();
            }
        };
        let thread = std::thread::Builder::new().name("nccl".to_owned()).spawn(serve);
        let thread = thread.map_err(|error| format!("no thread for NCCL: {error}"))?;
        let device = outcome.recv().map_err(|_| "the thread for NCCL ended".to_owned())??;
        let next = AtomicUsize::new(0);
        Ok(Self { commands: Some(commands), thread: Some(thread), next, device, alarm })
    }

    /// A place to meet, for one rank to make and all to know.
    pub(super) fn unique_id(&self) -> Result<Box<UniqueId>, String> {
        let (sender, id) = channel();
        self.send(Command::UniqueId(sender));
        id.recv().expect("the thread answers as long as it lives")
    }

    /// Opens a lane; its operations wait until its ranks have found each other.
    pub(super) fn open(&self, what_for: Use, meeting: Meeting) -> LaneId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Open { id, what_for, meeting, opened: None });
        id
    }

    /// The same, and waits until they have.
    pub(super) fn open_now(&self, what_for: Use, meeting: Meeting) -> Result<LaneId, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = channel();
        self.send(Command::Open { id, what_for, meeting, opened: Some(sender) });
        outcome.recv().expect("the thread answers as long as it lives").map(|()| id)
    }

    /// Starts an operation on a lane.
    pub(super) fn operate(&self, lane: LaneId, operation: Operation) {
        self.send(Command::Operate(lane, operation));
    }

    /// Looks after these processes from now on whenever an operation takes long.
    pub(super) fn watch(&self, own: Peer, peers: Vec<Peer>) {
        self.send(Command::Watch { own, peers });
    }

    /// Closes lanes when their operations are done.
    pub(super) fn close(&self, lanes: Vec<LaneId>) {
        self.send(Command::Close(lanes));
    }

    /// Ends all ranks, saying why.
    pub(super) fn fail(&self, what: String, waiting_in: &'static str) -> ! {
        (self.alarm.failed)(&Failure { what, waiting_in });
        (self.alarm.end)()
    }

    fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("commands are only taken away on drop");
        commands.send(command).expect("the thread lives as long as its users");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without a sender the thread closes what is left and ends.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    inbox: Receiver<Command>,
    nccl: &'static Library,
    lanes: BTreeMap<LaneId, Lane>,
    /// Who waits for a lane's start.
    opened: BTreeMap<LaneId, Sender<Result<(), String>>>,
    /// Given up after the lanes, whose memory is in its context.
    device: Arc<Device>,
    watch: Option<(Peer, Vec<Peer>)>,
    alarm: Alarm,
}

impl Server {
    fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut looked = Instant::now();
        loop {
            let command = match self.lanes.values().all(Lane::is_idle) {
                true => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.inbox.recv_timeout(pause),
            };
            match command {
                Ok(command) => {
                    self.obey(command);
                    pause = FIRST_PAUSE;
                }
                Err(RecvTimeoutError::Disconnected) if self.lanes.is_empty() => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.close_all();
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
            if self.progress() {
                pause = FIRST_PAUSE;
            }
            if looked.elapsed() > WATCH_EVERY {
                looked = Instant::now();
                self.look_after_lanes();
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open { id, what_for, meeting, opened } => {
                match Lane::open(self.nccl, Arc::clone(&self.device), what_for, meeting) {
                    Ok(lane) => {
                        self.lanes.insert(id, lane);
                        self.opened.extend(opened.map(|sender| (id, sender)));
                    }
                    Err(error) => match opened {
                        Some(sender) => drop(sender.send(Err(error))),
                        None => self.fail(error, "the start of NCCL"),
                    },
                }
            }
            Command::Operate(id, operation) => match self.lanes.get_mut(&id) {
                Some(lane) => lane.push(operation),
                None => self.fail("an operation on a lane that did not start".to_owned(), operation.name()),
            },
            Command::UniqueId(sender) => {
                let mut id = Box::new(UniqueId([0; UniqueId::LENGTH]));
                // SAFETY: a place for the answer.
                let result = unsafe { (self.nccl.call.get_unique_id)(&mut *id) };
                let _ = sender.send(if result == SUCCESS { Ok(id) } else { Err(self.nccl.words(result)) });
            }
            Command::Watch { own, peers } => self.watch = Some((own, peers)),
            Command::Close(ids) => ids.iter().for_each(|id| {
                self.lanes.get_mut(id).into_iter().for_each(Lane::close);
            }),
        }
    }

    /// Lets every lane go on; whether one did.
    fn progress(&mut self) -> bool {
        let mut went_on = false;
        let mut failed = None;
        for (id, lane) in &mut self.lanes {
            match lane.progress() {
                Ok(moved) => went_on |= moved,
                Err(error) => failed = Some((*id, error, lane.name())),
            }
            if lane.is_up() {
                let _ = self.opened.remove(id).map(|sender| sender.send(Ok(())));
            }
        }
        if let Some((id, error, name)) = failed {
            match (self.opened.remove(&id), self.lanes.remove(&id)) {
                (Some(sender), lane) => {
                    lane.into_iter().for_each(Lane::abort);
                    let _ = sender.send(Err(error));
                }
                (None, lane) => {
                    self.lanes.extend(lane.map(|lane| (id, lane)));
                    self.fail(error, name);
                }
            }
        }
        self.lanes.retain(|_, lane| !lane.is_closed());
        went_on
    }

    /// Nobody is left who could use a lane.
    fn close_all(&mut self) {
        self.lanes.values_mut().for_each(Lane::close);
    }

    /// Ends the ranks when something takes long and a process of this host is gone; gives up a start or an end that
    /// takes too long.
    fn look_after_lanes(&mut self) {
        let waits = |(_, lane): &(&LaneId, &Lane)| !lane.is_idle() && lane.since.elapsed() > WATCH_EVERY;
        let Some((id, lane)) = self.lanes.iter().find(waits) else { return };
        let (id, name) = (*id, lane.name());
        // Operations have no limit: a rank may compute for long. A start that somebody waits for, and an end, have.
        let is_late = (self.opened.contains_key(&id) || lane.is_closing()) && lane.since.elapsed() > PATIENCE;
        if let Some(lost) = self.lost(name) {
            tracing::error!(?lost, "a rank is gone");
            if !lost.first_left {
                std::thread::sleep(SPEAKERS_LEAD);
            }
            (self.alarm.lost)(&lost);
            self.end();
        }
        if !is_late {
            return;
        }
        let seconds = PATIENCE.as_secs();
        let Some(lane) = self.lanes.remove(&id) else { return };
        let was_closing = lane.is_closing();
        lane.abort();
        let error = format!("not all ranks came within {seconds} s");
        match self.opened.remove(&id) {
            Some(sender) => drop(sender.send(Err(error))),
            // All was said; the others may be gone already.
            None if was_closing => tracing::warn!("NCCL did not end within {seconds} s and was given up"),
            None => self.fail(error, name),
        }
    }

    fn lost(&self, waiting_in: &'static str) -> Option<LostRank> {
        let (own, peers) = self.watch.as_ref()?;
        let gone = peers.iter().find(|peer| peer.rank != own.rank && peer.is_gone())?;
        Some(LostRank {
            rank: gone.rank,
            host: gone.host.clone(),
            pid: gone.pid,
            waiting_in,
            first_left: !peers.iter().any(|peer| peer.rank < own.rank && !peer.is_gone()),
        })
    }

    fn fail(&mut self, what: String, waiting_in: &'static str) -> ! {
        // A rank that is gone is often why NCCL fails, and says more.
        match self.lost(waiting_in) {
            Some(lost) => (self.alarm.lost)(&lost),
            None => (self.alarm.failed)(&Failure { what, waiting_in }),
        }
        self.end()
    }

    fn end(&mut self) -> ! {
        std::mem::take(&mut self.lanes).into_values().for_each(Lane::abort);
        (self.alarm.end)()
    }
}
