use std::sync::Mutex;

use crate::map::{grads, lock, plan, run_fallible};
use crate::{Executor, FixedPoint, GradSlice, Map, ProjectionError};

/// The sums of a step in the making: one private array of d integers a thread, merged once, at the end.
///
/// Integer sums do not depend on who adds what, so neither do the totals.
#[derive(Debug)]
pub struct Reducer {
    fixed: FixedPoint,
    private: Vec<Mutex<Private>>,
}

#[derive(Debug)]
struct Private {
    sums: Vec<i64>,
    overflow: bool,
}

impl Reducer {
    /// Sums for `d` groups on up to `threads` threads (0 is taken as 1): 8·d·threads bytes.
    ///
    /// # Errors
    /// [`ProjectionError::Memory`] when they do not fit.
    pub fn new(d: u64, fixed: FixedPoint, threads: usize) -> Result<Self, ProjectionError> {
        let refused = || ProjectionError::Memory { d, threads };
        let len = usize::try_from(d).map_err(|_| refused())?;
        let mut private = Vec::new();
        for _ in 0..threads.max(1) {
            let mut sums = Vec::new();
            sums.try_reserve_exact(len).map_err(|_| refused())?;
            sums.resize(len, 0);
            private.push(Mutex::new(Private { sums, overflow: false }));
        }
        Ok(Self { fixed, private })
    }

    /// The format of the sums.
    pub fn fixed_point(&self) -> &FixedPoint {
        &self.fixed
    }

    /// Adds the gradients of several runs of weights, such as all of a block, shared out among threads.
    ///
    /// # Errors
    /// As [`Map::reduce`]. The sums are then left part-way; [`Reducer::finish_step`] clears them.
    pub fn add(
        &mut self,
        map: &Map<'_>,
        executor: &dyn Executor,
        slices: &[GradSlice<'_>],
    ) -> Result<(), ProjectionError> {
        let total = slices.iter().map(|slice| slice.grad.len()).sum();
        let (tasks, part) = plan(executor.threads().min(self.private.len()), total);
        let (private, fixed) = (&self.private, &self.fixed);
        run_fallible(executor, tasks, &|task| {
            let mut own = lock(&private[task]);
            let mut chunks = map.chunks();
            for piece in grads(slices, task, part) {
                let overflow = chunks.reduce(piece.first_index, piece.grad, fixed, &mut own.sums)?;
                own.overflow |= overflow;
            }
            Ok(())
        })
    }

    /// Writes the totals of the step to `sums` (length d) and starts the next step from zero.
    ///
    /// Returns whether any term of the step was out of range or not finite.
    ///
    /// # Errors
    /// When `sums` has not d entries.
    pub fn finish_step(
        &mut self,
        executor: &dyn Executor,
        sums: &mut [i64],
    ) -> Result<bool, ProjectionError> {
        let mut overflow = false;
        let mut parts = Vec::with_capacity(self.private.len());
        for private in &mut self.private {
            let private = private.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            ProjectionError::check_length("the array of sums", private.sums.len(), sums.len())?;
            overflow |= std::mem::take(&mut private.overflow);
            parts.push(private.sums.as_mut_slice());
        }
        let (tasks, len) = plan(executor.threads(), sums.len());
        let mut parts: Vec<_> = parts.into_iter().map(|part| part.chunks_mut(len)).collect();
        let shares: Vec<_> = sums
            .chunks_mut(len)
            .map(|out| Mutex::new((out, parts.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>())))
            .collect();
        executor.run(tasks.min(shares.len()), &|task| {
            let mut share = lock(&shares[task]);
            let (out, parts) = &mut *share;
            out.fill(0);
            for part in parts {
                for (sum, term) in out.iter_mut().zip(part.iter_mut()) {
                    *sum = sum.wrapping_add(std::mem::take(term));
                }
            }
        });
        Ok(overflow)
    }
}
