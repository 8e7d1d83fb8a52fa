//! Answers of models, and what they are scored against.

use scoring::{Answer, Dataset, texts_are_equal};

use crate::show::refused;

/// A reference on the first line and a completion after it.
pub(crate) fn verdict(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (reference, completion) = text.split_once('\n').unwrap_or((text, text));
    let mut found = false;
    for dataset in Dataset::ALL {
        let answer = dataset.gold(reference).unwrap_or_else(|| Answer::Text(reference.to_owned()));
        let prediction = dataset.extract(completion);
        found |= prediction.is_some();
        dataset.is_correct(prediction.as_ref(), Some(&answer));
        assert!(!dataset.is_correct(prediction.as_ref(), None), "nothing is right without an answer");
    }
    let verdict = texts_are_equal(completion, reference);
    assert_eq!(verdict, texts_are_equal(completion, reference), "a verdict depends on the texts alone");
    let is_number = |text: &str| text.trim().parse::<f64>().is_ok_and(f64::is_finite);
    assert!(!is_number(reference) || texts_are_equal(reference, reference), "a number equals itself");
    found
}

/// A file of JSON lines.
pub(crate) fn lines(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for dataset in Dataset::ALL {
        let mut written = Vec::new();
        match scoring::score_lines(dataset, bytes, &mut written) {
            Err(error) => {
                refused(&error);
            }
            Ok(totals) => {
                let mut again = Vec::new();
                let same = scoring::score_lines(dataset, &written[..], &mut again);
                assert_eq!(same.expect("what is written can be scored"), totals, "and is scored alike");
                assert!(again == written, "to the same lines");
                assert!(totals.correct + totals.invalid <= totals.total, "what is invalid is not correct");
                accepted |= totals.total > 0;
            }
        }
    }
    accepted
}
