use proptest::prelude::*;

use super::*;
use crate::stage::Layout;

/// Any number, with small ones, powers of two and the ends more often than by chance.
fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..5,
        1_u64..100_000,
        (0_u32..64, 0_u64..3).prop_map(|(power, more)| (1_u64 << power).saturating_add(more)),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

fn any_real() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..4.0,
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(-1.0)
    ]
}

fn any_linear() -> impl Strategy<Value = Linear> {
    (0_usize..7, any_count(), any_count(), any::<[bool; 3]>()).prop_map(|(role, outputs, inputs, flags)| {
        let [bias, adapted_weight, adapted_bias] = flags;
        Linear { role: ALL[role], outputs, inputs, bias, adapted_weight, adapted_bias }
    })
}

fn any_model() -> impl Strategy<Value = Model> {
    let run = (any_count(), any::<bool>(), proptest::collection::vec(any_linear(), 0..8))
        .prop_map(|(repeat, windowed, linears)| BlockRun { repeat, windowed, linears });
    let counts = proptest::array::uniform6(any_count());
    let options = proptest::array::uniform4(proptest::option::of(any_count()));
    (counts, options, any::<bool>(), proptest::collection::vec(run, 0..5)).prop_map(
        |(counts, options, tied, blocks)| {
            let [vocab, hidden, intermediate, heads, kv_heads, head_dim] = counts;
            let [max_positions, sliding_window, stored_bytes, tokenizer_bytes] = options;
            Model {
                vocab,
                hidden,
                intermediate,
                heads,
                kv_heads,
                head_dim,
                tied,
                max_positions,
                sliding_window,
                blocks,
                stored_bytes,
                tokenizer_bytes,
            }
        },
    )
}

fn any_training() -> impl Strategy<Value = Training> {
    let counts = proptest::array::uniform7(any_count());
    let options = proptest::array::uniform4(proptest::option::of(any_count()));
    let reals = proptest::array::uniform3(any_real());
    (counts, options, reals, any::<[bool; 7]>(), 0_usize..3, 0_usize..3).prop_map(
        |(counts, options, [epochs, warmup_ratio, dropout], flags, dtype, partition)| Training {
            dtype: [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16][dtype],
            micro_batch_size: counts[0],
            accumulation: counts[1],
            epochs,
            max_steps: options[0],
            warmup_ratio,
            d: counts[2],
            partition: [
                PartitionKind::Stateless,
                PartitionKind::Materialized,
                PartitionKind::SignedMagnitude,
            ][partition],
            block_scope: flags[0],
            isometric: flags[1],
            dropout,
            recompute: flags[2],
            activation_memory: options[3],
            packing: flags[1],
            deterministic: flags[2],
            prefetch: flags[5],
            pp_ahead: flags[6],
            cross_entropy_chunk: counts[3],
            threads: counts[4],
            save_steps: counts[5],
            save_total_limit: counts[6],
            checkpoint_window: counts[6] % 5,
            checkpoint_adapters: flags[3],
            checkpoint_bytes: options[1],
            eval_batch_size: options[2],
            samples: flags[4],
        },
    )
}

/// A mesh of about so many ranks, of which as many are shards and stages as the model has blocks for.
fn any_mesh(total: u64, [shards, stages]: [u64; 2], model: &Model) -> (u64, Degrees) {
    let pp = stages.clamp(1, model.block_count().clamp(1, 64));
    let dp_shard = shards.clamp(1, 1 << 30);
    let dp_replicate = (total / pp / dp_shard).max(1);
    let mesh = Degrees { dp_replicate: dp_replicate as usize, dp_shard: dp_shard as usize, pp: pp as usize };
    (dp_replicate * dp_shard * pp, mesh)
}

/// A measurement with this number wherever a file may have it; otherwise the throughput.
fn any_measurement(number: f64, count: u64) -> Speed {
    let file = serde_json::json!({
        "format": "gpart-dist bench step 1", "device": "a GPU", "model": "a model", "dtype": "float32",
        "shape": {"parameters": count, "adapted": count, "hidden": count, "layers": count},
        "micro_batch_tokens": number,
        "variants": [{
            "name": "any", "dropout": 0.0, "deterministic": true, "recompute": false, "step_seconds": number,
            "tokens_per_second": number, "model_tflops": number, "parts": {"update": number / 3.0, "apply": number / 3.0},
        }],
    });
    let measurement = Measurement::parse("any", &file.to_string());
    measurement.map_or(Speed::TeraflopsPerRank(number), Speed::Measured)
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let options = proptest::array::uniform5(proptest::option::of(any_count()));
    let reals = (proptest::option::of(any_real()), proptest::option::of(any_real()), any::<bool>());
    let counts = proptest::array::uniform3(any_count());
    let shape = (any_count(), any_count());
    let link = proptest::array::uniform4(proptest::option::of(any_real()));
    (any_model(), any_training(), options, reals, counts, shape, link).prop_map(
        |(
            model,
            training,
            options,
            (mean_tokens, speed, tokens),
            counts,
            shape,
            [gbps, ms, local_gbps, local_ms],
        )| {
            let [max_seq_length, total, on_host] = counts;
            let [rows, longest_tokens, available_memory, free_disk, cores] = options;
            let is_gpu = local_gbps.is_some();
            let (total, mesh) = any_mesh(total.max(1), [shape.0, shape.1], &model);
            let wrap = |speed: f64| match (tokens, is_gpu) {
                (_, true) => any_measurement(speed, counts[0]),
                (true, _) => Speed::TokensPerSecond(speed),
                (false, _) => Speed::TeraflopsPerRank(speed),
            };
            Facts {
                model,
                data: Data { rows, mean_tokens, longest_tokens, max_seq_length },
                training,
                ranks: Ranks { total, on_host, on_device: on_host, mesh },
                host: Host { available_memory, free_disk, cores, is_gpu, gpu: None },
                speed: speed.map(wrap),
                link: Link { gbps, ms },
                local_link: Link { gbps: local_gbps, ms: local_ms },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn no_numbers_panic_and_every_line_fits(facts in any_facts()) {
        let plan = Plan::new(&facts).unwrap();
        for section in plan.sections() {
            for (label, value) in &section.rows {
                let columns = label.chars().count() + 2 + value.chars().count();
                prop_assert!(columns <= 96, "{columns} columns: {label}  {value}");
                prop_assert!(!value.contains("NaN") && !value.contains("inf"), "{label}  {value}");
            }
        }
        prop_assert!(serde_json::to_string(&plan).is_ok());
        let groups = &plan.groups;
        prop_assert!(groups.min <= groups.max && groups.empty >= 0.0, "{groups:?}");
        prop_assert!(plan.steps.busiest_rank <= plan.steps.micro_batches);
        let memory = &plan.memory;
        prop_assert!(memory.peak >= memory.held_bytes);
        // What a plan says of memory and what a run is refused for are one.
        match crate::memory(&facts) {
            Ok(again) => prop_assert_eq!(&again, memory),
            Err(error) => {
                prop_assert!(plan.is_refused());
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn more_of_anything_never_takes_less(facts in any_facts(), which in 0_usize..6, more in 1_u64..1000) {
        let mut larger = facts.clone();
        match which {
            0 => larger.training.d = larger.training.d.saturating_add(more),
            1 => larger.model.hidden = larger.model.hidden.saturating_add(more),
            2 => larger.model.vocab = larger.model.vocab.saturating_add(more),
            3 => larger.training.micro_batch_size = larger.training.micro_batch_size.saturating_add(more),
            4 => larger.training.threads = larger.training.threads.saturating_add(more),
            _ => larger.data.max_seq_length = larger.data.max_seq_length.saturating_add(more),
        }
        // Stored bytes are given for the whole model: a larger one of the same size is stored in fewer a number.
        larger.model.stored_bytes = None;
        let facts = Facts { model: Model { stored_bytes: None, ..facts.model.clone() }, ..facts };
        // Plain copies: on other meshes more may move a boundary between stages, or make for fewer micro-batches.
        let peak = |facts: &Facts| {
            let mesh = Degrees { dp_replicate: facts.ranks.total as usize, dp_shard: 1, pp: 1 };
            let copies = Facts { ranks: Ranks { mesh, ..facts.ranks }, ..facts.clone() };
            Memory::of(&Layout::new(&copies).unwrap(), &copies).peak
        };
        prop_assert!(peak(&larger) >= peak(&facts));
    }
}
