//! What a run says of itself while it goes, and what is wished of it from outside.

use comm::Traffic;
use config::LogLevel;

use crate::StepMetrics;

/// What a rank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reads inputs, weights and the state to go on from.
    Loading,
    /// Computes forward of a step's micro-batches.
    Forward,
    /// Computes their backward.
    Backward,
    /// Waits for the disk to have the state of the step before.
    WaitingForDisk,
    /// Takes part in the reduction of the gradient.
    Reducing,
    /// Records what the step came to, with the other ranks.
    Recording,
    /// Measures the held-out loss.
    Evaluating,
    /// Continues the sample prompt.
    Sampling,
    /// Writes the adapter and the summary.
    Finishing,
}

/// A step that was made.
#[derive(Debug, Clone, Copy)]
pub struct StepReport<'a> {
    /// What it came to.
    pub metrics: &'a StepMetrics,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The newest step whose state is on disk; none on a rank that writes none.
    pub durable_step: Option<u64>,
    /// What this rank has moved and waited for since the start, by axis and operation.
    pub traffic: &'a [Traffic],
}

/// What is wished of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    /// To stop after the step, with a state to go on from.
    pub stop: bool,
    /// To keep the state and the adapter of this step.
    pub checkpoint: bool,
    /// To log from this level on.
    pub log_level: Option<LogLevel>,
}

/// In the order of the byte that says them, from 1.
const LEVELS: [LogLevel; 5] =
    [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

impl Wishes {
    /// As one byte, for the other ranks.
    pub(crate) fn to_byte(self) -> u8 {
        u8::from(self.stop) | u8::from(self.checkpoint) << 1 | number_of(self.log_level) << 2
    }

    /// What any of these ranks was asked for; the most talkative level where several were.
    pub(crate) fn of_any(bytes: impl Iterator<Item = u8>) -> Self {
        let (all, level) = bytes.fold((0, 0), |(all, level), byte| (all | byte, level.max(byte >> 2)));
        let log_level = LEVELS.get(usize::from(level).wrapping_sub(1)).copied();
        Self { stop: all & 1 != 0, checkpoint: all & 2 != 0, log_level }
    }
}

/// A level's place in [`LEVELS`], from 1; 0 for none.
fn number_of(level: Option<LogLevel>) -> u8 {
    LEVELS.iter().position(|each| Some(*each) == level).map_or(0, |at| at as u8 + 1)
}

/// Whoever watches and steers a run. Called on every rank between other work: nothing here blocks or fails.
pub trait Control: Sync {
    /// The rank goes over to this.
    fn phase(&self, phase: Phase);

    /// A step was made.
    fn step(&self, report: &StepReport<'_>);

    /// What this rank was asked for since the last call.
    fn wishes(&self) -> Wishes;

    /// What any rank was asked for; it is done after this step.
    fn granted(&self, wishes: Wishes);
}

/// Nobody.
#[derive(Debug, Clone, Copy)]
pub struct Uncontrolled;

impl Control for Uncontrolled {
    fn phase(&self, _phase: Phase) {}

    fn step(&self, _report: &StepReport<'_>) {}

    fn wishes(&self) -> Wishes {
        Wishes::default()
    }

    fn granted(&self, _wishes: Wishes) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_of_any_rank_counts() {
        let none = Wishes::default();
        let stop = Wishes { stop: true, ..none };
        let checkpoint = Wishes { checkpoint: true, ..none };
        let level = |level| Wishes { log_level: Some(level), ..none };
        let of = |wishes: &[Wishes]| Wishes::of_any(wishes.iter().map(|wish| wish.to_byte()));
        assert_eq!((of(&[]), of(&[none, stop])), (none, stop));
        let all = Wishes { stop: true, checkpoint: true, log_level: Some(LogLevel::Debug) };
        assert_eq!(of(&[checkpoint, none, level(LogLevel::Debug), level(LogLevel::Warn), stop]), all);
        LEVELS.iter().for_each(|each| assert_eq!(of(&[level(*each)]), level(*each)));
    }
}
