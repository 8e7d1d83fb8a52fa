//! Model folders in Hugging Face layout with random weights, so that real shapes can be tried without a download.
//!
//! Names and shapes of the tensors are the caller's. What this crate adds is numbers that are a function of seed,
//! tensor name and position alone, and files that are written in a stream: memory does not grow with the model.

mod error;
mod layout;
mod numbers;
mod output;
mod shapes;
#[cfg(test)]
mod tests;
mod write;

pub use error::SyntheticError;
pub use shapes::{NAMES, config_of};
pub use write::{Folder, Progress, Written, write};

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Nearly normal numbers with mean zero and this standard deviation.
    Normal(f32),
}

/// A tensor to be written, in bfloat16.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Full name.
    pub name: String,
    /// Sizes, the slowest first.
    pub shape: Vec<u64>,
    /// Its numbers.
    pub fill: Fill,
}

impl Tensor {
    /// Number of elements.
    pub fn numel(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes in bfloat16.
    pub fn bytes(&self) -> u64 {
        2 * self.numel()
    }
}
