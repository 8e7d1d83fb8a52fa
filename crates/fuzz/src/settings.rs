//! Settings: files, command line, environment, and those of a run that is resumed.

use std::cell::RefCell;
use std::path::Path;
use std::sync::LazyLock;

use clap::{Args, Command, FromArgMatches};
use config::{ConfigError, Resolved, Task, TrainArgs, TrainConfig};

use crate::scratch::{Scratch, with_file};
use crate::show::refused;

thread_local! {
    static FILE: Scratch = Scratch::new("settings.toml", &[]);
    // Making the flags takes longer than reading them.
    static COMMAND: RefCell<Command> =
        RefCell::new(TrainArgs::augment_args(Command::new("train").no_binary_name(true)));
}

/// A `--config` file.
pub(crate) fn file(bytes: &[u8]) -> bool {
    with_file(&FILE, bytes, |scratch| {
        let path = scratch.file().display().to_string();
        let environment = required().chain([("GPART_CONFIG".to_owned(), path)]);
        check(config::resolve(Task::Train, &TrainArgs::default(), environment, &[]))
    })
}

/// Lines: `GPART_NAME=VALUE` is a variable, any other one a word of the command line.
pub(crate) fn words(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let variable = |line: &&str| line.starts_with("GPART_") && line.contains('=');
    let (variables, words): (Vec<&str>, Vec<&str>) = text.lines().partition(variable);
    let variables = variables.iter().filter_map(|line| line.split_once('='));
    let environment = required().chain(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // A file's content has a target of its own, and the words must not read whatever file they happen to name.
    let environment =
        environment.filter(|(name, _)| !matches!(name.as_str(), "GPART_CONFIG" | "GPART_PRESET"));
    let words = words.iter().filter(|word| !word.starts_with("--config") && !word.starts_with("--preset"));
    match COMMAND.with_borrow_mut(|command| command.try_get_matches_from_mut(words)) {
        Err(error) => {
            assert!(!error.to_string().is_empty(), "clap says what is wrong");
            false
        }
        Ok(matches) => {
            let args = TrainArgs::from_arg_matches(&matches).expect("what clap has accepted is of its types");
            check(config::resolve(Task::Train, &args, environment, &[]))
        }
    }
}

/// What `train` cannot do without; what is under test may say otherwise.
fn required() -> impl Iterator<Item = (String, String)> {
    [("GPART_MODEL", "m"), ("GPART_DATA", "d.jsonl")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
}

fn check(resolved: Result<Resolved, ConfigError>) -> bool {
    let resolved = match resolved {
        Err(error) => return refused(&error),
        Ok(resolved) => resolved,
    };
    assert!(!config::run_name(&resolved.config).is_empty(), "a run has a name");
    assert!(!config::render(&resolved).is_empty(), "settings can be listed");
    let text = serde_json::to_string(&resolved.config).expect("settings are plain JSON");
    let again: TrainConfig = serde_json::from_str(&text).expect("settings that are written can be read");
    assert_eq!(config::diff_identity(&resolved.config, &again), [], "what is written is what was read");
    true
}

/// The settings in a run's `run.json`, against those of a run that would go on with it.
pub(crate) fn of_a_run(bytes: &[u8]) -> bool {
    static NOW: LazyLock<Resolved> = LazyLock::new(|| {
        config::resolve(Task::Train, &TrainArgs::default(), required(), &[]).expect("the defaults are sound")
    });
    let Ok(old) = serde_json::from_slice::<TrainConfig>(bytes) else { return false };
    let mut now = NOW.clone();
    now.keep_from(&old);
    for change in config::diff_identity(&old, &now.config) {
        assert!(!format!("{change:?}").is_empty());
    }
    if let Err(error) = now.take_from_adapter(Path::new("adapter"), vec![("d", serde_json::json!(old.d))]) {
        refused(&error);
    }
    true
}
