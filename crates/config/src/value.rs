//! From the text of a flag or variable, or the value of a TOML key, to a typed value within its limits.

use clap::builder::PossibleValue;
use serde_json::{Number, Value};
use toml::de::DeValue;

/// Type and limits of one setting.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A whole number in `min..=max`. [`i64::MAX`] as `max` reads "no upper limit" in messages.
    Int {
        /// Smallest allowed value.
        min: i64,
        /// Largest allowed value.
        max: i64,
    },
    /// Any whole number of up to 128 bits with sign.
    WideInt,
    /// A finite number for which `allowed` holds.
    Float {
        /// The limits.
        allowed: fn(f64) -> bool,
        /// The limits in words, for messages.
        expected: &'static str,
    },
    /// Yes or no.
    Bool,
    /// Text that is not empty.
    Text,
    /// A file or folder, relative to the working folder wherever it is written.
    Path,
    /// A file, folder or hub id; in a settings file relative to that file.
    Location,
    /// One of a closed set.
    Choice(fn() -> Vec<PossibleValue>),
    /// Names separated by commas; an array in TOML.
    List,
    /// Names as in [`Kind::List`], or alone `all-linear` or `regex:EXPRESSION`.
    Targets,
    /// Whole numbers from 0 separated by commas; a number or an array in TOML.
    Numbers,
}

impl Kind {
    /// Reads a value from text. The error says what would be right.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        if let Kind::Text | Kind::Path | Kind::Location = self {
            // As typed: blanks may be meant in a prompt, a token or a file's name.
            return if text.is_empty() { Err(self.expected()) } else { Ok(Value::from(text)) };
        }
        let text = text.trim();
        let value = match self {
            Kind::Int { min, max } => {
                text.parse::<i64>().ok().filter(|n| (*min..=*max).contains(n)).map(Value::from)
            }
            Kind::WideInt => text.parse::<i128>().ok().map(wide_int),
            Kind::Float { allowed, .. } => {
                let number = text.parse::<f64>().ok().filter(|x| x.is_finite() && allowed(*x));
                number.and_then(Number::from_f64).map(Value::Number)
            }
            Kind::Bool => match text {
                "true" | "yes" | "1" => Some(Value::Bool(true)),
                "false" | "no" | "0" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::Text | Kind::Path | Kind::Location => None,
            Kind::Choice(values) => values()
                .into_iter()
                .find(|value| value.matches(text, false))
                .map(|value| Value::from(value.get_name())),
            Kind::List => list(text.split(',')),
            // Commas in an expression do not separate.
            Kind::Targets if text.starts_with(REGEX) => targets(std::iter::once(text)),
            Kind::Targets => targets(text.split(',')),
            Kind::Numbers => numbers(text.split(',').map(str::to_owned)),
        };
        value.ok_or_else(|| self.expected())
    }

    /// Takes a TOML value. Types are strict: a number in quotes is no number.
    pub(crate) fn accept(&self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Kind::Int { .. } | Kind::WideInt, DeValue::Integer(number)) => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix());
                self.parse(&decimal.map_err(|_| self.expected())?.to_string())
            }
            (Kind::Float { .. }, DeValue::Float(number)) => self.parse(number.as_str()),
            (Kind::Float { .. }, DeValue::Integer(number)) if number.radix() == 10 => {
                self.parse(number.as_str())
            }
            (Kind::Bool, DeValue::Boolean(value)) => Ok(Value::Bool(*value)),
            // TOML's integers end at 64 bits, so a wider one has to be written in quotes.
            (
                Kind::Text
                | Kind::Path
                | Kind::Location
                | Kind::Choice(_)
                | Kind::List
                | Kind::Targets
                | Kind::WideInt,
                DeValue::String(text),
            ) => self.parse(text),
            (Kind::List | Kind::Targets, DeValue::Array(items)) => {
                let names: Option<Vec<_>> = items.iter().map(|item| item.get_ref().as_str()).collect();
                let names = names.ok_or_else(|| self.expected())?.into_iter();
                let value = if matches!(self, Kind::List) { list(names) } else { targets(names) };
                value.ok_or_else(|| self.expected())
            }
            (Kind::Numbers, DeValue::Integer(number)) => self.parse(number.as_str()),
            (Kind::Numbers, DeValue::Array(items)) => {
                let number = |item: &DeValue<'_>| item.as_integer().map(|number| number.as_str().to_owned());
                let texts: Option<Vec<_>> = items.iter().map(|item| number(item.get_ref())).collect();
                texts.and_then(|texts| numbers(texts.into_iter())).ok_or_else(|| self.expected())
            }
            _ => Err(self.expected()),
        }
    }

    /// What a right value looks like, to follow "give".
    pub(crate) fn expected(&self) -> String {
        match self {
            Kind::Int { min, max: i64::MAX } => format!("a whole number of at least {min}"),
            Kind::Int { min, max } => format!("a whole number from {min} to {max}"),
            Kind::WideInt => "a whole number of at most 128 bits".to_owned(),
            Kind::Float { expected, .. } => (*expected).to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Text => "text that is not empty".to_owned(),
            Kind::Path => "a path, not empty".to_owned(),
            Kind::Location => "a path or a hub id, not empty".to_owned(),
            Kind::Choice(values) => {
                let shown = values().into_iter().filter(|value| !value.is_hide_set());
                let names: Vec<_> = shown.map(|value| value.get_name().to_owned()).collect();
                if names.len() == 1 { names[0].clone() } else { format!("one of {}", names.join(", ")) }
            }
            Kind::List => "names separated by commas".to_owned(),
            Kind::Targets => "names separated by commas, or all-linear or regex:EXPRESSION alone".to_owned(),
            Kind::Numbers => "whole numbers from 0, separated by commas".to_owned(),
        }
    }

    /// Placeholder of the value in the help.
    pub(crate) fn value_name(&self) -> &'static str {
        match self {
            Kind::Int { .. } | Kind::WideInt => "N",
            Kind::Float { .. } => "X",
            Kind::Bool => "true|false",
            Kind::Text => "TEXT",
            Kind::Path | Kind::Location => "PATH",
            Kind::Choice(_) => "CHOICE",
            Kind::List | Kind::Targets => "NAMES",
            Kind::Numbers => "N,N",
        }
    }
}

/// JSON has no 128-bit numbers that every reader keeps, so what does not fit in 64 bits travels as text.
fn wide_int(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number.to_string()), Value::from)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<Value> {
    let names: Vec<_> = names.map(str::trim).collect();
    (!names.is_empty() && names.iter().all(|name| !name.is_empty())).then(|| Value::from(names))
}

/// What a regular expression among the target modules starts with.
pub(crate) const REGEX: &str = "regex:";

/// The name that stands for every linear module of the blocks.
pub(crate) const ALL_LINEAR: &str = "all-linear";

fn targets<'a>(names: impl Iterator<Item = &'a str>) -> Option<Value> {
    let names: Vec<_> = names.collect();
    let special = |name: &&str| name.starts_with(REGEX) || *name == ALL_LINEAR;
    let fits = (names.len() == 1 || !names.iter().any(special)) && !names.contains(&REGEX);
    list(names.into_iter()).filter(|_| fits)
}

fn numbers(texts: impl Iterator<Item = String>) -> Option<Value> {
    let numbers: Option<Vec<u32>> = texts.map(|text| text.trim().parse().ok()).collect();
    numbers.filter(|numbers| !numbers.is_empty()).map(Value::from)
}
