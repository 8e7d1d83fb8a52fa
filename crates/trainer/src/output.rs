//! The output folder: its lock, `run.json`, `metrics.jsonl`, held-out losses, checkpoints, TensorBoard events.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use checkpoint::{State, StateRef, Store, write_atomic};
use config::{Resume, TrainConfig};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::inputs::Fingerprints;
use crate::tensorboard::EventFile;
use crate::{Event, Observer, StepMetrics, TrainError};

const RUN_FILE: &str = "run.json";
const METRICS_FILE: &str = "metrics.jsonl";
const HELD_OUT_FILE: &str = "held_out.jsonl";
const CHECKPOINT_FOLDER: &str = "checkpoints";

/// What `run.json` holds about a run's identity; the rest of the file is for people.
#[derive(Serialize, Deserialize)]
pub(crate) struct Identity {
    pub config: TrainConfig,
    pub fingerprints: Fingerprints,
}

impl Identity {
    /// The bytes of the `run.json` in an output folder, if there is one.
    pub(crate) fn stored_in(folder: &Path) -> Option<Vec<u8>> {
        std::fs::read(folder.join(RUN_FILE)).ok()
    }
}

/// A held-out loss.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HeldOutLine {
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
    pub tokens: u64,
}

trait Stepped: Serialize + DeserializeOwned {
    fn step(&self) -> u64;
}

impl Stepped for StepMetrics {
    fn step(&self) -> u64 {
        self.step
    }
}

impl Stepped for HeldOutLine {
    fn step(&self) -> u64 {
        self.step
    }
}

/// The output folder of a run, held by rank 0.
pub(crate) struct Output {
    folder: PathBuf,
    store: Store,
    metrics: File,
    held_out: Vec<HeldOutLine>,
    last_metrics: Option<StepMetrics>,
    tensorboard: Option<EventFile>,
    /// Held for as long as the process lives; the system lets go of it when it dies.
    _lock: File,
}

impl Output {
    /// Locks the folder, decides whether to resume, and makes its files ready for the step after the state.
    ///
    /// # Errors
    /// The folder is taken, holds another run, or cannot be written. Nothing that was there is changed then.
    pub(crate) fn open(
        identity: &Identity,
        observe: Observer<'_>,
    ) -> Result<(Self, Option<State>), TrainError> {
        let config = &identity.config;
        let folder = config.output_dir();
        let write_error = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Write { path, source }
        };
        std::fs::create_dir_all(&folder).map_err(write_error(&folder))?;
        let lock = lock(&folder)?;
        let store = Store::new(folder.join(CHECKPOINT_FOLDER), config.save_total_limit);
        let state = match &config.resume {
            Resume::Never => refuse_if_taken(&folder, &store).map(|()| None)?,
            Resume::Auto => newest_state(&folder, &store, identity, observe)?,
            Resume::Path(path) => {
                if folder.join(RUN_FILE).exists() {
                    check_same_run(&folder, identity)?;
                } else {
                    refuse_if_taken(&folder, &store)?;
                }
                Some(state_at(path, identity)?)
            }
        };
        store.remove_leftovers();
        let step = state.as_ref().map_or(0, |state| state.step);
        let metrics: Vec<StepMetrics> = keep_until(&folder.join(METRICS_FILE), step)?;
        let held_out = keep_until(&folder.join(HELD_OUT_FILE), step)?;
        let path = folder.join(METRICS_FILE);
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(write_error(&path))?;
        let tensorboard = match config.report_to {
            config::ReportTo::None => None,
            config::ReportTo::Tensorboard => {
                let path = folder.join("tensorboard");
                Some(EventFile::create(&path).map_err(write_error(&path))?)
            }
        };
        let last_metrics = metrics.into_iter().last();
        let this = Self { folder, store, metrics: file, held_out, last_metrics, tensorboard, _lock: lock };
        Ok((this, state))
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last line of the metrics.
    pub(crate) fn last_metrics(&self) -> Option<&StepMetrics> {
        self.last_metrics.as_ref()
    }

    /// Held-out losses so far, by step.
    pub(crate) fn held_out(&self) -> &[HeldOutLine] {
        &self.held_out
    }

    /// Writes `run.json`.
    pub(crate) fn write_run(&self, identity: &Identity, facts: Value) -> Result<(), TrainError> {
        let mut run = facts;
        run["config"] = serde_json::to_value(&identity.config).unwrap_or_default();
        run["fingerprints"] = serde_json::to_value(&identity.fingerprints).unwrap_or_default();
        let text = serde_json::to_string_pretty(&run).unwrap_or_default();
        Ok(write_atomic(&self.folder.join(RUN_FILE), &[text.as_bytes(), b"\n"])?)
    }

    /// Appends a step to the metrics and the TensorBoard events.
    pub(crate) fn record(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let path = self.folder.join(METRICS_FILE);
        let mut line = serde_json::to_string(metrics).unwrap_or_default();
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(|source| TrainError::Write { path, source })?;
        self.last_metrics = Some(metrics.clone());
        self.scalars(
            metrics.step,
            &[
                ("train/loss", metrics.loss),
                ("train/grad_norm", metrics.grad_norm),
                ("train/learning_rate", metrics.learning_rate),
                ("train/epoch", metrics.epoch),
                ("train/tokens_per_second", metrics.tokens_per_second),
            ],
        )
    }

    /// Appends a held-out loss, unless this step has one.
    pub(crate) fn record_held_out(&mut self, line: HeldOutLine) -> Result<(), TrainError> {
        self.held_out.push(line);
        write_lines(&self.folder.join(HELD_OUT_FILE), &self.held_out)?;
        self.scalars(line.step, &[("eval/loss", line.loss)])
    }

    /// Saves the state.
    pub(crate) fn save(&self, state: StateRef<'_>) -> Result<PathBuf, TrainError> {
        self.metrics
            .sync_data()
            .map_err(|source| TrainError::Write { path: self.folder.join(METRICS_FILE), source })?;
        Ok(self.store.save(state)?)
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        let Some(writer) = &mut self.tensorboard else { return Ok(()) };
        let path = self.folder.join("tensorboard");
        writer.scalars(step, scalars).map_err(|source| TrainError::Write { path, source })
    }
}

fn lock(folder: &Path) -> Result<File, TrainError> {
    let path = folder.join(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| TrainError::Write { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(TrainError::OutputLocked { folder: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(TrainError::Write { path, source }),
    }
}

/// Refuses a folder that holds a run, or the adapter of one.
fn refuse_if_taken(folder: &Path, store: &Store) -> Result<(), TrainError> {
    let files = [RUN_FILE, "adapter_config.json", "adapter_model.safetensors", METRICS_FILE, HELD_OUT_FILE];
    let file = files.into_iter().find(|name| folder.join(name).exists());
    let what = match file {
        Some(RUN_FILE) => "another run".to_owned(),
        Some(name) => format!("{name} but no {RUN_FILE}: it was not made by this program"),
        None if !store.list()?.is_empty() => "checkpoints of another run".to_owned(),
        None => return Ok(()),
    };
    Err(TrainError::OutputTaken {
        folder: folder.to_owned(),
        what,
        hint:
            "choose another folder with --output; with --resume auto the same command continues its own run"
                .to_owned(),
    })
}

fn newest_state(
    folder: &Path,
    store: &Store,
    identity: &Identity,
    observe: Observer<'_>,
) -> Result<Option<State>, TrainError> {
    if !folder.join(RUN_FILE).exists() {
        return refuse_if_taken(folder, store).map(|()| None);
    }
    check_same_run(folder, identity)?;
    let found = store.newest()?;
    for rejected in &found.rejected {
        observe(Event::Warning(format!("{}; using the one before", rejected.reason)));
    }
    match (found.state, found.rejected.first()) {
        (Some((path, state)), _) => {
            check_state(&path, &state, identity)?;
            Ok(Some(state))
        }
        (None, None) => Ok(None),
        (None, Some(newest)) => Err(TrainError::NoSoundCheckpoint {
            folder: store.folder().to_owned(),
            count: found.rejected.len(),
            reason: newest.reason.to_string(),
        }),
    }
}

/// The state in a file, or the newest one of a run's folder.
fn state_at(path: &Path, identity: &Identity) -> Result<State, TrainError> {
    let (file, state) = if path.is_dir() {
        let inner = path.join(CHECKPOINT_FOLDER);
        let store = Store::new(if inner.is_dir() { inner } else { path.to_owned() }, 1);
        let found = store.newest()?;
        found.state.ok_or_else(|| TrainError::NoSoundCheckpoint {
            folder: store.folder().to_owned(),
            count: found.rejected.len(),
            reason: found.rejected.first().map_or("there is none".to_owned(), |r| r.reason.to_string()),
        })?
    } else {
        (path.to_owned(), State::read(path)?)
    };
    check_state(&file, &state, identity)?;
    Ok(state)
}

fn check_same_run(folder: &Path, identity: &Identity) -> Result<(), TrainError> {
    let path = folder.join(RUN_FILE);
    let foreign = |reason: String| TrainError::OutputTaken {
        folder: folder.to_owned(),
        what: format!("a {RUN_FILE} that this version cannot read ({reason})"),
        hint: "choose another folder with --output".to_owned(),
    };
    let text = std::fs::read_to_string(&path).map_err(|e| foreign(e.to_string()))?;
    let old: Identity = serde_json::from_str(&text).map_err(|e| foreign(e.to_string()))?;
    compare(folder, &old, identity)
}

fn check_state(path: &Path, state: &State, identity: &Identity) -> Result<(), TrainError> {
    let old: Identity = serde_json::from_value(state.meta.clone()).map_err(|e| {
        let reason = format!("its run settings cannot be read ({e})");
        checkpoint::CheckpointError::Damaged { path: path.to_owned(), reason }
    })?;
    compare(path, &old, identity)
}

/// Same settings and the same content: one run. Where a model or data file lies is of no matter if its content is
/// the same.
fn compare(place: &Path, old: &Identity, new: &Identity) -> Result<(), TrainError> {
    let (a, b) = (&old.fingerprints, &new.fingerprints);
    let mut changes = String::new();
    for change in config::diff_identity(&old.config, &new.config) {
        let same_content = match change.key {
            "model" => a.model == b.model,
            "data" => a.data == b.data,
            _ => false,
        };
        if !same_content {
            changes += &format!("\n  {}: {} → {}", change.key, change.old, change.new);
        }
    }
    for (what, old, new) in [("model", &a.model, &b.model), ("data", &a.data, &b.data)] {
        if old != new {
            changes += &format!("\n  content of the {what}: {old} → {new}");
        }
    }
    match changes.is_empty() {
        true => Ok(()),
        false => Err(TrainError::SettingsChanged { folder: place.to_owned(), changes }),
    }
}

/// The lines of a file up to `step`. What comes after, or was torn by a kill, is removed from the file.
fn keep_until<T: Stepped>(path: &Path, step: u64) -> Result<Vec<T>, TrainError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TrainError::Write { path: path.to_owned(), source }),
    };
    let lines = BufReader::new(file).split(b'\n');
    let kept: Vec<T> = lines
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_slice::<T>(&line).ok())
        .filter(|line| line.step() <= step)
        .collect();
    write_lines(path, &kept)?;
    Ok(kept)
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<(), TrainError> {
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
    }
    Ok(write_atomic(path, &[text.as_bytes()])?)
}
