//! What can be wrong with settings. Every one of these is the user's to mend: exit code 2.

use std::path::PathBuf;

use crate::{Source, Task};

/// A setting that cannot be used, with the place it came from.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConfigError {
    /// A key of a file, or a `GPART_*` variable, that no setting has.
    #[error("unknown setting {key:?} ({origin})")]
    #[diagnostic(code(input::unknown_setting), help("{hint}"))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// Where it stands.
        origin: Box<Source>,
        /// The nearest key, or where to find them all.
        hint: String,
    },

    /// A value of the wrong type or outside its limits.
    #[error("{key} cannot be {value} ({origin})")]
    #[diagnostic(code(input::bad_value), help("give {expected}"))]
    BadValue {
        /// The key's name.
        key: &'static str,
        /// The value as written, in quotes unless it stands in a file without any.
        value: String,
        /// Where it stands.
        origin: Box<Source>,
        /// What would be right.
        expected: String,
    },

    /// A setting without which there is nothing to do.
    #[error("{task} needs --{key}")]
    #[diagnostic(code(input::missing_setting), help("give --{key} {expected}"))]
    Missing {
        /// The command.
        task: Task,
        /// The key's name.
        key: &'static str,
        /// What it may be.
        expected: String,
    },

    /// A value that has a meaning, but not in this version.
    #[error("{key} {value} is not available: {reason} ({origin})")]
    #[diagnostic(code(input::not_available), help("{hint}"))]
    NotAvailable {
        /// The key's name.
        key: &'static str,
        /// The value as written.
        value: String,
        /// Where it stands.
        origin: Box<Source>,
        /// Why it is refused.
        reason: &'static str,
        /// What to use instead.
        hint: &'static str,
    },

    /// The same setting twice in one file or one environment, under two of its names.
    #[error("{key} is set twice, as {first:?} and as {second:?} ({origin})")]
    #[diagnostic(code(input::set_twice), help("keep one of the two"))]
    SetTwice {
        /// The key's name.
        key: &'static str,
        /// The first spelling.
        first: String,
        /// The second spelling.
        second: String,
        /// Where the second stands.
        origin: Box<Source>,
    },

    /// Two settings that cannot both hold.
    #[error("{message}")]
    #[diagnostic(code(input::conflicting_settings), help("{hint}"))]
    Conflict {
        /// Both settings with their values and places.
        message: String,
        /// How to mend it.
        hint: String,
    },

    /// No preset of that name.
    #[error("no preset is called {name:?} ({origin})")]
    #[diagnostic(code(input::unknown_preset), help("{hint}"))]
    UnknownPreset {
        /// The name as written.
        name: String,
        /// Where it was asked for.
        origin: Box<Source>,
        /// The presets there are, or the folders that were searched.
        hint: String,
    },

    /// A settings file that cannot be read.
    #[error("cannot read the settings file {}: {cause}", path.display())]
    #[diagnostic(code(input::unreadable_settings), help("check the path and its permissions"))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },

    /// A settings file that is no TOML.
    #[error("{}:{line} is not valid TOML: {message}", path.display())]
    #[diagnostic(
        code(input::invalid_toml),
        help("a settings file has lines like `learning-rate = 2e-4` and `model = \"a/path\"`")
    )]
    InvalidToml {
        /// The file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// What the parser said, on one line.
        message: String,
    },

    /// A run name too long to be a folder's name.
    #[error("the run's name would have {len} bytes, more than the {max} of a folder's name: {name}")]
    #[diagnostic(code(input::run_name_too_long), help("name the output folder with --output DIR"))]
    RunNameTooLong {
        /// The name.
        name: String,
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
}
