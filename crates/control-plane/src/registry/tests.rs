use super::*;
use proptest::prelude::*;

fn at(seconds: f64) -> Now {
    Now { since_start: Duration::from_secs_f64(seconds), unix_milliseconds: 0 }
}

fn registry(ranks: usize) -> Registry {
    Registry::new("test", ranks, Limits::default(), 7)
}

fn request(rank: u32, ranks: u32, attempt: u32) -> v1::RegisterRequest {
    v1::RegisterRequest { rank, ranks, attempt, host: format!("host{rank}"), ..Default::default() }
}

/// A rank whose stream is open; its session is 100 more than its number.
fn join(registry: &mut Registry, rank: u32, ranks: u32, now: f64) -> Attached {
    let session = registry.register(request(rank, ranks, 1), 100 + u64::from(rank), at(now)).expect("taken");
    registry.attach(session, at(now)).expect("attached")
}

fn report(session: u64) -> v1::RankReport {
    v1::RankReport { session, phase: v1::Phase::Forward.into(), ..Default::default() }
}

fn numbers(attached: &mut Attached) -> Vec<u64> {
    std::iter::from_fn(|| attached.commands.try_recv().ok().map(|command| command.number)).collect()
}

#[test]
fn a_look_that_comes_late_blames_nobody() {
    let mut registry = registry(1);
    let _stream = join(&mut registry, 0, 1, 0.0);
    for look in 0..20 {
        registry.look(at(0.5 * f64::from(look)));
    }
    // This process was stopped from 9.5 s on; what the rank sent waits in its socket.
    registry.look(at(100.0));
    assert_eq!(registry.status(at(100.0)).findings, []);
    for look in 0..80 {
        registry.look(at(100.0 + 0.5 * f64::from(look)));
    }
    assert_eq!(registry.status(at(140.0)).findings.len(), 1, "now it is silent indeed");
}

#[test]
fn what_is_found_is_told_once_and_again_when_it_is_over() {
    let mut registry = registry(1);
    let _stream = join(&mut registry, 0, 1, 0.0);
    let listener = registry.listen();
    for look in 0..100 {
        registry.look(at(0.5 * f64::from(look)));
    }
    registry.report(report(100), at(50.0)).expect("taken");
    registry.look(at(50.1));
    let kinds: Vec<_> = listener.try_iter().map(|event| event.kind).collect();
    assert!(
        matches!(
            kinds.as_slice(),
            [EventKind::FindingBegan { finding }, EventKind::FindingOver { .. }] if finding.rank == Some(0)
        ),
        "{kinds:?}"
    );
}

#[test]
fn history_is_a_ring_and_numbers_have_no_gap() {
    let mut registry = registry(1);
    for number in 0..10_000 {
        registry.tell(EventKind::StepDurable { step: number }, at(0.0));
    }
    let following = registry.follow(usize::MAX).expect("a follower");
    assert_eq!(following.past.len(), HISTORY);
    let numbers: Vec<_> = following.past.iter().map(|event| event.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers[HISTORY - 1] == 10_000);
    assert_eq!(registry.follow(3).expect("a follower").past.len(), 3);
}

#[test]
fn a_command_is_sent_until_it_was_received() {
    let mut registry = registry(1);
    registry.wish(Wish::Checkpoint, at(0.0));
    let mut first = join(&mut registry, 0, 1, 0.0);
    assert_eq!(numbers(&mut first), [1]);
    // The connection breaks before the rank could say so.
    registry.detach(100, first.stream, at(1.0));
    let mut second = join(&mut registry, 0, 1, 2.0);
    assert_eq!(numbers(&mut second), [1]);
    registry.report(v1::RankReport { received_command: 1, ..report(100) }, at(3.0)).expect("taken");
    let mut third = join(&mut registry, 0, 1, 4.0);
    assert_eq!(numbers(&mut third), [] as [u64; 0]);
    registry.wish(Wish::Stop { reason: "a".into() }, at(5.0));
    registry.wish(Wish::Stop { reason: "b".into() }, at(5.0));
    assert_eq!(numbers(&mut third).last(), Some(&3));
}

#[test]
fn the_end_of_an_older_stream_does_not_matter() {
    let mut registry = registry(1);
    let older = join(&mut registry, 0, 1, 0.0);
    let _newer = registry.attach(100, at(1.0)).expect("attached");
    registry.detach(100, older.stream, at(2.0));
    assert!(registry.status(at(2.0)).ranks[0].connected);
}

#[test]
fn a_rank_that_does_not_read_loses_its_stream() {
    let mut registry = registry(1);
    let mut stream = join(&mut registry, 0, 1, 0.0);
    for _ in 0..2 * COMMANDS {
        registry.wish(Wish::Checkpoint, at(1.0));
    }
    assert_eq!(numbers(&mut stream).len(), COMMANDS);
    assert_eq!(stream.commands.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
}

#[test]
fn who_does_not_fit_is_not_taken() {
    let mut registry = registry(2);
    assert!(matches!(registry.register(request(2, 2, 1), 1, at(0.0)), Err(NotTaken::Wrong(_))));
    assert!(matches!(registry.register(request(0, 3, 1), 1, at(0.0)), Err(NotTaken::Wrong(_))));
    assert_eq!(registry.new_attempt(1, "a rank was lost", at(1.0)), 2);
    assert!(matches!(registry.register(request(0, 1, 1), 1, at(2.0)), Err(NotTaken::Over(_))));
    assert_eq!(registry.register(request(0, 1, 2), 1, at(2.0)), Ok(1));
    registry.close("done", at(3.0));
    assert!(matches!(registry.register(request(0, 1, 2), 1, at(4.0)), Err(NotTaken::Over(_))));
    assert_eq!(
        registry.report(report(1), at(4.0)),
        Err(NotTaken::Over("the session is unknown or was replaced".into()))
    );
    // A follower that comes now gets what happened, and the end.
    let mut late = registry.follow(1).expect("a follower");
    assert!(matches!(late.past[0].kind, EventKind::RunEnded { .. }));
    assert_eq!(late.coming.try_recv().err(), Some(mpsc::error::TryRecvError::Disconnected));
}

fn reports() -> impl Strategy<Value = v1::RankReport> {
    let numbers = (any::<f64>(), any::<f64>(), any::<f64>(), any::<f64>());
    let counts = (any::<u64>(), any::<u64>(), prop::option::of(any::<u64>()), any::<u64>());
    let waits = prop::collection::btree_map(".{0,5}", any::<f64>(), 0..4);
    (any::<i32>(), numbers, counts, prop::option::of(".{0,100}"), waits, any::<bool>()).prop_map(
        |(
            phase,
            (a, b, c, d),
            (step, total_steps, durable_step, received_command),
            collective,
            waits,
            leaving,
        )| {
            let done = v1::StepReport {
                step,
                total_steps,
                loss: c,
                tokens_per_second: d,
                seconds: a,
                waited_seconds: waits,
            };
            v1::RankReport {
                session: 100,
                phase,
                phase_seconds: a,
                collective,
                collective_seconds: b,
                step: durable_step,
                memory_bytes: durable_step,
                memory_peak_bytes: Some(total_steps),
                durable_step,
                steps: vec![done; 3],
                received_command,
                leaving,
            }
        },
    )
}

proptest! {
    #[test]
    fn whatever_ranks_say_the_run_is_looked_at_and_shown(
        reports in prop::collection::vec(reports(), 0..60),
        width in 0usize..200,
    ) {
        let mut registry = registry(2);
        let _stream = join(&mut registry, 0, 2, 0.0);
        let mut now = 0.0;
        for report in reports {
            now += 0.5;
            registry.report(report, at(now)).expect("taken");
            registry.look(at(now));
        }
        let status = registry.status(at(now + 1.0));
        let sent = wire::status_in(wire::status_out(&status));
        prop_assert_eq!(serde_json::to_string(&sent).expect("json"), serde_json::to_string(&status).expect("json"));
        crate::render::status(&status, width);
        for event in registry.follow(usize::MAX).expect("a follower").past {
            crate::render::event(&event);
            prop_assert!(wire::event_in(wire::event_out(&event)).is_some());
        }
    }
}
