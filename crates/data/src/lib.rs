//! From a MetaMathQA file to padded micro-batches: rows, tokens and labels, an on-disk cache, the global data
//! order, the schedule of steps, and batches.
//!
//! Nothing here knows of ranks. [`Schedule::step`] names the rows of any step as a function of the seed and the
//! epoch alone; which of its micro-batches a rank computes is decided elsewhere.
//!
//! ```text
//! read_rows → Row → (Tokenizer, BuildOptions) → Dataset ┐
//!                                   Schedule → StepRows ┴→ collate → MicroBatch
//! ```

mod batch;
mod cache;
mod dataset;
mod error;
mod order;
mod prompt;
mod rows;
mod schedule;
mod tokenizer;

pub use batch::{IGNORED_LABEL, MicroBatch, PaddingSide, collate};
pub use dataset::{BuildOptions, Dataset, Example};
pub use error::{Error, Result};
pub use order::{MAX_ROWS, epoch_order, randperm};
pub use prompt::{SYSTEM_PROMPT, text_of};
pub use rows::{Row, read_rows};
pub use schedule::{Schedule, ScheduleOptions, StepRows};
pub use tokenizer::{Tokenizer, TokenizerOptions};
