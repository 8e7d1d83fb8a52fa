//! Scores of GSM8K and MATH: what a completion answers, and whether that answer is right, as the official evaluation of
//! GPart has it.
//!
//! - [`Dataset::gold`] reads the answer of a reference solution, [`Dataset::extract`] that of a model's completion.
//! - [`Dataset::is_correct`] compares the two by the official rule: as numbers, as texts, part by part, and last as
//!   formulas.
//! - [`score_lines`] does all of it for a file of JSON lines, in constant memory.
//!
//! The official rule hands formulas to sympy, which reads them with a LaTeX grammar of its own and simplifies the
//! difference of the two. Here that grammar is read by hand and the two sides are evaluated at the same pseudo-random
//! points, in a prime field where the formula allows it and in complex numbers where not. Verdicts are meant to be those
//! of sympy 1.14 even where a reader would have judged otherwise, so that figures can be compared with published ones;
//! [`differences`] lists what deserves to be known about that.
//!
//! Nothing here reads a clock. Every verdict has a fixed number of steps, and what needs more is not equal.

mod dataset;
pub mod differences;
mod equality;
mod error;
mod extract;
mod lines;
mod python;
mod symbolic;

pub use dataset::{Answer, Dataset, Prediction, UnknownDataset};
pub use equality::texts_are_equal;
pub use error::ScoringError;
pub use lines::{Totals, score_lines};
