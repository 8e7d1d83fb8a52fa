//! The launcher at work, with real mpirun and a stand-in for gpart-dist (`tests/stand_in`).

#![allow(clippy::unwrap_used, reason = "tests")]

mod ends;
mod harness;
mod memory;
mod orphans;
mod refusals;
mod shown;
mod slurm;
mod stops;
mod sweeps;
mod two_hosts;
