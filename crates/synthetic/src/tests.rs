#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;

use super::*;

fn tensors() -> Vec<Tensor> {
    let tensor =
        |name: &str, shape: &[u64], fill| Tensor { name: name.to_owned(), shape: shape.to_vec(), fill };
    vec![
        tensor("embedding", &[100, 8], Fill::Normal(0.02)),
        tensor("norm", &[8], Fill::Ones),
        // Longer than a piece.
        tensor("large", &[3, 400_000], Fill::Normal(0.02)),
        tensor("bias", &[5], Fill::Zeros),
        tensor("none", &[0, 5], Fill::Ones),
    ]
}

fn make(output: &Path, seed: u64, shard_bytes: u64) -> Result<Written, SyntheticError> {
    let tensors = tensors();
    write(&Folder { output, config: "{}", copied: &[], tensors: &tensors, seed, shard_bytes }, &|_| ())
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(p).unwrap()))
        .collect()
}

/// All tensors of a folder's shards: type, shape and bytes.
fn stored(folder: &Path) -> BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)> {
    let shards = files(folder).into_iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let mut all = BTreeMap::new();
    for (_, bytes) in shards {
        let shard = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in shard.iter() {
            all.insert(name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    all
}

#[test]
fn the_files_are_whole_and_do_not_depend_on_the_shards() {
    let room = tempfile::tempdir().unwrap();
    let (one, many) = (room.path().join("one"), room.path().join("a/b/many"));
    let written = make(&one, 0, 1 << 30).unwrap();
    assert_eq!(written.files, ["config.json", "model-00001-of-00001.safetensors", layout::INDEX]);
    assert_eq!(files(&one).len(), 3, "nothing else");
    assert_eq!(written.bytes, files(&one).values().map(|bytes| bytes.len() as u64).sum::<u64>());
    let found = stored(&one);
    for tensor in tensors() {
        let (dtype, shape, bytes) = &found[&tensor.name];
        assert_eq!(*dtype, safetensors::Dtype::BF16);
        assert_eq!(shape.iter().map(|size| *size as u64).collect::<Vec<_>>(), tensor.shape);
        let mut expected = vec![0; tensor.bytes() as usize];
        numbers::fill(tensor.fill, numbers::key(0, &tensor.name), 0, &mut expected);
        assert!(*bytes == expected, "{}", tensor.name);
    }
    // A limit that the first two fill exactly, then one that is longer than any file may be.
    assert_eq!(make(&many, 0, 1616).unwrap().files.len(), 5);
    assert_eq!(stored(&many), found);
    let index: serde_json::Value = serde_json::from_slice(&files(&many)[layout::INDEX]).unwrap();
    assert_eq!(index["weight_map"]["norm"], "model-00001-of-00003.safetensors");
    assert_eq!(index["weight_map"]["large"], "model-00002-of-00003.safetensors");
    assert_eq!(index["metadata"]["total_size"], 1616 + 2_400_000 + 10);
}

#[test]
fn the_seed_alone_decides() {
    let room = tempfile::tempdir().unwrap();
    let path = |name: &str| room.path().join(name);
    for (name, seed) in [("a", 3), ("b", 3), ("c", 4)] {
        make(&path(name), seed, 1 << 20).unwrap();
    }
    assert_eq!(files(&path("a")), files(&path("b")));
    let differs = |name: &str| stored(&path("a"))[name] != stored(&path("c"))[name];
    assert_eq!(["embedding", "large", "norm", "bias"].map(differs), [true, true, false, false]);
}

#[test]
fn what_an_unfinished_run_left_is_taken_over() {
    let room = tempfile::tempdir().unwrap();
    let staging = room.path().join(".gpart-random-model.tmp");
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(staging.join("model-00001-of-00001.safetensors"), "torn").unwrap();
    std::fs::write(room.path().join("config.json"), "old").unwrap();
    make(room.path(), 0, 1 << 30).unwrap();
    assert_eq!(files(room.path()).len(), 3);
    assert_eq!(files(room.path())["config.json"], b"{}");
}

#[test]
fn outputs_that_are_refused_stay_as_they_were() {
    let room = tempfile::tempdir().unwrap();
    let path = |name: &str| room.path().join(name);
    std::fs::create_dir(path("full")).unwrap();
    std::fs::write(path("full/config.json"), "theirs").unwrap();
    std::fs::write(path("file"), "theirs").unwrap();
    let said = |name: &str| make(&path(name), 0, 1 << 30).unwrap_err().to_string();
    assert!(said("full").contains("is not empty: it holds config.json"));
    for name in ["file", "file/below"] {
        assert!(said(name).contains("cannot be a folder"), "{}", said(name));
    }
    assert_eq!(files(&path("full"))["config.json"], b"theirs");
    assert_eq!(std::fs::read(path("file")).unwrap(), b"theirs");
    // While another process is at work there.
    let staging = path("busy/.gpart-random-model.tmp");
    std::fs::create_dir_all(&staging).unwrap();
    let lock = std::fs::File::create(staging.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(make(&path("busy"), 0, 1 << 30), Err(SyntheticError::OutputBusy { .. })));
}

#[test]
fn a_disk_that_is_too_small_is_found_before_anything_is_written() {
    let room = tempfile::tempdir().unwrap();
    let output = room.path().join("out");
    let huge = Tensor { name: "w".to_owned(), shape: vec![1 << 30, 1 << 30], fill: Fill::Zeros };
    let folder =
        Folder { output: &output, config: "{}", copied: &[], tensors: &[huge], seed: 0, shard_bytes: 1 };
    match write(&folder, &|_| ()) {
        Err(SyntheticError::NoSpace { needed, free, .. }) => assert!(needed > 1 << 61 && free < needed),
        other => panic!("{other:?}"),
    }
    assert!(!output.exists());
}

#[test]
fn a_tokenizer_that_cannot_be_read_leaves_nothing_behind() {
    let room = tempfile::tempdir().unwrap();
    let output = room.path().join("out");
    let copied = [room.path().join("tokenizer.json")];
    let folder =
        Folder { output: &output, config: "{}", copied: &copied, tensors: &[], seed: 0, shard_bytes: 1 };
    assert!(matches!(write(&folder, &|_| ()), Err(SyntheticError::Read { .. })));
    assert!(!output.exists());
}

#[test]
fn shapes_are_known_by_name() {
    for name in NAMES {
        assert_eq!(config_of(&name.to_uppercase()).unwrap(), config_of(name).unwrap());
        serde_json::from_str::<serde_json::Value>(config_of(name).unwrap()).unwrap();
    }
    let error = config_of("Llama-4").unwrap_err();
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(NAMES.iter().all(|name| help.contains(name)), "{help}");
}
