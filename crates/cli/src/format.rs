//! Numbers and lines as people read them.

use std::io::Write;

/// Prints a line to standard output. A reader that has gone away is no reason to stop a run.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 step`, `2 steps`.
pub fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A small number as C and Python print it: 0.0197 as `1.97e-02`.
pub fn scientific(number: f64) -> String {
    let text = format!("{number:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if number != 0.0 => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        _ => "0".to_owned(),
    }
}

/// A number of bytes in decimal units.
pub fn bytes(number: u64) -> String {
    let number = number as f64;
    match number {
        n if n < 1e3 => format!("{n} bytes"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

/// A duration in the units a person would use.
pub fn seconds(number: f64) -> String {
    let whole = number.round() as u64;
    match whole {
        0..60 => format!("{number:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Wraps text to the width of a page, each line behind `indent`.
pub fn wrapped(text: &str, indent: &str) -> String {
    const WIDTH: usize = 100;
    let options = textwrap::Options::new(WIDTH).initial_indent(indent).subsequent_indent(indent);
    textwrap::fill(text, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let numbers = [0, 12, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!([999, 131_900, 3_500_000].map(bytes), ["999 bytes", "131.9 kB", "3.5 MB"]);
        assert_eq!([0.0, 0.0197, 1e30].map(scientific), ["0", "1.97e-02", "1.00e+30"]);
        assert_eq!([1, 2000].map(|n| counted(n, "step")), ["1 step", "2,000 steps"]);
        assert_eq!([21.12, 61.0, 3725.0].map(seconds), ["21.1 s", "1 min 1 s", "1 h 2 min"]);
    }
}
