//! What every device must do: the bits of the CPU, over random partitions, runs, masks, formats and alignments.

use std::sync::Arc;

use half::{bf16, f16};
use partition::{Assignment, Backend, BlockRange, Scope, Seed, Spec, Stateless, build, count_parallel};
use projection::cuda::{Buffer, Device, DeviceGrads, DeviceMap, DeviceWeights, Element};
use projection::{Dropout, FixedPoint, Map};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// Numbers that look random, between −1 and 1.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut words = vec![0; len];
    Stateless::new(seed, 1 << 24).unwrap().ids_u64(0, &mut words).unwrap();
    words.into_iter().map(|word| word as f32 / 8_388_608.0 - 1.0).collect()
}

/// Memory on the device that starts `shift` bytes after an aligned address, with guards around it.
pub struct Placed {
    buffer: Buffer,
    start: usize,
    len: usize,
}

impl Placed {
    pub fn new(device: &Arc<dyn Device>, content: &[u8], shift: usize) -> Self {
        const GUARD: usize = 32;
        let start = GUARD + shift;
        let mut bytes = vec![0xEE; start + content.len() + GUARD];
        bytes[start..start + content.len()].copy_from_slice(content);
        let mut buffer = Buffer::new(device, bytes.len() as u64, 1, "a test").unwrap();
        buffer.upload(0, &bytes).unwrap();
        Self { buffer, start, len: content.len() }
    }

    pub fn address(&self) -> u64 {
        self.buffer.address() + self.start as u64
    }

    /// What is in it now; nothing beside it was touched.
    pub fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.start + self.len + 32];
        self.buffer.download(&mut bytes).unwrap();
        let end = self.start + self.len;
        assert!(bytes[..self.start].iter().chain(&bytes[end..]).all(|byte| *byte == 0xEE));
        bytes[self.start..end].to_vec()
    }
}

pub fn encode(element: Element, values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().map(|value| match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
    });
    bytes.flatten().collect()
}

pub fn decode(element: Element, bytes: &[u8]) -> Vec<f32> {
    let word = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    match element {
        Element::F32 => bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect(),
        Element::Bf16 => bytes.chunks(2).map(|bytes| bf16::from_bits(word(bytes)).to_f32()).collect(),
        Element::F16 => bytes.chunks(2).map(|bytes| f16::from_bits(word(bytes)).to_f32()).collect(),
    }
}

#[derive(Debug, Clone)]
pub struct Case {
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
    /// Bytes of shared memory of a device that can choose.
    pub shared: u64,
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

    fn map(&self, device: &Arc<dyn Device>, partition: &dyn Assignment) -> DeviceMap {
        let indices = self.first_index..self.first_index + self.len as u64;
        DeviceMap::new(Arc::clone(device), partition, indices).unwrap()
    }
}

pub fn any_case() -> impl Strategy<Value = Case> {
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

/// [`DeviceMap::apply`] writes what [`Map::apply`] does.
pub fn check_apply(device: &Arc<dyn Device>, case: &Case) -> Result<(), TestCaseError> {
    let partition = case.partition();
    let theta = values(case.seed ^ 1, case.d as usize);
    let base = values(case.seed ^ 2, case.len);
    let mut expect = vec![0.0; case.len];
    let cpu = Map::new(&*partition, case.dropout());
    cpu.apply(&theta, case.first_index, case.base.then_some(&base[..]), &mut expect).unwrap();
    let size = case.element.size() as usize;
    let out = Placed::new(device, &vec![0xBB; case.len * size], case.shifts[0] * size);
    let base = Placed::new(device, &encode(Element::F32, &base), case.shifts[1] * 4);
    let mut map = case.map(device, &*partition);
    map.upload_theta(&theta).unwrap();
    let run = DeviceWeights {
        first_index: case.first_index,
        numel: case.len as u64,
        base: case.base.then(|| base.address()),
        out: out.address(),
        element: case.element,
    };
    // SAFETY: memory of the device, with room for the run.
    unsafe { map.apply(case.dropout(), &[run]).unwrap() };
    prop_assert_eq!(out.content(), encode(case.element, &expect));
    Ok(())
}

/// [`DeviceMap::reduce`] adds what [`Map::reduce`] does, `size` being the binary logarithm of the gradients and `bad` a
/// place for one that does not fit.
pub fn check_reduce(
    device: &Arc<dyn Device>,
    case: &Case,
    size: i32,
    bad: Option<u16>,
) -> Result<(), TestCaseError> {
    let partition = case.partition();
    let mut grads = values(case.seed ^ 3, case.len);
    grads.iter_mut().for_each(|grad| *grad *= (size as f32).exp2());
    if let Some(at) = bad
        && case.len > 0
    {
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
    let grad = Placed::new(device, &encoded, case.shifts[0] * case.element.size() as usize);
    let run = DeviceGrads {
        first_index: case.first_index,
        numel: case.len as u64,
        grad: grad.address(),
        element: case.element,
        lift,
    };
    let mut map = case.map(device, &*partition);
    // SAFETY: memory of the device, as long as the run.
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
    Ok(())
}

/// [`DeviceMap::count`] counts what [`partition::count`] does.
pub fn check_count(device: &Arc<dyn Device>, case: &Case) -> Result<(), TestCaseError> {
    let partition = case.partition();
    let indices = case.first_index..case.first_index + case.len as u64;
    let expect = count_parallel(&*partition, indices.clone(), 1).unwrap();
    prop_assert_eq!(case.map(device, &*partition).count(indices).unwrap(), expect);
    Ok(())
}

/// Every kernel, for `len` weights and `d` groups, whose sums are shared or not as `device` is asked for.
pub fn check_every_kernel(device: &dyn Fn(bool) -> Arc<dyn Device>, d: u64, len: usize) {
    for (backend, shared) in [
        (Backend::Stateless, false),
        (Backend::Stateless, true),
        (Backend::Materialized, false),
        (Backend::Materialized, true),
    ] {
        for (p, element, base) in [0.0, 0.3].into_iter().flat_map(|p| {
            Element::ALL.map(|element| (p, element, false)).into_iter().chain([(p, Element::F32, true)])
        }) {
            let spec = Spec { backend, d, seed: Seed::from(42), scope: Scope::Global };
            let partition = build(&spec, len as u64 + 1, None).unwrap();
            let dropout = Dropout::new(p, 1, 2, 3).unwrap();
            let device = &device(shared);
            let mut map = DeviceMap::new(Arc::clone(device), &*partition, 1..len as u64 + 1).unwrap();
            let (theta, grads) = (values(5, d as usize), values(6, len));
            map.upload_theta(&theta).unwrap();
            let cpu = Map::new(&*partition, dropout);
            let mut expect = vec![0.0; len];
            cpu.apply(&theta, 1, base.then_some(&grads[..]), &mut expect).unwrap();
            let encoded = encode(element, &grads);
            let placed = Placed::new(device, &encoded, 0);
            let run = DeviceWeights {
                first_index: 1,
                numel: len as u64,
                base: base.then(|| placed.address()),
                out: placed.address(),
                element,
            };
            let fixed = FixedPoint::new(len as u64, 1);
            let mut expect_sums = vec![0; d as usize];
            cpu.reduce(1, &decode(element, &encoded), &fixed, &mut expect_sums).unwrap();
            let grad =
                DeviceGrads { first_index: 1, numel: len as u64, grad: placed.address(), element, lift: 1.0 };
            let mut sums = vec![0; d as usize];
            // SAFETY: memory of the device, as long as the runs; `out` may be `base`.
            unsafe {
                map.reduce(dropout, &[grad], &fixed).unwrap();
                map.apply(dropout, &[run]).unwrap();
            }
            assert!(!map.finish_step(&mut sums).unwrap());
            assert_eq!(sums, expect_sums, "{backend:?}, {p}, {element:?}, {shared}");
            assert_eq!(placed.content(), encode(element, &expect), "{backend:?}, {p}, {element:?}, {base}");
        }
    }
}
