use partition::{CHUNK, Cursor, PartitionError};

use super::Map;
use crate::{FixedPoint, ProjectionError, kernel};

/// The two loops over one run of weights after another, on one thread.
///
/// It keeps its place in the partition: a run that begins where the last one ended is found at no cost.
pub(crate) struct Chunks<'a> {
    map: Map<'a>,
    cursor: Box<dyn Cursor + 'a>,
    buffers: Buffers,
}

/// What one chunk needs, in the first-level cache.
struct Buffers {
    ids: [u32; CHUNK],
    mask: [f32; CHUNK],
}

impl<'a> Chunks<'a> {
    pub(super) fn new(map: Map<'a>) -> Self {
        let buffers = Buffers { ids: [0; CHUNK], mask: [0.0; CHUNK] };
        Self { map, cursor: map.assignment.cursor(), buffers }
    }

    /// As [`Map::apply`].
    pub(crate) fn apply(
        &mut self,
        scaled_theta: &[f32],
        first_index: u64,
        base: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), ProjectionError> {
        self.map.check_groups("the scaled theta", scaled_theta.len())?;
        ProjectionError::check_length("the base", out.len(), base.map_or(out.len(), <[f32]>::len))?;
        let isa = self.map.isa;
        let mut start = 0;
        for out in out.chunks_mut(CHUNK) {
            let end = start + out.len();
            let (ids, mask) = self.next(first_index.saturating_add(start as u64), out.len())?;
            let base = base.map(|base| &base[start..end]);
            // SAFETY: `next` has checked that ids are below d, which is the length of theta; the lengths of the
            // others are `out.len()` by construction.
            unsafe { kernel::apply(isa, scaled_theta, ids, base, mask, out) };
            start = end;
        }
        Ok(())
    }

    /// As [`Map::reduce`].
    pub(crate) fn reduce(
        &mut self,
        first_index: u64,
        grad: &[f32],
        fixed: &FixedPoint,
        sums: &mut [i64],
    ) -> Result<bool, ProjectionError> {
        self.map.check_groups("the array of sums", sums.len())?;
        let isa = self.map.isa;
        let mut terms = [0_i64; CHUNK];
        let mut overflow = false;
        let mut start = 0;
        for grad in grad.chunks(CHUNK) {
            let (ids, mask) = self.next(first_index.saturating_add(start as u64), grad.len())?;
            let terms = &mut terms[..grad.len()];
            // SAFETY: `next` has checked that ids are below d, which is the length of `sums`; the lengths of the
            // others are `grad.len()` by construction.
            unsafe {
                overflow |= kernel::quantize(isa, grad, mask, fixed, terms);
                kernel::scatter_add(ids, terms, sums);
            }
            start += grad.len();
        }
        Ok(overflow)
    }

    /// The checked ids and the mask of `len` weights from `first_index` on.
    fn next(&mut self, first_index: u64, len: usize) -> Result<(&[u32], Option<&[f32]>), ProjectionError> {
        let Map { assignment, dropout, isa } = self.map;
        let (ids, mask) = (&mut self.buffers.ids[..len], &mut self.buffers.mask[..len]);
        self.cursor.fill(first_index, ids)?;
        let (id, d) = (kernel::max_id(isa, ids), assignment.d());
        if u64::from(id) >= d {
            return Err(PartitionError::IdOutOfRange { start: first_index, id, d }.into());
        }
        let mask = dropout.as_ref().map(|dropout| {
            kernel::fill_mask(isa, dropout, first_index, mask);
            &*mask
        });
        Ok((ids, mask))
    }
}
