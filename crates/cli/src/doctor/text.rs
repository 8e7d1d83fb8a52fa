//! The report as a page of text, to be pasted into a bug report.

use super::Report;
use super::facts::{Facts, Versions};
use super::findings::{Level, PARTS};
use super::large::Large;
use super::messages::{KINDS, Messages};
use crate::format::{bytes, counted};

const WIDTH: usize = 100;
/// Ranks that are shown one by one.
const MOST_RANKS: usize = 16;

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = Page(String::new());
    let hosts = report.ranks.iter().map(|facts| facts.place.host_number).max().unwrap_or(0) + 1;
    page.line(&format!(
        "gpart-dist {} doctor: {} on {}",
        report.gpart_dist,
        counted(report.ranks.len() as u64, "rank"),
        counted(hosts as u64, "host")
    ));
    ranks(report, &mut page);
    versions(report, &mut page);
    machine(report, &mut page);
    clocks(report, &mut page);
    report.messages.iter().for_each(|messages| carried(messages, &mut page));
    report.large.iter().for_each(|messages| large(messages, &mut page));
    disk(report, &mut page);
    verdict(report, &mut page);
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0 += text;
        self.0.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    /// A label and what belongs to it, in as many lines as it takes.
    fn row(&mut self, label: &str, value: &str) {
        const INDENT: usize = 15;
        let first = format!("  {label:<width$}", width = INDENT - 2);
        let rest = " ".repeat(INDENT);
        let options = textwrap::Options::new(WIDTH).initial_indent(&first).subsequent_indent(&rest);
        self.line(&textwrap::fill(value, options));
    }
}

fn ranks(report: &Report, page: &mut Page) {
    page.section("ranks");
    for (rank, facts) in report.ranks.iter().enumerate().take(MOST_RANKS) {
        let Facts { place, cores, bound_cores, .. } = facts;
        let bound = match bound_cores {
            Some(bound) if bound != cores => format!("{bound} of {}", counted(*cores as u64, "core")),
            _ => counted(*cores as u64, "core"),
        };
        let device = report.gpus.devices.as_ref().and_then(|devices| {
            let (device, gpus) = (devices.get(rank)?, &facts.accelerators.gpus);
            Some(format!("GPU {device} ({})", gpus.get(*device)?.name))
        });
        let text = format!(
            "{}, local rank {} of {}; {bound}, {}",
            place.host,
            place.local_rank,
            place.ranks_on_host,
            device.unwrap_or_else(|| "no GPU".to_owned())
        );
        page.row(&format!("rank {rank}"), &text);
    }
    let more = report.ranks.len().saturating_sub(MOST_RANKS);
    if more > 0 {
        page.row("", &format!("… and {more} more; what differs is named in the verdict"));
    }
    page.row("messages", &report.choice.why);
}

fn versions(report: &Report, page: &mut Page) {
    let facts = &report.ranks[0];
    let Versions { gpart_dist, libtorch, mpi, kernel, system } = &facts.versions;
    let found = &facts.accelerators;
    page.section("versions (rank 0)                    fits");
    let row = |page: &mut Page, label: &str, value: &str, fits: &str| {
        let fits = if fits.is_empty() { String::new() } else { format!("  {fits}") };
        page.row(label, format!("{value:<20}{fits}").trim_end());
    };
    row(page, "gpart-dist", gpart_dist, "the same on every rank");
    row(page, "libtorch", libtorch, "2.11.0; its wheel for GPUs is made for CUDA 13.0");
    row(page, "MPI", mpi, "any MPI 3; the mpirun of the same installation");
    let cuda = found.driver_cuda.map(|(major, minor)| format!("CUDA {major}.{minor}"));
    let driver = match (&found.driver_release, cuda) {
        (Some(release), Some(cuda)) => format!("{release}, {cuda}"),
        (release, cuda) => release.clone().or(cuda).unwrap_or_else(|| "none".to_owned()),
    };
    row(page, "GPU driver", &driver, "580 or later, for CUDA 13.0");
    let nccl = found.nccl.map_or_else(|| "none".to_owned(), |(a, b, c)| format!("{a}.{b}.{c}"));
    row(page, "NCCL", &nccl, "2.19 or later; 2.28.9 comes with libtorch's wheel");
    row(page, "kernel", kernel, "");
    row(page, "system", system, "");
}

fn or_unknown(number: Option<u64>) -> String {
    number.map_or_else(|| "unknown".to_owned(), bytes)
}

fn machine(report: &Report, page: &mut Page) {
    let facts = &report.ranks[0];
    let Facts { memory, limits, accelerators, .. } = facts;
    page.section(&format!("machine ({})", facts.place.host));
    page.row("cores", &format!("{}, {}", facts.cores, facts.processor));
    let limit = memory
        .group_limit
        .map_or_else(|| "no limit of the group".to_owned(), |limit| format!("limit {}", bytes(limit)));
    page.row(
        "memory",
        &format!("{} of {} available, {limit}", or_unknown(memory.available), or_unknown(memory.total)),
    );
    page.row(
        "/dev/shm",
        &format!("{} of {} free", or_unknown(memory.shared_free), or_unknown(memory.shared_size)),
    );
    let limit =
        |limit: Option<u64>, show: fn(u64) -> String| limit.map_or_else(|| "no limit".to_owned(), show);
    let files = limit(limits.open_files, |files| files.to_string());
    page.row("limits", &format!("open files {files}, locked memory {}", limit(limits.locked_memory, bytes)));
    for (number, gpu) in accelerators.gpus.iter().enumerate() {
        let (major, minor) = gpu.capability;
        let text = format!("{}, {}, compute capability {major}.{minor}", gpu.name, bytes(gpu.memory));
        page.row(&format!("GPU {number}"), &text);
    }
    if accelerators.gpus.is_empty() {
        let why = accelerators.missing.first().map_or("none found", |missing| missing.what.as_str());
        page.row("GPUs", why);
    }
}

fn clocks(report: &Report, page: &mut Page) {
    let clocks = &report.clocks;
    page.section("clocks");
    let synchronised = match report.ranks[0].clock_synchronised {
        Some(true) => "follows other clocks",
        Some(false) => "follows no other clock",
        None => "the system does not say whether it follows others",
    };
    page.row("rank 0", &format!("{synchronised}; {:+.3} ms against its steady clock", clocks.jumped * 1e3));
    let farthest = clocks.ahead.iter().enumerate().skip(1).max_by(|a, b| a.1.0.abs().total_cmp(&b.1.0.abs()));
    if let Some((rank, (ahead, error))) = farthest {
        let text = format!("rank {rank}, {:+.3} ms from rank 0's (± {:.3})", ahead * 1e3, error * 1e3);
        page.row("farthest", &text);
    }
}

/// A duration as short as it reads well.
fn short(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

fn speed(bytes: usize, seconds: f64) -> String {
    format!("{:.2} GB/s", bytes as f64 / seconds.max(1e-9) / 1e9)
}

fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

fn carried(messages: &Messages, page: &mut Page) {
    page.section(&format!(
        "messages over {} (time of the slowest rank; each answer compared)",
        messages.carrier
    ));
    let sizes = messages.measured.iter().filter(|measured| measured.kind == KINDS[0]);
    let head: String = sizes.map(|measured| format!("{:>11}", size(measured.bytes))).collect();
    page.line(&format!("  {:<13}{head}{:>13}", "", "speed"));
    for kind in KINDS {
        let of_kind: Vec<_> = messages.measured.iter().filter(|measured| measured.kind == kind).collect();
        let times: String =
            of_kind.iter().map(|measured| format!("{:>11}", short(measured.seconds))).collect();
        let speed = of_kind.last().map_or_else(String::new, |largest| speed(largest.bytes, largest.seconds));
        page.line(&format!("  {:<13}{times}{speed:>13}", kind.name()));
    }
    let answers = if messages.wrong.is_empty() { "right, uneven lengths and a split too" } else { "wrong" };
    page.row("answers", answers);
    messages.wrong.iter().take(5).for_each(|wrong| page.row("", wrong));
}

fn large(large: &Large, page: &mut Page) {
    page.section(&format!("messages of {} bytes over {}", large.bytes, large.carrier));
    if let Some(reason) = &large.left_out {
        page.row("left out", reason);
        return;
    }
    for (name, seconds) in &large.seconds {
        page.row(name, &format!("{}, {}", short(*seconds), speed(large.bytes, *seconds)));
    }
    page.row("answers", if large.wrong.is_empty() { "right" } else { "wrong" });
    large.wrong.iter().take(5).for_each(|wrong| page.row("", wrong));
}

fn disk(report: &Report, page: &mut Page) {
    let disk = &report.disk;
    page.section("disk (rank 0)");
    let tried = match disk.tried == disk.folder || disk.tried.ends_with(&disk.folder) {
        true => disk.tried.display().to_string(),
        false => format!("{} is not there yet; tried {}", disk.folder.display(), disk.tried.display()),
    };
    page.row("folder", &tried);
    page.row("kind", &format!("{}, {} free", disk.file_system, or_unknown(disk.free)));
    if let Some(speed) = disk.write_speed {
        page.row("a large file", &format!("{:.0} MB/s, synchronised", speed / 1e6));
    }
    if let Some(seconds) = disk.state_seconds {
        page.row("a state", &format!("{} to write, synchronise and rename 6 MiB", short(seconds)));
    }
    if let Some(broken) = &disk.broken {
        page.row("fails", broken);
    }
}

fn verdict(report: &Report, page: &mut Page) {
    page.section("verdict");
    for part in PARTS {
        let of_part: Vec<_> = report.findings.iter().filter(|finding| finding.part == part).collect();
        if of_part.is_empty() {
            page.row("ok", part);
        }
        for finding in of_part {
            let label = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Broken => "broken",
            };
            page.row(label, &format!("{part}: {}", finding.text));
            if let Some(hint) = &finding.hint {
                page.row("", &format!("hint: {hint}"));
            }
        }
    }
    let broken = report.findings.iter().filter(|finding| finding.level == Level::Broken).count();
    page.line(&match broken {
        0 => "\nnothing here would break a run".to_owned(),
        1 => "\n1 thing here would break a run".to_owned(),
        several => format!("\n{several} things here would break a run"),
    });
}
