//! Which blocks each pipeline stage gets.

use std::ops::Range;

use mesh::StageError;

use crate::count::{product, sum};
use crate::facts::Model;

/// The blocks of each of `pp` pipeline stages, balanced by the arithmetic of a token: 2 operations a weight in forward; in
/// backward 2 a weight that gradients flow through and 2 an adapted weight. The head, on the last stage, counts like a
/// frozen map. What is below the first adapted block has no backward.
///
/// # Errors
/// [`StageError::TooMany`] when there are fewer blocks than stages, or no stage.
pub fn stages(model: &Model, pp: usize) -> Result<Vec<Range<usize>>, StageError> {
    let first_adapted = model.first_adapted();
    let mut costs = Vec::new();
    for (at, run) in model.blocks.iter().enumerate() {
        let weights = sum(run.linears.iter().map(|linear| linear.weights()));
        let adapted =
            sum(run.linears.iter().filter(|linear| linear.adapted_weight).map(|linear| linear.weights()));
        let cost = match at < first_adapted {
            true => product([weights, 2]),
            false => sum([product([weights, 4]), product([adapted, 2])]),
        };
        costs.extend((0..run.repeat).map(|_| cost));
    }
    mesh::stages(&costs, [0, product([model.vocab, model.hidden, 4])], pp)
}
