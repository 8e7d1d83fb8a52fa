//! Whether a folder is this run's, another's, or nobody's, and from which state the run goes on.

use std::path::Path;

use checkpoint::{Rejected, State, Store};
use config::Resume;
use serde_json::Value;

use super::{HELD_OUT_FILE, Identity, METRICS_FILE, RUN_FILE};
use crate::{Event, Observer, TrainError, artifacts};

/// What a state must be of.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub identity: &'a Identity,
    pub total_steps: u64,
}

/// The state to go on from: none for a new run.
pub(super) fn state_to_resume(
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

/// Whether a run has left anything in its folder that another one would put an end to.
fn has_saved(folder: &Path, store: &Store) -> Result<bool, TrainError> {
    let adapter = folder.join("adapter_model.safetensors").exists();
    let found = store.newest()?;
    Ok(adapter
        || found.state.is_some()
        || !found.rejected.is_empty()
        || !artifacts::checkpoints(folder).is_empty())
}

/// Whether `run.json` has the closing summary of a run.
pub(super) fn has_summary(folder: &Path) -> bool {
    let text = std::fs::read(folder.join(RUN_FILE)).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).is_ok_and(|run| run.get("summary").is_some())
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
    let checkpoint = artifacts::checkpoints(folder).pop();
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
    match check_same_run(folder, wanted.identity) {
        // Nothing is lost: it is begun anew.
        Err(TrainError::SettingsChanged { .. }) if !has_saved(folder, store)? => return Ok(None),
        verdict => verdict?,
    }
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

pub(super) fn check_same_run(folder: &Path, identity: &Identity) -> Result<(), TrainError> {
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
