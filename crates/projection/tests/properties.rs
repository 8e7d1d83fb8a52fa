//! What apply and reduce promise, over random partitions, runs, masks, threads and instruction sets.
#![allow(clippy::unwrap_used)]

use partition::{Isa, Stateless, count_parallel, scales};
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
    seed: u64,
    d: u64,
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
    (any::<u64>(), d, 0_u64..1 << 50, len, any::<[u16; 2]>(), p, any::<bool>()).prop_map(
        |(seed, d, first_index, len, cuts, p, with_base)| Case {
            seed,
            d,
            first_index,
            len,
            cuts: cuts.map(usize::from),
            p,
            with_base,
        },
    )
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
        let partition = Stateless::new(case.seed, case.d).unwrap();
        let expect: Vec<f32> = (case.first_index..).zip(&base).map(|(index, base)| {
            let delta = theta[partition.group(index) as usize];
            let delta = dropout.map_or(delta, |dropout| delta * dropout.multiplier(index));
            if case.with_base { base + delta } else { delta }
        }).collect();
        for isa in Isa::available() {
            let partition = partition.with_isa(isa);
            let map = Map::new(&partition, dropout).with_isa(isa);
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
        let partition = Stateless::new(case.seed, case.d).unwrap();
        let fixed = FixedPoint::new(case.len as u64, 2);
        let (mut expect, mut overflow) = (vec![0_i128; case.d as usize], false);
        for (index, &grad) in (case.first_index..).zip(&grad) {
            let grad = dropout.map_or(grad, |dropout| grad * dropout.multiplier(index));
            if grad.abs() < fixed.limit() {
                let term = (f64::from(grad) * f64::from(fixed.exponent()).exp2()).round_ties_even();
                expect[partition.group(index) as usize] += term as i128;
            } else {
                overflow = true;
            }
        }
        let expect: Vec<i64> = expect.into_iter().map(|sum| i64::try_from(sum).unwrap()).collect();
        let slices = case.runs().map(|run| {
            GradSlice { first_index: case.first_index + run.start as u64, grad: &grad[run] }
        });
        for isa in Isa::available() {
            let partition = partition.with_isa(isa);
            let map = Map::new(&partition, dropout).with_isa(isa);
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
        let partition = Stateless::new(case.seed, case.d).unwrap();
        let range = case.first_index..case.first_index + case.len as u64;
        let scales = scales(&count_parallel(&partition, range, 2).unwrap(), true);
        let (theta, grad) = (values(case.seed ^ 4, case.d as usize), values(case.seed ^ 5, case.len));
        let map = Map::new(&partition, case.dropout());
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

    /// The isometry: where no group is empty, ‖ΔW‖ = ‖θ‖.
    #[test]
    fn the_norm_is_kept(seed in any::<u64>(), d in 1_u64..300, first_index in 0_u64..1 << 50, more in 0_usize..9999) {
        let len = d as usize * 20 + more;
        let partition = Stateless::new(seed, d).unwrap();
        let counts = count_parallel(&partition, first_index..first_index + len as u64, 1).unwrap();
        prop_assert_eq!(counts.iter().sum::<u64>(), len as u64);
        prop_assume!(counts.iter().all(|count| *count > 0));
        let theta = values(seed ^ 6, d as usize);
        let (mut scaled, mut delta) = (vec![0.0; d as usize], vec![0.0; len]);
        scale_theta(&theta, &scales(&counts, true), &mut scaled).unwrap();
        Map::new(&partition, None).apply(&scaled, first_index, None, &mut delta).unwrap();
        let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        prop_assert!((norm(&delta) / norm(&theta) - 1.0).abs() < 3e-7);
    }
}
