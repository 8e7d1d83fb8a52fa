//! Which mesh is cheapest.

use proptest::prelude::*;

use super::*;

fn shape(mesh: &RankedMesh) -> [usize; 3] {
    [mesh.degrees.dp_replicate, mesh.degrees.dp_shard, mesh.degrees.pp]
}

#[test]
fn all_meshes_are_there() {
    let mut facts = facts(model(QWEN_HALF_B, ATTENTION));
    facts.ranks = ranks(8);
    // 8 = 2³ in three factors: ten ways, each with at most 24 stages.
    assert_eq!(meshes(&facts).len(), 10);
    facts.ranks = ranks(32);
    // 21 ways, but for 32 stages.
    assert_eq!(meshes(&facts).len(), 20);
    facts.ranks = ranks((1 << 20) + 1);
    assert!(meshes(&facts).is_empty() && cheapest(&facts).is_none());
}

#[test]
fn plain_copies_win_where_they_fit() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.ranks = mesh(1, 8, 1);
    facts.host.available_memory = Some(2 << 40);
    let best = cheapest(&facts).unwrap();
    assert_eq!((shape(&best), best.fits, best.bubble), ([8, 1, 1], Some(true), 0.0));
    assert!(codes(&plan(&facts)).contains(&"cheaper_mesh"));
    facts.ranks = mesh(8, 1, 1);
    assert!(!codes(&plan(&facts)).contains(&"cheaper_mesh"));
    assert_eq!(cheapest(&facts), Some(best));
    // 400 GiB are too little for eight copies of some 60 GiB, and enough for eight parts.
    facts.host.available_memory = Some(400 << 30);
    let best = cheapest(&facts).unwrap();
    assert!(best.degrees.dp_replicate < 8, "{best:?}");
    let refused = plan(&facts);
    assert!(refused.is_refused() && codes(&refused).contains(&"cheaper_mesh"));
    let error = memory(&facts).unwrap_err();
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(help.contains(&best.flags()), "{help} lacks {}", best.flags());
    facts.host.available_memory = Some(1 << 30);
    assert_eq!(cheapest(&facts), None);
    assert_eq!(meshes(&facts).len(), 10);
}

#[test]
fn slow_links_are_avoided() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.ranks = mesh(1, 8, 1);
    // 350 GiB: not more than four copies in any form.
    facts.host.available_memory = Some(350 << 30);
    facts.speed = Some(Speed::TeraflopsPerRank(100.0));
    facts.link = Link { gbps: Some(1.0), ms: Some(0.1) };
    let slow = cheapest(&facts).unwrap();
    // Gathering 30 GiB at 1 Gbit/s takes minutes; a message between stages is some MiB.
    assert!(slow.degrees.pp > 1 && slow.degrees.dp_shard == 1, "{slow:?}");
}

#[test]
fn a_throughput_of_the_run_is_one_of_its_mesh() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.ranks = mesh(2, 1, 4);
    facts.speed = Some(Speed::TokensPerSecond(1000.0));
    let run = plan(&facts);
    let expected = run.steps.tokens / 1000.0;
    assert_eq!(run.work.step_seconds, Some(expected));
    assert!((run.timing.compute_seconds / expected - 1.0).abs() < 1e-12);
    // The bubble is gone with plain copies.
    let copies = run.meshes.iter().find(|mesh| shape(mesh) == [8, 1, 1]).unwrap();
    assert!(copies.step_seconds < expected, "{copies:?}");
    assert_eq!(run.ranked().map(shape), Some([2, 1, 4]));
}

#[test]
fn the_text_says_who_owns_what() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.ranks = mesh(2, 2, 2);
    facts.data.rows = Some(395_000);
    facts.host.available_memory = Some(1 << 40);
    facts.link = Link { gbps: Some(100.0), ms: Some(0.01) };
    let text = text(&plan(&facts));
    for expected in [
        "mesh  dp-replicate 2, dp-shard 2, pp 2 = 8 ranks",
        "stage 0, 4 ranks  blocks 0 to ",
        "norm and head",
        "1/2 of them a rank",
        "adapted weights, by index  0 to ",
        "gathered weights, current and next",
        "dp-shard",
        "link of a rank within a host  100 Gbit/s and 0.01 ms",
        "operations a second of a rank  50 billion, assumed",
        "of which pipeline bubble",
        "dp-replicate 8, dp-shard 1, pp 1  fits",
        "this plan: fits",
        "more",
    ] {
        assert!(text.contains(expected), "{text}\nlacks {expected}");
    }
    let json = serde_json::to_value(plan(&facts)).unwrap();
    assert_eq!(json["mesh"]["dp_shard"], 2);
    assert_eq!(json["meshes"][0]["degrees"]["dp_replicate"], 8);
    assert_eq!(json["stages"][1]["head"], true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_ranking_is_a_total_order(
        total in 1_u64..65,
        accumulation in 1_u64..40,
        memory in proptest::option::of(1_u64 << 28..1 << 34),
        gbps in proptest::option::of(0.01..400.0),
        ms in proptest::option::of(0.0..5.0),
    ) {
        let mut facts = facts(model([256, 700, 6, 4, 4, 64, 20_000], ATTENTION));
        facts.training = Training { accumulation, d: 1000, ..facts.training };
        facts.data.max_seq_length = 200;
        facts.ranks = ranks(total as usize);
        facts.host.available_memory = memory;
        facts.link = Link { gbps, ms };
        let ranked = meshes(&facts);
        // The same whatever mesh was asked for.
        let other = Facts { ranks: mesh(1, total as usize, 1), ..facts.clone() };
        prop_assert_eq!(&ranked, &meshes(&other));
        prop_assert!(!ranked.is_empty());
        let misfits = |mesh: &RankedMesh| mesh.fits == Some(false);
        prop_assert!(ranked.is_sorted_by_key(misfits));
        prop_assert_eq!(cheapest(&facts).is_some(), !ranked.iter().all(misfits));
        for pair in ranked.windows(2) {
            prop_assert!(misfits(&pair[1]) != misfits(&pair[0]) || pair[0].step_seconds <= pair[1].step_seconds);
            prop_assert!(pair[0].degrees != pair[1].degrees);
        }
        for mesh in &ranked {
            prop_assert_eq!(mesh.degrees.product(), Some(total as usize));
            prop_assert!(mesh.degrees.pp <= 6);
            // What the ranking says of a mesh is what its plan says.
            let own = plan(&Facts { ranks: Ranks { mesh: mesh.degrees, ..facts.ranks }, ..facts.clone() });
            prop_assert_eq!((own.memory.peak, own.memory.host_peak), (mesh.peak, mesh.host_peak));
            prop_assert_eq!((own.traffic.busiest_rank, own.timing.bubble), (mesh.bytes_moved, mesh.bubble));
        }
    }
}
