//! The CUDA source on the CPU: its arithmetic and its whole kernels against the Rust versions, bit by bit.
//!
//! The source is compiled by the C++ compiler (`CXX`, or `c++`) with a header that stands for CUDA, and what starts
//! the kernels is the code that starts them on a GPU.
#![allow(clippy::unwrap_used)]

#[path = "cuda/cases.rs"]
mod cases;

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use half::{bf16, f16};
use libloading::Library;
use partition::{Assignment, Materialized, Stateless};
use projection::cuda::{
    CudaError, Device, DeviceGrads, DeviceMap, DeviceWeights, Element, Format, Kernel, Limits, Mask, Modulus,
    Parameters, Shape,
};
use projection::{Dropout, FixedPoint, Map};
use proptest::prelude::*;

use cases::{
    Case, Placed, any_case, check_apply, check_count, check_every_kernel, check_reduce, encode, values,
};

/// The kernels as a library of this process.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}.so", std::process::id()));
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        // Every f32 operation is rounded by itself, as NVRTC is told with --fmad=false.
        let options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"];
        let compiled = Command::new(&compiler)
            .args(options)
            .args(["-Wno-unknown-pragmas", "-shared", "-fPIC", "-pthread", "-I"])
            .arg(package.join("src/cuda"))
            .arg("-o")
            .arg(&out)
            .arg(package.join("tests/cuda/host.cpp"))
            .output()
            .unwrap_or_else(|error| panic!("cannot start the C++ compiler {compiler}: {error}"));
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        // SAFETY: our own code, without initialisers but those of C++'s library.
        let library = unsafe { Library::new(&out) }.unwrap();
        let _ = std::fs::remove_file(out);
        library
    })
}

/// A function of the library.
macro_rules! host {
    ($name:ident($($argument:ty),*) $(-> $result:ty)?) => {
        // SAFETY: the types are those of tests/cuda/host.cpp.
        *unsafe { library().get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(stringify!($name).as_bytes()) }
            .unwrap()
    };
}

/// The device that this process is. Odd sizes, so that grids have more than one round and a last, partial one.
struct Host {
    limits: Limits,
    memory: Mutex<HashMap<u64, Layout>>,
}

impl Host {
    fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, memory: Mutex::default() })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        assert!(self.memory.lock().unwrap().is_empty(), "all memory is given back");
    }
}

impl Device for Host {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: usize, _: &'static str) -> Result<u64, CudaError> {
        let layout = Layout::from_size_align(bytes, 256).unwrap();
        // SAFETY: not of size 0, as buffers have a byte at least.
        let address = unsafe { std::alloc::alloc(layout) };
        assert!(!address.is_null());
        // SAFETY: just taken. Garbage, as on a GPU.
        unsafe { address.write_bytes(0xA5, bytes) };
        self.memory.lock().unwrap().insert(address as u64, layout);
        Ok(address as u64)
    }

    unsafe fn free(&self, address: u64) {
        let layout = self.memory.lock().unwrap().remove(&address).unwrap();
        // SAFETY: taken with this layout.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
    }

    unsafe fn upload(&self, bytes: &[u8], address: u64) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { (address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(address as *const u8, bytes.len()) };
        Ok(())
    }

    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { (address as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, kernel: Kernel, shape: Shape, parameters: &Parameters) -> Result<(), CudaError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap();
        assert!(
            shape.threads <= self.limits.threads && u64::from(shape.shared) <= self.limits.shared_per_block
        );
        assert!(shape.blocks * shape.threads >= 16);
        let launch = host!(host_launch(*const c_void, bool, u32, u32, u32, *const c_void));
        // SAFETY: only its address is taken.
        let function = *unsafe { library().get::<*const c_void>(kernel.to_string().as_bytes()) }
            .unwrap_or_else(|error| panic!("{kernel}: {error}"));
        let (is_apply, parameters) = match parameters {
            Parameters::Apply(parameters) => (true, std::ptr::from_ref(parameters).cast()),
            Parameters::Reduce(parameters) => (false, std::ptr::from_ref(parameters).cast()),
        };
        // SAFETY: the parameters are the kernel's; the rest is the caller's promise.
        unsafe { launch(function, is_apply, shape.blocks, shape.threads, shape.shared, parameters) };
        Ok(())
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        Ok(())
    }
}

fn small(shared: u64) -> Limits {
    Limits { multiprocessors: 1, shared_per_block: shared, shared_per_multiprocessor: shared, threads: 16 }
}

// --- Arithmetic -------------------------------------------------------------------------------------------------

const SEEDS: [i128; 8] =
    [0, 1, 42, -1, -12_345, (1 << 63) - 1, (1 << 63) + 5, (1 << 64) - 0x9E37_79B9_7F4A_7C15];

fn interesting_d() -> Vec<u64> {
    let powers = (0..=32).map(|bits| 1_u64 << bits);
    let beside = (1..32).flat_map(|bits| [(1_u64 << bits) - 1, (1 << bits) + 1]);
    powers.chain(beside).chain([100, 999_983, 524_287, 3 << 30, (1 << 32) - 1, (1 << 32) - 5]).collect()
}

#[test]
fn remainders_are_exact_for_every_word() {
    let remainder = host!(host_remainder(*const Modulus, u64) -> u32);
    for d in interesting_d().into_iter().filter(|d| *d > 0) {
        let modulus = Modulus::new(d);
        let quotients =
            [0, 1, 2, u64::MAX / d, u64::MAX / d - u64::from(d > 1), u64::MAX / d / 2, (1 << 32) / d];
        let near = quotients.into_iter().flat_map(|q| {
            let z = q.wrapping_mul(d);
            [z, z.wrapping_sub(1), z.wrapping_add(1), z.wrapping_add(d - 1)]
        });
        let words = (0..64).map(|bit| 1_u64 << bit).flat_map(|z| [z, z.wrapping_neg(), z - 1]);
        for z in near.chain(words).chain([0, u64::MAX, u64::MAX - 1]) {
            // SAFETY: a modulus and a number.
            assert_eq!(u64::from(unsafe { remainder(&modulus, z) }), z % d, "{z} mod {d}");
        }
    }
}

#[test]
fn groups_are_those_of_the_cpu() {
    let groups = host!(host_groups(*const Modulus, u64, *mut u32, u64));
    let (mut ours, mut theirs) = (vec![0; 101], vec![0; 101]);
    for d in interesting_d() {
        for seed in SEEDS {
            for start in [0, 1, (1 << 32) - 50, (1 << 40) + 7, (1 << 62) - 3] {
                let partition = Stateless::new(seed, d).unwrap();
                partition.fill(start, &mut ours).unwrap();
                // SAFETY: an array and its length.
                unsafe { groups(&Modulus::new(d), partition.state(start), theirs.as_mut_ptr(), 101) };
                assert_eq!(ours, theirs, "seed {seed}, d {d}, from {start}");
            }
        }
    }
}

#[test]
fn masks_are_those_of_the_cpu() {
    let multipliers = host!(host_multipliers(*const Mask, *mut f32, u64));
    for p in [1e-9, 0.05, 0.1, 0.5, 0.9, 0.999_999] {
        for (seed, step, micro_batch) in [(0, 0, 0), (42, 7, 3), (u64::MAX, 1 << 40, 9)] {
            let dropout = Dropout::new(p, seed, step, micro_batch).unwrap().unwrap();
            for first in [0, 1, 2, 12_345, (1 << 33) + 1, (1 << 62) - 2] {
                let mut out = [f32::NAN; 101];
                // SAFETY: an array and its length.
                unsafe { multipliers(&Mask::new(&dropout, first), out.as_mut_ptr(), 101) };
                for (index, multiplier) in (first..).zip(out) {
                    assert_eq!(multiplier.to_bits(), dropout.multiplier(index).to_bits(), "{index}");
                }
            }
        }
    }
}

/// Numbers of every kind: signs, halves, subnormals, limits, infinities, and a walk over all exponents.
fn every_kind() -> Vec<f32> {
    let special = [0.0, 0.5, 1.5, 2.5, 1e-45, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, 65_504.0];
    let walk = (0..=255_u32).flat_map(|exponent| {
        [
            0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x3F_FFFF, 0x40_0000,
            0x7F_F000, 0x7F_FFFF,
        ]
        .map(|significand| f32::from_bits(exponent << 23 | significand))
    });
    special.into_iter().chain(walk).flat_map(|value| [value, -value]).collect()
}

#[test]
fn terms_are_those_of_the_cpu() {
    let quantize = host!(host_fixed_point(f32, f32, *const f32, *mut i64, u64) -> bool);
    let one = Stateless::new(1, 1).unwrap();
    for (group, steps) in [(1, 1), (3, 1), (2560, 8), (1 << 16, 8), (1 << 20, 64), (1 << 40, 1)] {
        let fixed = FixedPoint::new(group, steps);
        let unit = f64::from(fixed.exponent()).exp2() as f32;
        let halves = (-9..9).map(|k| (k as f32 + 0.5) / unit);
        let limits = [fixed.limit(), f32::from_bits(fixed.limit().to_bits() - 1)];
        for value in every_kind().into_iter().chain(halves).chain(limits).chain(limits.map(|limit| -limit)) {
            let (mut sums, mut term) = ([0], 0);
            let bad = Map::new(&one, None).reduce(0, &[value], &fixed, &mut sums).unwrap();
            // SAFETY: one number each.
            let theirs = unsafe { quantize(fixed.limit(), unit, &value, &mut term, 1) };
            assert_eq!((theirs, term), (bad, sums[0]), "{value:e}");
        }
    }
    assert_eq!(size_of_val(&Format::new(&FixedPoint::new(1, 1))), 8);
}

#[test]
fn sixteen_bit_formats_round_half_to_even() {
    let round = host!(host_round(bool, *const f32, *mut u16, u64));
    let widen = host!(host_widen(bool, *const u16, *mut f32, u64));
    let middles = (0..0x7C00_u16).map(|bits| {
        let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        if high.is_finite() { (low + high) / 2.0 } else { 65_520.0 }
    });
    let beside =
        |value: f32| [value, f32::from_bits(value.to_bits() + 1), f32::from_bits(value.to_bits() - 1)];
    for value in every_kind().into_iter().chain(middles.flat_map(beside)) {
        for bfloat in [true, false] {
            let mut out = 0;
            // SAFETY: one number each.
            unsafe { round(bfloat, &value, &mut out, 1) };
            let expect =
                if bfloat { bf16::from_f32(value).to_bits() } else { f16::from_f32(value).to_bits() };
            if value.is_nan() {
                assert!(if bfloat { bf16::from_bits(out).is_nan() } else { f16::from_bits(out).is_nan() });
            } else {
                assert_eq!(out, expect, "{value:e}, bfloat {bfloat}");
            }
        }
    }
    for bits in 0..=u16::MAX {
        for bfloat in [true, false] {
            let mut out = 0.0;
            // SAFETY: one number each.
            unsafe { widen(bfloat, &bits, &mut out, 1) };
            let expect = if bfloat { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
            assert!(out.to_bits() == expect.to_bits() || (out.is_nan() && expect.is_nan()), "{bits:x}");
        }
    }
}

// --- Whole kernels ----------------------------------------------------------------------------------------------

fn host(case: &Case) -> Arc<dyn Device> {
    Host::new(small(case.shared))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn apply_is_that_of_the_cpu(case in any_case()) {
        check_apply(&host(&case), &case)?;
    }

    #[test]
    fn reduce_is_that_of_the_cpu(case in any_case(), size in -30_i32..6, bad in prop::option::of(any::<u16>())) {
        check_reduce(&host(&case), &case, size, bad)?;
    }

    #[test]
    fn count_is_that_of_the_cpu(case in any_case()) {
        check_count(&host(&case), &case)?;
    }
}

/// Every instance is launched by name, with many threads, blocks and rounds.
#[test]
fn every_kernel_does_what_its_name_says() {
    check_every_kernel(
        &|shared| {
            let shared_per_block = if shared { 1 << 16 } else { 0 };
            Host::new(Limits {
                multiprocessors: 3,
                shared_per_block,
                shared_per_multiprocessor: 1 << 17,
                threads: 40,
            })
        },
        321,
        20_011,
    );
    for kernel in Kernel::all() {
        // SAFETY: only its address is taken.
        assert!(unsafe { library().get::<*const c_void>(kernel.to_string().as_bytes()) }.is_ok(), "{kernel}");
    }
}

#[test]
fn sums_of_negative_and_large_terms_carry_in_shared_memory() {
    let partition = Stateless::new(3, 2).unwrap();
    let fixed = FixedPoint::new(100_000, 1);
    let mut grads = values(9, 50_000);
    grads.iter_mut().step_by(3).for_each(|grad| *grad *= 20.0);
    let mut expect = [0; 2];
    assert!(!Map::new(&partition, None).reduce(0, &grads, &fixed, &mut expect).unwrap());
    let limits =
        Limits { multiprocessors: 2, shared_per_block: 4096, shared_per_multiprocessor: 8192, threads: 64 };
    let device: Arc<dyn Device> = Host::new(limits);
    let mut map = DeviceMap::new(Arc::clone(&device), &partition, 0..50_000).unwrap();
    let placed = Placed::new(&device, &encode(Element::F32, &grads), 4);
    let run = DeviceGrads {
        first_index: 0,
        numel: 50_000,
        grad: placed.address(),
        element: Element::F32,
        lift: 1.0,
    };
    let mut sums = [0; 2];
    // SAFETY: memory of this process, as long as the run.
    unsafe { map.reduce(None, &[run], &fixed).unwrap() };
    assert!(!map.finish_step(&mut sums).unwrap());
    assert_eq!(sums, expect);
}

#[test]
fn runs_outside_of_the_partition_are_refused() {
    let stored = Materialized::new(42, 10, 1000).unwrap();
    let map = DeviceMap::new(Host::new(small(0)), &stored, 100..200).unwrap();
    for (first_index, numel) in [(99, 1), (150, 51), (200, 1), (u64::MAX, 2)] {
        let run = DeviceWeights { first_index, numel, base: None, out: 0, element: Element::F32 };
        // SAFETY: refused before anything is read.
        let refused = unsafe { map.apply(None, &[run]) };
        assert!(matches!(refused, Err(CudaError::Range { .. })), "{first_index}, {numel}");
    }
    let run = DeviceWeights { first_index: 100, numel: 1, base: Some(16), out: 16, element: Element::Bf16 };
    // SAFETY: as above.
    assert!(matches!(unsafe { map.apply(None, &[run]) }, Err(CudaError::Base { .. })));
    assert!(DeviceMap::new(Host::new(small(0)), &stored, 900..1001).is_err());
}
