//! `merge`: what it writes is the model that was trained; what it refuses leaves everything as it was.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::harness::{
    DemoModel, Mount, Outcome, Ranks, Running, alone, check_message, command, edit_json, read_json,
    repository, scratch, snapshot, train,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn golden(path: &str) -> PathBuf {
    repository().join("tests/golden/models").join(path)
}

fn merge_args(model: &Path, adapter: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let named = ["merge", "--model", text(model), "--adapter", text(adapter), "--output", text(output)];
    named.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

fn run(args: &[String]) -> Outcome {
    Running::start(command(Ranks::Alone, args)).finish()
}

/// Merges and returns the report.
fn merge(model: &Path, adapter: &Path, output: &Path, more: &[&str]) -> Value {
    let mut args = merge_args(model, adapter, output, more);
    args.push("--json".to_owned());
    let outcome = run(&args).expect_code(0);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

fn demo() -> PathBuf {
    repository().join("configs/demo/model")
}

/// The held-out losses of a run: after each step at which they were measured.
fn held_out(output: &Path) -> Vec<(u64, f64)> {
    let lines = std::fs::read_to_string(output.join("held_out.jsonl")).unwrap();
    let of = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap())
    };
    lines.lines().map(of).collect()
}

/// Trains an adapter on the demo model, merges it, and measures the merged model where training left off.
#[track_caller]
fn check_trained(flags: &[&str]) {
    let folder = scratch();
    let rows: Value = read_json(&repository().join("configs/demo/heldout.json"));
    let few = Value::from(rows.as_array().unwrap()[..8].to_vec());
    let eval = folder.path().join("heldout.json");
    std::fs::write(&eval, few.to_string()).unwrap();
    let eval = ["--eval-data", text(&eval)];
    let [adapter, merged, again] = ["adapter", "merged", "again"].map(|name| folder.path().join(name));
    train(Ranks::Alone, &adapter, &[&eval[..], flags].concat());
    let trained = held_out(&adapter);
    let [(0, before), (6, after)] = trained[..] else { panic!("{trained:?}") };
    assert!((before - after).abs() > 0.03, "{flags:?}: training changed nothing to speak of: {trained:?}");

    let report = merge(&demo(), &adapter, &merged, &["--dtype", "float32"]);
    assert!(report["kept"]["projection"].as_f64().unwrap() > 0.999, "{report}");
    let more = ["--model", text(&merged), "--max-steps", "1"];
    train(Ranks::Alone, &again, &[&eval[..], &more].concat());
    let (step, found) = held_out(&again)[0];
    assert_eq!(step, 0);
    assert!((found - after).abs() < 1e-3, "{flags:?}: {after} when trained, {found} when merged");
}

#[test]
fn the_merged_model_is_the_trained_one() {
    check_trained(&[]);
    check_trained(&["--assignment-backend", "materialized", "--target-modules", "all-linear"]);
    check_trained(&["--assignment-backend", "materialized", "--grouping-strategy", "signed_magnitude"]);
    check_trained(&[
        "--partition-scope",
        "transformer_block",
        "--isometric",
        "false",
        "--learning-rate",
        "2e-3",
    ]);
}

/// Every tensor of a checkpoint of one file.
fn tensors(folder: &Path, look: impl FnOnce(&SafeTensors<'_>)) {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    look(&SafeTensors::deserialize(&bytes).unwrap());
}

/// What a 16-bit dtype loses is reported, and said.
#[test]
fn the_report_says_what_rounding_kept() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    // Small steps: most of the update is below the resolution of bfloat16, in which the demo model is stored.
    train(Ranks::Alone, &adapter, &["--learning-rate", "2e-4"]);
    let merge = |name: &str, more: &[&str]| merge(&demo(), &adapter, &folder.path().join(name), more);
    let kept = |report: &Value| report["kept"]["projection"].as_f64().unwrap();
    let [stored, short, half, full] = [
        merge("stored", &[]),
        merge("bfloat16", &["--dtype", "bfloat16"]),
        merge("float16", &["--dtype", "float16"]),
        merge("float32", &["--dtype", "float32"]),
    ];
    assert_eq!((kept(&stored), &stored["dtype"]), (kept(&short), &Value::Null));
    let error = |report: &Value| report["kept"]["relative_error"].as_f64().unwrap();
    assert!(error(&full) < 1e-3 && error(&full) < error(&half) && error(&half) < error(&short), "{short}");
    assert!(kept(&full) > 0.999, "{full}");
    assert!(kept(&short) < 0.5, "{}", kept(&short));
    let warned = |report: &Value| report["warnings"].as_array().unwrap().len();
    assert_eq!((warned(&short), warned(&full)), (1, 0), "{short}");
    for (report, changed) in [(&short, false), (&full, true)] {
        let kept = &report["kept"];
        assert_eq!(kept["numbers"], 393_216);
        assert_eq!(kept["changed"] == kept["moved"], changed, "{kept}");
        assert_eq!(report["merged_tensors"], 16);
    }
    let shown = merge_args(&demo(), &adapter, &folder.path().join("shown"), &["--dtype", "bfloat16"]);
    run(&shown).expect_code(0).expect_text("rounding noise").expect_text("--dtype float32 keeps all");

    // The files are those of the base, in the dtype that was asked for, and loadable.
    for (name, dtype) in [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float32")] {
        let output = folder.path().join(name);
        let names = |folder: &Path| snapshot(folder).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&output), names(&demo()));
        assert_eq!(read_json(&output.join("config.json"))["dtype"], dtype);
        alone(&["inspect", "model", text(&output)]).expect_code(0);
        tensors(&output, |tensors| {
            let short = tensors.iter().map(|(_, view)| format!("{:?}", view.dtype()));
            let expected = dtype.replace("bfloat", "BF").replace("float", "F");
            assert!(short.into_iter().all(|dtype| dtype == expected), "{dtype}");
        });
    }
}

/// Every adapter that the official code made can be looked into and merged: ‖ΔW‖ is what its θ says, and nothing
/// else is touched.
#[test]
fn official_adapters() {
    let folder = scratch();
    let mut merged = 0;
    for family in ["llama", "llama-tied", "qwen2", "gemma", "mistral"] {
        let base = golden(family).join("base");
        for entry in std::fs::read_dir(golden(family).join("adapters")).unwrap().flatten() {
            let adapter = entry.path();
            let name = format!("{family}-{}", entry.file_name().to_str().unwrap());
            let output = folder.path().join(&name);
            // Side by side: most of their time goes into starting.
            let inspect = ["inspect", "adapter", text(&adapter), "--json"];
            let inspect = Running::start(command(Ranks::Alone, &inspect));
            let report = merge(&base, &adapter, &output, &[]);
            let shown: Value = serde_json::from_str(&inspect.finish().expect_code(0).stdout).unwrap();
            let delta = report["kept"]["delta_norm"].as_f64().unwrap();
            let theta = check_inspected(&name, &adapter, &shown);
            if shown["isometric"] == true {
                assert!((delta / theta - 1.0).abs() < 1e-5, "{name}: ‖ΔW‖ = {delta}, ‖θ‖ = {theta}");
            }
            check_tensors(&name, &base, &output, &report);
            merged += 1;
        }
    }
    assert_eq!(merged, 19);
}

/// What `inspect adapter` shows is what the files say. Returns ‖θ‖.
fn check_inspected(name: &str, adapter: &Path, shown: &Value) -> f64 {
    for (key, value) in read_json(&adapter.join("adapter_config.json")).as_object().unwrap() {
        let shown = shown.get(key).unwrap_or(&Value::Null);
        let is_same = shown == value || shown.as_f64().is_some_and(|shown| Some(shown) == value.as_f64());
        // Versions are those of the writer; an empty list of patterns is none.
        assert!(is_same || key == "peft_version", "{name}: {key} is {value} and shown as {shown}");
    }
    let bytes = std::fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let theta = tensors.tensor("base_model.gpart_theta_d").unwrap();
    assert_eq!(shown["theta_blake3"], blake3::hash(theta.data()).to_hex().as_str(), "{name}");
    let numbers = theta.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
    let norm = numbers.map(|x| x * x).sum::<f64>().sqrt();
    assert!((shown["theta_norm"].as_f64().unwrap() / norm - 1.0).abs() < 1e-6, "{name}");
    norm
}

/// As many tensors differ as were merged; all others are the same bits.
fn check_tensors(name: &str, base: &Path, output: &Path, report: &Value) {
    tensors(base, |old| {
        tensors(output, |new| {
            assert_eq!(old.len(), new.len(), "{name}");
            let is_new = |name: &str| old.tensor(name).unwrap() != new.tensor(name).unwrap();
            let changed = old.names().into_iter().filter(|tensor| is_new(tensor)).count();
            assert_eq!(changed as u64, report["merged_tensors"].as_u64().unwrap(), "{name}");
        });
    });
    for file in ["config.json", "generation_config.json"] {
        let (old, new) = (read_json(&base.join(file)), read_json(&output.join(file)));
        assert_eq!(old, new, "{name}: {file}");
    }
}

/// A base, an adapter and an output that a case may spoil.
struct Place {
    base: DemoModel,
    adapter: PathBuf,
    output: PathBuf,
}

impl Place {
    fn adapter_config(&self) -> PathBuf {
        self.adapter.join("adapter_config.json")
    }
}

struct Refusal {
    name: &'static str,
    says: &'static [&'static str],
    /// Spoils something.
    spoil: fn(&mut Place),
}

const REFUSALS: [Refusal; 16] = [
    Refusal {
        name: "into the base",
        says: &["the same folder as", "base", "--output"],
        spoil: |place| place.output = place.base.folder.clone(),
    },
    Refusal {
        name: "below the base",
        says: &["inside", "base"],
        spoil: |place| place.output = place.base.folder.join("merged/here"),
    },
    Refusal {
        name: "into the base through a link",
        says: &["the same folder as", "base"],
        spoil: |place| {
            place.output.set_file_name("link");
            symlink(&place.base.folder, &place.output).unwrap();
        },
    },
    Refusal {
        name: "below the base through a link",
        says: &["inside", "base"],
        spoil: |place| {
            place.output.set_file_name("link");
            symlink(&place.base.folder, &place.output).unwrap();
            place.output.push("merged");
        },
    },
    Refusal {
        name: "into the adapter",
        says: &["the same folder as", "adapter"],
        spoil: |place| place.output = place.adapter.join("../adapter"),
    },
    Refusal {
        name: "into a folder that holds something",
        says: &["is not empty", "notes.txt"],
        spoil: |place| {
            std::fs::create_dir(&place.output).unwrap();
            std::fs::write(place.output.join("notes.txt"), "mine").unwrap();
        },
    },
    Refusal {
        name: "into a file",
        says: &["is a file"],
        spoil: |place| std::fs::write(&place.output, "mine").unwrap(),
    },
    Refusal {
        name: "LoRA",
        says: &["LORA"],
        spoil: |place| {
            let config = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}"#;
            std::fs::write(place.adapter_config(), config).unwrap();
        },
    },
    Refusal {
        name: "fastfood",
        says: &["fastfood"],
        spoil: |place| edit_json(&place.adapter_config(), |json| json["projection_type"] = "fastfood".into()),
    },
    Refusal {
        name: "modules that the model has not",
        says: &["c_attn"],
        spoil: |place| {
            edit_json(&place.adapter_config(), |json| json["target_modules"] = vec!["c_attn"].into());
        },
    },
    Refusal {
        name: "blocks that the model has not",
        says: &["31"],
        spoil: |place| {
            edit_json(&place.adapter_config(), |json| json["layers_to_transform"] = vec![31].into());
        },
    },
    Refusal {
        name: "another d than θ has",
        says: &["2048", "1000"],
        spoil: |place| edit_json(&place.adapter_config(), |json| json["d"] = 1000.into()),
    },
    Refusal {
        name: "no adapter_config.json",
        says: &["adapter_config.json"],
        spoil: |place| std::fs::remove_file(place.adapter_config()).unwrap(),
    },
    Refusal {
        name: "no θ",
        says: &["adapter_model.safetensors"],
        spoil: |place| std::fs::remove_file(place.adapter.join("adapter_model.safetensors")).unwrap(),
    },
    Refusal {
        name: "no weights",
        says: &["model.safetensors"],
        spoil: |place| std::fs::remove_file(place.base.weights()).unwrap(),
    },
    Refusal {
        name: "no config.json",
        says: &["config.json"],
        spoil: |place| std::fs::remove_file(place.base.file("config.json")).unwrap(),
    },
];

#[test]
fn refused_merges_change_nothing() {
    let trained = scratch();
    let adapter = trained.path().join("adapter");
    train(Ranks::Alone, &adapter, &["--max-steps", "1"]);
    for case in &REFUSALS {
        let folder = scratch();
        let mut place = Place {
            base: DemoModel::copy_to(folder.path()),
            adapter: folder.path().join("adapter"),
            output: folder.path().join("merged"),
        };
        std::fs::create_dir(&place.adapter).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter.join(name), place.adapter.join(name)).unwrap();
        }
        (case.spoil)(&mut place);
        let before = snapshot(folder.path());
        let outcome = run(&merge_args(&place.base.folder, &place.adapter, &place.output, &[]));
        check_message(case.name, &outcome, 2, case.says);
        assert_eq!(before, snapshot(folder.path()), "{}: files were changed", case.name);
    }
}

/// Nothing in an adapter tells one model from another of the same modules, but its name.
#[test]
fn an_adapter_of_another_model_is_merged_with_a_warning() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    train(Ranks::Alone, &adapter, &["--max-steps", "1"]);
    let report = merge(&golden("llama/base"), &adapter, &folder.path().join("other"), &[]);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("configs/demo/model") && warnings.contains("same model?"), "{warnings}");
    let report = merge(&demo(), &adapter, &folder.path().join("own"), &["--dtype", "float32"]);
    assert_eq!(report["warnings"], Value::Array(Vec::new()));
}

#[test]
fn a_full_disk_is_met_before_the_merge() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    train(Ranks::Alone, &adapter, &["--max-steps", "1"]);
    let Some(disk) = Mount::tmpfs(folder.path().join("disk"), 3000) else { return };
    let output = disk.folder.join("merged");
    let outcome = run(&merge_args(&demo(), &adapter, &output, &[]));
    check_message("full disk", &outcome, 2, &["needs 36", "bytes are free", text(&disk.folder)]);
    assert!(!output.exists());
    disk.remount("size=8000k");
    merge(&demo(), &adapter, &output, &[]);
}

/// A merge that is killed leaves nothing that loads; the same command then makes it whole.
#[test]
fn killed_merges_leave_no_half_model() {
    let folder = scratch();
    let adapter = folder.path().join("adapter");
    train(Ranks::Alone, &adapter, &["--max-steps", "1"]);
    let merge =
        |name: &str| merge_args(&demo(), &adapter, &folder.path().join(name), &["--dtype", "float32"]);
    run(&merge("whole")).expect_code(0);
    let expected = snapshot(&folder.path().join("whole"));
    let mut unfinished = 0;
    for milliseconds in [0, 3, 6, 12, 24] {
        let name = format!("killed-{milliseconds}");
        let output = folder.path().join(&name);
        let mut running = Running::start(command(Ranks::Alone, &merge(&name)));
        assert!(running.until(|| output.exists()));
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.kill();
        let mut left = snapshot(&output);
        let files = left.len();
        left.retain(|path, _| !path.starts_with(".gpart-merge.tmp"));
        // What makes a model of the files comes last.
        assert!(!output.join("config.json").exists() || left == expected, "{left:?}");
        if left != expected || files > left.len() {
            unfinished += 1;
            run(&merge(&name)).expect_code(0);
        }
        assert_eq!(snapshot(&output), expected);
    }
    assert!(unfinished > 0, "every merge was done before it could be killed");
}
