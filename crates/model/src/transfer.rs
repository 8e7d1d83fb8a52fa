//! Small tensors on their way from the host to a device.

use tch::{Device, Tensor};

/// A host tensor's copy on `device`, without waiting for what the device has to do: through page-locked memory, which
/// libtorch keeps until the copy is done. On the CPU the tensor itself.
pub fn to_device(tensor: &Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => tensor.shallow_clone(),
        _ => match torch_shim::pinned(tensor) {
            Ok(pinned) => pinned.to_device_(device, tensor.kind(), true, false),
            // A copy that waits does as well.
            Err(_) => tensor.to_device(device),
        },
    }
}
