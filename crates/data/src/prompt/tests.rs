#![allow(clippy::unwrap_used)]
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::{BuildOptions, Dataset, Row, Rows, Template, Tokenizer, TokenizerOptions, TrainOn};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");

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
    assert_eq!(text_of(&padded, &padded), "Question: a b\nAnswer: a b");
    // These are none to Python.
    for kept in ["\u{200b}", "\u{feff}", "\u{180e}", "\u{1b}", "\u{0}"] {
        assert_eq!(text_of(kept, ""), format!("Question: {kept}\nAnswer: "));
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
        let row = Row::pair(case["query"].as_str().unwrap(), case["response"].as_str().unwrap());
        let rows = Rows::new(vec![row]).unwrap();
        let template = Template::official(case["use_system_prompt"].as_bool().unwrap());
        let max_seq_length = case["max_seq_length"].as_u64().unwrap() as usize;
        let batch = |train_on| {
            let options = BuildOptions { max_seq_length, train_on };
            let build = Dataset::build(&rows, &tokenizer, &template, &options, None, &|_, _| {}, 1);
            crate::collate(&build.unwrap(), &[0], tokenizer.pad_id(), crate::PaddingSide::Right)
        };
        let all = batch(TrainOn::All);
        assert_eq!(all.input_ids, numbers("input_ids"), "{case}");
        assert_eq!(all.labels, numbers("labels"), "{case}");
        // Of the answers alone the ids are the same, and the labels are the last of those.
        let answers = batch(TrainOn::Responses);
        assert_eq!(answers.input_ids, all.input_ids, "{case}");
        let ignored = answers.labels.iter().take_while(|&&label| label == crate::IGNORED_LABEL).count();
        assert_eq!(answers.labels[ignored..], all.labels[ignored..], "{case}");
        assert!(answers.label_count() >= 1 && answers.label_count() <= all.label_count());
    }
}
