//! What carries a run's messages: decided once, by all ranks alike.

use serde::{Deserialize, Serialize};

use crate::{
    Accelerators, Alarm, CommError, Communicator, DeviceError, Gpu, Missing, RankGpus, accelerators,
    assign_devices, places,
};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// NCCL where every rank computes on a GPU of its own, MPI otherwise.
    Auto,
    /// NCCL, or an error.
    Nccl,
    /// MPI.
    Mpi,
}

/// What a rank asks for. `choice` and `share_gpu` are the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What is to carry messages.
    pub choice: Choice,
    /// This rank computes on a GPU.
    pub computes_on_gpu: bool,
    /// Several ranks may compute on one GPU.
    pub share_gpu: bool,
}

/// What carries messages, and why.
pub struct DataPlane {
    /// All ranks, for the run's vectors. Drop it before the control communicator.
    pub comm: Box<dyn Communicator>,
    /// It is NCCL; the control communicator's own kind otherwise.
    pub is_nccl: bool,
    /// In one sentence, beginning with `mpi:`, `nccl:` or `none:`.
    pub why: String,
    /// This rank's GPU, where all ranks compute on GPUs.
    pub gpu: Option<OwnGpu>,
}

/// The GPU that a rank computes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnGpu {
    /// Its number in this process.
    pub number: usize,
    /// What it is.
    pub gpu: Gpu,
    /// Ranks that compute on it.
    pub ranks: usize,
}

/// Facts of a rank.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    computes_on_gpu: bool,
    accelerators: Accelerators,
}

/// What the facts come to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The control communicator's own kind.
    Control(String),
    /// NCCL, with the device of every rank.
    Nccl(Vec<usize>, String),
}

/// Why it is not NCCL.
type Obstacle = Missing;

/// Collective: a communicator for the run's vectors. `control` is the one of [`start`](crate::start); `alarm` is for
/// what goes wrong later.
///
/// # Errors
/// NCCL was asked for and cannot be ([`CommError::NoNccl`]), ranks would share a GPU ([`CommError::Devices`]), or NCCL
/// does not start ([`CommError::Nccl`]). Every rank gets the same error.
pub fn data_plane(wish: Wish, control: &dyn Communicator, alarm: Alarm) -> Result<DataPlane, CommError> {
    // Libraries are loaded only where somebody might use them.
    let is_wanted = wish.computes_on_gpu || wish.choice == Choice::Nccl;
    let own = Facts {
        computes_on_gpu: wish.computes_on_gpu,
        accelerators: if is_wanted { accelerators() } else { Accelerators::default() },
    };
    let places = places(control);
    let all = control.all_gather(&serde_json::to_vec(&own).unwrap_or_default());
    let facts: Vec<Facts> =
        all.iter().map(|bytes| serde_json::from_slice(bytes).unwrap_or_else(|_| own.clone())).collect();
    let gpus = facts.iter().zip(places).map(|(facts, place)| RankGpus {
        place,
        gpus: facts.accelerators.gpus.clone(),
        visible: facts.accelerators.visible.clone(),
    });
    let gpus: Vec<RankGpus> = gpus.collect();
    let verdict = decide(wish, &facts, &gpus)?;
    let gpu = match facts.iter().all(|facts| facts.computes_on_gpu) {
        true => Some(own_gpu(&gpus, &assign_devices(&gpus, wish.share_gpu)?, control.rank())),
        false => None,
    };
    match verdict {
        Verdict::Control(why) => Ok(DataPlane { comm: control.split("world", 0), is_nccl: false, why, gpu }),
        Verdict::Nccl(devices, why) => {
            let comm = nccl(control, devices[control.rank()], alarm)?;
            Ok(DataPlane { comm, is_nccl: true, why, gpu })
        }
    }
}

#[cfg(feature = "nccl")]
fn nccl(control: &dyn Communicator, device: usize, alarm: Alarm) -> Result<Box<dyn Communicator>, CommError> {
    match crate::nccl::NcclComm::start(control, device, alarm) {
        Ok(comm) => Ok(Box::new(comm)),
        Err((rank, what)) => Err(CommError::Nccl { rank, what }),
    }
}

#[cfg(not(feature = "nccl"))]
fn nccl(
    _control: &dyn Communicator,
    _device: usize,
    _alarm: Alarm,
) -> Result<Box<dyn Communicator>, CommError> {
    unreachable!("a build without NCCL says so in its facts")
}

fn decide(wish: Wish, facts: &[Facts], gpus: &[RankGpus]) -> Result<Verdict, CommError> {
    if facts.len() == 1 && wish.choice != Choice::Nccl {
        return Ok(Verdict::Control("none: one rank has nobody to talk to".to_owned()));
    }
    let on_cpus: Vec<usize> = (0..facts.len()).filter(|rank| !facts[*rank].computes_on_gpu).collect();
    match wish.choice {
        Choice::Mpi => Ok(Verdict::Control("mpi: as --comm asks".to_owned())),
        Choice::Auto if on_cpus.len() == facts.len() => {
            Ok(Verdict::Control("mpi: the ranks compute on CPUs".to_owned()))
        }
        Choice::Auto if !on_cpus.is_empty() => {
            Ok(Verdict::Control(format!("mpi: rank {} computes on a CPU", on_cpus[0])))
        }
        Choice::Auto => match obstacle(facts) {
            Some(obstacle) => Ok(Verdict::Control(format!("mpi: {}", obstacle.what))),
            None => match own_devices(gpus, wish.share_gpu)? {
                Ok(devices) => Ok(Verdict::Nccl(devices, "nccl: every rank has a GPU of its own".to_owned())),
                Err(obstacle) => Ok(Verdict::Control(format!("mpi: {}", obstacle.what))),
            },
        },
        Choice::Nccl => {
            let found = match obstacle(facts) {
                Some(obstacle) => Err(obstacle),
                None => own_devices(gpus, wish.share_gpu)?,
            };
            let devices =
                found.map_err(|obstacle| CommError::NoNccl { why: obstacle.what, hint: obstacle.hint })?;
            Ok(Verdict::Nccl(devices, "nccl: as --comm asks".to_owned()))
        }
    }
}

/// What a rank lacks, or has otherwise than rank 0.
fn obstacle(facts: &[Facts]) -> Option<Obstacle> {
    let lacking = |(rank, facts): (usize, &Facts)| {
        let Missing { what, hint } = facts.accelerators.missing.first()?;
        Some(Missing { what: format!("on rank {rank} {what}"), hint: hint.clone() })
    };
    let version = |rank: usize| facts[rank].accelerators.nccl.unwrap_or_default();
    let odd = || {
        let rank = (1..facts.len()).find(|rank| version(*rank) != version(0))?;
        let [ours, theirs] = [version(0), version(rank)].map(|(a, b, c)| format!("{a}.{b}.{c}"));
        Some(Missing {
            what: format!("NCCL is {theirs} on rank {rank} and {ours} on rank 0"),
            hint: "install the same NCCL on every host".to_owned(),
        })
    };
    facts.iter().enumerate().find_map(lacking).or_else(odd)
}

fn own_gpu(gpus: &[RankGpus], devices: &[usize], rank: usize) -> OwnGpu {
    let of = |rank: usize| &gpus[rank].gpus[devices[rank]];
    let ranks = (0..gpus.len()).filter(|other| of(*other).uuid == of(rank).uuid).count();
    OwnGpu { number: devices[rank], gpu: of(rank).clone(), ranks }
}

/// The device of every rank, or that two share one, which NCCL refuses.
fn own_devices(gpus: &[RankGpus], share: bool) -> Result<Result<Vec<usize>, Obstacle>, DeviceError> {
    let devices = assign_devices(gpus, share)?;
    let of_rank = |rank: usize| &gpus[rank].gpus[devices[rank]].uuid;
    let pairs = (0..devices.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    Ok(match pairs.into_iter().find(|(first, second)| of_rank(*first) == of_rank(*second)) {
        None => Ok(devices),
        Some((first, second)) => Err(Missing {
            what: format!("ranks {first} and {second} share a GPU, which NCCL refuses"),
            hint: "start as many ranks on a host as it has GPUs, or take --comm mpi".to_owned(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Place;

    /// Ranks of one host, each seeing GPUs of these letters; an empty text computes on its CPU.
    fn ranks(seen: &[&str]) -> (Vec<Facts>, Vec<RankGpus>) {
        let gpu = |letter: char| Gpu {
            uuid: format!("GPU-{letter}"),
            name: "H100".to_owned(),
            memory: 80 << 30,
            capability: (9, 0),
        };
        let gpus = |(rank, letters): (usize, &&str)| RankGpus {
            place: Place {
                host: "a".to_owned(),
                host_number: 0,
                local_rank: rank,
                ranks_on_host: seen.len(),
            },
            gpus: letters.chars().map(gpu).collect(),
            visible: None,
        };
        let facts = |letters: &&str| Facts {
            computes_on_gpu: !letters.is_empty(),
            accelerators: Accelerators { nccl: Some((2, 28, 9)), ..Accelerators::default() },
        };
        (seen.iter().map(facts).collect(), seen.iter().enumerate().map(gpus).collect())
    }

    fn decided(choice: Choice, seen: &[&str], change: impl FnOnce(&mut [Facts])) -> String {
        let (mut facts, gpus) = ranks(seen);
        change(&mut facts);
        let wish = Wish { choice, computes_on_gpu: true, share_gpu: true };
        match decide(wish, &facts, &gpus) {
            Ok(Verdict::Control(why)) => why,
            Ok(Verdict::Nccl(devices, why)) => format!("{why} {devices:?}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn nccl_where_every_rank_has_a_gpu_of_its_own() {
        let check = |choice, seen: &[&str], expect: &str| {
            assert_eq!(decided(choice, seen, |_| ()), expect, "{seen:?}")
        };
        check(Choice::Auto, &["ab", "ab"], "nccl: every rank has a GPU of its own [0, 1]");
        check(Choice::Auto, &["b", "a"], "nccl: every rank has a GPU of its own [0, 0]");
        check(Choice::Auto, &["", ""], "mpi: the ranks compute on CPUs");
        check(Choice::Auto, &["a", ""], "mpi: rank 1 computes on a CPU");
        check(Choice::Auto, &["a", "a"], "mpi: ranks 0 and 1 share a GPU, which NCCL refuses");
        check(Choice::Auto, &["a"], "none: one rank has nobody to talk to");
        check(Choice::Mpi, &["ab", "ab"], "mpi: as --comm asks");
        check(Choice::Nccl, &["ab", "ab"], "nccl: as --comm asks [0, 1]");
        check(Choice::Nccl, &["a", "a"], "error: no NCCL: ranks 0 and 1 share a GPU, which NCCL refuses");
        check(Choice::Nccl, &["a", ""], "error: rank 1 on a sees no GPU; CUDA_VISIBLE_DEVICES is not set");
    }

    #[test]
    fn what_is_missing_is_said() {
        let old = |facts: &mut [Facts]| facts[1].accelerators.nccl = Some((2, 19, 3));
        let says = "NCCL is 2.19.3 on rank 1 and 2.28.9 on rank 0";
        assert_eq!(decided(Choice::Auto, &["ab", "ab"], old), format!("mpi: {says}"));
        assert_eq!(decided(Choice::Nccl, &["ab", "ab"], old), format!("error: no NCCL: {says}"));
        let none = |facts: &mut [Facts]| {
            let missing = Missing { what: "there is none".to_owned(), hint: "get it".to_owned() };
            facts[1].accelerators.missing.push(missing);
        };
        assert_eq!(decided(Choice::Auto, &["ab", "ab"], none), "mpi: on rank 1 there is none");
        assert_eq!(decided(Choice::Nccl, &["ab", "ab"], none), "error: no NCCL: on rank 1 there is none");
    }
}
