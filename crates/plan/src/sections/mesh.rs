//! What the mesh decides: who owns what, what moves, how long a step takes, and what else was possible.

use mesh::Degrees;

use super::Section;
use crate::ownership::StagePlan;
use crate::plan::Plan;
use crate::ranking::RankedMesh;
use crate::text::{bytes, counted, grouped, number, percent, seconds};
use crate::traffic::Certainty;

/// Stages that are listed one by one.
const LISTED_STAGES: usize = 16;
/// Meshes that are listed.
const LISTED_MESHES: usize = 4;

fn named(degrees: &Degrees) -> String {
    let Degrees { dp_replicate, dp_shard, pp } = degrees;
    format!("dp-replicate {dp_replicate}, dp-shard {dp_shard}, pp {pp}")
}

/// Blocks, adapted weights and bytes by stage.
pub(super) fn owned(plan: &Plan) -> Section {
    let mut section = Section::new("What each rank owns");
    section.row("mesh", format!("{} = {}", named(&plan.mesh), counted(plan.ranks, "rank")));
    for (at, stage) in plan.stages.iter().enumerate() {
        let last = at + 1 == plan.stages.len();
        if at < LISTED_STAGES || last {
            own_rows(&mut section, plan, stage);
        } else if at == LISTED_STAGES {
            section.row("…", "");
        }
    }
    section
}

fn own_rows(section: &mut Section, plan: &Plan, stage: &StagePlan) {
    let ranks = counted(stage.ranks, "rank");
    let label = if plan.mesh.pp > 1 { format!("stage {}, {ranks}", stage.stage) } else { ranks };
    let blocks = match stage.end_block.saturating_sub(stage.first_block) {
        0 => "no block".to_owned(),
        1 => format!("block {}", grouped(stage.first_block)),
        _ => format!("blocks {} to {}", grouped(stage.first_block), grouped(stage.end_block - 1)),
    };
    let ends = match (stage.embedding, stage.head) {
        (true, true) => ", embedding, head",
        (true, false) => ", embedding",
        (false, true) => ", norm and head",
        (false, false) => "",
    };
    section.row(label, format!("{blocks}{ends}; {} of the work", percent(stage.work_share)));
    let part = match plan.mesh.dp_shard {
        1 => String::new(),
        shards => format!(", 1/{shards} of them a rank"),
    };
    section.row("  frozen weights held by a rank", format!("{}{part}", bytes(stage.held_bytes)));
    let weights = match stage.end_weight.saturating_sub(stage.first_weight) {
        0 => "none".to_owned(),
        _ => format!("{} to {}", grouped(stage.first_weight), grouped(stage.end_weight - 1)),
    };
    section.row("  adapted weights, by index", weights);
    if plan.mesh.pp > 1 {
        section.row("  micro-batches in flight", grouped(stage.in_flight));
        section.row("  peak of a rank", bytes(stage.peak));
    }
}

/// Bytes moved, axis by axis.
pub(super) fn moved(plan: &Plan) -> Section {
    let mut section = Section::new("Bytes moved a step by the busiest rank");
    for axis in &plan.traffic.axes {
        let stage = axis.stage.map_or(String::new(), |stage| format!(", of stage {stage}"));
        let ranks = counted(axis.ranks, "rank");
        let label = match axis.axis {
            "world" => "all ranks",
            "embedding" => "embedding rows",
            axis => axis,
        };
        section.row(label, format!("{} ({ranks}{stage})", bytes(axis.bytes)));
        for one in &axis.moves {
            let certainty = match one.certainty {
                Certainty::Exact => "",
                Certainty::Mean => " by the mean length of rows",
                Certainty::AtMost => " at most",
            };
            let value = format!("{}{certainty} ({})", bytes(one.bytes), one.operation);
            section.row(format!("  {}", one.what), value);
        }
    }
    if plan.traffic.axes.is_empty() {
        section.row("nothing", "one rank");
    }
    section
}

/// A step's time by part, with the formulas.
pub(super) fn time(plan: &Plan) -> Section {
    let (mut section, timing) = (Section::new("Expected time of a step"), &plan.timing);
    if plan.ranks < 2 && timing.speed_is_assumed {
        return section;
    }
    rates(&mut section, plan);
    let rounds = format!("M = {}", counted(plan.steps.busiest_rank, "micro-batch"));
    let stages = match plan.mesh.pp {
        1 => rounds,
        pp => format!("(M − 1)·max + Σ of P = {} stages, {rounds}", grouped(pp as u64)),
    };
    section.row("computing", format!("{}: {stages}", seconds(timing.compute_seconds)));
    if plan.mesh.pp > 1 {
        let formula = "1 − M·Σ / (P·computing), or (P − 1)/(M + P − 1) where stages are equal";
        section.row("  of which pipeline bubble", format!("{}: {formula}", percent(timing.bubble)));
    }
    let mut part = |label: &str, value: f64, formula: &str| {
        section.row(label, format!("{}: {formula}", seconds(value)));
    };
    if timing.once_seconds > 0.0 {
        part(
            "+ once a step on every rank",
            timing.once_seconds,
            "what does not shrink with ranks, as measured",
        );
    }
    if plan.mesh.dp_shard > 1 {
        let formula = "gathers beyond computing; all of them without --prefetch";
        part("+ waiting for gathered weights", timing.gather_seconds, formula);
        part("+ embedding rows", timing.embedding_seconds, "at most; bytes / bandwidth + S · latency");
    }
    if plan.mesh.pp > 1 {
        let formula = "a message over each boundary, there and back";
        part("+ filling and draining stages", timing.stage_seconds, formula);
    }
    if plan.ranks > 1 {
        let ring = match timing.hosts {
            1 => "2(n − 1)/n · bytes / bandwidth + 2(n − 1) · latency",
            _ => "2(n − 1)/n · bytes / bandwidth between hosts + 2 · the latencies of n − 1 links",
        };
        part("+ all-reduce of θ's gradient", timing.all_reduce_seconds, ring);
        let doubling = "bytes / bandwidth + log2(n) · latency each";
        part("+ small gathers", timing.small_gather_seconds, doubling);
    }
    section.row("a step in all", seconds(timing.step_seconds));
    scaling(&mut section, plan);
    section
}

/// What machines and links were reckoned with.
fn rates(section: &mut Section, plan: &Plan) {
    let timing = &plan.timing;
    let assumed = |is: bool| if is { ", assumed" } else { "" };
    let operations = number(timing.operations_per_second / 1e9);
    let source = match &plan.measured {
        Some(measured) => format!(", measured on {} ({})", measured.device, measured.variant),
        None => assumed(timing.speed_is_assumed).to_owned(),
    };
    section.row("operations a second of a rank", format!("{operations} billion{source}"));
    let mut link = |label: &str, [gbps, ms]: [f64; 2], is_assumed: bool| {
        let link = format!("{} Gbit/s and {} ms{}", number(gbps), number(ms), assumed(is_assumed));
        section.row(label, link);
    };
    if timing.hosts < plan.ranks {
        link("link of a rank within a host", [timing.local_gbps, timing.local_ms], timing.local_is_assumed);
    }
    if timing.hosts > 1 {
        let label = format!("link of a rank between {} hosts", grouped(timing.hosts));
        link(&label, [timing.link_gbps, timing.link_ms], timing.link_is_assumed);
    }
}

/// The ranks beside one.
fn scaling(section: &mut Section, plan: &Plan) {
    let scaling = &plan.scaling;
    if let Some(speed) = scaling.tokens_per_second {
        section.row("tokens a second", number(speed));
    }
    let (Some(efficiency), Some(one)) = (scaling.efficiency, scaling.one_rank_tokens_per_second) else {
        return;
    };
    if plan.ranks > 1 {
        let peak = bytes(scaling.one_rank_peak);
        let fits = match scaling.one_rank_fits {
            Some(true) => String::new(),
            Some(false) => format!("; one alone would need {peak}, which there is not"),
            None => format!("; one alone would need {peak}"),
        };
        let beside = format!("{} × the {} of one rank", grouped(plan.ranks), number(one));
        section.row("scaling efficiency", format!("{} of {beside}{fits}", percent(efficiency)));
    }
}

/// The cheapest meshes, and the plan's own.
pub(super) fn ranking(plan: &Plan) -> Section {
    let mut section = Section::new("Meshes of so many ranks, cheapest first");
    if plan.ranks < 2 {
        return section;
    }
    let own = plan.meshes.iter().position(|mesh| mesh.degrees == plan.mesh);
    for (at, mesh) in plan.meshes.iter().enumerate().take(LISTED_MESHES) {
        mesh_row(&mut section, plan, mesh, own == Some(at));
    }
    match own.filter(|at| *at >= LISTED_MESHES) {
        Some(at) => {
            if at > LISTED_MESHES {
                section.row("…", format!("{} more", grouped((at - LISTED_MESHES) as u64)));
            }
            mesh_row(&mut section, plan, &plan.meshes[at], true);
        }
        None if plan.meshes.len() > LISTED_MESHES => {
            section.row("…", format!("{} more", grouped((plan.meshes.len() - LISTED_MESHES) as u64)));
        }
        None => {}
    }
    section
}

fn mesh_row(section: &mut Section, plan: &Plan, mesh: &RankedMesh, is_own: bool) {
    let own = if is_own { "this plan: " } else { "" };
    let needs = format!("{} a {}", bytes(mesh.host_peak), if plan.is_gpu { "GPU" } else { "host" });
    let fits = match mesh.fits {
        Some(true) => format!("fits, {needs}"),
        Some(false) => format!("does not fit, {needs}"),
        None => needs,
    };
    let bubble =
        if mesh.degrees.pp > 1 { format!(", bubble {}", percent(mesh.bubble)) } else { String::new() };
    let (time, moved) = (seconds(mesh.step_seconds), bytes(mesh.bytes_moved));
    section.row(named(&mesh.degrees), format!("{own}{fits}; {time} a step{bubble}, {moved} moved"));
}
