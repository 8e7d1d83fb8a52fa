//! Which plots a report has, made of its runs.

mod by_d;
mod curves;
mod theta;
mod time;

pub(crate) use time::split;

use crate::Evaluation;
use crate::group::Group;
use crate::plot::{Ink, Plot};
use crate::stats::Distribution;

/// All plots that there is something for. `bases` are evaluations without an adapter.
pub(crate) fn all(
    groups: &[Group],
    bases: &[&Evaluation],
    shapes: &[(String, Option<Distribution>)],
) -> Vec<Plot> {
    let mut plots = by_d::plots(groups, bases);
    plots.extend(curves::plots(groups));
    plots.extend(time::plots(groups));
    let several = shapes.len() > 1;
    let numbered = shapes.iter().enumerate();
    plots.extend(numbered.filter_map(|(at, (name, shape))| {
        let stem = if several { format!("theta_histogram_{}", at + 1) } else { "theta_histogram".to_owned() };
        Some(theta::plot(stem, several.then_some(name.as_str()), shape.as_ref()?))
    }));
    plots.retain(|plot| !plot.is_empty());
    plots
}

/// More curves than this nobody can tell apart.
const MOST_CURVES: usize = 14;

/// A group's colour.
fn ink(group: usize) -> Ink {
    Ink::Series(group)
}

/// What a caption says of curves that are left out.
fn left_out(groups: usize) -> String {
    if groups > MOST_CURVES {
        format!(" The first {MOST_CURVES} of {groups} are shown.")
    } else {
        String::new()
    }
}
