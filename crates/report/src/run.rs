//! A run's folder as far as it is there.

use std::fs;
use std::path::{Path, PathBuf};

use adapter::{ADAPTER_FILES, Adapter};
use serde::de::DeserializeOwned;

use crate::facts::{Facts, HeldOut, Step};
use crate::{Evaluation, ReportError};

/// What is known of a run. Whatever is missing or damaged is said in `notes`; the rest is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// The folder's name.
    pub name: String,
    /// How far the run came.
    pub status: Status,
    /// `run.json`.
    pub facts: Option<Facts>,
    /// `metrics.jsonl`, by step.
    pub steps: Vec<Step>,
    /// `held_out.jsonl`, by step.
    pub held_out: Vec<HeldOut>,
    /// The adapter, of the run's end or of its newest checkpoint.
    pub adapter: Option<Adapter>,
    /// Bytes of the adapter's two files.
    pub adapter_bytes: Option<u64>,
    /// Evaluations in the folder, and those that were given beside it.
    pub evaluations: Vec<Evaluation>,
    /// What is missing, damaged or odd, in sentences without a final period.
    pub notes: Vec<String>,
}

/// How far a run came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// All its steps, with a summary.
    Finished,
    /// It was killed, stopped or still runs; or its files cannot be read. With the reason.
    Unfinished(String),
    /// An adapter without a record of its training, such as one of the official scripts.
    AdapterOnly,
}

impl Run {
    /// Reads what is in a run's folder.
    ///
    /// # Errors
    /// [`ReportError::NotARun`] when nothing of a run is there. A file that is missing or damaged is a note of the run.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let refused = |reason: String| ReportError::NotARun { folder: folder.to_owned(), reason };
        if !folder.is_dir() {
            let reason = if folder.exists() { "it is a file" } else { "there is no such folder" };
            return Err(refused(reason.to_owned()));
        }
        if !is_run(folder) {
            return Err(refused(
                "it holds none of run.json, metrics.jsonl and adapter_config.json".to_owned(),
            ));
        }
        let mut notes = Vec::new();
        let facts = read_facts(folder, &mut notes);
        let steps: Vec<Step> = read_lines(folder, "metrics.jsonl", &mut notes);
        let mut held_out_notes = Vec::new();
        let held_out = read_lines(folder, "held_out.jsonl", &mut held_out_notes);
        if !held_out.is_empty() || facts.as_ref().is_none_or(Facts::has_held_out_data) {
            notes.extend(held_out_notes);
        }
        let (adapter, adapter_bytes) = read_adapter(folder, &mut notes);
        let evaluations = read_evaluations(folder, &mut notes);
        let mut run = Self {
            name: name_of(folder),
            folder: folder.to_owned(),
            status: Status::Finished,
            facts,
            steps,
            held_out,
            adapter,
            adapter_bytes,
            evaluations,
            notes,
        };
        run.settle_status();
        Ok(run)
    }

    /// The length of θ.
    pub fn d(&self) -> Option<u64> {
        let configured = self.facts.as_ref().and_then(Facts::d);
        configured.or_else(|| self.adapter.as_ref().map(|adapter| adapter.config.d))
    }

    /// The model as it was named.
    pub fn model(&self) -> Option<&str> {
        let configured = self.facts.as_ref().and_then(|facts| facts.text("model"));
        let named = || self.adapter.as_ref().and_then(|a| a.config.base_model_name_or_path.as_deref());
        configured.or_else(named)
    }

    /// Loss of the last step: the summary's, or the last line's.
    pub fn final_loss(&self) -> Option<f64> {
        let summary = self.facts.as_ref().and_then(|facts| facts.summary.as_ref());
        summary.and_then(|s| s.final_loss).or_else(|| self.steps.last().and_then(|step| step.loss))
    }

    /// Held-out loss before the first step and the newest one after it.
    pub fn held_out_losses(&self) -> (Option<f64>, Option<f64>) {
        let before = self.held_out.iter().find(|line| line.step == 0).and_then(|line| line.loss);
        let after = self.held_out.iter().rev().find(|line| line.step > 0).and_then(|line| line.loss);
        let summary = self.facts.as_ref().and_then(|facts| facts.summary.as_ref());
        (
            before.or_else(|| summary.and_then(|s| s.held_out_before)),
            summary.and_then(|s| s.held_out_after).or(after),
        )
    }

    /// How many steps were made.
    pub fn steps_made(&self) -> Option<u64> {
        let summary = self.facts.as_ref().and_then(|facts| facts.summary.as_ref());
        summary.and_then(|s| s.steps).or_else(|| self.steps.last().map(|step| step.step))
    }

    /// Seconds in all steps together.
    pub fn step_seconds(&self) -> f64 {
        self.steps.iter().filter_map(|step| step.step_seconds).sum()
    }

    fn settle_status(&mut self) {
        let has_run_json = self.folder.join("run.json").exists();
        self.status = match &self.facts {
            Some(facts) if facts.summary.is_some() => Status::Finished,
            Some(facts) => {
                let at = self.steps.last().map_or(0, |step| step.step);
                let of = facts.total_steps.map(|total| format!(" of {total}")).unwrap_or_default();
                Status::Unfinished(format!(
                    "no summary: it was killed, stopped or still runs after step {at}{of}"
                ))
            }
            None if has_run_json => Status::Unfinished("run.json cannot be read".to_owned()),
            None if self.steps.is_empty() && self.adapter.is_some() => Status::AdapterOnly,
            None => Status::Unfinished("there is no run.json".to_owned()),
        };
        if self.status == Status::AdapterOnly {
            self.notes.retain(|note| !note.ends_with(" is missing"));
            self.notes.push("an adapter alone: there is no record of its training".to_owned());
        } else if self.facts.is_none() && !has_run_json {
            self.notes.push("run.json is missing: settings, mesh and versions are unknown".to_owned());
        }
    }
}

/// Runs and evaluations of a folder.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Every run, by path.
    pub runs: Vec<Run>,
    /// Evaluations outside of runs' folders, such as one of the base model.
    pub evaluations: Vec<Evaluation>,
    /// Files and folders that could not be read, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Walks a folder for runs, into everything but hidden folders, links and the folders of runs.
///
/// # Errors
/// [`ReportError::Read`] when the folder itself cannot be read; one further down is named in the result.
/// [`ReportError::NothingFound`] when there is neither a run nor an evaluation.
pub fn discover(folder: &Path) -> Result<Found, ReportError> {
    let mut found = Found::default();
    let read = |source| ReportError::Read { path: folder.to_owned(), source };
    fs::read_dir(folder).map_err(read)?;
    walk(folder, &mut found);
    found.evaluations = crate::attach(&mut found.runs, std::mem::take(&mut found.evaluations));
    if found.runs.is_empty() && found.evaluations.is_empty() && found.unreadable.is_empty() {
        return Err(ReportError::NothingFound { folder: folder.to_owned() });
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut Found) {
    if is_run(folder) {
        match Run::read(folder) {
            Ok(run) => found.runs.push(run),
            Err(error) => found.unreadable.push((folder.to_owned(), error.to_string())),
        }
        return;
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return found.unreadable.push((folder.to_owned(), error.to_string())),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_dir() && !path.is_symlink() {
            walk(&path, found);
        } else if path.is_file() && Evaluation::has_usual_name(&path) {
            match Evaluation::read(&path) {
                Ok(evaluation) => found.evaluations.push(evaluation),
                Err(error) => found.unreadable.push((path, error.to_string())),
            }
        }
    }
}

/// Whether a folder holds a file by which runs are known.
fn is_run(folder: &Path) -> bool {
    ["run.json", "metrics.jsonl", "adapter_config.json"].iter().any(|name| folder.join(name).is_file())
}

pub(crate) fn name_of(folder: &Path) -> String {
    let resolved = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    resolved
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn read_facts(folder: &Path, notes: &mut Vec<String>) -> Option<Facts> {
    let path = folder.join("run.json");
    if !path.exists() {
        return None;
    }
    let parsed = fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    parsed.map_err(|reason| notes.push(format!("run.json cannot be read: {reason}"))).ok()
}

/// The lines of a file that can be read. A last line without its end is one that was being written when the run died.
fn read_lines<T: DeserializeOwned + Numbered>(folder: &Path, name: &str, notes: &mut Vec<String>) -> Vec<T> {
    let text = match fs::read(folder.join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            notes.push(format!("{name} is missing"));
            return Vec::new();
        }
        Err(error) => {
            notes.push(format!("{name} cannot be read: {error}"));
            return Vec::new();
        }
    };
    let (mut lines, mut bad): (Vec<T>, Vec<(usize, String)>) = Default::default();
    let count = text.split_inclusive(|byte| *byte == b'\n').count();
    for (at, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(parsed) => lines.push(parsed),
            Err(_) if at + 1 == count && !line.ends_with(b"\n") => {
                notes.push(format!("{name}: line {count} is cut and left out"));
            }
            Err(error) => bad.push((at + 1, error.to_string())),
        }
    }
    if let Some((line, reason)) = bad.first() {
        let more = if bad.len() > 1 { format!(", and {} more lines", bad.len() - 1) } else { String::new() };
        notes.push(format!("{name}: line {line} is damaged and left out ({reason}){more}"));
    }
    // A run that was resumed by hand may repeat steps: the later line counts.
    lines.sort_by_key(Numbered::step);
    lines.reverse();
    lines.dedup_by_key(|line| line.step());
    lines.reverse();
    if lines.is_empty() && bad.is_empty() {
        notes.push(format!("{name} holds no line"));
    }
    lines
}

/// A line that belongs to a step.
pub(crate) trait Numbered {
    fn step(&self) -> u64;
}

fn read_adapter(folder: &Path, notes: &mut Vec<String>) -> (Option<Adapter>, Option<u64>) {
    let complete = |folder: &Path| ADAPTER_FILES.iter().all(|name| folder.join(name).is_file());
    let (place, of) = if complete(folder) {
        (folder.to_owned(), None)
    } else if let Some((step, place)) = newest_checkpoint(folder, complete) {
        (place, Some(step))
    } else {
        notes.push("there is no adapter yet".to_owned());
        return (None, None);
    };
    match Adapter::read(&place) {
        Ok(adapter) => {
            if let Some(step) = of {
                notes
                    .push(format!("the adapter is that of checkpoint-{step}: the run wrote none at its end"));
            }
            let size = |name: &&str| fs::metadata(place.join(name)).map_or(0, |metadata| metadata.len());
            (Some(adapter), Some(ADAPTER_FILES.iter().map(size).sum()))
        }
        Err(error) => {
            notes.push(format!("the adapter cannot be read: {error}"));
            (None, None)
        }
    }
}

fn newest_checkpoint(folder: &Path, complete: impl Fn(&Path) -> bool) -> Option<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let numbered = entries.filter_map(|entry| {
        let step = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        Some((step, entry.path()))
    });
    numbered.filter(|(_, path)| complete(path)).max()
}

fn read_evaluations(folder: &Path, notes: &mut Vec<String>) -> Vec<Evaluation> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| Evaluation::has_usual_name(path)).collect();
    files.sort();
    let mut evaluations = Vec::new();
    for file in files {
        match Evaluation::read(&file) {
            Ok(evaluation) => {
                let name = name_of(&file);
                notes.extend(evaluation.notes.iter().map(|note| format!("{name}: {note}")));
                evaluations.push(evaluation);
            }
            Err(ReportError::Evaluation { reason, .. }) => {
                notes.push(format!("{} is not a file of evaluation results: {reason}", name_of(&file)));
            }
            Err(error) => notes.push(error.to_string()),
        }
    }
    evaluations
}

#[cfg(test)]
mod tests;
