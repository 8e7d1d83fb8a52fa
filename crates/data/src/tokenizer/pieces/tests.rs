#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;
use crate::testing::{chat_tokenizer, tokenizer_with};

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<Piece> {
    let ids = tokenizer.encode(text).unwrap();
    tokenizer.pieces(Example { ids: &ids, supervised: &[[1, 2]] })
}

#[test]
fn loses_no_byte() {
    let tokenizer = chat_tokenizer();
    let text = "Hi<|im_start|> é\u{1f600}\n\t\\ \u{ad}\u{a0}\u{7f}\u{1}ĠĀ";
    let pieces = pieces(&tokenizer, text);
    assert_eq!(pieces.iter().flat_map(|piece| piece.bytes.clone()).collect::<Vec<_>>(), text.as_bytes());
    let supervised: Vec<usize> = (0..pieces.len()).filter(|&i| pieces[i].is_supervised).collect();
    assert_eq!(supervised, [1]);
    assert!(tokenizer.pieces(Example { ids: &[u32::MAX], supervised: &[] })[0].bytes.is_empty());
}

#[test]
fn the_alphabet_is_that_of_gpt2() {
    let mut seen: Vec<u8> = ('\0'..='\u{143}').filter_map(byte_of).collect();
    assert_eq!(
        (byte_of('Ġ'), byte_of('Ċ'), byte_of('A'), byte_of('é')),
        (Some(b' '), Some(b'\n'), Some(b'A'), Some(0xe9))
    );
    seen.sort_unstable();
    assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    assert_eq!(byte_of('\u{144}'), None);
}

#[test]
fn text_for_a_terminal() {
    let text = |bytes: &[u8]| Piece { id: 0, bytes: bytes.to_vec(), is_supervised: false }.text();
    assert_eq!(text("a é\\".as_bytes()), "a é\\");
    assert_eq!(text(b"\n\t\x1b[31m\r"), "\\n\\t\\u{1b}[31m\\r");
    assert_eq!(text(b"x\xe2\x96"), "x\\xE2\\x96");
    assert_eq!(text(b"\x9f\x98a"), "\\x9F\\x98a");
}

#[test]
fn sentencepiece_bytes_and_spaces() {
    // The shape of Llama-2, Mistral and Gemma tokenizers.
    let change = |json: &mut Value| {
        json["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        json["pre_tokenizer"] = Value::Null;
        json["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]});
        let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let rest = ["\u{2581}", "a", "b", "ab", "\u{2581}ab"].map(str::to_owned);
        let specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"].map(str::to_owned);
        let vocab: serde_json::Map<String, Value> =
            specials.into_iter().chain(bytes).chain(rest).enumerate().map(|(i, t)| (t, i.into())).collect();
        json["model"] = json!({"type": "BPE", "vocab": vocab, "byte_fallback": true,
            "merges": [["a", "b"], ["\u{2581}", "ab"]]});
    };
    let tokenizer = tokenizer_with(&[], change);
    let text = "ab ab é<|pad|>";
    let pieces = pieces(&tokenizer, text);
    let texts: Vec<String> = pieces.iter().map(Piece::text).collect();
    assert_eq!(texts, ["ab", " ab", " ", "\\xC3", "\\xA9", "<|pad|>"]);
    assert_eq!(pieces.iter().flat_map(|piece| piece.bytes.clone()).collect::<Vec<_>>(), text.as_bytes());
    let (_, offsets) = tokenizer.encode_with_offsets(text).unwrap();
    assert_eq!(offsets, [0..2, 2..5, 5..6, 6..8, 6..8, 8..15]);
}
