//! Next-token cross-entropy over the supervised positions, with its gradient, in chunks of positions and tiles of the
//! vocabulary.
//!
//! The head is a table of up to 256,000 rows. It is multiplied with tile by tile, [`TILE_ROWS`] rows each, whether all of
//! it is at hand or one tile at a time: the same products of the same shapes in both orders, hence the same bits.

use tch::{Kind, Tensor, no_grad};

use crate::head::{Head, tile_of};

/// Labels with this value are not predicted.
const IGNORED: i64 = -100;

/// Loss of a micro-batch and what flows back from it.
#[derive(Debug)]
pub struct CrossEntropy {
    /// Sum of the negative log-likelihoods, nats, not normalised. f64, summed over chunks in order.
    pub loss_sum: f64,
    /// Number of predicted tokens.
    pub tokens: u64,
    /// Gradient of `loss_sum / normaliser` by the hidden states, `[B, T, H]`, if one was asked for.
    pub grad: Option<Tensor>,
}

/// Cross-entropy of `normed(hidden) · headᵀ` against `labels` shifted by one.
///
/// `hidden` is `[B, T, H]`, `labels` row-major `[B, T]`; `norm` maps `[N, H]` → `[N, H]`; `head` is `[V, H]`. Only
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
    labels: &[i64],
    chunk: usize,
    normaliser: Option<f64>,
) -> Result<CrossEntropy, E> {
    let size = hidden.size();
    let (rows, length, width) = (size[0], size[1], size[2]);
    let (positions, targets) = supervised(labels, length as usize);
    let flat = hidden.detach().reshape([rows * length, width]);
    let chunk = if chunk == 0 { labels.len().max(1) } else { chunk };
    let mut chunks: Vec<Chunk> = positions
        .chunks(chunk)
        .zip(targets.chunks(chunk))
        .map(|(positions, targets)| Chunk::new(&flat, positions, targets))
        .collect();
    // By the size of the micro-batch, not by its labels, so that what is needed is known beforehand. Without any label
    // the tiles are gone through all the same: other ranks may wait for them.
    let keeps_logits = chunks.len() == 1 && rows * length <= chunk as i64;
    match head.is_at_hand() || keeps_logits {
        true => by_chunk(&mut chunks, norm, head, normaliser)?,
        false => by_tile(&mut chunks, norm, head, normaliser)?,
    }
    let loss_sum = chunks.iter().map(Chunk::loss_sum).sum();
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
    Ok(CrossEntropy { loss_sum, tokens: positions.len() as u64, grad })
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
    targets: Vec<i64>,
    /// log Σ exp of the logits seen so far, `[N]`.
    log_sum: Option<Tensor>,
    /// The targets' logits, where their tiles were seen, `[N]`.
    target_logits: Tensor,
    /// Gradient by the normed hidden states so far, `[N, H]`: f32 from the second tile on.
    grad: Option<Tensor>,
}

impl Chunk {
    fn new(flat: &Tensor, positions: &[i64], targets: &[i64]) -> Self {
        let index = Tensor::from_slice(positions).to_device(flat.device());
        let hidden = flat.index_select(0, &index);
        let target_logits = Tensor::zeros([targets.len() as i64], (Kind::Float, flat.device()));
        Self { index, hidden, targets: targets.to_vec(), log_sum: None, target_logits, grad: None }
    }

    /// Takes a tile's logits into account.
    fn see(&mut self, tile: usize, logits: &Tensor) {
        let log_sum = logits.logsumexp([1], false);
        self.log_sum = Some(match self.log_sum.take() {
            None => log_sum,
            Some(before) => before.logaddexp(&log_sum),
        });
        if let Some((rows, columns)) = self.targets_in(tile) {
            let found = logits.index(&[Some(&rows), Some(&columns)]);
            let _ = self.target_logits.index_copy_(0, &rows, &found);
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
        if let Some((rows, columns)) = self.targets_in(tile) {
            let minus = Tensor::full([rows.size()[0]], f64::from(-scale), (Kind::Float, logits.device()));
            let _ = logits.index_put_(&[Some(&rows), Some(&columns)], &minus, true);
        }
        let part = logits.to_kind(weight.kind()).matmul(weight);
        self.grad = Some(match self.grad.take() {
            None => part,
            Some(before) => before.to_kind(Kind::Float) + part,
        });
    }

    /// Which of the positions have their target in a tile, and where in it.
    fn targets_in(&self, tile: usize) -> Option<(Tensor, Tensor)> {
        let places = self.targets.iter().enumerate().map(|(row, target)| (row, tile_of(*target)));
        let (rows, columns): (Vec<i64>, Vec<i64>) = places
            .filter(|(_, (target_tile, _))| *target_tile == tile)
            .map(|(row, (_, column))| (row as i64, column))
            .unzip();
        let device = self.hidden.device();
        let tensor = |values: Vec<i64>| Tensor::from_slice(&values).to_device(device);
        (!rows.is_empty()).then(|| (tensor(rows), tensor(columns)))
    }

    /// Σ (log Σ exp − target's logit), nats.
    fn loss_sum(&self) -> f64 {
        let Some(log_sum) = &self.log_sum else { return 0.0 };
        (log_sum - &self.target_logits).sum(Kind::Float).double_value(&[])
    }
}

/// Flat positions that predict a label, and the labels they predict.
fn supervised(labels: &[i64], length: usize) -> (Vec<i64>, Vec<i64>) {
    let mut positions = Vec::new();
    let mut targets = Vec::new();
    for (row, row_labels) in labels.chunks_exact(length.max(1)).enumerate() {
        for (column, label) in row_labels.iter().enumerate().skip(1) {
            if *label != IGNORED {
                positions.push((row * length + column - 1) as i64);
                targets.push(*label);
            }
        }
    }
    (positions, targets)
}

#[cfg(test)]
mod tests;
