//! `random-model`: what it writes is a model.

use std::path::Path;

use serde_json::json;

use crate::harness::{
    Outcome, Ranks, alone, check_message, edit_json, losses, read_json, repository, scratch, snapshot, train,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn demo_model() -> String {
    text(&repository().join("configs/demo/model")).to_owned()
}

/// `random-model` of the demo's shape, or of what `more` names.
fn make(output: &Path, more: &[&str]) -> Outcome {
    let demo = demo_model();
    let shaped = more.iter().any(|flag| ["--shape", "--config"].contains(flag));
    let shape: &[&str] = if shaped { &[] } else { &["--config", &demo] };
    alone(&[&["random-model", "--tokenizer", &demo, "--output", text(output)], shape, more].concat())
}

#[test]
fn it_trains() {
    let folder = scratch();
    let model = folder.path().join("model");
    // A fraction of the demo's 3.5 MB a file.
    let said = make(&model, &["--shard-gib", "0.001"]).expect_code(0);
    said.expect_text("1,771,200 parameters in bfloat16");
    assert!(model.join("model-00002-of-00004.safetensors").is_file(), "{:?}", snapshot(&model).keys());
    assert_eq!(read_json(&model.join("config.json"))["dtype"], "bfloat16");
    alone(&["inspect", "model", text(&model)]).expect_code(0);
    let run = folder.path().join("run");
    train(Ranks::Alone, &run, &["--model", text(&model), "--max-steps", "2"]);
    // Nothing is learned yet: every token is about as likely as any other.
    let vocabulary = read_json(&model.join("config.json"))["vocab_size"].as_f64().unwrap();
    let first = losses(&run)[0];
    assert!((first - vocabulary.ln()).abs() < 1.0, "loss {first} of {vocabulary} tokens");
}

#[test]
fn the_seed_decides() {
    let folder = scratch();
    let path = |name: &str| folder.path().join(name);
    for (name, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        make(&path(name), &["--seed", seed]).expect_code(0);
    }
    assert_eq!(snapshot(&path("a")), snapshot(&path("b")));
    let weights = Path::new("model-00001-of-00001.safetensors");
    assert_ne!(snapshot(&path("a"))[weights], snapshot(&path("c"))[weights]);
}

/// Every family's norms and biases are what they are before a training.
#[test]
fn every_family_trains() {
    for family in ["gemma", "mistral", "qwen2", "llama31"] {
        let folder = scratch();
        let config = folder.path().join("config.json");
        let golden = repository().join("tests/golden/architectures").join(family).join("base/config.json");
        std::fs::copy(golden, &config).unwrap();
        let rows = read_json(&Path::new(&demo_model()).join("config.json"))["vocab_size"].clone();
        edit_json(&config, |value| value["vocab_size"] = rows);
        let model = folder.path().join("model");
        make(&model, &["--config", text(&config)]).expect_code(0);
        train(Ranks::Alone, &folder.path().join("run"), &["--model", text(&model), "--max-steps", "1"]);
    }
}

#[test]
fn what_is_refused() {
    let folder = scratch();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("full")).unwrap();
    std::fs::write(path("full/notes.txt"), "mine").unwrap();
    std::fs::write(path("bad.json"), "{").unwrap();
    std::fs::copy(Path::new(&demo_model()).join("config.json"), path("range.json")).unwrap();
    edit_json(&path("range.json"), |value| value["initializer_range"] = json!(-1));
    std::fs::copy(Path::new(&demo_model()).join("config.json"), path("huge.json")).unwrap();
    edit_json(&path("huge.json"), |value| value["vocab_size"] = json!(8_000_000));
    edit_json(&path("huge.json"), |value| value["hidden_size"] = json!(8_000_000));
    let out = path("out");
    let [bad, range, huge, gone] = ["bad.json", "range.json", "huge.json", "gone"].map(path);
    let cases: [(&str, &Path, &[&str], &[&str]); 9] = [
        ("unknown shape", &out, &["--shape", "Llama-9"], &["'Llama-9'", "Qwen2.5-0.5B", "gemma-7b"]),
        ("no shape", &out, &["--shape", ""], &["''", "Mistral-7B-v0.1"]),
        ("garbled", &out, &["--config", text(&bad)], &["bad.json"]),
        ("missing", &out, &["--config", text(&gone)], &["gone"]),
        ("deviation", &out, &["--config", text(&range)], &["initializer_range", "-1"]),
        ("too large", &out, &["--config", text(&huge)], &["bytes are free", text(&out)]),
        ("full", &path("full"), &[], &["full", "notes.txt"]),
        ("a file", &path("bad.json"), &[], &["bad.json", "a file"]),
        ("no tokenizer", &out, &["--tokenizer", text(folder.path())], &["tokenizer.json"]),
    ];
    let before = snapshot(folder.path());
    for (name, output, flags, says) in cases {
        let outcome = match name {
            "no tokenizer" => {
                let args = ["random-model", "--config", &demo_model(), "--output", text(output)];
                alone(&[&args[..], flags].concat())
            }
            _ => make(output, flags),
        };
        check_message(name, &outcome, 2, says);
        assert_eq!(snapshot(folder.path()), before, "{name}: files were changed");
    }
    for gib in ["0", "-1", "nan", "much"] {
        let shard = format!("--shard-gib={gib}");
        assert_eq!(make(&out, &[&shard]).code, Some(2), "{gib}");
    }
}
