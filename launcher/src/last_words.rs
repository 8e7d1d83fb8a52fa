//! What the output of a run tells about its end.

/// Errors that are kept to be repeated at the end.
const KEPT: usize = 3;
/// How errors begin that would come again: numbers that are not finite. A restart computes the same bits.
const NOT_FINITE: [&str; 5] = [
    "the loss of step ",
    "the held-out loss after step ",
    "a weight's gradient in step ",
    "θ[",
    "run::non_finite",
];

/// A process that a signal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killed {
    /// Which rank.
    pub rank: usize,
    /// Its process, where that is told.
    pub pid: Option<i32>,
    /// Its host, where that is told.
    pub host: Option<String>,
    /// The signal.
    pub signal: i32,
}

/// What was heard so far.
#[derive(Debug, Clone, Default)]
pub struct LastWords {
    /// Processes that signals ended, first ones first.
    pub killed: Vec<Killed>,
    /// The first rank that failed by itself, and its exit code.
    pub exited: Option<(usize, i32)>,
    /// Hosts that are gone.
    pub lost_hosts: Vec<String>,
    /// The first error about numbers that are not finite.
    pub not_finite: Option<String>,
    /// Errors that ranks reported.
    pub errors: Vec<(usize, String)>,
    /// mpirun had not the room for all ranks.
    pub no_slots: bool,
    /// Errors of what starts the ranks.
    pub launcher_errors: Vec<String>,
    /// The rank that the launcher is writing about.
    about: Option<usize>,
}

impl LastWords {
    /// Takes a line in; of no rank: from what starts the ranks.
    pub fn hear(&mut self, rank: Option<usize>, line: &str) {
        match rank {
            Some(rank) => self.hear_rank(rank, line),
            None => self.hear_launcher(line.trim()),
        }
    }

    fn hear_rank(&mut self, rank: usize, line: &str) {
        let Some(message) = line.strip_prefix("error: ") else { return };
        if self.errors.len() < KEPT {
            self.errors.push((rank, message.to_owned()));
        }
        // Where there are several ranks the place comes first: `rank 1 on host (cpu): `.
        let said = message
            .strip_prefix("rank ")
            .and_then(|rest| rest.split_once("): "))
            .map_or(message, |(_, said)| said);
        let is_not_finite = NOT_FINITE.iter().any(|mark| said.starts_with(mark));
        if is_not_finite && self.not_finite.is_none() {
            self.not_finite = Some(said.to_owned());
        }
    }

    fn hear_launcher(&mut self, line: &str) {
        if let Some(killed) = killed_by_open_mpi(line).or_else(|| killed_by_slurm(line)) {
            self.killed.push(killed);
        } else if let Some(name) = line.strip_prefix("Process name: [[") {
            // `[[38310,1],3]`: the job, and the rank in it.
            self.about = name.rsplit(',').next().and_then(|rank| rank.trim_end_matches(']').parse().ok());
        } else if let Some(code) = line.strip_prefix("Exit code:") {
            let exited = self.about.zip(code.trim().parse().ok());
            self.exited = self.exited.or(exited);
        } else if let Some((rank, code)) = exited_by_slurm(line) {
            self.exited = self.exited.or(Some((rank, code)));
        } else if let Some(host) = lost_host(line) {
            self.lost_hosts.push(host);
        } else if line.starts_with("There are not enough slots") {
            self.no_slots = true;
        } else if line.starts_with("srun: error:") && self.launcher_errors.len() < KEPT {
            self.launcher_errors.push(line.to_owned());
        }
    }
}

/// `mpirun noticed that process rank 1 with PID 4711 on node a exited on signal 9 (Killed).`
fn killed_by_open_mpi(line: &str) -> Option<Killed> {
    let rest = line.split_once("noticed that process rank ")?.1;
    let (rank, rest) = rest.split_once(" with PID ")?;
    let (pid, rest) = rest.split_once(" on node ")?;
    let (host, rest) = rest.split_once(" exited on signal ")?;
    let signal = rest.split([' ', '.']).next()?.parse().ok()?;
    // It says 0 where it does not know.
    let pid = pid.parse().ok().filter(|pid| *pid > 0);
    Some(Killed { rank: rank.parse().ok()?, pid, host: Some(host.to_owned()), signal })
}

/// `srun: error: a: task 1: Killed`
fn killed_by_slurm(line: &str) -> Option<Killed> {
    let (host, rank, how) = of_task(line)?;
    let signal = match how {
        "Out Of Memory" | "Killed" => 9,
        "Terminated" => 15,
        "Segmentation fault" | "Segmentation fault (core dumped)" => 11,
        "Aborted" | "Aborted (core dumped)" => 6,
        "Bus error" | "Bus error (core dumped)" => 7,
        _ => return None,
    };
    Some(Killed { rank, pid: None, host: Some(host.to_owned()), signal })
}

/// `srun: error: a: task 1: Exited with exit code 3`
fn exited_by_slurm(line: &str) -> Option<(usize, i32)> {
    let (_, rank, how) = of_task(line)?;
    Some((rank, how.strip_prefix("Exited with exit code ")?.trim().parse().ok()?))
}

/// Host, first task and fate. Several tasks come as `tasks 0-1`.
fn of_task(line: &str) -> Option<(&str, usize, &str)> {
    let rest = line.strip_prefix("srun: error: ")?;
    let (host, rest) = rest.split_once(": task")?;
    let (tasks, how) = rest.trim_start_matches('s').trim_start().split_once(": ")?;
    let first = tasks.split(['-', ',']).next()?.parse().ok()?;
    Some((host, first, how.trim()))
}

fn lost_host(line: &str) -> Option<String> {
    // Open MPI, after `ORTE has lost communication with a remote daemon.`
    if let Some(rest) = line.strip_prefix("Remote daemon:") {
        return Some(rest.rsplit(" on node ").next()?.trim().to_owned());
    }
    // Slurm.
    line.strip_prefix("srun: error: Node failure on ").map(|host| host.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[(Option<usize>, &str)]) -> LastWords {
        let mut words = LastWords::default();
        lines.iter().for_each(|(rank, line)| words.hear(*rank, line));
        words
    }

    #[test]
    fn open_mpi() {
        let line =
            "mpirun noticed that process rank 1 with PID 4711 on node a.b exited on signal 9 (Killed).";
        let words = heard(&[(None, line)]);
        let killed = Killed { rank: 1, pid: Some(4711), host: Some("a.b".into()), signal: 9 };
        assert_eq!(words.killed, [killed]);
        let words = heard(&[(None, "  Process name: [[38310,1],3]"), (None, "  Exit code:    7")]);
        assert_eq!(words.exited, Some((3, 7)));
        let words = heard(&[(None, "  Remote daemon: [[5,0],1] on node b")]);
        assert_eq!(words.lost_hosts, ["b"]);
    }

    #[test]
    fn slurm() {
        let words = heard(&[
            (None, "srun: error: a: task 1: Killed"),
            (None, "srun: error: a: tasks 2-3: Exited with exit code 5"),
            (None, "srun: error: Node failure on b"),
        ]);
        assert_eq!((words.killed[0].rank, words.killed[0].signal), (1, 9));
        assert_eq!(words.exited, Some((2, 5)));
        assert_eq!(words.lost_hosts, ["b"]);
    }

    #[test]
    fn numbers_that_are_not_finite() {
        let said = "error: rank 0 on a (cpu): the loss of step 3, micro-batch 1, is NaN (computed by rank 0); no update";
        assert!(heard(&[(Some(0), said)]).not_finite.is_some());
        assert!(heard(&[(Some(0), "error: θ[12] is inf after the update of step 3")]).not_finite.is_some());
        assert!(heard(&[(Some(0), "the loss of step 3")]).not_finite.is_none());
        let words = heard(&[(Some(1), "error: rank 0 failed")]);
        assert_eq!((words.not_finite.is_none(), words.errors.len()), (true, 1));
    }
}
