//! What the tests of whole runs share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use control_plane::{Coordinator, CoordinatorOptions, Endpoint, RankInfo, RankLink, StepReport};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn info(rank: usize, ranks: usize) -> RankInfo {
    RankInfo {
        rank,
        ranks,
        host: format!("host{rank}"),
        device: "cpu".into(),
        version: "0.1.0".into(),
        fingerprints: BTreeMap::new(),
        attempt: 1,
    }
}

pub fn step(step: u64) -> StepReport {
    StepReport {
        step,
        total_steps: 10,
        loss: 2.5,
        tokens_per_second: 1000.0,
        seconds: 0.1,
        waited_seconds: BTreeMap::from([("all-reduce".to_owned(), 0.01)]),
    }
}

pub fn start(ranks: usize) -> Coordinator {
    Coordinator::start(CoordinatorOptions::new("test", ranks)).expect("a coordinator on loopback")
}

pub fn link(endpoint: &Endpoint, rank: usize, ranks: usize) -> RankLink {
    RankLink::connect(endpoint, info(rank, ranks)).expect("a link")
}

/// Waits until it holds; says what did not otherwise.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
