//! A run that goes, seen and steered from another shell.

use std::path::Path;

use serde_json::Value;

use crate::harness::{
    Outcome, Ranks, Running, check_message, command, lines_so_far, read_json, scratch, thetas, train,
    training,
};

const FLAGS: [&str; 4] = ["--max-steps", "60", "--save-steps", "100"];

/// `gpart-dist ARGS` in a folder, as from another shell.
fn shell(folder: &Path, args: &[&str]) -> Outcome {
    let mut command = command(Ranks::Alone, args);
    command.current_dir(folder);
    Running::start(command).finish()
}

fn started(ranks: Ranks, output: &Path) -> Running {
    let mut running = Running::start(training(ranks, output, &FLAGS));
    assert!(running.until(|| lines_so_far(output) >= 2), "it was to be asked while it goes");
    running
}

/// Status, checkpoint and stop of a run on two ranks, found from the folder above; it goes on to the same θ.
#[test]
fn a_run_is_seen_asked_and_stopped() {
    let folder = scratch();
    let (output, expected) = (folder.path().join("output"), folder.path().join("whole"));
    let running = started(Ranks::Mpi(2), &output);
    let status = shell(folder.path(), &["status", "--json"]).expect_code(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&status["rank_count"], &status["total_steps"]), (&2.into(), &60.into()), "{status}");
    let ranks = status["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 2, "{status}");
    assert!(ranks.iter().all(|rank| rank["memory_bytes"].as_u64() > Some(1 << 20)), "{status}");
    assert!(status["durable_step"].as_u64() >= Some(1), "{status}");
    let table = shell(folder.path(), &["status"]).expect_code(0).stdout;
    assert!(table.contains("of 60") && table.contains("durable") && table.ends_with('\n'), "{table}");
    shell(folder.path(), &["checkpoint", "--run", output.to_str().unwrap()]).expect_code(0);
    shell(folder.path(), &["log-level", "debug"]).expect_code(0);
    shell(folder.path(), &["stop", "--reason", "a test"]).expect_code(0);
    running.finish().expect_code(75);
    assert!(!output.join("control.json").exists(), "the run is over");
    let steps = lines_so_far(&output);
    let mut kept: Vec<String> = std::fs::read_dir(&output)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("checkpoint-"))
        .collect();
    kept.sort();
    // The asked-for one and that of the stop, which may be of one step.
    assert!((1..=2).contains(&kept.len()) && kept.contains(&format!("checkpoint-{steps}")), "{kept:?}");
    for rank in ["rank-000.log", "rank-001.log"] {
        let log = std::fs::read_to_string(output.join("logs").join(rank)).unwrap();
        assert!(log.contains("log level changed") && log.contains("debug"), "{rank}: {log}");
    }
    train(Ranks::Mpi(2), &output, &FLAGS);
    train(Ranks::Alone, &expected, &FLAGS);
    assert_eq!(thetas(&output), thetas(&expected));
}

/// `watch` tells each step and ends with the run; the metrics are served where they were asked for.
#[test]
fn a_run_is_followed_to_its_end() {
    let folder = scratch();
    let output = folder.path().join("output");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let flags = [&FLAGS[..], &["--metrics-listen", &address]].concat();
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| lines_so_far(&output) >= 2));
    let mut watch = command(Ranks::Alone, &["watch", "--run", output.to_str().unwrap()]);
    watch.current_dir(folder.path());
    let watch = Running::start(watch);
    let metrics = scrape(&address);
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("gpart") && metrics.contains("step"), "{metrics}");
    running.finish().expect_code(0);
    let seen = watch.finish().expect_code(0).stdout;
    assert!(seen.contains("step 60 of 60") && seen.contains("finished"), "{seen}");
}

fn scrape(address: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// What is asked of nobody is refused with the reason; a killed run's folder says that the run is gone.
#[test]
fn nobody_there() {
    let folder = scratch();
    for asked in [&["status"][..], &["watch"], &["checkpoint"], &["stop"], &["log-level", "info"]] {
        check_message(&asked.join(" "), &shell(folder.path(), asked), 2, &["no run is found", "--run"]);
    }
    let with = |more: &[&str]| shell(folder.path(), &[&["status"], more].concat());
    check_message("no token", &with(&["--address", "127.0.0.1:9"]), 2, &["GPART_CONTROL_TOKEN"]);
    check_message("no folder", &with(&["--run", "nowhere"]), 2, &["control.json"]);
    let output = folder.path().join("output");
    started(Ranks::Alone, &output).kill();
    assert!(output.join("control.json").exists());
    let dead = with(&["--run", output.to_str().unwrap()]);
    assert_eq!(dead.code, Some(1), "{}", dead.stderr);
    assert!(dead.stderr.contains("hint:"), "{}", dead.stderr);
    std::fs::write(output.join("control.json"), "{}").unwrap();
    let foreign = with(&["--run", output.to_str().unwrap()]);
    check_message("a foreign file", &foreign, 2, &["control.json"]);
}

/// Without control nobody can reach a run, and nothing else changes.
#[test]
fn a_run_that_nobody_reaches() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--control", "false"];
    let mut running = Running::start(training(Ranks::Mpi(2), &output, &flags));
    let mut seen = false;
    running.until(|| {
        seen |= output.join("control.json").exists();
        lines_so_far(&output) >= 6
    });
    running.finish().expect_code(0);
    assert!(!seen);
    let with = folder.path().join("with");
    train(Ranks::Mpi(2), &with, &[]);
    assert_eq!(thetas(&output), thetas(&with));
    assert_eq!(read_json(&output.join("run.json"))["config"]["control"], false);
}
