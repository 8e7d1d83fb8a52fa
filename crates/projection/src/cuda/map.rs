use std::ops::Range;
use std::sync::Arc;

use partition::Assignment;

use super::CudaError;
use super::device::{Buffer, Device};
use super::groups::{DevicePartition, Piece};
use super::launch::{ApplyParameters, Element, Format, Kernel, Mask, Parameters, ReduceParameters, Shape};
use crate::{Dropout, FixedPoint, ProjectionError};

/// A run of weights on the device to be written: out = base + ΔW in f32, or ΔW alone in any format.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWeights {
    /// Global index of the first weight.
    pub first_index: u64,
    /// How many.
    pub numel: u64,
    /// Address of the frozen weights in f32.
    pub base: Option<u64>,
    /// Address that the result goes to; it may be that of `base`.
    pub out: u64,
    /// The format of the result.
    pub element: Element,
}

/// A run of gradients of weights on the device, dL/dW.
#[derive(Debug, Clone, Copy)]
pub struct DeviceGrads {
    /// Global index of the first weight.
    pub first_index: u64,
    /// How many.
    pub numel: u64,
    /// Address of the gradients.
    pub grad: u64,
    /// Their format.
    pub element: Element,
    /// How many times too large they are, a power of two; they are divided by it in f32 before anything else.
    pub lift: f32,
}

/// The linear map θ → ΔW and the sums of its adjoint, on a device: what [`crate::Map`] and [`crate::Reducer`] are on
/// the CPU, with the same bits.
///
/// It holds 4·d bytes of s·θ and 8·(d + 1) of sums, and 4 bytes for each of its weights where groups are not hashed.
pub struct DeviceMap {
    device: Arc<dyn Device>,
    partition: DevicePartition,
    d: u64,
    theta: Buffer,
    /// d sums, then the flag.
    sums: Buffer,
}

impl DeviceMap {
    /// The map of a partition; where its groups have to be stored on the device, of the weights `indices` alone. θ is
    /// zero until [`DeviceMap::upload_theta`].
    ///
    /// # Errors
    /// When memory does not suffice, d is above 2^32, or the partition refuses the range.
    pub fn new(
        device: Arc<dyn Device>,
        assignment: &dyn Assignment,
        indices: Range<u64>,
    ) -> Result<Self, CudaError> {
        let d = assignment.d();
        let partition = DevicePartition::new(&device, assignment, indices)?;
        let mut theta = Buffer::new(&device, d, 4, "the scaled theta")?;
        let mut sums = Buffer::new(&device, d + 1, 8, "the sums of groups")?;
        theta.clear()?;
        sums.clear()?;
        Ok(Self { device, partition, d, theta, sums })
    }

    /// The number of groups.
    pub fn d(&self) -> u64 {
        self.d
    }

    /// Replaces s·θ (see [`crate::scale_theta`]) for all applies to come.
    ///
    /// # Errors
    /// When there are not d numbers; the driver's.
    pub fn upload_theta(&mut self, scaled_theta: &[f32]) -> Result<(), CudaError> {
        ProjectionError::check_length("the scaled theta", self.d as usize, scaled_theta.len())?;
        self.theta.upload(0, bytemuck::cast_slice(scaled_theta))
    }

    /// Starts writing base + ΔW, or ΔW alone, of several runs; returns before it is done.
    ///
    /// In f32 the bits are those of [`crate::Map::apply`]; in the others, of its result rounded half to even.
    ///
    /// # Safety
    /// Each `out` and `base` is an address in the device's memory with room for `numel` numbers, a multiple of a
    /// number's size, which stays so until the work is over; work that reads `out` comes later in the device's order.
    ///
    /// # Errors
    /// When a run is outside of the partition, or has a base in another format than f32; the driver's.
    pub unsafe fn apply(&self, dropout: Option<Dropout>, runs: &[DeviceWeights]) -> Result<(), CudaError> {
        for run in runs {
            if run.base.is_some() && run.element != Element::F32 {
                return Err(CudaError::Base { element: run.element.name() });
            }
            for piece in self.partition.pieces(run.first_index, run.numel)? {
                let kernel = Kernel::Apply {
                    source: piece.groups.source(),
                    masked: dropout.is_some(),
                    base: run.base.is_some(),
                    out: run.element,
                };
                let parameters = ApplyParameters {
                    groups: piece.groups,
                    mask: mask(dropout, run.first_index, &piece),
                    numel: piece.numel,
                    theta: self.theta.address() + 4 * piece.first_group,
                    base: run.base.map_or(0, |base| base + 4 * piece.offset),
                    out: run.out + run.element.size() * piece.offset,
                };
                let shape = Shape::plain(&self.device.limits(), piece.numel);
                // SAFETY: the caller's promise for `out` and `base`, of which this is a part; θ has d numbers, of
                // which a piece uses those from its first group on.
                unsafe { self.device.launch(kernel, shape, &Parameters::Apply(parameters))? };
            }
        }
        Ok(())
    }

    /// Starts adding round-half-even(dL/dW_i / lift · m_i · 2^e) to the sums; returns before it is done. What is out of
    /// range or not finite is left out, and [`DeviceMap::finish_step`] tells.
    ///
    /// # Safety
    /// Each `grad` is an address in the device's memory with `numel` numbers, a multiple of a number's size, which stay
    /// as they are until the work is over.
    ///
    /// # Errors
    /// When a run is outside of the partition; the driver's. The sums are then left part-way:
    /// [`DeviceMap::reset`] clears them.
    pub unsafe fn reduce(
        &mut self,
        dropout: Option<Dropout>,
        runs: &[DeviceGrads],
        fixed: &FixedPoint,
    ) -> Result<(), CudaError> {
        for run in runs {
            for piece in self.partition.pieces(run.first_index, run.numel)? {
                let (sums, shape, copies) = Shape::sums(&self.device.limits(), piece.groups.d(), piece.numel);
                let (source, masked) = (piece.groups.source(), dropout.is_some());
                let kernel = Kernel::Reduce { source, masked, grad: run.element, sums };
                let parameters = ReduceParameters {
                    groups: piece.groups,
                    mask: mask(dropout, run.first_index, &piece),
                    numel: piece.numel,
                    grad: run.grad + run.element.size() * piece.offset,
                    sums: self.sums.address() + 8 * piece.first_group,
                    flag: self.sums.address() + 8 * self.d,
                    factor: 1.0 / run.lift,
                    format: Format::new(fixed),
                    copies,
                };
                // SAFETY: the caller's promise for `grad`, of which this is a part; there are d sums and the flag
                // behind them, and the shape is made for these groups and copies.
                unsafe { self.device.launch(kernel, shape, &Parameters::Reduce(parameters))? };
            }
        }
        Ok(())
    }

    /// Waits for all work, writes the totals of the step to `sums` (length d), and starts the next step from zero.
    ///
    /// Returns whether any term of the step was out of range or not finite.
    ///
    /// # Errors
    /// When `sums` has not d entries; the driver's, also those of work that was started earlier.
    pub fn finish_step(&mut self, sums: &mut [i64]) -> Result<bool, CudaError> {
        ProjectionError::check_length("the array of sums", self.d as usize, sums.len())?;
        self.sums.download(bytemuck::cast_slice_mut(sums))?;
        let mut flag = [0_u8; 8];
        // SAFETY: the flag's place behind the d sums.
        unsafe { self.device.download(self.sums.address() + 8 * self.d, &mut flag)? };
        self.reset()?;
        Ok(u64::from_le_bytes(flag) != 0)
    }

    /// Forgets the sums of a step.
    ///
    /// # Errors
    /// The driver's.
    pub fn reset(&mut self) -> Result<(), CudaError> {
        self.sums.clear()
    }

    /// Waits until all work is over.
    ///
    /// # Errors
    /// The driver's, also those of work that was started earlier.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.device.synchronize()
    }

    /// The number of weights of a run in every group: [`partition::count`] on the device. The sums of the step in the
    /// making are not touched.
    ///
    /// # Errors
    /// When the run is outside of the partition, or memory does not suffice; the driver's.
    pub fn count(&self, indices: Range<u64>) -> Result<Vec<u64>, CudaError> {
        let mut counts = Buffer::new(&self.device, self.d, 8, "the sizes of groups")?;
        counts.clear()?;
        self.count_into(&counts, indices)?;
        let mut found = vec![0_u64; self.d as usize];
        counts.download(bytemuck::cast_slice_mut(&mut found))?;
        Ok(found)
    }

    /// Starts adding the sizes of groups to d numbers in `counts`.
    pub(super) fn count_into(&self, counts: &Buffer, indices: Range<u64>) -> Result<(), CudaError> {
        let numel = indices.end.saturating_sub(indices.start);
        for piece in self.partition.pieces(indices.start, numel)? {
            let (sums, shape, copies) = Shape::sums(&self.device.limits(), piece.groups.d(), piece.numel);
            let kernel = Kernel::Count { source: piece.groups.source(), sums };
            let parameters = ReduceParameters {
                groups: piece.groups,
                numel: piece.numel,
                sums: counts.address() + 8 * piece.first_group,
                copies,
                ..ReduceParameters::default()
            };
            // SAFETY: the buffer has d numbers; gradients and flag are not read.
            unsafe { self.device.launch(kernel, shape, &Parameters::Reduce(parameters))? };
        }
        Ok(())
    }
}

/// The mask of a piece of the run that starts at `first_index`.
fn mask(dropout: Option<Dropout>, first_index: u64, piece: &Piece) -> Mask {
    dropout.map(|dropout| Mask::new(&dropout, first_index + piece.offset)).unwrap_or_default()
}
