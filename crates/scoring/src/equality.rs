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
/// 5. As formulas their difference is 0, or their values agree within a relative 10⁻³. Not in the official rule: lists of
///    formulas outside brackets then also have the same parts.
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
        || (symbolic::equal(prediction, reference, fuel) && !lists_differ(prediction, reference, depth, fuel))
}

/// Whether at least one of the two is a list of formulas outside brackets, such as `2, -3, 4`, and the other has not the
/// same parts, in whatever order.
///
/// Formulas are read up to the first comma, by which `2` would be a right answer to `2, -3, 4`. Where anything but formulas
/// stands between the commas, the official verdict stays.
fn lists_differ(prediction: &str, reference: &str, depth: usize, fuel: &Fuel) -> bool {
    let (Some(prediction), Some(reference)) = (parts(prediction), parts(reference)) else { return false };
    if prediction.len() == 1 && reference.len() == 1 || prediction.len().max(reference.len()) > LONGEST_LIST {
        return false;
    }
    let has = |part: &str| prediction.iter().any(|own| depth > 0 && equal(own, part, depth - 1, fuel));
    prediction.len() != reference.len() || !reference.iter().all(|part| has(part))
}

/// Longer lists are not compared part by part.
const LONGEST_LIST: usize = 32;

/// Commands of formulas that stand between commas.
const COMMANDS: [&str; 9] = ["frac", "dfrac", "tfrac", "sqrt", "pi", "cdot", "pm", "infty", "times"];

/// The formulas between the commas of a text, outside brackets; one where there is no comma. None where the text has
/// something else in it: words, units, another command.
fn parts(text: &str) -> Option<Vec<&str>> {
    let bytes = text.as_bytes();
    let (mut parts, mut start, mut nested, mut at) = (Vec::new(), 0, 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        let letters = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        match byte {
            b'\\' if COMMANDS.contains(&&text[at + 1..at + 1 + letters]) => at += letters,
            b'\\' if bytes.get(at + 1) == Some(&b'!') => at += 1,
            b'(' | b'[' | b'{' => nested += 1,
            b')' | b']' | b'}' => nested = nested.checked_sub(1)?,
            b',' if nested == 0 && !groups_digits(bytes, at) => {
                parts.push(strip(&text[start..at]));
                start = at + 1;
            }
            b'a'..=b'z' | b'A'..=b'Z' if letters == 0 => {}
            b'0'..=b'9' | b'+' | b'-' | b'*' | b'/' | b'^' | b'.' | b',' | b' ' => {}
            _ => return None,
        }
        at += 1;
    }
    parts.push(strip(&text[start..]));
    (nested == 0 && parts.iter().all(|part| !part.is_empty())).then_some(parts)
}

/// Whether the comma at `at` stands in a number: a digit before it, and three digits after it, or after `\!` or spaces,
/// behind which the three must begin with 0 to be no number of their own.
fn groups_digits(bytes: &[u8], at: usize) -> bool {
    let after = &bytes[at + 1..];
    let after = after.strip_prefix(b"\\!").unwrap_or(after);
    let digits = after.trim_ascii_start();
    let has_three = digits.iter().take_while(|byte| byte.is_ascii_digit()).count() == 3;
    at > 0
        && bytes[at - 1].is_ascii_digit()
        && has_three
        && (digits.len() == after.len() || digits[0] == b'0')
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
        check("2, -3", "2,-3.0", true);
        check("2", "2, -3", false);
        check("2, -3", "2", false);
        check("2, -3", "-3, 2", false);
        check("2, -3, 4", "2, 4, -3", true);
        check("5, since it is positive", "5", true);
        check("1,000", "10^3", true);
        check("1,\\!000", "10^3", true);
        check("\\frac{1}{2}, \\sqrt{4}", "0.5, 2", true);
        check("\\frac{1}{2}, \\sqrt{4}", "0.5", false);
    }
}
