//! Rows of any fields, and what is said where they are not asked for.

use miette::Diagnostic as _;
use serde_json::json;

use super::*;

fn any() -> RowOptions {
    RowOptions { any_fields: true, ..RowOptions::default() }
}

fn fields(row: &Row) -> Value {
    row.fields().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The message and the hint of a file that is refused.
fn refusal(text: &str) -> (String, String) {
    let error = read_with(text.as_bytes(), &RowOptions::default()).unwrap_err();
    (error.to_string(), error.help().unwrap().to_string())
}

#[test]
fn rows_are_taken_as_they_are() {
    for row in [
        json!({"text": "t"}),
        json!({"instruction": "a", "input": ["b", null], "output": {"c": 1.5}}),
        json!({"text": "t", "messages": null, "query": null}),
        json!({"text": "t", "response": "r"}),
        json!({"response": "r"}),
        json!({"query": "q", "answer": "r"}),
    ] {
        for text in [format!("{row}\n{row}\n"), format!("[{row},{row}]")] {
            let rows = read_with(text.as_bytes(), &any()).unwrap();
            let (query_field, response_field) = ("query".to_owned(), "response".to_owned());
            assert_eq!(rows.schema(), &Schema::Fields { query_field, response_field });
            assert_eq!(rows.as_slice()[1].content, Content::Fields);
            let mut expect = row.clone();
            expect.as_object_mut().unwrap().shift_remove("messages");
            assert_eq!(fields(&rows.as_slice()[1]), expect);
            assert_eq!(rows.place(1).row, 2);
        }
    }
}

#[test]
fn known_rows_stay_what_they_are() {
    let options = RowOptions { keep_fields: true, ..RowOptions::default() };
    for row in [
        json!({"query": "q", "response": "r", "text": "t"}),
        json!({"messages": [{"role": "user", "content": "u"}], "query": "q", "text": "t"}),
    ] {
        let read = |options| rows_from_bytes(Path::new("x"), row.to_string().into_bytes(), options).unwrap();
        assert_eq!(read(&any()), read(&options));
    }
    for (text, problem) in [
        (r#"{"query":"q","response":null}"#, "field `response` is null, not a text"),
        (r#"{"query":7,"response":"r","text":"t"}"#, "field `query` is a number, not a text"),
        (r#"{"messages":3,"text":"t"}"#, "field `messages` is a number, not a list"),
        ("{}", "field `query` is missing; the row has no fields"),
    ] {
        check_result(read_with(text.as_bytes(), &any()), "input::data_field", problem);
    }
    check_result(read_with(b"[3]", &any()), "input::data_json", "integer `3`, expected an object");
}

#[test]
fn the_first_row_decides() {
    let (plain, chat) = (r#"{"text":"t"}"#, r#"{"messages":[{"role":"user","content":"u"}]}"#);
    let pair = r#"{"query":"q","response":"r"}"#;
    for (first, second, code, problem) in [
        (
            plain,
            pair,
            "data_mixed",
            "this one has a question and its answer, those before it have only fields of",
        ),
        (plain, chat, "data_mixed", "this one has `messages`"),
        (pair, plain, "data_field", "field `query` is missing; the row has the field `text`"),
        (chat, plain, "data_field", "field `messages` is missing; the row has the field `text`"),
    ] {
        let text = format!("{first}\n{second}\n");
        check_result(read_with(text.as_bytes(), &any()), &format!("input::{code}"), problem);
    }
    let map = || json!({"text": "t"}).as_object().unwrap().clone();
    assert!(Rows::new(vec![Row::of_fields(map()), Row::pair("", "")]).is_err());
    let rows = Rows::new(vec![Row::of_fields(map()); 4]).unwrap();
    let (train, held_out) = rows.split(0.25, 1).unwrap();
    assert!(matches!(train.schema(), Schema::Fields { .. }));
    assert_eq!((train.len(), held_out.len(), fields(&held_out.as_slice()[0])), (3, 1, json!({"text": "t"})));
}

#[test]
fn a_missing_field_tells_what_there_is() {
    for (row, has, hint) in [
        (
            r#"{"instruction":"a","input":"","output":"b"}"#,
            "the fields `instruction`, `input`, `output`",
            "--query-field instruction --response-field output",
        ),
        (
            r#"{"prompt":"a","completion":"b"}"#,
            "`completion`",
            "--query-field prompt --response-field completion",
        ),
        (r#"{"conversations":[{"from":"human","value":"a"}]}"#, "the field `conversations`", "jq -c"),
        (r#"{"text":"a"}"#, "the field `text`", "{{ text }}, and --train-on all"),
        (r#"{"data":[{"query":"a","response":"b"}]}"#, "the field `data`", "top level"),
        (r#"{"query":"a","answer":"b"}"#, "`query`, `answer`", "--query-field query --response-field answer"),
        ("{}", "no fields", "--query-field and --response-field"),
    ] {
        let (message, help) = refusal(row);
        assert!(message.contains("row 1 (line 1): field `") && message.contains(has), "{message}");
        assert!(help.contains(hint), "{help}");
    }
}

#[test]
fn a_hint_is_about_the_problem() {
    for (text, hint) in [
        ("{\"query\":\n", "one whole row on each line"),
        ("{\"data\": [\n{\"query\":\"a\",\"response\":\"b\"}]}\n", "with nothing around it"),
        ("[3]", "an object with named fields"),
        ("[{\"query\" 3}]", "jq . FILE"),
        ("{\"query\":3,\"response\":\"\"}", "are texts"),
        ("{\"messages\":3}", "a list of objects"),
        ("query,response\n", "JSON array"),
        ("", "the right file"),
    ] {
        let (message, help) = refusal(text);
        assert!(help.contains(hint) && help.len() < 220, "{message}: {help}");
    }
}
