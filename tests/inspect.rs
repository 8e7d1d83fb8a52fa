//! `inspect` and `config`.

use serde_json::Value;

use crate::harness::{
    Outcome, Ranks, Running, alone, check_message, checkpoints, command, limited, read_json, repository,
    scratch, thetas, train,
};

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

/// Key for key what torch computed.
#[test]
fn partitions_are_the_official_ones() {
    let cases = read_json(&repository().join("tests/golden/partition/cases.json"));
    let cases = cases["stateless"].as_array().unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let flag = |name: &str| case[name].to_string();
        let outcome = limited(&[
            "inspect",
            "partition",
            "--backend",
            "stateless",
            "--seed",
            &flag("seed"),
            "--d",
            &flag("d"),
            "--start-offset",
            &flag("start_offset"),
            "--numel",
            &flag("numel"),
        ]);
        let found = json(&outcome.expect_code(0));
        for (key, expected) in case.as_object().unwrap() {
            assert_eq!(&found[key], expected, "{key} of {case}");
        }
        assert_eq!(found.as_object().unwrap().len(), case.as_object().unwrap().len(), "{found}");
    }
}

#[test]
fn adapters_checkpoints_and_models() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &[]);
    let theta = Value::from(thetas(&output).pop().unwrap());
    let path = output.to_str().unwrap();

    let adapter = json(&alone(&["inspect", "adapter", path, "--json"]).expect_code(0));
    assert_eq!((&adapter["theta_blake3"], &adapter["d"]), (&theta, &2048.into()));
    assert!(adapter["theta_norm"].as_f64().unwrap() > 0.0);
    alone(&["inspect", "adapter", path]).expect_code(0).expect_text("theta_norm");

    let file = checkpoints(&output).pop().unwrap();
    let checkpoint =
        json(&alone(&["inspect", "checkpoint", file.to_str().unwrap(), "--json"]).expect_code(0));
    assert_eq!(checkpoint["theta_blake3"], theta);
    assert_eq!((&checkpoint["step"], &checkpoint["sound"]), (&6.into(), &true.into()));
    let all = json(&alone(&["inspect", "checkpoint", path, "--json"]).expect_code(0));
    assert_eq!(all.as_object().unwrap().len(), 2);
    let verdict = &all[file.file_name().unwrap().to_str().unwrap()];
    assert_eq!(*verdict, serde_json::json!({"sound": true, "step": 6, "d": 2048}), "{all}");

    let model = json(&alone(&["inspect", "model", "configs/demo/model", "--json"]).expect_code(0));
    assert_eq!(model["parameters"], 1_771_200);
    assert_eq!(model["layers"], 4);
    assert_eq!(model["weights_of_q_k_v_o"], 393_216);
    alone(&["inspect", "model", "configs/demo/model"]).expect_code(0).expect_text("LlamaForCausalLM");
}

#[test]
fn damaged_files_are_named() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &["--max-steps", "2"]);
    let path = output.to_str().unwrap();
    let newest = checkpoints(&output).pop().unwrap();
    std::fs::write(&newest, b"GPARTCK1 and nothing more, not even a hash of its content").unwrap();
    let inspect = |what: &str, path: &str| alone(&["inspect", what, path]);
    check_message("file", &inspect("checkpoint", newest.to_str().unwrap()), 2, &["not a sound checkpoint"]);
    // Of a folder all files are shown, and damage is an error all the same.
    let folder_view = inspect("checkpoint", path).expect_code(2);
    folder_view.expect_text("sound true, step 1, d 2048").expect_text("not a sound checkpoint");
    check_message("none", &inspect("checkpoint", folder.path().to_str().unwrap()), 2, &["no checkpoint"]);
    check_message("gone", &inspect("checkpoint", "/no/such.ckpt"), 2, &["/no/such.ckpt"]);

    let tensors = output.join("adapter_model.safetensors");
    let bytes = std::fs::read(&tensors).unwrap();
    for broken in [&bytes[..bytes.len() - 1], &bytes[..5], b""] {
        std::fs::write(&tensors, broken).unwrap();
        check_message("adapter", &inspect("adapter", path), 2, &["adapter_model.safetensors"]);
    }
    std::fs::remove_file(&tensors).unwrap();
    check_message("adapter", &inspect("adapter", path), 2, &["adapter_model.safetensors"]);
    std::fs::write(output.join("adapter_config.json"), "{\"peft_type\": \"LORA\"}").unwrap();
    check_message("adapter", &inspect("adapter", path), 2, &["LORA"]);
    check_message("model", &inspect("model", path), 2, &["config.json"]);
}

#[test]
fn partitions_that_cannot_be() {
    let partition = |flags: &[&str]| limited(&[&["inspect", "partition"], flags].concat());
    let max = u64::MAX.to_string();
    let cases: [(&[&str], &str); 7] = [
        (&["--d", "0", "--numel", "10"], "d is 0"),
        (&["--d", &max, "--numel", "10"], &max),
        (&["--d", "10", "--numel", "10", "--start-offset", &max], &max),
        (&["--d", "10", "--numel", &max, "--start-offset", "5"], &max),
        (&["--d", "10", "--numel", &max], &max),
        (&["--d", "10", "--numel", "-1"], "-1"),
        (&["--d", "10", "--numel", "5", "--backend", "quantum"], "quantum"),
    ];
    for (flags, says) in cases {
        let outcome = partition(flags);
        assert_eq!(outcome.code, Some(2), "{flags:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(says) && !outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    }
    partition(&["--d", "10", "--numel", "0"]).expect_code(0);
}

/// A seed of more than 64 bits is shown like any other.
#[test]
fn adapters_with_a_wide_seed() {
    let folder = scratch();
    let output = folder.path().join("output");
    let seed = "99999999999999999999999";
    train(Ranks::Alone, &output, &["--max-steps", "1", "--proj-seed", seed]);
    for flag in [&["--json"][..], &[]] {
        let args = [&["inspect", "adapter", output.to_str().unwrap()], flag].concat();
        let outcome = alone(&args).expect_code(0).expect_text(seed);
        assert!(outcome.stdout.contains("target_modules"), "{}", outcome.stdout);
    }
}

/// Each value with the place that decided it.
#[test]
fn config_names_the_origin_of_every_value() {
    let folder = scratch();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "warmup-ratio = 0.25\nepochs = 5\n").unwrap();
    let start = |more: &[&str]| {
        let args =
            ["config", "metamath", "--preset", "demo", "--config", file.to_str().unwrap(), "--seed", "7"];
        let mut command = command(Ranks::Alone, &[&args[..], more].concat());
        command.env("GPART_EPOCHS", "3").env("GPART_SEED", "1");
        Running::start(command).finish().expect_code(0)
    };
    let text = start(&[]).stdout;
    let row = |key: &str| {
        let found = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        found.unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
    };
    for (key, value, origin) in [
        ("d", "32768", "demo"),
        ("warmup-ratio", "0.25", "mine.toml"),
        ("epochs", "3", "GPART_EPOCHS"),
        ("seed", "7", "--seed"),
        ("weight-decay", "0.01", "default"),
        ("global-batch-size", "16", "micro-batch-size"),
    ] {
        let row = row(key);
        let fields: Vec<&str> = row.split_whitespace().collect();
        assert!(fields[1].starts_with(value), "{row}");
        assert!(row.contains(origin), "{row}");
    }
    let json = json(&start(&["--json"]));
    assert_eq!(json["epochs"]["value"].as_f64(), Some(3.0), "{}", json["epochs"]);
    assert!(json["eos-token"]["value"].is_null() && json["isometric"]["value"].is_boolean());
    assert!(json["d"]["from"].as_str().unwrap().contains("demo"), "{}", json["d"]);
}
