//! What steers a run from outside: signals to its processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGUSR1;
use trainer::{Control, Phase, StepReport, Wishes};

/// Wishes that came as signals. SIGUSR1, which Slurm sends ahead of the end of a job and mpirun passes to all ranks, asks
/// to stop after the step.
pub struct Steering {
    stop: Arc<AtomicBool>,
}

impl Steering {
    /// Listens from now on. Before that, the signal ends the process.
    pub fn listen() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        // The system refuses no handler for this signal.
        let _ = signal_hook::flag::register(SIGUSR1, Arc::clone(&stop));
        Self { stop }
    }
}

impl Control for Steering {
    fn phase(&self, _phase: Phase) {}

    fn step(&self, _report: &StepReport<'_>) {}

    fn wishes(&self) -> Wishes {
        Wishes { stop: self.stop.load(Ordering::Relaxed), checkpoint: false }
    }
}
