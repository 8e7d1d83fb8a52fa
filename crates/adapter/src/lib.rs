//! The adapter: which modules it touches, where their weights lie in the global weight space, and its files.
//!
//! Files are those of the official PEFT fork: `adapter_config.json` and `adapter_model.safetensors` with the one
//! tensor `base_model.gpart_theta_d`.

mod adapter_config;
mod files;
mod space;

pub use adapter_config::AdapterConfig;
pub use files::{Adapter, THETA_TENSOR};
pub use space::{AdaptedModule, AdaptedSpace, Candidate};

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
    /// The adapter uses a part of GPart that this version does not have.
    #[error("{}: {key} = {value} is not supported by this version", path.display())]
    #[diagnostic(
        code(input::adapter_unsupported),
        help(
            "supported: projection_type partition, partition_scope global, grouping_strategy random, assignment_backend stateless, bias none, no modules_to_save, no layers_to_transform"
        )
    )]
    Unsupported {
        /// The adapter_config.json.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
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
