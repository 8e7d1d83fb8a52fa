//! Numbers as people read them.

/// An integer with a comma between groups of three digits.
pub(crate) fn thousands(value: u64) -> String {
    group_digits(&value.to_string())
}

/// A number with so many decimals, a comma between groups of three digits, and a real minus sign.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "NaN".to_owned() } else { format!("{value}") };
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let point = if fraction.is_empty() { "" } else { "." };
    // What rounds to nothing has no sign.
    let minus = if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) { "−" } else { "" };
    format!("{minus}{}{point}{fraction}", group_digits(whole))
}

/// A number to so many significant digits, in scientific form where it is very large or small.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return fixed(value, 0);
    }
    // Rounding may add a digit (9.996 → 10.00), so the exponent is that of the rounded number.
    let text = format!("{:.*e}", digits.saturating_sub(1), value.abs());
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-5..9).contains(&exponent) {
        return fixed(value, usize::try_from(digits as i32 - 1 - exponent).unwrap_or(0));
    }
    let mantissa = text.split_once('e').map_or("", |(mantissa, _)| mantissa);
    let minus = if value < 0.0 { "−" } else { "" };
    format!("{minus}{mantissa}×10{}", superscript(exponent))
}

/// An integer as superscript digits.
pub(crate) fn superscript(value: i32) -> String {
    let raise = |c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_digit(0, 10)
            .and_then(|zero| char::from_u32('⁰' as u32 + c as u32 - zero as u32))
            .unwrap_or(c),
    };
    value.to_string().chars().map(raise).collect()
}

/// Bytes in a unit of 1000 or of its powers.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut scaled, mut unit) = (value as f64, 0);
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || scaled >= 99.95 { 0 } else { 1 };
    format!("{} {}", fixed(scaled, digits), UNITS[unit])
}

/// Seconds as a duration in two units at most.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 59.95 {
        return format!("{} s", if seconds < 1.0 { significant(seconds, 2) } else { fixed(seconds, 1) });
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {rest:02} s"),
        (0, _) => format!("{hours} h {minutes:02} min"),
        _ => format!("{} d {hours:02} h", thousands(days)),
    }
}

fn group_digits(digits: &str) -> String {
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: String, expect: &str) {
        assert_eq!(input, expect);
    }

    #[test]
    fn numbers_have_separators() {
        check(thousands(0), "0");
        check(thousands(999), "999");
        check(thousands(1000), "1,000");
        check(thousands(1_344_274_432), "1,344,274,432");
        check(fixed(-1234.5678, 2), "−1,234.57");
        check(fixed(-0.001, 2), "0.00");
        check(fixed(999.96, 1), "1,000.0");
        check(fixed(f64::NAN, 1), "NaN");
    }

    #[test]
    fn significant_digits() {
        check(significant(0.0, 3), "0");
        check(significant(9.996, 3), "10.0");
        check(significant(0.02, 2), "0.020");
        check(significant(12345.6, 3), "12,346");
        check(significant(-2.5e-7, 2), "−2.5×10⁻⁷");
        check(significant(1.0e12, 2), "1.0×10¹²");
    }

    #[test]
    fn units() {
        check(bytes(0), "0 B");
        check(bytes(131_862), "132 kB");
        check(bytes(2_097_152), "2.1 MB");
        check(bytes(999_999), "1.0 MB");
        check(duration(0.0123), "0.012 s");
        check(duration(6.66), "6.7 s");
        check(duration(59.96), "1 min 00 s");
        check(duration(3661.0), "1 h 01 min");
        check(duration(200_000.0), "2 d 07 h");
        check(duration(-1.0), "unknown");
    }
}
