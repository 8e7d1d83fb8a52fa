//! Nanoseconds a weight of the hot loops on one core, for both random backends and every instruction set of this
//! processor.
//!
//! `cargo bench -p projection`. Apply and reduce go over 16 Mi weights in runs of 1 Mi, about a block's matrices,
//! nine times, and the best run is shown; counting goes over all at once, and the best of nine is shown. What else
//! the machine is doing slows a run down and never speeds it up, so the best is the loop's own speed.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use partition::{Assignment, Isa, Materialized, SignedMagnitude, Stateless, count, scales};
use projection::{Dropout, FixedPoint, Map, scale_theta};

const WEIGHTS: usize = 1 << 24;
const RUN: usize = 1 << 20;
const REPEATS: usize = 9;
/// The attention weights of a Llama model of 8 billion parameters.
const ATTENTION_8B: u64 = 1_342_177_280;
const COLUMNS: [&str; 7] =
    ["count", "apply", "+ dropout", "reduce", "+ dropout", "apply+reduce", "+ dropout"];

/// The best time of some pieces of work of `weights` each, in nanoseconds a weight.
fn best<T>(weights: usize, pieces: impl Iterator<Item = T>, mut work: impl FnMut(T)) -> f64 {
    let nanoseconds = pieces.map(|piece| {
        let clock = Instant::now();
        work(piece);
        clock.elapsed().as_nanos() as f64
    });
    nanoseconds.fold(f64::INFINITY, f64::min) / weights as f64
}

/// The first index of every run, several times over.
fn runs() -> impl Iterator<Item = u64> {
    (0..REPEATS).flat_map(|_| (0..WEIGHTS as u64).step_by(RUN))
}

fn row(partition: &dyn Assignment, isa: Isa, values: &[f32]) -> [f64; COLUMNS.len()] {
    let d = partition.d();
    let mut counts = vec![0; d as usize];
    // All at once, as the program does.
    let counting = best(WEIGHTS, 0..REPEATS, |_| {
        counts.fill(0);
        count(partition, 0..WEIGHTS as u64, &mut counts).unwrap();
    });
    let mut theta = vec![0.0; d as usize];
    scale_theta(&values[..d as usize], &scales(&counts, true), &mut theta).unwrap();
    let fixed = FixedPoint::new(counts.iter().copied().max().unwrap(), 8);
    let (mut out, mut sums) = (vec![0.0; RUN], vec![0; d as usize]);
    let mut times = [counting, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for (column, p) in [(1, 0.0), (2, 0.05)] {
        let map = Map::new(partition, Dropout::new(p, 1, 2, 3).unwrap()).with_isa(isa);
        times[column] = best(RUN, runs(), |first| {
            map.apply(&theta, first, Some(values), black_box(&mut out)).unwrap();
        });
        times[column + 2] = best(RUN, runs(), |first| {
            black_box(map.reduce(first, values, &fixed, &mut sums)).unwrap();
        });
    }
    (times[5], times[6]) = (times[1] + times[3], times[2] + times[4]);
    times
}

fn main() {
    let values: Vec<f32> = (0..RUN).map(|i| ((i * 7919 % 1013) as f32 - 506.0) * 1e-6).collect();
    println!("ns a weight, one core, {WEIGHTS} weights, dropout 0 and 0.05");
    print!("{:>12} {:>8} {:>7}", "backend", "d", "isa");
    COLUMNS.iter().for_each(|column| print!(" {column:>12}"));
    println!();
    for d in [524_288, 500_000, 65_536] {
        let materialized = Materialized::new(42, d, WEIGHTS as u64).unwrap();
        for isa in Isa::available() {
            let stateless = Stateless::new(42, d).unwrap().with_isa(isa);
            let materialized = materialized.clone().with_isa(isa);
            let backends: [(&str, &dyn Assignment); 2] =
                [("stateless", &stateless), ("materialized", &materialized)];
            for (name, partition) in backends {
                print!("{name:>12} {d:>8} {isa:>7}");
                row(partition, isa, &values).iter().for_each(|time| print!(" {time:>12.2}"));
                println!();
            }
        }
    }
    construction(&values);
}

/// What it takes to make the partitions that are not a mere hash.
fn construction(values: &[f32]) {
    let clock = Instant::now();
    black_box(Materialized::new(42, 524_288, ATTENTION_8B).unwrap());
    let (seconds, bytes) = (clock.elapsed().as_secs_f64(), Materialized::bytes(524_288, ATTENTION_8B));
    println!("materialized of {ATTENTION_8B} weights: made in {seconds:.2} s, holds {bytes} bytes");
    let mut values = values.to_vec();
    values.resize_with(WEIGHTS, {
        let mut word = 1_u32;
        move || {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (word as i32) as f32 * 1e-11
        }
    });
    let clock = Instant::now();
    black_box(SignedMagnitude::new(524_288, &values).unwrap());
    println!("signed_magnitude of {WEIGHTS} weights: made in {:.2} s", clock.elapsed().as_secs_f64());
}
