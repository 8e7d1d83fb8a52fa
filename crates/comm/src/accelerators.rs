//! What a process finds of GPUs, their driver and NCCL.

use serde::{Deserialize, Serialize};

use crate::Gpu;

/// GPUs and what is needed to use them, as one process finds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerators {
    /// Release of the kernel's driver, such as `580.95.05`.
    pub driver_release: Option<String>,
    /// Newest CUDA that the driver serves, major and minor.
    pub driver_cuda: Option<(u32, u32)>,
    /// What is there, in the order of device numbers, as `CUDA_VISIBLE_DEVICES` leaves them.
    pub gpus: Vec<Gpu>,
    /// The value of `CUDA_VISIBLE_DEVICES`, if it is set.
    pub visible: Option<String>,
    /// Version of NCCL.
    pub nccl: Option<(u32, u32, u32)>,
    /// What is missing for messages over NCCL, the first thing first.
    pub missing: Vec<Missing>,
}

/// Something that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What was looked for, where, and what was found.
    pub what: String,
    /// How to get it.
    pub hint: String,
}

impl Accelerators {
    fn of_environment() -> Self {
        let release = std::fs::read_to_string("/sys/module/nvidia/version").ok();
        Self {
            driver_release: release.map(|text| text.trim().to_owned()),
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            ..Self::default()
        }
    }
}

/// Looks for GPUs, the driver and NCCL. Loads their libraries, and starts the driver, where they are there.
#[cfg(not(feature = "nccl"))]
pub fn accelerators() -> Accelerators {
    let missing = Missing {
        what: "this gpart-dist was built without NCCL".to_owned(),
        hint: "build it with the default features (cargo build --package cli)".to_owned(),
    };
    Accelerators { missing: vec![missing], ..Accelerators::of_environment() }
}

/// Looks for GPUs, the driver and NCCL. Loads their libraries, and starts the driver, where they are there.
#[cfg(feature = "nccl")]
pub fn accelerators() -> Accelerators {
    let mut found = Accelerators::of_environment();
    match crate::nccl::probe() {
        Ok((cuda, gpus)) => (found.driver_cuda, found.gpus) = (Some(cuda), gpus),
        Err(missing) => found.missing.push(missing),
    }
    match crate::nccl::library() {
        Ok(library) => found.nccl = Some(library.version()),
        Err(missing) => found.missing.push(missing),
    }
    found
}
