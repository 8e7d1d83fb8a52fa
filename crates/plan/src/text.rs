//! Numbers as people read them.

/// 1234567 as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units: `512 B`, `2.0 KiB`, `15.0 GiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count that need not be whole: exact digits up to a thousand, then whole numbers, then powers of ten.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "more than can be counted".to_owned(),
        size if size >= 1e15 => format!("{value:.2e}"),
        size if size >= 1000.0 => grouped(value.round() as u64),
        size if size >= 10.0 || size == 0.0 || size.fract() == 0.0 => trimmed(format!("{value:.1}")),
        size if size >= 0.01 => trimmed(format!("{value:.2}")),
        _ => format!("{value:.1e}"),
    }
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        value if value != 0.0 && value.abs() < 0.01 => format!("{value:.1e}%"),
        value if value.abs() < 10.0 => format!("{}%", trimmed(format!("{value:.2}"))),
        value => format!("{value:.1}%"),
    }
}

/// `2 ranks × 3.0 GiB`.
pub(crate) fn ranks_times(ranks: u64, each: u64) -> String {
    format!("{} × {}", counted(ranks, "rank"), bytes(each))
}

/// `1 step`, `2,000 steps`, `8 micro-batches`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = match number {
        1 => "",
        _ if thing.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {thing}{plural}", grouped(number))
}

/// A duration.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if !v.is_finite() || v >= 1e12 => "longer than anyone waits".to_owned(),
        v if v < 0.1 => format!("{} ms", number(v * 1e3)),
        v if v < 10.0 => format!("{v:.2} s"),
        v if v < 60.0 => format!("{v:.1} s"),
        v if v < 3600.0 => format!("{} min {} s", v as u64 / 60, v as u64 % 60),
        v if v < 172_800.0 => format!("{} h {} min", v as u64 / 3600, v as u64 % 3600 / 60),
        v => format!("{} days {} h", grouped(v as u64 / 86_400), v as u64 % 86_400 / 3600),
    }
}

/// Lines of at most `width` characters; words are not broken, each line is indented as the first.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = vec![indent.clone()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        let (used, is_new) = (line.chars().count(), line.trim().is_empty());
        if !is_new && used + 1 + word.chars().count() > width {
            lines.push(format!("{indent}{word}"));
        } else {
            line.push_str(if is_new { "" } else { " " });
            line.push_str(word);
        }
    }
    lines
}

fn trimmed(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_234_567].map(grouped), ["0", "999", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1024, 1 << 20, (1 << 30) - 1, 15 << 30, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 GiB", "15.0 GiB", "16.0 EiB"]
        );
        assert_eq!(
            [0.0, 0.004, 0.5, 8.0, 12.34, 2560.4, 1e15, f64::INFINITY].map(number),
            ["0", "4.0e-3", "0.5", "8", "12.3", "2,560", "1.00e15", "more than can be counted"]
        );
        assert_eq!([0.167, 0.0025, 1.0, 1e-9].map(percent), ["16.7%", "0.25%", "100.0%", "1.0e-7%"]);
        assert_eq!(
            [0.5, 59.94, 61.0, 3725.0, 180_000.0].map(seconds),
            ["0.50 s", "59.9 s", "1 min 1 s", "1 h 2 min", "2 days 2 h"]
        );
        assert_eq!([1, 2000].map(|n| counted(n, "step")), ["1 step", "2,000 steps"]);
        assert_eq!(counted(0, "micro-batch"), "0 micro-batches");
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("ab cd  ef", 5), ["ab cd", "ef"]);
        assert_eq!(wrapped("  ab cd", 5), ["  ab", "  cd"]);
        assert_eq!(wrapped("abcdefgh i", 5), ["abcdefgh", "i"]);
    }
}
