//! Batch scripts under a real Slurm, which a script starts for the length of the test.

use std::path::Path;
use std::process::Command;

use crate::harness::{launcher, stand_in};

/// What the script ends with where Slurm is not installed.
const SKIPPED: i32 = 77;

/// A minute, root, and ports of its own: with the long tests.
#[test]
#[ignore = "starts a Slurm on this machine"]
fn a_preempted_job_comes_to_the_same_numbers() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm_on_one_machine.sh");
    let mut command = Command::new(script);
    command.arg(launcher()).arg(stand_in()).arg("metamath");
    command.envs([("STAND_IN_STEPS", "60"), ("STAND_IN_MILLISECONDS", "100")]);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if output.status.code() == Some(SKIPPED) {
        #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
        {
            eprintln!("{said}");
        }
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["was queued again after step", "no rank is left", "both runs, one of them preempted"] {
        assert!(said.contains(part), "{said}");
    }
}
