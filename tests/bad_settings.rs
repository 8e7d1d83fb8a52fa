//! Settings that cannot be used.

use std::path::Path;

use crate::harness::{
    Case, Ranks, Running, check_bad, check_message, check_on_ranks, scratch, snapshot, training,
};

macro_rules! flags {
    ($($flag:expr),+ => $($says:expr),+) => {
        Case {
            name: concat!($($flag, " "),+),
            setup: |_| vec![$($flag.to_owned()),+],
            says: &[$($says),+],
        }
    };
}

/// Checked alone and under a launcher.
const EVERYWHERE: [Case; 9] = [
    flags!("--d", "0" => "d cannot be \"0\"", "--d"),
    flags!("--d", "999999" => "d = 999999", "393216"),
    flags!("--target-modules", "q_proj,x_proj" => "'x_proj'", "gate_proj"),
    flags!("--learning-rate", "-0.1" => "learning-rate cannot be \"-0.1\"", "at least 0"),
    flags!("--lr-scheduler-type", "cosin" => "cosin", "cosine"),
    flags!("--leraning-rate", "1e-3" => "--leraning-rate", "--learning-rate"),
    flags!("--max-seq-length", "0" => "max-seq-length cannot be \"0\""),
    flags!("--adapter-type", "lora" => "adapter-type lora", "gpart"),
    flags!("--dp-replicate", "7" => "dp-replicate 7", "= 7 is not the"),
];

const ALONE: [Case; 34] = [
    flags!("--d", "99999999999" => "99999999999"),
    flags!("--d", "many" => "many", "whole number"),
    flags!("--d", "-3" => "-3"),
    flags!("--target-modules", "" => "target-modules"),
    flags!("--target-modules", "q_proj,,k_proj" => "target-modules"),
    flags!("--target-modules", "model.layers.9.self_attn.q_proj" => "layers.9"),
    flags!("--learning-rate", "nan" => "nan"),
    flags!("--learning-rate", "inf" => "inf"),
    flags!("--learning-rate", "1e400" => "1e400"),
    flags!("--adapter-type", "unilora" => "unilora"),
    flags!("--adapter-type", "gprat" => "gprat", "gpart"),
    flags!("--rank", "8" => "rank 8"),
    flags!("--alpha", "16" => "alpha 16"),
    flags!("--dropout", "1" => "dropout", "\"1\""),
    flags!("--dropout", "-0.1" => "dropout"),
    flags!("--init-bound", "-0.1" => "init-bound"),
    flags!("--assignment-backend", "stateless", "--grouping-strategy", "signed_magnitude" => "assignment-backend stateless", "materialized"),
    flags!("--max-steps", "0" => "max-steps"),
    flags!("--epochs", "0" => "epochs"),
    flags!("--epochs", "-1" => "epochs"),
    flags!("--micro-batch-size", "0" => "micro-batch-size"),
    flags!("--accumulation-steps", "0" => "accumulation-steps"),
    flags!("--global-batch-size", "7" => "global-batch-size 7", "micro-batch-size 2"),
    flags!("--max-samples", "0" => "max-samples"),
    flags!("--save-steps", "0" => "save-steps"),
    flags!("--eval-steps", "5" => "eval-steps 5", "--eval-data"),
    flags!("--threads", "0" => "threads"),
    flags!("--comm", "pigeon" => "pigeon", "nccl", "mpi"),
    flags!("--dtype", "int8" => "int8", "float32"),
    flags!("--bf16", "--dtype", "float16" => "bf16", "float16"),
    flags!("--preset", "dmeo" => "dmeo", "demo"),
    flags!("--eos-token", "<nope>" => "<nope>", "tokenizer.json"),
    flags!("--isometric", "maybe" => "maybe"),
    flags!("--proj-seed", "999999999999999999999999999999999999999999" => "proj-seed"),
];

#[test]
fn on_every_number_of_ranks() {
    check_on_ranks(&EVERYWHERE);
}

#[test]
fn alone() {
    ALONE.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

/// A settings file of these lines.
fn file(lines: &str, says: &[&str], flag: &str) {
    let folder = scratch();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, lines).unwrap();
    let before = snapshot(folder.path());
    let mut command = training(Ranks::Alone, &folder.path().join("out"), &[]);
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = crate::harness::command(Ranks::Alone, &[&args[..1], &args[3..]].concat());
    command.arg(flag).arg(&path);
    let outcome = Running::start(command).finish();
    check_message(lines, &outcome, 2, says);
    assert_eq!(before, snapshot(folder.path()), "{lines}");
}

#[test]
fn in_files() {
    file(
        "d = 10\nlearning-rat = 1e-3\n",
        &["\"learning-rat\"", "settings.toml", "2", "learning-rate"],
        "--config",
    );
    file("d = 10\nlearning-rate = \n", &["settings.toml:2"], "--config");
    file("d = \"ten\"\n", &["d cannot be", "ten", "settings.toml"], "--config");
    file("learning-rate = -1.0\n", &["learning-rate cannot be -1.0", "settings.toml"], "--config");
    file("d = 10\nd = 11\n", &["settings.toml:2"], "--config");
    file("target-modules = []\n", &["target-modules"], "--config");
    file("config = \"other.toml\"\n", &["config"], "--config");
    file("[a]\nd = 3\n", &["settings.toml"], "--config");
    file("model = \"nowhere/to/be/found\"\n", &["nowhere/to/be/found", "config.json"], "--config");
}

#[test]
fn a_settings_file_that_is_missing() {
    let case = Case {
        name: "missing settings file",
        setup: |_| vec!["--preset".to_owned(), "no/such/preset".to_owned()],
        says: &["no/such/preset"],
    };
    check_bad(Ranks::Alone, &case);
    let folder = scratch();
    let path = folder.path().join("none.toml");
    let args = ["metamath", "--config", path.to_str().unwrap()];
    let outcome = crate::harness::alone(&args);
    check_message("missing settings file", &outcome, 2, &["none.toml"]);
}

#[test]
fn in_the_environment() {
    for (name, value, says) in [
        ("GPART_LEARNING_RATE", "-1", ["GPART_LEARNING_RATE", "-1"]),
        ("GPART_LEARNING_RAT", "1", ["GPART_LEARNING_RAT", "GPART_LEARNING_RATE?"]),
        ("GPART_LR_SCHEDULER_TYPE", "cosin", ["GPART_LR_SCHEDULER_TYPE", "cosine"]),
        ("GPART_D", "0", ["GPART_D", "\"0\""]),
    ] {
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            let folder = scratch();
            let mut command = training(ranks, Path::new(&folder.path().join("out")), &[]);
            command.env(name, value);
            check_message(name, &Running::start(command).finish(), 2, &says);
            assert!(snapshot(folder.path()).is_empty());
        }
    }
}

/// No command, an unknown command, a flag without its value: clap's own words, once, with exit code 2.
#[test]
fn command_lines_that_say_nothing() {
    for args in [&["metamaht"][..], &["metamath", "--d"], &["inspect", "everything"], &["config", "x"]] {
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            let outcome = Running::start(crate::harness::command(ranks, args)).finish();
            assert_eq!(outcome.code, Some(2), "{args:?}: {}", outcome.stderr);
            assert_eq!(outcome.stderr.matches("error:").count(), 1, "{args:?}: {}", outcome.stderr);
        }
    }
}
