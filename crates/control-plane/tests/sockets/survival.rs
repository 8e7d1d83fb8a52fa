//! Ranks that stop, hang or lose their coordinator.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, info, link, start, step, until};
use control_plane::decide::{Finding, FindingKind, Limits};
use control_plane::{
    Coordinator, CoordinatorOptions, Endpoint, EventKind, LinkState, Phase, RankLink, StepReport, Wish,
};
use rustix::process::{Pid, Signal, kill_process};

/// Set for the process that plays rank 1.
const IS_RANK: &str = "GPART_TEST_IS_RANK";

/// A process of its own that plays rank 1 of 2: this test binary, run again for [`plays_rank_1`].
struct RankProcess(Child);

impl RankProcess {
    fn start(endpoint: &Endpoint) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command
            .args(["--exact", "survival::plays_rank_1", "--nocapture"])
            .env(IS_RANK, "1")
            .envs(endpoint.to_env());
        Self(command.spawn().expect("a process"))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("a signal");
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: the body of [`RankProcess`].
#[test]
fn plays_rank_1() {
    if std::env::var_os(IS_RANK).is_none() {
        return;
    }
    let endpoint = Endpoint::from_env().expect("variables that fit").expect("an endpoint");
    let rank = link(&endpoint, 1, 2);
    rank.phase(Phase::Backward);
    let started = Instant::now();
    for number in 1.. {
        rank.phase(Phase::Forward);
        std::thread::sleep(Duration::from_millis(50));
        rank.phase(Phase::Backward);
        std::thread::sleep(Duration::from_millis(50));
        rank.step(StepReport { total_steps: 100_000, ..step(number) });
        if started.elapsed() > 2 * PATIENCE {
            return;
        }
    }
}

fn finding(coordinator: &Coordinator, kind: FindingKind) -> Option<Finding> {
    coordinator.status().findings.into_iter().find(|finding| finding.kind == kind)
}

#[test]
fn a_stopped_rank_is_named_in_time_and_found_again() {
    let coordinator = start(2);
    let rank_0 = link(coordinator.endpoint(), 0, 2);
    let rank_1 = RankProcess::start(coordinator.endpoint());
    for number in 1..=5 {
        rank_0.step(step(number));
    }
    rank_0.phase(Phase::Forward);
    until("steps of rank 1", || {
        coordinator.status().ranks.iter().any(|rank| rank.rank == 1 && rank.step > Some(3))
    });
    rank_1.signal(Signal::STOP);
    rank_0.collective(Some("all-reduce of θ"));
    let stopped = Instant::now();
    until("the finding", || finding(&coordinator, FindingKind::Silent).is_some());
    let took = stopped.elapsed();
    let median = coordinator.status().step_seconds.expect("steps");
    assert!(took.as_secs_f64() < 3.0 * median + 5.0, "named after {took:?}, steps take {median} s");
    let found = finding(&coordinator, FindingKind::Silent).expect("still there");
    assert_eq!((found.rank, found.host.as_str(), found.waiting), (Some(1), "host1", 1), "{found:?}");
    assert_eq!(found.collective.as_deref(), Some("all-reduce of θ"));
    assert_eq!(coordinator.status().findings.len(), 1, "{:?}", coordinator.status().findings);

    let events = coordinator.subscribe();
    rank_1.signal(Signal::CONT);
    rank_0.collective(None);
    let over =
        |kind: &EventKind| matches!(kind, EventKind::FindingOver { finding } if finding.rank == Some(1));
    until("it to be over", || events.try_iter().any(|event| over(&event.kind)));
}

#[test]
fn a_rank_that_is_killed_has_lost_its_connection() {
    let coordinator = start(2);
    let rank_1 = RankProcess::start(coordinator.endpoint());
    until("rank 1", || coordinator.status().ranks.iter().any(|rank| rank.rank == 1 && rank.connected));
    let events = coordinator.subscribe();
    rank_1.signal(Signal::KILL);
    until("its loss", || {
        events
            .try_iter()
            .any(|event| matches!(event.kind, EventKind::RankLost { rank: 1, in_order: false, .. }))
    });
}

#[test]
fn a_rank_whose_training_is_stuck_still_beats_and_is_called_hung() {
    let limits = Limits { grace: Duration::from_millis(500), ..Limits::default() };
    let options = CoordinatorOptions { limits, ..CoordinatorOptions::new("test", 2) };
    let coordinator = Coordinator::start(options).expect("a coordinator");
    let links = [link(coordinator.endpoint(), 0, 2), link(coordinator.endpoint(), 1, 2)];
    for link in &links {
        link.step(step(1));
    }
    links[0].collective(Some("gather of block 3"));
    links[1].phase(Phase::Forward);
    until("the finding", || finding(&coordinator, FindingKind::Hung).is_some());
    let found = finding(&coordinator, FindingKind::Hung).expect("still there");
    assert_eq!((found.rank, found.phase, found.waiting), (Some(1), Some(Phase::Forward), 1), "{found:?}");
    std::thread::sleep(Duration::from_secs(2));
    let status = coordinator.status();
    assert!(status.ranks[1].heard_seconds < 2.0 && status.ranks[1].phase_seconds > 2.0, "{status:?}");
}

/// Another one in the place of a coordinator that is gone.
fn take_the_place_of(endpoint: &Endpoint, ranks: usize) -> Coordinator {
    let started = Instant::now();
    loop {
        let options = CoordinatorOptions {
            listen: endpoint.address.clone(),
            token: Some(endpoint.token.clone()),
            ..CoordinatorOptions::new("test", ranks)
        };
        match Coordinator::start(options) {
            Ok(coordinator) => return coordinator,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_link_outlives_its_coordinator() {
    let first = start(1);
    let endpoint = first.endpoint().clone();
    let rank =
        RankLink::connect(&endpoint, control_plane::RankInfo { attempt: 3, ..info(0, 1) }).expect("a link");
    until("the first", || rank.state() == LinkState::Connected);
    first.wish(Wish::Checkpoint);
    until("its wish", || rank.wishes().checkpoint);
    drop(first);
    until("the loss", || matches!(rank.state(), LinkState::Lost { .. }));
    // Nothing of this waits for anybody.
    let started = Instant::now();
    for number in 1..1000 {
        rank.step(step(number));
        rank.phase(Phase::Forward);
        rank.collective(Some("x"));
        assert!(rank.wishes().is_empty());
    }
    assert!(started.elapsed() < Duration::from_secs(1));

    let second = take_the_place_of(&endpoint, 1);
    until("the second", || rank.state() == LinkState::Connected);
    until("what happened meanwhile", || second.status().step == 999);
    assert_eq!(second.status().attempt, 3, "ranks know how often the run was started");
    // Its numbers of commands begin anew, and are not taken for old ones.
    second.wish(Wish::Checkpoint);
    until("its wish", || rank.wishes().checkpoint);
}

#[test]
fn a_link_without_a_coordinator_holds_nothing_up() {
    let endpoint = start(1).endpoint().clone();
    let started = Instant::now();
    let rank = link(&endpoint, 0, 1);
    rank.step(step(1));
    rank.durable(1);
    until("the loss", || matches!(rank.state(), LinkState::Lost { .. }));
    drop(rank);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
