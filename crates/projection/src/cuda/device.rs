//! What kernels run on, and memory there.

use std::sync::Arc;

use super::CudaError;
use super::launch::{Kernel, Parameters, Shape};

/// What limits a launch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many there are.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block can have.
    pub shared_per_block: u64,
    /// Bytes of shared memory that blocks of a multiprocessor have among them.
    pub shared_per_multiprocessor: u64,
    /// Threads of a block, at least 16.
    pub threads: u32,
}

/// What kernels run on. All work is in one order, that of the calls.
pub trait Device: Send + Sync {
    /// What limits launches.
    fn limits(&self) -> Limits;

    /// Takes memory; the address is a multiple of 256.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn allocate(&self, bytes: usize, what: &'static str) -> Result<u64, CudaError>;

    /// Gives memory back.
    ///
    /// # Safety
    /// The address comes from [`Device::allocate`], is given back once, and no work that uses it comes later.
    unsafe fn free(&self, address: u64);

    /// Copies to the device; the bytes may change when the call has returned.
    ///
    /// # Safety
    /// At `address` there are as many bytes on the device.
    ///
    /// # Errors
    /// The driver's, also those of work before.
    unsafe fn upload(&self, bytes: &[u8], address: u64) -> Result<(), CudaError>;

    /// Copies from the device, when the work before is over.
    ///
    /// # Safety
    /// As for [`Device::upload`].
    ///
    /// # Errors
    /// As for [`Device::upload`].
    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Clears memory.
    ///
    /// # Safety
    /// As for [`Device::upload`].
    ///
    /// # Errors
    /// As for [`Device::upload`].
    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError>;

    /// Starts a kernel.
    ///
    /// # Safety
    /// The parameters are the kernel's kind, and every address in them has what the kernel reads or writes there until
    /// this work is over: `numel` numbers at `base`, `out`, `grad` and the stored groups, aligned to their size; at
    /// `theta` and `sums` as many as the modulus has groups, above every stored one; a u32 at `flag`; and the shape's
    /// shared memory holds 8 bytes for each of 2^copies sums a group.
    ///
    /// # Errors
    /// As for [`Device::upload`].
    unsafe fn launch(&self, kernel: Kernel, shape: Shape, parameters: &Parameters) -> Result<(), CudaError>;

    /// Waits until all work is over.
    ///
    /// # Errors
    /// As for [`Device::upload`].
    fn synchronize(&self) -> Result<(), CudaError>;
}

/// Memory of a device that is ours.
pub struct Buffer {
    device: Arc<dyn Device>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// Takes `numel` elements of `size` bytes.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn new(
        device: &Arc<dyn Device>,
        numel: u64,
        size: u64,
        what: &'static str,
    ) -> Result<Self, CudaError> {
        let bytes = usize::try_from(numel.saturating_mul(size)).unwrap_or(usize::MAX).max(1);
        let address = device.allocate(bytes, what)?;
        Ok(Self { device: Arc::clone(device), address, bytes })
    }

    /// Where it is on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Writes `bytes` from the byte `offset` on.
    ///
    /// # Errors
    /// As [`Device::upload`].
    ///
    /// # Panics
    /// When they do not fit.
    pub fn upload(&mut self, offset: usize, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(offset <= self.bytes && bytes.len() <= self.bytes - offset, "an upload fits its buffer");
        // SAFETY: the range lies in the buffer, as was checked.
        unsafe { self.device.upload(bytes, self.address + offset as u64) }
    }

    /// Reads the first bytes.
    ///
    /// # Errors
    /// As [`Device::download`].
    ///
    /// # Panics
    /// When there are not so many.
    pub fn download(&self, bytes: &mut [u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= self.bytes, "a download fits its buffer");
        // SAFETY: the range lies in the buffer, as was checked.
        unsafe { self.device.download(self.address, bytes) }
    }

    /// Clears it.
    ///
    /// # Errors
    /// As [`Device::clear`].
    pub fn clear(&mut self) -> Result<(), CudaError> {
        // SAFETY: all of the buffer.
        unsafe { self.device.clear(self.address, self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: taken by `new`, given back once; work in flight comes before, as all work is in one order.
        unsafe { self.device.free(self.address) };
    }
}
