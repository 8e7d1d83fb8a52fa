//! The numbers that a plan is made from; whoever calls fills them in from settings, config.json and the host.

use mesh::Degrees;
use serde::Serialize;

use crate::count::{product, sum};
use crate::measurement::Measurement;

/// Everything that a plan depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The model's shape and what of it is adapted.
    pub model: Model,
    /// The training data.
    pub data: Data,
    /// The run's settings.
    pub training: Training,
    /// The processes.
    pub ranks: Ranks,
    /// The machine that the command runs on.
    pub host: Host,
    /// A throughput to reckon time with.
    pub speed: Option<Speed>,
    /// What joins a rank to ranks of other hosts, and to those of its own where [`Self::local_link`] says nothing.
    pub link: Link,
    /// What joins a rank to the others of its host.
    pub local_link: Link,
}

/// Shape of a decoder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// `V`, rows of the embedding.
    pub vocab: u64,
    /// `H`.
    pub hidden: u64,
    /// `I`.
    pub intermediate: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Size of a head.
    pub head_dim: u64,
    /// The head is the embedding.
    pub tied: bool,
    /// Longest row the model was made for (`max_position_embeddings`).
    pub max_positions: Option<u64>,
    /// Tokens that a token of a windowed block may look back; rows longer than that need a mask.
    pub sliding_window: Option<u64>,
    /// Transformer blocks, first to last.
    pub blocks: Vec<BlockRun>,
    /// Bytes of the checkpoint's weight files, where they are known.
    pub stored_bytes: Option<u64>,
    /// Bytes of the tokenizer's files, where they are known.
    pub tokenizer_bytes: Option<u64>,
}

/// Neighbouring blocks that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRun {
    /// How many.
    pub repeat: u64,
    /// They attend within the model's window.
    pub windowed: bool,
    /// The linear maps of each, in the model's module order.
    pub linears: Vec<Linear>,
}

/// A linear map of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Its place in the block.
    pub role: Role,
    /// Rows of the weight.
    pub outputs: u64,
    /// Columns of the weight.
    pub inputs: u64,
    /// It has a bias, `[outputs]`.
    pub bias: bool,
    /// Its weight belongs to the partition.
    pub adapted_weight: bool,
    /// Its bias belongs to the partition.
    pub adapted_bias: bool,
}

/// What a linear map of a block does: which activations it reads depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the usual names of the seven maps of a decoder's block")]
pub enum Role {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// The training data, as far as it is known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Data {
    /// Number of rows.
    pub rows: Option<u64>,
    /// Mean tokens of a row.
    pub mean_tokens: Option<f64>,
    /// Tokens of the longest row.
    pub longest_tokens: Option<u64>,
    /// Longer rows are cut to this.
    pub max_seq_length: u64,
}

/// Number format of the model's computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the formats' names say it all")]
pub enum Dtype {
    Float32,
    Bfloat16,
    Float16,
}

/// How the partition is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionKind {
    /// A hash of the index.
    Stateless,
    /// torch's random stream.
    Materialized,
    /// By sign and size of the weights.
    SignedMagnitude,
}

/// Settings of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// Compute dtype.
    pub dtype: Dtype,
    /// Rows of a micro-batch.
    pub micro_batch_size: u64,
    /// Micro-batches of a step in all, whatever the number of ranks.
    pub accumulation: u64,
    /// Passes over the data; may be a fraction.
    pub epochs: f64,
    /// In place of `epochs`: the number of steps.
    pub max_steps: Option<u64>,
    /// Below 1 a share of the steps (rounded up), from 1 on a number; 0 for a schedule without warm-up.
    pub warmup_ratio: f64,
    /// Length of θ.
    pub d: u64,
    /// How the partition is made.
    pub partition: PartitionKind,
    /// Every block has a slice of θ to itself (`transformer_block`).
    pub block_scope: bool,
    /// Groups are scaled by 1/sqrt(size), so that ‖ΔW‖ = ‖θ‖.
    pub isometric: bool,
    /// Probability that a weight's update is left out of a micro-batch.
    pub dropout: f64,
    /// On a GPU, only algorithms are taken that give the same bits every time.
    pub deterministic: bool,
    /// Blocks are computed again in backward (`--gradient-checkpointing`).
    pub recompute: bool,
    /// Only those are whose graphs have no room in so many bytes ([`crate::ActivationBudget`]); wins over `recompute`.
    pub activation_memory: Option<u64>,
    /// Rows of a micro-batch lie end to end.
    pub packing: bool,
    /// Where weights are shared out, the next unit is gathered while one is in use.
    pub prefetch: bool,
    /// Stages of a pipeline make a forward more before their first backward ([`mesh::warm_up`]).
    pub pp_ahead: bool,
    /// Positions whose logits are alive at once; 0 for all.
    pub cross_entropy_chunk: u64,
    /// Compute threads a rank.
    pub threads: u64,
    /// A checkpoint every so many steps; 0: at the end alone.
    pub save_steps: u64,
    /// Checkpoints kept.
    pub save_total_limit: u64,
    /// States of the newest steps that are kept besides; 0: none.
    pub checkpoint_window: u64,
    /// Every checkpoint has a loadable adapter beside it.
    pub checkpoint_adapters: bool,
    /// Size of a state file, where one is on record.
    pub checkpoint_bytes: Option<u64>,
    /// Rows of a batch of held-out data, if there is any.
    pub eval_batch_size: Option<u64>,
    /// A sample continuation is shown.
    pub samples: bool,
}

impl Training {
    /// Some blocks may be computed again in backward.
    pub(crate) fn recomputes(&self) -> bool {
        self.recompute || self.activation_memory.is_some()
    }
}

/// The processes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// All of them.
    pub total: u64,
    /// Those on the host with the most. Ranks are numbered host by host, so many on each but the last.
    pub on_host: u64,
    /// Those that share the memory of [`Host::available_memory`]: as many as on a host, or those of one GPU.
    pub on_device: u64,
    /// Degrees of parallelism.
    pub mesh: Degrees,
}

/// The machine, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Bytes of memory that a program could still get: of the GPU, where ranks compute on one.
    pub available_memory: Option<u64>,
    /// Ranks compute on GPUs, and that memory is one's.
    pub is_gpu: bool,
    /// What its maker calls the GPU, where one is there to be asked.
    pub gpu: Option<String>,
    /// Bytes free where the output goes.
    pub free_disk: Option<u64>,
    /// Cores.
    pub cores: Option<u64>,
}

/// A throughput, measured or hoped for.
#[derive(Debug, Clone, PartialEq)]
pub enum Speed {
    /// Tokens a second of the whole run, padding not counted.
    TokensPerSecond(f64),
    /// 10^12 operations a second of one rank, by the formula of [`crate::Work`].
    TeraflopsPerRank(f64),
    /// What `bench step` measured of one rank.
    Measured(Measurement),
}

/// What joins two ranks, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// 10^9 bits a second that a rank sends, and receives at the same time.
    pub gbps: Option<f64>,
    /// Milliseconds that a message takes however short it is, one way.
    pub ms: Option<f64>,
}

impl Host {
    /// What the memory belongs to.
    pub(crate) fn memory_of(&self) -> &'static str {
        if self.is_gpu { "GPU" } else { "host" }
    }
}

impl Dtype {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 | Self::Float16 => 2,
        }
    }

    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }
}

impl PartitionKind {
    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Materialized => "materialized",
            Self::SignedMagnitude => "signed_magnitude",
        }
    }
}

impl Linear {
    /// Numbers of the weight.
    pub(crate) fn weights(&self) -> u64 {
        product([self.outputs, self.inputs])
    }

    /// Numbers of the weight and the bias.
    pub(crate) fn parameters(&self) -> u64 {
        sum([self.weights(), if self.bias { self.outputs } else { 0 }])
    }

    /// Numbers that belong to the partition.
    pub(crate) fn adapted(&self) -> u64 {
        let weight = if self.adapted_weight { self.weights() } else { 0 };
        sum([weight, if self.adapts_bias() { self.outputs } else { 0 }])
    }

    /// The bias exists and belongs to the partition.
    pub(crate) fn adapts_bias(&self) -> bool {
        self.bias && self.adapted_bias
    }
}

impl BlockRun {
    /// Numbers of one block that belong to the partition.
    pub(crate) fn adapted(&self) -> u64 {
        sum(self.linears.iter().map(Linear::adapted))
    }

    /// One of these roles has an adapted weight.
    pub(crate) fn adapts(&self, roles: &[Role]) -> bool {
        self.linears.iter().any(|linear| linear.adapted_weight && roles.contains(&linear.role))
    }
}

impl Model {
    /// Appends a block, of these linear maps in module order.
    pub fn push_block(&mut self, linears: Vec<Linear>, windowed: bool) {
        match self.blocks.last_mut() {
            Some(last) if last.linears == linears && last.windowed == windowed => {
                last.repeat = last.repeat.saturating_add(1);
            }
            _ => self.blocks.push(BlockRun { repeat: 1, windowed, linears }),
        }
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u64 {
        sum(self.blocks.iter().map(|run| run.repeat))
    }

    /// Adapted numbers of the whole model.
    pub(crate) fn adapted(&self) -> u64 {
        sum(self.blocks.iter().map(|run| product([run.repeat, run.adapted()])))
    }

    /// Position of the first run with adapted numbers: blocks below it need no backward.
    pub(crate) fn first_adapted(&self) -> usize {
        let adapted = self.blocks.iter().position(|run| run.adapted() > 0 && run.repeat > 0);
        adapted.unwrap_or(self.blocks.len())
    }

    /// `Q`.
    pub(crate) fn query_width(&self) -> u64 {
        product([self.heads, self.head_dim])
    }

    /// `K`.
    pub(crate) fn kv_width(&self) -> u64 {
        product([self.kv_heads, self.head_dim])
    }
}

impl Data {
    /// Tokens of the longest row after cutting; the limit itself where no row is known.
    pub(crate) fn longest(&self) -> u64 {
        self.longest_tokens.map_or(self.max_seq_length, |longest| longest.min(self.max_seq_length))
    }

    /// Mean tokens of a row, and whether that is only an upper bound.
    pub(crate) fn mean(&self) -> (f64, bool) {
        match self.mean_tokens.filter(|mean| mean.is_finite() && *mean >= 0.0) {
            Some(mean) => (mean.min(self.max_seq_length as f64), false),
            None => (self.longest() as f64, true),
        }
    }
}
