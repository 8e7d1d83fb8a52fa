//! `random-model`: a model folder of a real shape with random weights.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use model::{ModelConfig, ModelError, NormWeight};
use serde_json::{Value, json};
use synthetic::{Fill, Folder, Progress, SyntheticError, Tensor};

use crate::exit::Exit;
use crate::fail;
use crate::format::{bytes, grouped, print};
use crate::merge::bar;

/// Which shape, and where to.
#[derive(Args)]
#[command(group(ArgGroup::new("of").required(true)))]
// clap's own line is wider than the page.
#[command(
    override_usage = "gpart-dist random-model <--shape NAME | --config PATH> --tokenizer DIR --output DIR [OPTIONS]"
)]
pub struct RandomModelArgs {
    /// A known shape: Llama-3.1-8B, Qwen2.5-0.5B, Qwen2.5-3B, Qwen2.5-7B, gemma-7b or Mistral-7B-v0.1
    #[arg(long, value_name = "NAME", group = "of")]
    shape: Option<String>,
    /// Any other shape: a config.json, or the folder that holds it
    #[arg(long, value_name = "PATH", group = "of")]
    config: Option<PathBuf>,
    /// Folder with the tokenizer's files, such as configs/demo/model
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Folder for the model; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Which random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Longest file of weights, GiB
    #[arg(long, value_name = "GIB", default_value = "4", value_parser = positive)]
    shard_gib: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "a number above 0 is needed".to_owned())
}

/// Why no model was written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum Failed {
    /// The configuration.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Model(#[from] ModelError),
    /// The shape's name, or the writing.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Write(#[from] SyntheticError),
    /// A folder without a tokenizer.
    #[error("there is no tokenizer.json in {}", folder.display())]
    #[diagnostic(
        code(input::no_tokenizer),
        help("name the folder of any model with --tokenizer; configs/demo/model of the repository has one")
    )]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A standard deviation that is none.
    #[error("initializer_range of {} is {value}", path.display())]
    #[diagnostic(code(input::initializer_range), help("it must be a number of at least 0; 0.02 is usual"))]
    InitializerRange {
        /// The config.json.
        path: PathBuf,
        /// What it says.
        value: Value,
    },
}

/// Writes the folder and says what is in it.
pub fn random_model(args: &RandomModelArgs) -> Exit {
    match run(args) {
        Ok(text) => {
            print(&text);
            Exit::Done
        }
        Err(error) => fail(&error),
    }
}

fn run(args: &RandomModelArgs) -> Result<String, Failed> {
    let (text, path) = config_text(args.shape.as_deref(), args.config.as_deref())?;
    let config = ModelConfig::from_json(&text, &path)?;
    let (text, deviation) = adjusted(&text, &path)?;
    let tokenizer = data::tokenizer_files(&args.tokenizer);
    if !tokenizer.iter().any(|file| file.ends_with("tokenizer.json")) {
        return Err(Failed::NoTokenizer { folder: args.tokenizer.clone() });
    }
    let tensors: Vec<Tensor> =
        model::tensor_specs(&config).map(|(name, shape)| tensor(name, &shape, &config, deviation)).collect();
    let folder = Folder {
        output: &args.output,
        config: &text,
        copied: &tokenizer,
        tensors: &tensors,
        seed: args.seed,
        // Saturates at either end, where it means one file, or one for each tensor.
        shard_bytes: (args.shard_gib * f64::from(1 << 30)) as u64,
    };
    let bar = bar(tensors.iter().map(Tensor::bytes).sum());
    let written = synthetic::write(&folder, &|Progress { file, done_bytes, .. }| {
        bar.set_message(file.to_owned());
        bar.set_position(done_bytes);
    });
    bar.finish_and_clear();
    let written = written?;
    let parameters = tensors.iter().map(Tensor::numel).sum();
    Ok(format!(
        "{}: {} parameters in bfloat16, {} files, {}\nits weights are random (seed {}): it is for trying a shape, not for use",
        args.output.display(),
        grouped(parameters),
        written.files.len(),
        bytes(written.bytes),
        args.seed,
    ))
}

/// The text of the config.json of a known shape or at a path, and what to call it in errors.
fn config_text(shape: Option<&str>, path: Option<&Path>) -> Result<(String, PathBuf), Failed> {
    match (shape, path) {
        (Some(name), _) => Ok((synthetic::config_of(name)?.to_owned(), PathBuf::from(name))),
        (None, Some(path)) => Ok(config_file(path)?),
        // clap asks for one of them.
        (None, None) => Ok((synthetic::config_of("")?.to_owned(), PathBuf::new())),
    }
}

/// The text of a config.json, which may be named by its folder, and its path.
pub fn config_file(path: &Path) -> Result<(String, PathBuf), ModelError> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((text, path)),
        Err(source) => Err(ModelError::Unreadable { what: "the model's config.json", path, source }),
    }
}

/// The configuration with the number format of what is written, and the standard deviation of its matrices.
fn adjusted(text: &str, path: &Path) -> Result<(String, f32), Failed> {
    // The model's own reader has accepted it as a table.
    let mut value: Value = serde_json::from_str(text).unwrap_or_default();
    let deviation = match value.get("initializer_range").unwrap_or(&Value::Null) {
        Value::Null => 0.02,
        stated => {
            let number = stated.as_f64().map(|number| number as f32);
            number
                .filter(|number| number.is_finite() && *number >= 0.0)
                .ok_or_else(|| Failed::InitializerRange { path: path.to_owned(), value: stated.clone() })?
        }
    };
    if let Some(map) = value.as_object_mut() {
        // Newer files of transformers say `dtype`, all that read `torch_dtype` prefer the other.
        let key = if map.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        map.insert(key.to_owned(), json!("bfloat16"));
    }
    Ok((format!("{value:#}\n"), deviation))
}

/// Matrices are random; norms do nothing and biases add nothing, as in a model before its training.
fn tensor(name: String, shape: &[i64], config: &ModelConfig, deviation: f32) -> Tensor {
    let fill = match config.norm {
        _ if name.ends_with(".bias") => Fill::Zeros,
        NormWeight::Direct if name.ends_with("norm.weight") => Fill::Ones,
        NormWeight::OnePlus if name.ends_with("norm.weight") => Fill::Zeros,
        _ => Fill::Normal(deviation),
    };
    Tensor { name, shape: shape.iter().map(|size| size.unsigned_abs()).collect(), fill }
}
