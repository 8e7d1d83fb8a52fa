//! Evaluation: greedy generation over a dataset of problems, shared out over ranks, scored and written as one file.
//!
//! ```text
//! problems ─ prompts, sorted by length, dealt out to the ranks
//!    │
//! Generator   a rank's slots: a prompt goes in, a token a step for all slots, whoever is done makes room
//!    │
//! journal     a line for every finished problem: a killed evaluation goes on from there
//!    ▼
//! Results     gathered on rank 0, in the dataset's order, in the official format
//! ```
//!
//! What a row says does not depend on the rows beside it ([`model::Decoder::decode`]), so neither the batch nor the ranks
//! can change a token.

mod error;
mod evaluate;
mod generate;
mod identity;
mod journal;
mod loaded;
mod problems;
mod products;
mod results;

pub use error::EvalError;
pub use evaluate::{Event, Outcome, Progress, Surroundings, evaluate};
pub use generate::{Finish, Finished, GenerateOptions, Generator};
pub use loaded::{LoadedModel, Sources};
pub use problems::{Problem, read_problems};
pub use results::{Prediction, Results, Settings};
