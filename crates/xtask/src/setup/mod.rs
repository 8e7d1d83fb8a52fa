//! `cargo xtask setup`: finds what the workspace needs from the system, installs what is missing, and says so.
//!
//! What the user already has wins: their MPI on PATH, their `LIBCLANG_PATH`, their `LIBTORCH`. Debian packages
//! are installed only as root or through a `sudo` that asks for nothing; nothing here waits for an answer.

mod apt;
mod libtorch;
mod nvrtc;
mod system;

use std::path::Path;
use std::time::Instant;

pub use apt::{install, is_root};
pub use libtorch::VERSION as LIBTORCH_VERSION;
pub use system::{MPI, Part};

use crate::shell::{Outcome, say};
use system::Found;

/// What set-up learnt about this machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// Variables for the programs that we start; empty on an ordinary machine.
    pub environment: Vec<(String, String)>,
    /// Whether `mpirun` is on PATH; a cluster may have only `srun`.
    pub has_mpirun: bool,
    /// Open MPI's `mpirun` knows flags that MPICH's does not.
    pub open_mpi: bool,
}

/// Finds or installs every part. Running it again on a machine that has them takes a fraction of a second.
pub fn run(root: &Path) -> Outcome<Machine> {
    let started = Instant::now();
    let mut found = look(&[]);
    if !found.missing.is_empty() {
        apt::install(&found.missing)?;
        let installed: Vec<&str> = found.missing.iter().map(|part| part.name).collect();
        found = look(&installed);
        if !found.missing.is_empty() {
            return Err(apt::still_missing(&found.missing));
        }
    }
    libtorch::ensure(root)?;
    say("setup", format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(found.machine)
}

/// Finds or fetches NVRTC, with which the CUDA kernels are tested.
pub fn nvrtc(root: &Path) -> Outcome {
    nvrtc::ensure(root)
}

/// The parts missing here, and the machine as far as it is known.
struct Look {
    missing: Vec<system::Part>,
    machine: Machine,
}

/// Looks for each part and says what it finds. After an installation only the parts `of_interest` are announced.
fn look(of_interest: &[&str]) -> Look {
    let mut seen = Look { missing: Vec::new(), machine: Machine::default() };
    for probe in [system::compiler, system::mpi, system::libclang] {
        let (part, found) = probe(&mut seen.machine);
        match found {
            Found::Yes(what) if of_interest.is_empty() || of_interest.contains(&part.name) => {
                say(part.name, format!("found {what}"));
            }
            Found::Yes(_) => {}
            Found::No(why) => {
                say(part.name, why);
                seen.missing.push(part);
            }
        }
    }
    seen
}
