//! The floating-point types that weights are stored in.

use std::fmt;

use half::{bf16, f16};
use serde::Serialize;

/// A type of stored weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    Float32,
    /// The upper half of a float32: 8 bits of exponent, 8 of precision.
    Bfloat16,
    /// IEEE half precision: 5 bits of exponent, 11 of precision, nothing above 65504.
    Float16,
}

impl Dtype {
    /// The name in `config.json`, and in torch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    /// The type of a stored tensor; none for integers, float64 and quantised types.
    pub(crate) fn of_stored(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::Float32),
            safetensors::Dtype::BF16 => Some(Self::Bfloat16),
            safetensors::Dtype::F16 => Some(Self::Float16),
            _ => None,
        }
    }

    /// The name in a safetensors header.
    pub(crate) fn header_name(self) -> &'static str {
        match self {
            Self::Float32 => "F32",
            Self::Bfloat16 => "BF16",
            Self::Float16 => "F16",
        }
    }

    /// Bytes of a number.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 | Self::Float16 => 2,
        }
    }

    /// The nearest number of this type, ties to the even one; what is out of range becomes infinite.
    pub(crate) fn round(self, x: f32) -> f32 {
        match self {
            Self::Float32 => x,
            Self::Bfloat16 => bf16::from_f32(x).to_f32(),
            Self::Float16 => f16::from_f32(x).to_f32(),
        }
    }

    /// Every number of this type is one of `other`.
    pub(crate) fn fits_in(self, other: Self) -> bool {
        self == other || other == Self::Float32
    }

    /// Little-endian numbers of this type as float32, which holds each of them exactly. `bytes` has as many numbers
    /// as `out`.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (pairs, _) = bytes.as_chunks::<2>();
        match self {
            Self::Float32 => {
                let (quads, _) = bytes.as_chunks::<4>();
                out.iter_mut().zip(quads).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
            }
            Self::Bfloat16 => {
                out.iter_mut()
                    .zip(pairs)
                    .for_each(|(x, b)| *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
            }
            Self::Float16 => {
                out.iter_mut().zip(pairs).for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32());
            }
        }
    }

    /// The numbers rounded to this type, little-endian. `bytes` has room for as many numbers as `values`.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Self::Float32 => {
                let (quads, _) = bytes.as_chunks_mut::<4>();
                quads.iter_mut().zip(values).for_each(|(b, x)| *b = x.to_le_bytes());
            }
            Self::Bfloat16 => {
                let (pairs, _) = bytes.as_chunks_mut::<2>();
                pairs.iter_mut().zip(values).for_each(|(b, x)| *b = bf16::from_f32(*x).to_le_bytes());
            }
            Self::Float16 => {
                let (pairs, _) = bytes.as_chunks_mut::<2>();
                pairs.iter_mut().zip(values).for_each(|(b, x)| *b = f16::from_f32(*x).to_le_bytes());
            }
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Dtype;

    #[test]
    fn rounding_is_to_nearest_even() {
        let check = |dtype: Dtype, from: f32, to: f32| assert_eq!(dtype.round(from), to, "{dtype} of {from}");
        // Between 1 and 2, bfloat16 has steps of 2^-7 and float16 of 2^-10.
        let step = |bits: i32| 2_f32.powi(-bits);
        for (dtype, bits) in [(Dtype::Bfloat16, 7), (Dtype::Float16, 10)] {
            check(dtype, 1.0 + step(bits + 1), 1.0);
            check(dtype, 1.0 + 3.0 * step(bits + 1), 1.0 + 2.0 * step(bits));
            check(dtype, 1.0 + step(bits + 1) + step(20), 1.0 + step(bits));
            check(dtype, -1.0 - step(bits + 1), -1.0);
        }
        check(Dtype::Float32, 1.0 + step(23), 1.0 + step(23));
        check(Dtype::Float16, 65519.0, 65504.0);
        check(Dtype::Float16, 65520.0, f32::INFINITY);
        check(Dtype::Float16, 2_f32.powi(-25), 0.0);
        check(Dtype::Float16, 1.5 * 2_f32.powi(-25), 2_f32.powi(-24));
        check(Dtype::Bfloat16, f32::MAX, f32::INFINITY);
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let values = [0.0, -0.0, 1.0, -2.5, 0.15625, 65504.0, 6e-8, f32::INFINITY];
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            let rounded = values.map(|x| dtype.round(x));
            let (mut bytes, mut back) = (vec![0; values.len() * dtype.size() as usize], [0.0; 8]);
            dtype.encode(&values, &mut bytes);
            dtype.decode(&bytes, &mut back);
            assert_eq!(back.map(f32::to_bits), rounded.map(f32::to_bits), "{dtype}");
        }
    }
}
