//! The kernels of a rank's GPU, compiled when a run starts and kept on disk.

use std::ops::Range;
use std::path::Path;

use partition::Assignment;
use projection::cuda::DeviceMap;
use tch::Device;

use crate::TrainError;

/// The map θ → ΔW on a GPU, over the weights `indices`; none on the CPU. Compiled kernels are kept in `cache`.
///
/// # Errors
/// The driver or NVRTC is missing or does not fit; there is no memory on the GPU for what is to be there.
#[cfg(feature = "cuda")]
pub fn device_map(
    device: Device,
    partition: &dyn Assignment,
    indices: Range<u64>,
    cache: Option<&Path>,
) -> Result<Option<DeviceMap>, TrainError> {
    use projection::cuda::{CudaKernels, ImageCache, NoCache};
    let Device::Cuda(number) = device else { return Ok(None) };
    let images: Box<dyn ImageCache> = match cache {
        Some(folder) => Box::new(crate::ImageFolder::new(folder)),
        None => Box::new(NoCache),
    };
    let kernels = CudaKernels::new(number, &crate::nvrtc_folders(), images.as_ref())?;
    Ok(Some(DeviceMap::new(kernels, partition, indices)?))
}

/// Without kernels ΔW is made on the CPU and sent.
#[cfg(not(feature = "cuda"))]
pub fn device_map(
    _device: Device,
    _partition: &dyn Assignment,
    _indices: Range<u64>,
    _cache: Option<&Path>,
) -> Result<Option<DeviceMap>, TrainError> {
    Ok(None)
}
