//! How many GPUs this host has for a run.

use std::path::Path;
use std::process::Command;

/// GPUs of this host, and what told.
#[derive(Debug, PartialEq, Eq)]
pub struct Gpus {
    /// How many.
    pub count: usize,
    /// What told, for messages.
    pub source: &'static str,
}

/// Counts them: those that `CUDA_VISIBLE_DEVICES` leaves, else those of the driver.
pub fn count() -> Gpus {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return Gpus { count: visible_devices(&visible), source: "CUDA_VISIBLE_DEVICES" };
    }
    let of_driver = entries(Path::new("/proc/driver/nvidia/gpus"));
    if of_driver > 0 {
        return Gpus { count: of_driver, source: "/proc/driver/nvidia/gpus" };
    }
    // In containers /proc/driver is often hidden.
    let listed = Command::new("nvidia-smi").arg("-L").output().ok().filter(|output| output.status.success());
    let count = listed.map_or(0, |output| listed_devices(&String::from_utf8_lossy(&output.stdout)));
    Gpus { count, source: "nvidia-smi" }
}

/// CUDA reads the list up to the first entry that is no device.
fn visible_devices(list: &str) -> usize {
    let is_device = |entry: &&str| {
        let entry = entry.trim();
        entry.parse::<u32>().is_ok() || entry.starts_with("GPU-") || entry.starts_with("MIG-")
    };
    list.split(',').take_while(is_device).count()
}

fn listed_devices(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("GPU ")).count()
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| entries.flatten().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_cuda_does() {
        assert_eq!(visible_devices("0,1, 2"), 3);
        assert_eq!(visible_devices("GPU-8932f937,MIG-12"), 2);
        assert_eq!(visible_devices("0,-1,1"), 1);
        assert_eq!(visible_devices(""), 0);
        let smi = "GPU 0: NVIDIA H100 (UUID: GPU-1)\n  MIG 1g.10gb\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n";
        assert_eq!(listed_devices(smi), 2);
    }
}
