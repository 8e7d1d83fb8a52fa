//! The rows of a step: their lengths, and micro-batches of random tokens of those lengths.

use data::{
    BuildOptions, Dataset, MicroBatch, RowOptions, Template, Tokenizer, TokenizerOptions, TrainOn, read_rows,
};

use super::{Failed, StepArgs, StepError, boxed};

/// A step's rows.
pub struct Load {
    /// Tokens of the rows of each micro-batch.
    pub micro_batches: Vec<Vec<usize>>,
}

impl Load {
    /// Rows of one length, or of a file's.
    pub fn new(args: &StepArgs) -> Result<Self, Failed> {
        const MOST: usize = 1 << 20;
        let wanted = args.micro_batch_size.saturating_mul(args.accumulation_steps);
        if wanted > MOST {
            return Err(boxed(StepError::Rows { rows: wanted, most: MOST }));
        }
        let lengths = match (&args.data, &args.tokenizer) {
            (Some(data), Some(tokenizer)) => {
                let tokenizer = Tokenizer::load(tokenizer, TokenizerOptions::default()).map_err(boxed)?;
                let fields = ["query", "response"].map(str::to_owned);
                let [query_field, response_field] = fields;
                let options = RowOptions {
                    query_field,
                    response_field,
                    max_samples: Some(wanted),
                    keep_fields: false,
                    any_fields: false,
                };
                let rows = read_rows(&[data], &options).map_err(boxed)?;
                let options = BuildOptions { max_seq_length: 2048, train_on: TrainOn::All };
                let template = Template::official(false);
                let dataset = Dataset::build(&rows, &tokenizer, &template, &options, None, &|_, _| (), 1);
                let dataset = dataset.map_err(boxed)?;
                (0..dataset.len()).map(|row| dataset.example(row).ids.len()).collect()
            }
            _ => vec![args.length; wanted],
        };
        Ok(Self { micro_batches: lengths.chunks(args.micro_batch_size).map(<[usize]>::to_vec).collect() })
    }

    /// Tokens of a step, padding not counted.
    pub fn tokens(&self) -> usize {
        self.micro_batches.iter().flatten().sum()
    }

    /// Mean tokens of the row that a token is in.
    pub fn mean_row(&self) -> f64 {
        let squares: usize = self.micro_batches.iter().flatten().map(|length| length * length).sum();
        squares as f64 / self.tokens().max(1) as f64
    }

    /// Positions of a step, with padding where rows are not packed.
    pub fn positions(&self, packing: bool) -> usize {
        let of = |rows: &Vec<usize>| match packing {
            true => rows.iter().sum(),
            false => rows.len() * rows.iter().max().copied().unwrap_or(0),
        };
        self.micro_batches.iter().map(of).sum()
    }

    /// Micro-batches of random tokens, all of which but a row's first are predicted.
    pub fn batches(&self, packing: bool, vocab: u64) -> Vec<MicroBatch> {
        let mut state = 1;
        self.micro_batches.iter().map(|rows| batch(rows, packing, vocab, &mut state)).collect()
    }
}

fn batch(rows: &[usize], packing: bool, vocab: u64, state: &mut u64) -> MicroBatch {
    let longest = rows.iter().max().copied().unwrap_or(0);
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for &length in rows {
        let padding = if packing { 0 } else { longest - length };
        ids.extend((0..length).map(|_| token(vocab, state)).chain(std::iter::repeat_n(0, padding)));
        mask.extend(std::iter::repeat_n(1, length).chain(std::iter::repeat_n(0, padding)));
    }
    let labels = ids.iter().zip(&mask).map(|(&id, &real)| if real == 1 { id } else { data::IGNORED_LABEL });
    let labels = labels.collect();
    let (count, len) = if packing { (1, ids.len()) } else { (rows.len(), longest) };
    let packed = if packing { rows.to_vec() } else { Vec::new() };
    MicroBatch { rows: count, len, packed, input_ids: ids, attention_mask: mask, labels }
}

/// Any token: the numbers of a linear congruential generator (Knuth's MMIX), of which the high bits are good enough.
fn token(vocab: u64, state: &mut u64) -> i64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) % vocab.max(1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_batches_have_the_tokens_of_padded_ones() {
        let load = Load { micro_batches: vec![vec![3, 5], vec![2]] };
        assert_eq!((load.tokens(), load.positions(false), load.positions(true)), (10, 12, 10));
        assert_eq!(load.mean_row(), 38.0 / 10.0);
        let (padded, packed) = (load.batches(false, 7), load.batches(true, 7));
        assert_eq!((padded[0].rows, padded[0].len, packed[0].rows, packed[0].len), (2, 5, 1, 8));
        let kept = |batch: &MicroBatch| -> Vec<i64> {
            let there = batch.input_ids.iter().zip(&batch.attention_mask).filter(|(_, mask)| **mask == 1);
            there.map(|(id, _)| *id).collect()
        };
        assert_eq!(kept(&padded[0]), packed[0].input_ids);
        assert_eq!(padded[0].supervised_count(), packed[0].supervised_count());
        assert!(packed[0].input_ids.iter().all(|id| (0..7).contains(id)));
    }
}
