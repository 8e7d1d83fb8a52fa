//! What a run says of itself while it goes, and what is wished of it from outside.

use crate::StepMetrics;

/// What a rank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reads inputs, weights and the state to go on from.
    Loading,
    /// Computes the micro-batches of a step.
    Computing,
    /// Waits for the disk to have the state of the step before.
    WaitingForDisk,
    /// Takes part in the reduction and makes the update.
    Updating,
    /// Records what the step came to, with the other ranks.
    Recording,
    /// Measures the held-out loss.
    Evaluating,
    /// Continues the sample prompt.
    Sampling,
    /// Writes the adapter and the summary.
    Finishing,
}

impl Phase {
    /// In a few words, as a person reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Computing => "computing",
            Self::WaitingForDisk => "waiting for the disk",
            Self::Updating => "updating",
            Self::Recording => "recording",
            Self::Evaluating => "held-out loss",
            Self::Sampling => "sampling",
            Self::Finishing => "finishing",
        }
    }
}

/// A step that was made.
#[derive(Debug, Clone, Copy)]
pub struct StepReport<'a> {
    /// What it came to.
    pub metrics: &'a StepMetrics,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The newest step whose state is on disk.
    pub durable_step: u64,
}

/// What is wished of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    /// To stop after the step, with a state to go on from.
    pub stop: bool,
    /// To keep the state and the adapter of this step.
    pub checkpoint: bool,
}

impl Wishes {
    /// As one byte, for the other ranks.
    pub(crate) fn to_byte(self) -> u8 {
        u8::from(self.stop) | u8::from(self.checkpoint) << 1
    }

    /// What any of these ranks was asked for.
    pub(crate) fn of_any(bytes: impl Iterator<Item = u8>) -> Self {
        let all = bytes.fold(0, |all, byte| all | byte);
        Self { stop: all & 1 != 0, checkpoint: all & 2 != 0 }
    }
}

/// Whoever watches and steers a run. Called on every rank between other work: nothing here blocks or fails.
pub trait Control: Sync {
    /// The rank goes over to this.
    fn phase(&self, phase: Phase);

    /// A step was made.
    fn step(&self, report: &StepReport<'_>);

    /// What was asked for since the last call.
    fn wishes(&self) -> Wishes;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_of_any_rank_counts() {
        let stop = Wishes { stop: true, checkpoint: false };
        let checkpoint = Wishes { stop: false, checkpoint: true };
        let of = |wishes: &[Wishes]| Wishes::of_any(wishes.iter().map(|wish| wish.to_byte()));
        assert_eq!(of(&[]), Wishes::default());
        assert_eq!(of(&[Wishes::default(), stop]), stop);
        assert_eq!(of(&[checkpoint, Wishes::default(), stop]), Wishes { stop: true, checkpoint: true });
    }
}
