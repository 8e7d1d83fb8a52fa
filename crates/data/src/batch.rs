//! Micro-batches: rows of a dataset padded to one length.

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

/// Rows padded to the longest of them. Each array is row-major of shape `[rows, len]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of the longest row.
    pub len: usize,
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

impl MicroBatch {
    /// Labels that are not ignored, before the shift: the official divisor of the loss (`num_items_in_batch`),
    /// which counts a trained first token although nothing predicts it.
    pub fn label_count(&self) -> u64 {
        count(&self.labels)
    }

    /// Labels that are not ignored, after the shift: the terms that the loss sums.
    pub fn supervised_count(&self) -> u64 {
        // `max` only guards `chunks` against rows without tokens.
        self.labels.chunks(self.len.max(1)).map(|row| count(&row[1..])).sum()
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
