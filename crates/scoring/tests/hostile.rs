//! Answers that nobody would give in earnest: they cost little, break nothing, and only equal themselves.
#![allow(clippy::unwrap_used)]

use std::thread;

use proptest::prelude::*;
use scoring::{Answer, Dataset, Prediction, texts_are_equal};

/// Stack of a thread for verdicts; main threads and those of rayon have more.
const STACK: usize = 1 << 20;

fn many(part: &str) -> String {
    part.repeat(100_000 / part.len())
}

fn few(part: &str) -> String {
    part.repeat(8_000 / part.len())
}

fn hostile() -> Vec<String> {
    let mut answers: Vec<String> = [
        "9^9^9^9^9",
        "9^{9^{9^{9^{9}}}}",
        "9!!!!!!",
        "(10^{10})!",
        "99999999999!",
        "\\binom{10^{9}}{5\\cdot 10^{8}}",
        "1/0",
        "0^{-1}",
        "\\frac{0}{0}",
        "\\frac{1}{0}x",
        "\\log 0",
        "\\log_1 5",
        "\\infty-\\infty",
        "\\infty^{\\infty}",
        "\\tan(\\frac{1}{0})",
        "\\sqrt[0]{5}",
        "(-9223372036854775808)^{-9223372036854775808}",
        "\\frac",
        "\\sqrt{",
        "\u{0}",
        "é\\",
        "\\",
    ]
    .map(str::to_owned)
    .to_vec();
    let parts = [
        "{",
        "}",
        "(",
        "[",
        "((",
        "()",
        "\\{",
        "|",
        "|x",
        "||x|",
        "\\frac",
        "\\frac{1}{",
        "\\frac{",
        "\\sqrt{",
        "x(",
        "f(x,",
        "^",
        "x^",
        "x^{",
        "2^2",
        "x_",
        "x_{",
        "-",
        "+",
        "--x",
        "1+",
        "x*",
        "!",
        "5!",
        "1,",
        "1,234",
        "9",
        "9.",
        "x=",
        "\\sin",
        "\\sin ",
        "\\log_2",
        "\\log_22",
        "\\binom{5}{",
        "\\lfloor ",
        "'",
        "x'",
        "d",
        "\\left(",
        "\\boxed{",
        ",",
        " ",
        "\\,",
        "\\begin{pmatrix}",
        "\\text{a",
        ".5",
        "(.5",
        ".5**",
        "\u{1f600}",
        "\\frac{d}{dx}",
    ];
    answers.extend(parts.map(many));
    answers.extend(parts.map(few));
    let nested = |open: &str, inside: &str, close: &str, times: usize| {
        format!("{}{inside}{}", open.repeat(times), close.repeat(times))
    };
    for times in [60, 70, 1000, 30_000] {
        answers.push(nested("(", "1", ")", times));
        answers.push(nested("(", "1,2", ")", times));
        answers.push(nested("\\frac{1}{", "x", "}", times));
        answers.push(nested("x^{", "x", "}", times));
        answers.push(nested("f(", "x", ")", times));
        answers.push(nested("|", "x", "|", times));
        answers.push(nested("\\sin", "x", "", times));
    }
    answers
}

#[test]
fn verdicts_on_hostile_answers() {
    let work = || {
        for answer in hostile() {
            assert!(!texts_are_equal(&answer, "7"), "{:.40} is 7", answer);
            assert!(!texts_are_equal("y+7", &answer), "{:.40} is y + 7", answer);
            let changed = format!("{answer}+1");
            texts_are_equal(&answer, &changed);
            for dataset in Dataset::ALL {
                dataset.gold(&answer);
                let prediction = dataset.extract(&format!("The answer is: {answer}"));
                dataset.is_correct(prediction.as_ref(), Some(&Answer::Text(answer.clone())));
            }
        }
    };
    thread::Builder::new().stack_size(STACK).spawn(work).unwrap().join().unwrap();
}

/// Texts of what formulas are made of.
fn formula() -> impl Strategy<Value = String> {
    let parts = [
        "1",
        "2",
        "30",
        "0.5",
        ".5",
        "1,000",
        "x",
        "y",
        "d",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "|",
        "!",
        ",",
        ".",
        " ",
        "=",
        "\\frac",
        "\\sqrt",
        "\\sin ",
        "\\log_2",
        "\\pi",
        "\\infty",
        "\\left",
        "\\right",
        "\\text{a}",
        "\\cdot ",
        "\\%",
        "^\\circ",
        "\\le ",
        "\\{",
        "\\}",
        "'",
        "$",
        "é",
    ];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..24)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_text_panics(a in formula(), b in formula(), c in ".{0,40}") {
        texts_are_equal(&a, &b);
        texts_are_equal(&a, &c);
        for dataset in Dataset::ALL {
            dataset.gold(&c);
            dataset.extract(&c);
            let completion = format!("The answer is: {a}");
            let prediction = dataset.extract(&completion);
            dataset.is_correct(prediction.as_ref(), Some(&Answer::Text(b.clone())));
        }
    }

    #[test]
    fn white_space_around_does_not_matter(
        a in formula(),
        b in formula(),
        before in "[ \t\n]{0,3}",
        after in "[ \t\n]{0,3}",
    ) {
        // An empty text is no prediction, while blanks are one.
        prop_assume!(!a.is_empty());
        let verdict = texts_are_equal(&a, &b);
        let (padded, padded_b) = (format!("{before}{a}{after}"), format!("{after}{b}{before}"));
        prop_assert_eq!(texts_are_equal(&padded, &b), verdict);
        prop_assert_eq!(texts_are_equal(&a, &padded_b), verdict);
    }

    #[test]
    fn every_answer_equals_itself(a in formula()) {
        prop_assert_eq!(texts_are_equal(&a, &a), !a.is_empty());
    }

    #[test]
    fn numbers_equal_themselves(number in any::<f64>().prop_filter("a number", |number| number.is_finite())) {
        let text = number.to_string();
        prop_assert!(texts_are_equal(&text, &text));
        let rounded = Prediction::Number(number);
        prop_assert!(Dataset::Gsm8k.is_correct(Some(&rounded), Some(&Answer::Number(number))));
    }

    #[test]
    fn fractions_equal_their_values(above in -999_i32..999, below in 1_i32..999) {
        let fraction = format!("\\frac{{{above}}}{{{below}}}");
        let slashed = format!("{above}/{below}");
        prop_assert!(texts_are_equal(&fraction, &slashed));
        let value = f64::from(above) / f64::from(below);
        prop_assert!(texts_are_equal(&fraction, &value.to_string()));
        let other = format!("\\frac{{{}}}{{{below}}}", 2 * above + 1);
        prop_assert!(!texts_are_equal(&fraction, &other) || 2 * above + 1 == above);
    }
}
