//! What a run will need, move and take, from numbers alone: no weights, no files, no clock.
//!
//! [`Plan::new`] turns [`Facts`] into parameters, group sizes, what each rank of the mesh owns, bytes a rank, bytes moved a
//! step, disk, steps, arithmetic, time, the meshes that were possible and warnings; [`Plan::sections`] is the same as text.
//! [`memory()`] is the part that is asked again just before weights are loaded, [`stages`] says which blocks a pipeline
//! stage has, [`RankTraffic`] what a rank moves to the byte, [`cheapest`] which mesh to take. Every formula is written
//! where it is computed.
//!
//! Arithmetic on counts saturates, arithmetic on f64 may be infinite: no input panics.
//!
//! Legend: N tokens of a micro-batch with its padding (B rows × T), H hidden size, I size of the MLP, Q = heads × head
//! size, K = key-value heads × head size, V vocabulary, d length of θ, c bytes of a number in the compute dtype;
//! R copies (dp-replicate) of S ranks (dp-shard) of each of P stages (pp), M micro-batches of a pipeline in a step.

mod activations;
mod budget;
mod count;
mod disk;
mod error;
mod facts;
mod groups;
mod measurement;
mod memory;
mod network;
mod ownership;
mod parameters;
mod plan;
mod ranking;
mod scaling;
mod sections;
mod stage;
mod steps;
mod text;
mod time;
mod traffic;
mod units;
mod warnings;
mod wire;
mod work;

pub use budget::ActivationBudget;
pub use disk::Disk;
pub use error::PlanError;
pub use facts::{
    BlockRun, Data, Dtype, Facts, Host, Linear, Link, Model, PartitionKind, Ranks, Role, Speed, Training,
};
pub use groups::{FixedPointFormat, GroupSizes};
pub use measurement::{Measured, Measurement};
pub use memory::{Memory, Part, Phase, Remedy, memory};
pub use ownership::StagePlan;
pub use parameters::Parameters;
pub use plan::Plan;
pub use ranking::{RankedMesh, cheapest, meshes};
pub use scaling::Scaling;
pub use sections::Section;
pub use stage::{operations_a_token, stages};
pub use steps::Steps;
pub use time::Timing;
pub use traffic::{AxisTraffic, Certainty, Move, Traffic};
pub use units::TILE_ROWS;
pub use warnings::{Level, Warning};
pub use wire::{Moved, RankTraffic};
pub use work::Work;

#[cfg(test)]
mod tests;
