//! The output folder: its lock, `run.json`, `metrics.jsonl`, held-out losses, checkpoints, TensorBoard events.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use checkpoint::{Rejected, State, StateRef, Store, write_atomic};
use config::{Resume, TrainConfig};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::inputs::Fingerprints;
use crate::tensorboard::EventFile;
use crate::{Event, Observer, StepMetrics, TrainError};

const RUN_FILE: &str = "run.json";
const METRICS_FILE: &str = "metrics.jsonl";
const HELD_OUT_FILE: &str = "held_out.jsonl";

/// What `run.json` holds about a run's identity; the rest of the file is for people.
#[derive(Serialize, Deserialize)]
pub(crate) struct Identity {
    pub config: TrainConfig,
    pub fingerprints: Fingerprints,
}

impl Identity {
    /// What the run that `config` would resume was started with, as JSON: from the state that `--resume` names, or
    /// the `run.json` of the output folder.
    pub(crate) fn to_resume(config: &TrainConfig) -> Option<Vec<u8>> {
        match &config.resume {
            Resume::Never => None,
            Resume::Auto => std::fs::read(config.output_dir().join(RUN_FILE)).ok(),
            Resume::Path(path) => {
                let state = match path.is_dir() {
                    true => Store::of_run(path).newest().ok()?.state?.1,
                    false => State::read(path).ok()?,
                };
                serde_json::to_vec(&state.meta).ok()
            }
        }
    }
}

/// A held-out loss.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HeldOutLine {
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
    pub tokens: u64,
    /// Hash of the tokens it was measured on.
    pub data: String,
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
    /// Loss of the last line of the metrics.
    final_loss: Option<f64>,
    tensorboard: Option<EventFile>,
    /// The run had come to its end before this start, which goes on from there.
    finished: bool,
    /// Held for as long as the process lives; the system lets go of it when it dies.
    _lock: File,
}

impl Output {
    /// Locks the folder, decides whether to resume, and makes its files ready for the step after the state.
    ///
    /// # Errors
    /// The folder is taken, holds another run, or cannot be written. Whatever another run left there is as it was.
    pub(crate) fn open(
        identity: &Identity,
        total_steps: u64,
        observe: Observer<'_>,
    ) -> Result<(Self, Option<State>), TrainError> {
        let config = &identity.config;
        let folder = config.output_dir();
        let store = Store::new(folder.join(checkpoint::FOLDER), config.save_total_limit);
        // Twice: a start that is refused must not leave a trace, and only under the lock is the answer final.
        let wanted = Wanted { identity, total_steps };
        refuse_if_no_folder(&folder)?;
        state_to_resume(&folder, &store, wanted, &|_| ())?;
        make_folder(&folder)?;
        let lock = lock(&folder)?;
        let state = state_to_resume(&folder, &store, wanted, observe)?;
        settle_in(&folder, &store, identity, state.as_ref(), observe)?;
        let step = state.as_ref().map_or(0, |state| state.step);
        let finished = step == total_steps && has_summary(&folder);
        let tensorboard = match config.report_to {
            config::ReportTo::None => None,
            config::ReportTo::Tensorboard => {
                let path = folder.join("tensorboard");
                let events = EventFile::create(&path, step);
                Some(events.map_err(cannot_write(&path))?)
            }
        };
        let path = folder.join(METRICS_FILE);
        let made =
            std::fs::read(&path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
        let final_loss = keep_until::<StepMetrics>(&path, step)?.pop().map(|metrics| metrics.loss);
        if state.is_none() && made > 0 {
            let text =
                format!("no checkpoint was written yet: {made} steps are made again, from the first on");
            observe(Event::Warning(text));
        }
        let held_out = keep_until(&folder.join(HELD_OUT_FILE), step)?;
        let metrics = open_to_append(&path)?;
        let this = Self { folder, store, metrics, held_out, final_loss, tensorboard, finished, _lock: lock };
        Ok((this, state))
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The loss of the run's last step so far.
    pub(crate) fn final_loss(&self) -> Option<f64> {
        self.final_loss
    }

    /// The held-out loss after `step` on the data of this hash, if it was measured.
    pub(crate) fn held_out_at(&self, step: u64, data: &str) -> Option<f64> {
        self.held_out.iter().find(|line| line.step == step && line.data == data).map(|line| line.loss)
    }

    /// Writes `run.json`. What it says of a run that was finished stands: typing its command again changes nothing.
    pub(crate) fn write_run(&self, identity: &Identity, facts: Value) -> Result<(), TrainError> {
        match self.finished {
            true => Ok(()),
            false => write_run(&self.folder, identity, facts),
        }
    }

    /// Appends a step to the metrics and the TensorBoard events.
    pub(crate) fn record(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        append(&mut self.metrics, &self.folder.join(METRICS_FILE), metrics)?;
        self.final_loss = Some(metrics.loss);
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
        let path = self.folder.join(HELD_OUT_FILE);
        append(&mut open_to_append(&path)?, &path, &line)?;
        let (step, loss) = (line.step, line.loss);
        self.held_out.push(line);
        self.scalars(step, &[("eval/loss", loss)])
    }

    /// Saves the state.
    pub(crate) fn save(&self, state: StateRef<'_>) -> Result<PathBuf, TrainError> {
        self.metrics.sync_data().map_err(cannot_write(&self.folder.join(METRICS_FILE)))?;
        Ok(self.store.save(state)?)
    }

    /// Every step and every held-out loss so far.
    pub(crate) fn history(&self) -> Result<(Vec<StepMetrics>, &[HeldOutLine]), TrainError> {
        Ok((keep_until(&self.folder.join(METRICS_FILE), u64::MAX)?, &self.held_out))
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        let Some(writer) = &mut self.tensorboard else { return Ok(()) };
        let path = self.folder.join("tensorboard");
        writer.scalars(step, scalars).map_err(cannot_write(&path))
    }
}

/// What a state must be of.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    identity: &'a Identity,
    total_steps: u64,
}

/// The state to go on from: none for a new run.
fn state_to_resume(
    folder: &Path,
    store: &Store,
    wanted: Wanted<'_>,
    observe: Observer<'_>,
) -> Result<Option<State>, TrainError> {
    match &wanted.identity.config.resume {
        Resume::Never => refuse_if_taken(folder, store).map(|()| None),
        Resume::Auto => newest_state(folder, store, wanted, observe),
        Resume::Path(path) => {
            match folder.join(RUN_FILE).exists() {
                true => check_same_run(folder, wanted.identity)?,
                false => refuse_if_taken(folder, store)?,
            }
            state_at(path, wanted).map(Some)
        }
    }
}

/// The error of a refused write to `path`.
fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    move |source| checkpoint::CheckpointError::Write { path: path.to_owned(), source }.into()
}

/// Makes the folder this run's, ready to go on from `state`.
fn settle_in(
    folder: &Path,
    store: &Store,
    identity: &Identity,
    state: Option<&State>,
    observe: Observer<'_>,
) -> Result<(), TrainError> {
    // What says whose folder it is comes first: a kill while the model loads must leave one that the same command
    // takes up again.
    if !folder.join(RUN_FILE).exists() {
        write_run(folder, identity, json!({}))?;
    }
    checkpoint::remove_leftovers(folder);
    checkpoint::remove_leftovers(store.folder());
    let step = state.map_or(0, |state| state.step);
    let aside = store.set_aside_after(step)?;
    if let (Resume::Path(_), Some(newest)) = (&identity.config.resume, aside.last()) {
        observe(Event::Warning(format!(
            "going back to step {step}: checkpoints up to step {newest} were set aside; \
             leave --resume out to go on from the newest one"
        )));
    }
    if let Some(state) = state.filter(|state| !store.path_of(state.step).exists()) {
        // The folder of a run that goes on from elsewhere must stand on its own.
        store.save(StateRef::from(state))?;
    }
    Ok(())
}

/// Whether `run.json` has the closing summary of a run.
fn has_summary(folder: &Path) -> bool {
    let text = std::fs::read(folder.join(RUN_FILE)).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).is_ok_and(|run| run.get("summary").is_some())
}

fn refuse_if_no_folder(folder: &Path) -> Result<(), TrainError> {
    match folder.exists() && !folder.is_dir() {
        true => Err(TrainError::OutputNotAFolder { folder: folder.to_owned() }),
        false => Ok(()),
    }
}

fn make_folder(folder: &Path) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder).map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            TrainError::OutputNotAFolder { folder: folder.to_owned() }
        }
        _ => cannot_write(folder)(source),
    })
}

fn lock(folder: &Path) -> Result<File, TrainError> {
    let path = folder.join(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(cannot_write(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(TrainError::OutputLocked { folder: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(cannot_write(&path)(source)),
    }
}

/// Refuses a folder that holds a run, or the adapter of one.
fn refuse_if_taken(folder: &Path, store: &Store) -> Result<(), TrainError> {
    let is_model = folder.join("config.json").exists();
    let files = [
        RUN_FILE,
        "adapter_config.json",
        "adapter_model.safetensors",
        METRICS_FILE,
        HELD_OUT_FILE,
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let file = files.into_iter().find(|name| folder.join(name).exists());
    let checkpoint = crate::artifacts::checkpoints(folder).pop();
    let what = match file {
        Some(RUN_FILE) => "a run already".to_owned(),
        Some(name) => format!("{name} but no {RUN_FILE}: it was not made by this program"),
        None if !store.list()?.is_empty() => "checkpoints of another run".to_owned(),
        None if checkpoint.is_some() => "checkpoints of another program (checkpoint-N)".to_owned(),
        None if is_model => "a model (config.json)".to_owned(),
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
    wanted: Wanted<'_>,
    observe: Observer<'_>,
) -> Result<Option<State>, TrainError> {
    if !folder.join(RUN_FILE).exists() {
        return refuse_if_taken(folder, store).map(|()| None);
    }
    check_same_run(folder, wanted.identity)?;
    let found = store.newest()?;
    for rejected in &found.rejected {
        observe(Event::Warning(format!("{}; using the one before", rejected.reason)));
    }
    match (found.state, found.rejected.first()) {
        (Some((path, state)), _) => {
            check_state(&path, &state, wanted)?;
            Ok(Some(state))
        }
        (None, None) => Ok(None),
        (None, Some(_)) => Err(no_sound_checkpoint(store, &found.rejected)),
    }
}

fn no_sound_checkpoint(store: &Store, rejected: &[Rejected]) -> TrainError {
    TrainError::NoSoundCheckpoint {
        folder: store.folder().to_owned(),
        count: rejected.len(),
        reason: rejected.first().map_or("there is none".to_owned(), |newest| newest.reason.to_string()),
    }
}

/// The state in a file, or the newest one of a run's folder.
fn state_at(path: &Path, wanted: Wanted<'_>) -> Result<State, TrainError> {
    let (file, state) = if path.is_dir() {
        let store = Store::of_run(path);
        let found = store.newest()?;
        found.state.ok_or_else(|| no_sound_checkpoint(&store, &found.rejected))?
    } else {
        (path.to_owned(), State::read(path)?)
    };
    check_state(&file, &state, wanted)?;
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

fn check_state(path: &Path, state: &State, wanted: Wanted<'_>) -> Result<(), TrainError> {
    let damaged = |reason: String| {
        TrainError::from(checkpoint::CheckpointError::Damaged { path: path.to_owned(), reason })
    };
    let old: Identity = serde_json::from_value(state.meta.clone())
        .map_err(|e| damaged(format!("its run settings cannot be read ({e})")))?;
    compare(path, &old, wanted.identity)?;
    let (d, total) = (wanted.identity.config.d, wanted.total_steps);
    if state.theta.len() != d {
        let found = state.theta.len();
        return Err(damaged(format!("it holds {found} numbers where its settings say d = {d}")));
    }
    if state.step > total {
        return Err(damaged(format!("it is of step {} in a run of {total} steps", state.step)));
    }
    match state.meta["num_tokens"].is_u64() {
        true => Ok(()),
        false => Err(damaged("it does not say how many tokens were seen".to_owned())),
    }
}

/// Same settings and the same content: one run. Where a model or data file lies is of no matter if its content is
/// the same.
fn compare(place: &Path, old: &Identity, new: &Identity) -> Result<(), TrainError> {
    let (a, b) = (&old.fingerprints, &new.fingerprints);
    let mut changes = String::new();
    for change in config::diff_identity(&old.config, &new.config) {
        let same_content = match change.key {
            "model" => a.model == b.model,
            // The tokens and labels are the same, wherever rows and template lie.
            "data" | "template" => a.data == b.data,
            "init-adapter" => a.start == b.start,
            _ => false,
        };
        if !same_content {
            changes += &format!("\n  {}: {} → {}", change.key, change.old, change.new);
        }
    }
    let (a_start, b_start) = [a, b].map(|prints| prints.start.clone().unwrap_or("zero".to_owned())).into();
    let contents = [
        ("model", &a.model, &b.model),
        ("data", &a.data, &b.data),
        ("adapter to start from", &a_start, &b_start),
    ];
    for (what, old, new) in contents {
        if old != new {
            let short = |hash: &str| hash.chars().take(8).collect::<String>();
            changes += &format!("\n  content of the {what}: {} → {}", short(old), short(new));
        }
    }
    match changes.is_empty() {
        true => Ok(()),
        false => Err(TrainError::SettingsChanged { folder: place.to_owned(), changes }),
    }
}

/// The lines of a file up to `step`. What comes after, or was torn by a kill, is removed; the lines that stay are not
/// touched.
fn keep_until<T: Stepped>(path: &Path, step: u64) -> Result<Vec<T>, TrainError> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        read => read.map_err(cannot_write(path))?,
    };
    let mut kept = Vec::new();
    let mut raw = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        if let Some(parsed) = serde_json::from_slice::<T>(line).ok().filter(|parsed| parsed.step() <= step) {
            kept.push(parsed);
            raw.extend(line);
        }
    }
    if raw != bytes {
        write_atomic(path, &[&raw])?;
    }
    Ok(kept)
}

fn open_to_append(path: &Path) -> Result<File, TrainError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(cannot_write(path))
}

/// Adds a line, in one write.
fn append<T: Serialize>(file: &mut File, path: &Path, line: &T) -> Result<(), TrainError> {
    let mut text = serde_json::to_string(line).expect("plain structs are JSON");
    text.push('\n');
    file.write_all(text.as_bytes()).map_err(cannot_write(path))
}

fn write_run(folder: &Path, identity: &Identity, facts: Value) -> Result<(), TrainError> {
    let mut run = facts;
    run["config"] = serde_json::to_value(&identity.config).expect("settings are JSON");
    run["fingerprints"] = serde_json::to_value(&identity.fingerprints).expect("hashes are JSON");
    let text = serde_json::to_string_pretty(&run).expect("a JSON value prints");
    Ok(write_atomic(&folder.join(RUN_FILE), &[text.as_bytes(), b"\n"])?)
}
