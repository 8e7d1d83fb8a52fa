use super::*;
use crate::report::{Phase, Wish};

fn rank(rank: usize) -> RankStatus {
    RankStatus {
        rank,
        host: format!("node{rank:02}.cluster.example"),
        device: "NVIDIA H100 0".into(),
        pid: 4711,
        version: "0.1.0".into(),
        connected: true,
        step: Some(13),
        phase: Phase::Backward,
        phase_seconds: 0.31,
        collective: None,
        collective_seconds: 0.0,
        heard_seconds: 0.4,
        memory_bytes: Some(5 << 30),
        memory_peak_bytes: Some(6 << 30),
        step_seconds: Some(0.52),
        waited_seconds: Some(0.02),
        tokens_per_second: Some(12_345.6),
        waited_in: [("all-reduce of θ".to_owned(), 0.02)].into(),
    }
}

fn run() -> Status {
    Status {
        run: "out/llama".into(),
        attempt: 2,
        restarts: 1,
        rank_count: 4,
        up_seconds: 100.0,
        step: 12,
        total_steps: 1000,
        durable_step: Some(11),
        loss: Some(2.34567),
        tokens_per_second: Some(12_345.6),
        step_seconds: Some(0.52),
        eta_seconds: Some(513.76),
        stopping: None,
        ranks: vec![rank(0), rank(1)],
        findings: Vec::new(),
    }
}

fn silent() -> Finding {
    Finding {
        kind: FindingKind::Silent,
        rank: Some(1),
        host: "node01".into(),
        phase: Some(Phase::Backward),
        seconds: 12.0,
        limit_seconds: 4.0,
        collective: Some("all-reduce of θ".into()),
        waiting: 1,
        waiting_seconds: 11.0,
        message: "rank 1 on node01 has been silent for 12 s; it was in phase backward; 1 other rank waits for it in all-reduce of θ \
                  for 11 s"
            .into(),
    }
}

#[test]
fn a_run_is_read_at_a_glance() {
    let mut run = run();
    run.ranks[0].collective = Some("all-reduce of θ".into());
    run.ranks[0].collective_seconds = 11.2;
    run.ranks[1].heard_seconds = 12.3;
    run.findings = vec![silent()];
    let wanted = "\
out/llama: step 12 of 1000, loss 2.3457, 12,346 tokens/s, 0.52 s a step, 8 min 34 s left, step 11 durable, restarted once

rank  host                    device         step  phase                          step time  tokens/s   memory     peak     heard
   0  node00.cluster.example  NVIDIA H100 0    13  waits in all-reduce of θ 11 s     0.52 s    12,346  5.0 GiB  6.0 GiB   0 s ago
   1  node01.cluster.example  NVIDIA H100 0    13  backward 0.31 s                   0.52 s    12,346  5.0 GiB  6.0 GiB  12 s ago  SILENT

ranks 2-3 have not registered yet

SILENT: rank 1 on node01 has been silent for 12 s; it was in phase backward; 1 other rank waits for it in all-reduce of θ for 11 s";
    assert_eq!(status(&run, 150), wanted);
}

#[test]
fn a_narrow_terminal_cuts_names_and_wraps_sentences() {
    let mut run = run();
    run.findings = vec![silent()];
    let wanted = "\
out/llama: step 12 of 1000, loss 2.3457, 12,346 tokens/s, 0.52 s a step, 8 min
  34 s left, step 11 durable, restarted once

rank  host        step  phase      step time  tokens/s   memory    heard
   0  node00.cl…    13  backward…     0.52 s    12,346  5.0 GiB  0 s ago
   1  node01.cl…    13  backward…     0.52 s    12,346  5.0 GiB  0 s ago  SILENT

ranks 2-3 have not registered yet

SILENT: rank 1 on node01 has been silent for 12 s; it was in phase backward; 1
  other rank waits for it in all-reduce of θ for 11 s";
    assert_eq!(status(&run, 80), wanted);
    for width in [0, 40, 60, 98] {
        for line in status(&run, width).lines() {
            assert!(display_width(line) <= width.max(NARROWEST), "{width}: {line}");
        }
    }
}

#[test]
fn before_anything_is_known() {
    let empty = Status {
        step: 0,
        total_steps: 0,
        durable_step: None,
        loss: None,
        tokens_per_second: None,
        step_seconds: None,
        eta_seconds: None,
        restarts: 0,
        ranks: Vec::new(),
        ..run()
    };
    assert_eq!(status(&empty, 100), "out/llama: before the first step\n\nnone of 4 ranks has registered yet");
    let mut one = Status { rank_count: 1, ranks: vec![rank(0)], ..empty };
    one.ranks[0] = RankStatus {
        step: None,
        memory_bytes: None,
        step_seconds: None,
        tokens_per_second: None,
        connected: false,
        phase: Phase::Loading,
        ..rank(0)
    };
    assert!(ranks(&one, 120).ends_with("0 s ago  disconnected"), "{}", ranks(&one, 120));
}

#[test]
fn what_must_not_be_overlooked_is_in_capitals() {
    let run = Status { loss: Some(f64::NAN), stopping: Some("maintenance".into()), ..run() };
    let line = headline(&run, 300);
    assert!(
        line.contains("loss NOT A NUMBER") && line.contains("STOPPING after this step (maintenance)"),
        "{line}"
    );
}

#[test]
fn an_event_is_a_line() {
    let line = |kind| event(&Event { number: 1, unix_milliseconds: 1_700_000_000_000, attempt: 2, kind });
    let step =
        EventKind::StepDone { step: 3, total_steps: 9, loss: 1.5, tokens_per_second: 1234.0, seconds: 0.25 };
    assert_eq!(line(step), "22:13:20Z step 3 of 9, loss 1.5000, 1,234 tokens/s, 0.25 s");
    assert_eq!(
        line(EventKind::RankLost { rank: 1, host: "beta".into(), in_order: false }),
        "22:13:20Z rank 1 on beta has LOST its connection"
    );
    assert_eq!(line(EventKind::WishNoted { wish: Wish::Checkpoint }), "22:13:20Z asked for: checkpoint");
    assert_eq!(
        line(EventKind::AttemptBegan { ranks: 4, reason: "rank 1 was killed by signal 9".into() }),
        "22:13:20Z attempt 2 on 4 ranks: rank 1 was killed by signal 9"
    );
    assert!(
        line(EventKind::FindingBegan { finding: silent() }).starts_with("22:13:20Z SILENT: rank 1 on node01")
    );
    assert_eq!(line(EventKind::FindingOver { finding: silent() }), "22:13:20Z rank 1 is no longer SILENT");
    assert_eq!(line(EventKind::RunEnded { outcome: "done".into() }), "22:13:20Z the run has ended: done");
}

#[test]
fn times_and_sizes_have_the_digits_they_need() {
    let spans = [0.4, 42.0, 59.7, 190.0, 7500.0, 357_000.0, f64::NAN, f64::INFINITY, -1.0].map(span);
    assert_eq!(spans, ["0 s", "42 s", "1 min 00 s", "3 min 10 s", "2 h 05 min", "4 d 03 h", "?", "?", "?"]);
    assert_eq!([0, 512 << 10, 3 << 29, 200 << 30].map(bytes), ["0.0 KiB", "512 KiB", "1.5 GiB", "200 GiB"]);
    assert_eq!([0.0, 999.6, 1_234_567.0].map(round), ["0", "1,000", "1,234,567"]);
}
