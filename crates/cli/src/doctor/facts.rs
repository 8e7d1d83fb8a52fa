//! What a rank knows of its process, its host and its limits.

use comm::{Accelerators, Communicator, Place};
use serde::{Deserialize, Serialize};

use crate::{cores, host};

/// Facts of one rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub place: Place,
    pub versions: Versions,
    /// Cores of the host.
    pub cores: usize,
    /// Cores that the launcher left this rank; None where the system does not tell.
    pub bound_cores: Option<usize>,
    pub processor: String,
    pub memory: Memory,
    pub limits: Limits,
    /// Whether the host's clock follows others; None where the system does not tell.
    pub clock_synchronised: Option<bool>,
    pub accelerators: Accelerators,
}

/// Versions of what works together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub gpart_dist: String,
    pub libtorch: String,
    /// The MPI that the binary links.
    pub mpi: String,
    pub kernel: String,
    pub system: String,
}

/// Memory of the host, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub total: Option<u64>,
    /// What a process may still take, its control group's limit included.
    pub available: Option<u64>,
    /// Limit of the process's control group, or of one above.
    pub group_limit: Option<u64>,
    pub shared_size: Option<u64>,
    pub shared_free: Option<u64>,
}

/// Limits of the process; none is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub open_files: Option<u64>,
    /// Bytes.
    pub locked_memory: Option<u64>,
}

/// Collective: the facts of all ranks, by rank.
pub fn gather(comm: &dyn Communicator) -> Vec<Facts> {
    let places = comm::places(comm);
    let own = facts(places[comm.rank()].clone());
    let all = comm.all_gather(&serde_json::to_vec(&own).unwrap_or_default());
    // All ranks run this function, so what cannot be read comes from another version of it.
    let read = |(bytes, place): (&Vec<u8>, Place)| {
        serde_json::from_slice(bytes).unwrap_or_else(|_| {
            let mut unknown = Facts { place, ..own.clone() };
            unknown.versions.gpart_dist = "another version".to_owned();
            unknown
        })
    };
    all.iter().zip(places).map(read).collect()
}

fn facts(place: Place) -> Facts {
    let uname = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    let shared = rustix::fs::statvfs("/dev/shm").ok();
    let limit = |resource| rustix::process::getrlimit(resource).current;
    Facts {
        place,
        versions: Versions {
            gpart_dist: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch: trainer::LIBTORCH_VERSION.to_owned(),
            mpi: comm::mpi_library().unwrap_or_else(|| "none, built without".to_owned()),
            kernel: format!("{} {} {}", text(uname.sysname()), text(uname.release()), text(uname.machine())),
            system: system_name().unwrap_or_else(|| "unknown".to_owned()),
        },
        cores: std::fs::read_to_string("/proc/cpuinfo")
            .map_or(0, |text| text.lines().filter(|line| line.starts_with("processor")).count()),
        bound_cores: cores::bound_cores(),
        processor: processor().unwrap_or_else(|| "unknown".to_owned()),
        memory: Memory {
            total: host::total_memory(),
            available: host::available_memory(),
            group_limit: host::memory_limit(),
            shared_size: shared.as_ref().map(|space| space.f_blocks.saturating_mul(space.f_frsize)),
            shared_free: shared.map(|space| space.f_bavail.saturating_mul(space.f_frsize)),
        },
        limits: Limits {
            open_files: limit(rustix::process::Resource::Nofile),
            locked_memory: limit(rustix::process::Resource::Memlock),
        },
        clock_synchronised: clock_synchronised(),
        accelerators: comm::accelerators(),
    }
}

/// The distribution's own name of itself.
fn system_name() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// Whether the kernel takes its clock to be synchronised with others.
fn clock_synchronised() -> Option<bool> {
    // SAFETY: all zeros is a `timex` that asks and sets nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a place for the answer, which the call fills.
    let state = unsafe { libc::adjtimex(&mut timex) };
    (state >= 0).then_some(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}
