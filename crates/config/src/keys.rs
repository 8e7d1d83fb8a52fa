//! The table of settings: the one place where a key's names, type, limits, default and help are written.

use crate::choices::{
    AdapterType, AssignmentBackend, Bias, Comm, Device, Dtype, GroupingStrategy, LogLevel, LrScheduler,
    PartitionScope, Progress, ReportTo, TrainOn, values_of,
};
use crate::value::Kind;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// θ depends on it: a run can only be resumed with the same value.
    Identity,
    /// θ depends on it, and without it there is no run.
    Required,
    /// θ does not depend on it: free to change on resume.
    Free,
    /// Names another layer of settings; not allowed inside a file.
    Layer,
    /// Another way to write a key that is resolved.
    Shorthand,
    /// Belongs to an adapter type that is not built: known so that the refusal can say so.
    Foreign,
}

/// One setting.
#[derive(Clone, Copy)]
pub struct Key {
    /// Name in kebab case: `--NAME`, `NAME = …` in TOML, `GPART_NAME` with underscores in the environment.
    pub name: &'static str,
    /// Further names in kebab case. Every name's snake_case spelling is accepted too.
    pub aliases: &'static [&'static str],
    /// Type and limits.
    pub kind: Kind,
    /// Built-in default as one would type it; none for a setting that may be absent.
    pub default: Option<&'static str>,
    /// One or two sentences for `--help`.
    pub help: &'static str,
    /// What the key is for.
    pub role: Role,
}

impl Key {
    /// Whether `name` (any case, `-` or `_`) is one of the key's names.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let name = canonical(name);
        self.names().any(|own| own == name)
    }

    /// The key's name and its aliases.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Whether the word `none` unsets it.
    pub(crate) fn is_optional(&self) -> bool {
        self.default.is_none() && matches!(self.role, Role::Identity | Role::Free)
    }

    const fn alias(mut self, aliases: &'static [&'static str]) -> Key {
        self.aliases = aliases;
        self
    }

    const fn identity(mut self) -> Key {
        self.role = Role::Identity;
        self
    }

    const fn role(mut self, role: Role) -> Key {
        self.role = role;
        self
    }
}

/// Keys under one heading of the help.
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// What an override calls it: `adapter.d 4096`.
    pub prefix: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// All settings in the order in which they are shown.
pub fn sections() -> &'static [Section] {
    &SECTIONS
}

/// All settings without their headings.
pub(crate) fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

/// The key of that name, alias or snake_case spelling.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.is_called(name))
}

/// The prefix of the section that a key stands in.
pub(crate) fn section_of(key: &Key) -> &'static str {
    let holds = |section: &&Section| section.keys.iter().any(|own| own.name == key.name);
    SECTIONS.iter().find(holds).map_or("", |section| section.prefix)
}

/// The name of a key, its own or an alias, that differs from `name` by a few letters only.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let name = canonical(name);
    let length = name.chars().count();
    let limit = (length / 4).clamp(1, 4);
    // The distance takes time and memory with the product of both lengths, and a damaged file may have any name.
    let candidates =
        keys().flat_map(Key::names).filter(|known| known.chars().count().abs_diff(length) <= limit);
    let distances = candidates.map(|known| (edit_distance(&name, known), known));
    distances
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn canonical(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Fewest insertions, deletions, replacements and swaps of neighbours between two names.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { name, aliases: &[], kind, default: Some(default), help, role: Role::Free }
}

/// A setting that each command has its own default for, or none.
const fn required(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, aliases: &[], kind, default: None, help, role: Role::Required }
}

const fn unset(name: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, aliases: &[], kind, default: None, help, role: Role::Free }
}

/// Bounds every count by 2³¹ − 1, so that products of two fit in 64 bits. It is θ's limit too.
const COUNT: Kind = Kind::Int { min: 1, max: i32::MAX as i64 };
const COUNT_OR_ZERO: Kind = Kind::Int { min: 0, max: i32::MAX as i64 };
const NOT_NEGATIVE: Kind = Kind::Float { allowed: |x| x >= 0.0, expected: "a finite number of at least 0" };
const POSITIVE: Kind = Kind::Float { allowed: |x| x > 0.0, expected: "a finite number above 0" };
const PROBABILITY: Kind =
    Kind::Float { allowed: |x| (0.0..1.0).contains(&x), expected: "a number from 0 to below 1" };

static SECTIONS: [Section; 7] = [
    Section {
        title: "Settings files",
        prefix: "files",
        keys: &[
            unset("config", Kind::Path, "Settings file in TOML; flags and GPART_* variables win over it")
                .role(Role::Layer),
            unset("preset", Kind::Text, "Named settings files in configs/, the later one winning: official,llama-3.1-8b; a --config file wins over them")
                .role(Role::Layer),
        ],
    },
    Section {
        title: "Model and adapter",
        prefix: "adapter",
        keys: &[
            required(
                "model",
                Kind::Location,
                "Folder in Hugging Face layout, hub id or short name [metamath: mistralai/Mistral-7B-v0.1]",
            )
            .alias(&["model-name"]),
            unset("revision", Kind::Text, "Branch, tag or commit of a model that comes from the hub"),
            unset("eos-token", Kind::Text, "End-of-text token, in place of the tokenizer's own").identity(),
            key("adapter-type", Kind::Choice(values_of::<AdapterType>), "gpart", "Kind of adapter")
                .identity(),
            key("d", COUNT, "524288", "Trainable numbers: the length of θ").identity(),
            key("dropout", PROBABILITY, "0.05", "Probability that a weight's update is left out of a step")
                .identity(),
            key("init-bound", NOT_NEGATIVE, "0", "θ starts uniform in ±X, drawn from --seed").identity(),
            key("proj-seed", Kind::WideInt, "42", "Seed of the partition, whatever --seed is").identity(),
            key("isometric", Kind::Bool, "true", "Scale each group by 1/sqrt(its size), so that ‖ΔW‖ = ‖θ‖")
                .identity(),
            key(
                "assignment-backend",
                Kind::Choice(values_of::<AssignmentBackend>),
                "stateless",
                "How groups are drawn from the seed",
            )
            .identity(),
            key(
                "grouping-strategy",
                Kind::Choice(values_of::<GroupingStrategy>),
                "random",
                "What decides which weights share a group",
            )
            .identity(),
            key(
                "partition-scope",
                Kind::Choice(values_of::<PartitionScope>),
                "global",
                "What is partitioned as one: all adapted weights, or each block by itself",
            )
            .identity(),
            key(
                "target-modules",
                Kind::Targets,
                "q_proj,k_proj,v_proj,o_proj",
                "Linear modules to adapt: names, all-linear, or regex:EXPRESSION over full names",
            )
            .identity(),
            unset("layers-to-transform", Kind::Numbers, "Adapt the blocks with these numbers only, from 0")
                .identity(),
            unset("layers-pattern", Kind::List, "Name of the container that numbers the blocks [found by itself]")
                .identity(),
            key(
                "bias",
                Kind::Choice(values_of::<Bias>),
                "none",
                "Whether biases of adapted modules are adapted too (all and gpart_only are the same partition)",
            )
            .identity(),
            unset(
                "init-adapter",
                Kind::Path,
                "Start from the θ of this adapter; its partition is taken over, with everything that makes it",
            )
            .identity(),
            unset("rank", Kind::Text, "LoRA and Uni-LoRA only").role(Role::Foreign),
            unset("alpha", Kind::Text, "LoRA only").role(Role::Foreign),
        ],
    },
    Section {
        title: "Data",
        prefix: "data",
        keys: &[
            required(
                "data",
                Kind::Location,
                "Rows: a JSON, JSONL or Parquet file, or a dataset's hub id [metamath: meta-math/MetaMathQA]",
            )
            .alias(&["dataset-name"]),
            key("query-field", Kind::Text, "query", "Field of a row that holds the question").identity(),
            key("response-field", Kind::Text, "response", "Field of a row that holds the answer").identity(),
            unset(
                "template",
                Kind::Location,
                "How a row becomes text: official, chat (the tokenizer's own), or a minijinja file \
                 [chat for rows with messages, else official]",
            )
            .identity(),
            key(
                "train-on",
                Kind::Choice(values_of::<TrainOn>),
                "responses",
                "Tokens to learn to predict [metamath: all]",
            )
            .identity(),
            unset(
                "validation-split",
                POSITIVE,
                "Hold out this share of the rows (from 1 on: this many) and measure their loss",
            )
            .identity(),
            unset("show-samples", COUNT, "Print the tokens of N rows with what is trained on marked, and stop"),
            unset("max-samples", COUNT, "Train on the first N rows only").identity(),
            key("max-seq-length", COUNT, "2048", "Keep the last N tokens of a longer row").identity(),
            key("use-system-prompt", Kind::Bool, "false", "Put the official system prompt before each row")
                .identity(),
            key(
                "packing",
                Kind::Bool,
                "false",
                "Lay the rows of a micro-batch end to end, each seeing itself alone, in place of padding them",
            )
            .identity(),
            key("no-shuffle", Kind::Bool, "false", "Take the rows in the file's order in every epoch")
                .identity(),
            key("dataset-num-proc", COUNT, "8", "Threads that turn text into tokens"),
            unset(
                "dataloader-num-workers",
                COUNT_OR_ZERO,
                "Accepted for old scripts; batches need no workers here",
            ),
        ],
    },
    Section {
        title: "Training",
        prefix: "training",
        keys: &[
            key("epochs", POSITIVE, "2", "Passes over the data; may be a fraction")
                .alias(&["num-train-epochs"])
                .identity(),
            unset("max-steps", COUNT, "Number of steps, in place of the one that --epochs gives").identity(),
            key("micro-batch-size", COUNT, "2", "Rows a forward and backward pass")
                .alias(&["per-device-train-batch-size"])
                .identity(),
            key(
                "accumulation-steps",
                COUNT,
                "8",
                "Micro-batches a step in all, whatever the number of ranks",
            )
            .alias(&["gradient-accumulation-steps"])
            .identity(),
            unset("global-batch-size", COUNT, "Rows a step; sets --accumulation-steps").role(Role::Shorthand),
            key("learning-rate", NOT_NEGATIVE, "2e-4", "Highest learning rate").alias(&["lr"]).identity(),
            key(
                "lr-scheduler-type",
                Kind::Choice(values_of::<LrScheduler>),
                "cosine",
                "Learning rate over the steps",
            )
            .identity(),
            key(
                "warmup-ratio",
                NOT_NEGATIVE,
                "0.05",
                "Share of the steps that warm up; from 1 on, a number of steps",
            )
            .identity(),
            key("weight-decay", NOT_NEGATIVE, "0.01", "AdamW's decay of θ").identity(),
            key("max-grad-norm", NOT_NEGATIVE, "1", "Clip θ's gradient to this norm; 0 = no clipping")
                .identity(),
            key("seed", Kind::Int { min: 0, max: i64::MAX }, "42", "Seed of the data order and of dropout")
                .identity(),
            key(
                "dtype",
                Kind::Choice(values_of::<Dtype>),
                "float32",
                "Number format of the model's computation",
            )
            .identity(),
            unset("bf16", Kind::Bool, "Same as --dtype bfloat16").role(Role::Shorthand),
            unset("fp16", Kind::Bool, "Same as --dtype float16").role(Role::Shorthand),
            key(
                "gradient-checkpointing",
                Kind::Bool,
                "false",
                "Compute each block again in backward: less memory",
            )
            .alias(&["recompute"]),
            unset(
                "activation-memory",
                NOT_NEGATIVE,
                "Compute again only those blocks whose activations do not fit in so many GiB",
            ),
            key(
                "merge-delta",
                Kind::Bool,
                "false",
                "In half precision add ΔW to the weights: faster, but small updates are rounded away",
            )
            .identity(),
            key("cross-entropy-chunk", COUNT_OR_ZERO, "1024", "Tokens whose logits exist at a time; 0 = all")
                .identity(),
        ],
    },
    Section {
        title: "Held-out data and samples",
        prefix: "eval",
        keys: &[
            unset("eval-data", Kind::Location, "Rows whose loss is measured before and after training"),
            unset("eval-steps", COUNT, "Measure it every N steps too"),
            key("eval-batch-size", COUNT, "8", "Rows a pass of that measurement"),
            unset(
                "sample-prompt",
                Kind::Text,
                "Show the model's greedy continuation of TEXT before and after",
            ),
            key("sample-tokens", COUNT, "64", "Most tokens of that continuation"),
        ],
    },
    Section {
        title: "Output",
        prefix: "output",
        keys: &[
            unset(
                "output",
                Kind::Path,
                "Output folder; by default one named after the run in --output-root-dir",
            )
            .alias(&["output-dir"]),
            key("output-root-dir", Kind::Path, "./experiments/outputs", "Folder of runs without --output"),
            unset("output-dir-file", Kind::Path, "File that receives the output folder's path at the end"),
            key(
                "resume",
                Kind::Text,
                "auto",
                "auto: continue what is in the output folder; never; or a checkpoint",
            ),
            key("save-steps", COUNT, "250", "Keep a checkpoint, and the adapter, of every N-th step"),
            key("save-total-limit", COUNT, "2", "Keep the newest N of those"),
            key(
                "checkpoint-window",
                COUNT_OR_ZERO,
                "2",
                "Besides write every step's state while the next step computes, and keep the newest N; 0 = do not",
            ),
            key("logging-steps", COUNT, "10", "Print a line every N steps"),
            key(
                "report-to",
                Kind::Choice(values_of::<ReportTo>),
                "tensorboard",
                "Event files besides metrics.jsonl (the official script's default is none)",
            ),
            key("progress", Kind::Choice(values_of::<Progress>), "auto", "How progress is shown"),
            key("log-level", Kind::Choice(values_of::<LogLevel>), "info", "Least severe message in the logs"),
        ],
    },
    Section {
        title: "Ranks and devices",
        prefix: "ranks",
        keys: &[
            key("device", Kind::Choice(values_of::<Device>), "auto", "Device that computes; kept on resume").identity(),
            key("deterministic", Kind::Bool, "true", "On a GPU, take only algorithms that give the same bits every time")
                .identity(),
            key("tf32", Kind::Bool, "false", "On a GPU, multiply float32 by TF32, which keeps 10 bits of the mantissa")
                .identity(),
            key("comm", Kind::Choice(values_of::<Comm>), "auto", "What carries the ranks' messages"),
            key("share-gpu", Kind::Bool, "false", "Let several ranks of a host compute on one GPU"),
            unset("dp-replicate", COUNT, "Copies of the model; by default 1, or all ranks that --dp-shard and --pp leave"),
            unset(
                "dp-shard",
                COUNT,
                "Ranks that share one copy's weights; by default all that --dp-replicate and --pp leave",
            ),
            key("pp", COUNT, "1", "Pipeline stages of contiguous blocks"),
            key("prefetch", Kind::Bool, "true", "With --dp-shard, gather the next block while one computes"),
            key(
                "pp-ahead",
                Kind::Bool,
                "true",
                "With --pp, let stages make a forward more before their first backward: messages hide behind it",
            ),
            key("control", Kind::Bool, "true", "Without a launcher: let status, watch, checkpoint and stop reach the run"),
            unset("metrics-listen", Kind::Text, "HOST:PORT of this host to serve Prometheus metrics at, without a launcher"),
            key("memory-check", Kind::Bool, "true", "Refuse a run that the host seems to have too little memory for"),
            key("threads", Kind::Int { min: 1, max: 1024 }, "1", "Compute threads a rank; kept on resume")
                .identity(),
        ],
    },
];
