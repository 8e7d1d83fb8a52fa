//! Presets: settings files with a name, `NAME.toml` or `NAME/NAME.toml` in one of the preset folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{ConfigError, Source};

/// A preset that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// The presets in these folders by name; where two folders have the same name, the first folder's. Folders that
/// do not exist are skipped.
pub fn list_presets(folders: &[PathBuf]) -> Vec<Preset> {
    let mut presets: Vec<Preset> = Vec::new();
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let Some(stem) = entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()) else {
            continue;
        };
        let Some(path) = entry.path().parent().and_then(|folder| file_of(folder, &stem)) else {
            continue;
        };
        if presets.iter().all(|preset| preset.name != stem) {
            presets.push(Preset { name: stem, path });
        }
    }
    presets.sort_by(|a, b| a.name.cmp(&b.name));
    presets
}

/// The file of the preset `name`.
pub(crate) fn find(name: &str, origin: &Source, folders: &[PathBuf]) -> Result<PathBuf, ConfigError> {
    // A separator would leave the preset folders.
    let is_name = !name.is_empty() && !name.contains(['/', '\\']) && name != ".." && name != ".";
    let file = is_name.then(|| folders.iter().find_map(|folder| file_of(folder, name))).flatten();
    file.ok_or_else(|| ConfigError::UnknownPreset {
        name: name.to_owned(),
        origin: origin.clone().into(),
        hint: hint(name, folders),
    })
}

fn file_of(folder: &Path, name: &str) -> Option<PathBuf> {
    let file = format!("{name}.toml");
    [folder.join(&file), folder.join(name).join(&file)].into_iter().find(|path| path.is_file())
}

fn hint(name: &str, folders: &[PathBuf]) -> String {
    if name.contains('/') || name.ends_with(".toml") {
        return format!("a settings file is given by its path as --config {name}");
    }
    let names: Vec<_> = list_presets(folders).into_iter().map(|preset| preset.name).collect();
    if names.is_empty() {
        let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let searched = if searched.is_empty() { "no folder".to_owned() } else { searched.join(", ") };
        return format!("no presets were found; searched: {searched}; GPART_CONFIGS names another folder");
    }
    format!("presets: {}", names.join(", "))
}
