//! A base checkpoint and an adapter → a checkpoint that needs neither: W' = round(f32(W) + ΔW), ΔW_i = s_g(i) · θ_g(i).
//!
//! [`prepare`] checks everything that can be checked and writes nothing; [`Plan::run`] writes the output folder. The
//! base's files are kept as they are but for the adapted numbers: same shards, same order of tensors, same
//! metadata. Every other tensor is copied bit for bit, or rounded to the dtype that was asked for.
//!
//! Tensors go from file to file in pieces of about a megabyte, read and written at their positions by all threads
//! at once, so memory does not grow with the model. All files are written in a folder inside the output and only
//! then given their names, `config.json` last: a merge that is cut short leaves no folder that loads.
//!
//! There is no way back from a merged model to its base: the sum is rounded, and subtracting ΔW again gives a number
//! near W, not W (in bfloat16 an update far below a weight's resolution is lost at once, and a larger one takes
//! lower bits of W with it). Keep the base and the adapter; the merged folder can always be made again from them.

mod dtype;
mod error;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod layout;
mod names;
mod numbers;
mod output;
mod piece;
mod plan;
mod report;
mod shard;
mod text;
mod write;

pub use dtype::Dtype;
pub use error::MergeError;
pub use plan::{Base, Options, Plan, prepare};
pub use report::{Kept, KeptByKind, Report, WrittenFile};
pub use write::Progress;
