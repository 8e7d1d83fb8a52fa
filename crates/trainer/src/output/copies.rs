//! Copies of a run's folder on hosts that do not share the first rank's disk, so that a lost host takes nothing along.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use checkpoint::{CheckpointError, Kept, State, StateRef, write_atomic};
use comm::Communicator;
use config::Resume;

use super::decide::{Wanted, state_to_resume};
use super::records::Records;
use super::{
    HELD_OUT_FILE, HeldOutLine, METRICS_FILE, RUN_FILE, append_held_out, lock, make_folder, parse_sent,
    store_of,
};
use crate::TrainError;
use crate::agree::{agree, from_first};

/// What a folder has besides its states, in the order in which it is sent.
const FILES: [&str; 3] = [METRICS_FILE, HELD_OUT_FILE, RUN_FILE];

/// A copy of the run's folder on this host.
pub(crate) struct HostCopy {
    folder: PathBuf,
    pub(crate) records: Records,
    _lock: File,
}

impl HostCopy {
    /// Appends a held-out loss.
    pub(crate) fn record_held_out(&mut self, line: &HeldOutLine) -> Result<(), TrainError> {
        append_held_out(&self.folder, line)
    }
}

/// Where there is more than one host.
#[derive(Clone, Copy)]
pub(crate) struct Hosts {
    /// This rank is the first one of its host.
    leads: bool,
}

impl Hosts {
    /// Collective. None where all ranks are on one host.
    pub(crate) fn of(comm: &dyn Communicator) -> Option<Self> {
        if comm.size() == 1 {
            return None;
        }
        let hosts: Vec<usize> = comm::places(comm).iter().map(|place| place.host_number).collect();
        let first = hosts.iter().position(|host| *host == hosts[comm.rank()]);
        hosts.iter().any(|host| *host != hosts[0]).then_some(Self { leads: first == Some(comm.rank()) })
    }
}

/// Collective. Where another host has a newer state of this run than rank 0's folder, that gets the files. With
/// `--resume auto` only: another choice names its state itself.
pub(crate) fn bring_home(
    hosts: Hosts,
    wanted: Wanted<'_>,
    comm: &dyn Communicator,
) -> Result<(), TrainError> {
    let config = &wanted.identity.config;
    if config.resume != Resume::Auto {
        return Ok(());
    }
    let (folder, store) = (config.output_dir(), store_of(config));
    // A folder of another run counts as none: rank 0 says so when it opens its own, and elsewhere it is refused then.
    let newest = match hosts.leads {
        true => state_to_resume(&folder, &store, wanted, &|_| ()).ok().flatten(),
        false => None,
    };
    let known = newest.as_ref().map_or(0, |state| state.step + 1);
    let all = comm.all_gather(&known.to_le_bytes());
    let step_of = |rank: usize| u64::from_le_bytes(std::array::from_fn(|at| all[rank][at]));
    let best = (0..all.len()).rev().max_by_key(|rank| step_of(*rank)).unwrap_or(0);
    if step_of(best) <= step_of(0) {
        return Ok(());
    }
    let own = comm.rank() == best;
    let mut state = match (&newest, own) {
        (Some(state), true) => StateRef::from(state).to_bytes(),
        _ => Vec::new(),
    };
    comm.broadcast(best, &mut state);
    let mut files =
        FILES.map(|name| if own { std::fs::read(folder.join(name)).unwrap_or_default() } else { Vec::new() });
    files.iter_mut().for_each(|bytes| comm.broadcast(best, bytes));
    let put = || {
        if comm.rank() != 0 {
            return Ok(());
        }
        make_folder(&folder)?;
        let _lock = lock(&folder)?;
        let state = parse_sent(&state, best)?;
        store.save(StateRef::from(&state), Kept::Permanent)?;
        // The file that says whose folder it is comes last.
        write_files(&folder, &files)
    };
    agree(comm, put())
}

/// Collective. Makes a copy on every host that does not see rank 0's folder, on its first rank; `state` is what the run goes
/// on from.
pub(crate) fn open(
    hosts: Hosts,
    wanted: Wanted<'_>,
    state: Option<&State>,
    comm: &dyn Communicator,
) -> Result<Option<HostCopy>, TrainError> {
    let config = &wanted.identity.config;
    let folder = config.output_dir();
    let probe = probe(&folder, comm)?;
    let wants = hosts.leads && comm.rank() != 0 && !probe.exists();
    let wanting = comm.all_gather(&[u8::from(wants)]);
    if comm.rank() == 0 {
        // One that stays is cleared away with what killed writers leave.
        let _ = std::fs::remove_file(&probe);
    }
    if !wanting.iter().any(|wants| *wants == [1]) {
        return Ok(None);
    }
    let mut files = Vec::new();
    for name in FILES {
        files.push(from_first(comm, || Ok(std::fs::read(folder.join(name)).unwrap_or_default()))?);
    }
    let opened = match wants {
        true => open_here(wanted, state, &files).map(Some),
        false => Ok(None),
    };
    agree(comm, opened)
}

fn open_here(wanted: Wanted<'_>, state: Option<&State>, files: &[Vec<u8>]) -> Result<HostCopy, TrainError> {
    let config = &wanted.identity.config;
    let (folder, store) = (config.output_dir(), store_of(config));
    make_folder(&folder)?;
    let lock = lock(&folder)?;
    // Whatever else is there is refused like on the first host.
    state_to_resume(&folder, &store, wanted, &|_| ())?;
    checkpoint::remove_leftovers(&folder);
    checkpoint::remove_leftovers(store.folder());
    write_files(&folder, files)?;
    store.set_aside_after(state.map_or(0, |state| state.step))?;
    if let Some(state) = state {
        store.save(StateRef::from(state), Kept::Permanent)?;
    }
    let (records, _) = Records::open(&folder, store, state, config.d)?;
    Ok(HostCopy { folder, records, _lock: lock })
}

/// Collective. A file that rank 0 makes in the folder, for the others to look for.
fn probe(folder: &Path, comm: &dyn Communicator) -> Result<PathBuf, TrainError> {
    let name = from_first(comm, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!(".gpart-{}-{now}-probe.tmp", std::process::id());
        let path = folder.join(&name);
        std::fs::write(&path, []).map_err(|source| CheckpointError::Write { path, source })?;
        Ok(name.into_bytes())
    })?;
    Ok(folder.join(String::from_utf8_lossy(&name).as_ref()))
}

fn write_files(folder: &Path, files: &[Vec<u8>]) -> Result<(), TrainError> {
    for (name, bytes) in FILES.iter().zip(files).filter(|(_, bytes)| !bytes.is_empty()) {
        write_atomic(&folder.join(name), &[bytes])?;
    }
    Ok(())
}
