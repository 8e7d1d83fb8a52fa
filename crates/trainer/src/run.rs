//! A run from its settings to the adapter: start, loop, finish.

use std::path::{Path, PathBuf};
use std::time::Instant;

use adapter::Adapter;
use checkpoint::Kept;
use comm::Communicator;
use config::TrainConfig;
use data::Dataset;
use model::Decoder;
use serde_json::{Value, json};
use tch::Device;

use crate::agree::{agree, from_first, same_theta};
use crate::artifacts;
use crate::control::{Control, Phase, StepReport, Wishes};
use crate::engine::{Engine, SampleOptions};
use crate::inputs::Inputs;
use crate::model_card::Card;
use crate::optimizer::l2_norm;
use crate::output::{self, HeldOutLine, HostCopy, Identity, Opened, Output, Records, StepState};
use crate::planning;
use crate::start;
use crate::traffic::{StepTraffic, peak_memory};
use crate::{Event, Observer, Sources, StepMetrics, Summary, TrainError, executor};

/// What a run needs besides its settings.
pub struct Surroundings<'a> {
    /// The ranks.
    pub comm: &'a dyn Communicator,
    /// The same ranks, for weights, activations and sums.
    pub data: &'a dyn Communicator,
    /// What carries those, and why, in a sentence.
    pub carried_by: &'a str,
    /// What this rank computes on.
    pub device: Device,
    /// Where its inputs lie on this host.
    pub sources: &'a Sources,
    /// Bytes of memory that this host has left; none where it is not known.
    pub host_memory: fn() -> Option<u64>,
    /// The memory of this rank's GPU, where it computes on one.
    pub gpu_memory: Option<GpuMemory>,
    /// Where tokens are cached; none: not at all.
    pub cache_dir: Option<PathBuf>,
    /// Who is told; given on every rank, called on rank 0.
    pub observe: Observer<'a>,
    /// Called on every rank once the output folder is this run's.
    pub opened: &'a dyn Fn(&Path),
    /// Who watches and steers it; called on every rank.
    pub control: &'a dyn Control,
}

/// Memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    /// Bytes that ranks may take.
    pub available: u64,
    /// Ranks that compute on it.
    pub ranks: u64,
}

/// How a run came to its end.
#[derive(Debug)]
pub enum Ending {
    /// All its steps were made.
    Finished(Summary),
    /// It was stopped after `step`; the same command goes on from there.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Collective. Trains as `config` says, resuming what the output folder holds, and leaves an adapter, or a state to go on
/// from where somebody wishes it to stop.
///
/// # Errors
/// The first thing that went wrong, on the rank that reports it; [`TrainError::Elsewhere`] on the others. All ranks
/// return together.
pub fn run(config: &TrainConfig, surroundings: &Surroundings<'_>) -> Result<Ending, TrainError> {
    let started = Instant::now();
    let comm = surroundings.comm;
    let silent = |_: Event<'_>| {};
    let observe: Observer<'_> = if comm.rank() == 0 { surroundings.observe } else { &silent };
    let control = surroundings.control;
    control.phase(Phase::Loading);
    tch::set_num_threads(config.threads as i32);

    let mesh = agree(comm, start::mesh(config, comm))?;
    agree(comm, start::check_output_dir_file(config))?;
    let (mut inputs, origin) = Inputs::load(config, surroundings, observe)?;
    let identity = Identity { config: config.clone(), fingerprints: inputs.fingerprints.clone() };
    let place = agree(
        comm,
        start::Place::new(mesh, config, &inputs, comm, surroundings.data, control, surroundings.device),
    )?;
    let cheapest = planning::check_memory(config, &inputs, mesh.degrees(), surroundings)?;
    let partition = inputs.partition(&origin.spec, comm, observe)?;
    start::warn_of_long_rows(&inputs, observe);
    start::warn_of_idle_ranks(&inputs, &mesh, observe);
    let Opened { mut output, copy, state } =
        output::open(&identity, inputs.schedule.total_steps(), comm, observe)?;
    (surroundings.opened)(&config.output_dir());

    observe(Event::Stage("loading the model"));
    let kind = start::compute_kind(config);
    let model = Decoder::new(inputs.model_config.clone(), kind, surroundings.device);
    let weights = place.load_weights(&inputs, config, observe)?;
    let counts = place.count_groups(partition.as_ref(), &inputs.space)?;
    let images = surroundings.cache_dir.as_ref().map(|tokens| tokens.with_file_name("kernels"));
    let kernels = place.kernels(partition.as_ref(), &inputs.space, images.as_deref())?;
    let executor = executor(config.threads);
    let built = start::Built {
        model: &model,
        partition: partition.as_ref(),
        scope: &origin.spec.scope,
        executor: executor.as_ref(),
        counts: &counts,
    };
    let stages = place.stages.clone();
    let parts = start::parts(config, place, &inputs, built, weights, origin.theta, kernels);
    let mut engine = agree(comm, Engine::new(parts))?;
    if let Some(state) = state {
        engine.restore(state);
    }

    let mut info = start::start_info(&engine, &inputs, &counts, &stages);
    info.cheapest_mesh = cheapest;
    info.carried_by = surroundings.carried_by.to_owned();
    let facts = start::facts(&info, &counts);
    agree(comm, with(&mut output, |output| output.write_run(&identity, facts.clone())))?;
    start::warn_of_warmup(&engine, info.total_steps, observe);
    let traffic = StepTraffic::default();
    let mut run = Run { inputs: &mut inputs, engine, output, copy, observe, control, identity, traffic };
    tracing::info!(rank = comm.rank(), ?info, "start");
    observe(Event::Start(&info));
    run.before_training()?;

    while run.engine.step < info.total_steps {
        run.traffic.begin(surroundings.data);
        let metrics = run.step()?;
        let wishes = run.record(&metrics)?;
        run.traffic.end(surroundings.data, run.engine.planned, metrics.step_seconds);
        run.held_out_if_due()?;
        if wishes.stop && metrics.step < info.total_steps {
            return run.stop();
        }
    }
    run.finish(started, info.first_step, facts).map(Ending::Finished)
}

/// Collective: the settings of the run that would be resumed, if there is one.
///
/// # Errors
/// None of its own; a folder that cannot be read is refused when the run opens it, with the reason.
pub fn earlier_settings(
    config: &TrainConfig,
    comm: &dyn Communicator,
) -> Result<Option<TrainConfig>, TrainError> {
    let bytes = from_first(comm, || Ok(Identity::to_resume(config).unwrap_or_default()))?;
    Ok(serde_json::from_slice::<Identity>(&bytes).ok().map(|identity| identity.config))
}

/// A run in progress.
struct Run<'a, 'e> {
    inputs: &'a mut Inputs,
    engine: Engine<'e>,
    /// Rank 0 alone holds the folder.
    output: Option<Output>,
    /// The first ranks of hosts that do not share it have a copy.
    copy: Option<HostCopy>,
    observe: Observer<'a>,
    control: &'a dyn Control,
    identity: Identity,
    traffic: StepTraffic,
}

impl Run<'_, '_> {
    /// Collective. Makes a step. On the rank that holds the folder the update waits until the state before it is on disk.
    fn step(&mut self) -> Result<StepMetrics, TrainError> {
        let rows = self.inputs.schedule.step(self.engine.step);
        let control = self.control;
        let mut records = records(&mut self.output, &mut self.copy);
        let mut written = None;
        let mut gate = || {
            control.phase(Phase::WaitingForDisk);
            written = records.as_mut().map_or(Ok(None), |records| records.settle())?;
            control.phase(Phase::Reducing);
            Ok(())
        };
        let metrics = self.engine.train_step(&self.inputs.dataset, &rows, &mut gate)?;
        if let (Some(records), Some(written)) = (records, written) {
            let remarks = records.remarks(&written, metrics.step_seconds);
            remarks.into_iter().for_each(|text| (self.observe)(Event::Warning(text)));
        }
        Ok(metrics)
    }

    /// Collective. Records what the step came to; stops when any rank's θ is not rank 0's. Returns what was wished of any
    /// rank meanwhile.
    fn record(&mut self, metrics: &StepMetrics) -> Result<Wishes, TrainError> {
        let config = self.engine.parts.config;
        self.control.phase(Phase::Recording);
        // A θ that is not everybody's is neither recorded nor saved.
        let (step, wishes) = (metrics.step, self.control.wishes());
        let wishes = same_theta(self.engine.parts.comm, step, &metrics.theta_blake3, wishes)?;
        self.control.granted(wishes);
        let due = step.is_multiple_of(config.save_steps as u64)
            || step == self.inputs.schedule.total_steps()
            || wishes.checkpoint
            || wishes.stop;
        let records_here = self.output.is_some() || self.copy.is_some();
        let state = (records_here && (due || config.checkpoint_window > 0)).then(|| StepState {
            vectors: self.engine.vectors(),
            meta: self.meta(),
            kept: if due { Kept::Permanent } else { Kept::Rolling },
        });
        // A rank has the folder or a copy, never both.
        let recorded = match &mut self.copy {
            Some(copy) => copy.records.record(metrics, state),
            None => with(&mut self.output, |output| output.record(metrics, state)),
        };
        let saved = recorded.and_then(|()| if due { self.save() } else { Ok(()) });
        agree(self.engine.parts.comm, saved)?;
        let durable_step = records(&mut self.output, &mut self.copy).map(|records| records.durable_step());
        let total_steps = self.inputs.schedule.total_steps();
        let traffic = self.engine.parts.data.traffic();
        self.control.step(&StepReport { metrics, total_steps, durable_step, traffic: &traffic });
        (self.observe)(Event::Step(metrics));
        let StepMetrics { loss, grad_norm, step_seconds, theta_blake3, .. } = metrics;
        tracing::info!(step, loss, grad_norm, step_seconds, theta_blake3, "step");
        Ok(wishes)
    }

    /// What a state says of the run it is of.
    fn meta(&self) -> Value {
        let mut meta = serde_json::to_value(&self.identity).expect("settings are JSON");
        meta["num_tokens"] = self.engine.num_tokens.into();
        meta
    }

    /// Waits for the state of this step, and writes its adapter.
    fn save(&mut self) -> Result<(), TrainError> {
        let records = records(&mut self.output, &mut self.copy);
        let Some(written) = records.map_or(Ok(None), Records::settle)? else { return Ok(()) };
        self.save_adapter()?;
        tracing::info!(step = written.step, path = %written.path.display(), "saved");
        (self.observe)(Event::Saved { step: written.step, path: &written.path });
        Ok(())
    }

    /// Collective. Ends the run where it is. Its state is on disk, since whoever wishes a stop wishes that.
    fn stop(self) -> Result<Ending, TrainError> {
        let (step, config) = (self.engine.step, self.engine.parts.config);
        let total = self.inputs.schedule.total_steps();
        tracing::info!(step, total, "stopped");
        (self.observe)(Event::Stopped { step, total, output: &config.output_dir() });
        // No rank leaves while another one still takes part in something.
        agree(self.engine.parts.comm, Ok::<_, TrainError>(()))?;
        Ok(Ending::Stopped { step })
    }

    /// Writes the adapter of the state that is on disk. After the state: no adapter is ahead of what a run goes on
    /// from.
    fn save_adapter(&self) -> Result<(), TrainError> {
        let Some(output) = &self.output else { return Ok(()) };
        let (step, keep) = (self.engine.step, self.engine.parts.config.save_total_limit);
        artifacts::write_checkpoint(output.folder(), step, &self.adapter())?;
        artifacts::prune_checkpoints(output.folder(), step, keep);
        Ok(())
    }

    /// Collective. Held-out loss and sample of θ = 0. A resumed run has them, but a kill may have come between a
    /// checkpoint and the held-out loss that was due.
    fn before_training(&mut self) -> Result<(), TrainError> {
        if self.engine.step > 0 {
            // Nor may a state that stays be without its adapter.
            let lacks = self.output.as_ref().is_some_and(|output| output.began_at_one_that_stays());
            agree(self.engine.parts.comm, if lacks { self.save_adapter() } else { Ok(()) })?;
            return self.held_out_if_due();
        }
        self.held_out()?;
        self.sample()
    }

    fn held_out_if_due(&mut self) -> Result<(), TrainError> {
        let (step, total) = (self.engine.step, self.inputs.schedule.total_steps());
        let due = self.engine.parts.config.eval_steps.is_some_and(|every| step.is_multiple_of(every as u64));
        if due && step != total { self.held_out() } else { Ok(()) }
    }

    fn held_out(&mut self) -> Result<(), TrainError> {
        let Some(dataset): Option<&Dataset> = self.inputs.held_out.as_ref() else { return Ok(()) };
        let step = self.engine.step;
        let data = dataset.fingerprint();
        let known = self.output.as_ref().is_some_and(|output| output.held_out_at(step, &data).is_some());
        if self.engine.parts.comm.all_gather(&[u8::from(known)])[0][0] != 0 {
            return Ok(());
        }
        self.control.phase(Phase::Evaluating);
        (self.observe)(Event::Stage("held-out loss"));
        let (loss, tokens) = self.engine.held_out(dataset)?;
        tracing::info!(step, loss, tokens, "held-out loss");
        let before = self.output.as_ref().and_then(|output| output.held_out_at(0, &data));
        let line = HeldOutLine { step, loss, tokens, data };
        let copied = self.copy.as_mut().map_or(Ok(()), |copy| copy.record_held_out(&line));
        agree(self.engine.parts.comm, copied)?;
        agree(self.engine.parts.comm, with(&mut self.output, |output| output.record_held_out(line)))?;
        (self.observe)(Event::HeldOut { step, loss, before });
        Ok(())
    }

    /// Collective. Shows the greedy continuation of the sample prompt.
    fn sample(&mut self) -> Result<(), TrainError> {
        let config = self.engine.parts.config;
        let Some(prompt) = &config.sample_prompt else { return Ok(()) };
        self.control.phase(Phase::Sampling);
        (self.observe)(Event::Stage("sample continuation"));
        let tokenizer = &self.inputs.tokenizer;
        let encoded = agree(self.engine.parts.comm, tokenizer.encode(prompt).map_err(TrainError::from))?;
        let ids: Vec<u32> = tokenizer.bos_id().into_iter().chain(encoded).collect();
        let options = SampleOptions {
            max_new_tokens: if ids.is_empty() { 0 } else { config.sample_tokens },
            stop_ids: tokenizer.eos_id().into_iter().collect(),
        };
        let new_ids = self.engine.sample(&ids, &options)?;
        let text = agree(self.engine.parts.comm, tokenizer.decode(&new_ids, true).map_err(TrainError::from))?;
        (self.observe)(Event::Sample { step: self.engine.step, prompt, text: &text });
        Ok(())
    }

    /// The adapter as it is now.
    fn adapter(&self) -> Adapter {
        Adapter { config: self.inputs.adapter.clone(), theta: self.engine.theta().to_vec() }
    }

    /// Collective. Last held-out loss, adapter files, summary.
    fn finish(mut self, started: Instant, first_step: u64, mut facts: Value) -> Result<Summary, TrainError> {
        self.held_out()?;
        self.sample()?;
        self.control.phase(Phase::Finishing);
        let (config, engine) = (self.engine.parts.config, &self.engine);
        let adapter = self.adapter();
        let written = with(&mut self.output, |output| {
            let bytes = adapter.write(output.folder())?;
            let tokenizer = &self.inputs.tokenizer_files;
            artifacts::write_tokenizer(output.folder(), tokenizer, config.eos_token.as_deref())?;
            Ok(bytes)
        });
        let adapter_bytes = agree(engine.parts.comm, written)?;
        let output = self.output.as_ref();
        let data = self.inputs.held_out.as_ref().map(Dataset::fingerprint).unwrap_or_default();
        let held_out_at = |step| output.and_then(|output| output.held_out_at(step, &data));
        let summary = Summary {
            output: config.output_dir(),
            adapter_bytes,
            steps: engine.step,
            steps_now: engine.step - first_step,
            num_tokens: engine.num_tokens,
            seconds_now: started.elapsed().as_secs_f64(),
            final_loss: output.and_then(Output::final_loss),
            held_out_before: held_out_at(0),
            held_out_after: held_out_at(engine.step),
            theta_norm: l2_norm(engine.theta()),
            model_card: output.is_some_and(|output| artifacts::owns_card(output.folder())),
        };
        let all_reduce_bytes = (engine.theta().len() as u64 + 1) * 8;
        facts["traffic"] = self.traffic.gather(engine.parts.comm, all_reduce_bytes);
        facts["peak_memory_bytes"] = json!(peak_memory(engine.parts.comm));
        facts["summary"] = serde_json::to_value(&summary).expect("a summary is JSON");
        let base_model = self.inputs.adapter.base_model_name_or_path.as_deref().unwrap_or_default();
        let adapted = self.inputs.space.total();
        let written = with(&mut self.output, |output| {
            let (metrics, held_out) = output.history()?;
            let (metrics, summary) = (metrics.as_slice(), &summary);
            let card = Card { config, base_model, summary, adapted, metrics, held_out };
            artifacts::write_card(output.folder(), &card)?;
            output.write_run(&self.identity, facts)?;
            match &config.output_dir_file {
                Some(file) => write_output_dir(file, output.folder()),
                None => Ok(()),
            }
        });
        agree(self.engine.parts.comm, written)?;
        tracing::info!(?summary, "done");
        Ok(summary)
    }
}

/// What this rank records steps in, if it does.
fn records<'r>(output: &'r mut Option<Output>, copy: &'r mut Option<HostCopy>) -> Option<&'r mut Records> {
    let own = output.as_mut().map(|output| &mut output.records);
    own.or(copy.as_mut().map(|copy| &mut copy.records))
}

/// Does something with the output folder on the rank that holds it.
fn with<T: Default>(
    output: &mut Option<Output>,
    act: impl FnOnce(&mut Output) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    output.as_mut().map_or_else(|| Ok(T::default()), act)
}

fn write_output_dir(file: &Path, folder: &Path) -> Result<(), TrainError> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    Ok(checkpoint::write_atomic(file, &[folder.to_string_lossy().as_bytes(), b"\n"])?)
}
