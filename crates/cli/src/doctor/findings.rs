//! What the facts mean for a run. Pure.

use serde::Serialize;

use super::Report;
use super::facts::Facts;
use crate::format::{bytes, counted};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing to say.
    Ok,
    /// A run works, but slowly, or differently from what one may expect.
    Warning,
    /// A run would break.
    Broken,
}

/// One remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// The part of the report that it is about.
    pub part: &'static str,
    pub text: String,
    pub hint: Option<String>,
}

/// The parts, in the order of the report.
pub const PARTS: [&str; 7] = ["versions", "cores", "memory", "clocks", "GPUs", "messages", "disk"];

/// Everything there is to say.
pub fn findings(report: &Report) -> Vec<Finding> {
    let mut found = Vec::new();
    for check in [versions, cores, memory, clocks, gpus, messages, disk] {
        check(report, &mut |level, part, text, hint: &str| {
            let hint = (!hint.is_empty()).then(|| hint.to_owned());
            found.push(Finding { level, part, text, hint });
        });
    }
    found
}

type Say<'a> = &'a mut dyn FnMut(Level, &'static str, String, &str);

/// Ranks by number: `rank 1`, `ranks 1, 2 and 5 more`.
fn named(ranks: &[usize]) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<String> = ranks.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = ranks.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("rank{} {}{tail}", if ranks.len() == 1 { "" } else { "s" }, shown.join(", "))
}

/// The ranks that differ from rank 0 in something.
fn odd<T: PartialEq>(ranks: &[Facts], what: impl Fn(&Facts) -> T) -> Vec<usize> {
    (1..ranks.len()).filter(|rank| what(&ranks[*rank]) != what(&ranks[0])).collect()
}

fn versions(report: &Report, say: Say<'_>) {
    let ranks = &report.ranks;
    let mut differ = |level, name: &str, get: fn(&Facts) -> String, hint: &str| {
        let odd = odd(ranks, get);
        if let Some(first) = odd.first() {
            let (theirs, ours) = (get(&ranks[*first]), get(&ranks[0]));
            say(level, "versions", format!("{name} of {} is {theirs}, of rank 0 {ours}", named(&odd)), hint);
        }
    };
    let same = "install the same one on every host: ranks of one run must compute the same bits";
    differ(Level::Broken, "gpart-dist", |facts| facts.versions.gpart_dist.clone(), same);
    differ(Level::Broken, "libtorch", |facts| facts.versions.libtorch.clone(), same);
    differ(Level::Broken, "MPI", |facts| facts.versions.mpi.clone(), same);
    let kernels = "nothing to do unless messages fail";
    differ(Level::Warning, "the system", |facts| facts.versions.system.clone(), kernels);
    let torch = &ranks[0].versions.libtorch;
    if !torch.starts_with("2.11.0") {
        let text = format!("libtorch is {torch}; this gpart-dist is made for 2.11.0");
        say(Level::Warning, "versions", text, "`cargo xtask setup` fetches 2.11.0");
    }
}

fn cores(report: &Report, say: Say<'_>) {
    let ranks = &report.ranks;
    let odd = odd(ranks, |facts| (facts.cores, facts.processor.clone()));
    if let Some(first) = odd.first() {
        let facts = &ranks[*first];
        let text = format!(
            "{} of {}, rank 0 has {} of {}",
            counted(facts.cores as u64, "core"),
            facts.processor,
            facts.cores,
            ranks[0].processor
        );
        let hint = "the slowest host sets the pace; θ is the same bits on processors of one instruction set";
        say(Level::Warning, "cores", format!("{} on {}: {text}", named(&odd), facts.place.host), hint);
    }
    let crowded = ranks.iter().find(|facts| facts.cores > 0 && facts.place.ranks_on_host > facts.cores);
    if let Some(Facts { place, cores, .. }) = crowded {
        let text =
            format!("{} on {} for {cores} cores", counted(place.ranks_on_host as u64, "rank"), place.host);
        say(Level::Warning, "cores", text, "start at most as many ranks on a host as it has cores");
    }
}

fn memory(report: &Report, say: Say<'_>) {
    const LITTLE: u64 = 1 << 30;
    const LITTLE_SHARED: u64 = 64 << 20;
    const FEW_FILES: u64 = 1024;
    let first_of_hosts = report.ranks.iter().filter(|facts| facts.place.local_rank == 0);
    for Facts { place, memory, limits, .. } in first_of_hosts {
        let host = &place.host;
        if let Some(available) = memory.available.filter(|available| *available < LITTLE) {
            let text = format!("{} of memory left on {host}", bytes(available));
            say(Level::Warning, "memory", text, "`gpart-dist plan` says what a run needs");
        }
        let needed = LITTLE_SHARED * place.ranks_on_host as u64;
        if let Some(free) = memory.shared_free.filter(|free| place.ranks_on_host > 1 && *free < needed) {
            let text = format!(
                "{} left in /dev/shm on {host}, where ranks of a host exchange messages",
                bytes(free)
            );
            say(Level::Warning, "memory", text, "in a container: --shm-size=1g, or --ipc=host");
        }
        if let Some(files) = limits.open_files.filter(|files| *files < FEW_FILES) {
            let text = format!("at most {files} open files for a process on {host}");
            say(Level::Warning, "memory", text, "ulimit -n 4096");
        }
    }
}

fn clocks(report: &Report, say: Say<'_>) {
    let clocks = &report.clocks;
    let far: Vec<usize> = (1..clocks.ahead.len())
        .filter(|rank| clocks.ahead[*rank].0.abs() - clocks.ahead[*rank].1 > 1.0)
        .collect();
    let ntp = "chronyc makestep, or start a time service; messages and bits do not depend on it, files' times and logs do";
    if let Some(first) = far.first() {
        let ahead = clocks.ahead[*first].0;
        let text = format!("the clock of {} differs from rank 0's by {ahead:+.1} s", named(&far));
        say(Level::Warning, "clocks", text, ntp);
    }
    let hosts = report.ranks.iter().map(|facts| facts.place.host_number).max().unwrap_or(0) + 1;
    let loose = report.ranks.iter().find(|facts| facts.clock_synchronised == Some(false));
    if let Some(facts) = loose.filter(|_| hosts > 1) {
        let text = format!("the clock of {} follows no other", facts.place.host);
        say(Level::Warning, "clocks", text, ntp);
    }
    if clocks.jumped.abs() > 0.5 {
        let text = format!("the clock of rank 0 was set by {:+.1} s while this ran", clocks.jumped);
        say(Level::Warning, "clocks", text, ntp);
    }
    if clocks.went_back {
        let text = "the steady clock of rank 0 goes back".to_owned();
        say(
            Level::Broken,
            "clocks",
            text,
            "a fault of the kernel or the virtual machine; try another clock source",
        );
    }
}

fn gpus(report: &Report, say: Say<'_>) {
    let present = report.ranks.iter().any(|facts| !facts.accelerators.gpus.is_empty());
    let problem = report.gpus.problem.as_ref().filter(|_| present);
    // Messages that cannot be carried for the same reason say it once.
    if let Some((text, hint)) = problem.filter(|problem| report.choice.problem.as_ref() != Some(*problem)) {
        say(Level::Warning, "GPUs", text.clone(), hint);
    }
    if !present || problem.is_some() {
        return;
    }
    // With a GPU, what keeps it from being used is worth a word.
    let lacking = report.ranks.iter().find_map(|facts| facts.accelerators.missing.first());
    if let Some(missing) = lacking {
        say(Level::Warning, "GPUs", missing.what.clone(), &missing.hint);
    }
}

fn messages(report: &Report, say: Say<'_>) {
    if let Some((text, hint)) = &report.choice.problem {
        say(Level::Broken, "messages", text.clone(), hint);
    }
    let wrong = report.messages.iter().map(|messages| (&messages.carrier, &messages.wrong));
    let large = report.large.iter().map(|large| (&large.carrier, &large.wrong));
    for (carrier, wrong) in wrong.chain(large) {
        if let Some(first) = wrong.first() {
            let text = match wrong.len() {
                1 => format!("wrong over {carrier}: {first}"),
                several => format!("{several} wrong answers over {carrier}; {first}"),
            };
            let hint = "another version of the library, or another transport (--mca btl self,tcp), tells where it comes from";
            say(Level::Broken, "messages", text, hint);
        }
    }
    for large in &report.large {
        if let Some(reason) = &large.left_out {
            let text = format!("messages past 2^31 bytes were left out: {reason}");
            say(Level::Warning, "messages", text, "");
        }
    }
    if report.messages.is_empty() && !report.asked_for_large.is_empty() {
        say(
            Level::Warning,
            "messages",
            report.asked_for_large.clone(),
            "mpirun -n 2 gpart-dist doctor --large-messages",
        );
    }
}

fn disk(report: &Report, say: Say<'_>) {
    /// Seconds a state may take.
    const SLOW: f64 = 1.0;
    /// A few states, an adapter and logs.
    const LITTLE: u64 = 256 << 20;
    let disk = &report.disk;
    if let Some(broken) = &disk.broken {
        let hint = "name a folder that you may write to, on a disk with space, with --output";
        say(Level::Broken, "disk", broken.clone(), hint);
        return;
    }
    let folder = disk.tried.display();
    if let Some(free) = disk.free.filter(|free| *free < LITTLE) {
        let text = format!("{} left in {folder}", bytes(free));
        say(
            Level::Warning,
            "disk",
            text,
            "`gpart-dist plan` says what a run writes; --output names another folder",
        );
    }
    if matches!(disk.file_system.as_str(), "tmpfs" | "ramfs") {
        let text = format!("{folder} is in memory ({}): a restart of the host loses it", disk.file_system);
        say(Level::Warning, "disk", text, "name a folder on a disk with --output");
    }
    if let Some(seconds) = disk.state_seconds.filter(|seconds| *seconds > SLOW) {
        let text = format!("a state of 6 MiB takes {seconds:.1} s to write to {folder}");
        say(
            Level::Warning,
            "disk",
            text,
            "save less often (--save-steps), or name a folder on a faster disk",
        );
    }
}
