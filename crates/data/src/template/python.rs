//! Values printed as Python prints them: what templates written for Jinja2 expect.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Deeper than JSON files can be; a guard for what a template builds itself.
const MAX_DEPTH: usize = 200;

/// Bytes of a printed value. A list that holds itself-made lists twice, and so on, is small until it is printed, and
/// printing costs no fuel.
const MAX_LENGTH: usize = 1 << 24;

/// Python's `str(value)`.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    repr(&mut out, value, 0)?;
    Ok(out)
}

/// Python's `repr(value)`.
fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check(depth, out)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(out, value, ["inf", "-inf", "nan"])?,
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(out, &key, depth + 1)?;
                out.push_str(": ");
                repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            // Writing to a text cannot fail.
            c if (c as u32) < 0xa0 && c.is_control() => drop(write!(out, "\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// transformers' filter `tojson`: `json.dumps` without escaping what is not ASCII, and without Jinja2's HTML
/// escapes. Takes `indent`, `separators`, `sort_keys` and `ensure_ascii`.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let is_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let default = if indent.is_some() { "," } else { ", " };
    let (item, key) = match separators.as_deref() {
        None => (default.to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("`separators` wants two texts")),
    };
    let mut json = Json { out: String::new(), indent, item, key, sort_keys, is_ascii };
    json.write(value, 0)?;
    Ok(json.out)
}

struct Json {
    out: String,
    indent: Option<usize>,
    /// Between items.
    item: String,
    /// Between a key and its value.
    key: String,
    sort_keys: bool,
    is_ascii: bool,
}

impl Json {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        check(depth, &self.out)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(&mut self.out, value, ["Infinity", "-Infinity", "NaN"])?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', &items, depth, |json, item| json.write(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list('{', '}', &keys, depth, |json, key| {
                    json.string(&key.as_str().map_or_else(|| key.to_string(), str::to_owned))?;
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.write(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("{kind} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent.min(64) * depth));
        }
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        let quoted = serde_json::to_string(text).map_err(|error| invalid(error.to_string()))?;
        if !self.is_ascii {
            self.out.push_str(&quoted);
            return Ok(());
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a text cannot fail.
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
        Ok(())
    }
}

fn check(depth: usize, out: &str) -> Result<(), Error> {
    match () {
        () if depth > MAX_DEPTH => Err(invalid("a value is nested too deeply to be printed")),
        () if out.len() > MAX_LENGTH => Err(invalid("a value is too long to be printed")),
        () => Ok(()),
    }
}

fn invalid(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// Python's text of a number; `words` are infinity, its negative, and not a number.
fn number(out: &mut String, value: &Value, words: [&str; 3]) -> Result<(), Error> {
    if value.is_integer() {
        out.push_str(&value.to_string());
        return Ok(());
    }
    let number = f64::try_from(value.clone())?;
    match () {
        () if number.is_nan() => out.push_str(words[2]),
        () if number.is_infinite() => out.push_str(words[usize::from(number < 0.0)]),
        () => float(out, number),
    }
    Ok(())
}

/// The shortest digits that give the number back, as Python lays them out: plain from 1e-4 to below 1e16.
fn float(out: &mut String, number: f64) {
    let scientific = format!("{number:e}");
    let exponent = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
    // Writing to a text cannot fail.
    let _ = match (exponent, scientific.split_once('e')) {
        (Some(exponent), Some((digits, _))) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{digits}e{sign}{:02}", exponent.abs())
        }
        _ => write!(out, "{number:?}"),
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn floats_as_python() {
        for (number, expect) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e300, "1e+300"),
            (123456789012345680.0, "1.2345678901234568e+17"),
        ] {
            assert_eq!(text(&Value::from(number)).unwrap(), expect);
        }
    }

    #[test]
    fn values_as_python() {
        let value = serde_json::json!({"a": [1, null, true, "it's", "a\"'\n\u{1}é"], "b": {}, "c": 2.0});
        let value = Value::from(minijinja::value::Serde(&value));
        assert_eq!(
            text(&value).unwrap(),
            r#"{'a': [1, None, True, "it's", 'a"\'\n\x01é'], 'b': {}, 'c': 2.0}"#
        );
        assert_eq!(text(&Value::from("x'y")).unwrap(), "x'y");
    }
}
