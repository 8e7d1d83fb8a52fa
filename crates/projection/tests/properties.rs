//! What apply and reduce promise, over random partitions of every backend and scope, runs, masks, threads and
//! instruction sets.
#![allow(clippy::unwrap_used)]

use partition::{
    Assignment, Backend, BlockRange, Isa, Materialized, Scope, Seed, Spec, Stateless, build, count_parallel,
    scales,
};
use projection::{
    Dropout, Executor, FixedPoint, GradSlice, Map, Reducer, Scoped, Serial, WeightSlice, scale_theta,
};
use proptest::prelude::*;

/// Numbers that look random, between −1 and 1, a function of the seed.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut words = vec![0; len];
    Stateless::new(seed, 1 << 24).unwrap().ids_u64(0, &mut words).unwrap();
    words.into_iter().map(|word| word as f32 / 8_388_608.0 - 1.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[derive(Debug, Clone)]
struct Case {
    backend: Backend,
    seed: u64,
    d: u64,
    /// Where the blocks of the block scope end, as shares of the weights.
    blocks: Option<Vec<u8>>,
    first_index: u64,
    len: usize,
    cuts: [usize; 2],
    p: f64,
    with_base: bool,
}

impl Case {
    fn dropout(&self) -> Option<Dropout> {
        Dropout::new(self.p, self.seed, 3, 1).unwrap()
    }

    /// The partition, of as many weights as there are up to the end of the run (and at least d).
    fn partition(&self) -> Box<dyn Assignment> {
        let total = self.total();
        let scope = self.blocks.as_ref().map_or(Scope::Global, |shares| {
            let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
            let (d, blocks) = (self.d, shares.len() as u64);
            // Every block gets a weight a group, and its share of the others.
            let rest = total - blocks * d.div_ceil(blocks);
            let mut numels: Vec<u64> =
                shares.iter().map(|share| d.div_ceil(blocks) + rest * u64::from(*share) / sum).collect();
            numels[0] += total - numels.iter().sum::<u64>();
            let range = |numel| BlockRange { name: String::new(), numel };
            Scope::Blocks(numels.into_iter().map(range).collect())
        });
        let spec = Spec { backend: self.backend, d: self.d, seed: Seed::from(self.seed), scope };
        let values = (self.backend == Backend::SignedMagnitude).then(|| values(self.seed, total as usize));
        build(&spec, total, values.as_deref()).unwrap()
    }

    fn total(&self) -> u64 {
        let blocks = self.blocks.as_ref().map_or(1, Vec::len) as u64;
        (self.first_index + self.len as u64).max(blocks * self.d.div_ceil(blocks))
    }

    /// The run's groups, read at once.
    fn groups(&self, partition: &dyn Assignment) -> Vec<usize> {
        let mut ids = vec![0; self.len];
        partition.fill(self.first_index, &mut ids).unwrap();
        ids.into_iter().map(|id| id as usize).collect()
    }

    /// The run as three, some of which may be empty.
    fn runs(&self) -> [std::ops::Range<usize>; 3] {
        let [a, b] = self.cuts.map(|cut| cut.min(self.len));
        let (a, b) = (a.min(b), a.max(b));
        [0..a, a..b, b..self.len]
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let d = prop_oneof![1_u64..200, 1_u64..20_000, (0_u32..15).prop_map(|bits| 1 << bits)];
    let p = prop_oneof![Just(0.0), Just(0.05), 0.01_f64..0.9];
    let len = prop_oneof![0_usize..2000, 30_000_usize..40_000];
    let backends = vec![Backend::Stateless, Backend::Materialized, Backend::SignedMagnitude];
    let partition = (
        prop::sample::select(backends),
        any::<u64>(),
        d,
        prop::option::of(prop::collection::vec(1_u8..=255, 1..9)),
        // Beyond a snapshot of the generator, and where nothing depends on the total, far beyond.
        prop_oneof![Just(0), 0_u64..100_000, 0_u64..1 << 50],
    );
    (partition, len, any::<[u16; 2]>(), p, any::<bool>()).prop_map(|(partition, len, cuts, p, with_base)| {
        let (backend, seed, d, blocks, first_index) = partition;
        let hashed = backend == Backend::Stateless;
        Case {
            backend,
            seed,
            d: blocks.as_ref().map_or(d, |blocks| d.max(blocks.len() as u64)),
            blocks,
            first_index: if hashed { first_index } else { first_index % 100_000 },
            len,
            cuts: cuts.map(usize::from),
            p,
            with_base,
        }
    })
}

fn executors() -> [Box<dyn Executor>; 3] {
    [Box::new(Serial), Box::new(Scoped(2)), Box::new(Scoped(3))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The definition, weight by weight, against every instruction set, cut and thread count.
    #[test]
    fn apply_is_its_definition(case in any_case()) {
        let theta = values(case.seed ^ 1, case.d as usize);
        let base = values(case.seed ^ 2, case.len);
        let dropout = case.dropout();
        let partition = case.partition();
        let groups = case.groups(&*partition);
        let expect: Vec<f32> = (case.first_index..).zip(&base).zip(groups).map(|((index, base), group)| {
            let delta = theta[group];
            let delta = dropout.map_or(delta, |dropout| delta * dropout.multiplier(index));
            if case.with_base { base + delta } else { delta }
        }).collect();
        for isa in Isa::available() {
            let map = Map::new(&*partition, dropout).with_isa(isa);
            let mut out = vec![f32::NAN; case.len];
            map.apply(&theta, case.first_index, case.with_base.then_some(&base[..]), &mut out).unwrap();
            prop_assert_eq!(bits(&out), bits(&expect), "{}", isa);
            for executor in executors() {
                out.fill(f32::NAN);
                let mut rest = &mut out[..];
                let mut slices = Vec::new();
                for run in case.runs() {
                    let (out, tail) = rest.split_at_mut(run.len());
                    rest = tail;
                    let first_index = case.first_index + run.start as u64;
                    slices.push(WeightSlice { first_index, base: case.with_base.then_some(&base[run]), out });
                }
                map.apply_parallel(&*executor, &theta, &mut slices).unwrap();
                prop_assert_eq!(bits(&out), bits(&expect), "{} on {} threads", isa, executor.threads());
            }
        }
    }

    /// The definition in 128-bit integers, against every instruction set, cut and thread count.
    #[test]
    fn reduce_is_its_definition(case in any_case(), size in -20_i32..6) {
        let grad: Vec<f32> =
            values(case.seed ^ 3, case.len).into_iter().map(|value| value * (size as f32).exp2()).collect();
        let dropout = case.dropout();
        let partition = case.partition();
        let groups = case.groups(&*partition);
        let fixed = FixedPoint::new(case.len as u64, 2);
        let (mut expect, mut overflow) = (vec![0_i128; case.d as usize], false);
        for ((index, &grad), group) in (case.first_index..).zip(&grad).zip(groups) {
            let grad = dropout.map_or(grad, |dropout| grad * dropout.multiplier(index));
            if grad.abs() < fixed.limit() {
                let term = (f64::from(grad) * f64::from(fixed.exponent()).exp2()).round_ties_even();
                expect[group] += term as i128;
            } else {
                overflow = true;
            }
        }
        let expect: Vec<i64> = expect.into_iter().map(|sum| i64::try_from(sum).unwrap()).collect();
        let slices = case.runs().map(|run| {
            GradSlice { first_index: case.first_index + run.start as u64, grad: &grad[run] }
        });
        for isa in Isa::available() {
            let map = Map::new(&*partition, dropout).with_isa(isa);
            let mut sums = vec![0; case.d as usize];
            prop_assert_eq!(map.reduce(case.first_index, &grad, &fixed, &mut sums).unwrap(), overflow);
            prop_assert_eq!(&sums, &expect, "{}", isa);
            for executor in executors() {
                let mut reducer = Reducer::new(case.d, fixed, executor.threads()).unwrap();
                reducer.add(&map, &*executor, &slices).unwrap();
                reducer.add(&map, &*executor, &slices).unwrap();
                prop_assert_eq!(reducer.finish_step(&*executor, &mut sums).unwrap(), overflow);
                let twice: Vec<i64> = expect.iter().map(|sum| 2 * sum).collect();
                prop_assert_eq!(&sums, &twice, "{} on {} threads", isa, executor.threads());
                // A step starts from zero.
                prop_assert!(!reducer.finish_step(&*executor, &mut sums).unwrap());
                prop_assert!(sums.iter().all(|sum| *sum == 0));
            }
        }
    }

    /// ⟨apply(θ), g⟩ = ⟨θ, reduce(g)⟩, scales and mask included.
    #[test]
    fn reduce_is_the_adjoint_of_apply(case in any_case()) {
        let partition = case.partition();
        let range = case.first_index..case.first_index + case.len as u64;
        let scales = scales(&count_parallel(&*partition, range, 2).unwrap(), true);
        let (theta, grad) = (values(case.seed ^ 4, case.d as usize), values(case.seed ^ 5, case.len));
        let map = Map::new(&*partition, case.dropout());
        let (mut scaled, mut delta) = (vec![0.0; case.d as usize], vec![0.0; case.len]);
        scale_theta(&theta, &scales, &mut scaled).unwrap();
        map.apply(&scaled, case.first_index, None, &mut delta).unwrap();
        let fixed = FixedPoint::new(case.len as u64, 1);
        let (mut sums, mut grad_theta) = (vec![0; case.d as usize], vec![0.0; case.d as usize]);
        prop_assert!(!map.reduce(case.first_index, &grad, &fixed, &mut sums).unwrap());
        fixed.finish(&sums, &scales, &mut grad_theta).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let size: f64 = delta.iter().zip(&grad).map(|(a, b)| f64::from(a * b).abs()).sum();
        let (left, right) = (dot(&delta, &grad), dot(&theta, &grad_theta));
        prop_assert!((left - right).abs() <= 4e-7 * size + 1e-12, "{} and {}", left, right);
    }

    /// The isometry: ‖ΔW‖ is the norm of θ over the groups that are not empty, and counts sum to the weights.
    #[test]
    fn the_norm_is_kept(case in any_case(), threads in 1_usize..4) {
        let partition = case.partition();
        let range = case.first_index..case.first_index + case.len as u64;
        let counts = count_parallel(&*partition, range, threads).unwrap();
        prop_assert_eq!(counts.iter().sum::<u64>(), case.len as u64);
        let theta = values(case.seed ^ 6, case.d as usize);
        let (mut scaled, mut delta) = (vec![0.0; case.d as usize], vec![0.0; case.len]);
        scale_theta(&theta, &scales(&counts, true), &mut scaled).unwrap();
        Map::new(&*partition, None).apply(&scaled, case.first_index, None, &mut delta).unwrap();
        let square = |x: &f32| f64::from(*x).powi(2);
        let expect: f64 =
            theta.iter().zip(&counts).filter(|(_, count)| **count > 0).map(|(theta, _)| square(theta)).sum();
        let norm = delta.iter().map(square).sum::<f64>().sqrt();
        prop_assert!((norm - expect.sqrt()).abs() <= 3e-7 * expect.sqrt(), "{} and {}", norm, expect.sqrt());
    }

    /// All of the weights, block by block or backwards, in one cursor or many: always the same groups.
    #[test]
    fn slices_equal_the_whole(case in any_case(), reads in prop::collection::vec(any::<[u16; 2]>(), 1..20)) {
        let partition = case.partition();
        let whole = case.groups(&*partition);
        let mut kept = partition.cursor();
        for [from, len] in reads {
            let from = usize::from(from).min(whole.len());
            let len = usize::from(len).min(whole.len() - from);
            let mut out = vec![u32::MAX; len];
            for cursor in [&mut kept, &mut partition.cursor()] {
                cursor.fill(case.first_index + from as u64, &mut out).unwrap();
                prop_assert!(out.iter().zip(&whole[from..]).all(|(id, group)| *id as usize == *group));
            }
        }
    }
}

/// Both random backends on every instruction set of theirs, under the same map.
#[test]
fn the_instruction_set_of_the_partition_changes_nothing() {
    const LEN: usize = 100_000;
    let theta = values(1, 1000);
    for first_index in [0, 65_519, 131_041] {
        let mut outs = [Vec::new(), Vec::new()];
        for isa in Isa::available() {
            let stateless = Stateless::new(42, 1000).unwrap().with_isa(isa);
            let materialized = Materialized::new(42, 1000, 250_000).unwrap().with_isa(isa);
            let backends: [&dyn Assignment; 2] = [&stateless, &materialized];
            for (first, partition) in outs.iter_mut().zip(backends) {
                let mut out = vec![f32::NAN; LEN];
                Map::new(partition, None).apply(&theta, first_index, None, &mut out).unwrap();
                if first.is_empty() {
                    first.clone_from(&out);
                }
                assert_eq!(bits(first), bits(&out), "{isa}");
            }
        }
    }
}
