//! The steps between settings and the first update: mesh, output folder, weights, group sizes, engine.

use std::ops::Range;
use std::path::Path;

use adapter::AdaptedSpace;
use comm::Communicator;
use config::TrainConfig;
use mesh::{Degrees, Mesh, Wanted};
use model::{Decoder, WeightReader};
use partition::{Assignment, Scope};
use plan::ActivationBudget;
use projection::cuda::DeviceMap;
use projection::{Executor, FixedPoint};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::agree::agree;
use crate::control::Control;
use crate::engine::{Engine, Parts};
use crate::inputs::Inputs;
use crate::learning_rate::{Decay, LearningRate};
use crate::messages::{Stages, reach_device};
use crate::optimizer::{AdamW, AdamWOptions};
use crate::overlay::Overlay;
use crate::pass::Pass;
use crate::pipeline::Pipeline;
use crate::recompute::Recompute;
use crate::weights::{FrozenWeights, Resident, ShardOptions, Sharded, Stage};
use crate::{Event, Observer, StartInfo, TrainError, fingerprint};

/// The degrees that the settings come to on so many ranks, which need not multiply to them.
pub fn degrees(config: &TrainConfig, ranks: usize) -> Degrees {
    let mut wanted =
        Wanted { dp_replicate: config.dp_replicate, dp_shard: config.dp_shard, pp: Some(config.pp) };
    // Groups by sign and size look at every weight, so every rank has them all.
    if config.grouping_strategy == config::GroupingStrategy::SignedMagnitude {
        wanted.dp_shard = Some(1);
    }
    wanted.over(ranks)
}

pub(crate) fn mesh(config: &TrainConfig, comm: &dyn Communicator) -> Result<Mesh, TrainError> {
    Ok(Mesh::new(degrees(config, comm.size()), comm.size())?)
}

/// Refuses an `--output-dir-file` that could not be written at the end, before the training and not after it.
pub(crate) fn check_output_dir_file(config: &TrainConfig) -> Result<(), TrainError> {
    let has_folder =
        |file: &Path| file.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir());
    match &config.output_dir_file {
        Some(file) if file.is_dir() => Err(TrainError::FolderForFile { path: file.clone() }),
        Some(file) if !has_folder(file) => Err(TrainError::NoFolderFor { path: file.clone() }),
        _ => Ok(()),
    }
}

/// Says when some ranks have nothing to compute.
pub(crate) fn warn_of_idle_ranks(inputs: &Inputs, mesh: &Mesh, observe: Observer<'_>) {
    let (pipelines, micro_batches) =
        (mesh.degrees().data_parallel() as u64, inputs.schedule.micro_batches_per_step());
    if pipelines > micro_batches {
        let idle = (pipelines - micro_batches) * mesh.degrees().pp as u64;
        let text = format!(
            "a step has {micro_batches} micro-batch(es) for {pipelines} groups of ranks (dp-replicate × dp-shard), so \
             {idle} of {} ranks have nothing to compute; give --accumulation-steps {pipelines} or more, or fewer ranks",
            mesh.ranks()
        );
        observe(Event::Warning(text));
    }
}

/// Says when rows are longer than the model was made for.
pub(crate) fn warn_of_long_rows(inputs: &Inputs, observe: Observer<'_>) {
    let longest =
        (0..inputs.dataset.len()).map(|row| inputs.dataset.example(row).ids.len()).max().unwrap_or(0);
    let limit = inputs.max_seq_length;
    let full =
        (0..inputs.dataset.len()).filter(|row| inputs.dataset.example(*row).ids.len() == limit).count();
    let rows = inputs.dataset.len();
    // A few that are cut, or just fit, are no reason to speak.
    if full * 100 > rows {
        let text = format!(
            "{full} of {rows} rows have {limit} tokens, as many as --max-seq-length allows; longer ones lost their beginning"
        );
        observe(Event::Warning(text));
    }
    let positions = inputs.model_config.max_position_embeddings;
    if longest as i64 > positions {
        let text = format!(
            "the longest row has {longest} tokens and the model was made for {positions} \
             (max_position_embeddings); lower --max-seq-length unless this is on purpose"
        );
        observe(Event::Warning(text));
    }
}

/// Says when the learning rate never leaves zero: the first update of a warm-up has rate 0.
pub(crate) fn warn_of_warmup(engine: &Engine<'_>, total_steps: u64, observe: Observer<'_>) {
    let moves = (0..total_steps).take(2).any(|step| engine.parts.learning_rate.at(step) > 0.0);
    if !moves && engine.parts.config.learning_rate > 0.0 {
        let text = format!(
            "the learning rate of all {total_steps} step(s) is 0 (warm-up starts there), so θ stays as it is; \
             give --warmup-ratio 0 or more steps"
        );
        observe(Event::Warning(text));
    }
}

pub(crate) fn compute_kind(config: &TrainConfig) -> Kind {
    match config.dtype {
        config::Dtype::Float32 => Kind::Float,
        config::Dtype::Bfloat16 => Kind::BFloat16,
        config::Dtype::Float16 => Kind::Half,
    }
}

/// Where a rank is, and who it talks to.
pub(crate) struct Place<'a> {
    pub mesh: Mesh,
    /// Is told what the rank does.
    pub control: &'a dyn Control,
    /// Where it computes.
    pub device: Device,
    pub stage: Stage,
    /// The blocks of all stages.
    pub stages: Vec<Range<usize>>,
    pub rank_traffic: plan::RankTraffic,
    /// All ranks; decisions.
    pub comm: &'a dyn Communicator,
    /// All ranks; sums of θ's gradient.
    pub data: &'a dyn Communicator,
    /// Weights and activations go from device to device.
    direct: bool,
}

impl<'a> Place<'a> {
    /// Collective. The place of this rank.
    ///
    /// # Errors
    /// More stages than blocks.
    pub(crate) fn new(
        mesh: Mesh,
        config: &TrainConfig,
        inputs: &Inputs,
        comm: &'a dyn Communicator,
        data: &'a dyn Communicator,
        control: &'a dyn Control,
        device: Device,
    ) -> Result<Self, TrainError> {
        // Before anything that may fail.
        let direct = reach_device(comm, data, device);
        tracing::info!(
            direct,
            "weights and activations go from device to device, or through the host's memory"
        );
        let model = crate::model_facts(&inputs.model_config, &inputs.space);
        let stages = plan::stages(&model, mesh.degrees().pp)?;
        let first_adapted = inputs.space.modules().first().map_or(0, |module| module.candidate / LINEARS);
        let stage = Stage::of_rank(&mesh, comm.rank(), &stages, first_adapted);
        let dtype = crate::training_facts(config).dtype;
        let rank_traffic = plan::RankTraffic::new(&model, dtype, &mesh, comm.rank(), config.pp_ahead)?;
        Ok(Self { mesh, control, device, stage, stages, rank_traffic, comm, data, direct })
    }

    /// Collective. Reads this rank's part of the frozen weights.
    pub(crate) fn load_weights(
        &self,
        inputs: &Inputs,
        config: &TrainConfig,
        observe: Observer<'_>,
    ) -> Result<Box<dyn FrozenWeights>, TrainError> {
        let stored = model::check_stored(&inputs.files, &inputs.model_config);
        agree(self.comm, stored.map_err(TrainError::from))?;
        let reader = WeightReader {
            files: &inputs.files,
            config: &inputs.model_config,
            kind: compute_kind(config),
            device: self.device,
        };
        let progress =
            |done: usize, total: usize| observe(Event::Progress { done: done as u64, total: total as u64 });
        let loaded: Result<Box<dyn FrozenWeights>, TrainError> = match self.mesh.degrees().dp_shard {
            1 => Resident::load(&reader, &self.stage, &progress).map(|weights| Box::new(weights) as _),
            _ => {
                let mates = self.data.split("dp-shard", self.mesh.shard_group_of(self.comm.rank()));
                // What a graph on another device read are copies, which it keeps itself.
                let keeps_graphs =
                    self.recompute(inputs, config) != Recompute::Always && self.device == Device::Cpu;
                let direct = self.direct;
                let options = ShardOptions { keeps_graphs, prefetch: config.prefetch, direct };
                Sharded::load(mates, &reader, &self.stage, options, &progress)
                    .map(|weights| Box::new(weights) as _)
            }
        };
        agree(self.comm, loaded)
    }

    /// Which blocks are computed again in backward. All are where gathered weights do not outlive their use at one address:
    /// a graph on a GPU would keep copies of all it read, which would be the whole stage. It does not change a bit of θ.
    fn recompute(&self, inputs: &Inputs, config: &TrainConfig) -> Recompute {
        if self.mesh.degrees().dp_shard > 1 && (self.direct || self.device != Device::Cpu) {
            return Recompute::Always;
        }
        let Some(bytes) = config.activation_bytes() else {
            return if config.gradient_checkpointing { Recompute::Always } else { Recompute::Never };
        };
        let warm_up = mesh::warm_up(self.stage.number, self.stage.of, config.pp_ahead) as u64;
        let micro_batches = inputs.schedule.micro_batches_per_step();
        let model = crate::model_facts(&inputs.model_config, &inputs.space);
        let dtype = crate::training_facts(config).dtype;
        let in_flight = (warm_up + 1).min(micro_batches);
        Recompute::Within(ActivationBudget { model, dtype, in_flight, bytes })
    }

    /// Collective. The map of this stage's weights on this rank's GPU, if it has one.
    pub(crate) fn kernels(
        &self,
        partition: &dyn Assignment,
        space: &AdaptedSpace,
        cache: Option<&Path>,
    ) -> Result<Option<DeviceMap>, TrainError> {
        let indices = stage_indices(space, &self.stage);
        agree(self.comm, crate::kernels::device_map(self.device, partition, indices, cache))
    }

    /// Collective: every rank counts its slice of the weight space, a share of its stage's; the sum is everybody's.
    pub(crate) fn count_groups(
        &self,
        partition: &dyn Assignment,
        space: &AdaptedSpace,
    ) -> Result<Vec<u64>, TrainError> {
        let of_stage = stage_indices(space, &self.stage);
        let length = (of_stage.end - of_stage.start) as usize;
        let pipeline = self.mesh.pipeline_of(self.comm.rank());
        let share = mesh::share(length, self.mesh.degrees().data_parallel(), pipeline);
        let mine = of_stage.start + share.start as u64..of_stage.start + share.end as u64;
        count_groups(partition, mine, self.data)
    }
}

/// Linear modules of a block.
const LINEARS: usize = model::LinearKind::ALL.len();

/// Global indices of a stage's adapted weights.
fn stage_indices(space: &AdaptedSpace, stage: &Stage) -> Range<u64> {
    let from = |block: usize| {
        let module = space.modules().iter().find(|module| module.candidate / LINEARS >= block);
        module.map_or(space.total(), |module| module.offset)
    };
    from(stage.blocks.start)..from(stage.blocks.end)
}

/// Collective: counts a slice of the weight space; the sum of all ranks' slices is everybody's.
fn count_groups(
    partition: &dyn Assignment,
    mine: Range<u64>,
    comm: &dyn Communicator,
) -> Result<Vec<u64>, TrainError> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let counted = partition::count_parallel(partition, mine, threads);
    let counts = agree(comm, counted.map_err(TrainError::from))?;
    let mut sums: Vec<i64> = counts.into_iter().map(|count| count as i64).collect();
    comm.all_reduce_sum(&mut sums);
    Ok(sums.into_iter().map(|sum| sum as u64).collect())
}

/// What was made since the inputs were read.
#[derive(Clone, Copy)]
pub(crate) struct Built<'a> {
    pub model: &'a Decoder,
    pub partition: &'a dyn Assignment,
    pub scope: &'a Scope,
    pub executor: &'a dyn Executor,
    pub counts: &'a [u64],
}

/// The engine's parts; `theta` is where it starts, `kernels` the map on its GPU.
pub(crate) fn parts<'a>(
    config: &'a TrainConfig,
    place: Place<'a>,
    inputs: &Inputs,
    built: Built<'a>,
    weights: Box<dyn FrozenWeights>,
    theta: Vec<f32>,
    kernels: Option<DeviceMap>,
) -> Parts<'a> {
    let Built { model, partition, scope, executor, counts } = built;
    let recompute = place.recompute(inputs, config);
    let Place { mesh, control, stage, rank_traffic, comm, data, device, direct, .. } = place;
    let blocks = stage.blocks.clone();
    let mut overlay = Overlay::new(&inputs.space, blocks, partition, executor, (model.kind(), device));
    if config.merge_delta {
        overlay.merge();
    }
    if let Some(map) = kernels {
        overlay.compute_with(map);
    }
    let cross_entropy_chunk = config.cross_entropy_chunk;
    let pass = Pass { model, stage, overlay, recompute, cross_entropy_chunk, probe: None };
    let stages = data.split("pp", mesh.pipeline_of(comm.rank()));
    let stages = Stages::new(stages, model.kind(), device, direct);
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
        data,
        config,
        rank_traffic,
        pipeline: Pipeline {
            mesh,
            rank: comm.rank(),
            pass,
            weights,
            control,
            ahead: config.pp_ahead,
            stages,
        },
        executor,
        fixed: FixedPoint::new(largest, inputs.schedule.micro_batches_per_step()),
        scales: partition::scales(counts, config.isometric, scope),
        learning_rate: LearningRate::new(config.learning_rate, decay, config.warmup_ratio, total),
        pad_id: inputs.tokenizer.pad_id(),
        adam: AdamW::new(AdamWOptions::with_weight_decay(config.weight_decay)),
        theta,
    }
}

pub(crate) fn start_info(
    engine: &Engine<'_>,
    inputs: &Inputs,
    counts: &[u64],
    stages: &[Range<usize>],
) -> StartInfo {
    let (config, mesh) = (engine.parts.config, &engine.parts.pipeline.mesh);
    let parameters = inputs.model_config.parameters().total();
    StartInfo {
        output: config.output_dir(),
        parameters,
        modules: inputs.space.modules().len(),
        adapted: inputs.space.total(),
        d: config.d as u64,
        partition: partition_words(config),
        group_sizes: (counts.iter().copied().min().unwrap_or(0), counts.iter().copied().max().unwrap_or(0)),
        rows: inputs.dataset.len(),
        tokens: inputs.dataset.total_tokens(),
        rows_per_step: config.global_batch_size(),
        micro_batches: config.accumulation_steps,
        micro_batch_size: config.micro_batch_size,
        ranks: mesh.ranks(),
        mesh: mesh.degrees(),
        carried_by: String::new(),
        cheapest_mesh: None,
        stages: stages.to_vec(),
        backend: engine.parts.comm.backend(),
        threads: config.threads,
        dtype: config.dtype.to_string(),
        first_step: engine.step,
        total_steps: inputs.schedule.total_steps(),
        epochs: inputs.schedule.total_steps() as f64 / inputs.schedule.steps_per_epoch() as f64,
    }
}

/// The settings that make the partition, in a few words.
fn partition_words(config: &TrainConfig) -> String {
    let scope = match config.partition_scope {
        config::PartitionScope::Global => "over all adapted weights",
        config::PartitionScope::TransformerBlock => "block by block",
    };
    match config.grouping_strategy {
        config::GroupingStrategy::Random => {
            format!("{}, seed {}, {scope}", config.assignment_backend, config.proj_seed)
        }
        config::GroupingStrategy::SignedMagnitude => format!("by sign and size of the weights, {scope}"),
    }
}

pub(crate) fn facts(start: &StartInfo, counts: &[u64]) -> Value {
    let degrees = start.mesh;
    json!({
        "gpart_dist": env!("CARGO_PKG_VERSION"),
        "libtorch": env!("GPART_LIBTORCH_VERSION"),
        "communicator": start.backend,
        "messages_carried_by": start.carried_by,
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
