//! Who the ranks are as processes, and which of them are gone.
//!
//! A launcher ends the others when a rank dies, and says so in its own words. Where it does not (a batch system told to
//! go on, a daemon that is gone itself), the others would wait for ever: so whoever waits looks whether the processes
//! of its host are still there.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// A rank that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRank {
    /// Its number.
    pub rank: usize,
    /// Where it ran.
    pub host: String,
    /// Its process number there.
    pub pid: u32,
    /// The operation in which this rank waited for it.
    pub waiting_in: &'static str,
    /// No lower rank of this host is left to speak.
    pub first_left: bool,
}

/// A rank as a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub rank: usize,
    pub host: String,
    pub pid: u32,
    /// Which processes can be seen from there: the name of the namespace of process numbers.
    namespace: String,
    /// When it started, in the system's ticks: tells it from a later process of the same number.
    started: u64,
}

impl Peer {
    /// This process.
    pub(crate) fn this(rank: usize) -> Self {
        let pid = std::process::id();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            rank,
            host: crate::host_name(),
            pid,
            namespace: namespace.to_string_lossy().into_owned(),
            started: alive(Path::new("/proc"), pid).unwrap_or(0),
        }
    }

    /// Whether this process could tell if `other` were gone.
    pub(crate) fn sees(&self, other: &Self) -> bool {
        !self.namespace.is_empty() && self.namespace == other.namespace && self.host == other.host
    }

    /// Whether its process is no more, or only waits to be collected.
    pub(crate) fn is_gone(&self) -> bool {
        alive(Path::new("/proc"), self.pid) != Some(self.started)
    }
}

/// When the process started, unless it is gone.
fn alive(proc: &Path, pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name of the program is in parentheses and may hold anything; fields are counted after it, from 3 on.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn processes_are_seen_to_go() {
        let own = Peer::this(3);
        assert!(!own.is_gone());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = alive(Path::new("/proc"), child.id()).unwrap();
        let other = Peer { pid: child.id(), started, ..own.clone() };
        assert!(own.sees(&other) && !other.is_gone());
        let same_number = Peer { started: started + 1, ..other.clone() };
        assert!(same_number.is_gone());
        child.kill().unwrap();
        // A killed child stays as a zombie until it is waited for: gone all the same.
        while alive(Path::new("/proc"), child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(other.is_gone());
        child.wait().unwrap();
        assert!(other.is_gone());
    }

    #[test]
    fn processes_of_other_hosts_and_containers_are_not_judged() {
        let own = Peer::this(0);
        assert!(!own.sees(&Peer { host: "elsewhere".to_owned(), ..own.clone() }));
        assert!(!own.sees(&Peer { namespace: "pid:[1]".to_owned(), ..own.clone() }));
    }
}
