//! The flags of `gpart-dist metamath` and `gpart-dist train`, made from the table of keys.

use std::collections::BTreeMap;

use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::keys::{Key, Role, sections};
use crate::value::Kind;

/// The settings given as flags, as text; flatten it into a command. Nothing is resolved here: see
/// [`resolve`](crate::resolve). A misspelt flag, or a value outside a closed set, is clap's own error, with its
/// suggestion and exit code 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainArgs {
    given: BTreeMap<&'static str, String>,
    overrides: Vec<String>,
}

impl TrainArgs {
    /// Keys and texts that were given, in the order of the keys' names.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.given.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// The same with `text` for `key`, unless it was given.
    #[must_use]
    pub fn with_default(mut self, key: &'static str, text: &str) -> Self {
        self.given.entry(key).or_insert_with(|| text.to_owned());
        self
    }

    /// The words of the `SECTION.KEY VALUE` pairs, in order.
    pub fn overrides(&self) -> &[String] {
        &self.overrides
    }

    fn read(&mut self, matches: &ArgMatches) {
        for key in sections().iter().flat_map(|section| section.keys) {
            if let Some(text) = matches.get_one::<String>(key.name) {
                self.given.insert(key.name, text.clone());
            }
        }
        self.overrides.extend(matches.get_many::<String>(OVERRIDES).into_iter().flatten().cloned());
    }
}

impl FromArgMatches for TrainArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = TrainArgs::default();
        args.read(matches);
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.read(matches);
        Ok(())
    }
}

impl Args for TrainArgs {
    fn augment_args(command: Command) -> Command {
        // Wrapper scripts append flags: the last one counts, as in the official command line.
        let command = command.args_override_self(true).after_help(ENVIRONMENT);
        let command = command.arg(
            Arg::new(OVERRIDES)
                .num_args(0..)
                .allow_negative_numbers(true)
                .value_name("SECTION.KEY VALUE")
                .help(
                    "Settings as the official scripts write them, such as adapter.d 16384 training.lr 1e-3",
                ),
        );
        sections().iter().fold(command, |command, section| {
            command.args(section.keys.iter().map(|key| flag(key).help_heading(section.title)))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// How settings are given without flags.
const ENVIRONMENT: &str = "Every setting can also stand in a --config file under its flag's name, or in the environment: \
    --lr-scheduler-type is GPART_LR_SCHEDULER_TYPE. `none` switches an optional setting off. A flag given twice \
    counts as given last.";

const OVERRIDES: &str = "overrides";

fn flag(key: &Key) -> Arg {
    let parser = match key.kind {
        Kind::Choice(values) => ValueParser::from(PossibleValuesParser::new(values())),
        _ => ValueParser::string(),
    };
    let help =
        key.default.map_or(key.help.to_owned(), |default| format!("{} [default: {default}]", key.help));
    let snake_case = key.names().map(|name| name.replace('-', "_"));
    let mut arg = Arg::new(key.name)
        .long(key.name)
        .visible_aliases(key.aliases.iter().copied())
        .aliases(snake_case.filter(|name| !key.names().any(|kebab| kebab == name)))
        .value_name(key.kind.value_name())
        .value_parser(parser)
        .help(help)
        .hide(key.role == Role::Foreign);
    match key.kind {
        // The official switches take no value; ours may be turned off again after a file turned them on.
        Kind::Bool => arg = arg.num_args(0..=1).default_missing_value("true"),
        Kind::Int { .. } | Kind::WideInt | Kind::Float { .. } | Kind::Numbers => {
            arg = arg.allow_negative_numbers(true)
        }
        _ => {}
    }
    arg
}
