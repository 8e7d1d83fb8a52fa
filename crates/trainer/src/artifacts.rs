//! What a run leaves for others to load: adapters on the way, the tokenizer, the model card.

use std::path::{Path, PathBuf};

use adapter::{ADAPTER_FILES, Adapter};
use checkpoint::{CheckpointError, write_atomic};
use serde_json::Value;

use crate::TrainError;
use crate::model_card::{Card, MARK};

const PREFIX: &str = "checkpoint-";

/// Writes the adapter of `step` into `checkpoint-STEP`, which appears whole.
pub(crate) fn write_checkpoint(folder: &Path, step: u64, adapter: &Adapter) -> Result<(), TrainError> {
    let own = folder.join(format!("{PREFIX}{step}"));
    let refused = |source| CheckpointError::Write { path: own.clone(), source };
    if own.is_dir() {
        checkpoint::remove_leftovers(&own);
        adapter.write(&own)?;
    } else {
        // One that a killed run left is taken over: its step is made again.
        let staged = folder.join(format!(".gpart-{PREFIX}{step}.tmp"));
        std::fs::create_dir_all(&staged).map_err(refused)?;
        // What a killed writer left in it would keep the folder from ever being removed.
        checkpoint::remove_leftovers(&staged);
        let placed = adapter
            .write(&staged)
            .map_err(TrainError::from)
            .and_then(|_| std::fs::rename(&staged, &own).map_err(|source| refused(source).into()));
        if placed.is_err() {
            let _ = std::fs::remove_dir_all(&staged);
        }
        placed?;
    }
    Ok(())
}

/// Removes the oldest adapters up to `step` beyond the newest `keep`.
pub(crate) fn prune_checkpoints(folder: &Path, step: u64, keep: usize) {
    // Later ones are of steps that are made again, with the same bits.
    let earlier = checkpoints(folder).into_iter().rev().filter(|(of, _)| *of <= step);
    for (_, old) in earlier.skip(keep) {
        // Only what was written here: a folder with something else in it stays, with that.
        for name in ADAPTER_FILES {
            let _ = std::fs::remove_file(old.join(name));
        }
        let _ = std::fs::remove_dir(old);
    }
}

/// Steps and folders, oldest first.
pub(crate) fn checkpoints(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// The names and contents of files that are to be copied.
pub(crate) fn read_all(files: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>, TrainError> {
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes =
            std::fs::read(path).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        Ok((name, bytes))
    };
    files.iter().map(read).collect()
}

/// Writes the tokenizer's files beside the adapter. An end-of-text token other than the tokenizer's own is written
/// into them, as the official script does.
pub(crate) fn write_tokenizer(
    folder: &Path,
    files: &[(String, Vec<u8>)],
    eos_token: Option<&str>,
) -> Result<(), TrainError> {
    for (name, bytes) in files {
        let names_tokens = ["tokenizer_config.json", "special_tokens_map.json"].contains(&name.as_str());
        let changed = eos_token.filter(|_| names_tokens).and_then(|token| with_eos_token(bytes, token));
        write_atomic(&folder.join(name), &[changed.as_ref().unwrap_or(bytes)])?;
    }
    Ok(())
}

fn with_eos_token(json: &[u8], eos_token: &str) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(json).ok()?;
    value.as_object_mut()?.insert("eos_token".to_owned(), eos_token.into());
    serde_json::to_vec_pretty(&value).ok()
}

/// Whether the folder's README.md is a card of ours, or to become one; somebody's own is left alone.
pub(crate) fn owns_card(folder: &Path) -> bool {
    match std::fs::read_to_string(folder.join("README.md")) {
        Ok(text) => text.contains(MARK),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Writes the model card, where [`owns_card`] allows it.
pub(crate) fn write_card(folder: &Path, card: &Card<'_>) -> Result<(), TrainError> {
    match owns_card(folder) {
        true => Ok(write_atomic(&folder.join("README.md"), &[card.text().as_bytes()])?),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn old_checkpoints_go_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let adapter =
            Adapter { config: adapter::AdapterConfig { d: 2, ..Default::default() }, theta: vec![0.5; 2] };
        let write = |step| {
            write_checkpoint(folder.path(), step, &adapter).unwrap();
            prune_checkpoints(folder.path(), step, 2);
        };
        let steps = || checkpoints(folder.path()).into_iter().map(|(step, _)| step).collect::<Vec<_>>();
        write(5);
        write(10);
        std::fs::write(folder.path().join("checkpoint-5/notes.txt"), "mine").unwrap();
        write(15);
        assert_eq!(steps(), [5, 10, 15]);
        let left: Vec<_> = std::fs::read_dir(folder.path().join("checkpoint-5")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "only what is somebody's own");
        write(20);
        assert_eq!(steps(), [5, 15, 20]);
        // A run that went back makes its steps again; what it made before beyond them is not old.
        write(16);
        assert_eq!(steps(), [5, 15, 16, 20]);
        assert_eq!(Adapter::read(&folder.path().join("checkpoint-16")).unwrap(), adapter);
    }

    #[test]
    fn another_end_of_text_goes_into_the_tokenizer() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = from.path().join("tokenizer_config.json");
        std::fs::write(&config, r#"{"bos_token": "<s>", "eos_token": "</s>"}"#).unwrap();
        let tokens = from.path().join("tokenizer.json");
        std::fs::write(&tokens, r#"{"eos_token": "untouched"}"#).unwrap();
        let files = read_all(&[config, tokens.clone()]).unwrap();
        write_tokenizer(to.path(), &files, Some("<|end|>")).unwrap();
        let text = std::fs::read_to_string(to.path().join("tokenizer_config.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (value["bos_token"].as_str(), value["eos_token"].as_str()),
            (Some("<s>"), Some("<|end|>"))
        );
        assert_eq!(std::fs::read(tokens).unwrap(), std::fs::read(to.path().join("tokenizer.json")).unwrap());
    }
}
