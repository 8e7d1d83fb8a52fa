//! `bench`: how fast this machine is at what a run does.

mod kernels;
mod peers;
mod step;

use clap::Subcommand;

use crate::exit::Exit;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// Count, apply and reduce of the stateless partition: nanoseconds a weight and GB/s, beside a copy
    Kernels(kernels::KernelsArgs),
    /// Training steps of a model's shape with random weights: tokens/s, TFLOP/s, memory, time by part, beside peers
    Step(Box<step::StepArgs>),
}

/// Runs a `bench` command.
pub fn bench(what: &Bench) -> Exit {
    match what {
        Bench::Kernels(args) => kernels::run(args),
        Bench::Step(args) => step::run(args),
    }
}
