//! Work that all ranks of a launcher do together.

use comm::Communicator;
use miette::Diagnostic;
use trainer::{RankError, TrainError};

use crate::exit::Exit;
use crate::{fail, report};

/// What becomes of a command's error.
pub trait Ending: RankError + Diagnostic {
    /// Another rank reports it.
    fn is_elsewhere(&self) -> bool;

    /// Peers wait for this rank in the middle of something.
    fn strands_peers(&self) -> bool;
}

impl Ending for TrainError {
    fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Elsewhere { .. })
    }

    fn strands_peers(&self) -> bool {
        matches!(self, Self::Stranding(_))
    }
}

/// Brings the ranks up, works, and reports what went wrong, on the one rank that is to.
pub fn with_ranks<E: Ending>(work: impl FnOnce(&dyn Communicator) -> Result<Exit, E>) -> Exit {
    let comm = match start_ranks() {
        Ok(comm) => comm,
        Err(exit) => return exit,
    };
    let error = match work(comm.as_ref()) {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    if !error.is_elsewhere() {
        report::print_of_rank(&error, comm.as_ref());
    }
    let exit = if error.is_input() { Exit::Input } else { Exit::Failed };
    if error.strands_peers() {
        report::end_all_ranks(exit);
    }
    exit
}

/// Brings the ranks up. What went wrong is reported by one of them.
pub fn start_ranks() -> Result<Box<dyn Communicator>, Exit> {
    match comm::start(report::lost_rank) {
        Ok(comm) => Ok(comm),
        // Nobody to agree with: by its number alone, the first one speaks.
        Err(error) if comm::rank_by_launcher().unwrap_or(0) == 0 => Err(fail(&error)),
        Err(error) => {
            std::thread::sleep(SPEAKERS_LEAD);
            Err(Exit::of(&error))
        }
    }
}

/// How long silent processes wait before they end, so that the launcher does not kill the one that speaks.
const SPEAKERS_LEAD: std::time::Duration = std::time::Duration::from_millis(300);

/// Collective: finds files by `find` on one rank a host, on the first host the one that shows how a download gets on; the
/// others then find everything there.
///
/// # Errors
/// Any rank's.
pub fn find_on_every_host<T, E: RankError>(
    comm: &dyn Communicator,
    find: &mut dyn FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let hosts = comm.all_gather(report::host().as_bytes());
    let first = hosts.iter().position(|host| *host == hosts[comm.rank()]) == Some(comm.rank());
    let found = trainer::agree(comm, if first { find().map(Some) } else { Ok(None) })?;
    trainer::agree(comm, found.map_or_else(find, Ok))
}
