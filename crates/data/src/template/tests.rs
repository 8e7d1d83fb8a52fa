#![allow(clippy::unwrap_used)]
use miette::Diagnostic as _;
use serde_json::{Map, json};

use super::*;
use crate::testing::chat_tokenizer;
use crate::{BuildOptions, Dataset, Row, Rows};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/templates");

/// Rows of conversations, given as JSON.
fn chat_rows(messages: &Value, fields: &Value) -> Rows {
    let mut row = fields.as_object().cloned().unwrap_or_else(Map::new);
    row.insert("messages".into(), messages.clone());
    let options = crate::RowOptions { keep_fields: true, ..Default::default() };
    crate::rows_from_bytes(Path::new("rows.json"), Value::from(row).to_string().into_bytes(), &options)
        .unwrap()
}

fn build(rows: &Rows, tokenizer: &Tokenizer, template: &Template, train_on: TrainOn) -> Result<Dataset> {
    let options = BuildOptions { max_seq_length: 10_000, train_on };
    Dataset::build(rows, tokenizer, template, &options, None, &|_, _| {}, 1)
}

fn text(template: &str) -> Template {
    Template::from_text(Path::new("my.jinja"), template).unwrap()
}

fn check_error<T: std::fmt::Debug>(result: Result<T>, code: &str, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), format!("input::{code}"), "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(error.help().is_some());
}

/// The rendered text of the first row, and its parts that are trained on.
fn render(rows: &Rows, template: &Template, train_on: TrainOn) -> Result<(String, Option<Vec<String>>)> {
    let tokenizer = chat_tokenizer();
    let Form::Jinja(jinja) = &template.0 else { panic!() };
    let renderer = Renderer::new(jinja, rows.schema(), train_on, &tokenizer)?;
    let Text { text, spans } = renderer.render(&rows.as_slice()[0], &|| rows.place(0))?;
    let spans = spans.map(|spans| spans.into_iter().map(|span| text[span].to_owned()).collect());
    Ok((text, spans))
}

/// The cases were rendered by Jinja2 3.1.6, set up as transformers sets it up.
#[test]
fn equals_jinja2() {
    let cases = std::fs::read(Path::new(FOLDER).join("cases.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let tokenizer = chat_tokenizer();
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 21);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let template = Template::from_file(&Path::new(FOLDER).join(format!("{name}.jinja"))).unwrap();
        let rows = chat_rows(&case["messages"], &case["fields"]);
        let Some(expect) = case["text"].as_str() else {
            let result = build(&rows, &tokenizer, &template, TrainOn::All);
            check_error(result, "template_failed", case["error"].as_str().unwrap());
            continue;
        };
        assert_eq!(render(&rows, &template, TrainOn::All).unwrap(), (expect.to_owned(), None), "{name}");
        let all = build(&rows, &tokenizer, &template, TrainOn::All).unwrap();
        let ids = tokenizer.encode(expect).unwrap();
        assert_eq!(all.example(0).ids, ids);
        assert_eq!(all.example(0).supervised, [[0, ids.len() as u32]]);
        let responses = build(&rows, &tokenizer, &template, TrainOn::Responses);
        let Some(answers) = case["answers"].as_array() else {
            check_error(responses, "template_span", "rows.json`, row 1");
            continue;
        };
        let answers: Vec<String> = answers.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
        assert_eq!(
            render(&rows, &template, TrainOn::Responses).unwrap().1.as_ref(),
            Some(&answers),
            "{name}"
        );
        let responses = responses.unwrap();
        assert_eq!(responses.example(0).ids, ids);
        let learnt = tokenizer.pieces(responses.example(0)).into_iter().filter(|piece| piece.is_supervised);
        let learnt: Vec<u8> = learnt.flat_map(|piece| piece.bytes).collect();
        assert_eq!(String::from_utf8(learnt).unwrap(), answers.concat(), "{name}");
    }
}

#[test]
fn a_question_and_its_answer_make_a_conversation() {
    let source = std::fs::read_to_string(Path::new(FOLDER).join("chatml.jinja")).unwrap();
    let json = json!({"chat_template": source});
    let template = Template::chat_from_json(Path::new("c"), json.to_string().as_bytes()).unwrap().unwrap();
    let rows = Rows::new(vec![Row::pair("q", "r")]).unwrap();
    let (text, spans) = render(&rows, &template, TrainOn::Responses).unwrap();
    assert!(text.ends_with("user\nq<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n"), "{text}");
    assert_eq!(spans, Some(vec!["r<|im_end|>".to_owned()]));
}

/// Renders a row with the question "the question" and this answer.
fn check_pair(template: &str, answer: &str, expect: &str, learnt: &[&str]) {
    let rows = Rows::new(vec![Row::pair("the question", answer)]).unwrap();
    let (text, spans) = render(&rows, &text(template), TrainOn::Responses).unwrap();
    assert_eq!(
        (&text[..], spans.unwrap().iter().map(|s| &s[..]).collect::<Vec<_>>()),
        (expect, learnt.to_vec())
    );
    assert_eq!(render(&rows, &self::text(template), TrainOn::All).unwrap(), (text, None));
}

#[test]
fn finds_the_answer_in_a_text() {
    check_pair("Q: {{ query }}\nA: {{ response }}", "r", "Q: the question\nA: r", &["r"]);
    check_pair("{{ response }}", " r ", " r ", &["r "]);
    check_pair("[{{ response | trim }}]", " r\n", "[r]", &["r]"]);
    check_pair("[{{ response.strip() }}]", " r\n", "[r]", &["r]"]);
    check_pair("[{{ response | upper }}]", "r", "[R]", &["R]"]);
    check_pair("{{ query }}:{{ response }}", "", "the question:", &[""]);
    check_pair("{{ response }}<|im_end|>\n", "r", "r<|im_end|>", &["r<|im_end|>"]);
    check_pair("{{ response }}<|im_end|>\n\n", "r", "r<|im_end|>\n", &["r<|im_end|>"]);
    check_pair("{{ response }} {{ query }} {{ response }}.", "r", "r the question r.", &["r", "r."]);
    check_pair(
        "a{% generation %}b{{ query }}{% endgeneration %}c",
        "r",
        "abthe questionc",
        &["bthe question"],
    );
    let rows = Rows::new(vec![Row::pair("q", "r")]).unwrap();
    for lost in [
        "{{ query }}",
        "{{ response | reverse }}x",
        "{{ response | length }}",
        "{{ query[response | length:] }}x",
    ] {
        check_error(render(&rows, &text(lost), TrainOn::Responses), "template_span", "row 1");
        assert!(render(&rows, &text(lost), TrainOn::All).is_ok());
    }
}

#[test]
fn fields_of_a_row_are_at_hand() {
    let json = br#"{"prompt":"p","completion":"c","level":3,"tags":["a","b"],"extra":null}"#;
    let options = crate::RowOptions {
        query_field: "prompt".into(),
        response_field: "completion".into(),
        keep_fields: true,
        ..Default::default()
    };
    let rows = crate::rows_from_bytes(Path::new("rows.json"), json.to_vec(), &options).unwrap();
    let check = |template: &str, expect: &str| {
        assert_eq!(render(&rows, &text(template), TrainOn::All).unwrap().0, expect);
    };
    check("{{ prompt }}{{ query }}{{ completion }}{{ response }}", "ppcc");
    check("{{ level }} {{ tags | join('+') }} {{ extra }}{{ eos_token }}", "3 a+b None<|end_of_text|>");
    check("{% if missing %}x{% endif %}{{ query }}{{ unk }}".trim_end_matches("{{ unk }}"), "p");
    // A misspelt field must not vanish without a word.
    check_error(
        render(&rows, &text("a\n{{ Level }}"), TrainOn::All),
        "template_failed",
        "line 2: undefined value",
    );
}

fn plain_rows(json: &Value, options: crate::RowOptions) -> Rows {
    let options = crate::RowOptions { any_fields: true, ..options };
    crate::rows_from_bytes(Path::new("rows.json"), json.to_string().into_bytes(), &options).unwrap()
}

#[test]
fn plain_fields_are_offered_as_they_are() {
    let alpaca = json!({"instruction": "a", "input": "", "output": "c", "n": [1]});
    let rows = plain_rows(&alpaca, Default::default());
    let source = "{{ instruction }}{% if input %}+{{ input }}{% endif %}={{ output }}{{ n }}";
    assert_eq!(render(&rows, &text(source), TrainOn::All).unwrap(), ("a=c[1]".to_owned(), None));
    let marked = text("{{ instruction }}={% generation %}{{ output }}{% endgeneration %}.");
    let learnt = render(&rows, &marked, TrainOn::Responses).unwrap();
    assert_eq!(learnt, ("a=c.".to_owned(), Some(vec!["c".to_owned()])));
    assert_eq!(render(&rows, &marked, TrainOn::All).unwrap(), ("a=c.".to_owned(), None));
    let unmarked = render(&rows, &text(source), TrainOn::Responses);
    check_error(unmarked, "template_span", "no text `response`; it has the fields `instruction`, `input`");
    check_error(render(&rows, &text("{{ query }}"), TrainOn::All), "template_failed", "undefined value");
    // BOS and EOS, as for a question and its answer.
    let tokenizer = chat_tokenizer();
    let dataset = build(&rows, &tokenizer, &text("{{ output }}"), TrainOn::All).unwrap();
    let c = tokenizer.encode("c").unwrap()[0];
    assert_eq!((dataset.example(0).ids, dataset.example(0).supervised), (&[0, c, 1][..], &[[1, 3]][..]));
}

#[test]
fn plain_fields_with_an_answer_need_no_marks() {
    let named = crate::RowOptions { response_field: "output".into(), ..Default::default() };
    for (row, options, source) in [
        (
            json!({"instruction": "a", "response": "c"}),
            Default::default(),
            "{{ instruction }}={{ response }}",
        ),
        (json!({"instruction": "a", "output": "c"}), named.clone(), "{{ instruction }}={{ output }}"),
        (json!({"instruction": "a", "output": "c"}), named.clone(), "{{ instruction }}={{ response }}"),
        // The row's own `response` is what it says.
        (json!({"response": "a", "output": "c"}), named, "{{ response }}={{ output }}"),
    ] {
        let rows = plain_rows(&row, options);
        let learnt = render(&rows, &text(source), TrainOn::Responses).unwrap();
        assert_eq!(learnt, ("a=c".to_owned(), Some(vec!["c".to_owned()])), "{row}");
    }
    let number = plain_rows(&json!({"response": 3}), Default::default());
    check_error(render(&number, &text("{{ response }}"), TrainOn::Responses), "template_span", "no text");
    assert_eq!(render(&number, &text("{{ response }}"), TrainOn::All).unwrap().0, "3");
}

#[test]
fn plain_fields_are_not_for_official_and_chat_templates() {
    let rows = plain_rows(&json!({"instruction": "a", "output": "c"}), Default::default());
    let source = json!({"chat_template": "{{ messages[0].content }}"}).to_string();
    let chat = Template::chat_from_json(Path::new("c"), source.as_bytes()).unwrap().unwrap();
    for (template, needs) in [
        (
            Template::official(false),
            "the official template needs the fields `query`, `response`; the row has the",
        ),
        (
            chat,
            "the chat template needs the fields `query`, `response`, or `messages`; the row has the fields `ins",
        ),
    ] {
        let error = build(&rows, &chat_tokenizer(), &template, TrainOn::All).unwrap_err();
        assert!(
            error.help().unwrap().to_string().contains("--query-field instruction --response-field output")
        );
        check_error::<()>(Err(error), "template_fields", &format!("rows.json`, row 1: {needs}"));
    }
}

#[test]
fn swapped_names_do_not_swap_the_texts() {
    let options = crate::RowOptions {
        query_field: "response".into(),
        response_field: "query".into(),
        ..Default::default()
    };
    let json = br#"{"response":"question","query":"answer"}"#;
    let rows = crate::rows_from_bytes(Path::new("rows.json"), json.to_vec(), &options).unwrap();
    let learnt = render(&rows, &text("{{ query }}={{ response }}"), TrainOn::Responses).unwrap();
    assert_eq!(learnt, ("question=answer".to_owned(), Some(vec!["answer".to_owned()])));
}

#[test]
fn bos_and_eos_are_added_where_the_text_lacks_them() {
    let tokenizer = chat_tokenizer();
    let rows = Rows::new(vec![Row::pair("q", "r")]).unwrap();
    let ids = |template: &str, train_on| {
        let dataset = build(&rows, &tokenizer, &text(template), train_on).unwrap();
        (dataset.example(0).ids.to_vec(), dataset.example(0).supervised.to_vec())
    };
    let [q, r] = ["q", "r"].map(|text| tokenizer.encode(text).unwrap()[0]);
    let expect = |supervised: &[[u32; 2]]| (vec![0, q, r, 1], supervised.to_vec());
    for template in [
        "{{ query }}{{ response }}",
        "{{ bos_token }}{{ query }}{{ response }}",
        "{{ query }}{{ response }}{{ eos_token }}",
        "{{ bos_token }}{{ query }}{{ response }}<|end_of_text|>",
    ] {
        assert_eq!(ids(template, TrainOn::All), expect(&[[1, 4]]), "{template}");
        assert_eq!(ids(template, TrainOn::Responses), expect(&[[2, 4]]), "{template}");
    }
    // White space may follow a closing token.
    let (ids, supervised) = ids("{{ response }}{{ eos_token }} ", TrainOn::Responses);
    assert_eq!((&ids[..3], ids.len(), &supervised[..]), (&[0, r, 1][..], 4, &[[1, 3]][..]));
}

#[test]
fn names_what_is_wrong_with_a_template() {
    let parse = |source: &str| Template::from_text(Path::new("my.jinja"), source);
    for (source, line) in [
        ("a\n{% if x %}", 2),
        ("{{ x", 1),
        ("a\n\n{% generation %}", 3),
        ("{% endgeneration %}", 1),
        ("a\n{% nonsense %}", 2),
    ] {
        check_error(parse(source), "template_invalid", &format!("template `my.jinja`, line {line}: "));
    }
    let dir = tempfile::tempdir().unwrap();
    check_error(Template::from_file(&dir.path().join("none")), "template_unreadable", "none");
    check_error(Template::from_file(dir.path()), "template_unreadable", "cannot read template");
    let path = dir.path().join("latin1");
    std::fs::write(&path, b"a\ncaf\xe9").unwrap();
    check_error(Template::from_file(&path), "template_invalid", "line 2: the text is not UTF-8");
    let rows = Rows::new(vec![Row::pair("", " ")]).unwrap();
    check_error(render(&rows, &text("{{ query }}\n{{ response }}"), TrainOn::All), "template_empty", "row 1");
    for (source, problem) in [
        ("{{ raise_exception('my words') }}", "line 1: my words"),
        ("\n{{ query.nonsense() }}", "line 2: unknown method"),
        ("{{ strftime_now('%Q') }}", "unknown format"),
        ("{{ missing.field }}", "undefined"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "fuel"),
    ] {
        check_error(render(&rows, &text(source), TrainOn::All), "template_failed", problem);
    }
    let chat = chat_rows(&json!([{"role": "user", "content": "u"}]), &json!({}));
    let tokenizer = chat_tokenizer();
    check_error(
        build(&chat, &tokenizer, &Template::official(false), TrainOn::All),
        "template_rows",
        "messages",
    );
}

#[test]
fn answers_whose_place_cannot_be_told() {
    let turns = |roles: &[&str]| {
        let messages = roles.iter().map(|role| json!({"role": role, "content": "x"}));
        chat_rows(&messages.collect(), &json!({}))
    };
    let check = |template: &str, roles: &[&str], problem: &str| {
        let result = render(&turns(roles), &text(template), TrainOn::Responses);
        check_error(result, "template_span", problem);
        assert!(render(&turns(roles), &text(template), TrainOn::All).is_ok());
    };
    let two = ["user", "assistant"];
    check("{% for m in messages | reverse %}{{ m.role }}{% endfor %}", &two, "up to message 2");
    check("{{ messages | length }}{{ messages[0].content }}", &two, "up to message 2");
    check("{{ messages[0]['role'] }}{% if messages[1]['role'] %}{% endif %}", &two, "before message 2");
    // Inside of another one, which a macro can do although the tags themselves do not lie in one another.
    let nested = "{% macro m() %}{% generation %}a{% endgeneration %}{% endmacro %}\
                  {% generation %}{{ m() }}{% endgeneration %}";
    check_error(
        render(&turns(&two), &text(nested), TrainOn::Responses),
        "template_span",
        "do not follow one another",
    );
    // Marked by the template, nothing needs to be found.
    let marked =
        "{% for m in messages | reverse %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}";
    let (_, spans) = render(&turns(&two), &text(marked), TrainOn::Responses).unwrap();
    assert_eq!(spans.unwrap(), ["assistant", "user"]);
}

#[test]
fn finds_the_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let source = |template: Template| match template.0 {
        Form::Jinja(jinja) => jinja.source,
        Form::Official { .. } => panic!(),
    };
    let find = || Template::chat(dir.path());
    check_error(find(), "chat_template_missing", "has no chat template");
    write("tokenizer_config.json", r#"{"bos_token":"x","chat_template":null}"#);
    check_error(find(), "chat_template_missing", "has no chat template");
    write("chat_template.json", r#"{"chat_template":"legacy"}"#);
    assert_eq!(source(find().unwrap()), "legacy");
    write("tokenizer_config.json", r#"{"chat_template":"plain"}"#);
    assert_eq!(source(find().unwrap()), "plain");
    let list = r#"{"chat_template":[{"name":"tool_use","template":"a"},{"name":"default","template":"b"}]}"#;
    write("tokenizer_config.json", list);
    assert_eq!(source(find().unwrap()), "b");
    write("chat_template.jinja", "file\n");
    assert_eq!(source(find().unwrap()), "file\n");
    write("chat_template.jinja", "{% if %}");
    check_error(find(), "template_invalid", "chat_template.jinja");
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    for bad in [
        "",
        "{",
        r#"{"chat_template":3}"#,
        r#"{"chat_template":[]}"#,
        r#"{"chat_template":[3]}"#,
        r#"{"chat_template":[{"name":"default"}]}"#,
        r#"{"chat_template":[{"name":"rag","template":"x"}]}"#,
    ] {
        write("tokenizer_config.json", bad);
        check_error(find(), "tokenizer_invalid", "tokenizer_config.json");
    }
    write("tokenizer_config.json", r#"{"chat_template":"{{"}"#);
    check_error(find(), "template_invalid", "tokenizer_config.json");
}

#[test]
fn the_clock_stands_still_unless_set() {
    let rows = Rows::new(vec![Row::pair("q", "r")]).unwrap();
    let template = text("{{ strftime_now('%d %b %Y') }}");
    assert_eq!(render(&rows, &template, TrainOn::All).unwrap().0, "26 Jul 2024");
    assert_eq!(render(&rows, &template.clone().with_clock(0), TrainOn::All).unwrap().0, "01 Jan 1970");
    check_error(
        render(&rows, &template.with_clock(i64::MAX), TrainOn::All),
        "template_failed",
        "out of range",
    );
}

proptest::proptest! {
    #[test]
    fn any_template_is_refused_or_used(parts in proptest::collection::vec(
        proptest::sample::select(vec!["{%", "%}", "{{", "}}", "{#", "#}", "-", " generation ", " endgeneration ", "raw",
            "endraw", "if ", "endif", "for x in messages", "endfor", "query", "response", "'", "\"", "\\", "\n", "é",
            "set x = ", "[x]", "|tojson", "macro m()", "endmacro", "m()", "0", "*", "~", "(", ")", "with", "endwith"]),
        0..24)) {
        if let Ok(template) = Template::from_text(Path::new("t"), &parts.concat()) {
            let rows = Rows::new(vec![Row::pair("q", "r")]).unwrap();
            let _ = render(&rows, &template, TrainOn::Responses);
        }
    }

    #[test]
    fn an_answer_is_found_whatever_it_is(query in ".*", answer in ".*") {
        let rows = Rows::new(vec![Row::pair(&query[..], &answer[..])]).unwrap();
        let template = text("Q: {{ query }}\nA: {{ response }}<|im_end|>");
        let (_, spans) = render(&rows, &template, TrainOn::Responses).unwrap();
        let core = crate::prompt::strip(&answer);
        let start = if core.is_empty() { 0 } else { answer.find(core).unwrap() };
        proptest::prop_assert_eq!(spans.unwrap(), [format!("{}<|im_end|>", &answer[start..])]);
    }
}

/// Found by looking at what fuzzing might find: each took gigabytes, minutes, or the whole stack.
#[test]
fn templates_that_grow_without_end_are_stopped() {
    let grow = |step: &str, times: &str, end: &str| {
        format!(
            "{{% set n = namespace(x=['abcdefgh']) %}}{{% for i in range(99999) %}}{{% for j in range({times}) %}}\
             {{% set n.x = {step} %}}{{% endfor %}}{{% endfor %}}{end}"
        )
    };
    let once =
        |step: &str, end: &str| grow(step, "40", &format!("{end}{{{{ response }}}}")).replace("99999", "1");
    let rows = Rows::new(vec![Row::pair("q", "r")]).unwrap();
    for (source, problem) in [
        (once("[n.x[0] ~ n.x[0]]", ""), "fuel"),
        (once("[n.x, n.x]", "{{ n.x }}"), "too long to be printed"),
        (once("[n.x, n.x]", "{{ n.x | tojson }}"), "too long to be printed"),
        ("{{ '%03000000000d' | format(1) }}".to_owned(), "fuel"),
    ] {
        check_error(
            build(&rows, &chat_tokenizer(), &text(&source), TrainOn::All),
            "template_failed",
            problem,
        );
    }
}

/// What the guards against such templates must let through.
#[test]
fn long_conversations_are_rendered() {
    let content = "four words a line\n".repeat(100);
    let turn = |i| {
        let role = if i % 2 == 0 { "user" } else { "assistant" };
        json!({"role": role, "content": content})
    };
    let messages: Value = (0..2000).map(turn).collect();
    let rows = chat_rows(&messages, &json!({}));
    for name in ["chatml", "headers", "inst", "turns"] {
        let template = Template::from_file(&Path::new(FOLDER).join(format!("{name}.jinja"))).unwrap();
        let (text, _) = render(&rows, &template, TrainOn::All).unwrap();
        assert!(text.len() > 2000 * 100, "{name}: {} bytes", text.len());
    }
}
