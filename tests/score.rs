//! `score`: verdicts line by line, and a file that is whole or not there.

use std::path::Path;

use crate::harness::{Ranks, Running, check_message, command, read_json, scratch};

fn score(dataset: &str, predictions: &Path, output: &Path, more: &[&str]) -> crate::harness::Outcome {
    let (predictions, output) = (predictions.to_str().unwrap(), output.to_str().unwrap());
    let own = ["score", "--dataset", dataset, "--predictions", predictions, "--output", output];
    Running::start(command(Ranks::Alone, &[&own[..], more].concat())).finish()
}

#[test]
fn lines_come_back_with_verdicts() {
    let folder = scratch();
    let check = |dataset: &str, lines: &[(&str, &str)], totals: [u64; 3]| {
        let [predictions, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
        let text: Vec<&str> = lines.iter().map(|(line, _)| *line).collect();
        std::fs::write(&predictions, text.join("\n\n")).unwrap();
        let said = score(dataset, &predictions, &output, &["--json"]).expect_code(0);
        let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(["total", "correct", "invalid"].map(|key| report[key].as_u64().unwrap()), totals);
        let expected: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
        assert_eq!(std::fs::read_to_string(&output).unwrap().lines().collect::<Vec<_>>(), expected);
    };
    check(
        "gsm8k",
        &[
            (
                r#"{"id":1,"completion":"The answer is: 18","ground_truth":18}"#,
                r#"{"id":1,"completion":"The answer is: 18","ground_truth":18,"prediction":18.0,"correct":true}"#,
            ),
            (
                r#"{"completion":"no idea","ground_truth":"so #### 1,000"}"#,
                r#"{"completion":"no idea","ground_truth":"so #### 1,000","prediction":null,"correct":false}"#,
            ),
            (
                r#"{"completion":"The answer is: 7","ground_truth":null}"#,
                r#"{"completion":"The answer is: 7","ground_truth":null,"prediction":7.0,"correct":false}"#,
            ),
        ],
        [3, 1, 1],
    );
    check(
        "math",
        &[(
            r#"{"completion":"The answer is: \\frac{1}{2}","ground_truth":"0.5"}"#,
            r#"{"completion":"The answer is: \\frac{1}{2}","ground_truth":"0.5","prediction":"\\frac{1}{2}","correct":true}"#,
        )],
        [1, 1, 0],
    );
}

#[test]
fn a_bad_line_leaves_what_was_there() {
    let folder = scratch();
    let [predictions, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    let good = r#"{"completion":"1","ground_truth":1}"#;
    let cases: [(&str, &[&str]); 5] = [
        ("{\"completion\":\"1\"}", &["line 2", "ground_truth"]),
        ("{\"completion\":5,\"ground_truth\":1}", &["line 2", "completion"]),
        ("{\"completion\":\"1\",\"ground_truth\":[1]}", &["line 2", "ground_truth"]),
        ("[1]", &["line 2"]),
        ("{\"completion\":\"1\",", &["line 2"]),
    ];
    for (bad, says) in cases {
        std::fs::write(&predictions, format!("{good}\n{bad}\n")).unwrap();
        std::fs::write(&output, "mine").unwrap();
        check_message(bad, &score("gsm8k", &predictions, &output, &[]), 2, says);
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "{bad}: something was left behind");
    }
    let missing = folder.path().join("none.jsonl");
    check_message("no file", &score("gsm8k", &missing, &output, &[]), 2, &["none.jsonl", "--predictions"]);
    check_message("one file", &score("gsm8k", &output, &output, &[]), 2, &["both the input and the output"]);
    check_message("no such dataset", &score("aime", &predictions, &output, &[]), 2, &["aime"]);
    let nowhere = folder.path().join("no/folder/out.jsonl");
    check_message("no folder", &score("gsm8k", &predictions, &nowhere, &[]), 1, &["cannot write"]);
}

/// A completion of 100 kB of braces, one that never closes, and figures beyond all bounds: verdicts, soon.
#[test]
fn hostile_answers_get_verdicts() {
    let folder = scratch();
    let [predictions, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    let hostile = [
        "{".repeat(100_000),
        "\\frac{".repeat(20_000),
        "\\sqrt{".to_owned(),
        "\\frac{1}{0}".to_owned(),
        "9^{9^{9^{9^{9^9}}}}".to_owned(),
        "((((10^{100000})^{100000})!)!)!".to_owned(),
        "(1,".repeat(30_000),
    ];
    let line = |answer: &String| {
        serde_json::json!({"completion": format!("The answer is: {answer}"), "ground_truth": "x+1"})
            .to_string()
    };
    std::fs::write(&predictions, hostile.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    score("math", &predictions, &output, &[]).expect_code(0);
    let text = std::fs::read_to_string(&output).unwrap();
    assert_eq!(text.lines().filter(|line| line.ends_with("\"correct\":false}")).count(), hostile.len());
    assert!(read_json(&output_line(folder.path(), &text))["prediction"].is_string());
}

/// The first line as a file of its own.
fn output_line(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("first.json");
    std::fs::write(&path, text.lines().next().unwrap()).unwrap();
    path
}
