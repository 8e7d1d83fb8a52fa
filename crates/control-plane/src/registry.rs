//! What the coordinator knows: ranks, wishes, events. No sockets; the time is handed in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use control_proto::v1;
use tokio::sync::mpsc;

use crate::decide::{Finding, Limits, Member, Picture, StepTime, Wait, look, median_step};
use crate::report::{Phase, StepReport, Wish};
use crate::status::{Event, EventKind, RankStatus, Status};
use crate::wire;

/// How many events are kept.
const HISTORY: usize = 4096;
/// How many events a follower may be behind.
const BEHIND: usize = 1024;
/// How many may follow at once.
const FOLLOWERS: usize = 64;
/// How many steps of a rank are kept.
const RECENT: usize = 32;
/// How many commands may be on their way to a rank.
const COMMANDS: usize = 16;
/// How many steps one report may bring.
const STEPS: usize = 64;
/// A look that comes so late means that this process itself was stopped.
const LATE_LOOK: Duration = Duration::from_secs(2);

/// Now: on the clock that begins with the coordinator, and for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub since_start: Duration,
    pub unix_milliseconds: i64,
}

/// Why a rank is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It does not fit the run.
    Wrong(String),
    /// Its attempt or its session is over.
    Over(String),
}

pub(crate) struct Registry {
    run: String,
    limits: Limits,
    attempt: u32,
    restarts: u32,
    picture: Picture,
    records: BTreeMap<usize, Record>,
    newest: Option<StepReport>,
    durable_step: Option<u64>,
    stopping: Option<String>,
    /// Wishes that rank 0 has not received yet, by number.
    pending: BTreeMap<u64, Wish>,
    commands: u64,
    events: VecDeque<Arc<Event>>,
    numbered: u64,
    followers: Vec<Follower>,
    listeners: Vec<SyncSender<Event>>,
    findings: Vec<Finding>,
    looked: Duration,
    identity: u64,
    closed: bool,
}

/// What is known of a rank beside the [`Member`].
struct Record {
    device: String,
    pid: u32,
    version: String,
    session: u64,
    /// How many streams this session has opened: the end of an older one does not matter.
    streams: u64,
    commands: Option<mpsc::Sender<v1::RankCommand>>,
    step: Option<u64>,
    memory: Option<u64>,
    memory_peak: Option<u64>,
    newest: Option<StepReport>,
}

struct Follower {
    sender: mpsc::Sender<Arc<Event>>,
    too_slow: Arc<AtomicBool>,
}

/// An open stream of a rank.
pub(crate) struct Attached {
    /// Which of the session's streams it is.
    pub stream: u64,
    /// What the rank is asked.
    pub commands: mpsc::Receiver<v1::RankCommand>,
}

/// Events of the past and, as they come, of the future.
pub(crate) struct Following {
    pub past: Vec<Arc<Event>>,
    pub coming: mpsc::Receiver<Arc<Event>>,
    /// Set before `coming` ends because the follower did not keep up.
    pub too_slow: Arc<AtomicBool>,
}

impl Registry {
    /// `identity` is random: sessions and commands of another coordinator are not taken for this one's.
    pub fn new(run: &str, ranks: usize, limits: Limits, identity: u64) -> Self {
        Self {
            run: wire::clean(run, wire::SENTENCE),
            limits,
            attempt: 1,
            restarts: 0,
            picture: Picture { ranks, ..Picture::default() },
            records: BTreeMap::new(),
            newest: None,
            durable_step: None,
            stopping: None,
            pending: BTreeMap::new(),
            commands: 0,
            events: VecDeque::new(),
            numbered: 0,
            followers: Vec::new(),
            listeners: Vec::new(),
            findings: Vec::new(),
            looked: Duration::ZERO,
            identity,
            closed: false,
        }
    }

    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Takes a rank in, in place of what was known of it. Returns its session.
    pub fn register(
        &mut self,
        request: v1::RegisterRequest,
        session: u64,
        now: Now,
    ) -> Result<u64, NotTaken> {
        let rank = self.fitting_rank(&request)?;
        // Ranks that outlived a coordinator tell the new one how often they were started.
        self.attempt = self.attempt.max(request.attempt);
        let host = wire::clean(&request.host, wire::NAME);
        let device = wire::clean(&request.device, wire::NAME);
        let known = self.picture.members.remove(&rank);
        let member = Member {
            host: host.clone(),
            heard: now.since_start,
            connected: false,
            left: false,
            phase: Phase::Starting,
            phase_since: now.since_start,
            wait: None,
            // A rank that comes back after a lost connection has not forgotten how long its steps take.
            recent: known.map(|member| member.recent).unwrap_or_default(),
            fingerprints: wire::fingerprints_in(request.fingerprints),
        };
        self.picture.members.insert(rank, member);
        let record = Record {
            device: device.clone(),
            pid: request.pid,
            version: wire::clean(&request.version, wire::NAME),
            session,
            streams: 0,
            commands: None,
            step: None,
            memory: None,
            memory_peak: None,
            newest: None,
        };
        self.records.insert(rank, record);
        self.tell(EventKind::RankRegistered { rank, host, device }, now);
        Ok(session)
    }

    fn fitting_rank(&self, request: &v1::RegisterRequest) -> Result<usize, NotTaken> {
        let ranks = self.picture.ranks;
        if self.closed {
            return Err(NotTaken::Over("the run has ended".into()));
        }
        if request.attempt < self.attempt {
            return Err(NotTaken::Over(format!(
                "attempt {} is over, this is attempt {}",
                request.attempt, self.attempt
            )));
        }
        if request.ranks != wire::small(ranks) {
            return Err(NotTaken::Wrong(format!(
                "a run of {ranks} ranks was joined as one of {}",
                request.ranks
            )));
        }
        let rank = usize::try_from(request.rank).ok().filter(|rank| *rank < ranks);
        rank.ok_or_else(|| NotTaken::Wrong(format!("there is no rank {} of {ranks}", request.rank)))
    }

    /// Opens a stream of a session.
    pub fn attach(&mut self, session: u64, now: Now) -> Result<Attached, NotTaken> {
        let rank = self.rank_of(session)?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let mut stream = 0;
        if let (Some(record), Some(member)) =
            (self.records.get_mut(&rank), self.picture.members.get_mut(&rank))
        {
            record.commands = Some(sender);
            record.streams += 1;
            stream = record.streams;
            member.connected = true;
            member.heard = now.since_start;
        }
        self.send_pending();
        Ok(Attached { stream, commands })
    }

    /// A stream of a session has ended.
    pub fn detach(&mut self, session: u64, stream: u64, now: Now) {
        let Ok(rank) = self.rank_of(session) else { return };
        if let (Some(record), Some(member)) =
            (self.records.get_mut(&rank), self.picture.members.get_mut(&rank))
        {
            if record.streams != stream {
                return;
            }
            record.commands = None;
            member.connected = false;
            let (host, in_order) = (member.host.clone(), member.left);
            self.tell(EventKind::RankLost { rank, host, in_order }, now);
        }
    }

    /// Takes a report in.
    pub fn report(&mut self, report: v1::RankReport, now: Now) -> Result<(), NotTaken> {
        let rank = self.rank_of(report.session)?;
        let before =
            |seconds: f64| now.since_start.saturating_sub(Duration::from_secs_f64(wire::seconds(seconds)));
        let (Some(record), Some(member)) = (self.records.get_mut(&rank), self.picture.members.get_mut(&rank))
        else {
            return Err(NotTaken::Over("the session is unknown".into()));
        };
        member.heard = now.since_start;
        member.phase = wire::phase_in(report.phase).unwrap_or(member.phase);
        member.phase_since = before(report.phase_seconds);
        member.wait = report.collective.map(|name| Wait {
            collective: wire::clean(&name, wire::NAME),
            since: before(report.collective_seconds),
        });
        member.left |= report.leaving;
        record.step = report.step.or(record.step);
        record.memory = report.memory_bytes.or(record.memory);
        record.memory_peak = report.memory_peak_bytes.or(record.memory_peak);
        let mut done = Vec::new();
        for step in report.steps.into_iter().take(STEPS).map(wire::step_in) {
            member.recent.push_back(StepTime {
                step: step.step,
                seconds: step.seconds,
                waited: step.waited_seconds.values().sum::<f64>().min(step.seconds),
            });
            if member.recent.len() > RECENT {
                member.recent.pop_front();
            }
            record.newest = Some(step.clone());
            done.push(step);
        }
        if rank == 0 {
            // Rank 0 acts for all: it alone is asked, and its steps and states are the run's.
            self.pending.retain(|number, _| *number > report.received_command);
            self.progress(done, report.durable_step, now);
        }
        Ok(())
    }

    fn progress(&mut self, done: Vec<StepReport>, durable: Option<u64>, now: Now) {
        for step in done {
            let kind = EventKind::StepDone {
                step: step.step,
                total_steps: step.total_steps,
                loss: step.loss,
                tokens_per_second: step.tokens_per_second,
                seconds: step.seconds,
            };
            self.newest = Some(step);
            self.tell(kind, now);
        }
        if let Some(step) = durable.filter(|step| Some(*step) > self.durable_step) {
            self.durable_step = Some(step);
            self.tell(EventKind::StepDurable { step }, now);
        }
    }

    fn rank_of(&self, session: u64) -> Result<usize, NotTaken> {
        let mut records = self.records.iter();
        let found = records.find(|(_, record)| record.session == session).map(|(rank, _)| *rank);
        found.ok_or_else(|| NotTaken::Over("the session is unknown or was replaced".into()))
    }

    /// Notes a wish and sends it to rank 0, now or when it is there. The newest of a kind counts.
    pub fn wish(&mut self, wish: Wish, now: Now) {
        let wish = match wish {
            Wish::Stop { reason } => Wish::Stop { reason: wire::clean(&reason, wire::SENTENCE) },
            other => other,
        };
        if let Wish::Stop { reason } = &wish {
            self.stopping = Some(reason.clone());
        }
        self.commands += 1;
        self.pending.retain(|_, old| std::mem::discriminant(old) != std::mem::discriminant(&wish));
        self.pending.insert(self.commands, wish.clone());
        self.send_pending();
        self.tell(EventKind::WishNoted { wish }, now);
    }

    /// Sends rank 0 what it has not received; it knows by the numbers what it has seen.
    fn send_pending(&mut self) {
        let Some(record) = self.records.get_mut(&0) else { return };
        let Some(commands) = &record.commands else { return };
        for (&number, wish) in &self.pending {
            let command = v1::RankCommand { number, wish: Some(wire::wish_out(wish)) };
            if commands.try_send(command).is_err() {
                // It does not read. Without its stream it comes again, and is sent everything then.
                record.commands = None;
                return;
            }
        }
    }

    /// The run is started again: ranks register afresh.
    pub fn new_attempt(&mut self, ranks: usize, reason: &str, now: Now) -> u32 {
        self.attempt = self.attempt.saturating_add(1);
        self.restarts = self.restarts.saturating_add(1);
        self.records.clear();
        self.picture = Picture { ranks, began: now.since_start, members: BTreeMap::new() };
        self.replace_findings(Vec::new(), now);
        self.tell(EventKind::AttemptBegan { ranks, reason: wire::clean(reason, wire::SENTENCE) }, now);
        self.attempt
    }

    /// Looks for what is wrong, and tells what has begun and what is over.
    pub fn look(&mut self, now: Now) {
        let gap = now.since_start.saturating_sub(self.looked);
        if gap > LATE_LOOK {
            // This process was stopped: reports wait in its sockets, and no rank is to blame.
            for member in self.picture.members.values_mut() {
                member.heard = (member.heard + gap).min(now.since_start);
            }
        }
        self.looked = now.since_start;
        let findings = look(&self.picture, &self.limits, now.since_start);
        self.replace_findings(findings, now);
    }

    fn replace_findings(&mut self, findings: Vec<Finding>, now: Now) {
        let old = std::mem::replace(&mut self.findings, findings);
        let began: Vec<_> =
            self.findings.iter().filter(|new| !old.iter().any(|old| old.is_same(new))).cloned().collect();
        let over: Vec<_> =
            old.into_iter().filter(|old| !self.findings.iter().any(|new| new.is_same(old))).collect();
        for finding in over {
            self.tell(EventKind::FindingOver { finding }, now);
        }
        for finding in began {
            self.tell(EventKind::FindingBegan { finding }, now);
        }
    }

    /// Notes an event and hands it to all who listen. Who does not keep up is dropped.
    pub fn tell(&mut self, kind: EventKind, now: Now) {
        self.numbered += 1;
        let event = Arc::new(Event {
            number: self.numbered,
            unix_milliseconds: now.unix_milliseconds,
            attempt: self.attempt,
            kind,
        });
        if self.events.len() == HISTORY {
            self.events.pop_front();
        }
        self.events.push_back(Arc::clone(&event));
        self.followers.retain(|follower| match follower.sender.try_send(Arc::clone(&event)) {
            Ok(()) => true,
            Err(why) => {
                let is_full = matches!(why, mpsc::error::TrySendError::Full(_));
                follower.too_slow.store(is_full, Ordering::Release);
                false
            }
        });
        self.listeners.retain(|listener| listener.try_send(Event::clone(&event)).is_ok());
    }

    /// Events from now on, and up to `history` of the past; `None` when too many follow already.
    pub fn follow(&mut self, history: usize) -> Option<Following> {
        self.followers.retain(|follower| !follower.sender.is_closed());
        if self.followers.len() >= FOLLOWERS {
            return None;
        }
        let (sender, coming) = mpsc::channel(BEHIND);
        let too_slow = Arc::new(AtomicBool::new(false));
        if !self.closed {
            self.followers.push(Follower { sender, too_slow: Arc::clone(&too_slow) });
        }
        let skipped = self.events.len().saturating_sub(history);
        Some(Following { past: self.events.iter().skip(skipped).cloned().collect(), coming, too_slow })
    }

    /// Events for a thread of this process.
    pub fn listen(&mut self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(HISTORY);
        if !self.closed {
            self.listeners.push(sender);
        }
        receiver
    }

    /// Ends all streams, after a last event.
    pub fn close(&mut self, outcome: &str, now: Now) {
        if self.closed {
            return;
        }
        self.tell(EventKind::RunEnded { outcome: wire::clean(outcome, wire::SENTENCE) }, now);
        self.closed = true;
        self.followers.clear();
        self.listeners.clear();
        self.records.clear();
    }

    pub fn status(&self, now: Now) -> Status {
        let step_seconds = median_step(&self.picture);
        let (step, total_steps) = self.newest.as_ref().map_or((0, 0), |step| (step.step, step.total_steps));
        let left = total_steps.saturating_sub(step);
        Status {
            run: self.run.clone(),
            attempt: self.attempt,
            restarts: self.restarts,
            rank_count: self.picture.ranks,
            up_seconds: now.since_start.as_secs_f64(),
            step,
            total_steps,
            durable_step: self.durable_step,
            loss: self.newest.as_ref().map(|step| step.loss),
            tokens_per_second: self.newest.as_ref().map(|step| step.tokens_per_second),
            step_seconds,
            eta_seconds: step_seconds.map(|seconds| seconds * left as f64),
            stopping: self.stopping.clone(),
            ranks: self
                .records
                .iter()
                .filter_map(|(&rank, record)| self.rank_status(rank, record, now))
                .collect(),
            findings: self.findings.clone(),
        }
    }

    fn rank_status(&self, rank: usize, record: &Record, now: Now) -> Option<RankStatus> {
        let member = self.picture.members.get(&rank)?;
        let since = |moment: Duration| now.since_start.saturating_sub(moment).as_secs_f64();
        Some(RankStatus {
            rank,
            host: member.host.clone(),
            device: record.device.clone(),
            pid: record.pid,
            version: record.version.clone(),
            connected: member.connected,
            step: record.step,
            phase: member.phase,
            phase_seconds: since(member.phase_since),
            collective: member.wait.as_ref().map(|wait| wait.collective.clone()),
            collective_seconds: member.wait.as_ref().map_or(0.0, |wait| since(wait.since)),
            heard_seconds: since(member.heard),
            memory_bytes: record.memory,
            memory_peak_bytes: record.memory_peak,
            step_seconds: record.newest.as_ref().map(|step| step.seconds),
            waited_seconds: record.newest.as_ref().map(|step| step.waited_seconds.values().sum()),
            tokens_per_second: record.newest.as_ref().map(|step| step.tokens_per_second),
            waited_in: record.newest.as_ref().map(|step| step.waited_seconds.clone()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests;
