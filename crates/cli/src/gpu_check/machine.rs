//! What this host has, as `doctor` finds it, and the libraries that computing on a GPU needs.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::child::Children;
use super::{Found, Numbers};

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// Folder of the libtorch that this program runs on.
    pub libtorch_folder: Option<PathBuf>,
    /// libtorch's part for GPUs.
    pub libtorch_cuda: Option<PathBuf>,
    /// CUDA's compiler for kernels.
    pub nvrtc: Option<PathBuf>,
    /// Everything that `doctor` says of this host; null where it fails.
    pub doctor: Value,
}

impl Machine {
    /// Asks `doctor`, which may crash with a broken driver, and looks for libraries without loading any. Fails where
    /// `doctor` finds something that would break a run.
    pub fn examine(&mut self, children: &Children, numbers: &mut Numbers) -> Found {
        self.libtorch_folder = loaded_from("libtorch_cpu.so");
        let cuda = self.libtorch_folder.as_ref().map(|folder| folder.join("libtorch_cuda.so"));
        self.libtorch_cuda = cuda.filter(|path| path.is_file());
        let folders = nvrtc_folders(self.libtorch_folder.as_deref());
        self.nvrtc = folders.iter().find_map(|folder| nvrtc_in(folder));
        let output = children.runs.display().to_string();
        let args = ["doctor", "--json", "--quick", "--output", &output];
        let ended = children.run("machine", 1, &args.map(str::to_owned))?;
        self.doctor = serde_json::from_str(&ended.stdout).unwrap_or_default();
        let found = &self.facts()["accelerators"];
        numbers.insert("libtorch".to_owned(), self.facts()["versions"]["libtorch"].clone());
        numbers.insert("driver".to_owned(), found["driver_release"].clone());
        numbers.insert("nccl".to_owned(), found["nccl"].clone());
        numbers.insert("gpus".to_owned(), json!(self.gpus().len()));
        if ended.status.success() {
            return Ok("doctor finds nothing that would break a run".to_owned());
        }
        let findings = self.doctor["findings"].as_array().into_iter().flatten();
        let broken = findings.filter(|finding| finding["level"] == "broken");
        let broken: Vec<&str> = broken.filter_map(|finding| finding["text"].as_str()).collect();
        Err(if broken.is_empty() { ended.failure() } else { format!("doctor: {}", broken.join("; ")) }.into())
    }

    /// Facts of the one rank.
    pub fn facts(&self) -> &Value {
        &self.doctor["ranks"][0]
    }

    /// Names of GPUs with their memory and what they can do.
    pub fn gpus(&self) -> Vec<String> {
        let gpus = self.facts()["accelerators"]["gpus"].as_array();
        let shown = |gpu: &Value| {
            let memory = crate::format::bytes(gpu["memory"].as_u64().unwrap_or(0));
            let capability = format!("{}.{}", gpu["capability"][0], gpu["capability"][1]);
            format!(
                "{}, {memory}, compute capability {capability}",
                gpu["name"].as_str().unwrap_or("unknown")
            )
        };
        gpus.into_iter().flatten().map(shown).collect()
    }

    /// Whether there is anything to compute on but the CPU.
    pub fn has_gpu(&self) -> bool {
        !self.gpus().is_empty()
    }

    /// A version as text; none where there is none.
    pub fn driver(&self) -> Option<String> {
        let found = &self.facts()["accelerators"];
        let release = found["driver_release"].as_str().map(str::to_owned);
        let cuda = found["driver_cuda"].as_array().map(|parts| format!("CUDA {}", dotted(parts)));
        match (release, cuda) {
            (Some(release), Some(cuda)) => Some(format!("{release}, {cuda}")),
            (release, cuda) => release.or(cuda),
        }
    }

    /// NCCL's version.
    pub fn nccl(&self) -> Option<String> {
        self.facts()["accelerators"]["nccl"].as_array().map(|parts| dotted(parts))
    }

    /// What `doctor` found missing for GPUs, each with what to do.
    pub fn missing(&self) -> Vec<(String, String)> {
        let missing = self.facts()["accelerators"]["missing"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        missing
            .into_iter()
            .flatten()
            .map(|missing| (text(&missing["what"]), text(&missing["hint"])))
            .collect()
    }
}

fn dotted(parts: &[Value]) -> String {
    let parts: Vec<String> = parts.iter().map(Value::to_string).collect();
    parts.join(".")
}

/// Folder of a library that this process has loaded.
fn loaded_from(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let path = path.into_iter().find(|path| path.file_name().is_some_and(|file| file == name))?;
    path.parent().map(Path::to_owned)
}

/// Where NVRTC is looked for: beside libtorch, in pip's wheels beside that, in `LD_LIBRARY_PATH`, in CUDA's own folder and
/// in the system's.
fn nvrtc_folders(libtorch: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(libtorch) = libtorch {
        folders.push(libtorch.to_owned());
        let wheels = std::fs::read_dir(libtorch.join("../../nvidia")).into_iter().flatten().flatten();
        folders.extend(wheels.map(|wheel| wheel.path().join("lib")));
    }
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&named));
    folders.extend(["/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"].map(PathBuf::from));
    folders
}

fn nvrtc_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc.so"))
    };
    entries.filter(is_it).min()
}
