//! Processes as `/proc` has them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Between looks at a process that is to end.
const LOOK: Duration = Duration::from_millis(20);
/// A process that SIGKILL does not end within this time waits in the kernel; nobody can do more.
const KILLED_BY: Duration = Duration::from_secs(10);

/// All descendants of a process that have not ended, parents before children.
pub fn descendants(of: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in all() {
        if let Some((parent, state)) = parent_and_state(pid)
            && state != 'Z'
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    found.split_off(1)
}

/// Numbers of all processes.
pub fn all() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process is there and has not ended.
pub fn is_alive(pid: i32) -> bool {
    parent_and_state(pid).is_some_and(|(_, state)| state != 'Z')
}

fn parent_and_state(pid: i32) -> Option<(i32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, parentheses too.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((words.next()?.parse().ok()?, state))
}

/// Sends a signal; a process that is gone is none to worry about.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends all descendants of this process: those that are left after `grace` by SIGKILL, until none is left. This
/// process must be their reaper (see `become_reaper`), or a child of a child that ended would not be found.
pub fn end_descendants(grace: Duration) {
    let own = std::process::id() as i32;
    let begun = Instant::now();
    loop {
        reap();
        let left = descendants(own);
        if left.is_empty() || begun.elapsed() > grace + KILLED_BY {
            return;
        }
        if begun.elapsed() >= grace {
            left.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        }
        std::thread::sleep(LOOK);
    }
}

/// From now on processes whose parents end become children of this one.
pub fn become_reaper() {
    // A kernel without it is older than any that runs this.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

fn reap() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn children_of_children_are_found() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let is_whole = |found: &[i32]| found.len() >= 2 && found.contains(&(child.id() as i32));
        let begun = Instant::now();
        let mut found = Vec::new();
        while !is_whole(&found) && begun.elapsed() < Duration::from_secs(10) {
            found = descendants(std::process::id() as i32);
            std::thread::sleep(LOOK);
        }
        assert!(is_whole(&found), "{found:?}");
        let of_child = descendants(child.id() as i32);
        of_child.iter().for_each(|pid| signal(*pid, Signal::KILL));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(child.id() as i32) && is_alive(std::process::id() as i32));
    }
}
