//! A plan as text.

use serde::Serialize;

use crate::facts::PartitionKind;
use crate::plan::Plan;
use crate::text::{bytes, counted, grouped, number, percent, seconds, wrapped};
use crate::warnings::Level;

mod mesh;

/// Widest label and value; with two spaces between, a line has at most 96 columns.
const LABEL_WIDTH: usize = 34;
const VALUE_WIDTH: usize = 60;

/// A titled table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// What it is about.
    pub title: &'static str,
    /// Labels and values. A value too long for a line goes on in rows without a label.
    pub rows: Vec<(String, String)>,
}

impl Section {
    fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    fn row(&mut self, label: impl Into<String>, value: impl AsRef<str>) {
        let labels = wrapped(&label.into(), LABEL_WIDTH);
        let values = wrapped(value.as_ref(), VALUE_WIDTH);
        let line = |lines: &[String], at: usize| lines.get(at).cloned().unwrap_or_default();
        let lines = labels.len().max(values.len());
        self.rows.extend((0..lines).map(|at| (line(&labels, at), line(&values, at))));
    }
}

pub(crate) fn of(plan: &Plan) -> Vec<Section> {
    let sections = [
        model(plan),
        partition(plan),
        steps(plan),
        mesh::owned(plan),
        memory(plan),
        mesh::moved(plan),
        mesh::time(plan),
        mesh::ranking(plan),
        disk(plan),
        warnings(plan),
    ];
    sections.into_iter().filter(|section| !section.rows.is_empty()).collect()
}

fn model(plan: &Plan) -> Section {
    let (mut section, parameters) = (Section::new("Model"), &plan.parameters);
    section.row("parameters", grouped(parameters.total));
    section.row("  embedding", grouped(parameters.embedding));
    let head = if parameters.head == 0 { "the embedding".to_owned() } else { grouped(parameters.head) };
    section.row("  head", head);
    section.row("  attention", grouped(parameters.attention));
    section.row("  MLP", grouped(parameters.mlp));
    section.row("  norms", grouped(parameters.norms));
    let share = percent(parameters.adapted_share);
    section.row("adapted weights", format!("{}, {share} of the model", grouped(parameters.adapted)));
    if parameters.adapted_biases > 0 {
        section.row("  of which biases", grouped(parameters.adapted_biases));
    }
    let blocks = format!("{} of {}", grouped(parameters.adapted_blocks), counted(parameters.blocks, "block"));
    section.row("  in", format!("{}, {blocks}", counted(parameters.adapted_modules, "module")));
    section
}

fn partition(plan: &Plan) -> Section {
    let (mut section, groups, fixed) = (Section::new("Partition"), &plan.groups, &plan.fixed_point);
    let scope = match groups.narrowest_block {
        Some(width) => format!("{} a block", counted(width, "group")),
        None => "global".to_owned(),
    };
    section.row("kind", format!("{}, {scope}", plan.partition.name()));
    section.row("groups (d)", grouped(plan.d));
    section.row("weights a group, mean", number(groups.mean));
    let expected = if plan.partition == PartitionKind::SignedMagnitude { "by rule" } else { "expected" };
    let (min, max) = (number(groups.min.round()), number(groups.max.round()));
    section.row(format!("smallest and largest, {expected}"), format!("{min} and {max}"));
    if groups.empty >= 0.5 {
        section.row("groups without a weight, expected", number(groups.empty.round()));
    }
    section.row("‖ΔW‖ = ‖θ‖", if plan.isometric { "yes" } else { "no (--isometric false)" });
    let unit = format!("in units of 2^{}, up to 2^{} terms", -fixed.exponent, fixed.bits);
    section.row("gradient sums", unit);
    section.row("largest gradient of a weight", number(fixed.limit.into()));
    section
}

fn steps(plan: &Plan) -> Section {
    let (mut section, steps, work) = (Section::new("Steps and time"), &plan.steps, &plan.work);
    let at_most = if steps.is_upper_bound { "at most " } else { "" };
    let about = |value: f64| format!("{at_most}{}", number(value));
    let micro_batches = counted(steps.micro_batches, "micro-batch");
    section.row("rows a step", format!("{} in {micro_batches}", grouped(steps.rows)));
    section.row("tokens a step", about(steps.tokens));
    if let (Some(batches), Some(per_epoch)) = (steps.micro_batches_per_epoch, steps.per_epoch) {
        let batches = counted(batches, "micro-batch");
        section.row("an epoch", format!("{} of {batches}", counted(per_epoch, "step")));
    }
    match (steps.total, steps.epochs) {
        (Some(total), Some(epochs)) => {
            section.row("steps", format!("{}, {} epochs", grouped(total), number(epochs)))
        }
        (Some(total), None) => section.row("steps", grouped(total)),
        (None, _) => section.row("steps", "not known without the number of rows"),
    }
    if let Some(warmup) = steps.warmup {
        section.row("  of which warm-up", grouped(warmup));
    }
    if let Some(tokens) = steps.total_tokens {
        section.row("tokens in all", about(tokens));
    }
    let share = percent(steps.balance);
    let of = if plan.mesh.pp > 1 {
        "most micro-batches of a pipeline"
    } else {
        "micro-batches of the busiest rank"
    };
    section.row(of, format!("{} ({share} balance)", grouped(steps.busiest_rank)));
    let per_token = number((work.linear_per_token + work.attention_per_token) / 1e9);
    section.row(
        "operations a token",
        format!("{at_most}{per_token} billion (4 a frozen weight, 6 an adapted one)"),
    );
    section.row("operations a step", format!("{} trillion", about(work.per_step / 1e12)));
    section
        .row("ΔW is written", format!("{} a step on the busiest rank", counted(work.delta_passes, "time")));
    let computing = plan.ranks > 1 && plan.timing.messages_are_assumed;
    let without = if computing { ", messages not counted" } else { "" };
    if let Some(step) = work.step_seconds {
        section.row("time a step", format!("{at_most}{}{without}", seconds(step)));
    }
    if let Some(total) = work.total_seconds {
        section.row("time in all", format!("{at_most}{}{without}", seconds(total)));
    }
    section
}

fn memory(plan: &Plan) -> Section {
    let (mut section, memory) = (Section::new("Memory of a rank"), &plan.memory);
    if plan.mesh.pp > 1 {
        section.row("of the stage that needs most", format!("stage {}", grouped(memory.stage)));
    }
    for part in &memory.held {
        section.row(part.name, bytes(part.bytes));
    }
    if let Some(phase) = memory.largest_phase() {
        section.row(format!("at the peak: {}", phase.name), bytes(phase.bytes));
        for part in &phase.parts {
            section.row(format!("  {}", part.name), bytes(part.bytes));
        }
    }
    section.row("peak", format!("{} in {}", bytes(memory.peak), plan.dtype.name()));
    if memory.allocator > 0 {
        section.row("freed but kept by the allocator", format!("about {}", bytes(memory.allocator)));
    }
    let of = if plan.is_gpu { "GPU" } else { "host" };
    section.row(of, format!("{} ({})", bytes(memory.host_peak), memory.ranks_text()));
    if let Some(available) = memory.available {
        section.row(format!("available on this {of}"), bytes(available));
    }
    section
}

fn disk(plan: &Plan) -> Section {
    let (mut section, disk) = (Section::new("Disk"), &plan.disk);
    let kept = grouped(disk.checkpoints_kept);
    section.row("checkpoint", format!("{}, {kept} kept", bytes(disk.checkpoint)));
    section.row("adapter", format!("{}, {} in all", bytes(disk.adapter), grouped(disk.adapters)));
    section.row("tokenizer's files", bytes(disk.tokenizer));
    if let Some(records) = disk.records {
        section.row("metrics, events and log", bytes(records));
    }
    section.row("output folder, at most", bytes(disk.total));
    if let Some(free) = disk.free {
        section.row("free there", bytes(free));
    }
    if let Some(cache) = disk.token_cache {
        section.row("token cache (its own folder)", bytes(cache));
    }
    section
}

fn warnings(plan: &Plan) -> Section {
    let mut section = Section::new("Remarks");
    for warning in &plan.warnings {
        let level = match warning.level {
            Level::Refusal => "refused",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        section.row(level, &warning.reason);
        section.row("  hint", &warning.suggestion);
    }
    section
}
