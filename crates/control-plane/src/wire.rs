//! Between messages as they are sent and our types. What comes from outside is cut to size and freed of control
//! characters here: it ends up in terminals.

use std::collections::BTreeMap;

use control_proto::v1;

use crate::decide::{Finding, FindingKind};
use crate::report::{LogLevel, Phase, StepReport, Wish};
use crate::status::{Event, EventKind, RankStatus, Status};

/// The longest name, in characters.
pub(crate) const NAME: usize = 64;
/// The longest sentence, in characters.
pub(crate) const SENTENCE: usize = 512;
/// The most entries of a map.
pub(crate) const ENTRIES: usize = 64;

/// At most `length` characters of a text, without control characters and marks that turn the direction of writing.
pub(crate) fn clean(text: &str, length: usize) -> String {
    let is_shown = |c: &char| {
        !c.is_control()
            && !matches!(*c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(is_shown).take(length).collect()
}

/// Seconds that can be reckoned with: finite, not negative, at most some thirty years.
pub(crate) fn seconds(value: f64) -> f64 {
    if value.is_finite() { value.clamp(0.0, 1e9) } else { 0.0 }
}

/// A number of ranks on the wire.
pub(crate) fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn large(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(crate) fn phase_out(phase: Phase) -> i32 {
    let phase = match phase {
        Phase::Starting => v1::Phase::Starting,
        Phase::Loading => v1::Phase::Loading,
        Phase::Preparing => v1::Phase::Preparing,
        Phase::Forward => v1::Phase::Forward,
        Phase::Backward => v1::Phase::Backward,
        Phase::Reducing => v1::Phase::Reducing,
        Phase::Updating => v1::Phase::Updating,
        Phase::Saving => v1::Phase::Saving,
        Phase::Evaluating => v1::Phase::Evaluating,
        Phase::Finishing => v1::Phase::Finishing,
    };
    phase.into()
}

/// `None` for a phase that a newer version has.
pub(crate) fn phase_in(phase: i32) -> Option<Phase> {
    Some(match v1::Phase::try_from(phase).ok()? {
        v1::Phase::Unspecified => return None,
        v1::Phase::Starting => Phase::Starting,
        v1::Phase::Loading => Phase::Loading,
        v1::Phase::Preparing => Phase::Preparing,
        v1::Phase::Forward => Phase::Forward,
        v1::Phase::Backward => Phase::Backward,
        v1::Phase::Reducing => Phase::Reducing,
        v1::Phase::Updating => Phase::Updating,
        v1::Phase::Saving => Phase::Saving,
        v1::Phase::Evaluating => Phase::Evaluating,
        v1::Phase::Finishing => Phase::Finishing,
    })
}

pub(crate) fn step_out(step: StepReport) -> v1::StepReport {
    v1::StepReport {
        step: step.step,
        total_steps: step.total_steps,
        loss: step.loss,
        tokens_per_second: step.tokens_per_second,
        seconds: step.seconds,
        waited_seconds: step.waited_seconds,
    }
}

pub(crate) fn step_in(step: v1::StepReport) -> StepReport {
    StepReport {
        step: step.step,
        total_steps: step.total_steps,
        loss: step.loss,
        tokens_per_second: seconds_or_rate(step.tokens_per_second),
        seconds: seconds(step.seconds),
        waited_seconds: waits_in(step.waited_seconds),
    }
}

fn waits_in(waits: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    waits.into_iter().take(ENTRIES).map(|(name, waited)| (clean(&name, NAME), seconds(waited))).collect()
}

fn seconds_or_rate(value: f64) -> f64 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

/// Names and hashes of a registration.
pub(crate) fn fingerprints_in(map: BTreeMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().take(ENTRIES).map(|(name, hash)| (clean(&name, NAME), clean(&hash, 2 * NAME))).collect()
}

pub(crate) fn wish_out(wish: &Wish) -> v1::Wish {
    use v1::wish::Kind;
    let kind = match wish {
        Wish::Stop { reason } => Kind::Stop(v1::StopCommand { reason: reason.clone() }),
        Wish::Checkpoint => Kind::Checkpoint(v1::CheckpointCommand {}),
        Wish::LogLevel(level) => Kind::LogLevel(v1::LogLevelCommand { level: level.to_string() }),
    };
    v1::Wish { kind: Some(kind) }
}

/// `None` for a wish that a newer version has.
pub(crate) fn wish_in(wish: Option<v1::Wish>) -> Option<Wish> {
    use v1::wish::Kind;
    Some(match wish?.kind? {
        Kind::Stop(stop) => Wish::Stop { reason: clean(&stop.reason, SENTENCE) },
        Kind::Checkpoint(_) => Wish::Checkpoint,
        Kind::LogLevel(level) => Wish::LogLevel(level_in(&level.level)?),
    })
}

pub(crate) fn level_in(level: &str) -> Option<LogLevel> {
    level.parse().ok()
}

pub(crate) fn status_out(status: &Status) -> v1::Status {
    v1::Status {
        run: status.run.clone(),
        attempt: status.attempt,
        restarts: status.restarts,
        rank_count: small(status.rank_count),
        up_seconds: status.up_seconds,
        step: status.step,
        total_steps: status.total_steps,
        durable_step: status.durable_step,
        loss: status.loss,
        tokens_per_second: status.tokens_per_second,
        step_seconds: status.step_seconds,
        eta_seconds: status.eta_seconds,
        stopping: status.stopping.clone(),
        ranks: status.ranks.iter().map(rank_out).collect(),
        findings: status.findings.iter().map(finding_out).collect(),
    }
}

pub(crate) fn status_in(status: v1::Status) -> Status {
    Status {
        run: clean(&status.run, SENTENCE),
        attempt: status.attempt,
        restarts: status.restarts,
        rank_count: large(status.rank_count),
        up_seconds: status.up_seconds,
        step: status.step,
        total_steps: status.total_steps,
        durable_step: status.durable_step,
        loss: status.loss,
        tokens_per_second: status.tokens_per_second,
        step_seconds: status.step_seconds,
        eta_seconds: status.eta_seconds,
        stopping: status.stopping.map(|why| clean(&why, SENTENCE)),
        ranks: status.ranks.into_iter().map(rank_in).collect(),
        findings: status.findings.into_iter().filter_map(finding_in).collect(),
    }
}

fn rank_out(rank: &RankStatus) -> v1::RankStatus {
    v1::RankStatus {
        rank: small(rank.rank),
        host: rank.host.clone(),
        device: rank.device.clone(),
        pid: rank.pid,
        version: rank.version.clone(),
        connected: rank.connected,
        step: rank.step,
        phase: phase_out(rank.phase),
        phase_seconds: rank.phase_seconds,
        collective: rank.collective.clone(),
        collective_seconds: rank.collective_seconds,
        heard_seconds: rank.heard_seconds,
        memory_bytes: rank.memory_bytes,
        memory_peak_bytes: rank.memory_peak_bytes,
        step_seconds: rank.step_seconds,
        waited_seconds: rank.waited_seconds,
        tokens_per_second: rank.tokens_per_second,
        waited_in: rank.waited_in.clone(),
    }
}

fn rank_in(rank: v1::RankStatus) -> RankStatus {
    RankStatus {
        rank: large(rank.rank),
        host: clean(&rank.host, NAME),
        device: clean(&rank.device, NAME),
        pid: rank.pid,
        version: clean(&rank.version, NAME),
        connected: rank.connected,
        step: rank.step,
        phase: phase_in(rank.phase).unwrap_or(Phase::Starting),
        phase_seconds: rank.phase_seconds,
        collective: rank.collective.map(|name| clean(&name, NAME)),
        collective_seconds: rank.collective_seconds,
        heard_seconds: rank.heard_seconds,
        memory_bytes: rank.memory_bytes,
        memory_peak_bytes: rank.memory_peak_bytes,
        step_seconds: rank.step_seconds,
        waited_seconds: rank.waited_seconds,
        tokens_per_second: rank.tokens_per_second,
        waited_in: waits_in(rank.waited_in),
    }
}

fn finding_out(finding: &Finding) -> v1::Finding {
    let kind = match finding.kind {
        FindingKind::Silent => v1::finding::Kind::Silent,
        FindingKind::Hung => v1::finding::Kind::Hung,
        FindingKind::Stuck => v1::finding::Kind::Stuck,
        FindingKind::Slow => v1::finding::Kind::Slow,
        FindingKind::Missing => v1::finding::Kind::Missing,
        FindingKind::Mismatch => v1::finding::Kind::Mismatch,
    };
    v1::Finding {
        kind: kind.into(),
        rank: finding.rank.map(small),
        host: finding.host.clone(),
        phase: finding.phase.map_or(0, phase_out),
        seconds: finding.seconds,
        limit_seconds: finding.limit_seconds,
        collective: finding.collective.clone(),
        waiting: small(finding.waiting),
        waiting_seconds: finding.waiting_seconds,
        message: finding.message.clone(),
    }
}

fn finding_in(finding: v1::Finding) -> Option<Finding> {
    let kind = match v1::finding::Kind::try_from(finding.kind).ok()? {
        v1::finding::Kind::Unspecified => return None,
        v1::finding::Kind::Silent => FindingKind::Silent,
        v1::finding::Kind::Hung => FindingKind::Hung,
        v1::finding::Kind::Stuck => FindingKind::Stuck,
        v1::finding::Kind::Slow => FindingKind::Slow,
        v1::finding::Kind::Missing => FindingKind::Missing,
        v1::finding::Kind::Mismatch => FindingKind::Mismatch,
    };
    Some(Finding {
        kind,
        rank: finding.rank.map(large),
        host: clean(&finding.host, NAME),
        phase: phase_in(finding.phase),
        seconds: finding.seconds,
        limit_seconds: finding.limit_seconds,
        collective: finding.collective.map(|name| clean(&name, NAME)),
        waiting: large(finding.waiting),
        waiting_seconds: finding.waiting_seconds,
        message: clean(&finding.message, SENTENCE),
    })
}

pub(crate) fn event_out(event: &Event) -> v1::Event {
    use v1::event::Kind;
    let kind = match &event.kind {
        EventKind::RankRegistered { rank, host, device } => Kind::RankRegistered(v1::RankRegistered {
            rank: small(*rank),
            host: host.clone(),
            device: device.clone(),
        }),
        EventKind::RankLost { rank, host, in_order } => {
            Kind::RankLost(v1::RankLost { rank: small(*rank), host: host.clone(), in_order: *in_order })
        }
        EventKind::StepDone { step, total_steps, loss, tokens_per_second, seconds } => {
            Kind::StepDone(v1::StepDone {
                step: *step,
                total_steps: *total_steps,
                loss: *loss,
                tokens_per_second: *tokens_per_second,
                seconds: *seconds,
            })
        }
        EventKind::StepDurable { step } => Kind::StepDurable(v1::StepDurable { step: *step }),
        EventKind::FindingBegan { finding } => {
            Kind::FindingBegan(v1::FindingBegan { finding: Some(finding_out(finding)) })
        }
        EventKind::FindingOver { finding } => {
            Kind::FindingOver(v1::FindingOver { finding: Some(finding_out(finding)) })
        }
        EventKind::WishNoted { wish } => Kind::WishNoted(v1::WishNoted { wish: Some(wish_out(wish)) }),
        EventKind::AttemptBegan { ranks, reason } => {
            Kind::AttemptBegan(v1::AttemptBegan { ranks: small(*ranks), reason: reason.clone() })
        }
        EventKind::Note { text } => Kind::Note(v1::Note { text: text.clone() }),
        EventKind::RunEnded { outcome } => Kind::RunEnded(v1::RunEnded { outcome: outcome.clone() }),
    };
    v1::Event {
        number: event.number,
        unix_milliseconds: event.unix_milliseconds,
        attempt: event.attempt,
        kind: Some(kind),
    }
}

/// `None` for an event that a newer version has.
pub(crate) fn event_in(event: v1::Event) -> Option<Event> {
    use v1::event::Kind;
    let kind = match event.kind? {
        Kind::RankRegistered(v1::RankRegistered { rank, host, device }) => EventKind::RankRegistered {
            rank: large(rank),
            host: clean(&host, NAME),
            device: clean(&device, NAME),
        },
        Kind::RankLost(v1::RankLost { rank, host, in_order }) => {
            EventKind::RankLost { rank: large(rank), host: clean(&host, NAME), in_order }
        }
        Kind::StepDone(v1::StepDone { step, total_steps, loss, tokens_per_second, seconds }) => {
            EventKind::StepDone { step, total_steps, loss, tokens_per_second, seconds }
        }
        Kind::StepDurable(v1::StepDurable { step }) => EventKind::StepDurable { step },
        Kind::FindingBegan(began) => EventKind::FindingBegan { finding: finding_in(began.finding?)? },
        Kind::FindingOver(over) => EventKind::FindingOver { finding: finding_in(over.finding?)? },
        Kind::WishNoted(noted) => EventKind::WishNoted { wish: wish_in(noted.wish)? },
        Kind::AttemptBegan(v1::AttemptBegan { ranks, reason }) => {
            EventKind::AttemptBegan { ranks: large(ranks), reason: clean(&reason, SENTENCE) }
        }
        Kind::Note(note) => EventKind::Note { text: clean(&note.text, SENTENCE) },
        Kind::RunEnded(ended) => EventKind::RunEnded { outcome: clean(&ended.outcome, SENTENCE) },
    };
    Some(Event {
        number: event.number,
        unix_milliseconds: event.unix_milliseconds,
        attempt: event.attempt,
        kind,
    })
}
