use miette::Diagnostic;
use partition::PartitionError;
use thiserror::Error;

use crate::ProjectionError;

/// What can go wrong with a CUDA device.
#[derive(Debug, Error, Diagnostic)]
pub enum CudaError {
    /// A library or a device is not there.
    #[error("{what}")]
    #[diagnostic(code(run::cuda_missing), help("{hint}"))]
    Missing {
        /// What, and where it was looked for.
        what: String,
        /// Where it comes from.
        hint: String,
    },
    /// NVRTC does not compile the kernels.
    #[error("NVRTC {nvrtc} does not compile the kernels for {architecture}: {log}")]
    #[diagnostic(
        code(run::cuda_compile),
        help(
            "`pip install nvidia-cuda-nvrtc==13.0.*` brings an NVRTC that does; please report it if yours is that"
        )
    )]
    Compile {
        /// Its version.
        nvrtc: String,
        /// What for, as `sm_90`.
        architecture: String,
        /// What it says.
        log: String,
    },
    /// The driver does not take the compiled kernels.
    #[error(
        "the GPU driver (CUDA {driver}) does not take kernels that NVRTC {nvrtc} compiled for {architecture}: {why}"
    )]
    #[diagnostic(
        code(run::cuda_image),
        help(
            "a driver must serve NVRTC's CUDA or a later one: update the driver (580 or later for CUDA 13.0), or install nvidia-cuda-nvrtc {driver}"
        )
    )]
    Image {
        /// The newest CUDA that the driver serves.
        driver: String,
        /// NVRTC's version.
        nvrtc: String,
        /// What for.
        architecture: String,
        /// The driver's words.
        why: String,
    },
    /// A call of the driver failed.
    #[error("GPU {device}: {doing}: {why}")]
    #[diagnostic(
        code(run::cuda),
        help(
            "work on a GPU fails late: CUDA_LAUNCH_BLOCKING=1 shows the call that is to blame, and `nvidia-smi` what is wrong with the GPU"
        )
    )]
    Driver {
        /// The device's number.
        device: usize,
        /// What was to be done.
        doing: String,
        /// The driver's words.
        why: String,
    },
    /// The device's memory does not suffice.
    #[error("GPU {device}: no {bytes} bytes of memory for {what}")]
    #[diagnostic(code(run::cuda_memory), help("{hint}"))]
    Memory {
        /// The device's number.
        device: usize,
        /// How much was asked for.
        bytes: usize,
        /// What for.
        what: &'static str,
        /// How to need less.
        hint: &'static str,
    },
    /// Weights that no stored group belongs to.
    #[error("the weights from {first_index} on, {numel} of them, are outside of the partition on the device")]
    #[diagnostic(code(run::cuda_range), help("this is a defect of the calling program; please report it"))]
    Range {
        /// The first weight's global index.
        first_index: u64,
        /// How many.
        numel: u64,
    },
    /// A combination that no kernel is made for.
    #[error("no kernel adds the update to frozen weights in {element}, only in f32")]
    #[diagnostic(code(run::cuda_base), help("this is a defect of the calling program; please report it"))]
    Base {
        /// The format.
        element: &'static str,
    },
    /// Lengths or the dropout rate.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Projection(#[from] ProjectionError),
    /// The partition.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Partition(#[from] PartitionError),
}
