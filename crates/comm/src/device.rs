//! Which GPU each rank computes on. Pure.

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Place;

/// A GPU that a process may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its identity, whatever number it has in a process: `GPU-…` or `MIG-…` in hexadecimal.
    pub uuid: String,
    /// What its maker calls it.
    pub name: String,
    /// Its memory, bytes.
    pub memory: u64,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
}

/// The GPUs that a rank sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankGpus {
    /// Where the rank is.
    pub place: Place,
    /// What it sees, in the order of its device numbers, as `CUDA_VISIBLE_DEVICES` leaves them.
    pub gpus: Vec<Gpu>,
    /// The value of `CUDA_VISIBLE_DEVICES`, if it is set.
    pub visible: Option<String>,
}

/// Ranks that cannot each have a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Error, Diagnostic)]
pub enum DeviceError {
    /// A rank sees no GPU.
    #[error("rank {rank} on {host} sees no GPU; CUDA_VISIBLE_DEVICES {}", set(visible))]
    #[diagnostic(
        code(input::no_gpu),
        help(
            "`nvidia-smi -L` on that host lists what there is; unset CUDA_VISIBLE_DEVICES, ask the batch system for GPUs, or compute on CPUs with --device cpu"
        )
    )]
    NoGpu {
        /// Which rank.
        rank: usize,
        /// Its host.
        host: String,
        /// The value of `CUDA_VISIBLE_DEVICES` there.
        visible: Option<String>,
    },
    /// Two ranks would compute on one GPU, which nobody asked for.
    #[error(
        "ranks {first} and {second} on {host} would both compute on GPU {device} ({name}): {ranks} ranks, {gpus} GPUs; CUDA_VISIBLE_DEVICES {}",
        set(visible)
    )]
    #[diagnostic(
        code(input::shared_gpu),
        help("start as many ranks on a host as it has GPUs, or let them share one with --share-gpu")
    )]
    Shared {
        /// The rank that has it.
        first: usize,
        /// The rank that finds no other.
        second: usize,
        /// Their host.
        host: String,
        /// The device's number in the process of `second`.
        device: usize,
        /// The device's name.
        name: String,
        /// Ranks on the host.
        ranks: usize,
        /// Different GPUs that ranks of the host see.
        gpus: usize,
        /// The value of `CUDA_VISIBLE_DEVICES` in the process of `second`.
        visible: Option<String>,
    },
}

fn set(visible: &Option<String>) -> String {
    visible.as_ref().map_or_else(|| "is not set".to_owned(), |value| format!("is {value:?}"))
}

/// The device number of each rank, in its own process. `ranks` are all ranks, by rank; with `share` several may compute
/// on one GPU, which are then spread evenly.
///
/// Ranks that see the same GPUs get them in the order of their local ranks. Where a launcher shows each rank others,
/// identities tell which are taken.
///
/// # Errors
/// A rank sees no GPU, or two would share one without `share`.
pub fn assign_devices(ranks: &[RankGpus], share: bool) -> Result<Vec<usize>, DeviceError> {
    if let Some(rank) = ranks.iter().position(|rank| rank.gpus.is_empty()) {
        let RankGpus { place, visible, .. } = &ranks[rank];
        return Err(DeviceError::NoGpu { rank, host: place.host.clone(), visible: visible.clone() });
    }
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by_key(|rank| (ranks[*rank].place.host_number, ranks[*rank].place.local_rank));
    let mut devices = vec![None; ranks.len()];
    for rank in &order {
        let mut tried = Vec::new();
        if !find_free(*rank, ranks, &mut devices, &mut tried) && !share {
            return Err(shared(*rank, ranks, &devices));
        }
    }
    for rank in order {
        if devices[rank].is_none() {
            // The first of those with the fewest ranks.
            let users = |device: &usize| {
                let same =
                    |other: &usize| uuid(ranks, *other, devices[*other]) == uuid(ranks, rank, Some(*device));
                (0..ranks.len()).filter(same).count()
            };
            devices[rank] = (0..ranks[rank].gpus.len()).min_by_key(users);
        }
    }
    Ok(devices.into_iter().map(Option::unwrap_or_default).collect())
}

fn uuid(ranks: &[RankGpus], rank: usize, device: Option<usize>) -> Option<&str> {
    Some(&ranks[rank].gpus.get(device?)?.uuid)
}

/// Gives the rank a GPU that nobody has: its first one, or else one that its owner leaves for another free one.
fn find_free(
    rank: usize,
    ranks: &[RankGpus],
    devices: &mut [Option<usize>],
    tried: &mut Vec<String>,
) -> bool {
    let owner = |gpu: &Gpu, devices: &[Option<usize>]| {
        (0..ranks.len()).find(|other| uuid(ranks, *other, devices[*other]) == Some(&gpu.uuid))
    };
    let gpus = &ranks[rank].gpus;
    if let Some(free) = gpus.iter().position(|gpu| owner(gpu, devices).is_none()) {
        devices[rank] = Some(free);
        return true;
    }
    for (device, gpu) in gpus.iter().enumerate() {
        if tried.contains(&gpu.uuid) {
            continue;
        }
        tried.push(gpu.uuid.clone());
        if owner(gpu, devices).is_some_and(|owner| find_free(owner, ranks, devices, tried)) {
            devices[rank] = Some(device);
            return true;
        }
    }
    false
}

fn shared(second: usize, ranks: &[RankGpus], devices: &[Option<usize>]) -> DeviceError {
    let RankGpus { place, gpus, visible } = &ranks[second];
    let on_host = || ranks.iter().filter(|rank| rank.place.host_number == place.host_number);
    let mut all: Vec<&str> = on_host().flat_map(|rank| &rank.gpus).map(|gpu| gpu.uuid.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    // All GPUs of this rank are taken, or it would have found one.
    let device = place.local_rank % gpus.len();
    let has_it = |rank: &usize| uuid(ranks, *rank, devices[*rank]) == Some(&gpus[device].uuid);
    DeviceError::Shared {
        first: (0..ranks.len()).find(has_it).unwrap_or(second),
        second,
        host: place.host.clone(),
        device,
        name: gpus[device].name.clone(),
        ranks: on_host().count(),
        gpus: all.len(),
        visible: visible.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks on hosts; each sees GPUs of the given letters.
    fn ranks(seen: &[(usize, &str)]) -> Vec<RankGpus> {
        let rank = |(number, (host, letters)): (usize, &(usize, &str))| {
            let before = seen[..number].iter().filter(|(other, _)| other == host).count();
            let all = seen.iter().filter(|(other, _)| other == host).count();
            let gpu = |letter: char| Gpu {
                uuid: format!("GPU-{host}-{letter}"),
                name: "H100".to_owned(),
                memory: 80 << 30,
                capability: (9, 0),
            };
            RankGpus {
                place: Place {
                    host: format!("host-{host}"),
                    host_number: *host,
                    local_rank: before,
                    ranks_on_host: all,
                },
                gpus: letters.chars().map(gpu).collect(),
                visible: Some((*letters).to_owned()),
            }
        };
        seen.iter().enumerate().map(rank).collect()
    }

    #[test]
    fn each_rank_has_its_own() {
        let check = |seen: &[(usize, &str)], expect: &[usize]| {
            assert_eq!(assign_devices(&ranks(seen), false).as_deref(), Ok(expect), "{seen:?}");
        };
        check(&[(0, "abcd"), (0, "abcd"), (0, "abcd")], &[0, 1, 2]);
        check(&[(0, "ab"), (1, "ab"), (0, "ab"), (1, "ab")], &[0, 0, 1, 1]);
        // A launcher that shows each rank one GPU, or two of which one is a neighbour's only one.
        check(&[(0, "c"), (0, "a"), (0, "b")], &[0, 0, 0]);
        check(&[(0, "ab"), (0, "a")], &[1, 0]);
        // The same GPUs in another order.
        check(&[(0, "ab"), (0, "ba")], &[0, 0]);
    }

    #[test]
    fn two_ranks_share_none_unless_they_may() {
        let seen = [(0, "ab"), (0, "ab"), (0, "ab")];
        let error = assign_devices(&ranks(&seen), false).expect_err("three ranks, two GPUs");
        assert_eq!(
            error.to_string(),
            "ranks 0 and 2 on host-0 would both compute on GPU 0 (H100): 3 ranks, 2 GPUs; \
             CUDA_VISIBLE_DEVICES is \"ab\""
        );
        assert_eq!(assign_devices(&ranks(&seen), true), Ok(vec![0, 1, 0]));
        // One GPU each, the same one.
        let error = assign_devices(&ranks(&[(0, "b"), (0, "b")]), false);
        assert!(matches!(error, Err(DeviceError::Shared { first: 0, second: 1, ranks: 2, gpus: 1, .. })));
        assert_eq!(
            assign_devices(&ranks(&[(0, "a"), (0, "a"), (0, "ab"), (0, "ab")]), true),
            Ok(vec![0, 0, 1, 1])
        );
    }

    #[test]
    fn no_gpu_is_said_with_what_hides_them() {
        let mut seen = ranks(&[(0, "a"), (0, "")]);
        let error = assign_devices(&seen, true).expect_err("rank 1 has none").to_string();
        assert_eq!(error, "rank 1 on host-0 sees no GPU; CUDA_VISIBLE_DEVICES is \"\"");
        seen[1].visible = None;
        let error = assign_devices(&seen, true).expect_err("rank 1 has none").to_string();
        assert_eq!(error, "rank 1 on host-0 sees no GPU; CUDA_VISIBLE_DEVICES is not set");
    }
}
