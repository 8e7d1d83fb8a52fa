#![allow(clippy::unwrap_used)]
use std::path::PathBuf;
use std::sync::Mutex;

use miette::Diagnostic as _;

use super::*;
use crate::TokenizerOptions;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");
const OPTIONS: BuildOptions = BuildOptions { max_seq_length: 64, use_system_prompt: false };

fn tokenizer() -> Tokenizer {
    Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap()
}

fn rows(n: usize) -> Vec<Row> {
    (0..n).map(|i| Row { query: format!("What is {i} + {i}?"), response: "word ".repeat(i % 40) }).collect()
}

fn build(rows: &[Row], options: &BuildOptions, dir: Option<&Path>, threads: usize) -> Result<Dataset> {
    Dataset::build(rows, &tokenizer(), options, dir, &|_, _| {}, threads)
}

fn is_mapped(dataset: &Dataset) -> bool {
    matches!(dataset.store, Store::Mapped { .. })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Every example of the one is that of the other.
fn assert_same(left: &Dataset, right: &Dataset) {
    assert_eq!(left.len(), right.len());
    assert!((0..left.len()).all(|i| left.example(i) == right.example(i)));
    assert_eq!(left.fingerprint(), right.fingerprint());
}

#[test]
fn threads_do_not_change_the_tokens() {
    let rows = rows(1000);
    let one = build(&rows, &OPTIONS, None, 1).unwrap();
    assert_eq!(one.len(), 1000);
    assert_eq!(one.total_tokens(), (0..1000).map(|i| one.example(i).ids.len() as u64).sum::<u64>());
    for threads in [0, 2, 5] {
        assert_same(&one, &build(&rows, &OPTIONS, None, threads).unwrap());
    }
    let single = build(&rows[300..301], &OPTIONS, None, 1).unwrap();
    assert_eq!(single.example(0), one.example(300));
    assert_ne!(single.fingerprint(), one.fingerprint());
}

#[test]
fn reports_progress_to_the_end() {
    let seen = Mutex::new(Vec::new());
    let progress = |done, total| seen.lock().unwrap().push((done, total));
    Dataset::build(&rows(500), &tokenizer(), &OPTIONS, None, &progress, 2).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!((seen.len(), seen[0], seen[4]), (5, (0, 500), (500, 500)));
    assert!(seen.windows(2).all(|calls| calls[0].0 < calls[1].0));
}

#[test]
fn the_second_build_reads_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("a/b");
    let rows = rows(300);
    let first = build(&rows, &OPTIONS, Some(&cache), 2).unwrap();
    assert!(!is_mapped(&first));
    let calls = Mutex::new(Vec::new());
    let progress = |done, total| calls.lock().unwrap().push((done, total));
    let second = Dataset::build(&rows, &tokenizer(), &OPTIONS, Some(&cache), &progress, 2).unwrap();
    assert!(is_mapped(&second));
    assert_same(&first, &second);
    assert_eq!(*calls.lock().unwrap(), [(300, 300)]);
    assert_eq!(files(&cache).len(), 1, "no partial file is left");
}

#[test]
fn anything_that_matters_is_in_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Some(dir.path());
    let base = rows(20);
    assert!(!is_mapped(&build(&base, &OPTIONS, cache, 1).unwrap()));
    let mut moved = base.clone();
    // The same bytes in a row, split differently over its two texts.
    let first = moved[3].query.remove(0);
    moved[2].response.push(first);
    for other in [&base[..19], &moved] {
        assert!(!is_mapped(&build(other, &OPTIONS, cache, 1).unwrap()));
    }
    for other in
        [BuildOptions { max_seq_length: 65, ..OPTIONS }, BuildOptions { use_system_prompt: true, ..OPTIONS }]
    {
        assert!(!is_mapped(&build(&base, &other, cache, 1).unwrap()));
    }
    let eos = TokenizerOptions { eos_token: Some("<|pad|>".into()), vocab_size: None };
    let tokenizer = Tokenizer::load(Path::new(DEMO), eos).unwrap();
    assert!(!is_mapped(&Dataset::build(&base, &tokenizer, &OPTIONS, cache, &|_, _| {}, 1).unwrap()));
    assert!(is_mapped(&build(&base, &OPTIONS, cache, 1).unwrap()));
}

#[test]
fn a_damaged_cache_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(5);
    let good = build(&rows, &OPTIONS, Some(dir.path()), 1).unwrap();
    let path = files(dir.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let tokenizer = tokenizer();
    let check = |bytes: &[u8]| {
        // As a torn file would be: another one under the name, not the mapped one changed.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let build = || Dataset::build(&rows, &tokenizer, &OPTIONS, Some(dir.path()), &|_, _| {}, 1).unwrap();
        let again = build();
        assert!(!is_mapped(&again));
        assert_same(&good, &again);
        assert!(is_mapped(&build()), "the damaged file was replaced");
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    };
    for at in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        check(&bytes);
    }
    for cut in [0, 1, 87, 88, 100, whole.len() - 1] {
        check(&whole[..cut]);
    }
    check(&[&whole[..], &[0]].concat());
    let mut huge = whole.clone();
    huge[80..88].copy_from_slice(&u64::MAX.to_ne_bytes());
    check(&huge);
}

#[test]
fn many_may_build_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(400);
    let plain = build(&rows, &OPTIONS, None, 1).unwrap();
    std::thread::scope(|scope| {
        let builds: Vec<_> =
            (0..8).map(|_| scope.spawn(|| build(&rows, &OPTIONS, Some(dir.path()), 1))).collect();
        for handle in builds {
            assert_same(&plain, &handle.join().unwrap().unwrap());
        }
    });
    assert_eq!(files(dir.path()).len(), 1);
    assert!(is_mapped(&build(&rows, &OPTIONS, Some(dir.path()), 1).unwrap()));
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let rows = rows(3);
    for bad in [file.clone(), file.join("below"), PathBuf::from("/proc/nowhere")] {
        let dataset = build(&rows, &OPTIONS, Some(&bad), 1).unwrap();
        assert!(!is_mapped(&dataset) && dataset.len() == 3);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn bad_input() {
    let error = build(&[], &OPTIONS, None, 1).unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), "input::data_empty");
    let error = build(&rows(1), &BuildOptions { max_seq_length: 0, ..OPTIONS }, None, 1).unwrap_err();
    assert_eq!(error.to_string(), "max-seq-length is 0, but must be at least 1");
}
