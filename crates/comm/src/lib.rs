//! What ranks say to each other: one trait, chosen in one place.
//!
//! [`start`] brings up MPI when a launcher is at work and a lone rank otherwise. Degree one is a real no-op.
//! Shutdown order: drop the communicator on success, so that MPI is finalised after every rank is done; on a
//! failure call [`Communicator::abort`], since finalising waits for peers that may sit in a collective.

mod environment;
#[cfg(feature = "mpi")]
mod mpi_comm;
mod single;

pub use environment::{LauncherWorld, launcher_world, rank_by_launcher};
pub use single::Single;

use miette::Diagnostic;
use thiserror::Error;

/// Ranks that compute together. All methods but `rank`, `size`, `backend` and `abort` are collective: every rank
/// calls them in the same order.
pub trait Communicator {
    /// This process, `0..size`.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Name and version of what carries the messages.
    fn backend(&self) -> String;

    /// All-reduce: every rank's `values` become the element-wise sum over ranks. Wrapping, so exact in any order.
    fn all_reduce_sum(&self, values: &mut [i64]);

    /// All-gather: returns every rank's bytes, by rank. Lengths may differ.
    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// Broadcast: every rank's `bytes` become those of `root`.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>);

    /// Returns when every rank has called it.
    fn barrier(&self);

    /// Ends every rank now, this one included, with `code`.
    fn abort(&self, code: i32) -> !;
}

/// Ranks that could not be brought up.
#[derive(Debug, Error, Diagnostic)]
pub enum CommError {
    /// The launcher started several processes that MPI does not see as one world.
    #[error("{variable} says {expected} ranks, but MPI came up with {found}")]
    #[diagnostic(
        code(input::wrong_launcher),
        help(
            "start with the mpirun of the MPI that this binary links ({library}), or `srun --mpi=pmix`; otherwise {expected} separate runs would write into one folder"
        )
    )]
    WrongWorld {
        /// The variable that the launcher set.
        variable: &'static str,
        /// Ranks by the launcher.
        expected: usize,
        /// Ranks by MPI.
        found: usize,
        /// Which MPI this is.
        library: String,
    },
    /// MPI would not initialise.
    #[error("MPI could not be initialised")]
    #[diagnostic(code(run::mpi_init), help("is another MPI already active in this process?"))]
    Init,
}

/// Brings up the ranks.
///
/// # Errors
/// [`CommError::WrongWorld`] when launcher and MPI disagree about the number of ranks, [`CommError::Init`] when
/// MPI does not start.
pub fn start() -> Result<Box<dyn Communicator>, CommError> {
    let launched = launcher_world(|name| std::env::var(name).ok());
    let communicator: Box<dyn Communicator> = match launched {
        None => Box::new(Single),
        #[cfg(feature = "mpi")]
        Some(_) => Box::new(mpi_comm::MpiComm::start()?),
        #[cfg(not(feature = "mpi"))]
        Some(_) => Box::new(Single),
    };
    match launched {
        Some(LauncherWorld { variable, size: Some(expected) }) if expected != communicator.size() => {
            Err(CommError::WrongWorld {
                variable,
                expected,
                found: communicator.size(),
                library: communicator.backend(),
            })
        }
        _ => Ok(communicator),
    }
}
