//! A run as text for a person. Pure functions.

mod table;

use std::fmt::Write;

use textwrap::core::display_width;

use crate::decide::{Finding, FindingKind};
use crate::status::{Event, EventKind, RankStatus, Status};
use table::{Align, Column, Fit, lay_out};

/// The narrowest text that is made, in columns.
const NARROWEST: usize = 40;

/// Everything at a glance: the headline, the table of ranks, and what is wrong; no line wider than `width` columns (40 at
/// least), no line feed at the end.
pub fn status(status: &Status, width: usize) -> String {
    let width = width.max(NARROWEST);
    let mut blocks = vec![headline(status, width)];
    if !status.ranks.is_empty() {
        blocks.push(ranks(status, width));
    }
    blocks.extend(absent(status).map(|line| wrapped(&line, width, "  ")));
    if !status.findings.is_empty() {
        blocks.push(findings(&status.findings, width));
    }
    blocks.join("\n\n")
}

/// The run in one sentence: step, loss, speed, what is left, what is durable, how often it was restarted.
pub fn headline(status: &Status, width: usize) -> String {
    let mut parts = Vec::new();
    match (status.step, status.total_steps) {
        (0, _) => parts.push("before the first step".to_owned()),
        (step, 0) => parts.push(format!("step {step}")),
        (step, total) => parts.push(format!("step {step} of {total}")),
    }
    parts.extend(status.loss.map(|loss| format!("loss {}", number(loss))));
    parts.extend(status.tokens_per_second.map(|rate| format!("{} tokens/s", round(rate))));
    parts.extend(status.step_seconds.map(|seconds| format!("{} a step", short(seconds))));
    if status.step < status.total_steps {
        parts.extend(status.eta_seconds.map(|seconds| format!("{} left", span(seconds))));
    }
    match status.durable_step {
        Some(step) => parts.push(format!("step {step} durable")),
        None if status.step > 0 => parts.push("no step durable yet".into()),
        None => {}
    }
    match status.restarts {
        0 => {}
        1 => parts.push("restarted once".into()),
        times => parts.push(format!("restarted {times} times")),
    }
    parts.extend(status.stopping.as_ref().map(|why| match why.as_str() {
        "" => "STOPPING after this step".to_owned(),
        why => format!("STOPPING after this step ({why})"),
    }));
    wrapped(&format!("{}: {}", status.run, parts.join(", ")), width, "  ")
}

/// The ranks that have registered, a line each, below a line of headings.
pub fn ranks(status: &Status, width: usize) -> String {
    let column = |heading, align, fit| Column { heading, align, fit };
    let columns = [
        column("rank", Align::Right, Fit::Stays),
        column("host", Align::Left, Fit::Cut),
        column("device", Align::Left, Fit::Omitted),
        column("step", Align::Right, Fit::Stays),
        column("phase", Align::Left, Fit::Cut),
        column("step time", Align::Right, Fit::Stays),
        column("tokens/s", Align::Right, Fit::Stays),
        column("memory", Align::Right, Fit::Stays),
        column("peak", Align::Right, Fit::Omitted),
        column("heard", Align::Right, Fit::Stays),
        column("", Align::Left, Fit::Stays),
    ];
    let rows: Vec<_> = status.ranks.iter().map(|rank| row(rank, &status.findings)).collect();
    lay_out(&columns, &rows, width)
}

fn row(rank: &RankStatus, findings: &[Finding]) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let doing = match &rank.collective {
        Some(name) => format!("waits in {name} {}", short(rank.collective_seconds)),
        None => format!("{} {}", rank.phase, short(rank.phase_seconds)),
    };
    let mut words: Vec<_> = findings
        .iter()
        .filter(|finding| finding.rank == Some(rank.rank))
        .map(|finding| word(finding.kind))
        .collect();
    if words.is_empty() && !rank.connected {
        words.push("disconnected");
    }
    [
        rank.rank.to_string(),
        rank.host.clone(),
        rank.device.clone(),
        or_dash(rank.step.map(|step| step.to_string())),
        doing,
        or_dash(rank.step_seconds.map(short)),
        or_dash(rank.tokens_per_second.map(round)),
        or_dash(rank.memory_bytes.map(bytes)),
        or_dash(rank.memory_peak_bytes.map(bytes)),
        format!("{} ago", span(rank.heard_seconds)),
        words.join(" "),
    ]
}

/// What is wrong, a paragraph each, beginning with a word in capitals.
pub fn findings(findings: &[Finding], width: usize) -> String {
    let lines = findings.iter().map(|finding| wrapped(&finding_line(finding), width, "  "));
    lines.collect::<Vec<_>>().join("\n")
}

fn finding_line(finding: &Finding) -> String {
    format!("{}: {}", word(finding.kind), finding.message)
}

fn word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Silent => "SILENT",
        FindingKind::Hung => "HUNG",
        FindingKind::Stuck => "STUCK",
        FindingKind::Slow => "SLOW",
        FindingKind::Missing => "MISSING",
        FindingKind::Mismatch => "MISMATCH",
    }
}

/// Which ranks have not registered, if any.
fn absent(status: &Status) -> Option<String> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut present = status.ranks.iter().map(|rank| rank.rank).peekable();
    for rank in 0..status.rank_count {
        if present.next_if_eq(&rank).is_some() {
            continue;
        }
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let count: usize = runs.iter().map(|(first, last)| last - first + 1).sum();
    let names: Vec<_> = runs
        .iter()
        .map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    match count {
        0 => None,
        _ if count == status.rank_count => Some(format!("none of {count} ranks has registered yet")),
        1 => Some(format!("rank {} has not registered yet", names.join(", "))),
        _ => Some(format!("ranks {} have not registered yet", names.join(", "))),
    }
}

/// An event as one line: the time of day in UTC, and what happened.
pub fn event(event: &Event) -> String {
    let of_day = event.unix_milliseconds.div_euclid(1000).rem_euclid(86_400);
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}Z {}", what_happened(&event.kind, event.attempt))
}

fn what_happened(kind: &EventKind, attempt: u32) -> String {
    match kind {
        EventKind::RankRegistered { rank, host, device } => {
            format!("rank {rank} is there, on {host} ({device})")
        }
        EventKind::RankLost { rank, host, in_order: true } => format!("rank {rank} on {host} has ended"),
        EventKind::RankLost { rank, host, in_order: false } => {
            format!("rank {rank} on {host} has LOST its connection")
        }
        EventKind::StepDone { step, total_steps, loss, tokens_per_second, seconds } => format!(
            "step {step} of {total_steps}, loss {}, {} tokens/s, {}",
            number(*loss),
            round(*tokens_per_second),
            short(*seconds)
        ),
        EventKind::StepDurable { step } => format!("step {step} is durable"),
        EventKind::FindingBegan { finding } => finding_line(finding),
        EventKind::FindingOver { finding } => {
            let whose = finding.rank.map(|rank| format!("rank {rank}")).unwrap_or_else(|| "the run".into());
            format!("{whose} is no longer {}", word(finding.kind))
        }
        EventKind::WishNoted { wish } => format!("asked for: {wish}"),
        EventKind::AttemptBegan { ranks, reason } => format!("attempt {attempt} on {ranks} ranks: {reason}"),
        EventKind::Note { text } => text.clone(),
        EventKind::RunEnded { outcome } => format!("the run has ended: {outcome}"),
    }
}

/// Seconds as a person reads them: `42 s`, `3 min 10 s`, `2 h 05 min`, `4 d 03 h`.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    if seconds < 59.5 {
        return format!("{seconds:.0} s");
    }
    // Above u64 it saturates, which is far beyond what anybody waits for.
    let whole = seconds.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match () {
        () if days > 0 => format!("{days} d {:02} h", hours % 24),
        () if hours > 0 => format!("{hours} h {:02} min", minutes % 60),
        () => format!("{minutes} min {:02} s", whole % 60),
    }
}

/// The same with the digits that short times need: `0.52 s`, `3.1 s`.
fn short(seconds: f64) -> String {
    match seconds {
        few if (0.0..1.0).contains(&few) => format!("{few:.2} s"),
        few if (0.0..10.0).contains(&few) => format!("{few:.1} s"),
        more => span(more),
    }
}

/// A loss.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.4}") } else { "NOT A NUMBER".into() }
}

/// A rate without its fraction, in groups of three digits.
fn round(value: f64) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Memory in binary units, as tools for GPUs show it.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Broken into lines of `width` columns, those after the first with an indent.
fn wrapped(text: &str, width: usize, indent: &str) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut lines = String::new();
    for (number, line) in
        textwrap::wrap(text, textwrap::Options::new(width).subsequent_indent(indent)).iter().enumerate()
    {
        let feed = if number > 0 { "\n" } else { "" };
        // Writing into a string does not fail.
        let _ = write!(lines, "{feed}{line}");
    }
    lines
}

#[cfg(test)]
mod tests;
