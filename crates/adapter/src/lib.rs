//! The adapter: which modules it touches, where their weights lie in the global weight space, and its files.
//!
//! Files are those of the official PEFT fork: `adapter_config.json` and `adapter_model.safetensors` with the one
//! tensor `base_model.gpart_theta_d`.

mod adapter_config;
mod files;
mod selection;
mod space;

pub use adapter_config::AdapterConfig;
pub use files::{ADAPTER_FILES, Adapter, THETA_TENSOR};
pub use selection::{Selection, Targets};
pub use space::{AdaptedModule, AdaptedSpace, Candidate, ScopeBlock};

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// An adapter that cannot be made, read or written.
#[derive(Debug, Error, Diagnostic)]
pub enum AdapterError {
    /// A file of the adapter cannot be read.
    #[error("cannot read {}", path.display())]
    #[diagnostic(
        code(input::adapter_missing),
        help("an adapter folder holds adapter_config.json and adapter_model.safetensors")
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file of the adapter is not what it should be.
    #[error("{} is not a GPart adapter: {reason}", path.display())]
    #[diagnostic(code(input::adapter_invalid), help("{hint}"))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A tensor beside θ, such as resized embeddings: leaving it out would make another model.
    #[error("{} holds a tensor beside θ: {tensor}", path.display())]
    #[diagnostic(
        code(input::adapter_tensor),
        help(
            "only θ is read; an adapter that was saved with embeddings or a head needs the official fork of PEFT"
        )
    )]
    OtherTensor {
        /// The adapter_model.safetensors.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// The adapter uses a part of GPart that this version does not have.
    #[error("{}: {key} = {value} is not supported by this version", path.display())]
    #[diagnostic(code(input::adapter_unsupported), help("{hint}"))]
    Unsupported {
        /// The adapter_config.json.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is supported.
        hint: &'static str,
    },
    /// An expression that selects nothing.
    #[error("target module 'regex:{pattern}' matches no linear module of the model")]
    #[diagnostic(
        code(input::unknown_module),
        help("an expression must match a full name, such as {example}")
    )]
    NothingMatches {
        /// The expression.
        pattern: String,
        /// A name that there is.
        example: String,
    },
    /// The output head among the targets.
    #[error("the target modules include the output head, lm_head, which is not adapted here")]
    #[diagnostic(
        code(input::head_target),
        help("name modules of the transformer blocks; all-linear leaves the head out, as PEFT does")
    )]
    Head,
    /// A regular expression that does not parse, or that never comes to an end.
    #[error("{flag} '{pattern}' cannot be used as a regular expression: {reason}")]
    #[diagnostic(code(input::module_pattern), help("Python's syntax for regular expressions is understood"))]
    Pattern {
        /// The flag it belongs to.
        flag: &'static str,
        /// The expression as written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Block numbers beside targets that are not a list of names.
    #[error("layers-to-transform needs target-modules to be a list of names")]
    #[diagnostic(
        code(input::layers_of_pattern),
        help("put the blocks into the expression, such as regex:.*layers\\.[0-3]\\..*q_proj")
    )]
    LayersOfPattern,
    /// A block number that selects nothing.
    #[error("layers-to-transform {layer}: there is no adapted module of block {layer}")]
    #[diagnostic(
        code(input::unknown_layer),
        help("blocks are counted from 0; `inspect model` shows how many there are")
    )]
    UnknownLayer {
        /// The number.
        layer: u64,
    },
    /// The scope is a block, and a module is in none.
    #[error("partition-scope transformer_block: module '{module}' is in no numbered block")]
    #[diagnostic(code(input::no_block), help("name the container of the blocks with --layers-pattern"))]
    NoBlock {
        /// The module.
        module: String,
    },
    /// A target that names no linear module of the model.
    #[error("target module '{target}' matches no linear module of the model")]
    #[diagnostic(code(input::unknown_module), help("the model's linear modules are: {available}"))]
    UnknownModule {
        /// The entry of --target-modules.
        target: String,
        /// Names that would match.
        available: String,
    },
    /// More coordinates than weights.
    #[error("d = {d} is larger than the {weights} adapted weights")]
    #[diagnostic(
        code(input::d_too_large),
        help("use --d {weights} or less, or adapt more modules with --target-modules")
    )]
    TooManyCoordinates {
        /// Length of θ.
        d: u64,
        /// Adapted weights.
        weights: u64,
    },
    /// The files could not be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Write(#[from] checkpoint::CheckpointError),
}
