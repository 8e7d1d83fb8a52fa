//! Where a measurement was made with something else than what is planned.

use super::{Level, Warning, remark};
use crate::facts::{Facts, Speed};
use crate::measurement::{Measurement, Shape};
use crate::plan::Plan;
use crate::text;

/// Micro-batches whose tokens differ by less are alike.
const ALIKE: f64 = 1.25;
const AGAIN: &str = "measure again with this run's settings: gpart-dist bench step --json";

fn measurement(facts: &Facts) -> Option<&Measurement> {
    match &facts.speed {
        Some(Speed::Measured(measurement)) => Some(measurement),
        _ => None,
    }
}

pub(super) fn shape(_: &Plan, facts: &Facts) -> Option<Warning> {
    let measurement = measurement(facts)?;
    if measurement.is_of_shape(facts) {
        return None;
    }
    let described = |shape: Shape| {
        let (all, adapted) = (text::grouped(shape.parameters), text::grouped(shape.adapted));
        format!(
            "{all} weights in {} of {}, {adapted} adapted",
            text::counted(shape.layers, "block"),
            shape.hidden
        )
    };
    let (measured, planned) = (described(measurement.shape), described(Shape::of(facts)));
    let reason = format!(
        "the measurement is of a model of another shape, {} ({measured}), and this one has {planned}: its operations a \
         second are taken to be the same",
        measurement.model
    );
    remark("measured_shape", Level::Warning, reason, "measure this model: gpart-dist bench step --json")
}

pub(super) fn settings(plan: &Plan, facts: &Facts) -> Option<Warning> {
    let measurement = measurement(facts)?;
    let variant = measurement.variant(&facts.training)?;
    let mut differ: Vec<String> =
        variant.differences(&facts.training).into_iter().map(str::to_owned).collect();
    let is_other_variant = !differ.is_empty();
    if measurement.dtype != plan.dtype.name() {
        differ.push(format!("in {} and not {}", measurement.dtype, plan.dtype.name()));
    }
    let planned_on = match (&facts.host.gpu, facts.host.is_gpu) {
        (Some(gpu), true) if *gpu != measurement.device => Some(gpu.as_str()),
        (_, is_gpu) if is_gpu != measurement.is_of_cpu() => None,
        (_, true) => Some("a GPU"),
        (_, false) => Some("a CPU"),
    };
    if let Some(planned_on) = planned_on {
        differ.push(format!("on {} and not {planned_on}", measurement.device));
    }
    if differ.is_empty() {
        return None;
    }
    let first = match is_other_variant {
        true => format!(
            "; of its {} the first is taken, {:?}",
            text::counted(measurement.variants.len() as u64, "variant"),
            variant.name
        ),
        false => String::new(),
    };
    let reason = format!("the measurement was made {}{first}", differ.join(", "));
    remark("measured_otherwise", Level::Warning, reason, AGAIN)
}

pub(super) fn micro_batch(plan: &Plan, facts: &Facts) -> Option<Warning> {
    let measured = measurement(facts)?.micro_batch_tokens;
    let planned = plan.steps.tokens / plan.steps.micro_batches.max(1) as f64;
    if !planned.is_finite() || (1.0 / ALIKE..=ALIKE).contains(&(planned / measured)) {
        return None;
    }
    let (measured, planned) = (text::number(measured), text::number(planned));
    let reason = format!(
        "the measurement is of micro-batches of {measured} tokens, and those of this run have {planned}: small ones \
         compute more slowly"
    );
    remark("measured_micro_batch", Level::Note, reason, AGAIN)
}
