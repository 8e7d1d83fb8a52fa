//! Disks that are full or read-only, and runs that go wrong on the way. Nothing that was saved is lost.

use std::path::Path;

use crate::harness::{
    DemoModel, Mount, Ranks, Running, alone, check_message, checkpoints, lines_so_far, scratch, snapshot,
    thetas, train, training,
};

/// Names of the checkpoints that verify.
fn sound(output: &Path) -> Vec<String> {
    let is_sound = |file: &&std::path::PathBuf| {
        alone(&["inspect", "checkpoint", file.to_str().unwrap()]).code == Some(0)
    };
    let files = checkpoints(output);
    files.iter().filter(is_sound).map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Fills what is left of a disk.
fn fill(folder: &Path) {
    let file = std::fs::File::create(folder.join("ballast")).unwrap();
    let mut size = 1 << 22;
    let mut written = 0;
    while size >= 1 {
        let block = vec![0u8; size];
        while std::os::unix::fs::FileExt::write_all_at(&file, &block, written).is_ok() {
            written += size as u64;
        }
        size /= 2;
    }
}

/// The disk fills up on the way: exit 1, the last checkpoint is sound, and with room again the run goes on.
#[test]
fn a_disk_that_fills_up() {
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        let folder = scratch();
        // A checkpoint has about 26 kB, so the third does not fit beside two kept ones.
        let Some(disk) = Mount::tmpfs(folder.path().join("disk"), 100) else { return };
        let whole = folder.path().join("whole");
        train(Ranks::Alone, &whole, &["--save-total-limit", "9"]);
        let output = disk.folder.join("output");
        let flags = ["--save-total-limit", "9"];
        let outcome = Running::start(training(ranks, &output, &flags)).finish();
        check_message("a full disk", &outcome, 1, &["cannot write", "No space left", "output"]);
        let left = sound(&output);
        assert!(!left.is_empty(), "no checkpoint is left");
        assert_eq!(left.len(), checkpoints(&output).len(), "a torn checkpoint is left");
        let temporary = snapshot(&output).into_keys().filter(|p| p.to_str().unwrap().contains(".tmp"));
        assert_eq!(temporary.count(), 0, "half-written files are left");
        // Still full: again exit 1, and what was there is there.
        fill(&disk.folder);
        let recorded = lines_so_far(&output);
        let outcome = Running::start(training(ranks, &output, &flags)).finish();
        check_message("still full", &outcome, 1, &["cannot write"]);
        assert_eq!(sound(&output), left);
        assert!(lines_so_far(&output) >= left.len().min(recorded), "recorded steps are lost");
        disk.remount("size=4m");
        train(ranks, &output, &flags);
        assert_eq!(thetas(&output), thetas(&whole), "{ranks:?}");
    }
}

/// A disk that is full before the first byte.
#[test]
fn a_disk_that_is_full_from_the_start() {
    let folder = scratch();
    let Some(disk) = Mount::tmpfs(folder.path().join("disk"), 64) else { return };
    fill(&disk.folder);
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let outcome = Running::start(training(ranks, &disk.folder.join("output"), &[])).finish();
        check_message("a full disk", &outcome, 1, &["cannot write", "No space left"]);
    }
    std::fs::remove_file(disk.folder.join("ballast")).unwrap();
    disk.remount("size=4m");
    train(Ranks::Alone, &disk.folder.join("output"), &[]);
}

#[test]
fn a_read_only_disk() {
    let folder = scratch();
    let Some(disk) = Mount::tmpfs(folder.path().join("disk"), 4096) else { return };
    let output = disk.folder.join("output");
    let mut running = Running::start(training(Ranks::Alone, &output, &[]));
    assert!(running.until(|| lines_so_far(&output) >= 3));
    running.kill();
    disk.remount("ro");
    let before = snapshot(&disk.folder);
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        for output in [&output, &disk.folder.join("new")] {
            let outcome = Running::start(training(ranks, output, &[])).finish();
            check_message("a read-only disk", &outcome, 1, &["cannot write", "Read-only file system"]);
        }
    }
    assert_eq!(before, snapshot(&disk.folder));
    disk.remount("rw");
    train(Ranks::Alone, &output, &[]);
    let whole = folder.path().join("whole");
    train(Ranks::Alone, &whole, &[]);
    assert_eq!(thetas(&output), thetas(&whole));
}

/// The cache of tokens is a convenience: without room for it a run still runs.
#[test]
fn a_full_or_missing_cache() {
    let folder = scratch();
    let Some(disk) = Mount::tmpfs(folder.path().join("disk"), 8) else { return };
    fill(&disk.folder);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (number, cache) in [&disk.folder, &file].into_iter().enumerate() {
        let mut command =
            training(Ranks::Mpi(2), &folder.path().join(number.to_string()), &["--max-steps", "1"]);
        command.env("XDG_CACHE_HOME", cache);
        Running::start(command).finish().expect_code(0);
    }
    let mut command = training(Ranks::Alone, &folder.path().join("homeless"), &["--max-steps", "1"]);
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    Running::start(command).finish().expect_code(0);
}

/// A weight that is not a number makes the first loss one: no update, exit 1, and the rank is named.
#[test]
fn a_model_with_nan() {
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        let folder = scratch();
        let model = DemoModel::copy_to(folder.path());
        // bfloat16's quiet NaN as the last element of the last tensor.
        model.edit_bytes(|bytes| {
            let end = bytes.len();
            bytes[end - 2..].copy_from_slice(&0x7fc0u16.to_le_bytes());
        });
        let output = folder.path().join("output");
        let flags = ["--model", model.folder.to_str().unwrap()];
        let outcome = Running::start(training(ranks, &output, &flags)).finish();
        check_message("NaN in the model", &outcome, 1, &["step 1", "NaN", "rank 0"]);
        assert!(checkpoints(&output).is_empty());
        assert_eq!(lines_so_far(&output), 0);
    }
}

/// A learning rate that blows θ up: the run stops, and the checkpoints before it are sound.
#[test]
fn a_learning_rate_that_explodes() {
    for ranks in [Ranks::Alone, Ranks::Mpi(2), Ranks::Mpi(3)] {
        let folder = scratch();
        let output = folder.path().join("output");
        let outcome = Running::start(training(ranks, &output, &["--learning-rate", "1e30"])).finish();
        check_message("lr 1e30", &outcome, 1, &["step 2", "learning-rate"]);
        assert_eq!(sound(&output), ["step-00000001.ckpt"]);
        assert_eq!(thetas(&output).len(), 1);
        assert!(!output.join("adapter_model.safetensors").exists());
        // Again: the same failure, and still nothing lost.
        let outcome = Running::start(training(ranks, &output, &["--learning-rate", "1e30"])).finish();
        check_message("lr 1e30 again", &outcome, 1, &["step 2"]);
        assert_eq!(sound(&output), ["step-00000001.ckpt"]);
    }
}

/// An update that is not finite is never saved, also where no further step would notice it.
#[test]
fn an_update_that_is_not_finite() {
    for flags in [["--learning-rate", "1e39"], ["--weight-decay", "1e300"]] {
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            let folder = scratch();
            let output = folder.path().join("output");
            let flags = [&flags[..], &["--max-steps", "1"]].concat();
            let outcome = Running::start(training(ranks, &output, &flags)).finish();
            check_message(flags[0], &outcome, 1, &["step 1"]);
            assert!(checkpoints(&output).is_empty() && !output.join("adapter_model.safetensors").exists());
        }
    }
}
