//! One layer of settings: what a file, the environment or the flags say, typed and with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::keys::{self, Key, Role};
use crate::value::Kind;
use crate::{ConfigError, Task, TrainArgs};

/// Variables of the `GPART_` family that are no settings of a run.
pub const RESERVED_VARIABLES: [&str; 5] = [
    "GPART_CONFIGS",
    "GPART_CONTROL_ADDRESS",
    "GPART_CONTROL_ATTEMPT",
    "GPART_CONTROL_CA",
    "GPART_CONTROL_TOKEN",
];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Built in.
    Default,
    /// Built into the command of that name.
    Command(String),
    /// A preset's file.
    Preset {
        /// The preset's name.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// The `--config` file.
    File {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// The command line.
    CommandLine,
    /// A flag, by its main name.
    Flag(String),
    /// A `SECTION.KEY VALUE` pair on the command line, by its key as written.
    Override(String),
    /// The adapter that training starts from, by its folder.
    Adapter(PathBuf),
    /// Worked out from other settings, which are named.
    Derived(String),
    /// Kept from the run that is being resumed.
    ResumedRun,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::Command(name) => write!(f, "default of {name}"),
            Source::Preset { name, path, line } => write!(f, "preset {name}, {}:{line}", path.display()),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Environment(variable) => write!(f, "environment variable {variable}"),
            Source::CommandLine => write!(f, "command line"),
            Source::Flag(name) => write!(f, "flag --{name}"),
            Source::Override(name) => write!(f, "override {name}"),
            Source::Adapter(folder) => write!(f, "the adapter in {}", folder.display()),
            Source::Derived(from) => write!(f, "from {from}"),
            Source::ResumedRun => write!(f, "the resumed run"),
        }
    }
}

/// A typed value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Null where the setting is explicitly absent.
    pub(crate) value: Value,
    /// The value as written, before a path was made relative to its file.
    pub(crate) typed: String,
    pub(crate) origin: Source,
}

/// Settings by key name.
pub(crate) type Layer = BTreeMap<&'static str, Setting>;

/// The built-in defaults.
pub(crate) fn defaults() -> Layer {
    let with_default = keys::keys().filter_map(|key| Some((key, key.default?)));
    let setting = |(key, text): (&Key, &str)| {
        let value = key.kind.parse(text).expect("the table's defaults are within the table's limits");
        (key.name, Setting { value, typed: text.to_owned(), origin: Source::Default })
    };
    with_default.map(setting).collect()
}

/// The defaults of a command of its own.
pub(crate) fn of_task(task: Task) -> Layer {
    let settings: &[(&str, &str)] = match task {
        Task::Metamath => {
            &[("model", "mistralai/Mistral-7B-v0.1"), ("data", "meta-math/MetaMathQA"), ("train-on", "all")]
        }
        Task::Train => &[],
    };
    let setting = |(name, text): &(&str, &str)| {
        let key = keys::find(name).expect("a command's defaults are keys of the table");
        let value = key.kind.parse(text).expect("a command's defaults are within the table's limits");
        (key.name, Setting { value, typed: (*text).to_owned(), origin: Source::Command(task.to_string()) })
    };
    settings.iter().map(setting).collect()
}

/// What the command line says: flags, and `SECTION.KEY VALUE` pairs.
pub(crate) fn from_flags(args: &TrainArgs) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    let mut spellings = BTreeMap::new();
    for (name, text) in args.given() {
        let key = keys::find(name).expect("flags are made from the table of keys");
        spellings.insert(key.name, format!("--{name}"));
        layer.insert(key.name, setting_of_text(key, text, Source::Flag(key.name.to_owned()))?);
    }
    let mut words = args.overrides().iter();
    while let Some(name) = words.next() {
        let origin = Source::Override(name.clone());
        let key = key_of_override(name)?;
        let Some(text) = words.next() else {
            let expected = format!("a value after it: {name} VALUE");
            let (value, origin) = ("nothing".to_owned(), Box::new(origin));
            return Err(ConfigError::BadValue { key: key.name, value, origin, expected });
        };
        once(&mut spellings, key, name, &origin)?;
        layer.insert(key.name, setting_of_text(key, text, origin)?);
    }
    Ok(layer)
}

/// The key that an override names, such as `adapter.d` or the official `training.batch_size`.
fn key_of_override(name: &str) -> Result<&'static Key, ConfigError> {
    let refuse = |hint: String| {
        let origin = Source::CommandLine.into();
        Err(ConfigError::UnknownKey { key: name.to_owned(), origin, hint })
    };
    let Some((section, field)) = name.split_once('.') else {
        if name.ends_with("_proj") {
            return refuse(
                "names in a list are separated by commas: --target-modules q_proj,v_proj".to_owned(),
            );
        }
        return refuse(
            "settings are given as --name VALUE or as SECTION.KEY VALUE, such as adapter.d 16384".into(),
        );
    };
    let Some(section) = keys::sections().iter().find(|known| known.prefix == section) else {
        let known: Vec<&str> = keys::sections().iter().map(|section| section.prefix).collect();
        return refuse(format!("sections: {}", known[1..].join(", ")));
    };
    // The official names that are not the flags' names.
    let field = match (section.prefix, field) {
        ("training", "batch_size") => "micro-batch-size",
        ("adapter", "type") => "adapter-type",
        _ => field,
    };
    if let Some(key) = section.keys.iter().find(|key| key.is_called(field)) {
        return Ok(key);
    }
    match (keys::find(field), keys::nearest(field)) {
        (Some(key), _) => refuse(format!("did you mean {}.{}?", keys::section_of(key), key.name)),
        (None, Some(known)) => refuse(format!("did you mean {}.{known}?", section.prefix)),
        (None, None) => refuse("`gpart-dist config metamath` lists all settings".to_owned()),
    }
}

/// What the `GPART_*` variables say. One that is close to a key's name is an error; others, which may belong to
/// other programs, go to `warnings`.
pub(crate) fn from_environment(
    variables: impl Iterator<Item = (String, String)>,
    warnings: &mut Vec<String>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    let mut spellings = BTreeMap::new();
    // Sorted, so that messages do not depend on the environment's order.
    let variables: BTreeMap<_, _> = variables.filter(|(name, _)| name.starts_with("GPART_")).collect();
    for (variable, text) in variables {
        if RESERVED_VARIABLES.contains(&variable.as_str()) {
            continue;
        }
        let origin = Source::Environment(variable.clone());
        let name = variable.strip_prefix("GPART_").unwrap_or(&variable);
        if let Some(key) = keys::find(name) {
            once(&mut spellings, key, &variable, &origin)?;
            layer.insert(key.name, setting_of_text(key, &text, origin)?);
        } else if let Some(known) = keys::nearest(name) {
            let hint = format!("did you mean {}?", variable_of(known));
            return Err(ConfigError::UnknownKey { key: variable, origin: origin.into(), hint });
        } else {
            warnings.push(format!("{variable} is no setting of gpart-dist and has no effect"));
        }
    }
    Ok(layer)
}

/// What a TOML file says; `origin` makes the source of a key from its line.
pub(crate) fn from_file(path: &Path, origin: impl Fn(usize) -> Source) -> Result<Layer, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
    let table = DeTable::parse(&text).map_err(|error| ConfigError::InvalidToml {
        path: path.to_owned(),
        line: line_of(&text, error.span().map_or(0, |span| span.start)),
        message: error.message().lines().collect::<Vec<_>>().join(" "),
    })?;
    // In the file's order, so that the first mistake is the one that is reported.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut layer = Layer::new();
    let mut spellings = BTreeMap::new();
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, value) in entries {
        let origin = origin(line_of(&text, name.span().start));
        let name = name.get_ref();
        let Some(key) = keys::find(name) else {
            let hint = unknown_in_file(name, value.get_ref());
            return Err(ConfigError::UnknownKey { key: name.to_string(), origin: origin.into(), hint });
        };
        if key.role == Role::Layer {
            let hint = format!("give it as --{0} or {1}", key.name, variable_of(key.name));
            return Err(ConfigError::UnknownKey { key: name.to_string(), origin: origin.into(), hint });
        }
        once(&mut spellings, key, name, &origin)?;
        let written = text.get(value.span()).unwrap_or_default();
        let mut setting = setting_of_toml(key, value.get_ref(), written, origin)?;
        if let (Kind::Location, Value::String(location)) = (key.kind, &setting.value) {
            setting.value = Value::from(relative_to(folder, location));
        }
        layer.insert(key.name, setting);
    }
    Ok(layer)
}

fn unknown_in_file(name: &str, value: &DeValue<'_>) -> String {
    match keys::nearest(name) {
        Some(known) => format!("did you mean {known}?"),
        None if value.is_table() => "a settings file has no tables: write its keys at the top".to_owned(),
        None => "`gpart-dist config metamath` lists all settings".to_owned(),
    }
}

fn setting_of_text(key: &'static Key, text: &str, origin: Source) -> Result<Setting, ConfigError> {
    let typed = text.to_owned();
    if key.is_optional() && text == "none" {
        return Ok(Setting { value: Value::Null, typed, origin });
    }
    match key.kind.parse(text) {
        Ok(value) => Ok(Setting { value, typed, origin }),
        Err(expected) => {
            let (value, origin) = (format!("{typed:?}"), origin.into());
            Err(ConfigError::BadValue { key: key.name, value, origin, expected })
        }
    }
}

fn setting_of_toml(
    key: &'static Key,
    value: &DeValue<'_>,
    written: &str,
    origin: Source,
) -> Result<Setting, ConfigError> {
    if let (true, Some("none")) = (key.is_optional(), value.as_str()) {
        return Ok(Setting { value: Value::Null, typed: "none".to_owned(), origin });
    }
    let typed = value.as_str().unwrap_or(written).to_owned();
    match key.kind.accept(value) {
        Ok(value) => Ok(Setting { value, typed, origin }),
        Err(expected) => {
            // Quotes included: `d = "5"` is wrong because of them.
            let (value, origin) = (written.to_owned(), origin.into());
            Err(ConfigError::BadValue { key: key.name, value, origin, expected })
        }
    }
}

/// Refuses a second spelling of one key in one layer.
fn once(
    spellings: &mut BTreeMap<&'static str, String>,
    key: &'static Key,
    spelling: &str,
    origin: &Source,
) -> Result<(), ConfigError> {
    match spellings.insert(key.name, spelling.to_owned()) {
        Some(first) => {
            let (second, origin) = (spelling.to_owned(), origin.clone().into());
            Err(ConfigError::SetTwice { key: key.name, first, second, origin })
        }
        None => Ok(()),
    }
}

fn variable_of(key: &str) -> String {
    format!("GPART_{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// Line number, from 1, of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Models that a short name stands for, and their owners on the hub.
const SHORT_NAMES: [(&str, &str); 6] = [
    ("Llama-3.1-8B", "meta-llama"),
    ("Qwen2.5-0.5B", "Qwen"),
    ("Qwen2.5-3B", "Qwen"),
    ("Qwen2.5-7B", "Qwen"),
    ("gemma-7b", "google"),
    ("Mistral-7B-v0.1", "mistralai"),
];

/// Whether `model` is the short name of a model on a hub, such as `Llama-3.1-8B`.
pub fn is_short_name(model: &str) -> bool {
    SHORT_NAMES.iter().any(|(name, _)| name.eq_ignore_ascii_case(model))
}

/// The name on the hub, `owner/name`, that a location stands for: a short name, or a name that is spelt like one
/// and is no path on this disk.
pub fn hub_id(location: &str) -> Option<String> {
    let path = Path::new(location);
    if path.exists() {
        return None;
    }
    match SHORT_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(location)) {
        Some((name, owner)) => Some(format!("{owner}/{name}")),
        None => {
            let has_folder = path.parent().is_some_and(Path::exists);
            (is_owner_and_name(location) && !has_folder).then(|| location.to_owned())
        }
    }
}

/// Whether a location is spelt like a name on a hub, `owner/name`. Whether such a path exists is another question.
pub fn is_owner_and_name(location: &str) -> bool {
    let is_data_file = [".json", ".jsonl", ".parquet"].iter().any(|end| location.ends_with(end));
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let path = Path::new(location);
    path.components().count() == 2
        && path.components().all(plain)
        && !location.starts_with(['.', '~'])
        && !location.ends_with('/')
        && !is_data_file
}

/// Templates that are no file.
const TEMPLATES: [&str; 2] = ["official", "chat"];

/// A location in a settings file is relative to that file, unless it can only be a name on the hub: a short
/// name or `owner/name`, where no such path lies beside the file.
fn relative_to(folder: &Path, location: &str) -> String {
    let beside = folder.join(location);
    if TEMPLATES.contains(&location) {
        return location.to_owned();
    }
    if (is_owner_and_name(location) || is_short_name(location)) && !beside.exists() {
        location.to_owned()
    } else {
        beside.to_string_lossy().into_owned()
    }
}
