//! A step's work of one rank: which micro-batches go through its stage when, where their inputs come from and where
//! their outputs go.
//!
//! The rank goes through the actions of its stage's schedule as often as any rank that shares its weights. In a round
//! for which its pipeline has no micro-batch it takes part in the gathers alone.

use std::collections::VecDeque;

use data::MicroBatch;
use mesh::{Action, Mesh, one_forward_one_backward, warm_up};
use projection::Reducer;
use tch::{Device, Tensor};

use crate::TrainError;
use crate::control::{Control, Phase};
use crate::messages::{Inbox, Outbox, Stages};
use crate::overlay::ScaledTheta;
use crate::pass::{Pass, Tape, Update};
use crate::weights::FrozenWeights;

/// A rank's stage with its weights and its neighbours.
pub(crate) struct Pipeline<'a> {
    pub mesh: Mesh,
    pub rank: usize,
    pub pass: Pass<'a>,
    pub weights: Box<dyn FrozenWeights>,
    /// Is told what the rank does.
    pub control: &'a dyn Control,
    /// Stages make a forward more before their first backward.
    pub ahead: bool,
    /// The ranks of this pipeline, by stage.
    pub stages: Stages,
}

/// The micro-batches of this rank's pipeline, and what is done with them.
pub(crate) struct Work<'w> {
    /// Those of the pipeline, in order.
    pub batches: &'w [MicroBatch],
    /// How often the ranks that share weights go through them.
    pub rounds: usize,
    /// s·θ.
    pub theta: ScaledTheta<'w>,
}

/// What a training step adds to [`Work`].
pub(crate) struct Training<'w> {
    /// The micro-batches' masks on ΔW, one each.
    pub dropout: &'w [Option<projection::Dropout>],
    /// Labels of the whole step.
    pub normaliser: f64,
    /// Takes the gradient of θ.
    pub reducer: &'w mut Reducer,
}

impl Pipeline<'_> {
    /// Collective. Forward and backward of this rank's work in a step. Returns the micro-batches' loss sums (nats) on
    /// the last stage, nothing on the others. Until they are read at the end nothing
    /// waits for the device, where neither weights nor messages go through the host's memory.
    pub(crate) fn train(&mut self, work: &Work<'_>, training: Training<'_>) -> Result<Vec<f64>, TrainError> {
        let Training { dropout, normaliser, reducer } = training;
        let stage = self.pass.stage.clone();
        let warm_up = warm_up(stage.number, stage.of, self.ahead);
        let actions = one_forward_one_backward(warm_up, work.rounds);
        let units = stage.units(self.pass.model.config());
        self.weights.begin(units.training(&actions), &self.tokens(work))?;
        let mut inputs = Inbox::new(&self.stages, stage.number.checked_sub(1), self.messages(work))?;
        let sender = stage.gets_gradients().then_some(stage.number + 1);
        let mut upstreams = Inbox::new(&self.stages, sender, self.messages(work))?;
        let mut outbox = Outbox::default();
        let (mut losses, mut tapes) = (Vec::new(), VecDeque::new());
        for action in actions {
            let (Action::Forward(number) | Action::Backward(number)) = action;
            let Some(batch) = work.batches.get(number) else {
                self.accompany(action, &units.training_tiles())?;
                continue;
            };
            let update = Update { theta: work.theta, dropout: dropout[number] };
            match action {
                Action::Forward(_) => {
                    self.control.phase(Phase::Forward);
                    let input = self.input(&mut inputs, batch)?;
                    let (output, tape) = self.pass.forward(self.weights.as_mut(), batch, input, update)?;
                    let upstream = match stage.is_last() {
                        true => {
                            let head =
                                self.pass.head(self.weights.as_mut(), &output, batch, Some(normaliser))?;
                            losses.push(head.loss_sum);
                            head.grad
                        }
                        false => {
                            outbox.send(&self.stages, stage.number + 1, &output)?;
                            None
                        }
                    };
                    tapes.push_back((tape, upstream));
                }
                Action::Backward(_) => {
                    self.control.phase(Phase::Backward);
                    let Some((tape, upstream)) = tapes.pop_front() else {
                        unreachable!("a forward came before")
                    };
                    let upstream = match upstream {
                        None if stage.gets_gradients() => Some(upstreams.next(&self.stages)?),
                        own => own,
                    };
                    self.backward(tape, upstream, update, normaliser, reducer, &mut outbox)?;
                }
            }
        }
        outbox.finish();
        Ok(numbers(&losses))
    }

    /// Backward of a micro-batch, where there is anything to go backward through.
    fn backward(
        &mut self,
        tape: Tape,
        upstream: Option<Tensor>,
        update: Update<'_>,
        normaliser: f64,
        reducer: &mut Reducer,
        outbox: &mut Outbox,
    ) -> Result<(), TrainError> {
        let Some(upstream) = upstream else { return Ok(()) };
        let weights = self.weights.as_mut();
        let gradient = self.pass.backward(weights, tape, upstream, update, normaliser, reducer)?;
        match gradient {
            Some(gradient) => outbox.send(&self.stages, self.pass.stage.number - 1, &gradient),
            None => Ok(()),
        }
    }

    /// Collective. Forward alone. Returns loss sum (nats) and predicted tokens of each micro-batch on the last stage.
    pub(crate) fn evaluate(&mut self, work: &Work<'_>) -> Result<Vec<(f64, u64)>, TrainError> {
        let (mut losses, mut tokens) = (Vec::new(), Vec::new());
        self.infer(work, |pipeline, hidden, batch| {
            let head = pipeline.pass.head(pipeline.weights.as_mut(), hidden, batch, None)?;
            losses.push(head.loss_sum);
            tokens.push(head.tokens);
            Ok(())
        })?;
        Ok(numbers(&losses).into_iter().zip(tokens).collect())
    }

    /// Collective. The likeliest next token of a micro-batch of one row, on the last stage.
    pub(crate) fn next_token(&mut self, work: &Work<'_>) -> Result<Option<u32>, TrainError> {
        let mut token = None;
        self.infer(work, |pipeline, hidden, _| {
            token = Some(pipeline.pass.next_token(pipeline.weights.as_mut(), hidden)?);
            Ok(())
        })?;
        Ok(token)
    }

    /// Collective. Forward of all micro-batches; `last` is called with the output of the last stage's blocks.
    fn infer(
        &mut self,
        work: &Work<'_>,
        mut last: impl FnMut(&mut Self, &Tensor, &MicroBatch) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let stage = self.pass.stage.clone();
        let units = stage.units(self.pass.model.config());
        self.weights.begin(units.forwards(work.rounds), &self.tokens(work))?;
        let mut inputs = Inbox::new(&self.stages, stage.number.checked_sub(1), self.messages(work))?;
        let mut outbox = Outbox::default();
        for number in 0..work.rounds {
            let Some(batch) = work.batches.get(number) else {
                self.accompany(Action::Forward(number), &units.forward_tiles())?;
                continue;
            };
            let input = self.input(&mut inputs, batch)?;
            let output = self.pass.infer(self.weights.as_mut(), batch, input, work.theta)?;
            match stage.is_last() {
                true => last(self, &output, batch)?,
                false => outbox.send(&self.stages, stage.number + 1, &output)?,
            }
        }
        outbox.finish();
        Ok(())
    }

    /// Takes part in the gathers of an action for which this rank has no micro-batch.
    fn accompany(&mut self, action: Action, tiles: &[usize]) -> Result<(), TrainError> {
        let weights = self.weights.as_mut();
        let units = self.pass.stage.units(self.pass.model.config());
        match action {
            Action::Forward(_) => {
                for block in units.blocks.clone() {
                    weights.acquire(block);
                    weights.release(block);
                }
                if self.pass.stage.is_last() {
                    weights.open_head();
                    for tile in tiles {
                        let _ = weights.tile(*tile)?;
                    }
                    weights.close_head();
                }
            }
            Action::Backward(_) => {
                for block in units.with_backward().rev() {
                    weights.acquire(block);
                    weights.release(block);
                }
            }
        }
        Ok(())
    }

    /// Tokens whose embeddings this rank needs.
    fn tokens(&self, work: &Work<'_>) -> Vec<i64> {
        match self.pass.stage.is_first() {
            true => work.batches.iter().flat_map(|batch| batch.input_ids.iter().copied()).collect(),
            false => Vec::new(),
        }
    }

    /// Shapes of what moves between two stages, `[B, T, H]`, by micro-batch.
    fn messages(&self, work: &Work<'_>) -> Vec<[i64; 3]> {
        let width = self.pass.model.config().hidden_size;
        work.batches.iter().map(|batch| [batch.rows as i64, batch.len as i64, width]).collect()
    }

    /// What enters the stage's first block.
    fn input(&mut self, inbox: &mut Inbox, batch: &MicroBatch) -> Result<Tensor, TrainError> {
        match self.pass.stage.is_first() {
            true => Ok(self.pass.embed(self.weights.as_ref(), batch)),
            false => inbox.next(&self.stages),
        }
    }
}

/// The values of f64 scalars, read from the device at once.
fn numbers(scalars: &[Tensor]) -> Vec<f64> {
    if scalars.is_empty() {
        return Vec::new();
    }
    let together = Tensor::stack(scalars, 0).to_device(Device::Cpu);
    let mut values = vec![0.0; scalars.len()];
    together.copy_data(&mut values, scalars.len());
    values
}
