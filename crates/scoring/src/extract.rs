//! Where a text has its answer.

use crate::Answer;
use crate::python::{float_without_commas, round_to_6_decimals, strip};

/// What the official training prompt makes a model say, and variations of it; each is looked for in the whole text
/// before the next one is.
const GSM8K_MARKERS: [&str; 8] = [
    "the answer is: ",
    "the answer is ",
    "answer: ",
    "answer is: ",
    "answer is ",
    "final answer: ",
    "final answer is: ",
    "final answer is ",
];
const GSM8K_LOOSE_MARKERS: [&str; 3] = ["the answer", "answer", "final answer"];
const MATH_MARKERS: [&str; 4] = ["This is the answer:", "The answer is:", "Answer:", "The answer is"];

/// The number that a completion of GSM8K answers with.
pub(crate) fn gsm8k(completion: &str) -> Option<f64> {
    let text = completion.to_lowercase();
    let mut markers = GSM8K_MARKERS.iter().chain(&GSM8K_LOOSE_MARKERS);
    let candidate = strip(markers.find_map(|marker| after_last(&text, marker)).unwrap_or(&text));
    if candidate.is_empty() {
        return None;
    }
    let line = strip(candidate.split('\n').next().unwrap_or_default());
    let line = strip(line.strip_suffix('.').unwrap_or(line));
    let line = strip(line.strip_suffix(',').unwrap_or(line));
    let mut in_line = Numbers(line);
    let found = in_line.next().or_else(|| Numbers(&text).last());
    value(found?)
}

/// The integer after the first `#### ` of a solution.
pub(crate) fn gsm8k_gold(solution: &str) -> Option<Answer> {
    integer(solution.split("#### ").nth(1)?)
}

/// A text that is an integer, commas aside.
pub(crate) fn integer(text: &str) -> Option<Answer> {
    let text = strip(text).replace(',', "");
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_or_else(|_| Answer::Text(text.clone()), Answer::Integer))
}

/// What a completion of MATH answers with: all that follows a marker, else what the last box holds.
pub(crate) fn math(completion: &str) -> Option<&str> {
    let Some(text) = MATH_MARKERS.iter().find_map(|marker| after_last(completion, marker)) else {
        return last_boxed(completion);
    };
    let text = strip(text);
    Some(strip(text.strip_suffix('.').unwrap_or(text)))
}

/// What the last `\boxed{…}` holds. A last `\boxed` without a brace at once, or one that is never closed, holds nothing.
pub(crate) fn last_boxed(text: &str) -> Option<&str> {
    let boxed = &text[text.rfind("\\boxed")?..];
    let mut open = 0_i64;
    for (at, byte) in boxed.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => continue,
        }
        if byte == b'}' && open == 0 {
            return boxed[..at].strip_prefix("\\boxed{");
        }
    }
    None
}

fn after_last<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    text.rsplit_once(marker).map(|(_, after)| after)
}

/// Numbers of a text from left to right: a sign, digits, at most one of `.`, `,` and `/`, and digits.
struct Numbers<'a>(&'a str);

impl<'a> Iterator for Numbers<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.0.as_bytes();
        let digits_at = |at: usize| bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut start = 0;
        while start < bytes.len() {
            let sign = usize::from(matches!(bytes[start], b'+' | b'-'));
            let whole = digits_at(start + sign);
            let mut end = start + sign + whole;
            let mut found = whole > 0;
            if matches!(bytes.get(end), Some(b'.' | b',' | b'/')) {
                let part = digits_at(end + 1);
                if part > 0 {
                    end += 1 + part;
                    found = true;
                }
            }
            if found {
                let number = &self.0[start..end];
                self.0 = &self.0[end..];
                return Some(number);
            }
            start += 1;
        }
        None
    }
}

/// The value of one of [`Numbers`].
fn value(number: &str) -> Option<f64> {
    let value = match number.split_once('/') {
        Some((above, below)) => float_without_commas(above)? / float_without_commas(below)?,
        None => float_without_commas(number)?,
    };
    value.is_finite().then(|| round_to_6_decimals(value))
}

#[cfg(test)]
mod tests {
    use super::{gsm8k, gsm8k_gold, last_boxed, math};
    use crate::Answer;

    #[test]
    fn numbers_of_gsm8k() {
        let check = |text: &str, expect: Option<f64>| assert_eq!(gsm8k(text), expect, "{text:?}");
        check("The answer is: 1,234,567", Some(1234.0));
        check("The answer is: 1,000.50", Some(1000.0));
        check("The answer is: $12.50", Some(12.5));
        check("The answer is: 1.5e3", Some(1.5));
        check("The answer is: -.5", Some(-0.5));
        check("The answer is: x-", None);
        check("3 apples. The answer is: none\n7 pears", Some(7.0));
        check("The answer is: 2/3", Some(0.666_667));
        check("The answer is: 2/0", None);
        check("The answer is: 0/0", None);
        check("The answer is: /5", None);
        check("The answer is: ", None);
        check("The answer is: 1. The answer is 2. Answer: 3", Some(1.0));
        check("The answer is 2. The answer is 3.", Some(3.0));
        check("the answer\n 4", Some(4.0));
        check(&format!("The answer is: {}", "9".repeat(400)), None);
        check("5 then 6", Some(5.0));
        check("İ answer: 7 é", Some(7.0));
    }

    #[test]
    fn gold_of_gsm8k() {
        let check = |text: &str, expect: Option<Answer>| assert_eq!(gsm8k_gold(text), expect, "{text:?}");
        check("so\n#### 18", Some(Answer::Integer(18)));
        check("#### -1,234 ", Some(Answer::Integer(-1234)));
        check("#### 18.5", None);
        check("#### ", None);
        check("18", None);
        let large = "9".repeat(5000);
        check(&format!("#### {large}"), Some(Answer::Text(large.clone())));
    }

    #[test]
    fn boxes() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(last_boxed(text), expect, "{text:?}");
        check("\\boxed{1} or \\boxed{\\frac{1}{2}} it is", Some("\\frac{1}{2}"));
        check("\\boxed{}", Some(""));
        check("\\boxed{1", None);
        check("\\boxed 1", None);
        check("\\boxed 1}", None);
        check("\\boxed{1} and \\boxed", None);
        check("\\boxed}{1}", None);
        check("\\fbox{1}", None);
        check(&"\\boxed{".repeat(20_000), None);
    }

    #[test]
    fn answers_of_math() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(math(text), expect, "{text:?}");
        check("The answer is: 5.", Some("5"));
        check("The answer is: 5. So it is.", Some("5. So it is"));
        check("Answer: 4. The answer is: 5", Some("5"));
        check("The answer is 5", Some("5"));
        check("the answer is: \\boxed{5}", Some("5"));
        check("The answer is: ", Some(""));
        check("5", None);
    }
}
