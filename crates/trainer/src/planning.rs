//! From settings, a model's configuration and the data to what [`plan`] reckons with.

use adapter::AdaptedSpace;
use comm::Communicator;
use config::{AssignmentBackend, GroupingStrategy, LrScheduler, PartitionScope, TrainConfig};
use mesh::Degrees;
use model::{LinearKind, ModelConfig};
use plan::{Data, Facts, Host, Linear, Link, Model, PartitionKind, Ranks, Role, Training};

use crate::agree::agree;
use crate::inputs::Inputs;
use crate::{Surroundings, TrainError};

/// The shape of a model and what of it is adapted; no weight is looked at.
pub fn model_facts(config: &ModelConfig, space: &AdaptedSpace) -> Model {
    let count = |number: i64| number.unsigned_abs();
    let mut model = Model {
        vocab: count(config.vocab_size),
        hidden: count(config.hidden_size),
        intermediate: count(config.intermediate_size),
        heads: count(config.num_heads),
        kv_heads: count(config.num_kv_heads),
        head_dim: count(config.head_dim),
        tied: config.tie_word_embeddings,
        max_positions: Some(count(config.max_position_embeddings)),
        sliding_window: config.sliding_window.as_ref().map(|window| count(window.tokens)),
        ..Model::default()
    };
    let mut adapted = space.modules().iter().peekable();
    let mut linears = Vec::with_capacity(LinearKind::ALL.len());
    for (candidate, module) in model::linear_modules(config).enumerate() {
        let own = adapted.next_if(|own| own.candidate == candidate);
        linears.push(Linear {
            role: role(module.kind),
            outputs: count(module.shape[0]),
            inputs: count(module.shape[1]),
            bias: module.bias.is_some(),
            adapted_weight: own.is_some(),
            adapted_bias: own.is_some_and(|own| own.bias),
        });
        if linears.len() == LinearKind::ALL.len() {
            let windowed = config.window(module.block).is_some();
            model.push_block(std::mem::take(&mut linears), windowed);
        }
    }
    model
}

fn role(kind: LinearKind) -> Role {
    match kind {
        LinearKind::Query => Role::Query,
        LinearKind::Key => Role::Key,
        LinearKind::Value => Role::Value,
        LinearKind::Output => Role::Output,
        LinearKind::Gate => Role::Gate,
        LinearKind::Up => Role::Up,
        LinearKind::Down => Role::Down,
    }
}

/// The run's settings, as far as a plan depends on them.
pub fn training_facts(config: &TrainConfig) -> Training {
    let count = |number: usize| number as u64;
    Training {
        dtype: match config.dtype {
            config::Dtype::Float32 => plan::Dtype::Float32,
            config::Dtype::Bfloat16 => plan::Dtype::Bfloat16,
            config::Dtype::Float16 => plan::Dtype::Float16,
        },
        micro_batch_size: count(config.micro_batch_size),
        accumulation: count(config.accumulation_steps),
        epochs: config.epochs,
        max_steps: config.max_steps.map(count),
        warmup_ratio: if config.lr_scheduler_type == LrScheduler::Constant {
            0.0
        } else {
            config.warmup_ratio
        },
        d: count(config.d),
        partition: match (config.grouping_strategy, config.assignment_backend) {
            (GroupingStrategy::SignedMagnitude, _) => PartitionKind::SignedMagnitude,
            (GroupingStrategy::Random, AssignmentBackend::Stateless) => PartitionKind::Stateless,
            (GroupingStrategy::Random, AssignmentBackend::Materialized) => PartitionKind::Materialized,
        },
        block_scope: config.partition_scope == PartitionScope::TransformerBlock,
        isometric: config.isometric,
        dropout: config.dropout,
        deterministic: config.deterministic,
        recompute: config.gradient_checkpointing,
        activation_memory: config.activation_bytes(),
        packing: config.packing,
        prefetch: config.prefetch,
        pp_ahead: config.pp_ahead,
        cross_entropy_chunk: count(config.cross_entropy_chunk),
        threads: count(config.threads),
        save_steps: count(config.save_steps),
        save_total_limit: count(config.save_total_limit),
        checkpoint_window: count(config.checkpoint_window),
        checkpoint_adapters: true,
        checkpoint_bytes: None,
        eval_batch_size: (config.eval_data.is_some() || config.validation_split.is_some())
            .then_some(count(config.eval_batch_size)),
        samples: config.sample_prompt.is_some(),
    }
}

/// Collective. Refuses a run that this host has not the memory for, while nothing has been loaded or written. Returns the
/// flags of the cheapest mesh that fits, unless it is the run's.
pub(crate) fn check_memory(
    config: &TrainConfig,
    inputs: &Inputs,
    mesh: Degrees,
    surroundings: &Surroundings<'_>,
) -> Result<Option<String>, TrainError> {
    let comm = surroundings.comm;
    let on_host = ranks_on_host(comm);
    let memory = surroundings.gpu_memory;
    let on_device = memory.map_or(on_host, |memory| memory.ranks);
    let ranks = Ranks { total: comm.size() as u64, on_host, on_device, mesh };
    let available = memory.map_or_else(surroundings.host_memory, |memory| Some(memory.available));
    let mut facts = facts(config, inputs, ranks, available);
    facts.host.is_gpu = memory.is_some();
    let verdict = match facts.host.available_memory {
        Some(_) if config.memory_check => plan::memory(&facts).map(|_| ()).map_err(TrainError::from),
        _ => Ok(()),
    };
    agree(comm, verdict)?;
    Ok(plan::cheapest(&facts).filter(|cheapest| cheapest.degrees != mesh).map(|cheapest| cheapest.flags()))
}

/// What a plan reckons with, now that the rows are known.
fn facts(config: &TrainConfig, inputs: &Inputs, ranks: Ranks, available_memory: Option<u64>) -> Facts {
    let rows = inputs.dataset.len();
    let longest = (0..rows).map(|row| inputs.dataset.example(row).ids.len()).max();
    Facts {
        model: Model {
            stored_bytes: Some(inputs.files.total_bytes()),
            ..model_facts(&inputs.model_config, &inputs.space)
        },
        data: Data {
            rows: Some(rows as u64),
            mean_tokens: Some(inputs.dataset.total_tokens() as f64 / rows.max(1) as f64),
            longest_tokens: longest.map(|longest| longest as u64),
            max_seq_length: config.max_seq_length as u64,
        },
        training: training_facts(config),
        ranks,
        host: Host { available_memory, ..Host::default() },
        speed: None,
        link: Link::default(),
        local_link: Link::default(),
    }
}

/// Collective: how many ranks share this rank's host, by its name.
fn ranks_on_host(comm: &dyn Communicator) -> u64 {
    let names = comm.all_gather(comm::host_name().as_bytes());
    names.iter().filter(|other| **other == names[comm.rank()]).count().max(1) as u64
}
