//! What libFuzzer said, in few words.

use std::path::{Path, PathBuf};

/// How one target fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub target: String,
    /// Inputs run.
    pub executions: u64,
    /// Edges between blocks of code that some input went along.
    pub edges: u64,
    /// Inputs that each do something the others do not.
    pub corpus: u64,
    pub finding: Option<Finding>,
}

/// Why a fuzzer stopped before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The panic's place and message, or what else ended it.
    pub message: String,
    /// The input; none where the fuzzer itself failed.
    pub input: Option<PathBuf>,
    /// All that was said.
    pub log: PathBuf,
}

impl Report {
    /// Reads the output of a fuzzer.
    pub fn new(target: &str, said: &str, is_success: bool, log: &Path) -> Self {
        let status = said.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: "));
        let status = status.unwrap_or_default();
        let executions = number_after(said, "stat::number_of_executed_units:");
        Self {
            target: target.to_owned(),
            // A fuzzer that hangs writes no statistics; its last status line will do.
            executions: executions.or_else(|| number_after(status, "#")).unwrap_or_default(),
            edges: number_after(status, " cov:").unwrap_or_default(),
            corpus: number_after(status, " corp:").unwrap_or_default(),
            finding: (!is_success).then(|| Finding {
                message: message(said),
                input: said.rsplit_once("Test unit written to ").map(|(_, rest)| first_line(rest).into()),
                log: log.to_owned(),
            }),
        }
    }

    /// One line for the moment it ends.
    pub fn line(&self) -> String {
        let Self { target, executions, edges, finding, .. } = self;
        let end = if finding.is_some() { "FINDING" } else { "nothing found" };
        format!("{target}: {executions} inputs, {edges} edges, {end}")
    }

    /// A finding in full, with how to see it again; nothing where there is none.
    pub fn details(&self, binary: &Path) -> String {
        let Some(Finding { message, input, log }) = &self.finding else { return String::new() };
        let again = input.as_ref().map_or(String::new(), |input| {
            let (binary, input) = (binary.display(), input.display());
            format!("  input: {input}\n  again: {binary} {} {input}\n", self.target)
        });
        format!("\n{}: {message}\n{again}  log:   {}\n", self.target, log.display())
    }
}

/// All targets, a line each.
pub fn table(reports: &[Report]) -> String {
    let row = |report: &Report| {
        let Report { target, executions, edges, corpus, finding } = report;
        let result = if finding.is_some() { "FINDING" } else { "ok" };
        format!("{target:<18} {executions:>10} {edges:>7} {corpus:>7}  {result}\n")
    };
    let rows: String = reports.iter().map(row).collect();
    format!("\n{:<18} {:>10} {:>7} {:>7}  result\n{rows}", "target", "inputs", "edges", "corpus")
}

/// The first thing that says what happened.
fn message(said: &str) -> String {
    const LONGEST: usize = 400;
    let lines: Vec<&str> = said.lines().collect();
    let panic = lines.iter().position(|line| line.starts_with("thread ") && line.contains("panicked at "));
    let others =
        ["memory allocation of ", "has overflowed its stack", "ERROR: libFuzzer: ", "error while loading"];
    let text = match panic {
        // The message may have several lines; the backtrace or a note ends it.
        Some(at) => {
            let is_end = |line: &&&str| line.starts_with("stack backtrace:") || line.starts_with("note: ");
            lines[at..]
                .iter()
                .take(4)
                .take_while(|line| !is_end(line))
                .copied()
                .collect::<Vec<_>>()
                .join("\n  ")
        }
        None => {
            let other = lines.iter().find(|line| others.iter().any(|other| line.contains(other)));
            other.or(lines.last()).copied().unwrap_or("it said nothing").to_owned()
        }
    };
    text.chars().take(LONGEST).collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

/// The number that follows the first `mark`.
fn number_after(text: &str, mark: &str) -> Option<u64> {
    let rest = text.split_once(mark)?.1.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const QUIET: &str = "INFO: seed corpus: files: 3\n#4\tINITED cov: 10 ft: 11 corp: 3/9b exec/s: 0 rss: 9Mb\n\
        #1970\tDONE   cov: 5512 ft: 12724 corp: 639/209Kb lim: 626 exec/s: 2183 rss: 156Mb\n\
        Done 1970 runs in 2 second(s)\nstat::number_of_executed_units: 1970\n";

    #[test]
    fn a_quiet_run() {
        let report = Report::new("a", QUIET, true, Path::new("log"));
        let expect = Report { target: "a".into(), executions: 1970, edges: 5512, corpus: 639, finding: None };
        assert_eq!(report, expect);
        assert_eq!(report.details(Path::new("fuzz")), "");
        assert!(table(&[report]).ends_with("5512     639  ok\n"));
    }

    #[test]
    fn a_finding_says_what_and_where_its_input_is() {
        let check = |said: &str, message: &str, input: Option<&str>| {
            let finding = Report::new("a", said, false, Path::new("log")).finding.unwrap();
            assert_eq!((finding.message.as_str(), finding.input), (message, input.map(PathBuf::from)));
        };
        check(
            "#9\tNEW    cov: 3 ft: 4 corp: 5/6b\n\nthread 'main' (7) panicked at src/a.rs:1:2:\nbegin > end\n\
             stack backtrace:\n   0: f\n==3== ERROR: libFuzzer: deadly signal\nartifact_prefix='x/'; \
             Test unit written to x/crash-12\nBase64: aa\n",
            "thread 'main' (7) panicked at src/a.rs:1:2:\n  begin > end",
            Some("x/crash-12"),
        );
        check(
            "memory allocation of 17585692864 bytes failed\nstack backtrace:\n==3== ERROR: libFuzzer: deadly signal\n\
             Test unit written to x/crash-1\n",
            "memory allocation of 17585692864 bytes failed",
            Some("x/crash-1"),
        );
        check(
            "==3== ERROR: libFuzzer: timeout after 10 seconds\nTest unit written to x/timeout-1\n",
            "==3== ERROR: libFuzzer: timeout after 10 seconds",
            Some("x/timeout-1"),
        );
        check(
            "fuzz: error while loading shared libraries: x\n",
            "fuzz: error while loading shared libraries: x",
            None,
        );
        check("", "it said nothing", None);
        assert_eq!(
            Report::new("a", "#9\tNEW    cov: 3 ft: 4 corp: 5/6b", false, Path::new("")).executions,
            9
        );
    }
}
