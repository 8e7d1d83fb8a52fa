//! The output folder: its lock, `run.json`, `metrics.jsonl`, held-out losses, checkpoints, TensorBoard events.

mod copies;
mod decide;
mod durable;
mod records;

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use checkpoint::{Kept, State, StateRef, Store, write_atomic};
use comm::Communicator;
use config::{Resume, TrainConfig};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use decide::{Wanted, check_same_run, has_summary, state_to_resume};
use records::append;

pub(crate) use copies::HostCopy;
pub(crate) use records::{Records, StepState};

use crate::agree::{agree, from_first};
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
    pub(crate) records: Records,
    held_out: Vec<HeldOutLine>,
    /// Loss of the last line of the metrics.
    final_loss: Option<f64>,
    tensorboard: Option<EventFile>,
    /// The state that this start goes on from stays.
    from_permanent: bool,
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
        let store = store_of(config);
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
        if state.is_none() && made > 0 {
            let text =
                format!("no checkpoint was written yet: {made} steps are made again, from the first on");
            observe(Event::Warning(text));
        }
        let held_out = keep_until(&folder.join(HELD_OUT_FILE), step)?;
        let from_permanent = store.path_of(step, Kept::Permanent).exists();
        let (records, last) = Records::open(&folder, store, state.as_ref(), config.d)?;
        let final_loss = last.map(|metrics| metrics.loss);
        let this = Self {
            folder,
            records,
            held_out,
            final_loss,
            tensorboard,
            from_permanent,
            finished,
            _lock: lock,
        };
        Ok((this, state))
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the state that this start went on from is one that stays, with its adapter.
    pub(crate) fn began_at_one_that_stays(&self) -> bool {
        self.from_permanent
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

    /// Records a step: its line of metrics, which follows its state where there is one, and TensorBoard events.
    pub(crate) fn record(
        &mut self,
        metrics: &StepMetrics,
        state: Option<StepState>,
    ) -> Result<(), TrainError> {
        self.records.record(metrics, state)?;
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
        append_held_out(&self.folder, &line)?;
        let (step, loss) = (line.step, line.loss);
        self.held_out.push(line);
        self.scalars(step, &[("eval/loss", loss)])
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
    if state.is_none() {
        forget_unsaved(folder, identity, observe)?;
    }
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
    let is_there =
        |state: &State| Ok::<_, TrainError>(store.list()?.iter().any(|(step, _)| *step == state.step));
    if let Some(state) = state
        && !is_there(state)?
    {
        // The folder of a run that goes on from elsewhere must stand on its own.
        store.save(StateRef::from(state), Kept::Permanent)?;
    }
    Ok(())
}

/// Clears away what a run with other settings left before it had saved anything.
fn forget_unsaved(folder: &Path, identity: &Identity, observe: Observer<'_>) -> Result<(), TrainError> {
    if !matches!(check_same_run(folder, identity), Err(TrainError::SettingsChanged { .. })) {
        return Ok(());
    }
    observe(Event::Warning(
        "a run with other settings ended in this folder before it had saved anything; starting anew"
            .to_owned(),
    ));
    for name in [METRICS_FILE, HELD_OUT_FILE, RUN_FILE] {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(&path)(error)),
            _ => {}
        }
    }
    // Event files of an unfinished beginning would draw a second curve; that they stay is no harm.
    let _ = std::fs::remove_dir_all(folder.join("tensorboard"));
    Ok(())
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

fn append_held_out(folder: &Path, line: &HeldOutLine) -> Result<(), TrainError> {
    let path = folder.join(HELD_OUT_FILE);
    Ok(append(&mut open_to_append(&path)?, &path, line)?)
}

/// What [`open`] comes to on a rank.
pub(crate) struct Opened {
    /// On rank 0.
    pub output: Option<Output>,
    /// On the first ranks of hosts that do not share rank 0's folder.
    pub copy: Option<HostCopy>,
    /// Where the run goes on, on every rank.
    pub state: Option<State>,
}

/// Collective. Makes the run's folder ready: on rank 0, and on hosts that do not share it a copy. Every rank gets the state
/// to go on from.
pub(crate) fn open(
    identity: &Identity,
    total_steps: u64,
    comm: &dyn Communicator,
    observe: Observer<'_>,
) -> Result<Opened, TrainError> {
    let wanted = Wanted { identity, total_steps };
    let hosts = copies::Hosts::of(comm);
    if let Some(hosts) = hosts {
        copies::bring_home(hosts, wanted, comm)?;
    }
    let mut output = None;
    let bytes = from_first(comm, || {
        let (opened, state) = Output::open(identity, total_steps, observe)?;
        output = Some(opened);
        Ok(state.map_or_else(Vec::new, |state| StateRef::from(&state).to_bytes()))
    })?;
    let parsed = match bytes.is_empty() {
        true => Ok(None),
        false => parse_sent(&bytes, 0).map(Some),
    };
    let state = agree(comm, parsed)?;
    let copy = match hosts {
        Some(hosts) => copies::open(hosts, wanted, state.as_ref(), comm)?,
        None => None,
    };
    Ok(Opened { output, copy, state })
}

/// A state that came from another rank.
fn parse_sent(bytes: &[u8], rank: usize) -> Result<State, TrainError> {
    State::parse(bytes).map_err(|reason| {
        let path = PathBuf::from(format!("the state broadcast by rank {rank}"));
        checkpoint::CheckpointError::Damaged { path, reason }.into()
    })
}

/// The states of the run of these settings.
fn store_of(config: &TrainConfig) -> Store {
    let folder = config.output_dir().join(checkpoint::FOLDER);
    Store::new(folder, config.save_total_limit, config.checkpoint_window)
}

fn write_run(folder: &Path, identity: &Identity, facts: Value) -> Result<(), TrainError> {
    let mut run = facts;
    run["config"] = serde_json::to_value(&identity.config).expect("settings are JSON");
    run["fingerprints"] = serde_json::to_value(&identity.fingerprints).expect("hashes are JSON");
    let text = serde_json::to_string_pretty(&run).expect("a JSON value prints");
    Ok(write_atomic(&folder.join(RUN_FILE), &[text.as_bytes(), b"\n"])?)
}
