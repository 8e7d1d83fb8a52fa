//! What is refused, and in which words.

use proptest::prelude::*;

use super::*;
use crate::{Dtype, render, sections};

#[test]
fn bad_values_are_refused_with_value_and_origin() {
    let check = |flag: &str, expect: &str| {
        let error = refusal(Written { flags: &[flag], ..Written::default() });
        assert!(error.starts_with("[input::"), "{error}");
        assert!(error.contains(expect), "{flag}: {error}");
    };
    check("--d=0", "d cannot be \"0\" (flag --d) | give a whole number from 1 to 2147483647");
    check("--d=2147483648", "d cannot be \"2147483648\"");
    check("--d=1e3", "d cannot be \"1e3\"");
    check("--learning-rate=-1e-4", "give a finite number of at least 0");
    check("--learning-rate=nan", "learning-rate cannot be \"nan\"");
    check("--learning-rate=1e999", "learning-rate cannot be");
    check("--dropout=1", "give a number from 0 to below 1");
    check("--dropout=-0.1", "dropout cannot be");
    check("--max-seq-length=0", "max-seq-length cannot be \"0\"");
    check("--micro-batch-size=0", "micro-batch-size cannot be");
    check("--accumulation-steps=0", "accumulation-steps cannot be");
    check("--global-batch-size=0", "global-batch-size cannot be");
    check("--epochs=0", "give a finite number above 0");
    check("--epochs=inf", "epochs cannot be \"inf\"");
    check("--warmup-ratio=-1", "warmup-ratio cannot be");
    check("--weight-decay=-1", "weight-decay cannot be");
    check("--max-grad-norm=-1", "max-grad-norm cannot be");
    check("--save-total-limit=0", "save-total-limit cannot be");
    check("--save-steps=0", "save-steps cannot be");
    check("--logging-steps=0", "logging-steps cannot be");
    check("--eval-batch-size=0", "eval-batch-size cannot be");
    check("--max-samples=0", "max-samples cannot be");
    check("--max-steps=-3", "max-steps cannot be");
    check("--threads=0", "threads cannot be \"0\" (flag --threads) | give a whole number from 1 to 1024");
    check("--dp-replicate=0", "dp-replicate cannot be");
    check("--dp-shard=0", "dp-shard cannot be");
    check("--seed=-1", "seed cannot be");
    check("--proj-seed=x", "give a whole number of at most 128 bits");
    check("--isometric=maybe", "give true or false");
    check("--model=", "give a path or a hub id, not empty");
    check("--eos-token=", "give text that is not empty");
    check("--target-modules=q_proj,,v_proj", "give names separated by commas");
    check("--init-bound=-0.1", "give a finite number of at least 0");
    check("--layers-to-transform=1,-2", "give whole numbers from 0, separated by commas");
    check("--target-modules=all-linear,q_proj", "or all-linear or regex:EXPRESSION alone");
    check("--target-modules=regex:", "or all-linear or regex:EXPRESSION alone");
    check("--validation-split=0", "give a finite number above 0");
    check("--adapter-type=lora", "adapter-type lora is not available: only GPart adapters are built");
    check("--adapter-type=unilora", "adapter-type unilora");
    check("--rank=4", "rank 4 is not available: it belongs to LoRA");
    check("--alpha=4", "alpha 4 is not available");
    check("--eval-steps=5", "eval-steps 5 (flag --eval-steps) has no data to measure | name held-out rows");
    check("--preset=nope", "no preset is called \"nope\" (flag --preset)");
    check("--preset=../p", "as --config ../p");
    check("--config=/no/such/file", "cannot read the settings file /no/such/file");
    check("--bf16=false", "bf16 cannot be \"false\"");
    let long = format!("--model={}", "x".repeat(300));
    check(&long, "more than the 255 of a folder's name");
}

#[test]
fn contradictions_are_refused() {
    let check = |flags: &[&str], expect: &str| {
        let error = refusal(Written { flags, ..Written::default() });
        assert!(error.contains(expect), "{flags:?}: {error}");
    };
    check(&["--bf16", "--fp16"], "fp16 (flag --fp16) and dtype bfloat16 (flag --bf16) disagree");
    check(&["--fp16", "--dtype=float32"], "fp16 (flag --fp16) and dtype float32 (flag --dtype) disagree");
    check(
        &["--global-batch-size=16", "--accumulation-steps=4"],
        "is 8 micro-batches of 2, but accumulation-steps is 4",
    );
    check(
        &["--grouping-strategy=signed_magnitude", "--assignment-backend=stateless"],
        "grouping-strategy signed_magnitude (flag --grouping-strategy) and assignment-backend stateless",
    );
    check(
        &["--grouping-strategy=signed_magnitude", "--dp-shard=2"],
        "needs every weight on every rank, but dp-shard is 2 (flag --dp-shard)",
    );
    check(&["--eval-data=e", "--validation-split=0.1"], "both say what is held out | give one of the two");
    check(
        &["--layers-to-transform=1", "--target-modules=all-linear"],
        "layers-to-transform 1 (flag --layers-to-transform) and target-modules all-linear",
    );
    check(
        &["adapter.d"],
        "d cannot be nothing (override adapter.d) | give a value after it: adapter.d VALUE",
    );
    check(&["adapter.d", "x"], "d cannot be \"x\" (override adapter.d)");
    check(&["adapter.d", "5", "--d=6"], "d is set twice, as \"--d\" and as \"adapter.d\"");
    check(&["16384"], "unknown setting \"16384\" (command line) | settings are given as --name VALUE");
    check(&["adaptor.d", "5"], "sections: adapter, data, training, eval, output, ranks");
    check(&["adapter.dd", "5"], "did you mean adapter.d?");
    check(&["adapter.lr", "5"], "did you mean training.learning-rate?");
    check(&["training.zzzzzz", "5"], "`gpart-dist config metamath` lists all settings");
    check(&["--global-batch-size=7"], "global-batch-size 7 (flag --global-batch-size) is no multiple");
    // A lower layer does not contradict: it is overridden.
    let file = Written { file: Some("bf16 = true"), ..Written::default() };
    assert_eq!(resolved(Written { flags: &["--dtype=float32"], ..file }).config.dtype, Dtype::Float32);
}

#[test]
fn files_and_variables_are_as_strict_as_flags() {
    let check = |text: &str, expect: &str| {
        let error = refusal(Written { file: Some(text), ..Written::default() });
        assert_eq!(error, expect, "{text}");
    };
    let all = "`gpart-dist config metamath` lists all settings";
    check(
        "d = 5\nlearning-rat = 1",
        "[input::unknown_setting] unknown setting \"learning-rat\" (file.toml:2) | did you mean learning-rate?",
    );
    check("zzzzz = 1", &format!("[input::unknown_setting] unknown setting \"zzzzz\" (file.toml:1) | {all}"));
    check(
        "[training]\nd = 1",
        "[input::unknown_setting] unknown setting \"training\" (file.toml:1) | a settings file has no tables: write its keys at the top",
    );
    check(
        "preset = \"p\"",
        "[input::unknown_setting] unknown setting \"preset\" (file.toml:1) | give it as --preset or GPART_PRESET",
    );
    check(
        "d = \"5\"",
        "[input::bad_value] d cannot be \"5\" (file.toml:1) | give a whole number from 1 to 2147483647",
    );
    check(
        "d = 1.5",
        "[input::bad_value] d cannot be 1.5 (file.toml:1) | give a whole number from 1 to 2147483647",
    );
    check("isometric = 1", "[input::bad_value] isometric cannot be 1 (file.toml:1) | give true or false");
    check(
        "model = 5",
        "[input::bad_value] model cannot be 5 (file.toml:1) | give a path or a hub id, not empty",
    );
    check(
        "dropout = nan",
        "[input::bad_value] dropout cannot be nan (file.toml:1) | give a number from 0 to below 1",
    );
    check(
        "target-modules = [1]",
        "[input::bad_value] target-modules cannot be [1] (file.toml:1) | give names separated by commas, or all-linear or regex:EXPRESSION alone",
    );
    check(
        "lr-scheduler-type = \"cosin\"",
        "[input::bad_value] lr-scheduler-type cannot be \"cosin\" (file.toml:1) | give one of cosine, linear, constant, constant_with_warmup",
    );
    check(
        "epochs = 1\nnum_train_epochs = 2",
        "[input::set_twice] epochs is set twice, as \"epochs\" and as \"num_train_epochs\" (file.toml:2) | keep one of the two",
    );
    let error = refusal(Written { file: Some("d = 1\nd = 2\n"), ..Written::default() });
    assert!(error.starts_with("[input::invalid_toml] file.toml:2 is not valid TOML: "), "{error}");

    let check = |environment: &[(&str, &str)], expect: &str| {
        let error = refusal(Written { environment, ..Written::default() });
        assert!(error.contains(expect), "{error}");
    };
    check(&[("GPART_D", "")], "d cannot be \"\" (environment variable GPART_D)");
    check(&[("GPART_LEARNING_RATTE", "1")], "did you mean GPART_LEARNING_RATE?");
    check(&[("GPART_LR", "1"), ("GPART_LEARNING_RATE", "1")], "learning-rate is set twice");
    let config = resolved(Written { environment: &[("GPART_SOMETHING_ELSE", "1")], ..Written::default() });
    assert_eq!(config.warnings, ["GPART_SOMETHING_ELSE is no setting of gpart-dist and has no effect"]);
    let reserved = resolved(Written { environment: &[("GPART_CONFIGS", "x")], ..Written::default() });
    assert!(reserved.warnings.is_empty());
}

#[test]
fn misspelt_flags_and_choices_get_a_suggestion() {
    let check = |flags: &[&str], expect: &str| {
        let error = parse(flags).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(&["--lr-scheduler-type", "cosin"], "cosine");
    check(&["--learning-rat", "1"], "--learning-rate");
    check(&["--learning_rat", "1"], "--learning_rate");
    check(&["--adapter-type", "vera"], "gpart");
}

#[test]
fn settings_without_effect_are_named() {
    let check = |flags: &[&str], expect: &[&str]| assert_eq!(of_flags(flags).warnings, expect, "{flags:?}");
    check(&[], &[]);
    check(
        &["--dataloader-num-workers=4"],
        &[
            "dataloader-num-workers 4 (flag --dataloader-num-workers) has no effect: batches are made without worker \
         processes",
        ],
    );
    check(
        &["--lr-scheduler-type=constant", "--warmup-ratio=0.1"],
        &["warmup-ratio 0.1 (flag --warmup-ratio) has no effect: the constant schedule has no warm-up"],
    );
    check(&["--lr-scheduler-type=constant_with_warmup", "--warmup-ratio=0.1"], &[]);
    check(
        &["--assignment-backend=implicit_stateless_v1"],
        &[
            "assignment-backend implicit_stateless_v1 (flag --assignment-backend) is a deprecated name of stateless",
        ],
    );
}

proptest! {
    /// Whatever a flag, a variable or a file says, the answer is a configuration or an error.
    #[test]
    fn no_text_panics(key in 0..64_usize, text in "\\PC{0,12}|-?[0-9]{1,40}|-?[0-9.]{1,5}e-?[0-9]{1,4}", toml in ".{0,40}") {
        let keys: Vec<_> = sections().iter().flat_map(|section| section.keys).collect();
        let name = keys[key % keys.len()].name;
        let folder = TempDir::new().unwrap();
        let variable = format!("GPART_{}", name.to_ascii_uppercase().replace('-', "_"));
        let line = format!("{name} = {text}");
        for file in [&line, &toml, &format!("{name} = {text:?}")] {
            let _ = resolve_in(&folder, Written { file: Some(file), ..Written::default() });
        }
        let _ = resolve_in(&folder, Written { environment: &[(&variable, &text)], ..Written::default() });
        if let Ok(args) = parse(&[&format!("--{name}={text}")]) {
            let _ = resolve(Task::Train, &args, std::iter::empty(), &[]).map(|resolved| render(&resolved));
        }
    }
}

#[test]
fn a_name_of_any_length_is_refused_at_once() {
    let name = "d".repeat(8 << 20);
    let error = refusal(Written { file: Some(&format!("{name} = 1")), ..Written::default() });
    assert!(error.starts_with("[input::unknown_setting]"), "{}", &error[..100]);
}
