//! The list of what a rank allocates, from the trainer's code.

use super::{Part, Phase};
use crate::activations::{Bytes, Shape};
use crate::count::{product, sum};
use crate::facts::{Dtype, Facts, Linear, PartitionKind};
use crate::parameters::Parameters;
use crate::stage::Stage;
use crate::units::Units;

/// The program, libtorch and their tables, as measured without a model: 60 MiB of its own and 140 MiB of mapped
/// libraries, which ranks of one host share.
const PROGRAM_BYTES: u64 = 200 << 20;

/// State of the materialized stream, bytes; a state is kept every so many of its outputs.
const STREAM_STATE_BYTES: u64 = 2496;
const OUTPUTS_PER_STATE: u64 = 65_520;
/// From this d on torch takes two outputs an id.
const TWO_OUTPUTS_FROM: u64 = 1 << 28;

/// A rank whose memory is reckoned.
#[derive(Clone, Copy)]
pub(super) struct Rank<'a> {
    pub facts: &'a Facts,
    pub stage: &'a Stage<'a>,
    pub units: Units,
    /// R · S.
    pub pipelines: u64,
    /// M, the most micro-batches that a step has for the rank's pipeline.
    pub micro_batches: u64,
}

impl Rank<'_> {
    /// Where a GPU gathers weights, every block is computed again in backward, whatever was asked for: its graph would keep what
    /// was gathered.
    fn gathers_on_gpu(&self) -> bool {
        self.facts.host.is_gpu && self.units.shards > 1
    }

    /// Some blocks are computed again in backward.
    fn recomputes(&self) -> bool {
        self.facts.training.recomputes() || self.gathers_on_gpu()
    }
}

/// Parts that live as long as the run.
pub(super) fn held(rank: Rank<'_>) -> Vec<Part> {
    let (facts, training) = (rank.facts, &rank.facts.training);
    let d = training.d;
    let rows = facts.data.rows.unwrap_or(0);
    // MPI's all-reduce wants a second array.
    let received = if facts.ranks.total > 1 { 8 } else { 0 };
    let parts = vec![
        part("program and libraries", PROGRAM_BYTES),
        part("embedding, head and norms", rank.units.ends(rank.stage)),
        part("blocks' weights", rank.units.blocks(rank.stage)),
        // Where weights are cut, what computes and what comes next each have room for the largest unit.
        part("gathered weights, current and next", gathered(rank)),
        part("embedding rows of a step's tokens", embedding_rows(rank)),
        part("messages of neighbouring stages", stage_messages(rank)),
        part("adapted weights' buffers", delta_buffers(rank)),
        part("ΔW of a tensor before rounding", wide_delta(rank)),
        part("θ and its two moments, twice", product([d, 24])),
        // s, s·θ and the gradient in f32; the sums in i64; the group sizes.
        part("gradient, sums and scales of θ", product([d, 28 + received]).saturating_add(8 + received)),
        part("private sums of the threads", product([d, 8, training.threads.max(1)])),
        part("partition's table", partition_table(facts)),
        // Offsets, first labels and the order of an epoch, and the ids. A cache file is mapped, but all of it is read.
        part("tokens of the dataset", product([rows, 16]).saturating_add(dataset_tokens(facts))),
        part("token ids of a step", step_ids(facts)),
    ];
    parts.into_iter().filter(|part| part.bytes > 0).collect()
}

/// What finds a weight's group: nothing, the states of a generator, or a number for each weight.
fn partition_table(facts: &Facts) -> u64 {
    let adapted = facts.model.adapted();
    match facts.training.partition {
        PartitionKind::Stateless => 0,
        PartitionKind::Materialized => {
            let outputs = if facts.training.d >= TWO_OUTPUTS_FROM { 2 } else { 1 };
            let states = product([adapted, outputs]).div_ceil(OUTPUTS_PER_STATE);
            product([states, STREAM_STATE_BYTES])
        }
        PartitionKind::SignedMagnitude => product([adapted, 4]),
    }
}

/// Where the embedding is cut, owners send the rows of a step's tokens: at most V of them, and one a token.
fn embedding_rows(rank: Rank<'_>) -> u64 {
    if rank.units.shards <= 1 || !rank.stage.is_first() {
        return 0;
    }
    let model = rank.stage.model;
    let tokens = product([Shape::of_training(rank.facts).tokens(), rank.micro_batches]);
    product([model.vocab.min(tokens), model.hidden, rank.units.number])
}

/// Activations and gradients of micro-batches on their way: two of each neighbour are expected, and four may be under
/// way to neighbours.
fn stage_messages(rank: Rank<'_>) -> u64 {
    let (stage, batches) = (rank.stage, rank.micro_batches);
    let is = |wanted: bool, most: u64| if wanted { batches.min(most) } else { 0 };
    // Adapted weights up to this stage's end are what gradients come for.
    let gets_gradients = !stage.is_last() && stage.adapted.end > 0;
    let coming = is(!stage.is_first(), 2) + is(gets_gradients, 2);
    let sent = u64::from(!stage.is_last()) + u64::from(stage.sends_backward());
    let going = product([batches, sent]).min(4);
    product([coming + going, Shape::of_training(rank.facts).input().total])
}

/// Phases in the order in which a run comes to them, and the bytes of activations in small pieces.
pub(super) fn phases(rank: Rank<'_>) -> (Vec<Phase>, u64) {
    let mut phases = vec![loading(rank), counting(rank)];
    phases.extend(sorting(rank.facts));
    let (passes, heap) = pass_phases(rank);
    phases.extend(passes);
    phases.extend(held_out(rank));
    phases.extend(sampling(rank));
    (phases, heap)
}

/// Buffers of the stage's adapted weights: of each block or, with recompute, of one for all (those of blocks that keep
/// their graphs within a budget are counted there). Blocks with different adapted modules cannot share.
fn delta_buffers(rank: Rank<'_>) -> u64 {
    let runs = &rank.stage.runs;
    let alike = runs.windows(2).all(|pair| {
        let adapted =
            |at: usize| pair[at].run.linears.iter().map(|linear| (linear.role, linear.adapted() > 0));
        adapted(0).eq(adapted(1))
    });
    match rank.recomputes() && alike {
        true => product([rank.stage.widest_adapted(), rank.units.number]),
        false => product([rank.stage.adapted_count(), rank.units.number]),
    }
}

/// In half precision, of one tensor at a time: ΔW in f32 and as it is rounded.
fn wide_delta(rank: Rank<'_>) -> u64 {
    match rank.facts.training.dtype {
        Dtype::Float32 => 0,
        Dtype::Bfloat16 | Dtype::Float16 => product([largest_adapted(rank), 4 + 2]),
    }
}

/// The most numbers of one adapted tensor of the stage.
fn largest_adapted(rank: Rank<'_>) -> u64 {
    let linears = rank.stage.runs.iter().flat_map(|run| &run.run.linears);
    linears.filter(|linear| linear.adapted_weight).map(Linear::weights).max().unwrap_or(0)
}

/// The unit in use and, with prefetch, the next.
fn gathered(rank: Rank<'_>) -> u64 {
    let units = if rank.facts.training.prefetch { 2 } else { 1 };
    product([units, rank.units.largest(rank.stage)])
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

/// Weights are read piece by piece, in their stored format before they are converted.
fn loading(rank: Rank<'_>) -> Phase {
    const PIECE: u64 = 1 << 24;
    let (model, c) = (rank.stage.model, rank.units.number);
    let all = Parameters::new(model).total.max(1);
    let stored = model.stored_bytes.map_or(c, |bytes| bytes.div_ceil(all));
    let table = product([model.vocab, model.hidden]);
    let has_table = rank.stage.is_first() || rank.stage.is_last();
    let linears = rank.stage.runs.iter().flat_map(|run| &run.run.linears);
    let largest = linears.map(Linear::weights).chain(has_table.then_some(table)).max().unwrap_or(0);
    let converted = if stored == c { 0 } else { c };
    let piece = product([largest.min(PIECE), stored.saturating_add(converted)]);
    phase("reading the weights", vec![part("a piece as stored and converted", piece)])
}

/// A rank counts its share of its stage's weights. Every thread counts for itself: 12 bytes a group. The count uses all
/// cores, but not for a few weights.
fn counting(rank: Rank<'_>) -> Phase {
    const WEIGHTS_PER_THREAD: u64 = 1 << 18;
    let share = rank.stage.adapted_count() / rank.pipelines.max(1);
    let threads = rank.facts.host.cores.unwrap_or(1).min(share / WEIGHTS_PER_THREAD).max(1);
    let counters = part("counters of the threads", product([rank.facts.training.d, 12, threads]));
    phase("counting the groups", vec![counters])
}

/// Signed magnitude: the adapted values in f32, and a 64-bit key for each weight of a sign (at worst all).
fn sorting(facts: &Facts) -> Option<Phase> {
    let adapted = facts.model.adapted();
    (facts.training.partition == PartitionKind::SignedMagnitude).then(|| {
        let values = part("adapted values", product([adapted, 4]));
        phase("sorting the weights", vec![values, part("sort keys", product([adapted, 8]))])
    })
}

/// What a micro-batch keeps between its forward and its backward on a stage.
struct Kept {
    /// The blocks' inputs.
    inputs: Bytes,
    /// Graphs of all blocks that gradients go through, of all micro-batches in flight; none with recompute, and at most
    /// the budget where there is one.
    graphs: Bytes,
    /// The graph of the block that is in backward.
    largest: Bytes,
    /// The mask as booleans, made once a micro-batch.
    mask: u64,
}

impl Kept {
    fn new(rank: Rank<'_>, shape: &Shape<'_>, micro_batches: u64) -> Self {
        let (stage, training) = (rank.stage, &rank.facts.training);
        let all: Bytes = stage.with_backward().map(|run| shape.kept(run.run).times(run.repeat)).collect();
        let all = all.times(micro_batches);
        let kept = stage.with_backward().map(|run| shape.kept(run.run));
        Self {
            inputs: shape.input().times(stage.block_count()),
            graphs: match (training.activation_memory, training.recompute) {
                _ if rank.gathers_on_gpu() => Bytes::default(),
                (Some(budget), _) => {
                    let buffers = product([stage.adapted_count(), rank.units.number]);
                    let total = budget.min(all.total.saturating_add(buffers));
                    Bytes { total, heap: all.heap.min(total) }
                }
                (None, true) => Bytes::default(),
                (None, false) => all,
            },
            largest: kept.max_by_key(|kept| kept.total).unwrap_or_default(),
            mask: if stage.runs.iter().any(|run| run.run.windowed) { shape.mask(1).total } else { 0 },
        }
    }

    /// Activations of so many micro-batches.
    fn activations(&self, micro_batches: u64) -> u64 {
        product([micro_batches, sum([self.inputs.total, self.mask])]).saturating_add(self.graphs.total)
    }
}

/// The moments of a micro-batch's forward and backward that can be the widest, and the bytes in small pieces.
fn pass_phases(rank: Rank<'_>) -> (Vec<Phase>, u64) {
    let (facts, recompute) = (rank.facts, rank.recomputes());
    let shape = Shape::of_training(facts);
    let count = rank.stage.in_flight(rank.micro_batches, facts.training.pp_ahead);
    let kept = Kept::new(rank, &shape, count);
    let activations = |bytes: u64| part("activations kept for backward", bytes);
    let adapted = rank.stage.widest_adapted();
    let has_backward = rank.stage.with_backward().next().is_some();
    let backward = if has_backward { shape.backward() } else { Bytes::default() };
    let passed_on = if has_backward { shape.input().times(2).total } else { 0 };
    // In half precision they are widened, one after the other.
    let c = facts.training.dtype.bytes();
    let widened = if c == 4 { 0 } else { product([largest_adapted(rank), 4]) };
    let gradients = product([adapted, c]).saturating_add(widened);
    let graph = if recompute { kept.largest.total } else { 0 };
    let all = kept.activations(count);
    let (forward, widest) = forward_phase(rank, &shape, vec![activations(all)]);
    let phases = vec![
        forward,
        phase(
            "backward of a block",
            vec![activations(all.saturating_add(graph)), part("gradients of activations", backward.total)],
        ),
        phase(
            "gradients of a block's weights",
            vec![
                activations(all.saturating_add(graph).saturating_sub(kept.largest.total)),
                part("gradients of activations", passed_on),
                part("weight gradients of a block", gradients),
            ],
        ),
    ];
    let graphs = kept.graphs.heap.saturating_add(if recompute { kept.largest.heap } else { 0 });
    (phases, sum([product([count, kept.inputs.heap]), graphs, widest.heap.max(backward.heap)]))
}

/// The end of a forward: the head on the last stage; elsewhere a block, whose graph is counted with what is kept.
fn forward_phase(rank: Rank<'_>, shape: &Shape<'_>, mut parts: Vec<Part>) -> (Phase, Bytes) {
    if rank.stage.is_last() {
        let head = shape.head(rank.facts.training.cross_entropy_chunk, true, rank.units.shards > 1);
        parts.push(part("logits, softmax and gradients", head.total));
        return (phase("head and loss", parts), head);
    }
    let in_graph = !rank.recomputes() && rank.stage.with_backward().next().is_some();
    let block = if in_graph { shape.input() } else { shape.forward_alone() };
    parts.push(part("activations of a block", block.total));
    (phase("forward of a block", parts), block)
}

/// A batch of held-out data, forward alone.
fn held_out(rank: Rank<'_>) -> Option<Phase> {
    let shape = Shape::of_rows(rank.facts, rank.facts.training.eval_batch_size?);
    let head = match rank.stage.is_last() {
        true => shape.head(rank.facts.training.cross_entropy_chunk, false, rank.units.shards > 1).total,
        false => 0,
    };
    Some(phase("held-out loss", vec![part("activations or logits", shape.forward_alone().total.max(head))]))
}

/// A sample continuation is computed row by row like held-out data.
fn sampling(rank: Rank<'_>) -> Option<Phase> {
    let shape = Shape::of_rows(rank.facts, 1);
    let activations = part("activations", shape.forward_alone().total);
    rank.facts.training.samples.then(|| phase("sample continuation", vec![activations]))
}

fn part(name: &'static str, bytes: u64) -> Part {
    Part { name, bytes }
}

fn phase(name: &'static str, parts: Vec<Part>) -> Phase {
    let parts: Vec<Part> = parts.into_iter().filter(|part| part.bytes > 0).collect();
    Phase { name, bytes: sum(parts.iter().map(|part| part.bytes)), parts }
}
