//! The thread that owns MPI.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpi::Threading;

use super::post::{self, Handle, Posted};
use crate::peers::Peer;
use crate::{CommError, LostRank, OnLost};

/// Pauses between two looks at the operations under way. One is a quarter of the time since something happened last, so
/// that whatever comes is found at most a quarter later than it could have been, but at least
const SHORTEST_PAUSE: Duration = Duration::from_micros(5);
/// and at most this long where somebody waits, or where MPI moves bytes only when it is looked at: over a network.
const LONGEST_PAUSE: Duration = Duration::from_micros(200);
/// At most this long where all computes: to look costs the core that a peer computes on (a tenth of the time of a step of
/// two pipelined ranks on two virtual cores, with the pause above).
const LONGEST_PAUSE_WHILE_COMPUTING: Duration = Duration::from_millis(5);

/// So long after an operation began, and then so often, the processes of this host are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// So long a rank that is not to speak leaves the one that is.
const SPEAKERS_LEAD: Duration = Duration::from_millis(500);

type Post = Box<dyn FnOnce() -> Posted + Send>;

enum Command {
    /// Posts an operation.
    Post(Post),
    /// Calls something that is over at once or that all ranks do together.
    Call(Box<dyn FnOnce() + Send>),
    /// An operation is waited for.
    Hurry,
    /// Says which processes the ranks of this host are, and of how many.
    Watch { own: Peer, peers: Vec<Peer>, ranks: usize },
}

/// The thread, as its users see it.
pub(super) struct Worker {
    /// None once it is told to end.
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread and MPI on it.
    pub(super) fn start(on_lost: OnLost) -> Result<(Self, Handle), CommError> {
        let (commands, inbox) = channel();
        let (started, world) = channel();
        let serve = move || {
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Multiple) else {
                return;
            };
            // A start that nobody waits for any more ends below, when the inbox has no sender.
            let _ = started.send(post::world());
            Server { inbox, going: Vec::new(), watch: None, is_spread: false, on_lost }.run();
            drop(universe);
        };
        let thread = std::thread::Builder::new().name("mpi".to_owned()).spawn(serve);
        let thread = thread.map_err(|_| CommError::Init)?;
        let world = world.recv().map_err(|_| CommError::Init)?;
        Ok((Self { commands: Some(commands), thread: Some(thread) }, world))
    }

    /// Posts an operation; `post` runs on the thread.
    pub(super) fn post(&self, post: Post) {
        self.send(Command::Post(post));
    }

    /// Calls `call` on the thread and waits for its result.
    pub(super) fn call<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = channel();
        self.send(Command::Call(Box::new(move || drop(sender.send(call())))));
        result.recv().expect("the thread answers as long as it lives")
    }

    /// Has the thread look at what is under way, since somebody waits.
    pub(super) fn hurry(&self) {
        self.send(Command::Hurry);
    }

    /// Looks after these processes, of so many ranks in all, from now on whenever an operation takes long.
    pub(super) fn watch(&self, own: Peer, peers: Vec<Peer>, ranks: usize) {
        self.send(Command::Watch { own, peers, ranks });
    }

    fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("commands are only taken away on drop");
        commands.send(command).expect("the thread lives as long as its users");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without a sender the thread finalises MPI and ends. A panic of it has ended the process already.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    inbox: Receiver<Command>,
    going: Vec<Going>,
    watch: Option<(Peer, Vec<Peer>)>,
    /// Some ranks are on other hosts.
    is_spread: bool,
    on_lost: OnLost,
}

struct Going {
    posted: Posted,
    looked: Instant,
}

impl Server {
    fn run(mut self) {
        let mut last_event = Instant::now();
        loop {
            let command = match self.going.is_empty() {
                true => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.inbox.recv_timeout(self.pause(last_event.elapsed())),
            };
            match command {
                Ok(command) => {
                    self.obey(command);
                    last_event = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) if self.going.is_empty() => return,
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LONGEST_PAUSE),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.progress() {
                last_event = Instant::now();
            }
            self.look_after_peers();
        }
    }

    /// How long to leave operations alone after so long a time without any event.
    fn pause(&self, quiet: Duration) -> Duration {
        let waited_for = |going: &Going| going.posted.waited_for.load(Ordering::Relaxed);
        let longest = match self.is_spread || self.going.iter().any(waited_for) {
            true => LONGEST_PAUSE,
            false => LONGEST_PAUSE_WHILE_COMPUTING,
        };
        (quiet / 4).clamp(SHORTEST_PAUSE, longest)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Post(post) => self.going.push(Going { posted: post(), looked: Instant::now() }),
            Command::Call(call) => call(),
            Command::Hurry => {}
            Command::Watch { own, peers, ranks } => {
                self.is_spread = peers.len() < ranks;
                self.watch = Some((own, peers));
            }
        }
    }

    /// Tests every operation; whether one was over.
    fn progress(&mut self) -> bool {
        let before = self.going.len();
        let mut still = Vec::with_capacity(before);
        for mut going in self.going.drain(..) {
            match going.posted.is_done() {
                true => (going.posted.done)(),
                false => still.push(going),
            }
        }
        self.going = still;
        self.going.len() < before
    }

    /// Ends the world when an operation takes long and a process of this host is gone.
    fn look_after_peers(&mut self) {
        let Some((own, peers)) = &self.watch else { return };
        let due = |going: &&mut Going| going.looked.elapsed() > WATCH_EVERY;
        let Some(going) = self.going.iter_mut().find(due) else { return };
        going.looked = Instant::now();
        let Some(gone) = peers.iter().find(|peer| peer.rank != own.rank && peer.is_gone()) else { return };
        let first_left = !peers.iter().any(|peer| peer.rank < own.rank && !peer.is_gone());
        let lost = LostRank {
            rank: gone.rank,
            host: gone.host.clone(),
            pid: gone.pid,
            waiting_in: going.posted.name,
            first_left,
        };
        tracing::error!(?lost, "a rank is gone");
        if !first_left {
            std::thread::sleep(SPEAKERS_LEAD);
        }
        (self.on_lost)(&lost);
        post::abort(1);
    }
}
