//! Which files of a repository are wanted, and whether a snapshot has them. Names alone decide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::cache::{RepoCache, files_below};
use crate::name::is_plain_path;
use crate::{HubError, Want};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What a model has beside its weights: taken where it is there.
const BESIDE_WEIGHTS: [&str; 12] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
];

/// JSON files that describe a dataset and hold no rows.
const DESCRIPTIONS: [&str; 8] = [
    "config.json",
    "croissant.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "metadata.json",
    "package.json",
    "state.json",
];

/// Formats by preference: a repository that has its rows in several would give them twice.
const FORMATS: [&str; 3] = [".parquet", ".jsonl", ".json"];

/// Folders by preference, where several hold train files; the empty name is the repository's own.
const FOLDERS: [&str; 5] = ["data", "", "default", "main", "all"];

/// How much of what is wanted a snapshot has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// All of it.
    Complete,
    /// What is needed; whether the repository has more is not known.
    Usable,
    /// Not these.
    Missing(Vec<String>),
}

/// The files of a model that are wanted beside its weights, of those that the repository has.
pub(crate) fn beside_weights(want: Want, has: impl Fn(&str) -> bool) -> Vec<String> {
    let names = if want == Want::ConfigOnly { &BESIDE_WEIGHTS[..1] } else { &BESIDE_WEIGHTS[..] };
    names.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect()
}

/// What a snapshot has of a model.
pub(crate) fn model_state(cache: &RepoCache, commit: &str, want: Want) -> State {
    let snapshot = cache.snapshot(commit);
    // An index may name anything; what does not stay in the snapshot does not count.
    let has = |name: &str| is_plain_path(name) && snapshot.join(name).is_file();
    let mut missing: Vec<String> =
        [CONFIG].into_iter().filter(|name| !has(name)).map(str::to_owned).collect();
    let mut is_known = true;
    if want != Want::ConfigOnly {
        match cache.manifest(commit) {
            Some(manifest) => missing.extend(manifest.files.into_iter().filter(|name| !has(name))),
            None => {
                missing.extend(Some(TOKENIZER).filter(|name| !has(name)).map(str::to_owned));
                is_known = has(TOKENIZER_CONFIG);
            }
        }
    }
    if want == Want::Everything && !has(WEIGHTS) {
        match std::fs::read(snapshot.join(INDEX)).ok().and_then(|bytes| shards(&bytes).ok()) {
            Some(shards) => missing.extend(shards.into_iter().filter(|name| !has(name))),
            None => missing.push(WEIGHTS.to_owned()),
        }
    }
    missing.dedup();
    match (missing.is_empty(), is_known) {
        (true, true) => State::Complete,
        (true, false) => State::Usable,
        (false, _) => State::Missing(missing),
    }
}

/// The files that an index names, sorted.
pub(crate) fn shards(index: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index)?;
    Ok(index.weight_map.into_values().collect::<BTreeSet<_>>().into_iter().collect())
}

/// What a snapshot has of a dataset, and the names of its data files.
pub(crate) fn dataset_state(cache: &RepoCache, commit: &str) -> (State, Vec<String>) {
    let snapshot = cache.snapshot(commit);
    if let Some(manifest) = cache.manifest(commit) {
        let has = |name: &String| snapshot.join(name).is_file();
        let missing: Vec<String> = manifest.files.iter().filter(|name| !has(name)).cloned().collect();
        let state = if missing.is_empty() { State::Complete } else { State::Missing(missing) };
        return (state, manifest.files);
    }
    match pick_train_files(&files_below(&snapshot)) {
        // Another program downloaded it, and perhaps not all files of several.
        Picked::Files(files) if has_all_parts(&files) => (State::Usable, files),
        _ => (State::Missing(vec!["the files of the train split".to_owned()]), Vec::new()),
    }
}

/// The train files of a dataset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Picked {
    /// Sorted, at least one.
    Files(Vec<String>),
    /// None that fits.
    Nothing,
    /// In several folders, none of which is the usual one.
    Folders(Vec<String>),
}

impl Picked {
    /// The files, or why there are none.
    pub(crate) fn or_error(self, id: &str, there: &[&str]) -> Result<Vec<String>, HubError> {
        match self {
            Picked::Files(files) => Ok(files),
            Picked::Nothing => Err(HubError::NoData { id: id.to_owned(), there: enumerate(there) }),
            Picked::Folders(folders) => {
                let folders: Vec<&str> = folders.iter().map(|f| if f.is_empty() { "." } else { f }).collect();
                Err(HubError::SeveralData { id: id.to_owned(), folders: enumerate(&folders) })
            }
        }
    }
}

/// Files that hold rows, are not said to be of another split than `train`, and are of one format and one folder.
pub(crate) fn pick_train_files(names: &[impl AsRef<str>]) -> Picked {
    let holds_rows = |name: &&str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        !name.split('/').any(|part| part.starts_with('.'))
            && format_of(name).is_some()
            && !DESCRIPTIONS.contains(&file)
            && split_of(name) != Some(Split::Other)
    };
    let mut files: Vec<&str> = names.iter().map(AsRef::as_ref).filter(holds_rows).collect();
    if files.iter().any(|name| split_of(name) == Some(Split::Train)) {
        files.retain(|name| split_of(name) == Some(Split::Train));
    }
    if let Some(format) = files.iter().filter_map(|name| format_of(name)).min() {
        files.retain(|name| format_of(name) == Some(format));
    }
    let folder_of = |name: &str| name.split_once('/').map_or("", |(folder, _)| folder).to_owned();
    let folders: BTreeSet<String> = files.iter().map(|name| folder_of(name)).collect();
    if folders.len() > 1 {
        match FOLDERS.iter().find(|folder| folders.contains(**folder)) {
            Some(folder) => files.retain(|name| folder_of(name) == *folder),
            None => return Picked::Folders(folders.into_iter().collect()),
        }
    }
    files.sort_unstable();
    if files.is_empty() {
        Picked::Nothing
    } else {
        Picked::Files(files.into_iter().map(str::to_owned).collect())
    }
}

#[derive(PartialEq, Eq)]
enum Split {
    Train,
    Other,
}

/// The split that a file's name or folder tells. The file's own name counts more than its folder's.
fn split_of(name: &str) -> Option<Split> {
    let stem = FORMATS.iter().find_map(|format| name.strip_suffix(format)).unwrap_or(name);
    let words = stem.rsplit(|c: char| !c.is_ascii_alphanumeric());
    words.map(str::to_ascii_lowercase).find_map(|word| match word.as_str() {
        "train" | "training" => Some(Split::Train),
        "test" | "testing" | "validation" | "valid" | "val" | "dev" | "eval" | "evaluation" => {
            Some(Split::Other)
        }
        _ => None,
    })
}

/// The index in [`FORMATS`].
fn format_of(name: &str) -> Option<usize> {
    FORMATS.iter().position(|format| name.ends_with(format))
}

/// Whether of files named `…-00001-of-00003.parquet` all three are there.
fn has_all_parts(names: &[String]) -> bool {
    let mut parts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for name in names {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let Some((start, count)) = stem.rsplit_once("-of-") else { continue };
        let prefix = start.rsplit_once('-').map_or("", |(prefix, _)| prefix);
        *parts.entry((prefix, count)).or_default() += 1;
    }
    // A name that only looks like a part, such as `best-of-breed.json`, stands for itself.
    parts.iter().all(|((_, count), found)| {
        count.parse().is_ok_and(|count: usize| count <= *found) || count.parse::<usize>().is_err()
    })
}

/// Some names and how many more there are.
pub(crate) fn enumerate(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| crate::client::clean(name)).collect();
    match names.len() {
        0 => "no files".to_owned(),
        count if count > SHOWN => format!("{} and {} more", shown.join(", "), count - SHOWN),
        _ => shown.join(", "),
    }
}

/// Reads an index of the cache.
pub(crate) fn read_shards(path: &Path) -> Result<Vec<String>, HubError> {
    let bytes = std::fs::read(path).map_err(|e| crate::cache::cache_error("read", path, e))?;
    shards(&bytes)
        .map_err(|e| crate::client::garbage(&path.display().to_string(), format!("no index of weights: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], expect: &[&str]) {
        let expect: Vec<String> = expect.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(pick_train_files(names), Picked::Files(expect), "{names:?}");
    }

    #[test]
    fn train_files_of_datasets_as_they_are_found() {
        check(&[".gitattributes", "MetaMathQA-395K.json", "README.md"], &["MetaMathQA-395K.json"]);
        check(
            &[
                "data/train-00001-of-00002.parquet",
                "data/train-00000-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            &["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        );
        check(
            &[
                "main/train-00000-of-00001.parquet",
                "socratic/train-00000-of-00001.parquet",
                "dataset_infos.json",
            ],
            &["main/train-00000-of-00001.parquet"],
        );
        check(&["train.jsonl", "train.parquet", "labels.json", "val.jsonl"], &["train.parquet"]);
        check(&["a.jsonl", "b.jsonl", "dev.jsonl", "test/x.jsonl"], &["a.jsonl", "b.jsonl"]);
        check(
            &["train/algebra.json", "train/geometry.json", "test/algebra.json"],
            &["train/algebra.json", "train/geometry.json"],
        );
        // Words, not parts of words.
        check(&["latest.jsonl", "contest.jsonl"], &["contest.jsonl", "latest.jsonl"]);
        check(&["train/validation.jsonl", "train/rows.jsonl"], &["train/rows.jsonl"]);
        check(&["data/a.json", ".cache/train.json"], &["data/a.json"]);
    }

    #[test]
    fn datasets_without_a_choice() {
        for names in
            [&[][..], &["README.md", "train.csv"], &["test.jsonl"], &["dataset_infos.json", "x.json.gz"]]
        {
            assert_eq!(pick_train_files(names), Picked::Nothing, "{names:?}");
        }
        let folders = vec!["de".to_owned(), "en".to_owned()];
        assert_eq!(pick_train_files(&["en/train.json", "de/train.json"]), Picked::Folders(folders));
    }

    #[test]
    fn parts_are_counted() {
        let check = |names: &[&str], expect: bool| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(has_all_parts(&names), expect, "{names:?}");
        };
        check(&["rows.json", "best-of-breed.json"], true);
        check(&["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], true);
        check(&["train-00000-of-00002.parquet"], false);
        check(&["a-0-of-1.parquet", "b-0-of-2.parquet"], false);
    }

    #[test]
    fn indices() {
        let index = br#"{"metadata": {}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
        assert_eq!(shards(index).ok(), Some(vec!["1.safetensors".to_owned(), "2.safetensors".to_owned()]));
        assert!(shards(b"<html>").is_err());
        assert!(shards(b"{}").is_err());
    }
}
