//! Errors as people read them: what went wrong, where, why, and what to do.

use std::error::Error;
use std::io::Write;
use std::sync::OnceLock;

/// What this rank computes on, once it is known.
static DEVICE: OnceLock<String> = OnceLock::new();

/// What this rank computes on, for messages.
pub fn device() -> &'static str {
    DEVICE.get().map_or("cpu", String::as_str)
}

/// Remembers what this rank computes on.
pub fn computes_on(device: tch::Device) {
    if let tch::Device::Cuda(number) = device {
        let _ = DEVICE.set(format!("cuda:{number}"));
    }
}

use comm::Communicator;
use miette::Diagnostic;

/// Prints an error, the chain of its causes and its hint to standard error, in one write.
pub fn print(error: &dyn Diagnostic) {
    let _ = std::io::stderr().write_all(render(error, None).as_bytes());
}

/// Prints a warning to standard error.
pub fn warning(text: &str) {
    let _ = std::io::stderr().write_all(format!("warning: {text}\n").as_bytes());
}

/// Prints a line about what is going on to standard error.
pub fn note(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The same, naming the rank, its host and its device where there are several ranks.
pub fn print_of_rank(error: &dyn Diagnostic, comm: &dyn Communicator) {
    let place = (comm.size() > 1).then(|| format!("rank {} on {} ({})", comm.rank(), host(), device()));
    let text = render(error, place.as_deref());
    tracing::error!("{}", text.trim_start_matches("error: ").trim_end());
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn render(error: &dyn Diagnostic, place: Option<&str>) -> String {
    let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
    let mut text = format!("error: {place}{error}\n");
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    let mut last = error.to_string();
    while let Some(inner) = cause {
        // A transparent wrapper repeats its inner message.
        let message = inner.to_string();
        if message != last {
            text += &format!("  because: {message}\n");
        }
        last = message;
        cause = inner.source();
    }
    if let Some(hint) = error.help() {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// Says that a rank is gone, on the lowest rank of its host that is left.
pub fn lost_rank(lost: &comm::LostRank) {
    if lost.first_left {
        let comm::LostRank { rank, host, pid, waiting_in, .. } = lost;
        let text = format!(
            "error: rank {rank} on {host} (process {pid}) is gone while others wait for it ({waiting_in})\n\
             hint: look for its last words above and in logs/rank-{rank:03}.log; the system's log (dmesg) says if it \
             was killed for memory. The same command goes on from the last checkpoint\n"
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// What is done when messages cannot go on.
pub const ALARM: comm::Alarm = comm::Alarm { lost: lost_rank, failed: failed_messages, end };

/// Says that messages failed; every rank may, since each knows only its own.
fn failed_messages(failure: &comm::Failure) {
    let rank =
        comm::rank_by_launcher().map_or_else(String::new, |rank| format!("rank {rank} on {}: ", host()));
    let comm::Failure { what, waiting_in } = failure;
    let text = format!(
        "error: {rank}messages between GPUs failed ({waiting_in}): {what}\n\
         hint: NCCL_DEBUG=INFO shows what NCCL does, `gpart-dist doctor` checks the machines, and --comm mpi does \
         without NCCL. The same command goes on from the last checkpoint\n"
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn end() -> ! {
    // SAFETY: `_exit` is always safe to call; it runs no destructors, which would wait for peers.
    unsafe { libc::_exit(1) }
}

/// Name of this machine, for messages and to tell it from others.
pub fn host() -> String {
    let name = comm::host_name();
    if name.is_empty() { "an unnamed host".to_owned() } else { name }
}

/// Ends this process at once, without finalising MPI, which would wait for peers that wait for this rank: the launcher
/// then ends them.
pub fn end_all_ranks(exit: crate::exit::Exit) -> ! {
    // SAFETY: `_exit` is always safe to call; it runs no destructors, which is the point.
    unsafe { libc::_exit(exit as i32) }
}

const OUT_OF_MEMORY: &str = "hint: --gradient-checkpointing, a smaller --micro-batch-size or --max-seq-length, --dp-shard or --pp over more GPUs need \
     less; `gpart-dist plan` shows what a rank needs, part by part. The same command goes on from the last checkpoint\n";

/// The line of a panic that says how much was asked for.
fn first_line(said: &str) -> &str {
    said.lines().find(|line| line.contains("out of memory")).unwrap_or_default().trim()
}

/// A panic is a bug. Whatever it is, peers must not wait for a rank that is gone: the process ends at once,
/// without finalising MPI (which would wait for them), and mpirun ends the rest.
pub fn end_all_ranks_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let rank = comm::rank_by_launcher().map_or_else(String::new, |rank| format!(" on rank {rank}"));
        let said = info.to_string();
        // libtorch says it by a panic of its bindings.
        let text = match said.contains("CUDA out of memory") || said.contains("CUDA error: out of memory") {
            true => format!(
                "error: the memory of {} is full{rank}: {}\n{OUT_OF_MEMORY}",
                device(),
                first_line(&said)
            ),
            false => format!(
                "error: internal error{rank}: {said}\nhint: this is a bug; please report it with the command line\n"
            ),
        };
        let _ = std::io::stderr().write_all(text.as_bytes());
        end_all_ranks(crate::exit::Exit::Failed)
    }));
}
