//! What is in the cache already, from here or from `huggingface_hub`.

use std::fs;

use super::*;
use crate::testing::Fault;

const COMMIT: &str = "89abcdef0189abcdef0189abcdef0189abcdef01";

/// A snapshot as another program leaves it.
fn put(bench: &Bench, repo: &str, files: &[&str]) -> PathBuf {
    let repo = bench.home.path().join("hub").join(repo);
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    let snapshot = repo.join("snapshots").join(COMMIT);
    for name in files {
        let path = snapshot.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }
    snapshot
}

const MODEL: &str = "models--owner--tiny";
const WHOLE: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn the_second_call_asks_nobody() {
    let bench = Bench::with_model();
    let folder = bench.model().unwrap();
    let requests = bench.server.requests().len();
    // Not even for a branch that has moved on.
    bench.server.put_model(ID, &[("config.json", b"other")]);
    let mut events = 0;
    let again = bench.hub().model(ID, None, Want::Everything, &mut |_| events += 1).unwrap();
    assert_eq!((again, events), (folder.clone(), 0));
    assert_eq!(bench.server.requests().len(), requests);
    let offline = bench.hub_with(&[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.model(ID, None, Want::Everything, &mut no_progress).unwrap(), folder);
}

#[test]
fn what_huggingface_hub_downloaded_is_found() {
    let bench = Bench::new();
    let folder = put(&bench, MODEL, &WHOLE);
    assert_eq!(bench.model().unwrap(), folder);
    assert!(bench.server.requests().is_empty());
}

#[test]
fn what_may_be_incomplete_is_asked_for_and_used_where_nobody_answers() {
    let bench = Bench::new();
    let folder = put(&bench, MODEL, &WHOLE[..3]);
    let offline = bench.hub_with(&[("HF_HUB_OFFLINE", "true")]);
    assert_eq!(offline.model(ID, None, Want::Everything, &mut no_progress).unwrap(), folder);
    assert!(bench.server.requests().is_empty());
    assert_eq!(bench.model().unwrap(), folder);
    // Not as `main` is now, but as it was.
    assert_eq!(bench.server.requests()[0].path, format!("/api/models/{ID}/revision/{COMMIT}?blobs=true"));

    let data = put(&bench, "datasets--o--d", &["a.jsonl"]);
    bench.server.fail("o/d", 9, Fault::Answer(500, Vec::new(), String::new()));
    let files = bench.hub().dataset("o/d", None, &mut no_progress).unwrap();
    assert_eq!(files, [data.join("a.jsonl")]);
}

#[test]
fn offline_and_missing_says_what_and_what_to_do() {
    let bench = Bench::with_model();
    let offline = bench.hub_with(&[("HF_HUB_OFFLINE", "1")]);
    let model = || offline.model(ID, None, Want::Everything, &mut no_progress).unwrap_err();
    assert_told(
        &model(),
        &["[input::hub_offline]", ID, "main", "missing: everything", "hf download owner/tiny"],
    );
    put(&bench, MODEL, &["config.json", "tokenizer.json"]);
    assert_told(&model(), &["missing: model.safetensors"]);
    put(&bench, "datasets--o--d", &["data/train-00000-of-00002.parquet"]);
    let error = offline.dataset("o/d", None, &mut no_progress).unwrap_err();
    assert_told(&error, &["dataset o/d", "train split", "hf download --repo-type dataset o/d"]);
    assert!(bench.server.requests().is_empty());
}

#[test]
fn an_index_cannot_name_files_elsewhere_as_there() {
    let bench = Bench::with_model();
    let folder = put(&bench, MODEL, &["config.json", "tokenizer.json", "tokenizer_config.json"]);
    fs::write(folder.join("model.safetensors.index.json"), r#"{"weight_map": {"a": "../../refs/main"}}"#)
        .unwrap();
    let offline = bench.hub_with(&[("HF_HUB_OFFLINE", "1")]);
    let error = offline.model(ID, None, Want::Everything, &mut no_progress).unwrap_err();
    assert_told(&error, &["missing: ../../refs/main"]);
}

#[test]
fn a_cache_that_is_complete_needs_no_right_to_write() {
    let bench = Bench::new();
    let folder = put(&bench, MODEL, &WHOLE);
    // Whoever runs the tests as root may write anywhere, so a file stands where the locks' folder would be.
    fs::write(bench.home.path().join("hub/.locks"), "").unwrap();
    assert_eq!(bench.model().unwrap(), folder);
    fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    assert_eq!(bench.model().unwrap(), folder, "usable");
    fs::remove_file(folder.join("config.json")).unwrap();
    assert_told(&bench.model().unwrap_err(), &["[input::hub_cache]", ".locks", "HF_HOME"]);
}

#[test]
fn a_file_system_without_links_gets_plain_files() {
    let bench = Bench::with_model();
    let folder = bench.model().unwrap();
    for name in tree(&folder) {
        let path = folder.join(name);
        let blob = fs::canonicalize(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::rename(blob, path).unwrap();
    }
    fs::remove_file(bench.repo_folder().join("refs/main")).unwrap();
    bench.model().unwrap();
    assert_eq!(bench.server.requests_for("GET", "/resolve/").len(), 4, "no file twice");
}
