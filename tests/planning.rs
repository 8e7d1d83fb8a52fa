//! `plan`: its numbers against those of real runs, what it refuses, and what it fetches.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Hub, LLAMA, Outcome, Ranks, Running, alone, check_message, checkpoints, command, lines_so_far, read_json,
    repository, scratch, snapshot, train, training, training_args,
};

/// `plan metamath` on the fast settings.
fn plan_command(output: &Path, more: &[&str]) -> Outcome {
    let mut args = training_args(output, more);
    args.insert(0, "plan".into());
    Running::start(command(Ranks::Alone, &args)).finish()
}

/// The same as JSON.
fn plan(output: &Path, more: &[&str]) -> Value {
    parsed(&plan_command(output, &[more, &["--json"]].concat()).expect_code(0))
}

fn parsed(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Codes of the remarks of a plan.
fn codes(plan: &Value) -> Vec<&str> {
    plan["warnings"].as_array().unwrap().iter().map(|warning| warning["code"].as_str().unwrap()).collect()
}

/// What is counted is exact.
#[test]
fn a_run_comes_out_as_planned() {
    let folder = scratch();
    let cases: [&[&str]; 4] = [
        &[],
        &["--max-steps", "none", "--max-samples", "13", "--epochs", "1.5"],
        &["--max-steps", "none", "--max-samples", "23", "--validation-split", "0.2", "--epochs", "1"],
        &[
            "--max-steps",
            "2",
            "--target-modules",
            "q_proj,up_proj,down_proj",
            "--layers-to-transform",
            "1,3",
            "--d",
            "512",
        ],
    ];
    for (number, flags) in cases.iter().enumerate() {
        let output = folder.path().join(number.to_string());
        let plan = plan(&output, flags);
        assert!(!output.exists(), "a plan writes nothing");
        train(Ranks::Alone, &output, flags);
        let run = read_json(&output.join("run.json"));
        for (planned, ran) in [
            (&plan["steps"]["total"], &run["total_steps"]),
            (&plan["parameters"]["total"], &run["model_parameters"]),
            (&plan["parameters"]["adapted"], &run["adapted_weights"]),
            (&plan["parameters"]["adapted_modules"], &run["adapted_modules"]),
        ] {
            assert_eq!(planned, ran, "{flags:?}");
        }
        for end in ["min", "max"] {
            let (planned, ran) = (float(&plan["groups"][end]), float(&run["group_sizes"][end]));
            assert!((planned / ran - 1.0).abs() < 0.1, "{end} of {flags:?}: {planned}, in fact {ran}");
        }
        check_disk(&plan["disk"], &output);
    }
}

/// The size of a state is right to a few hundred bytes of settings; the folder as a whole is not larger than said.
fn check_disk(disk: &Value, output: &Path) {
    let files = checkpoints(output);
    let length = |path: &Path| path.metadata().unwrap().len();
    let newest = length(files.last().unwrap()) as f64;
    assert!((float(&disk["checkpoint"]) - newest).abs() < 300.0, "{newest} in fact: {disk}");
    assert_eq!(disk["checkpoints_kept"], files.len());
    let paths = snapshot(output).into_keys().map(|path| output.join(path));
    let total: u64 = paths.filter(|path| path.is_file()).map(|path| length(&path)).sum();
    let planned = disk["total"].as_u64().unwrap();
    assert!(total <= planned, "the folder has {total} bytes, planned were at most {planned}");
}

/// The estimate of memory against the most that a process in training has held.
#[test]
fn memory_comes_out_about_as_planned() {
    let folder = scratch();
    let cases: [&[&str]; 3] = [
        &["--micro-batch-size", "2"],
        &["--micro-batch-size", "24", "--accumulation-steps", "1", "--max-seq-length", "512"],
        &["--micro-batch-size", "24", "--accumulation-steps", "1", "--max-seq-length", "512", "--recompute"],
    ];
    for (number, flags) in cases.iter().enumerate() {
        let output = folder.path().join(number.to_string());
        let flags = [flags, &["--max-steps", "1000", "--save-steps", "1000"][..]].concat();
        let planned = float(&plan(&output, &flags)["memory"]["peak"]);
        let mut running = Running::start(training(Ranks::Alone, &output, &flags));
        assert!(running.until(|| lines_so_far(&output) >= 2));
        let status = running.rank_processes().first().map(|pid| format!("/proc/{pid}/status"));
        let status = std::fs::read_to_string(status.unwrap()).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let held: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let ratio = planned / (held * 1024.0);
        assert!((0.7..2.5).contains(&ratio), "{flags:?}: {planned} bytes planned, {held} KiB held");
    }
}

#[test]
fn ranks_time_and_remarks() {
    let folder = scratch();
    let output = folder.path().join("out");
    let time = ["--ranks", "3", "--tokens-per-second", "100", "--mean-tokens", "80"];
    let three = plan(&output, &time);
    // 6 steps of 6 rows of 80 tokens.
    assert_eq!(float(&three["steps"]["total_tokens"]), 2880.0);
    assert_eq!(float(&three["work"]["total_seconds"]), 28.8);
    assert_eq!((&three["ranks"], &three["steps"]["balance"]), (&json!(3), &json!(1.0)));
    assert_eq!(three["memory"]["host_peak"], 3 * three["memory"]["peak"].as_u64().unwrap());
    // A sum for each number of θ and the flag, eight bytes each.
    assert_eq!(three["traffic"]["axes"][0]["moves"][0]["bytes"], 8 * 2049);
    assert!(!codes(&three).contains(&"uneven_ranks"), "{three}");

    assert!(codes(&plan(&output, &["--ranks", "2"])).contains(&"uneven_ranks"));
    let idle = plan(&output, &["--ranks", "5"]);
    assert!(codes(&idle).contains(&"idle_ranks") && idle["steps"]["idle_ranks"] == 2, "{idle}");
    assert!(codes(&plan(&output, &["--d", "200000"])).contains(&"small_groups"));
    assert_eq!(plan(&output, &["--d", "393216"])["groups"]["mean"], 1.0);

    let text = plan_command(&output, &time).expect_code(0);
    for part in ["adapted weights", "393,216", "28.8 s", "3 ranks", "peak", "checkpoint"] {
        assert!(text.stdout.contains(part), "no {part:?} in\n{}", text.stdout);
    }
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 100), "{}", text.stdout);
    assert!(!output.exists());
}

/// A sharded pipeline: who owns what, what moves, how long it takes, and which mesh would be cheaper.
#[test]
fn any_mesh_is_planned() {
    let folder = scratch();
    let output = folder.path().join("out");
    let flags = ["--ranks", "8", "--dp-shard", "2", "--pp", "2", "--mean-tokens", "80"];
    let rates = ["--tflops", "0.05", "--link-gbps", "10", "--link-ms", "0.05"];
    let flags = [&flags[..], &rates].concat();
    let mesh = plan(&output, &flags);
    assert_eq!(mesh["mesh"], json!({"dp_replicate": 2, "dp_shard": 2, "pp": 2}));
    let stages = mesh["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 2);
    assert_eq!(
        (&stages[0]["ranks"], &stages[0]["embedding"], &stages[1]["head"]),
        (&json!(4), &json!(true), &json!(true))
    );
    assert_eq!((&stages[0]["end_block"], &stages[1]["end_block"]), (&stages[1]["first_block"], &json!(4)));
    assert_eq!(stages[1]["end_weight"], 393_216);
    let axes: Vec<&str> = mesh["traffic"]["axes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|axis| axis["axis"].as_str().unwrap())
        .collect();
    assert_eq!(axes, ["world", "dp-shard", "embedding", "pp"]);
    let timing = &mesh["timing"];
    assert!(float(&timing["bubble"]) > 0.0 && timing["link_is_assumed"] == false, "{timing}");
    assert_eq!(timing["step_seconds"], mesh["work"]["step_seconds"]);
    // Ten meshes of eight ranks, but for the one of eight stages.
    let meshes = mesh["meshes"].as_array().unwrap();
    assert_eq!(meshes.len(), 9);
    assert_eq!(meshes[0]["degrees"], json!({"dp_replicate": 8, "dp_shard": 1, "pp": 1}));
    assert!(codes(&mesh).contains(&"cheaper_mesh"), "{mesh}");

    let text = plan_command(&output, &flags).expect_code(0);
    for part in
        ["What each rank owns", "1/2 of them a rank", "pipeline bubble", "10 Gbit/s and 0.05 ms", "this plan"]
    {
        assert!(text.stdout.contains(part), "no {part:?} in\n{}", text.stdout);
    }
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 100), "{}", text.stdout);
    assert!(!output.exists());
}

/// What a run would be refused for, its plan is refused for too.
#[test]
fn refused_plans() {
    let folder = scratch();
    let output = folder.path().join("out");
    let cases: [(&[&str], &str); 3] = [
        (&["--d", "393217"], "d_out_of_range"),
        (&["--d", "3", "--partition-scope", "transformer_block"], "block_groups"),
        (&["--micro-batch-size", "1000000000", "--rows", "1000000000", "--max-samples", "none"], "memory"),
    ];
    for (flags, code) in cases {
        let outcome = plan_command(&output, flags).expect_code(2);
        outcome.expect_text("refused").expect_text("this run would be refused");
        let outcome = plan_command(&output, &[flags, &["--json"]].concat()).expect_code(2);
        let plan = parsed(&outcome);
        assert_eq!((codes(&plan)[0], &plan["warnings"][0]["level"]), (code, &json!("refusal")), "{plan}");
    }
    let errors: [(&[&str], &[&str]); 5] = [
        (&["--model", "/no/such/model"], &["/no/such/model"]),
        (&["--target-modules", "c_attn"], &["c_attn"]),
        (&["--data", "/no/such.json"], &["/no/such.json"]),
        (&["--ranks", "3", "--dp-replicate", "2"], &["dp-replicate 2 × dp-shard 1 × pp 1 = 2", "3"]),
        (&["--ranks", "5", "--pp", "5"], &["pp 5", "4"]),
    ];
    for (flags, says) in errors {
        check_message(&format!("{flags:?}"), &plan_command(&output, flags), 2, says);
    }
    plan_command(&output, &["--link-ms=-1"]).expect_code(2).expect_text("a number from 0 on");
    plan_command(&output, &["--link-gbps=0"]).expect_code(2).expect_text("a number above 0");
    plan_command(&output, &["--local-ms=-1"]).expect_code(2).expect_text("a number from 0 on");
    plan_command(&output, &["--local-gbps=inf"]).expect_code(2).expect_text("a number above 0");
    plan_command(&output, &["--gpu-memory=0"]).expect_code(2).expect_text("a number above 0");
    assert!(!output.exists());
}

/// A file as `bench step --json` prints it, with made-up numbers.
fn measurement() -> Value {
    json!({
        "format": "gpart-dist bench step 1", "device": "NVIDIA H200", "model": "a model of another shape",
        "shape": {"parameters": 1000, "adapted": 100, "hidden": 8, "layers": 2}, "dtype": "bfloat16",
        "micro_batch_tokens": 80, "micro_batches": 8,
        "variants": [{
            "name": "default", "dropout": 0.05, "deterministic": true, "recompute": false, "packing": false,
            "step_seconds": 0.5, "tokens_per_second": 1280.0, "model_tflops": 0.02,
            "parts": {"apply": 0.0, "update": 0.1},
        }],
    })
}

/// A measured step of one GPU makes a plan of eight, and of 64 on eight hosts.
#[test]
fn a_measurement_of_one_rank_plans_many() {
    let folder = scratch();
    let (output, file) = (folder.path().join("out"), folder.path().join("step.json"));
    std::fs::write(&file, measurement().to_string()).unwrap();
    let measured = ["--measured", file.to_str().unwrap(), "--mean-tokens", "80", "--gpu-memory", "100"];
    let of = |more: &[&str]| plan(&output, &[&measured, more].concat());
    let eight = of(&["--ranks", "8", "--dp-replicate", "8", "--dropout", "0.05"]);
    // The file is of a GPU, so the plan is.
    assert_eq!((&eight["is_gpu"], &eight["dtype"]), (&json!(true), &json!("bfloat16")));
    assert_eq!(eight["memory"]["host_peak"], eight["memory"]["peak"]);
    // Whose 100 GiB leave 94.
    let available = eight["memory"]["available"].as_f64().unwrap() / f64::from(1 << 30);
    assert!((available - 94.0).abs() < 0.01, "{available}");
    let timing = &eight["timing"];
    // 0.02 · 0.5 s / 0.4 s.
    assert!((float(&timing["operations_per_second"]) - 2.5e10).abs() < 1.0, "{timing}");
    assert_eq!((&timing["once_seconds"], &timing["speed_is_assumed"]), (&json!(0.1), &json!(false)));
    assert_eq!((&timing["local_is_assumed"], &timing["hosts"]), (&json!(true), &json!(1)));
    assert_eq!(eight["measured"]["variant"], "default");
    assert!(codes(&eight).contains(&"measured_shape"), "{eight}");
    assert!(!codes(&eight).contains(&"measured_otherwise"), "{eight}");
    let efficiency = float(&eight["scaling"]["efficiency"]);
    assert!(efficiency > 0.0 && efficiency < 1.0, "{efficiency}");
    let otherwise = of(&["--dropout", "0", "--device", "cpu", "--dtype", "float32"]);
    assert!(codes(&otherwise).contains(&"measured_otherwise") && otherwise["is_gpu"] == false, "{otherwise}");

    let links = ["--local-gbps", "3600", "--local-ms", "0.005", "--link-gbps", "400", "--link-ms", "0.02"];
    let hosts =
        ["--ranks", "64", "--ranks-per-host", "8", "--dp-replicate", "64", "--accumulation-steps", "64"];
    let flags = [&measured[..], &links, &hosts].concat();
    let text = plan_command(&output, &flags).expect_code(0).stdout;
    for part in [
        "measured on NVIDIA H200 (default)",
        "link of a rank within a host",
        "3,600 Gbit/s and 5.0e-3 ms\n",
        "link of a rank between 8 hosts",
        "400 Gbit/s and 0.02 ms\n",
        "tokens a second",
        "scaling efficiency",
        "of 64 × the",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!output.exists());
}

#[test]
fn what_is_no_measurement_is_refused() {
    let folder = scratch();
    let (output, file) = (folder.path().join("out"), folder.path().join("step.json"));
    let mut negative = measurement();
    negative["variants"][0]["step_seconds"] = json!(-0.5);
    let other = measurement().to_string().replace("step 1", "step 7");
    let cases: [(Vec<u8>, &str); 6] = [
        (Vec::new(), "EOF while parsing"),
        (b"{\"format\": NaN}".to_vec(), "line 1"),
        (b"{}".to_vec(), "it has no \"format\""),
        (other.into_bytes(), "its format is \"gpart-dist bench step 7\""),
        (negative.to_string().into_bytes(), "step_seconds of \"default\" is -0.5"),
        (b"\xff\xfe".to_vec(), "UTF-8"),
    ];
    let path = file.to_str().unwrap();
    for (bytes, says) in cases {
        std::fs::write(&file, bytes).unwrap();
        let outcome = plan_command(&output, &["--measured", path]);
        check_message(says, &outcome, 2, &[path, "cannot be used", says, "bench step --json"]);
    }
    for (path, says) in [("/no/such.json", "No such file"), (folder.path().to_str().unwrap(), "directory")] {
        check_message(path, &plan_command(&output, &["--measured", path]), 2, &[path, says]);
    }
    let both = plan_command(&output, &["--measured", path, "--tflops", "1"]);
    both.expect_code(2).expect_text("cannot be used with");
    assert!(!output.exists());
}

/// Of a model on the hub, its config.json is fetched and nothing else; a run then fetches the rest.
#[test]
fn a_plan_fetches_the_configuration_alone() {
    let hub = Hub::start();
    let plan = |more: &[&str]| {
        let args = [&["plan", "metamath", "--preset", "llama-3.1-8b", "--d", "4096"], more].concat();
        let mut command = hub.command(Ranks::Alone, &args);
        command.env("GPART_CONFIGS", repository().join("configs"));
        command
    };
    let mut offline = plan(&[]);
    offline.env("HF_HUB_OFFLINE", "1");
    let outcome = Running::start(offline).finish();
    check_message("offline", &outcome, 2, &[LLAMA, "HF_HUB_OFFLINE", "missing: "]);
    assert!(hub.server.requests().is_empty());

    // The plan is all that is on standard output, whatever is fetched on the way.
    let found = parsed(&Running::start(plan(&["--json"])).finish().expect_code(0));
    assert_eq!(found["parameters"]["total"], 1_771_200);
    assert_eq!(found["steps"]["total"], 49_376, "2 epochs of 24,688 steps: 395,000 rows are known");
    assert_eq!(hub.fetched(), ["config.json"]);
    let lists = hub.server.requests_for("GET", "/api/");
    assert!(lists.len() == 1 && lists[0].path.contains(LLAMA), "{lists:?}");

    let requests = hub.server.requests().len();
    let mut again = plan(&[]);
    again.env("HF_HUB_OFFLINE", "1");
    Running::start(again).finish().expect_code(0).expect_text("1,771,200");
    assert_eq!(hub.server.requests().len(), requests);

    let typed = ["metamath", "--model", "Llama-3.1-8B", "--d", "4096", "--max-steps", "1"];
    Running::start(hub.command(Ranks::Alone, &typed)).finish().expect_code(0);
    assert_eq!(hub.fetched().iter().filter(|name| *name == "config.json").count(), 1);
    assert!(hub.fetched().contains(&"model.safetensors".to_owned()));
}

/// A run that the host has too little memory for is refused before weights are read or a folder is made.
#[test]
fn too_little_memory_is_met_at_the_start() {
    let folder = scratch();
    let rows = folder.path().join("rows.json");
    // Three million tokens in one micro-batch: some hundred GiB of activations.
    let row = json!({"query": "?", "response": "12 + 34 = 46. ".repeat(400)});
    std::fs::write(&rows, Value::from(vec![row; 1500]).to_string()).unwrap();
    let output = folder.path().join("out");
    let mut flags = vec!["--data", rows.to_str().unwrap(), "--max-samples", "none", "--max-steps", "1"];
    flags.extend(["--micro-batch-size", "100000", "--max-seq-length", "2048"]);
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let outcome = Running::start(training(ranks, &output, &flags)).finish();
        let says = ["needs about", "available", "activations kept for backward", "--gradient-checkpointing"];
        check_message(&format!("{ranks:?}"), &outcome, 2, &says);
        assert!(!output.exists() && !outcome.stdout.contains("loading"), "{}", outcome.stdout);
    }
    flags.extend(["--memory-check", "false"]);
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| output.join("run.json").exists()), "the check was made all the same");
    running.kill();
}

/// The plan of a run of one's own data counts its rows.
#[test]
fn rows_of_ones_own_are_counted() {
    let folder = scratch();
    let rows = folder.path().join("rows.jsonl");
    std::fs::write(&rows, "{\"query\": \"1+1\", \"response\": \"2\"}\n".repeat(20)).unwrap();
    let model = repository().join("configs/demo/model");
    let mut args =
        vec!["plan", "train", "--model", model.to_str().unwrap(), "--data", rows.to_str().unwrap()];
    args.extend(["--d", "64", "--epochs", "3", "--global-batch-size", "4", "--json"]);
    let found = parsed(&alone(&args).expect_code(0));
    assert_eq!((&found["steps"]["total"], &found["steps"]["rows"]), (&json!(15), &json!(4)));
}
