//! Rows and templates that `train` cannot use.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Case, DemoModel, Ranks, Running, chat_row, chat_rows, check_bad_of, check_message, command, demo_rows,
    edit_json, own_training, parquet, scratch, snapshot, write_lines, write_pairs, write_template,
};

/// Checks each case alone.
fn check(cases: &[Case]) {
    cases.iter().for_each(|case| check_bad_of("train", Ranks::Alone, case));
}

/// Checks each case alone and on two ranks, where a failure takes a second.
fn check_on_ranks(cases: &[Case]) {
    for case in cases {
        check_bad_of("train", Ranks::Alone, case);
        check_bad_of("train", Ranks::Mpi(2), case);
    }
}

fn flags<const N: usize>(flags: [&str; N]) -> Vec<String> {
    flags.map(str::to_owned).to_vec()
}

fn flag(name: &str, path: &Path) -> Vec<String> {
    flags([name, path.to_str().unwrap()])
}

/// A file of JSON lines.
fn rows(folder: &Path, rows: &[Value]) -> Vec<String> {
    let path = folder.join("rows.jsonl");
    write_lines(&path, rows);
    flag("--data", &path)
}

/// A template over the demo's rows.
fn template(folder: &Path, text: &str) -> Vec<String> {
    flag("--template", &write_template(folder, "own.jinja", text))
}

/// A model whose tokenizer has this chat template, and conversations.
fn chat(folder: &Path, template: &str, conversations: &[Value]) -> Vec<String> {
    let model = DemoModel::copy_to(folder);
    edit_json(&model.file("tokenizer_config.json"), |config| config["chat_template"] = template.into());
    [model.flag(), rows(folder, conversations)].concat()
}

/// A Parquet file of the demo's rows under other names.
fn parquet_rows(folder: &Path, fields: [&str; 2]) -> Vec<String> {
    let path = folder.join("rows.parquet");
    write_pairs(&path, &demo_rows("train.json", 8), fields);
    flag("--data", &path)
}

/// A Parquet file that lost a part.
fn damaged_parquet(folder: &Path, damage: fn(&mut Vec<u8>)) -> Vec<String> {
    let flags = parquet_rows(folder, ["query", "response"]);
    let mut bytes = std::fs::read(&flags[1]).unwrap();
    damage(&mut bytes);
    std::fs::write(&flags[1], bytes).unwrap();
    flags
}

const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant: {% endif %}";

fn pair(query: &str, response: &str) -> Value {
    json!({"query": query, "response": response})
}

#[test]
fn the_most_telling_on_ranks_too() {
    check_on_ranks(&[
        Case {
            name: "a template that does not parse",
            setup: |folder| template(folder, "Question: {{ query }}\n{% if response %}\n{{ response }}"),
            says: &["own.jinja", "line "],
        },
        Case {
            name: "a template that fails on a row",
            setup: |folder| {
                let refuses =
                    "{{ query }}\n{% if 'Weng' in query %}{{ raise_exception('no Weng here') }}{% endif %}";
                template(folder, &format!("{refuses}{{{{ response }}}}"))
            },
            says: &["own.jinja", "line 2", "no Weng here", "row 2"],
        },
        Case {
            name: "rows of mixed schemas",
            setup: |folder| {
                let pairs = [pair("a", "b"), pair("c", "d")];
                rows(folder, &[&pairs[..], &chat_rows(&demo_rows("train.json", 1))].concat())
            },
            says: &["mixed schemas", "row 3 (line 3)", "`messages`", "a question and its answer"],
        },
        Case {
            name: "an unknown role",
            setup: |folder| {
                let odd = chat_row(&[("user", "a"), ("human", "b")]);
                chat(folder, PLAIN, &[chat_row(&[("user", "a"), ("assistant", "b")]), odd])
            },
            says: &["rows.jsonl", "row 2 (line 2)", "message 2", "`human`", "assistant"],
        },
        Case {
            name: "conversations without a chat template",
            setup: |folder| rows(folder, &chat_rows(&demo_rows("train.json", 2))),
            says: &["configs/demo/model", "no chat template", "--template"],
        },
        Case {
            name: "a Parquet file without the column",
            setup: |folder| parquet_rows(folder, ["question", "answer"]),
            says: &["rows.parquet", "`query`", "`question`, `answer`", "--query-field"],
        },
    ]);
}

#[test]
fn templates() {
    check(&[
        Case {
            name: "no such template",
            setup: |folder| flag("--template", &folder.join("none.jinja")),
            says: &["none.jinja"],
        },
        Case {
            name: "a template that is a folder",
            setup: |folder| flag("--template", folder),
            says: &["cannot read template"],
        },
        Case {
            name: "a template that is no text",
            setup: |folder| {
                let path = folder.join("own.jinja");
                std::fs::write(&path, b"{{ query }}\n\xff\xfe").unwrap();
                flag("--template", &path)
            },
            says: &["own.jinja", "line 2", "UTF-8"],
        },
        Case {
            name: "an expression without an end",
            setup: |folder| template(folder, "\n\nQuestion: {{ query }\n{{ response }}"),
            says: &["own.jinja", "line 3"],
        },
        Case {
            name: "an unknown tag",
            setup: |folder| template(folder, "{{ query }}\n\n{% sing %}{{ response }}"),
            says: &["own.jinja", "line 3", "sing"],
        },
        Case {
            name: "a field that no row has",
            setup: |folder| template(folder, "{{ query }}\n{{ answer }}"),
            says: &["own.jinja", "line 2", "row 1"],
        },
        Case {
            name: "a template that writes nothing",
            setup: |folder| {
                let nothing = template(folder, "{% set x = query %}{% set y = response %} \n");
                [nothing, flags(["--train-on", "all"])].concat()
            },
            says: &["own.jinja", "empty", "row 1"],
        },
        Case {
            name: "a template that never ends",
            setup: |folder| {
                let nine = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}";
                template(folder, &format!("{nine}x{}{{{{ response }}}}", "{% endfor %}".repeat(3)))
            },
            says: &["own.jinja", "row 1"],
        },
        Case {
            name: "an answer that is not printed",
            setup: |folder| template(folder, "Question: {{ query }}"),
            says: &["own.jinja", "does not print the answer", "row 1", "--train-on all", "generation"],
        },
        Case {
            name: "an answer that is changed",
            setup: |folder| template(folder, "{{ query }}: {{ response | length }} {{ response | upper }}"),
            says: &["own.jinja", "does not tell which part", "row 1", "--train-on all"],
        },
        Case {
            name: "a chat template that does not parse",
            setup: |folder| {
                chat(folder, "{% for m in messages %}\n{{ m. }}{% endfor %}", &[chat_row(&[("user", "a")])])
            },
            says: &["tokenizer_config.json", "line 2"],
        },
        Case {
            name: "a chat template that refuses a turn",
            setup: |folder| {
                let text = "{% for m in messages %}{% if m.role == 'system' %}\
                    {{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}\n{% endfor %}";
                let rows = [
                    chat_row(&[("user", "a"), ("assistant", "b")]),
                    chat_row(&[("system", "s"), ("user", "a"), ("assistant", "b")]),
                ];
                chat(folder, text, &rows)
            },
            says: &["tokenizer_config.json", "System role not supported", "row 2"],
        },
        Case {
            name: "a chat template whose answers cannot be told",
            setup: |folder| {
                let text =
                    "{{ messages | length }} messages: {% for m in messages %}{{ m.content }}\n{% endfor %}";
                chat(folder, text, &[chat_row(&[("user", "a"), ("assistant", "b")])])
            },
            says: &[
                "tokenizer_config.json",
                "does not tell which part",
                "message 2",
                "row 1",
                "--train-on all",
            ],
        },
        Case {
            name: "a chat template that is a number",
            setup: |folder| {
                let flags = chat(folder, "", &[chat_row(&[("user", "a")])]);
                let config = folder.join("model/tokenizer_config.json");
                edit_json(&config, |config| config["chat_template"] = 7.into());
                flags
            },
            says: &["tokenizer_config.json", "`chat_template`"],
        },
        Case {
            name: "the official text of conversations",
            setup: |folder| {
                let flags = chat(folder, PLAIN, &chat_rows(&demo_rows("train.json", 2)));
                [flags, vec!["--template".to_owned(), "official".to_owned()]].concat()
            },
            says: &["official template", "`messages`"],
        },
    ]);
}

#[test]
fn conversations() {
    check(&[
        Case {
            name: "messages that are a text",
            setup: |folder| chat(folder, PLAIN, &[json!({"messages": "hello"})]),
            says: &["row 1 (line 1)", "`messages` is a text, not a list"],
        },
        Case {
            name: "messages that are none",
            setup: |folder| chat(folder, PLAIN, &[chat_row(&[("user", "a")]), json!({"messages": []})]),
            says: &["row 2 (line 2)", "`messages` is an empty list"],
        },
        Case {
            name: "a message that is a text",
            setup: |folder| chat(folder, PLAIN, &[json!({"messages": ["hello"]})]),
            says: &["row 1", "message 1 is a text, not an object"],
        },
        Case {
            name: "a content that is a number",
            setup: |folder| chat(folder, PLAIN, &[json!({"messages": [{"role": "user", "content": 7}]})]),
            says: &["row 1", "message 1 has `content` that is a number"],
        },
        Case {
            name: "a content in parts",
            setup: |folder| {
                let parts = json!([{"type": "text", "text": "hello"}]);
                chat(folder, PLAIN, &[json!({"messages": [{"role": "user", "content": parts}]})])
            },
            says: &["row 1", "message 1 has `content` in parts", "only text"],
        },
        Case {
            name: "a content that is null",
            setup: |folder| chat(folder, PLAIN, &[json!({"messages": [{"role": "user", "content": null}]})]),
            says: &["row 1", "message 1", "`content`", "null"],
        },
        Case {
            name: "a message without a role",
            setup: |folder| chat(folder, PLAIN, &[json!({"messages": [{"content": "hello"}]})]),
            says: &["row 1", "message 1 has no `role`"],
        },
        Case {
            name: "a conversation, then a question",
            setup: |folder| chat(folder, PLAIN, &[chat_row(&[("user", "a")]), pair("a", "b")]),
            says: &["mixed schemas", "row 2 (line 2)"],
        },
        Case {
            name: "nobody answers",
            setup: |folder| chat(folder, PLAIN, &[chat_row(&[("user", "a")]), chat_row(&[("user", "b")])]),
            says: &["no row of the data", "to learn", "--show-samples"],
        },
        Case {
            name: "nobody answers in what is held out",
            setup: |folder| {
                let flags = chat(folder, PLAIN, &chat_rows(&demo_rows("train.json", 2)));
                let path = folder.join("held-out.jsonl");
                write_lines(&path, &[chat_row(&[("user", "a")])]);
                [flags, flag("--eval-data", &path)].concat()
            },
            says: &["no row of the held-out data", "to learn"],
        },
    ]);
}

#[test]
fn rows_and_fields() {
    check(&[
        Case {
            name: "a field that the rows do not have",
            setup: |_| flags(["--query-field", "frage"]),
            says: &["train.json", "row 1", "`frage` is missing", "--query-field"],
        },
        Case {
            name: "one field for both",
            setup: |_| flags(["--query-field", "response"]),
            says: &["query-field", "`response`"],
        },
        Case {
            name: "a split that is no share and no number",
            setup: |_| flags(["--validation-split", "1.5"]),
            says: &["validation split is 1.5"],
        },
        Case {
            name: "a split that takes all rows",
            setup: |_| flags(["--validation-split", "24"]),
            says: &["validation split of 24", "the training data", "24 rows"],
        },
        Case {
            name: "a split that takes no row",
            setup: |_| flags(["--validation-split", "0.01"]),
            says: &["validation split of 0.01", "the held-out data", "24 rows"],
        },
        Case {
            name: "a split below zero",
            setup: |_| flags(["--validation-split", "-0.5"]),
            says: &["validation-split", "-0.5"],
        },
        Case {
            name: "held out twice",
            setup: |_| flags(["--validation-split", "0.5", "--eval-data", "configs/demo/heldout.json"]),
            says: &["validation-split 0.5", "eval-data configs/demo/heldout.json"],
        },
        Case {
            name: "held-out rows without the field",
            setup: |folder| {
                let path = folder.join("held-out.jsonl");
                write_lines(&path, &[json!({"question": "a", "response": "b"})]);
                flag("--eval-data", &path)
            },
            says: &["held-out.jsonl", "row 1", "`query` is missing"],
        },
        Case {
            name: "something else to train on",
            setup: |_| flags(["--train-on", "questions"]),
            says: &["questions", "responses"],
        },
        Case {
            name: "no samples to show",
            setup: |_| flags(["--show-samples", "0"]),
            says: &["show-samples", "0"],
        },
        Case {
            name: "samples of a template that does not parse",
            setup: |folder| [template(folder, "{{ query"), flags(["--show-samples", "2"])].concat(),
            says: &["own.jinja", "line 1"],
        },
    ]);
}

#[test]
fn parquet_files() {
    check(&[
        Case {
            name: "a footer that was cut off",
            setup: |folder| damaged_parquet(folder, |bytes| bytes.truncate(bytes.len() / 2)),
            says: &["rows.parquet", "Parquet", "damaged"],
        },
        Case {
            name: "nothing but the first bytes",
            setup: |folder| damaged_parquet(folder, |bytes| bytes.truncate(4)),
            says: &["rows.parquet", "Parquet", "damaged"],
        },
        Case {
            name: "pages that are noise",
            setup: |folder| {
                damaged_parquet(folder, |bytes| {
                    let noise = (1..bytes.len() - 600).map(|i| (i * 37 % 251) as u8).collect::<Vec<_>>();
                    bytes[4..4 + noise.len()].copy_from_slice(&noise);
                })
            },
            says: &["rows.parquet", "Parquet", "damaged"],
        },
        Case {
            name: "a footer that is noise",
            setup: |folder| {
                damaged_parquet(folder, |bytes| {
                    let end = bytes.len() - 8;
                    bytes[end - 100..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
                })
            },
            says: &["rows.parquet", "Parquet", "damaged"],
        },
        Case {
            name: "a column of numbers",
            setup: |folder| {
                let path = folder.join("rows.parquet");
                let schema = "message rows { required binary query (UTF8); required int64 response; }";
                let columns = [parquet::Column::texts(["a", "b"]), parquet::Column::numbers(&[1, 2])];
                parquet::write(&path, schema, &columns);
                flag("--data", &path)
            },
            says: &["rows.parquet", "row 1", "`response` is a number, not a text"],
        },
        Case {
            name: "messages that are a text",
            setup: |folder| {
                let path = folder.join("rows.parquet");
                let schema = "message rows { required binary messages (UTF8); }";
                parquet::write(&path, schema, &[parquet::Column::texts(["a", "b"])]);
                flag("--data", &path)
            },
            says: &["rows.parquet", "row 1", "`messages` is a text, not a list"],
        },
        Case {
            name: "a table without rows",
            setup: |folder| {
                let path = folder.join("rows.parquet");
                write_pairs(&path, &[], ["query", "response"]);
                flag("--data", &path)
            },
            says: &["rows.parquet", "no rows"],
        },
    ]);
}

/// `train` has no default for what is one's own.
#[test]
fn without_model_or_data() {
    let data = ["--data", "configs/demo/train.json"];
    let model = ["--model", "configs/demo/model"];
    for (args, says) in
        [(&data[..], "train needs --model"), (&model[..], "train needs --data"), (&[], "train needs --model")]
    {
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            let folder = scratch();
            let mut command = command(ranks, &[&["train"], args].concat());
            command.arg("--output").arg(folder.path().join("out"));
            let outcome = crate::harness::Running::start(command).finish();
            check_message(&format!("{args:?} on {ranks:?}"), &outcome, 2, &[says]);
            assert!(snapshot(folder.path()).is_empty(), "{args:?}");
        }
    }
}

/// A step all of whose rows teach nothing would divide by zero in the middle of a run: it is found at the start.
#[test]
fn a_step_without_a_label() {
    let folder = scratch();
    let mut conversations = chat_rows(&demo_rows("train.json", 8));
    conversations.insert(5, chat_row(&[("user", "nobody answers")]));
    let mut settings = chat(folder.path(), PLAIN, &conversations);
    settings.extend(flags(["--no-shuffle", "--micro-batch-size", "1", "--epochs", "1"]));
    let with = |more: &[&'static str]| -> Vec<String> {
        settings.iter().cloned().chain(more.iter().map(|flag| (*flag).to_owned())).collect()
    };
    let train = |name: &str, ranks, more: &[&'static str]| {
        let flags = with(more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Running::start(own_training(ranks, &folder.path().join(name), &flags)).finish()
    };
    let alone = train("out", Ranks::Mpi(2), &["--accumulation-steps", "1", "--max-steps", "9"]);
    check_message("a step without a label", &alone, 2, &["step 6", "--accumulation-steps"]);
    assert!(!folder.path().join("out").exists());
    let together = train("fine", Ranks::Alone, &["--accumulation-steps", "3", "--max-steps", "3"]);
    together.expect_code(0).expect_text("1 of 9 rows");
}
