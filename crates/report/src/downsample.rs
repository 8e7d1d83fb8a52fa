//! Long curves in as many points as a plot has pixels.

/// At most two points a column: of all points that fall into a pixel column the lowest and the highest, in their order.
/// Points in ascending x; a gap (y not finite) ends the column, so that gaps stay.
///
/// What a plot of all points would show is kept: every extreme and every column's extent.
pub(crate) fn min_max(points: &[(f64, f64)], columns: usize) -> Vec<(f64, f64)> {
    if points.len() <= 2 * columns.max(1) {
        return points.to_vec();
    }
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let width = (last - first) / columns as f64;
    let column = |x: f64| if width > 0.0 { ((x - first) / width) as usize } else { 0 };
    let mut kept = Vec::with_capacity(2 * columns + 2);
    let mut start = 0;
    while start < points.len() {
        if !points[start].1.is_finite() {
            // One mark is enough for a gap of any length.
            let end = points[start..].iter().position(|point| point.1.is_finite());
            kept.push(points[start]);
            start = end.map_or(points.len(), |length| start + length);
            continue;
        }
        let here = column(points[start].0);
        let same = |point: &(f64, f64)| point.1.is_finite() && column(point.0) == here;
        let length = points[start..].iter().take_while(|point| same(point)).count().max(1);
        keep_extremes(&points[start..start + length], &mut kept);
        start += length;
    }
    kept
}

/// The lowest and highest of some points, in the order of x; one where they are the same.
fn keep_extremes(points: &[(f64, f64)], kept: &mut Vec<(f64, f64)>) {
    let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let (Some(low), Some(high)) = (points.iter().min_by(by_y), points.iter().max_by(by_y)) else { return };
    let (one, other) = if low.0 <= high.0 { (low, high) } else { (high, low) };
    kept.push(*one);
    if other != one {
        kept.push(*other);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::min_max;

    #[test]
    fn short_curves_are_kept_whole() {
        let points: Vec<(f64, f64)> = (0..12).map(|x| (f64::from(x), 1.0)).collect();
        assert_eq!(min_max(&points, 600), points);
        assert_eq!(min_max(&[], 600), []);
    }

    #[test]
    fn a_spike_among_thousands_survives() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|x| (f64::from(x), 1.0)).collect();
        points[31_415].1 = 99.0;
        points[27_182].1 = -99.0;
        let kept = min_max(&points, 500);
        assert!(kept.len() <= 1002, "{}", kept.len());
        assert!(kept.contains(&(31_415.0, 99.0)) && kept.contains(&(27_182.0, -99.0)));
    }

    #[test]
    fn gaps_stay() {
        let mut points: Vec<(f64, f64)> = (0..1000).map(|x| (f64::from(x), f64::from(x))).collect();
        points[400..600].iter_mut().for_each(|point| point.1 = f64::NAN);
        let kept = min_max(&points, 10);
        assert_eq!(kept.iter().filter(|point| point.1.is_nan()).count(), 1);
        assert!(kept.contains(&(399.0, 399.0)) && kept.contains(&(600.0, 600.0)));
    }

    proptest! {
        #[test]
        fn extremes_and_order_are_kept(
            ys in proptest::collection::vec(-1e6_f64..1e6, 1..2000), columns in 1_usize..100,
        ) {
            let points: Vec<(f64, f64)> = ys.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let kept = min_max(&points, columns);
            let extremes = |points: &[(f64, f64)]| {
                points.iter().fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.1), high.max(point.1)))
            };
            prop_assert_eq!(extremes(&kept), extremes(&points));
            prop_assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(kept.len() <= 2 * columns.max(1) + 2 || kept.len() == points.len());
        }
    }
}
