mod chunks;
mod split;

pub(crate) use split::{grads, plan};

use std::sync::Mutex;

use partition::{Assignment, Isa, PartitionError};

use crate::{Dropout, Executor, FixedPoint, ProjectionError};
use chunks::Chunks;

/// A run of weights to be written: out = base + ΔW, or ΔW alone.
#[derive(Debug)]
pub struct WeightSlice<'a> {
    /// Global index of the first weight.
    pub first_index: u64,
    /// The frozen weights, as long as `out`.
    pub base: Option<&'a [f32]>,
    /// Where the result goes.
    pub out: &'a mut [f32],
}

/// A run of gradients of weights, dL/dW.
#[derive(Debug, Clone, Copy)]
pub struct GradSlice<'a> {
    /// Global index of the first weight.
    pub first_index: u64,
    /// The gradients.
    pub grad: &'a [f32],
}

/// The linear map θ → ΔW of one micro-batch: a partition and, in training, a dropout mask.
///
/// It works on (s·θ), see [`scale_theta`], and its adjoint leaves s out, see [`FixedPoint::finish`]. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Map<'a> {
    assignment: &'a dyn Assignment,
    dropout: Option<Dropout>,
    isa: Isa,
}

impl<'a> Map<'a> {
    /// The map of a partition, with a mask or without.
    pub fn new(assignment: &'a dyn Assignment, dropout: Option<Dropout>) -> Self {
        Self { assignment, dropout, isa: Isa::best() }
    }

    /// The same map, computed with another instruction set (the partition keeps its own).
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = isa;
        self
    }

    /// Writes base + ΔW, or ΔW alone, of the weights from `first_index` on, on the calling thread.
    ///
    /// ΔW_i = scaled_theta[g(i)] · m_i, a product and a sum of f32, each rounded once. `scaled_theta` has d
    /// entries, `base` as many as `out`.
    ///
    /// # Errors
    /// When a length is wrong, or the partition has no groups for the range.
    pub fn apply(
        &self,
        scaled_theta: &[f32],
        first_index: u64,
        base: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), ProjectionError> {
        self.chunks().apply(scaled_theta, first_index, base, out)
    }

    /// [`Map::apply`] on several runs of weights, such as all of a block, shared out among threads.
    ///
    /// # Errors
    /// As [`Map::apply`].
    pub fn apply_parallel(
        &self,
        executor: &dyn Executor,
        scaled_theta: &[f32],
        slices: &mut [WeightSlice<'_>],
    ) -> Result<(), ProjectionError> {
        let total = slices.iter().map(|slice| slice.out.len()).sum();
        let (tasks, part) = split::plan(executor.threads(), total);
        for slice in &*slices {
            let len = slice.out.len();
            ProjectionError::check_length("the base", len, slice.base.map_or(len, <[f32]>::len))?;
        }
        let pieces: Vec<Mutex<Vec<WeightSlice<'_>>>> =
            split::weights(slices, tasks, part).into_iter().map(Mutex::new).collect();
        run_fallible(executor, tasks, &|task| {
            let mut chunks = self.chunks();
            for piece in lock(&pieces[task]).iter_mut() {
                chunks.apply(scaled_theta, piece.first_index, piece.base, piece.out)?;
            }
            Ok(())
        })
    }

    /// Adds round-half-even(dL/dW_i · m_i · 2^e) to `sums[g(i)]` for the weights from `first_index` on, on the
    /// calling thread.
    ///
    /// Returns whether a term was out of range or not finite; such terms are left out, and the step must not be
    /// applied. `sums` has d entries.
    ///
    /// # Errors
    /// When a length is wrong, or the partition has no groups for the range. `sums` is then left part-way.
    pub fn reduce(
        &self,
        first_index: u64,
        grad: &[f32],
        fixed: &FixedPoint,
        sums: &mut [i64],
    ) -> Result<bool, ProjectionError> {
        self.chunks().reduce(first_index, grad, fixed, sums)
    }

    /// What one thread needs to go over runs of weights, of which those that follow one another cost no jump.
    pub(crate) fn chunks(&self) -> Chunks<'a> {
        Chunks::new(*self)
    }

    /// The number of groups as a length.
    fn check_groups(&self, what: &'static str, got: usize) -> Result<(), ProjectionError> {
        let d = self.assignment.d();
        match usize::try_from(d) {
            Ok(expected) => ProjectionError::check_length(what, expected, got),
            Err(_) => Err(PartitionError::TooManyGroups { d }.into()),
        }
    }
}

/// out_j = θ_j · s_j in f32: what [`Map::apply`] reads.
///
/// # Errors
/// When the three do not have the same length.
pub fn scale_theta(theta: &[f32], scales: &[f32], out: &mut [f32]) -> Result<(), ProjectionError> {
    ProjectionError::check_length("the vector of scales", theta.len(), scales.len())?;
    ProjectionError::check_length("the scaled theta", theta.len(), out.len())?;
    for ((out, theta), scale) in out.iter_mut().zip(theta).zip(scales) {
        *out = theta * scale;
    }
    Ok(())
}

/// Runs tasks that may fail; one of the errors, if there are any.
pub(crate) fn run_fallible(
    executor: &dyn Executor,
    tasks: usize,
    task: &(dyn Fn(usize) -> Result<(), ProjectionError> + Sync),
) -> Result<(), ProjectionError> {
    let result = Mutex::new(Ok(()));
    executor.run(tasks, &|number| {
        if let Err(error) = task(number) {
            *lock(&result) = Err(error);
        }
    });
    result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Locks a mutex whose holder may have panicked: the panic itself reaches the caller through the executor.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
