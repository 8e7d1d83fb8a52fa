//! Texts and floats as Python has them, since the official code is Python.

/// White space to `str.strip`: that of Unicode and four separators more.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `float(text.replace(",", ""))`, or none where that raises an error.
///
/// Python allows white space around the number and single underscores between digits. It also takes digits of other
/// scripts, which no answer has; they are refused here.
pub(crate) fn float_without_commas(text: &str) -> Option<f64> {
    // The longest number that is worth a look; beyond it all are infinite or a fraction that nobody writes.
    const LONGEST: usize = 100_000;
    let text = strip(text);
    if text.len() > LONGEST || text.is_empty() {
        return None;
    }
    let mut plain = String::with_capacity(text.len());
    let mut last = ' ';
    for c in text.chars().filter(|c| *c != ',') {
        match c {
            '_' if last.is_ascii_digit() => {}
            _ if last == '_' && !c.is_ascii_digit() => return None,
            '0'..='9' | '+' | '-' | '.' | 'a'..='z' | 'A'..='Z' => plain.push(c),
            // Commas may have stood between the number and its white space.
            _ if is_space(c) => plain.push(' '),
            _ => return None,
        }
        last = c;
    }
    // Rust reads the numbers that Python reads: signs, exponents, `inf`, `infinity` and `nan` in any case.
    if last == '_' { None } else { plain.trim().parse().ok() }
}

/// `math.isclose(a, b, rel_tol=tolerance)`.
pub(crate) fn is_close(a: f64, b: f64, tolerance: f64) -> bool {
    if a == b {
        return true;
    }
    let difference = (a - b).abs();
    a.is_finite() && b.is_finite() && difference <= tolerance * a.abs().max(b.abs())
}

/// `round(number, 6)`.
pub(crate) fn round_to_6_decimals(number: f64) -> f64 {
    // Printing rounds the exact value, halves to even, as Python does.
    format!("{number:.6}").parse().unwrap_or(number)
}

/// `str(number)`, but for the exponent's form, which nothing here depends on.
pub(crate) fn float_text(number: f64) -> String {
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{float_without_commas, is_close, round_to_6_decimals};

    #[test]
    fn floats() {
        let check =
            |text: &str, expect: Option<f64>| assert_eq!(float_without_commas(text), expect, "{text:?}");
        check("18", Some(18.0));
        check(" -1,000.50\n", Some(-1000.5));
        check(".5", Some(0.5));
        check("5.", Some(5.0));
        check("1e3", Some(1000.0));
        check("1_000", Some(1000.0));
        check("+Infinity", Some(f64::INFINITY));
        check("12 ,", Some(12.0));
        for text in ["", " ", ",", "1__0", "_1", "1_", "1_.5", "1 2", "0x10", "1/2", "--1", "5%", "1e", "１"]
        {
            check(text, None);
        }
        assert!(float_without_commas("nan").unwrap().is_nan());
        check(&"9".repeat(5000), Some(f64::INFINITY));
        check(&"9".repeat(200_000), None);
    }

    #[test]
    fn closeness() {
        assert!(is_close(f64::INFINITY, f64::INFINITY, 1e-4));
        assert!(!is_close(f64::INFINITY, 1.0, 1e-4));
        assert!(!is_close(f64::NAN, f64::NAN, 1e-4));
        assert!(is_close(3.0001, 3.0, 1e-4) && !is_close(3.001, 3.0, 1e-4));
        assert!(!is_close(1e-300, 0.0, 1e-4));
    }

    #[test]
    fn rounding() {
        // Half of the last place, exact in binary: to the even neighbour.
        assert_eq!(round_to_6_decimals(0.007_812_5), 0.007_812);
        assert_eq!(round_to_6_decimals(2.0 / 3.0), 0.666_667);
        assert_eq!(round_to_6_decimals(18.0), 18.0);
        assert_eq!(round_to_6_decimals(1e300), 1e300);
    }
}
