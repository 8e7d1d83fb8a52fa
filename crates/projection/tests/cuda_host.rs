//! The CUDA source on the CPU: its arithmetic and its whole kernels against the Rust versions, bit by bit.
//!
//! The source is compiled by the C++ compiler (`CXX`, or `c++`) with a header that stands for CUDA, and what starts
//! the kernels is the code that starts them on a GPU.
#![allow(clippy::unwrap_used)]

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use half::{bf16, f16};
use libloading::Library;
use partition::{
    Assignment, Backend, BlockRange, Materialized, Scope, Seed, Spec, Stateless, build, count_parallel,
};
use projection::cuda::{
    CudaError, Device, DeviceGrads, DeviceMap, DeviceWeights, Element, Format, Kernel, Limits, Mask, Modulus,
    Parameters, Shape,
};
use projection::{Dropout, FixedPoint, Map};
use proptest::prelude::*;

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

/// Numbers that look random, between −1 and 1.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut words = vec![0; len];
    Stateless::new(seed, 1 << 24).unwrap().ids_u64(0, &mut words).unwrap();
    words.into_iter().map(|word| word as f32 / 8_388_608.0 - 1.0).collect()
}

/// Memory on the device that starts `shift` elements after an aligned address, with guards around it.
struct Placed {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Placed {
    fn new(content: &[u8], shift: usize) -> Self {
        let mut bytes = vec![0xEE; content.len() + 128];
        let aligned = bytes.as_ptr().align_offset(16) + 32;
        let start = aligned + shift;
        bytes[start..start + content.len()].copy_from_slice(content);
        Self { bytes, start, len: content.len() }
    }

    fn address(&self) -> u64 {
        self.bytes[self.start..].as_ptr() as u64
    }

    /// What is in it now; nothing beside it was touched.
    fn content(&self) -> &[u8] {
        let end = self.start + self.len;
        assert!(self.bytes[..self.start].iter().chain(&self.bytes[end..]).all(|byte| *byte == 0xEE));
        &self.bytes[self.start..end]
    }
}

fn encode(element: Element, values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().map(|value| match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
    });
    bytes.flatten().collect()
}

fn decode(element: Element, bytes: &[u8]) -> Vec<f32> {
    let word = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    match element {
        Element::F32 => bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect(),
        Element::Bf16 => bytes.chunks(2).map(|bytes| bf16::from_bits(word(bytes)).to_f32()).collect(),
        Element::F16 => bytes.chunks(2).map(|bytes| f16::from_bits(word(bytes)).to_f32()).collect(),
    }
}

#[derive(Debug, Clone)]
struct Case {
    backend: Backend,
    seed: u64,
    d: u64,
    /// Blocks of the block scope; 1 is the global one.
    blocks: u64,
    first_index: u64,
    len: usize,
    /// Elements after an aligned address, of the output or gradients and of the base.
    shifts: [usize; 2],
    p: f64,
    element: Element,
    base: bool,
    lift: i32,
    shared: u64,
}

impl Case {
    fn total(&self) -> u64 {
        (self.first_index + self.len as u64).max(self.blocks * self.d)
    }

    fn partition(&self) -> Box<dyn Assignment> {
        let total = self.total();
        let scope = if self.blocks == 1 {
            Scope::Global
        } else {
            let numel = total / self.blocks;
            let last = total - numel * (self.blocks - 1);
            let numels = (0..self.blocks).map(|block| if block + 1 == self.blocks { last } else { numel });
            Scope::Blocks(numels.map(|numel| BlockRange { name: String::new(), numel }).collect())
        };
        let spec = Spec { backend: self.backend, d: self.d, seed: Seed::from(self.seed), scope };
        let values = (self.backend == Backend::SignedMagnitude).then(|| values(self.seed, total as usize));
        build(&spec, total, values.as_deref()).unwrap()
    }

    fn dropout(&self) -> Option<Dropout> {
        Dropout::new(self.p, self.seed, 3, 1).unwrap()
    }

    fn map(&self, partition: &dyn Assignment) -> DeviceMap {
        let indices = self.first_index..self.first_index + self.len as u64;
        DeviceMap::new(Host::new(small(self.shared)), partition, indices).unwrap()
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let backends =
        vec![Backend::Stateless, Backend::Stateless, Backend::Materialized, Backend::SignedMagnitude];
    let d = prop_oneof![1_u64..9, 1_u64..200, (0_u32..12).prop_map(|bits| 1 << bits)];
    let first = prop_oneof![Just(0), 0_u64..5000, 0_u64..1 << 40];
    let len = prop_oneof![0_usize..40, 0_usize..3000];
    let element = prop::sample::select(Element::ALL.to_vec());
    let p = prop_oneof![Just(0.0), 0.01_f64..0.9];
    // Shared memory for no sums, for some, and for all.
    let shared = prop_oneof![Just(0_u64), Just(2048), Just(1 << 16)];
    let place = (first, len, any::<[u8; 2]>(), any::<bool>(), prop_oneof![Just(0), -20_i32..20], shared);
    (prop::sample::select(backends), any::<u64>(), d, 1_u64..4, p, element, place).prop_map(
        |(backend, seed, d, blocks, p, element, (first, len, shifts, base, lift, shared))| {
            let first_index = if backend == Backend::Stateless { first } else { first % 5000 };
            let shifts = shifts.map(|shift| usize::from(shift % 8));
            let base = base && element == Element::F32;
            let d = d.max(blocks);
            Case { backend, seed, d, blocks, first_index, len, shifts, p, element, base, lift, shared }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn apply_is_that_of_the_cpu(case in any_case()) {
        let partition = case.partition();
        let theta = values(case.seed ^ 1, case.d as usize);
        let base = values(case.seed ^ 2, case.len);
        let mut expect = vec![0.0; case.len];
        let cpu = Map::new(&*partition, case.dropout());
        cpu.apply(&theta, case.first_index, case.base.then_some(&base[..]), &mut expect).unwrap();
        let size = case.element.size() as usize;
        let out = Placed::new(&vec![0xBB; case.len * size], case.shifts[0] * size);
        let base = Placed::new(&encode(Element::F32, &base), case.shifts[1] * 4);
        let mut map = case.map(&*partition);
        map.upload_theta(&theta).unwrap();
        let run = DeviceWeights {
            first_index: case.first_index,
            numel: case.len as u64,
            base: case.base.then(|| base.address()),
            out: out.address(),
            element: case.element,
        };
        // SAFETY: memory of this process, with room for the run.
        unsafe { map.apply(case.dropout(), &[run]).unwrap() };
        prop_assert_eq!(out.content(), &encode(case.element, &expect)[..]);
    }

    #[test]
    fn reduce_is_that_of_the_cpu(case in any_case(), size in -30_i32..6, bad in prop::option::of(any::<u16>())) {
        let partition = case.partition();
        let mut grads = values(case.seed ^ 3, case.len);
        grads.iter_mut().for_each(|grad| *grad *= (size as f32).exp2());
        if let Some(at) = bad && case.len > 0 {
            grads[usize::from(at) % case.len] = [f32::NAN, f32::INFINITY, -3e4][usize::from(at % 3)];
        }
        let encoded = encode(case.element, &grads);
        let lift = (case.lift as f32).exp2();
        let grads: Vec<f32> = decode(case.element, &encoded).into_iter().map(|grad| grad / lift).collect();
        let fixed = FixedPoint::new(case.len as u64, 4);
        let (mut expect, mut sums) = (vec![0; case.d as usize], vec![7; case.d as usize]);
        let cpu = Map::new(&*partition, case.dropout());
        let overflow = cpu.reduce(case.first_index, &grads, &fixed, &mut expect).unwrap();
        let twice: Vec<i64> = expect.iter().map(|sum| 2 * sum).collect();
        let grad = Placed::new(&encoded, case.shifts[0] * case.element.size() as usize);
        let run = DeviceGrads {
            first_index: case.first_index,
            numel: case.len as u64,
            grad: grad.address(),
            element: case.element,
            lift,
        };
        let mut map = case.map(&*partition);
        // SAFETY: memory of this process, as long as the run.
        unsafe { map.reduce(case.dropout(), &[run], &fixed).unwrap() };
        prop_assert_eq!(map.finish_step(&mut sums).unwrap(), overflow);
        prop_assert_eq!(&sums, &expect);
        // SAFETY: as above.
        unsafe { map.reduce(case.dropout(), &[run, run], &fixed).unwrap() };
        prop_assert_eq!(map.finish_step(&mut sums).unwrap(), overflow);
        prop_assert_eq!(&sums, &twice);
        // A step starts from zero.
        prop_assert!(!map.finish_step(&mut sums).unwrap());
        prop_assert!(sums.iter().all(|sum| *sum == 0));
        grad.content();
    }

    #[test]
    fn count_is_that_of_the_cpu(case in any_case()) {
        let partition = case.partition();
        let indices = case.first_index..case.first_index + case.len as u64;
        let expect = count_parallel(&*partition, indices.clone(), 1).unwrap();
        prop_assert_eq!(case.map(&*partition).count(indices).unwrap(), expect);
    }
}

/// Every instance is launched by name, for the partition that it is for; with many threads, blocks and rounds.
#[test]
fn every_kernel_does_what_its_name_says() {
    let limits = Limits {
        multiprocessors: 3,
        shared_per_block: 1 << 16,
        shared_per_multiprocessor: 1 << 17,
        threads: 40,
    };
    for (backend, shared) in [
        (Backend::Stateless, 0),
        (Backend::Stateless, 1 << 16),
        (Backend::Materialized, 0),
        (Backend::Materialized, 1 << 16),
    ] {
        for (p, element, base) in [0.0, 0.3].into_iter().flat_map(|p| {
            Element::ALL.map(|element| (p, element, false)).into_iter().chain([(p, Element::F32, true)])
        }) {
            let (d, len) = (321, 20_011);
            let spec = Spec { backend, d, seed: Seed::from(42), scope: Scope::Global };
            let partition = build(&spec, len as u64 + 1, None).unwrap();
            let dropout = Dropout::new(p, 1, 2, 3).unwrap();
            let limits = Limits { shared_per_block: shared, ..limits };
            let mut map = DeviceMap::new(Host::new(limits), &*partition, 1..len as u64 + 1).unwrap();
            let (theta, grads) = (values(5, d as usize), values(6, len));
            map.upload_theta(&theta).unwrap();
            let cpu = Map::new(&*partition, dropout);
            let mut expect = vec![0.0; len];
            cpu.apply(&theta, 1, base.then_some(&grads[..]), &mut expect).unwrap();
            let encoded = encode(element, &grads);
            let placed = Placed::new(&encoded, 0);
            let run = DeviceWeights {
                first_index: 1,
                numel: len as u64,
                base: base.then(|| placed.address()),
                out: placed.address(),
                element,
            };
            let fixed = FixedPoint::new(1000, 1);
            let mut expect_sums = vec![0; d as usize];
            cpu.reduce(1, &decode(element, &encoded), &fixed, &mut expect_sums).unwrap();
            let grad =
                DeviceGrads { first_index: 1, numel: len as u64, grad: placed.address(), element, lift: 1.0 };
            let mut sums = vec![0; d as usize];
            // SAFETY: memory of this process, as long as the runs; `out` may be `base`.
            unsafe {
                map.reduce(dropout, &[grad], &fixed).unwrap();
                map.apply(dropout, &[run]).unwrap();
            }
            assert!(!map.finish_step(&mut sums).unwrap());
            assert_eq!(sums, expect_sums, "{backend:?}, {p}, {element:?}, {shared}");
            assert_eq!(placed.content(), encode(element, &expect), "{backend:?}, {p}, {element:?}, {base}");
        }
    }
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
    let mut map = DeviceMap::new(Host::new(limits), &partition, 0..50_000).unwrap();
    let placed = Placed::new(&encode(Element::F32, &grads), 4);
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
