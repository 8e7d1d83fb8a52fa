#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::*;
use crate::{BuildOptions, Message, Role, Row, Rows, Template, Tokenizer, TokenizerOptions, TrainOn};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");

/// Three rows of different lengths, with BOS (label ignored) unless cut.
fn dataset(max_seq_length: usize) -> Dataset {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let rows = ["a", "a longer one", ""].map(|query| Row::pair(query, "1"));
    let rows = Rows::new(rows.to_vec()).unwrap();
    let options = BuildOptions { max_seq_length, train_on: TrainOn::All };
    let template = Template::official(false);
    Dataset::build(&rows, &tokenizer, &template, &options, None, &|_, _| {}, 1).unwrap()
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

#[test]
fn packed_rows_hold_what_padded_ones_do() {
    for max_seq_length in [5, 2048] {
        let dataset = dataset(max_seq_length);
        let rows = [2, 0, 1];
        let (padded, packed) = (collate(&dataset, &rows, 7, PaddingSide::Right), pack(&dataset, &rows));
        assert_eq!((packed.rows, packed.len), (1, padded.token_count() as usize));
        assert_eq!(packed.sequence_lengths(), rows.map(|row| dataset.example(row as usize).ids.len()));
        assert_eq!(padded.sequence_lengths(), [padded.len; 3]);
        let tokens = |batch: &MicroBatch, values: &[i64]| -> Vec<i64> {
            let there = values.iter().zip(&batch.attention_mask).filter(|(_, mask)| **mask == 1);
            there.map(|(value, _)| *value).collect()
        };
        assert_eq!(packed.input_ids, tokens(&padded, &padded.input_ids));
        assert_eq!(packed.labels, tokens(&padded, &padded.labels));
        assert_eq!(packed.attention_mask, vec![1; packed.len]);
        let counts =
            |batch: &MicroBatch| (batch.label_count(), batch.supervised_count(), batch.token_count());
        assert_eq!(counts(&packed), counts(&padded));
    }
    let empty = pack(&dataset(9), &[]);
    assert_eq!((empty.rows, empty.len, empty.supervised_count()), (1, 0, 0));
}

#[test]
fn labels_may_lie_anywhere() {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let path = Path::new("turns.jinja");
    let source = "{% for m in messages %}{{ m.content }}|{% endfor %}";
    let template = Template::from_text(path, source).unwrap();
    let message = |role, content: &str| Message { role, content: content.into(), other: Default::default() };
    let turns = [(Role::Assistant, "b"), (Role::User, "c"), (Role::Assistant, "d"), (Role::User, "e")];
    let row = Row::chat(turns.map(|(role, content)| message(role, content)).to_vec());
    let rows = Rows::new(vec![row]).unwrap();
    let options = BuildOptions { max_seq_length: 99, train_on: TrainOn::Responses };
    let dataset = Dataset::build(&rows, &tokenizer, &template, &options, None, &|_, _| {}, 1).unwrap();
    assert_eq!(dataset.example(0).supervised, [[0, 2], [4, 6]]);
    for side in [PaddingSide::Right, PaddingSide::Left] {
        let batch = collate(&dataset, &[0], 7, side);
        let is_label: Vec<bool> = batch.labels.iter().map(|&label| label != IGNORED_LABEL).collect();
        assert_eq!(is_label, [true, true, false, false, true, true, false, false]);
        assert!(batch.labels.iter().zip(&batch.input_ids).all(|(&l, &id)| l == IGNORED_LABEL || l == id));
        assert_eq!((batch.label_count(), batch.supervised_count()), (4, 3));
    }
}
