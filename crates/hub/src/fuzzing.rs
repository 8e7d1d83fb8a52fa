//! What a server sends, given to the code that reads it without a server: for fuzzing.

use crate::client::{Listing, garbage};
use crate::name::{Kind, Repo, check_file_name};
use crate::{HubError, Want, select};

/// The names of the files that would be downloaded, were `answer` the hub's list of a dataset's files and of a
/// model's files; all of them have been checked as names of a server are.
///
/// # Errors
/// As a download, up to the first byte of a file.
pub fn wanted_files(answer: &[u8]) -> Result<Vec<String>, HubError> {
    let repo = Repo::new(Kind::Dataset, "owner/name", None)?;
    let listing = Listing::parse(answer, "https://hub.test/api")?;
    let there = listing.names();
    let has = |name: &str| there.contains(&name);
    let mut files = select::beside_weights(Want::Everything, has);
    files.extend(select::pick_train_files(&there).or_error(&repo.id, &there)?);
    checked(&repo, files)
}

/// The names of the shards that would be downloaded, were `index` the hub's `model.safetensors.index.json`.
///
/// # Errors
/// As a download, up to the first byte of a file.
pub fn wanted_shards(index: &[u8]) -> Result<Vec<String>, HubError> {
    let repo = Repo::new(Kind::Model, "owner/name", None)?;
    let shards = select::shards(index).map_err(|e| garbage("https://hub.test/index", e.to_string()))?;
    checked(&repo, shards)
}

fn checked(repo: &Repo, files: Vec<String>) -> Result<Vec<String>, HubError> {
    files.iter().try_for_each(|name| check_file_name(repo, name))?;
    Ok(files)
}
