//! Whole runs over real sockets: ranks, a coordinator, a person's client.

mod common;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use common::{info, link, start, step, until};
use control_plane::{
    Client, Coordinator, CoordinatorOptions, EventKind, LinkState, LogLevel, Memory, Phase, RankLink, Wish,
};

#[test]
fn ranks_report_a_client_follows_and_the_run_stops() {
    let coordinator = start(2);
    let endpoint = coordinator.endpoint().clone();
    let own_events = coordinator.subscribe();
    let links = [link(&endpoint, 0, 2), link(&endpoint, 1, 2)];
    until("both ranks", || coordinator.status().ranks.iter().filter(|rank| rank.connected).count() == 2);

    let follower = {
        let endpoint = endpoint.clone();
        std::thread::spawn(move || {
            let mut events = Vec::new();
            let mut client = Client::connect(&endpoint).expect("a client");
            client
                .follow(100, |event| {
                    events.push(event.kind);
                    ControlFlow::Continue(())
                })
                .expect("events until the end");
            events
        })
    };
    for (rank, link) in links.iter().enumerate() {
        link.phase(Phase::Forward);
        link.memory(Memory { now: 1 << 20, peak: 2 << 20 });
        link.collective((rank == 1).then_some("all-reduce"));
        link.step(step(1));
        link.durable(1);
    }
    let mut client = Client::connect(&endpoint).expect("a client");
    until("the step of both", || {
        let status = client.status().expect("a status");
        status.step == 1 && status.ranks.iter().all(|rank| rank.step == Some(2))
    });
    let status = client.status().expect("a status");
    assert_eq!((status.total_steps, status.durable_step, status.loss), (10, Some(1), Some(2.5)));
    assert_eq!(status.ranks[1].collective.as_deref(), Some("all-reduce"));
    assert_eq!(status.ranks[0].memory_peak_bytes, Some(2 << 20));
    assert!(status.eta_seconds.is_some_and(|eta| (eta - 0.9).abs() < 1e-6), "{status:?}");
    let json = serde_json::to_string(&status).expect("json");
    assert_eq!(serde_json::from_str::<control_plane::Status>(&json).expect("the same"), status);

    client.checkpoint().expect("noted");
    client.set_log_level(LogLevel::Debug).expect("noted");
    client.stop("maintenance").expect("noted");
    let mut wishes = links[0].wishes();
    until("all wishes", || {
        let more = links[0].wishes();
        wishes.checkpoint |= more.checkpoint;
        wishes.log_level = more.log_level.or(wishes.log_level);
        wishes.stop = more.stop.or_else(|| wishes.stop.take());
        wishes.checkpoint && wishes.log_level == Some(LogLevel::Debug) && wishes.stop.is_some()
    });
    assert_eq!(wishes.stop.as_deref(), Some("maintenance"));
    assert!(links[1].wishes().is_empty(), "rank 0 tells the others");

    drop(links);
    until("farewells", || coordinator.status().ranks.iter().all(|rank| !rank.connected));
    coordinator.stop("stopped early");
    let events = follower.join().expect("the follower");
    assert_eq!(events.last(), Some(&EventKind::RunEnded { outcome: "stopped early".into() }));
    let stop = Wish::Stop { reason: "maintenance".into() };
    assert!(events.contains(&EventKind::WishNoted { wish: stop }), "{events:?}");
    let in_order = events.iter().filter(|event| matches!(event, EventKind::RankLost { in_order: true, .. }));
    assert_eq!(in_order.count(), 2, "{events:?}");
    assert!(own_events.iter().count() >= 8);
}
