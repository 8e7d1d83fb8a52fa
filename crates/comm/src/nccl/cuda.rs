//! The CUDA driver: what there is, and the little that messages need of it.

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use crate::{Gpu, Missing};

/// What the driver has: the newest CUDA it serves, and its devices in the order of their numbers.
pub(crate) type Found = ((u32, u32), Vec<Gpu>);

/// Starts the driver and asks it.
///
/// # Errors
/// No driver, no device, or a driver that does not start.
pub(crate) fn probe() -> Result<Found, Missing> {
    // SAFETY: loading the driver runs its initialisers, which is what it is made for.
    if !unsafe { sys::is_culib_present() } {
        return Err(Missing {
            what: "the GPU driver's library libcuda.so.1 was not found (looked in LD_LIBRARY_PATH and the system's folders)"
                .to_owned(),
            hint: "on a host with NVIDIA GPUs install the driver (580 or later for CUDA 13.0); in a container start it with --gpus all"
                .to_owned(),
        });
    }
    result::init().map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Missing {
            what: "the GPU driver is there, but no GPU is".to_owned(),
            hint: "`nvidia-smi -L` lists what the driver sees; CUDA_VISIBLE_DEVICES may hide it".to_owned(),
        },
        _ => Missing {
            what: format!("the GPU driver does not start: {}", words(error)),
            hint: "`nvidia-smi` says more; after an update of the driver restart the host".to_owned(),
        },
    })?;
    devices().map_err(|error| Missing {
        what: format!("the GPU driver does not tell its devices: {}", words(error)),
        hint: "`nvidia-smi` says more".to_owned(),
    })
}

fn devices() -> Result<Found, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let mut version = 0;
    // SAFETY: a place for the answer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let gpu = |number| {
        let device = result::device::get(number)?;
        // SAFETY: the device comes from the driver.
        let (memory, major, minor) = unsafe {
            (
                result::device::total_mem(device)?,
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            )
        };
        Ok(Gpu {
            uuid: uuid(result::device::get_uuid(device)?),
            name: result::device::get_name(device)?,
            memory: memory as u64,
            capability: (major as u32, minor as u32),
        })
    };
    let gpus = (0..result::device::get_count()?).map(gpu).collect::<Result<Vec<Gpu>, DriverError>>()?;
    Ok(((version as u32 / 1000, version as u32 % 1000 / 10), gpus))
}

fn uuid(uuid: sys::CUuuid) -> String {
    let digits: String = uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    format!("GPU-{}", groups.join("-"))
}

/// What the driver calls an error.
pub(super) fn words(error: DriverError) -> String {
    let text = error.error_string().map(CStr::to_string_lossy);
    text.map_or_else(|_| format!("error {}", error.0 as u32), |text| text.into_owned())
}

/// The device that a rank computes on; its context is the one that other libraries of the process use.
pub(super) struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a number, and a handle that the driver takes on any thread.
unsafe impl Send for Device {}
// SAFETY: as above; calls of the driver do not disturb each other.
unsafe impl Sync for Device {}

impl Device {
    /// Takes up the device of this number, and makes it the calling thread's.
    pub(super) fn take(number: usize) -> Result<Arc<Self>, String> {
        let take = || {
            result::init()?;
            let device = result::device::get(number as i32)?;
            // SAFETY: the device comes from the driver, and the context from the device.
            let context = unsafe { result::primary_ctx::retain(device)? };
            let taken = Arc::new(Self { device, context });
            // SAFETY: as above.
            unsafe { result::ctx::set_current(context)? };
            Ok(taken)
        };
        take().map_err(|error| format!("GPU {number} cannot be taken: {}", words(error)))
    }

    /// Does `work` in the device's context, whatever the thread's own is. The default stream is one of a context, so it
    /// is this device's.
    fn within<T>(&self, work: impl FnOnce() -> Result<T, DriverError>) -> Result<T, DriverError> {
        // SAFETY: the context is retained as long as `self`.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }.result()?;
        let done = work();
        let mut own = std::ptr::null_mut();
        // SAFETY: what was pushed above; a place for it.
        unsafe { sys::cuCtxPopCurrent_v2(&mut own) }.result()?;
        done
    }

    /// Marks what the calling thread has put on the default stream so far.
    pub(super) fn mark_default_stream(self: &Arc<Self>) -> Result<Event, String> {
        let event = Event::new(self)?;
        // SAFETY: the event is alive, and of this context.
        self.within(|| unsafe { result::event::record(event.event, DEFAULT_STREAM) })
            .map_err(|error| format!("cannot mark the GPU's work: {}", words(error)))?;
        Ok(event)
    }

    /// Copies `length` bytes in the order of the default stream.
    pub(super) fn copy_on_default_stream(&self, from: usize, to: usize, length: usize) -> Result<(), String> {
        let (to, from) = (to as sys::CUdeviceptr, from as sys::CUdeviceptr);
        // SAFETY: the caller says that both sides are memory of this device, of that length.
        self.within(|| unsafe { result::memcpy_dtod_async(to, from, length, DEFAULT_STREAM) })
            .map_err(|error| format!("cannot copy on the GPU: {}", words(error)))
    }

    /// Whether this is an address of memory of this device. Of memory that the driver has not given out, such as most of
    /// the host's, it knows nothing, and says so with an error.
    pub(super) fn reaches(&self, address: usize) -> bool {
        use sys::CUpointer_attribute::{
            CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL as ORDINAL, CU_POINTER_ATTRIBUTE_MEMORY_TYPE as TYPE,
        };
        let ask = |attribute| {
            let mut answer: c_int = -1;
            let place = (&raw mut answer).cast();
            // SAFETY: both answers are of 32 bits; the address is looked up, and not followed.
            self.within(|| unsafe { sys::cuPointerGetAttribute(place, attribute, address as _) }.result())
                .map(|()| answer)
        };
        let is_device = |kind: c_int| kind == sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as c_int;
        ask(TYPE).is_ok_and(is_device) && ask(ORDINAL).is_ok_and(|ordinal| ordinal == self.device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: what `take` retained, once; all that was made in it holds on to it, or is dropped before (lanes).
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// The legacy default stream of the current context, on which libtorch computes unless it is told otherwise
/// (`CU_STREAM_LEGACY`).
const DEFAULT_STREAM: sys::CUstream = 1 as sys::CUstream;

/// A mark in a stream.
pub(super) struct Event {
    event: sys::CUevent,
    device: Arc<Device>,
}

// SAFETY: a handle that the driver takes on any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    fn new(device: &Arc<Device>) -> Result<Self, String> {
        let event = device.within(|| result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING));
        match event {
            Ok(event) => Ok(Self { event, device: Arc::clone(device) }),
            Err(error) => Err(format!("no mark for the GPU's work: {}", words(error))),
        }
    }

    /// What is put on the default stream from now on begins after this.
    pub(super) fn hold_default_stream(&self) -> Result<(), String> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the event is alive, and of this context.
        self.device
            .within(|| unsafe { result::stream::wait_event(DEFAULT_STREAM, self.event, flags) })
            .map_err(|error| format!("the GPU cannot wait for a message: {}", words(error)))
    }

    /// Whether the work before it is over.
    pub(super) fn is_over(&self) -> Result<bool, String> {
        is_over(self.event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once. Streams that were told to wait for it still do.
        let _ = self.device.within(|| unsafe { result::event::destroy(self.event) });
    }
}

fn is_over(event: sys::CUevent) -> Result<bool, String> {
    // SAFETY: the caller's event is alive.
    match unsafe { result::event::query(event) } {
        Ok(()) => Ok(true),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
        Err(error) => Err(format!("the GPU failed: {}", words(error))),
    }
}

/// An order of work on the device.
pub(super) struct Stream {
    stream: sys::CUstream,
    event: sys::CUevent,
}

impl Stream {
    /// Makes one on the current device.
    pub(super) fn new() -> Result<Self, String> {
        let make = || {
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
            Ok(Self { stream, event: result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)? })
        };
        make().map_err(|error| format!("no stream: {}", words(error)))
    }

    /// As NCCL takes it.
    pub(super) fn raw(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// Copies the first `length` bytes to the device, in order.
    pub(super) fn upload(&self, staging: &Staging, length: usize) -> Result<(), String> {
        // SAFETY: both sides have at least that many bytes (the slice is checked), and live and stay untouched until
        // the work is over, which the lane waits for.
        let copied =
            unsafe { result::memcpy_htod_async(staging.device, &staging.bytes()[..length], self.stream) };
        copied.map_err(|error| format!("cannot copy to the GPU: {}", words(error)))
    }

    /// Copies the first `length` bytes from the device, in order.
    pub(super) fn download(&self, staging: &mut Staging, length: usize) -> Result<(), String> {
        let device = staging.device;
        // SAFETY: as in `upload`.
        let copied =
            unsafe { result::memcpy_dtoh_async(&mut staging.bytes_mut()[..length], device, self.stream) };
        copied.map_err(|error| format!("cannot copy from the GPU: {}", words(error)))
    }

    /// Marks the end of the work so far.
    pub(super) fn mark(&self) -> Result<(), String> {
        // SAFETY: both are alive.
        unsafe { result::event::record(self.event, self.stream) }
            .map_err(|error| format!("cannot mark the GPU's work: {}", words(error)))
    }

    /// Whether the work up to the mark is over.
    pub(super) fn is_over(&self) -> Result<bool, String> {
        is_over(self.event)
    }

    /// What is put here from now on begins after `event`.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), String> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive. The event may be given up afterwards: the driver remembers what it stood for.
        unsafe { result::stream::wait_event(self.stream, event.event, flags) }
            .map_err(|error| format!("a message cannot wait for the GPU's work: {}", words(error)))
    }

    /// A mark of its own at the end of the work so far.
    pub(super) fn new_mark(&self, device: &Arc<Device>) -> Result<Event, String> {
        let event = Event::new(device)?;
        // SAFETY: both are alive.
        unsafe { result::event::record(event.event, self.stream) }
            .map_err(|error| format!("cannot mark the GPU's work: {}", words(error)))?;
        Ok(event)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once.
        unsafe {
            let _ = result::event::destroy(self.event);
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// Memory on the device and page-locked memory of the host, of one length.
pub(super) struct Staging {
    host: *mut u8,
    device: sys::CUdeviceptr,
    length: usize,
}

impl Staging {
    /// Takes both, `length` bytes each.
    pub(super) fn new(length: usize) -> Result<Self, String> {
        // SAFETY: plain requests for memory, given back on drop; zeroed, so that it may be seen as bytes.
        let take = || unsafe {
            let host = result::malloc_host(length, 0)?.cast::<u8>();
            host.write_bytes(0, length);
            match result::malloc_sync(length) {
                Ok(device) => Ok(Self { host, device, length }),
                Err(error) => {
                    let _ = result::free_host(host.cast());
                    Err(error)
                }
            }
        };
        take().map_err(|error| format!("no {length} bytes for messages on the GPU: {}", words(error)))
    }

    /// Address on the device.
    pub(super) fn device(&self) -> *mut c_void {
        self.device as *mut c_void
    }

    /// The host's side. No copy is under way when it is called.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: memory of that length that is ours and was zeroed; the lane never looks while a copy is under way.
        unsafe { std::slice::from_raw_parts(self.host, self.length) }
    }

    /// The host's side, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.length) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: taken by `new`, given back once; no work that uses them is under way.
        unsafe {
            let _ = result::free_sync(self.device);
            let _ = result::free_host(self.host.cast());
        }
    }
}
