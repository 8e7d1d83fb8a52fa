//! Every way to choose and group the adapted weights, trained for a few steps: the same bits on any number of ranks
//! and after a kill, the official fields in the adapter, and a start from the adapter that came out.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{
    Ranks, Running, alone, check_message, demo_rows, edit_json, held_out, killed_after, losses, own_training,
    read_json, refused, repository, scratch, thetas, train, train_own, write_pairs,
};

const STEPS: [&str; 4] = ["--max-steps", "4", "--max-samples", "12"];

/// A way to choose and group weights.
struct Method {
    flags: &'static [&'static str],
    /// Fields of `adapter_config.json`; all others are as without the flags.
    fields: fn() -> Value,
    /// Adapted modules and numbers of the model.
    adapted: (u64, u64),
}

impl Method {
    /// Trains alone to the end; on two ranks with a kill, then on two ranks to the end; compares.
    #[track_caller]
    fn check(&self) {
        let folder = scratch();
        let flags = [self.flags, &STEPS].concat();
        let (plain, whole, killed) =
            (folder.path().join("plain"), folder.path().join("whole"), folder.path().join("killed"));
        train_own(Ranks::Alone, &whole, &flags);
        killed_after(Ranks::Mpi(2), 2, &killed, &flags);
        train_own(Ranks::Mpi(2), &killed, &flags);
        assert_eq!(thetas(&killed), thetas(&whole), "{:?}", self.flags);
        assert_eq!(losses(&killed), losses(&whole), "{:?}", self.flags);
        let adapter = |output: &Path| std::fs::read(output.join("adapter_model.safetensors")).unwrap();
        assert!(adapter(&killed) == adapter(&whole), "{:?}", self.flags);

        let run = read_json(&whole.join("run.json"));
        let adapted = (&run["adapted_modules"], &run["adapted_weights"]);
        assert_eq!(adapted, (&json!(self.adapted.0), &json!(self.adapted.1)), "{:?}", self.flags);
        // Against a run of one step without the flags, over the same model and rows.
        let model = ["--model", run["config"]["model"].as_str().unwrap(), "--data"];
        let model = [&model[..], &[run["config"]["data"].as_str().unwrap()], &STEPS, &["--max-steps", "1"]];
        let d = run["config"]["d"].to_string();
        train_own(Ranks::Alone, &plain, &[&model.concat()[..], &["--d", &d]].concat());
        assert_ne!(thetas(&plain)[0], thetas(&whole)[0], "{:?} makes no difference", self.flags);
        let mut expected = read_json(&plain.join("adapter_config.json"));
        for (key, value) in (self.fields)().as_object().unwrap() {
            assert_ne!(&expected[key], value, "{key} is what it is anyway");
            expected[key] = value.clone();
        }
        assert_eq!(read_json(&whole.join("adapter_config.json")), expected, "{:?}", self.flags);
        // What is written is what a reader of the files makes of them.
        let text = alone(&["inspect", "adapter", whole.to_str().unwrap(), "--json"]).expect_code(0).stdout;
        assert!(text.contains(thetas(&whole).last().unwrap()), "{text}");
    }
}

/// Attention's four projections of a block of the demo model: q and o 192 × 192, k and v 64 × 192.
const ATTENTION: u64 = 2 * 192 * 192 + 2 * 64 * 192;

#[test]
fn the_materialized_backend() {
    Method {
        flags: &["--assignment-backend", "materialized"],
        fields: || json!({"assignment_backend": "materialized"}),
        adapted: (16, 4 * ATTENTION),
    }
    .check();
}

#[test]
fn groups_by_sign_and_size() {
    Method {
        flags: &["--grouping-strategy", "signed_magnitude"],
        fields: || json!({"assignment_backend": "materialized", "grouping_strategy": "signed_magnitude"}),
        adapted: (16, 4 * ATTENTION),
    }
    .check();
}

#[test]
fn each_block_by_itself() {
    Method {
        flags: &["--partition-scope", "transformer_block"],
        fields: || json!({"partition_scope": "transformer_block"}),
        adapted: (16, 4 * ATTENTION),
    }
    .check();
}

const QWEN: &str = "tests/golden/architectures/qwen2/base";
const ROWS: &str = "tests/golden/architectures/train.json";

/// Qwen2's q, k and v have biases, 48 + 24 + 24 a block, which then lie in the partition.
#[test]
fn biases() {
    Method {
        flags: &["--model", QWEN, "--data", ROWS, "--d", "1500", "--bias", "all"],
        fields: || json!({"bias": "all"}),
        adapted: (12, 3 * (2 * 48 * 48 + 2 * 24 * 48 + 96)),
    }
    .check();
}

/// Two names of one partition.
#[test]
fn biases_by_their_other_name() {
    let folder = scratch();
    let run = |name: &str, flags: &[&str]| {
        let output = folder.path().join(name);
        let model = ["--model", QWEN, "--data", ROWS, "--d", "1500", "--max-steps", "2"];
        train_own(Ranks::Alone, &output, &[&model, flags].concat());
        (thetas(&output), read_json(&output.join("adapter_config.json"))["bias"].clone())
    };
    let (all, ours) = (run("all", &["--bias", "all"]), run("ours", &["--bias", "gpart_only"]));
    assert_eq!((&all.0, &all.1, &ours.1), (&ours.0, &json!("all"), &json!("gpart_only")));
    assert_ne!(run("none", &[]).0, all.0);
}

/// PEFT writes the names out.
#[test]
fn all_linear_modules() {
    Method {
        flags: &["--target-modules", "all-linear"],
        fields: || {
            let attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| format!("self_attn.{name}"));
            let mlp = ["gate_proj", "up_proj", "down_proj"].map(|name| format!("mlp.{name}"));
            let of_block =
                |block: usize| attention.iter().chain(&mlp).map(move |m| format!("model.layers.{block}.{m}"));
            json!({"target_modules": (0..4).flat_map(of_block).collect::<Vec<_>>()})
        },
        adapted: (28, 4 * (ATTENTION + 3 * 192 * 512)),
    }
    .check();
}

#[test]
fn a_regular_expression() {
    Method {
        flags: &["--target-modules", r"regex:.*layers\.[02]\..*\.(q|down)_proj"],
        fields: || json!({"target_modules": r".*layers\.[02]\..*\.(q|down)_proj"}),
        adapted: (4, 2 * (192 * 192 + 512 * 192)),
    }
    .check();
}

#[test]
fn some_blocks() {
    Method {
        flags: &["--layers-to-transform", "1,3"],
        fields: || json!({"layers_to_transform": [1, 3]}),
        adapted: (8, 2 * ATTENTION),
    }
    .check();
}

#[test]
fn a_start_away_from_zero() {
    Method {
        flags: &["--init-bound", "0.5"],
        fields: || json!({"init_bound": 0.5}),
        adapted: (16, 4 * ATTENTION),
    }
    .check();
}

#[test]
fn without_isometry() {
    Method {
        flags: &["--isometric", "false", "--learning-rate", "1e-3"],
        fields: || json!({"isometric": false}),
        adapted: (16, 4 * ATTENTION),
    }
    .check();
}

fn theta_of(folder: &Path) -> Vec<f32> {
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor("base_model.gpart_theta_d").unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A learning rate of zero leaves θ where it starts: where torch's generator puts it, seeded with `--seed`.
#[test]
fn the_start_is_torchs() {
    let folder = scratch();
    let flags = ["--init-bound", "0.25", "--learning-rate", "0", "--max-steps", "1"];
    train_own(Ranks::Alone, folder.path(), &flags);
    let theta = theta_of(folder.path());
    assert_eq!(theta.len(), 2048);
    assert!(theta.iter().all(|x| x.abs() <= 0.25));
    // `torch.manual_seed(42); torch.rand(6)`
    for (found, uniform) in theta.iter().zip([0.8823, 0.9150, 0.3829, 0.9593, 0.3904, 0.6009]) {
        assert!((found - (uniform * 0.5 - 0.25)).abs() < 1e-4, "{found} is not at {uniform}");
    }
}

/// Rows to train on, rows held out, and an adapter trained with settings that no default gives.
struct Trained {
    folder: tempfile::TempDir,
    flags: Vec<String>,
    adapter: PathBuf,
}

impl Trained {
    fn new(method: &[&str]) -> Self {
        let folder = scratch();
        let eval = folder.path().join("held-out.jsonl");
        write_pairs(&eval, &demo_rows("heldout.json", 4), ["query", "response"]);
        let adapter = folder.path().join("adapter");
        let flags: Vec<String> = STEPS.iter().map(|flag| (*flag).to_owned()).collect();
        let flags = [flags, vec!["--eval-data".to_owned(), eval.to_str().unwrap().to_owned()]].concat();
        let this = Self { folder, flags, adapter };
        train_own(Ranks::Alone, &this.adapter, &this.with(method));
        this
    }

    fn with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.flags.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    /// `--init-adapter ADAPTER`
    fn starting<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.with(&[&["--init-adapter", self.adapter.to_str().unwrap()], more].concat())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn check_continues(method: &[&str], fields: &[&str], contradiction: ([&str; 2], &str)) {
    let trained = Trained::new(method);
    let (whole, killed) = (trained.path("whole"), trained.path("killed"));
    // Another order of rows, so that it does not look like the first training made again.
    let flags = trained.starting(&["--seed", "7"]);
    train_own(Ranks::Alone, &whole, &flags);
    let (first, second) = (held_out(&trained.adapter), held_out(&whole));
    assert_eq!(first[1].1, second[0].1, "the loss goes on where it was");
    assert!(second[1].1 < second[0].1 && first[1].1 < first[0].1, "{first:?} {second:?}");
    killed_after(Ranks::Mpi(2), 2, &killed, &flags);
    train_own(Ranks::Mpi(2), &killed, &flags);
    assert_eq!((thetas(&killed), held_out(&killed)), (thetas(&whole), second));
    let [theirs, ours] =
        [&trained.adapter, &whole].map(|folder| read_json(&folder.join("adapter_config.json")));
    for field in fields {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
    // The settings say where they are from; to repeat them is no contradiction.
    let listing =
        alone(&[&["config", "train", "--data", "x", "--model", "y"], &flags[..]].concat()).expect_code(0);
    let from = format!("the adapter in {}", trained.adapter.display());
    let key = method[0].trim_start_matches("--");
    let line = listing.stdout.lines().find(|line| line.split(' ').next() == Some(key)).unwrap();
    assert!(line.ends_with(&from), "{line}");
    train_own(Ranks::Alone, &whole, &[&flags[..], method].concat()).expect_text("this run was complete");
    // Another value is.
    let ([key, value], says) = contradiction;
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let flags = trained.starting(&[key, value]);
        refused(ranks, &trained.path("none"), &flags, &[says, trained.adapter.to_str().unwrap()]);
    }
}

#[test]
fn training_goes_on_from_a_materialized_adapter() {
    check_continues(
        &["--assignment-backend", "materialized", "--proj-seed", "7", "--layers-to-transform", "0,2"],
        &["assignment_backend", "proj_seed", "layers_to_transform", "target_modules", "d"],
        (["--assignment-backend", "stateless"], "assignment-backend is stateless"),
    );
}

#[test]
fn training_goes_on_from_an_adapter_of_blocks_and_expressions() {
    check_continues(
        &[
            "--partition-scope",
            "transformer_block",
            "--target-modules",
            r"regex:.*\.(q|v)_proj",
            "--grouping-strategy",
            "signed_magnitude",
        ],
        &["partition_scope", "target_modules", "grouping_strategy", "assignment_backend", "d"],
        (["--target-modules", "q_proj,v_proj"], "target-modules is q_proj,v_proj"),
    );
}

/// The official files are read as ours are.
#[test]
fn training_goes_on_from_an_official_adapter() {
    let folder = scratch();
    let golden = repository().join("tests/golden/architectures/qwen2");
    let log = read_json(&golden.join("log.json"));
    let last = log["steps"].as_array().unwrap().last().unwrap()["loss"].as_f64().unwrap();
    let (adapter, output) = (golden.join("adapter"), folder.path().join("output"));
    let flags = ["--model", QWEN, "--data", ROWS, "--d", "1500", "--max-steps", "1", "--dropout", "0"];
    let flags = [&flags[..], &["--learning-rate", "0", "--max-seq-length", "256", "--no-shuffle"]].concat();
    // All rows of the official run at once, so that the loss is one that its last epoch's lie around.
    let rows =
        ["--accumulation-steps", "40", "--train-on", "all", "--init-adapter", adapter.to_str().unwrap()];
    train_own(Ranks::Alone, &output, &[&flags[..], &rows].concat());
    assert_eq!(read_json(&output.join("adapter_config.json"))["proj_seed"], 21);
    assert_eq!(theta_of(&output), theta_of(&adapter), "a learning rate of 0 leaves it as it is");
    let fresh = folder.path().join("fresh");
    train_own(Ranks::Alone, &fresh, &[&flags[..], &rows[..4]].concat());
    let (from_theta, from_zero) = (losses(&output)[0], losses(&fresh)[0]);
    assert!(
        (from_theta - last).abs() < 0.1 && from_theta < from_zero - 0.1,
        "{from_theta} {from_zero} {last}"
    );
}

/// What a run starts from is part of it.
#[test]
fn an_adapter_that_changed_is_noticed() {
    let trained = Trained::new(&[]);
    let output = trained.path("output");
    let flags = trained.starting(&["--seed", "7"]);
    killed_after(Ranks::Alone, 2, &output, &flags);
    let file = trained.adapter.join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let mut other = bytes.clone();
    let last = other.len() - 2;
    other[last] ^= 1;
    std::fs::write(&file, other).unwrap();
    refused(Ranks::Alone, &output, &flags, &["content of the adapter"]);
    refused(Ranks::Alone, &output, &trained.with(&["--seed", "7"]), &["init-adapter: ", "→ none"]);
    std::fs::write(&file, bytes).unwrap();
    train_own(Ranks::Alone, &output, &flags);
}

#[test]
fn adapters_that_training_cannot_start_from() {
    let trained = Trained::new(&[]);
    let config = trained.adapter.join("adapter_config.json");
    let sound = std::fs::read(&config).unwrap();
    let check = |ranks: Ranks, edit: &dyn Fn(&mut Value), flags: &[&str], says: &[&str]| {
        edit_json(&config, |value| edit(value));
        refused(ranks, &trained.path("none"), &trained.starting(flags), says);
        std::fs::write(&config, &sound).unwrap();
    };
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let lora = |value: &mut Value| *value = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16});
        check(ranks, &lora, &[], &["adapter_config.json is not a GPart adapter", "peft_type is LORA"]);
    }
    let alone = Ranks::Alone;
    check(alone, &|value| value["peft_type"] = Value::Null, &[], &["peft_type"]);
    check(alone, &|value| value["projection_type"] = "fastfood".into(), &[], &["projection_type = fastfood"]);
    check(alone, &|value| value["modules_to_save"] = json!(["lm_head"]), &[], &["modules_to_save = lm_head"]);
    check(alone, &|value| value["d"] = 2047.into(), &[], &["2047"]);
    check(alone, &|value| value["target_modules"] = json!(["x_proj"]), &[], &["'x_proj'"]);
    check(alone, &|value| value["layers_to_transform"] = json!([9]), &[], &["block 9"]);
    check(alone, &|_| (), &["--d", "1024"], &["d is 1024 (flag --d), but 2048", "init-adapter"]);
    // A θ that another model's weights do not carry: read it may be, trained on it may not.
    let model = ["--model", QWEN, "--data", ROWS];
    let few = |value: &mut Value| {
        value["target_modules"] = json!(["k_proj"]);
        value["layers_to_transform"] = json!([0]);
    };
    check(alone, &few, &model, &["d = 2048 is larger than the 1152 adapted weights"]);
    refused(alone, &trained.path("none"), &trained.with(&["--init-adapter", "no/such"]), &["no/such"]);
    std::fs::write(trained.adapter.join("adapter_model.safetensors"), b"").unwrap();
    refused(alone, &trained.path("none"), &trained.starting(&[]), &["adapter_model.safetensors"]);
}

/// d counts against what is adapted, whatever chooses it.
#[test]
fn more_numbers_than_weights_are_refused() {
    let folder = scratch();
    let output = folder.path().join("output");
    for (flags, says) in [
        (&["--layers-to-transform", "2"][..], ["d = 98305", "98304"]),
        (&["--layers-to-transform", "2", "--assignment-backend", "materialized"], ["d = 98305", "98304"]),
        (&["--target-modules", r"regex:.*\.3\.self_attn\.\w_proj"], ["d = 98305", "98304"]),
    ] {
        refused(Ranks::Alone, &output, &[flags, &["--d", "98305"]].concat(), &says);
    }
    refused(Ranks::Mpi(2), &output, &["--layers-to-transform", "2", "--d", "98305"], &["98304"]);
    let all = ["--layers-to-transform", "2", "--d", "98304", "--max-steps", "1"];
    train_own(Ranks::Alone, &output, &all);
}

/// `metamath` takes them as `train` does.
#[test]
fn metamath_takes_them_too() {
    let folder = scratch();
    let (ours, own) = (folder.path().join("metamath"), folder.path().join("train"));
    let flags =
        ["--assignment_backend", "legacy_streaming", "--layers_to_transform", "0", "--max-steps", "2"];
    let outcome = train(Ranks::Alone, &ours, &flags);
    assert!(outcome.stderr.contains("deprecated name of materialized"), "{}", outcome.stderr);
    let flags = ["--assignment-backend", "materialized", "--layers-to-transform", "0", "--max-steps", "2"];
    train_own(Ranks::Alone, &own, &[&flags[..], &["--train-on", "all"]].concat());
    assert_eq!(thetas(&own), thetas(&ours));
    let changed = ["--assignment-backend", "stateless", "--train-on", "all"];
    let outcome =
        Running::start(own_training(Ranks::Alone, &own, &[&flags[2..], &changed[..]].concat())).finish();
    check_message("changed", &outcome, 2, &["assignment-backend: materialized → stateless"]);
}
