//! What is downloaded, and how it lies in the cache.

use std::collections::BTreeSet;
use std::fs;

use super::*;

#[test]
fn a_model_is_downloaded_as_huggingface_hub_lays_it_out() {
    let bench = Bench::with_model();
    let mut events = Vec::new();
    let folder = bench
        .hub()
        .model(ID, None, Want::Everything, &mut |event| {
            if let Event::File { name, index, of, done, total } = event {
                events.push((name.to_owned(), index, of, done, total));
            } else if let Event::Start { files, bytes } = event {
                assert_eq!((files, bytes), (4, CONFIG.len() as u64 + 2 + 8 + 300_000));
            }
        })
        .unwrap();
    let commit = bench.server.commit(ID);
    assert_eq!(folder, bench.repo_folder().join("snapshots").join(&commit));
    assert_eq!(fs::read_to_string(bench.repo_folder().join("refs/main")).unwrap(), commit);
    let expect = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(tree(&folder), expect);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    for (name, bytes) in [("config.json", CONFIG), ("model.safetensors", &weights()[..])] {
        let checksum = crate::testing::checksum(name, bytes);
        let target = fs::read_link(folder.join(name)).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(checksum));
    }
    let last = events.last().unwrap();
    assert_eq!(*last, ("model.safetensors".to_owned(), 4, 4, 300_000, 300_000));
    // One list, and each file once.
    let requests = bench.server.requests();
    assert_eq!(requests.iter().filter(|request| !request.is_store).count(), 5, "{requests:?}");
}

#[test]
fn shards_are_those_that_the_index_names() {
    let bench = Bench::new();
    let index = br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}"#;
    bench.server.put_model(
        ID,
        &[
            ("config.json", CONFIG),
            ("consolidated.safetensors", b"0"),
            ("model-1.safetensors", b"1"),
            ("model-2.safetensors", b"2"),
            ("model.safetensors.index.json", index),
        ],
    );
    let folder = bench.model().unwrap();
    let expect =
        ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(tree(&folder), expect);
    let before = bench.server.requests().len();
    assert_eq!(bench.model().unwrap(), folder);
    assert_eq!(bench.server.requests().len(), before);
    // A shard that went is fetched again, alone.
    let shard = folder.join("model-2.safetensors");
    fs::remove_file(fs::canonicalize(&shard).unwrap()).unwrap();
    bench.model().unwrap();
    assert_eq!(fs::read(shard).unwrap(), b"2");
    assert_eq!(bench.server.requests_for("GET", "model-1.safetensors").len(), 1);
}

#[test]
fn less_is_fetched_where_less_is_wanted() {
    let bench = Bench::with_model();
    let fetch = |want| tree(&bench.hub().model(ID, None, want, &mut no_progress).unwrap());
    assert_eq!(fetch(Want::ConfigOnly), ["config.json"]);
    let requests = bench.server.requests().len();
    assert_eq!(fetch(Want::ConfigOnly), ["config.json"]);
    assert_eq!(bench.server.requests().len(), requests);
    assert_eq!(fetch(Want::WithoutWeights), ["config.json", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(fetch(Want::Everything).len(), 4);
    assert_eq!(
        bench.server.requests_for("GET", "config.json").len(),
        2,
        "config.json and tokenizer_config.json"
    );
}

#[test]
fn a_revision_is_a_branch_or_a_commit() {
    let bench = Bench::with_model();
    let commit = bench.server.commit(ID);
    let folder = bench.hub().model(ID, Some(&commit), Want::Everything, &mut no_progress).unwrap();
    assert!(folder.ends_with(&commit));
    assert!(!bench.repo_folder().join("refs").exists());
    let requests = bench.server.requests().len();
    bench.hub().model(ID, Some(&commit), Want::Everything, &mut no_progress).unwrap();
    assert_eq!(bench.server.requests().len(), requests);
}

#[test]
fn a_list_without_sizes_is_completed_by_asking_for_each_file() {
    let bench = Bench::with_model();
    bench.server.hide_sizes(ID);
    let folder = bench.model().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let heads = bench.server.requests_for("HEAD", "/resolve/");
    assert_eq!(heads.len(), 4);
    assert!(heads.iter().all(|request| !request.is_store));
}

#[test]
fn a_dataset_is_its_train_files() {
    let bench = Bench::new();
    bench.server.put_dataset(
        "meta-math/MetaMathQA",
        &[(".gitattributes", b"x"), ("MetaMathQA-395K.json", b"[]"), ("README.md", b"x")],
    );
    bench.server.put_dataset(
        "o/parts",
        &[
            ("data/test-00000-of-00001.parquet", b"t"),
            ("data/train-00001-of-00002.parquet", b"b"),
            ("data/train-00000-of-00002.parquet", b"a"),
            ("README.md", b"x"),
        ],
    );
    let check = |id: &str, expect: &[&str]| {
        let files = bench.hub().dataset(id, None, &mut no_progress).unwrap();
        assert_eq!(files.len(), expect.len());
        for (file, expect) in files.iter().zip(expect) {
            assert!(file.ends_with(expect) && file.is_file(), "{}", file.display());
        }
        let requests = bench.server.requests().len();
        assert_eq!(bench.hub().dataset(id, None, &mut no_progress).unwrap(), files);
        assert_eq!(bench.server.requests().len(), requests);
    };
    check("meta-math/MetaMathQA", &["MetaMathQA-395K.json"]);
    check("o/parts", &["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]);
    assert!(bench.home.path().join("hub/datasets--meta-math--MetaMathQA/refs/main").exists());
}

#[test]
fn the_token_is_for_the_endpoint_alone() {
    let bench = Bench::with_model();
    bench.server.gate(ID, "hf_secret");
    bench.hub_with(&[("HF_TOKEN", "hf_secret")]).model(ID, None, Want::Everything, &mut no_progress).unwrap();
    let requests = bench.server.requests();
    let seen = |is_store: bool| -> BTreeSet<Option<String>> {
        let asked = requests.iter().filter(|request| request.is_store == is_store);
        asked.map(|request| request.authorization.clone()).collect()
    };
    assert_eq!(seen(false), BTreeSet::from([Some("Bearer hf_secret".to_owned())]));
    assert_eq!(seen(true), BTreeSet::from([None]));
}

#[test]
fn equal_files_are_fetched_once() {
    let bench = Bench::new();
    let index = br#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
    let files: [(&str, &[u8]); 4] = [
        ("a.safetensors", b"same"),
        ("b.safetensors", b"same"),
        ("config.json", CONFIG),
        ("model.safetensors.index.json", index),
    ];
    bench.server.put_model(ID, &files);
    let folder = bench.model().unwrap();
    assert_eq!(fs::read(folder.join("b.safetensors")).unwrap(), b"same");
    assert_eq!(bench.server.requests().iter().filter(|request| request.is_store).count(), 1);
}

#[test]
fn files_without_a_byte_need_no_request() {
    let bench = Bench::new();
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("model.safetensors", b"x"), ("merges.txt", b"")];
    bench.server.put_model(ID, &files);
    assert_eq!(fs::read(bench.model().unwrap().join("merges.txt")).unwrap(), b"");
    assert!(bench.server.requests_for("GET", "merges.txt").is_empty());
}
