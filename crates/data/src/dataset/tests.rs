#![allow(clippy::unwrap_used)]
use std::path::PathBuf;
use std::sync::Mutex;

use miette::Diagnostic as _;

use super::*;
use crate::{Content, Message, Role, Row, TokenizerOptions};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo/model");
const OPTIONS: BuildOptions = BuildOptions { max_seq_length: 64, train_on: TrainOn::All };

fn tokenizer() -> Tokenizer {
    Tokenizer::load(Path::new(DEMO), TokenizerOptions::default()).unwrap()
}

fn list(n: usize) -> Vec<Row> {
    (0..n).map(|i| Row::pair(format!("What is {i} + {i}?"), "word ".repeat(i % 40))).collect()
}

fn rows(n: usize) -> Rows {
    Rows::new(list(n)).unwrap()
}

fn official() -> Template {
    Template::official(false)
}

fn build(rows: &Rows, options: &BuildOptions, dir: Option<&Path>, threads: usize) -> Result<Dataset> {
    Dataset::build(rows, &tokenizer(), &official(), options, dir, &|_, _| {}, threads)
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
    let single = build(&Rows::new(list(301).split_off(300)).unwrap(), &OPTIONS, None, 1).unwrap();
    assert_eq!(single.example(0), one.example(300));
    assert_ne!(single.fingerprint(), one.fingerprint());
}

#[test]
fn reports_progress_to_the_end() {
    let seen = Mutex::new(Vec::new());
    let progress = |done, total| seen.lock().unwrap().push((done, total));
    Dataset::build(&rows(500), &tokenizer(), &official(), &OPTIONS, None, &progress, 2).unwrap();
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
    let second =
        Dataset::build(&rows, &tokenizer(), &official(), &OPTIONS, Some(&cache), &progress, 2).unwrap();
    assert!(is_mapped(&second));
    assert_same(&first, &second);
    assert_eq!(*calls.lock().unwrap(), [(300, 300)]);
    assert_eq!(files(&cache).len(), 1, "no partial file is left");
}

#[test]
fn anything_that_matters_is_in_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let mut check = |rows: &Rows, tokenizer: &Tokenizer, template: &Template, options: &BuildOptions| {
        let build =
            || Dataset::build(rows, tokenizer, template, options, Some(dir.path()), &|_, _| {}, 1).unwrap();
        assert!(!is_mapped(&build()), "{template:?} {options:?}");
        let again = build();
        assert!(is_mapped(&again));
        seen.push(again);
    };
    let (base, plain) = (list(20), tokenizer());
    let mut moved = base.clone();
    // The same bytes in a row, split differently over its two texts.
    let Content::Pair { query, .. } = &mut moved[3].content else { unreachable!() };
    let first = query.remove(0);
    let Content::Pair { response, .. } = &mut moved[2].content else { unreachable!() };
    response.push(first);
    for list in [&base[..], &base[..19], &moved] {
        check(&Rows::new(list.to_vec()).unwrap(), &plain, &official(), &OPTIONS);
    }
    let rows = Rows::new(base.clone()).unwrap();
    check(&rows, &plain, &official(), &BuildOptions { max_seq_length: 65, ..OPTIONS });
    check(&rows, &plain, &official(), &BuildOptions { train_on: TrainOn::Responses, ..OPTIONS });
    check(&rows, &plain, &Template::official(true), &OPTIONS);
    let eos = TokenizerOptions { eos_token: Some("<|pad|>".into()), vocab_size: None };
    let other = Tokenizer::load(Path::new(DEMO), eos).unwrap();
    check(&rows, &other, &official(), &OPTIONS);
    let template = |text: &str| Template::from_text(Path::new("t"), text).unwrap();
    check(&rows, &plain, &template("{{ query }} {{ response }}"), &OPTIONS);
    check(&rows, &plain, &template("{{ query }}  {{ response }}"), &OPTIONS);
    check(&rows, &plain, &template("{{ strftime_now('%Y') }}"), &OPTIONS);
    check(&rows, &plain, &template("{{ strftime_now('%Y') }}").with_clock(0), &OPTIONS);
    let fields = |value: i32| {
        let fields = [("level".to_owned(), value.into())].into_iter().collect();
        Rows::new(vec![Row::pair("q", "r").with_fields(fields)]).unwrap()
    };
    check(&fields(1), &plain, &template("{{ query }}"), &OPTIONS);
    check(&fields(2), &plain, &template("{{ query }}"), &OPTIONS);
    let named = |field: &str| {
        let options = crate::RowOptions { query_field: field.into(), ..Default::default() };
        let json = format!(r#"{{"{field}":"q","response":"r"}}"#);
        crate::rows_from_bytes(Path::new("x"), json.into_bytes(), &options).unwrap()
    };
    check(&named("a"), &plain, &template("{{ query }}"), &OPTIONS);
    check(&named("b"), &plain, &template("{{ query }}"), &OPTIONS);
    let chat = |role| {
        let message = Message { role, content: "hi".into(), other: Default::default() };
        Rows::new(vec![Row::chat(vec![message])]).unwrap()
    };
    for role in [Role::User, Role::Assistant] {
        check(&chat(role), &plain, &template("{{ messages[0].content }}"), &OPTIONS);
    }
    let plain_fields = |value: &str, response_field: &str| {
        let json = format!(r#"{{"text":"{value}"}}"#);
        let response_field = response_field.into();
        let options = crate::RowOptions { any_fields: true, response_field, ..Default::default() };
        crate::rows_from_bytes(Path::new("x"), json.into_bytes(), &options).unwrap()
    };
    for (value, response_field) in [("a", "response"), ("b", "response"), ("a", "b")] {
        check(&plain_fields(value, response_field), &plain, &template("{{ text }}"), &OPTIONS);
    }
    assert_eq!(seen.len(), 20);
}

#[test]
fn a_cache_file_is_read_from_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let good =
        build(&rows(9), &BuildOptions { train_on: TrainOn::Responses, ..OPTIONS }, Some(dir.path()), 1)
            .unwrap();
    let bytes = std::fs::read(files(dir.path()).remove(0)).unwrap();
    assert_same(&good, &Dataset::from_cache_bytes(&bytes).unwrap());
    for cut in [0, 1, 40, 95, 96, bytes.len() - 1] {
        assert!(Dataset::from_cache_bytes(&bytes[..cut]).is_none());
    }
}

#[test]
fn counts_rows_without_labels() {
    let options = BuildOptions { max_seq_length: 4, train_on: TrainOn::Responses };
    let message = |role| Message { role, content: "hi".into(), other: Default::default() };
    let lists = [vec![Role::User], vec![Role::User, Role::Assistant], vec![Role::Assistant, Role::User]];
    let rows = lists.map(|list| Row::chat(list.into_iter().map(message).collect()));
    let rows = Rows::new(rows.to_vec()).unwrap();
    // Four tokens a turn: of the last row only the question is left.
    let source = "{% for m in messages %}{{ m.content }}|||{% endfor %}";
    let template = Template::from_text(Path::new("t"), source).unwrap();
    let build = |max_seq_length| {
        let options = BuildOptions { max_seq_length, ..options };
        Dataset::build(&rows, &tokenizer(), &template, &options, None, &|_, _| {}, 1).unwrap()
    };
    assert_eq!(build(99).unsupervised_rows(), 1);
    let cut = build(build(99).example(0).ids.len());
    assert_eq!((cut.unsupervised_rows(), cut.len()), (2, 3));
    assert_eq!(cut.example(2).supervised, [[0; 2]; 0]);
    assert_eq!(build_official_unsupervised(), 0);
}

fn build_official_unsupervised() -> usize {
    build(&rows(5), &OPTIONS, None, 1).unwrap().unsupervised_rows()
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
        let build = || {
            Dataset::build(&rows, &tokenizer, &official(), &OPTIONS, Some(dir.path()), &|_, _| {}, 1).unwrap()
        };
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
    for cut in [0, 1, 87, 95, 96, 100, whole.len() - 1] {
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
    let error = build(&rows(0), &OPTIONS, None, 1).unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), "input::data_empty");
    let error = build(&rows(1), &BuildOptions { max_seq_length: 0, ..OPTIONS }, None, 1).unwrap_err();
    assert_eq!(error.to_string(), "max-seq-length is 0, but must be at least 1");
}

#[test]
fn a_template_that_does_not_fit_fails_on_the_first_row() {
    let row = Row::of_fields([("text".to_owned(), "t".into())].into_iter().collect());
    let rows = Rows::new(vec![row; 1000]).unwrap();
    let error = build(&rows, &OPTIONS, None, 4).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data file `memory`, row 1: the official template needs the fields `query`, `response`; the row has the \
         field `text`"
    );
}

#[test]
fn an_error_names_file_and_row() {
    let json = br#"[{"query":"a","response":"b"},{"query":"","response":"b"}]"#;
    let rows = crate::rows_from_bytes(Path::new("my.json"), json.to_vec(), &Default::default()).unwrap();
    let source = "{% if not query %}\n{{ raise_exception('no question') }}{% endif %}{{ query }}";
    let template = Template::from_text(Path::new("my.jinja"), source).unwrap();
    let error = Dataset::build(&rows, &tokenizer(), &template, &OPTIONS, None, &|_, _| {}, 2).unwrap_err();
    assert_eq!(error.to_string(), "template `my.jinja`, line 2: no question (data file `my.json`, row 2)");
    let (_, held_out) = rows.split(1.0, 1).unwrap();
    let error =
        Dataset::build(&held_out, &tokenizer(), &template, &OPTIONS, None, &|_, _| {}, 2).unwrap_err();
    assert!(error.to_string().ends_with("(data file `my.json`, row 2)"), "{error}");
}
