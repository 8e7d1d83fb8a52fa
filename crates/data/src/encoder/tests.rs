#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::*;
use crate::testing::{DEMO, chat_tokenizer};
use crate::{Rows, TokenizerOptions};

fn place() -> Place {
    Place { path: "x".into(), row: 1, line: None }
}

fn encode(
    tokenizer: &Tokenizer,
    template: &Template,
    row: &Row,
    train_on: TrainOn,
    max_len: usize,
) -> Encoded {
    let rows = Rows::new(vec![row.clone()]).unwrap();
    let encoder = Encoder::new(tokenizer, template, rows.schema(), train_on, max_len).unwrap();
    encoder.encode(row, &place).unwrap()
}

/// The bytes that are trained on, tokens apart from each other.
fn learnt(tokenizer: &Tokenizer, encoded: &Encoded) -> Vec<String> {
    let example = crate::Example { ids: &encoded.ids, supervised: &encoded.supervised };
    let pieces = tokenizer.pieces(example).into_iter().filter(|piece| piece.is_supervised);
    pieces.map(|piece| piece.text()).collect()
}

#[test]
fn runs_of_flags() {
    let check = |flags: &[u8], expect: &[[u32; 2]]| {
        let encoded = Encoded::new(Vec::new(), flags.iter().map(|&flag| flag == 1));
        assert_eq!(encoded.supervised, expect);
    };
    check(&[], &[]);
    check(&[0, 0], &[]);
    check(&[1, 1], &[[0, 2]]);
    check(&[0, 1, 0, 1, 1, 0], &[[1, 2], [3, 5]]);
}

#[test]
fn cuts_from_the_front() {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let row = Row::pair("How many?", "Three.");
    for train_on in [TrainOn::All, TrainOn::Responses] {
        let template = Template::official(true);
        let encode = |max_len| encode(&tokenizer, &template, &row, train_on, max_len);
        let whole = encode(4096);
        let len = whole.ids.len();
        let first = if train_on == TrainOn::All { 76 } else { len as u32 - 5 };
        assert_eq!(whole.supervised, [[first, len as u32]]);
        for max_len in [1, 5, len - 76, len - 75, len - 1, len, len + 1] {
            let kept = encode(max_len);
            let cut = len.saturating_sub(max_len);
            assert_eq!(kept.ids, whole.ids[cut..]);
            assert_eq!(kept.supervised, [[first.saturating_sub(cut as u32), kept.ids.len() as u32]]);
        }
    }
}

#[test]
fn cuts_runs_in_the_middle() {
    let encoded = Encoded { ids: (0..10).collect(), supervised: vec![[1, 3], [5, 7], [8, 9]] };
    for (max_len, expect) in [
        (10, vec![[1, 3], [5, 7], [8, 9]]),
        (8, vec![[0, 1], [3, 5], [6, 7]]),
        (7, vec![[2, 4], [5, 6]]),
        (4, vec![[0, 1], [2, 3]]),
        (1, vec![]),
    ] {
        let cut = encoded.clone().cut(max_len);
        assert_eq!((cut.ids.len(), cut.supervised), (max_len, expect));
    }
}

#[test]
fn the_official_answer() {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let check = |query: &str, response: &str, expect: &str| {
        let row = Row::pair(query, response);
        let official = Template::official(false);
        let some = encode(&tokenizer, &official, &row, TrainOn::Responses, 4096);
        assert_eq!(some.ids, encode(&tokenizer, &official, &row, TrainOn::All, 4096).ids);
        assert_eq!(learnt(&tokenizer, &some).concat(), expect);
    };
    // The space before the first word is part of its token.
    check("How many?", "  the answer \n", " the answer<|end_of_text|>");
    check("How many?", "", "<|end_of_text|>");
    check("the answer", "the answer", " the answer<|end_of_text|>");
}

#[test]
fn a_token_over_the_border_is_trained_on() {
    let span = [4..8, 10..12];
    for (token, expect) in [
        (0..4, false),
        (3..5, true),
        (0..9, true),
        (4..5, true),
        (7..10, true),
        (8..10, false),
        (9..11, true),
        (12..13, false),
        (4..4, true),
        (8..8, false),
        (12..12, false),
    ] {
        assert_eq!(is_in(&token, &span), expect, "{token:?}");
    }
    assert!(!is_in(&(0..1), &[]));
    // An empty answer has no tokens, and hides none after it.
    assert!(!is_in(&(3..5), &[4..4, 6..7]) && is_in(&(3..5), &[4..4, 4..8]));
    let tokenizer = chat_tokenizer();
    let template = |text| Template::from_text(Path::new("t"), text).unwrap();
    let check = |text: &'static str, response: &str, expect: &[&str]| {
        let row = Row::pair("q", response);
        let encoded = encode(&tokenizer, &template(text), &row, TrainOn::Responses, 4096);
        assert_eq!(learnt(&tokenizer, &encoded), expect, "{text}");
    };
    check("{{ query }}: {{ response }}", "the", &[" the", "<|end_of_text|>"]);
    check("{{ query }} t{{ response }}", "he", &[" the", "<|end_of_text|>"]);
    check("{{ query }} {{ response }}", "", &["<|end_of_text|>"]);
    // A character of several tokens is trained on as a whole.
    check(
        "{{ query }}|{{ response }}",
        "\u{1f600}",
        &["\\xF0", "\\x9F", "\\x98", "\\x80", "<|end_of_text|>"],
    );
}
