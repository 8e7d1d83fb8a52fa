//! Rows, templates and the token cache of the crate `data`.

use std::path::Path;
use std::sync::LazyLock;

use data::{
    BuildOptions, Dataset, Message, Role, Row, RowOptions, Rows, Template, Tokenizer, TokenizerOptions,
    TrainOn, rows_from_bytes,
};

use crate::show::refused;

/// A JSON array or JSON lines.
pub(crate) fn rows_json(bytes: &[u8]) -> bool {
    rows(bytes)
}

/// Parquet. The magic at either end is put right, so that no input is spent on finding it.
pub(crate) fn rows_parquet(bytes: &[u8]) -> bool {
    const MAGIC: &[u8] = b"PAR1";
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 2 * MAGIC.len() {
        let end = bytes.len() - MAGIC.len();
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[end..].copy_from_slice(MAGIC);
    }
    rows(&bytes)
}

fn rows(bytes: &[u8]) -> bool {
    let first = RowOptions { max_samples: Some(1), ..RowOptions::default() };
    let all = RowOptions { keep_fields: true, ..RowOptions::default() };
    if let Ok(rows) = rows_from_bytes(Path::new("rows"), bytes.to_vec(), &first) {
        assert_eq!(rows.len(), 1, "one row was asked for");
    }
    match rows_from_bytes(Path::new("rows"), bytes.to_vec(), &all) {
        Err(error) => refused(&error),
        Ok(rows) => {
            assert!(!rows.is_empty(), "a file without rows is refused");
            let places = (0..rows.len()).map(|i| rows.place(i).row);
            assert!(places.eq(1..=rows.len() as u64), "rows are numbered from 1");
            true
        }
    }
}

/// A template of the user's own, and rows rendered with it.
pub(crate) fn template(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Template::from_text(Path::new("template"), text) {
        Err(error) => refused(&error),
        Ok(template) => render(&template),
    }
}

/// The chat template in a `tokenizer_config.json`, and rows rendered with it.
pub(crate) fn chat_template(bytes: &[u8]) -> bool {
    match Template::chat_from_json(Path::new("tokenizer_config.json"), bytes) {
        Err(error) => refused(&error),
        Ok(None) => false,
        Ok(Some(template)) => render(&template),
    }
}

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");
    Tokenizer::load(Path::new(folder), TokenizerOptions::default()).expect("the demo's tokenizer loads")
});

static ROWS: LazyLock<[Rows; 3]> = LazyLock::new(|| {
    let turn = |role, content: &str| Message { role, content: content.to_owned(), other: Default::default() };
    let mut named = turn(Role::User, " Wie viel? \n");
    named.other.insert("name".to_owned(), serde_json::json!({"tags": [1, 2.5, null, "é"]}));
    let chat = [turn(Role::System, "Be brief."), named, turn(Role::Assistant, "4 \u{1f600}")];
    let values = serde_json::json!({"a": [1, 2.5, true], "é": null});
    let fields =
        serde_json::json!({"query": "q", "topic": "sums", "values": values, "tools": [{"name": "add"}]});
    let fields = fields.as_object().cloned().unwrap_or_default();
    let rows = |row: Row| Rows::new(vec![row.with_fields(fields.clone())]).expect("one row is of one schema");
    // Some templates have no place for a system's message.
    let short = [turn(Role::User, "2 + 2?"), turn(Role::Assistant, "4")];
    [
        rows(Row::pair("What is 2 + 2?", " It is 4. ")),
        rows(Row::chat(chat.to_vec())),
        rows(Row::chat(short.to_vec())),
    ]
});

/// Whether any of the rows could be tokenized by the template.
fn render(template: &Template) -> bool {
    let mut any = false;
    for rows in &*ROWS {
        for train_on in [TrainOn::All, TrainOn::Responses] {
            let options = BuildOptions { max_seq_length: 64, train_on };
            match Dataset::build(rows, &TOKENIZER, template, &options, None, &|_, _| {}, 1) {
                Ok(dataset) => {
                    any = true;
                    check(&dataset);
                }
                Err(error) => {
                    refused(&error);
                    // To find the answers it would begin with the same text, and some fail only after a second.
                    break;
                }
            }
        }
    }
    any
}

/// A file of the token cache, whose hash is put right: nothing would get past it otherwise.
pub(crate) fn token_cache(bytes: &[u8]) -> bool {
    /// Where the hash of the content stands, and where the content begins.
    const HASH: std::ops::Range<usize> = 40..72;
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HASH.end {
        let hash = blake3::hash(&bytes[HASH.end..]);
        bytes[HASH].copy_from_slice(hash.as_bytes());
    }
    let Some(dataset) = Dataset::from_cache_bytes(&bytes) else { return false };
    check(&dataset);
    true
}

/// What batches rely on.
fn check(dataset: &Dataset) {
    let mut tokens = 0;
    for i in 0..dataset.len() {
        let example = dataset.example(i);
        tokens += example.ids.len() as u64;
        assert!(example.label_count() <= example.ids.len() as u64, "every label has a token");
        for [start, end] in example.supervised {
            assert!(start < end && *end as usize <= example.ids.len(), "labels lie in their row");
        }
    }
    assert_eq!(tokens, dataset.total_tokens(), "every token is a row's");
    assert!(dataset.unsupervised_rows() <= dataset.len(), "rows without labels are rows");
    assert_eq!(dataset.fingerprint().len(), 64, "a fingerprint is a hash");
}
