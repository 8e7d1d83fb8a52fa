//! What settings resolve to.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::{
    AssignmentBackend, Dtype, LrScheduler, Resume, Source, TargetModules, TrainConfig, TrainOn,
    diff_identity, fingerprint_keys, list_presets, render, run_name, sections,
};

#[test]
fn defaults_are_the_official_ones() {
    let config = of_flags(&[]).config;
    assert_eq!(
        (config.d, config.learning_rate, config.warmup_ratio, config.weight_decay),
        (524_288, 2e-4, 0.05, 0.01)
    );
    assert_eq!(
        (config.max_grad_norm, config.epochs, config.max_seq_length, config.dropout),
        (1.0, 2.0, 2048, 0.05)
    );
    assert_eq!((config.micro_batch_size, config.accumulation_steps, config.global_batch_size()), (2, 8, 16));
    assert_eq!((config.seed, config.proj_seed, config.threads), (42, 42, 1));
    assert_eq!((config.logging_steps, config.save_steps, config.save_total_limit), (10, 250, 2));
    assert_eq!(config.target_modules, ["q_proj", "k_proj", "v_proj", "o_proj"]);
    assert_eq!(config.assignment_backend, AssignmentBackend::Stateless);
    assert_eq!((config.lr_scheduler_type, config.dtype), (LrScheduler::Cosine, Dtype::Float32));
    assert_eq!(
        (config.model.as_str(), config.data.as_str()),
        ("mistralai/Mistral-7B-v0.1", "meta-math/MetaMathQA")
    );
    assert!(
        config.isometric && !config.no_shuffle && !config.use_system_prompt && !config.gradient_checkpointing
    );
}

#[test]
fn run_name_is_the_official_one() {
    let check = |flags: &[&str], expect: &str| assert_eq!(run_name(&of_flags(flags).config), expect);
    check(
        &[],
        "metamath_mistralai-mistral-7b-v0.1_gpart_d524288_drop0.05_lr0.0002_bs2_ga8_ep2_seq2048_nosysprompt_seed42_524k",
    );
    check(
        &["--max_samples=5", "--d=999", "--lr=1e-5", "--use-system-prompt", "--epochs=0.5", "--model=./Qwen"],
        "metamath_qwen_gpart_d999_drop0.05_lr1e-05_bs2_ga8_ep0.5_seq2048_sysprompt_seed42_0k_n5",
    );
    let config = of_flags(&["--output-root-dir=out", "--model=m"]).config;
    assert_eq!(config.output_dir(), Path::new("out").join(run_name(&config)));
    assert_eq!(of_flags(&["--output=here"]).config.output_dir(), Path::new("here"));
}

#[test]
fn later_layers_win_and_are_remembered() {
    let all = Written {
        preset: Some("# a preset\nd = 1\nepochs = 1\nseed = 1\nsave-steps = 1"),
        file: Some("\nd = 2\nepochs = 2.5\nseed = 2\n"),
        environment: &[("GPART_D", "3"), ("GPART_NUM_TRAIN_EPOCHS", "3"), ("HOME", "/")],
        flags: &["--d=4"],
    };
    let folder = TempDir::new().unwrap();
    let resolved = resolve_in(&folder, all).unwrap();
    let config = &resolved.config;
    assert_eq!(
        (config.d, config.epochs, config.seed, config.save_steps, config.logging_steps),
        (4, 3.0, 2, 1, 10)
    );
    let check = |key: &str, expect: &str| {
        let origin = resolved.source(key).to_string();
        assert_eq!(origin.replace(&format!("{}/", folder.path().display()), ""), expect, "{key}");
    };
    check("d", "flag --d");
    check("epochs", "environment variable GPART_NUM_TRAIN_EPOCHS");
    check("seed", "file.toml:4");
    check("save-steps", "preset p, presets/p.toml:5");
    check("logging-steps", "default");
    let row = render(&resolved).into_iter().find(|row| row.key == "d").unwrap();
    assert_eq!((row.value.as_str(), row.origin), ("4", Source::Flag("d".to_owned())));
}

#[test]
fn preset_and_file_can_be_named_by_variables() {
    let folder = TempDir::new().unwrap();
    fs::create_dir_all(folder.path().join("presets/q")).unwrap();
    fs::write(folder.path().join("presets/q/q.toml"), "d = 7\nseed = 7").unwrap();
    let file = folder.path().join("f.toml");
    fs::write(&file, "seed = 8").unwrap();
    let environment = [("GPART_PRESET", "q"), ("GPART_CONFIG", file.to_str().unwrap())];
    let config =
        resolve_in(&folder, Written { environment: &environment, ..Written::default() }).unwrap().config;
    assert_eq!((config.d, config.seed), (7, 8));
}

#[test]
fn official_spellings_are_flags() {
    let typed = "--model_name m --dataset_name d.json --per_device_train_batch_size 4 \
        --gradient_accumulation_steps 3 --num_train_epochs 1 --gradient_checkpointing --learning_rate \
        1e-3 --lr_scheduler_type constant_with_warmup --warmup_ratio 7 --weight_decay 0 --max_grad_norm \
        0 --d 64 --dropout 0 --init_bound 0.0 --assignment_backend stateless --adapter_type gpart \
        --max_seq_length 9 --max_samples 5 --dataset_num_proc 1 --dataloader_num_workers 0 \
        --use_system_prompt --eos_token </s> --output_root_dir root --output_dir_file where \
        --logging_steps 1 --save_steps 2 --save_total_limit 3 --report_to none --seed 1 --bf16";
    let config = of_flags(&typed.split_whitespace().collect::<Vec<_>>()).config;
    assert_eq!((config.model.as_str(), config.data.as_str()), ("m", "d.json"));
    assert_eq!((config.micro_batch_size, config.accumulation_steps, config.warmup_ratio), (4, 3, 7.0));
    assert_eq!((config.lr_scheduler_type, config.dtype), (LrScheduler::ConstantWithWarmup, Dtype::Bfloat16));
    assert_eq!((config.max_samples, config.eos_token.as_deref()), (Some(5), Some("</s>")));
    assert!(config.gradient_checkpointing && config.use_system_prompt);
}

#[test]
fn every_key_is_a_flag_a_variable_and_a_key_of_files() {
    for key in sections().iter().flat_map(|section| section.keys) {
        let names = key.names().flat_map(|name| [name.to_owned(), name.replace('-', "_")]);
        for name in names {
            let text = key.default.unwrap_or("1");
            let flag = format!("--{name}={text}");
            assert!(parse(&[&flag]).is_ok(), "{flag}");
            assert_eq!(crate::keys::find(&name.to_ascii_uppercase()).unwrap().name, key.name);
        }
    }
    Cli::parse_from(["metamath"]);
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn settings_in_other_forms() {
    let wide = "-170141183460469231731687303715884105728";
    assert_eq!(of_flags(&["--proj-seed", wide]).config.proj_seed, i128::MIN);
    assert_eq!(of_flags(&["--proj-seed", "-5", "--seed", "9"]).config.proj_seed, -5);
    assert!(!of_flags(&["--isometric", "false"]).config.isometric);
    assert_eq!(of_flags(&["--resume", "never"]).config.resume, Resume::Never);
    assert_eq!(of_flags(&["--resume", "a/b"]).config.resume, Resume::Path("a/b".into()));
    assert_eq!(of_flags(&["--dtype", "fp16"]).config.dtype, Dtype::Float16);
    let file =
        "target_modules = [\"q_proj\", \"v_proj\"]\nproj-seed = \"18446744073709551617\"\nd = 0x10\nlr = 1";
    let config = resolved(Written { file: Some(file), ..Written::default() }).config;
    assert_eq!((config.target_modules.len(), config.proj_seed, config.d), (2, (1 << 64) + 1, 16));
    assert_eq!(config.learning_rate, 1.0);
    let off = Written { file: Some("max-samples = 5\nno-shuffle = true"), ..Written::default() };
    let config = resolved(Written { flags: &["--max-samples=none", "--no-shuffle=false"], ..off }).config;
    assert_eq!((config.max_samples, config.no_shuffle), (None, false));
}

#[test]
fn rows_a_step_follow_the_higher_layer() {
    let check = |written: Written<'_>, expect: (usize, usize)| {
        let config = resolved(written).config;
        assert_eq!((config.micro_batch_size, config.accumulation_steps), expect);
    };
    let file = Written { file: Some("accumulation-steps = 4\nmicro-batch-size = 2"), ..Written::default() };
    check(file, (2, 4));
    check(Written { flags: &["--global-batch-size=32"], ..file }, (2, 16));
    check(Written { flags: &["--global-batch-size=32", "--micro-batch-size=8"], ..file }, (8, 4));
    check(Written { flags: &["--global-batch-size=8", "--accumulation-steps=4"], ..file }, (2, 4));
    let rows = Written { file: Some("global-batch-size = 12"), ..Written::default() };
    check(rows, (2, 6));
    check(Written { flags: &["--micro-batch-size=3"], ..rows }, (3, 4));
    check(Written { flags: &["--accumulation-steps=5"], ..rows }, (2, 5));
    let origin =
        resolved(Written { flags: &["--global-batch-size=32"], ..file }).source("accumulation-steps").clone();
    assert_eq!(origin, Source::Flag("global-batch-size".to_owned()));
}

#[test]
fn locations_in_a_file_are_relative_to_it() {
    let folder = TempDir::new().unwrap();
    let presets = folder.path().join("presets");
    fs::create_dir_all(presets.join("d/own/er")).unwrap();
    let check = |text: &str, key: &str, expect: &str| {
        fs::write(presets.join("d/d.toml"), text).unwrap();
        let args = parse(&["--preset=d"]).unwrap();
        let config = resolve(Task::Metamath, &args, std::iter::empty(), std::slice::from_ref(&presets))
            .unwrap()
            .config;
        let value = crate::identity::as_json(&config)[key].as_str().unwrap().to_owned();
        assert_eq!(value.replace(presets.to_str().unwrap(), "P"), expect, "{text}");
    };
    check("model = \"model\"", "model", "P/d/model");
    check("model = \"model\"", "model-name", "model");
    check("model = \"/abs/model\"", "model", "/abs/model");
    check("model = \"meta-llama/Llama-3.1-8B\"", "model", "meta-llama/Llama-3.1-8B");
    check("model = \"Llama-3.1-8B\"", "model", "Llama-3.1-8B");
    check("model = \"own/er\"", "model", "P/d/own/er");
    check("data = \"rows.json\"", "data", "P/d/rows.json");
    check("data = \"sub/rows.jsonl\"", "data", "P/d/sub/rows.jsonl");
    check("data = \"meta-math/MetaMathQA\"", "data", "meta-math/MetaMathQA");
    check("eval-data = \"../e.json\"", "eval-data", "P/d/../e.json");
    check("output = \"out\"", "output", "out");
}

#[test]
fn presets_are_listed() {
    let folder = TempDir::new().unwrap();
    for path in
        ["presets/b.toml", "presets/a/a.toml", "presets/c/other.toml", "second/b.toml", "second/README.md"]
    {
        fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
        fs::write(folder.path().join(path), "").unwrap();
    }
    let folders =
        [folder.path().join("missing"), folder.path().join("presets"), folder.path().join("second")];
    let names: Vec<_> = list_presets(&folders).into_iter().map(|preset| preset.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(list_presets(&folders)[1].path.ends_with("presets/b.toml"));
    assert!(
        refusal(Written { preset: Some(""), environment: &[], file: None, flags: &["--d=0"] })
            .contains("d cannot")
    );
    let args = parse(&["--preset=x"]).unwrap();
    let error = resolve(Task::Metamath, &args, std::iter::empty(), &folders).unwrap_err();
    assert_eq!(error.help().unwrap().to_string(), "presets: a, b");
}

#[test]
fn identity_is_what_theta_depends_on() {
    let base = of_flags(&["--model=m"]).config;
    let check = |flags: &[&str], expect: &[(&str, &str, &str)]| {
        let flags: Vec<_> = ["--model=m"].iter().chain(flags).copied().collect();
        let changes = diff_identity(&base, &of_flags(&flags).config);
        let changes: Vec<_> = changes.iter().map(|c| (c.key, c.old.as_str(), c.new.as_str())).collect();
        assert_eq!(changes, expect, "{flags:?}");
    };
    check(
        &[
            "--output=x",
            "--save-steps=1",
            "--progress=none",
            "--eval-data=e",
            "--dp-replicate=2",
            "--recompute",
        ],
        &[],
    );
    check(&["--target-modules=o_proj,v_proj,k_proj,q_proj"], &[]);
    check(&["--global-batch-size=16"], &[]);
    check(
        &["--d=5", "--max-samples=3", "--lr=1e-3"],
        &[("d", "524288", "5"), ("max-samples", "none", "3"), ("learning-rate", "0.0002", "0.001")],
    );
    check(
        &["--threads=2", "--target-modules=q_proj"],
        &[("target-modules", "k_proj,o_proj,q_proj,v_proj", "q_proj"), ("threads", "1", "2")],
    );
    assert!(
        fingerprint_keys().any(|key| key == "proj-seed") && fingerprint_keys().all(|key| key != "output")
    );
}

#[test]
fn threads_and_dtype_are_kept_on_resume_unless_given() {
    let old = of_flags(&["--threads=4", "--dtype=bfloat16"]).config;
    let mut again = of_flags(&[]);
    again.keep_from(&old);
    assert_eq!((diff_identity(&old, &again.config), again.source("threads")), (vec![], &Source::ResumedRun));
    let mut other = of_flags(&["--threads=1"]);
    other.keep_from(&old);
    assert_eq!(diff_identity(&old, &other.config).iter().map(|c| c.key).collect::<Vec<_>>(), ["threads"]);
}

#[test]
fn configuration_survives_json() {
    for seed in ["42", "-1", "18446744073709551616", "-170141183460469231731687303715884105728"] {
        let config =
            of_flags(&["--proj-seed", seed, "--resume=a/b", "--eval-data=e", "--sample-prompt=Q:\n"]).config;
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::from_value::<TrainConfig>(value).unwrap(), config);
    }
}

#[test]
fn every_setting_is_listed() {
    let rows = render(&of_flags(&["--model=m", "--output-root-dir=r"]));
    let value = |key: &str| rows.iter().find(|row| row.key == key).unwrap().value.clone();
    assert_eq!(value("global-batch-size"), "16");
    assert_eq!(value("target-modules"), "q_proj,k_proj,v_proj,o_proj");
    assert_eq!(value("max-samples"), "none");
    assert!(value("output").starts_with("r/metamath_m_gpart_"));
    let identity = fingerprint_keys().filter(|key| !rows.iter().any(|row| row.key == *key));
    assert_eq!(identity.count(), 0);
}

#[test]
fn shipped_demo_resolves() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let args = parse(&["--preset=demo"]).unwrap();
    let resolved =
        resolve(Task::Metamath, &args, std::iter::empty(), std::slice::from_ref(&configs)).unwrap();
    let config = &resolved.config;
    assert_eq!(
        (config.d, config.learning_rate, config.epochs, config.global_batch_size()),
        (32_768, 2e-2, 2.0, 16)
    );
    let rows =
        |path: &Path| -> Vec<Value> { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let held_out = rows(config.eval_data.as_ref().unwrap());
    assert_eq!((rows(Path::new(&config.data)).len(), held_out.len()), (512, 64));
    assert!(Path::new(&config.model).join("model.safetensors").is_file());
    let prompt = format!("Question: {}\nAnswer:", held_out[0]["query"].as_str().unwrap());
    assert_eq!(config.sample_prompt.as_deref(), Some(prompt.as_str()));
    assert_eq!(resolved.warnings, Vec::<String>::new());
}

#[test]
fn train_needs_its_own_model_and_data() {
    let of_train = |flags: &[&str]| resolve(Task::Train, &parse(flags).unwrap(), std::iter::empty(), &[]);
    let check = |flags: &[&str], expect: &str| {
        let error = of_train(flags).unwrap_err();
        assert_eq!(format!("{error} | {}", error.help().unwrap()), expect);
    };
    check(&["--data=d.jsonl"], "train needs --model | give --model a path or a hub id, not empty");
    check(&["--model=m"], "train needs --data | give --data a path or a hub id, not empty");
    let resolved = of_train(&["--model=m", "--data=My rows.jsonl"]).unwrap();
    assert_eq!((resolved.config.task, resolved.config.train_on), (Task::Train, TrainOn::Responses));
    assert!(crate::run_name(&resolved.config).starts_with("train_my-rows_m_gpart_d524288"));
    let official = of_flags(&[]);
    assert_eq!(
        (official.config.model.as_str(), official.config.train_on),
        ("mistralai/Mistral-7B-v0.1", TrainOn::All)
    );
    assert_eq!(official.source("data").to_string(), "default of metamath");
}

#[test]
fn overrides_are_settings() {
    let typed = "adapter.d 16384 training.lr 1e-3 training.batch_size 4 adapter.isometric False \
        adapter.proj_seed -3 data.max_samples none --epochs 3 adapter.target_modules regex:.*q_proj";
    let resolved = of_flags(&typed.replace("False", "false").split_whitespace().collect::<Vec<_>>());
    let config = &resolved.config;
    assert_eq!((config.d, config.learning_rate, config.micro_batch_size), (16384, 1e-3, 4));
    assert_eq!(
        (config.isometric, config.proj_seed, config.max_samples, config.epochs),
        (false, -3, None, 3.0)
    );
    assert_eq!(config.targets(), TargetModules::Regex(".*q_proj"));
    assert_eq!(resolved.source("d").to_string(), "override adapter.d");
}

#[test]
fn presets_are_combined_from_left_to_right() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.toml"), "d = 1\nseed = 1").unwrap();
    fs::write(folder.path().join("b.toml"), "seed = 2").unwrap();
    let args = parse(&["--preset=a,b"]).unwrap();
    let folders = [folder.path().to_owned()];
    let resolved = resolve(Task::Metamath, &args, std::iter::empty(), &folders).unwrap();
    assert_eq!((resolved.config.d, resolved.config.seed), (1, 2));
}

#[test]
fn modules_are_named_in_three_ways() {
    let targets = |text: &str| of_flags(&[&format!("--target-modules={text}")]).config.target_modules;
    assert_eq!(targets("q_proj, v_proj"), ["q_proj", "v_proj"]);
    assert_eq!(targets("regex:.{1,2}_proj"), ["regex:.{1,2}_proj"]);
    assert_eq!(of_flags(&["--target-modules=all-linear"]).config.targets(), TargetModules::AllLinear);
    let file = Written {
        file: Some("layers-to-transform = [0, 3]\ntarget-modules = [\"q\"]"),
        ..Written::default()
    };
    assert_eq!(resolved(file).config.layers_to_transform, Some(vec![0, 3]));
    assert_eq!(of_flags(&["--layers-to-transform=4,5"]).config.layers_to_transform, Some(vec![4, 5]));
}

#[test]
fn an_adapters_partition_is_taken_over() {
    let settings =
        || vec![("d", Value::from(7)), ("target-modules", serde_json::json!(["v_proj", "q_proj"]))];
    let folder = Path::new("a");
    let mut resolved = of_flags(&["--target-modules=q_proj,v_proj"]);
    resolved.take_from_adapter(folder, settings()).unwrap();
    assert_eq!((resolved.config.d, resolved.config.target_modules.len()), (7, 2));
    assert_eq!(resolved.source("d").to_string(), "the adapter in a");
    let error = of_flags(&["--d=8"]).take_from_adapter(folder, settings()).unwrap_err().to_string();
    assert_eq!(error, "d is 8 (flag --d), but 7 in the adapter in a");
    let wrong = vec![("partition-scope", Value::from("nowhere"))];
    assert!(of_flags(&[]).take_from_adapter(folder, wrong).is_err());
}

#[test]
fn groups_by_size_bring_their_backend() {
    let resolved = of_flags(&["--grouping-strategy=signed_magnitude"]);
    assert_eq!(resolved.config.assignment_backend, crate::AssignmentBackend::Materialized);
    assert_eq!(resolved.source("assignment-backend").to_string(), "from grouping-strategy");
}

#[test]
fn shipped_presets_have_the_official_values() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let plain = of_flags(&[]).config;
    let folders = [configs];
    let names: Vec<String> = list_presets(&folders).into_iter().map(|preset| preset.name).collect();
    let models = ["gemma-7b", "llama-3.1-8b", "mistral-7b", "qwen2.5-0.5b", "qwen2.5-3b", "qwen2.5-7b"];
    for name in models {
        assert!(names.iter().any(|known| known == name), "{names:?}");
        let args = parse(&[&format!("--preset=official,{name}")]).unwrap();
        let resolved = resolve(Task::Metamath, &args, std::iter::empty(), &folders).unwrap();
        let config = &resolved.config;
        assert!(crate::is_short_name(&config.model), "{name}: {}", config.model);
        assert_eq!(config.d, if name == "qwen2.5-0.5b" { 131_072 } else { 524_288 }, "{name}");
        assert_eq!(
            (config.dtype, config.assignment_backend),
            (Dtype::Bfloat16, AssignmentBackend::Materialized)
        );
        let mut same = plain.clone();
        same.model.clone_from(&config.model);
        same.model_name.clone_from(&config.model_name);
        (same.d, same.dtype, same.assignment_backend) = (config.d, config.dtype, config.assignment_backend);
        same.report_to = config.report_to;
        assert_eq!(*config, same, "{name} changes something else");
    }
}
