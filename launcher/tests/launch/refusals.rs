//! Starts that are refused: one message, a hint, exit 2, and nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Outcome, Running, Scratch, launcher, wait_until};

#[track_caller]
fn refused(scratch: &Scratch, command: Command, text: &str) {
    let outcome = Running::start(command).finish().expect_code(2).expect_text(text).expect_text("hint: ");
    assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{}", outcome.stderr);
    assert!(!scratch.output().exists(), "{text}: the output folder was made");
}

#[test]
fn a_second_launcher() {
    let scratch = Scratch::new();
    let requests = [("STAND_IN_STEPS", "1000")];
    let first = scratch.start(&["-n", "2"], &requests);
    wait_until(|| scratch.steps() >= 3);
    let second: Outcome = scratch.start(&["-n", "2"], &requests).finish().expect_code(2);
    second.expect_text("another gpart-launch is at work on").expect_text("hint: ");
    let seen = scratch.steps();
    wait_until(|| scratch.steps() > seen + 3);
    assert!(scratch.output().join("control.json").exists());
    first.signal(Signal::TERM);
    first.finish().expect_code(75);
    // A lock of a launcher that was killed holds nobody up.
    let killed = scratch.start(&["-n", "2"], &requests);
    wait_until(|| scratch.steps() > seen + 20);
    killed.signal(Signal::KILL);
    scratch.expect_no_process_within(std::time::Duration::from_secs(5));
    drop(killed);
    let mut third = scratch.start(&["-n", "2"], &requests);
    let seen = scratch.steps();
    third.until(|| scratch.steps() > seen + 3);
    third.signal(Signal::TERM);
    third.finish().expect_code(75);
}

#[test]
fn hosts_that_cannot_be() {
    let scratch = Scratch::new();
    let of = |options: &[&str]| scratch.command(options, &[]);
    refused(&scratch, of(&["--hosts", "localhost:1,nowhere.invalid:1"]), "not known here: nowhere.invalid");
    refused(&scratch, of(&["--hosts", "localhost:x"]), "--hosts: \"x\" is no host");
    refused(
        &scratch,
        of(&["-n", "3", "--hosts", "localhost:2"]),
        "-n 3, but the host has room for 2 ranks only",
    );
    let file = scratch.path().join("hosts");
    refused(&scratch, of(&["--hostfile", file.to_str().unwrap()]), "cannot be read");
    std::fs::write(&file, "localhost slots=2\nnowhere.invalid slots=1\n").unwrap();
    refused(&scratch, of(&["--hostfile", file.to_str().unwrap()]), "not known here: nowhere.invalid");
    // Reserved for documentation: nobody has this address.
    let mut command = of(&["--hosts", "localhost:1,192.0.2.1:1"]);
    command.env("OMPI_MCA_plm_rsh_agent", "false");
    refused(&scratch, command, "these hosts cannot be reached:\n  192.0.2.1: ");
}

#[test]
fn programs_that_are_not_there() {
    let scratch = Scratch::new();
    let mut command = scratch.command(&[], &[]);
    let empty = scratch.path().join("bin");
    std::fs::create_dir(&empty).unwrap();
    command.env("PATH", &empty);
    refused(&scratch, command, "there is no mpirun on PATH");
    let fake = empty.join("mpirun");
    std::fs::write(&fake, "#!/bin/sh\necho something else 1.0\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = scratch.command(&[], &[]);
    command.env("PATH", &empty);
    refused(&scratch, command, "`--version` says \"something else 1.0\"");
    let mut command = Command::new(launcher());
    command.args(["--program", "/nowhere/gpart-dist", "--", "metamath"]);
    refused(&scratch, command, "--program /nowhere/gpart-dist is not a program that can be run");
    let mut command = Command::new(launcher());
    command.args(["--program", "/bin/false", "--", "metamath"]);
    refused(&scratch, command, "/bin/false config failed");
}

#[test]
fn commands_that_cannot_be() {
    let scratch = Scratch::new();
    refused(&scratch, scratch.command(&[], &["--wrong"]), "error: --wrong is no flag");
    let mut command = Command::new(launcher());
    command.args(["--", "doctor"]);
    refused(&scratch, command, "\"doctor\", which is no command that trains");
    let mut command = Command::new(launcher());
    command.args(["-n", "2", "metamath", "--preset", "demo"]);
    refused(&scratch, command, "write `--` before it");
    refused(&scratch, scratch.command(&["--control-listen", "nonsense"], &[]), "nonsense");
    refused(&scratch, scratch.command(&["--metrics", "127.0.0.1"], &[]), "127.0.0.1");
}

#[test]
fn folders_that_cannot_be_written() {
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    for folder in [file.join("run"), "/proc/run".into()] {
        let mut command = Command::new(launcher());
        command
            .arg("--program")
            .arg(crate::harness::stand_in())
            .args(["--", "metamath", "--output"])
            .arg(folder);
        refused(&scratch, command, "cannot be written to");
    }
}
