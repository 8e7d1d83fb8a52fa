//! A folder of state files: the newest sound one is found, old ones are removed.

use std::path::{Path, PathBuf};

use crate::{CheckpointError, Disk, State, StateRef, SystemDisk};

/// Where a run keeps its state files, in its output folder.
pub const FOLDER: &str = "checkpoints";

const PREFIX: &str = "step-";
const SUFFIX: &str = ".ckpt";

const ROLLING_SUFFIX: &str = ".rolling.ckpt";

/// The checkpoints of a run: states that stay, and a window of the newest ones that rolls on.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    keep: usize,
    window: usize,
}

/// How long a state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// While it is one of the newest of its kind.
    Permanent,
    /// While it is one of the few newest of any kind.
    Rolling,
}

/// What a search for the newest state came to.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest sound state and its file.
    pub state: Option<(PathBuf, State)>,
    /// Newer files that were refused, newest first.
    pub rejected: Vec<Rejected>,
}

/// A file that was refused, and why.
#[derive(Debug)]
pub struct Rejected {
    /// The file.
    pub path: PathBuf,
    /// Why it was refused.
    pub reason: CheckpointError,
}

impl Store {
    /// The store in `folder`, of which the newest `keep` (at least one) permanent files are kept, and of the newest
    /// `window` files those that are not permanent.
    pub fn new(folder: impl Into<PathBuf>, keep: usize, window: usize) -> Self {
        Self { folder: folder.into(), keep: keep.max(1), window }
    }

    /// The checkpoints of the run whose output folder, or folder of checkpoints, is `path`; to look, not to save.
    pub fn of_run(path: &Path) -> Self {
        let inner = path.join(FOLDER);
        Self::new(if inner.is_dir() { inner } else { path.to_owned() }, usize::MAX, usize::MAX)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that holds the state after `step`.
    pub fn path_of(&self, step: u64, kept: Kept) -> PathBuf {
        let suffix = match kept {
            Kept::Permanent => SUFFIX,
            Kept::Rolling => ROLLING_SUFFIX,
        };
        self.folder.join(format!("{PREFIX}{step:08}{suffix}"))
    }

    /// Writes a state, then removes those that need not be kept. Returns the new file.
    ///
    /// # Errors
    /// [`CheckpointError::Write`]; then every earlier file is still there.
    pub fn save(&self, state: StateRef<'_>, kept: Kept) -> Result<PathBuf, CheckpointError> {
        self.save_on(&SystemDisk, state, kept)
    }

    /// [`Self::save`] on a disk of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn save_on(
        &self,
        disk: &dyn Disk,
        state: StateRef<'_>,
        kept: Kept,
    ) -> Result<PathBuf, CheckpointError> {
        let write_error = |source| CheckpointError::Write { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(write_error)?;
        let path = self.path_of(state.step, kept);
        state.write_on(disk, &path)?;
        self.prune(state.step)?;
        Ok(path)
    }

    fn prune(&self, newest: u64) -> Result<(), CheckpointError> {
        let files = self.list()?;
        // Newer files are not of this timeline; they neither count nor go.
        let own = files.iter().rev().filter(|(step, _)| *step <= newest);
        let mut permanent = 0;
        for (place, (_, old)) in own.enumerate() {
            let goes = match is_rolling(old) {
                true => place >= self.window,
                false => permanent >= self.keep,
            };
            permanent += usize::from(!is_rolling(old));
            if goes {
                // A file that cannot be removed costs space, not correctness.
                let _ = std::fs::remove_file(old);
            }
        }
        Ok(())
    }

    /// The newest file that verifies, and the newer ones that do not.
    ///
    /// # Errors
    /// Only when the folder itself cannot be listed.
    pub fn newest(&self) -> Result<Found, CheckpointError> {
        let mut found = Found::default();
        for (_, path) in self.list()?.into_iter().rev() {
            match State::read(&path) {
                Ok(state) => {
                    found.state = Some((path, state));
                    break;
                }
                Err(reason) => found.rejected.push(Rejected { path, reason }),
            }
        }
        Ok(found)
    }

    /// Takes files of steps after `step` out of the way, sound or not: a run that goes on from `step` makes those
    /// steps again. They keep their content under a name that no search finds. Returns the steps they were of.
    ///
    /// # Errors
    /// [`CheckpointError::Write`] when one cannot be renamed.
    pub fn set_aside_after(&self, step: u64) -> Result<Vec<u64>, CheckpointError> {
        let mut steps = Vec::new();
        for (of, path) in self.list()?.into_iter().filter(|(of, _)| *of > step) {
            let mut aside = path.clone().into_os_string();
            aside.push(".set-aside");
            std::fs::rename(&path, &aside).map_err(|source| CheckpointError::Write { path, source })?;
            steps.push(of);
        }
        Ok(steps)
    }

    /// State files by step, oldest first. A folder that is not there holds none.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] when the folder exists and cannot be listed.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(CheckpointError::Read { path: self.folder.clone(), source }),
        };
        let mut files: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let name = name.to_str()?.strip_prefix(PREFIX)?;
                let step = name.strip_suffix(ROLLING_SUFFIX).or_else(|| name.strip_suffix(SUFFIX))?;
                Some((step.parse().ok()?, entry.path()))
            })
            .collect();
        files.sort();
        Ok(files)
    }
}

fn is_rolling(path: &Path) -> bool {
    path.to_string_lossy().ends_with(ROLLING_SUFFIX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn save(store: &Store, step: u64) -> PathBuf {
        let vector: Vec<f32> = (0..5).map(|i| i as f32 + step as f32).collect();
        let meta = serde_json::json!({"note": "größe"});
        store
            .save(
                StateRef { step, meta: &meta, theta: &vector, exp_avg: &vector, exp_avg_sq: &vector },
                if step.is_multiple_of(4) { Kept::Permanent } else { Kept::Rolling },
            )
            .unwrap()
    }

    fn steps(store: &Store) -> Vec<u64> {
        store.list().unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn newest_is_found_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("checkpoints"), 2, 2);
        assert!(store.newest().unwrap().state.is_none());
        for step in [1, 2, 10] {
            save(&store, step);
        }
        assert_eq!(steps(&store), [2, 10]);
        let (_, state) = store.newest().unwrap().state.unwrap();
        assert_eq!((state.step, state.theta[0], state.meta["note"].as_str()), (10, 10.0, Some("größe")));
    }

    #[test]
    fn a_window_rolls_beside_those_that_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), 2, 2);
        (1..=14).for_each(|step| drop(save(&store, step)));
        assert_eq!(steps(&store), [8, 12, 13, 14]);
        // Without a window.
        let store = Store::new(folder.path().join("other"), 1, 0);
        [4, 8].into_iter().for_each(|step| drop(save(&store, step)));
        assert_eq!(steps(&store), [8]);
    }

    #[test]
    fn a_run_that_goes_back_keeps_its_own_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), 1, 1);
        for step in [3, 6] {
            save(&Store::new(folder.path(), 9, 9), step);
        }
        // Without setting anything aside: neither the new file nor the other timeline's is pruned.
        save(&store, 4);
        assert_eq!(steps(&store), [4, 6]);
        assert_eq!(store.set_aside_after(4).unwrap(), [6]);
        assert_eq!(steps(&store), [4]);
        assert!(folder.path().join("step-00000006.rolling.ckpt.set-aside").exists());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), 5, 5);
        save(&store, 1);
        let path = save(&store, 2);
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let found = store.newest().unwrap();
            assert_eq!(found.rejected.len(), 1);
            assert_eq!(found.state.unwrap().1.step, 1);
        };
        for byte in 0..whole.len() {
            for bit in 0..8 {
                let mut altered = whole.clone();
                altered[byte] ^= 1 << bit;
                refused(&altered);
            }
            refused(&whole[..byte]);
        }
    }

    /// As above, at places all over a state of a usual size.
    #[test]
    fn flips_and_truncations_of_a_large_state_are_refused() {
        let vector: Vec<f32> = (0..524_288_u32).map(|i| (i as f32).sin()).collect();
        let meta = serde_json::json!({});
        let state = StateRef { step: 7, meta: &meta, theta: &vector, exp_avg: &vector, exp_avg_sq: &vector };
        let mut bytes = state.to_bytes();
        assert!(State::parse(&bytes).is_ok());
        let length = bytes.len();
        for sample in 0..200_usize {
            let (byte, bit) = (sample.wrapping_mul(0x9e37_79b9_7f4a_7c15) % length, sample % 8);
            bytes[byte] ^= 1 << bit;
            assert!(State::parse(&bytes).is_err(), "bit {bit} of byte {byte}");
            bytes[byte] ^= 1 << bit;
            assert!(State::parse(&bytes[..byte]).is_err(), "the first {byte} bytes");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        // The target is a folder: the rename fails after the temporary file was written.
        let target = folder.path().join("taken");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("inside"), "kept").unwrap();
        assert!(crate::write_atomic(&target, &[b"new"]).is_err());
        assert_eq!(std::fs::read_to_string(target.join("inside")).unwrap(), "kept");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
