//! State that survives: files that are either whole and verified, or not there.

mod atomic;
mod disk;
mod state;
mod store;
mod writer;

pub use atomic::{remove_leftovers, write_atomic, write_atomic_on};
pub use disk::{Disk, SystemDisk, free_bytes};
pub use state::{State, StateRef};
pub use store::{FOLDER, Found, Kept, Rejected, Store};
pub use writer::{Job, Then, Vectors, Writer, Written};

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// A checkpoint that cannot be written or read.
#[derive(Debug, Error, Diagnostic)]
pub enum CheckpointError {
    /// The system refused a write, a flush or a rename.
    #[error("cannot write {}", path.display())]
    #[diagnostic(
        code(run::write_failed),
        help(
            "is the disk full or read-only? what was saved before is untouched; run the same command again to resume"
        )
    )]
    Write {
        /// The file that was to appear.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The system refused a read.
    #[error("cannot read {}", path.display())]
    #[diagnostic(code(input::checkpoint_unreadable), help("check that the path is right and readable"))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file's bytes are not what was written.
    #[error("{} is not a sound checkpoint: {reason}", path.display())]
    #[diagnostic(
        code(input::checkpoint_damaged),
        help(
            "the file is torn, altered, or no checkpoint at all; name another one, or start anew in another folder with --output"
        )
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}
