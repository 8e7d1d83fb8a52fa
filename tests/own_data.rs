//! `train` on rows of one's own: every format, fields, templates, what is trained on, held-out rows, and a look at
//! what the model will see.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{
    DemoModel, Ranks, Running, chat_row, demo_rows, edit_json, held_out, killed_after, metrics, own_training,
    read_json, refused, scratch, snapshot, thetas, train, train_own, write_chats, write_json, write_lines,
    write_pairs, write_template,
};

/// A chat template over the demo tokenizer's special tokens.
const CHAT: &str = "{% for message in messages %}{{ '<|begin_of_text|>' + message.role + '\n' + message.content + \
    '<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|begin_of_text|>assistant\n' }}{% endif %}";

/// The same text, with the answers marked by the template.
const MARKED: &str = "{% for message in messages %}{{ '<|begin_of_text|>' + message.role + '\n' }}\
    {% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|end_of_text|>' }}\
    {% endgeneration %}{{ '\n' }}{% else %}{{ message.content + '<|end_of_text|>\n' }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|begin_of_text|>assistant\n' }}{% endif %}";

/// The official text of a question and its answer.
const OFFICIAL: &str = "Question: {{ query | trim }}\nAnswer: {{ response | trim }}";

/// A scratch folder with a chat model and training and held-out rows in it.
struct Own {
    folder: tempfile::TempDir,
    model: DemoModel,
}

impl Own {
    fn new(chat_template: &str) -> Self {
        let folder = scratch();
        let model = DemoModel::copy_to(folder.path());
        edit_json(&model.file("tokenizer_config.json"), |config| {
            config["chat_template"] = chat_template.into()
        });
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path as a flag's value.
    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Trains on `data`, with this model, into the folder `output`.
    fn train(&self, ranks: Ranks, output: &str, data: &str, more: &[&str]) -> PathBuf {
        let (model, data) = (self.model.folder.to_str().unwrap(), self.text(data));
        let output = self.path(output);
        train_own(ranks, &output, &[&["--model", model, "--data", &data], more].concat());
        output
    }
}

/// The held-out loss was measured before and after, and fell by more than rounding.
#[track_caller]
fn check_falls(output: &Path) {
    let losses = held_out(output);
    let [(0, before), (steps, after)] = losses[..] else { panic!("{}: {losses:?}", output.display()) };
    assert_eq!(steps as usize, thetas(output).len());
    assert!(after < before - 0.01, "{}: {before} → {after}", output.display());
}

/// Questions and answers as JSON lines, JSON and Parquet are one training; so are conversations.
#[test]
fn every_format_lowers_the_held_out_loss() {
    let own = Own::new(CHAT);
    let (rows, others) = (demo_rows("train.json", 24), demo_rows("heldout.json", 8));
    let fields = ["query", "response"];
    for name in ["rows.jsonl", "rows.parquet"] {
        write_pairs(&own.path(name), &rows, fields);
        write_pairs(&own.path(&format!("held-out-{name}")), &others, fields);
    }
    for name in ["chat.jsonl", "chat.parquet"] {
        write_chats(&own.path(name), &rows);
        write_chats(&own.path(&format!("held-out-{name}")), &others);
    }
    let eval = |name: &str| own.text(&format!("held-out-{name}"));
    let run = |ranks: Ranks, name: &str| {
        let output = own.train(ranks, &format!("{name} {ranks:?}"), name, &["--eval-data", &eval(name)]);
        check_falls(&output);
        (thetas(&output), held_out(&output))
    };
    for kind in ["rows", "chat"] {
        let lines = run(Ranks::Alone, &format!("{kind}.jsonl"));
        assert_eq!(run(Ranks::Mpi(2), &format!("{kind}.parquet")), lines, "{kind}");
    }
    // The format is told from the content, and an array of rows is one more.
    let array: Vec<Value> = std::fs::read_to_string(own.path("chat.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    write_json(&own.path("chat.txt"), &array);
    let output = own.train(Ranks::Alone, "array", "chat.txt", &[]);
    assert_eq!(thetas(&output), thetas(&own.path("chat.jsonl Alone")));
}

#[test]
fn a_validation_split_is_held_out() {
    let own = Own::new(CHAT);
    write_pairs(&own.path("rows.jsonl"), &demo_rows("train.json", 24), ["query", "response"]);
    let flags = ["--validation-split", "0.25", "--eval-steps", "2"];
    let output = own.train(Ranks::Alone, "share", "rows.jsonl", &flags);
    let losses = held_out(&output);
    assert_eq!(losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 2, 4, 6]);
    assert!(losses[3].1 < losses[0].1 - 0.01, "{losses:?}");
    assert_eq!(read_json(&output.join("run.json"))["rows"], 18);
    // A number of rows is the same split, and ranks measure the same loss.
    let flags = ["--validation-split", "6", "--eval-steps", "2"];
    let ranks = own.train(Ranks::Mpi(2), "rows", "rows.jsonl", &flags);
    assert_eq!((thetas(&ranks), held_out(&ranks)), (thetas(&output), losses));
}

#[test]
fn fields_may_have_other_names() {
    let own = Own::new(CHAT);
    let rows = demo_rows("train.json", 24);
    write_pairs(&own.path("plain.jsonl"), &rows, ["query", "response"]);
    let expected = thetas(&own.train(Ranks::Alone, "plain", "plain.jsonl", &[]));
    let flags = ["--query-field", "frage", "--response-field", "antwort"];
    for name in ["named.jsonl", "named.parquet"] {
        write_pairs(&own.path(name), &rows, ["frage", "antwort"]);
        assert_eq!(thetas(&own.train(Ranks::Alone, &format!("of {name}"), name, &flags)), expected, "{name}");
    }
}

#[test]
fn a_template_writes_the_text() {
    let own = Own::new(CHAT);
    write_pairs(&own.path("rows.jsonl"), &demo_rows("train.json", 24), ["query", "response"]);
    let official = write_template(own.folder.path(), "official.jinja", OFFICIAL);
    let short = write_template(own.folder.path(), "short.jinja", "{{ query }}\n=> {{ response }}");
    for train_on in ["responses", "all"] {
        let run = |name: &str, template: &str| {
            let flags = ["--train-on", train_on, "--template", template, "--validation-split", "4"];
            own.train(Ranks::Alone, &format!("{name} {train_on}"), "rows.jsonl", &flags)
        };
        let built_in = run("built in", "official");
        let file = run("file", official.to_str().unwrap());
        assert_eq!(thetas(&file), thetas(&built_in), "{train_on}");
        let other = run("short", short.to_str().unwrap());
        assert_ne!(thetas(&other)[0], thetas(&built_in)[0], "{train_on}");
        check_falls(&other);
    }
}

/// `metamath` is `train` on everything, with the official text.
#[test]
fn what_is_trained_on() {
    let folder = scratch();
    let run = |name: &str, flags: &[&str]| {
        let output = folder.path().join(name);
        train_own(Ranks::Alone, &output, flags);
        output
    };
    let (all, responses) = (run("all", &["--train-on", "all"]), run("responses", &[]));
    let metamath = folder.path().join("metamath");
    train(Ranks::Alone, &metamath, &[]);
    assert_eq!(thetas(&all), thetas(&metamath));
    assert_ne!(thetas(&all)[0], thetas(&responses)[0]);
    let metamath = folder.path().join("metamath-responses");
    train(Ranks::Alone, &metamath, &["--train-on", "responses"]);
    assert_eq!(thetas(&responses), thetas(&metamath));
}

/// Where the answers are: marked by the template, or found by us; in conversations, or in questions and answers that
/// the chat template writes as such.
#[test]
fn answers_are_found_where_a_template_would_mark_them() {
    let (found, marked) = (Own::new(CHAT), Own::new(MARKED));
    let rows = demo_rows("train.json", 24);
    for own in [&found, &marked] {
        write_chats(&own.path("chat.jsonl"), &rows);
        write_pairs(&own.path("rows.jsonl"), &rows, ["query", "response"]);
    }
    let expected = thetas(&found.train(Ranks::Alone, "chat", "chat.jsonl", &[]));
    assert_eq!(thetas(&marked.train(Ranks::Alone, "chat", "chat.jsonl", &[])), expected);
    let pairs = found.train(Ranks::Alone, "pairs", "rows.jsonl", &["--template", "chat"]);
    assert_eq!(thetas(&pairs), expected);
    let all = found.train(Ranks::Alone, "all", "chat.jsonl", &["--train-on", "all"]);
    assert_ne!(thetas(&all)[0], expected[0]);
}

/// The settings of one's own data are part of a run that is killed and taken up again, on another number of ranks.
#[test]
fn a_killed_run_goes_on() {
    let own = Own::new(MARKED);
    let rows = demo_rows("train.json", 24);
    write_chats(&own.path("chat.parquet"), &rows);
    write_pairs(&own.path("rows.jsonl"), &rows, ["frage", "antwort"]);
    let short = write_template(own.folder.path(), "short.jinja", "{{ frage }}\n=> {{ antwort }}");
    let fields = ["--query-field", "frage", "--response-field", "antwort"];
    let split = ["--validation-split", "0.2", "--eval-steps", "2"];
    let template = ["--template", short.to_str().unwrap()];
    for (data, flags) in [
        ("chat.parquet", split.to_vec()),
        ("rows.jsonl", [&fields[..], &template, &split, &["--train-on", "all"]].concat()),
    ] {
        let whole = own.train(Ranks::Alone, &format!("whole {data}"), data, &flags);
        let output = format!("killed {data}");
        let (model, text) = (own.model.folder.to_str().unwrap(), own.text(data));
        let all = [&["--model", model, "--data", &text], &flags[..]].concat();
        killed_after(Ranks::Mpi(2), 3, &own.path(&output), &all);
        let resumed = own.train(Ranks::Alone, &output, data, &flags);
        assert_eq!(thetas(&resumed), thetas(&whole), "{data}");
        assert_eq!(held_out(&resumed), held_out(&whole), "{data}");
    }
}

#[test]
fn changed_settings_are_refused() {
    let own = Own::new(CHAT);
    let rows = demo_rows("train.json", 24);
    write_pairs(&own.path("rows.jsonl"), &rows, ["query", "response"]);
    let short = write_template(own.folder.path(), "short.jinja", "{{ query }}\n=> {{ response }}");
    let short = short.to_str().unwrap();
    let (model, data, output) =
        (own.model.folder.to_str().unwrap(), own.text("rows.jsonl"), own.path("output"));
    let base = ["--model", model, "--data", &data];
    killed_after(Ranks::Alone, 2, &output, &base);
    let check = |ranks: Ranks, flags: &[&str], says: &[&str]| {
        refused(ranks, &output, &[&base, flags].concat(), &[&["other settings"], says].concat());
    };
    let template = format!("template: none → {short}");
    for (flags, says) in [
        (&["--template", short][..], &template[..]),
        (&["--template", "chat"], "template: none → chat"),
        (&["--train-on", "all"], "train-on: responses → all"),
        (&["--query-field", "response", "--response-field", "query"], "query-field: query → response"),
        (&["--validation-split", "4"], "validation-split: none → 4"),
    ] {
        check(Ranks::Alone, flags, &[says, "content of the data"]);
    }
    let flags = ["--template", short, "--train-on", "all"];
    check(Ranks::Mpi(2), &flags, &[&template, "train-on: responses → all"]);
    // Another text from the same file is other data.
    let output = own.path("of a file");
    let flags = [&base[..], &["--template", short]].concat();
    killed_after(Ranks::Alone, 2, &output, &flags);
    write_template(own.folder.path(), "short.jinja", "{{ query }}\n-> {{ response }}");
    refused(Ranks::Alone, &output, &flags, &["content of the data"]);
    write_template(own.folder.path(), "short.jinja", "{{ query }}\n=> {{ response }}");
    train_own(Ranks::Alone, &output, &flags);
}

/// What stands between the marks of a row's line, without the separators of tokens.
fn marked(line: &str) -> Vec<String> {
    let parts = line.split('⟦').skip(1).map(|part| part.split_once('⟧').expect("a closing mark").0);
    parts.map(|part| part.replace('·', "")).collect()
}

/// The lines that show rows, by their number: those after `row N:`.
fn shown(stdout: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = stdout.lines().collect();
    let is_row = |line: &str| line.starts_with("row ");
    let pairs = lines.windows(2).filter(|pair| is_row(pair[0]));
    pairs.map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

#[test]
fn samples_show_what_is_trained_on() {
    let own = Own::new(CHAT);
    let rows = demo_rows("train.json", 5);
    write_pairs(&own.path("rows.jsonl"), &rows, ["query", "response"]);
    let turns =
        [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"), ("assistant", "4")];
    write_lines(&own.path("chat.jsonl"), &[chat_row(&turns), chat_row(&turns[1..3])]);
    let before = snapshot(own.folder.path());
    let model = own.model.folder.to_str().unwrap();
    let show = |ranks: Ranks, data: &str, more: &[&str]| {
        let data = own.text(data);
        let flags = ["--model", model, "--data", &data, "--max-seq-length", "512"];
        let all = [&flags, more].concat();
        let outcome = Running::start(own_training(ranks, &own.path("output"), &all)).finish().expect_code(0);
        assert_eq!(outcome.stderr.trim(), "", "{more:?}");
        assert_eq!(snapshot(own.folder.path()), before, "{more:?}");
        shown(&outcome.stdout)
    };
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let seen = show(ranks, "rows.jsonl", &["--show-samples", "3"]);
        assert_eq!(seen.len(), 3, "{ranks:?}");
        for (number, (head, line)) in seen.iter().enumerate() {
            assert!(head.starts_with(&format!("row {}: ", number + 1)), "{head}");
            let [query, response] = &rows[number];
            // The space before an answer goes with it where the two are one token.
            let answer = format!("{}<|end_of_text|>", response.replace('\n', "\\n"));
            let found: Vec<String> = marked(line).iter().map(|text| text.trim_start().to_owned()).collect();
            assert_eq!(found, [answer]);
            let text = line.replace(['·', '⟦', '⟧'], "");
            assert!(text.contains(query) && !marked(line)[0].contains("Answer:"), "{line}");
            let counts: Vec<usize> = head.split(' ').filter_map(|word| word.parse().ok()).collect();
            assert_eq!(counts[0], line.split('·').count(), "{head}");
            assert_eq!(counts[1], line.split_once('⟦').unwrap().1.split('·').count(), "{head}");
        }
    }
    // More than there are, and what `all` means.
    let seen = show(Ranks::Alone, "rows.jsonl", &["--show-samples", "9", "--train-on", "all"]);
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|(_, line)| line.starts_with("<|begin_of_text|>·⟦")), "{seen:?}");
    // Every answer of a conversation, closed by its token.
    let seen = show(Ranks::Alone, "chat.jsonl", &["--show-samples", "3"]);
    assert_eq!(seen.len(), 2);
    assert_eq!(marked(&seen[0].1), ["2<|end_of_text|>", "4<|end_of_text|>"]);
    assert_eq!(marked(&seen[1].1), ["2<|end_of_text|>"]);
}

/// A look into a folder with a run changes nothing there.
#[test]
fn samples_leave_a_run_alone() {
    let folder = scratch();
    let output = folder.path().join("output");
    train_own(Ranks::Alone, &output, &["--max-steps", "1"]);
    assert_eq!(metrics(&output).len(), 1);
    let before = snapshot(folder.path());
    train_own(Ranks::Alone, &output, &["--show-samples", "1"]).expect_text("row 1: ");
    assert_eq!(snapshot(folder.path()), before);
}
