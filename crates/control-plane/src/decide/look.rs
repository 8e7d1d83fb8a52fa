//! Who is late, and whose fault it is that the others wait.

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
    /// How long over its limit a finding lasts before [`overdue`] says that the attempt has to end.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence_floor: Duration::from_secs(4),
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

/// The median time of recent steps, in seconds, over all ranks; `None` before the first.
pub fn median_step(picture: &Picture) -> Option<f64> {
    median(picture.members.values().flat_map(|member| member.recent.iter().map(|step| step.seconds)).collect())
}

/// What is wrong at the moment `now`, the culprits of hangs first.
///
/// Of a hang the rank is named that keeps the others waiting, not those that wait.
pub fn look(picture: &Picture, limits: &Limits, now: Duration) -> Vec<Finding> {
    let deadlines = Deadlines::of(picture, limits);
    let waits = Waits::of(picture, now);
    let mut findings = missing(picture, limits, now);
    let mut to_blame = 0;
    for (&rank, member) in picture.members.iter().filter(|(_, member)| !member.left) {
        let late = silent(rank, member, &deadlines, now).or_else(|| hung(rank, member, &deadlines, &waits, now));
        if let Some(finding) = late {
            to_blame += 1;
            findings.push(waits.beside(finding, member));
        }
    }
    if to_blame == 0 {
        findings.extend(stuck(picture, &deadlines, &waits));
    }
    findings.extend(slow(picture, limits));
    findings.extend(mismatches(picture));
    findings
}

/// The finding, if any, that has lasted so long over its limit that the attempt has to be ended.
pub fn overdue<'a>(findings: &'a [Finding], limits: &Limits) -> Option<&'a Finding> {
    findings.iter().find(|finding| match finding.kind {
        FindingKind::Silent | FindingKind::Hung | FindingKind::Stuck | FindingKind::Missing => {
            finding.seconds > finding.limit_seconds + limits.patience.as_secs_f64()
        }
        FindingKind::Slow | FindingKind::Mismatch => false,
    })
}

/// For how long a rank may do what, in seconds.
struct Deadlines {
    silence: f64,
    in_step: f64,
    outside: f64,
}

impl Deadlines {
    fn of(picture: &Picture, limits: &Limits) -> Self {
        let outside = limits.outside_steps.as_secs_f64();
        match median_step(picture) {
            Some(median) => {
                let steps = median * limits.step_factor;
                Self {
                    silence: steps.max(limits.silence_floor.as_secs_f64()),
                    in_step: steps + limits.grace.as_secs_f64(),
                    outside,
                }
            }
            None => Self { silence: limits.silence_at_start.as_secs_f64(), in_step: outside, outside },
        }
    }

    fn of_phase(&self, phase: Phase) -> f64 {
        if phase.is_in_step() { self.in_step } else { self.outside.max(self.in_step) }
    }
}

/// Who waits for whom.
struct Waits<'a> {
    /// Seconds, by collective, of every rank that waits and is heard from.
    by_collective: BTreeMap<&'a str, Vec<f64>>,
}

impl<'a> Waits<'a> {
    fn of(picture: &'a Picture, now: Duration) -> Self {
        let mut by_collective: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for member in picture.members.values().filter(|member| !member.left) {
            if let Some(wait) = &member.wait {
                by_collective.entry(&wait.collective).or_default().push(since(wait.since, now));
            }
        }
        Self { by_collective }
    }

    fn count(&self) -> usize {
        self.by_collective.values().map(Vec::len).sum()
    }

    fn longest(&self) -> f64 {
        self.by_collective.values().flatten().copied().fold(0.0, f64::max)
    }

    /// The shortest of the waits: how long all of those who wait have.
    fn shortest(&self) -> f64 {
        self.by_collective.values().flatten().copied().reduce(f64::min).unwrap_or(0.0)
    }

    fn most_common(&self) -> Option<&'a str> {
        self.by_collective.iter().max_by_key(|(_, waits)| waits.len()).map(|(&name, _)| name)
    }

    /// Adds to a finding what the others do meanwhile.
    fn beside(&self, mut finding: Finding, member: &Member) -> Finding {
        finding.waiting = self.count() - usize::from(member.wait.is_some());
        if finding.waiting > 0 {
            finding.collective = self.most_common().map(str::to_owned);
            finding.waiting_seconds = self.longest();
            finding.message.push_str(&format!(
                "; {} for it in {} for {}",
                match finding.waiting {
                    1 => "1 other rank waits".to_owned(),
                    more => format!("{more} other ranks wait"),
                },
                finding.collective.as_deref().unwrap_or("a collective"),
                spell(finding.waiting_seconds)
            ));
        }
        finding
    }
}

fn missing(picture: &Picture, limits: &Limits, now: Duration) -> Vec<Finding> {
    let (seconds, limit) = (since(picture.began, now), limits.registration.as_secs_f64());
    if seconds <= limit {
        return Vec::new();
    }
    let absent = (0..picture.ranks).filter(|rank| !picture.members.contains_key(rank));
    absent
        .map(|rank| Finding {
            message: format!("rank {rank} has not registered for {}", spell(seconds)),
            ..bare(FindingKind::Missing, Some(rank), seconds, limit)
        })
        .collect()
}

fn silent(rank: usize, member: &Member, deadlines: &Deadlines, now: Duration) -> Option<Finding> {
    let seconds = since(member.heard, now);
    if seconds <= deadlines.silence {
        return None;
    }
    let connection = if member.connected { "" } else { ", its connection is gone" };
    Some(Finding {
        host: member.host.clone(),
        phase: Some(member.phase),
        message: format!(
            "rank {rank} on {} is silent for {}{connection}; it was {}",
            member.host,
            spell(seconds),
            doing(member)
        ),
        ..bare(FindingKind::Silent, Some(rank), seconds, deadlines.silence)
    })
}

/// A rank that is heard from, waits for nobody, and does not get on.
fn hung(rank: usize, member: &Member, deadlines: &Deadlines, waits: &Waits<'_>, now: Duration) -> Option<Finding> {
    if member.wait.is_some() {
        return None;
    }
    let limit = deadlines.of_phase(member.phase);
    let seconds = since(member.phase_since, now);
    let message = if seconds > limit {
        format!("rank {rank} on {} is {} for {}", member.host, member.phase, spell(seconds))
    } else if member.phase.is_in_step() && waits.count() > 0 && waits.shortest() > deadlines.in_step {
        // It goes from phase to phase and never comes to where the others are.
        format!("rank {rank} on {} is busy ({}) and does not join", member.host, member.phase)
    } else {
        return None;
    };
    Some(Finding {
        host: member.host.clone(),
        phase: Some(member.phase),
        message,
        ..bare(FindingKind::Hung, Some(rank), seconds.max(waits.shortest().min(limit + seconds)), limit)
    })
}

/// All ranks wait, each for another one: operations that do not match, or a network that lost a message.
fn stuck(picture: &Picture, deadlines: &Deadlines, waits: &Waits<'_>) -> Option<Finding> {
    let present = picture.members.values().filter(|member| !member.left).count();
    let seconds = waits.shortest();
    if present < picture.ranks || waits.count() < present || seconds <= deadlines.in_step {
        return None;
    }
    let names: Vec<_> =
        waits.by_collective.iter().map(|(name, ranks)| format!("{} in {name}", ranks.len())).collect();
    Some(Finding {
        collective: waits.most_common().map(str::to_owned),
        waiting: waits.count(),
        waiting_seconds: waits.longest(),
        message: format!(
            "all {present} ranks wait ({}) for {}, and nobody computes",
            names.join(", "),
            spell(seconds)
        ),
        ..bare(FindingKind::Stuck, None, seconds, deadlines.in_step)
    })
}

/// Ranks that computed longer than the others in nearly all of the last steps.
fn slow(picture: &Picture, limits: &Limits) -> Vec<Finding> {
    let wanted = limits.slow_steps.max(1);
    let by_step: BTreeMap<usize, BTreeMap<u64, f64>> = picture
        .members
        .iter()
        .map(|(&rank, member)| {
            (rank, member.recent.iter().map(|time| (time.step, (time.seconds - time.waited).max(0.0))).collect())
        })
        .collect();
    if by_step.len() < 2 {
        return Vec::new();
    }
    picture.members.iter().filter_map(|(&rank, member)| slow_rank(rank, member, &by_step, wanted, limits)).collect()
}

fn slow_rank(
    rank: usize,
    member: &Member,
    by_step: &BTreeMap<usize, BTreeMap<u64, f64>>,
    wanted: usize,
    limits: &Limits,
) -> Option<Finding> {
    let own = &by_step[&rank];
    let mut pairs = Vec::with_capacity(wanted);
    for (step, &busy) in own.iter().rev() {
        let others = by_step.iter().filter(|(other, _)| **other != rank);
        let others: Option<Vec<f64>> = others.map(|(_, steps)| steps.get(step).copied()).collect();
        if let Some(usual) = others.and_then(median) {
            pairs.push((busy, usual));
        }
        if pairs.len() == wanted {
            break;
        }
    }
    let slow = pairs.iter().filter(|(busy, usual)| *busy > usual * limits.slow_factor).count();
    if pairs.len() < wanted || slow * 5 < wanted * 4 {
        return None;
    }
    let busy = median(pairs.iter().map(|pair| pair.0).collect())?;
    let usual = median(pairs.iter().map(|pair| pair.1).collect())?;
    Some(Finding {
        host: member.host.clone(),
        phase: Some(member.phase),
        message: format!(
            "rank {rank} on {} computes {} a step where the others take {}, in {slow} of the last {wanted} steps",
            member.host,
            spell(busy),
            spell(usual)
        ),
        ..bare(FindingKind::Slow, Some(rank), busy, usual * limits.slow_factor)
    })
}

/// Ranks whose fingerprints are not those of the lowest rank.
fn mismatches(picture: &Picture) -> Vec<Finding> {
    let mut members = picture.members.iter();
    let Some((first, reference)) = members.next() else { return Vec::new() };
    let differing = |member: &Member| -> Option<String> {
        let mut names = reference.fingerprints.keys().chain(member.fingerprints.keys());
        names.find(|name| reference.fingerprints.get(*name) != member.fingerprints.get(*name)).cloned()
    };
    members
        .filter_map(|(&rank, member)| {
            let name = differing(member)?;
            Some(Finding {
                host: member.host.clone(),
                phase: Some(member.phase),
                message: format!(
                    "rank {rank} on {} has another {name} than rank {first} on {}",
                    member.host, reference.host
                ),
                ..bare(FindingKind::Mismatch, Some(rank), 0.0, 0.0)
            })
        })
        .collect()
}

fn bare(kind: FindingKind, rank: Option<usize>, seconds: f64, limit_seconds: f64) -> Finding {
    Finding {
        kind,
        rank,
        host: String::new(),
        phase: None,
        seconds,
        limit_seconds,
        collective: None,
        waiting: 0,
        waiting_seconds: 0.0,
        message: String::new(),
    }
}

fn doing(member: &Member) -> String {
    match &member.wait {
        Some(wait) => format!("waiting in {}", wait.collective),
        None => member.phase.to_string(),
    }
}

fn since(moment: Duration, now: Duration) -> f64 {
    now.saturating_sub(moment).as_secs_f64()
}

/// The middle one; of an even number the lower one. Numbers that are not finite do not count.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.retain(|number| number.is_finite());
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len().saturating_sub(1) / 2).copied()
}

/// Seconds as a person reads them in a sentence.
fn spell(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.1} s") } else { crate::render::span(seconds) }
}
