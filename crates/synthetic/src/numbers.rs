//! Numbers that are a function of seed, tensor and position, so that any part can be made by itself.

use half::bf16;

use crate::Fill;

/// The increment and the mixing function of SplitMix64 (Steele, Lea and Flood 2014, DOI 10.1145/2660193.2660195).
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The stream of a tensor: another one for every seed and name.
pub(crate) fn key(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mix(seed.wrapping_add(INCREMENT)), |key, byte| mix(key ^ u64::from(byte)))
}

/// Writes the elements `first..` of a tensor into `into`, little-endian.
pub(crate) fn fill(fill: Fill, key: u64, first: u64, into: &mut [u8]) {
    match fill {
        Fill::Zeros => into.fill(0),
        Fill::Ones => {
            let one = bf16::ONE.to_le_bytes();
            into.as_chunks_mut().0.iter_mut().for_each(|element| *element = one);
        }
        Fill::Normal(deviation) => normal(deviation, key, first, into),
    }
}

/// The sum of the four 16-bit halves of a mixed counter: bell-shaped, within 3.5 standard deviations.
fn normal(deviation: f32, key: u64, first: u64, into: &mut [u8]) {
    /// Mean of the sum of four numbers of `0..2^16`.
    const MEAN: f32 = 2.0 * 65_535.0;
    /// Its standard deviation: 2 · sqrt((2^32 - 1) / 12).
    const DEVIATION: f32 = 37_837.227;
    let scale = deviation / DEVIATION;
    for (position, element) in (first..).zip(into.as_chunks_mut().0) {
        let bits = mix(key.wrapping_add(position.wrapping_mul(INCREMENT)));
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        *element = rounded((sum as f32 - MEAN) * scale).to_le_bytes();
    }
}

/// The bits of the nearest bfloat16 of a finite number; ties go to even. `half`'s own checks for NaN at every number.
const fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(fill_with: Fill, key: u64, first: u64, count: usize) -> Vec<f32> {
        let mut bytes = vec![0xaa; 2 * count];
        fill(fill_with, key, first, &mut bytes);
        bytes.as_chunks().0.iter().map(|element| bf16::from_le_bytes(*element).to_f32()).collect()
    }

    #[test]
    fn numbers_are_nearly_normal() {
        let numbers = numbers(Fill::Normal(0.02), key(0, "some.weight"), 0, 1 << 20);
        let n = numbers.len() as f64;
        let moment = |power: i32| numbers.iter().map(|x| f64::from(*x / 0.02).powi(power)).sum::<f64>() / n;
        // Of four uniform numbers the fourth moment is 2.7, of a normal one 3. Bounds are 6 standard errors or more.
        assert!(moment(1).abs() < 0.006, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.03, "third moment {}", moment(3));
        assert!((moment(4) - 2.7).abs() < 0.06, "fourth moment {}", moment(4));
        let pairs = numbers.windows(2).map(|pair| f64::from(pair[0] * pair[1] / 0.0004)).sum::<f64>() / n;
        assert!(pairs.abs() < 0.006, "neighbours {pairs}");
    }

    #[test]
    fn any_part_can_be_made_by_itself() {
        let whole = numbers(Fill::Normal(1.0), key(7, "a"), 0, 1000);
        assert_eq!(numbers(Fill::Normal(1.0), key(7, "a"), 123, 500), whole[123..623]);
        assert_ne!(numbers(Fill::Normal(1.0), key(8, "a"), 0, 1000), whole, "another seed");
        assert_ne!(numbers(Fill::Normal(1.0), key(7, "b"), 0, 1000), whole, "another tensor");
        assert_eq!(numbers(Fill::Ones, 0, 0, 3), [1.0; 3]);
        assert_eq!(numbers(Fill::Zeros, 0, 0, 3), [0.0; 3]);
    }

    #[test]
    fn rounding_is_that_of_half() {
        for step in 0..100_000_u32 {
            let number = f32::from_bits(0x3c00_0000 + step * 997);
            for number in [number, -number] {
                assert_eq!(rounded(number), bf16::from_f32(number).to_bits(), "{number}");
            }
        }
        assert_eq!(rounded(0.0), 0);
    }
}
