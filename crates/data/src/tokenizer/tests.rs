#![allow(clippy::unwrap_used)]
use miette::Diagnostic as _;

use super::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");

fn copy_of_demo() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(DEMO).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Loads the demo tokenizer with another `tokenizer_config.json`.
fn with_config(config: &str, map: Option<&str>, options: TokenizerOptions) -> Result<Tokenizer> {
    let dir = copy_of_demo();
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    if let Some(map) = map {
        std::fs::write(dir.path().join("special_tokens_map.json"), map).unwrap();
    }
    Tokenizer::load(dir.path(), options)
}

/// Checks the ids of BOS, EOS and padding.
fn check(config: &str, map: Option<&str>, expect: (Option<u32>, Option<u32>, u32)) {
    let tokenizer = with_config(config, map, TokenizerOptions::default()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), expect, "{config}");
}

fn check_error(result: Result<Tokenizer>, code: &str, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), code, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(error.help().is_some());
}

#[test]
fn special_tokens() {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(0), Some(1), 2));
    check(r#"{"eos_token":"<|end_of_text|>"}"#, None, (None, Some(1), 1));
    check(
        r#"{"eos_token":{"content":"<|end_of_text|>","lstrip":false},"bos_token":null}"#,
        None,
        (None, Some(1), 1),
    );
    check(r#"{"bos_token":"<|begin_of_text|>","add_bos_token":false}"#, None, (Some(0), None, 0));
    check("{}", None, (None, None, 0));
    let map = r#"{"pad_token":"<|pad|>","eos_token":"<|pad|>","bos_token":null}"#;
    check(r#"{"eos_token":"<|end_of_text|>"}"#, Some(map), (None, Some(1), 2));
    let options = TokenizerOptions { eos_token: Some("<|begin_of_text|>".into()), vocab_size: Some(1024) };
    let tokenizer = with_config(r#"{"eos_token":"<|end_of_text|>"}"#, None, options).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.pad_id()), (Some(0), 0));
}

#[test]
fn the_map_alone_will_do() {
    let dir = copy_of_demo();
    let [config, map] = SPECIAL_FILES.map(|name| dir.path().join(name));
    std::fs::rename(&config, &map).unwrap();
    let tokenizer = Tokenizer::load(dir.path(), TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.eos_id(), Some(1));
    std::fs::remove_file(&map).unwrap();
    let result = Tokenizer::load(dir.path(), TokenizerOptions::default());
    check_error(result, "input::tokenizer_missing", "tokenizer_config.json");
}

#[test]
fn encodes_and_decodes() {
    let tokenizer = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let text = "Question: 2 + 2 = é?\n\n  Answer: \u{1f600}";
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    let marked = [&[0], &ids[..], &[1]].concat();
    assert_eq!(tokenizer.decode(&marked, true).unwrap(), text);
    assert!(tokenizer.decode(&marked, false).unwrap().starts_with("<|begin_of_text|>Question"));
    assert_eq!(tokenizer.encode("").unwrap(), [0; 0]);
    assert!(tokenizer.decode(&[u32::MAX, ids[0]], true).is_ok());
}

#[test]
fn a_truncation_in_the_file_is_ignored() {
    let dir = copy_of_demo();
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0, "pad_token": "<|pad|>"});
    std::fs::write(&path, json.to_string()).unwrap();
    let cut = Tokenizer::load(dir.path(), TokenizerOptions::default()).unwrap();
    let plain = Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap();
    let text = "Natalia sold clips to 48 of her friends";
    assert_eq!(cut.encode(text).unwrap(), plain.encode(text).unwrap());
    assert_ne!(cut.fingerprint(), plain.fingerprint());
}

#[test]
fn bad_files() {
    let load = |dir: &Path| Tokenizer::load(dir, TokenizerOptions::default());
    let dir = tempfile::tempdir().unwrap();
    check_error(load(dir.path()), "input::tokenizer_missing", "tokenizer.json");
    check_error(load(&dir.path().join("none")), "input::tokenizer_missing", "tokenizer.json");
    for garbage in ["", "{}", "[1]", "{\"version\":\"1.0\"", "not json"] {
        std::fs::write(dir.path().join("tokenizer.json"), garbage).unwrap();
        check_error(load(dir.path()), "input::tokenizer_invalid", "tokenizer.json");
    }
    for garbage in ["", "[]", "{\"eos_token\":", "{\"eos_token\":3}", "{\"eos_token\":{\"text\":\"x\"}}"] {
        let result = with_config(garbage, None, TokenizerOptions::default());
        check_error(result, "input::tokenizer_invalid", "tokenizer_config.json");
    }
    let result = with_config("{}", Some("{"), TokenizerOptions::default());
    check_error(result, "input::tokenizer_invalid", "special_tokens_map.json");
    let result = with_config(r#"{"bos_token":"<bos>"}"#, None, TokenizerOptions::default());
    check_error(result, "input::tokenizer_special", "bos token `<bos>` (from tokenizer_config.json)");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    check_error(load(dir.path()), "input::tokenizer_invalid", "cannot be read");
}

#[test]
fn options_that_do_not_fit() {
    let load = |options| Tokenizer::load(Path::new(DEMO), options);
    let eos = TokenizerOptions { eos_token: Some("</s>".into()), vocab_size: None };
    check_error(load(eos), "input::tokenizer_special", "eos token `</s>` (from eos-token)");
    let small = TokenizerOptions { eos_token: None, vocab_size: Some(1023) };
    check_error(
        load(small),
        "input::tokenizer_vocabulary",
        "has id 1023, but the model's vocab_size is 1023",
    );
    assert!(load(TokenizerOptions { eos_token: None, vocab_size: Some(1024) }).is_ok());
}

/// Reads and uses a damaged tokenizer; whether it is refused is not the question.
fn check_no_panic(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    if let Ok(tokenizer) = Tokenizer::load(path.parent().unwrap(), TokenizerOptions::default()) {
        let ids = tokenizer.encode("Question: 1 + 1? <|pad|>");
        let _ = ids.and_then(|ids| tokenizer.decode(&ids, false));
    }
}

/// A fixed walk: the same damage on every run.
fn walk() -> impl FnMut(usize) -> usize {
    let mut state = 1u64;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

#[test]
fn damaged_bytes_do_not_panic() {
    let dir = copy_of_demo();
    let path = dir.path().join("tokenizer.json");
    let whole = std::fs::read(&path).unwrap();
    let mut next = walk();
    for _ in 0..200 {
        let mut bytes = whole.clone();
        // Most of the structure is at the start, the vocabulary follows.
        let at = if next(2) == 0 { next(2500) } else { next(bytes.len()) };
        match next(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] = next(256) as u8,
            _ => drop(bytes.drain(at..(at + next(30)).min(whole.len()))),
        }
        check_no_panic(&path, &bytes);
    }
}

#[test]
fn wrong_values_do_not_panic() {
    let dir = copy_of_demo();
    let path = dir.path().join("tokenizer.json");
    let whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let strange = [
        serde_json::json!(null),
        serde_json::json!(-1),
        serde_json::json!(4_294_967_295_u32),
        serde_json::json!("x"),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!({"type": "Sequence"}),
        serde_json::json!(true),
    ];
    let mut next = walk();
    for _ in 0..300 {
        let mut json = whole.clone();
        let mut place = &mut json;
        // Down a few levels, then something else in the place of what is there.
        for _ in 0..=next(4) {
            let size = place.as_object().map_or(0, Map::len) + place.as_array().map_or(0, Vec::len);
            if size == 0 {
                break;
            }
            let at = next(size);
            place = match place {
                Value::Object(object) => object.values_mut().nth(at).unwrap(),
                Value::Array(array) => &mut array[at],
                _ => unreachable!(),
            };
        }
        *place = strange[next(strange.len())].clone();
        check_no_panic(&path, json.to_string().as_bytes());
    }
}

#[test]
fn lists_the_files_that_are_there() {
    let dir = copy_of_demo();
    for other in ["config.json", "merges.txt", "chat_template.jinja"] {
        std::fs::write(dir.path().join(other), "").unwrap();
    }
    std::fs::create_dir(dir.path().join("vocab.json")).unwrap();
    let names: Vec<_> = tokenizer_files(dir.path())
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"]);
    assert!(tokenizer_files(&dir.path().join("none")).is_empty());
}

#[test]
fn offsets_keep_white_space() {
    // As Llama 3 and GPT-2 have it: a post-processor that would cut the space off a token's offsets.
    let post = serde_json::json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let tokenizer = crate::testing::tokenizer_with(&[], |json| json["post_processor"] = post);
    let text = "a the \u{1f600}";
    let (ids, offsets) = tokenizer.encode_with_offsets(text).unwrap();
    assert_eq!(ids, tokenizer.encode(text).unwrap());
    assert_eq!(
        ids,
        Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap().encode(text).unwrap()
    );
    assert_eq!(offsets[..2], [0..1, 1..5]);
    assert!(offsets[3..].iter().all(|range| *range == (6..10)), "{offsets:?}");
}

#[test]
fn a_file_that_makes_the_tokenizers_crate_panic_is_refused() {
    // Found by fuzzing: JSON whose texts are not UTF-8.
    let dir = copy_of_demo();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/regressions/tokenizer/text-not-utf8.json");
    std::fs::copy(path, dir.path().join("tokenizer.json")).unwrap();
    let result = Tokenizer::load(dir.path(), TokenizerOptions::default());
    check_error(result, "input::tokenizer_invalid", "tokenizer.json");
}

#[test]
fn a_file_that_makes_the_tokenizers_crate_panic_on_a_text_is_an_error() {
    // Found by fuzzing: a replacement that matches where there is nothing, after which the normalizer loses count.
    let dir = copy_of_demo();
    std::fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/regressions/tokenizer/normalizer-out-of-bounds.json");
    std::fs::copy(path, dir.path().join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::load(dir.path(), TokenizerOptions::default()).unwrap();
    let encoded = tokenizer.encode("Hello");
    check_error(encoded.map(|_| tokenizer), "input::tokenizer_failed", "out of bounds");
}
