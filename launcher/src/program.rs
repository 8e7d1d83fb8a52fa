//! `gpart-dist`: where it is, and what it makes of a command's settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::backend::{is_program, on_path};
use crate::error::LaunchError;

const NAME: &str = "gpart-dist";
/// Its commands that train.
pub const TRAINING: [&str; 2] = ["metamath", "train"];

/// Finds it: where it was said to be, beside this program, on PATH.
pub fn find(given: Option<&Path>) -> Result<PathBuf, LaunchError> {
    if let Some(path) = given {
        let found =
            path.to_str().and_then(on_path).or_else(|| Some(path.to_owned()).filter(|path| is_program(path)));
        return found.ok_or_else(|| LaunchError::NotAProgram { path: path.to_owned() });
    }
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    own.filter(|path| is_program(path)).or_else(|| on_path(NAME)).ok_or(LaunchError::NoProgram)
}

/// What the launcher needs to know of a run's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The output folder.
    pub output: PathBuf,
    /// The mesh, as far as it was said.
    pub mesh: Mesh,
}

/// All settings of a command by their names.
pub type Resolved = BTreeMap<String, Setting>;

/// Degrees of the mesh, as far as they were said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Copies of the model.
    pub dp_replicate: Option<usize>,
    /// Ranks that share a copy's weights.
    pub dp_shard: Option<usize>,
    /// Pipeline stages.
    pub pp: Option<usize>,
}

/// A setting as `gpart-dist config --json` prints it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Setting {
    /// Its value.
    pub value: serde_json::Value,
    /// Where that came from: `default`, `flag --NAME`, `preset NAME, FILE:LINE` and the like.
    pub from: String,
}

/// Refuses a command that is none of a run.
pub fn check_trains(command: &[String]) -> Result<(), LaunchError> {
    let training = command.first().is_some_and(|word| TRAINING.contains(&word.as_str()));
    if !training {
        let command = command.first().cloned().unwrap_or_default();
        return Err(LaunchError::NotTraining { command, known: TRAINING.join(" or ") });
    }
    Ok(())
}

/// Asks for the settings of a command. Its own words on what is wrong with them have been passed on.
pub fn settings(program: &Path, command: &[String]) -> Result<Settings, LaunchError> {
    let map = resolved(program, command)?;
    let unreadable = |why: String| LaunchError::UnreadableSettings { program: program.to_owned(), why };
    let output = map.get("output").ok_or_else(|| unreadable("there is no `output`".to_owned()))?;
    let output = match output.value.as_str() {
        Some(folder) => PathBuf::from(folder),
        // A folder named after the run, which only the table shows.
        None => {
            let table = String::from_utf8_lossy(&ask(program, command, &[])?).into_owned();
            let named = named_output(&table, &output.from);
            named.ok_or_else(|| unreadable("it does not name the output folder".to_owned()))?
        }
    };
    let output = std::path::absolute(&output)
        .map_err(|source| LaunchError::Output { folder: output.clone(), source })?;
    let degree = |key: &str| {
        let setting = map.get(key).filter(|setting| setting.from != "default")?;
        setting.value.as_u64().and_then(|degree| usize::try_from(degree).ok())
    };
    let mesh = Mesh { dp_replicate: degree("dp-replicate"), dp_shard: degree("dp-shard"), pp: degree("pp") };
    Ok(Settings { output, mesh })
}

/// Asks for all settings of a command. Its own words on what is wrong with them have been passed on.
pub fn resolved(program: &Path, command: &[String]) -> Result<Resolved, LaunchError> {
    parsed(program, &ask(program, command, &["--json"])?)
}

/// The same without a word; none where the settings are wrong.
pub fn resolved_quietly(program: &Path, command: &[String]) -> Option<Resolved> {
    let output = config(program, command, &["--json"]).output().ok()?;
    output.status.success().then(|| parsed(program, &output.stdout).ok())?
}

fn parsed(program: &Path, text: &[u8]) -> Result<Resolved, LaunchError> {
    let unreadable = |why: String| LaunchError::UnreadableSettings { program: program.to_owned(), why };
    serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))
}

/// The value in the table's line `output  VALUE  FROM`.
fn named_output(table: &str, from: &str) -> Option<PathBuf> {
    let line = table.lines().find_map(|line| line.strip_prefix("output ")?.trim().strip_suffix(from))?;
    Some(line.trim()).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn config(program: &Path, command: &[String], more: &[&str]) -> Command {
    let mut asked = Command::new(program);
    asked.arg("config").args(command).args(more).stdin(Stdio::null());
    asked
}

fn ask(program: &Path, command: &[String], more: &[&str]) -> Result<Vec<u8>, LaunchError> {
    let failed = |why: String| LaunchError::BrokenProgram { program: program.to_owned(), why };
    let output = config(program, command, more).output().map_err(|error| failed(error.to_string()))?;
    match output.status.code() {
        Some(0) => Ok(output.stdout),
        Some(2) => {
            let _ = std::io::stderr().write_all(&output.stderr);
            Err(LaunchError::Reported)
        }
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed(format!("{}: {said}", output.status)))
        }
    }
}

/// What a rank needs by the plan, part by part, as `gpart-dist plan` prints it; none where it cannot say.
pub fn memory_of_a_rank(program: &Path, command: &[String], ranks: usize) -> Option<String> {
    let mut asked = Command::new(program);
    asked.arg("plan").args(command).args(["--ranks", &ranks.to_string()]).stdin(Stdio::null());
    let output = asked.stderr(Stdio::null()).output().ok()?;
    memory_section(&String::from_utf8_lossy(&output.stdout))
}

/// The section of a plan that begins so, up to the next one.
fn memory_section(plan: &str) -> Option<String> {
    const TITLE: &str = "Memory of a rank";
    let mut lines = plan.lines().skip_while(|line| *line != TITLE);
    let title = lines.next()?;
    let section: Vec<&str> = lines.take_while(|line| line.starts_with(' ')).collect();
    (!section.is_empty()).then(|| format!("{title} by the plan\n{}", section.join("\n")))
}

/// The command of a rank.
pub fn of_rank(program: &Path, command: &[String]) -> Vec<OsString> {
    std::iter::once(program.into()).chain(command.iter().map(OsString::from)).collect()
}

/// The newest step in the metrics of a run's folder: a line is written once its step's state is durable.
pub fn newest_step(output: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).ok()?;
    let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
    text.lines().rev().find_map(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_a_ranks_memory_is_cut_out() {
        let plan = "Steps\n  all  3\nMemory of a rank\n  weights  3 MiB\n    inside  1 MiB\n  peak  4 MiB\nBytes\n  x\n";
        let section = "Memory of a rank by the plan\n  weights  3 MiB\n    inside  1 MiB\n  peak  4 MiB";
        assert_eq!(memory_section(plan).as_deref(), Some(section));
        assert_eq!((memory_section("Steps\n"), memory_section("Memory of a rank\n")), (None, None));
    }

    #[test]
    fn a_named_folder_is_read_from_the_table() {
        let from = "from output-root-dir and the run's name";
        let table = format!("model   m   flag\noutput  ./a b/run_d1  {from}\noutput-root-dir  x  default\n");
        assert_eq!(named_output(&table, from), Some("./a b/run_d1".into()));
        assert_eq!(named_output("output-root-dir  x  default\n", from), None);
    }

    #[test]
    fn the_newest_step_is_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_step(folder.path()), None);
        std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\": 1}\n{\"step\": 2}\n{\"st").unwrap();
        assert_eq!(newest_step(folder.path()), Some(2));
    }

    /// Its answers through a script.
    #[test]
    fn settings_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("gpart-dist");
        let script = "#!/bin/sh\ncase \"$*\" in *bad*) echo 'error: bad' >&2; exit 2;; *odd*) exit 9;; esac\n\
                      echo '{\"output\": {\"value\": \"out\", \"from\": \"flag\"}, \"pp\": {\"value\": 2, \
                      \"from\": \"flag --pp\"}, \"dp-shard\": {\"value\": 1, \"from\": \"default\"}}'\n";
        std::fs::write(&program, script).unwrap();
        rustix::fs::chmod(&program, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let ask =
            |words: &[&str]| settings(&program, &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let found = ask(&["metamath"]).unwrap();
        assert!(found.output.is_absolute() && found.output.ends_with("out"));
        assert_eq!(found.mesh, Mesh { pp: Some(2), ..Mesh::default() });
        assert!(matches!(ask(&["metamath", "bad"]), Err(LaunchError::Reported)));
        assert!(matches!(ask(&["metamath", "odd"]), Err(LaunchError::BrokenProgram { .. })));
        assert!(matches!(check_trains(&["doctor".to_owned()]), Err(LaunchError::NotTraining { .. })));
    }
}
