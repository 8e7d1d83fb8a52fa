//! What a person sees.

use std::process::{Command, Stdio};

use crate::harness::{Scratch, launcher, stand_in, wait_until};

#[test]
fn every_line_says_whose_it_is() {
    let scratch = Scratch::new();
    let outcome = scratch.start(&["-n", "3"], &[]).finish().expect_code(0);
    for line in outcome.stdout.lines() {
        assert!((0..3).any(|rank| line.starts_with(&format!("[rank {rank}] "))), "{line:?}");
    }
    assert!(!outcome.stdout.contains("<stdout>") && !outcome.stderr.contains("<stderr>"));
}

#[test]
fn one_rank_needs_no_prefix() {
    let scratch = Scratch::new();
    let outcome = scratch.start(&[], &[]).finish().expect_code(0);
    outcome.expect_text("\nstep 10/10\n").expect_text("no GPU found: one rank").expect_no_text("[rank 0]");
}

#[test]
fn the_number_of_gpus_is_the_number_of_ranks() {
    let scratch = Scratch::new();
    let outcome = scratch.start(&[], &[("CUDA_VISIBLE_DEVICES", "0,1")]).finish().expect_code(0);
    outcome.expect_text("2 ranks, one a GPU (CUDA_VISIBLE_DEVICES)").expect_text("[rank 1] hello of 1 of 2");
}

/// Secrets are in nobody's arguments, and the endpoint's file is for this user alone.
#[test]
fn the_token_stays_secret() {
    let scratch = Scratch::new();
    let running = scratch.start(&["-n", "2"], &[("STAND_IN_STEPS", "100")]);
    wait_until(|| scratch.steps() >= 3);
    let file = scratch.output().join("control.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let endpoint: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let token = endpoint["token"].as_str().unwrap();
    assert!(token.len() > 30);
    for (pid, words) in scratch.processes() {
        assert!(!words.contains(token), "{pid}: {words}");
    }
    running.finish().expect_code(0);
}

/// On a terminal what rank 0 writes passes as it is; the others' lines are prefixed.
#[test]
fn rank_0_has_the_terminal() {
    let scratch = Scratch::new();
    let words = format!(
        "{} -n 2 --program {} -- metamath --output {}",
        launcher().display(),
        stand_in().display(),
        scratch.output().display()
    );
    // Without `script` no terminal can be made here.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words, "/dev/null"]).stdin(Stdio::null());
    let Ok(output) = script.output() else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("step 10/10\r\n") && said.contains("[rank 1] hello of 1"), "{said}");
    assert!(!said.contains("[rank 0]") && !said.contains("<stdout>"), "{said:?}");
}
