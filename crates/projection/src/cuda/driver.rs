//! The GPU itself: its driver, the context that torch uses, and the kernels in it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::device::{Device, Limits};
use super::image::ImageKey;
use super::launch::{Kernel, Parameters, Shape};
use super::{CudaError, ImageCache, Nvrtc};

/// The kernels on one GPU.
///
/// Everything runs in the device's primary context, which is torch's, and on the legacy default stream, which is
/// torch's unless it is told otherwise: what torch starts before or after comes before or after.
pub struct CudaKernels {
    device: Retained,
    name: String,
    driver: (i32, i32),
    key: ImageKey,
    functions: HashMap<Kernel, sys::CUfunction>,
    limits: Limits,
    module: sys::CUmodule,
}

// SAFETY: the driver's handles may be used from any thread, and every call makes the context current first.
unsafe impl Send for CudaKernels {}
// SAFETY: as above; the driver locks what it has to.
unsafe impl Sync for CudaKernels {}

impl CudaKernels {
    /// Takes up the GPU of this number, as torch and the driver count those that are visible, and makes the kernels
    /// ready: from `cache`, or compiled by NVRTC (some seconds), which is looked for as [`Nvrtc::load`] does.
    ///
    /// # Errors
    /// When driver, GPU or NVRTC is not there, or they do not fit each other.
    pub fn new(device: usize, nvrtc: &[PathBuf], cache: &dyn ImageCache) -> Result<Arc<Self>, CudaError> {
        let driver = start()?;
        // Both at once: whoever has to install one wants to know of the other.
        let nvrtc = Nvrtc::load(nvrtc).map_err(|error| match error {
            CudaError::Missing { what, hint } => CudaError::Missing {
                what: format!("{what}; the GPU driver is there and serves CUDA {}", words(driver)),
                hint,
            },
            error => error,
        })?;
        let device = Retained::new(device)?;
        let capability = device.capability()?;
        let key = nvrtc.key(capability)?;
        let name = device.call("ask for its name", || result::device::get_name(device.device))?;
        let limits = device.limits()?;
        let module = device.module(&key, &nvrtc, driver, cache)?;
        // From here on it is unloaded on the way out.
        let mut kernels = Self { device, name, driver, key, functions: HashMap::new(), limits, module };
        kernels.find_functions()?;
        Ok(Arc::new(kernels))
    }

    /// What the GPU is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest CUDA that the driver serves, major and minor.
    pub fn driver_version(&self) -> (i32, i32) {
        self.driver
    }

    /// NVRTC's version, the architecture and the options that the kernels were compiled with.
    pub fn key(&self) -> &ImageKey {
        &self.key
    }

    fn find_functions(&mut self) -> Result<(), CudaError> {
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
        for kernel in Kernel::all() {
            let doing = format!("find the kernel {kernel}");
            let name = CString::new(kernel.to_string()).unwrap_or_default();
            // SAFETY: the module is loaded, and the context current.
            let function =
                self.device.call(&doing, || unsafe { result::module::get_function(self.module, name) })?;
            if kernel.shares() {
                // More than 48 KiB have to be asked for.
                let bytes = self.limits.shared_per_block as i32;
                let doing = format!("give the kernel {kernel} {bytes} bytes of shared memory");
                // SAFETY: a function of the module.
                let set = || unsafe { result::function::set_function_attribute(function, SHARED, bytes) };
                self.device.call(&doing, set)?;
            }
            self.functions.insert(kernel, function);
        }
        Ok(())
    }

    /// Starts a copy within the device, for comparison.
    ///
    /// # Safety
    /// Both have so many bytes on the device, and do not overlap.
    pub(super) unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        self.device.call("copy on the GPU", || {
            // SAFETY: the caller's promise; the default stream.
            unsafe { result::memcpy_dtod_async(to, from, bytes, result::stream::null()) }
        })
    }

    /// How long the GPU is at what `work` starts, in milliseconds.
    pub(super) fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f32, CudaError> {
        let device = &self.device;
        let events = [Event::new(device)?, Event::new(device)?];
        events[0].record()?;
        work()?;
        events[1].record()?;
        // SAFETY: both are alive and recorded.
        device.call("measure the time", || unsafe {
            result::event::synchronize(events[1].event)?;
            result::event::elapsed(events[0].event, events[1].event)
        })
    }
}

impl Drop for CudaKernels {
    fn drop(&mut self) {
        // Work in flight may be in these kernels.
        let _ = self.device.call("unload the kernels", || {
            result::ctx::synchronize()?;
            // SAFETY: loaded by `new`, unloaded once.
            unsafe { result::module::unload(self.module) }
        });
    }
}

impl Device for CudaKernels {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<u64, CudaError> {
        self.device.bind()?;
        // SAFETY: a plain request for memory.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::Memory {
                device: self.device.number,
                bytes,
                what,
                hint: "`nvidia-smi` shows who else uses the GPU; stored groups are what the stateless backend does without",
            },
            _ => self.device.failed("take memory", error),
        })
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise; the driver waits for work that uses it.
        let _ = self.device.call("give memory back", || unsafe { result::free_sync(address) });
    }

    unsafe fn upload(&self, bytes: &[u8], address: u64) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        self.device.call("copy to the GPU", || unsafe { result::memcpy_htod_sync(address, bytes) })
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        self.device.call("copy from the GPU", || unsafe { result::memcpy_dtoh_sync(bytes, address) })
    }

    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.device.call("clear memory", || {
            // SAFETY: the caller's promise; the default stream.
            unsafe { result::memset_d8_async(address, 0, bytes, result::stream::null()) }
        })
    }

    unsafe fn launch(&self, kernel: Kernel, shape: Shape, parameters: &Parameters) -> Result<(), CudaError> {
        let doing = || format!("start the kernel {kernel} with {shape:?}");
        let Some(&function) = self.functions.get(&kernel) else {
            return Err(self.device.failed(&doing(), DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)));
        };
        self.device.bind()?;
        let parameter: *const c_void = match parameters {
            Parameters::Apply(parameters) => std::ptr::from_ref(parameters).cast(),
            Parameters::Reduce(parameters) => std::ptr::from_ref(parameters).cast(),
        };
        // SAFETY: the function takes one parameter, a structure by value of the layout that `kernels.cu` checks, which
        // the driver copies before it returns; the shape is within the limits; the stream is the default one. What the
        // addresses in it must have is the caller's promise.
        unsafe {
            result::launch_kernel(
                function,
                (shape.blocks, 1, 1),
                (shape.threads, 1, 1),
                shape.shared,
                result::stream::null(),
                &mut [parameter.cast_mut()],
            )
        }
        .map_err(|error| self.device.failed(&doing(), error))
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        self.device.call("wait for the GPU", result::ctx::synchronize)
    }
}

/// Looks for the driver, starts it, and asks for the newest CUDA that it serves.
fn start() -> Result<(i32, i32), CudaError> {
    // SAFETY: loading the driver runs its initialisers, which is what it is made for.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::Missing {
            what: "the GPU driver's library libcuda.so.1 was not found (looked in LD_LIBRARY_PATH and the system's folders); \
                   the kernels need a driver for CUDA 13.0 and NVRTC 13.0"
                .to_owned(),
            hint: "on a host with NVIDIA GPUs install the driver (580 or later for CUDA 13.0); in a container start it with --gpus all"
                .to_owned(),
        });
    }
    let mut version = 0;
    // SAFETY: a place for the answer.
    let asked = result::init().and_then(|()| unsafe { sys::cuDriverGetVersion(&mut version) }.result());
    asked.map_err(|error| CudaError::Missing {
        what: format!("the GPU driver does not start: {}", error_text(error)),
        hint: "`nvidia-smi -L` lists what the driver sees; CUDA_VISIBLE_DEVICES may hide it".to_owned(),
    })?;
    Ok((version / 1000, version % 1000 / 10))
}

fn words(version: (i32, i32)) -> String {
    format!("{}.{}", version.0, version.1)
}

/// What the driver calls an error.
fn error_text(error: DriverError) -> String {
    let text = error.error_string().map(CStr::to_string_lossy);
    text.map_or_else(|_| format!("error {}", error.0 as u32), |text| text.into_owned())
}

/// A device whose primary context is held.
struct Retained {
    number: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
}

impl Retained {
    fn new(number: usize) -> Result<Self, CudaError> {
        let retain = || {
            let device = result::device::get(i32::try_from(number).unwrap_or(i32::MAX))?;
            // SAFETY: the device comes from the driver.
            Ok(Self { number, device, context: unsafe { result::primary_ctx::retain(device)? } })
        };
        retain().map_err(|error| CudaError::Driver {
            device: number,
            doing: "take up the GPU".to_owned(),
            why: error_text(error),
        })
    }

    /// Makes the context current on the calling thread.
    fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is held until drop.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|error| self.failed("make the context current", error))
    }

    /// Calls the driver in the context.
    fn call<T>(&self, doing: &str, call: impl FnOnce() -> Result<T, DriverError>) -> Result<T, CudaError> {
        self.bind()?;
        call().map_err(|error| self.failed(doing, error))
    }

    fn failed(&self, doing: &str, error: DriverError) -> CudaError {
        CudaError::Driver { device: self.number, doing: format!("cannot {doing}"), why: error_text(error) }
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<i32, CudaError> {
        // SAFETY: the device comes from the driver.
        self.call("ask for its properties", || unsafe {
            result::device::get_attribute(self.device, attribute)
        })
    }

    fn capability(&self) -> Result<(i32, i32), CudaError> {
        use sys::CUdevice_attribute as Attribute;
        Ok((
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    }

    fn limits(&self) -> Result<Limits, CudaError> {
        use sys::CUdevice_attribute as Attribute;
        let ask = |attribute| self.attribute(attribute).map(|value| value.max(0) as u32);
        Ok(Limits {
            multiprocessors: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_block: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.into(),
            shared_per_multiprocessor: ask(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?
            .into(),
            threads: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        })
    }

    /// The kernels, loaded: from the cache, or compiled where it has none that the driver takes.
    fn module(
        &self,
        key: &ImageKey,
        nvrtc: &Nvrtc,
        driver: (i32, i32),
        cache: &dyn ImageCache,
    ) -> Result<sys::CUmodule, CudaError> {
        self.bind()?;
        if let Some(Ok(module)) = cache.load(key).map(load) {
            return Ok(module);
        }
        let image = nvrtc.compile(key)?;
        cache.store(key, &image);
        load(image).map_err(|error| CudaError::Image {
            driver: words(driver),
            nvrtc: words(nvrtc.version()),
            architecture: key.architecture.clone(),
            why: error_text(error),
        })
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        // SAFETY: retained by `new`, released once; torch holds the context on its own account.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Loads an image into the current context.
fn load(mut image: Vec<u8>) -> Result<sys::CUmodule, DriverError> {
    // PTX has to end with a zero; machine code says how long it is.
    image.push(0);
    // SAFETY: a whole image, as the compiler made it or the cache has verified it.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
}

/// A point in the default stream.
struct Event<'a> {
    device: &'a Retained,
    event: sys::CUevent,
}

impl<'a> Event<'a> {
    fn new(device: &'a Retained) -> Result<Self, CudaError> {
        let event =
            device.call("make an event", || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
        Ok(Self { device, event })
    }

    fn record(&self) -> Result<(), CudaError> {
        // SAFETY: the event is alive; the default stream.
        self.device
            .call("record an event", || unsafe { result::event::record(self.event, result::stream::null()) })
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}
