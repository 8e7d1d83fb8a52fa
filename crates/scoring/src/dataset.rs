//! The two data sets, and the types of their answers.

use std::fmt;
use std::str::FromStr;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::equality::texts_are_equal;
use crate::extract;
use crate::python;

/// A data set that answers can be scored for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// GSM8K: word problems whose answers are integers.
    Gsm8k,
    /// MATH: problems of competitions, whose answers are LaTeX.
    Math,
}

/// What a completion answers. In JSON a number or a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prediction {
    /// Of GSM8K, rounded to 6 decimals; always finite.
    Number(f64),
    /// Of MATH, as it was written.
    Text(String),
}

/// The right answer. In JSON a number or a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of GSM8K.
    Integer(i64),
    /// From a file of another's making; no reference solution has one.
    Number(f64),
    /// Of MATH, as it was written, or an integer of GSM8K that is beyond 64 bits.
    Text(String),
}

impl Dataset {
    /// Both, in the order in which they are listed for users.
    pub const ALL: [Self; 2] = [Self::Gsm8k, Self::Math];

    /// The name on the command line and in result files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gsm8k => "gsm8k",
            Self::Math => "math",
        }
    }

    /// Tokens that a completion may have where nobody says otherwise.
    pub const fn max_new_tokens(self) -> usize {
        match self {
            Self::Gsm8k => 1024,
            Self::Math => 2048,
        }
    }

    /// The answer of a reference solution: the integer after `#### `, or what the last `\boxed{…}` holds.
    pub fn gold(self, solution: &str) -> Option<Answer> {
        match self {
            Self::Gsm8k => extract::gsm8k_gold(solution),
            Self::Math => extract::last_boxed(solution).map(|text| Answer::Text(text.to_owned())),
        }
    }

    /// What a completion answers; none where it gives no answer that can be found, which counts as invalid.
    pub fn extract(self, completion: &str) -> Option<Prediction> {
        match self {
            Self::Gsm8k => extract::gsm8k(completion).map(Prediction::Number),
            Self::Math => extract::math(completion).map(|text| Prediction::Text(text.to_owned())),
        }
    }

    /// Whether the prediction is right. Without either side it is not.
    ///
    /// Numbers count as equal within a relative 10⁻⁴, and to a hundred times and a hundredth of the right one, as in
    /// the official code, which means percentages by that.
    pub fn is_correct(self, prediction: Option<&Prediction>, answer: Option<&Answer>) -> bool {
        let (Some(prediction), Some(answer)) = (prediction, answer) else { return false };
        let same_number = |prediction: f64, answer: f64| self == Self::Gsm8k && prediction == answer;
        let same = match (prediction, answer) {
            (Prediction::Number(prediction), Answer::Integer(answer)) => {
                same_number(*prediction, *answer as f64)
            }
            (Prediction::Number(prediction), Answer::Number(answer)) => same_number(*prediction, *answer),
            _ => false,
        };
        same || texts_are_equal(&prediction.to_string(), &answer.to_string())
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.pad(self.name())
    }
}

/// A data set that there is not.
#[derive(Debug, Clone, PartialEq, Eq, Error, Diagnostic)]
#[error("there is no data set `{name}` to score")]
#[diagnostic(code(input::scoring_dataset), help("the data sets are gsm8k and math"))]
pub struct UnknownDataset {
    /// The name as given.
    pub name: String,
}

impl FromStr for Dataset {
    type Err = UnknownDataset;

    fn from_str(name: &str) -> Result<Self, UnknownDataset> {
        let found = Self::ALL.into_iter().find(|dataset| dataset.name() == name);
        found.ok_or_else(|| UnknownDataset { name: name.to_owned() })
    }
}

/// As Python's `str` would write it.
impl fmt::Display for Prediction {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Number(number) => out.write_str(&python::float_text(*number)),
            Self::Text(text) => out.write_str(text),
        }
    }
}

/// As Python's `str` would write it.
impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(out, "{number}"),
            Self::Number(number) => out.write_str(&python::float_text(*number)),
            Self::Text(text) => out.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Answer, Dataset, Prediction};

    #[test]
    fn names() {
        for dataset in Dataset::ALL {
            assert_eq!(dataset.to_string().parse(), Ok(dataset));
        }
        let error = "aime".parse::<Dataset>().unwrap_err();
        assert_eq!(error.to_string(), "there is no data set `aime` to score");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(Dataset::ALL.iter().all(|dataset| help.contains(dataset.name())), "{help}");
    }

    #[test]
    fn numbers_of_gsm8k() {
        let check = |prediction: f64, answer: i64, expect: bool| {
            let (prediction, answer) = (Prediction::Number(prediction), Answer::Integer(answer));
            let correct = Dataset::Gsm8k.is_correct(Some(&prediction), Some(&answer));
            assert_eq!(correct, expect, "{prediction} for {answer}");
        };
        check(18.0, 18, true);
        check(18.001, 18, true);
        check(18.01, 18, false);
        // A hundredth and a hundred times, as the official code has it.
        check(1800.0, 18, true);
        check(0.18, 18, true);
        check(-18.0, 18, false);
        check(0.0, 0, true);
        check(1e-9, 0, false);
    }

    #[test]
    fn json_of_answers() {
        let json = |value: &dyn erased::Json| value.json();
        assert_eq!(json(&Some(Prediction::Number(18.0))), "18.0");
        assert_eq!(json(&Some(Prediction::Text("x".to_owned()))), "\"x\"");
        assert_eq!(json(&None::<Prediction>), "null");
        assert_eq!(json(&Some(Answer::Integer(18))), "18");
        let read = |text: &str| serde_json::from_str::<Answer>(text).unwrap();
        assert_eq!(read("18"), Answer::Integer(18));
        assert_eq!(read("18.5"), Answer::Number(18.5));
        assert_eq!(read("\"18\""), Answer::Text("18".to_owned()));
    }

    mod erased {
        /// Of any type, so that one closure serves them all.
        pub trait Json {
            fn json(&self) -> String;
        }

        impl<T: serde::Serialize> Json for T {
            fn json(&self) -> String {
                serde_json::to_string(self).unwrap()
            }
        }
    }
}
