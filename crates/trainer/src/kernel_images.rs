//! What CUDA kernels need of the file system: a folder of compiled ones, and the places where NVRTC may be.

use std::path::PathBuf;

use projection::cuda::{ImageCache, ImageKey};

/// A folder of compiled kernels, one file an image: its blake3 hash, then the image. The file's name is the hash of
/// everything that decides about the image, so another source, NVRTC or GPU finds no file, and never a wrong one.
///
/// Many processes may share a folder: files are replaced in one step, and what is damaged is compiled again.
#[derive(Debug, Clone)]
pub struct ImageFolder(PathBuf);

impl ImageFolder {
    /// The images in `folder`, which is made when the first one is stored.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    fn path(&self, key: &ImageKey) -> PathBuf {
        self.0.join(format!("{}.image", blake3::hash(&key.bytes()).to_hex()))
    }

    fn try_store(&self, key: &ImageKey, image: &[u8]) -> Result<(), String> {
        std::fs::create_dir_all(&self.0).map_err(|error| format!("cannot create it: {error}"))?;
        let hash = blake3::hash(image);
        checkpoint::write_atomic(&self.path(key), &[hash.as_bytes(), image])
            .map_err(|error| error.to_string())
    }
}

impl ImageCache for ImageFolder {
    fn load(&self, key: &ImageKey) -> Option<Vec<u8>> {
        let path = self.path(key);
        let bytes = std::fs::read(&path).ok()?;
        let (hash, image) = bytes.split_at_checked(blake3::OUT_LEN)?;
        if blake3::hash(image).as_bytes() != hash {
            tracing::warn!(path = %path.display(), "a compiled CUDA kernel is damaged; compiling it again");
            return None;
        }
        Some(image.to_vec())
    }

    fn store(&self, key: &ImageKey, image: &[u8]) {
        if let Err(why) = self.try_store(key, image) {
            let folder = self.0.display();
            tracing::warn!(%folder, why, "compiled CUDA kernels are not kept; every start will compile them");
        }
    }
}

/// Folders that may hold NVRTC besides the system's: `GPART_NVRTC`, that of the wheels beside the libtorch that this
/// process runs with, of the active Python environment, and of a CUDA toolkit.
pub fn nvrtc_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("GPART_NVRTC").map(PathBuf::from);
    let wheels = comm::wheel_folders(&["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"]);
    let toolkits = ["/usr/local/cuda/lib64", "/usr/local/cuda-13.0/lib64"].map(PathBuf::from);
    named.into_iter().chain(wheels).chain(toolkits).filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(architecture: &str) -> ImageKey {
        ImageKey { nvrtc: (13, 0), architecture: architecture.to_owned(), options: Vec::new() }
    }

    #[test]
    fn images_are_found_again_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let images = ImageFolder::new(folder.path().join("kernels"));
        assert_eq!(images.load(&key("sm_90")), None);
        images.store(&key("sm_90"), b"code for sm_90");
        images.store(&key("sm_80"), b"");
        assert_eq!(images.load(&key("sm_90")).unwrap(), b"code for sm_90");
        assert_eq!(images.load(&key("sm_80")).unwrap(), b"");
        assert_eq!(images.load(&key("sm_100")), None);
        let path = images.path(&key("sm_90"));
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..31], &[], &[&whole[..], b"x"].concat()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(images.load(&key("sm_90")), None);
        }
        images.store(&key("sm_90"), b"again");
        assert_eq!(images.load(&key("sm_90")).unwrap(), b"again");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let images = ImageFolder::new(&file);
        images.store(&key("sm_90"), b"code");
        assert_eq!(images.load(&key("sm_90")), None);
    }
}
