//! What `bench step` prints: a table, or JSON.

use serde_json::{Value, json};
use tch::{Device, Kind};
use trainer::Part;

use super::measure::{Ceiling, Outcome};
use super::{Load, Shape, StepArgs, Variant};
use crate::bench::peers::Peer;
use crate::format::{counted, grouped};

/// Everything that was measured.
pub struct Page<'a> {
    pub args: &'a StepArgs,
    pub shape: &'a Shape,
    pub load: &'a Load,
    pub kind: Kind,
    pub device: String,
    pub ceiling: Ceiling,
    pub outcomes: Vec<Outcome>,
    pub peers: Vec<Peer>,
}

/// Names the format of the JSON; `plan --measured` reads it.
const FORMAT: &str = "gpart-dist bench step 1";

impl Page<'_> {
    /// Operations a token: of the formula, and of what is really computed.
    fn operations(&self, outcome: &Outcome) -> (f64, f64) {
        let model = trainer::model_facts(&self.shape.config, &self.shape.space);
        let (linear, attention) = plan::operations_a_token(&model, self.load.mean_row());
        let model_operations = linear + attention;
        let adapted = self.shape.space.total() as f64;
        // ΔW kept apart is a product more, forward and backward; a block that is computed again is its forward once more.
        let apart = self.kind != Kind::Float && !self.args.merge_delta;
        let more = if apart { 4.0 * adapted } else { 0.0 };
        let forward = 2.0 * self.block_weights() + if apart { 2.0 * adapted } else { 0.0 } + attention / 3.0;
        (model_operations, model_operations + more + outcome.recomputed_share * forward)
    }

    /// Weights of all blocks' linear maps.
    fn block_weights(&self) -> f64 {
        let parameters = self.shape.config.parameters();
        (parameters.blocks * parameters.block.linear) as f64
    }

    fn figures(&self, outcome: &Outcome) -> Figures {
        let tokens_per_second = self.load.tokens() as f64 / outcome.step_seconds();
        let (model, hardware) = self.operations(outcome);
        let model_tflops = model * tokens_per_second * 1e-12;
        Figures {
            tokens_per_second,
            model_tflops,
            hardware_tflops: hardware * tokens_per_second * 1e-12,
            ceiling_share: model_tflops / self.ceiling.teraflops,
        }
    }

    fn dtype(&self) -> &'static str {
        dtype(self.kind)
    }

    /// As `plan --measured` reads it, and scripts.
    pub fn json(&self) -> String {
        let parameters = self.shape.config.parameters();
        let variants: Vec<Value> = self.outcomes.iter().map(|outcome| self.variant_json(outcome)).collect();
        let peers = self.peers.iter().map(|peer| {
            json!({
                "peer": peer.name, "note": peer.note,
                "step_seconds": peer.measured.map(|measured| measured.seconds),
                "tokens_per_second": peer.measured.map(|measured| measured.tokens_per_second),
                "peak_bytes": peer.measured.and_then(|measured| measured.peak_bytes),
            })
        });
        let rows = &self.load.micro_batches;
        json!({
            "format": FORMAT,
            "device": self.device,
            "model": self.shape.name,
            "shape": {
                "parameters": parameters.total(), "adapted": self.shape.space.total(),
                "hidden": self.shape.config.hidden_size, "layers": self.shape.config.num_layers,
            },
            "dtype": self.dtype(),
            "d": self.args.d,
            "threads": self.args.threads,
            "micro_batch_tokens": self.load.tokens() / rows.len().max(1),
            "micro_batches": rows.len(),
            "rows": rows,
            "ceiling_tflops": self.ceiling.teraflops,
            "ceiling_shape": self.ceiling.shape,
            "merge_delta": self.args.merge_delta,
            "variants": variants,
            "peers": peers.collect::<Vec<Value>>(),
        })
        .to_string()
    }

    fn variant_json(&self, outcome: &Outcome) -> Value {
        let figures = self.figures(outcome);
        let Variant { dropout, deterministic, packing } = outcome.variant;
        let parts: serde_json::Map<String, Value> = Part::ALL
            .iter()
            .map(|part| (part.name().to_owned(), json!(outcome.parts[*part as usize])))
            .collect();
        json!({
            "name": self.name(outcome),
            "dropout": dropout, "deterministic": deterministic, "packing": packing,
            "recompute": outcome.recompute, "recomputed_share": outcome.recomputed_share,
            "step_seconds": outcome.step_seconds(), "all_seconds": outcome.seconds,
            "tokens_per_second": figures.tokens_per_second,
            "model_tflops": figures.model_tflops, "hardware_tflops": figures.hardware_tflops,
            "ceiling_share": figures.ceiling_share,
            "peak_bytes": outcome.peak_bytes, "positions": self.load.positions(packing),
            "loss": outcome.loss, "parts": parts,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = self.head();
        lines.push(String::new());
        lines.extend(self.steps());
        lines.push(String::new());
        lines.extend(self.parts());
        if let (Some(path), Some(first)) = (&self.args.profile, self.outcomes.first()) {
            lines.push(format!("\ntrace of two steps of \"{}\": {}", self.name(first), path.display()));
        }
        if !self.peers.is_empty() {
            lines.push(String::new());
            lines.extend(self.peer_lines());
        }
        lines.join("\n")
    }

    fn head(&self) -> Vec<String> {
        let rows = &self.load.micro_batches;
        let lengths: Vec<usize> = rows.iter().flatten().copied().collect();
        let (least, most) = (lengths.iter().min().copied(), lengths.iter().max().copied());
        let row = match (least, most) {
            (Some(least), Some(most)) if least != most => {
                format!("{} to {}", grouped(least as u64), grouped(most as u64))
            }
            (_, most) => grouped(most.unwrap_or(0) as u64),
        };
        let operations = self.outcomes.first().map_or(0.0, |outcome| self.operations(outcome).0);
        let [m, n, k] = self.ceiling.shape;
        vec![
            format!(
                "{} on {}, {}: {} parameters, {} of them adapted, d = {}",
                self.shape.name,
                self.device,
                self.dtype(),
                grouped(self.shape.config.parameters().total()),
                grouped(self.shape.space.total()),
                grouped(self.args.d)
            ),
            format!(
                "a step: {} of up to {}, {row} tokens each; {} in all",
                counted(rows.len() as u64, "micro-batch").replace("batchs", "batches"),
                counted(rows.iter().map(Vec::len).max().unwrap_or(0) as u64, "row"),
                counted(self.load.tokens() as u64, "token"),
            ),
            format!(
                "operations a token: {:.3} · 10^9 (4 a frozen weight, 6 an adapted one, 6·T·Q attention a block; the embedding is free)",
                operations * 1e-9
            ),
            format!(
                "fastest matrix product: {:.2} TFLOP/s ([{m}, {k}] · [{k}, {n}])",
                self.ceiling.teraflops
            ),
        ]
    }

    fn steps(&self) -> Vec<String> {
        let widest =
            self.outcomes.iter().map(|outcome| self.name(outcome).chars().count()).max().unwrap_or(0);
        let mut lines = vec![format!(
            "{:widest$}  {:>10} {:>10} {:>12} {:>9} {:>11} {:>10}",
            "", "positions", "s a step", "tokens/s", "TFLOP/s", "of fastest", "peak GiB"
        )];
        for outcome in &self.outcomes {
            let figures = self.figures(outcome);
            let peak = outcome.peak_bytes.map_or("–".to_owned(), |bytes| format!("{:.2}", gib(bytes)));
            lines.push(format!(
                "{:widest$}  {:>10} {:>10.4} {:>12.1} {:>9.3} {:>10.1}% {peak:>10}",
                self.name(outcome),
                grouped(self.load.positions(outcome.variant.packing) as u64),
                outcome.step_seconds(),
                figures.tokens_per_second,
                figures.model_tflops,
                100.0 * figures.ceiling_share,
            ));
        }
        lines
    }

    /// Time by part, of steps that wait after each.
    fn parts(&self) -> Vec<String> {
        let widest =
            self.outcomes.iter().map(|outcome| self.name(outcome).chars().count()).max().unwrap_or(0);
        let heads: String = Part::ALL.iter().map(|part| format!(" {:>10}", part.name())).collect();
        let mut lines = vec![
            "milliseconds of each part, of steps that wait for the device after it:".to_owned(),
            format!("{:widest$} {heads}", ""),
        ];
        for outcome in &self.outcomes {
            let parts: String =
                outcome.parts.iter().map(|seconds| format!(" {:>10.2}", seconds * 1e3)).collect();
            lines.push(format!("{:widest$} {parts}", self.name(outcome)));
        }
        lines
    }

    fn peer_lines(&self) -> Vec<String> {
        let own = self.outcomes.first().map_or(f64::NAN, |outcome| self.figures(outcome).tokens_per_second);
        let first = self.outcomes.first().map_or(String::new(), |outcome| self.name(outcome));
        let mut lines = vec![
            format!("peers, by this host's PyTorch; ours over theirs for \"{first}\":"),
            format!(
                "{:22} {:>10} {:>12} {:>10} {:>14}",
                "", "s a step", "tokens/s", "peak GiB", "ours / theirs"
            ),
        ];
        for peer in &self.peers {
            match peer.measured {
                Some(measured) => lines.push(format!(
                    "{:22} {:>10.4} {:>12.1} {:>10} {:>14.2}",
                    peer.name,
                    measured.seconds,
                    measured.tokens_per_second,
                    measured.peak_bytes.map_or("–".to_owned(), |bytes| format!("{:.2}", gib(bytes))),
                    own / measured.tokens_per_second
                )),
                None => lines.push(format!("{:22} {}", peer.name, peer.note)),
            }
        }
        lines
    }
}

impl Page<'_> {
    /// A variant in a few words.
    fn name(&self, outcome: &Outcome) -> String {
        let Variant { dropout, deterministic, packing } = outcome.variant;
        let mut name =
            format!("dropout {dropout}, {}", if deterministic { "deterministic" } else { "any order" });
        if packing {
            name += ", packed";
        }
        if self.args.merge_delta && self.kind != Kind::Float {
            name += ", merged";
        }
        if outcome.recompute {
            name += &format!(", {:.0}% of blocks again", 100.0 * outcome.recomputed_share);
        }
        name
    }
}

/// What is reckoned from a variant's seconds.
struct Figures {
    tokens_per_second: f64,
    model_tflops: f64,
    hardware_tflops: f64,
    ceiling_share: f64,
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn dtype(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// What the peers are to time: the same rows on the same device.
pub fn request(
    args: &StepArgs,
    shape: &Shape,
    load: &Load,
    kind: Kind,
    device: Device,
    recompute: bool,
) -> Value {
    json!({
        "config": serde_json::from_str::<Value>(&shape.text).unwrap_or_default(),
        "device": if device == Device::Cpu { "cpu" } else { "cuda" },
        "dtype": dtype(kind),
        "d": args.d,
        "dropout": args.dropout.first().copied().unwrap_or(0.0),
        "targets": args.target_modules,
        "lengths": load.micro_batches,
        "repeats": args.repeats,
        "warmup": args.warmup,
        "threads": args.threads,
        "peers": ["frozen", "official-stateless", "official-materialized", "lora"],
        "lora_rank": 16,
        "seed": 1,
        "recompute": recompute,
    })
}
