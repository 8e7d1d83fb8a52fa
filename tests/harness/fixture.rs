//! Inputs that tests alter: a copy of the demo model, JSON files, small disks.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::repository;

/// A JSON file's content.
pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rewrites a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// A copy of the demo model that a test may spoil.
pub struct DemoModel {
    pub folder: PathBuf,
}

impl DemoModel {
    /// Copies the demo model to `folder/model`.
    pub fn copy_to(folder: &Path) -> Self {
        let folder = folder.join("model");
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(repository().join("configs/demo/model")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        Self { folder }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn weights(&self) -> PathBuf {
        self.file("model.safetensors")
    }

    /// `--model FOLDER`
    pub fn flag(&self) -> Vec<String> {
        vec!["--model".to_owned(), self.folder.to_str().unwrap().to_owned()]
    }

    /// Rewrites the bytes of the weights' file.
    pub fn edit_bytes(&self, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.weights()).unwrap();
        edit(&mut bytes);
        std::fs::write(self.weights(), bytes).unwrap();
    }

    /// Rewrites the header of the weights' file, leaving the data as it is.
    pub fn edit_header(&self, edit: impl FnOnce(&mut Value)) {
        self.edit_bytes(|bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            edit(&mut header);
            let header = header.to_string().into_bytes();
            let data = bytes.split_off(8 + length);
            bytes.clear();
            bytes.extend((header.len() as u64).to_le_bytes());
            bytes.extend(header);
            bytes.extend(data);
        });
    }
}

/// A small disk of its own, unmounted at the end.
pub struct Mount {
    pub folder: PathBuf,
}

impl Mount {
    /// Mounts a tmpfs of `kib` KiB at `folder`, which is made. None where mounting is not allowed.
    pub fn tmpfs(folder: PathBuf, kib: usize) -> Option<Self> {
        std::fs::create_dir(&folder).unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).status();
        match mounted {
            Ok(status) if status.success() => Some(Self { folder }),
            other => {
                let rule = "*".repeat(100);
                #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
                {
                    eprintln!("{rule}\nSKIPPED: no tmpfs can be mounted here ({other:?})\n{rule}");
                }
                None
            }
        }
    }

    /// Makes it read-only, or writable again.
    pub fn remount(&self, mode: &str) {
        let options = format!("remount,{mode}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.folder).status().unwrap();
        assert!(status.success(), "cannot remount {} {mode}", self.folder.display());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, so that a process that still holds a file does not keep it mounted for ever.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
