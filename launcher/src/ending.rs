//! Why an attempt ended, from all that is known: the exit status, the last words, the kernel's counters, the coordinator.

use control_plane::decide::{Cause, Ending, Finding};

use crate::hosts;
use crate::last_words::{Killed, LastWords};
use crate::memory::Kills;

/// The signal of the kernel's kills for memory.
const KILL: i32 = 9;
/// What helps a rank that has not the memory.
const SMALLER: &str = "make a rank's share smaller: --gradient-checkpointing, more ranks with --dp-shard or --pp, a lower \
                       --micro-batch-size (with more --accumulation-steps) or --max-seq-length; `gpart-dist plan` with \
                       the same flags shows what a rank needs";

/// A rank that has reported to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Which.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: u32,
}

/// What is known of an attempt that has ended.
pub struct Known<'a> {
    /// The exit status; 128 and the signal's number after a signal.
    pub code: i32,
    /// What was heard.
    pub words: &'a LastWords,
    /// What was found hanging, if the attempt was ended for it.
    pub hang: Option<&'a Finding>,
    /// What the kernel has killed.
    pub kills: &'a Kills,
    /// The ranks that had reported.
    pub seats: &'a [Seat],
    /// The hosts that are gone, by whatever name.
    pub lost_hosts: &'a [String],
    /// How many ranks were on them.
    pub lost_ranks: usize,
}

impl Known<'_> {
    /// Why it ended.
    pub fn ending(&self) -> Ending {
        let of = |cause, rank: Option<usize>, host: Option<String>| {
            let host =
                host.or_else(|| Some(self.seats.iter().find(|one| Some(one.rank) == rank)?.host.clone()));
            Ending { cause, rank, host, lost_ranks: 0 }
        };
        if let Some(finding) = self.hang {
            let host = Some(finding.host.clone()).filter(|host| !host.is_empty());
            return of(Cause::Hung { what: finding.message.clone() }, finding.rank, host);
        }
        if [0, 2, 75].contains(&self.code) {
            return of(Cause::Exit(self.code), self.words.exited.map(|(rank, _)| rank), None);
        }
        if self.words.not_finite.is_some() {
            return of(Cause::NotANumber, self.words.errors.first().map(|(rank, _)| *rank), None);
        }
        if let Some(host) = self.lost_hosts.first() {
            let ending = of(Cause::HostLost, None, Some(host.clone()));
            return Ending { lost_ranks: self.lost_ranks, ..ending };
        }
        if let Some((rank, host)) = self.killed_for_memory() {
            return Ending { lost_ranks: 1, ..of(Cause::OutOfMemory, rank, host) };
        }
        if let Some(killed) = self.words.killed.first() {
            return of(Cause::Signal(killed.signal), Some(killed.rank), killed.host.clone());
        }
        if let Some((rank, code)) = self.words.exited {
            return of(Cause::Exit(code), Some(rank), None);
        }
        match self.code.checked_sub(128).filter(|signal| (1..=64).contains(signal)) {
            Some(signal) => of(Cause::Signal(signal), None, None),
            None => of(Cause::Exit(self.code), None, None),
        }
    }

    /// The rank that the kernel killed for its memory, and its host.
    fn killed_for_memory(&self) -> Option<(Option<usize>, Option<String>)> {
        let is_named =
            |pid: u32| self.kills.named.iter().any(|(killed, _)| u32::try_from(*killed) == Ok(pid));
        if let Some(seat) = self.seats.iter().find(|seat| is_here(&seat.host) && is_named(seat.pid)) {
            return Some((Some(seat.rank), Some(seat.host.clone())));
        }
        // Otherwise what that signal ended, here, while a counter rose. The machine's counts only where the log does not
        // say who else it was.
        let is_kill = |killed: &&Killed| killed.signal == KILL && killed.host.as_deref().is_none_or(is_here);
        let killed = self.words.killed.iter().find(is_kill);
        let of_group = self.kills.of_group > 0 && (killed.is_some() || self.code == 128 + KILL);
        let of_machine = self.kills.of_machine > 0 && self.kills.named.is_empty() && killed.is_some();
        (of_group || of_machine)
            .then(|| (killed.map(|one| one.rank), killed.and_then(|one| one.host.clone())))
    }
}

fn is_here(host: &str) -> bool {
    hosts::is_same_name(host, &hosts::own_name())
}

/// What to do about it.
pub fn hint(ending: &Ending) -> String {
    let log = match ending.rank {
        Some(rank) => format!("logs/rank-{rank:03}.log in the output folder"),
        None => "logs/ in the output folder".to_owned(),
    };
    match &ending.cause {
        Cause::OutOfMemory => SMALLER.to_owned(),
        Cause::Signal(KILL) => format!(
            "somebody or something killed it; on its host `dmesg` says whether it was the kernel, for memory. If so, {SMALLER}"
        ),
        Cause::Signal(_) => format!("look at its last words above and in {log}; a crash is a bug, please report it"),
        Cause::HostLost => "look at that machine and its network; the same command goes on without it if it is left out \
                            of --hosts"
            .to_owned(),
        Cause::Hung { .. } => format!(
            "look at {log} and at that machine (`gpart-dist doctor` checks all of them); the same command goes on from \
             the last step"
        ),
        Cause::NotANumber => {
            "lower --learning-rate or look for NaN in the model and the data; the same steps come to the same numbers, so \
             it was not started again"
                .to_owned()
        }
        Cause::Exit(_) => format!(
            "look at the messages above and in {log}; when the cause is mended, the same command goes on from the last step"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats() -> [Seat; 2] {
        [70, 71].map(|pid| Seat { rank: pid as usize - 70, host: hosts::own_name(), pid })
    }

    fn ending(code: i32, lines: &[(Option<usize>, &str)], kills: Kills) -> Ending {
        let mut words = LastWords::default();
        lines.iter().for_each(|(rank, line)| words.hear(*rank, line));
        let seats = seats();
        let (hang, kills, lost_hosts) = (None, &kills, words.lost_hosts.as_slice());
        Known { code, words: &words, hang, kills, seats: &seats, lost_hosts, lost_ranks: 2 }.ending()
    }

    #[test]
    fn causes() {
        let own = hosts::own_name();
        let noticed = format!(
            "mpirun noticed that process rank 1 with PID 0 on node {own} exited on signal 9 (Killed)."
        );
        let lines = [(None, noticed.as_str())];
        let none = Kills::default;
        assert_eq!(ending(0, &[], none()).cause, Cause::Exit(0));
        assert_eq!(ending(75, &[], none()).cause, Cause::Exit(75));
        let killed = ending(137, &lines, none());
        assert_eq!((killed.cause, killed.rank), (Cause::Signal(9), Some(1)));
        assert_eq!(ending(137, &[], none()).cause, Cause::Signal(9));
        let exited = [(None, "  Process name: [[5,1],1]"), (None, "  Exit code:    3")];
        let failed = ending(3, &exited, none());
        assert_eq!((failed.cause, failed.rank), (Cause::Exit(3), Some(1)));
        let lost = ending(1, &[(None, "  Remote daemon: [[5,0],1] on node b")], none());
        assert_eq!((lost.cause, lost.host.as_deref(), lost.lost_ranks), (Cause::HostLost, Some("b"), 2));
        let nan = [(Some(0), "error: the loss of step 1, micro-batch 0, is NaN")];
        assert_eq!(ending(1, &nan, none()).cause, Cause::NotANumber);
    }

    #[test]
    fn kills_for_memory_are_told_from_others() {
        let own = hosts::own_name();
        let noticed = format!(
            "mpirun noticed that process rank 1 with PID 0 on node {own} exited on signal 9 (Killed)."
        );
        let lines = [(None, noticed.as_str())];
        let named = |pid| Kills { named: vec![(pid, "gpart-dist".into())], of_group: 0, of_machine: 1 };
        let by_group = ending(137, &lines, Kills { of_group: 1, ..Kills::default() });
        assert_eq!((by_group.cause, by_group.rank, by_group.lost_ranks), (Cause::OutOfMemory, Some(1), 1));
        let by_log = ending(1, &[], named(71));
        assert_eq!((by_log.cause, by_log.rank), (Cause::OutOfMemory, Some(1)));
        // Another program's process was killed for its memory, and a rank for some other reason.
        assert_eq!(ending(137, &lines, named(999)).cause, Cause::Signal(9));
        assert_eq!(ending(137, &[], named(999)).cause, Cause::Signal(9));
        let unnamed = Kills { of_machine: 1, ..Kills::default() };
        assert_eq!(ending(137, &lines, unnamed.clone()).cause, Cause::OutOfMemory);
        assert_eq!(ending(1, &[], unnamed).cause, Cause::Exit(1));
    }

    #[test]
    fn a_kill_for_memory_names_the_flags_that_help() {
        let for_memory = Ending { cause: Cause::OutOfMemory, rank: None, host: None, lost_ranks: 1 };
        for flag in
            ["--gradient-checkpointing", "--dp-shard", "--pp", "--micro-batch-size", "--max-seq-length"]
        {
            assert!(hint(&for_memory).contains(flag), "{flag}");
        }
    }
}
