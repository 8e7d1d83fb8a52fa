//! Scripts from templates; values are quoted for the language they go into.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

use crate::error::LaunchError;

/// Fills a template in.
pub fn fill(name: &'static str, template: &str, values: impl Serialize) -> Result<String, LaunchError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    // Lines that hold nothing but a tag leave nothing behind.
    let syntax =
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    let failed = |source| LaunchError::Template { name, source };
    environment.set_syntax(syntax.map_err(failed)?);
    environment.render_str(template, Value::from(Serde(&values))).map_err(failed)
}

/// A word as a shell reads it.
pub fn shell(what: &str, word: &str) -> Result<String, LaunchError> {
    let quoted = shlex::try_quote(word).map(|quoted| quoted.into_owned());
    quoted.map_err(|_| value(what, word, "no word may contain a NUL character"))
}

/// Text as YAML reads it: JSON's strings are strings of YAML too, but for characters that YAML wants escaped.
pub fn yaml(text: &str) -> String {
    let is_unprintable = |c: char| {
        matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut quoted = String::new();
    for c in serde_json::Value::from(text).to_string().chars() {
        match is_unprintable(c) {
            true => quoted += &format!("\\u{:04x}", c as u32),
            false => quoted.push(c),
        }
    }
    quoted
}

/// A value that goes into a place without quotes: only harmless characters.
pub fn plain(what: &str, text: &str) -> Result<String, LaunchError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:+@%/=[]".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(value(what, text, "letters, digits and -_.,:+@%/=[] are allowed, no blanks")),
    }
}

/// Refuses a value.
pub fn value(what: &str, value: &str, hint: &'static str) -> LaunchError {
    LaunchError::Value { what: what.to_owned(), value: value.to_owned(), hint }
}

/// Compares with a file of `tests/snapshots`, or writes it where `UPDATE_SNAPSHOTS` is set.
#[cfg(test)]
pub fn check_snapshot(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}: UPDATE_SNAPSHOTS=1 writes it", path.display());
}
