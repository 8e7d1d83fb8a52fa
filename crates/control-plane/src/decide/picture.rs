//! What decisions are made from, and what they find.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::Phase;

/// What is known of an attempt. Moments are durations since the coordinator began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// How many ranks there shall be.
    pub ranks: usize,
    /// When the attempt began.
    pub began: Duration,
    /// The ranks that have registered, by number.
    pub members: BTreeMap<usize, Member>,
}

/// What is known of a rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its host.
    pub host: String,
    /// When its last report arrived.
    pub heard: Duration,
    /// Whether its stream is open.
    pub connected: bool,
    /// Whether it has said that it ends.
    pub left: bool,
    /// What it was doing then.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Duration,
    /// The collective that it was waiting in.
    pub wait: Option<Wait>,
    /// Its newest completed steps, oldest first.
    pub recent: VecDeque<StepTime>,
    /// What must be the same on all ranks, by name, as a hash.
    pub fingerprints: BTreeMap<String, String>,
}

impl Member {
    /// What it waits in, and since when. Whoever all-reduces θ waits, whether it says in what or not.
    pub(super) fn waits(&self) -> Option<(&str, Duration)> {
        match &self.wait {
            Some(wait) => Some((&wait.collective, wait.since)),
            None => (self.phase == Phase::Reducing).then_some(("the all-reduce of θ", self.phase_since)),
        }
    }
}

/// A collective that a rank waits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Its name.
    pub collective: String,
    /// Since when.
    pub since: Duration,
}

/// How long a step took on a rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepTime {
    /// From 1.
    pub step: u64,
    /// All of it, in seconds.
    pub seconds: f64,
    /// What it waited in collectives, in seconds.
    pub waited: f64,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// A rank that is not heard from is silent after `step_factor` median steps, and never before this.
    pub silence_floor: Duration,
    /// How long it may be silent before the run knows its step time.
    pub silence_at_start: Duration,
    /// A phase of a step may last `step_factor` median steps and `grace`.
    pub step_factor: f64,
    /// See `step_factor`.
    pub grace: Duration,
    /// How long a phase outside of steps may last, and one of the first step.
    pub outside_steps: Duration,
    /// How long ranks may take to register after the attempt has begun.
    pub registration: Duration,
    /// A rank is slow that computed `slow_factor` times as long as the median of the others …
    pub slow_factor: f64,
    /// … in nearly all of this many last steps (four of five).
    pub slow_steps: usize,
    /// How long over its limit a finding lasts before [`overdue`](super::overdue) says that the attempt has to end.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence_floor: Duration::from_secs(3),
            silence_at_start: Duration::from_secs(30),
            step_factor: 3.0,
            grace: Duration::from_secs(5),
            outside_steps: Duration::from_secs(1800),
            registration: Duration::from_secs(300),
            slow_factor: 1.5,
            slow_steps: 20,
            patience: Duration::from_secs(60),
        }
    }
}

/// What is wrong with a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// No heartbeat comes any more: the process is stopped, dead, or cut off.
    Silent,
    /// Heartbeats come, but it does not get on.
    Hung,
    /// Every rank waits in a collective, and none is missing from one.
    Stuck,
    /// It computes longer than the others, step after step.
    Slow,
    /// It has not registered.
    Missing,
    /// A fingerprint of it is not that of the lowest rank.
    Mismatch,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// With whom; `None` where no one rank is to blame.
    pub rank: Option<usize>,
    /// Its host; empty where it is unknown.
    pub host: String,
    /// What it was doing.
    pub phase: Option<Phase>,
    /// For how many seconds it has been like that.
    pub seconds: f64,
    /// From how many seconds on it counts as wrong.
    pub limit_seconds: f64,
    /// The collective that most others wait in meanwhile.
    pub collective: Option<String>,
    /// How many others wait in collectives.
    pub waiting: usize,
    /// The longest of these waits, in seconds.
    pub waiting_seconds: f64,
    /// All of this as a sentence without its period.
    pub message: String,
}

impl Finding {
    /// Whether it is the same trouble with the same rank as `other`, maybe at another time.
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.rank == other.rank
    }
}
