//! The list of what a rank allocates, from the trainer's code.

use super::{Part, Phase};
use crate::activations::{Bytes, Shape};
use crate::count::{product, sum};
use crate::facts::{BlockRun, Dtype, Facts, PartitionKind};
use crate::parameters::Parameters;

/// The program, libtorch and their tables, as measured without a model: 60 MiB of its own and 140 MiB of mapped
/// libraries, which ranks of one host share.
const PROGRAM_BYTES: u64 = 200 << 20;

/// State of the materialized stream, bytes; a state is kept every so many of its outputs.
const STREAM_STATE_BYTES: u64 = 2496;
const OUTPUTS_PER_STATE: u64 = 65_520;
/// From this d on torch takes two outputs an id.
const TWO_OUTPUTS_FROM: u64 = 1 << 28;

/// Parts that live as long as the run.
pub(super) fn held(facts: &Facts, parameters: &Parameters) -> Vec<Part> {
    let (training, c) = (&facts.training, facts.training.dtype.bytes());
    let d = training.d;
    let rows = facts.data.rows.unwrap_or(0);
    let ends = sum([parameters.embedding, parameters.head, parameters.norms]);
    let partition = match training.partition {
        PartitionKind::Stateless => 0,
        PartitionKind::Materialized => {
            let outputs = if d >= TWO_OUTPUTS_FROM { 2 } else { 1 };
            let states = product([parameters.adapted, outputs]).div_ceil(OUTPUTS_PER_STATE);
            product([states, STREAM_STATE_BYTES])
        }
        PartitionKind::SignedMagnitude => product([parameters.adapted, 4]),
    };
    // MPI's all-reduce wants a second array.
    let received = if facts.ranks.total > 1 { 8 } else { 0 };
    let parts = vec![
        part("program and libraries", PROGRAM_BYTES),
        part("embedding, head and norms", product([ends, c])),
        part("blocks' weights", product([sum([parameters.attention, parameters.mlp]), c])),
        part("adapted weights' buffers (float32)", delta_buffers(facts)),
        part("θ and its two moments", product([d, 12])),
        // s, s·θ and the gradient in f32; the sums in i64; the group sizes.
        part("gradient, sums and scales of θ", product([d, 28 + received]).saturating_add(8 + received)),
        part("private sums of the threads", product([d, 8, training.threads.max(1)])),
        part("partition's table", partition),
        // Offsets, first labels and the order of an epoch, and the ids. A cache file is mapped, but all of it is read.
        part("tokens of the dataset", product([rows, 16]).saturating_add(dataset_tokens(facts))),
        part("token ids of a step", step_ids(facts)),
    ];
    parts.into_iter().filter(|part| part.bytes > 0).collect()
}

/// Phases in the order in which a run comes to them, and the bytes of activations in small pieces.
pub(super) fn phases(facts: &Facts, parameters: &Parameters) -> (Vec<Phase>, u64) {
    let mut phases = vec![loading(facts, parameters), counting(facts, parameters)];
    phases.extend(sorting(facts, parameters));
    let (passes, heap) = pass_phases(facts);
    phases.extend(passes);
    phases.extend(held_out(facts));
    phases.extend(sampling(facts, parameters));
    (phases, heap)
}

/// f32 buffers of the adapted weights: of each block or, with recompute, of one for all. Blocks with different adapted
/// modules cannot share.
fn delta_buffers(facts: &Facts) -> u64 {
    let runs = &facts.model.blocks;
    let all = product([facts.model.adapted(), 4]);
    let alike = runs.windows(2).all(|pair| {
        let adapted = |at: usize| pair[at].linears.iter().map(|linear| (linear.role, linear.adapted() > 0));
        adapted(0).eq(adapted(1))
    });
    match facts.training.recompute && alike {
        true => product([widest_block(facts), 4]),
        false => all,
    }
}

/// Ids of all rows, 4 bytes each. Before the rows are tokenized their number is anybody's guess, and left out.
fn dataset_tokens(facts: &Facts) -> u64 {
    match (facts.data.rows, facts.data.mean()) {
        // A cast from f64 saturates.
        (Some(rows), (mean, false)) => (rows as f64 * mean * 4.0) as u64,
        _ => 0,
    }
}

/// Every rank makes the padded ids, masks and labels (8 bytes each) of all micro-batches of a step.
fn step_ids(facts: &Facts) -> u64 {
    product([Shape::of_training(facts).tokens(), facts.training.accumulation.max(1), 24])
}

/// A tensor is read in its stored format before it is converted.
fn loading(facts: &Facts, parameters: &Parameters) -> Phase {
    let c = facts.training.dtype.bytes();
    let stored = facts.model.stored_bytes.map_or(c, |bytes| bytes.div_ceil(parameters.total.max(1)));
    let converted = if stored == c { 0 } else { product([parameters.largest_tensor(&facts.model), stored]) };
    phase("reading the weights", vec![part("largest tensor as stored", converted)])
}

/// Every thread counts for itself: 12 bytes a group. The count uses all cores, but not for a few weights.
fn counting(facts: &Facts, parameters: &Parameters) -> Phase {
    const WEIGHTS_PER_THREAD: u64 = 1 << 18;
    let share = parameters.adapted / facts.ranks.total.max(1);
    let threads = facts.host.cores.unwrap_or(1).min(share / WEIGHTS_PER_THREAD).max(1);
    phase(
        "counting the groups",
        vec![part("counters of the threads", product([facts.training.d, 12, threads]))],
    )
}

/// Signed magnitude: the adapted values in f32, and a 64-bit key for each weight of a sign (at worst all).
fn sorting(facts: &Facts, parameters: &Parameters) -> Option<Phase> {
    (facts.training.partition == PartitionKind::SignedMagnitude).then(|| {
        let values = part("adapted values", product([parameters.adapted, 4]));
        phase("sorting the weights", vec![values, part("sort keys", product([parameters.adapted, 8]))])
    })
}

/// The moments of a micro-batch's forward and backward that can be the widest, and the bytes in small pieces.
fn pass_phases(facts: &Facts) -> (Vec<Phase>, u64) {
    let (shape, recompute) = (Shape::of_training(facts), facts.training.recompute);
    let runs = facts.model.with_backward();
    let inputs = shape.input().times(facts.model.block_count());
    // The mask as booleans is made once a micro-batch.
    let mask = if facts.model.blocks.iter().any(|run| run.windowed) { shape.mask(1).total } else { 0 };
    let kept = |run: &BlockRun| shape.kept(run);
    let all: Bytes = runs.iter().map(|run| kept(run).times(run.repeat)).collect();
    let largest = runs.iter().map(kept).max_by_key(|kept| kept.total).unwrap_or_default();
    // With recompute no graph outlives its block.
    let (in_forward, in_backward) = if recompute { (Bytes::default(), largest) } else { (all, all) };
    let activations = |kept: u64| part("activations kept for backward", sum([inputs.total, kept, mask]));
    let adapted = widest_block(facts);
    let copied = half_copies(facts, if recompute { adapted } else { facts.model.adapted() });
    let copies = |bytes: u64| part("ΔW in the compute dtype", bytes);
    let head = shape.head(facts.training.cross_entropy_chunk, 16);
    let backward = if runs.is_empty() { Bytes::default() } else { shape.backward() };
    let passed_on = if runs.is_empty() { 0 } else { shape.input().times(2).total };
    // In half precision they are widened, all of a block at once.
    let c = facts.training.dtype.bytes();
    let gradients = product([adapted, if c == 4 { 4 } else { c + 4 }]);
    let phases = vec![
        phase(
            "head and loss",
            vec![
                activations(in_forward.total),
                copies(if recompute { 0 } else { copied }),
                part("logits, softmax and gradients", head.total),
            ],
        ),
        phase(
            "backward of a block",
            vec![
                activations(in_backward.total),
                copies(copied),
                part("gradients of activations", backward.total),
            ],
        ),
        phase(
            "gradients of a block's weights",
            vec![
                activations(in_backward.total.saturating_sub(largest.total)),
                copies(copied),
                part("gradients of activations", passed_on),
                part("weight gradients of a block", gradients),
            ],
        ),
    ];
    (phases, sum([inputs.heap, in_backward.heap, head.heap.max(backward.heap)]))
}

/// Half-precision copies of so many adapted numbers; in f32 the buffers themselves are multiplied with.
fn half_copies(facts: &Facts, adapted: u64) -> u64 {
    match facts.training.dtype {
        Dtype::Float32 => 0,
        Dtype::Bfloat16 | Dtype::Float16 => product([adapted, 2]),
    }
}

/// The most adapted numbers of one block.
fn widest_block(facts: &Facts) -> u64 {
    facts.model.blocks.iter().map(BlockRun::adapted).max().unwrap_or(0)
}

/// A batch of held-out data, forward alone.
fn held_out(facts: &Facts) -> Option<Phase> {
    let shape = Shape::of_rows(facts, facts.training.eval_batch_size?);
    let head = shape.head(facts.training.cross_entropy_chunk, 12);
    Some(phase(
        "held-out loss",
        vec![
            part("ΔW in the compute dtype", half_copies(facts, widest_block(facts))),
            part("activations or logits", shape.forward_alone().total.max(head.total)),
        ],
    ))
}

/// A sample continuation has ΔW of all blocks in place at once.
fn sampling(facts: &Facts, parameters: &Parameters) -> Option<Phase> {
    let c = facts.training.dtype.bytes();
    let copied = c != 4 || facts.training.recompute;
    let copies = part("adapted weights of all blocks", product([parameters.adapted, c]));
    (facts.training.samples && copied).then(|| phase("sample continuation", vec![copies]))
}

fn part(name: &'static str, bytes: u64) -> Part {
    Part { name, bytes }
}

fn phase(name: &'static str, parts: Vec<Part>) -> Phase {
    let parts: Vec<Part> = parts.into_iter().filter(|part| part.bytes > 0).collect();
    Phase { name, bytes: sum(parts.iter().map(|part| part.bytes)), parts }
}
