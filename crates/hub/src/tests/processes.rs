//! Several at once, and one that is killed.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::testing::Fault;

const ENDPOINT: &str = "HUB_TEST_ENDPOINT";
const HOME: &str = "HUB_TEST_HOME";

/// Not a test of its own: what the other processes run.
#[test]
fn in_another_process() {
    let (Some(endpoint), Some(home)) = (std::env::var_os(ENDPOINT), std::env::var_os(HOME)) else { return };
    let hub = hub(endpoint.to_str().unwrap(), Path::new(&home), &[]);
    let hub = hub.with_options(Options { read_timeout: Duration::from_secs(60), ..impatient() });
    let folder = hub.model(ID, None, Want::Everything, &mut no_progress).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

fn start(bench: &Bench) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::processes::in_another_process"])
        .env(ENDPOINT, bench.server.url())
        .env(HOME, bench.home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn of_several_processes_one_downloads() {
    let bench = Bench::with_model();
    bench.server.fail("config.json", 1, Fault::Slow(Duration::from_millis(300)));
    let mut others: Vec<Child> = (0..3).map(|_| start(&bench)).collect();
    wait_until("the first one has asked", || !bench.server.requests().is_empty());
    let mut waits = 0;
    let folder = bench.hub().model(ID, None, Want::Everything, &mut |event| {
        waits += usize::from(matches!(event, Event::Waiting { .. }));
    });
    assert_eq!(tree(&folder.unwrap()).len(), 4);
    assert_eq!(waits, 1);
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    let requests = bench.server.requests();
    assert_eq!(requests.len(), 6, "one list, four files, one of them in the store: {requests:?}");
}

#[test]
fn threads_wait_for_each_other_as_processes_do() {
    let bench = Bench::with_model();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| bench.model().unwrap());
        }
    });
    assert_eq!(bench.server.requests().len(), 6);
}

#[test]
fn a_killed_download_is_completed_by_the_next_call() {
    let bench = Bench::with_model();
    bench.server.fail(
        &crate::testing::checksum("model.safetensors", &weights()),
        1,
        Fault::StallAfter(70_000),
    );
    let mut other = start(&bench);
    wait_until("bytes have arrived", || {
        fs::metadata(bench.incomplete()).is_ok_and(|data| data.len() == 70_000)
    });
    other.kill().unwrap();
    other.wait().unwrap();
    let folder = bench.model().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let ranges: Vec<_> = bench.server.requests_for("GET", "model.safetensors");
    assert_eq!(ranges.last().unwrap().range.as_deref(), Some("bytes=70000-"));
    assert_eq!(bench.server.requests_for("GET", "tokenizer.json").len(), 1);
}

#[test]
fn a_dataset_of_which_a_kill_left_a_part_is_not_complete() {
    let bench = Bench::new();
    bench.server.put_dataset("o/d", &[("a.jsonl", b"{}"), ("b.jsonl", b"{\"x\": 1}")]);
    bench.server.fail("b.jsonl", 1, Fault::Answer(404, Vec::new(), String::new()));
    // The reference is there from before, as `huggingface_hub` writes it first.
    let refs = bench.home.path().join("hub/datasets--o--d/refs");
    fs::create_dir_all(&refs).unwrap();
    fs::write(refs.join("main"), format!("{:040x}", 1)).unwrap();
    bench.hub().dataset("o/d", None, &mut no_progress).unwrap_err();
    assert_eq!(bench.hub().dataset("o/d", None, &mut no_progress).unwrap().len(), 2);
}
