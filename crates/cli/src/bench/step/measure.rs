//! Steps with random weights, timed as a whole and part by part.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use checkpoint::Vectors;
use data::MicroBatch;
use model::{BlockWeights, Decoder, DecoderWeights, NormWeight, block_specs};
use partition::{Scope, Stateless, count_parallel, scales};
use plan::ActivationBudget;
use projection::{Dropout, Executor, FixedPoint, Reducer, scale_theta};
use tch::{Device, Kind, Tensor};
use torch_shim::{Numerics, Profile, Span};
use trainer::{
    AdamW, AdamWOptions, Overlay, Part, Pass, Probe, Recompute, Resident, ScaledTheta, Stage, TrainError,
    Update, clip, executor, l2_norm, model_facts,
};

use super::{Failed, Load, Shape, StepArgs, StepError, Variant, boxed};

/// What a variant came to.
pub struct Outcome {
    pub variant: Variant,
    /// Of each measured step.
    pub seconds: Vec<f64>,
    /// Most memory that tensors had on a GPU; that the process had, on the CPU. Bytes.
    pub peak_bytes: Option<u64>,
    /// Seconds of each part, of a step that waits for the device after each.
    pub parts: Seconds,
    /// Some blocks were computed again in backward.
    pub recompute: bool,
    /// Share of the blocks that were.
    pub recomputed_share: f64,
    /// Mean loss of the last step, nats a token.
    pub loss: f64,
}

impl Outcome {
    /// Median of the steps' seconds.
    pub fn step_seconds(&self) -> f64 {
        median(self.seconds.clone())
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// A model of random weights, ready for steps.
pub struct Bench<'a> {
    args: &'a StepArgs,
    shape: &'a Shape,
    load: &'a Load,
    model: Decoder,
    weights: Resident,
    partition: Stateless,
    executor: Box<dyn Executor>,
    counts: Vec<u64>,
}

impl<'a> Bench<'a> {
    /// Makes weights, and counts groups.
    pub fn new(
        args: &'a StepArgs,
        shape: &'a Shape,
        load: &'a Load,
        kind: Kind,
        device: Device,
    ) -> Result<Self, Failed> {
        let partition = Stateless::new(42, args.d).map_err(boxed)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let counts = count_parallel(&partition, 0..shape.space.total(), cores).map_err(boxed)?;
        let weights = Resident::whole(&random_weights(shape, kind, device));
        let model = Decoder::new(shape.config.clone(), kind, device);
        Ok(Self { args, shape, load, model, weights, partition, executor: executor(args.threads), counts })
    }

    /// Measures the variants, one after the other.
    pub fn all(mut self, variants: &[Variant]) -> Result<Vec<Outcome>, Failed> {
        let device = self.model.device();
        let blocks = self.shape.config.num_layers as usize;
        let (kind, space) = (self.model.kind(), &self.shape.space);
        let mut overlay =
            Overlay::new(space, 0..blocks, &self.partition, self.executor.as_ref(), (kind, device));
        if self.args.merge_delta {
            overlay.merge();
        }
        let cache = crate::train::kernel_cache();
        let map = trainer::device_map(device, &self.partition, 0..space.total(), cache.as_deref());
        if let Some(map) = map.map_err(boxed)? {
            overlay.compute_with(map);
        }
        let first_adapted = space.modules().first().map_or(0, |module| module.candidate / 7);
        let pass = Pass {
            model: &self.model,
            stage: Stage::whole(blocks, first_adapted),
            overlay,
            recompute: recompute(self.args, self.shape, kind),
            cross_entropy_chunk: self.args.cross_entropy_chunk,
            probe: None,
        };
        let micro_batches = self.load.micro_batches.len() as u64;
        let largest = self.counts.iter().copied().max().unwrap_or(1);
        let d = self.counts.len();
        let mut stepper = Stepper {
            pass,
            weights: &mut self.weights,
            executor: self.executor.as_ref(),
            reducer: Reducer::new(d as u64, FixedPoint::new(largest, micro_batches), self.args.threads)
                .map_err(boxed)?,
            scales: scales(&self.counts, true, &Scope::Global),
            before: Vectors::starting_at(vec![0.0; d]),
            after: Vectors::starting_at(vec![0.0; d]),
            adam: AdamW::new(AdamWOptions::with_weight_decay(0.01)),
            step: 0,
            stamp: 0,
        };
        let mut outcomes = Vec::new();
        for (number, variant) in variants.iter().enumerate() {
            outcomes.push(stepper.variant(self.args, self.load, *variant)?);
            if let (0, Some(path)) = (number, &self.args.profile) {
                let batches = self.load.batches(variant.packing, stepper.vocab());
                stepper.profile(&batches, variant.dropout, path)?;
            }
        }
        Ok(outcomes)
    }
}

fn recompute(args: &StepArgs, shape: &Shape, kind: Kind) -> Recompute {
    let Some(gib) = args.activation_memory else {
        return if args.gradient_checkpointing { Recompute::Always } else { Recompute::Never };
    };
    let dtype = match kind {
        Kind::BFloat16 => plan::Dtype::Bfloat16,
        Kind::Half => plan::Dtype::Float16,
        _ => plan::Dtype::Float32,
    };
    let model = model_facts(&shape.config, &shape.space);
    // A cast from f64 saturates.
    let bytes = (gib * f64::from(1 << 30)) as u64;
    Recompute::Within(ActivationBudget { model, dtype, in_flight: 1, bytes })
}

/// Steps, as the trainer makes them on one rank.
struct Stepper<'a> {
    pass: Pass<'a>,
    weights: &'a mut Resident,
    executor: &'a dyn Executor,
    reducer: Reducer,
    scales: Vec<f32>,
    before: Vectors,
    after: Vectors,
    adam: AdamW,
    /// Updates of the variant.
    step: u64,
    /// Different for every θ.
    stamp: u64,
}

impl<'a> Stepper<'a> {
    fn vocab(&self) -> u64 {
        self.pass.model.config().vocab_size.unsigned_abs()
    }

    fn variant(&mut self, args: &StepArgs, load: &Load, variant: Variant) -> Result<Outcome, Failed> {
        torch_shim::set_numerics(Numerics { deterministic: variant.deterministic, tf32: false });
        let device = self.pass.model.device();
        let batches = load.batches(variant.packing, self.vocab());
        // Every variant begins where the first did.
        let d = self.before.theta.len();
        (self.before, self.after) = (Vectors::starting_at(vec![0.0; d]), Vectors::starting_at(vec![0.0; d]));
        self.step = 0;
        for _ in 0..args.warmup {
            self.step(&batches, variant.dropout)?;
        }
        start_peak(device);
        let (mut seconds, mut loss) = (Vec::new(), f64::NAN);
        for _ in 0..args.repeats {
            let clock = Instant::now();
            loss = self.step(&batches, variant.dropout)?;
            seconds.push(clock.elapsed().as_secs_f64());
        }
        let peak_bytes = peak(device);
        let parts = self.parts(&batches, variant.dropout)?;
        let blocks = self.pass.stage.blocks.clone();
        let buffers_from = self.pass.overlay.first_with_buffers();
        let first = |batch| self.pass.recompute.first_kept(&self.pass.stage, batch, buffers_from);
        let again = batches.iter().map(first);
        let recomputed_share =
            again.sum::<usize>() as f64 / (batches.len().max(1) * blocks.len().max(1)) as f64;
        let recompute = recomputed_share > 0.0;
        Ok(Outcome { variant, seconds, peak_bytes, parts, recompute, recomputed_share, loss })
    }

    /// One optimizer step; the mean loss.
    fn step(&mut self, batches: &[MicroBatch], dropout: f64) -> Result<f64, Failed> {
        let d = self.before.theta.len();
        let (mut scaled, mut sums, mut grad) = (vec![0.0; d], vec![0; d], vec![0.0; d]);
        scale_theta(&self.before.theta, &self.scales, &mut scaled).map_err(boxed)?;
        self.stamp += 1;
        let theta = ScaledTheta { values: &scaled, stamp: self.stamp };
        let normaliser = batches.iter().map(MicroBatch::label_count).sum::<u64>() as f64;
        let mut losses = Vec::with_capacity(batches.len());
        for (number, batch) in batches.iter().enumerate() {
            let dropout = Dropout::new(dropout, 42, self.step, number as u64).map_err(boxed)?;
            let update = Update { theta, dropout };
            losses.push(
                self.pass
                    .forward_backward(self.weights, batch, update, normaliser, &mut self.reducer)
                    .map_err(boxed)?,
            );
        }
        if let Some(probe) = &self.pass.probe {
            probe.enter(Part::Update);
        }
        let loss = losses.iter().map(|loss| loss.double_value(&[])).sum::<f64>() / normaliser;
        let here = self.reducer.finish_step(self.executor, &mut sums).map_err(boxed)?;
        if self.pass.overlay.take_sums(&mut sums).map_err(boxed)? || here {
            return Err(boxed(StepError::Overflow));
        }
        self.reducer.fixed_point().finish(&sums, &self.scales, &mut grad).map_err(boxed)?;
        clip(&mut grad, 1.0);
        self.step += 1;
        self.adam.update(self.step, 2e-4, &grad, &self.before, &mut self.after);
        std::mem::swap(&mut self.before, &mut self.after);
        if !l2_norm(&self.before.theta).is_finite() {
            return Err(boxed(TrainError::NonFiniteTheta { step: self.step, index: 0, value: f32::NAN }));
        }
        Ok(loss)
    }
}

// --- parts and traces -------------------------------------------------------------------------------------------

impl<'a> Stepper<'a> {
    /// Seconds of each part: the median of three steps that wait for the device after each.
    fn parts(&mut self, batches: &[MicroBatch], dropout: f64) -> Result<Seconds, Failed> {
        const STEPS: usize = 3;
        let mut all = Vec::with_capacity(STEPS);
        for _ in 0..STEPS {
            let clock = Rc::new(Clock::new(self.pass.model.device()));
            self.probed(batches, dropout, Rc::clone(&clock) as Rc<dyn Probe>)?;
            all.push(clock.finish());
        }
        Ok(std::array::from_fn(|part| {
            median(all.iter().map(|step: &[f64; Part::ALL.len()]| step[part]).collect())
        }))
    }

    /// Writes a trace of two steps, with a span for each part.
    fn profile(
        &mut self,
        batches: &[MicroBatch],
        dropout: f64,
        path: &std::path::Path,
    ) -> Result<(), Failed> {
        let failed =
            |reason| boxed(StepError::File { what: "cannot write the trace", path: path.to_owned(), reason });
        let device = self.pass.model.device();
        let profile = Profile::begin(device != Device::Cpu).map_err(failed)?;
        for number in 0..2 {
            let _step = torch_shim::span(&format!("step {number}"));
            self.probed(batches, dropout, Rc::new(Spans::default()))?;
        }
        wait(device);
        profile.end(path).map_err(failed)
    }

    /// A step that tells a probe what it does.
    fn probed(&mut self, batches: &[MicroBatch], dropout: f64, probe: Rc<dyn Probe>) -> Result<(), Failed> {
        self.pass.probe = Some(probe);
        let stepped = self.step(batches, dropout);
        self.pass.probe = None;
        stepped.map(drop)
    }
}

/// Waits for a device.
fn wait(device: Device) {
    if let Device::Cuda(number) = device {
        tch::Cuda::synchronize(number as i64);
    }
}

/// Seconds of each part.
pub type Seconds = [f64; Part::ALL.len()];

/// Adds up the time of each part.
struct Clock {
    device: Device,
    /// The part that goes on and since when, and what was added up.
    state: RefCell<(Option<(Part, Instant)>, Seconds)>,
}

impl Clock {
    fn new(device: Device) -> Self {
        Self { device, state: RefCell::default() }
    }

    fn next(&self, part: Option<Part>) {
        wait(self.device);
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        if let Some((part, since)) = state.0 {
            state.1[part as usize] += (now - since).as_secs_f64();
        }
        state.0 = part.map(|part| (part, now));
    }

    fn finish(&self) -> Seconds {
        self.next(None);
        self.state.borrow().1
    }
}

impl Probe for Clock {
    fn enter(&self, part: Part) {
        self.next(Some(part));
    }
}

/// Marks the parts in a trace.
#[derive(Default)]
struct Spans(RefCell<Option<Span>>);

impl Probe for Spans {
    fn enter(&self, part: Part) {
        // The one before ends first: spans nest.
        self.0.replace(None);
        self.0.replace(Some(torch_shim::span(part.name())));
    }
}

// --- memory, weights, and what the machine can do ---------------------------------------------------------------

fn start_peak(device: Device) {
    match device {
        Device::Cuda(number) => drop(torch_shim::reset_peak_bytes(number)),
        // Linux counts the most from here on; elsewhere, and where it may not be written, from the start.
        _ => drop(std::fs::write("/proc/self/clear_refs", "5")),
    }
}

fn peak(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(number) => torch_shim::peak_bytes(number).ok(),
        _ => crate::host::own_memory().map(|(_, most)| most),
    }
}

/// Weights as before training: matrices of standard deviation 0.02, norms that do nothing.
fn random_weights(shape: &Shape, kind: Kind, device: Device) -> DecoderWeights {
    let config = &shape.config;
    tch::manual_seed(0);
    let random = |shape: &[i64]| Tensor::empty(shape, (kind, device)).normal_(0.0, 0.02);
    let norm = || match config.norm {
        NormWeight::Direct => Tensor::ones([config.hidden_size], (kind, device)),
        NormWeight::OnePlus => Tensor::zeros([config.hidden_size], (kind, device)),
    };
    let block = |block: usize| {
        let tensors = block_specs(config, block).into_iter().map(|(name, shape)| match shape.len() {
            _ if name.ends_with(".bias") => Tensor::zeros(&shape, (kind, device)),
            1 => norm(),
            _ => random(&shape),
        });
        BlockWeights::from_tensors(config, tensors.collect())
    };
    let table = [config.vocab_size, config.hidden_size];
    let embedding = random(&table);
    let head = if config.tie_word_embeddings { embedding.shallow_clone() } else { random(&table) };
    let blocks = (0..config.num_layers as usize).map(block).collect();
    DecoderWeights { embedding, blocks, norm: norm(), head }
}

/// The fastest of some matrix products.
pub struct Ceiling {
    /// 10^12 operations a second.
    pub teraflops: f64,
    /// Of which product.
    pub shape: [i64; 3],
}

/// Times products `[m, k] · [k, n]` in the compute dtype, on the device.
pub fn matmul_ceiling(kind: Kind, device: Device) -> Ceiling {
    let shapes: &[[i64; 3]] = match device {
        Device::Cpu => &[[512, 512, 512], [1024, 1024, 1024]],
        _ => &[[4096, 4096, 4096], [8192, 8192, 8192], [4096, 14_336, 4096], [16_384, 8192, 8192]],
    };
    let rate = |shape: &[i64; 3]| {
        let [m, n, k] = *shape;
        let random = |shape: [i64; 2]| Tensor::empty(shape, (kind, device)).normal_(0.0, 1.0);
        let (a, b) = (random([m, k]), random([n, k]));
        let operations = 2.0 * m as f64 * n as f64 * k as f64;
        let run = |times: usize| {
            wait(device);
            let clock = Instant::now();
            for _ in 0..times {
                let _ = tch::no_grad(|| a.linear::<&Tensor>(&b, None));
            }
            wait(device);
            clock.elapsed().as_secs_f64() / times as f64
        };
        // Enough of them for a fifth of a second, after some to warm up; the best of three rounds.
        let _ = run(3);
        let times = (0.2 / run(3).max(1e-6)).ceil().clamp(3.0, 1000.0) as usize;
        let best = (0..3).map(|_| run(times)).fold(f64::INFINITY, f64::min);
        operations / best * 1e-12
    };
    let rates = shapes.iter().map(|shape| Ceiling { teraflops: rate(shape), shape: *shape });
    rates
        .max_by(|a, b| a.teraflops.total_cmp(&b.teraflops))
        .unwrap_or(Ceiling { teraflops: f64::NAN, shape: [0; 3] })
}
