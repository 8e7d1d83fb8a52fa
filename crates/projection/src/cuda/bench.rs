use std::sync::Arc;

use partition::Assignment;

use super::device::Buffer;
use super::{CudaError, CudaKernels, Device, DeviceGrads, DeviceMap, DeviceWeights, Element};
use crate::{Dropout, FixedPoint};

/// Repetitions that are measured, after one that is not.
const REPEATS: u32 = 10;

/// How long an operation takes on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Which, such as `apply bf16`.
    pub operation: &'static str,
    /// Milliseconds, the mean of ten.
    pub milliseconds: f32,
    /// Weights that it worked on.
    pub numel: u64,
    /// Bytes of weights or gradients that it read and wrote: not θ, not the sums.
    pub bytes: u64,
    /// Milliseconds that a copy within the device takes which reads and writes as many bytes; 0 where there are none.
    pub copy_milliseconds: f32,
}

/// Measures count, apply and reduce on the first `numel` weights of a partition, as the device's own events time them,
/// each beside a copy of the same bytes. It takes 8 bytes of device memory a weight.
///
/// # Errors
/// When memory does not suffice; the driver's.
pub fn bench(
    kernels: &Arc<CudaKernels>,
    assignment: &dyn Assignment,
    numel: u64,
) -> Result<Vec<Timing>, CudaError> {
    let device: Arc<dyn Device> = kernels.clone();
    let map = DeviceMap::new(Arc::clone(&device), assignment, 0..numel)?;
    let arrays = Arrays::new(&device, numel)?;
    let mut bench = Bench { kernels, map, arrays, numel, timings: Vec::new() };
    bench.run(&device)?;
    Ok(bench.timings)
}

/// Two arrays of the weights' length in f32.
struct Arrays {
    read: Buffer,
    written: Buffer,
}

impl Arrays {
    fn new(device: &Arc<dyn Device>, numel: u64) -> Result<Self, CudaError> {
        let mut read = Buffer::new(device, numel, 4, "weights of the benchmark")?;
        let mut written = Buffer::new(device, numel, 4, "results of the benchmark")?;
        // Zeros would add nothing to the sums; as numbers these bytes are small.
        let pattern = [0x11_u8; 1 << 16];
        let bytes = numel as usize * 4;
        for offset in (0..bytes).step_by(pattern.len()) {
            read.upload(offset, &pattern[..pattern.len().min(bytes - offset)])?;
        }
        written.clear()?;
        Ok(Self { read, written })
    }
}

struct Bench<'a> {
    kernels: &'a CudaKernels,
    map: DeviceMap,
    arrays: Arrays,
    numel: u64,
    timings: Vec<Timing>,
}

impl Bench<'_> {
    fn run(&mut self, device: &Arc<dyn Device>) -> Result<(), CudaError> {
        let counts = Buffer::new(device, self.map.d(), 8, "the sizes of groups")?;
        let numel = self.numel;
        self.measure("count", 0, |bench| bench.map.count_into(&counts, 0..numel))?;
        let dropout = Dropout::new(0.05, 1, 2, 3)?;
        let (read, out) = (self.arrays.read.address(), self.arrays.written.address());
        for (operation, element, base, dropout) in [
            ("apply f32 with base", Element::F32, Some(read), None),
            ("apply f32", Element::F32, None, None),
            ("apply bf16", Element::Bf16, None, None),
            ("apply bf16 with dropout", Element::Bf16, None, dropout),
        ] {
            let run = DeviceWeights { first_index: 0, numel, base, out, element };
            let bytes = element.size() + if base.is_some() { 4 } else { 0 };
            // SAFETY: both arrays have `numel` numbers of 4 bytes.
            self.measure(operation, bytes, |bench| unsafe { bench.map.apply(dropout, &[run]) })?;
        }
        let fixed = FixedPoint::new(numel, 1);
        for (operation, element, dropout) in [
            ("reduce f32", Element::F32, None),
            ("reduce bf16", Element::Bf16, None),
            ("reduce bf16 with dropout", Element::Bf16, dropout),
        ] {
            let run = DeviceGrads { first_index: 0, numel, grad: read, element, lift: 1.0 };
            // SAFETY: as above.
            self.measure(operation, element.size(), |bench| unsafe {
                bench.map.reduce(dropout, &[run], &fixed)
            })?;
        }
        Ok(())
    }

    /// Times an operation that reads and writes `bytes` a weight.
    fn measure(
        &mut self,
        operation: &'static str,
        bytes: u64,
        mut work: impl FnMut(&mut Self) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let kernels = self.kernels;
        let mean = |bench: &mut Self, work: &mut dyn FnMut(&mut Self) -> Result<(), CudaError>| {
            work(bench)?;
            let milliseconds = kernels.time(|| (0..REPEATS).try_for_each(|_| work(bench)))?;
            Ok::<f32, CudaError>(milliseconds / REPEATS as f32)
        };
        let milliseconds = mean(self, &mut work)?;
        let bytes = bytes * self.numel;
        let half = (bytes / 2) as usize;
        let copy_milliseconds = if half == 0 {
            0.0
        } else {
            mean(self, &mut |bench| {
                let (from, to) = (bench.arrays.read.address(), bench.arrays.written.address());
                // SAFETY: both have at least so many bytes: 4 a weight, and half of 8 at most are copied.
                unsafe { kernels.copy(from, to, half) }
            })?
        };
        self.timings.push(Timing { operation, milliseconds, numel: self.numel, bytes, copy_milliseconds });
        Ok(())
    }
}
