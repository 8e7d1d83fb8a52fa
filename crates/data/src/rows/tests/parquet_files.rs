//! Parquet files, written here with the crate's own writer.

use std::sync::Arc;

use ::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::*;

/// One column of a file: its values with definition and repetition levels.
enum Column {
    Text(Vec<&'static str>, Option<Vec<i16>>, Option<Vec<i16>>),
    Int(Vec<i64>),
    Float(Vec<f64>),
}

impl Column {
    fn write(&self, writer: &mut SerializedColumnWriter) {
        match self {
            Self::Text(values, def, rep) => {
                let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
                writer.typed::<ByteArrayType>().write_batch(&values, def.as_deref(), rep.as_deref())
            }
            Self::Int(values) => writer.typed::<Int64Type>().write_batch(values, None, None),
            Self::Float(values) => writer.typed::<DoubleType>().write_batch(values, None, None),
        }
        .unwrap();
    }
}

/// A file with the columns written in `groups` row groups.
fn file(schema: &str, columns: &[Column], groups: usize, compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    for _ in 0..groups {
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut open = group.next_column().unwrap().unwrap();
            column.write(&mut open);
            open.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

const PAIRS: &str = "message m { required binary query (UTF8); optional binary response (UTF8); required int64 n; \
                     required double x; }";

fn pairs(groups: usize, compression: Compression) -> Vec<u8> {
    let columns = [
        Column::Text(vec!["q1", "q2 é"], None, None),
        Column::Text(vec!["r1", "r2"], Some(vec![1, 1]), None),
        Column::Int(vec![3, -4]),
        Column::Float(vec![0.5, f64::NAN]),
    ];
    file(PAIRS, &columns, groups, compression)
}

const CHAT: &str = "message m { optional group messages (LIST) { repeated group list { optional group element { \
                    optional binary role (UTF8); optional binary content (UTF8); } } } }";

/// Two conversations, of two turns and of one.
fn chat() -> Vec<u8> {
    let rep = || Some(vec![0, 1, 0]);
    let columns = [
        Column::Text(vec!["user", "assistant", "user"], Some(vec![4; 3]), rep()),
        Column::Text(vec!["u1", "a1", "u2"], Some(vec![4; 3]), rep()),
    ];
    file(CHAT, &columns, 1, Compression::SNAPPY)
}

#[test]
fn questions_with_answers() {
    let gzip = Compression::GZIP(GzipLevel::default());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, zstd] {
        let bytes = pairs(2, compression);
        let rows = read_bytes(&bytes, None).unwrap();
        assert_eq!(rows, [row("q1", "r1"), row("q2 é", "r2"), row("q1", "r1"), row("q2 é", "r2")]);
        assert_eq!(read_bytes(&bytes, Some(3)).unwrap(), rows[..3]);
    }
    let options = RowOptions { keep_fields: true, ..RowOptions::default() };
    let rows = read_with(&pairs(1, Compression::SNAPPY), &options).unwrap();
    let kept: Vec<Value> = rows
        .as_slice()
        .iter()
        .map(|row| row.fields().map(|(name, value)| (name.clone(), value.clone())).collect())
        .collect();
    assert_eq!(kept, [json!({"n": 3, "x": 0.5}), json!({"n": -4, "x": null})]);
}

#[test]
fn conversations() {
    let rows = read_with(&chat(), &RowOptions::default()).unwrap();
    assert_eq!((rows.len(), rows.schema()), (2, &Schema::Chat));
    let Content::Chat(messages) = &rows.as_slice()[0].content else { panic!() };
    let turns: Vec<_> = messages.iter().map(|message| (message.role, &message.content[..])).collect();
    assert_eq!(turns, [(Role::User, "u1"), (Role::Assistant, "a1")]);
    assert_eq!(rows.place(1).row, 2);
}

#[test]
fn plain_fields() {
    let bytes = file(
        "message m { required binary instruction (UTF8); optional binary output (UTF8); }",
        &[Column::Text(vec!["a", "b"], None, None), Column::Text(vec!["c"], Some(vec![1, 0]), None)],
        1,
        Compression::SNAPPY,
    );
    let rows = read_with(&bytes, &RowOptions { any_fields: true, ..RowOptions::default() }).unwrap();
    assert!(matches!(rows.schema(), Schema::Fields { .. }));
    let row = |i: usize| -> Value {
        rows.as_slice()[i].fields().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    assert_eq!(row(0), json!({"instruction": "a", "output": "c"}));
    assert_eq!(row(1), json!({"instruction": "b", "output": null}));
    let error = read_bytes(&bytes, None).unwrap_err();
    assert!(
        error.to_string().ends_with("no column `query`: its columns are `instruction`, `output`"),
        "{error}"
    );
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert_eq!(help, "try --query-field instruction --response-field output");
}

#[test]
fn several_files_of_both_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a.parquet", "b.json"].map(|name| dir.path().join(name));
    std::fs::write(&a, pairs(1, Compression::SNAPPY)).unwrap();
    std::fs::write(&b, r#"[{"query":"q3","response":"r3"}]"#).unwrap();
    let rows = read_rows(&[&a, &b, &a], &RowOptions::default()).unwrap();
    let queries: Vec<_> = rows.as_slice().iter().map(|row| row.content.clone()).collect();
    assert_eq!(queries.len(), 5);
    assert_eq!(queries[2], row("q3", "r3"));
    assert_eq!(rows.place(4), Place { path: a, row: 2, line: None });
}

#[test]
fn names_what_is_wrong() {
    let nulls = file(
        "message m { required binary query (UTF8); optional binary response (UTF8); }",
        &[Column::Text(vec!["q1", "q2"], None, None), Column::Text(vec!["r1"], Some(vec![1, 0]), None)],
        1,
        Compression::SNAPPY,
    );
    check_error(&nulls, "input::data_field", "row 2: field `response` is null, not a text");
    let numbers = file(
        "message m { required binary query (UTF8); required int64 response; }",
        &[Column::Text(vec!["q1"], None, None), Column::Int(vec![1])],
        1,
        Compression::SNAPPY,
    );
    check_error(&numbers, "input::data_field", "row 1: field `response` is a number, not a text");
    let lacking = file(
        "message m { required binary question (UTF8); required binary response (UTF8); }",
        &[Column::Text(vec!["q1"], None, None), Column::Text(vec!["r1"], None, None)],
        1,
        Compression::SNAPPY,
    );
    check_error(
        &lacking,
        "input::data_column",
        "has no column `query`: its columns are `question`, `response`",
    );
    check_error(&pairs(0, Compression::SNAPPY), "input::data_empty", "has no rows");
    let whole = pairs(1, Compression::SNAPPY);
    check_error(&whole[..whole.len() / 2], "input::data_parquet", "row 1");
    let roles = file(
        CHAT,
        &[
            Column::Text(vec!["user", "human"], Some(vec![4; 2]), Some(vec![0, 1])),
            Column::Text(vec!["u", "v"], Some(vec![4; 2]), Some(vec![0, 1])),
        ],
        1,
        Compression::SNAPPY,
    );
    check_error(&roles, "input::data_role", "row 1: message 2 has the unknown role `human`");
}

#[test]
fn damaged_bytes_do_not_panic() {
    // A fixed walk: the same damage on every run.
    let mut state = 1u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let options = RowOptions { keep_fields: true, ..RowOptions::default() };
    let mut refused = 0;
    for whole in [pairs(2, Compression::SNAPPY), pairs(1, Compression::UNCOMPRESSED), chat()] {
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                match next(8) {
                    0 => bytes.truncate(at.max(4)),
                    1 => drop(bytes.drain(at..(at + next(9)).min(bytes.len()))),
                    _ => bytes[at] = next(256) as u8,
                }
            }
            refused += usize::from(rows_from_bytes(Path::new("x"), bytes, &options).is_err());
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_dictionary_that_claims_more_than_its_bytes_hold_is_refused() {
    // Found by fuzzing: the decoder made room for the claimed values, 17 GB, and the process was gone.
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/regressions/rows_parquet/huge-dictionary.parquet");
    let bytes = std::fs::read(path).unwrap();
    check_error(&bytes, "input::data_parquet", "a dictionary of");
}
