//! What a durable state at every step costs: steps of about 100 ms on one core, d = 524,288, with and without, in turns.
//!
//! The state is written where the system keeps temporary files, or in the folder that `GPART_BENCH_FOLDER` names.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use checkpoint::{Job, Kept, Store, SystemDisk, Vectors, Writer};
use tch::{Device, Kind, Tensor};
use trainer::{AdamW, AdamWOptions};

const D: usize = 524_288;
const STEP_SECONDS: f64 = 0.1;
const STEPS: usize = 20;
const ROUNDS: usize = 9;

/// What a step takes: wall seconds, and processor seconds of this thread and of the others.
#[derive(Default, Clone, Copy)]
struct Cost {
    wall: f64,
    own: f64,
    others: f64,
}

struct Run {
    products: usize,
    a: Tensor,
    adam: AdamW,
    grad: Vec<f32>,
    state: Arc<Vectors>,
    spare: Arc<Vectors>,
    step: u64,
}

impl Run {
    fn new() -> Self {
        let start = Vectors::starting_at(vec![0.0; D]);
        let a = Tensor::randn([512, 512], (Kind::Float, Device::Cpu));
        let adam = AdamW::new(AdamWOptions::with_weight_decay(0.01));
        let grad = (0..D).map(|i| (i as f32).sin() * 1e-3).collect();
        let (spare, state) = (Arc::new(start.clone()), Arc::new(start));
        let mut run = Self { products: 1, a, adam, grad, state, spare, step: 0 };
        run.compute();
        let started = Instant::now();
        run.products = 20;
        run.compute();
        run.products = (STEP_SECONDS / started.elapsed().as_secs_f64() * 20.0).ceil() as usize;
        run
    }

    fn compute(&self) {
        for _ in 0..self.products {
            let _ = self.a.matmul(&self.a);
        }
    }

    /// Some steps; with a writer each leaves a durable state.
    fn steps(&mut self, mut writer: Option<&mut Writer>) -> Cost {
        let (started, own, all) = (Instant::now(), processor_seconds(true), processor_seconds(false));
        for _ in 0..STEPS {
            self.compute();
            if let Some(writer) = &mut writer {
                writer.wait().unwrap();
            }
            self.step += 1;
            let after = Arc::get_mut(&mut self.spare).unwrap();
            self.adam.update(self.step, 1e-4, &self.grad, &self.state, after);
            std::mem::swap(&mut self.state, &mut self.spare);
            if let Some(writer) = &mut writer {
                let (vectors, meta) = (Arc::clone(&self.state), serde_json::json!({"step": self.step}));
                writer.submit(Job {
                    step: self.step,
                    vectors,
                    meta,
                    kept: Kept::Rolling,
                    then: Box::new(|| Ok(())),
                });
            }
        }
        let cost = Cost {
            wall: started.elapsed().as_secs_f64() / STEPS as f64,
            own: (processor_seconds(true) - own) / STEPS as f64,
            others: 0.0,
        };
        if let Some(writer) = writer {
            writer.wait().unwrap();
        }
        Cost { others: (processor_seconds(false) - all) / STEPS as f64 - cost.own, ..cost }
    }
}

/// Processor time so far, of this thread or of the whole process.
fn processor_seconds(this_thread: bool) -> f64 {
    let who = if this_thread { libc::RUSAGE_THREAD } else { libc::RUSAGE_SELF };
    // SAFETY: a structure of numbers, for which zeros are a value, and its address for the call alone.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    tch::set_num_threads(1);
    let folder = std::env::var_os("GPART_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let mut writer = Writer::start(Store::new(folder.path(), 1, 2), Arc::new(SystemDisk)).unwrap();
    let mut run = Run::new();
    run.steps(Some(&mut writer));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(run.steps(None));
        with.push(run.steps(Some(&mut writer)));
    }
    let ratios: Vec<Cost> = with
        .iter()
        .zip(&without)
        .map(|(with, without)| Cost { wall: with.wall / without.wall, ..*with })
        .collect();
    let ms = |costs: &[Cost], of: fn(&Cost) -> f64| 1e3 * median(costs, of);
    println!(
        "a durable state at every step: d = {D}, {} bytes a state, median of {ROUNDS} rounds of {STEPS} steps",
        12 * D
    );
    println!("{:<24} {:>10} {:>16} {:>16}", "", "ms a step", "computing thread", "writing thread");
    for (name, costs) in [("without", &without), ("with", &with)] {
        println!(
            "{name:<24} {:>10.2} {:>13.2} ms {:>13.2} ms",
            ms(costs, |cost| cost.wall),
            ms(costs, |cost| cost.own),
            ms(costs, |cost| cost.others)
        );
    }
    println!("time of a step, with over without: {:.4}", median(&ratios, |cost| cost.wall));
}
