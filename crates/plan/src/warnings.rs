//! What is wrong with a plan, why, and what to do.

use serde::Serialize;

use crate::error::advice;
use crate::facts::{Facts, PartitionKind};
use crate::plan::Plan;
use crate::text;

mod measured;

/// How bad it is; the worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A run would not start.
    Refusal,
    /// A run would go wrong, or waste much.
    Warning,
    /// Worth knowing.
    Note,
}

/// One remark on a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A name for programs.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is wrong, with the numbers.
    pub reason: String,
    /// What to do.
    pub suggestion: String,
}

/// A group smaller than this averages little noise away, and θ is no longer small beside the weights.
const SENSIBLE_GROUP: f64 = 8.0;
/// Above this many bits the unit of the sums grows, and the limit of a gradient stays at 8.
const USUAL_BITS: u32 = 19;

pub(crate) fn of(plan: &Plan, facts: &Facts) -> Vec<Warning> {
    let checks: [fn(&Plan, &Facts) -> Option<Warning>; 16] = [
        partition_refused,
        memory_short,
        disk_short,
        small_groups,
        empty_groups,
        ranks_uneven,
        pipeline_short,
        signed_mesh,
        cheaper_mesh,
        measured::shape,
        measured::settings,
        measured::micro_batch,
        warmup_too_long,
        rows_too_long,
        sums_coarse,
        cores_short,
    ];
    let mut warnings: Vec<Warning> = checks.iter().filter_map(|check| check(plan, facts)).collect();
    warnings.sort_by_key(|warning| warning.level);
    warnings
}

fn remark(
    code: &'static str,
    level: Level,
    reason: String,
    suggestion: impl Into<String>,
) -> Option<Warning> {
    Some(Warning { code, level, reason, suggestion: suggestion.into() })
}

fn partition_refused(plan: &Plan, facts: &Facts) -> Option<Warning> {
    let (d, adapted) = (text::grouped(plan.d), text::grouped(plan.parameters.adapted));
    if plan.parameters.adapted == 0 {
        let reason = "no weight of the model is adapted".to_owned();
        return remark(
            "nothing_adapted",
            Level::Refusal,
            reason,
            "name linear modules with --target-modules",
        );
    }
    if plan.d == 0 || plan.d > plan.parameters.adapted {
        let reason = format!("d = {d} is not between 1 and the number of adapted weights, {adapted}");
        return remark(
            "d_out_of_range",
            Level::Refusal,
            reason,
            "choose a smaller --d or adapt more modules",
        );
    }
    if plan.groups.impossible && facts.training.block_scope {
        let reason = format!(
            "d = {d} cannot be split over {}: each needs at least one group and at most one for each of its \
             adapted weights",
            text::counted(plan.parameters.adapted_blocks, "block")
        );
        return remark(
            "block_groups",
            Level::Refusal,
            reason,
            "change --d, or use the global partition scope",
        );
    }
    None
}

fn memory_short(plan: &Plan, facts: &Facts) -> Option<Warning> {
    let memory = &plan.memory;
    let available = memory.available?;
    let (needed, has) = (text::bytes(memory.host_peak), text::bytes(available));
    let of = facts.host.memory_of();
    let needs = format!("the run needs {needed} of memory on a {of} ({})", memory.ranks_text());
    let (code, level, reason) = if memory.host_peak > available {
        ("memory", Level::Refusal, format!("{needs}, and {has} are available"))
    } else if memory.host_with_allocator() > available {
        let hold = text::bytes(memory.host_with_allocator());
        ("memory_tight", Level::Warning, format!("{needs} and may come to hold {hold}; {has} are available"))
    } else {
        return None;
    };
    Some(Warning { code, level, reason, suggestion: advice(&memory.remedies(facts)) })
}

fn disk_short(plan: &Plan, _: &Facts) -> Option<Warning> {
    let (needed, free) = (plan.disk.total, plan.disk.free?);
    if needed <= free {
        return None;
    }
    let (needed, free) = (text::bytes(needed), text::bytes(free));
    let reason = format!("the output folder grows to {needed} and its disk has {free} free");
    let suggestion = "choose another --output, or keep fewer checkpoints with --save-total-limit";
    remark("disk", Level::Warning, reason, suggestion)
}

fn small_groups(plan: &Plan, _: &Facts) -> Option<Warning> {
    let mean = plan.groups.mean;
    let sensible = (plan.parameters.adapted as f64 / SENSIBLE_GROUP) as u64;
    // Below one weight a group d is refused.
    if !(1.0..SENSIBLE_GROUP).contains(&mean) || sensible == 0 {
        return None;
    }
    let (weights, share) = (text::number(mean), text::percent(1.0 / mean));
    let reason = format!("a group has {weights} weights on average: θ is {share} of the adapted weights");
    let suggestion = format!("a --d of {} or less leaves 8 weights a group", text::grouped(sensible));
    remark("small_groups", Level::Warning, reason, suggestion)
}

fn empty_groups(plan: &Plan, _: &Facts) -> Option<Warning> {
    let empty = plan.groups.empty;
    if empty < 1.0 {
        return None;
    }
    let reason = format!("about {} of {} groups get no weight", text::number(empty), text::grouped(plan.d));
    let suggestion = "their numbers never learn; a smaller --d avoids them";
    remark("empty_groups", Level::Warning, reason, suggestion)
}

fn ranks_uneven(plan: &Plan, _: &Facts) -> Option<Warning> {
    let (steps, pipelines) = (&plan.steps, plan.steps.pipelines);
    let batches = text::counted(steps.micro_batches, "micro-batch");
    let who = match plan.mesh.pp {
        1 => text::counted(pipelines, "rank"),
        pp => format!("{} of {pp} ranks", text::counted(pipelines, "pipeline")),
    };
    let suggestion = "make --accumulation-steps a multiple of the ranks (a smaller --micro-batch-size keeps the \
                      rows of a step), or start fewer ranks";
    if steps.idle_ranks > 0 {
        let idle = text::counted(steps.idle_ranks, "rank");
        let reason = format!("a step has {batches} for {who}: {idle} would be idle");
        return remark("idle_ranks", Level::Warning, reason, suggestion);
    }
    if !steps.micro_batches.is_multiple_of(pipelines.max(1)) {
        let used = text::percent(steps.balance);
        let reason = format!("a step has {batches} for {who}: they would compute {used} of the time");
        return remark("uneven_ranks", Level::Warning, reason, suggestion);
    }
    None
}

fn pipeline_short(plan: &Plan, _: &Facts) -> Option<Warning> {
    let (stages, micro_batches) = (plan.mesh.pp as u64, plan.steps.busiest_rank);
    if stages < 2 || micro_batches >= stages {
        return None;
    }
    let (batches, of) = (text::counted(micro_batches, "micro-batch"), text::counted(stages, "stage"));
    let waits = text::percent(plan.timing.bubble);
    let reason =
        format!("a pipeline has {batches} a step for {of}: its ranks would wait {waits} of the time");
    let suggestion =
        "raise --accumulation-steps (a smaller --micro-batch-size keeps the rows of a step), or lower --pp";
    remark("short_pipeline", Level::Warning, reason, suggestion)
}

/// Groups by sign and size are made from all weights.
fn signed_mesh(plan: &Plan, _: &Facts) -> Option<Warning> {
    if plan.partition != PartitionKind::SignedMagnitude || (plan.mesh.dp_shard, plan.mesh.pp) == (1, 1) {
        return None;
    }
    let reason =
        "groups by sign and size are made from all weights, and a rank of this mesh has a part of them";
    let suggestion = format!("give --dp-replicate {} --dp-shard 1 --pp 1", plan.ranks);
    remark("signed_mesh", Level::Refusal, reason.to_owned(), suggestion)
}

/// A hundredth of a step or of the bytes is worth a word.
fn cheaper_mesh(plan: &Plan, _: &Facts) -> Option<Warning> {
    let (best, own) = (plan.meshes.first()?, plan.ranked()?);
    if best.fits == Some(false) || best.degrees == own.degrees {
        return None;
    }
    let faster = 1.0 - best.step_seconds / own.step_seconds;
    let fewer = own.bytes_moved.saturating_sub(best.bytes_moved);
    let mut gains = Vec::new();
    if own.fits == Some(false) {
        gains.push("would fit".to_owned());
    }
    if faster >= 0.01 {
        gains.push(format!("would make a step {} shorter", text::percent(faster)));
    }
    if fewer > own.bytes_moved / 100 {
        gains.push(format!("would move {} less a step", text::bytes(fewer)));
    }
    if gains.is_empty() {
        return None;
    }
    let reason = format!("{} {}", best.flags(), gains.join(" and "));
    let assumed = [
        (plan.timing.speed_is_assumed, "speed (--measured, --tflops, --tokens-per-second)"),
        (plan.timing.messages_are_assumed, "links (--link-gbps, --link-ms, --local-gbps, --local-ms)"),
    ];
    let assumed: Vec<&str> = assumed.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
    let suggestion = match assumed.is_empty() {
        true => "see the meshes above".to_owned(),
        false => format!("see the meshes above; assumed: {}", assumed.join(" and ")),
    };
    remark("cheaper_mesh", Level::Note, reason, suggestion)
}

fn warmup_too_long(plan: &Plan, _: &Facts) -> Option<Warning> {
    let (total, warmup) = (plan.steps.total?, plan.steps.warmup?);
    if warmup < total || warmup == 0 {
        return None;
    }
    let (steps, of_run) = (text::counted(warmup, "step"), text::counted(total, "step"));
    let reason = format!("the warm-up takes {steps} and the run has {of_run}");
    let suggestion = "lower --warmup-ratio: the learning rate never comes to its highest value";
    remark("warmup", Level::Warning, reason, suggestion)
}

fn rows_too_long(_: &Plan, facts: &Facts) -> Option<Warning> {
    let (positions, longest) = (facts.model.max_positions?, facts.data.longest());
    if longest <= positions {
        return None;
    }
    let (rows, level) = match facts.data.longest_tokens {
        Some(_) => ("the longest row has", Level::Warning),
        None => ("rows may have up to", Level::Note),
    };
    let (tokens, made_for) = (text::counted(longest, "token"), text::grouped(positions));
    let reason = format!("{rows} {tokens} and the model was made for {made_for} positions");
    let suggestion = format!("lower --max-seq-length to {positions} unless this is on purpose");
    remark("long_rows", level, reason, suggestion)
}

fn sums_coarse(plan: &Plan, _: &Facts) -> Option<Warning> {
    let (bits, exponent) = (plan.fixed_point.bits, -plan.fixed_point.exponent);
    if bits <= USUAL_BITS {
        return None;
    }
    let reason = format!(
        "a group gets up to 2^{bits} terms a step, so gradients are summed in units of 2^{exponent} and not of 2^-40"
    );
    remark("coarse_sums", Level::Warning, reason, "a larger --d makes groups smaller")
}

fn cores_short(plan: &Plan, facts: &Facts) -> Option<Warning> {
    let cores = facts.host.cores?;
    if facts.ranks.on_host.saturating_mul(plan.threads.max(1)) <= cores {
        return None;
    }
    let (ranks, threads) =
        (text::counted(facts.ranks.on_host, "rank"), text::counted(plan.threads, "thread"));
    let reason = format!("{ranks} with {threads} each compute on {}", text::counted(cores, "core"));
    remark("cores", Level::Warning, reason, "start fewer ranks on the host or lower --threads")
}
