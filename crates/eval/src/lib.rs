//! Text from a model: greedy generation.

use model::{Decoder, DecoderWeights};
use tch::{Tensor, no_grad};

/// When a continuation ends.
#[derive(Debug, Clone)]
pub struct GreedyOptions {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// Tokens that end the continuation; they are part of it.
    pub stop_ids: Vec<u32>,
}

/// The greedy continuation of `prompt` (token ids, not empty): the likeliest token at each place, ties to the
/// smaller id, as transformers' greedy search. Returns the new ids alone.
///
/// The whole row is computed again for every token; that is meant for short samples.
pub fn greedy(
    model: &Decoder,
    weights: &DecoderWeights,
    prompt: &[u32],
    options: &GreedyOptions,
) -> Vec<u32> {
    let mut row: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
    let mut new_ids = Vec::new();
    while new_ids.len() < options.max_new_tokens && !row.is_empty() {
        let id = no_grad(|| next_token(model, weights, &row));
        new_ids.push(id);
        row.push(i64::from(id));
        if options.stop_ids.contains(&id) {
            break;
        }
    }
    new_ids
}

fn next_token(model: &Decoder, weights: &DecoderWeights, row: &[i64]) -> u32 {
    let length = row.len();
    let context = model.context(&vec![1; length], 1, length);
    let ids = Tensor::from_slice(row).unsqueeze(0).to_device(model.device());
    let hidden = model.hidden_states(weights, &ids, &context);
    let last = model.final_norm(&weights.norm, &hidden.narrow(1, length as i64 - 1, 1));
    let logits = last.linear::<&Tensor>(&weights.head, None);
    logits.argmax(-1, false).int64_value(&[0, 0]) as u32
}
