//! Output folders and checkpoints that are not this run's.

use std::path::Path;

use crate::harness::{
    Case, Outcome, Ranks, Running, check_bad, check_message, checkpoints, repository, scratch, snapshot,
    train, training,
};

fn try_training(ranks: Ranks, output: &Path, flags: &[&str]) -> Outcome {
    Running::start(training(ranks, output, flags)).finish()
}

/// A folder that holds an adapter which this program did not make.
#[test]
fn an_adapter_of_somebody_elses() {
    let folder = scratch();
    let output = folder.path().join("theirs");
    std::fs::create_dir(&output).unwrap();
    std::fs::copy(repository().join("tests/golden/adapter_config.json"), output.join("adapter_config.json"))
        .unwrap();
    let before = snapshot(folder.path());
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        let outcome = try_training(ranks, &output, &[]);
        check_message("their adapter", &outcome, 2, &["theirs", "adapter_config.json"]);
        assert_eq!(before, snapshot(folder.path()), "files were changed");
    }
}

#[test]
fn files_that_only_look_like_a_run() {
    for (file, content) in
        [("run.json", "{}"), ("run.json", "{\"config\""), ("metrics.jsonl", "{\"step\":1}\n")]
    {
        let folder = scratch();
        let output = folder.path().join("output");
        std::fs::create_dir(&output).unwrap();
        std::fs::write(output.join(file), content).unwrap();
        let before = snapshot(folder.path());
        let outcome = try_training(Ranks::Alone, &output, &[]);
        check_message(content, &outcome, 2, &["output", file]);
        assert_eq!(before, snapshot(folder.path()), "{file} {content}: files were changed");
    }
}

/// A folder of the user's own, with files that no run has, is no obstacle, and they stay.
#[test]
fn other_files_are_left_alone() {
    let folder = scratch();
    std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    train(Ranks::Alone, folder.path(), &["--max-steps", "1"]);
    assert_eq!(std::fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "mine");
}

#[test]
fn an_output_that_is_a_file() {
    for inside in [false, true] {
        let folder = scratch();
        let file = folder.path().join("taken");
        std::fs::write(&file, "mine").unwrap();
        let output = if inside { file.join("output") } else { file.clone() };
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            check_message("a file", &try_training(ranks, &output, &[]), 2, &["taken"]);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        }
    }
}

#[test]
fn checkpoints_that_cannot_be_resumed() {
    let cases = [
        Case {
            name: "no such checkpoint",
            setup: |folder| vec!["--resume".to_owned(), folder.join("gone.ckpt").display().to_string()],
            says: &["gone.ckpt"],
        },
        Case {
            name: "a folder without checkpoints",
            setup: |folder| vec!["--resume".to_owned(), folder.display().to_string()],
            says: &["checkpoint"],
        },
        Case {
            name: "a file that is no checkpoint",
            setup: |folder| {
                std::fs::write(folder.join("text.ckpt"), "hello").unwrap();
                vec!["--resume".to_owned(), folder.join("text.ckpt").display().to_string()]
            },
            says: &["text.ckpt", "not a sound checkpoint"],
        },
    ];
    for case in &cases {
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            check_bad(ranks, case);
        }
    }
}

#[test]
fn a_checkpoint_of_another_run() {
    let folder = scratch();
    let other = folder.path().join("other");
    train(Ranks::Alone, &other, &["--max-steps", "1", "--seed", "9"]);
    let file = checkpoints(&other).pop().unwrap();
    let before = snapshot(folder.path());
    let outcome =
        try_training(Ranks::Mpi(2), &folder.path().join("out"), &["--resume", file.to_str().unwrap()]);
    check_message("another run's", &outcome, 2, &["seed: 9 → 42", "max-steps: 1 → 6"]);
    assert_eq!(before, snapshot(folder.path()), "files were changed");
}

/// A checkpoint that is sound but holds another d than its settings say, or no settings at all.
#[test]
fn a_checkpoint_that_lies() {
    let folder = scratch();
    let output = folder.path().join("output");
    train(Ranks::Alone, &output, &["--max-steps", "1"]);
    let file = checkpoints(&output).pop().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[8..16].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[16..16 + length]).unwrap();
    let forged = |edit: &dyn Fn(&mut serde_json::Value), payload: &[u8]| {
        let mut header = header.clone();
        edit(&mut header);
        let header = header.to_string().into_bytes();
        let parts = [&bytes[..8], &(header.len() as u64).to_le_bytes()[..], &header, payload].concat();
        let hash = *blake3::hash(&parts).as_bytes();
        let path = folder.path().join("forged.ckpt");
        std::fs::write(&path, [parts, hash.to_vec()].concat()).unwrap();
        path
    };
    let payload = &bytes[16 + length..bytes.len() - 32];
    let short = forged(&|h| h["d"] = 4.into(), &payload[..48]);
    let says = ["forged.ckpt"];
    let check = |path: &Path| {
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            let flags = ["--max-steps", "1", "--resume", path.to_str().unwrap()];
            check_message("forged", &try_training(ranks, &folder.path().join("new"), &flags), 2, &says);
        }
    };
    check(&short);
    check(&forged(&|h| h["d"] = serde_json::json!(1u64 << 62), payload));
    check(&forged(&|h| h["meta"] = serde_json::json!({}), payload));
    check(&forged(&|h| h["step"] = serde_json::json!(-1), payload));
    check(&forged(&|h| h["step"] = serde_json::json!(1_000_000), payload));
}
