//! States on their way to the disk, while the next step computes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{CheckpointError, Job, Store, SystemDisk, Writer, Written, free_bytes};

use crate::TrainError;

/// So many states must fit on the disk besides those that are there, or a run does not start.
const ROOM_AT_START: u64 = 3;
/// With room for no more than so many a run says so.
const LITTLE_ROOM: u64 = 16;
/// A disk is slow when the run waits for it longer than a step over this,
const NOTICEABLE: f64 = 4.0;
/// in so many steps one after the other.
const STEPS_IN_A_ROW: u32 = 3;

/// The thread that writes a run's states, and how it gets on.
pub(crate) struct Durable {
    writer: Writer,
    /// The newest state that is on disk.
    step: u64,
    /// Bytes of a state, about.
    state_bytes: u64,
    waited: Duration,
    slow_steps: u32,
    told_of_speed: bool,
    told_of_room: bool,
}

impl Durable {
    /// Begins where the disk has the state of `step`.
    ///
    /// # Errors
    /// There is no room for a few states.
    pub(crate) fn start(store: Store, step: u64, d: usize) -> Result<Self, TrainError> {
        let state_bytes = d as u64 * 12;
        let (folder, needed) = (store.folder().to_owned(), state_bytes * ROOM_AT_START);
        if let Some(free) = free_bytes(&folder).filter(|free| *free < needed) {
            return Err(TrainError::NoRoomForStates { folder, free, needed });
        }
        let started = Writer::start(store, Arc::new(SystemDisk));
        let writer = started.map_err(|source| CheckpointError::Write { path: folder, source })?;
        let (waited, slow_steps) = (Duration::ZERO, 0);
        Ok(Self { writer, step, state_bytes, waited, slow_steps, told_of_speed: false, told_of_room: false })
    }

    /// The newest step whose state is on disk.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Begins to write a state; the one before was waited for.
    pub(crate) fn submit(&mut self, job: Job) {
        self.writer.submit(job);
    }

    /// Waits until the state under way is on disk.
    ///
    /// # Errors
    /// It could not be written; the states before it are as they were.
    pub(crate) fn wait(&mut self) -> Result<Option<Written>, TrainError> {
        let started = Instant::now();
        let written = self.writer.wait()?;
        self.waited += started.elapsed();
        if let Some(written) = &written {
            self.step = written.step;
        }
        Ok(written)
    }

    /// What is to be said of a state that was waited for before the update of a step that took `step_seconds`.
    pub(crate) fn remarks(&mut self, written: &Written, step_seconds: f64) -> Vec<String> {
        let waited = std::mem::take(&mut self.waited).as_secs_f64();
        let slow = waited * NOTICEABLE > (step_seconds - waited).max(0.0);
        self.slow_steps = if slow { self.slow_steps + 1 } else { 0 };
        let mut remarks = Vec::new();
        if self.slow_steps >= STEPS_IN_A_ROW && !std::mem::replace(&mut self.told_of_speed, true) {
            remarks.push(format!(
                "the disk is slower than the steps: a state takes {:.2} s to write, and a step of {step_seconds:.2} s waits \
                 {waited:.2} s for it; another disk helps (--output), or --checkpoint-window 0, which writes only every \
                 --save-steps and loses up to as many steps in a kill",
                written.took.as_secs_f64(),
            ));
        }
        let fits = written.free_bytes.map(|free| free / self.state_bytes.max(1));
        if let Some(fits) = fits.filter(|fits| *fits < LITTLE_ROOM)
            && !std::mem::replace(&mut self.told_of_room, true)
        {
            remarks.push(format!(
                "the disk is nearly full: {fits} more states of {:.1} MB fit where the checkpoints are; the run stops \
                 when none does, and goes on from the last one when there is room again",
                self.state_bytes as f64 / 1e6
            ));
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn durable(state_bytes: u64) -> Durable {
        let folder = tempfile::tempdir().unwrap();
        let mut durable = Durable::start(Store::new(folder.path(), 1, 1), 0, 1).unwrap();
        durable.state_bytes = state_bytes;
        durable
    }

    fn written(free_bytes: Option<u64>) -> Written {
        Written { step: 1, path: "f".into(), took: Duration::from_millis(300), free_bytes }
    }

    #[test]
    fn a_slow_disk_is_told_once_and_not_at_a_single_hiccup() {
        let mut durable = durable(12);
        let mut said = |waited: u64| {
            durable.waited = Duration::from_millis(waited);
            durable.remarks(&written(None), 0.4).len()
        };
        assert_eq!([300, 300, 10, 300, 300, 300, 300].map(&mut said), [0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn little_room_is_told_once() {
        let mut durable = durable(1000);
        let mut said = |free| durable.remarks(&written(Some(free)), 1.0);
        assert_eq!((said(16_000).len(), said(15_999).len(), said(1000).len()), (0, 1, 0));
    }

    #[test]
    fn a_run_without_room_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let much = usize::MAX >> 8;
        let started = Durable::start(Store::new(folder.path(), 1, 1), 0, much);
        assert!(matches!(started, Err(TrainError::NoRoomForStates { .. })));
    }
}
