use super::*;

#[test]
fn llama_8b_with_the_official_settings() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.data.rows = Some(395_000);
    let plan = plan(&facts);
    let parameters = &plan.parameters;
    assert_eq!(parameters.total, 8_030_261_248);
    assert_eq!((parameters.embedding, parameters.head), (525_336_576, 525_336_576));
    // 32 blocks of 2·4096² + 2·1024·4096.
    assert_eq!(parameters.adapted, 1_342_177_280);
    assert_eq!((parameters.adapted_modules, parameters.adapted_blocks), (128, 32));
    assert!((parameters.adapted_share - 0.167).abs() < 5e-4, "{}", parameters.adapted_share);
    assert_eq!(plan.groups.mean, 2560.0);
    // ± about five standard deviations of 50.6.
    assert!((2310.0..2340.0).contains(&plan.groups.min), "{}", plan.groups.min);
    assert!((2790.0..2820.0).contains(&plan.groups.max), "{}", plan.groups.max);
    // Eight times 2,800 terms are 15 bits.
    assert_eq!((plan.fixed_point.bits, plan.fixed_point.exponent, plan.fixed_point.limit), (15, 40, 128.0));
    let steps = &plan.steps;
    assert_eq!((steps.micro_batches_per_epoch, steps.per_epoch), (Some(197_500), Some(24_688)));
    assert_eq!((steps.total, steps.warmup, steps.rows), (Some(49_376), Some(2469), 16));
    let memory = &plan.memory;
    assert_eq!(memory.part("blocks' weights"), 4 * (1_342_177_280 + 32 * 3 * 4096 * 14_336));
    assert_eq!(memory.part("adapted weights' buffers"), 4 * 1_342_177_280);
    assert_eq!(memory.part("θ and its two moments, twice"), 12 << 20);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn qwen_with_tied_embeddings_and_biases() {
    let mut model = model(QWEN_HALF_B, ATTENTION);
    model.tied = true;
    for linear in &mut model.blocks[0].linears {
        linear.bias = matches!(linear.role, Role::Query | Role::Key | Role::Value);
        linear.adapted_bias = true;
    }
    let plan = plan(&facts(model));
    assert_eq!(plan.parameters.total, 494_032_768);
    assert_eq!(plan.parameters.head, 0);
    // Weights of 24 blocks, 2·896² + 2·128·896, and their biases, 896 + 2·128.
    let biases = 24 * (896 + 256);
    assert_eq!(plan.parameters.adapted_biases, biases);
    assert_eq!(plan.parameters.adapted, 24 * (2 * 896 * 896 + 2 * 128 * 896) + biases);
}

#[test]
fn memory_of_a_tiny_model_by_hand() {
    // A block adapts 8·8 + 2·4·8 + 8·8 = 192 numbers and has 3·48 more; N = 10 tokens.
    let memory = plan(&tiny(Dtype::Float32, false)).memory;
    let part = |name: &str| memory.part(name);
    assert_eq!(part("blocks' weights"), 4 * 3 * (192 + 144));
    assert_eq!(part("embedding, head and norms"), 4 * (2 * 80 + 7 * 8));
    assert_eq!(part("adapted weights' buffers"), 4 * 576);
    assert_eq!(part("gradient, sums and scales of θ"), 28 * 12 + 8);
    assert_eq!(part("private sums of the threads"), 2 * 8 * 12);
    assert_eq!(part("tokens of the dataset"), 100 * 16 + 100 * 4 * 4);
    assert_eq!(part("token ids of a step"), 24 * 10 * 8);
    // Kept by a block: a norm's input (8), two roots, q, k, v and attention (8 + 4 + 4 + 8), two heads, the normed
    // input (8), three of the MLP (18); and the input itself (8).
    let block = 8 + 2 + 24 + 2 + 8 + 18;
    // Attention's four and three (44) are wider than the MLP's three (18), beside three of N·H.
    assert_eq!(memory.largest_phase().unwrap().name, "backward of a block");
    assert_eq!(part("activations kept for backward"), 4 * 10 * 3 * (8 + block));
    assert_eq!(part("gradients of activations"), 4 * 10 * (24 + 44));
    assert_eq!(memory.peak, memory.held_bytes + 4 * 10 * (3 * (8 + block) + 24 + 44));
    let phase = |name: &str| memory.phases.iter().find(|phase| phase.name == name).unwrap().bytes;
    // Four times N·H; for 3 positions V logits and their exponentials, and twice H.
    let head = 4 * (4 * 80 + 3 * (2 * 10 + 2 * 8));
    assert_eq!(phase("head and loss"), 4 * 10 * 3 * (8 + block) + head);
    // One block's graph is gone; the gradients that come in and go out are there.
    let gradients = 4 * 10 * (3 * 8 + 2 * block) + 2 * 4 * 80 + 4 * 192;
    assert_eq!(phase("gradients of a block's weights"), gradients);
    assert_eq!(phase("counting the groups"), 12 * 12);
}

#[test]
fn memory_in_half_precision_and_with_recompute() {
    let memory = |dtype, recompute| plan(&tiny(dtype, recompute)).memory;
    let phase = |memory: &Memory, name: &str| memory.phases.iter().find(|p| p.name == name).unwrap().bytes;
    let half = memory(Dtype::Bfloat16, false);
    assert_eq!(half.part("blocks' weights"), 2 * 3 * (192 + 144));
    assert_eq!(half.part("adapted weights' buffers"), 2 * 576);
    // ΔW of the largest tensor, 8·8, in f32 and in bf16.
    assert_eq!(half.part("ΔW of a tensor before rounding"), 6 * 64);
    // Two norms' inputs, roots and attention's sums stay in f32.
    let block = 4 * (2 * 8 + 2 + 2) + 2 * (24 + 8 + 18);
    let backward = 2 * 10 * (24 + 44);
    assert_eq!(phase(&half, "backward of a block"), 10 * 3 * (2 * 8 + block) + backward);
    let recomputed = memory(Dtype::Bfloat16, true);
    assert_eq!(recomputed.part("adapted weights' buffers"), 2 * 192);
    assert_eq!(phase(&recomputed, "backward of a block"), 10 * (3 * 2 * 8 + block) + backward);
    // One gradient and the logits are f32.
    let head = 2 * 3 * 80 + 4 * 80 + 3 * (2 * 4 * 10 + 2 * 2 * 8);
    assert_eq!(phase(&recomputed, "head and loss"), 10 * 3 * 2 * 8 + head);
    // Weight gradients of one block in bf16, and one of them widened.
    let gradients = 10 * 3 * 2 * 8 + 2 * 2 * 80 + 2 * 192 + 4 * 64;
    assert_eq!(phase(&recomputed, "gradients of a block's weights"), gradients);
    // Within a budget, graphs and the buffers of the blocks that keep them take all of it, or what all blocks would.
    let within = |bytes: u64| {
        let mut facts = tiny(Dtype::Bfloat16, true);
        facts.training.activation_memory = Some(bytes);
        let memory = plan(&facts).memory;
        assert_eq!(memory.part("adapted weights' buffers"), 2 * 192);
        phase(&memory, "backward of a block") - backward - 10 * 3 * 2 * 8
    };
    let all = 10 * 3 * block + 2 * 576;
    assert_eq!(within(0), 10 * block);
    assert_eq!(within(1000), 1000 + 10 * block);
    assert_eq!(within(all + 1), all + 10 * block);
    let first_kept = |bytes, in_flight| {
        let facts = tiny(Dtype::Bfloat16, true);
        let budget = ActivationBudget { model: facts.model, dtype: Dtype::Bfloat16, in_flight, bytes };
        budget.first_kept(0..3, 2, 5, 3)
    };
    let each = 10 * block + 2 * 192;
    for (bytes, in_flight, expected) in [
        (0, 1, 3),
        (each - 1, 1, 3),
        (each, 1, 2),
        (2 * each, 1, 1),
        (3 * each - 1, 1, 1),
        (u64::MAX, 1, 0),
        (2 * each, 2, 2),
        (each, 2, 3),
    ] {
        assert_eq!(first_kept(bytes, in_flight), expected, "{bytes} bytes, {in_flight} in flight");
    }
    // Buffers that a shorter micro-batch has had made count, whether or not this one keeps the graph.
    let made = |bytes, buffers_from| {
        let facts = tiny(Dtype::Bfloat16, true);
        let budget = ActivationBudget { model: facts.model, dtype: Dtype::Bfloat16, in_flight: 1, bytes };
        budget.first_kept(0..3, 2, 5, buffers_from)
    };
    assert_eq!((made(2 * each, 3), made(2 * each, 0), made(2 * each + 2 * 192, 0)), (1, 2, 1));
    assert_eq!(made(10 * block, 2), 3);
    assert_eq!((made(3 * each, 0), made(3 * each, 2)), (0, 0));
    // Blocks that adapt different modules cannot share buffers.
    let mut uneven = tiny(Dtype::Float32, true);
    let mut other = uneven.model.blocks[0].linears.clone();
    other[0].adapted_weight = false;
    uneven.model.push_block(other, false);
    assert_eq!(plan(&uneven).memory.part("adapted weights' buffers"), 4 * (4 * 192 - 64));
}

#[test]
fn blocks_below_the_first_adapted_one_keep_their_input_alone() {
    let mut facts = tiny(Dtype::Float32, false);
    let mut plain = facts.model.blocks[0].clone();
    plain.linears.iter_mut().for_each(|linear| linear.adapted_weight = false);
    let all = plan(&facts).memory;
    facts.model.blocks =
        vec![BlockRun { repeat: 2, ..plain }, BlockRun { repeat: 1, ..facts.model.blocks[0].clone() }];
    let one = plan(&facts).memory;
    let phase = |memory: &Memory| memory.phases.iter().find(|p| p.name == "head and loss").unwrap().bytes;
    assert_eq!(phase(&all) - phase(&one), 2 * 4 * 10 * (8 + 2 + 24 + 2 + 8 + 18));
    // Forward alone costs 2 a weight and a third of attention.
    let work = plan(&facts).work;
    let (weights, adapted) = (f64::from(192 + 144), 192.0);
    assert_eq!(work.linear_per_token, 4.0 * 80.0 + 2.0 * 2.0 * weights + 4.0 * weights + 2.0 * adapted);
    assert_eq!(work.attention_per_token, 4.0 * 8.0 * (2.0 + 2.0 + 6.0));
}

#[test]
fn windows_shorter_than_the_rows_cost_a_mask() {
    let mut facts = tiny(Dtype::Bfloat16, false);
    facts.model.sliding_window = Some(4);
    let head = |facts: &Facts| {
        plan(facts).memory.phases.iter().find(|phase| phase.name == "head and loss").unwrap().bytes
    };
    let without = head(&facts);
    let linears = facts.model.blocks[0].linears.clone();
    facts.model.blocks[0].repeat = 1;
    (0..2).for_each(|_| facts.model.push_block(linears.clone(), true));
    assert_eq!(facts.model.blocks[1].repeat, 2);
    // 5 × 5, as booleans once and as bfloat16 in two blocks.
    assert_eq!(head(&facts) - without, 25 + 2 * 2 * 25);
    facts.model.sliding_window = Some(5);
    assert_eq!(head(&facts), without);
}

#[test]
fn partitions_that_hold_a_table() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.training.partition = PartitionKind::SignedMagnitude;
    let signed = plan(&facts);
    assert_eq!(signed.memory.part("partition's table"), 4 * 576);
    let sorting = signed.memory.phases.iter().find(|phase| phase.name == "sorting the weights").unwrap();
    assert_eq!(sorting.bytes, 12 * 576);
    assert_eq!((signed.groups.min, signed.groups.max, signed.groups.empty), (48.0, 48.0, 0.0));
    let mut facts = super::facts(model(LLAMA_8B, ATTENTION));
    facts.training.partition = PartitionKind::Materialized;
    // A state every 65,520 weights.
    assert_eq!(plan(&facts).memory.part("partition's table"), 20_486 * 2496);
}

#[test]
fn a_block_scope_splits_theta() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.training.block_scope = true;
    facts.training.d = 100;
    let groups = plan(&facts).groups;
    // 34 + 33 + 33 groups of 192 weights each.
    assert_eq!((groups.narrowest_block, groups.mean), (Some(33), 5.76));
    assert!(groups.max > 8.0 && groups.min < 3.0 && !groups.impossible);
    facts.training.d = 2;
    assert!(codes(&plan(&facts)).contains(&"block_groups"));
    facts.training.d = 576;
    assert!(!codes(&plan(&facts)).contains(&"block_groups"));
}

#[test]
fn messages_and_disk_by_hand() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks = ranks(4);
    let plan = plan(&facts);
    let [axis] = &plan.traffic.axes[..] else { panic!("one axis") };
    assert_eq!((axis.axis, axis.ranks, axis.stage), ("world", 4, None));
    let moves: Vec<_> = axis.moves.iter().map(|one| (one.operation, one.bytes)).collect();
    // Four gathers of a block of 128 bytes from each of three others.
    assert_eq!(moves, [("all-reduce", 13 * 8), ("all-gather", 3 * 4 * 128)]);
    assert_eq!((axis.bytes, plan.traffic.busiest_rank), (104 + 1536, 104 + 1536));
    // 16 losses are 128 bytes, which do not fit the block, and follow in another.
    let many = Training { accumulation: 64, ..facts.training.clone() };
    let more = super::plan(&Facts { training: many, ..facts.clone() });
    assert_eq!((more.steps.busiest_rank, more.traffic.axes[0].moves[1].bytes), (13, 3 * 4 * 128));
    let most = Training { accumulation: 50, ..facts.training.clone() };
    let more = super::plan(&Facts { training: most, ranks: ranks(3), ..facts.clone() });
    assert_eq!((more.steps.busiest_rank, more.traffic.axes[0].moves[1].bytes), (17, 2 * (4 * 128 + 192)));
    assert_eq!(plan.memory.part("gradient, sums and scales of θ"), 36 * 12 + 16);
    // 50 micro-batches an epoch, 7 steps, 14 in all: one save at the end.
    assert_eq!((plan.steps.per_epoch, plan.steps.total), (Some(7), Some(14)));
    let disk = &plan.disk;
    assert_eq!((disk.checkpoint, disk.checkpoints_kept), (12 * 12 + 2100, 1));
    assert_eq!((disk.adapter, disk.adapters, disk.records), (48 + 1024, 1, Some(14 * 910)));
    assert_eq!(disk.total, 2244 + 1072 + 14 * 910 + 8192 + (24 << 20));
    facts.training =
        Training { save_steps: 2, checkpoint_adapters: true, checkpoint_bytes: Some(999), ..facts.training };
    facts.model.tokenizer_bytes = Some(555);
    let disk = super::plan(&facts).disk;
    assert_eq!((disk.checkpoints_kept, disk.adapters), (2, 3));
    assert_eq!(disk.total, 3 * 999 + 3 * 1072 + 14 * 910 + 8192 + 555);
}

#[test]
fn steps_and_time_by_hand() {
    let mut facts = tiny(Dtype::Float32, false);
    facts.ranks = ranks(3);
    facts.speed = Some(Speed::TokensPerSecond(32.0));
    let plan = plan(&facts);
    let steps = &plan.steps;
    assert_eq!((steps.micro_batches, steps.rows, steps.tokens), (8, 16, 64.0));
    assert_eq!((steps.busiest_rank, steps.idle_ranks, steps.balance), (3, 0, 8.0 / 9.0));
    assert_eq!((steps.epochs, steps.total_tokens, steps.warmup), (Some(2.0), Some(800.0), Some(1)));
    assert_eq!((plan.work.step_seconds, plan.work.total_seconds), (Some(2.0), Some(25.0)));
    assert_eq!(plan.work.delta_passes, 3);
    let (weights, adapted) = (f64::from(3 * (192 + 144)), f64::from(3 * 192));
    let per_token = 4.0 * 80.0 + 4.0 * weights + 2.0 * adapted + 6.0 * 4.0 * 8.0 * 3.0;
    assert_eq!(plan.work.per_step, per_token * 64.0);
    facts.speed = Some(Speed::TeraflopsPerRank(1e-6));
    let work = super::plan(&facts).work;
    let expected = per_token * 64.0 / (1e6 * 3.0) * 9.0 / 8.0;
    assert!((work.step_seconds.unwrap() - expected).abs() < 1e-9);
    facts.data.rows = None;
    facts.training.max_steps = Some(10);
    let steps = super::plan(&facts).steps;
    assert_eq!((steps.total, steps.per_epoch, steps.total_tokens), (Some(10), None, Some(640.0)));
}

#[test]
fn every_warning_has_its_cause() {
    let check = |change: &dyn Fn(&mut Facts), code: &str, level: Level| {
        let mut facts = facts(model([512, 1408, 4, 8, 8, 64, 4096], ATTENTION));
        facts.training.d = 4096;
        facts.data.rows = Some(1000);
        assert_eq!(codes(&plan(&facts)), [""; 0]);
        change(&mut facts);
        let plan = plan(&facts);
        let warning = plan.warnings.iter().find(|warning| warning.code == code);
        assert_eq!(warning.map(|warning| warning.level), Some(level), "{code}: {:?}", plan.warnings);
        assert_eq!(plan.is_refused(), level == Level::Refusal);
        let suggestion = warning.map(|warning| warning.suggestion.as_str()).unwrap_or_default();
        assert!(text(&plan).contains(suggestion.split(' ').next().unwrap()));
    };
    check(&|f| f.training.d = 5 << 20, "d_out_of_range", Level::Refusal);
    check(
        &|f| f.model.blocks[0].linears.iter_mut().for_each(|l| l.adapted_weight = false),
        "nothing_adapted",
        Level::Refusal,
    );
    check(
        &|f| {
            f.training.d = 2;
            f.training.block_scope = true
        },
        "block_groups",
        Level::Refusal,
    );
    check(&|f| f.training.d = 1 << 20, "small_groups", Level::Warning);
    check(&|f| f.training.d = 1 << 20, "empty_groups", Level::Warning);
    check(&|f| f.ranks = ranks(9), "idle_ranks", Level::Warning);
    check(&|f| f.ranks = ranks(3), "uneven_ranks", Level::Warning);
    check(&|f| f.host.available_memory = Some(1 << 28), "memory", Level::Refusal);
    check(&|f| f.host.free_disk = Some(1000), "disk", Level::Warning);
    check(&|f| f.training.warmup_ratio = 1.0e6, "warmup", Level::Warning);
    check(&|f| f.training.d = 4, "coarse_sums", Level::Warning);
    check(&|f| f.host.cores = Some(0), "cores", Level::Warning);
    check(&|f| f.model.max_positions = Some(1024), "long_rows", Level::Note);
    check(
        &|f| {
            f.model.max_positions = Some(1024);
            f.data.longest_tokens = Some(1500);
        },
        "long_rows",
        Level::Warning,
    );
    check(
        &|f| {
            let memory = plan(f).memory;
            f.host.available_memory = Some(memory.host_peak + memory.allocator / 2);
        },
        "memory_tight",
        Level::Warning,
    );
}

#[test]
fn memory_is_refused_with_what_would_help() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.ranks = ranks(2);
    facts.host.available_memory = Some(200 << 30);
    assert!(memory(&facts).is_ok());
    facts.host.available_memory = Some(100 << 30);
    let error = memory(&facts).unwrap_err();
    let PlanError::Memory { needed, available, ranks, memory: parts, remedies, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((*needed, *available, *ranks), (2 * parts.peak, 100 << 30, 2));
    let changes: Vec<&str> = remedies.iter().map(|remedy| remedy.change.as_str()).collect();
    for flag in [
        "--gradient-checkpointing",
        "--dtype bfloat16",
        "--micro-batch-size 1 --accumulation-steps 16",
        "--max-seq-length 1024",
        "all of these together",
        "one rank a host",
    ] {
        assert!(changes.contains(&flag), "{changes:?}");
    }
    assert!(remedies[..4].is_sorted_by_key(|remedy| remedy.needed));
    let message = error.to_string();
    assert!(message.contains("2 ranks ×") && message.contains("100.0 GiB available"), "{message}");
    assert!(message.contains("blocks' weights 26.0 GiB"), "{message}");
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(help.contains("--dtype bfloat16 ("), "{help}");
}

#[test]
fn the_text_says_the_numbers() {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.data.rows = Some(395_000);
    facts.speed = Some(Speed::TokensPerSecond(10_000.0));
    let text = text(&plan(&facts));
    for expected in [
        "parameters  8,030,261,248",
        "adapted weights  1,342,177,280, 16.7% of the model",
        "in  128 modules, 32 of 32 blocks",
        "groups (d)  524,288",
        "weights a group, mean  2,560",
        "rows a step  16 in 8 micro-batches",
        "an epoch  24,688 steps of 197,500 micro-batches",
        "steps  49,376, 2 epochs",
        "of which warm-up  2,469",
        "checkpoint  6.0 MiB, 2 kept",
        "θ and its two moments, twice  12.0 MiB",
    ] {
        assert!(text.contains(expected), "{text}\nlacks {expected}");
    }
    let json = serde_json::to_value(plan(&facts)).unwrap();
    assert_eq!(json["parameters"]["adapted"], 1_342_177_280_u64);
    assert_eq!(json["steps"]["total"], 49_376);
}
