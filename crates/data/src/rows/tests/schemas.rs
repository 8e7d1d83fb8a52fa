//! Names of fields, conversations, several files.

use serde_json::json;

use super::*;

fn named(query: &str, response: &str) -> RowOptions {
    RowOptions { query_field: query.into(), response_field: response.into(), ..RowOptions::default() }
}

fn keeping() -> RowOptions {
    RowOptions { keep_fields: true, ..RowOptions::default() }
}

fn fields(row: &Row) -> Value {
    row.fields().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[test]
fn fields_of_any_name() {
    let text = br#"{"instruction":"a","input":[1,{"b":null}],"output":"c","query":"other","n":2.5}"#;
    let options = named("instruction", "output");
    let rows = read_with(text, &options).unwrap();
    assert_eq!(rows.as_slice()[0].content, row("a", "c"));
    assert_eq!(rows.as_slice()[0].fields().count(), 0);
    let Schema::Pairs { query_field, response_field } = rows.schema() else { panic!() };
    assert_eq!((&query_field[..], &response_field[..]), ("instruction", "output"));
    let rows = read_with(text, &RowOptions { keep_fields: true, ..options.clone() }).unwrap();
    let kept = fields(&rows.as_slice()[0]);
    assert_eq!(kept, json!({"input": [1, {"b": null}], "query": "other", "n": 2.5}));
    let names: Vec<_> = rows.as_slice()[0].fields().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["input", "query", "n"]);
    let bad = br#"{"instruction":"a","Output":"c"}"#;
    check_result(read_with(bad, &options), "input::data_field", "row 1 (line 1): field `output` is missing");
    check_result(read_with(bad, &named("a", "a")), "input::data_setting", "query-field is `a`");
    // A question may lie in a field that would otherwise be a conversation.
    let odd = read_with(br#"{"messages":"a","response":"b"}"#, &named("messages", "response")).unwrap();
    assert_eq!(odd.as_slice()[0].content, row("a", "b"));
}

#[test]
fn conversations() {
    let row = json!({"id": 7, "query": "q", "messages": [
        {"role": "system", "content": "s"},
        {"content": "u", "role": "user", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [{"a": 1}]},
        {"role": "tool", "content": "t"}]});
    for text in [format!("{row}\n{row}"), format!("[{row},\n{row}]")] {
        let rows = read_with(text.as_bytes(), &keeping()).unwrap();
        assert_eq!((rows.len(), rows.schema()), (2, &Schema::Chat));
        let Content::Chat(messages) = &rows.as_slice()[1].content else { panic!() };
        assert_eq!(messages.iter().map(|message| message.role).collect::<Vec<_>>(), Role::ALL);
        assert_eq!(messages[1].content, "u");
        assert_eq!(Value::from(messages[1].other.clone()), json!({"name": "Ann"}));
        assert_eq!(Value::from(messages[2].other.clone()), json!({"tool_calls": [{"a": 1}]}));
        assert_eq!(fields(&rows.as_slice()[1]), json!({"id": 7, "query": "q"}));
        assert_eq!(rows.place(1).to_string().rsplit_once(", ").unwrap().1, "row 2");
    }
}

#[test]
fn names_what_is_wrong_with_a_message() {
    let good = r#"{"messages":[{"role":"user","content":"u"}]}"#;
    let ok = r#"{"role":"user","content":"u"}"#;
    for (messages, code, problem) in [
        ("null", "data_field", "field `messages` is null, not a list"),
        ("[]", "data_field", "field `messages` is an empty list"),
        ("\"hi\"", "data_field", "field `messages` is a text, not a list"),
        ("{\"a\":1}", "data_field", "field `messages` is an object, not a list"),
        (&format!("[{ok},3]"), "data_message", "message 2 is a number, not an object"),
        (&format!("[{ok},{{\"content\":\"x\"}}]"), "data_message", "message 2 has no `role`"),
        (&format!("[{ok},{{\"role\":\"user\"}}]"), "data_message", "message 2 has no `content`"),
        (r#"[{"role":"user","content":null}]"#, "data_message", "message 1 has `content` that is null"),
        (r#"[{"role":"user","content":[{"type":"text"}]}]"#, "data_message", "`content` in parts; only text"),
        (r#"[{"role":1,"content":""}]"#, "data_message", "message 1 has `role` that is a number"),
        (
            &format!("[{ok},{{\"role\":\"bot\",\"content\":\"x\"}}]"),
            "data_role",
            "message 2 has the unknown role `bot`",
        ),
    ] {
        let row = format!("{{\"messages\":{messages}}}");
        let code = format!("input::{code}");
        let message = format!("row 2 (line 3): {problem}");
        let message = message.replace(": `content` in", ": message 1 has `content` in");
        check_error(format!("{good}\n\n{row}\n{good}\n").as_bytes(), &code, &message);
        check_error(format!("[{good},\n\n{row},{good}]").as_bytes(), &code, &message);
    }
}

#[test]
fn mixed_rows_are_refused() {
    let pair = r#"{"query":"q","response":"r","messages":null}"#;
    let chat = r#"{"query":null,"messages":[{"role":"user","content":"u"}]}"#;
    for (first, second, found) in
        [(pair, chat, "has `messages`"), (chat, pair, "has a question and its answer")]
    {
        for text in [format!("{first}\n{first}\n{second}\n"), format!("[{first},\n{first},\n{second}]")] {
            let message = format!("row 3 (line 3): rows of mixed schemas: this one {found}");
            check_error(text.as_bytes(), "input::data_mixed", &message);
        }
    }
    // What is neither lacks a field of the first row's schema.
    check_error(format!("{chat}\n{{}}").as_bytes(), "input::data_field", "field `messages` is missing");
    check_error(format!("{pair}\n{{}}").as_bytes(), "input::data_field", "field `query` is missing");
    check_error(b"{\"messages\":null}", "input::data_field", "field `messages` is null");
    assert!(Rows::new(vec![Row::pair("", ""), Row::chat(vec![])]).is_err());
}

#[test]
fn several_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let a = write("a", "{\"query\":\"1\",\"response\":\"\"}\n{\"query\":\"2\",\"response\":\"\"}\n");
    let b = write("b", "[{\"query\":\"3\",\"response\":\"\"}]");
    let empty = write("empty", " ");
    let chat = write("chat", "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}");
    let broken = write("broken", "[");
    let read = |paths: &[&PathBuf], max_samples| {
        read_rows(paths, &RowOptions { max_samples, ..RowOptions::default() })
    };
    let rows = read(&[&b, &empty, &a], None).unwrap();
    assert_eq!(
        rows.as_slice().iter().map(|row| row.content.clone()).collect::<Vec<_>>(),
        ["3", "1", "2"].map(|query| super::row(query, ""))
    );
    assert_eq!(
        [0, 1, 2].map(|i| (rows.place(i).path, rows.place(i).row)),
        [(b.clone(), 1), (a.clone(), 1), (a.clone(), 2)]
    );
    assert_eq!(read(&[&b, &a], Some(2)).unwrap().len(), 2);
    check_result(read(&[&b, &chat], None), "input::data_mixed", "chat`, row 1 (line 1)");
    check_result(read(&[&a, &broken], None), "input::data_cut", "broken` is cut short");
    check_result(read(&[&empty], None), "input::data_empty", "empty` has no rows");
    check_result(read(&[&empty, &empty], None), "input::data_empty", "(and 1 more files) has no rows");
    check_result(read(&[], None), "input::data_empty", "of no files");
    // A file that is not needed must be there all the same.
    check_result(read(&[&b, &dir.path().join("none")], Some(1)), "input::data_missing", "none");
}
