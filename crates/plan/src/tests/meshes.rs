//! Sharded and pipelined ranks by hand, and what must hold on every mesh.

use mesh::{Mesh, MeshError, StageError};
use proptest::prelude::*;

use super::*;

/// The blocks' tensors of [`tiny`] in f32, each rounded up to 64 bytes: two norms of 32 bytes; 8·8 numbers for query and
/// output, 4·8 for key and value; 6·8 for each of the MLP's three.
const TINY_BLOCK: u64 = 2 * 64 + 2 * 256 + 2 * 128 + 3 * 192;

#[test]
fn stages_follow_the_cost_of_blocks() {
    let lengths = |model: &Model, pp: usize| -> Vec<usize> {
        stages(model, pp).unwrap().iter().map(ExactSizeIterator::len).collect()
    };
    // Six blocks of 192·6 + 144·4 = 1,728 and what 8 + 6 elements cost, 8·9,200 + 6·2,760; a head of 10·(32 + 1,100).
    let mut six = model([8, 6, 6, 2, 1, 4, 10], ATTENTION);
    assert_eq!(lengths(&six, 1), [6]);
    assert_eq!(lengths(&six, 2), [3, 3]);
    // A head as dear as two blocks takes their place.
    six.vocab = 162;
    assert_eq!(lengths(&six, 2), [4, 2]);
    // Blocks below the first adapted one cost a third or so: 2·336 and a third of the elements.
    let mut late = model([8, 6, 6, 2, 1, 4, 10], ATTENTION);
    let plain = late.blocks[0].linears.iter().map(|linear| Linear { adapted_weight: false, ..*linear });
    let plain = plain.collect::<Vec<_>>();
    late.blocks[0].repeat = 3;
    late.blocks.insert(0, BlockRun { repeat: 3, windowed: false, linears: plain });
    assert_eq!(lengths(&late, 2), [4, 2]);
    assert_eq!(stages(&late, 7), Err(StageError::TooMany { stages: 7, blocks: 6 }));
    assert_eq!(stages(&late, 0), Err(StageError::TooMany { stages: 0, blocks: 6 }));
}

#[test]
fn what_is_no_mesh_is_refused() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks.mesh.dp_replicate = 2;
    assert!(matches!(Plan::new(&facts), Err(PlanError::Mesh(MeshError::Product { ranks: 1, .. }))));
    assert!(matches!(memory(&facts), Err(PlanError::Mesh(_))));
    facts.ranks = mesh(1, 1, 4);
    let error = Plan::new(&facts).unwrap_err();
    assert_eq!(error, PlanError::Stages(StageError::TooMany { stages: 4, blocks: 3 }));
    assert!(error.to_string().contains("pp 4"), "{error}");
}

#[test]
fn copies_own_all_and_stages_own_their_blocks() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks = mesh(3, 1, 1);
    let [stage] = &plan(&facts).stages[..] else { panic!("one stage") };
    // 3·336 numbers of maps, 6·8 of norms and 8 of the last one, 80 each of embedding and head.
    assert_eq!(stage.held_bytes, 4 * (3 * 336 + 7 * 8 + 2 * 80));
    assert_eq!((stage.ranks, stage.first_weight, stage.end_weight), (3, 0, 576));

    facts.ranks = mesh(2, 1, 2);
    let halves = plan(&facts);
    let [first, last] = &halves.stages[..] else { panic!("two stages") };
    assert_eq!((first.first_block, first.end_block, last.end_block), (0, 2, 3));
    assert_eq!((first.first_weight, first.end_weight, last.end_weight), (0, 384, 576));
    assert_eq!((first.embedding, first.head, last.embedding, last.head), (true, false, false, true));
    assert_eq!((first.ranks, last.ranks), (2, 2));
    assert_eq!(first.held_bytes, 4 * (2 * 336 + 4 * 8 + 80));
    assert_eq!(last.held_bytes, 4 * (336 + 2 * 8 + 80 + 8));
    assert_eq!((first.in_flight, last.in_flight), (3, 1));
    // Tied, both ends have the table.
    facts.model.tied = true;
    let tied = plan(&facts);
    assert_eq!(tied.stages[1].held_bytes, last.held_bytes);
    facts.ranks = mesh(1, 1, 1);
    assert_eq!(plan(&facts).stages[0].held_bytes, stage.held_bytes - 4 * 80);
}

/// On a GPU blocks whose weights are gathered are computed again in backward, whatever was asked for.
#[test]
fn gathering_gpus_recompute() {
    let of = |recompute: bool, is_gpu: bool, shards: usize| {
        let mut facts = tiny(Dtype::Bfloat16, recompute);
        facts.ranks = mesh(1, shards, 1);
        facts.host.is_gpu = is_gpu;
        plan(&facts).memory
    };
    assert_eq!(of(false, true, 3), of(true, true, 3));
    for (is_gpu, shards) in [(false, 3), (true, 1)] {
        assert!(of(false, is_gpu, shards).peak > of(true, is_gpu, shards).peak, "{is_gpu} {shards}");
    }
}

#[test]
fn shards_own_pieces() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks = mesh(1, 3, 1);
    let plan = plan(&facts);
    // A third of 1,472 bytes is 491, or 512; of a tile of ten rows 4 rows, 128 bytes; the final norm is whole.
    let piece = 512;
    assert_eq!(TINY_BLOCK, 1472);
    assert_eq!(plan.stages[0].held_bytes, 3 * piece + 2 * 128 + 32);
    let part = |name: &str| plan.memory.part(name);
    assert_eq!(part("blocks' weights"), 3 * piece);
    assert_eq!(part("embedding, head and norms"), 2 * 128 + 32);
    assert_eq!(part("gathered weights, current and next"), 2 * 3 * piece);
    let training = Training { prefetch: false, ..facts.training.clone() };
    let alone = super::plan(&Facts { training, ..facts.clone() });
    assert_eq!(alone.memory.part("gathered weights, current and next"), 3 * piece);
    // Eight micro-batches of three pipelines: three of ten tokens each, but only ten rows of 32 bytes.
    assert_eq!(part("embedding rows of a step's tokens"), 10 * 32);
    // As for a whole head, which has one tile, and all positions' normed hidden states.
    let head = plan.memory.phases.iter().find(|phase| phase.name == "head and loss").unwrap();
    let logits = head.parts.iter().find(|part| part.name == "logits, softmax and gradients").unwrap();
    assert_eq!(logits.bytes, 4 * (5 * 80 + 3 * (2 * 10 + 2 * 8)));
    // Two thirds come in a gather: three rounds forward and backward, but block 0 is still there for the next forward.
    let axis = &plan.traffic.axes[1];
    let moves: Vec<_> = axis.moves.iter().map(|one| (one.what, one.bytes)).collect();
    assert_eq!(
        moves,
        [
            ("blocks, forward", (3 * 3 - 2) * 2 * piece),
            ("blocks, backward", 3 * 3 * 2 * piece),
            ("head's tiles", 3 * 2 * 128),
        ]
    );
    assert_eq!((axis.axis, axis.ranks, axis.stage), ("dp-shard", 3, None));
    let rows = &plan.traffic.axes[2];
    let moves: Vec<_> = rows.moves.iter().map(|one| (one.what, one.bytes)).collect();
    // Ten numbers of four bytes fit the block of a gather.
    assert_eq!((rows.axis, moves), ("embedding", vec![("requests", 2 * 128), ("rows", 320)]));
}

#[test]
fn large_tables_are_cut_tile_by_tile() {
    // Two tiles of 16,384 rows and one of 7,232; 16 numbers a row.
    let mut facts = facts(model([16, 6, 2, 2, 1, 4, 40_000], ATTENTION));
    facts.training.dtype = Dtype::Bfloat16;
    facts.ranks = mesh(1, 3, 1);
    let plan = plan(&facts);
    // ceil(16,384 / 3) = 5,462 and ceil(7,232 / 3) = 2,411 rows of 32 bytes; 64 divides those of an even number.
    let table = 2 * 5462 * 32 + 2412 * 32;
    assert_eq!(plan.memory.part("embedding, head and norms"), 2 * table + 32);
    // A block: two norms, 128 numbers each for query and output, 64 for key and value, 96 for each of the MLP's.
    let block: u64 = 2 * (2 * 32 + 2 * 128 + 2 * 64 + 3 * 96);
    assert_eq!(block.div_ceil(3).next_multiple_of(64), 512);
    assert_eq!(plan.memory.part("gathered weights, current and next"), 2 * 3 * 5462 * 32);
    let rank =
        RankTraffic::new(&facts.model, Dtype::Bfloat16, &Mesh::new(facts.ranks.mesh, 3).unwrap(), 1, true)
            .unwrap();
    let held_out = rank.forward_alone(&[(1, 9)], 1).gathered;
    let training = rank.step(&[(1, 9)], 1).gathered;
    // The way back begins with the last tile, which is still there.
    assert_eq!(training, 2 * held_out - 2 * 2412 * 32);
    assert_eq!(held_out, 2 * table + 2 * 2 * 512);
    // 31 numbers are more than a block's 120 bytes.
    assert_eq!((rank.requests(30), rank.requests(31)), (2 * 128, 2 * (128 + 128)));
}

#[test]
fn a_stage_keeps_what_is_in_flight() {
    let memory = |ranks: Ranks, dtype, recompute| {
        let mut facts = tiny(dtype, recompute);
        facts.ranks = ranks;
        plan(&facts).memory
    };
    // A block's share of activations, and its input: see `memory_of_a_tiny_model_by_hand`.
    let block = 4 * 10 * (8 + 8 + 2 + 24 + 2 + 8 + 18);
    let two = memory(mesh(1, 1, 2), Dtype::Float32, false);
    assert_eq!((two.stage, two.stage_peaks.len()), (0, 2));
    // Stage 0 has two blocks and three micro-batches: its two forwards ahead, and one more.
    assert_eq!(two.part("activations kept for backward"), 3 * 2 * block);
    assert_eq!(two.part("messages of neighbouring stages"), (2 + 4) * 4 * 80);
    assert_eq!(two.part("adapted weights' buffers"), 4 * 2 * 192);
    assert_eq!(two.host_peak, two.stage_peaks.iter().sum::<u64>());
    let four = memory(mesh(2, 1, 2), Dtype::Float32, false);
    assert_eq!(four.host_peak, 2 * four.stage_peaks.iter().sum::<u64>());
    // With recompute only block inputs are kept.
    let recomputed = memory(mesh(1, 1, 3), Dtype::Bfloat16, true);
    let forward = recomputed.phases.iter().find(|phase| phase.name == "forward of a block").unwrap();
    assert_eq!(forward.parts[0].bytes, 4 * 10 * 8 * 2);
    // A pipeline never holds more micro-batches than it has.
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks = mesh(4, 1, 3);
    facts.training.accumulation = 4;
    assert!(plan(&facts).stages.iter().all(|stage| stage.in_flight == 1));
}

#[test]
fn messages_between_stages_stop_below_the_first_adapted_block() {
    let mut model = model([8, 6, 3, 2, 1, 4, 10], ATTENTION);
    let of = |model: &Model, rank: usize| {
        let mesh = Mesh::new(Degrees { dp_replicate: 1, dp_shard: 2, pp: 3 }, 6).unwrap();
        RankTraffic::new(model, Dtype::Float32, &mesh, rank, true).unwrap()
    };
    let batches = [(2, 5), (1, 4)];
    let each = (2 * 5 + 4) * 8 * 4;
    let moved = |model: &Model, rank: usize| {
        let moved = of(model, rank).step(&batches, 2);
        (moved.sent / each, moved.received / each)
    };
    assert_eq!([0, 2, 4].map(|rank| moved(&model, rank)), [(1, 1), (2, 2), (1, 1)]);
    // A round more than micro-batches gathers, and says nothing to other stages.
    let ghost = of(&model, 0).step(&[], 1);
    // Half of 1,472 bytes is 736, or 768. The only block is still there for backward.
    let piece = 768;
    assert_eq!(ghost, Moved { gathered: piece, sent: 0, received: 0 });
    // On the last stage the head's tile comes between: six rows, of ten.
    assert_eq!(of(&model, 5).step(&[], 1).gathered, 2 * piece + 192);
    // The only block serves all forwards.
    let held_out = of(&model, 2).forward_alone(&batches, 3);
    assert_eq!(held_out, Moved { gathered: piece, sent: each, received: each });
    // Only the last two blocks are adapted: stage 0 has no backward, and nothing comes back to it.
    let plain = model.blocks[0].linears.iter().map(|linear| Linear { adapted_weight: false, ..*linear });
    let plain = plain.collect::<Vec<_>>();
    model.blocks[0].repeat = 2;
    model.blocks.insert(0, BlockRun { repeat: 1, windowed: false, linears: plain });
    assert_eq!([0, 2, 4].map(|rank| moved(&model, rank)), [(1, 0), (1, 2), (1, 1)]);
    assert_eq!(of(&model, 0).step(&[], 1).gathered, piece);
}

#[test]
fn bubble_and_messages_take_time() {
    let mut facts = facts(model([8, 6, 4, 2, 1, 4, 0], ATTENTION));
    facts.data = Data { rows: Some(100), mean_tokens: Some(4.0), ..facts.data };
    facts.training.d = 12;
    facts.ranks = mesh(1, 1, 4);
    facts.speed = Some(Speed::TeraflopsPerRank(1e-6));
    let stages = plan(&facts);
    // Four equal stages, eight micro-batches: 3 of 11.
    assert!((stages.timing.bubble - 3.0 / 11.0).abs() < 1e-12, "{}", stages.timing.bubble);
    let whole = plan(&Facts { ranks: mesh(1, 1, 1), ..facts.clone() });
    let compute = whole.work.step_seconds.unwrap();
    assert!((stages.work.step_seconds.unwrap() / (compute / 4.0 * 11.0 / 8.0) - 1.0).abs() < 1e-12);
    assert_eq!((whole.timing.bubble, whole.timing.communication()), (0.0, 0.0));
    // 8·10^6 bits a second are a million bytes; 10 ms.
    facts.link = Link { gbps: Some(0.008), ms: Some(10.0) };
    let linked = plan(&facts);
    let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value} {expected}");
    // Six messages of 8 tokens of 32 bytes; 13 integers on a ring of four; four gathers of 3·128 bytes.
    near(linked.timing.stage_seconds, 6.0 * (256e-6 + 0.01));
    near(linked.timing.all_reduce_seconds, 1.5 * 104e-6 + 6.0 * 0.01);
    near(linked.timing.small_gather_seconds, 1536e-6 + 4.0 * 2.0 * 0.01);
    near(
        linked.work.step_seconds.unwrap(),
        stages.work.step_seconds.unwrap() + linked.timing.communication(),
    );
    // Shards gather while they compute, so only what takes longer is waited for.
    facts.ranks = mesh(1, 4, 1);
    let shards = plan(&facts);
    let rank =
        RankTraffic::new(&facts.model, Dtype::Float32, &Mesh::new(facts.ranks.mesh, 4).unwrap(), 0, true);
    // Two rounds of four blocks forward and backward, three times a block that is still there.
    let gathers = rank.unwrap().step(&[], 2).gathered as f64 * 1e-6 + 13.0 * 3.0 * 0.01;
    assert!(gathers > shards.timing.compute_seconds);
    near(shards.timing.gather_seconds, gathers - shards.timing.compute_seconds);
    facts.training.prefetch = false;
    near(plan(&facts).timing.gather_seconds, gathers);
    facts.training.prefetch = true;
    facts.link = Link { gbps: Some(1e6), ms: Some(0.0) };
    assert_eq!(plan(&facts).timing.gather_seconds, 0.0);
}

#[test]
fn short_pipelines_and_idle_ones_are_warned_of() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks = mesh(4, 1, 3);
    let short = plan(&facts);
    assert!(codes(&short).contains(&"short_pipeline"), "{:?}", short.warnings);
    facts.ranks = mesh(9, 1, 2);
    let idle = plan(&facts);
    assert_eq!((idle.steps.pipelines, idle.steps.idle_ranks), (9, 2));
    let reason = idle.warnings.iter().find(|warning| warning.code == "idle_ranks").unwrap().reason.clone();
    assert!(
        reason.contains("9 pipelines of 2 ranks") && reason.contains("2 ranks would be idle"),
        "{reason}"
    );
    facts.ranks = mesh(2, 1, 2);
    facts.training.partition = PartitionKind::SignedMagnitude;
    let signed = plan(&facts);
    assert!(signed.is_refused() && codes(&signed).contains(&"signed_mesh"));
    assert_eq!(signed.meshes.len(), 1);
    facts.ranks = mesh(4, 1, 1);
    assert!(!plan(&facts).is_refused());
}

/// A small model of blocks that differ, some of them adapted.
fn any_small_model() -> impl Strategy<Value = Model> {
    let block = (1_u64..4, any::<[bool; 7]>(), any::<bool>());
    (1_u64..40, 1_u64..40, 1_u64..50_000, any::<bool>(), proptest::collection::vec(block, 1..5)).prop_map(
        |(hidden, intermediate, vocab, tied, blocks)| {
            let mut whole = model([hidden, intermediate, 0, 2, 1, 4, vocab], &[]);
            whole.tied = tied;
            let plain = model([hidden, intermediate, 1, 2, 1, 4, vocab], &[]).blocks[0].linears.clone();
            for (repeat, adapted, bias) in blocks {
                let linears: Vec<Linear> = plain
                    .iter()
                    .zip(adapted)
                    .map(|(linear, adapted_weight)| Linear { adapted_weight, bias, ..*linear })
                    .collect();
                (0..repeat).for_each(|_| whole.push_block(linears.clone(), false));
            }
            whole
        },
    )
}

proptest! {
    #[test]
    fn stages_hold_the_model_together(model in any_small_model(), shards in 1_usize..5, pp in 1_usize..6) {
        prop_assume!(pp as u64 <= model.block_count());
        let mut facts = facts(model);
        facts.training.d = 1;
        facts.ranks = mesh(2, shards, pp);
        let plan = plan(&facts);
        let (parameters, stages) = (&plan.parameters, &plan.stages);
        let held: u64 = stages.iter().map(|stage| stage.held_bytes * shards as u64).sum();
        let copied = if facts.model.tied && pp > 1 { parameters.embedding } else { 0 };
        let whole = 4 * (parameters.total + copied);
        // Nothing more than is there, but for what pieces are rounded up to, and a norm that every shard has.
        prop_assert!(held >= whole, "{held} {whole}");
        if shards == 1 {
            prop_assert_eq!(held, whole);
        }
        let tensors = facts.model.block_count() * 16;
        // Of each tile of two tables every shard has up to 16 rows too many, so that 64 divides their bytes.
        let rows = 2 * facts.model.vocab.div_ceil(TILE_ROWS) * shards as u64 * 17 * 4 * facts.model.hidden;
        let slack = (tensors + facts.model.block_count() * shards as u64 * 2) * 64 + rows;
        prop_assert!(held <= whole + slack + 4 * shards as u64 * facts.model.hidden, "{held} {whole} {slack}");
        // Blocks and adapted weights end to end.
        prop_assert_eq!(stages.last().unwrap().end_weight, parameters.adapted);
        for pair in stages.windows(2) {
            prop_assert_eq!((pair[0].end_block, pair[0].end_weight), (pair[1].first_block, pair[1].first_weight));
        }
        prop_assert_eq!(stages.last().unwrap().end_block, facts.model.block_count());
        let share: f64 = stages.iter().map(|stage| stage.work_share).sum();
        prop_assert!((share - 1.0).abs() < 1e-9);
        prop_assert!((0.0..1.0).contains(&plan.timing.bubble));
    }

    /// The closed form against the list that ranks go by.
    #[test]
    fn gathers_are_those_of_the_schedule(
        model in any_small_model(),
        degrees in [1_usize..4, 2_usize..5, 1_usize..5],
        rounds in 0_usize..7,
        ahead: bool,
    ) {
        let [dp_replicate, dp_shard, pp] = degrees;
        prop_assume!(pp as u64 <= model.block_count() && model.adapted() > 0);
        let mesh = Mesh::new(Degrees { dp_replicate, dp_shard, pp }, dp_replicate * dp_shard * pp).unwrap();
        let blocks: Vec<&BlockRun> =
            model.blocks.iter().flat_map(|run| std::iter::repeat_n(run, run.repeat as usize)).collect();
        let first_adapted = blocks.iter().position(|run| run.adapted() > 0).unwrap();
        let ranges = stages(&model, pp).unwrap();
        let row = model.hidden as usize * 2;
        let tensor = |numbers: u64| (numbers as usize * 2).next_multiple_of(64);
        let piece = |unit: mesh::Unit| match unit {
            mesh::Unit::Block(block) => {
                let linears = blocks[block].linears.iter().map(|linear| {
                    tensor(linear.weights()) + if linear.bias { tensor(linear.outputs) } else { 0 }
                });
                mesh::piece_bytes(linears.sum::<usize>() + 2 * tensor(model.hidden), dp_shard, 64)
            }
            mesh::Unit::Tile(tile) => {
                let rows = (model.vocab - tile as u64 * TILE_ROWS).min(TILE_ROWS) as usize;
                mesh::piece_rows(rows, dp_shard, row, 64) * row
            }
        };
        for rank in 0..mesh.ranks() {
            let stage = mesh.coordinates(rank).stage;
            let tiles = if stage + 1 == pp { model.vocab.div_ceil(TILE_ROWS) as usize } else { 0 };
            let units = mesh::StageUnits { blocks: ranges[stage].clone(), first_adapted, tiles };
            let received = |gathers: &[mesh::Gather]| {
                let pieces = gathers.iter().map(|gather| piece(gather.unit) * (dp_shard - 1));
                pieces.sum::<usize>() as u64
            };
            let traffic = RankTraffic::new(&model, Dtype::Bfloat16, &mesh, rank, ahead).unwrap();
            let schedule = units.training(&mesh::one_forward_one_backward(mesh::warm_up(stage, pp, ahead), rounds));
            prop_assert_eq!(traffic.step(&[], rounds as u64).gathered, received(&schedule));
            prop_assert_eq!(traffic.gathers(rounds as u64), schedule.len() as u64);
            let forwards = received(&units.forwards(rounds));
            prop_assert_eq!(traffic.forward_alone(&[], rounds as u64).gathered, forwards);
        }
    }

    #[test]
    fn what_one_rank_sends_another_receives(
        model in any_small_model(),
        degrees in [1_usize..4, 1_usize..4, 1_usize..5],
        batches in proptest::collection::vec((1_u64..4, 1_u64..9), 0..4),
    ) {
        let [dp_replicate, dp_shard, pp] = degrees;
        prop_assume!(pp as u64 <= model.block_count());
        let mesh = Mesh::new(Degrees { dp_replicate, dp_shard, pp }, dp_replicate * dp_shard * pp).unwrap();
        let mut all = Moved::default();
        for rank in 0..mesh.ranks() {
            let rank = RankTraffic::new(&model, Dtype::Bfloat16, &mesh, rank, true).unwrap();
            all += rank.step(&batches, batches.len() as u64);
            all += rank.forward_alone(&batches, 1);
        }
        prop_assert_eq!(all.sent, all.received);
        prop_assert_eq!(all.gathered == 0, dp_shard == 1);
    }
}
