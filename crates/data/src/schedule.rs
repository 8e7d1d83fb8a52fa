//! Which rows make up which step: Hugging Face Trainer's counting over the official data order.

use crate::order::{MAX_ROWS, epoch_order};
use crate::{Error, Result};

/// The counts that a schedule is made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleOptions {
    /// Rows of the dataset.
    pub rows: u64,
    /// Rows of a micro-batch.
    pub micro_batch_size: u64,
    /// Micro-batches of a step in all, whatever the number of ranks.
    pub accumulation: u64,
    /// Passes over the data; may be a fraction.
    pub epochs: f64,
    /// In place of `epochs`: the number of steps.
    pub max_steps: Option<u64>,
    /// Seed of the data order; epoch e is drawn with seed + e.
    pub seed: u64,
    /// Without it every epoch takes the rows as they stand.
    pub shuffle: bool,
}

/// The rows of any step, without going through those before it.
///
/// An epoch has B = ceil(rows / micro_batch_size) micro-batches, the last one smaller where the division leaves a
/// remainder, and U = max(1, ceil(B / accumulation)) steps, the last one with the micro-batches that are left; no
/// step crosses an epoch. There are ceil(epochs · U) steps, or `max_steps`.
#[derive(Debug, Clone)]
pub struct Schedule {
    options: ScheduleOptions,
    total_steps: u64,
    /// Last drawn order and its epoch.
    order: Option<(u64, Vec<u32>)>,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRows {
    /// The epoch the step belongs to, from 0.
    pub epoch: u64,
    /// Epochs done after the step, as the Trainer reports them: epoch + (micro-batches done in it) / B.
    pub epoch_fraction: f64,
    /// Row numbers of each micro-batch, in order. Never empty, and no micro-batch is.
    pub micro_batches: Vec<Vec<u32>>,
}

impl Schedule {
    /// Checks the counts and works out the number of steps.
    ///
    /// # Errors
    /// A count of zero, `epochs` that is not a positive number, more rows than the order can be drawn for, or
    /// more steps than can be counted.
    pub fn new(options: ScheduleOptions) -> Result<Self> {
        check_count("micro-batch-size", options.micro_batch_size)?;
        check_count("accumulation", options.accumulation)?;
        if options.rows == 0 {
            return Err(Error::DataEmpty { origin: "of the schedule".into() });
        }
        if options.rows >= MAX_ROWS {
            let need = "less than 214748364, as far as the official order is drawn with 32-bit words";
            return Err(Error::Setting { name: "number of rows", value: options.rows.to_string(), need });
        }
        let mut schedule = Self { options, total_steps: 0, order: None };
        schedule.total_steps = match options.max_steps {
            Some(steps) => {
                check_count("max-steps", steps)?;
                steps
            }
            None => steps_of_epochs(options.epochs, schedule.steps_per_epoch())?,
        };
        Ok(schedule)
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Micro-batches of an epoch, B.
    pub fn micro_batches_per_epoch(&self) -> u64 {
        self.options.rows.div_ceil(self.options.micro_batch_size)
    }

    /// Steps of a whole epoch, U.
    pub fn steps_per_epoch(&self) -> u64 {
        self.micro_batches_per_epoch().div_ceil(self.options.accumulation).max(1)
    }

    /// The most micro-batches that one step has.
    pub fn micro_batches_per_step(&self) -> u64 {
        self.options.accumulation.min(self.micro_batches_per_epoch())
    }

    /// The options it was made from.
    pub fn options(&self) -> &ScheduleOptions {
        &self.options
    }

    /// The rows of step `k`, counted from 0. Any `k` will do; a new epoch costs drawing its order.
    pub fn step(&mut self, k: u64) -> StepRows {
        let ScheduleOptions { rows, micro_batch_size, accumulation, .. } = self.options;
        let (per_epoch, updates) = (self.micro_batches_per_epoch(), self.steps_per_epoch());
        let (epoch, update) = (k / updates, k % updates);
        let first = update * accumulation.min(per_epoch);
        let last = first.saturating_add(accumulation).min(per_epoch);
        let order = self.order_of(epoch);
        let micro_batches = (first..last).map(|b| {
            let start = b * micro_batch_size.min(rows);
            order[start as usize..start.saturating_add(micro_batch_size).min(rows) as usize].to_vec()
        });
        let micro_batches = micro_batches.collect();
        StepRows { epoch, epoch_fraction: epoch as f64 + last as f64 / per_epoch as f64, micro_batches }
    }

    fn order_of(&mut self, epoch: u64) -> &[u32] {
        let ScheduleOptions { rows, seed, shuffle, .. } = self.options;
        // Without shuffling every epoch is the first.
        let epoch = if shuffle { epoch } else { 0 };
        if self.order.as_ref().is_none_or(|(drawn, _)| *drawn != epoch) {
            self.order = None;
        }
        let draw = || (epoch, epoch_order(rows as u32, seed, epoch, shuffle));
        &self.order.get_or_insert_with(draw).1
    }
}

fn check_count(name: &'static str, value: u64) -> Result<()> {
    if value == 0 {
        return Err(Error::Setting { name, value: value.to_string(), need: "at least 1" });
    }
    Ok(())
}

fn steps_of_epochs(epochs: f64, steps_per_epoch: u64) -> Result<u64> {
    // Up to here every whole number is exact in f64.
    const MOST: f64 = (1u64 << 53) as f64;
    let wrong = |need| Error::Setting { name: "epochs", value: epochs.to_string(), need };
    if !(epochs.is_finite() && epochs > 0.0) {
        return Err(wrong("a number above 0"));
    }
    let steps = (epochs * steps_per_epoch as f64).ceil();
    if steps > MOST {
        return Err(wrong("small enough that the steps can be counted"));
    }
    Ok(steps as u64)
}

#[cfg(test)]
mod tests;
