//! What a block keeps for backward, tensor by tensor.
//!
//! This follows `model::Decoder::block` and libtorch's autograd, which keeps an operation's input only where the
//! gradient of the other factor is wanted: the input of a linear map is kept where its weight is adapted.

use crate::count::product;
use crate::facts::{BlockRun, Dtype, Facts, Model, Role};
use crate::units::TILE_ROWS;

/// Pieces of memory below this come from the heap, larger ones from the system: glibc's largest mmap threshold.
const LARGEST_HEAP_PIECE: u64 = 32 << 20;

/// Bytes, and how many of them lie in pieces that the allocator may keep when they are freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bytes {
    pub total: u64,
    pub heap: u64,
}

/// A micro-batch, as the block sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub model: &'a Model,
    pub dtype: Dtype,
    /// B.
    pub rows: u64,
    /// T.
    pub length: u64,
}

impl Bytes {
    /// `count` pieces of `each` bytes.
    fn pieces(count: u64, each: u64) -> Self {
        let total = product([count, each]);
        Self { total, heap: if each < LARGEST_HEAP_PIECE { total } else { 0 } }
    }

    pub fn plus(self, other: Self) -> Self {
        Self { total: self.total.saturating_add(other.total), heap: self.heap.saturating_add(other.heap) }
    }

    pub fn times(self, count: u64) -> Self {
        Self { total: product([self.total, count]), heap: product([self.heap, count]) }
    }

    fn larger(self, other: Self) -> Self {
        Self { total: self.total.max(other.total), heap: self.heap.max(other.heap) }
    }
}

impl FromIterator<Bytes> for Bytes {
    fn from_iter<I: IntoIterator<Item = Self>>(terms: I) -> Self {
        terms.into_iter().fold(Self::default(), Self::plus)
    }
}

impl<'a> Shape<'a> {
    /// The largest micro-batch in training.
    pub fn of_training(facts: &'a Facts) -> Self {
        Self::of_rows(facts, facts.training.micro_batch_size.min(facts.data.rows.unwrap_or(u64::MAX)))
    }

    /// `rows` rows of the largest length.
    pub fn of_rows(facts: &'a Facts, rows: u64) -> Self {
        Self { model: &facts.model, dtype: facts.training.dtype, rows, length: facts.data.longest() }
    }

    /// N.
    pub fn tokens(&self) -> u64 {
        product([self.rows, self.length])
    }

    /// `count` tensors of `[N, width]` in the compute dtype.
    fn compute(&self, count: u64, width: u64) -> Bytes {
        Bytes::pieces(count, product([self.tokens(), width, self.dtype.bytes()]))
    }

    /// `count` tensors of `[N, width]` in f32.
    fn wide(&self, count: u64, width: u64) -> Bytes {
        Bytes::pieces(count, product([self.tokens(), width, 4]))
    }

    /// A block's input, `[N, H]`, which the tape keeps.
    pub fn input(&self) -> Bytes {
        self.compute(1, self.model.hidden)
    }

    /// What the graph of a block keeps besides its input:
    ///
    /// | tensor | size | kept |
    /// |---|---|---|
    /// | input of either norm in f32 | N·H f32 | in half precision; in f32 the first one is the block's input |
    /// | reciprocal root of either norm | N f32 | always |
    /// | normed input | N·H | where query, key or value is adapted |
    /// | turned query and key, value | N·(Q + 2K) | always |
    /// | attention's result | N·Q | always (the output map's input as well) |
    /// | logarithms of attention's sums | N·heads f32 | always |
    /// | mask as numbers | T² | in a windowed block, where a row is longer than the window |
    /// | normed input of the MLP | N·H | where gate or up is adapted |
    /// | gate before and after its activation, up | 3·N·I | always |
    /// | their product | N·I | where down is adapted |
    pub fn kept(&self, run: &BlockRun) -> Bytes {
        let Model { hidden, intermediate, heads, .. } = *self.model;
        let if_adapted =
            |roles: &[Role], bytes: Bytes| if run.adapts(roles) { bytes } else { Bytes::default() };
        let norms = if self.dtype == Dtype::Float32 { 1 } else { 2 };
        Bytes::from_iter([
            self.wide(norms, hidden),
            self.wide(2, 1),
            if_adapted(&[Role::Query, Role::Key, Role::Value], self.compute(1, hidden)),
            self.compute(2, self.model.query_width()),
            self.compute(2, self.model.kv_width()),
            self.wide(1, heads),
            if run.windowed { self.mask(self.dtype.bytes()) } else { Bytes::default() },
            if_adapted(&[Role::Gate, Role::Up], self.compute(1, hidden)),
            self.compute(3, intermediate),
            if_adapted(&[Role::Down], self.compute(1, intermediate)),
        ])
    }

    /// A mask of `[T, T]` numbers of `each` bytes, where the window is shorter than the rows.
    pub fn mask(&self, each: u64) -> Bytes {
        match self.model.sliding_window.is_some_and(|window| window < self.length) {
            true => Bytes::pieces(1, product([self.length, self.length, each])),
            false => Bytes::default(),
        }
    }

    /// What is alive besides at the widest place of a block's backward: the model's output, the gradient that comes
    /// in and the one that is made of it, and then either three gradients of the MLP (3·N·I, where the product
    /// of gate and up is taken apart) or those of attention (N·(4Q + 3K)).
    pub fn backward(&self) -> Bytes {
        let mlp = self.compute(3, self.model.intermediate);
        let attention =
            self.compute(4, self.model.query_width()).plus(self.compute(3, self.model.kv_width()));
        self.compute(3, self.model.hidden).plus(mlp.larger(attention))
    }

    /// What is alive at the widest place of a block without gradients: its input, the sum after attention and the
    /// normed sum; gate, up and their product.
    pub fn forward_alone(&self) -> Bytes {
        self.compute(3, self.model.hidden).plus(self.compute(3, self.model.intermediate))
    }

    /// The head's part, `gathered` where the table comes tile by tile (`model::cross_entropy`):
    ///
    /// | tensor | size | when |
    /// |---|---|---|
    /// | hidden states, and those of the positions in chunks | 2·N·H | always |
    /// | gradient by them, and by what the norm makes of them | N·H, N·H f32 | with gradients |
    /// | what the norm makes of all positions | N·H | tile by tile; otherwise of a chunk, as below |
    /// | a chunk's logits | f32, of V, or of a tile | of V with gradients, unless tile by tile to several chunks |
    /// | their exponentials | f32, of a tile | always; in half precision their place is taken by turns |
    /// | a chunk's normed hidden states and their gradient | 2 of H | always |
    pub fn head(&self, chunk: u64, with_gradients: bool, gathered: bool) -> Bytes {
        let hidden = self.model.hidden;
        let positions = if chunk == 0 { self.tokens() } else { chunk.min(self.tokens()) };
        let tile = self.model.vocab.min(TILE_ROWS);
        let keeps_logits = !gathered || positions == self.tokens();
        let columns = if with_gradients && keeps_logits { self.model.vocab } else { tile };
        // Logits are kept tile by tile.
        let (tiles, rest) = (columns / TILE_ROWS, columns % TILE_ROWS);
        let logits = |width: u64| product([positions, width, 4]);
        let none = Bytes::default();
        Bytes::from_iter([
            self.compute(2, hidden),
            if with_gradients { self.compute(1, hidden).plus(self.wide(1, hidden)) } else { none },
            if gathered { self.compute(1, hidden) } else { none },
            Bytes::pieces(tiles, logits(TILE_ROWS)),
            Bytes::pieces(1, logits(rest)),
            Bytes::pieces(1, logits(tile)),
            Bytes::pieces(2, product([positions, hidden, self.dtype.bytes()])),
        ])
    }
}
