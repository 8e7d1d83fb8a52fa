//! How fast training is: told, not judged.

use serde_json::{Value, json};

use super::golden::demo;
use super::{Context, Device, Found, NotPassed, Numbers};
use crate::format::grouped;

/// Trains a random model of a real shape for a few steps in each format.
pub fn check(context: &Context, numbers: &mut Numbers) -> Found {
    if context.quick {
        return Err(NotPassed::Skipped("left out by --quick".to_owned()));
    }
    // On a CPU the demo model will do; a GPU needs something to compute.
    let (model, what, rows) = match context.device {
        Device::Cuda => (random_model(context)?, "Qwen2.5-0.5B", "8"),
        Device::Auto | Device::Cpu => (context.goldens.model.display().to_string(), "the demo model", "2"),
    };
    let data = context.goldens.data(demo()).display().to_string();
    let mut said = Vec::new();
    for dtype in ["float32", "bfloat16"] {
        let run = context.train(
            &format!("speed {dtype}"),
            1,
            &[
                "--model",
                &model,
                "--data",
                &data,
                "--d",
                "65536",
                "--max-seq-length",
                "512",
                "--micro-batch-size",
                rows,
                "--accumulation-steps",
                "4",
                "--max-steps",
                "6",
                "--dtype",
                dtype,
                "--save-steps",
                "1000",
            ],
        )?;
        let speed = run.tokens_per_second();
        numbers.insert(format!("tokens_per_second_{dtype}"), json!(speed));
        numbers.insert(
            format!("step_seconds_{dtype}"),
            json!(run.steps.iter().map(|s| s.step_seconds).collect::<Vec<_>>()),
        );
        said.push(format!("{dtype} {} tokens/s", grouped(speed as u64)));
    }
    numbers.insert("model".into(), json!(what));
    Ok(format!("{what}: {}", said.join(", ")))
}

/// Shapes whose steps are measured.
pub fn shapes(context: &Context) -> &'static [&'static str] {
    match context.device {
        Device::Cuda => &["Qwen2.5-0.5B", "Llama-3.1-8B"],
        Device::Auto | Device::Cpu => &["demo"],
    }
}

/// Runs `bench step` on a shape; what it finds is told, not judged.
pub fn step(context: &Context, shape: &str, numbers: &mut Numbers) -> Found {
    if context.quick {
        return Err(NotPassed::Skipped("left out by --quick".to_owned()));
    }
    let model = match shape {
        "demo" => context.goldens.model.display().to_string(),
        known => known.to_owned(),
    };
    let mut args = vec!["bench", "step", "--json", "--model", &model];
    let device = context.device.to_string();
    args.extend(["--device", &device]);
    if context.device != Device::Cuda {
        args.extend(["--length", "128", "--d", "4096"]);
    }
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let ended = context.children.run(&format!("step {shape}"), 1, &args)?;
    if !ended.status.success() {
        return Err(ended.failure().into());
    }
    let found: Value = serde_json::from_str(&ended.stdout).map_err(|error| format!("no JSON: {error}"))?;
    let variants = found["variants"].as_array().cloned().unwrap_or_default();
    let first = variants.first().ok_or_else(|| "no variant was measured".to_owned())?;
    let number = |name: &str| first[name].as_f64().unwrap_or(f64::NAN);
    let says = format!(
        "{} tokens/s, {:.1}% of the fastest matrix product's rate",
        grouped(number("tokens_per_second") as u64),
        100.0 * number("ceiling_share")
    );
    numbers.insert("bench_step".into(), found);
    Ok(says)
}

/// A model of a real shape, with random weights.
fn random_model(context: &Context) -> Result<String, String> {
    let folder = context.children.runs.join("random-model").display().to_string();
    let tokenizer = context.goldens.model.display().to_string();
    let shapes = context.goldens.model.join("../../shapes/Qwen2.5-0.5B.json").display().to_string();
    let args = ["random-model", "--config", &shapes, "--tokenizer", &tokenizer, "--output", &folder];
    context.children.succeed("random model", 1, &args.map(str::to_owned))?;
    Ok(folder)
}
