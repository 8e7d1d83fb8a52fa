//! Means, deviations and the shape of θ's distribution.

use serde::Serialize;

/// Mean and spread of a few values, such as one a seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many values there are.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divided by n − 1); none for one value.
    pub sample_sd: Option<f64>,
    /// Median: the middle value, or the mean of the two in the middle.
    pub median: f64,
    /// Population standard deviation (divided by n), 0 for one value: what the official collectors print.
    pub population_sd: f64,
}

impl Spread {
    /// Of all values that are numbers; none if there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let middle = (values[(count - 1) / 2] + values[count / 2]) / 2.0;
        Some(Self {
            count,
            mean,
            sample_sd: (count > 1).then(|| (squares / (count - 1) as f64).sqrt()),
            median: middle,
            population_sd: (squares / count as f64).sqrt(),
        })
    }
}

/// The 95 % interval of a share of `successes` in `total` by Wilson's formula (Wilson 1927, JASA 22).
pub(crate) fn wilson(share: f64, total: u64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = total.max(1) as f64;
    let denominator = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / denominator;
    let half = Z / denominator * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Beyond so many standard deviations from the mean a number of θ is an outlier, as in the official histogram.
pub(crate) const OUTLIER_Z: f64 = 3.0;

/// The distribution of θ's numbers. Moments are the population's, in f64.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// How many numbers.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Population standard deviation.
    pub sd: f64,
    /// The smallest number.
    pub min: f64,
    /// The largest number.
    pub max: f64,
    /// Fourth standardised moment less 3 (0 for a normal distribution); none where all numbers are equal.
    pub excess_kurtosis: Option<f64>,
    /// Third standardised moment; none where all numbers are equal.
    pub skewness: Option<f64>,
    /// How many numbers lie more than 3 standard deviations from the mean.
    pub outliers: usize,
    /// Euclidean norm.
    pub norm: f64,
    /// Numbers a bin, between `min` and `max`; min(200, max(50, ⌊count / 100⌋)) bins, as in the official histogram.
    pub bins: Vec<usize>,
}

impl Distribution {
    /// Of all numbers; none if there is none.
    pub fn of(theta: &[f32]) -> Option<Self> {
        let count = theta.len();
        let values = || theta.iter().map(|value| f64::from(*value));
        let (min, max) = (values().min_by(f64::total_cmp)?, values().max_by(f64::total_cmp)?);
        let n = count as f64;
        let mean = values().sum::<f64>() / n;
        let moment = |power| values().map(|value| (value - mean).powi(power)).sum::<f64>() / n;
        let sd = moment(2).sqrt();
        let standardised = |power| (sd > 0.0).then(|| moment(power) / sd.powi(power));
        let bin_count = (count / 100).clamp(50, 200);
        let mut bins = vec![0; bin_count];
        for value in values() {
            bins[bin_of(value, min, max, bin_count)] += 1;
        }
        Some(Self {
            count,
            mean,
            sd,
            min,
            max,
            excess_kurtosis: standardised(4).map(|moment| moment - 3.0),
            skewness: standardised(3),
            outliers: values().filter(|value| (value - mean).abs() > OUTLIER_Z * sd).count(),
            norm: values().map(|value| value * value).sum::<f64>().sqrt(),
            bins,
        })
    }

    /// Edges of a bin. Where all numbers are equal, bins have a width all the same, around that number.
    pub(crate) fn edges(&self, bin: usize) -> (f64, f64) {
        let (low, high) = range(self.min, self.max);
        let width = (high - low) / self.bins.len() as f64;
        (low + bin as f64 * width, low + (bin + 1) as f64 * width)
    }

    /// Whether the middle of a bin is among the outliers.
    pub(crate) fn is_outlier(&self, bin: usize) -> bool {
        let (low, high) = self.edges(bin);
        ((low + high) / 2.0 - self.mean).abs() > OUTLIER_Z * self.sd
    }
}

/// The range that the bins share out, never empty.
fn range(min: f64, max: f64) -> (f64, f64) {
    if max > min { (min, max) } else { (min - 0.5, min + 0.5) }
}

fn bin_of(value: f64, min: f64, max: f64, bins: usize) -> usize {
    let (low, high) = range(min, max);
    (((value - low) / (high - low) * bins as f64) as usize).min(bins - 1)
}

/// The centred moving mean over `window` values (odd), shorter at the ends; gaps (NaN) are left out of the mean and stay
/// gaps.
pub(crate) fn smooth(values: &[f64], window: usize) -> Vec<f64> {
    let half = window / 2;
    // Sums from the start to each place, of the values and of how many there are.
    let mut sums = Vec::with_capacity(values.len() + 1);
    sums.push((0.0, 0_usize));
    for value in values {
        let (sum, count) = sums.last().copied().unwrap_or_default();
        sums.push(if value.is_finite() { (sum + value, count + 1) } else { (sum, count) });
    }
    let mean = |(at, value): (usize, &f64)| {
        let (low, high) = (sums[at.saturating_sub(half)], sums[(at + half + 1).min(values.len())]);
        if value.is_finite() { (high.0 - low.0) / (high.1 - low.1) as f64 } else { f64::NAN }
    };
    values.iter().enumerate().map(mean).collect()
}

/// Over how many steps a curve of so many is smoothed: a 30th of them, odd, at least 5; 1 for very short ones.
pub(crate) fn smoothing_window(steps: usize) -> usize {
    if steps < 8 { 1 } else { (steps / 30).max(5) | 1 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spreads_by_hand() {
        let spread = Spread::of(&[2.0, 4.0, 9.0, f64::NAN]).unwrap();
        // Mean 5, squares 9 + 1 + 16 = 26.
        assert_eq!((spread.count, spread.mean, spread.median), (3, 5.0, 4.0));
        assert_eq!(spread.sample_sd, Some(13.0_f64.sqrt()));
        assert_eq!(spread.population_sd, (26.0_f64 / 3.0).sqrt());
        let even = Spread::of(&[1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!(even.median, 2.5);
        let one = Spread::of(&[7.5]).unwrap();
        assert_eq!((one.sample_sd, one.population_sd), (None, 0.0));
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }

    #[test]
    fn distributions_by_hand() {
        // Mean 0; squares 1 + 1 + 9 + 9 = 20, fourth powers 1 + 1 + 81 + 81 = 164.
        let shape = Distribution::of(&[-1.0, 1.0, -3.0, 3.0]).unwrap();
        assert_eq!((shape.mean, shape.min, shape.max, shape.sd), (0.0, -3.0, 3.0, 5.0_f64.sqrt()));
        assert_eq!((shape.skewness, shape.norm, shape.outliers), (Some(0.0), 20.0_f64.sqrt(), 0));
        assert!((shape.excess_kurtosis.unwrap() - (41.0 / 25.0 - 3.0)).abs() < 1e-12);
        assert_eq!(shape.bins.len(), 50);
        assert_eq!((shape.bins[0], shape.bins[49], shape.bins.iter().sum::<usize>()), (1, 1, 4));
        // Mean 1, squares 4 + 1 + 1 + 4·... : 0, 0, 3 → skewness 1/sqrt(2).
        let skewed = Distribution::of(&[0.0, 0.0, 3.0]).unwrap();
        assert!((skewed.skewness.unwrap() - 0.5_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn outliers_have_bins_of_their_own() {
        let mut theta = vec![0.0_f32; 99];
        theta.push(100.0);
        let shape = Distribution::of(&theta).unwrap();
        assert_eq!(shape.outliers, 1);
        let marked: Vec<usize> = (0..50).filter(|bin| shape.is_outlier(*bin)).collect();
        assert!(marked.contains(&49) && !marked.contains(&0), "{marked:?}");
    }

    #[test]
    fn equal_numbers_have_no_shape() {
        let shape = Distribution::of(&[0.0; 10]).unwrap();
        assert_eq!((shape.skewness, shape.excess_kurtosis, shape.outliers), (None, None, 0));
        assert_eq!(shape.bins.iter().sum::<usize>(), 10);
        assert_eq!(Distribution::of(&[]), None);
        assert_eq!(Distribution::of(&[0.5; 30_000]).unwrap().bins.len(), 200);
    }

    #[test]
    fn wilson_by_hand() {
        let (low, high) = wilson(0.5, 100);
        assert!((low - 0.403_832).abs() < 1e-6 && (high - 0.596_168).abs() < 1e-6, "{low} {high}");
        let (low, high) = wilson(1.0, 10);
        assert!((low - 0.722_467).abs() < 1e-5 && high > 1.0 - 1e-12, "{low} {high}");
    }

    #[test]
    fn smoothing_is_a_centred_mean() {
        let smoothed = smooth(&[1.0, 2.0, 6.0, f64::NAN, 4.0], 3);
        assert_eq!(smoothed[..3], [1.5, 3.0, 4.0]);
        assert!(smoothed[3].is_nan());
        assert_eq!(smoothed[4], 4.0);
        assert_eq!([1, 7, 8, 12, 300, 50_000].map(smoothing_window), [1, 1, 5, 5, 11, 1667]);
    }

    proptest! {
        #[test]
        fn bins_hold_every_number(theta in proptest::collection::vec(-1e3_f32..1e3, 1..500)) {
            let shape = Distribution::of(&theta).unwrap();
            prop_assert_eq!(shape.bins.iter().sum::<usize>(), theta.len());
            prop_assert!(shape.min <= shape.mean + 1e-9 && shape.mean <= shape.max + 1e-9);
        }
    }
}
