//! Next-token cross-entropy over the supervised positions, in chunks, with its gradient.

use tch::{Kind, Reduction, Tensor};

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
/// supervised positions are computed, `chunk` of them at a time (0: all at once), so at most `chunk × V` logits
/// are alive. Logits are taken in the compute dtype and widened to f32, as transformers does. With `normaliser`
/// the gradient of `loss_sum / normaliser` is made as well.
pub fn cross_entropy(
    hidden: &Tensor,
    norm: &dyn Fn(&Tensor) -> Tensor,
    head: &Tensor,
    labels: &[i64],
    chunk: usize,
    normaliser: Option<f64>,
) -> CrossEntropy {
    let size = hidden.size();
    let (rows, length, width) = (size[0], size[1], size[2]);
    let (positions, targets) = supervised(labels, length as usize);
    let flat = hidden.detach().reshape([rows * length, width]);
    let mut grad = normaliser.map(|_| flat.zeros_like());
    let mut loss_sum = 0.0;
    let chunk = if chunk == 0 { positions.len().max(1) } else { chunk };
    for (positions, targets) in positions.chunks(chunk).zip(targets.chunks(chunk)) {
        let index = Tensor::from_slice(positions).to_device(hidden.device());
        let targets = Tensor::from_slice(targets).to_device(hidden.device());
        let selected = flat.index_select(0, &index).set_requires_grad(normaliser.is_some());
        let logits = norm(&selected).linear::<&Tensor>(head, None).to_kind(Kind::Float);
        let loss = logits.cross_entropy_loss::<&Tensor>(&targets, None, Reduction::Sum, IGNORED, 0.0);
        loss_sum += loss.double_value(&[]);
        if let (Some(normaliser), Some(grad)) = (normaliser, grad.as_mut()) {
            let mut grads = Tensor::run_backward(&[loss / normaliser], &[&selected], false, false);
            if let Some(chunk_grad) = grads.pop() {
                let _ = grad.index_copy_(0, &index, &chunk_grad);
            }
        }
    }
    CrossEntropy {
        loss_sum,
        tokens: positions.len() as u64,
        grad: grad.map(|g| g.reshape([rows, length, width])),
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
