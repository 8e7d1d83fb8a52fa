//! A rank that the kernel kills for its memory.

use std::path::{Path, PathBuf};

use crate::harness::{Running, Scratch};

/// A control group with little memory; gone when dropped.
struct Group(PathBuf);

impl Group {
    /// None where groups cannot be made.
    fn new() -> Option<Self> {
        let name = format!("gpart-launch-test-{}", std::process::id());
        let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        for (folder, limit) in [(first, "memory.limit_in_bytes"), (second, "memory.max")] {
            let folder = folder.join(&name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            if std::fs::write(folder.join(limit), "268435456").is_ok() {
                return Some(Self(folder));
            }
            let _ = std::fs::remove_dir(&folder);
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn it_is_named_with_the_flags_that_help_and_the_run_goes_on_with_fewer_ranks() {
    let Some(group) = Group::new() else {
        #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
        {
            eprintln!("SKIPPED: no control group can be made here");
        }
        return;
    };
    let scratch = Scratch::new();
    let launcher = scratch.command(&["-n", "2"], &["--dp-shard", "2", "--d", "4"]);
    // A shell enters the group, and becomes the launcher.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&group.0);
    command.arg(launcher.get_program()).args(launcher.get_args());
    command.envs([("STAND_IN_FAIL", "memory:1:3"), ("STAND_IN_FAIL_ATTEMPTS", "1")]);
    let outcome = Running::start(command).finish().expect_code(0);
    outcome
        .expect_text("was killed for its memory")
        .expect_text("--gradient-checkpointing")
        .expect_text("--max-seq-length")
        .expect_text("--dp-shard 2 does not fit 1 rank: going on without it")
        .expect_text("hello of 0 of 1, attempt 2: metamath --output")
        .expect_text("going on with 1 of 2 ranks");
    assert_eq!(scratch.steps(), 10);
}
