//! What the ranks compute on.

use comm::{Choice, Communicator, DataPlane, Wish};
use config::{Comm, Device};
use tch::Device as TorchDevice;
use torch_shim::Numerics;
use trainer::{GpuMemory, TrainError, agree};

use crate::report;

/// What cuBLAS needs to give the same bits every time; read when it starts.
const WORKSPACE: (&str, &str) = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8");

/// Said when GPUs compute.
pub const UNPROVEN: &str = "computing on GPUs has not been run on a real one by its authors yet; `gpart-dist gpu-check` compares \
                            it with the CPU, bit for bit";

/// How much libtorch's profiler logs; by default it calls a host without a GPU an error.
const PROFILER_LOG: (&str, &str) = ("KINETO_LOG_LEVEL", "5");

/// Sets the environment that libtorch's libraries read when they start. To be called first, while there is one thread.
pub fn prepare_environment() {
    for (name, value) in [WORKSPACE, PROFILER_LOG] {
        if std::env::var_os(name).is_none() {
            // SAFETY: no other thread reads or writes the environment yet.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// Collective: what kind of device all ranks compute on. `auto` is a GPU where every rank sees one.
///
/// # Errors
/// GPUs were asked for, and a rank cannot have one.
pub fn settle(wanted: Device, comm: &dyn Communicator) -> Result<Device, TrainError> {
    let load = || torch_shim::load_cuda().map(drop);
    match wanted {
        Device::Cpu => Ok(Device::Cpu),
        Device::Cuda => agree(comm, load().map_err(TrainError::from)).map(|()| Device::Cuda),
        Device::Auto => {
            // The driver first: libtorch's part for CUDA is a gigabyte, and loads on no host without one.
            let has_gpu = !comm::accelerators().gpus.is_empty() && load().is_ok();
            let all = comm.all_gather(&[u8::from(has_gpu)]);
            Ok(if all.iter().all(|has| *has == [1]) { Device::Cuda } else { Device::Cpu })
        }
    }
}

/// Of a GPU's memory, what contexts and workspaces of CUDA's libraries leave, in hundredths.
const USABLE_PERCENT: u64 = 94;

/// The memory of this rank's GPU, where it has one.
pub fn memory(plane: &DataPlane) -> Option<GpuMemory> {
    let own = plane.gpu.as_ref()?;
    Some(GpuMemory { available: usable(own.gpu.memory), ranks: own.ranks as u64 })
}

/// What a rank can use of so many bytes of a GPU.
pub fn usable(memory: u64) -> u64 {
    memory / 100 * USABLE_PERCENT
}

/// How ranks compute and talk.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// What all compute on, as [`settle`] says.
    pub device: Device,
    /// What carries messages.
    pub comm: Comm,
    /// Several ranks may have one GPU.
    pub share_gpu: bool,
    /// How a GPU computes.
    pub numerics: Numerics,
}

/// Collective: this rank's device, and what carries the ranks' vectors.
///
/// # Errors
/// Ranks cannot each have a GPU; NCCL was asked for and cannot be.
pub fn take(wanted: Wanted, comm: &dyn Communicator) -> Result<(TorchDevice, DataPlane), TrainError> {
    let choice = match wanted.comm {
        Comm::Auto => Choice::Auto,
        Comm::Mpi => Choice::Mpi,
        Comm::Nccl => Choice::Nccl,
    };
    let computes_on_gpu = wanted.device == Device::Cuda;
    let wish = Wish { choice, computes_on_gpu, share_gpu: wanted.share_gpu };
    let plane = agree(comm, comm::data_plane(wish, comm, report::ALARM).map_err(TrainError::from))?;
    torch_shim::set_numerics(wanted.numerics);
    let device = match &plane.gpu {
        Some(own) if computes_on_gpu => TorchDevice::Cuda(own.number),
        _ => TorchDevice::Cpu,
    };
    report::computes_on(device);
    Ok((device, plane))
}
