//! `sweep.json`: what a sweep consists of, and how far each of its runs is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::axes::{Axis, Combination};
use crate::error::LaunchError;
use crate::exit::Exit;

/// The file's name.
pub const FILE: &str = "sweep.json";
const VERSION: u32 = 1;

/// How far a run, or its evaluation, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not begun.
    Waiting,
    /// Under way; or the launcher ended without a word.
    Running,
    /// Through.
    Done,
    /// Ended otherwise.
    Failed,
    /// Stopped early, and to be taken up again.
    Stopped,
}

/// One thing that is started, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// How far it is.
    pub state: State,
    /// The exit status of the last start that ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<u8>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// When it was last started, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<String>,
    /// When it last ended, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<String>,
    /// How long all starts took that ended.
    #[serde(default)]
    pub seconds: f64,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its folder in the sweep's.
    pub name: String,
    /// The words that it adds to the command.
    pub flags: Vec<String>,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
    /// Its evaluations.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evaluations: Vec<Evaluation>,
}

/// An evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The data set.
    pub dataset: String,
    /// The command of gpart-dist.
    pub command: Vec<String>,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
}

/// A sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Of the file's format.
    version: u32,
    /// The command of gpart-dist that all runs share.
    pub command: Vec<String>,
    /// What is swept.
    pub swept: Vec<Axis>,
    /// The runs, in their order.
    pub runs: Vec<Run>,
}

impl Progress {
    /// Not begun.
    pub fn waiting() -> Self {
        let state = State::Waiting;
        Self { state, exit_code: None, reason: None, started: None, ended: None, seconds: 0.0 }
    }

    /// It is started.
    pub fn begins(&mut self) {
        let seconds = self.seconds;
        *self = Self { state: State::Running, started: Some(now()), seconds, ..Self::waiting() };
    }

    /// It has ended so, after so long.
    pub fn ends(&mut self, exit: Exit, reason: Option<String>, took: Duration) {
        self.state = match exit {
            Exit::Done => State::Done,
            Exit::Preempted | Exit::Interrupted => State::Stopped,
            Exit::Failed | Exit::Input => State::Failed,
        };
        (self.exit_code, self.reason, self.ended) = (Some(exit as u8), reason, Some(now()));
        self.seconds += (took.as_secs_f64() * 1000.0).round() / 1000.0;
    }
}

impl Run {
    /// The progress of an evaluation by this command.
    pub fn evaluation(&mut self, dataset: &str, command: &[String]) -> &mut Evaluation {
        let fresh = || Evaluation {
            dataset: dataset.to_owned(),
            command: command.to_vec(),
            progress: Progress::waiting(),
        };
        let at = match self.evaluations.iter().position(|one| one.dataset == dataset) {
            Some(at) => at,
            None => {
                self.evaluations.push(fresh());
                self.evaluations.len() - 1
            }
        };
        let found = &mut self.evaluations[at];
        // Asked otherwise it is another one.
        if found.command != command {
            *found = fresh();
        }
        found
    }
}

impl Record {
    /// A sweep that was not begun.
    pub fn new(command: &[String], swept: &[Axis], combinations: &[Combination]) -> Self {
        let run = |one: &Combination| Run {
            name: one.name.clone(),
            flags: one.words(),
            progress: Progress::waiting(),
            evaluations: Vec::new(),
        };
        let runs = combinations.iter().map(run).collect();
        Self { version: VERSION, command: command.to_vec(), swept: swept.to_vec(), runs }
    }

    /// The record in a folder; `Err` tells what is wrong with the file.
    pub fn read(folder: &Path) -> Result<Option<Self>, String> {
        let bytes = match std::fs::read(folder.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        match record.version {
            VERSION => Ok(Some(record)),
            other => Err(format!("its version is {other}, and {VERSION} is known")),
        }
    }

    /// What tells this sweep from another one, a line each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.command != other.command {
            let shown = |command: &[String]| super::shown_words(command);
            lines.push(format!("command: {} there, {} now", shown(&self.command), shown(&other.command)));
        }
        if self.swept != other.swept {
            lines.push(format!("swept: {} there, {} now", shown_axes(&self.swept), shown_axes(&other.swept)));
        }
        // The same lists make the same runs, unless the file was changed by hand.
        let names = |record: &Self| record.runs.iter().map(|run| run.name.clone()).collect::<Vec<_>>();
        if lines.is_empty() && names(self) != names(other) {
            lines.push(format!("runs: {} there, {} now", names(self).join(" "), names(other).join(" ")));
        }
        lines
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<(), LaunchError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        write_whole(&folder.join(FILE), text.as_bytes())
    }
}

/// `seed 1,2 × d 4096,32768`
pub fn shown_axes(axes: &[Axis]) -> String {
    let list = |axis: &Axis| {
        let comma = axis.values.iter().any(|value| value.contains(','));
        format!("{} {}", axis.flag, axis.values.join(if comma { ";" } else { "," }))
    };
    axes.iter().map(list).collect::<Vec<_>>().join(" × ")
}

/// Puts a damaged record aside. Gives where it is now.
pub fn put_aside(folder: &Path) -> Result<PathBuf, LaunchError> {
    let (from, to) = (folder.join(FILE), folder.join("sweep.json.damaged"));
    let failed = |source| LaunchError::SweepFile { path: from.clone(), source };
    std::fs::rename(&from, &to).map_err(failed)?;
    Ok(to)
}

/// Writes a file so that whoever looks, and whenever the machine goes down, it is the old one or the new one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LaunchError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!("{name}.new"));
    let write = || {
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| LaunchError::SweepFile { path: path.to_owned(), source })
}

/// Whether a run has come to its end: gpart-dist writes the summary last.
pub fn is_complete(run_folder: &Path) -> bool {
    let text = std::fs::read(run_folder.join("run.json")).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|run| run.get("summary").is_some())
}

fn now() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let moment = i64::try_from(seconds).ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    moment.unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(command: &str, values: &[&str]) -> Record {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let axes = [Axis { flag: "seed".to_owned(), values }];
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        Record::new(&command, &axes, &super::super::axes::combinations(&axes))
    }

    #[test]
    fn it_survives_being_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()), Ok(None));
        let mut written = record("metamath", &["1", "2"]);
        written.runs[0].progress.begins();
        written.runs[0].progress.ends(Exit::Failed, Some("why".to_owned()), Duration::from_millis(1500));
        let evaluation = written.runs[1].evaluation("math", &["eval".to_owned()]);
        evaluation.progress.begins();
        written.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()), Ok(Some(written.clone())));
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        for part in
            ["\"state\": \"failed\"", "\"exit_code\": 1", "\"seconds\": 1.5", "\"state\": \"waiting\""]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Cut at any place it is refused, and put aside.
        for length in [0, 1, text.len() / 2, text.len() - 3] {
            std::fs::write(folder.path().join(FILE), &text[..length]).unwrap();
            assert!(Record::read(folder.path()).is_err(), "{length}");
        }
        std::fs::write(folder.path().join(FILE), text.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap_err(), "its version is 2, and 1 is known");
        assert!(put_aside(folder.path()).unwrap().exists());
        assert_eq!(Record::read(folder.path()), Ok(None));
    }

    #[test]
    fn differences_are_named() {
        let one = record("metamath --model a", &["1", "2"]);
        assert!(one.differences(&one).is_empty());
        let other = record("metamath --model 'b", &["1", "3"]);
        let expected = [
            "command: metamath --model a there, metamath --model \"'b\" now",
            "swept: seed 1,2 there, seed 1,3 now",
        ];
        assert_eq!(one.differences(&other), expected);
        let mut changed = one.clone();
        changed.runs.pop();
        assert_eq!(changed.differences(&one), ["runs: seed1 there, seed1 seed2 now"]);
    }

    #[test]
    fn an_evaluation_asked_otherwise_is_another_one() {
        let mut sweep = record("metamath", &["1"]);
        let command = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        sweep.runs[0].evaluation("math", &command("eval a")).progress.ends(Exit::Done, None, Duration::ZERO);
        assert_eq!(sweep.runs[0].evaluation("math", &command("eval a")).progress.state, State::Done);
        assert_eq!(sweep.runs[0].evaluation("math", &command("eval b")).progress.state, State::Waiting);
        assert_eq!(sweep.runs[0].evaluations.len(), 1);
    }

    #[test]
    fn moments_are_spelt() {
        let text = now();
        assert!(text.len() == 20 && text.ends_with('Z') && text.starts_with("20"), "{text}");
    }

    #[test]
    fn a_run_is_complete_with_its_summary() {
        let folder = tempfile::tempdir().unwrap();
        let with = |text: &str| {
            std::fs::write(folder.path().join("run.json"), text).unwrap();
            is_complete(folder.path())
        };
        assert!(
            !is_complete(folder.path()) && !with("{}") && !with("{\"summary\"") && with("{\"summary\": {}}")
        );
    }
}
