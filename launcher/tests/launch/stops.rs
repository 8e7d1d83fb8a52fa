//! Signals to the launcher.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Scratch, wait_until};

const LONG: [(&str, &str); 2] = [("STAND_IN_STEPS", "1000"), ("STAND_IN_MILLISECONDS", "50")];

fn stops_at(sent: Signal) {
    let scratch = Scratch::new();
    let running = scratch.start(&["-n", "2"], &LONG);
    wait_until(|| scratch.steps() >= 3);
    running.signal(sent);
    let outcome = running.finish().expect_code(75);
    let steps = scratch.steps();
    assert!((3..100).contains(&steps), "{steps}");
    outcome
        .expect_text("stopping after the step in progress")
        .expect_text("the same command takes it up again");
    scratch.expect_no_process_within(Duration::ZERO);
    // And it does.
    let more = (steps + 2).to_string();
    let outcome = scratch.start(&["-n", "2"], &[("STAND_IN_STEPS", &more)]).finish().expect_code(0);
    outcome.expect_text(&format!("resumed after step {steps}"));
}

#[test]
fn sigterm_stops_after_the_step() {
    stops_at(Signal::TERM);
}

#[test]
fn sigint_stops_after_the_step() {
    stops_at(Signal::INT);
}

#[test]
fn sigusr1_stops_after_the_step() {
    stops_at(Signal::USR1);
}

#[test]
fn a_second_signal_ends_at_once() {
    let scratch = Scratch::new();
    let requests = [&LONG[..], &[("STAND_IN_FAIL", "deaf:0:0")]].concat();
    let mut running = scratch.start(&["-n", "2"], &requests);
    wait_until(|| scratch.steps() >= 3);
    running.signal(Signal::TERM);
    wait_until(|| running.errors().contains("stopping after"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running());
    running.signal(Signal::TERM);
    let begun = Instant::now();
    let outcome = running.finish().expect_code(130);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    outcome.expect_text("again: ending all ranks at once");
    scratch.expect_no_process_within(Duration::ZERO);
}

/// A terminal sends Ctrl-C to all processes of its foreground group.
#[test]
fn ctrl_c_reaches_the_launcher_alone() {
    let scratch = Scratch::new();
    let running = scratch.start(&["-n", "2"], &LONG);
    wait_until(|| scratch.steps() >= 3);
    let own_group = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap().parse::<i32>().unwrap()
    };
    let launcher = scratch.processes().iter().map(|(pid, _)| *pid).min().unwrap();
    let others = scratch.processes().into_iter().filter(|(pid, _)| *pid != launcher);
    for (pid, words) in others {
        assert_ne!(own_group(pid), own_group(launcher), "{words}");
    }
    running.signal(Signal::INT);
    running.finish().expect_code(75);
}

/// Stopped while it waits to start again.
#[test]
fn a_stop_between_attempts() {
    let scratch = Scratch::new();
    let options = ["-n", "2", "--max-restarts", "9"];
    let running = scratch.start(&options, &[("STAND_IN_FAIL", "crash:0:2")]);
    wait_until(|| running.errors().matches("going on with").count() >= 3);
    running.signal(Signal::TERM);
    running.finish().expect_code(75);
    scratch.expect_no_process_within(Duration::ZERO);
}
