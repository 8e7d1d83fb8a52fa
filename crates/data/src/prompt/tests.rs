#![allow(clippy::unwrap_used)]
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::{BuildOptions, Dataset, TokenizerOptions};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");

fn row(query: &str, response: &str) -> Row {
    Row { query: query.into(), response: response.into() }
}

#[test]
fn the_system_prompt_is_the_official_one() {
    let hash: String = Sha256::digest(SYSTEM_PROMPT).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, "dcf280c130040e4f70d08d125c248f249d90c5a2bb80a573968bc3c02bbe1cc2");
    assert_eq!(SYSTEM_PROMPT.chars().count(), 153);
}

#[test]
fn strips_as_python_does() {
    // Every character for which Python's str.isspace() holds.
    let mut spaces: String =
        ('\u{9}'..='\u{d}').chain('\u{1c}'..='\u{20}').chain('\u{2000}'..='\u{200a}').collect();
    spaces.push_str("\u{85}\u{a0}\u{1680}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}");
    let padded = format!("{spaces}a b{spaces}");
    assert_eq!(text_of(&row(&padded, &padded)), "Question: a b\nAnswer: a b");
    // These are none to Python.
    for kept in ["\u{200b}", "\u{feff}", "\u{180e}", "\u{1b}", "\u{0}"] {
        assert_eq!(text_of(&row(kept, "")), format!("Question: {kept}\nAnswer: "));
    }
}

#[test]
fn equals_the_official_tokens_and_labels() {
    let golden = include_str!("../../../../tests/golden/metamath/tokenization.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 75);
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    for case in cases {
        let numbers = |name: &str| -> Vec<i64> {
            case[name].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
        };
        let rows = [row(case["query"].as_str().unwrap(), case["response"].as_str().unwrap())];
        let options = BuildOptions {
            max_seq_length: case["max_seq_length"].as_u64().unwrap() as usize,
            use_system_prompt: case["use_system_prompt"].as_bool().unwrap(),
        };
        let dataset = Dataset::build(&rows, &tokenizer, &options, None, &|_, _| {}, 1).unwrap();
        let batch = crate::collate(&dataset, &[0], tokenizer.pad_id(), crate::PaddingSide::Right);
        assert_eq!(batch.input_ids, numbers("input_ids"), "{case}");
        assert_eq!(batch.labels, numbers("labels"), "{case}");
    }
}

#[test]
fn cuts_from_the_front() {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let row = row("How many?", "Three.");
    let mut whole = Vec::new();
    let first = Encoder::new(&tokenizer, true, 4096).unwrap().encode(&row, &mut whole).unwrap();
    assert_eq!(first, 76);
    for max_len in [1, 5, whole.len() - 76, whole.len() - 75, whole.len() - 1, whole.len(), whole.len() + 1] {
        let mut ids = Vec::new();
        let kept = Encoder::new(&tokenizer, true, max_len).unwrap().encode(&row, &mut ids).unwrap();
        assert_eq!(ids, whole[whole.len().saturating_sub(max_len)..]);
        assert_eq!(kept, first.saturating_sub(whole.len().saturating_sub(max_len)), "{max_len}");
    }
}
