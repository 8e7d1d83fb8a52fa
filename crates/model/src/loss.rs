//! Next-token cross-entropy over the supervised positions, with its gradient, in chunks of positions and tiles of the
//! vocabulary.
//!
//! The head is a table of up to 256,000 rows. It is multiplied with tile by tile, [`TILE_ROWS`] rows each, whether all of
//! it is at hand or one tile at a time: the same products of the same shapes in both orders, hence the same bits.

use tch::{Kind, Tensor, no_grad};

use crate::head::{Head, tile_of};
use crate::transfer::to_device;

/// Labels with this value are not predicted.
const IGNORED: i64 = -100;

/// What each position is to predict: the label of the next position of its sequence, or -100. The labels of sequences of
/// these `lengths` lie end to end.
///
/// # Panics
/// The lengths do not add up to the number of labels.
pub fn next_labels(labels: &[i64], lengths: impl IntoIterator<Item = usize>) -> Vec<i64> {
    let mut next = Vec::with_capacity(labels.len());
    for length in lengths {
        let sequence = &labels[next.len()..next.len() + length];
        next.extend_from_slice(sequence.get(1..).unwrap_or_default());
        next.extend((!sequence.is_empty()).then_some(IGNORED));
    }
    assert_eq!(next.len(), labels.len(), "the sequences are all there is");
    next
}

/// Loss of a micro-batch and what flows back from it.
#[derive(Debug)]
pub struct CrossEntropy {
    /// Sum of the negative log-likelihoods, nats, not normalised: one f64 on the model's device, summed over chunks in
    /// order. To read it is to wait for the device.
    pub loss_sum: Tensor,
    /// Number of predicted tokens.
    pub tokens: u64,
    /// Gradient of `loss_sum / normaliser` by the hidden states, `[B, T, H]`, if one was asked for.
    pub grad: Option<Tensor>,
}

/// Cross-entropy of `normed(hidden) · headᵀ` against what each position is to predict.
///
/// `hidden` is `[B, T, H]`, `targets` row-major `[B, T]` ([`next_labels`]); `norm` maps `[N, H]` → `[N, H]`; `head` is `[V, H]`. Only
/// supervised positions are computed, `chunk` of them at a time (0: all at once). Where the whole head is at hand at
/// most `chunk × V` logits are alive, likewise where the micro-batch is a single chunk; where the head comes tile by tile to
/// several chunks, at most `chunk` × a tile's rows, and logits are made twice when a gradient is wanted. Logits are taken in the compute dtype and widened to f32, as transformers does. With
/// `normaliser` the gradient of `loss_sum / normaliser` is made as well.
///
/// # Errors
/// The head's tiles cannot be had.
pub fn cross_entropy<E>(
    hidden: &Tensor,
    norm: &dyn Fn(&Tensor) -> Tensor,
    head: &mut dyn Head<Error = E>,
    targets: &[i64],
    chunk: usize,
    normaliser: Option<f64>,
) -> Result<CrossEntropy, E> {
    let size = hidden.size();
    let (rows, length, width) = (size[0], size[1], size[2]);
    let chunk = if chunk == 0 { targets.len().max(1) } else { chunk };
    let supervised: Vec<usize> = (0..targets.len()).filter(|at| targets[*at] != IGNORED).collect();
    let flat = hidden.detach().reshape([rows * length, width]);
    let mut chunks: Vec<Chunk> = supervised
        .chunks(chunk)
        .map(|positions| Chunk::new(&flat, positions, targets, head.tiles()))
        .collect();
    // By the size of the micro-batch, not by its labels, so that what is needed is known beforehand. Without any label
    // the tiles are gone through all the same: other ranks may wait for them.
    let keeps_logits = chunks.len() == 1 && rows * length <= chunk as i64;
    match head.is_at_hand() || keeps_logits {
        true => by_chunk(&mut chunks, norm, head, normaliser)?,
        false => by_tile(&mut chunks, norm, head, normaliser)?,
    }
    let zero = Tensor::zeros([], (Kind::Double, flat.device()));
    let loss_sum = chunks.iter().filter_map(Chunk::loss_sum).fold(zero, |sum, loss| sum + loss);
    let kind = flat.kind();
    let grad = normaliser.map(|_| {
        let mut grad = flat.zeros_like();
        for chunk in chunks {
            let Chunk { index, hidden, grad: normed_grad, .. } = chunk;
            if let Some(normed_grad) = normed_grad {
                let _ = grad.index_copy_(0, &index, &through_norm(&hidden, norm, &normed_grad.to_kind(kind)));
            }
        }
        grad.reshape([rows, length, width])
    });
    Ok(CrossEntropy { loss_sum, tokens: supervised.len() as u64, grad })
}

/// Chunk after chunk: a chunk's logits of all tiles are kept for its gradient, and the tiles come there and back. The order of additions is [`by_tile`]'s.
fn by_chunk<E>(
    chunks: &mut [Chunk],
    norm: &dyn Fn(&Tensor) -> Tensor,
    head: &mut dyn Head<Error = E>,
    normaliser: Option<f64>,
) -> Result<(), E> {
    for chunk in chunks {
        let normed = no_grad(|| norm(&chunk.hidden));
        let mut kept = Vec::new();
        for tile in 0..head.tiles() {
            let logits = logits(&normed, &head.tile(tile)?);
            chunk.see(tile, &logits);
            if normaliser.is_some() {
                kept.push(logits);
            }
        }
        if let Some(normaliser) = normaliser {
            for (tile, logits) in kept.into_iter().enumerate().rev() {
                chunk.add_gradient(tile, logits, &head.tile(tile)?, normaliser);
            }
        }
    }
    Ok(())
}

/// Tile after tile, for the sums, and then back for the gradient.
fn by_tile<E>(
    chunks: &mut [Chunk],
    norm: &dyn Fn(&Tensor) -> Tensor,
    head: &mut dyn Head<Error = E>,
    normaliser: Option<f64>,
) -> Result<(), E> {
    let normed: Vec<Tensor> = chunks.iter().map(|chunk| no_grad(|| norm(&chunk.hidden))).collect();
    for tile in 0..head.tiles() {
        let weight = head.tile(tile)?;
        for (chunk, normed) in chunks.iter_mut().zip(&normed) {
            chunk.see(tile, &logits(normed, &weight));
        }
    }
    let Some(normaliser) = normaliser else { return Ok(()) };
    // Backwards: the last tile is still there.
    for tile in (0..head.tiles()).rev() {
        let weight = head.tile(tile)?;
        for (chunk, normed) in chunks.iter_mut().zip(&normed) {
            chunk.add_gradient(tile, logits(normed, &weight), &weight, normaliser);
        }
    }
    Ok(())
}

/// Logits of a tile, f32 `[N, rows of the tile]`.
fn logits(normed: &Tensor, weight: &Tensor) -> Tensor {
    no_grad(|| normed.linear::<&Tensor>(weight, None).to_kind(Kind::Float))
}

/// Gradient by the hidden states, from that by their norm's output.
fn through_norm(hidden: &Tensor, norm: &dyn Fn(&Tensor) -> Tensor, upstream: &Tensor) -> Tensor {
    let leaf = hidden.detach().set_requires_grad(true);
    // As in a block's backward: the sum's gradient is one, so what enters is `upstream`.
    let root = (norm(&leaf) * upstream).sum(upstream.kind());
    Tensor::run_backward(&[root], &[&leaf], false, false).swap_remove(0)
}

/// Some positions and what is known of their loss.
struct Chunk {
    /// Where they are, `[N]`.
    index: Tensor,
    /// Hidden states, `[N, H]`.
    hidden: Tensor,
    /// By tile: which of the positions have their target in it, and where in it; none where no position has.
    targets: Vec<Option<(Tensor, Tensor)>>,
    /// log Σ exp of the logits seen so far, `[N]`.
    log_sum: Option<Tensor>,
    /// The targets' logits, where their tiles were seen, `[N]`.
    target_logits: Tensor,
    /// Gradient by the normed hidden states so far, `[N, H]`: f32 from the second tile on.
    grad: Option<Tensor>,
}

impl Chunk {
    fn new(flat: &Tensor, positions: &[usize], targets: &[i64], tiles: usize) -> Self {
        let count = positions.len();
        let mut by_tile: Vec<(Vec<i64>, Vec<i64>)> = vec![Default::default(); tiles];
        for (row, position) in positions.iter().enumerate() {
            let (tile, column) = tile_of(targets[*position]);
            // A target that no tile has would be another tokenizer's; such files are refused when they are read.
            if let Some((rows, columns)) = by_tile.get_mut(tile) {
                rows.push(row as i64);
                columns.push(column);
            }
        }
        // All of it in one transfer.
        let mut numbers: Vec<i64> = positions.iter().map(|position| *position as i64).collect();
        by_tile.iter().for_each(|(rows, columns)| numbers.extend(rows.iter().chain(columns)));
        let numbers = to_device(&Tensor::from_slice(&numbers), flat.device());
        let mut start = 0;
        let mut next = |length: usize| {
            start += length as i64;
            numbers.narrow(0, start - length as i64, length as i64)
        };
        let index = next(count);
        let of_tile = |(rows, _): (Vec<i64>, Vec<i64>)| {
            (!rows.is_empty()).then(|| (next(rows.len()), next(rows.len())))
        };
        let targets = by_tile.into_iter().map(of_tile).collect();
        let hidden = flat.index_select(0, &index);
        let target_logits = Tensor::zeros([count as i64], (Kind::Float, flat.device()));
        Self { index, hidden, targets, log_sum: None, target_logits, grad: None }
    }

    /// Takes a tile's logits into account.
    fn see(&mut self, tile: usize, logits: &Tensor) {
        let log_sum = logits.logsumexp([1], false);
        self.log_sum = Some(match self.log_sum.take() {
            None => log_sum,
            Some(before) => before.logaddexp(&log_sum),
        });
        if let Some((rows, columns)) = &self.targets[tile] {
            let found = logits.index(&[Some(rows), Some(columns)]);
            let _ = self.target_logits.index_copy_(0, rows, &found);
        }
    }

    /// Adds the gradient that flows through a tile, of which all tiles were seen: (softmax − onehot) / normaliser, times
    /// the tile. `logits` are used up.
    fn add_gradient(&mut self, tile: usize, mut logits: Tensor, weight: &Tensor, normaliser: f64) {
        let Some(log_sum) = &self.log_sum else { return };
        let scale = (1.0 / normaliser) as f32;
        let _ = logits.subtract_(&log_sum.unsqueeze(1));
        let _ = logits.exp_();
        let _ = logits.multiply_scalar_(f64::from(scale));
        if let Some((rows, columns)) = &self.targets[tile] {
            let minus = Tensor::full([rows.size()[0]], f64::from(-scale), (Kind::Float, logits.device()));
            let _ = logits.index_put_(&[Some(rows), Some(columns)], &minus, true);
        }
        let part = logits.to_kind(weight.kind()).matmul(weight);
        self.grad = Some(match self.grad.take() {
            None => part,
            Some(before) => before.to_kind(Kind::Float) + part,
        });
    }

    /// Σ (log Σ exp − target's logit), nats, as f64.
    fn loss_sum(&self) -> Option<Tensor> {
        let log_sum = self.log_sum.as_ref()?;
        Some((log_sum - &self.target_logits).sum(Kind::Float).to_kind(Kind::Double))
    }
}

#[cfg(test)]
mod tests;
