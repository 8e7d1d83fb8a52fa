//! What can go wrong between a model folder and tensors.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// A model that cannot be used, with where and why.
#[derive(Debug, Error, Diagnostic)]
pub enum ModelError {
    /// The folder or a file in it does not exist or cannot be read.
    #[error("cannot read {what} at {}", path.display())]
    #[diagnostic(
        code(input::model_missing),
        help("--model takes a folder in Hugging Face layout: config.json, tokenizer.json and *.safetensors")
    )]
    Unreadable {
        /// What was looked for.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The folder holds no safetensors file.
    #[error("no model.safetensors and no model.safetensors.index.json in {}", folder.display())]
    #[diagnostic(code(input::model_missing), help("{hint}"))]
    NoWeights {
        /// The model folder.
        folder: PathBuf,
        /// What was found instead, and what to do.
        hint: String,
    },
    /// A JSON file of the model is not what it should be.
    #[error("{} is not a valid {what}: {reason}", path.display())]
    #[diagnostic(
        code(input::model_invalid),
        help("compare it with the file that the model's author published")
    )]
    InvalidJson {
        /// Which kind of file was expected.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        reason: String,
    },
    /// A safetensors file whose header does not describe its bytes.
    #[error("{} is not a sound safetensors file: {reason}", path.display())]
    #[diagnostic(
        code(input::model_damaged),
        help("the file is damaged or was not fully downloaded; fetch it again and compare its size")
    )]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// An architecture that this version does not implement.
    #[error("unsupported model architecture '{found}' in {}", path.display())]
    #[diagnostic(
        code(input::unsupported_architecture),
        help(
            "this version trains LlamaForCausalLM, Qwen2ForCausalLM (Qwen2, Qwen2.5), GemmaForCausalLM (the first \
             Gemma) and MistralForCausalLM"
        )
    )]
    UnsupportedArchitecture {
        /// The architecture as config.json names it.
        found: String,
        /// The config.json.
        path: PathBuf,
    },
    /// A setting of config.json that this version cannot honour, or that contradicts another.
    #[error("config.json of {}: {key} = {value} {problem}", path.display())]
    #[diagnostic(code(input::unsupported_model_setting), help("{hint}"))]
    UnsupportedSetting {
        /// The config.json.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A tensor that the architecture needs is not in the files.
    #[error("tensor '{name}' is missing from the checkpoint in {}", folder.display())]
    #[diagnostic(code(input::model_incomplete), help("{hint}"))]
    MissingTensor {
        /// Full name of the tensor.
        name: String,
        /// The model folder.
        folder: PathBuf,
        /// What was found instead, and what to do.
        hint: String,
    },
    /// A head that differs from the embedding, where config.json says that the two are one.
    #[error(
        "'lm_head.weight' is not the embedding, although the model has tie_word_embeddings = true ({})",
        path.display()
    )]
    #[diagnostic(
        code(input::model_head),
        help("set tie_word_embeddings to false in config.json to use it, as transformers does")
    )]
    HeadNotTied {
        /// The file that holds the head.
        path: PathBuf,
    },
    /// A tensor whose shape is not the one that config.json implies.
    #[error("tensor '{name}' has shape {found:?} where config.json implies {expected:?} ({})", path.display())]
    #[diagnostic(code(input::model_shape), help("config.json and the weights do not belong together"))]
    WrongShape {
        /// Full name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by config.json.
        expected: Vec<i64>,
        /// The file that holds it.
        path: PathBuf,
    },
    /// A tensor stored in a dtype that is not a floating-point type we read.
    #[error("tensor '{name}' is stored as {found} ({})", path.display())]
    #[diagnostic(
        code(input::model_dtype),
        help("only float32, float16 and bfloat16 checkpoints are read; quantised bases are not supported")
    )]
    WrongDtype {
        /// Full name of the tensor.
        name: String,
        /// Dtype in the file.
        found: String,
        /// The file that holds it.
        path: PathBuf,
    },
    /// libtorch refused an operation while loading.
    #[error("libtorch could not load tensor '{name}': {reason}")]
    #[diagnostic(code(run::libtorch), help("is there enough memory for the model?"))]
    Torch {
        /// Full name of the tensor.
        name: String,
        /// libtorch's message, first line.
        reason: String,
    },
}
