//! NVRTC, which compiles the CUDA kernels; it needs no GPU. The user's own, one that is here, or PyPI's wheel.
//!
//! Only tests need it where there is no GPU, so building does not ask for it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::libtorch::{Wheels, cache_folder, lock, place_link};
use crate::shell::{Failure, Outcome, say, while_doing};

/// The variable that names a folder with NVRTC's libraries, for tests and programs.
pub const VARIABLE: &str = "GPART_NVRTC";
const WHEEL: &str = "nvidia-cuda-nvrtc==13.0.*";
const LIBRARY: &str = "libnvrtc.so.13";

/// Makes an NVRTC findable for tests: by the user's own variable, or as `.deps/nvrtc`.
pub fn ensure(root: &Path) -> Outcome {
    if let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from) {
        inspect(&folder).map_err(|why| {
            let hint = format!("it is the folder that holds {LIBRARY}; unset it, and set-up fetches one");
            Failure::with_hint(format!("{VARIABLE}={}: {why}", folder.display()), hint)
        })?;
        say("NVRTC", format!("found ({VARIABLE}={})", folder.display()));
        return Ok(());
    }
    let link = root.join(".deps/nvrtc");
    if inspect(&link).is_ok() {
        let target = fs::read_link(&link).unwrap_or_else(|_| link.clone());
        say("NVRTC", format!("found (.deps/nvrtc → {})", target.display()));
        return Ok(());
    }
    let folder = match present(root) {
        Some(folder) => folder,
        None => cached()?,
    };
    place_link("nvrtc", &link, &folder)
}

/// The NVRTC that came with a torch for CUDA, or with a CUDA toolkit.
fn present(root: &Path) -> Option<PathBuf> {
    let torch = root.join(".deps/libtorch").canonicalize().ok();
    // …/site-packages/torch
    let beside =
        torch.iter().filter_map(|torch| torch.parent()).map(|packages| packages.join("nvidia/cu13/lib"));
    let toolkits = ["/usr/local/cuda-13.0/lib64", "/usr/local/cuda/lib64"].map(PathBuf::from);
    beside.chain(toolkits).find(|folder| inspect(folder).is_ok())
}

/// Whether a folder holds NVRTC and what it loads itself; else what is missing.
fn inspect(folder: &Path) -> Result<(), String> {
    if !folder.join(LIBRARY).is_file() {
        return Err(format!("{LIBRARY} is missing"));
    }
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    match names.into_iter().any(|name| name.to_string_lossy().starts_with("libnvrtc-builtins.so.13")) {
        true => Ok(()),
        false => Err("libnvrtc-builtins.so.13.* is missing".to_owned()),
    }
}

/// The unpacked wheel in the user's cache, fetched if it is not there yet.
fn cached() -> Outcome<PathBuf> {
    const LIBRARIES: &str = "nvidia/cu13/lib";
    let cache = cache_folder()?;
    fs::create_dir_all(&cache).map_err(while_doing("create", &cache))?;
    let _lock = lock(&cache.join("setup.lock"))?;
    let folder = cache.join("nvrtc-13.0");
    if let Err(why) = inspect(&folder.join(LIBRARIES)) {
        if folder.exists() {
            say("NVRTC", format!("repairing {}: {why}", folder.display()));
            fs::remove_dir_all(&folder).map_err(while_doing("remove", &folder))?;
        }
        let wheels = Wheels {
            part: "NVRTC",
            packages: &[WHEEL],
            size: "90 MB; 220 MB unpacked",
            hint: format!("pip's own settings say where it looks; or bring {LIBRARY} and set {VARIABLE}=DIR"),
        };
        wheels.fetch(&cache, &folder, |unpacked| inspect(&unpacked.join(LIBRARIES)))?;
    }
    Ok(folder.join(LIBRARIES))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_without_all_of_nvrtc_is_refused_with_the_reason() {
        let dir = env::temp_dir().join(format!("xtask-nvrtc-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(inspect(&dir).unwrap_err().contains("libnvrtc.so.13 is missing"));
        fs::write(dir.join("libnvrtc.so.13"), "").unwrap();
        assert!(inspect(&dir).unwrap_err().contains("builtins"));
        fs::write(dir.join("libnvrtc-builtins.so.13.0"), "").unwrap();
        assert_eq!(inspect(&dir), Ok(()));
        fs::remove_dir_all(&dir).unwrap();
    }
}
