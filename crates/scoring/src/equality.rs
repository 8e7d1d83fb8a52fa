//! The official rule by which two answers are equal.

use crate::python::{float_without_commas, is_close, strip};
use crate::symbolic::{self, Fuel};

/// Nested pairs of brackets that are compared part by part.
const DEEPEST: usize = 64;

/// Of numbers that are written as such.
const NUMBER_TOLERANCE: f64 = 1e-4;

/// Whether a prediction equals a reference by the official rule, of which these are the steps:
///
/// 1. Two numbers (commas aside) are equal within a relative 10⁻⁴, also to a hundredth or a hundred times the
///    reference; that decides.
/// 2. An empty prediction equals nothing.
/// 3. The texts are the same without braces and parentheses (and without outer brackets, where the prediction has some
///    and the reference has none of the other kind).
/// 4. Both are in brackets of one kind, and their parts between commas are equal by this rule.
/// 5. As formulas their difference is 0, or their values agree within a relative 10⁻³.
pub fn texts_are_equal(prediction: &str, reference: &str) -> bool {
    equal(prediction, reference, DEEPEST, &Fuel::default())
}

fn equal(prediction: &str, reference: &str, depth: usize, fuel: &Fuel) -> bool {
    if let (Some(value), Some(wanted)) = (float_without_commas(prediction), float_without_commas(reference)) {
        let wanted = [wanted / 100.0, wanted, wanted * 100.0];
        return wanted.into_iter().any(|wanted| is_close(wanted, value, NUMBER_TOLERANCE));
    }
    if prediction.is_empty() {
        return false;
    }
    let (prediction, reference) = (strip(prediction), strip(reference));
    same_without_brackets(prediction, reference)
        || same_parts(prediction, reference, depth, fuel)
        || symbolic::equal(prediction, reference, fuel)
}

fn same_without_brackets(prediction: &str, reference: &str) -> bool {
    let strips = (is_in(prediction, '[', ']') && !reference.starts_with('('))
        || (is_in(prediction, '(', ')') && !reference.starts_with('['));
    let bare = |text: &str| {
        let text = if strips { text.trim_matches(['[', ']', '(', ')']) } else { text };
        text.replace(['{', '}', '(', ')'], "")
    };
    bare(prediction) == bare(reference)
}

fn is_in(text: &str, open: char, close: char) -> bool {
    text.starts_with(open) && text.ends_with(close)
}

/// Without the first and the last byte, which are brackets and not the same one.
fn inside(text: &str) -> &str {
    &text[1..text.len() - 1]
}

fn same_parts(prediction: &str, reference: &str, depth: usize, fuel: &Fuel) -> bool {
    let both = |open, close| is_in(prediction, open, close) && is_in(reference, open, close);
    if depth == 0 || !(both('[', ']') || both('(', ')')) {
        return false;
    }
    let (prediction, reference) = (inside(prediction), inside(reference));
    let commas = |text: &str| text.matches(',').count();
    commas(prediction) == commas(reference)
        && prediction.split(',').zip(reference.split(',')).all(|(a, b)| equal(a, b, depth - 1, fuel))
}

#[cfg(test)]
mod tests {
    use super::texts_are_equal;

    #[test]
    fn steps_before_formulas() {
        let check = |prediction: &str, reference: &str, expect: bool| {
            assert_eq!(texts_are_equal(prediction, reference), expect, "{prediction:?} for {reference:?}");
        };
        check("3.0001", "3", true);
        check("3.001", "3", false);
        check("1,000", "1000", true);
        check("inf", "Infinity", true);
        check("nan", "nan", false);
        check("", "", false);
        check(" ", "{}", true);
        check("{3}", "3", true);
        check("(A)", "A", true);
        check("A", "(A)", true);
        check("[A]", "A", true);
        check("5.5.5", "[5.5.5]", false);
        check("[5.5.5]", "5.5.5", true);
        check("(1,2)", "[1,2]", false);
        check("(1,2)", "(1, 2)", true);
        check("(1,2)", "(1,2,3)", false);
        check("[1,0.5]", "[ 1 , \\frac{1}{2} ]", true);
        check("((1),2)", "((1.0), 2.0)", true);
        check("(", ")", true);
        check("[", "[", true);
        check("\\text{A}", "A", false);
        check("10\\%", "10", false);
        check("None", "None", true);
    }
}
