use miette::Diagnostic;
use partition::PartitionError;
use thiserror::Error;

/// What can be wrong with an apply or a reduce.
#[derive(Debug, Clone, PartialEq, Error, Diagnostic)]
pub enum ProjectionError {
    /// A dropout probability outside 0 ≤ p < 1.
    #[error("the dropout probability is {p}, which is not in 0 <= p < 1")]
    #[diagnostic(code(input::dropout), help("choose a probability such as 0.05, or 0 for none"))]
    DropoutRate {
        /// The value that was asked for.
        p: f64,
    },
    /// Two arrays that must be equally long are not.
    #[error("{what} has {got} entries where {expected} are needed")]
    #[diagnostic(
        code(run::projection_length),
        help("this is a defect of the calling program; please report it")
    )]
    Length {
        /// Which array.
        what: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// The per-thread sums do not fit in memory.
    #[error("{threads} threads with {d} group sums each do not fit in memory")]
    #[diagnostic(code(run::projection_memory), help("choose fewer threads, or a smaller d"))]
    Memory {
        /// The number of groups.
        d: u64,
        /// The number of private arrays.
        threads: usize,
    },
    /// The partition refused a range, or returned a group that does not exist.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Partition(#[from] PartitionError),
}

impl ProjectionError {
    /// An error unless `got` is `expected`.
    pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), Self> {
        if got == expected { Ok(()) } else { Err(Self::Length { what, expected, got }) }
    }
}
