//! Strangers, liars and those who do nothing: none of them may disturb a run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, link, start, step, until};
use control_plane::{Client, ControlError, Coordinator, Endpoint, EventKind, Phase, Token};
use control_proto::v1;
use control_proto::v1::rank_service_client::RankServiceClient;
use control_proto::v1::run_service_client::RunServiceClient;
use tonic::{Code, Request};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn channel(endpoint: &Endpoint) -> tonic::transport::Channel {
    let address = format!("http://{}", endpoint.address);
    tonic::transport::Endpoint::from_shared(address).expect("an address").connect().await.expect("connected")
}

fn with_token<T>(endpoint: &Endpoint, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {}", endpoint.token.reveal()).parse().expect("digits");
    request.metadata_mut().insert("authorization", value);
    request
}

/// A rank reports and a person is answered.
#[track_caller]
fn assert_works(coordinator: &Coordinator, rank: &control_plane::RankLink, number: u64) {
    rank.step(step(number));
    let mut client = Client::connect(coordinator.endpoint()).expect("a client is served");
    until("the step", || client.status().expect("a status").step == number);
}

#[test]
fn a_wrong_token_and_none_are_refused() {
    let coordinator = start(1);
    let wrong = Endpoint { token: Token::random().expect("random"), ..coordinator.endpoint().clone() };
    let error = Client::connect(&wrong).err().expect("refused");
    assert!(matches!(error, ControlError::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains(&wrong.token.reveal()));

    runtime().block_on(async {
        let channel = channel(coordinator.endpoint()).await;
        let mut run = RunServiceClient::new(channel.clone());
        let status = run.get_status(v1::GetStatusRequest {}).await.expect_err("no token");
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("authorization: Bearer"), "{status:?}");
        let mut ranks = RankServiceClient::new(channel.clone());
        let status = ranks.register(v1::RegisterRequest::default()).await.expect_err("no token");
        assert_eq!(status.code(), Code::Unauthenticated);
        let reports = tokio_stream::iter([v1::RankReport::default()]);
        assert_eq!(ranks.report(reports).await.expect_err("no token").code(), Code::Unauthenticated);
        // Whether the server is well is no secret.
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest { service: "gpart.control.v1.RunService".into() };
        let answer = health.check(request).await.expect("healthy").into_inner();
        assert_eq!(answer.status, i32::from(tonic_health::ServingStatus::Serving as u8));
    });
    assert_eq!(coordinator.status().ranks, []);
}

#[test]
fn a_message_that_is_too_large_is_refused() {
    let coordinator = start(1);
    let rank = link(coordinator.endpoint(), 0, 1);
    runtime().block_on(async {
        let mut run = RunServiceClient::new(channel(coordinator.endpoint()).await);
        let request = v1::RequestStopRequest { reason: "x".repeat(1 << 20) };
        let status =
            run.request_stop(with_token(coordinator.endpoint(), request)).await.expect_err("too large");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    });
    assert!(rank.wishes().is_empty());
    assert_works(&coordinator, &rank, 1);
}

#[test]
fn bytes_that_are_no_protocol_do_nothing() {
    let coordinator = start(1);
    let rank = link(coordinator.endpoint(), 0, 1);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> = (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let with_preface = [preface.as_slice(), &noise].concat();
    // A frame that announces 16 MiB, and one with a reserved type and stream.
    let huge = [preface.as_slice(), &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &noise].concat();
    let http1 = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    for bytes in [noise.clone(), with_preface, huge, http1, vec![0; 100_000], preface[..10].to_vec()] {
        let mut stream = TcpStream::connect(&coordinator.endpoint().address).expect("connected");
        // The server may close before all is written.
        let _ = stream.write_all(&bytes);
    }
    assert_works(&coordinator, &rank, 1);
}

/// A report with `value` wherever a number of seconds goes, and too much of everything.
fn wild_report(session: u64, value: f64) -> v1::RankReport {
    let step = v1::StepReport {
        step: u64::MAX,
        total_steps: 0,
        loss: value,
        tokens_per_second: value,
        seconds: value,
        waited_seconds: BTreeMap::from([("x".to_owned(), value)]),
    };
    v1::RankReport {
        session,
        phase: 99,
        phase_seconds: value,
        collective: Some("\u{7}bell".into()),
        collective_seconds: value,
        step: Some(u64::MAX),
        memory_bytes: Some(u64::MAX),
        durable_step: Some(u64::MAX),
        steps: vec![step; 200],
        received_command: u64::MAX,
        ..Default::default()
    }
}

#[test]
fn what_a_rank_says_is_cut_to_size() {
    let coordinator = start(2);
    let endpoint = coordinator.endpoint();
    runtime().block_on(async {
        let mut ranks = RankServiceClient::new(channel(endpoint).await);
        for (rank, count, code) in [(2, 2, Code::InvalidArgument), (0, 3, Code::InvalidArgument)] {
            let request = v1::RegisterRequest { rank, ranks: count, attempt: 1, ..Default::default() };
            assert_eq!(
                ranks.register(with_token(endpoint, request)).await.expect_err("no such").code(),
                code
            );
        }
        let request = v1::RegisterRequest {
            rank: 0,
            ranks: 2,
            host: "\u{1b}[31mred\u{202e}\n".repeat(1000),
            attempt: 1,
            fingerprints: (0..2000).map(|number| (number.to_string(), "x".into())).collect(),
            ..Default::default()
        };
        let session =
            ranks.register(with_token(endpoint, request)).await.expect("taken").into_inner().session;
        let wild = [f64::NAN, f64::INFINITY, -1.0, f64::MAX];
        let reports: Vec<_> = wild.iter().map(|&value| wild_report(session, value)).collect();
        let mut commands = ranks
            .report(with_token(endpoint, tokio_stream::iter(reports)))
            .await
            .expect("taken")
            .into_inner();
        while let Ok(Some(_)) = commands.message().await {}
        let unknown = tokio_stream::iter([v1::RankReport { session: session ^ 2, ..Default::default() }]);
        let status = ranks.report(with_token(endpoint, unknown)).await.expect_err("another session");
        assert_eq!(status.code(), Code::FailedPrecondition);
    });
    until("the wild reports", || coordinator.status().ranks.first().is_some_and(|rank| rank.step.is_some()));
    let status = coordinator.status();
    assert!(status.ranks[0].host.starts_with("[31mred[31mred"), "{status:?}");
    assert_eq!(status.ranks[0].host.chars().count(), 64);
    assert!(
        status.ranks[0].phase == Phase::Starting && status.ranks[0].collective.as_deref() == Some("bell")
    );
    let text = control_plane::render::status(&status, 100);
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text}");
    assert!(serde_json::to_string(&status).is_ok());
    let mut client = Client::connect(endpoint).expect("a client");
    client.status().expect("a status");
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out() {
    raise_open_files();
    let coordinator = start(1);
    let rank = link(coordinator.endpoint(), 0, 1);
    until("the rank", || coordinator.status().ranks.iter().any(|rank| rank.connected));
    let mut idle = Vec::new();
    for number in 0..1000 {
        idle.push(TcpStream::connect(&coordinator.endpoint().address).expect("connected"));
        if number % 250 == 0 {
            assert_works(&coordinator, &rank, number / 250 + 1);
        }
    }
    assert_works(&coordinator, &rank, 9);
    let status = coordinator.status();
    assert!(status.ranks[0].connected && status.ranks[0].heard_seconds < 5.0, "{status:?}");
    // The oldest had to go: no more are open than may be.
    until("old ones to be closed", || idle.iter().filter(|stream| is_open(stream)).count() <= 258);
    assert!(is_open(&idle[999]) && !is_open(&idle[0]));
    let lost = coordinator.subscribe();
    drop(idle);
    assert_works(&coordinator, &rank, 10);
    assert!(lost.try_iter().all(|event| !matches!(event.kind, EventKind::RankLost { .. })));
}

/// Whether the other side has not closed a connection. What it sent is read and forgotten.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

/// A process may have 1024 files open where nobody asks for more.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map_or(Some(8192), |most| Some(most.min(8192)));
    setrlimit(Resource::Nofile, limit).expect("as many as the system allows");
}

#[test]
fn who_never_shows_the_token_is_closed() {
    let coordinator = start(1);
    let rank = link(coordinator.endpoint(), 0, 1);
    let events = coordinator.subscribe();
    let mut slow = TcpStream::connect(&coordinator.endpoint().address).expect("connected");
    slow.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
    // A beginning, and then a byte now and again of a frame of headers that never ends.
    slow.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x20\0\x01").expect("written");
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "it was never closed");
        let is_closed = match slow.read(&mut [0; 256]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock
                    | std::io::ErrorKind::TimedOut
                    | std::io::ErrorKind::Interrupted
            ),
        };
        if is_closed || slow.write_all(&[0]).is_err() {
            break;
        }
    }
    assert!(started.elapsed() > Duration::from_secs(10), "it had time for a slow network");
    assert_works(&coordinator, &rank, 1);
    // Streams may last longer than calls.
    assert!(events.try_iter().all(|event| !matches!(event.kind, EventKind::RankLost { .. })));
}

#[test]
fn who_follows_too_slowly_is_dropped() {
    let coordinator = start(1);
    let endpoint = coordinator.endpoint();
    let slow_listener = coordinator.subscribe();
    runtime().block_on(async {
        let mut run = RunServiceClient::new(channel(endpoint).await);
        let request = with_token(endpoint, v1::FollowRequest { history: 10 });
        let mut events = run.follow(request).await.expect("events").into_inner();
        // This task is the only one of its runtime: nothing is read meanwhile.
        for _ in 0..20_000 {
            coordinator.note(&"x".repeat(500));
        }
        let mut count = 0;
        let status = loop {
            match events.message().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => panic!("it ended in order after {count} events"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(count < 20_000);
    });
    assert!(slow_listener.iter().count() <= 4096, "it ends, and was never longer");
    Client::connect(endpoint).expect("a client is served");
}

#[test]
fn too_many_followers_are_refused() {
    let coordinator = start(1);
    let endpoint = coordinator.endpoint();
    runtime().block_on(async {
        let mut streams = Vec::new();
        for number in 0..70 {
            // Each on a connection of its own: one has at most 64 calls open.
            let mut run = RunServiceClient::new(channel(endpoint).await);
            let request = with_token(endpoint, v1::FollowRequest { history: 0 });
            match run.follow(request).await {
                Ok(stream) => streams.push((run, stream)),
                Err(status) => {
                    assert_eq!((number, status.code()), (64, Code::ResourceExhausted));
                    break;
                }
            }
        }
        assert_eq!(streams.len(), 64);
    });
}

#[test]
fn who_is_no_coordinator_is_told_apart() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let talkative = TcpListener::bind("127.0.0.1:0").expect("a port");
    let free = {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        taken.local_addr().expect("an address")
    };
    let endpoint = |address: std::net::SocketAddr| Endpoint {
        address: address.to_string(),
        token: Token::random().expect("random"),
        certificate: None,
    };
    let of = |address| Client::connect(&endpoint(address)).err().expect("nobody");
    let error = of(free);
    assert!(matches!(error, ControlError::Unreachable { .. }), "{error:?}");
    let error = of(silent.local_addr().expect("an address"));
    assert!(
        matches!(&error, ControlError::Unreachable { reason, .. } if reason.contains("5 s")),
        "{error:?}"
    );

    let address = talkative.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in talkative.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let error = of(address);
    assert!(matches!(error, ControlError::NotACoordinator { .. }), "{error:?}");
}
