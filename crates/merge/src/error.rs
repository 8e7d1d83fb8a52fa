//! What can go wrong in a merge.

use std::path::PathBuf;

use miette::Diagnostic;
use model::ModelError;
use partition::PartitionError;
use projection::ProjectionError;
use thiserror::Error;

use crate::Dtype;

/// A merge that is refused or that failed. The output folder is then as it was before.
#[derive(Debug, Error, Diagnostic)]
pub enum MergeError {
    /// The base cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Model(#[from] ModelError),
    /// The partition refused a range.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Projection(#[from] ProjectionError),
    /// The output lies where an input lies.
    #[error("the output {} is {relation} the {what} {}", output.display(), input.display())]
    #[diagnostic(
        code(input::merge_output_in_input),
        help(
            "name a new folder outside both with --output; neither the base nor the adapter is ever changed"
        )
    )]
    OutputInInput {
        /// The output, with every link resolved.
        output: PathBuf,
        /// Which input: `base` or `adapter`.
        what: &'static str,
        /// The input's folder, with every link resolved.
        input: PathBuf,
        /// `the same folder as` or `inside`.
        relation: &'static str,
    },
    /// The output folder holds something.
    #[error("the output folder {} is not empty: it holds {found}", output.display())]
    #[diagnostic(
        code(input::merge_output_exists),
        help("name a new or empty folder with --output; nothing is ever written over")
    )]
    OutputNotEmpty {
        /// The output.
        output: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// The output is a file, or its path leads through one.
    #[error("the output {} cannot be a folder: {} is a file", output.display(), file.display())]
    #[diagnostic(code(input::merge_output_file), help("name a new or empty folder with --output"))]
    OutputIsFile {
        /// The output.
        output: PathBuf,
        /// The file.
        file: PathBuf,
    },
    /// Another process writes the same output.
    #[error("another merge is writing to {}", output.display())]
    #[diagnostic(code(input::merge_output_busy), help("wait for it to end, or name another folder"))]
    OutputBusy {
        /// The output.
        output: PathBuf,
    },
    /// The disk is too small.
    #[error("merging needs {needed} bytes in {}, where {free} bytes are free", output.display())]
    #[diagnostic(
        code(input::merge_disk),
        help(
            "free some space, or name a folder on another disk; a 16-bit --dtype takes half the space of float32"
        )
    )]
    NoSpace {
        /// The output.
        output: PathBuf,
        /// Bytes that will be written.
        needed: u64,
        /// Bytes that the file system has free.
        free: u64,
    },
    /// The adapter's modules are not those of the base.
    #[error("the adapter does not fit the model in {}: tensor '{tensor}' {problem}", folder.display())]
    #[diagnostic(
        code(input::merge_unfit),
        help("merge it into the model that it was trained on; a quantised base takes no merge")
    )]
    Unfit {
        /// The base's folder.
        folder: PathBuf,
        /// Full name of the tensor.
        tensor: String,
        /// What does not fit.
        problem: String,
    },
    /// The adapter's parts do not belong together.
    #[error("the adapter has {theta} numbers, d is {d} and there are {scales} scales")]
    #[diagnostic(
        code(input::merge_d),
        help("adapter_config.json and adapter_model.safetensors do not belong together")
    )]
    WrongD {
        /// Length of θ.
        theta: usize,
        /// Groups of the partition.
        d: u64,
        /// Number of scales.
        scales: usize,
    },
    /// A number of the output would not be finite.
    #[error("tensor '{tensor}' at element {index}: {base} + {delta} is {result} in {dtype}")]
    #[diagnostic(code(input::merge_not_finite), help("{hint}"))]
    NotFinite {
        /// Full name of the tensor.
        tensor: String,
        /// Row-major position of the first such element.
        index: u64,
        /// The base's number.
        base: f32,
        /// What the adapter adds.
        delta: f32,
        /// The sum, rounded.
        result: f32,
        /// Type of the output.
        dtype: Dtype,
        /// What to do.
        hint: &'static str,
    },
    /// A JSON file of the base in which a value cannot be replaced.
    #[error("{} is not valid JSON: {reason}", path.display())]
    #[diagnostic(
        code(input::model_invalid),
        help("compare it with the file that the model's author published")
    )]
    InvalidJson {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        reason: String,
    },
    /// A file of the base that cannot be read, or that changed during the merge.
    #[error("cannot read {}", path.display())]
    #[diagnostic(
        code(input::merge_read),
        help("was the base moved or changed while it was read? nothing was written")
    )]
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
        code(run::merge_write),
        help(
            "is the disk full or read-only? what was written has been removed; run the same command again when it is mended"
        )
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl From<PartitionError> for MergeError {
    fn from(error: PartitionError) -> Self {
        Self::Projection(error.into())
    }
}

impl MergeError {
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
