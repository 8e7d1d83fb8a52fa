//! Verdicts of the official code, and answers of the data sets themselves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use scoring::{Answer, Dataset, Prediction, texts_are_equal};
use serde_json::Value;

/// Extractions and verdicts that the official code gave, with sympy 1.14 and ANTLR 4.11 for its LaTeX.
fn official() -> Value {
    serde_json::from_str(include_str!("data/official.json")).unwrap()
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap()
}

#[test]
fn extractions_are_the_official_ones() {
    let official = official();
    let check = |dataset: Dataset, cases: &Value| {
        let cases = cases.as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let prediction = dataset.extract(text(case, "completion"));
            assert_eq!(serde_json::to_value(prediction).unwrap(), case["expected"], "{case}");
        }
    };
    check(Dataset::Gsm8k, &official["gsm8k_extract"]);
    check(Dataset::Math, &official["math_extract"]);
}

#[test]
fn verdicts_are_the_official_ones() {
    let check = |cases: &[Value]| {
        assert!(!cases.is_empty());
        for case in cases {
            let equal = texts_are_equal(text(case, "prediction"), text(case, "reference"));
            let pair = (text(case, "prediction"), text(case, "reference"));
            let expect = case["equal"].as_bool().unwrap() && !LISTS.contains(&pair);
            assert_eq!(equal, expect, "{case}");
        }
    };
    check(official()["math_equal"].as_array().unwrap());
    // Rewritten, mangled and made-up answers, with what the official rule says of them.
    check(&rows(include_str!("data/verdicts.jsonl")));
}

/// Lists that the official rule takes for equal, as it reads them up to the first comma, and that are not here.
const LISTS: [(&str, &str); 10] = [
    ("4", "4, -2 + 3i, -2 - 3i"),
    ("E", "E,F"),
    ("-5", "-5, 1, 4"),
    ("4, -2 + 3I, -2 - 3I", "4, -2 + 3i, -2 - 3i"),
    ("2, -3, 4", "2, -3"),
    ("2, -3, 4", "2"),
    ("E,F", "E"),
    ("134 +. ,2i", "134 +"),
    ("134 +. ,2i", "134 +."),
    ("1,2,-2,-3", "1,2,-2,-"),
];

/// Pairs of different answers that the official rule takes for equal, by a factor of 100.
const SAME: [(&str, &str); 2] = [("1", "100"), ("2", "200")];

#[test]
fn answers_of_math_equal_themselves_and_few_others() {
    let rows = rows(include_str!("data/math.jsonl"));
    assert_eq!(rows.len(), 200);
    let mut answers = BTreeSet::new();
    for row in &rows {
        let solution = text(row, "solution");
        let gold = Dataset::Math.gold(solution);
        assert_eq!(gold, Some(Answer::Text(text(row, "answer").to_owned())));
        let boxed = &solution[solution.rfind("\\boxed").unwrap()..];
        let prediction = Dataset::Math.extract(boxed);
        assert!(Dataset::Math.is_correct(prediction.as_ref(), gold.as_ref()), "{solution}");
        answers.insert(text(row, "answer"));
    }
    let mut same = Vec::new();
    for a in &answers {
        for b in answers.iter().filter(|b| a < *b) {
            let verdict = texts_are_equal(a, b);
            assert_eq!(verdict, texts_are_equal(b, a), "{a} and {b} the other way round");
            same.extend(verdict.then_some((*a, *b)));
        }
    }
    assert_eq!(same, SAME);
}

#[test]
fn answers_of_gsm8k_equal_themselves() {
    let lines: Vec<&str> = include_str!("data/gsm8k.txt").lines().collect();
    assert_eq!(lines.len(), 1319);
    for line in lines {
        let gold = Dataset::Gsm8k.gold(line);
        let Some(Answer::Integer(answer)) = gold else { panic!("{line} has no integer") };
        let prediction = Dataset::Gsm8k.extract(&format!("so\nThe answer is: {answer}"));
        assert_eq!(prediction, Some(Prediction::Number(answer as f64)));
        assert!(Dataset::Gsm8k.is_correct(prediction.as_ref(), gold.as_ref()), "{line}");
        let wrong = Prediction::Number(answer as f64 * 1.5 + 1.0);
        assert!(!Dataset::Gsm8k.is_correct(Some(&wrong), gold.as_ref()), "{line}");
    }
}
