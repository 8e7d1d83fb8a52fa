#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::*;
use crate::{BuildOptions, Row, Tokenizer, TokenizerOptions};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");

/// Three rows of different lengths, with BOS (label ignored) unless cut.
fn dataset(max_seq_length: usize) -> Dataset {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let row = |query: &str| Row { query: query.into(), response: "1".into() };
    let options = BuildOptions { max_seq_length, use_system_prompt: false };
    Dataset::build(&[row("a"), row("a longer one"), row("")], &tokenizer, &options, None, &|_, _| {}, 1)
        .unwrap()
}

#[test]
fn pads_on_either_side() {
    let dataset = dataset(2048);
    for side in [PaddingSide::Right, PaddingSide::Left] {
        let batch = collate(&dataset, &[2, 1], 7, side);
        let lengths = [2, 1].map(|row| dataset.example(row).ids.len());
        assert_eq!((batch.rows, batch.len), (2, lengths[1]));
        assert!(lengths[0] < lengths[1]);
        for (place, row) in [2, 1].into_iter().enumerate() {
            let part = place * batch.len..(place + 1) * batch.len;
            let ids: Vec<i64> = dataset.example(row).ids.iter().map(|&id| id.into()).collect();
            let pad = |filler: i64, tokens: Vec<i64>| {
                let padding = vec![filler; batch.len - tokens.len()];
                if side == PaddingSide::Left {
                    [padding, tokens].concat()
                } else {
                    [tokens, padding].concat()
                }
            };
            let labels = [vec![IGNORED_LABEL], ids[1..].to_vec()].concat();
            assert_eq!(batch.input_ids[part.clone()], pad(7, ids.clone()));
            assert_eq!(batch.attention_mask[part.clone()], pad(0, vec![1; ids.len()]));
            assert_eq!(batch.labels[part], pad(IGNORED_LABEL, labels));
        }
        let tokens = (lengths[0] + lengths[1]) as u64;
        assert_eq!(batch.token_count(), tokens);
        assert_eq!((batch.label_count(), batch.supervised_count()), (tokens - 2, tokens - 2));
    }
}

#[test]
fn counts_labels_before_and_after_the_shift() {
    // Cut from the front, every row is trained on from its first token, which nothing predicts.
    let dataset = dataset(5);
    let batch = collate(&dataset, &[0, 1, 2], 7, PaddingSide::Right);
    assert_eq!(
        (batch.len, batch.label_count(), batch.supervised_count(), batch.token_count()),
        (5, 15, 12, 15)
    );
    assert_eq!((0..3).map(|row| dataset.example(row).label_count()).sum::<u64>(), 15);
    let empty = collate(&dataset, &[], 7, PaddingSide::Right);
    assert_eq!((empty.rows, empty.label_count(), empty.supervised_count()), (0, 0, 0));
}
