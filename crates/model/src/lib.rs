//! Decoder-only language models as plain single-device math over libtorch.
//!
//! Nothing here knows of ranks, adapters or θ. A [`Decoder`] is handed the weights of one block at a time and returns
//! tensors; who owns, gathers or perturbs those weights is decided elsewhere.
//!
//! Shape legend used throughout: `B` rows of a micro-batch, `T` tokens of the padded row, `H` hidden size,
//! `A` attention heads, `K` key-value heads, `D` size of a head, `I` intermediate size, `V` vocabulary.

mod accounting;
mod cache;
mod checkpoint_files;
mod config;
mod decoder;
mod error;
mod head;
mod linear;
mod loss;
mod packed;
mod rotary;
mod transfer;
mod weights;

pub use accounting::{BlockParameters, Parameters};
pub use cache::{LibtorchProducts, RowCache, RowProducts, cache_bytes_per_token};
pub use checkpoint_files::{CheckpointFiles, TensorEntry};
pub use config::{Activation, Family, ModelConfig, NormWeight, RopeScaling, SlidingWindow};
pub use decoder::{Decoder, SequenceContext};
pub use error::ModelError;
pub use head::{Head, TILE_ROWS, WholeHead, likeliest, tile_count, tile_of, tile_rows};
pub use linear::{Linear, LinearKind, LinearModule, linear_modules};
pub use loss::{CrossEntropy, cross_entropy, next_labels};
pub use rotary::RotaryTables;
pub use transfer::to_device;
pub use weights::{BlockWeights, DecoderWeights, WeightReader, block_specs, check_stored, tensor_specs};
