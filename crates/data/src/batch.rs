//! Micro-batches: rows of a dataset padded to one length, or packed end to end.

use crate::Dataset;

/// The label of a position that is not trained on, in torch's and transformers' convention.
pub const IGNORED_LABEL: i64 = -100;

/// Where shorter rows are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PaddingSide {
    /// After the tokens: the official side in training.
    #[default]
    Right,
    /// Before the tokens: what generation wants.
    Left,
}

/// Rows padded to the longest of them, or packed end to end into a single one. Each array is row-major of shape
/// `[rows, len]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of the longest row.
    pub len: usize,
    /// Lengths of the sequences that the only row is made of, none of which sees another; empty where rows are padded.
    pub packed: Vec<usize>,
    /// Token ids, the padding id where there is none.
    pub input_ids: Vec<i64>,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// The token's id where it is trained on, else [`IGNORED_LABEL`]. Not shifted: the loss compares the logits of
    /// position t with the label of t + 1.
    pub labels: Vec<i64>,
}

/// Pads these rows of the dataset to the longest of them, without rounding the length up.
///
/// # Panics
/// On a row number that the dataset does not have: a schedule over it never gives one.
pub fn collate(dataset: &Dataset, rows: &[u32], pad_id: u32, side: PaddingSide) -> MicroBatch {
    let len = rows.iter().map(|&row| dataset.example(row as usize).ids.len()).max().unwrap_or(0);
    let size = rows.len() * len;
    let mut batch = MicroBatch {
        rows: rows.len(),
        len,
        packed: Vec::new(),
        input_ids: vec![i64::from(pad_id); size],
        attention_mask: vec![0; size],
        labels: vec![IGNORED_LABEL; size],
    };
    for (place, &row) in rows.iter().enumerate() {
        let example = dataset.example(row as usize);
        let gap = len - example.ids.len();
        let start = place * len + if side == PaddingSide::Left { gap } else { 0 };
        for (i, &id) in example.ids.iter().enumerate() {
            batch.input_ids[start + i] = i64::from(id);
            batch.attention_mask[start + i] = 1;
        }
        for &[first, end] in example.supervised {
            let run = start + first as usize..start + end as usize;
            batch.labels[run.clone()].copy_from_slice(&batch.input_ids[run]);
        }
    }
    batch
}

/// Lays these rows of the dataset end to end, without padding.
///
/// # Panics
/// As [`collate`].
pub fn pack(dataset: &Dataset, rows: &[u32]) -> MicroBatch {
    let examples: Vec<_> = rows.iter().map(|&row| dataset.example(row as usize)).collect();
    let packed: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
    let len = packed.iter().sum();
    let mut input_ids = Vec::with_capacity(len);
    let mut labels = vec![IGNORED_LABEL; len];
    for example in examples {
        let start = input_ids.len();
        input_ids.extend(example.ids.iter().map(|&id| i64::from(id)));
        for &[first, end] in example.supervised {
            let run = start + first as usize..start + end as usize;
            labels[run.clone()].copy_from_slice(&input_ids[run]);
        }
    }
    MicroBatch { rows: 1, len, packed, input_ids, attention_mask: vec![1; len], labels }
}

impl MicroBatch {
    /// Lengths of the stretches within which a token predicts the next one: the rows with their padding, or what is
    /// packed.
    pub fn sequence_lengths(&self) -> Vec<usize> {
        match self.packed.is_empty() {
            true => vec![self.len; self.rows],
            false => self.packed.clone(),
        }
    }

    /// Labels that are not ignored, before the shift: the official divisor of the loss (`num_items_in_batch`),
    /// which counts a trained first token although nothing predicts it.
    pub fn label_count(&self) -> u64 {
        count(&self.labels)
    }

    /// Labels that are not ignored, after the shift: the terms that the loss sums.
    pub fn supervised_count(&self) -> u64 {
        let mut rest = self.labels.as_slice();
        let mut counted = 0;
        for length in self.sequence_lengths() {
            let (sequence, after) = rest.split_at(length);
            counted += count(sequence.get(1..).unwrap_or_default());
            rest = after;
        }
        counted
    }

    /// Tokens without padding.
    pub fn token_count(&self) -> u64 {
        self.attention_mask.iter().sum::<i64>() as u64
    }
}

fn count(labels: &[i64]) -> u64 {
    labels.iter().filter(|&&label| label != IGNORED_LABEL).count() as u64
}

#[cfg(test)]
mod tests;
