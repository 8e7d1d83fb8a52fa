#![allow(clippy::unwrap_used)]

//! Whole plans against numbers worked out by hand, against measurements, and for any numbers at all.

mod any_numbers;
mod by_hand;
mod cheapest;
mod hosts;
mod measured;
mod measurement;
mod meshes;

use mesh::Degrees;

use crate::*;

const ALL: [Role; 7] = [Role::Query, Role::Key, Role::Value, Role::Output, Role::Gate, Role::Up, Role::Down];
const ATTENTION: &[Role] = &[Role::Query, Role::Key, Role::Value, Role::Output];

/// Hidden, intermediate, blocks, heads, key-value heads, head size, vocabulary.
type Sizes = [u64; 7];

const LLAMA_8B: Sizes = [4096, 14_336, 32, 32, 8, 128, 128_256];
const QWEN_HALF_B: Sizes = [896, 4864, 24, 14, 2, 64, 151_936];

fn model(sizes: Sizes, adapted: &[Role]) -> Model {
    let [hidden, intermediate, blocks, heads, kv_heads, head_dim, vocab] = sizes;
    let mut model = Model { vocab, hidden, intermediate, heads, kv_heads, head_dim, ..Model::default() };
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let linears: Vec<Linear> = ALL
        .iter()
        .map(|role| {
            let (outputs, inputs) = match role {
                Role::Query => (q, hidden),
                Role::Key | Role::Value => (kv, hidden),
                Role::Output => (hidden, q),
                Role::Gate | Role::Up => (intermediate, hidden),
                Role::Down => (hidden, intermediate),
            };
            let adapted_weight = adapted.contains(role);
            Linear { role: *role, outputs, inputs, bias: false, adapted_weight, adapted_bias: false }
        })
        .collect();
    (0..blocks).for_each(|_| model.push_block(linears.clone(), false));
    model
}

/// H = 8, I = 6, 3 blocks, 2 heads on 1 of size 4, V = 10; rows of 5 tokens, 2 a micro-batch. A block adapts 192 numbers
/// and has 144 more.
fn tiny(dtype: Dtype, recompute: bool) -> Facts {
    let mut facts = facts(model([8, 6, 3, 2, 1, 4, 10], ATTENTION));
    facts.data =
        Data { rows: Some(100), longest_tokens: Some(5), mean_tokens: Some(4.0), max_seq_length: 64 };
    facts.training =
        Training { dtype, recompute, d: 12, threads: 2, cross_entropy_chunk: 3, ..facts.training };
    facts
}

/// The official defaults on one rank.
fn facts(model: Model) -> Facts {
    Facts {
        model,
        data: Data { max_seq_length: 2048, ..Data::default() },
        training: Training {
            dtype: Dtype::Float32,
            micro_batch_size: 2,
            accumulation: 8,
            epochs: 2.0,
            max_steps: None,
            warmup_ratio: 0.05,
            d: 524_288,
            partition: PartitionKind::Stateless,
            block_scope: false,
            isometric: true,
            dropout: 0.05,
            deterministic: true,
            recompute: false,
            activation_memory: None,
            packing: false,
            prefetch: true,
            pp_ahead: true,
            cross_entropy_chunk: 1024,
            threads: 1,
            save_steps: 250,
            save_total_limit: 2,
            checkpoint_window: 0,
            checkpoint_adapters: false,
            checkpoint_bytes: None,
            eval_batch_size: None,
            samples: false,
        },
        ranks: ranks(1),
        host: Host::default(),
        speed: None,
        link: Link::default(),
        local_link: Link::default(),
    }
}

fn ranks(count: usize) -> Ranks {
    let mesh = Degrees { dp_replicate: count, dp_shard: 1, pp: 1 };
    Ranks { total: count as u64, on_host: count as u64, on_device: count as u64, mesh }
}

fn mesh(dp_replicate: usize, dp_shard: usize, pp: usize) -> Ranks {
    let mesh = Degrees { dp_replicate, dp_shard, pp };
    let total = (dp_replicate * dp_shard * pp) as u64;
    Ranks { total, on_host: total, on_device: total, mesh }
}

fn plan(facts: &Facts) -> Plan {
    Plan::new(facts).unwrap()
}

fn codes(plan: &Plan) -> Vec<&'static str> {
    plan.warnings.iter().map(|warning| warning.code).collect()
}

/// All text of a plan, a line a row.
fn text(plan: &Plan) -> String {
    let sections = plan.sections();
    let rows = sections.iter().flat_map(|section| &section.rows);
    rows.map(|(label, value)| format!("{label}  {value}\n")).collect()
}
