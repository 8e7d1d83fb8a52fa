//! What can go wrong.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

use crate::NAMES;

/// A model folder that is refused or that could not be written. The output is then as it was before.
#[derive(Debug, Error, Diagnostic)]
pub enum SyntheticError {
    /// Nobody knows this shape.
    #[error("there is no shape '{name}'")]
    #[diagnostic(
        code(input::unknown_shape),
        help("known are {}; any other comes from its config.json with --config", NAMES.join(", "))
    )]
    UnknownShape {
        /// The name that was asked for.
        name: String,
    },
    /// The output folder holds something.
    #[error("the output folder {} is not empty: it holds {found}", output.display())]
    #[diagnostic(
        code(input::random_model_output_exists),
        help("name a new or empty folder with --output; nothing is ever written over")
    )]
    OutputNotEmpty {
        /// The output.
        output: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// The output is a file, or its path leads through one.
    #[error("the output {} cannot be a folder: a file is in its way", output.display())]
    #[diagnostic(code(input::random_model_output_file), help("name a new or empty folder with --output"))]
    OutputIsFile {
        /// The output.
        output: PathBuf,
    },
    /// Another process writes the same output.
    #[error("another process is writing a random model to {}", output.display())]
    #[diagnostic(code(input::random_model_output_busy), help("wait for it to end, or name another folder"))]
    OutputBusy {
        /// The output.
        output: PathBuf,
    },
    /// The disk is too small.
    #[error("the model needs {needed} bytes in {}, where {free} bytes are free", output.display())]
    #[diagnostic(
        code(input::random_model_disk),
        help("free some space, or name a folder on another disk with --output")
    )]
    NoSpace {
        /// The output.
        output: PathBuf,
        /// Bytes that will be written.
        needed: u64,
        /// Bytes that the file system has free.
        free: u64,
    },
    /// A file or folder that cannot be read.
    #[error("cannot read {}", path.display())]
    #[diagnostic(code(input::random_model_read), help("check that the path is right and readable"))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The system refused a write, a flush or a rename.
    #[error("cannot write {}", path.display())]
    #[diagnostic(
        code(run::random_model_write),
        help("is the disk full or read-only? what was written has been removed")
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl SyntheticError {
    /// For `map_err`: a failed read of `path`.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// For `map_err`: a failed write of `path`.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}
