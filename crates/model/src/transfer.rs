//! Tensors on their way from the host to a device.

use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Device, Kind, Tensor, no_grad};

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

/// Bytes of copies that may be under way.
const MOST_UNDER_WAY: usize = 256 << 20;
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Starts copying numbers of dtype `stored` into `target` (`[N]`, on a device), converted to its dtype there.
///
/// While the device copies, the caller goes on with the next numbers. libtorch hands page-locked memory out again when its
/// copy is done; after [`MOST_UNDER_WAY`] bytes this waits, so that a device slower than the disk has no more of it pile up.
///
/// # Errors
/// There is no page-locked memory, or the copy could not be started.
pub(crate) fn upload(stored_bytes: &[u8], stored: Kind, target: &Tensor) -> Result<(), String> {
    let before = UNDER_WAY.fetch_add(stored_bytes.len(), Ordering::Relaxed);
    if let Device::Cuda(number) = target.device()
        && before + stored_bytes.len() > MOST_UNDER_WAY
    {
        tch::Cuda::synchronize(number as i64);
        UNDER_WAY.store(stored_bytes.len(), Ordering::Relaxed);
    }
    let pinned = torch_shim::pinned_bytes(stored_bytes.len())?;
    assert!(pinned.device() == Device::Cpu && pinned.numel() == stored_bytes.len() && pinned.is_contiguous());
    // SAFETY: a contiguous host tensor of so many bytes that nobody else holds, and no copy from it is under way: libtorch
    // has just handed it out.
    let into = unsafe { std::slice::from_raw_parts_mut(pinned.data_ptr().cast::<u8>(), stored_bytes.len()) };
    copy(stored_bytes, into);
    let numbers = pinned.f_view_dtype(stored).map_err(|error| error.to_string())?;
    no_grad(|| match stored == target.kind() {
        true => torch_shim::copy_in_order(target, &numbers),
        // Converted by the device: from the host a copy between dtypes would wait.
        false => {
            let there = numbers.f_to_device_(target.device(), stored, true, false);
            torch_shim::copy_in_order(target, &there.map_err(|error| error.to_string())?)
        }
    })
}

/// Copies by several threads: the pages of a mapped file are read as they are touched, and a disk wants several wishes.
fn copy(from: &[u8], into: &mut [u8]) {
    const THREADS: usize = 4;
    const LEAST: usize = 1 << 20;
    let part = from.len().div_ceil(THREADS).max(LEAST);
    std::thread::scope(|scope| {
        for (from, into) in from.chunks(part).zip(into.chunks_mut(part)) {
            scope.spawn(move || into.copy_from_slice(from));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole() {
        for length in [0, 1, (1 << 20) + 1, (5 << 20) + 3] {
            let from: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut into = vec![255; length];
            copy(&from, &mut into);
            assert_eq!(from, into);
        }
    }

    #[test]
    fn without_a_device_there_is_no_upload() {
        if !tch::Cuda::is_available() {
            let target = Tensor::zeros([2], (Kind::Float, Device::Cpu));
            assert!(upload(&[0; 8], Kind::Float, &target).is_err());
        }
    }
}
