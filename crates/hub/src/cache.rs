//! The folder layout of the Hugging Face cache, as `huggingface_hub` reads and writes it:
//!
//! ```text
//! models--owner--name/refs/main                the commit that `main` was when it was downloaded
//! models--owner--name/blobs/ETAG               contents by checksum; ETAG.incomplete while they arrive
//! models--owner--name/snapshots/COMMIT/FILE    → ../../blobs/ETAG
//! models--owner--name/.gpart/COMMIT.json       ours: the files that a complete snapshot has
//! .locks/models--owner--name/ETAG.lock         held by whoever writes the blob
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::HubError;
use crate::name::{Repo, is_commit};

/// The folders of one repository.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

/// The files that a download decided on, written before the first of them is fetched: without it, a dataset of
/// which a kill left the first of three files would look complete.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Names of a model's files apart from its weights, or all of a dataset's.
    pub(crate) files: Vec<String>,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &Repo) -> Self {
        let name = repo.folder_name();
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that a revision was when it was downloaded.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.ref_path(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers what a revision is. A commit is its own name and needs no reference.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        replace(&self.ref_path(revision), commit.as_bytes())
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    pub(crate) fn blob(&self, checksum: &str) -> PathBuf {
        self.blobs().join(checksum)
    }

    /// The lock of the whole repository, ours.
    pub(crate) fn repo_lock(&self) -> PathBuf {
        self.locks.join("gpart-dist.lock")
    }

    /// The lock of one blob, which `huggingface_hub` takes as well.
    pub(crate) fn blob_lock(&self, checksum: &str) -> PathBuf {
        self.locks.join(format!("{checksum}.lock"))
    }

    /// The files of a snapshot, where this program downloaded it.
    pub(crate) fn manifest(&self, commit: &str) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(self.manifest_path(commit)).ok()?).ok()
    }

    pub(crate) fn write_manifest(&self, commit: &str, manifest: &Manifest) -> Result<(), HubError> {
        let path = self.manifest_path(commit);
        let bytes = serde_json::to_vec(manifest).map_err(|e| cache_error("write", &path, e.into()))?;
        replace(&path, &bytes)
    }

    /// Makes `FILE` of a snapshot stand for a blob: by a relative link, or, where the file system has none, by
    /// moving the blob there.
    pub(crate) fn link(&self, commit: &str, file: &str, checksum: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(file);
        let blob = self.blob(checksum);
        let failed = |source| cache_error("link", &pointer, source);
        make_folder_of(&pointer)?;
        // snapshots/COMMIT lies two levels below the repository, each folder of the file's name one more.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{checksum}"));
        if fs::read_link(&pointer).is_ok_and(|found| found == target) {
            return Ok(());
        }
        match fs::remove_file(&pointer) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        symlink(&target, &pointer).or_else(|_| fs::rename(&blob, &pointer)).map_err(failed)?;
        sync_folder_of(&pointer);
        Ok(())
    }

    fn ref_path(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    fn manifest_path(&self, commit: &str) -> PathBuf {
        self.folder.join(".gpart").join(format!("{commit}.json"))
    }
}

/// All files below a folder, as names with `/`, sorted. What cannot be read is left out.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending = vec![(folder.to_owned(), String::new())];
    while let Some((folder, prefix)) = pending.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = format!("{prefix}{name}");
            // A link is followed: a snapshot's files are links, and one whose blob is gone is no file.
            match fs::metadata(entry.path()) {
                Ok(data) if data.is_file() => files.push(name),
                // A snapshot's folders are real ones; following linked ones could run in a circle.
                Ok(_) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                    pending.push((entry.path(), format!("{name}/")));
                }
                _ => {}
            }
        }
    }
    files.sort();
    files
}

pub(crate) fn cache_error(action: &'static str, path: &Path, source: io::Error) -> HubError {
    HubError::Cache { action, path: path.to_owned(), source }
}

/// Makes the folder that a path lies in.
pub(crate) fn make_folder_of(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(|e| cache_error("create", folder, e)),
        None => Ok(()),
    }
}

/// Flushes a folder's entries, as far as its file system can.
pub(crate) fn sync_folder_of(path: &Path) {
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        // The file's own bytes are on the disk; a name that a power cut takes is downloaded again.
        let _ = folder.sync_all();
    }
}

/// Writes a small file so that a reader sees it whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    make_folder_of(path)?;
    let write = || -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".gpart-").suffix(".tmp");
        // Temporary files are private unless told otherwise; a cache may be shared, and the umask decides.
        builder.permissions(fs::Permissions::from_mode(0o666));
        let mut file = builder.tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|e| cache_error("write", path, e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::name::Kind;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn links_reach_their_blob_from_any_depth_and_are_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(cache.path(), &Repo::new(Kind::Model, "o/n", None).unwrap());
        fs::create_dir_all(repo.blobs()).unwrap();
        fs::write(repo.blob("b1"), "one").unwrap();
        fs::write(repo.blob("b2"), "two").unwrap();
        for file in ["x.json", "a/x.json", "a/b/x.json"] {
            for (blob, text) in [("b1", "one"), ("b2", "two"), ("b2", "two")] {
                repo.link(COMMIT, file, blob).unwrap();
                assert_eq!(fs::read_to_string(repo.snapshot(COMMIT).join(file)).unwrap(), text);
            }
        }
        assert_eq!(files_below(&repo.snapshot(COMMIT)), ["a/b/x.json", "a/x.json", "x.json"]);
        fs::remove_file(repo.blob("b2")).unwrap();
        assert!(files_below(&repo.snapshot(COMMIT)).is_empty());
    }

    #[test]
    fn a_reference_that_is_no_commit_counts_as_none() {
        let cache = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(cache.path(), &Repo::new(Kind::Model, "o/n", None).unwrap());
        assert_eq!(repo.commit_of("main"), None);
        repo.write_ref("refs/pr/1", COMMIT).unwrap();
        assert_eq!(repo.commit_of("refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(repo.commit_of(COMMIT).as_deref(), Some(COMMIT));
        repo.write_ref("main", "../../../etc").unwrap();
        assert_eq!(repo.commit_of("main"), None);
    }
}
