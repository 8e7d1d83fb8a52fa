//! From data files to padded micro-batches: rows of any source, templates, tokens and labels, an on-disk cache, the
//! global data order, the schedule of steps, and batches.
//!
//! Nothing here knows of ranks. [`Schedule::step`] names the rows of any step as a function of the seed and the
//! epoch alone; which of its micro-batches a rank computes is decided elsewhere.
//!
//! ```text
//! read_rows → Rows → (Tokenizer, Template, BuildOptions) → Dataset ┐
//!              └ split → held-out Rows          Schedule → StepRows ┴→ collate → MicroBatch
//! ```

mod batch;
mod cache;
mod contain;
mod dataset;
mod encoder;
mod error;
mod order;
mod prompt;
mod rows;
mod schedule;
mod split;
mod template;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
mod tokenizer;

pub use batch::{IGNORED_LABEL, MicroBatch, PaddingSide, collate, pack};
pub use dataset::{BuildOptions, Dataset, Example};
pub use error::{Error, Place, Result};
pub use order::{MAX_ROWS, epoch_order, randperm};
pub use prompt::{SYSTEM_PROMPT, text_of};
pub use rows::{Content, Message, Role, Row, RowOptions, Rows, Schema, read_rows, rows_from_bytes};
pub use schedule::{Schedule, ScheduleOptions, StepRows};
pub use split::held_out_rows;
pub use template::{Template, TrainOn};
pub use tokenizer::{Piece, Tokenizer, TokenizerOptions, tokenizer_files};
