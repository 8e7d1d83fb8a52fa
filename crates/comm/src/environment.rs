//! What the launcher left in the environment.

/// A launcher at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LauncherWorld {
    /// The variable that gave it away.
    pub variable: &'static str,
    /// How many ranks it started, if it says so.
    pub size: Option<usize>,
}

/// Variables that hold the number of ranks: OpenMPI, MPICH and Intel MPI (PMI), MVAPICH, Slurm steps.
/// Not `SLURM_NTASKS`: a batch script has it before any step is started.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Variables that only a launched rank has.
const RANKS: [&str; 2] = ["PMIX_RANK", "PMI_RANK"];

/// Finds out from environment variables whether a launcher started this process. `get` looks a variable up.
fn launcher_world(get: impl Fn(&str) -> Option<String>) -> Option<LauncherWorld> {
    let sized = SIZES.into_iter().find_map(|variable| {
        let size = get(variable)?.trim().parse().ok().filter(|size| *size > 0)?;
        Some(LauncherWorld { variable, size: Some(size) })
    });
    sized.or_else(|| {
        let variable = RANKS.into_iter().find(|variable| get(variable).is_some())?;
        Some(LauncherWorld { variable, size: None })
    })
}

/// The launcher that started this process, if one did.
pub fn launcher() -> Option<LauncherWorld> {
    launcher_world(|name| std::env::var(name).ok())
}

/// The rank of this process by the launcher's variables, for messages made before or without MPI.
pub fn rank_by_launcher() -> Option<usize> {
    let names = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"];
    names.into_iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Variables that hold the number of this rank among those of its host: OpenMPI, MPICH's and Intel MPI's hydra, MVAPICH,
/// HPE's PALS, Flux, Slurm. Slurm's comes last: a batch script has it too, and hands it on to another launcher's ranks.
const LOCAL_RANKS: [&str; 6] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
];

/// The number of this process among the ranks of its host, if the launcher says so. [`places`](crate::places) compares
/// it with what the other ranks of the host say.
pub fn local_rank_by_launcher() -> Option<usize> {
    local_rank(|name| std::env::var(name).ok())
}

fn local_rank(get: impl Fn(&str) -> Option<String>) -> Option<usize> {
    LOCAL_RANKS.into_iter().find_map(|name| get(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_recognised() {
        let check = |vars: &[(&str, &str)], expect: Option<(&'static str, Option<usize>)>| {
            let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            assert_eq!(launcher_world(get).map(|w| (w.variable, w.size)), expect, "{vars:?}");
        };
        check(&[], None);
        check(&[("SLURM_NTASKS", "8")], None);
        check(&[("OMPI_COMM_WORLD_SIZE", "8"), ("PMIX_RANK", "0")], Some(("OMPI_COMM_WORLD_SIZE", Some(8))));
        check(&[("PMI_SIZE", "3")], Some(("PMI_SIZE", Some(3))));
        check(&[("SLURM_STEP_NUM_TASKS", "2")], Some(("SLURM_STEP_NUM_TASKS", Some(2))));
        check(&[("PMI_SIZE", "garbage"), ("PMI_RANK", "0")], Some(("PMI_RANK", None)));
    }

    #[test]
    fn local_ranks_are_found() {
        let check = |vars: &[(&str, &str)], expect: Option<usize>| {
            let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            assert_eq!(local_rank(get), expect, "{vars:?}");
        };
        check(&[], None);
        check(&[("OMPI_COMM_WORLD_RANK", "5")], None);
        check(&[("SLURM_LOCALID", "0"), ("OMPI_COMM_WORLD_LOCAL_RANK", "3")], Some(3));
        check(&[("MPI_LOCALRANKID", " 2 ")], Some(2));
        check(&[("PALS_LOCAL_RANKID", "many"), ("SLURM_LOCALID", "1")], Some(1));
    }
}
