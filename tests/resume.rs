//! What a second start in a folder does.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::harness::{
    DemoModel, Ranks, Running, check_message, checkpoints, edit_json, lines_so_far, read_json, scratch,
    snapshot, thetas, thetas_from, train, training,
};

/// A run killed after it recorded `steps`.
fn killed_after(steps: usize, output: &Path, flags: &[&str]) {
    let mut running = Running::start(training(Ranks::Alone, output, flags));
    assert!(running.until(|| lines_so_far(output) >= steps), "the run ended before");
    running.kill();
}

/// Trains into an output that holds a run, expects a refusal with these words and nothing changed.
fn check_refused(ranks: Ranks, output: &Path, flags: &[&str], says: &[&str]) {
    let before = snapshot(output.parent().unwrap());
    let outcome = Running::start(training(ranks, output, flags)).finish();
    check_message(&format!("{flags:?} on {ranks:?}"), &outcome, 2, says);
    assert_eq!(before, snapshot(output.parent().unwrap()), "{flags:?} changed files");
}

#[test]
fn a_complete_run_is_left_as_it_is() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Mpi(2), &output, &[]);
    let before = snapshot(&output);
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        train(ranks, &output, &[]).expect_text("this run was complete: 6 steps");
        let after = snapshot(&output);
        for file in ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "checkpoints"] {
            assert_eq!(after.get(Path::new(file)), before.get(Path::new(file)), "{file}");
        }
    }
    assert_eq!(read_json(&output.join("run.json"))["summary"]["steps"], 6);
    assert!(read_json(&output.join("run.json"))["summary"]["final_loss"].is_f64());
}

/// Settings are compared as they were typed, to the last bit, after a detour through `run.json`.
#[test]
fn awkward_numbers_are_the_same_the_second_time() {
    for rate in ["9.869604401089358e-6", "1e-23", "0.1", "2.2250738585072014e-308"] {
        let folder = scratch();
        let output = folder.path().join("output");
        let flags = ["--max-steps", "1", "--learning-rate", rate, "--weight-decay", rate];
        train(Ranks::Alone, &output, &flags);
        train(Ranks::Alone, &output, &flags).expect_text("this run was complete");
    }
}

#[test]
fn an_adapter_that_was_removed_comes_back() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &[]);
    let before = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    std::fs::remove_file(output.join("adapter_model.safetensors")).unwrap();
    train(Ranks::Alone, &output, &[]);
    assert_eq!(std::fs::read(output.join("adapter_model.safetensors")).unwrap(), before);
}

/// Spoils the newest checkpoint of a complete run; the one before is used, with a warning, to the same end.
fn with_newest_spoilt(spoil: impl Fn(&mut Vec<u8>)) {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &[]);
    let expected = thetas(&output);
    let newest = checkpoints(&output).pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    spoil(&mut bytes);
    std::fs::write(&newest, bytes).unwrap();
    let outcome = train(Ranks::Alone, &output, &[]);
    let name = newest.file_name().unwrap().to_str().unwrap();
    let warned =
        |line: &str| line.starts_with("warning:") && line.contains(name) && line.contains("one before");
    assert!(outcome.stderr.lines().any(warned), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("resumed after step 5"), "{}", outcome.stdout);
    assert_eq!(thetas(&output), expected);
    train(Ranks::Alone, &output, &[]).expect_text("this run was complete");
}

#[test]
fn a_torn_checkpoint_is_passed_over() {
    with_newest_spoilt(|bytes| bytes.truncate(bytes.len() / 2));
}

#[test]
fn an_empty_checkpoint_is_passed_over() {
    with_newest_spoilt(Vec::clear);
}

#[test]
fn an_altered_checkpoint_is_passed_over() {
    with_newest_spoilt(|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

#[test]
fn with_no_sound_checkpoint_left_nothing_is_touched() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &[]);
    for file in checkpoints(&output) {
        std::fs::write(file, b"GPARTCK1").unwrap();
    }
    let outcome = Running::start(training(Ranks::Alone, &output, &[])).finish();
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("checkpoints") && outcome.stderr.contains("hint:"), "{}", outcome.stderr);
    assert_eq!(lines_so_far(&output), 6, "the metrics are still there");
}

#[test]
fn a_torn_line_of_the_metrics_is_mended() {
    let folder = scratch();
    let (whole, output) = (folder.path().join("whole"), folder.path().join("output"));
    let flags = ["--save-steps", "2"];
    train(Ranks::Alone, &whole, &flags);
    killed_after(3, &output, &flags);
    let mut file = std::fs::File::options().append(true).open(output.join("metrics.jsonl")).unwrap();
    file.write_all(br#"{"step":4,"epoch":0.5,"lo"#).unwrap();
    train(Ranks::Mpi(2), &output, &flags);
    assert_eq!(thetas(&output), thetas(&whole));
}

#[test]
fn no_more_checkpoints_are_kept_than_asked_for() {
    for limit in [1, 3] {
        let folder = scratch();
        let output = folder.path().join("output");
        train(Ranks::Alone, &output, &["--save-total-limit", &limit.to_string()]);
        let names: Vec<PathBuf> =
            checkpoints(&output).iter().map(|p| p.file_name().unwrap().into()).collect();
        let expected: Vec<PathBuf> =
            (7 - limit..=6).map(|step| format!("step-{step:08}.ckpt").into()).collect();
        assert_eq!(names, expected);
        let all = std::fs::read_dir(output.join("checkpoints")).unwrap().count();
        assert_eq!(all, limit, "nothing else is in the folder");
    }
}

#[test]
fn changed_settings_are_all_listed() {
    let folder = scratch();
    let output = folder.path().join("output");
    killed_after(3, &output, &[]);
    let flags =
        ["--d", "1024", "--learning-rate", "0.5", "--seed", "7", "--max-samples", "20", "--no-shuffle"];
    let says = [
        "d: 2048 → 1024",
        "learning-rate: 0.02 → 0.5",
        "seed: 42 → 7",
        "max-samples: 24 → 20",
        "no-shuffle: false → true",
    ];
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        check_refused(ranks, &output, &flags, &says);
    }
    // Each on its own, so that none is missed; the others are not mentioned.
    for (flags, says) in [
        (["--threads", "2"], "threads: 1 → 2"),
        (["--dtype", "bfloat16"], "dtype: float32 → bfloat16"),
        (["--target-modules", "q_proj"], "target-modules: k_proj,o_proj,q_proj,v_proj → q_proj"),
        (["--accumulation-steps", "4"], "accumulation-steps: 3 → 4"),
        (["--dropout", "0"], "dropout: 0.05 → 0"),
        (["--proj-seed", "1"], "proj-seed: 42 → 1"),
        (["--max-steps", "9"], "max-steps: 6 → 9"),
    ] {
        check_refused(Ranks::Alone, &output, &flags, &[says]);
    }
}

#[test]
fn settings_that_do_not_matter_may_change() {
    let folder = scratch();
    let (whole, output) = (folder.path().join("whole"), folder.path().join("output"));
    train(Ranks::Alone, &whole, &[]);
    killed_after(3, &output, &["--save-steps", "2"]);
    let flags =
        ["--save-steps", "1", "--save-total-limit", "4", "--report-to", "none", "--logging-steps", "2"];
    train(Ranks::Mpi(2), &output, &[&flags[..], &["--gradient-checkpointing"]].concat());
    assert_eq!(thetas(&output), thetas(&whole));
}

#[test]
fn threads_and_dtype_are_kept() {
    let folder = scratch();
    let output = folder.path().join("output");
    killed_after(2, &output, &["--threads", "2", "--dtype", "bfloat16"]);
    train(Ranks::Alone, &output, &[]);
    let config = read_json(&output.join("run.json"))["config"].clone();
    assert_eq!((&config["threads"], &config["dtype"]), (&2.into(), &"bfloat16".into()));
    assert_eq!(thetas(&output).len(), 6);
}

#[test]
fn other_content_of_model_or_data_is_noticed() {
    let folder = scratch();
    let output = folder.path().join("output");
    let model = DemoModel::copy_to(folder.path());
    let path = model.folder.to_str().unwrap().to_owned();
    killed_after(2, &output, &["--model", &path]);
    // The demo model elsewhere with the same content is the same run …
    train(Ranks::Alone, &output, &[]);
    // … and with another weight it is not.
    model.edit_bytes(|bytes| *bytes.last_mut().unwrap() ^= 1);
    check_refused(Ranks::Alone, &output, &["--model", &path], &["content of the model"]);
    let data = folder.path().join("rows.json");
    std::fs::copy(crate::harness::repository().join("configs/demo/train.json"), &data).unwrap();
    train(Ranks::Alone, &output, &["--data", data.to_str().unwrap()]).expect_text("was complete");
    edit_json(&data, |rows| rows[0]["response"] = "something else".into());
    check_refused(Ranks::Alone, &output, &["--data", data.to_str().unwrap()], &["content of the data"]);
}

#[test]
fn never_refuses_a_folder_with_a_run() {
    let folder = scratch();
    let output = folder.path().join("output");
    killed_after(3, &output, &[]);
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        check_refused(ranks, &output, &["--resume", "never"], &["output holds a run already", "--output"]);
    }
    train(Ranks::Alone, &folder.path().join("new"), &["--resume", "never"]);
}

#[test]
fn a_checkpoint_continues_in_another_folder() {
    let folder = scratch();
    let whole = folder.path().join("whole");
    train(Ranks::Alone, &whole, &["--save-total-limit", "9"]);
    let expected = thetas(&whole);
    let before = snapshot(&whole);
    let file = whole.join("checkpoints/step-00000004.ckpt");
    let from_file = folder.path().join("from-file");
    train(Ranks::Mpi(2), &from_file, &["--resume", file.to_str().unwrap()]).expect_text("after step 4");
    assert_eq!(thetas_from(&from_file, 5), expected[4..]);
    for (name, source) in [("from-folder", &whole), ("from-checkpoints", &whole.join("checkpoints"))] {
        let output = folder.path().join(name);
        std::fs::remove_file(whole.join("checkpoints/step-00000006.ckpt")).unwrap_or_default();
        train(Ranks::Alone, &output, &["--resume", source.to_str().unwrap()]).expect_text("after step 5");
        assert_eq!(thetas_from(&output, 6), expected[5..]);
    }
    let mut after = snapshot(&whole);
    let gone = Path::new("checkpoints/step-00000006.ckpt");
    after.insert(gone.into(), before[gone].clone());
    assert_eq!(before, after, "the source is only read");
}

/// Going back to an older checkpoint of a folder gives up what came later, so that the folder stays one run.
#[test]
fn going_back_within_a_folder_survives_a_kill() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &["--save-total-limit", "9"]);
    let expected = thetas(&output);
    let file = output.join("checkpoints/step-00000002.ckpt");
    let flags = ["--save-total-limit", "9", "--resume", file.to_str().unwrap()];
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| (3..6).contains(&lines_so_far(&output))));
    running.kill();
    train(Ranks::Alone, &output, &["--save-total-limit", "9"]);
    assert_eq!(thetas(&output), expected);
}

/// The newest checkpoints are those written last, whatever lies in the folder.
#[test]
fn going_back_within_a_folder_keeps_what_it_writes() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &["--save-total-limit", "9"]);
    let expected = thetas(&output);
    let file = folder.path().join("step-2.ckpt");
    std::fs::copy(output.join("checkpoints/step-00000002.ckpt"), &file).unwrap();
    let flags = ["--save-total-limit", "2", "--resume", file.to_str().unwrap()];
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| (4..6).contains(&lines_so_far(&output))));
    running.kill();
    train(Ranks::Alone, &output, &["--save-total-limit", "2"]);
    assert_eq!(thetas(&output), expected);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--max-steps", "40", "--micro-batch-size", "4"];
    let mut first = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(first.until(|| lines_so_far(&output) >= 1));
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let second = Running::start(training(ranks, &output, &flags)).finish();
        check_message("second run", &second, 2, &["another run is active", output.to_str().unwrap()]);
    }
    first.finish().expect_code(0);
    assert_eq!(thetas(&output).len(), 40);
    let alone = folder.path().join("alone");
    train(Ranks::Alone, &alone, &flags);
    assert_eq!(thetas(&output), thetas(&alone));
}

/// A run that goes on from elsewhere stands on its own, even where nothing was left to do, and typing the command of
/// a finished run again changes nothing that it left.
#[test]
fn a_run_continued_elsewhere_has_its_own_state() {
    let folder = scratch();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    train(Ranks::Alone, &first, &[]);
    train(Ranks::Alone, &second, &["--resume", first.to_str().unwrap()]).expect_text("complete");
    assert_eq!(checkpoints(&second).len(), 1);
    let left =
        || ["adapter_model.safetensors", "run.json"].map(|name| std::fs::read(second.join(name)).unwrap());
    let before = left();
    train(Ranks::Alone, &second, &[]).expect_text("complete");
    assert_eq!(left(), before);
}

/// A kill before the first checkpoint costs the steps so far; that is said, and they are made again once.
#[test]
fn steps_without_a_checkpoint_are_made_again() {
    let folder = scratch();
    let output = folder.path().join("output");
    let flags = ["--save-steps", "1000", "--checkpoint-window", "0", "--max-steps", "30"];
    let mut running = Running::start(training(Ranks::Alone, &output, &flags));
    assert!(running.until(|| (2..25).contains(&lines_so_far(&output))));
    running.kill();
    train(Ranks::Alone, &output, &flags).expect_text("no checkpoint was written yet");
    assert_eq!(thetas(&output).len(), 30);
}

/// A run that ended before it had saved anything has nothing to lose: other settings begin anew in its folder, on any
/// number of ranks, and nothing of it is left.
#[test]
fn a_run_that_saved_nothing_gives_way() {
    let folder = scratch();
    let (output, fresh) = (folder.path().join("output"), folder.path().join("fresh"));
    let flags = ["--save-steps", "1000", "--checkpoint-window", "0", "--max-steps", "6"];
    let other = [&flags[..], &["--lr", "1e-3"]].concat();
    killed_after(2, &output, &[&flags[..5], &["300"]].concat());
    train(Ranks::Mpi(2), &output, &other).expect_text("before it had saved anything; starting anew");
    train(Ranks::Alone, &fresh, &other);
    assert_eq!(thetas(&output), thetas(&fresh));
    assert_eq!(read_json(&output.join("run.json"))["config"]["learning-rate"], 1e-3);
    // Now there is something: the first settings are refused.
    check_refused(Ranks::Alone, &output, &flags, &["learning-rate", "--output"]);
}

/// The folders of other programs that write checkpoint-N are not ours to go on in.
#[test]
fn checkpoints_of_another_program_are_left_alone() {
    for name in ["checkpoint-2/optimizer.pt", "checkpoint-40/adapter_config.json", "tokenizer.json"] {
        let folder = scratch();
        let output = folder.path().join("output");
        std::fs::create_dir_all(output.join(name).parent().unwrap()).unwrap();
        std::fs::write(output.join(name), "theirs").unwrap();
        let says = name.split('/').next().unwrap().split('-').next().unwrap();
        check_refused(Ranks::Alone, &output, &[], &[says, "--output"]);
    }
}
