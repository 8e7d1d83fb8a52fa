//! A rank's line to the coordinator: a thread of its own, on which training never waits.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control_proto::v1;
use control_proto::v1::rank_service_client::RankServiceClient;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::{Channel, Dial, spell};
use crate::endpoint::Endpoint;
use crate::error::ControlError;
use crate::report::{Memory, Phase, RankInfo, StepReport, Wishes};
use crate::service::HEARTBEAT;
use crate::wire;

/// Which start of the run this is, as a launcher tells its ranks.
pub const ATTEMPT_VARIABLE: &str = "GPART_CONTROL_ATTEMPT";

/// Steps that are kept while nobody takes them.
const KEPT_STEPS: usize = 64;
/// The pauses between attempts to reach a coordinator.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a registration may take.
const REGISTRATION: Duration = Duration::from_secs(10);
/// Reports on their way; when there are more, the coordinator does not read, and heartbeats are skipped.
const ON_THEIR_WAY: usize = 4;
/// Steps may end faster than anybody looks: reports come no closer than this.
const CLOSEST: Duration = Duration::from_millis(50);
/// How long the last report may take when a rank ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// The attempt's number from the environment; 1 where there is none.
pub fn attempt_from_env() -> u32 {
    let number = std::env::var(ATTEMPT_VARIABLE).ok().and_then(|value| value.trim().parse().ok());
    number.filter(|number| *number > 0).unwrap_or(1)
}

/// How a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// The coordinator has not been reached yet.
    Connecting,
    /// Reports arrive.
    Connected,
    /// The coordinator is gone; it is tried again.
    Lost {
        /// What was seen.
        reason: String,
    },
}

/// A rank's line to the coordinator. No method waits for the network or fails; without a coordinator they do nothing.
///
/// A thread of the link sends a heartbeat each second, so that a rank that hangs is seen to do so. Dropping the link tells
/// the coordinator that the rank ends in order.
pub struct RankLink {
    shared: Arc<Shared>,
    /// Hangs up when the thread ends. Behind a lock so that threads can share a link.
    ended: Mutex<Receiver<()>>,
}

struct Shared {
    facts: Mutex<Facts>,
    /// There is something that should not wait for the next heartbeat.
    news: Notify,
}

/// What is sent with the next report, and what was asked.
struct Facts {
    phase: Phase,
    phase_since: Instant,
    collective: Option<(String, Instant)>,
    step: Option<u64>,
    memory: Option<Memory>,
    durable_step: Option<u64>,
    steps: VecDeque<StepReport>,
    leaving: bool,
    wishes: Wishes,
    state: LinkState,
    /// The newest command that arrived, and from which coordinator.
    received: u64,
    coordinator: u64,
}

impl Shared {
    /// Never held across a wait.
    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RankLink {
    /// Begins to connect, and does not wait for it.
    ///
    /// # Errors
    /// The endpoint or the rank's numbers cannot be, or the thread cannot be started.
    pub fn connect(endpoint: &Endpoint, info: RankInfo) -> Result<Self, ControlError> {
        if info.rank >= info.ranks || u32::try_from(info.ranks).is_err() {
            return Err(ControlError::Option {
                name: "the rank",
                value: format!("{} of {}", info.rank, info.ranks),
                hint: "ranks count from 0, and there is at least one",
            });
        }
        // Looked at now, so that a certificate that is none is the caller's error.
        let dial = Dial::new(endpoint)?;
        let facts = Facts {
            phase: Phase::Starting,
            phase_since: Instant::now(),
            collective: None,
            step: None,
            memory: None,
            durable_step: None,
            steps: VecDeque::new(),
            leaving: false,
            wishes: Wishes::default(),
            state: LinkState::Connecting,
            received: 0,
            coordinator: 0,
        };
        let shared = Arc::new(Shared { facts: Mutex::new(facts), news: Notify::new() });
        let failed = |source| ControlError::Thread { source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(failed)?;
        let (alive, ended) = channel::<()>();
        let keeper = Keeper { shared: Arc::clone(&shared), dial, info };
        std::thread::Builder::new()
            .name("control-link".into())
            .spawn(move || {
                runtime.block_on(keeper.keep());
                // A name that is still being looked up must not hold up the end.
                runtime.shutdown_background();
                drop(alive);
            })
            .map_err(failed)?;
        Ok(Self { shared, ended: Mutex::new(ended) })
    }

    /// The rank does something else from now on.
    pub fn phase(&self, phase: Phase) {
        let mut facts = self.shared.lock();
        if facts.phase != phase {
            facts.phase = phase;
            facts.phase_since = Instant::now();
        }
    }

    /// A step begins, counted from 1.
    pub fn begins(&self, step: u64) {
        self.shared.lock().step = Some(step);
    }

    /// A step is completed.
    pub fn step(&self, report: StepReport) {
        let mut facts = self.shared.lock();
        facts.step = Some(report.step.saturating_add(1).min(report.total_steps.max(report.step)));
        if facts.steps.len() == KEPT_STEPS {
            facts.steps.pop_front();
        }
        facts.steps.push_back(report);
        drop(facts);
        self.shared.news.notify_one();
    }

    /// The rank waits in a collective of this name from now on, or in none any more.
    pub fn collective(&self, name: Option<&str>) {
        self.shared.lock().collective = name.map(|name| (name.to_owned(), Instant::now()));
    }

    /// How much memory the rank has on its device.
    pub fn memory(&self, memory: Memory) {
        self.shared.lock().memory = Some(memory);
    }

    /// The state of this step is durable.
    pub fn durable(&self, step: u64) {
        self.shared.lock().durable_step = Some(step);
        self.shared.news.notify_one();
    }

    /// What was asked since the last call.
    pub fn wishes(&self) -> Wishes {
        std::mem::take(&mut self.shared.lock().wishes)
    }

    /// How the link is.
    pub fn state(&self) -> LinkState {
        self.shared.lock().state.clone()
    }
}

impl Drop for RankLink {
    fn drop(&mut self) {
        self.shared.lock().leaving = true;
        self.shared.news.notify_one();
        // Either the thread has ended, or it has had its time.
        let _ = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(FAREWELL);
    }
}

/// The thread's side.
struct Keeper {
    shared: Arc<Shared>,
    dial: Dial,
    info: RankInfo,
}

/// How a connection ended.
enum Ended {
    /// The rank leaves.
    Left,
    /// It could not be made, or broke.
    Broken { reason: String, is_hopeless: bool, was_up: bool },
}

impl Keeper {
    async fn keep(self) {
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        loop {
            let Ended::Broken { reason, is_hopeless, was_up } = self.one_connection().await else { return };
            if reason != told {
                tracing::warn!("rank {}: no line to the run's coordinator: {reason}", self.info.rank);
                told.clone_from(&reason);
            }
            self.shared.lock().state = LinkState::Lost { reason };
            if was_up {
                pause = FIRST_PAUSE;
                told.clear();
            }
            if is_hopeless {
                pause = LONGEST_PAUSE;
            }
            if self.rest(pause).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits, and tells whether the rank leaves.
    async fn rest(&self, pause: Duration) -> bool {
        // Ranks that lost the same coordinator do not all come back at once.
        let spread = pause.mul_f64(self.info.rank as f64 / (4 * self.info.ranks) as f64);
        let until = tokio::time::Instant::now() + pause + spread;
        loop {
            if self.shared.lock().leaving {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                () = self.shared.news.notified() => {}
            }
        }
    }

    async fn one_connection(&self) -> Ended {
        let broken = |status: &tonic::Status, was_up| Ended::Broken {
            reason: spell(status),
            is_hopeless: matches!(
                status.code(),
                Code::Unauthenticated
                    | Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::Unimplemented
            ),
            was_up,
        };
        let mut client = RankServiceClient::new(self.dial.lazy());
        let request = self.request();
        let registered = tokio::select! {
            registered = tokio::time::timeout(REGISTRATION, client.register(request)) => registered,
            () = self.leaves() => return Ended::Left,
        };
        let welcome = match registered {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return broken(&status, false),
            Err(_) => return broken(&tonic::Status::deadline_exceeded("no answer"), false),
        };
        {
            let mut facts = self.shared.lock();
            if facts.coordinator != welcome.coordinator {
                facts.coordinator = welcome.coordinator;
                facts.received = 0;
            }
        }
        match self.stream(&mut client, welcome.session).await {
            Ok(()) => Ended::Left,
            Err(status) => {
                // A session that was replaced is made anew; what is wrong with it shows at the registration.
                let Ended::Broken { reason, .. } = broken(&status, true) else { return Ended::Left };
                Ended::Broken { reason, is_hopeless: false, was_up: true }
            }
        }
    }

    async fn leaves(&self) {
        while !self.shared.lock().leaving {
            self.shared.news.notified().await;
        }
    }

    /// Sends reports and takes commands until the rank leaves.
    async fn stream(
        &self,
        client: &mut RankServiceClient<Channel>,
        session: u64,
    ) -> Result<(), tonic::Status> {
        let (sender, reports) = mpsc::channel(ON_THEIR_WAY);
        // The first report is there before the call begins: the coordinator answers it.
        self.send(&sender, session);
        let opening = tokio::time::timeout(REGISTRATION, client.report(ReceiverStream::new(reports)));
        let mut commands =
            opening.await.map_err(|_| tonic::Status::deadline_exceeded("no answer"))??.into_inner();
        self.shared.lock().state = LinkState::Connected;
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = self.shared.news.notified() => tokio::time::sleep(CLOSEST).await,
                command = commands.message() => match command? {
                    Some(command) => self.take(command),
                    None => return Err(tonic::Status::unavailable("the coordinator has ended the connection")),
                },
            }
            self.send(&sender, session);
            if self.shared.lock().leaving {
                // The stream ends when all is sent; then the coordinator ends its side.
                drop(sender);
                let rest = async { while let Ok(Some(_)) = commands.message().await {} };
                // A coordinator that does not end its side is left behind.
                let _ = tokio::time::timeout(FAREWELL / 2, rest).await;
                return Ok(());
            }
        }
    }

    /// Sends a report if there is room for one; what was done is kept for the next otherwise.
    fn send(&self, sender: &mpsc::Sender<v1::RankReport>, session: u64) {
        let Ok(place) = sender.try_reserve() else { return };
        let mut facts = self.shared.lock();
        let seconds = |since: Instant| since.elapsed().as_secs_f64();
        let steps = std::mem::take(&mut facts.steps);
        let report = v1::RankReport {
            session,
            phase: wire::phase_out(facts.phase),
            phase_seconds: seconds(facts.phase_since),
            collective: facts.collective.as_ref().map(|(name, _)| name.clone()),
            collective_seconds: facts.collective.as_ref().map_or(0.0, |(_, since)| seconds(*since)),
            step: facts.step,
            memory_bytes: facts.memory.map(|memory| memory.now),
            memory_peak_bytes: facts.memory.map(|memory| memory.peak),
            durable_step: facts.durable_step,
            steps: steps.into_iter().map(wire::step_out).collect(),
            received_command: facts.received,
            leaving: facts.leaving,
        };
        drop(facts);
        place.send(report);
    }

    fn take(&self, command: v1::RankCommand) {
        let mut facts = self.shared.lock();
        if command.number <= facts.received {
            return;
        }
        facts.received = command.number;
        match wire::wish_in(command.wish) {
            Some(wish) => facts.wishes.add(wish),
            None => tracing::warn!("the coordinator asks for something that this version does not know"),
        }
    }

    fn request(&self) -> v1::RegisterRequest {
        let info = &self.info;
        v1::RegisterRequest {
            rank: wire::small(info.rank),
            ranks: wire::small(info.ranks),
            host: info.host.clone(),
            device: info.device.clone(),
            pid: std::process::id(),
            version: info.version.clone(),
            fingerprints: wire::fingerprints_in(info.fingerprints.clone()),
            attempt: info.attempt,
        }
    }
}
