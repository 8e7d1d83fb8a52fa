//! Sharing out several runs of weights among tasks.

use partition::CHUNK;

use super::{GradSlice, WeightSlice};

/// Below this many weights (some 10 µs of work) a task costs more than it saves.
const WEIGHTS_PER_TASK: usize = 16 * CHUNK;

/// How many tasks, and how many weights each gets (the last one fewer), for `total` weights.
pub(crate) fn plan(threads: usize, total: usize) -> (usize, usize) {
    let tasks = threads.clamp(1, (total / WEIGHTS_PER_TASK).max(1));
    // Whole chunks, so that only the ends of runs are short.
    let part = total.div_ceil(tasks).next_multiple_of(CHUNK).max(CHUNK);
    (total.div_ceil(part).max(1), part)
}

/// The pieces that make up each task's share, in order.
pub(super) fn weights<'a>(
    slices: &'a mut [WeightSlice<'_>],
    tasks: usize,
    part: usize,
) -> Vec<Vec<WeightSlice<'a>>> {
    let mut shares: Vec<Vec<WeightSlice<'a>>> = (0..tasks).map(|_| Vec::new()).collect();
    let mut done = 0;
    for slice in slices {
        let mut first_index = slice.first_index;
        let mut base = slice.base;
        let mut out: &'a mut [f32] = slice.out;
        while !out.is_empty() {
            let len = out.len().min(part - done % part);
            let (head, tail) = out.split_at_mut(len);
            shares[done / part].push(WeightSlice {
                first_index,
                base: base.map(|base| &base[..len]),
                out: head,
            });
            base = base.map(|base| &base[len..]);
            (first_index, out, done) = (first_index.saturating_add(len as u64), tail, done + len);
        }
    }
    shares
}

/// The pieces that make up the share of `task`, in order.
pub(crate) fn grads<'a>(
    slices: &'a [GradSlice<'a>],
    task: usize,
    part: usize,
) -> impl Iterator<Item = GradSlice<'a>> {
    let (start, end) = (task * part, (task + 1) * part);
    let mut done = 0;
    slices.iter().filter_map(move |slice| {
        let from = start.saturating_sub(done).min(slice.grad.len());
        let to = end.saturating_sub(done).min(slice.grad.len());
        done += slice.grad.len();
        (from < to).then(|| GradSlice {
            first_index: slice.first_index.saturating_add(from as u64),
            grad: &slice.grad[from..to],
        })
    })
}
