//! What a hub answers.

use std::path::{Component, Path};

use crate::show::refused;

/// The list of a repository's files.
pub(crate) fn listing(bytes: &[u8]) -> bool {
    stay_inside(hub::fuzzing::wanted_files(bytes))
}

/// The index of a model's shards.
pub(crate) fn index(bytes: &[u8]) -> bool {
    stay_inside(hub::fuzzing::wanted_shards(bytes))
}

fn stay_inside(files: Result<Vec<String>, hub::HubError>) -> bool {
    match files {
        Err(error) => refused(&error),
        Ok(files) => {
            let plain =
                |name: &String| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
            assert!(files.iter().all(plain), "every file lies in the snapshot's folder: {files:?}");
            true
        }
    }
}
