//! Ranks on several hosts: which link a group of ranks goes over, by hand.

use mesh::Mesh;

use super::*;

/// 10^8 bytes a second and 1 ms within a host, 10^6 and 10 ms between hosts. Four equal blocks of H = 8, no vocabulary,
/// eight micro-batches of 8 tokens, θ of 12 numbers.
fn on_hosts(degrees: [usize; 3], per_host: u64) -> Facts {
    let mut facts = facts(model([8, 6, 4, 2, 1, 4, 0], ATTENTION));
    facts.data = Data { rows: Some(100), mean_tokens: Some(4.0), ..facts.data };
    facts.training = Training { d: 12, prefetch: false, ..facts.training };
    facts.speed = Some(Speed::TeraflopsPerRank(1e-6));
    let [dp_replicate, dp_shard, pp] = degrees;
    facts.ranks = Ranks { on_host: per_host, ..mesh(dp_replicate, dp_shard, pp) };
    facts.link = Link { gbps: Some(0.008), ms: Some(10.0) };
    facts.local_link = Link { gbps: Some(0.8), ms: Some(1.0) };
    facts
}

fn timing(degrees: [usize; 3], per_host: u64) -> Timing {
    plan(&on_hosts(degrees, per_host)).timing
}

fn near(value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-9, "{value}, expected {expected}");
}

#[test]
fn copies_on_one_host_and_on_eight() {
    let one = timing([8, 1, 1], 8);
    // 13 integers on a ring of eight; four gathers of seven blocks of 128 bytes, in three exchanges each.
    near(one.all_reduce_seconds, 2.0 * 7.0 / 8.0 * 104e-8 + 14.0 * 1e-3);
    near(one.small_gather_seconds, 4.0 * 7.0 * 128e-8 + 4.0 * 3.0 * 1e-3);
    assert_eq!((one.hosts, one.gather_seconds, one.stage_seconds), (1, 0.0, 0.0));
    assert!(one.stage_seconds.is_sign_positive());
    near(one.step_seconds, one.compute_seconds + one.all_reduce_seconds + one.small_gather_seconds);

    let eight = timing([64, 1, 1], 8);
    // Of the 63 links that a piece passes, eight join hosts; three of six exchanges stay on a host.
    near(eight.all_reduce_seconds, 2.0 * 63.0 / 64.0 * 104e-6 + 2.0 * (8.0 * 10e-3 + 55.0 * 1e-3));
    near(eight.small_gather_seconds, 4.0 * 63.0 * 128e-6 + 4.0 * (3.0 * 1e-3 + 3.0 * 10e-3));
    assert_eq!(eight.hosts, 8);
    // Eight micro-batches: no rank has more than one, on eight ranks or on 64.
    assert_eq!(eight.compute_seconds, one.compute_seconds);

    let apart = timing([8, 1, 1], 1);
    near(apart.all_reduce_seconds, 2.0 * 7.0 / 8.0 * 104e-6 + 14.0 * 10e-3);
    near(apart.small_gather_seconds, 4.0 * 7.0 * 128e-6 + 4.0 * 3.0 * 10e-3);
}

#[test]
fn shards_within_hosts_and_across() {
    let gathered = |facts: &Facts| {
        let mesh = Mesh::new(facts.ranks.mesh, facts.ranks.total as usize).unwrap();
        RankTraffic::new(&facts.model, Dtype::Float32, &mesh, 0, true).unwrap().step(&[], 1).gathered as f64
    };
    // A round gathers four blocks forward and three of them again backward.
    for (degrees, per_host, byte, hops) in [
        // Seven links within the host.
        ([1, 8, 1], 8, 1e-8, 7.0 * 1e-3),
        // Each of eight groups has a host to itself.
        ([8, 8, 1], 8, 1e-8, 7.0 * 1e-3),
        ([16, 4, 1], 8, 1e-8, 3.0 * 1e-3),
        // One group on two hosts, and one on eight.
        ([1, 16, 1], 8, 1e-6, 2.0 * 10e-3 + 13.0 * 1e-3),
        ([1, 64, 1], 8, 1e-6, 8.0 * 10e-3 + 55.0 * 1e-3),
        // The second group of three has one rank on the first host and two on the second.
        ([4, 3, 1], 4, 1e-6, 2.0 * 10e-3),
        // The same on one host.
        ([4, 3, 1], 12, 1e-8, 2.0 * 1e-3),
    ] {
        let facts = on_hosts(degrees, per_host);
        let timing = plan(&facts).timing;
        near(timing.gather_seconds, gathered(&facts) * byte + 7.0 * hops);
        // Numbers of no rows at all: a block of 128 bytes from each of the others, and one message more.
        let last = if byte == 1e-6 { 10e-3 } else { 1e-3 };
        near(timing.embedding_seconds, (degrees[1] - 1) as f64 * 128.0 * byte + hops + last);
    }
}

#[test]
fn stages_within_hosts_and_across() {
    // A message has 8 tokens of 32 bytes.
    let (local, between) = (256e-8 + 1e-3, 256e-6 + 10e-3);
    for (degrees, per_host, expected) in [
        ([2, 1, 4], 8, 6.0 * local),
        // Sixteen ranks on two hosts: the boundary in the middle alone lies between them, there and back.
        ([4, 1, 4], 8, 4.0 * local + 2.0 * between),
        // 64 on eight: every stage has two hosts to itself.
        ([16, 1, 4], 8, 6.0 * between),
        // Pairs of ranks 0 to 2 and 3 to 5, hosts of four: 1 and 4 are apart.
        ([3, 1, 2], 4, 2.0 * between),
        // With shards in place of copies.
        ([1, 4, 4], 8, 4.0 * local + 2.0 * between),
    ] {
        near(timing(degrees, per_host).stage_seconds, expected);
    }
}

#[test]
fn links_are_given_or_assumed() {
    let mut facts = on_hosts([16, 1, 1], 8);
    let link = |gbps: Option<f64>, ms: Option<f64>| Link { gbps, ms };
    let none = link(None, None);
    for (local, between, is_gpu, expected) in [
        // What is said of links between hosts holds within one, not the other way round.
        (none, link(Some(25.0), Some(0.3)), true, (25.0, 0.3, false, 25.0, 0.3, false)),
        (link(Some(900.0), Some(0.01)), none, true, (900.0, 0.01, false, 400.0, 0.02, true)),
        (link(Some(900.0), None), link(Some(25.0), Some(0.3)), false, (900.0, 0.3, false, 25.0, 0.3, false)),
        (none, none, true, (3600.0, 0.005, true, 400.0, 0.02, true)),
        (none, none, false, (10.0, 0.05, true, 10.0, 0.05, true)),
        (
            link(Some(f64::NAN), Some(-1.0)),
            link(Some(0.0), None),
            false,
            (10.0, 0.05, true, 10.0, 0.05, true),
        ),
    ] {
        (facts.local_link, facts.link, facts.host.is_gpu) = (local, between, is_gpu);
        let timing = plan(&facts).timing;
        let found = (timing.local_gbps, timing.local_ms, timing.local_is_assumed);
        let found = (found.0, found.1, found.2, timing.link_gbps, timing.link_ms, timing.link_is_assumed);
        assert_eq!(found, expected);
        assert_eq!(timing.messages_are_assumed, expected.2 || expected.5);
    }
    // On one host, links between hosts are of no account; on hosts of one rank, those within.
    let local = link(Some(900.0), Some(0.01));
    (facts.local_link, facts.link, facts.host.is_gpu) = (local, none, true);
    facts.ranks.on_host = 16;
    assert!(!plan(&facts).timing.messages_are_assumed);
    let text = text(&plan(&facts));
    assert!(text.contains("link of a rank within a host  900 Gbit/s and 0.01 ms\n"), "{text}");
    assert!(!text.contains("between"), "{text}");
    facts.ranks.on_host = 1;
    assert!(plan(&facts).timing.messages_are_assumed);
    let text = super::text(&plan(&facts));
    assert!(text.contains("link of a rank between 16 hosts  400 Gbit/s and 0.02 ms, assumed\n"), "{text}");
    assert!(!text.contains("within a host"), "{text}");
}

/// The mesh that is ranked first keeps what moves most within a host.
#[test]
fn the_ranking_knows_hosts() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.training = Training { dtype: Dtype::Bfloat16, accumulation: 64, ..facts.training };
    facts.ranks = Ranks { on_host: 8, on_device: 1, ..mesh(8, 8, 1) };
    facts.host = Host { is_gpu: true, available_memory: Some(40 << 30), ..Host::default() };
    facts.speed = Some(Speed::TeraflopsPerRank(400.0));
    facts.local_link = Link { gbps: Some(3600.0), ms: Some(0.005) };
    facts.link = Link { gbps: Some(50.0), ms: Some(0.02) };
    let plan = plan(&facts);
    let seconds = |shape: [usize; 3]| {
        let [dp_replicate, dp_shard, pp] = shape;
        let degrees = Degrees { dp_replicate, dp_shard, pp };
        let found = plan.meshes.iter().find(|mesh| mesh.degrees == degrees).unwrap();
        found.step_seconds
    };
    assert_eq!(plan.timing.step_seconds, seconds([8, 8, 1]));
    // 16 shards are on two hosts each, eight on one.
    assert!(seconds([4, 16, 1]) > 3.0 * seconds([8, 8, 1]), "{}", seconds([4, 16, 1]));
    // Of a GPU one rank alone is reckoned, however many are on the host.
    assert_eq!(plan.memory.host_peak, plan.memory.peak);
    assert!(text(&plan).contains("available on this GPU  40.0 GiB"));
}

#[test]
fn ranks_are_compared_with_one() {
    let mut facts = on_hosts([8, 1, 1], 8);
    facts.link = Link { gbps: Some(1e9), ms: Some(0.0) };
    facts.local_link = facts.link;
    let efficiency = |facts: &Facts| plan(facts).scaling.efficiency.unwrap();
    assert!((efficiency(&facts) - 1.0).abs() < 1e-6);
    // Eight micro-batches: eight of sixteen ranks are idle, and three ranks have 3, 3 and 2.
    facts.ranks = Ranks { on_host: 8, ..mesh(16, 1, 1) };
    assert!((efficiency(&facts) - 0.5).abs() < 1e-6);
    facts.ranks = mesh(3, 1, 1);
    assert!((efficiency(&facts) - 8.0 / 9.0).abs() < 1e-6);
    // A pipeline's bubble: 3 of 11.
    facts.ranks = mesh(1, 1, 4);
    assert!((efficiency(&facts) - 8.0 / 11.0).abs() < 1e-6);
    // Messages: a step of two ranks on slow links.
    facts = on_hosts([2, 1, 1], 1);
    let two = plan(&facts);
    let one = plan(&Facts { ranks: ranks(1), ..facts.clone() });
    let expected = one.timing.step_seconds / (2.0 * two.timing.step_seconds);
    near(two.scaling.efficiency.unwrap(), expected);
    near(two.scaling.tokens_per_second.unwrap(), 64.0 / two.timing.step_seconds);
    assert_eq!(two.scaling.one_rank_step_seconds, Some(one.timing.step_seconds));
    assert_eq!((two.scaling.one_rank_fits, one.scaling.efficiency), (None, Some(1.0)));

    facts.host.available_memory = Some(one.memory.peak);
    assert_eq!(plan(&facts).scaling.one_rank_fits, Some(true));
    facts.host.available_memory = Some(one.memory.peak - 1);
    let short = plan(&facts);
    assert_eq!(short.scaling.one_rank_fits, Some(false));
    assert!(text(&short).contains("one alone would need"), "{}", text(&short));
}
