use std::ops::Range;
use std::sync::Arc;

use partition::{Assignment, HashedRange, PartitionError, Stateless};

use super::CudaError;
use super::device::{Buffer, Device};
use super::launch::Groups;

/// Ids that are uploaded at a time.
const UPLOAD: usize = 1 << 20;

/// A partition as the device has it.
pub(super) enum DevicePartition {
    /// Nothing on the device: each range's seed goes with the launch.
    Hashed(Vec<HashedRange>),
    /// The group of every weight of a run, 4 bytes each.
    Stored { d: u64, first_index: u64, numel: u64, ids: Buffer },
}

/// A part of a run of weights, within one range of the partition.
pub(super) struct Piece {
    /// Weights of the run before it.
    pub(super) offset: u64,
    pub(super) numel: u64,
    pub(super) first_group: u64,
    pub(super) groups: Groups,
}

impl DevicePartition {
    /// Of the weights `indices`, where groups have to be stored; else of all.
    pub(super) fn new(
        device: &Arc<dyn Device>,
        assignment: &dyn Assignment,
        indices: Range<u64>,
    ) -> Result<Self, CudaError> {
        let d = assignment.d();
        if d == 0 || d > 1 << 32 {
            return Err(PartitionError::TooManyGroups { d }.into());
        }
        match assignment.hashed() {
            Some(ranges) => Ok(Self::Hashed(ranges)),
            None => Self::store(device, assignment, indices),
        }
    }

    fn store(
        device: &Arc<dyn Device>,
        assignment: &dyn Assignment,
        indices: Range<u64>,
    ) -> Result<Self, CudaError> {
        let (d, first_index) = (assignment.d(), indices.start);
        let numel = indices.end.saturating_sub(first_index);
        let mut ids = Buffer::new(device, numel, 4, "the stored groups of the partition")?;
        let mut cursor = assignment.cursor();
        let mut chunk = vec![0_u32; numel.min(UPLOAD as u64) as usize];
        let mut done = 0;
        while done < numel {
            let chunk = &mut chunk[..(numel - done).min(UPLOAD as u64) as usize];
            let start = first_index + done;
            cursor.fill(start, chunk)?;
            // The kernels read θ and add to sums where an id says.
            if let Some(&id) = chunk.iter().find(|id| u64::from(**id) >= d) {
                return Err(PartitionError::IdOutOfRange { start, id, d }.into());
            }
            ids.upload(done as usize * 4, bytemuck::cast_slice(chunk))?;
            done += chunk.len() as u64;
        }
        Ok(Self::Stored { d, first_index, numel, ids })
    }

    /// A run of weights, cut where ranges end.
    pub(super) fn pieces(&self, first_index: u64, numel: u64) -> Result<Vec<Piece>, CudaError> {
        let refused = || CudaError::Range { first_index, numel };
        let end = first_index.checked_add(numel).ok_or_else(refused)?;
        if numel == 0 {
            return Ok(Vec::new());
        }
        match self {
            Self::Stored { d, first_index: start, numel: held, ids } => {
                let skipped = first_index.checked_sub(*start).ok_or_else(refused)?;
                if skipped.checked_add(numel).is_none_or(|end| end > *held) {
                    return Err(refused());
                }
                let groups = Groups::stored(*d, ids.address() + 4 * skipped);
                Ok(vec![Piece { offset: 0, numel, first_group: 0, groups }])
            }
            Self::Hashed(ranges) => {
                let mut pieces = Vec::new();
                let mut index = first_index;
                let first = ranges.partition_point(|range| range.first_index + range.numel <= index);
                for range in &ranges[first..] {
                    if index >= end {
                        break;
                    }
                    let numel = end.min(range.first_index + range.numel) - index;
                    let hash = Stateless::new(range.seed, range.d)?;
                    let groups = Groups::hashed(&hash, index - range.first_index);
                    let offset = index - first_index;
                    pieces.push(Piece { offset, numel, first_group: range.first_group, groups });
                    index += numel;
                }
                if index == end { Ok(pieces) } else { Err(refused()) }
            }
        }
    }
}
