//! End-to-end tests: the built binary, alone and under real `mpirun`, on real files, killed for real.
//!
//! The binary is the one that `GPART_DIST` names, or `gpart-dist` beside this test's own build.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod bad_data;
mod bad_disk;
mod bad_launch;
mod bad_mesh;
mod bad_methods;
mod bad_model;
mod bad_output;
mod bad_own_data;
mod bad_settings;
mod bench_step;
mod bundle;
mod control;
mod doctor;
mod eval;
mod files;
mod golden_runs;
mod gpu_check;
mod harness;
mod hub;
mod inspect;
mod kills;
mod manual;
mod merge;
mod mesh;
mod methods;
mod nccl;
mod official_files;
mod outputs;
mod own_data;
mod planning;
mod random_model;
mod ranks;
mod real_shape;
mod reports;
mod resume;
mod score;
mod settings;
mod stops;
mod survival;
mod throughput;
mod two_hosts;
