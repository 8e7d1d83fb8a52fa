//! Settings as they are given: `SECTION.KEY VALUE` pairs, presets and several of them, and where each value comes
//! from.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Outcome, Ranks, Running, alone, check_message, command, read_json, refused, scratch, snapshot, thetas,
    train, train_own, training,
};

/// `config ARGS --json`: values and origins by key.
fn config(args: &[&str]) -> Value {
    let outcome = alone(&[&["config"], args, &["--json"]].concat()).expect_code(0);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[track_caller]
fn check(listing: &Value, key: &str, value: impl Into<Value>, from: &str) {
    let (value, entry) = (value.into(), &listing[key]);
    let same = entry["value"] == value || entry["value"].as_f64().is_some_and(|x| value.as_f64() == Some(x));
    assert!(same, "{key}: {entry}, not {value}");
    assert!(entry["from"].as_str().unwrap().contains(from), "{key}: {entry}, not from {from}");
}

#[test]
fn overrides_are_settings() {
    let folder = scratch();
    let (pairs, flags) = (folder.path().join("pairs"), folder.path().join("flags"));
    let words = [
        "adapter.d",
        "128",
        "training.lr",
        "1e-3",
        "training.batch_size",
        "3",
        "adapter.proj_seed",
        "-3",
        "training.max-steps",
        "2",
        "data.no_shuffle",
        "true",
    ];
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let output = pairs.join(format!("{ranks:?}"));
        train_own(ranks, &output, &words);
        let settings = read_json(&output.join("run.json"))["config"].clone();
        assert_eq!((&settings["d"], &settings["learning-rate"]), (&128.into(), &1e-3.into()));
        assert_eq!((&settings["micro-batch-size"], &settings["proj-seed"]), (&3.into(), &(-3).into()));
        assert_eq!(read_json(&output.join("adapter_config.json"))["d"], 128);
        assert_eq!(read_json(&output.join("adapter_config.json"))["proj_seed"], -3);
    }
    let named = ["--d", "128", "--lr", "1e-3", "--micro-batch-size", "3", "--proj-seed", "-3"];
    train_own(Ranks::Alone, &flags, &[&named[..], &["--max-steps", "2", "--no-shuffle"]].concat());
    assert_eq!(thetas(&flags), thetas(&pairs.join("Alone")));
    assert_eq!(thetas(&flags), thetas(&pairs.join("Mpi(2)")));
}

#[test]
fn overrides_that_cannot_be_used() {
    let folder = scratch();
    let output = folder.path().join("output");
    for (words, says) in [
        (&["adapter.dd", "4"][..], &["\"adapter.dd\"", "adapter.d"][..]),
        (&["training.learnin_rate", "1"], &["\"training.learnin_rate\"", "training.learning-rate"]),
        (&["training.d", "4"], &["\"training.d\"", "did you mean adapter.d"]),
        (&["trainig.lr", "4"], &["\"trainig.lr\"", "training"]),
        (&["adapter.colour", "red"], &["\"adapter.colour\"", "config metamath"]),
        (&["lr", "1e-3"], &["\"lr\"", "SECTION.KEY VALUE"]),
        (&["adapter.d"], &["adapter.d", "nothing", "adapter.d VALUE"]),
        (&["adapter.d", "128", "training.lr"], &["training.lr VALUE"]),
        (&["adapter.d", "many"], &["d cannot be \"many\"", "override adapter.d"]),
        (&["adapter.d", "1.5"], &["d cannot be \"1.5\""]),
        (&["training.lr", "-1"], &["learning-rate cannot be \"-1\"", "override training.lr"]),
        (&["adapter.isometric", "maybe"], &["isometric", "maybe"]),
        (&["adapter.partition_scope", "layer"], &["partition-scope", "transformer_block"]),
        (&["adapter.d", "128", "--d", "64"], &["d is set twice", "\"--d\"", "\"adapter.d\""]),
        (&["training.lr", "1", "training.learning_rate", "1"], &["learning-rate is set twice"]),
        (&["files.preset", "demo", "files.preset", "demo"], &["set twice"]),
    ] {
        refused(Ranks::Alone, &output, words, says);
    }
    refused(Ranks::Mpi(2), &output, &["adapter.dd", "4"], &["\"adapter.dd\"", "adapter.d"]);
}

/// Every value that the official script would not have comes with the place that gave it.
#[test]
fn the_official_preset() {
    let listing = config(&["metamath", "--preset", "official"]);
    for (key, value) in [("assignment-backend", "materialized"), ("dtype", "bfloat16"), ("report-to", "none")]
    {
        check(&listing, key, value, "preset official, ");
        assert!(listing[key]["from"].as_str().unwrap().contains("official.toml:"), "{}", listing[key]);
    }
    check(&listing, "model", "mistralai/Mistral-7B-v0.1", "default of metamath");
    check(&listing, "data", "meta-math/MetaMathQA", "default of metamath");
    check(&listing, "train-on", "all", "default of metamath");
    check(&listing, "d", 524288, "default");
    check(&listing, "learning-rate", 2e-4, "default");
}

/// Presets with the official hyperparameters, each also behind `official`.
#[test]
fn presets_of_models() {
    for (preset, model, d) in [
        ("llama-3.1-8b", "Llama-3.1-8B", 524_288),
        ("qwen2.5-0.5b", "Qwen2.5-0.5B", 131_072),
        ("qwen2.5-3b", "Qwen2.5-3B", 524_288),
        ("qwen2.5-7b", "Qwen2.5-7B", 524_288),
        ("gemma-7b", "gemma-7b", 524_288),
        ("mistral-7b", "Mistral-7B-v0.1", 524_288),
    ] {
        let listing = config(&["metamath", "--preset", &format!("official,{preset}"), "--epochs", "1"]);
        let of = format!("preset {preset}, ");
        check(&listing, "model", model, &of);
        check(&listing, "d", d, &of);
        for (key, value) in [
            ("learning-rate", json!(2e-4)),
            ("warmup-ratio", json!(0.05)),
            ("weight-decay", json!(0.01)),
            ("max-grad-norm", json!(1.0)),
            ("dropout", json!(0.05)),
            ("micro-batch-size", json!(2)),
            ("accumulation-steps", json!(8)),
            ("max-seq-length", json!(2048)),
            ("lr-scheduler-type", json!("cosine")),
            ("target-modules", json!(["q_proj", "k_proj", "v_proj", "o_proj"])),
        ] {
            check(&listing, key, value, &of);
        }
        check(&listing, "assignment-backend", "materialized", "preset official, ");
        check(&listing, "epochs", 1.0, "flag --epochs");
        check(&config(&["metamath", "--preset", preset]), "assignment-backend", "stateless", "default");
    }
}

/// The listing for people has a line a setting.
#[test]
fn config_says_where_each_value_comes_from() {
    let folder = scratch();
    let before = snapshot(folder.path());
    let preset = ["config", "metamath", "--preset", "official,llama-3.1-8b"];
    let shown = alone(&[&preset[..], &["--output-root-dir", folder.path().to_str().unwrap()]].concat());
    let shown = shown.expect_code(0).stdout;
    let line = |key: &str| {
        let found: Vec<&str> = shown.lines().filter(|line| line.split(' ').next() == Some(key)).collect();
        let [line] = found[..] else { panic!("{key}: {found:?}") };
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert!(line("model").starts_with("Llama-3.1-8B preset llama-3.1-8b, "), "{}", line("model"));
    assert!(line("assignment-backend").starts_with("materialized preset official, "));
    assert!(line("dtype").starts_with("bfloat16 preset llama-3.1-8b, "), "{}", line("dtype"));
    assert_eq!(line("seed"), "42 default");
    assert_eq!(line("train-on"), "all default of metamath");
    assert_eq!(line("global-batch-size"), "16 from micro-batch-size × accumulation-steps");
    assert!(line("output").ends_with("from output-root-dir and the run's name"));
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn layers_lie_over_one_another() {
    let folder = scratch();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("first.toml", "d = 100\nseed = 1\nepochs = 3\ntemplate = \"own.jinja\"\n");
    write("second.toml", "d = 200\nbias = \"all\"\n");
    write("file.toml", "seed = 2\nmodel = \"m\"\ndata = \"rows.json\"\n");
    let file = folder.path().join("file.toml");
    let resolved = |presets: &str, words: &[&str]| -> Outcome {
        let args = ["config", "train", "--json", "--preset", presets, "--config", file.to_str().unwrap()];
        let mut command = command(Ranks::Alone, &[&args[..], words].concat());
        command.env("GPART_CONFIGS", folder.path()).env("GPART_EPOCHS", "4").env("GPART_PROJ_SEED", "9");
        Running::start(command).finish()
    };
    let outcome =
        resolved("first,second", &["--proj-seed", "10", "adapter.init_bound", "0.5"]).expect_code(0);
    let listing: Value = serde_json::from_str(&outcome.stdout).unwrap();
    check(&listing, "d", 200, "preset second, ");
    check(&listing, "bias", "all", "second.toml:2");
    check(&listing, "seed", 2, "file.toml:1");
    check(&listing, "epochs", 4.0, "environment variable GPART_EPOCHS");
    check(&listing, "proj-seed", 10, "flag --proj-seed");
    check(&listing, "init-bound", 0.5, "override adapter.init_bound");
    check(&listing, "train-on", "responses", "default");
    // Paths are relative to the file that has them.
    check(&listing, "data", folder.path().join("rows.json").to_str().unwrap(), "file.toml:3");
    check(&listing, "template", folder.path().join("own.jinja").to_str().unwrap(), "first.toml:4");
    let outcome = resolved("second,first", &[]).expect_code(0);
    check(&serde_json::from_str(&outcome.stdout).unwrap(), "d", 100, "preset first, ");
    for (presets, says) in
        [("first,thrid", "\"thrid\""), ("first,", "\"\""), ("first, second", "\" second\"")]
    {
        check_message(presets, &resolved(presets, &[]), 2, &["no preset is called", says, "presets: "]);
    }
}

/// `config` of `train` names what is missing, and unknown keys as a run would.
#[test]
fn config_refuses_what_a_run_would_refuse() {
    let whole = ["config", "train", "--model", "m", "--data", "rows.json"];
    alone(&whole).expect_code(0);
    for (args, says) in [
        (&whole[..4], "train needs --data"),
        (&["config", "train"][..], "train needs --model"),
        (&[&whole[..], &["adapter.dd", "1"]].concat(), "\"adapter.dd\""),
        (&[&whole[..], &["--preset", "oficial"]].concat(), "\"oficial\""),
        (&[&whole[..], &["--gropuing-strategy", "random"]].concat(), "--grouping-strategy"),
        (
            &[&whole[..], &["--grouping-strategy", "signed_magnitude", "--assignment-backend", "stateless"]]
                .concat(),
            "signed_magnitude",
        ),
    ] {
        check_message(&format!("{args:?}"), &alone(args), 2, &[says]);
    }
}

/// The official choices, on the demo model.
#[test]
fn a_run_with_the_official_preset() {
    let folder = scratch();
    let (preset, spelt) = (folder.path().join("preset"), folder.path().join("spelt"));
    let steps = ["--max-steps", "2"];
    train(Ranks::Alone, &preset, &[&["--preset", "official"], &steps[..]].concat());
    assert!(!preset.join("tensorboard").exists());
    let adapter = read_json(&preset.join("adapter_config.json"));
    assert_eq!(adapter["assignment_backend"], "materialized");
    let same = ["--assignment-backend", "materialized", "--bf16", "--report-to", "none"];
    train(Ranks::Mpi(2), &spelt, &[&same[..], &steps].concat());
    assert_eq!(thetas(&spelt), thetas(&preset));
}

/// Ours is not the official default: a start that nobody chose it for says so, once.
#[test]
fn the_start_says_which_partition_it_is() {
    let said = |ranks: Ranks, folder: &Path, flags: &[&str]| {
        let flags = [&["--max-steps", "1"], flags].concat();
        let outcome = Running::start(training(ranks, &folder.join("output"), &flags)).finish().expect_code(0);
        outcome.stdout.matches("--preset official").count()
    };
    // With rows of one's own there is no official way.
    let own = train_own(Ranks::Alone, &scratch().path().join("output"), &["--max-steps", "1"]);
    assert!(own.stdout.contains("partition stateless, seed 42") && !own.stdout.contains("--preset official"));
    for (flags, times) in [
        (&[][..], 1),
        (&["--assignment-backend", "stateless"], 0),
        (&["--preset", "official"], 0),
        (&["--grouping-strategy", "signed_magnitude"], 0),
    ] {
        assert_eq!(said(Ranks::Alone, scratch().path(), flags), times, "{flags:?}");
    }
    assert_eq!(said(Ranks::Mpi(2), scratch().path(), &[]), 1);
}

/// Where there is no GPU, asking for one says what is in the way, once, and does nothing.
#[test]
fn a_gpu_that_is_not_there_is_named() {
    if Path::new("/proc/driver/nvidia").exists() {
        return;
    }
    let folder = scratch();
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let output = folder.path().join("out");
        let outcome = Running::start(training(ranks, &output, &["--device", "cuda"])).finish();
        check_message("no GPU", &outcome, 2, &["libtorch", "--device cpu"]);
        assert!(!output.exists());
    }
}
