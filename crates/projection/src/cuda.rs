//! The two hot loops on a CUDA device: the same bits as on the CPU (apply in f32, reduce always).
//!
//! A [`DeviceMap`] is [`crate::Map`] and [`crate::Reducer`] in one: it keeps s·θ and the sums on the device, and works
//! on weights and gradients that are there, by address. What it runs on is a [`Device`]: [`CudaKernels`] on a GPU
//! (feature `cuda`), or in tests this process, which runs the same C++ source and shows that what is launched is right
//! wherever there is no GPU.
//!
//! The kernels are compiled by NVRTC when a program starts, for the GPU that is there, and kept by the caller's
//! [`ImageCache`].

#[cfg(feature = "cuda")]
mod bench;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod error;
mod groups;
mod image;
mod launch;
mod map;
#[cfg(feature = "cuda")]
mod nvrtc;

#[cfg(feature = "cuda")]
pub use bench::{Timing, bench};
pub use device::{Buffer, Device, Limits};
#[cfg(feature = "cuda")]
pub use driver::CudaKernels;
pub use error::CudaError;
pub use image::{ImageCache, ImageKey, NoCache};
pub use launch::{
    ApplyParameters, Element, Format, Groups, Kernel, Mask, Modulus, PLAIN_THREADS, Parameters,
    ReduceParameters, SHARED_THREADS, Shape, Source, Sums,
};
pub use map::{DeviceGrads, DeviceMap, DeviceWeights};
#[cfg(feature = "cuda")]
pub use nvrtc::Nvrtc;
