use miette::Diagnostic;
use thiserror::Error;

/// What can be wrong with a partition.
#[derive(Debug, Clone, PartialEq, Eq, Error, Diagnostic)]
pub enum PartitionError {
    /// d is zero or above 2^63 − 1.
    #[error("the number of groups d is {d}, which is not between 1 and 2^63 - 1")]
    #[diagnostic(code(input::partition_d), help("choose d >= 1; 524288 is the usual value"))]
    GroupCount {
        /// The value that was asked for.
        d: u64,
    },
    /// d is a legal number of groups, but ids of 32 bits cannot hold it.
    #[error("the number of groups d is {d}, above the 2^32 = 4294967296 groups that training supports")]
    #[diagnostic(code(input::partition_d), help("choose a smaller d; 524288 is the usual value"))]
    TooManyGroups {
        /// The value that was asked for.
        d: u64,
    },
    /// A range of global indices that ends above 2^63 − 1.
    #[error("the range of {len} global indices from {start} ends above 2^63 - 1")]
    #[diagnostic(code(input::partition_range), help("lower the start offset or the number of indices"))]
    Range {
        /// First index of the range.
        start: u64,
        /// Number of indices.
        len: u64,
    },
    /// A vector with one entry a group has another length.
    #[error("the vector of group counts has {got} entries, but there are {d} groups")]
    #[diagnostic(
        code(run::partition_length),
        help("this is a defect of the calling program; please report it")
    )]
    CountsLength {
        /// The number of groups.
        d: u64,
        /// The length that was given.
        got: usize,
    },
    /// A backend returned a group that does not exist.
    #[error("the index range from {start} was given group {id}, but there are {d} groups")]
    #[diagnostic(code(run::partition_id), help("this is a defect of the backend; please report it"))]
    IdOutOfRange {
        /// First index of the chunk.
        start: u64,
        /// The group that was returned.
        id: u32,
        /// The number of groups.
        d: u64,
    },
    /// The group counts do not fit in memory.
    #[error("counting {d} groups needs {bytes} bytes of memory, which the system refuses")]
    #[diagnostic(code(run::partition_memory), help("choose a smaller d, or fewer threads"))]
    Memory {
        /// The number of groups.
        d: u64,
        /// The size of the allocation that failed.
        bytes: u64,
    },
    /// A table or a list of states does not fit in memory.
    #[error("{what} need {bytes} bytes of memory, which the system refuses")]
    #[diagnostic(
        code(run::partition_memory),
        help("use the stateless backend, which needs none, or a machine with more memory")
    )]
    TableMemory {
        /// What was to be held.
        what: &'static str,
        /// The size of the allocation that failed.
        bytes: u64,
    },
    /// A range of global indices that ends above the number of weights.
    #[error("the range of {len} global indices from {start} ends above the {total} adapted weights")]
    #[diagnostic(code(input::partition_range), help("lower the start offset or the number of indices"))]
    BeyondTotal {
        /// First index of the range.
        start: u64,
        /// Number of indices.
        len: u64,
        /// The number of weights.
        total: u64,
    },
    /// d is above what torch can draw 32-bit ids from.
    #[error("the number of groups d is {d}, above the 2^31 = 2147483648 of the materialized backend")]
    #[diagnostic(code(input::partition_d), help("choose a smaller d; 524288 is the usual value"))]
    MaterializedGroups {
        /// The value that was asked for.
        d: u64,
    },
    /// d is above the number of weights, where every group needs one.
    #[error("the number of groups d is {d}, above the {total} weights that signed_magnitude shall partition")]
    #[diagnostic(
        code(input::partition_d),
        help("choose a smaller d, adapt more modules, or use grouping_strategy random")
    )]
    MoreGroupsThanWeights {
        /// The value that was asked for.
        d: u64,
        /// The number of weights.
        total: u64,
    },
    /// More weights than can be sorted.
    #[error("there are {total} adapted weights, above the {limit} that signed_magnitude supports")]
    #[diagnostic(
        code(input::partition_weights),
        help("adapt fewer modules, use the scope transformer_block, or grouping_strategy random")
    )]
    TooManyWeights {
        /// The number of weights.
        total: u64,
        /// The largest that is supported.
        limit: u64,
    },
    /// A weight that is to be sorted is not a number.
    #[error("the adapted weight with global index {index} is NaN, which signed_magnitude cannot order")]
    #[diagnostic(
        code(input::partition_values),
        help("check the base model's files, or use grouping_strategy random")
    )]
    NotANumber {
        /// The weight's global index.
        index: u64,
    },
    /// The weights' values were not given.
    #[error("signed_magnitude needs the values of all adapted weights, and none were given")]
    #[diagnostic(
        code(run::partition_values),
        help("this is a defect of the calling program; please report it")
    )]
    ValuesMissing,
    /// The weights' values are not as many as the weights.
    #[error("there are {expected} adapted weights, but {got} values of them")]
    #[diagnostic(
        code(run::partition_values),
        help("this is a defect of the calling program; please report it")
    )]
    ValuesLength {
        /// The number of weights.
        expected: u64,
        /// The number of values given.
        got: usize,
    },
    /// The block scope without a block.
    #[error("the scope transformer_block found no block with adapted weights")]
    #[diagnostic(
        code(input::partition_blocks),
        help("adapt a module inside a block, or use partition_scope global")
    )]
    NoBlocks,
    /// The blocks' weights do not add up to all weights.
    #[error("the blocks have {sum} adapted weights in all, but there are {total}")]
    #[diagnostic(
        code(run::partition_blocks),
        help("this is a defect of the calling program; please report it")
    )]
    BlocksLength {
        /// The sum over blocks.
        sum: u64,
        /// The number of weights.
        total: u64,
    },
    /// Not even one group a block.
    #[error("the number of groups d is {d}, below the {blocks} blocks that share them")]
    #[diagnostic(code(input::partition_d), help("choose d >= {blocks}, or partition_scope global"))]
    FewerGroupsThanBlocks {
        /// The value that was asked for.
        d: u64,
        /// The number of blocks.
        blocks: usize,
    },
    /// A block has fewer weights than groups.
    #[error(
        "the number of groups d is {d}, which over {blocks} blocks gives block `{name}` {width} groups, above its \
         {weights} adapted weights"
    )]
    #[diagnostic(
        code(input::partition_d),
        help("choose a smaller d, adapt more modules, or use partition_scope global")
    )]
    BlockTooNarrow {
        /// The value that was asked for.
        d: u64,
        /// The number of blocks.
        blocks: usize,
        /// The block's name.
        name: String,
        /// The block's groups.
        width: u64,
        /// The block's weights.
        weights: u64,
    },
}
