//! Where Python's wheels of NVIDIA's libraries lie.

use std::path::{Path, PathBuf};

/// Folders of wheels that are there, of the names `inside` (such as `nvidia/nccl/lib`) below the folders of Python packages:
/// the one beside the libtorch that this process runs with, and those of the active Python environment.
pub fn wheel_folders(inside: &[&str]) -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let torch =
        maps.lines().filter_map(|line| line.get(line.find('/')?..)).find(|path| path.contains("/libtorch"));
    // …/site-packages/torch/lib/libtorch_cpu.so
    let beside = torch.and_then(|path| Path::new(path).ancestors().nth(3)).map(Path::to_owned);
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os);
    let libraries =
        environments.filter_map(|root| std::fs::read_dir(Path::new(&root).join("lib")).ok()).flatten();
    let versions = libraries.flatten().map(|entry| entry.path().join("site-packages"));
    let packages = beside.into_iter().chain(versions);
    let folders = packages.flat_map(|packages| inside.iter().map(move |inside| packages.join(inside)));
    folders.filter(|folder| folder.is_dir()).collect()
}
