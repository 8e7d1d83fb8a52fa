//! Attempt after attempt, until the run is done, stopped or hopeless.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use control_plane::decide::{self, Cause, Finding, FindingKind, History, Limits, Policy, Verdict};
use control_plane::{ATTEMPT_VARIABLE, Coordinator, Event, EventKind, RankStatus, Wish};

use crate::attempt::{Attempt, Variables, View, was_not_started};
use crate::backend::{Backend, Job, cores};
use crate::command::{MESH_FLAGS, resuming, without_flags};
use crate::ending::{Known, Seat, hint};
use crate::error::LaunchError;
use crate::exit::Exit;
use crate::last_words::LastWords;
use crate::memory::{Kills, KillsBefore};
use crate::places::{Places, counted};
use crate::program::{self, Mesh};
use crate::run::Purpose;
use crate::{hosts, leftovers, report, signals};

/// Between looks at the ranks and the coordinator.
const LOOK: Duration = Duration::from_millis(100);
/// So long mpirun may take to end after it told of a rank's end.
const BREAK_UP: Duration = Duration::from_secs(10);
/// What went wrong may need a moment to pass; more of them each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A run under way.
pub struct Supervisor<'a> {
    /// What ranks are started for.
    pub purpose: Purpose,
    /// What starts ranks.
    pub backend: Backend,
    /// The gpart-dist to run.
    pub program: PathBuf,
    /// Its command.
    pub command: Vec<String>,
    /// The run's folder.
    pub output: PathBuf,
    /// The mesh that the command asks for.
    pub mesh: Mesh,
    /// Where ranks are.
    pub places: Places,
    /// How what they say is shown.
    pub view: View,
    /// Names of variables that go to all ranks.
    pub variables: Vec<String>,
    /// The user's words for mpirun.
    pub more: Vec<String>,
    /// Restarts without a newly saved step in between.
    pub max_restarts: usize,
    /// From when on what counts as hanging.
    pub limits: Limits,
    /// What ranks report to.
    pub coordinator: &'a Coordinator,
    /// Signals to this process.
    pub signals: &'a Receiver<i32>,
    /// Why the run was asked to stop.
    pub stopping: Option<String>,
    /// What came before.
    pub attempts: Vec<decide::Attempt>,
}

/// How an attempt came to its end.
struct Over {
    code: i32,
    words: LastWords,
    hang: Option<Finding>,
    kills: Kills,
    /// It was ended at once by a second signal.
    at_once: bool,
}

impl Supervisor<'_> {
    /// Runs to the end.
    pub fn run(&mut self) -> Result<Exit, LaunchError> {
        let events = self.coordinator.subscribe();
        let mut number = 1;
        loop {
            let over = self.attempt(number, &events)?;
            leftovers::remove();
            if over.at_once {
                report::note("ended at once; the same command goes on from the last saved step");
                return Ok(Exit::Interrupted);
            }
            let verdict = self.judge(&over)?;
            let (ranks, reason) = match verdict {
                Verdict::Done { .. } => return Ok(Exit::Done),
                Verdict::Preempted { reason } => {
                    report::note(&reason);
                    return Ok(Exit::Preempted);
                }
                Verdict::GiveUp { reason } => return Err(self.given_up(reason, &over)),
                Verdict::Restart { ranks, reason } => (ranks, reason),
            };
            self.explain();
            report::note(&reason);
            self.adapt(ranks)?;
            if self.pause() {
                report::note(
                    "not started again: stopped meanwhile; the same command goes on from the last saved step",
                );
                return Ok(Exit::Preempted);
            }
            number = self.coordinator.new_attempt(self.places.ranks, &reason)?;
            // What was wrong with the ranks before is over.
            self.tell_findings(&events, false);
        }
    }

    /// One attempt, from start to end.
    fn attempt(&mut self, number: u32, events: &Receiver<Event>) -> Result<Over, LaunchError> {
        let mut values: Variables = vec![(ATTEMPT_VARIABLE.to_owned(), number.to_string())];
        let endpoint = self.coordinator.endpoint().to_env();
        values.extend(endpoint.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let mut names: Vec<String> = values.iter().map(|(name, _)| name.clone()).collect();
        names.extend(
            self.variables.iter().filter(|name| !values.iter().any(|(set, _)| set == *name)).cloned(),
        );
        let command = program::of_rank(&self.program, &self.command);
        let job = Job {
            ranks: self.places.ranks,
            hosts: &self.places.hosts,
            cores: cores(),
            variables: &names,
            more: &self.more,
            command: &command,
        };
        let mut kills = KillsBefore::now();
        let started = self.backend.start(&job)?;
        let mut attempt = Attempt::start(started, &self.backend, &values, self.view)?;
        let (mut hang, mut at_once, mut broken_since) = (None, false, None::<Instant>);
        let code = loop {
            if let Some(code) = attempt.poll() {
                break code;
            }
            let again = self.next_signal(LOOK);
            if again && !at_once {
                at_once = true;
                attempt.end();
            }
            if self.purpose == Purpose::Evaluation && self.stopping.is_some() {
                attempt.end();
            }
            // What the end of ranks looks like from the outside is no news.
            self.tell_findings(events, hang.is_none() && !at_once);
            // Open MPI's mpirun may wait for ever for a rank that was killed while it registered.
            if attempt.is_breaking_up() && broken_since.get_or_insert_with(Instant::now).elapsed() > BREAK_UP
            {
                attempt.end();
            }
            if hang.is_none()
                && !at_once
                && let Some(finding) = self.overdue()
            {
                report::note(&format!("{}; ending all ranks", finding.message));
                hang = Some(finding);
                attempt.end();
            }
        };
        let words = attempt.finish();
        if was_not_started(code) && words.killed.is_empty() && words.exited.is_none() {
            let source =
                std::io::Error::other(format!("{} could not be run", self.backend.program.display()));
            return Err(LaunchError::Start { what: "the ranks".to_owned(), source });
        }
        Ok(Over { code, words, hang, kills: kills.since(), at_once })
    }

    /// What has lasted too long.
    fn overdue(&self) -> Option<Finding> {
        let status = self.coordinator.status();
        let gets_on = status.step_seconds.is_some();
        let mut findings = status.findings;
        // A rank that cannot reach this process while steps are made does not hang: it is cut off from us alone.
        findings
            .retain(|finding| !(gets_on && finding.kind == FindingKind::Missing) && self.is_told(finding));
        decide::overdue(&findings, &self.limits).cloned()
    }

    /// Waits for a signal for so long. The first one of all asks the run to stop; true for those after it.
    fn next_signal(&mut self, wait: Duration) -> bool {
        let signal = match self.signals.recv_timeout(wait) {
            Ok(signal) => signal,
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                return false;
            }
        };
        let name = signals::name(signal);
        if self.stopping.is_some() {
            report::note(&format!("{name} again: ending all ranks at once"));
            return true;
        }
        report::note(&match self.purpose {
            Purpose::Training => {
                format!("{name}: stopping after the step in progress; once more ends the run at once")
            }
            Purpose::Evaluation => format!("{name}: ending the evaluation; its answers so far are kept"),
        });
        let reason = format!("gpart-launch got {name}");
        self.coordinator.wish(Wish::Stop { reason: reason.clone() });
        self.stopping = Some(reason);
        false
    }

    /// What comes after an attempt.
    fn judge(&mut self, over: &Over) -> Result<Verdict, LaunchError> {
        if over.words.no_slots {
            let place = "mpirun finds room".to_owned();
            return Err(LaunchError::NotEnoughSlots { ranks: self.places.ranks, place, slots: cores() });
        }
        let status = self.coordinator.status();
        let (lost_hosts, lost_ranks) = self.lose_hosts(over);
        let seat = |one: &RankStatus| Seat { rank: one.rank, host: one.host.clone(), pid: one.pid };
        let seats: Vec<Seat> = status.ranks.iter().map(seat).collect();
        let known = Known {
            code: over.code,
            words: &over.words,
            hang: over.hang.as_ref(),
            kills: &over.kills,
            seats: &seats,
            lost_hosts: &lost_hosts,
            lost_ranks,
        };
        // What ranks could not report any more is in the run's folder.
        let durable = status.durable_step.max(program::newest_step(&self.output));
        let durable = self.attempts.last().and_then(|before| before.durable_step).max(durable);
        let ending = known.ending();
        self.attempts.push(decide::Attempt { ranks: self.places.ranks, durable_step: durable, ending });
        // Somebody else may have asked, by gpart-dist stop.
        self.stopping = self.stopping.take().or(status.stopping);
        let history = History {
            attempts: self.attempts.clone(),
            slots: self.places.slots(),
            stopping: self.stopping.clone(),
        };
        let policy = Policy { restarts_without_progress: self.max_restarts, ..Policy::default() };
        Ok(decide::restart(&history, &policy))
    }

    /// Takes out the hosts that are gone. Gives their names, and how many ranks they took.
    fn lose_hosts(&mut self, over: &Over) -> (Vec<String>, usize) {
        let failed = ![0, 2, 75].contains(&over.code);
        let mut lost = Vec::new();
        if failed && self.places.others {
            // A host may be gone without a word. First, since these are the names that were given.
            let unreachable = hosts::unreachable(&self.places.hosts, &self.backend.agent());
            lost.extend(unreachable.into_iter().map(|(name, _)| name));
        }
        lost.extend(over.words.lost_hosts.iter().cloned());
        let ranks = if lost.is_empty() { 0 } else { self.places.lose(&lost) };
        (lost, ranks)
    }

    /// Makes the command one for so many ranks that goes on from what was saved.
    fn adapt(&mut self, ranks: usize) -> Result<(), LaunchError> {
        self.command = resuming(&self.command);
        if ranks == self.places.ranks {
            return Ok(());
        }
        self.places.ranks = ranks;
        if self.mesh.fits(ranks) {
            return Ok(());
        }
        let (kept, left_out) = without_flags(&self.command, &MESH_FLAGS);
        if !left_out.is_empty() {
            report::note(&format!(
                "{} does not fit {}: going on without it, on the mesh that gpart-dist chooses",
                left_out.join(" "),
                counted(ranks)
            ));
            self.mesh = program::settings(&self.program, &kept)?.mesh;
            self.command = kept;
        }
        // What a file of settings or the environment asks for cannot be left out.
        match self.mesh.most(ranks) {
            Some(most) if most == ranks => {}
            Some(most) => {
                report::note(&format!("the mesh of the settings fits {} of {ranks}", counted(most)));
                self.places.ranks = most;
            }
            None => {
                let flags =
                    ["--dp-replicate=1".to_owned(), format!("--dp-shard={ranks}"), "--pp=1".to_owned()];
                report::note(&format!(
                    "the mesh of the settings does not fit {}: {}",
                    counted(ranks),
                    flags.join(" ")
                ));
                self.mesh = Mesh { dp_replicate: Some(1), dp_shard: Some(ranks), pp: Some(1) };
                self.command.extend(flags);
            }
        }
        Ok(())
    }

    /// More on why, where there is more to say than the verdict does.
    fn explain(&self) {
        let ending = self.attempts.last().map(|attempt| &attempt.ending);
        if let Some(ending) = ending.filter(|ending| ending.cause == Cause::OutOfMemory) {
            let status = self.coordinator.status();
            let seat = status.ranks.iter().find(|seat| Some(seat.rank) == ending.rank);
            let most = seat.and_then(|seat| seat.memory_peak_bytes).map_or(String::new(), |bytes| {
                format!("; the most it was seen with: {:.2} GiB", bytes as f64 / f64::from(1 << 30))
            });
            let ranks = self.attempts.last().map_or(self.places.ranks, |attempt| attempt.ranks);
            let parts = program::memory_of_a_rank(&self.program, &self.command, ranks);
            let parts = parts.map_or(String::new(), |parts| format!("\n{parts}"));
            report::note(&format!("{ending}, by the kernel{most}; hint: {}{parts}", hint(ending)));
        }
    }

    /// Waits before a restart. True if the run was asked to stop meanwhile.
    fn pause(&mut self) -> bool {
        let last = self.attempts.last().and_then(|attempt| attempt.durable_step);
        let idle =
            self.attempts.iter().rev().skip(1).take_while(|before| before.durable_step >= last).count();
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(idle.min(8) as u32)).min(LONGEST_PAUSE);
        let begun = Instant::now();
        while begun.elapsed() < pause && self.stopping.is_none() {
            self.next_signal(LOOK.min(pause));
        }
        self.stopping.is_some()
    }

    fn given_up(&self, reason: String, over: &Over) -> LaunchError {
        if over.code == i32::from(Exit::Input as u8) && over.hang.is_none() {
            return LaunchError::RefusedByRanks;
        }
        let said = over.words.errors.first().map(|(rank, text)| format!("\n  rank {rank} said: {text}"));
        let mpirun = over
            .words
            .launcher_errors
            .first()
            .map(|text| format!("\n  {} said: {text}", self.backend.name()));
        let hint = self.attempts.last().map(|attempt| hint(&attempt.ending)).unwrap_or_default();
        LaunchError::GaveUp { reason, said: said.or(mpirun).unwrap_or_default(), hint }
    }

    /// Tells, if that is wanted, what the coordinator has found since the last look.
    fn tell_findings(&self, events: &Receiver<Event>, wanted: bool) {
        while let Ok(event) = events.try_recv() {
            match event.kind {
                EventKind::FindingBegan { finding } if wanted && self.is_told(&finding) => {
                    report::warning(&finding.message);
                }
                EventKind::FindingOver { finding } if wanted && self.is_told(&finding) => {
                    report::note(&format!("it is over: {}", finding.message));
                }
                _ => {}
            }
        }
    }

    /// An evaluation may do without the coordinator: that a rank does not register says nothing there.
    fn is_told(&self, finding: &Finding) -> bool {
        self.purpose == Purpose::Training || finding.kind != FindingKind::Missing
    }
}
