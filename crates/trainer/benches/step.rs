//! Cost of the adapter in a training step on CPU: `cargo bench -p trainer`.
//!
//! A step with GPart (forward, backward, reduction, AdamW) beside the same step with the adapter off: frozen forward,
//! and backward to the first block's input. All variants take turns in one process, so that ratios are of one run.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use adapter::{AdaptedSpace, Selection};
use checkpoint::Vectors;
use data::MicroBatch;
use model::{
    BlockWeights, Decoder, DecoderWeights, LinearKind, ModelConfig, WholeHead, cross_entropy, next_labels,
};
use partition::{Scope, Stateless, count_parallel, scales};
use projection::{Dropout, Executor, FixedPoint, Reducer, scale_theta};
use tch::{Device, Kind, Tensor, no_grad};
use trainer::{
    AdamW, AdamWOptions, Buffers, Overlay, Pass, Recompute, Resident, ScaledTheta, Stage, Update, clip,
    executor, linear_modules,
};

const THREADS: usize = 2;
const TOKENS: usize = 256;
const D: u64 = 65_536;
const ROUNDS: usize = 15;

fn main() {
    // Under `cargo test --benches` the harness asks for a list or a short run: there is nothing to test here.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    tch::set_num_threads(THREADS as i32);
    let config = shape();
    let model = Decoder::new(config.clone(), Kind::Float, Device::Cpu);
    let weights = random_weights(&config);
    let targets = Selection::of_names(["q_proj", "k_proj", "v_proj", "o_proj"]);
    let space = AdaptedSpace::select(&linear_modules(&config), &targets).unwrap();
    let partition = Stateless::new(42, D).unwrap();
    let counts = count_parallel(&partition, 0..space.total(), THREADS).unwrap();
    let executor = executor(THREADS);
    let batch = random_batch(&config);
    let mut gpart = GPart {
        pass: Pass {
            model: &model,
            stage: Stage::whole(weights.blocks.len(), 0),
            overlay: Overlay::new(
                &space,
                0..weights.blocks.len(),
                &partition,
                executor.as_ref(),
                (Kind::Float, Device::Cpu),
            ),
            recompute: Recompute::Never,
            cross_entropy_chunk: 1024,
            probe: None,
        },
        weights: &weights,
        resident: Resident::whole(&weights),
        executor: executor.as_ref(),
        reducer: Reducer::new(D, FixedPoint::new(*counts.iter().max().unwrap(), 1), THREADS).unwrap(),
        scales: scales(&counts, true, &Scope::Global),
        before: Vectors::starting_at(vec![0.0; D as usize]),
        after: Vectors::starting_at(vec![0.0; D as usize]),
        adam: AdamW::new(AdamWOptions::with_weight_decay(0.01)),
        step: 0,
    };
    let variants = [
        "adapter off",
        "GPart, dropout 0",
        "GPart, dropout 0.05",
        "of it: apply alone",
        "of it: reduce alone",
    ];
    let mut times = vec![Vec::new(); variants.len()];
    for round in 0..=ROUNDS {
        for (variant, times) in times.iter_mut().enumerate() {
            let started = Instant::now();
            match variant {
                0 => frozen(&model, &weights, &batch),
                1 => gpart.step(&batch, 0.0),
                2 => gpart.step(&batch, 0.05),
                3 => gpart.apply(),
                _ => gpart.reduce(),
            }
            // The first round warms caches and allocators up.
            if round > 0 {
                times.push(started.elapsed().as_secs_f64());
            }
        }
    }
    print_table(&variants, &times, space.total());
}

fn print_table(variants: &[&str], times: &[Vec<f64>], adapted: u64) {
    println!("one f32 step: hidden 768, 12 layers, 12 heads, 3 key-value heads, intermediate 2048,");
    println!(
        "vocabulary 32,000, untied, {TOKENS} tokens, {THREADS} threads, d = {D}, {} adapted weights",
        adapted
    );
    println!("median of {ROUNDS} rounds; ratio: median of the rounds' ratios\n");
    println!("{:22} {:>10} {:>10} {:>8}", "variant", "ms", "best ms", "ratio");
    for (variant, own) in variants.iter().zip(times) {
        let ratios = own.iter().zip(&times[0]).map(|(a, b)| a / b).collect();
        let best = own.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{variant:22} {:>10.1} {:>10.1} {:>8.3}",
            median(own.clone()) * 1e3,
            best * 1e3,
            median(ratios)
        );
    }
}

/// A step's worth of GPart around a [`Pass`].
struct GPart<'a> {
    pass: Pass<'a>,
    weights: &'a DecoderWeights,
    resident: Resident,
    executor: &'a dyn Executor,
    reducer: Reducer,
    scales: Vec<f32>,
    before: Vectors,
    after: Vectors,
    adam: AdamW,
    step: u64,
}

impl GPart<'_> {
    fn step(&mut self, batch: &MicroBatch, dropout: f64) {
        let d = self.before.theta.len();
        let (mut scaled, mut sums, mut grad) = (vec![0.0; d], vec![0; d], vec![0.0; d]);
        scale_theta(&self.before.theta, &self.scales, &mut scaled).unwrap();
        let theta = ScaledTheta { values: &scaled, stamp: self.step };
        let dropout = Dropout::new(dropout, 42, self.step, 0).unwrap();
        let normaliser = batch.label_count() as f64;
        let (weights, update) = (&mut self.resident, Update { theta, dropout });
        let loss = self.pass.forward_backward(weights, batch, update, normaliser, &mut self.reducer).unwrap();
        assert!(loss.double_value(&[]).is_finite());
        assert!(!self.reducer.finish_step(self.executor, &mut sums).unwrap(), "no overflow");
        self.reducer.fixed_point().finish(&sums, &self.scales, &mut grad).unwrap();
        clip(&mut grad, 1.0);
        self.step += 1;
        self.adam.update(self.step, 2e-4, &grad, &self.before, &mut self.after);
        std::mem::swap(&mut self.before, &mut self.after);
    }
}

impl GPart<'_> {
    /// W + ΔW of all blocks.
    fn apply(&mut self) {
        self.step += 1;
        let theta = ScaledTheta { values: &self.before.theta, stamp: self.step };
        for (block, weights) in self.weights.blocks.iter().enumerate() {
            self.pass.overlay.block(block, Buffers::Own, weights.share(), theta, None).unwrap();
        }
    }

    /// Sums of all blocks' gradients, here the weights themselves.
    fn reduce(&mut self) {
        for (block, weights) in self.weights.blocks.iter().enumerate() {
            let grads: Vec<Tensor> = LinearKind::ALL[..4]
                .iter()
                .map(|kind| weights.linear(*kind).weight.shallow_clone())
                .collect();
            self.pass.overlay.reduce(block, grads, 1.0, None, &mut self.reducer).unwrap();
        }
        self.reducer.finish_step(self.executor, &mut vec![0; self.before.theta.len()]).unwrap();
    }
}

/// Forward, and backward to the first block's input, through frozen weights.
fn frozen(model: &Decoder, weights: &DecoderWeights, batch: &MicroBatch) {
    let context = model.context(&batch.attention_mask, batch.rows, batch.len);
    let ids = Tensor::from_slice(&batch.input_ids).reshape([batch.rows as i64, batch.len as i64]);
    let mut hidden = no_grad(|| model.embed(&weights.embedding, &ids));
    let mut tape = Vec::new();
    for (number, block) in weights.blocks.iter().enumerate() {
        let input = hidden.detach().set_requires_grad(true);
        let output = model.block(number, block, &input, &context);
        hidden = output.detach();
        tape.push((input, output));
    }
    let norm = |x: &Tensor| model.final_norm(&weights.norm, x);
    let normaliser = Some(batch.label_count() as f64);
    let targets = next_labels(&batch.labels, batch.sequence_lengths());
    let Ok(head) = cross_entropy(&hidden, &norm, &mut WholeHead(&weights.head), &targets, 1024, normaliser);
    let mut upstream = head.grad.unwrap();
    while let Some((input, output)) = tape.pop() {
        upstream = torch_shim::gradients(&output, &upstream, &[&input]).unwrap().remove(0);
    }
}

fn shape() -> ModelConfig {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 768,
        "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_key_value_heads": 3, "rms_norm_eps": 1e-6, "hidden_act": "silu"
    });
    ModelConfig::from_json(&json.to_string(), std::path::Path::new("benchmark")).unwrap()
}

fn random_weights(config: &ModelConfig) -> DecoderWeights {
    tch::manual_seed(0);
    let cpu = (Kind::Float, Device::Cpu);
    let random = |shape: &[i64]| Tensor::randn(shape, cpu) * 0.02;
    let block = |_| {
        let ones = || Tensor::ones([config.hidden_size], cpu);
        BlockWeights::from_parts(ones(), ones(), |kind| random(&kind.shape(config)))
    };
    DecoderWeights {
        embedding: random(&[config.vocab_size, config.hidden_size]),
        blocks: (0..config.num_layers).map(block).collect(),
        norm: Tensor::ones([config.hidden_size], cpu),
        head: random(&[config.vocab_size, config.hidden_size]),
    }
}

fn random_batch(config: &ModelConfig) -> MicroBatch {
    let ids: Vec<i64> =
        Vec::try_from(Tensor::randint(config.vocab_size, [TOKENS as i64], (Kind::Int64, Device::Cpu)))
            .unwrap();
    MicroBatch {
        rows: 1,
        len: TOKENS,
        packed: Vec::new(),
        labels: ids.clone(),
        input_ids: ids,
        attention_mask: vec![1; TOKENS],
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
