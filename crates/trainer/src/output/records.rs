//! States and lines of metrics in one folder, a state before its line.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::{CheckpointError, Job, Kept, State, Store, Vectors, Written};
use serde::Serialize;
use serde_json::Value;

use super::durable::Durable;
use super::{METRICS_FILE, keep_until, open_to_append};
use crate::{StepMetrics, TrainError};

/// The step's line of metrics, in the meta of its state.
const METRICS_KEY: &str = "metrics";

/// The state after a step, to be written.
pub(crate) struct StepState {
    pub vectors: Arc<Vectors>,
    /// Settings, fingerprints and what else is to be known when it is read.
    pub meta: Value,
    pub kept: Kept,
}

/// What grows with every step.
pub(crate) struct Records {
    path: PathBuf,
    metrics: File,
    durable: Durable,
}

impl Records {
    /// Goes on after `state`: later lines of metrics go, and the state's own, if a kill came before it, is added. Returns the
    /// last line as well.
    ///
    /// # Errors
    /// The folder cannot be written, or has no room.
    pub(super) fn open(
        folder: &Path,
        store: Store,
        state: Option<&State>,
        d: usize,
    ) -> Result<(Self, Option<StepMetrics>), TrainError> {
        let path = folder.join(METRICS_FILE);
        let step = state.map_or(0, |state| state.step);
        let mut last = keep_until::<StepMetrics>(&path, step)?.pop();
        let mut metrics = open_to_append(&path)?;
        if let Some(line) = state.and_then(|state| missing_line(state, last.as_ref())) {
            append(&mut metrics, &path, &line)?;
            last = Some(line);
        }
        let durable = Durable::start(store, step, d)?;
        Ok((Self { path, metrics, durable }, last))
    }

    /// Records a step: its line, after its state where there is one.
    pub(crate) fn record(&mut self, line: &StepMetrics, state: Option<StepState>) -> Result<(), TrainError> {
        let Some(StepState { vectors, mut meta, kept }) = state else {
            return Ok(append(&mut self.metrics, &self.path, line)?);
        };
        // A kill between the two must not cost the line.
        meta[METRICS_KEY] = serde_json::to_value(line).expect("plain structs are JSON");
        let refused = |source| CheckpointError::Write { path: self.path.clone(), source };
        let (mut file, path) = (self.metrics.try_clone().map_err(refused)?, self.path.clone());
        let (step, line) = (line.step, line.clone());
        let then = Box::new(move || {
            append(&mut file, &path, &line)?;
            file.sync_data().map_err(|source| CheckpointError::Write { path, source })
        });
        self.durable.submit(Job { step, vectors, meta, kept, then });
        Ok(())
    }

    /// Waits until the last state is on disk.
    pub(crate) fn settle(&mut self) -> Result<Option<Written>, TrainError> {
        self.durable.wait()
    }

    /// What is to be said of a state that a step of so many seconds waited for.
    pub(crate) fn remarks(&mut self, written: &Written, step_seconds: f64) -> Vec<String> {
        self.durable.remarks(written, step_seconds)
    }

    /// The newest step whose state is on disk.
    pub(crate) fn durable_step(&self) -> u64 {
        self.durable.step()
    }
}

/// Adds a line, in one write.
pub(super) fn append<T: Serialize>(file: &mut File, path: &Path, line: &T) -> Result<(), CheckpointError> {
    let mut text = serde_json::to_string(line).expect("plain structs are JSON");
    text.push('\n');
    let refused = |source| CheckpointError::Write { path: path.to_owned(), source };
    file.write_all(text.as_bytes()).map_err(refused)
}

/// The line of the state's step, where a kill came between the two.
fn missing_line(state: &State, last: Option<&StepMetrics>) -> Option<StepMetrics> {
    let line: StepMetrics = serde_json::from_value(state.meta.get(METRICS_KEY)?.clone()).ok()?;
    // In the folder of a run that began elsewhere there is nothing to go on from.
    (line.step == state.step && last.map_or(0, |last| last.step) + 1 == line.step).then_some(line)
}
