//! The kernels under NVRTC, which needs no GPU: they compile for the GPUs of these years, to what they are meant to be.
//!
//! NVRTC is looked for in `GPART_NVRTC`, in `.deps/nvrtc` (`cargo xtask setup`) and where libraries usually are.
//! Where it is missing the tests say so and pass, unless `GPART_REQUIRE_NVRTC` is set.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use projection::cuda::{CudaError, CudaKernels, Kernel, NoCache, Nvrtc};

/// Of A100, H100 and H200, B200.
const CAPABILITIES: [(i32, i32); 3] = [(8, 0), (9, 0), (10, 0)];

fn folders() -> Vec<PathBuf> {
    let own = std::env::var_os("GPART_NVRTC").map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/nvrtc");
    own.into_iter().chain([fetched]).collect()
}

fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::load(&folders()) {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) if std::env::var_os("GPART_REQUIRE_NVRTC").is_none() => {
            eprintln!("SKIPPED: no CUDA kernel was compiled: {error}; `cargo xtask setup` fetches NVRTC");
            None
        }
        Err(error) => panic!("{error}; `cargo xtask setup` fetches NVRTC"),
    }
}

/// One function of a PTX text.
fn body<'a>(ptx: &'a str, kernel: &str) -> &'a str {
    let start = ptx.find(&format!(".entry {kernel}(")).unwrap_or_else(|| panic!("no {kernel}"));
    let rest = &ptx[start..];
    &rest[..rest[1..].find(".entry ").map_or(rest.len(), |end| end + 1)]
}

#[test]
fn every_kernel_compiles_to_what_it_is_meant_to_be() {
    let Some(nvrtc) = nvrtc() else { return };
    for capability in CAPABILITIES {
        let key = nvrtc.key(capability).unwrap();
        assert_eq!(key.architecture, format!("sm_{}{}", capability.0, capability.1));
        let (image, ptx) = nvrtc.compile_with_text(&key).unwrap();
        assert_eq!(&image[..4], b"\x7fELF");
        for kernel in Kernel::all() {
            let (name, body) = (kernel.to_string(), body(&ptx, &kernel.to_string()));
            assert!(image.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
            let has = |what: &str| body.contains(what);
            // One rounding an operation, no division, and nothing kept in memory that should be in registers.
            assert!(!has("fma.") && !has("div.") && !has("rem.") && !has(".local"), "{name}");
            assert!(!has(".ftz"), "{name}");
            match kernel {
                Kernel::Apply { .. } => assert!(has("st.global.v4") && !has("atom."), "{name}"),
                Kernel::Reduce { .. } => assert!(has("ld.global.nc.v4") && has("cvt.rni.s64.f32"), "{name}"),
                Kernel::Count { .. } => {}
            }
            assert_eq!(kernel.shares(), has("atom.shared.add.u32"), "{name}");
            let adds = !matches!(kernel, Kernel::Apply { .. });
            assert_eq!(adds, has("atom.global.add.u64") || has("red.global.add.u64"), "{name}");
        }
    }
}

#[test]
fn a_gpu_that_nvrtc_does_not_know_gets_portable_code() {
    let Some(nvrtc) = nvrtc() else { return };
    let key = nvrtc.key((99, 9)).unwrap();
    assert!(key.architecture.starts_with("compute_"));
    let image = nvrtc.compile(&key).unwrap();
    assert!(image.windows(8).any(|window| window == b".version"));
    assert!(matches!(nvrtc.key((1, 0)), Err(CudaError::Compile { .. })));
}

#[test]
fn an_error_of_the_compiler_is_told() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut key = nvrtc.key((9, 0)).unwrap();
    key.options.push("--no-such-option".to_owned());
    let Err(CudaError::Compile { log, .. }) = nvrtc.compile(&key) else { panic!("compiled") };
    assert!(log.contains("no-such-option"), "{log}");
}

/// On a host without a GPU: an error that says what is needed, and no panic.
#[test]
fn a_missing_driver_is_an_error_that_names_both_versions() {
    match CudaKernels::new(0, &folders(), &NoCache) {
        Err(CudaError::Missing { what, hint }) if what.contains("libcuda.so.1") => {
            assert!(
                what.contains("CUDA 13.0") && what.contains("NVRTC 13.0") && hint.contains("580"),
                "{what}"
            );
        }
        Err(error) => eprintln!("no kernels on this host: {error}"),
        Ok(kernels) => eprintln!("kernels on {}", kernels.name()),
    }
}
