//! Who is late, and whose fault it is that the others wait.

use std::collections::BTreeMap;
use std::time::Duration;

use super::picture::{Finding, FindingKind, Limits, Member, Picture};
use crate::report::Phase;

/// The median time of recent steps, in seconds, over all ranks; `None` before the first.
pub fn median_step(picture: &Picture) -> Option<f64> {
    median(
        picture.members.values().flat_map(|member| member.recent.iter().map(|step| step.seconds)).collect(),
    )
}

/// What is wrong at the moment `now`, the culprits of hangs first.
///
/// Of a hang the rank is named that keeps the others waiting, not those that wait.
pub fn look(picture: &Picture, limits: &Limits, now: Duration) -> Vec<Finding> {
    let deadlines = Deadlines::of(picture, limits);
    let waits = Waits::of(picture, now);
    let present = || picture.members.iter().filter(|(_, member)| !member.left);
    let mut late: Vec<_> =
        present().filter_map(|(&rank, member)| silent(rank, member, &deadlines, now)).collect();
    let someone_is_silent = !late.is_empty();
    let is_silent = |rank: usize, late: &[Finding]| late.iter().any(|finding| finding.rank == Some(rank));
    for (&rank, member) in present() {
        // Where a rank is silent, others that do not get on in a step are taken to wait for it.
        let may_wait = someone_is_silent && member.phase.is_in_step();
        if !may_wait && !is_silent(rank, &late) {
            late.extend(hung(rank, member, &deadlines, &waits, now));
        }
    }
    if late.is_empty() {
        late.extend(stuck(picture, &deadlines, &waits));
    } else {
        late = late.into_iter().map(|finding| waits.beside(finding, picture)).collect();
    }
    let mut findings = late;
    findings.extend(missing(picture, limits, now));
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
            if let Some((collective, moment)) = member.waits() {
                by_collective.entry(collective).or_default().push(since(moment, now));
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
    fn beside(&self, mut finding: Finding, picture: &Picture) -> Finding {
        let member = finding.rank.and_then(|rank| picture.members.get(&rank));
        finding.waiting = self.count() - usize::from(member.is_some_and(|member| member.waits().is_some()));
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
            "rank {rank} on {} has been silent for {}{connection}; it was {}",
            member.host,
            spell(seconds),
            doing(member)
        ),
        ..bare(FindingKind::Silent, Some(rank), seconds, deadlines.silence)
    })
}

/// A rank that is heard from, waits for nobody, and does not get on.
fn hung(
    rank: usize,
    member: &Member,
    deadlines: &Deadlines,
    waits: &Waits<'_>,
    now: Duration,
) -> Option<Finding> {
    if member.waits().is_some() {
        return None;
    }
    let limit = deadlines.of_phase(member.phase);
    let in_phase = since(member.phase_since, now);
    let (message, seconds) = if in_phase > limit {
        (
            format!(
                "rank {rank} on {} has been in phase {} for {}",
                member.host,
                member.phase,
                spell(in_phase)
            ),
            in_phase,
        )
    } else if member.phase.is_in_step() && waits.count() > 0 && waits.shortest() > deadlines.in_step {
        // It goes from phase to phase and never comes to where the others are.
        let message =
            format!("rank {rank} on {} is busy (in phase {}) and does not join", member.host, member.phase);
        (message, waits.shortest())
    } else {
        return None;
    };
    Some(Finding {
        host: member.host.clone(),
        phase: Some(member.phase),
        message,
        ..bare(FindingKind::Hung, Some(rank), seconds, limit)
    })
}

/// All ranks wait, each for another one: operations that do not match, or a network that lost a message.
fn stuck(picture: &Picture, deadlines: &Deadlines, waits: &Waits<'_>) -> Option<Finding> {
    let present = picture.members.values().filter(|member| !member.left).count();
    let seconds = waits.shortest();
    let is_complete = picture.members.len() == picture.ranks && waits.count() == present;
    if !is_complete || seconds <= deadlines.in_step {
        return None;
    }
    let left = match picture.ranks - present {
        0 => String::new(),
        1 => ", and 1 rank has left".into(),
        more => format!(", and {more} ranks have left"),
    };
    let names: Vec<_> =
        waits.by_collective.iter().map(|(name, ranks)| format!("{} in {name}", ranks.len())).collect();
    Some(Finding {
        collective: waits.most_common().map(str::to_owned),
        waiting: waits.count(),
        waiting_seconds: waits.longest(),
        message: format!(
            "{present} ranks wait ({}) for {} and nobody computes{left}",
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
            (
                rank,
                member.recent.iter().map(|time| (time.step, (time.seconds - time.waited).max(0.0))).collect(),
            )
        })
        .collect();
    if by_step.len() < 2 {
        return Vec::new();
    }
    picture
        .members
        .iter()
        .filter_map(|(&rank, member)| slow_rank(rank, member, &by_step, wanted, limits))
        .collect()
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
        None => format!("in phase {}", member.phase),
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

#[cfg(test)]
mod tests;
