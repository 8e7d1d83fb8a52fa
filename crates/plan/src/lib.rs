//! What a run will need, move and take, from numbers alone: no weights, no files, no clock.
//!
//! [`Plan::new`] turns [`Facts`] into parameters, group sizes, bytes a rank, bytes moved a step, disk, steps, arithmetic
//! and warnings; [`Plan::sections`] is the same as text. [`memory()`] is the part that is asked again just before weights
//! are loaded. Every formula is written where it is computed.
//!
//! Arithmetic on counts saturates, arithmetic on f64 may be infinite: no input panics.
//!
//! Legend: N tokens of a micro-batch with its padding (B rows × T), H hidden size, I size of the MLP, Q = heads × head
//! size, K = key-value heads × head size, V vocabulary, d length of θ, c bytes of a number in the compute dtype.

mod activations;
mod count;
mod disk;
mod error;
mod facts;
mod groups;
mod memory;
mod parameters;
mod plan;
mod sections;
mod stages;
mod steps;
mod text;
mod traffic;
mod warnings;
mod work;

pub use disk::Disk;
pub use error::PlanError;
pub use facts::{
    BlockRun, Data, Dtype, Facts, Host, Linear, Model, PartitionKind, Ranks, Role, Speed, Training,
};
pub use groups::{FixedPointFormat, GroupSizes};
pub use memory::{Memory, Part, Phase, Remedy, memory};
pub use parameters::Parameters;
pub use plan::Plan;
pub use sections::Section;
pub use stages::stages;
pub use steps::Steps;
pub use traffic::{AxisTraffic, Traffic};
pub use warnings::{Level, Warning};
pub use work::Work;

#[cfg(test)]
mod tests;
