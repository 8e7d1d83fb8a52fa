//! `bench kernels`: the loops between θ and the weights, beside a copy of as many bytes.

use std::hint::black_box;
use std::time::Instant;

use clap::{Args, ValueEnum};
use miette::Diagnostic;
use partition::{Stateless, count_parallel};
use projection::{
    Dropout, Executor, FixedPoint, GradSlice, Map, ProjectionError, Reducer, Scoped, WeightSlice,
};
use serde_json::json;

use crate::exit::Exit;
use crate::{fail, format};

/// The size of the benchmark, and where it runs.
#[derive(Args)]
pub struct KernelsArgs {
    /// Where
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Weights; memory is 8 bytes each [default: 16777216 on the CPU, 268435456 on a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 36))]
    weights: Option<u64>,
    /// Groups, the length of θ
    #[arg(long, value_name = "D", default_value_t = 524_288,
          value_parser = clap::value_parser!(u64).range(1..=1 << 31))]
    d: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where kernels run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    /// One thread, then as many as there are cores
    Cpu,
    /// The first visible GPU
    Cuda,
}

/// One line of the table.
struct Row {
    operation: String,
    /// Nanoseconds a weight.
    nanoseconds: f64,
    /// 10^9 bytes a second that are read and written, θ and sums not counted; none where there are none.
    rate: Option<f64>,
    /// The same of a copy.
    copy_rate: Option<f64>,
}

/// One table: where it ran, and its lines.
struct Table {
    device: String,
    threads: Option<usize>,
    weights: u64,
    rows: Vec<Row>,
}

/// Runs `bench kernels`.
pub fn run(args: &KernelsArgs) -> Exit {
    let tables = match args.device {
        Device::Cpu => on_cpu(args),
        Device::Cuda => on_cuda(args),
    };
    match tables {
        Ok(tables) if args.json => format::print(&as_json(args, &tables)),
        Ok(tables) => tables.iter().for_each(|table| show(args, table)),
        Err(error) => return fail(error.as_ref()),
    }
    Exit::Done
}

fn show(args: &KernelsArgs, table: &Table) {
    let threads = table
        .threads
        .map_or(String::new(), |threads| format!(", {}", format::counted(threads as u64, "thread")));
    format::print(&format!(
        "{}{threads}: {} weights, d {}",
        table.device,
        format::grouped(table.weights),
        format::grouped(args.d)
    ));
    format::print(&format!("  {:<28} {:>12} {:>9} {:>12}", "", "ns a weight", "GB/s", "copy, GB/s"));
    let rate = |rate: Option<f64>| rate.map_or("–".to_owned(), |rate| format!("{rate:.1}"));
    for row in &table.rows {
        format::print(&format!(
            "  {:<28} {:>12.4} {:>9} {:>12}",
            row.operation,
            row.nanoseconds,
            rate(row.rate),
            rate(row.copy_rate)
        ));
    }
}

fn as_json(args: &KernelsArgs, tables: &[Table]) -> String {
    let rows = tables.iter().flat_map(|table| {
        table.rows.iter().map(move |row| {
            json!({
                "device": table.device,
                "threads": table.threads,
                "operation": row.operation,
                "weights": table.weights,
                "d": args.d,
                "ns_per_weight": row.nanoseconds,
                "gb_per_s": row.rate,
                "copy_gb_per_s": row.copy_rate,
            })
        })
    });
    serde_json::Value::Array(rows.collect()).to_string()
}

// --- CPU --------------------------------------------------------------------------------------------------------

/// Runs of which the best counts: what else the machine does slows a run down and never speeds it up.
const REPEATS: usize = 5;

fn on_cpu(args: &KernelsArgs) -> Result<Vec<Table>, Box<dyn Diagnostic>> {
    let weights = args.weights.unwrap_or(1 << 24);
    let partition = Stateless::new(42, args.d).map_err(boxed)?;
    let mut arrays = Arrays::new(weights, args.d).map_err(boxed)?;
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = vec![1, all];
    threads.dedup();
    let mut table = |threads: usize| -> Result<Table, Box<dyn Diagnostic>> {
        let rows = arrays.measure(&partition, &Scoped(threads)).map_err(boxed)?;
        Ok(Table { device: "CPU".to_owned(), threads: Some(threads), weights, rows })
    };
    threads.into_iter().map(&mut table).collect()
}

fn boxed<E: Diagnostic + 'static>(error: E) -> Box<dyn Diagnostic> {
    Box::new(error)
}

/// Weights, results and θ.
struct Arrays {
    read: Vec<f32>,
    written: Vec<f32>,
    theta: Vec<f32>,
    sums: Vec<i64>,
}

impl Arrays {
    fn new(weights: u64, d: u64) -> Result<Self, ProjectionError> {
        let filled = |len: u64| -> Result<Vec<f32>, ProjectionError> {
            let refused = || ProjectionError::Memory { d: len, threads: 1 };
            let len = usize::try_from(len).map_err(|_| refused())?;
            let mut values = Vec::new();
            values.try_reserve_exact(len).map_err(|_| refused())?;
            values.extend((0..len).map(|k| ((k * 7919 % 1013) as f32 - 506.0) * 1e-6));
            Ok(values)
        };
        Ok(Self {
            read: filled(weights)?,
            written: filled(weights)?,
            theta: filled(d)?,
            sums: vec![0; d as usize],
        })
    }

    fn measure(&mut self, partition: &Stateless, executor: &Scoped) -> Result<Vec<Row>, ProjectionError> {
        let weights = self.read.len() as u64;
        let copies = best(|| {
            copy(executor, &self.read, &mut self.written);
            Ok(())
        })?;
        let copy_rate = 8.0 * weights as f64 / copies * 1e-9;
        let row = |operation: &str, bytes: u64, seconds: f64| Row {
            operation: operation.to_owned(),
            nanoseconds: seconds / weights as f64 * 1e9,
            rate: (bytes > 0).then(|| (bytes * weights) as f64 / seconds * 1e-9),
            copy_rate: (bytes > 0).then_some(copy_rate),
        };
        let mut rows = Vec::new();
        let counting = best(|| {
            black_box(count_parallel(partition, 0..weights, executor.threads())?);
            Ok(())
        })?;
        rows.push(row("count", 0, counting));
        let fixed = FixedPoint::new(weights, 1);
        let dropout = Dropout::new(0.05, 1, 2, 3)?;
        for (operation, with_base, dropout) in [
            ("apply f32 with base", true, None),
            ("apply f32", false, None),
            ("apply f32 with dropout", false, dropout),
        ] {
            let map = Map::new(partition, dropout);
            let seconds = best(|| {
                let base = with_base.then_some(&self.read[..]);
                let mut slices = [WeightSlice { first_index: 0, base, out: &mut self.written }];
                map.apply_parallel(executor, &self.theta, &mut slices)
            })?;
            rows.push(row(operation, if with_base { 8 } else { 4 }, seconds));
        }
        for (operation, dropout) in [("reduce f32", None), ("reduce f32 with dropout", dropout)] {
            let mut reducer = Reducer::new(self.theta.len() as u64, fixed, executor.threads())?;
            let slice = GradSlice { first_index: 0, grad: &self.read };
            let map = Map::new(partition, dropout);
            let seconds = best(|| reducer.add(&map, executor, &[slice]))?;
            black_box(reducer.finish_step(executor, &mut self.sums)?);
            rows.push(row(operation, 4, seconds));
        }
        Ok(rows)
    }
}

/// The best time of some runs, in seconds, after one that is not measured.
fn best(mut work: impl FnMut() -> Result<(), ProjectionError>) -> Result<f64, ProjectionError> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let clock = Instant::now();
        work()?;
        best = best.min(clock.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// A copy on as many threads.
fn copy(executor: &Scoped, from: &[f32], to: &mut [f32]) {
    let part = from.len().div_ceil(executor.threads()).max(1);
    std::thread::scope(|scope| {
        for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
            scope.spawn(move || black_box(to).copy_from_slice(from));
        }
    });
}

// --- CUDA -------------------------------------------------------------------------------------------------------

#[cfg(feature = "cuda")]
fn on_cuda(args: &KernelsArgs) -> Result<Vec<Table>, Box<dyn Diagnostic>> {
    use projection::cuda::{CudaKernels, ImageCache, NoCache, bench};
    let images: Box<dyn ImageCache> = match crate::train::kernel_cache() {
        Some(folder) => Box::new(trainer::ImageFolder::new(folder)),
        None => Box::new(NoCache),
    };
    let kernels = CudaKernels::new(0, &trainer::nvrtc_folders(), &*images).map_err(boxed)?;
    let weights = args.weights.unwrap_or(1 << 28);
    let partition = Stateless::new(42, args.d).map_err(boxed)?;
    let rows = bench(&kernels, &partition, weights).map_err(boxed)?.into_iter().map(|timing| {
        let rate = |milliseconds: f32| {
            (timing.bytes > 0).then(|| timing.bytes as f64 / f64::from(milliseconds) * 1e-6)
        };
        Row {
            operation: timing.operation.to_owned(),
            nanoseconds: f64::from(timing.milliseconds) * 1e6 / timing.numel as f64,
            rate: rate(timing.milliseconds),
            copy_rate: rate(timing.copy_milliseconds),
        }
    });
    let (driver, nvrtc) = (kernels.driver_version(), kernels.key().nvrtc);
    let device = format!(
        "{} ({}, driver for CUDA {}.{}, NVRTC {}.{})",
        kernels.name(),
        kernels.key().architecture,
        driver.0,
        driver.1,
        nvrtc.0,
        nvrtc.1
    );
    Ok(vec![Table { device, threads: None, weights, rows: rows.collect() }])
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &KernelsArgs) -> Result<Vec<Table>, Box<dyn Diagnostic>> {
    Err(boxed(projection::cuda::CudaError::Missing {
        what: "this gpart-dist was built without CUDA".to_owned(),
        hint: "build it with the feature `cuda`, which is on by default".to_owned(),
    }))
}
