//! A run from its settings to the adapter: start, loop, finish.

use std::path::{Path, PathBuf};
use std::time::Instant;

use adapter::{Adapter, AdapterConfig};
use checkpoint::{State, StateRef};
use comm::Communicator;
use config::TrainConfig;
use data::Dataset;
use mesh::{Degrees, Mesh};
use model::{Llama, LlamaWeights};
use partition::Stateless;
use projection::{Executor, FixedPoint};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::agree::{agree, from_first};
use crate::engine::{Engine, Parts};
use crate::inputs::Inputs;
use crate::learning_rate::{Decay, LearningRate};
use crate::optimizer::{AdamW, AdamWOptions, l2_norm};
use crate::output::{HeldOutLine, Identity, Output};
use crate::overlay::Overlay;
use crate::pass::Pass;
use crate::{Event, Observer, StartInfo, StepMetrics, Summary, TrainError, executor, fingerprint};

/// What a run needs besides its settings.
pub struct Surroundings<'a> {
    /// The ranks.
    pub comm: &'a dyn Communicator,
    /// Where tokens are cached; none: not at all.
    pub cache_dir: Option<PathBuf>,
    /// Who is told; given on every rank, called on rank 0.
    pub observe: Observer<'a>,
    /// Called on every rank once the output folder is this run's.
    pub opened: &'a dyn Fn(&Path),
}

/// Collective. Trains as `config` says, resuming what the output folder holds, and leaves an adapter.
///
/// # Errors
/// The first thing that went wrong, on the rank that reports it; [`TrainError::Elsewhere`] on the others. All ranks
/// return together.
pub fn run(config: &TrainConfig, surroundings: &Surroundings<'_>) -> Result<Summary, TrainError> {
    let started = Instant::now();
    let comm = surroundings.comm;
    let silent = |_: Event<'_>| {};
    let observe: Observer<'_> = if comm.rank() == 0 { surroundings.observe } else { &silent };
    tch::set_num_threads(config.threads as i32);

    let mesh = agree(comm, mesh(config, comm))?;
    let mut inputs = Inputs::load(config, comm, surroundings.cache_dir.as_deref(), observe)?;
    let identity = Identity { config: config.clone(), fingerprints: inputs.fingerprints.clone() };
    let (mut output, state) = open_output(&identity, comm, observe)?;
    (surroundings.opened)(&config.output_dir());

    observe(Event::Stage("loading the model"));
    let kind = compute_kind(config);
    let model = Llama::new(inputs.model_config.clone(), kind, Device::Cpu);
    let weights = agree(comm, load_weights(&inputs, kind, observe))?;
    let partition = agree(comm, stateless(config))?;
    let counts = count_groups(&partition, inputs.space.total(), comm)?;
    let executor = executor(config.threads);
    let parts = parts(config, comm, &model, &weights, &inputs, &partition, executor.as_ref(), &counts);
    let mut engine = agree(comm, Engine::new(parts))?;
    if let Some(state) = state {
        restore(&mut engine, state);
    }

    let start = start_info(&engine, &inputs, &counts, &mesh);
    let facts = facts(&start, &mesh, &counts);
    agree(comm, with(&mut output, |output| output.write_run(&identity, facts.clone())))?;
    let mut run = Run { inputs: &mut inputs, engine, output, observe, identity };
    tracing::info!(rank = comm.rank(), ?start, "start");
    observe(Event::Start(&start));
    run.before_training()?;

    while run.engine.step < start.total_steps {
        let metrics = run.step()?;
        run.record(&metrics)?;
        run.held_out_if_due()?;
    }
    run.finish(started, start.first_step, facts)
}

/// Collective: the settings of the run that the output folder holds, if it holds one of ours.
///
/// # Errors
/// Never on rank 0's account: a folder that cannot be read is refused later, with the reason.
pub fn earlier_settings(
    config: &TrainConfig,
    comm: &dyn Communicator,
) -> Result<Option<TrainConfig>, TrainError> {
    let bytes = from_first(comm, || Ok(Identity::stored_in(&config.output_dir()).unwrap_or_default()))?;
    Ok(serde_json::from_slice::<Identity>(&bytes).ok().map(|identity| identity.config))
}

/// A run in progress.
struct Run<'a, 'e> {
    inputs: &'a mut Inputs,
    engine: Engine<'e>,
    /// Rank 0 alone holds the folder.
    output: Option<Output>,
    observe: Observer<'a>,
    identity: Identity,
}

impl Run<'_, '_> {
    fn step(&mut self) -> Result<StepMetrics, TrainError> {
        let rows = self.inputs.schedule.step(self.engine.step);
        self.engine.train_step(&self.inputs.dataset, &rows)
    }

    /// Collective. Writes what the step came to; stops when any rank's θ is not rank 0's.
    fn record(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let config = self.engine.config;
        let last = metrics.step == self.inputs.schedule.total_steps();
        let due = metrics.step.is_multiple_of(config.save_steps as u64) || last;
        let written = with(&mut self.output, |output| output.record(metrics));
        let saved = written.and_then(|()| if due { self.save() } else { Ok(()) });
        let theta =
            saved.as_ref().map_or_else(|_| Vec::new(), |()| metrics.theta_blake3.clone().into_bytes());
        let all = self.engine.comm.all_gather(&theta);
        if all.iter().any(Vec::is_empty) {
            return agree(self.engine.comm, saved);
        }
        let odd: Vec<String> =
            (0..all.len()).filter(|rank| all[*rank] != all[0]).map(|rank| format!("rank {rank}")).collect();
        if !odd.is_empty() {
            let error = TrainError::RanksDiffer { step: metrics.step, ranks: odd.join(", ") };
            return agree(self.engine.comm, Err(error));
        }
        (self.observe)(Event::Step(metrics));
        let StepMetrics { step, loss, grad_norm, step_seconds, theta_blake3, .. } = metrics;
        tracing::info!(step, loss, grad_norm, step_seconds, theta_blake3, "step");
        Ok(())
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let Some(output) = &self.output else { return Ok(()) };
        let engine = &self.engine;
        let mut meta = serde_json::to_value(&self.identity).unwrap_or_default();
        meta["num_tokens"] = engine.num_tokens.into();
        let path = output.save(StateRef {
            step: engine.step,
            meta: &meta,
            theta: &engine.theta,
            exp_avg: &engine.adam.exp_avg,
            exp_avg_sq: &engine.adam.exp_avg_sq,
        })?;
        tracing::info!(step = engine.step, path = %path.display(), "saved");
        (self.observe)(Event::Saved { step: engine.step, path: &path });
        Ok(())
    }

    /// Collective. Held-out loss and sample of θ = 0; a resumed run has shown them.
    fn before_training(&mut self) -> Result<(), TrainError> {
        if self.engine.step > 0 {
            return Ok(());
        }
        self.held_out()?;
        self.sample()
    }

    fn held_out_if_due(&mut self) -> Result<(), TrainError> {
        let (step, total) = (self.engine.step, self.inputs.schedule.total_steps());
        let due = self.engine.config.eval_steps.is_some_and(|every| step.is_multiple_of(every as u64));
        if due && step != total { self.held_out() } else { Ok(()) }
    }

    fn held_out(&mut self) -> Result<(), TrainError> {
        let Some(dataset): Option<&Dataset> = self.inputs.held_out.as_ref() else { return Ok(()) };
        let step = self.engine.step;
        let known = self.output.as_ref().is_some_and(|o| o.held_out().iter().any(|line| line.step == step));
        if self.engine.comm.all_gather(&[u8::from(known)])[0][0] != 0 {
            return Ok(());
        }
        (self.observe)(Event::Stage("held-out loss"));
        let (loss, tokens) = self.engine.held_out(dataset)?;
        let written = with(&mut self.output, |o| o.record_held_out(HeldOutLine { step, loss, tokens }));
        agree(self.engine.comm, written)?;
        let before = self.output.as_ref().and_then(|o| held_out_at(o, 0)).filter(|_| step > 0);
        (self.observe)(Event::HeldOut { step, loss, before });
        Ok(())
    }

    /// Shows the greedy continuation of the sample prompt, on rank 0.
    fn sample(&mut self) -> Result<(), TrainError> {
        let config = self.engine.config;
        let result = match (&config.sample_prompt, &self.output) {
            (Some(prompt), Some(_)) => self.continuation(prompt).map(Some),
            _ => Ok(None),
        };
        if let Some(text) = agree(self.engine.comm, result)? {
            let prompt = config.sample_prompt.as_deref().unwrap_or_default();
            (self.observe)(Event::Sample { step: self.engine.step, prompt, text: &text });
        }
        Ok(())
    }

    fn continuation(&mut self, prompt: &str) -> Result<String, TrainError> {
        (self.observe)(Event::Stage("sample continuation"));
        let tokenizer = &self.inputs.tokenizer;
        let mut ids: Vec<u32> = tokenizer.bos_id().into_iter().collect();
        ids.extend(tokenizer.encode(prompt)?);
        let options = eval::GreedyOptions {
            max_new_tokens: self.engine.config.sample_tokens,
            stop_ids: tokenizer.eos_id().into_iter().collect(),
        };
        let new_ids = self.engine.sample(&ids, &options)?;
        Ok(tokenizer.decode(&new_ids, true)?)
    }

    /// Collective. Last held-out loss, adapter files, summary.
    fn finish(mut self, started: Instant, first_step: u64, mut facts: Value) -> Result<Summary, TrainError> {
        self.held_out()?;
        self.sample()?;
        let (config, engine) = (self.engine.config, &self.engine);
        let adapter = Adapter { config: adapter_config(config), theta: engine.theta.clone() };
        let written = with(&mut self.output, |output| Ok(adapter.write(output.folder())?));
        let adapter_bytes = agree(engine.comm, written)?;
        let output = self.output.as_ref();
        let summary = Summary {
            output: config.output_dir(),
            adapter_bytes,
            steps: engine.step,
            steps_now: engine.step - first_step,
            num_tokens: engine.num_tokens,
            seconds: started.elapsed().as_secs_f64(),
            final_loss: output.and_then(|o| o.last_metrics().map(|m| m.loss)),
            held_out_before: output.and_then(|o| held_out_at(o, 0)),
            held_out_after: output.and_then(|o| held_out_at(o, engine.step)),
            theta_norm: l2_norm(&engine.theta),
        };
        facts["summary"] = serde_json::to_value(&summary).unwrap_or_default();
        let written = with(&mut self.output, |output| {
            output.write_run(&self.identity, facts)?;
            match &config.output_dir_file {
                Some(file) => write_output_dir(file, output.folder()),
                None => Ok(()),
            }
        });
        agree(self.engine.comm, written)?;
        Ok(summary)
    }
}

/// Does something with the output folder on the rank that holds it.
fn with<T: Default>(
    output: &mut Option<Output>,
    act: impl FnOnce(&mut Output) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    output.as_mut().map_or_else(|| Ok(T::default()), act)
}

fn held_out_at(output: &Output, step: u64) -> Option<f64> {
    output.held_out().iter().find(|line| line.step == step).map(|line| line.loss)
}

fn write_output_dir(file: &Path, folder: &Path) -> Result<(), TrainError> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    Ok(checkpoint::write_atomic(file, &[folder.to_string_lossy().as_bytes(), b"\n"])?)
}

fn mesh(config: &TrainConfig, comm: &dyn Communicator) -> Result<Mesh, TrainError> {
    let (dp_shard, pp) = (config.dp_shard, config.pp);
    let dp_replicate = config.dp_replicate.unwrap_or(comm.size() / (dp_shard * pp).max(1));
    Ok(Mesh::new(Degrees { dp_replicate, dp_shard, pp }, comm.size())?)
}

/// Collective: rank 0 opens the folder; every rank gets the state to resume from.
fn open_output(
    identity: &Identity,
    comm: &dyn Communicator,
    observe: Observer<'_>,
) -> Result<(Option<Output>, Option<State>), TrainError> {
    let mut output = None;
    let bytes = from_first(comm, || {
        let (opened, state) = Output::open(identity, observe)?;
        output = Some(opened);
        Ok(state.map_or_else(Vec::new, |state| as_ref(&state).to_bytes()))
    })?;
    let parsed = match bytes.is_empty() {
        true => Ok(None),
        false => State::parse(&bytes).map(Some).map_err(|reason| {
            let path = PathBuf::from("the state broadcast by rank 0");
            checkpoint::CheckpointError::Damaged { path, reason }.into()
        }),
    };
    Ok((output, agree(comm, parsed)?))
}

fn as_ref(state: &State) -> StateRef<'_> {
    let State { step, meta, theta, exp_avg, exp_avg_sq } = state;
    StateRef { step: *step, meta, theta, exp_avg, exp_avg_sq }
}

fn restore(engine: &mut Engine<'_>, state: State) {
    engine.step = state.step;
    engine.num_tokens = state.meta["num_tokens"].as_u64().unwrap_or(0);
    engine.theta = state.theta;
    engine.adam.exp_avg = state.exp_avg;
    engine.adam.exp_avg_sq = state.exp_avg_sq;
}

fn compute_kind(config: &TrainConfig) -> Kind {
    match config.dtype {
        config::Dtype::Float32 => Kind::Float,
        config::Dtype::Bfloat16 => Kind::BFloat16,
        config::Dtype::Float16 => Kind::Half,
    }
}

fn load_weights(inputs: &Inputs, kind: Kind, observe: Observer<'_>) -> Result<LlamaWeights, TrainError> {
    let progress =
        |done: usize, total: usize| observe(Event::Progress { done: done as u64, total: total as u64 });
    Ok(LlamaWeights::load(&inputs.files, &inputs.model_config, kind, Device::Cpu, &progress)?)
}

fn stateless(config: &TrainConfig) -> Result<Stateless, TrainError> {
    Ok(Stateless::new(config.proj_seed, config.d as u64)?)
}

/// Collective: every rank counts its slice of the weight space; the sum is everybody's.
fn count_groups(partition: &Stateless, total: u64, comm: &dyn Communicator) -> Result<Vec<u64>, TrainError> {
    let mine = mesh::share(total as usize, comm.size(), comm.rank());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let counted = partition::count_parallel(partition, mine.start as u64..mine.end as u64, threads);
    let counts = agree(comm, counted.map_err(TrainError::from))?;
    let mut sums: Vec<i64> = counts.into_iter().map(|count| count as i64).collect();
    comm.all_reduce_sum(&mut sums);
    Ok(sums.into_iter().map(|sum| sum as u64).collect())
}

#[allow(clippy::too_many_arguments, reason = "called once, to put the parts together")]
fn parts<'a>(
    config: &'a TrainConfig,
    comm: &'a dyn Communicator,
    model: &'a Llama,
    weights: &'a LlamaWeights,
    inputs: &Inputs,
    partition: &'a Stateless,
    executor: &'a dyn Executor,
    counts: &[u64],
) -> Parts<'a> {
    let recompute = config.gradient_checkpointing;
    let overlay = Overlay::new(weights, &inputs.space, partition, executor, model.kind(), recompute);
    let largest = counts.iter().copied().max().unwrap_or(1);
    let decay = match config.lr_scheduler_type {
        config::LrScheduler::Cosine => Decay::Cosine,
        config::LrScheduler::Linear => Decay::Linear,
        config::LrScheduler::Constant => Decay::Constant,
        config::LrScheduler::ConstantWithWarmup => Decay::ConstantWithWarmup,
    };
    let total = inputs.schedule.total_steps();
    Parts {
        comm,
        config,
        pass: Pass { model, weights, overlay, recompute, cross_entropy_chunk: config.cross_entropy_chunk },
        executor,
        fixed: FixedPoint::new(largest, inputs.schedule.micro_batches_per_step()),
        scales: partition::scales(counts, config.isometric),
        learning_rate: LearningRate::new(config.learning_rate, decay, config.warmup_ratio, total),
        pad_id: inputs.tokenizer.pad_id(),
        adam: AdamW::new(AdamWOptions::with_weight_decay(config.weight_decay), counts.len()),
    }
}

fn start_info(engine: &Engine<'_>, inputs: &Inputs, counts: &[u64], mesh: &Mesh) -> StartInfo {
    let config = engine.config;
    let specs = model::tensor_specs(&inputs.model_config);
    let parameters = specs.iter().map(|(_, shape)| shape.iter().product::<i64>() as u64).sum();
    StartInfo {
        output: config.output_dir(),
        parameters,
        modules: inputs.space.modules().len(),
        adapted: inputs.space.total(),
        d: config.d as u64,
        group_sizes: (counts.iter().copied().min().unwrap_or(0), counts.iter().copied().max().unwrap_or(0)),
        rows: inputs.dataset.len(),
        tokens: inputs.dataset.total_tokens(),
        rows_per_step: config.global_batch_size(),
        micro_batches: config.accumulation_steps,
        micro_batch_size: config.micro_batch_size,
        ranks: mesh.data_parallel(),
        backend: engine.comm.backend(),
        threads: config.threads,
        dtype: config.dtype.to_string(),
        first_step: engine.step,
        total_steps: inputs.schedule.total_steps(),
        epochs: config.epochs,
    }
}

fn facts(start: &StartInfo, mesh: &Mesh, counts: &[u64]) -> Value {
    let degrees = mesh.degrees();
    json!({
        "gpart_dist": env!("CARGO_PKG_VERSION"),
        "libtorch": "2.11.0",
        "communicator": start.backend,
        "mesh": {"dp_replicate": degrees.dp_replicate, "dp_shard": degrees.dp_shard, "pp": degrees.pp},
        "threads": start.threads,
        "model_parameters": start.parameters,
        "adapted_modules": start.modules,
        "adapted_weights": start.adapted,
        "group_sizes": {"min": start.group_sizes.0, "max": start.group_sizes.1},
        "partition_fingerprint": fingerprint::counts(counts),
        "rows": start.rows,
        "total_steps": start.total_steps,
    })
}

fn adapter_config(config: &TrainConfig) -> AdapterConfig {
    AdapterConfig {
        base_model_name_or_path: Some(config.model.clone()),
        d: config.d as u64,
        gpart_dropout: config.dropout,
        isometric: config.isometric,
        proj_seed: config.proj_seed,
        target_modules: Some(json!(config.target_modules)),
        ..AdapterConfig::default()
    }
}
