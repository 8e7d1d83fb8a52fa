//! libtorch's profiler: named spans, and a Chrome trace of what happens between two points; and its allocators' figures.

use std::ffi::{CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::done;

unsafe extern "C" {
    fn gpart_profile_begin(cuda: c_int) -> c_int;
    fn gpart_profile_end(path: *const c_char) -> c_int;
    fn gpart_span_begin(name: *const c_char) -> *mut c_void;
    fn gpart_span_end(span: *mut c_void);
    fn gpart_peak_bytes(device: c_int, bytes: *mut u64) -> c_int;
    fn gpart_reset_peak_bytes(device: c_int) -> c_int;
    fn gpart_empty_cache() -> c_int;
}

/// A recording that is under way, of this thread. Dropped, it is given up.
#[derive(Debug)]
pub struct Profile {
    _of_this_thread: PhantomData<*const ()>,
}

impl Profile {
    /// Begins to record operations, and with `cuda` the GPU's kernels.
    ///
    /// # Errors
    /// What libtorch says; one recording is under way already.
    pub fn begin(cuda: bool) -> Result<Self, String> {
        // SAFETY: no memory is handed over.
        done(unsafe { gpart_profile_begin(cuda.into()) })?;
        Ok(Self { _of_this_thread: PhantomData })
    }

    /// Ends it and writes a Chrome trace (JSON; chrome://tracing and ui.perfetto.dev show it).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(self, path: &Path) -> Result<(), String> {
        let text = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        std::mem::forget(self);
        // SAFETY: a string that ends with a zero and lives through the call.
        done(unsafe { gpart_profile_end(text.as_ptr()) })?;
        // libtorch only logs what it could not write.
        match path.metadata().is_ok_and(|file| file.len() > 0) {
            true => Ok(()),
            false => Err("nothing was written".to_owned()),
        }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // SAFETY: without a path nothing is written, and no memory is handed over.
        let _ = unsafe { gpart_profile_end(std::ptr::null()) };
    }
}

/// A named stretch of this thread's work, until it is dropped.
#[derive(Debug)]
pub struct Span(*mut c_void);

/// Begins a span, which costs next to nothing while nobody records.
pub fn span(name: &str) -> Span {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: a string that ends with a zero and lives through the call.
    Span(unsafe { gpart_span_begin(name.as_ptr()) })
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by `span`, on this thread (a pointer keeps `Span` there), given up once.
            unsafe { gpart_span_end(self.0) };
        }
    }
}

/// Most bytes that libtorch's tensors had on a CUDA device since [`reset_peak_bytes`].
///
/// # Errors
/// What libtorch says: no such device.
pub fn peak_bytes(device: usize) -> Result<u64, String> {
    let mut bytes = 0;
    // SAFETY: a place for the answer.
    done(unsafe { gpart_peak_bytes(device as c_int, &mut bytes) })?;
    Ok(bytes)
}

/// Gives memory of CUDA devices that no tensor has any more back to the driver, for other processes.
///
/// # Errors
/// What libtorch says: there is no CUDA.
pub fn empty_cache() -> Result<(), String> {
    // SAFETY: no memory is handed over.
    done(unsafe { gpart_empty_cache() })
}

/// Counts from what there is now.
///
/// # Errors
/// As for [`peak_bytes`].
pub fn reset_peak_bytes(device: usize) -> Result<(), String> {
    // SAFETY: no memory is handed over.
    done(unsafe { gpart_reset_peak_bytes(device as c_int) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_trace_has_spans_and_operations() {
        drop(span("before"));
        let path = std::env::temp_dir().join(format!("gpart-trace-{}.json", std::process::id()));
        let profile = Profile::begin(false).unwrap();
        {
            let _span = span("a step of the test");
            let _ = Tensor::ones([3, 3], (Kind::Float, Device::Cpu))
                .matmul(&Tensor::ones([3, 3], (Kind::Float, Device::Cpu)));
        }
        profile.end(&path).unwrap();
        let trace = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(trace.contains("a step of the test") && trace.contains("aten::mm"), "{trace}");
        assert!(!trace.contains("\"before\""));
        // One that is given up makes room for the next.
        drop(Profile::begin(false).unwrap());
        let profile = Profile::begin(false).unwrap();
        assert!(profile.end(Path::new("/no/such/folder/trace.json")).is_err());
    }

    #[test]
    fn there_is_no_peak_without_a_device() {
        if !tch::Cuda::is_available() {
            assert!(peak_bytes(0).is_err() && reset_peak_bytes(0).is_err() && empty_cache().is_err());
        }
    }
}
