//! The code that calls the driver, with a double of the driver: every call that a GPU would get, with its arguments.
//!
//! The double is a library called libcuda.so.1, which a process finds only if it starts with `LD_LIBRARY_PATH`; so the
//! test starts itself again. NVRTC is the real one, and the test is skipped where there is none.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "cuda/cases.rs"]
#[allow(dead_code, reason = "the double has the shared memory that it has")]
mod cases;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use partition::Stateless;
use projection::cuda::{Buffer, CudaError, CudaKernels, Device, ImageCache, ImageKey, Nvrtc, bench};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use cases::{any_case, check_apply, check_count, check_every_kernel, check_reduce};

const INSIDE: &str = "GPART_TEST_DRIVER_DOUBLE";

fn folders() -> Vec<PathBuf> {
    let own = std::env::var_os("GPART_NVRTC").map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/nvrtc");
    own.into_iter().chain([fetched]).collect()
}

#[test]
fn the_driver_is_called_as_it_wants_to_be() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if let Err(error) = Nvrtc::load(&folders()) {
        assert!(std::env::var_os("GPART_REQUIRE_NVRTC").is_none(), "{error}");
        eprintln!("SKIPPED: the driver's double needs NVRTC: {error}; `cargo xtask setup` fetches it");
        return;
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let compiled = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()))
        .args(["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
        .args(["-shared", "-fPIC", "-pthread", "-I"])
        .arg(package.join("src/cuda"))
        .arg("-o")
        .arg(folder.join("libcuda.so.1"))
        .arg(package.join("tests/cuda/driver.cpp"))
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::copy(folder.join("libcuda.so.1"), folder.join("libcuda.so")).unwrap();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_driver_is_called_as_it_wants_to_be", "--nocapture"])
        .env("LD_LIBRARY_PATH", &folder)
        .env(INSIDE, "1")
        .output()
        .unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let output = [again.stdout, again.stderr].concat();
    assert!(again.status.success(), "{}: {}", again.status, String::from_utf8_lossy(&output));
}

/// Keeps one image, in memory.
#[derive(Default)]
struct Kept {
    image: RefCell<Option<(ImageKey, Vec<u8>)>>,
    stored: RefCell<u32>,
}

impl ImageCache for Kept {
    fn load(&self, key: &ImageKey) -> Option<Vec<u8>> {
        self.image.borrow().clone().filter(|(kept, _)| kept == key).map(|(_, image)| image)
    }

    fn store(&self, key: &ImageKey, image: &[u8]) {
        *self.stored.borrow_mut() += 1;
        *self.image.borrow_mut() = Some((key.clone(), image.to_vec()));
    }
}

/// In the process that has the double.
fn inside() {
    let cache = Kept::default();
    let open = || CudaKernels::new(0, &folders(), &cache).unwrap();
    let kernels = open();
    assert_eq!((kernels.name(), kernels.driver_version()), ("double", (13, 0)));
    assert_eq!(kernels.key().architecture, "sm_90");
    drop(kernels);
    drop(open());
    assert_eq!(*cache.stored.borrow(), 1);
    // An image that the driver refuses is compiled again.
    cache.image.borrow_mut().as_mut().unwrap().1 = b"nonsense".to_vec();
    let kernels = open();
    assert_eq!(*cache.stored.borrow(), 2);
    let device: Arc<dyn Device> = kernels.clone();
    refusals(&device, &cache);
    compare(&device);
    let timings = bench(&kernels, &Stateless::new(42, 1000).unwrap(), 10_007).unwrap();
    assert_eq!(timings.len(), 8);
    assert!(timings.iter().all(|timing| timing.milliseconds > 0.0 && timing.numel == 10_007));
}

fn refusals(device: &Arc<dyn Device>, cache: &Kept) {
    assert!(matches!(CudaKernels::new(7, &folders(), cache), Err(CudaError::Driver { device: 7, .. })));
    assert!(matches!(Buffer::new(device, 1 << 50, 1, "a test"), Err(CudaError::Memory { .. })));
    // SAFETY: the double refuses an address that it did not give.
    let error = unsafe { device.upload(&[0; 16], 4096) }.unwrap_err();
    assert_eq!(error.to_string(), "GPU 0: cannot copy to the GPU: double's error 1");
}

fn compare(device: &Arc<dyn Device>) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(50) };
    let input = (any_case(), -30_i32..6, any::<Option<u16>>());
    let result = TestRunner::new(config).run(&input, |(case, size, bad)| {
        check_apply(device, &case)?;
        check_reduce(device, &case, size, bad)?;
        check_count(device, &case)
    });
    result.unwrap();
    for d in [321, 9000] {
        check_every_kernel(&|_| Arc::clone(device), d, 20_011);
    }
    device.synchronize().unwrap();
}
