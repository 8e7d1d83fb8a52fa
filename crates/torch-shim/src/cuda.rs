//! Opening libtorch's part for CUDA.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use thiserror::Error;

/// Why nothing computes on CUDA.
#[derive(Debug, Error, Diagnostic, Clone, PartialEq, Eq)]
pub enum CudaError {
    /// libtorch was found without its part for CUDA.
    #[error("there is no libtorch_cuda.so beside {}", beside.display())]
    #[diagnostic(
        code(input::no_libtorch_cuda),
        help(
            "this libtorch is a CPU build: point LD_LIBRARY_PATH to the torch/lib of a `pip install torch==2.11.0`, or take --device cpu"
        )
    )]
    NoLibrary {
        /// The libtorch_cpu.so that is loaded.
        beside: PathBuf,
    },
    /// A library that it needs is missing or of another version.
    #[error("{} cannot be loaded: {reason}", path.display())]
    #[diagnostic(
        code(input::libtorch_cuda),
        help(
            "it needs the CUDA 13 libraries that `pip install torch==2.11.0` brings along (nvidia-cublas, nvidia-cudnn-cu13, …) and a driver for CUDA 13 (580 or newer); `gpart-dist doctor` shows what is there, --device cpu does without"
        )
    )]
    NotLoaded {
        /// The library.
        path: PathBuf,
        /// What the system's loader said.
        reason: String,
    },
    /// It was loaded and finds no device.
    #[error("libtorch sees no CUDA device")]
    #[diagnostic(
        code(input::no_cuda_device),
        help(
            "`nvidia-smi` lists the GPUs; CUDA_VISIBLE_DEVICES may hide them; the driver must know CUDA 13 (580 or newer); --device cpu does without"
        )
    )]
    NoDevice,
}

/// libtorch's part for CUDA, for as long as the process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaLibrary {
    /// Where it was found.
    pub path: PathBuf,
    /// Devices that libtorch sees.
    pub devices: usize,
}

/// Opens `libtorch_cuda.so` beside the `libtorch_cpu.so` of this process and counts devices. To be called before the first
/// tensor is made; a second call costs nothing.
///
/// # Errors
/// It is not there, lacks a library of its own, or sees no device.
pub fn load_cuda() -> Result<CudaLibrary, CudaError> {
    let cpu = loaded_from(c"_ZN2at13globalContextEv").unwrap_or_else(|| PathBuf::from("libtorch_cpu.so"));
    let path = cpu.with_file_name("libtorch_cuda.so");
    if !path.exists() {
        return Err(CudaError::NoLibrary { beside: cpu });
    }
    open_for_good(&path)?;
    match tch::Cuda::device_count() {
        devices @ 1.. => Ok(CudaLibrary { path, devices: devices as usize }),
        _ => Err(CudaError::NoDevice),
    }
}

/// Loads a library whose symbols all others see, and never lets it go: its constructors have registered kernels.
fn open_for_good(path: &Path) -> Result<(), CudaError> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the library's constructors register kernels and devices with the libtorch that is loaded; it is of the same
    // build, since it lies beside it.
    match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(CudaError::NotLoaded { path: path.to_owned(), reason: text_of(&error) }),
    }
}

/// What the loader said, without what wraps it.
fn text_of(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    source.unwrap_or_else(|| error.to_string())
}

/// The file that a loaded symbol came from.
fn loaded_from(symbol: &CStr) -> Option<PathBuf> {
    // SAFETY: look-ups among loaded libraries by a C string; `dladdr` fills the structure where it succeeds, and the name
    // it gives lives as long as the library, which is never unloaded.
    unsafe {
        let address = libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr());
        let mut info = std::mem::zeroed::<libc::Dl_info>();
        if address.is_null() || libc::dladdr(address, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        Some(PathBuf::from(CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_named() {
        // A tensor first, so that libtorch is loaded.
        let _ = tch::Tensor::ones([1], (tch::Kind::Float, tch::Device::Cpu));
        let cpu = loaded_from(c"_ZN2at13globalContextEv");
        assert!(cpu.is_some_and(|path| path.ends_with("libtorch_cpu.so")));
        match load_cuda() {
            Ok(library) => assert!(library.devices > 0),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_library_that_is_none_is_refused() {
        let path = std::env::temp_dir().join(format!("no-library-{}.so", std::process::id()));
        std::fs::write(&path, "text").unwrap_or_default();
        let refused = open_for_good(&path);
        let _ = std::fs::remove_file(&path);
        assert!(matches!(refused, Err(CudaError::NotLoaded { .. })), "{refused:?}");
    }
}
