//! Rotary position embedding (RoFormer, arXiv 2104.09864), in the half-split layout of the Llama checkpoints.

use tch::{Device, Kind, Tensor};

use crate::transfer::to_device;
use crate::{ModelConfig, RopeScaling};

/// Cosines and sines of the positions of a row, `[T, D]`, or of a position a row, `[B, 1, 1, D]`, in the compute dtype.
#[derive(Debug)]
pub struct RotaryTables {
    /// `cos(position · frequency)`, the frequencies twice in a row.
    pub cos: Tensor,
    /// `sin(position · frequency)`, likewise.
    pub sin: Tensor,
}

impl RotaryTables {
    /// Tables for positions `0..length`. Angles are computed in f32, as transformers does.
    pub fn new(config: &ModelConfig, length: i64, kind: Kind, device: Device) -> Self {
        Self::of(config, &Tensor::arange(length, (Kind::Float, device)), kind)
    }

    /// Tables for one row whose tokens stand at `positions`: `[T, D]`.
    pub fn of_row(config: &ModelConfig, positions: &[i64], kind: Kind, device: Device) -> Self {
        let positions = to_device(&Tensor::from_slice(positions).to_kind(Kind::Float), device);
        Self::of(config, &positions, kind)
    }

    /// Tables for rows of one token each, which stands at `positions` `[B]` of its row: `[B, 1, 1, D]`.
    pub fn at(config: &ModelConfig, positions: &[i64], kind: Kind, device: Device) -> Self {
        let positions = to_device(&Tensor::from_slice(positions).to_kind(Kind::Float), device);
        Self::of(config, &positions.view([-1, 1, 1]), kind)
    }

    /// Tables for `positions` (f32, any shape), with `D` as one more dim.
    fn of(config: &ModelConfig, positions: &Tensor, kind: Kind) -> Self {
        let frequencies = to_device(&Tensor::from_slice(&inverse_frequencies(config)), positions.device());
        let angles = positions.unsqueeze(-1) * frequencies;
        let angles = Tensor::cat(&[&angles, &angles], -1);
        Self { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }

    /// Turns `x`, `[B, heads, T, D]`, by its positions.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        let half = x.size()[3] / 2;
        let (first, second) = (x.narrow(3, 0, half), x.narrow(3, half, half));
        let rotated = Tensor::cat(&[&second.neg(), &first], -1);
        x * &self.cos + rotated * &self.sin
    }
}

/// `D/2` inverse frequencies, after the configured stretching.
fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    let dim = config.head_dim as f32;
    (0..config.head_dim / 2)
        .map(|pair| 1.0 / (config.rope_theta as f32).powf((2 * pair) as f32 / dim))
        .map(|frequency| stretch(frequency, config.rope_scaling))
        .collect()
}

fn stretch(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
            let context = original_max_position as f32;
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength > context / low {
                frequency / factor
            } else if wavelength < context / high {
                frequency
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}
