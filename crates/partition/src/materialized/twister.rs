//! MT19937 (Matsumoto, Nishimura: "Mersenne Twister", 1998), a whole state at a time.
//!
//! The loops have no data-dependent branch and are written for the compiler to vectorise; each is compiled once for
//! every instruction set. They are integer operations alone, so all give the same bits.

#[cfg(target_arch = "x86_64")]
use crate::IsaKind;
use crate::{Isa, materialized::Draw};

/// The words of a state, and the outputs made from it.
pub(super) const STATE_WORDS: usize = 624;

/// How far apart the words are that one step combines.
const SHIFT: usize = 397;

const MATRIX: u32 = 0x9908_B0DF;

/// A state of the generator: 624 outputs before they are tempered.
#[derive(Clone)]
pub(super) struct State([u32; STATE_WORDS]);

/// Calls the copy of a function that is compiled for an instruction set.
macro_rules! dispatch {
    ($isa:expr, $function:ident($($argument:expr),*)) => {
        match $isa.kind() {
            // SAFETY: an `Isa` of this kind exists only where detection found AVX-512 F, DQ and VL.
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => unsafe { avx512::$function($($argument),*) },
            // SAFETY: an `Isa` of this kind exists only where detection found AVX2.
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => unsafe { avx2::$function($($argument),*) },
            _ => $function($($argument),*),
        }
    };
}

/// The same functions for an instruction set of their own.
macro_rules! compile_for {
    ($name:ident, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use super::{Draw, STATE_WORDS};

            #[target_feature(enable = $features)]
            pub(super) fn step(words: &mut [u32; STATE_WORDS]) {
                super::step(words);
            }

            #[target_feature(enable = $features)]
            pub(super) fn narrow_ids(words: &[u32], draw: &Draw, out: &mut [u32]) {
                super::narrow_ids(words, draw, out);
            }
        }
    };
}

compile_for!(avx2, "avx2");
compile_for!(avx512, "avx512f,avx512dq,avx512vl");

impl State {
    /// The state before the first output, by the generator's own `init_genrand`.
    pub(super) fn new(seed: u32) -> Self {
        let mut words = [seed; STATE_WORDS];
        for k in 1..STATE_WORDS {
            let before = words[k - 1];
            words[k] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(k as u32);
        }
        Self(words)
    }

    /// The next state.
    pub(super) fn step(&mut self, isa: Isa) {
        dispatch!(isa, step(&mut self.0));
    }

    /// Writes the ids made from this state, from the one with the number `first` on.
    ///
    /// # Panics
    /// Where the state does not make so many.
    pub(super) fn draw(&self, isa: Isa, first: usize, draw: &Draw, out: &mut [u32]) {
        match draw.words_per_id() {
            1 => dispatch!(isa, narrow_ids(&self.0[first..first + out.len()], draw, out)),
            _ => wide_ids(&self.0[2 * first..2 * (first + out.len())], draw, out),
        }
    }
}

#[inline(always)]
fn step(words: &mut [u32; STATE_WORDS]) {
    // Word k becomes a function of the words k, k + 1 and k + 397, modulo 624 and as they then are. In three runs,
    // none of which reads what it has written.
    const REST: usize = STATE_WORDS - SHIFT;
    let (low, high) = words.split_at_mut(SHIFT);
    combine(&mut low[..=REST], high);
    let (low, high) = words.split_at_mut(REST);
    combine(&mut high[..=REST], low);
    let (low, high) = words.split_at_mut(2 * REST);
    combine(high, &low[REST..SHIFT - 1]);
    let end = STATE_WORDS - 1;
    words[end] = words[SHIFT - 1] ^ twist(words[end], words[0]);
}

/// target_k = other_k xor twist(target_k, target_(k + 1)), for all but the last target.
#[inline(always)]
fn combine(target: &mut [u32], other: &[u32]) {
    let target = &mut target[..=other.len()];
    for (k, other) in other.iter().enumerate() {
        target[k] = other ^ twist(target[k], target[k + 1]);
    }
}

/// The high bit of one word and the rest of the next, times the generator's matrix.
#[inline(always)]
fn twist(word: u32, next: u32) -> u32 {
    let mixed = (word & 0x8000_0000) | (next & 0x7FFF_FFFF);
    (mixed >> 1) ^ ((next & 1).wrapping_neg() & MATRIX)
}

#[inline(always)]
fn temper(mut word: u32) -> u32 {
    word ^= word >> 11;
    word ^= (word << 7) & 0x9D2C_5680;
    word ^= (word << 15) & 0xEFC6_0000;
    word ^ (word >> 18)
}

/// One output an id, for d < 2^28.
///
/// With m = floor((2^32 − 1)/d) ≥ 2^32/d − 1, z·m/2^32 lies between z/d − z/2^32 > z/d − 1 and z/d, so its floor q
/// is floor(z/d) or one less: the remainder is below 2d, and subtracting d from one below d gives a huge number.
#[inline(always)]
fn narrow_ids(words: &[u32], draw: &Draw, out: &mut [u32]) {
    let (d, barrett) = (draw.modulus.d as u32, u64::from(draw.barrett));
    for (out, &word) in out.iter_mut().zip(words) {
        let z = temper(word);
        let q = ((u64::from(z) * barrett) >> 32) as u32;
        let r = z.wrapping_sub(q.wrapping_mul(d));
        *out = r.min(r.wrapping_sub(d));
    }
}

/// Two outputs an id, the first one as the high word, for d up to 2^31.
fn wide_ids(words: &[u32], draw: &Draw, out: &mut [u32]) {
    for (out, pair) in out.iter_mut().zip(words.chunks_exact(2)) {
        let z = u64::from(temper(pair[0])) << 32 | u64::from(temper(pair[1]));
        *out = draw.modulus.reduce(z) as u32;
    }
}
