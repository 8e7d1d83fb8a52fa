use crate::ProjectionError;

// Constants of the 64-bit finalizer of MurmurHash3, and a Weyl increment that is not the partition's.
pub(crate) const MULTIPLIER_1: u64 = 0xFF51_AFD7_ED55_8CCD;
pub(crate) const MULTIPLIER_2: u64 = 0xC4CE_B9FE_1A85_EC53;
pub(crate) const WEYL: u64 = 0xD1B5_4A32_D192_ED03;

/// The dropout mask on ΔW of one micro-batch.
///
/// A counter-based generator: weight i is kept or dropped by a hash of (seed, step, micro-batch, i) alone, so the
/// mask is the same on any mesh, in any order, in forward and in backward, and nothing is stored. One 64-bit word
/// serves the weights 2k (low half) and 2k + 1 (high half); each has 32 bits of resolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Start of the counter, and a second key that enters between the two multiplications: two masks are then
    /// different functions, not one sequence read from different places.
    pub(crate) key: [u64; 2],
    /// A weight is dropped where its 32 bits are below this.
    pub(crate) threshold: u32,
    /// What a kept weight is multiplied by, 1/(1 − p).
    pub(crate) factor: f32,
}

impl Dropout {
    /// The mask that drops each weight with probability `p`; `None` at p = 0.
    ///
    /// `step` and `micro_batch` are counted over the whole run and the whole step, not over a rank.
    ///
    /// # Errors
    /// [`ProjectionError::DropoutRate`] unless 0 ≤ p < 1.
    pub fn new(p: f64, seed: u64, step: u64, micro_batch: u64) -> Result<Option<Self>, ProjectionError> {
        if !(0.0..1.0).contains(&p) {
            return Err(ProjectionError::DropoutRate { p });
        }
        if p == 0.0 {
            return Ok(None);
        }
        // Absorbing one number after the other; each is mixed in full before the next comes.
        let state = [seed, step, micro_batch].into_iter().fold(WEYL, |state, word| {
            finalize(state.wrapping_add(WEYL) ^ finalize(word.wrapping_add(WEYL), 0), 0)
        });
        let key = [state, finalize(state.wrapping_add(WEYL), 0)];
        let threshold = (p * 4_294_967_296.0).round_ties_even().min(f64::from(u32::MAX)) as u32;
        // As torch does it in f32: the reciprocal of 1 − p rounded to f32.
        Ok(Some(Self { key, threshold, factor: 1.0 / (1.0 - p) as f32 }))
    }

    /// What weight `index` is multiplied by: 1/(1 − p) where it is kept, 0 where it is dropped.
    pub fn multiplier(&self, index: u64) -> f32 {
        let word = self.word(index / 2);
        self.choose(if index.is_multiple_of(2) { word as u32 } else { (word >> 32) as u32 })
    }

    /// The 64 random bits of the weights 2·pair and 2·pair + 1.
    #[inline]
    pub(crate) fn word(&self, pair: u64) -> u64 {
        finalize(self.counter(pair), self.key[1])
    }

    /// The counter that is hashed for a pair; consecutive pairs are [`WEYL`] apart.
    #[inline]
    pub(crate) fn counter(&self, pair: u64) -> u64 {
        pair.wrapping_mul(WEYL).wrapping_add(self.key[0])
    }

    #[inline]
    pub(crate) fn choose(&self, bits: u32) -> f32 {
        if bits >= self.threshold { self.factor } else { 0.0 }
    }
}

/// The finalizer of MurmurHash3 with a key between its two multiplications.
#[inline]
fn finalize(mut z: u64, key: u64) -> u64 {
    z = (z ^ (z >> 33)).wrapping_mul(MULTIPLIER_1);
    z = (z ^ (z >> 33) ^ key).wrapping_mul(MULTIPLIER_2);
    z ^ (z >> 33)
}

#[cfg(test)]
mod tests;
