//! The same bits: twice, on several ranks that share the device, over NCCL, and after a stop.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::golden::demo;
use super::runs::{Run, first_difference};
use super::{Context, Device, Found, NotPassed, Numbers};

/// Settings of every run here: dropout and another order each epoch, so that what depends on the mesh would show.
const SETTINGS: [&str; 22] = [
    "--d",
    "4096",
    "--max-samples",
    "30",
    "--max-seq-length",
    "128",
    "--dropout",
    "0.1",
    "--learning-rate",
    "2e-2",
    "--warmup-ratio",
    "0",
    "--micro-batch-size",
    "2",
    "--accumulation-steps",
    "3",
    "--max-steps",
    "10",
    "--logging-steps",
    "1",
    "--save-steps",
    "1000",
];

/// One comparison with the run of a single rank.
pub struct Case {
    dtype: &'static str,
    what: &'static str,
    ranks: usize,
    flags: &'static [&'static str],
}

impl Case {
    /// The check's name.
    pub fn name(&self) -> String {
        format!("bits {} {}", self.dtype, self.what)
    }
}

/// What is compared, in the order of dtypes: the first of each makes the run that the others are compared with.
pub fn cases(context: &Context) -> Vec<Case> {
    const REPLICATE: (&str, usize, &[&str]) = ("dp-replicate 2", 2, &["--dp-replicate", "2"]);
    const SHARD: (&str, usize, &[&str]) = ("dp-shard 2", 2, &["--dp-shard", "2"]);
    const PIPELINE: (&str, usize, &[&str]) = ("pp 2", 2, &["--pp", "2"]);
    let dtypes: &[&str] = &["float32", "bfloat16"];
    let mut cases = Vec::new();
    for dtype in dtypes {
        let case = |(what, ranks, flags)| Case { dtype, what, ranks, flags };
        cases.push(case(("twice", 1, &[][..])));
        let all = [REPLICATE, SHARD, PIPELINE].into_iter();
        // A quick check has every mesh once.
        let quick = |(what, ..): &(&str, usize, &[&str])| (*dtype == "float32") == (*what != SHARD.0);
        cases.extend(all.filter(|mesh| !context.quick || quick(mesh)).map(case));
    }
    cases.push(Case { dtype: "float32", what: "comm nccl", ranks: 1, flags: &["--comm", "nccl"] });
    cases
}

/// Compares a run with the one of a single rank, bit for bit after every step.
pub fn check(context: &Context, case: &Case, numbers: &mut Numbers) -> Found {
    if case.what == "comm nccl" && context.device != Device::Cuda {
        return Err(NotPassed::Skipped("NCCL carries messages between GPUs, and this is the CPU".to_owned()));
    }
    let single = single(context, case.dtype)?;
    let mut flags = vec!["--dtype", case.dtype];
    flags.extend(case.flags);
    if case.ranks > 1 {
        flags.extend(context.sharing());
    }
    let [model, data] = sources(context);
    let run = context.train(&case.name(), case.ranks, &settings(&model, &data, &flags))?;
    numbers.insert("steps".into(), json!(run.steps.len()));
    numbers.insert("theta_blake3".into(), json!(run.steps.last().map(|step| &step.theta_blake3)));
    numbers.insert("tokens_per_second".into(), json!(run.tokens_per_second()));
    same(&run, &single, "the run of one rank")
}

/// Most that a step's loss may differ between padded and packed rows, nats a token: they differ by the order of additions
/// alone, which in float32 is 1e-7 on a CPU.
fn packing_tolerance(dtype: &str) -> f64 {
    if dtype == "float32" { 1e-4 } else { 0.02 }
}

/// A run whose rows are packed has the losses of the one whose rows are padded, and the bits of itself on two ranks.
pub fn packing(context: &Context, dtype: &'static str, numbers: &mut Numbers) -> Found {
    let single = single(context, dtype)?;
    let [model, data] = sources(context);
    let flags = ["--dtype", dtype, "--packing"];
    let packed = context.train(&format!("packing {dtype}"), 1, &settings(&model, &data, &flags))?;
    let pairs = packed.steps.iter().zip(&single.steps);
    let largest = pairs.map(|(a, b)| (a.loss - b.loss).abs()).fold(0.0, f64::max);
    let tolerance = packing_tolerance(dtype);
    numbers.insert("loss_difference".into(), json!(largest));
    numbers.insert("loss_tolerance".into(), json!(tolerance));
    numbers.insert("tokens_per_second".into(), json!(packed.tokens_per_second()));
    numbers.insert("tokens_per_second_padded".into(), json!(single.tokens_per_second()));
    if packed.steps.len() != single.steps.len() || largest.is_nan() || largest > tolerance {
        let steps = packed.steps.len();
        return Err(
            format!("losses of {steps} steps differ by up to {largest:.1e} (allowed: {tolerance})").into()
        );
    }
    let mut flags = Vec::from(flags);
    flags.extend(["--dp-replicate", "2"]);
    flags.extend(context.sharing());
    let twice = context.train(&format!("packing {dtype} on 2"), 2, &settings(&model, &data, &flags))?;
    same(&twice, &packed, "the packed run of one rank")?;
    Ok(format!("losses within {largest:.1e} nats of padded rows'; the same bits on two ranks"))
}

/// A run that is asked to stop and started again is the run that was not.
pub fn resume(context: &Context, numbers: &mut Numbers) -> Found {
    const ATTEMPTS: usize = 3;
    let single = single(context, "float32")?;
    let [model, data] = sources(context);
    for attempt in 1..=ATTEMPTS {
        let name = format!("resume {attempt}");
        let (folder, args) = context.training(&name, &settings(&model, &data, &["--dtype", "float32"]));
        let mut running = context.children.start(&name, 1, &args)?;
        let has_begun =
            || std::fs::read(folder.join("metrics.jsonl")).is_ok_and(|text| text.contains(&b'\n'));
        running.until(Duration::from_secs(120), has_begun);
        running.send(Signal::USR1);
        let ended = running.finish(Duration::from_secs(120))?;
        match ended.status.code() {
            Some(75) => {}
            // It was done before the signal came.
            Some(0) => continue,
            _ => return Err(ended.failure().into()),
        }
        let stopped = Run::read(&folder)?.steps.len();
        numbers.insert("stopped_after_step".into(), json!(stopped));
        context.children.succeed(&format!("{name} again"), 1, &args)?;
        return same(
            &Run::read(&folder)?,
            &single,
            &format!("the run that did not stop (after step {stopped})"),
        );
    }
    Err(format!("the run was done before it could be stopped, {ATTEMPTS} times").into())
}

/// The run of one rank that others are compared with, made when it is first asked for.
fn single(context: &Context, dtype: &str) -> Result<Run, String> {
    let [model, data] = sources(context);
    context.train_once(&format!("single {dtype}"), &settings(&model, &data, &["--dtype", dtype]))
}

fn sources(context: &Context) -> [String; 2] {
    [context.goldens.model.clone(), context.goldens.data(demo())].map(|path| path.display().to_string())
}

fn settings<'a>(model: &'a str, data: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["--model", model, "--data", data], &SETTINGS[..], flags].concat()
}

fn same(run: &Run, expected: &Run, whose: &str) -> Found {
    if let Some(difference) = first_difference(&run.steps, &expected.steps) {
        return Err(format!("not that of {whose}: {difference}").into());
    }
    let bits =
        |run: &Run| -> Result<Vec<u32>, String> { Ok(run.theta()?.iter().map(|x| x.to_bits()).collect()) };
    if bits(run)? != bits(expected)? {
        return Err(format!("the adapter's θ is not that of {whose}, though every step's was").into());
    }
    Ok(format!("θ after each of {} steps is that of {whose}, bit for bit", run.steps.len()))
}
