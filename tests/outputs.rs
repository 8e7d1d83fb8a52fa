//! What a run leaves for people and other programs: adapters on the way, the tokenizer, the model card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{
    Mount, Ranks, Running, alone, check_message, checkpoints, lines_so_far, read_json, repository, scratch,
    snapshot, thetas, train, training,
};

/// Steps and folders of the adapters that a run leaves on the way.
fn adapters(output: &Path) -> BTreeMap<u64, PathBuf> {
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok();
    entries.filter_map(|entry| Some((step(&entry.path())?, entry.path()))).collect()
}

/// The steps of the states that stay.
fn states(output: &Path) -> Vec<u64> {
    let step = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".ckpt")?;
        name.parse().ok()
    };
    checkpoints(output).iter().filter_map(step).collect()
}

/// Hash of the θ in an adapter folder, read as any program reads it.
#[track_caller]
fn theta_of(adapter: &Path) -> String {
    let bytes = std::fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let theta = tensors.tensor("base_model.gpart_theta_d").unwrap();
    blake3::hash(theta.data()).to_hex().to_string()
}

/// Each adapter has the configuration of the run and the θ of its step.
#[track_caller]
fn check_adapters(output: &Path, expected: &[String], config: &Value) {
    for (step, folder) in adapters(output) {
        assert_eq!(theta_of(&folder), expected[step as usize - 1], "{}", folder.display());
        assert_eq!(read_json(&folder.join("adapter_config.json")), *config, "{}", folder.display());
    }
}

#[test]
fn adapters_lie_beside_the_states() {
    let folder = scratch();
    let cases: [(&[&str], &[u64]); 4] = [
        (&[], &[5, 6]),
        (&["--save-total-limit", "3"], &[4, 5, 6]),
        (&["--save-steps", "4", "--save-total-limit", "1"], &[6]),
        (&["--save-steps", "4", "--save-total-limit", "9"], &[4, 6]),
    ];
    for (number, (flags, kept)) in cases.iter().enumerate() {
        let ranks = if number == 0 { Ranks::Mpi(2) } else { Ranks::Alone };
        let output = folder.path().join(number.to_string());
        train(ranks, &output, flags);
        assert_eq!(adapters(&output).into_keys().collect::<Vec<_>>(), *kept, "{flags:?}");
        assert_eq!(states(&output), *kept, "{flags:?}");
        check_adapters(&output, &thetas(&output), &read_json(&output.join("adapter_config.json")));
    }
    let last = folder.path().join("0/checkpoint-6");
    let shown = alone(&["inspect", "adapter", last.to_str().unwrap(), "--json"]).expect_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["d"], &shown["theta_blake3"]),
        (&2048.into(), &theta_of(&folder.path().join("0")).into())
    );
}

/// Whenever a run is killed, no adapter is ahead of the state that the run goes on from, each is whole, and the run
/// ends with the same ones.
#[test]
fn adapters_after_a_kill() {
    let folder = scratch();
    let whole = folder.path().join("whole");
    train(Ranks::Alone, &whole, &[]);
    let (expected, config) = (thetas(&whole), read_json(&whole.join("adapter_config.json")));
    type Place = fn(&Path) -> bool;
    let places: [(&str, Place); 4] = [
        ("the third adapter's folder appears", |output| output.join("checkpoint-3").exists()),
        ("half of the fourth adapter appears", |output| {
            output.join("checkpoint-4/adapter_config.json").exists()
        }),
        ("the second state appears", |output| states(output).last() == Some(&2)),
        ("step 5 is recorded", |output| lines_so_far(output) >= 5),
    ];
    for (number, (place, reached)) in places.iter().enumerate() {
        let output = folder.path().join(format!("killed-{number}"));
        let mut running = Running::start(training(Ranks::Alone, &output, &[]));
        assert!(running.until(|| reached(&output)), "the run ended before {place}");
        running.kill();
        let (left, newest) = (adapters(&output), states(&output).pop().unwrap_or(0));
        assert!(left.keys().all(|step| *step <= newest), "{place}: state {newest}, adapters {left:?}");
        for (step, adapter) in left.into_iter().filter(|(step, _)| step + 2 > newest) {
            // Older ones may be on their way out.
            assert_eq!(theta_of(&adapter), expected[step as usize - 1], "{place}: {}", adapter.display());
            assert_eq!(read_json(&adapter.join("adapter_config.json")), config, "{place}");
        }
        train(Ranks::Alone, &output, &[]);
        assert_eq!(adapters(&output).into_keys().collect::<Vec<_>>(), [5, 6], "{place}");
        check_adapters(&output, &expected, &config);
        assert_eq!(thetas(&output), expected, "{place}");
    }
}

/// A state that cannot be written leaves no adapter that is ahead of it; with space again, the run goes on.
#[test]
fn adapters_on_a_disk_that_fills_up() {
    let folder = scratch();
    let output = folder.path().join("output");
    std::fs::create_dir(&output).unwrap();
    // Three states of 26 kB, and no fourth.
    let Some(disk) = Mount::tmpfs(output.join("checkpoints"), 96) else { return };
    let flags = ["--save-total-limit", "9"];
    let outcome = Running::start(training(Ranks::Alone, &output, &flags)).finish();
    check_message("full", &outcome, 1, &["checkpoints/"]);
    assert_eq!(states(&output), [1, 2, 3]);
    assert_eq!(adapters(&output).into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    disk.remount("size=1m");
    train(Ranks::Alone, &output, &flags);
    assert_eq!(adapters(&output).into_keys().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    check_adapters(&output, &thetas(&output), &read_json(&output.join("adapter_config.json")));
}

/// Going back to an earlier state makes the later adapters again, and none of another course stays.
#[test]
fn adapters_after_going_back() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &["--save-total-limit", "4"]);
    let (expected, config) = (thetas(&output), read_json(&output.join("adapter_config.json")));
    let state = output.join("checkpoints/step-00000004.ckpt");
    let flags = ["--save-total-limit", "4", "--resume", state.to_str().unwrap()];
    train(Ranks::Alone, &output, &flags);
    assert_eq!(adapters(&output).into_keys().collect::<Vec<_>>(), [3, 4, 5, 6]);
    check_adapters(&output, &expected, &config);
}

#[test]
fn the_tokenizer_comes_along() {
    let folder = scratch();
    let model = repository().join("configs/demo/model");
    let [plain, other] = ["plain", "other"].map(|name| folder.path().join(name));
    train(Ranks::Mpi(2), &plain, &["--max-steps", "1"]);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            std::fs::read(plain.join(name)).unwrap(),
            std::fs::read(model.join(name)).unwrap(),
            "{name}"
        );
    }
    train(Ranks::Alone, &other, &["--max-steps", "1", "--eos-token", "<|pad|>"]);
    let mut changed = read_json(&other.join("tokenizer_config.json"));
    assert_eq!(changed["eos_token"], "<|pad|>");
    changed["eos_token"] = "<|end_of_text|>".into();
    assert_eq!(changed, read_json(&model.join("tokenizer_config.json")), "nothing else is another");
    assert_eq!(
        std::fs::read(other.join("tokenizer.json")).unwrap(),
        std::fs::read(model.join("tokenizer.json")).unwrap()
    );
}

/// The keys of the YAML between the first two rules, with what follows on their lines.
fn front_matter(card: &str) -> BTreeMap<&str, &str> {
    let (yaml, _) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    // An item of a list is no key.
    let keys = yaml.lines().filter(|line| !line.starts_with('-'));
    keys.filter_map(|line| line.split_once(": ").or_else(|| Some((line.strip_suffix(':')?, "")))).collect()
}

#[test]
fn the_model_card_says_what_was_trained() {
    let folder = scratch();
    let output = folder.path().join("output");
    let typed = ["--model", "configs/demo/model", "--data", "configs/demo/train.json"];
    let held_out = ["--eval-data", "configs/demo/heldout.json", "--max-samples", "12", "--eval-steps", "2"];
    train(Ranks::Mpi(2), &output, &[&typed[..], &held_out].concat());
    let card = std::fs::read_to_string(output.join("README.md")).unwrap();

    let yaml = front_matter(&card);
    assert!(!yaml.contains_key("base_model"), "the hub knows no folder of this machine: {card}");
    for (key, value) in [("library_name", "peft"), ("pipeline_tag", "text-generation"), ("tags", "")] {
        assert_eq!(yaml.get(key), Some(&value), "{card}");
    }

    let run = read_json(&output.join("run.json"));
    let rows: Vec<Vec<&str>> = card
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches('|').count() == 6)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows[0], ["step", "epoch", "training loss", "held-out loss", "learning rate"]);
    assert_eq!(rows.len(), 1 + 7, "one for each step and one for before the first: {card}");
    for (row, line) in rows[2..].iter().zip(crate::harness::metrics(&output)) {
        assert_eq!(row[0], line["step"].to_string());
        assert_eq!(row[2], format!("{:.4}", line["loss"].as_f64().unwrap()));
        let (shown, rate) = (row[4].parse::<f64>().unwrap(), line["learning_rate"].as_f64().unwrap());
        assert!((shown / rate - 1.0).abs() < 1e-3, "{row:?}");
        assert_eq!(!row[3].is_empty(), line["step"].as_u64().unwrap().is_multiple_of(2), "{row:?}");
    }
    let loss = |key: &str| format!("{:.4}", run["summary"][key].as_f64().unwrap());
    let change = format!("{} → {} nats a token", loss("held_out_before"), loss("held_out_after"));
    let merge = "gpart-dist merge --model configs/demo/model --adapter";
    for part in [&change, "2048 trained numbers over 393216", "seed 42", "PeftModel", merge] {
        assert!(card.contains(part), "no {part:?} in\n{card}");
    }

    // Nothing of the machine but what was typed.
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let home = std::env::var("HOME").unwrap_or_default();
    let root = repository();
    for private in [root.to_str().unwrap(), output.to_str().unwrap(), &home, "/tmp"] {
        assert!(private.len() < 2 || !card.contains(private), "{private} is in\n{card}");
    }
    let words = |text: &str| text.split_whitespace().any(|word| word == hostname.trim());
    assert!(!words(&card), "{hostname} is in\n{card}");
}

/// A name with every character that YAML, Markdown and shells take for something else.
#[test]
fn the_model_card_of_a_strange_name() {
    let folder = scratch();
    let model = folder.path().join("it's a \"model\": #1 | `x` {y}\\");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(repository().join("configs/demo/model")).unwrap().flatten() {
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &["--max-steps", "1", "--model", model.to_str().unwrap()]);
    let card = std::fs::read_to_string(output.join("README.md")).unwrap();
    let line = card.lines().find(|line| line.starts_with("gpart-dist merge")).unwrap();
    let words =
        std::process::Command::new("sh").args(["-c", &format!("printf '%s\\n' {line}")]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert_eq!(words.lines().nth(3), model.to_str(), "{line}");
}

/// Somebody's own README.md stays; ours is written again, and typing the command of a finished run changes nothing.
#[test]
fn a_readme_of_ones_own_stays() {
    let folder = scratch();
    let output = folder.path().join("output");
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("README.md"), "my notes\n").unwrap();
    train(Ranks::Alone, &output, &["--max-steps", "1"]);
    assert_eq!(std::fs::read_to_string(output.join("README.md")).unwrap(), "my notes\n");
    std::fs::write(output.join("README.md"), b"\xff\xfe not even text").unwrap();
    train(Ranks::Alone, &output, &["--max-steps", "1"]);
    assert_eq!(std::fs::read(output.join("README.md")).unwrap(), b"\xff\xfe not even text");
    std::fs::remove_file(output.join("README.md")).unwrap();
    train(Ranks::Alone, &output, &["--max-steps", "1"]);
    let mut before = snapshot(&output);
    assert!(before.contains_key(Path::new("README.md")));
    train(Ranks::Alone, &output, &["--max-steps", "1"]);
    let mut after = snapshot(&output);
    for files in [&mut before, &mut after] {
        files.retain(|path, _| !path.starts_with("logs") && !path.starts_with("tensorboard"));
    }
    assert_eq!(before, after);
}
