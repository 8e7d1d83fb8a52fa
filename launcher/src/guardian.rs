//! The guardian: a small process between the launcher and mpirun, which sees to it that no rank outlives the launcher.
//!
//! The launcher holds one end of a pipe. However the launcher ends, the kernel closes that end, and the guardian then
//! ends mpirun and everything that came of it. It can, because it is the reaper of all its descendants: mpirun puts
//! ranks into groups and sessions of their own, but none leaves this tree. Should both be killed at once, mpirun is told
//! by the kernel (its parent's death) and ends its ranks, which as programs of MPI end with mpirun anyway. What runs on other hosts belongs to mpirun's daemons
//! there, which end with the connection to mpirun.
//!
//! It is a session of its own: a terminal's Ctrl-C or hang-up reaches the launcher alone.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::processes;

/// First argument with which the launcher starts itself as guardian.
pub const GUARDIAN: &str = "__guardian";
/// Exit code where the program could not be started, as shells have it.
pub const NOT_STARTED: u8 = 127;
/// How long mpirun has to end its ranks, here and elsewhere, before all are killed here.
const GRACE: Duration = Duration::from_millis(2500);
/// How long what a program left behind may take to end by itself.
const LEFT_BEHIND: Duration = Duration::from_millis(100);

/// Guards one command; `arguments` are the signal to end it with, the program and its arguments. Ends with its exit
/// code, or 128 and the signal that ended it.
pub fn guard(arguments: Vec<std::ffi::OsString>) -> u8 {
    let mut arguments = arguments.into_iter();
    let polite = match arguments.next().as_deref().and_then(|word| word.to_str()) {
        Some("INT") => Signal::INT,
        _ => Signal::TERM,
    };
    let Some(program) = arguments.next() else { return NOT_STARTED };
    let _ = rustix::process::setsid();
    processes::become_reaper();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    let guardian = std::process::id();
    let end_with_guardian = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // It may have been killed before.
        match rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32) {
            Some(parent) if parent == guardian => Ok(()),
            _ => Err(std::io::ErrorKind::Interrupted.into()),
        }
    };
    // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(end_with_guardian) };
    let Ok(mut child) = command.spawn() else { return NOT_STARTED };
    // The ends of the pipes that ranks write to are theirs alone: the launcher reads until all are closed.
    close_output();
    let status = watch(&mut child, polite);
    processes::end_descendants(LEFT_BEHIND);
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128u8.wrapping_add(signal.unwrap_or(0) as u8),
    }
}

/// Waits for the end of the command, or of the launcher's interest in it.
fn watch(child: &mut Child, polite: Signal) -> ExitStatus {
    let pid = child.id() as i32;
    let ended = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let stdin = std::io::stdin();
    if wanted_until_end(stdin.as_fd(), ended.as_ref().map(|fd| fd.as_fd())) {
        return child.wait().unwrap_or_default();
    }
    processes::signal(pid, polite);
    let begun = std::time::Instant::now();
    while begun.elapsed() < GRACE {
        if let Ok(Some(status)) = child.try_wait() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    processes::signal(pid, Signal::KILL);
    child.wait().unwrap_or_default()
}

/// True when the command ended, false when the launcher closed its end of the pipe, on purpose or by ending.
fn wanted_until_end(launcher: BorrowedFd<'_>, ended: Option<BorrowedFd<'_>>) -> bool {
    let Some(ended) = ended else {
        // Without descriptors for processes (before Linux 5.3) only the pipe is waited for.
        return std::io::stdin().read(&mut [0]).is_ok_and(|bytes| bytes > 0);
    };
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(launcher, PollFlags::IN),
            PollFd::from_borrowed_fd(ended, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Ok(_) if !watched[1].revents().is_empty() => return true,
            Ok(_) if !watched[0].revents().is_empty() => return false,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn close_output() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
