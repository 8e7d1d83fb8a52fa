//! Ranks on two hosts, with a line of some delay and rate between them. Slow, and needs root.

use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Hosts, Link, Ranks, Running, checkpoints, command, lines_so_far, losses, read_json, scratch, thetas,
    train, training_args,
};

/// Between two cities: 50 ms there and back, 1 Gb/s.
const LINE: Link = Link { delay: Duration::from_millis(25), rate: 1e9, mtu: 9000 };

/// Times that a `ping` prints, in seconds.
fn round_trips(hosts: &Hosts) -> Vec<f64> {
    let mut ping = hosts.on(0, "ping");
    ping.args(["-c", "5", "-i", "0.2", crate::harness::ADDRESSES[1]]);
    let said = Running::start(ping).finish().expect_code(0).stdout;
    let times = said.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
    times.map(|milliseconds: f64| milliseconds / 1e3).collect()
}

/// Both ranks on one host would pass every test of results.
#[test]
#[ignore = "slow, and makes network namespaces, which takes root"]
fn each_rank_has_a_host_of_its_own() {
    let Some(hosts) = Hosts::start(LINE) else { return };
    let outcome = Running::start(hosts.mpirun(&[], &Command::new("hostname"))).finish().expect_code(0);
    let mut names: Vec<&str> = outcome.stdout.lines().collect();
    names.sort_unstable();
    assert_eq!(names, hosts.names());
}

/// What the other tests here take for granted.
#[test]
#[ignore = "slow, and makes network namespaces, which takes root"]
fn the_line_has_its_delay() {
    let Some(hosts) = Hosts::start(LINE) else { return };
    let mut times = round_trips(&hosts);
    times.sort_by(f64::total_cmp);
    let [fastest, _, median, ..] = times[..] else { panic!("too few answers: {times:?}") };
    assert!(fastest >= 0.050, "faster than the line: {times:?}");
    assert!(median < 0.060, "slower than the line by far: {times:?}");
}

#[test]
#[ignore = "slow, and makes network namespaces, which takes root"]
fn the_same_bits_as_on_one_rank() {
    let Some(hosts) = Hosts::start(LINE) else { return };
    let folder = scratch();
    let (alone, apart) = (folder.path().join("alone"), folder.path().join("apart"));
    train(Ranks::Alone, &alone, &[]);
    let ranked = command(Ranks::Alone, &training_args(&apart, &[]));
    Running::start(hosts.mpirun(&[], &ranked)).finish().expect_code(0);
    assert_eq!(thetas(&apart).len(), 6, "every step is there");
    assert_eq!(thetas(&apart), thetas(&alone));
    assert_eq!(losses(&apart), losses(&alone));
}

/// A host that does not share the first one's disk has a copy; when the first one's is lost, the run goes on from there.
#[test]
#[ignore = "slow, and makes network namespaces, which takes root"]
fn a_lost_disk_takes_no_run_along() {
    let Some(hosts) = Hosts::start(LINE) else { return };
    let folder = scratch();
    let [shared, own, alone] = ["disk", "disk-of-the-second", "alone"].map(|name| folder.path().join(name));
    [&shared, &own].into_iter().for_each(|disk| std::fs::create_dir(disk).unwrap());
    hosts.give_second_its_own(&shared, &own);
    let flags = ["--max-steps", "12", "--save-steps", "100"];
    train(Ranks::Alone, &alone, &flags);
    let output = shared.join("run");
    let ranked = command(Ranks::Alone, &training_args(&output, &flags));
    let mut running = Running::start(hosts.mpirun(&[], &ranked));
    assert!(running.until(|| lines_so_far(&output) >= 5), "it was to be killed before its end");
    running.kill();
    let copy = own.join("run");
    let copied = lines_so_far(&copy);
    assert!(copied >= 4, "the copy has {copied} steps");
    assert!(!checkpoints(&copy).is_empty());
    std::fs::remove_dir_all(&output).unwrap();
    let outcome = Running::start(hosts.mpirun(&[], &ranked)).finish().expect_code(0);
    outcome.expect_text("resumed after step");
    assert_eq!(thetas(&output), thetas(&alone));
    assert_eq!(thetas(&copy), thetas(&alone));
}

/// Two hosts far apart need little more for θ's gradient than the line takes for its bytes.
#[test]
#[ignore = "slow, and makes network namespaces, which takes root"]
fn the_all_reduce_is_as_fast_as_the_line() {
    let Some(hosts) = Hosts::start(LINE) else { return };
    let folder = scratch();
    let output = folder.path().join("apart");
    let flags = ["--d", "524288", "--target-modules", "all-linear", "--epochs", "40", "--max-steps", "30"];
    let more = ["--dp-replicate", "2", "--save-steps", "100"];
    let ranked = command(Ranks::Alone, &training_args(&output, &[&flags[..], &more].concat()));
    Running::start(hosts.mpirun(&[], &ranked)).finish().expect_code(0);
    let run = read_json(&output.join("run.json"));
    let found = |name: &str| run["traffic"]["all_reduce"][name].as_f64().unwrap();
    let bytes = 8.0 * (524_288.0 + 1.0);
    let round_trip = 2.0 * LINE.delay.as_secs_f64();
    let bound = 1.25 * (8.0 * bytes / LINE.rate + 2.0 * round_trip);
    let (seconds, share) = (found("median_seconds"), found("median_share_of_step"));
    report(&format!(
        "all-reduce of {bytes} bytes: {:.1} ms, at most {:.1} ms wanted; {:.1}% of a step",
        1e3 * seconds,
        1e3 * bound,
        100.0 * share
    ));
    assert!(seconds <= bound, "{seconds} s, not {bound}");
}

/// For readers of `--no-capture`.
#[allow(clippy::print_stdout, reason = "a figure for the documentation")]
fn report(line: &str) {
    println!("{line}");
}
