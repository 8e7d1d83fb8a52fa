//! What ranks say to each other: one trait, chosen in one place.
//!
//! [`start`] brings up MPI when a launcher is at work and a lone rank otherwise; [`data_plane`] then decides what carries
//! the run's vectors, MPI or NCCL. Degree one is a real no-op.
//! Shutdown order: the communicator is dropped, and MPI finalised, when every rank is done. Finalising waits for
//! peers, so ranks stop together: whoever cannot go on says so in a collective that all make. A rank that dies
//! without a word is noticed by the launcher, which ends the others.

mod accelerators;
mod data_plane;
mod device;
mod direct;
mod environment;
#[cfg(any(feature = "mpi", feature = "nccl"))]
mod gather;
mod ledger;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg_attr(
    not(any(feature = "mpi", feature = "nccl")),
    allow(dead_code, reason = "a lone rank has no peers")
)]
mod peers;
mod pending;
mod places;
mod region;
mod single;
mod waiting;
mod wheels;

pub use accelerators::{Accelerators, Missing, accelerators};
pub use data_plane::{Choice, DataPlane, OwnGpu, Wish, data_plane};
pub use device::{DeviceError, Gpu, RankGpus, assign_devices};
pub use direct::{DeviceCommunicator, DeviceMemory, DevicePending};
pub use environment::{LauncherWorld, launcher, local_rank_by_launcher, rank_by_launcher};
pub use ledger::{Ledger, Operation, Traffic};
pub use peers::LostRank;
pub use pending::Pending;
pub use places::{Place, host_name, places};
pub use region::{Piece, Region};
pub use single::Single;
pub use waiting::{Waiting, waiting};
pub use wheels::wheel_folders;

use miette::Diagnostic;
use thiserror::Error;

/// Ranks that compute together. All methods but `rank`, `size`, `backend`, `on_device`, `traffic` and the two of messages
/// are collective: every rank calls them in the same order.
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

    /// The communicator of those ranks that name the same `group`, numbered in the order of their numbers here. `axis`
    /// is what its traffic is counted under.
    fn split(&self, axis: &'static str, group: usize) -> Box<dyn Communicator>;

    /// Starts an all-gather of pieces of equal length: `all` comes back with every rank's piece, by rank. `all` has
    /// `size` times the length of `mine`, which is a multiple of [`PIECE_ALIGNMENT`].
    fn start_all_gather(&self, mine: Piece, all: Region) -> Pending<Region>;

    /// Starts sending a message. Messages between two ranks arrive in the order in which they were sent.
    fn start_send(&self, to: usize, message: Piece) -> Pending<()>;

    /// Starts receiving the next message of `from`, which has the length of `into`.
    fn start_receive(&self, from: usize, into: Region) -> Pending<Region>;

    /// Messages from device to device, where this communicator has them.
    fn on_device(&self) -> Option<&dyn DeviceCommunicator> {
        None
    }

    /// What this rank said since the start, on this communicator and on all of the same start.
    fn traffic(&self) -> Vec<Traffic>;
}

/// Length of the pieces of a region-wide all-gather, in bytes, divides by this.
pub const PIECE_ALIGNMENT: usize = 64;

/// All-to-all: sends `outgoing[r]` to each rank r and returns what each sent to this one; from rank r come
/// `lengths[r]` bytes.
///
/// # Errors
/// There is no memory for what comes.
pub fn exchange(
    comm: &dyn Communicator,
    outgoing: Vec<Region>,
    lengths: &[usize],
) -> std::io::Result<Vec<Region>> {
    let incoming = lengths.iter().map(|length| Region::new(*length)).collect::<Result<Vec<Region>, _>>()?;
    let own = comm.rank();
    let receive = |(rank, into): (usize, Region)| match rank == own {
        true => Pending::done(into),
        false => comm.start_receive(rank, into),
    };
    let coming: Vec<Pending<Region>> = incoming.into_iter().enumerate().map(receive).collect();
    let mut kept = None;
    let mut going = Vec::with_capacity(outgoing.len());
    for (rank, message) in outgoing.into_iter().enumerate() {
        match rank == own {
            true => kept = Some(message),
            false => going.push(comm.start_send(rank, message.into())),
        }
    }
    let mut arrived: Vec<Region> = coming.into_iter().map(Pending::wait).collect();
    going.into_iter().for_each(Pending::wait);
    if let Some(message) = kept {
        arrived[own] = message;
    }
    Ok(arrived)
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
    /// Several ranks were started, with a binary that cannot join them.
    #[error(
        "{variable} says that a launcher started this process, but this gpart-dist was built without MPI"
    )]
    #[diagnostic(
        code(input::built_without_mpi),
        help(
            "start it without a launcher, or build it with the default features (cargo build --package cli)"
        )
    )]
    BuiltWithoutMpi {
        /// The variable that the launcher set.
        variable: &'static str,
    },
    /// NCCL was asked for and cannot be.
    #[error("no NCCL: {why}")]
    #[diagnostic(code(input::no_nccl), help("{hint}"))]
    NoNccl {
        /// What is in the way.
        why: String,
        /// What to do.
        hint: String,
    },
    /// NCCL did not start.
    #[error("NCCL did not start on rank {rank}: {what}")]
    #[diagnostic(
        code(run::nccl_init),
        help(
            "NCCL_DEBUG=INFO shows what NCCL does; NCCL_SOCKET_IFNAME names the network; --comm mpi does without it"
        )
    )]
    Nccl {
        /// The lowest rank on which it failed.
        rank: usize,
        /// What NCCL or the driver said.
        what: String,
    },
    /// Ranks cannot each have a GPU.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Devices(#[from] DeviceError),
    /// MPI would not initialise.
    #[error("MPI could not be initialised")]
    #[diagnostic(code(run::mpi_init), help("is another MPI already active in this process?"))]
    Init,
}

/// What to do when a rank of this host is gone while others wait for it; called at most once, before all ranks are
/// ended. It may speak; it must not call the communicator.
pub type OnLost = fn(&LostRank);

/// Messages that failed without a rank that is known to be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was said of it.
    pub what: String,
    /// The operation in which this rank waited.
    pub waiting_in: &'static str,
}

/// What to do when messages cannot go on. Each is called at most once, on a thread of the communicator's.
#[derive(Debug, Clone, Copy)]
pub struct Alarm {
    /// A rank of this host is gone. It may speak.
    pub lost: OnLost,
    /// Messages failed. It may speak.
    pub failed: fn(&Failure),
    /// Comes after either: ends this process, by which the launcher ends all. Peers sit in collectives, so nothing can
    /// be wound up in order.
    pub end: fn() -> !,
}

/// Brings up the ranks.
///
/// # Errors
/// [`CommError::WrongWorld`] when launcher and MPI disagree about the number of ranks, [`CommError::Init`] when
/// MPI does not start, [`CommError::BuiltWithoutMpi`] when it is not there.
pub fn start(on_lost: OnLost) -> Result<Box<dyn Communicator>, CommError> {
    let Some(LauncherWorld { variable, size }) = launcher() else {
        return Ok(Box::new(Single));
    };
    launched(variable, size, on_lost)
}

/// Name and version of the MPI that is linked, whether or not ranks are up; none in a build without it.
pub fn mpi_library() -> Option<String> {
    #[cfg(feature = "mpi")]
    return Some(mpi::library());
    #[cfg(not(feature = "mpi"))]
    None
}

#[cfg(feature = "mpi")]
fn launched(
    variable: &'static str,
    size: Option<usize>,
    on_lost: OnLost,
) -> Result<Box<dyn Communicator>, CommError> {
    let comm = mpi::MpiComm::start(on_lost)?;
    // A launcher that names no size still numbers its ranks: one above 0 is not alone.
    let at_least = rank_by_launcher().map_or(1, |rank| rank + 1);
    let found = comm.size();
    match size.unwrap_or(found.max(at_least)) {
        expected if expected == found => Ok(Box::new(comm)),
        expected => Err(CommError::WrongWorld { variable, expected, found, library: comm.backend() }),
    }
}

#[cfg(not(feature = "mpi"))]
fn launched(
    variable: &'static str,
    size: Option<usize>,
    _on_lost: OnLost,
) -> Result<Box<dyn Communicator>, CommError> {
    match size {
        Some(1) => Ok(Box::new(Single)),
        _ => Err(CommError::BuiltWithoutMpi { variable }),
    }
}
