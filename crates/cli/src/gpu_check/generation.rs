//! Greedy continuations: those of the official model, and the same in any batch.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::golden::demo;
use super::{Context, Device, Found, Numbers};

/// `greedy_generation.json`.
#[derive(Deserialize)]
struct Golden {
    max_new_tokens: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    new_ids: Vec<u32>,
}

/// The demo model goes on as the official one does, in float32.
pub fn samples(context: &Context, numbers: &mut Numbers) -> Found {
    let path = context.goldens.folder.join("metamath/greedy_generation.json");
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|error| at(&error))?;
    let golden: Golden = serde_json::from_str(&text).map_err(|error| at(&error))?;
    let tokenizer = data::Tokenizer::load(&context.goldens.model, data::TokenizerOptions::default())
        .map_err(|error| error.to_string())?;
    let cases = golden.cases.iter().take(if context.quick { 2 } else { usize::MAX });
    let mut wrong = Vec::new();
    for (number, case) in cases.enumerate() {
        let expected = tokenizer.decode(&case.new_ids, true).map_err(|error| error.to_string())?;
        let found = continuation(context, number, &case.prompt, golden.max_new_tokens)?;
        if letters(&found) != letters(&expected) {
            wrong.push(format!("prompt {number} goes on with {found:?} and not {expected:?}"));
        }
        numbers.insert("prompts".into(), json!(number + 1));
    }
    match wrong.first() {
        Some(first) => Err(format!("{first}; {} of {} differ", wrong.len(), numbers["prompts"]).into()),
        None => Ok(format!(
            "{} continuations of {} tokens are the official ones",
            numbers["prompts"], golden.max_new_tokens
        )),
    }
}

/// What training shows of a prompt before its first step.
fn continuation(context: &Context, number: usize, prompt: &str, tokens: usize) -> Result<String, String> {
    let (model, data) =
        (context.goldens.model.display().to_string(), context.goldens.data(demo()).display().to_string());
    let (name, tokens) = (format!("sample {number}"), tokens.to_string());
    let (_, args) = context.training(
        &name,
        &[
            "--model",
            &model,
            "--data",
            &data,
            "--d",
            "1024",
            "--max-samples",
            "2",
            "--micro-batch-size",
            "1",
            "--accumulation-steps",
            "1",
            "--max-steps",
            "1",
            "--dtype",
            "float32",
            "--sample-prompt",
            prompt,
            "--sample-tokens",
            &tokens,
        ],
    );
    let said = context.children.succeed(&name, 1, &args)?.stdout;
    sample_in(&said).ok_or_else(|| format!("the run shows no sample of prompt {number}"))
}

/// The text behind the mark, up to the end of the box that it is in.
fn sample_in(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("sample before training")?;
    let (_, rest) = rest.split_once('\n')?;
    let lines = rest.lines().map_while(|line| line.trim_start().strip_prefix('│'));
    let shown: Vec<&str> = lines.map(str::trim).collect();
    Some(shown.join(" ").split_once('▸')?.1.to_owned())
}

/// A text without its spaces: lines were wrapped.
fn letters(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// `eval` answers the same one by one and in a batch.
pub fn batches(context: &Context, numbers: &mut Numbers) -> Found {
    let (alone, together) = (answers(context, context.device, "1")?, answers(context, context.device, "4")?);
    numbers.insert("answers".into(), json!(alone.len()));
    if context.device == Device::Cuda {
        // Ties that another order of sums breaks are no error, so this is told and not judged.
        let on_cpu = answers(context, Device::Cpu, "4")?;
        let same = alone.iter().zip(&on_cpu).filter(|(gpu, cpu)| gpu == cpu).count();
        numbers.insert("same_as_on_cpu".into(), json!(same));
    }
    match alone.iter().zip(&together).position(|(alone, together)| alone != together) {
        None if alone.len() == together.len() => {
            Ok(format!("{} answers are the same one by one and four at a time", alone.len()))
        }
        None => Err(format!("{} answers one by one, {} in batches", alone.len(), together.len()).into()),
        Some(at) => {
            Err(format!("answer {at} is {:?} alone and {:?} in a batch", alone[at], together[at]).into())
        }
    }
}

/// Completions of the first problems of the demo's sample of GSM8K.
fn answers(context: &Context, device: Device, batch: &str) -> Result<Vec<String>, String> {
    let problems = context.goldens.model.join("../gsm8k_sample.jsonl");
    let name = format!("eval {device} batch {batch}");
    let output: PathBuf = context.children.runs.join(format!("{}.json", name.replace(' ', "-")));
    let text = |path: &PathBuf| path.display().to_string();
    let (model, problems, file) = (text(&context.goldens.model), text(&problems), text(&output));
    let count = if context.quick { "4" } else { "8" };
    let mut args = vec![
        "eval",
        "--dataset",
        "gsm8k",
        "--model",
        &model,
        "--data",
        &problems,
        "--output",
        &file,
        "--max-samples",
        count,
        "--max-new-tokens",
        "48",
        "--batch-size",
        batch,
        "--quiet",
    ];
    if device == Device::Cuda {
        args.extend(["--device", "cuda"]);
    }
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    context.children.succeed(&name, 1, &args)?;
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", output.display());
    let written = std::fs::read_to_string(&output).map_err(|error| at(&error))?;
    let results: Value = serde_json::from_str(&written).map_err(|error| at(&error))?;
    let predictions = results["predictions"].as_array().ok_or_else(|| at(&"no predictions"))?;
    Ok(predictions.iter().map(|entry| entry["completion"].as_str().unwrap_or_default().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_among_other_lines() {
        let said = "reading\nsample before training (the continuation begins at ▸)\n  │ How many?▸ There are\n  │ 3 of\nstep 1\n\
                    sample after step 1 (the continuation begins at ▸)\n  │ How many?▸ Two\n";
        assert_eq!(sample_in(said).as_deref(), Some(" There are 3 of"));
        assert_eq!(sample_in("step 1"), None);
        assert_eq!(letters(" a b\nc"), "abc");
    }
}
