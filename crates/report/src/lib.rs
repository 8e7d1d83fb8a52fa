//! Reports on runs: one page with plots for one run or several, and a table over a folder of runs.
//!
//! [`Run::read`] takes what is in a run's folder, [`discover`] walks a folder of runs. [`report`] writes a page that needs
//! nothing but itself, with its plots as SVG and PNG; [`collect`] makes the aggregate [`Table`]. Files that are missing,
//! cut or damaged are said to be so in the page and below the table; they do not stop it.

mod attach;
mod collect;
mod downsample;
mod error;
mod escape;
mod evaluation;
mod facts;
mod figures;
mod group;
mod isometry;
mod numbers;
mod page;
mod plot;
mod run;
mod stats;
mod table;
#[cfg(test)]
mod testing;
mod write;

pub use attach::attach;
pub use collect::{LeftOut, Row, Table, collect};
pub use error::ReportError;
pub use evaluation::{Answer, Evaluation, Verdict};
pub use facts::{Facts, HeldOut, Measured, Mesh, RankTraffic, Step, Summary, Traffic};
pub use isometry::Isometry;
pub use run::{Found, Run, Status, discover};
pub use stats::{Distribution, Spread};
pub use write::{Options, Written, report};
