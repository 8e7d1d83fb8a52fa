//! `eval`: the same answers on any ranks, in any batch, after any kill; what is wrong is said.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{
    DemoModel, Mount, Outcome, Ranks, Running, check_message, command, edit_json, read_json, repository,
    scratch, snapshot, train,
};

/// The first problems of the demo's sample, of which some rows end by a token and some by their length.
const FEW: [&str; 4] = ["--max-samples", "12", "--max-new-tokens", "40"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sample() -> PathBuf {
    repository().join("configs/demo/gsm8k_sample.jsonl")
}

fn eval_args(dataset: &str, data: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let own = ["eval", "--dataset", dataset, "--data", text(data), "--output", text(output)];
    own.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

/// The demo model on its sample.
fn demo_args(output: &Path, more: &[&str]) -> Vec<String> {
    let model = ["--model", "configs/demo/model"];
    eval_args("gsm8k", &sample(), output, &[&model[..], more].concat())
}

fn run(ranks: Ranks, args: &[String]) -> Outcome {
    Running::start(command(ranks, args)).finish()
}

/// Runs to the end and gives the file, without the key that says how many rows a batch had.
fn results(ranks: Ranks, args: &[String], output: &Path) -> Value {
    run(ranks, args).expect_code(0);
    assert!(!partial(output).exists(), "what was finished is in the file");
    let mut value = read_json(output);
    value.as_object_mut().unwrap().remove("batch_size").unwrap();
    value
}

/// The folder of what is finished.
fn partial(output: &Path) -> PathBuf {
    output.with_file_name(format!("{}.partial", output.file_name().unwrap().to_str().unwrap()))
}

/// Problems that are finished so far.
fn finished(output: &Path) -> usize {
    let entries = std::fs::read_dir(partial(output)).into_iter().flatten().flatten();
    let lines = entries.map(|entry| {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        bytes.windows(2).filter(|pair| *pair == b"}\n").count()
    });
    lines.sum()
}

fn check_answers(adapter: Option<&Path>, dtype: &str) -> Value {
    let folder = scratch();
    let adapter: Vec<&str> = adapter.iter().flat_map(|path| ["--adapter", text(path)]).collect();
    let of = |name: &str, ranks, batch: &str| {
        let output = folder.path().join(name);
        let more = [&adapter[..], &FEW, &["--dtype", dtype, "--batch-size", batch]].concat();
        results(ranks, &demo_args(&output, &more), &output)
    };
    let expected = of("alone", Ranks::Alone, "8");
    assert_eq!(of("one", Ranks::Alone, "1"), expected, "batch 1");
    assert_eq!(of("four", Ranks::Alone, "4"), expected, "batch 4");
    assert_eq!(of("three", Ranks::Mpi(3), "4"), expected, "3 ranks");
    assert_eq!(of("two", Ranks::Mpi(2), "3"), expected, "2 ranks");
    expected
}

fn completions(results: &Value) -> Vec<&str> {
    let all = results["predictions"].as_array().unwrap();
    all.iter().map(|answer| answer["completion"].as_str().unwrap()).collect()
}

#[test]
fn answers_do_not_depend_on_ranks_or_batch() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    train(Ranks::Alone, &adapter, &["--learning-rate", "0.02"]);
    let base = check_answers(None, "float32");
    let adapted = check_answers(Some(&adapter), "float32");
    assert_ne!(completions(&base), completions(&adapted), "the adapter says something else");
    let half = check_answers(Some(&adapter), "bfloat16");
    assert_ne!(completions(&base), completions(&half));

    let merged = folder.path().join("merged");
    let args = ["merge", "--adapter", text(&adapter), "--output", text(&merged), "--dtype", "float32"];
    Running::start(command(Ranks::Alone, &args)).finish().expect_code(0);
    let output = folder.path().join("merged.json");
    let more = [&["--model", text(&merged)][..], &FEW].concat();
    let of_merged = results(Ranks::Alone, &eval_args("gsm8k", &sample(), &output, &more), &output);
    assert_eq!(completions(&of_merged), completions(&adapted), "merged or laid over: the same model");
}

/// The official keys, in the official order, before ours.
#[test]
fn the_file_has_the_official_keys() {
    let folder = scratch();
    let output = folder.path().join("new/folder/results.json");
    let more = ["--max-samples", "3", "--max-new-tokens", "16", "--system-prompt", "Be brief.\n"];
    let said = run(Ranks::Alone, &demo_args(&output, &more)).expect_code(0);
    let value = read_json(&output);
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let official = "backend prompt_format dataset accuracy total_evaluated invalid_outputs_count invalid_outputs \
        predictions adapter_path model_path effective_model_path system_prompt used_training_system_prompt \
        start_index end_index max_samples batch_size max_new_tokens gpu_memory_utilization max_model_len dtype \
        tensor_parallel_size";
    assert_eq!(keys[..22], official.split_whitespace().collect::<Vec<_>>());
    let first = &value["predictions"][0];
    let keys: Vec<&str> = first.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..6], ["question", "prompt", "completion", "prediction", "ground_truth", "correct"]);
    let question = first["question"].as_str().unwrap();
    assert_eq!(first["prompt"], format!("Be brief.\nQuestion: {question}\nAnswer:"));
    assert_eq!(first["ground_truth"], 18);
    let right =
        value["predictions"].as_array().unwrap().iter().filter(|answer| answer["correct"] == true).count();
    assert_eq!(value["accuracy"], right as f64 / 3.0);
    assert_eq!((&value["total_evaluated"], &value["dataset"]), (&3.into(), &"gsm8k".into()));
    // Few problems are shown one by one.
    said.expect_text("problem 2: ").expect_text("accuracy");
}

#[test]
fn a_killed_evaluation_goes_on_to_the_same_file() {
    let folder = scratch();
    let more = ["--max-samples", "40", "--max-new-tokens", "60", "--batch-size", "3"];
    let whole = folder.path().join("whole.json");
    run(Ranks::Alone, &demo_args(&whole, &more)).expect_code(0);
    let expected = std::fs::read(&whole).unwrap();
    let check = |kills: &[(Ranks, usize)], last: Ranks| {
        let output = folder.path().join("killed.json");
        for (ranks, problems) in kills {
            let mut running = Running::start(command(*ranks, &demo_args(&output, &more)));
            assert!(running.until(|| finished(&output) >= *problems), "it ended before the kill");
            running.kill();
            assert!(!output.exists());
        }
        // Half a line, as a kill may leave it, and one that is no line.
        let file = partial(&output).join("rank-000.jsonl");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend(b"not a line\n{\"index\":39,\"completion\":\"torn");
        std::fs::write(&file, bytes).unwrap();
        let before = finished(&output);
        let said = run(last, &demo_args(&output, &more)).expect_code(0);
        said.expect_text(&format!("40 problems, {before} answered before"));
        assert_eq!(std::fs::read(&output).unwrap(), expected, "{kills:?}");
        // Once more: nothing is left to do, and nothing is done.
        run(last, &demo_args(&output, &more)).expect_code(0).expect_text("this evaluation was complete");
        assert_eq!(std::fs::read(&output).unwrap(), expected);
        std::fs::remove_file(&output).unwrap();
    };
    check(&[(Ranks::Alone, 1), (Ranks::Alone, 8)], Ranks::Mpi(2));
    check(&[(Ranks::Mpi(3), 5), (Ranks::Mpi(2), 12), (Ranks::Alone, 20)], Ranks::Alone);
}

#[test]
fn a_signal_stops_it_to_go_on_later() {
    let folder = scratch();
    let output = folder.path().join("results.json");
    let args = demo_args(&output, &["--max-samples", "64", "--max-new-tokens", "400", "--batch-size", "1"]);
    let mut running = Running::start(command(Ranks::Mpi(2), &args));
    assert!(running.until(|| finished(&output) >= 2));
    running.send(libc::SIGUSR1);
    let outcome = running.finish().expect_code(75).expect_text("the same command goes on from there");
    assert!(!output.exists() && finished(&output) >= 2, "{}", outcome.stdout);
}

#[test]
fn two_evaluations_do_not_share_a_file() {
    let folder = scratch();
    let output = folder.path().join("results.json");
    let args = demo_args(&output, &["--max-samples", "64", "--max-new-tokens", "400", "--batch-size", "1"]);
    let mut first = Running::start(command(Ranks::Alone, &args));
    assert!(first.until(|| finished(&output) >= 1));
    let second = run(Ranks::Alone, &args);
    check_message("a second evaluation", &second, 2, &["another evaluation writes", "results.json"]);
    first.kill();
}

#[test]
fn problems_of_math_are_read_and_scored() {
    let folder = scratch();
    let (data, output) = (folder.path().join("math.jsonl"), folder.path().join("results.json"));
    let rows = [
        r#"{"query": "What is a half?", "output": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1"}"#,
        r#"{"query": "What is it?", "output": "Nobody knows.", "level": "Level 5"}"#,
    ];
    std::fs::write(&data, rows.join("\n")).unwrap();
    let more = ["--model", "configs/demo/model", "--max-new-tokens", "8"];
    let value = results(Ranks::Alone, &eval_args("math", &data, &output, &more), &output);
    assert_eq!(value["predictions"][0]["ground_truth"], "\\frac{1}{2}");
    // A row without a reference answer is nobody's right answer.
    assert_eq!(value["predictions"][1]["ground_truth"], Value::Null);
    assert_eq!(value["predictions"][1]["correct"], false);
}

struct Bad {
    name: &'static str,
    /// Makes the bad thing in the folder; flags beside the dataset's, the data's and the output's.
    setup: fn(&Path) -> Vec<String>,
    says: &'static [&'static str],
}

const DEMO: [&str; 2] = ["--model", "configs/demo/model"];

fn demo_with(more: &[&str]) -> Vec<String> {
    DEMO.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

/// Writes rows to `FOLDER/rows.jsonl`; the later --data wins, so this one does.
fn rows(folder: &Path, text: &str) -> Vec<String> {
    let path = folder.join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    demo_with(&["--data", path.to_str().unwrap()])
}

const BAD: [Bad; 12] = [
    Bad {
        name: "no such dataset",
        setup: |_| demo_with(&["--dataset", "aime"]),
        says: &["aime", "--dataset"],
    },
    Bad { name: "no model", setup: |_| Vec::new(), says: &["no model is named", "--model"] },
    Bad {
        name: "no tokenizer",
        setup: |folder| {
            let model = DemoModel::copy_to(folder);
            std::fs::remove_file(model.file("tokenizer.json")).unwrap();
            model.flag()
        },
        says: &["tokenizer.json"],
    },
    Bad {
        name: "no adapter",
        setup: |_| demo_with(&["--adapter", "no/such/adapter"]),
        says: &["no/such/adapter"],
    },
    Bad {
        name: "no data",
        setup: |_| demo_with(&["--data", "no/such/file.jsonl"]),
        says: &["no/such/file.jsonl"],
    },
    Bad {
        name: "a row without a question",
        setup: |folder| {
            rows(folder, "{\"question\": \"a\", \"answer\": \"#### 1\"}\n{\"answer\": \"#### 1\"}\n")
        },
        says: &["row 2", "'question' and 'answer'", "this row has 'answer'"],
    },
    Bad {
        name: "a question that is a number",
        setup: |folder| rows(folder, "{\"question\": 5, \"answer\": \"#### 1\"}\n"),
        says: &["row 1", "'question' and 'answer'"],
    },
    Bad {
        name: "half a file",
        setup: |folder| rows(folder, "{\"question\": \"a\", \"answer\": \"#### 1\"}\n{\"question\": \"b"),
        says: &["rows.jsonl"],
    },
    Bad {
        name: "nothing between start and end",
        setup: |_| demo_with(&["--start", "64"]),
        says: &["no problem is chosen", "has 64", "start is 64"],
    },
    Bad {
        name: "a prompt as long as a row may be",
        setup: |_| demo_with(&["--max-model-len", "20"]),
        says: &["the prompt of problem 0", "20", "--max-model-len"],
    },
    Bad {
        name: "a model shared out as vLLM does",
        setup: |_| demo_with(&["--tensor_parallel_size", "2"]),
        says: &["tensor-parallel-size is 2", "mpirun -n 2"],
    },
    Bad {
        name: "an output that is something else",
        setup: |folder| {
            std::fs::write(folder.join("out.json"), "{\"notes\": \"mine\"}").unwrap();
            demo_with(&[])
        },
        says: &["out.json is there already", "--output"],
    },
];

#[test]
fn what_is_wrong_is_said_once_and_nothing_is_written() {
    for (number, bad) in BAD.iter().enumerate() {
        let folder = scratch();
        let more = (bad.setup)(folder.path());
        let before = snapshot(folder.path());
        let mut args: Vec<String> = vec!["eval".to_owned(), "--output".to_owned()];
        args.push(text(&folder.path().join("out.json")).to_owned());
        for (flag, value) in [("--dataset", "gsm8k"), ("--data", text(&sample()))] {
            if !more.iter().any(|arg| arg == flag) {
                args.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        args.extend(more);
        let ranks = if number.is_multiple_of(4) { Ranks::Mpi(2) } else { Ranks::Alone };
        check_message(bad.name, &run(ranks, &args), 2, bad.says);
        assert_eq!(before, snapshot(folder.path()), "{}: files were changed", bad.name);
    }
}

#[test]
fn another_evaluation_s_file_is_left_alone() {
    let folder = scratch();
    let output = folder.path().join("results.json");
    let few = ["--max-samples", "2", "--max-new-tokens", "4"];
    run(Ranks::Alone, &demo_args(&output, &few)).expect_code(0);
    let before = snapshot(folder.path());
    let other = run(Ranks::Alone, &demo_args(&output, &["--max-samples", "2", "--max-new-tokens", "5"]));
    check_message("other settings", &other, 2, &["holds another evaluation", "max_new_tokens: 4 → 5"]);
    assert_eq!(before, snapshot(folder.path()));

    // A model that has changed under the same name.
    let model = DemoModel::copy_to(folder.path());
    let (data, output) = (sample(), folder.path().join("changed.json"));
    let args = |output: &Path| {
        eval_args("gsm8k", &data, output, &[&["--model", text(&model.folder)][..], &few].concat())
    };
    run(Ranks::Alone, &args(&output)).expect_code(0);
    edit_json(&model.file("config.json"), |config| config["rms_norm_eps"] = 1e-3.into());
    check_message(
        "another model",
        &run(Ranks::Alone, &args(&output)),
        2,
        &["holds another evaluation", "model: "],
    );
}

#[test]
fn an_adapter_of_another_model_is_refused_where_it_says_so() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    train(Ranks::Alone, &adapter, &[]);
    let model = DemoModel::copy_to(folder.path());
    edit_json(&model.file("config.json"), |config| config["rms_norm_eps"] = 1e-3.into());
    let output = folder.path().join("results.json");
    let args = |adapter: &Path| {
        let more = ["--model", text(&model.folder), "--adapter", text(adapter), "--max-samples", "1"];
        eval_args("gsm8k", &sample(), &output, &[&more[..], &["--max-new-tokens", "2"]].concat())
    };
    let refused = run(Ranks::Alone, &args(&adapter));
    check_message("another model", &refused, 2, &["was trained on another model than", "--model"]);
    // The official files say what they were made for by name alone.
    std::fs::remove_file(adapter.join("run.json")).unwrap();
    run(Ranks::Alone, &args(&adapter)).expect_code(0).expect_text("warning: the adapter was made for ");
}

#[test]
fn a_full_disk_fails_and_the_same_command_goes_on() {
    let folder = scratch();
    let Some(disk) = Mount::tmpfs(folder.path().join("disk"), 64) else { return };
    let output = disk.folder.join("results.json");
    let filler = disk.folder.join("filler");
    std::fs::write(&filler, vec![0_u8; 44 << 10]).unwrap();
    let args = demo_args(&output, &["--max-samples", "30", "--max-new-tokens", "60"]);
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        check_message(
            "a full disk",
            &run(ranks, &args),
            1,
            &["cannot write", "the same command goes on"]
                .map(|s| if s.starts_with("the") { "is the disk full" } else { s }),
        );
        assert!(!output.exists());
    }
    std::fs::remove_file(&filler).unwrap();
    disk.remount("size=1m");
    run(Ranks::Alone, &args).expect_code(0);
    assert_eq!(read_json(&output)["total_evaluated"], 30);
}
