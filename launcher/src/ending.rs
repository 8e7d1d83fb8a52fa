//! Why an attempt ended, from all that is known: the exit status, the last words, the kernel's counters, the coordinator.

use control_plane::Status;
use control_plane::decide::{Cause, Ending, Finding};

use crate::hosts;
use crate::last_words::{Killed, LastWords};
use crate::memory::Evidence;

/// The signal of the kernel's kills for memory.
const KILL: i32 = 9;
/// What helps a rank that has not the memory.
const SMALLER: &str = "make a rank's share smaller: --gradient-checkpointing, more ranks with --dp-shard or --pp, a lower \
                       --micro-batch-size (with more --accumulation-steps) or --max-seq-length; `gpart-dist plan` with \
                       the same flags shows what a rank needs";

/// What is known of an attempt that has ended.
pub struct Known<'a> {
    /// The exit status; 128 and the signal's number after a signal.
    pub code: i32,
    /// What was heard.
    pub words: &'a LastWords,
    /// What was found hanging, if the attempt was ended for it.
    pub hang: Option<&'a Finding>,
    /// What the kernel has killed.
    pub killed: Option<&'a Evidence>,
    /// What ranks had reported.
    pub status: &'a Status,
    /// The hosts that are gone, by whatever name.
    pub lost_hosts: &'a [String],
    /// How many ranks were on them.
    pub lost_ranks: usize,
}

impl Known<'_> {
    /// Why it ended.
    pub fn ending(&self) -> Ending {
        let of = |cause, rank: Option<usize>, host: Option<String>| {
            let host = host
                .or_else(|| Some(self.status.ranks.iter().find(|one| Some(one.rank) == rank)?.host.clone()));
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
        let evidence = self.killed?;
        if let Evidence::Log(named) = evidence {
            let is_named = |pid: u32| named.iter().any(|(killed, _)| u32::try_from(*killed) == Ok(pid));
            if let Some(rank) =
                self.status.ranks.iter().find(|rank| is_here(&rank.host) && is_named(rank.pid))
            {
                return Some((Some(rank.rank), Some(rank.host.clone())));
            }
        }
        // Otherwise what was killed by that signal, here, while the counter rose.
        let is_kill = |killed: &&Killed| killed.signal == KILL && killed.host.as_deref().is_none_or(is_here);
        match self.words.killed.iter().find(is_kill) {
            Some(killed) => Some((Some(killed.rank), killed.host.clone())),
            None if self.code == 128 + KILL => Some((None, None)),
            None => None,
        }
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

    fn status() -> Status {
        let rank = |rank, pid| {
            serde_json::json!({"rank": rank, "host": hosts::own_name(), "device": "cpu", "pid": pid, "version": "0",
                "connected": true, "step": null, "phase": "forward", "phase_seconds": 0.0, "collective": null,
                "collective_seconds": 0.0, "heard_seconds": 0.0, "memory_bytes": null, "memory_peak_bytes": null,
                "step_seconds": null, "waited_seconds": null, "tokens_per_second": null})
        };
        let status = serde_json::json!({"run": "r", "attempt": 1, "restarts": 0, "rank_count": 2, "up_seconds": 1.0,
            "step": 0, "total_steps": 0, "durable_step": null, "loss": null, "tokens_per_second": null,
            "step_seconds": null, "eta_seconds": null, "stopping": null, "ranks": [rank(0, 70), rank(1, 71)],
            "findings": []});
        serde_json::from_value(status).unwrap()
    }

    fn ending(code: i32, lines: &[(Option<usize>, &str)], killed: Option<Evidence>) -> Ending {
        let mut words = LastWords::default();
        lines.iter().for_each(|(rank, line)| words.hear(*rank, line));
        let status = status();
        let (hang, killed, lost_hosts) = (None, killed.as_ref(), words.lost_hosts.as_slice());
        Known { code, words: &words, hang, killed, status: &status, lost_hosts, lost_ranks: 2 }.ending()
    }

    #[test]
    fn causes() {
        let own = hosts::own_name();
        let noticed = format!(
            "mpirun noticed that process rank 1 with PID 0 on node {own} exited on signal 9 (Killed)."
        );
        let lines = [(None, noticed.as_str())];
        assert_eq!(ending(0, &[], None).cause, Cause::Exit(0));
        assert_eq!(ending(75, &[], None).cause, Cause::Exit(75));
        assert_eq!(
            (ending(137, &lines, None).cause, ending(137, &lines, None).rank),
            (Cause::Signal(9), Some(1))
        );
        assert_eq!(ending(137, &[], None).cause, Cause::Signal(9));
        let for_memory = ending(137, &lines, Some(Evidence::Group(1)));
        assert_eq!(
            (for_memory.cause, for_memory.rank, for_memory.lost_ranks),
            (Cause::OutOfMemory, Some(1), 1)
        );
        let by_log = ending(1, &[], Some(Evidence::Log(vec![(71, "gpart-dist".into())])));
        assert_eq!((by_log.cause, by_log.rank), (Cause::OutOfMemory, Some(1)));
        // Another program's.
        assert_eq!(ending(1, &[], Some(Evidence::Machine(1))).cause, Cause::Exit(1));
        let exited = [(None, "  Process name: [[5,1],1]"), (None, "  Exit code:    3")];
        assert_eq!(
            (ending(3, &exited, None).cause, ending(3, &exited, None).rank),
            (Cause::Exit(3), Some(1))
        );
        let lost = ending(1, &[(None, "  Remote daemon: [[5,0],1] on node b")], None);
        assert_eq!((lost.cause, lost.host.as_deref(), lost.lost_ranks), (Cause::HostLost, Some("b"), 2));
        let nan = [(Some(0), "error: the loss of step 1, micro-batch 0, is NaN")];
        assert_eq!(ending(1, &nan, None).cause, Cause::NotANumber);
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
