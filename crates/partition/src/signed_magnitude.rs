//! Groups of weights of the same sign and a similar size.

use crate::assignment::{check_within, reserve};
use crate::{Assignment, Cursor, PartitionError};

/// The most weights that can be sorted: an index is the low half of a sort key.
const LARGEST_TOTAL: u64 = 1 << 32;

/// A partition by the weights' own values: negative ones in the first groups, the others in the rest, and within
/// either, groups of (nearly) equal size in the order of size. A table of 32-bit ids; no seed enters.
///
/// With n weights of a sign, weight i of value v sorts by the f32 number |v|·(n+1) + i/(n+1), each operation rounded,
/// then by i. The second term spans about N/(n+1), so neighbouring sizes are interleaved by index, as in the official
/// code, whose groups these are.
#[derive(Debug, Clone)]
pub struct SignedMagnitude {
    d: u64,
    ids: Vec<u32>,
}

impl SignedMagnitude {
    /// What is held, in bytes a weight: one id.
    pub const HELD_BYTES_PER_WEIGHT: u64 = 4;

    /// What is held at most while the table is built, in bytes a weight: an id, and a sort key for each weight of the
    /// sign at work. About 8 where the signs are balanced, 12 where all are the same. The values come on top.
    pub const PEAK_BYTES_PER_WEIGHT: u64 = 12;

    /// The partition of `values`, all adapted weights in canonical order, into `d` groups.
    ///
    /// Infinite values are as large as any; −0 counts as not negative.
    ///
    /// # Errors
    /// When d is zero or above the number of weights, a value is not a number (the official code would put it into
    /// neither pool and leave its group undefined), or there are more weights than 2^32 or than memory holds.
    pub fn new(d: u64, values: &[f32]) -> Result<Self, PartitionError> {
        let total = values.len() as u64;
        if d == 0 {
            return Err(PartitionError::GroupCount { d });
        }
        if d > total {
            return Err(PartitionError::MoreGroupsThanWeights { d, total });
        }
        if total > LARGEST_TOTAL {
            return Err(PartitionError::TooManyWeights { total, limit: LARGEST_TOTAL });
        }
        if let Some(index) = values.iter().position(|value| value.is_nan()) {
            return Err(PartitionError::NotANumber { index: index as u64 });
        }
        let negative = values.iter().filter(|value| **value < 0.0).count() as u64;
        let split = negative_groups(d, negative, total);
        let mut ids = reserve("the table of groups", total)?;
        ids.resize(values.len(), 0);
        fill_pool(values, true, negative, 0..split, &mut ids)?;
        fill_pool(values, false, total - negative, split..d, &mut ids)?;
        Ok(Self { d, ids })
    }

    /// The group of every weight, in canonical order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Assignment for SignedMagnitude {
    fn d(&self) -> u64 {
        self.d
    }

    fn cursor(&self) -> Box<dyn Cursor + '_> {
        Box::new(TableCursor(&self.ids))
    }
}

struct TableCursor<'a>(&'a [u32]);

impl Cursor for TableCursor<'_> {
    fn fill(&mut self, start: u64, out: &mut [u32]) -> Result<(), PartitionError> {
        check_within(start, out.len() as u64, self.0.len() as u64)?;
        let start = start as usize;
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }
}

/// How many of the d groups the negative weights get; the rest are for the others.
///
/// Their share of the weights, but at least one for either sign that occurs. A single group takes both signs: it is
/// then the other weights' group, number 0, and the negative ones' zero groups leave them there too.
fn negative_groups(d: u64, negative: u64, total: u64) -> u64 {
    match (negative, total - negative) {
        (0, _) => 0,
        (_, 0) => d,
        _ if d == 1 => 0,
        // Each of the two corrections of the official code, in one step: at least one group for either.
        _ => round_quotient(u128::from(d) * u128::from(negative), total).clamp(1, d - 1),
    }
}

/// The f64 nearest to numerator/denominator, rounded to an integer, half to even both times.
///
/// `numerator` is below 2^64 and `denominator` between 1 and 2^32.
fn round_quotient(numerator: u128, denominator: u64) -> u64 {
    const SHIFT: u32 = 60;
    let shifted = numerator << SHIFT;
    let quotient = shifted / u128::from(denominator);
    // The last bit stands for all that follow, so that the conversion, which rounds, sees which side it is on.
    let sticky = u128::from(!shifted.is_multiple_of(u128::from(denominator)));
    let nearest = (quotient | sticky) as f64 / (1_u64 << SHIFT) as f64;
    nearest.round_ties_even() as u64
}

/// Writes the groups of the weights of one sign, of which there are `count`.
fn fill_pool(
    values: &[f32],
    negative: bool,
    count: u64,
    groups: std::ops::Range<u64>,
    ids: &mut [u32],
) -> Result<(), PartitionError> {
    let bins = groups.end - groups.start;
    let pool = (0_u64..).zip(values).filter(|(_, value)| (**value < 0.0) == negative);
    if bins > count {
        // One weight a group, by index, and groups without weights at the end.
        for (group, (index, _)) in groups.zip(pool) {
            ids[index as usize] = group as u32;
        }
        return Ok(());
    }
    if bins <= 1 {
        pool.for_each(|(index, _)| ids[index as usize] = groups.start as u32);
        return Ok(());
    }
    // The key's bits above the index: keys are not negative, so their bits sort as they do, and no two are equal, so
    // any sort is a stable one.
    let mut order: Vec<u64> = reserve("the weights in order of size", count)?;
    let divisor = (count + 1) as f32;
    order.extend(pool.map(|(index, value)| {
        let key = value.abs() * divisor + index as f32 / divisor;
        u64::from(key.to_bits()) << 32 | index
    }));
    order.sort_unstable();
    let bound = |bin: u64| (u128::from(bin) * u128::from(count) / u128::from(bins)) as usize;
    for bin in 0..bins {
        for key in &order[bound(bin)..bound(bin + 1)] {
            ids[*key as u32 as usize] = (groups.start + bin) as u32;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
