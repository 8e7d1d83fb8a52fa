//! Merges that do not come to their end.

use std::path::{Path, PathBuf};
use std::process::Command;

use merge::{Base, MergeError, prepare};

use crate::fixture::{
    Loaded, merge, names, options, read_tensors, small, tensors, write_adapter, write_sharded_model,
};

const STAGING: &str = ".gpart-merge.tmp";
const CHILD_FOLDER: &str = "GPART_MERGE_TEST_FOLDER";

/// Not a test of its own: the process that [`a_killed_merge_can_be_run_again`] kills.
#[test]
#[ignore = "the child process of another test"]
fn killed_child() {
    let Ok(room) = std::env::var(CHILD_FOLDER) else { return };
    let room = PathBuf::from(room);
    let adapter = room.join("adapter");
    let loaded = Loaded::read(&room.join("model"), &adapter);
    let kill = |progress: merge::Progress<'_>| {
        if progress.file.contains("00002") {
            std::process::abort();
        }
    };
    let _ = loaded.merge(&options(&room.join("out"), &adapter, None), &kill);
}

#[test]
fn a_killed_merge_can_be_run_again() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter, output) =
        (room.path().join("model"), room.path().join("adapter"), room.path().join("out"));
    write_sharded_model(&base, &tensors("F32"));
    write_adapter(&adapter, 30, 0.5);
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "interrupted::killed_child", "--ignored"])
        .env(CHILD_FOLDER, room.path())
        .output()
        .unwrap();
    assert!(!run.status.success(), "{run:?}");
    assert_eq!(names(&output), [STAGING], "no file has its name yet");
    assert!(names(&output.join(STAGING)).len() > 1);
    // Where it was cut short later, some files have their names; but the last has not.
    std::fs::rename(
        output.join(STAGING).join("model-00001-of-00002.safetensors"),
        output.join("model-00001-of-00002.safetensors"),
    )
    .unwrap();
    merge(&base, &adapter, &output, None).unwrap();
    let mut expect = names(&base);
    expect.retain(|name| name != "README.md");
    assert_eq!(names(&output), expect);
    merge(&base, &adapter, &room.path().join("again"), None).unwrap();
    assert_eq!(read_tensors(&output), read_tensors(&room.path().join("again")));
}

#[test]
fn leftovers_beside_anything_else_are_refused() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    let output = room.path().join("out");
    std::fs::create_dir_all(output.join(STAGING)).unwrap();
    std::fs::write(output.join("thesis.tex"), "years").unwrap();
    let error = merge(&base, &adapter, &output, None).unwrap_err().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert_eq!(names(&output), [STAGING, "thesis.tex"]);
}

#[test]
fn two_merges_into_one_folder() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    let output = room.path().join("out");
    let loaded = Loaded::read(&base, &adapter);
    let second = |_: merge::Progress<'_>| {
        let error = merge(&base, &adapter, &output, None).unwrap_err();
        assert!(matches!(error, MergeError::OutputBusy { .. }), "{error}");
    };
    loaded.merge(&options(&output, &adapter, None), &second).unwrap();
    assert_eq!(names(&output), ["config.json", "model.safetensors", "tokenizer.json"]);
}

/// What appears in the output while the partition is counted is nobody's to remove.
#[test]
fn an_output_that_fills_meanwhile_is_refused() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    let output = room.path().join("out");
    let loaded = Loaded::read(&base, &adapter);
    let whole = Base { files: &loaded.files, config: &loaded.config };
    let plan = prepare(whole, &loaded.adapter, &loaded.space, &options(&output, &adapter, None)).unwrap();
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("config.json"), "mine").unwrap();
    let error = plan.run(&*loaded.assignment, &loaded.scales, &|_| ()).unwrap_err();
    assert!(matches!(error, MergeError::OutputNotEmpty { .. }), "{error}");
    assert_eq!(names(&output), ["config.json"]);
}

/// A small disk of its own, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir(&folder).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).status();
        if mounted.as_ref().is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        let rule = "*".repeat(100);
        #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
        {
            eprintln!("{rule}\nSKIPPED: no tmpfs can be mounted here ({mounted:?})\n{rule}");
        }
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_left_as_it_was() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    let bytes = std::fs::metadata(base.join("model.safetensors")).unwrap().len();
    let Some(disk) = Disk::mount(room.path().join("disk"), 32 * 4096 + bytes) else { return };
    let loaded = Loaded::read(&base, &adapter);
    let fill = |name: &str, bytes: u64| std::fs::write(disk.0.join(name), vec![0; bytes as usize]);
    let run = |output: &Path, fill: &dyn Fn()| {
        let whole = Base { files: &loaded.files, config: &loaded.config };
        let options = options(output, &adapter, None);
        let plan = prepare(whole, &loaded.adapter, &loaded.space, &options)?;
        fill();
        plan.run(&*loaded.assignment, &loaded.scales, &|_| ())
    };
    // It fills between the check and the writing.
    let output = disk.0.join("made/out");
    let error = run(&output, &|| fill("other", 32 * 4096).unwrap()).unwrap_err();
    assert!(matches!(error, MergeError::Write { .. }), "{error}");
    assert_eq!(names(&disk.0), ["other"]);
    // It is full beforehand.
    let error = run(&output, &|| ()).unwrap_err();
    let MergeError::NoSpace { needed, free, .. } = error else { panic!("{error}") };
    assert!(needed > bytes && free < needed, "{needed} {free}");
    assert!(error.to_string().contains(&format!("needs {needed} bytes")));
    assert_eq!(names(&disk.0), ["other"]);
    // With room again, the mount point itself is a fine output once it is empty.
    std::fs::remove_file(disk.0.join("other")).unwrap();
    run(&disk.0, &|| ()).unwrap();
    assert_eq!(names(&disk.0), ["config.json", "model.safetensors", "tokenizer.json"]);
}
