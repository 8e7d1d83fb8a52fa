//! Generation with a cache of keys and values: a prompt at once, then token by token.
//!
//! A row's numbers do not depend on the rows beside it. Prompts go through the model one by one, so that nothing is
//! padded to a neighbour's length; tokens of several rows share the matrix products, which compute each row by itself
//! ([`RowProducts`]); and every row attends to its own keys alone.

use tch::{Kind, Tensor};

use crate::{Decoder, DecoderWeights, Linear, RotaryTables};

/// Products of a few rows with a matrix, in which a row's numbers do not depend on the others.
pub trait RowProducts {
    /// How many rows so many are to be filled up to, for that to hold.
    fn filled_up(&self, rows: usize) -> usize;

    /// `x · Wᵀ + b`: `x` `[B, 1, in]`, `weight` `[out, in]`, `bias` `[out]` → `[B, 1, out]`.
    fn product(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor;
}

/// libtorch's own. From four rows a thread on a row has the same bits whatever their number; below, MKL and oneDNN take
/// other kernels (matrix times vector, …), which sum in another order. Measured, not promised by anybody: the tests of
/// this file look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LibtorchProducts;

impl RowProducts for LibtorchProducts {
    fn filled_up(&self, rows: usize) -> usize {
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
        rows.next_multiple_of(4 * threads)
    }

    fn product(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        x.linear(weight, bias)
    }
}

/// Places that are added when a cache is full.
const GROWTH: i64 = 256;

/// Keys and values of one row's tokens.
#[derive(Debug, Default)]
pub struct RowCache {
    /// By block: keys (turned) and values, `[1, K, capacity, D]` each, the first `len` places in use.
    blocks: Vec<[Tensor; 2]>,
    len: i64,
    capacity: i64,
}

impl RowCache {
    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps a prompt's keys and values of the next block, `[1, K, T, D]`.
    fn begin_block(&mut self, key: &Tensor, value: &Tensor) {
        let kept = [key, value].map(|states| {
            let [_, heads, length, dim] = dims(states);
            let room = Tensor::empty([1, heads, self.capacity, dim], (states.kind(), states.device()));
            room.narrow(2, 0, length).copy_(states);
            room
        });
        self.blocks.push(kept);
    }

    /// Makes room for one more token.
    fn grow(&mut self) {
        if self.len < self.capacity {
            return;
        }
        self.capacity += GROWTH;
        for states in self.blocks.iter_mut().flatten() {
            let [_, heads, length, dim] = dims(states);
            let room = Tensor::empty([1, heads, self.capacity, dim], (states.kind(), states.device()));
            room.narrow(2, 0, length).copy_(states);
            *states = room;
        }
    }

    /// Adds the newest token's key and value (`[1, K, 1, D]`) to a block and gives those of the last `window` tokens, of
    /// all without one.
    fn extend(&mut self, block: usize, key: &Tensor, value: &Tensor, window: Option<i64>) -> [Tensor; 2] {
        let count = self.len + 1;
        let seen = window.map_or(count, |window| window.min(count));
        let [keys, values] = &self.blocks[block];
        [(keys, key), (values, value)].map(|(states, newest)| {
            states.narrow(2, self.len, 1).copy_(newest);
            states.narrow(2, count - seen, seen)
        })
    }
}

fn dims(states: &Tensor) -> [i64; 4] {
    let (b, k, t, d) = states.size4().unwrap_or_else(|_| unreachable!("keys and values are [1, K, T, D]"));
    [b, k, t, d]
}

/// Bytes that a token takes in a [`RowCache`].
pub fn cache_bytes_per_token(model: &Decoder) -> u64 {
    let config = model.config();
    let numbers = 2 * config.num_layers * config.num_kv_heads * config.head_dim;
    numbers.unsigned_abs() * model.kind().elt_size_in_bytes() as u64
}

impl Decoder {
    /// Runs a prompt (token ids, not empty) through the model, and gives its cache and the last position's hidden state
    /// after the final norm, `[1, 1, H]`.
    pub fn prefill(&self, weights: &DecoderWeights, prompt: &[i64]) -> (RowCache, Tensor) {
        let length = prompt.len();
        let context = self.context(&vec![1; length], 1, length);
        let len = length as i64;
        let capacity = (len as u64 + 1).next_multiple_of(GROWTH as u64) as i64;
        let mut cache = RowCache { blocks: Vec::with_capacity(weights.blocks.len()), len, capacity };
        let ids = Tensor::from_slice(prompt).unsqueeze(0).to_device(self.device());
        let mut x = self.embed(&weights.embedding, &ids);
        for (block, weights) in weights.blocks.iter().enumerate() {
            let mask = context.mask(self.config().window(block).is_some());
            x = self.block_with(weights, &x, context.rotary(), &Linear::forward, |query, key, value| {
                cache.begin_block(key, value);
                self.attend(query, key, value, mask)
            });
        }
        let last = self.final_norm(&weights.norm, &x.narrow(1, len - 1, 1));
        (cache, last)
    }

    /// Runs one more token of each row through the model and adds it to the rows' caches. Gives the hidden states after
    /// the final norm, `[B', 1, H]`, of which the first rows are those of `tokens`; what follows is padding.
    ///
    /// # Panics
    /// There are not as many caches as tokens, or none.
    pub fn decode(
        &self,
        weights: &DecoderWeights,
        tokens: &[i64],
        caches: &mut [&mut RowCache],
        products: &dyn RowProducts,
    ) -> Tensor {
        assert!(tokens.len() == caches.len() && !tokens.is_empty(), "a cache for each token");
        caches.iter_mut().for_each(|cache| cache.grow());
        let rows = products.filled_up(tokens.len());
        let positions = filled(caches.iter().map(|cache| cache.len), rows);
        let rotary = RotaryTables::at(self.config(), &positions, self.kind(), self.device());
        let ids = Tensor::from_slice(&filled(tokens.iter().copied(), rows)).unsqueeze(1);
        let linear = |linear: &Linear, x: &Tensor| {
            linear.forward_by(x, &|x, weight, bias| products.product(x, weight, bias))
        };
        let mut x = self.embed(&weights.embedding, &ids.to_device(self.device()));
        for (block, weights) in weights.blocks.iter().enumerate() {
            let window = self.config().window(block);
            x = self.block_with(weights, &x, &rotary, &linear, |query, key, value| {
                let row = |states: &Tensor, row: usize| states.narrow(0, row as i64, 1);
                let mut attended: Vec<Tensor> = Vec::with_capacity(caches.len() + 1);
                for (index, cache) in caches.iter_mut().enumerate() {
                    let [keys, values] = cache.extend(block, &row(key, index), &row(value, index), window);
                    attended.push(self.attend_to_all(&row(query, index), &keys, &values));
                }
                let padding = (rows - caches.len()) as i64;
                if padding > 0 {
                    attended.push(query.narrow(0, caches.len() as i64, padding).zeros_like());
                }
                Tensor::cat(&attended, 0)
            });
        }
        caches.iter_mut().for_each(|cache| cache.len += 1);
        self.final_norm(&weights.norm, &x)
    }

    /// The likeliest token after each of the first `rows` rows of hidden states `[B', 1, H]` that went through the final
    /// norm; the smaller id where several are as likely.
    pub fn likeliest(
        &self,
        weights: &DecoderWeights,
        normed: &Tensor,
        rows: usize,
        products: &dyn RowProducts,
    ) -> Vec<u32> {
        let logits = products.product(normed, &weights.head, None);
        let ids = logits.argmax(-1, false).flatten(0, -1).to_device(tch::Device::Cpu).to_kind(Kind::Int64);
        let mut chosen = vec![0_i64; ids.numel()];
        let count = chosen.len();
        ids.copy_data(&mut chosen, count);
        chosen.into_iter().take(rows).map(|id| id as u32).collect()
    }
}

fn filled(numbers: impl Iterator<Item = i64>, length: usize) -> Vec<i64> {
    let mut all: Vec<i64> = numbers.collect();
    all.resize(length, 0);
    all
}

#[cfg(test)]
mod tests;
