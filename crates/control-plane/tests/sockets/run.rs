//! Whole runs over real sockets: ranks, a coordinator, a person's client.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;

use crate::common::{info, link, start, step, until};
use control_plane::{
    Client, ControlError, Coordinator, CoordinatorOptions, Endpoint, EventKind, LogLevel, Memory,
    MetricsOptions, Phase, RankInfo, RankLink, Wish,
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

#[test]
fn a_run_is_found_by_its_folder_while_it_lasts() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Endpoint::read(folder.path()).expect_err("nothing there");
    assert!(matches!(error, ControlError::NoControlFile { .. }), "{error:?}");

    let options =
        CoordinatorOptions { folder: Some(folder.path().into()), ..CoordinatorOptions::new("test", 1) };
    let coordinator = Coordinator::start(options).expect("a coordinator");
    let file = folder.path().join("control.json");
    let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let endpoint = Endpoint::read(folder.path()).expect("the endpoint");
    assert_eq!(
        (&endpoint, &Endpoint::read(&file).expect("by its file")),
        (coordinator.endpoint(), coordinator.endpoint())
    );
    assert_eq!(Client::connect(&endpoint).expect("a client").status().expect("a status").run, "test");
    coordinator.stop("done");
    assert!(!file.exists());

    // A run that could not clean up behind itself.
    endpoint.write(folder.path()).expect("written");
    let stale = Endpoint::read(folder.path()).expect("an endpoint");
    let error = Client::connect(&stale).err().expect("nobody answers");
    assert!(matches!(error, ControlError::Unreachable { .. }), "{error:?}");
    let hint = miette::Diagnostic::help(&error).expect("a hint").to_string();
    assert!(hint.starts_with("the run has ended or its host is gone"), "{hint}");

    for wrong in [
        "",
        "{}",
        "[1, 2",
        "{\"format\": \"x\", \"address\": \"a:1\", \"token\": \"\", \"pid\": 1, \"host\": \"\", \"started\": 0}",
    ] {
        std::fs::write(&file, wrong).expect("written");
        let error = Endpoint::read(folder.path()).expect_err("not ours");
        assert!(matches!(error, ControlError::ControlFileDamaged { .. }), "{wrong}: {error:?}");
    }
}

#[test]
fn another_coordinators_file_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        || CoordinatorOptions { folder: Some(folder.path().into()), ..CoordinatorOptions::new("test", 1) };
    let first = Coordinator::start(options()).expect("a coordinator");
    let second = Coordinator::start(options()).expect("a coordinator");
    drop(first);
    assert_eq!(&Endpoint::read(folder.path()).expect("the second one's"), second.endpoint());
}

#[test]
fn the_environment_is_taken_whole_or_not_at_all() {
    let token = "ab".repeat(32);
    let of = |address: Option<&str>, token: Option<&str>, ca: Option<&str>| {
        Endpoint::from_variables(|name| {
            let value = match name {
                "GPART_CONTROL_ADDRESS" => address,
                "GPART_CONTROL_TOKEN" => token,
                _ => ca,
            };
            value.map(str::to_owned)
        })
    };
    assert!(of(None, None, None).expect("nothing set").is_none());
    let endpoint = of(Some("[::1]:80"), Some(&token), None).expect("fits").expect("set");
    assert_eq!(endpoint.to_env().len(), 2);
    for (address, token, ca) in [
        (Some("host:1"), None, None),
        (Some("host:1"), Some("12"), None),
        (Some("host"), Some(token.as_str()), None),
        (Some("host:99999"), Some(token.as_str()), None),
        (Some("ho st:1"), Some(token.as_str()), None),
        (Some("::1:80"), Some(token.as_str()), None),
        (Some("host:1"), Some(token.as_str()), Some("-----BEGIN")),
    ] {
        let error = of(address, token, ca).expect_err("does not fit");
        assert!(matches!(error, ControlError::Environment { .. }), "{error:?}");
    }
    // A certificate that is none is seen when it is used, by whoever hands it in.
    let odd = of(Some("host:1"), Some(&token), Some("abcd")).expect("base64").expect("set");
    assert!(RankLink::connect(&odd, info(0, 1)).is_err());
}

#[test]
fn options_that_cannot_be_are_refused() {
    let listening = start(1);
    let taken = listening.endpoint().address.clone();
    let options = |ranks, listen: &str| CoordinatorOptions {
        listen: listen.into(),
        ..CoordinatorOptions::new("test", ranks)
    };
    for (ranks, listen) in [
        (0, "127.0.0.1:0"),
        (1 << 20, "127.0.0.1:0"),
        (1, "127.0.0.1"),
        (1, taken.as_str()),
        (1, "192.0.2.1:0"),
    ] {
        assert!(Coordinator::start(options(ranks, listen)).is_err(), "{ranks} {listen}");
    }
    assert!(RankLink::connect(listening.endpoint(), info(1, 1)).is_err());
    assert!(RankLink::connect(listening.endpoint(), RankInfo { ranks: 0, ..info(0, 1) }).is_err());
}

#[test]
fn wishes_wait_for_rank_0_and_the_newest_counts() {
    let coordinator = start(2);
    coordinator.wish(Wish::LogLevel(LogLevel::Debug));
    coordinator.wish(Wish::LogLevel(LogLevel::Trace));
    coordinator.wish(Wish::Stop { reason: "later".into() });
    let rank = link(coordinator.endpoint(), 0, 2);
    let mut wishes = rank.wishes();
    until("the wishes", || {
        let more = rank.wishes();
        wishes.log_level = more.log_level.or(wishes.log_level);
        wishes.stop = more.stop.or_else(|| wishes.stop.take());
        wishes.stop.is_some() && wishes.log_level.is_some()
    });
    assert_eq!(wishes.log_level, Some(LogLevel::Trace));
    assert_eq!(coordinator.status().stopping.as_deref(), Some("later"));
}

#[test]
fn after_a_restart_ranks_register_afresh_and_what_happened_is_kept() {
    let coordinator = start(2);
    let endpoint = coordinator.endpoint();
    let old = [link(endpoint, 0, 2), link(endpoint, 1, 2)];
    old[0].step(step(3));
    old[0].durable(3);
    until("the step", || {
        coordinator.status().durable_step == Some(3) && coordinator.status().ranks.len() == 2
    });

    let attempt = coordinator.new_attempt(1, "host1 does not answer any more").expect("an attempt");
    assert_eq!(attempt, 2);
    let status = coordinator.status();
    assert_eq!((status.attempt, status.restarts, status.rank_count, status.ranks.len()), (2, 1, 1, 0));
    assert_eq!((status.step, status.durable_step), (3, Some(3)));

    let new = RankLink::connect(endpoint, RankInfo { attempt, ..info(0, 1) }).expect("a link");
    new.step(step(4));
    until("the next step", || coordinator.status().step == 4);
    old[1].step(step(99));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let status = coordinator.status();
    assert_eq!((status.step, status.ranks.len()), (4, 1), "ranks of the old attempt are not heard");
    assert!(coordinator.new_attempt(0, "").is_err());
}

#[test]
fn prometheus_reads_metrics() {
    let metrics = Some(MetricsOptions { listen: "127.0.0.1:0".into(), public: false });
    let options = CoordinatorOptions { metrics, ..CoordinatorOptions::new("test", 1) };
    let coordinator = Coordinator::start(options).expect("a coordinator");
    let rank = link(coordinator.endpoint(), 0, 1);
    rank.step(step(7));
    until("the step", || coordinator.status().step == 7);
    let address = coordinator.metrics_address().expect("metrics");
    let ask = |request: &str| {
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        // A request that is not read to its end gets a reset in place of an answer.
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let page = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    for line in [
        "gpart_step 7\n",
        "gpart_loss 2.5\n",
        "gpart_rank_connected{rank=\"0\",host=\"host0\"} 1\n",
        "gpart_rank_collective_seconds{rank=\"0\",host=\"host0\",collective=\"all-reduce\"} 0.01\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
    assert!(!page.contains(&coordinator.endpoint().token.reveal()));
    assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert_eq!(ask(&"x".repeat(10_000)), "");
}

#[test]
fn threads_may_share_both_ends() {
    fn shared<T: Send + Sync>() {}
    shared::<Coordinator>();
    shared::<RankLink>();
}
