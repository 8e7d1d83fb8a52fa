//! One optimizer step over all ranks, held-out loss, samples.

use std::sync::Arc;
use std::time::Instant;

use checkpoint::{State, Vectors};
use comm::Communicator;
use config::TrainConfig;
use data::{Dataset, MicroBatch, PaddingSide, StepRows, collate, pack};
use mesh::Coordinates;
use projection::{Dropout, Executor, FixedPoint, Reducer, scale_theta};

use crate::agree::agree;
use crate::learning_rate::LearningRate;
use crate::optimizer::{AdamW, clip};
use crate::overlay::ScaledTheta;
use crate::pipeline::{Pipeline, Training, Work};
use crate::{StepMetrics, TrainError, fingerprint};

/// θ and what moves it: the state that every rank holds in full, the same bits everywhere.
pub(crate) struct Engine<'a> {
    pub parts: Parts<'a>,
    reducer: Reducer,
    /// θ and its moments, perhaps being written to disk.
    vectors: Arc<Vectors>,
    /// Those of the step before, which the next update overwrites.
    spare: Arc<Vectors>,
    /// Updates done.
    pub step: u64,
    /// Tokens so far, padding not counted.
    pub num_tokens: u64,
    scaled: Vec<f32>,
    sums: Vec<i64>,
    grad: Vec<f32>,
    /// What this rank was to move in the last step, by the plan.
    pub planned: plan::Moved,
}

/// What an engine is made of.
pub(crate) struct Parts<'a> {
    pub comm: &'a dyn Communicator,
    /// Carries the sums of θ's gradient.
    pub data: &'a dyn Communicator,
    pub config: &'a TrainConfig,
    pub pipeline: Pipeline<'a>,
    /// What this rank moves, by the plan's formulas.
    pub rank_traffic: plan::RankTraffic,
    pub executor: &'a dyn Executor,
    pub fixed: FixedPoint,
    /// s, length d.
    pub scales: Vec<f32>,
    pub learning_rate: LearningRate,
    pub pad_id: u32,
    pub adam: AdamW,
    /// θ before the first step, length d.
    pub theta: Vec<f32>,
}

impl<'a> Engine<'a> {
    /// An engine before its first step.
    pub(crate) fn new(mut parts: Parts<'a>) -> Result<Self, TrainError> {
        let d = parts.scales.len();
        let start = Vectors::starting_at(std::mem::take(&mut parts.theta));
        Ok(Self {
            reducer: Reducer::new(d as u64, parts.fixed, parts.executor.threads())?,
            spare: Arc::new(start.clone()),
            vectors: Arc::new(start),
            parts,
            step: 0,
            num_tokens: 0,
            scaled: vec![0.0; d],
            // The last place carries the overflow flag, so that it travels with the reduction.
            sums: vec![0; d + 1],
            grad: vec![0.0; d],
            planned: plan::Moved::default(),
        })
    }

    /// Goes on from a saved state.
    pub(crate) fn restore(&mut self, state: State) {
        self.step = state.step;
        self.num_tokens = state.meta["num_tokens"].as_u64().unwrap_or(0);
        let State { theta, exp_avg, exp_avg_sq, .. } = state;
        self.vectors = Arc::new(Vectors { theta, exp_avg, exp_avg_sq });
    }

    /// θ, length d.
    pub(crate) fn theta(&self) -> &[f32] {
        &self.vectors.theta
    }

    /// θ and its moments. To be let go of before the update after the next.
    pub(crate) fn vectors(&self) -> Arc<Vectors> {
        Arc::clone(&self.vectors)
    }

    /// Collective. Makes the next update from `rows`. θ changes on all ranks or, on an error, on none. `gate` is called on
    /// every rank when all micro-batches were computed: no rank makes the update before all have passed theirs.
    pub(crate) fn train_step(
        &mut self,
        dataset: &Dataset,
        rows: &StepRows,
        gate: &mut dyn FnMut() -> Result<(), TrainError>,
    ) -> Result<StepMetrics, TrainError> {
        let started = Instant::now();
        let batches: Vec<MicroBatch> =
            rows.micro_batches.iter().map(|rows| self.collate(dataset, rows)).collect();
        let labels: u64 = batches.iter().map(MicroBatch::label_count).sum();
        let tokens: u64 = batches.iter().map(MicroBatch::token_count).sum();
        if batches.iter().all(|batch| batch.supervised_count() == 0) {
            let place = format!("step {}", self.step + 1);
            return agree(self.parts.comm, Err(TrainError::NoLabels { place }));
        }
        let computed = self.micro_batches(&batches, labels as f64);
        let passed = computed.and_then(|losses| gate().map(|()| losses));
        let losses = agree(self.parts.comm, passed)?;
        let loss = self.total_loss(&losses)? / labels as f64;
        self.reduce_gradient()?;
        let grad_norm = clip(&mut self.grad, self.parts.config.max_grad_norm);
        let learning_rate = self.parts.learning_rate.at(self.step);
        self.step += 1;
        self.num_tokens += tokens;
        self.update(learning_rate);
        if let Some(index) = self.theta().iter().position(|number| !number.is_finite()) {
            let value = self.theta()[index];
            return agree(self.parts.comm, Err(TrainError::NonFiniteTheta { step: self.step, index, value }));
        }
        let step_seconds = started.elapsed().as_secs_f64();
        Ok(StepMetrics {
            step: self.step,
            epoch: rows.epoch_fraction,
            loss,
            grad_norm,
            learning_rate,
            num_tokens: self.num_tokens,
            tokens_per_second: tokens as f64 / step_seconds,
            step_seconds,
            theta_blake3: fingerprint::theta(self.theta()).to_hex().to_string(),
        })
    }

    /// θ and moments of this step, from those of the one before.
    fn update(&mut self, learning_rate: f64) {
        let after = Arc::get_mut(&mut self.spare).expect("a state is let go of once it is on disk");
        self.parts.adam.update(self.step, learning_rate, &self.grad, &self.vectors, after);
        std::mem::swap(&mut self.vectors, &mut self.spare);
    }

    /// Collective. Held-out loss (nats a predicted token) and the number of predicted tokens.
    pub(crate) fn held_out(&mut self, dataset: &Dataset) -> Result<(f64, u64), TrainError> {
        let computed = self.held_out_share(dataset);
        let all = gather_f64(self.parts.comm, &agree(self.parts.comm, computed)?);
        let loss: f64 = all.iter().flatten().step_by(2).sum();
        let tokens: f64 = all.iter().flatten().skip(1).step_by(2).sum();
        let loss = loss / tokens;
        let verdict = match (tokens == 0.0, loss.is_finite()) {
            (true, _) => Err(TrainError::NoLabels { place: "the held-out data".to_owned() }),
            (false, false) => Err(TrainError::NonFiniteHeldOut { step: self.step, loss }),
            (false, true) => Ok((loss, tokens as u64)),
        };
        agree(self.parts.comm, verdict)
    }

    /// Loss sum and predicted tokens of each batch of this rank's share, one after the other; nothing where it has no
    /// head.
    fn held_out_share(&mut self, dataset: &Dataset) -> Result<Vec<f64>, TrainError> {
        scale_theta(&self.vectors.theta, &self.parts.scales, &mut self.scaled)?;
        let rows: Vec<u32> = (0..dataset.len() as u32).collect();
        let batches: Vec<&[u32]> = rows.chunks(self.parts.config.eval_batch_size).collect();
        let (mine, rounds) = self.share(batches.len());
        let batches: Vec<MicroBatch> = batches[mine].iter().map(|rows| self.collate(dataset, rows)).collect();
        let work = Work { batches: &batches, rounds, theta: scaled(&self.scaled, self.step) };
        let results = stranding(self.parts.pipeline.evaluate(&work), self.parts.comm)?;
        Ok(results.into_iter().flat_map(|(loss, tokens)| [loss, tokens as f64]).collect())
    }

    /// Collective. The greedy continuation of a prompt (token ids, not empty), made by the first pipeline: the
    /// likeliest token at each place, ties to the smaller id, as transformers' greedy search. The whole row is computed
    /// again for every token.
    pub(crate) fn sample(&mut self, prompt: &[u32], options: &SampleOptions) -> Result<Vec<u32>, TrainError> {
        scale_theta(&self.vectors.theta, &self.parts.scales, &mut self.scaled)?;
        let mesh = self.parts.pipeline.mesh;
        // The head is on the last stage.
        let speaker = mesh.rank_at(Coordinates { replicate: 0, shard: 0, stage: mesh.degrees().pp - 1 });
        let (mine, rounds) = self.share(1);
        let mut row = prompt.to_vec();
        while row.len() < prompt.len() + options.max_new_tokens {
            let batch = (!mine.is_empty()).then(|| one_row(&row));
            let work = Work { batches: batch.as_slice(), rounds, theta: scaled(&self.scaled, self.step) };
            let token = stranding(self.parts.pipeline.next_token(&work), self.parts.comm)?;
            let mut bytes = token.unwrap_or(0).to_le_bytes().to_vec();
            self.parts.comm.broadcast(speaker, &mut bytes);
            let token = u32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
            row.push(token);
            if options.stop_ids.contains(&token) {
                break;
            }
        }
        Ok(row.split_off(prompt.len()))
    }

    /// Which of so many batches are this rank's, and how often its shard group goes through the model for all of them.
    fn share(&self, batches: usize) -> (std::ops::Range<usize>, usize) {
        let Pipeline { mesh, rank, .. } = self.parts.pipeline;
        (mesh.micro_batches_of(mesh.pipeline_of(rank), batches), mesh.rounds_of(rank, batches))
    }

    fn collate(&self, dataset: &Dataset, rows: &[u32]) -> MicroBatch {
        match self.parts.config.packing {
            true => pack(dataset, rows),
            false => collate(dataset, rows, self.parts.pad_id, PaddingSide::Right),
        }
    }

    /// Runs this rank's share of the step's micro-batches. Returns their loss sums on the last stage.
    fn micro_batches(&mut self, batches: &[MicroBatch], normaliser: f64) -> Result<Vec<f64>, TrainError> {
        scale_theta(&self.vectors.theta, &self.parts.scales, &mut self.scaled)?;
        let (mine, rounds) = self.share(batches.len());
        let config = self.parts.config;
        let mask = |index| Dropout::new(config.dropout, config.seed, self.step, index as u64);
        let shapes: Vec<(u64, u64)> =
            batches[mine.clone()].iter().map(|batch| (batch.rows as u64, batch.len as u64)).collect();
        self.planned = self.parts.rank_traffic.step(&shapes, rounds as u64);
        let dropout = mine.clone().map(mask).collect::<Result<Vec<_>, _>>()?;
        let work = Work { batches: &batches[mine], rounds, theta: scaled(&self.scaled, self.step) };
        let training = Training { dropout: &dropout, normaliser, reducer: &mut self.reducer };
        stranding(self.parts.pipeline.train(&work, training), self.parts.comm)
    }

    /// Collective. Adds the micro-batches' loss sums in their order, whoever computed them: gathered by rank, the last
    /// stage's are in the order of micro-batches.
    fn total_loss(&self, losses: &[f64]) -> Result<f64, TrainError> {
        let all = gather_f64(self.parts.comm, losses);
        let of_rank = |(rank, losses): (usize, &Vec<f64>)| losses.iter().map(|loss| (rank, *loss)).collect();
        let by_rank = all.iter().enumerate().flat_map(|entry| -> Vec<(usize, f64)> { of_rank(entry) });
        let bad = by_rank.enumerate().find(|(_, (_, loss))| !loss.is_finite());
        if let Some((micro_batch, (rank, loss))) = bad {
            let error = TrainError::NonFiniteLoss { step: self.step + 1, micro_batch, loss, rank };
            return agree(self.parts.comm, Err(error));
        }
        Ok(all.iter().flatten().sum())
    }

    /// Collective. All-reduces the integer sums of θ's gradient and turns them into f32.
    fn reduce_gradient(&mut self) -> Result<(), TrainError> {
        let d = self.theta().len();
        let here = self.reducer.finish_step(self.parts.executor, &mut self.sums[..d])?;
        let overflow = self.parts.pipeline.pass.overlay.take_sums(&mut self.sums[..d])? || here;
        self.sums[d] = i64::from(overflow);
        self.parts.data.all_reduce_sum(&mut self.sums);
        if self.sums[d] != 0 {
            let flags = self.parts.comm.all_gather(&[u8::from(overflow)]);
            let ranks =
                (0..flags.len()).filter(|rank| flags[*rank] == [1]).map(|rank| format!("rank {rank}"));
            let (limit, ranks) = (self.parts.fixed.limit(), ranks.collect::<Vec<_>>().join(", "));
            return agree(
                self.parts.comm,
                Err(TrainError::GradientOverflow { step: self.step + 1, limit, ranks }),
            );
        }
        self.parts.fixed.finish(&self.sums[..d], &self.parts.scales, &mut self.grad)?;
        Ok(())
    }
}

fn scaled(values: &[f32], stamp: u64) -> ScaledTheta<'_> {
    ScaledTheta { values, stamp }
}

fn one_row(ids: &[u32]) -> MicroBatch {
    MicroBatch {
        rows: 1,
        len: ids.len(),
        packed: Vec::new(),
        input_ids: ids.iter().map(|id| i64::from(*id)).collect(),
        attention_mask: vec![1; ids.len()],
        labels: Vec::new(),
    }
}

/// When a sample continuation ends.
#[derive(Debug, Clone)]
pub(crate) struct SampleOptions {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// Tokens that end the continuation; they are part of it.
    pub stop_ids: Vec<u32>,
}

/// Marks an error of work that peers wait for in the middle of.
fn stranding<T>(result: Result<T, TrainError>, comm: &dyn Communicator) -> Result<T, TrainError> {
    match comm.size() {
        1 => result,
        _ => result.map_err(|error| TrainError::Stranding(Box::new(error))),
    }
}

/// Collective: every rank's numbers, by rank.
pub(crate) fn gather_f64(comm: &dyn Communicator, values: &[f64]) -> Vec<Vec<f64>> {
    let all = comm.all_gather(bytemuck::cast_slice(values));
    let number = |bytes: &[u8]| f64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    all.iter().map(|bytes| bytes.chunks_exact(8).map(number).collect()).collect()
}
