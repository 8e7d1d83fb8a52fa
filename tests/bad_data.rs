//! Data files that are missing, cut, empty, or of another form.

use std::path::Path;

use crate::harness::{Case, Ranks, check_bad, check_on_ranks, repository, scratch, training};

fn written(folder: &Path, name: &str, content: &[u8]) -> Vec<String> {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    vec!["--data".to_owned(), path.to_str().unwrap().to_owned()]
}

macro_rules! content {
    ($name:expr, $file:expr, $content:expr => $($says:expr),+) => {
        Case { name: $name, setup: |folder| written(folder, $file, $content), says: &[$file, $($says),+] }
    };
}

fn demo_rows() -> Vec<u8> {
    std::fs::read(repository().join("configs/demo/train.json")).unwrap()
}

const EVERYWHERE: [Case; 4] = [
    content!("an empty dataset", "rows.json", b"[]" => "no rows"),
    content!("a row without response", "rows.json",
        br#"[{"query": "a", "response": "b"}, {"query": "c", "answer": "d"}]"# => "row 2", "response", "missing"),
    content!("JSON lines cut in the middle", "rows.jsonl",
        b"{\"query\": \"a\", \"response\": \"b\"}\n{\"query\": \"c\", \"resp" => "row 2", "cut short"),
    Case {
        name: "JSON cut in the middle",
        setup: |folder| {
            let rows = demo_rows();
            written(folder, "rows.json", &rows[..rows.len() / 2])
        },
        says: &["rows.json", "cut short", "row"],
    },
];

const ALONE: [Case; 16] = [
    Case {
        name: "no such file",
        setup: |folder| vec!["--data".to_owned(), folder.join("none.json").display().to_string()],
        says: &["none.json", "does not exist"],
    },
    Case {
        name: "a folder",
        setup: |folder| vec!["--data".to_owned(), folder.display().to_string()],
        says: &["directory"],
    },
    content!("an empty file", "rows.json", b"" => "no rows"),
    content!("blank lines", "rows.jsonl", b"\n \n\t\n" => "no rows"),
    content!("a row without query", "rows.jsonl", b"{\"response\": \"b\"}\n" => "row 1", "query", "missing"),
    content!("a query that is null", "rows.json", br#"[{"query": null, "response": "b"}]"# => "row 1", "query"),
    content!("a query that is a number", "rows.json", br#"[{"query": 7, "response": "b"}]"# => "row 1", "query"),
    content!("a response that is a list", "rows.json", br#"[{"query": "a", "response": ["b"]}]"# => "response"),
    content!("a row that is a text", "rows.json", br#"["a"]"# => "row 1"),
    content!("an object of rows", "rows.json", br#"{"data": [{"query": "a", "response": "b"}]}"# => "row 1"),
    content!("no JSON", "rows.csv", b"query,response\na,b\n" => "first character", "`q`"),
    content!("text that is not UTF-8", "rows.json", b"[{\"query\": \"\xff\xfe\", \"response\": \"b\"}]" => "UTF-8"),
    content!("something after the array", "rows.json", br#"[{"query": "a", "response": "b"}] and more"# => "line 1"),
    content!("lone surrogates", "rows.json", br#"[{"query": "\ud800", "response": "b"}]"# => "row 1"),
    content!("a bomb of brackets", "rows.json", &[b'['; 200_000] => "row 1"),
    Case {
        name: "held-out rows cut",
        setup: |folder| {
            let data = written(folder, "held.json", b"[{\"query\": \"a\"");
            vec!["--eval-data".to_owned(), data[1].clone()]
        },
        says: &["held.json"],
    },
];

#[test]
fn on_every_number_of_ranks() {
    check_on_ranks(&EVERYWHERE);
}

#[test]
fn alone() {
    ALONE.iter().for_each(|case| check_bad(Ranks::Alone, case));
}

/// Odd but right: empty texts, one row, other fields, JSON lines under another name, a byte-order mark.
#[test]
fn odd_rows_are_trained_on() {
    let rows: [&[u8]; 4] = [
        br#"[{"query": "", "response": ""}]"#,
        b"\xef\xbb\xbf[{\"query\": \"a\", \"response\": \"b\", \"type\": [1]}]",
        b"\n{\"query\": \"a\", \"response\": \"b\"}\n\n{\"query\": \"c\", \"response\": \"d\"}",
        "[{\"query\": \"größe 😀 \\u0000 <eos>\", \"response\": \"\\n\\n\\t\"}]".as_bytes(),
    ];
    for (number, content) in rows.into_iter().enumerate() {
        let folder = scratch();
        let flags = written(folder.path(), "rows.txt", content);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let output = folder.path().join("out");
        for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
            let command = training(ranks, &output, &[&flags[..], &["--max-steps", "2"]].concat());
            let outcome = crate::harness::Running::start(command).finish();
            assert_eq!(outcome.code, Some(0), "rows {number}: {}", outcome.stderr);
        }
    }
}
