//! What the settings of an adapter say about its partition, and the partition made from it.

use crate::{
    Assignment, Blocks, Materialized, PartitionError, Seed, SignedMagnitude, Stateless,
    assignment::check_range,
};

/// How groups are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A hash of seed and index: [`Stateless`].
    Stateless,
    /// Torch's random stream: [`Materialized`].
    Materialized,
    /// By the weights' signs and sizes: [`SignedMagnitude`]. It needs all values of the weights.
    SignedMagnitude,
}

/// What is partitioned as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All weights.
    Global,
    /// Each block by itself, with its share of the groups: the scope `transformer_block`. The blocks in their order,
    /// which is also that of their weights.
    Blocks(Vec<BlockRange>),
}

/// A block's part of the adapted weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRange {
    /// The block's name, for messages.
    pub name: String,
    /// How many adapted weights it has.
    pub numel: u64,
}

/// A partition as the settings describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// How groups are drawn.
    pub backend: Backend,
    /// The number of groups in all.
    pub d: u64,
    /// The seed; block k of the block scope takes seed + k. Without influence on [`Backend::SignedMagnitude`].
    pub seed: Seed,
    /// What is partitioned as one.
    pub scope: Scope,
}

/// The memory a partition takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// At most while it is built, `held` included, the values of the weights not.
    pub peak: u64,
    /// As long as it lives.
    pub held: u64,
}

impl Spec {
    /// The memory that the partition of `total` weights takes; the vectors of d numbers beside it not counted.
    ///
    /// For [`Backend::SignedMagnitude`] the peak is an upper bound, reached where all weights have one sign.
    pub fn footprint(&self, total: u64) -> Footprint {
        let same = |held| Footprint { peak: held, held };
        match (self.backend, &self.scope) {
            (Backend::Stateless, _) => same(0),
            (Backend::Materialized, Scope::Global) => same(Materialized::bytes(self.d, total)),
            (Backend::Materialized, Scope::Blocks(blocks)) => same(
                self.widths(blocks.len())
                    .zip(blocks)
                    .fold(0, |sum, (d, block)| sum.saturating_add(Materialized::bytes(d, block.numel))),
            ),
            (Backend::SignedMagnitude, scope) => {
                let sorted = match scope {
                    Scope::Global => total,
                    Scope::Blocks(blocks) => blocks.iter().map(|block| block.numel).max().unwrap_or(0),
                };
                let held = total.saturating_mul(SignedMagnitude::HELD_BYTES_PER_WEIGHT);
                let extra = SignedMagnitude::PEAK_BYTES_PER_WEIGHT - SignedMagnitude::HELD_BYTES_PER_WEIGHT;
                Footprint { peak: held.saturating_add(sorted.saturating_mul(extra)), held }
            }
        }
    }

    /// Every block's number of groups: d shared out, and what is left over to the first ones.
    fn widths(&self, blocks: usize) -> impl Iterator<Item = u64> {
        let (d, blocks) = (self.d, blocks as u64);
        (0..blocks).map(move |block| d / blocks + u64::from(block < d % blocks))
    }
}

/// Makes the partition of `total` weights that `spec` describes.
///
/// `values` are all weights in canonical order, which [`Backend::SignedMagnitude`] needs; the others ignore them. In
/// the global scope a random partition may have more groups than weights, some of which are then empty.
///
/// # Errors
/// When d is not legal for the backend, values are missing or not numbers, the blocks do not have `total` weights in
/// all, there are fewer groups than blocks, a block has fewer weights than groups, or memory does not suffice.
pub fn build(spec: &Spec, total: u64, values: Option<&[f32]>) -> Result<Box<dyn Assignment>, PartitionError> {
    check_range(0, total)?;
    let values = match (spec.backend, values) {
        (Backend::SignedMagnitude, None) => return Err(PartitionError::ValuesMissing),
        (Backend::SignedMagnitude, Some(values)) if values.len() as u64 != total => {
            return Err(PartitionError::ValuesLength { expected: total, got: values.len() });
        }
        (Backend::SignedMagnitude, Some(values)) => values,
        _ => &[],
    };
    match &spec.scope {
        Scope::Global => one(spec.backend, spec.d, spec.seed, total, values),
        Scope::Blocks(blocks) => Ok(Box::new(by_block(spec, blocks, total, values)?)),
    }
}

/// A partition without blocks, or of one of them.
fn one(
    backend: Backend,
    d: u64,
    seed: Seed,
    total: u64,
    values: &[f32],
) -> Result<Box<dyn Assignment>, PartitionError> {
    Ok(match backend {
        Backend::Stateless => Box::new(Stateless::new(seed, d)?),
        Backend::Materialized => Box::new(Materialized::new(seed, d, total)?),
        Backend::SignedMagnitude => Box::new(SignedMagnitude::new(d, values)?),
    })
}

fn by_block(
    spec: &Spec,
    blocks: &[BlockRange],
    total: u64,
    values: &[f32],
) -> Result<Blocks, PartitionError> {
    let (d, count) = (spec.d, blocks.len());
    let sum = blocks.iter().fold(0_u64, |sum, block| sum.saturating_add(block.numel));
    if sum != total {
        return Err(PartitionError::BlocksLength { sum, total });
    }
    if count == 0 {
        return Err(PartitionError::NoBlocks);
    }
    if d < count as u64 {
        return Err(PartitionError::FewerGroupsThanBlocks { d, blocks: count });
    }
    for (width, block) in spec.widths(count).zip(blocks) {
        if width > block.numel {
            let (name, weights) = (block.name.clone(), block.numel);
            return Err(PartitionError::BlockTooNarrow { d, blocks: count, name, width, weights });
        }
    }
    let mut parts = Vec::with_capacity(count);
    let mut start = 0;
    for (k, (width, block)) in spec.widths(count).zip(blocks).enumerate() {
        let seed = Seed::from(spec.seed.get().wrapping_add(k as u64));
        let values = values.get(start as usize..(start + block.numel) as usize).unwrap_or(&[]);
        let part = one(spec.backend, width, seed, block.numel, values).map_err(|error| match error {
            PartitionError::NotANumber { index } => PartitionError::NotANumber { index: start + index },
            error => error,
        })?;
        parts.push((part, block.numel));
        start += block.numel;
    }
    Blocks::new(parts)
}

#[cfg(test)]
mod tests;
