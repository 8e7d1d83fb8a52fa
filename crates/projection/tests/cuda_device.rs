//! The kernels on a real GPU, against the CPU, bit by bit.
//!
//! Where there is no GPU, no driver or no NVRTC, the tests say so and pass, unless `GPART_REQUIRE_GPU` is set.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "cuda/cases.rs"]
#[allow(dead_code, reason = "a GPU has the shared memory that it has")]
mod cases;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use projection::cuda::{CudaKernels, Device, NoCache};
use proptest::prelude::*;

use cases::{any_case, check_apply, check_count, check_every_kernel, check_reduce};

/// The first GPU; compiled for once.
fn gpu() -> Option<Arc<dyn Device>> {
    static GPU: OnceLock<Option<Arc<CudaKernels>>> = OnceLock::new();
    let kernels = GPU.get_or_init(|| {
        let own = std::env::var_os("GPART_NVRTC").map(PathBuf::from);
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/nvrtc");
        let folders: Vec<PathBuf> = own.into_iter().chain([fetched]).collect();
        match CudaKernels::new(0, &folders, &NoCache) {
            Ok(kernels) => {
                eprintln!("on {} with {:?}", kernels.name(), kernels.key());
                Some(kernels)
            }
            Err(error) if std::env::var_os("GPART_REQUIRE_GPU").is_none() => {
                eprintln!("SKIPPED: no CUDA kernel was run: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    kernels.clone().map(|kernels| kernels as Arc<dyn Device>)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn apply_is_that_of_the_cpu(case in any_case()) {
        if let Some(gpu) = gpu() {
            check_apply(&gpu, &case)?;
        }
    }

    #[test]
    fn reduce_is_that_of_the_cpu(case in any_case(), size in -30_i32..6, bad in prop::option::of(any::<u16>())) {
        if let Some(gpu) = gpu() {
            check_reduce(&gpu, &case, size, bad)?;
        }
    }

    #[test]
    fn count_is_that_of_the_cpu(case in any_case()) {
        if let Some(gpu) = gpu() {
            check_count(&gpu, &case)?;
        }
    }
}

/// Full grids of many rounds: few groups with several sums each, as many as shared memory holds, and more.
#[test]
fn large_runs_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for d in [1, 321, 20_000, 524_287] {
        check_every_kernel(&|_| Arc::clone(&gpu), d, (1 << 23) + 5);
    }
}
