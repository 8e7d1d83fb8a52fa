#![allow(clippy::unwrap_used)]
use std::fmt::Write as _;

use super::*;

mod parquet_files;
mod plain_fields;
mod schemas;

/// Reads a file, and checks that the same bytes read the same without one.
fn read_with(bytes: &[u8], options: &RowOptions) -> Result<Rows> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.any");
    std::fs::write(&path, bytes).unwrap();
    let rows = read_rows(&[&path], options);
    match (&rows, rows_from_bytes(&path, bytes.to_vec(), options)) {
        (Ok(file), Ok(memory)) => assert_eq!(*file, memory),
        (Err(file), Err(memory)) => assert_eq!(file.to_string(), memory.to_string()),
        (file, memory) => panic!("{file:?} {memory:?}"),
    }
    rows
}

fn read_bytes(bytes: &[u8], max_samples: Option<usize>) -> Result<Vec<Content>> {
    let rows = read_with(bytes, &RowOptions { max_samples, ..RowOptions::default() })?;
    Ok(rows.as_slice().iter().map(|row| row.content.clone()).collect())
}

fn row(query: &str, response: &str) -> Content {
    Row::pair(query, response).content
}

fn check_rows(text: &str, expect: &[Content]) {
    assert_eq!(read_bytes(text.as_bytes(), None).unwrap(), expect, "{text}");
}

/// `expect` is the diagnostic code and a part of the message.
fn check_error(bytes: &[u8], code: &str, message: &str) {
    check_result(read_bytes(bytes, None), code, message);
}

fn check_result<T: std::fmt::Debug>(result: Result<T>, code: &str, message: &str) {
    use miette::Diagnostic;
    let error = result.unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), code, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(error.help().is_some());
}

#[test]
fn reads_arrays_and_lines() {
    let both = [row("q1", "r1"), row("q\n2", "r2 \u{1f600}")];
    check_rows(r#"[{"query":"q1","response":"r1"},{"response":"r2 😀","query":"q\n2"}]"#, &both);
    check_rows(
        "\u{feff}\n [\n{\"type\":[{\"a\":null}],\"query\":\"q1\",\"response\":\"r1\"},\n
         {\"query\":\"q\\n2\",\"response\":\"r2 \\ud83d\\ude00\"}\n]\n\n",
        &both,
    );
    check_rows(
        "{\"query\":\"q1\",\"response\":\"r1\"}\r\n\n{\"query\":\"old\",\"query\":\"q\\n2\",\"response\":\"r2 😀\"}",
        &both,
    );
    check_rows("\n\n{\"query\":\"\",\"response\":\"\", \"x\": 1e999}\n", &[row("", "")]);
}

#[test]
fn keeps_the_first_rows() {
    let array = br#"[{"query":"1","response":"a"},{"query":"2","response":"b"},{"query":3}]"#;
    let lines =
        b"{\"query\":\"1\",\"response\":\"a\"}\n{\"query\":\"2\",\"response\":\"b\"}\n{\"query\":3}\n";
    for bytes in [&array[..], &lines[..]] {
        assert_eq!(read_bytes(bytes, Some(1)).unwrap(), [row("1", "a")]);
        assert_eq!(read_bytes(bytes, Some(2)).unwrap().len(), 2);
        check_result(read_bytes(bytes, Some(3)), "input::data_field", "row 3");
        check_result(read_bytes(bytes, Some(0)), "input::data_setting", "max-samples is 0");
        // Half a file is found out even where the missing half would not be used.
        check_result(read_bytes(&bytes[..bytes.len() - 3], Some(1)), "input::data_cut", "row 3");
    }
    assert_eq!(read_bytes(b"[{\"query\":\"1\",\"response\":\"a\"}]", Some(9)).unwrap().len(), 1);
}

#[test]
fn names_what_is_wrong_with_a_row() {
    let good = r#"{"query":"q","response":"r"}"#;
    for (bad, field, problem) in [
        (r#"{"response":"r"}"#, "query", "is missing"),
        (r#"{"query":"q"}"#, "response", "is missing"),
        (r#"{"query":7,"response":"r"}"#, "query", "is a number, not a text"),
        (r#"{"query":"q","response":null}"#, "response", "is null, not a text"),
        (r#"{"query":"q","response":["r"]}"#, "response", "is an array, not a text"),
        (r#"{"query":{"a":1},"response":"r"}"#, "query", "is an object, not a text"),
        (r#"{"query":true,"response":"r"}"#, "query", "is a boolean, not a text"),
        ("{}", "query", "is missing"),
    ] {
        let message = format!("row 2 (line 3): field `{field}` {problem}");
        check_error(format!("{good}\n\n{bad}\n{good}\n").as_bytes(), "input::data_field", &message);
        let message = format!("row 2 (line 4): field `{field}` {problem}");
        check_error(format!("\n[\n{good},\n{bad},{good}]\n").as_bytes(), "input::data_field", &message);
    }
    // A wrapped array, as some exports are.
    check_error(br#"{"data":[{"query":"q","response":"r"}]}"#, "input::data_field", "row 1 (line 1)");
}

#[test]
fn names_what_is_wrong_with_the_file() {
    let good = r#"{"query":"q","response":"r"}"#;
    check_error(b"", "input::data_empty", "has no rows");
    check_error(b" \n\t\n", "input::data_empty", "has no rows");
    check_error(b"[]", "input::data_empty", "has no rows");
    check_error(b"PAR1....", "input::data_parquet", "row 1");
    check_error(b"PBR1....", "input::data_format", "first character is `P`");
    check_error(b"\x1f\x8b\x08", "input::data_format", "byte 0x1f");
    check_error(b"\"text\"", "input::data_format", "`\"`");
    check_error(format!("[{good}").as_bytes(), "input::data_cut", "");
    check_error(b"[", "input::data_cut", "row 1 (line 1");
    check_error(format!("[{good},").as_bytes(), "input::data_cut", "row 2");
    check_error(format!("{good}\n{}", &good[..12]).as_bytes(), "input::data_cut", "row 2 (line 2");
    check_error(format!("[{good}] {good}").as_bytes(), "input::data_json", "trailing characters");
    check_error(format!("[{good} {good}]").as_bytes(), "input::data_json", "row 2");
    check_error(format!("{good} {good}\n").as_bytes(), "input::data_json", "trailing characters");
    check_error(format!("[{good},3]").as_bytes(), "input::data_json", "invalid type: integer `3`");
    check_error(format!("[{good},[\"q\",\"r\"]]").as_bytes(), "input::data_json", "row 2 (line 1");
    check_error(format!("{good}\n3\n").as_bytes(), "input::data_json", "row 2 (line 2");
    check_error(format!("[{good},]").as_bytes(), "input::data_json", "trailing comma");
    check_error(b"[{\"query\":\"caf\xe9 x\",\"response\":\"r\"}]", "input::data_utf8", "row 1 (line 1)");
    check_error(b"{\"query\":\"caf\xe9 x\",\"response\":\"r\"}\n", "input::data_utf8", "row 1 (line 1)");
    check_error(b"{\"query\":\"caf\xc3", "input::data_cut", "row 1 (line 1");
    check_error(b"{\"query\":\"caf\xc3\n", "input::data_utf8", "row 1 (line 1");
    let open = "{\"query\":\"no end\n";
    for bad in [open, "{\n", "{\"query\"\r\n", "{\"query\":\"a\\\n"] {
        for (text, line) in
            [(bad.to_owned(), 1), (format!("{good}\n\n{bad}"), 3), (format!("{bad}{good}\n"), 1)]
        {
            let row = if line == 1 { 1 } else { 2 };
            let message = format!("row {row} (line {line}, column");
            check_error(text.as_bytes(), "input::data_json", &message);
        }
    }
    check_error(open.as_bytes(), "input::data_json", "the line ends inside the row");
    let deep = format!("[{{\"query\":{}", "[".repeat(100_000));
    check_error(deep.as_bytes(), "input::data_json", "recursion limit");
}

#[test]
fn names_a_path_that_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    check_result(
        read_rows(&[dir.path().join("none.json")], &RowOptions::default()),
        "input::data_missing",
        "none.json",
    );
    check_result(
        read_rows(&[dir.path()], &RowOptions::default()),
        "input::data_is_directory",
        "is a directory",
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    check_result(
        read_rows(&[file.join("below.json")], &RowOptions::default()),
        "input::data_unreadable",
        "below.json",
    );
}

#[test]
fn every_cut_is_an_error() {
    let mut text = String::new();
    for i in 0..3 {
        writeln!(text, r#"{{"query":"q{i} é","n":[1,{{"a":25}}],"response":"r\u00e9"}}"#).unwrap();
    }
    let array = format!("[{}]", text.trim_end().replace('\n', ",\n"));
    assert_eq!(read_bytes(array.as_bytes(), None).unwrap(), read_bytes(text.as_bytes(), None).unwrap());
    for cut in 1..array.len() {
        check_error(&array.as_bytes()[..cut], "input::data_cut", "cut short");
    }
    for cut in 1..text.len() {
        let head = &text.as_bytes()[..cut];
        match read_bytes(head, None) {
            // Whole lines cannot be told from a whole file.
            Ok(rows) => assert_eq!(rows.len(), text[..cut].matches('}').count() / 2),
            Err(error) => assert!(matches!(error, Error::DataCut { .. }), "{error}"),
        }
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(start in "[\\[{]", bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
        let mut all = start.into_bytes();
        all.extend(bytes);
        let _ = read_bytes(&all, Some(2));
    }

    #[test]
    fn reads_back_any_text(texts in proptest::collection::vec((".*", ".*"), 1..5)) {
        let expect: Vec<Content> = texts.iter().map(|(q, r)| row(q, r)).collect();
        let objects: Vec<_> = texts.iter().map(|(q, r)| serde_json::json!({"query": q, "response": r})).collect();
        let array = serde_json::to_vec_pretty(&objects).unwrap();
        proptest::prop_assert_eq!(&read_bytes(&array, None).unwrap(), &expect);
        let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
        proptest::prop_assert_eq!(&read_bytes(lines.as_bytes(), None).unwrap(), &expect);
    }
}
