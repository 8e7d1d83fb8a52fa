//! Round numbers for axes.

use super::Axis;
use crate::numbers::{fixed, significant, superscript};

/// A range in drawing coordinates (the logarithm, on a logarithmic axis), and what stands at which place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) log: bool,
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// The scale of values from `low` to `high`, with about `count` ticks.
    pub(crate) fn new(axis: &Axis, (low, high): (f64, f64), count: usize, padding: f64) -> Self {
        let log = axis.log && low > 0.0;
        let place = |value: f64| if log { value.log10() } else { value };
        let (mut low, mut high) = if low <= high { (place(low), place(high)) } else { (0.0, 1.0) };
        if axis.from_zero && !log {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if high - low <= f64::EPSILON * high.abs() * 8.0 {
            // One value: a range around it, above zero where it is to begin there.
            let half = if log {
                0.3
            } else if low == 0.0 {
                1.0
            } else {
                low.abs() * 0.1
            };
            (low, high) =
                if axis.from_zero && !log && low == 0.0 { (0.0, half) } else { (low - half, high + half) };
        }
        let pad = (high - low) * padding;
        let grounded = axis.from_zero && !log && low == 0.0;
        (low, high) = (if grounded { low } else { low - pad }, high + pad);
        let ticks = match (axis.named.is_empty(), log) {
            (false, _) => axis.named.iter().map(|(value, name)| (place(*value), name.clone())).collect(),
            (true, true) => log_ticks(low, high),
            (true, false) => linear_ticks(low, high, count, axis.integer),
        };
        let ticks = ticks.into_iter().filter(|(at, _)| (low..=high).contains(at)).collect();
        Self { low, high, log, ticks }
    }

    /// Where a value lies.
    pub(crate) fn place(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64, count: usize, integer: bool) -> Vec<(f64, String)> {
    let raw = (high - low) / count.max(1) as f64;
    let power = 10.0_f64.powf(raw.log10().floor());
    let mut step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= raw * 0.75);
    if integer {
        step = step.map(|step| step.max(1.0));
    }
    let step = step.unwrap_or(raw);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last.min(first.saturating_add(100)))
        .map(|k| k as f64 * step)
        .map(|at| (at, label(at, step)))
        .collect()
}

/// With as many decimals as the step needs, or in scientific form where these are many.
fn label(value: f64, step: f64) -> String {
    let exponent = (step.log10() + 1e-9).floor() as i32;
    if value == 0.0 && exponent < -5 {
        return "0".to_owned();
    }
    if exponent < -5 {
        return significant(value, 2);
    }
    fixed(value, usize::try_from(-exponent).unwrap_or(0))
}

/// Powers of ten, with 2 and 5 times those where few fit in. Places are logarithms.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let factors: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = (low.floor() as i32)..=(high.ceil() as i32);
    let values = decades.flat_map(|power| factors.iter().map(move |factor| (*factor, power)));
    values
        .map(|(factor, power)| {
            let value = factor * 10.0_f64.powi(power);
            let name = match power {
                -5..=6 => fixed(value, usize::try_from(-power).unwrap_or(0)),
                _ if factor == 1.0 => format!("10{}", superscript(power)),
                _ => format!("{factor:.0}×10{}", superscript(power)),
            };
            (value.log10(), name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(axis: Axis, range: (f64, f64), expect: &[&str]) {
        let scale = Scale::new(&axis, range, 5, 0.0);
        let names: Vec<&str> = scale.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn ticks_are_round() {
        let plain = Axis::default();
        check(plain.clone(), (0.0, 50_000.0), &["0", "10,000", "20,000", "30,000", "40,000", "50,000"]);
        check(plain.clone(), (2.57, 3.07), &["2.6", "2.7", "2.8", "2.9", "3.0"]);
        check(plain.clone(), (0.0, 2e-4), &["0.00000", "0.00005", "0.00010", "0.00015", "0.00020"]);
        check(plain.clone(), (0.0, 2e-7), &["0", "5.0×10⁻⁸", "1.0×10⁻⁷", "1.5×10⁻⁷", "2.0×10⁻⁷"]);
        check(Axis { integer: true, ..plain.clone() }, (1.0, 3.0), &["1", "2", "3"]);
        check(Axis { from_zero: true, ..plain }, (3.0, 4.0), &["0", "1", "2", "3", "4"]);
    }

    #[test]
    fn one_value_has_a_range() {
        let scale = Scale::new(&Axis { integer: true, ..Axis::default() }, (1.0, 1.0), 5, 0.0);
        assert!(scale.low < 1.0 && scale.high > 1.0);
        assert_eq!(scale.ticks.iter().map(|tick| tick.1.as_str()).collect::<Vec<_>>(), ["1"]);
        let none = Scale::new(&Axis::default(), (f64::INFINITY, f64::NEG_INFINITY), 5, 0.0);
        assert!(none.low < none.high);
    }

    #[test]
    fn logarithmic() {
        let log = Axis { log: true, ..Axis::default() };
        check(log.clone(), (900.0, 6000.0), &["1,000", "2,000", "5,000"]);
        check(log.clone(), (1e-7, 1e-2), &["10⁻⁷", "10⁻⁶", "0.00001", "0.0001", "0.001", "0.01"]);
        check(log, (0.0, 1.0), &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    }
}
