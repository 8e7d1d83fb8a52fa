//! Decisions, as pure functions of what is known, the options and the time. No clock, no I/O.
//!
//! Moments are durations since the coordinator began.

mod look;
mod picture;
mod restart;

pub use look::{look, median_step, overdue};
pub use picture::{Finding, FindingKind, Limits, Member, Picture, StepTime, Wait};
pub use restart::{Attempt, Cause, Ending, History, Policy, Verdict, restart};
