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
}
