//! The two hot loops over a partition, and what they need: apply (θ → ΔW) and reduce (dL/dW → dL/dθ).
//!
//! For a weight with global index i in group g(i), with scale s_j = 1/sqrt(n_j) and dropout mask m_i:
//!
//! - apply: ΔW_i = m_i · (s·θ)_g(i), in f32 ([`Map::apply`]);
//! - reduce: dL/dθ_j = s_j · Σ over i in group j of m_i · dL/dW_i ([`Map::reduce`], [`FixedPoint::finish`]).
//!
//! The sum is one of 64-bit integers ([`FixedPoint`]): it has no order, so threads, ranks and meshes cannot change
//! a bit. Neither loop makes an array as long as the weights beyond the one that it is asked for, and both give
//! the same bits on every instruction set. Nothing here reads a clock, a file or the environment.

pub mod cuda;
mod dropout;
mod error;
mod executor;
mod fixed_point;
mod kernel;
mod map;
mod reducer;

pub use dropout::Dropout;
pub use error::ProjectionError;
pub use executor::{Executor, Scoped, Serial};
pub use fixed_point::FixedPoint;
pub use map::{GradSlice, Map, WeightSlice, scale_theta};
pub use reducer::Reducer;
