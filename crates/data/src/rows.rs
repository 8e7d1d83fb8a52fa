//! MetaMathQA rows from a local JSON array or JSON-lines file.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::{Error, Result};

/// One question and its answer, as written in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The question.
    pub query: String,
    /// The worked answer.
    pub response: String,
}

/// Reads the rows of a file that holds either one JSON array of objects or one JSON object a line.
///
/// The content decides which, not the file's name: the first character that is not white space is `[` or `{`.
/// Fields other than `query` and `response` are ignored; of a repeated field the last one counts; empty lines
/// between JSON lines are skipped. `max_samples` keeps the first rows; what follows is still checked to be whole
/// JSON, so that half a file is not taken for a whole one.
///
/// # Errors
/// Names the file, the row and the line: missing, a directory, unreadable, not UTF-8, no JSON, cut short, a row
/// without a text `query` or `response`, no rows at all, or `max_samples` of zero.
pub fn read_rows(path: &Path, max_samples: Option<usize>) -> Result<Vec<Row>> {
    if max_samples == Some(0) {
        return Err(Error::Setting { name: "max-samples", value: "0".into(), need: "at least 1" });
    }
    let mut source = open(path)?;
    let limit = max_samples.unwrap_or(usize::MAX);
    let mut reading = Reading { path, limit, seen: 0, lines_before: 0, rows: Vec::new(), bad_field: None };
    match reading.first_character(&mut source)? {
        None => {}
        Some(b'[') => reading.array(source)?,
        Some(b'{') => reading.lines(source)?,
        Some(byte) => {
            let found = if byte.is_ascii_graphic() {
                format!("`{}`", byte as char)
            } else {
                format!("byte 0x{byte:02x}")
            };
            return Err(Error::DataFormat { path: path.into(), found });
        }
    }
    if reading.rows.is_empty() {
        return Err(Error::DataEmpty { origin: format!("`{}`", path.display()) });
    }
    Ok(reading.rows)
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let unreadable = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::DataMissing { path: path.into() },
        _ => Error::DataUnreadable { path: path.into(), source },
    };
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Err(Error::DataIsDirectory { path: path.into() });
    }
    Ok(BufReader::with_capacity(1 << 20, File::open(path).map_err(unreadable)?))
}

/// The state of one pass over a file.
struct Reading<'a> {
    path: &'a Path,
    limit: usize,
    /// Whole rows read so far, kept or not.
    seen: u64,
    /// Lines consumed before the JSON parser saw anything.
    lines_before: u64,
    rows: Vec<Row>,
    /// Set when a row parsed but lacks a text; the parser's own error then only tells the line.
    bad_field: Option<BadField>,
}

struct BadField {
    field: &'static str,
    problem: &'static str,
}

impl Reading<'_> {
    /// Skips a byte-order mark and white space; the first other byte is left in `source`.
    fn first_character(&mut self, source: &mut BufReader<File>) -> Result<Option<u8>> {
        let unreadable = |source| Error::DataUnreadable { path: self.path.into(), source };
        if source.fill_buf().map_err(unreadable)?.starts_with(b"\xef\xbb\xbf") {
            source.consume(3);
        }
        loop {
            let buffer = source.fill_buf().map_err(unreadable)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blank = buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.lines_before += buffer[..blank].iter().filter(|&&b| b == b'\n').count() as u64;
            let found = buffer.get(blank).copied();
            source.consume(blank);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn array(&mut self, source: impl Read) -> Result<()> {
        let mut parser = serde_json::Deserializer::from_reader(source);
        let outcome = (&mut *self).deserialize(&mut parser).and_then(|()| parser.end());
        outcome.map_err(|error| self.explain(error, 0))
    }

    fn lines(&mut self, mut source: impl BufRead) -> Result<()> {
        let mut line = Vec::new();
        let mut number = self.lines_before;
        loop {
            line.clear();
            let unreadable = |source| Error::DataUnreadable { path: self.path.into(), source };
            if source.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
                return Ok(());
            }
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let text = std::str::from_utf8(&line).map_err(|error| self.not_utf8(error, number))?;
            // The parser counts lines from 1 within this one.
            let before = number - 1 - self.lines_before;
            self.line(text).map_err(|error| self.explain(error, before))?;
        }
    }

    fn line(&mut self, text: &str) -> serde_json::Result<()> {
        if self.rows.len() < self.limit {
            let row = serde_json::from_str::<RawRow>(text)?;
            self.keep(row).map_err(serde_json::Error::custom)?;
        } else {
            serde_json::from_str::<IgnoredAny>(text)?;
        }
        self.seen += 1;
        Ok(())
    }

    fn keep(&mut self, row: RawRow) -> std::result::Result<(), &'static str> {
        let checked = text_field(row.query, "query")
            .and_then(|query| Ok(Row { query, response: text_field(row.response, "response")? }));
        match checked {
            Ok(row) => self.rows.push(row),
            Err(bad) => {
                let problem = bad.problem;
                self.bad_field = Some(bad);
                return Err(problem);
            }
        }
        Ok(())
    }

    fn not_utf8(&self, error: std::str::Utf8Error, line: u64) -> Error {
        let (path, row) = (self.path.into(), self.seen + 1);
        match error.error_len() {
            // The line ends inside a character, as the last line of half a file may.
            None => Error::DataCut { path, row, line, column: error.valid_up_to() as u64 + 1 },
            Some(_) => Error::DataUtf8 { path, row, line },
        }
    }

    /// Turns the parser's error into one that names the file and the row.
    fn explain(&mut self, error: serde_json::Error, lines_before: u64) -> Error {
        let path = self.path.into();
        let row = self.seen + 1;
        let line = self.lines_before + lines_before + error.line().max(1) as u64;
        let column = error.column() as u64;
        if let Some(BadField { field, problem }) = self.bad_field.take() {
            return Error::DataField { path, row, line, field, problem };
        }
        let text = error.to_string();
        // serde_json has no other sign of a text that is not UTF-8.
        if text.starts_with("invalid unicode code point") {
            return Error::DataUtf8 { path, row, line };
        }
        match error.classify() {
            serde_json::error::Category::Eof => Error::DataCut { path, row, line, column },
            serde_json::error::Category::Io => Error::DataUnreadable { path, source: error.into() },
            _ => {
                let problem = text.split(" at line ").next().unwrap_or(&text).to_string();
                Error::DataJson { path, row, line, column, problem }
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading<'_> {
    type Value = ();

    fn expecting(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> std::result::Result<(), A::Error> {
        loop {
            if self.rows.len() < self.limit {
                let Some(row) = array.next_element::<RawRow>()? else { return Ok(()) };
                self.keep(row).map_err(A::Error::custom)?;
            } else if array.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            self.seen += 1;
        }
    }
}

/// A row as parsed, before its fields are checked, so that a wrong type gets a message of ours.
#[derive(Default)]
struct RawRow {
    query: Option<Value>,
    response: Option<Value>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Query,
    Response,
    #[serde(other)]
    Other,
}

// A derived implementation would also accept an array of two texts.
impl<'de> Deserialize<'de> for RawRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct RowVisitor;
        impl<'de> Visitor<'de> for RowVisitor {
            type Value = RawRow;

            fn expecting(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
                out.write_str("an object with `query` and `response`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawRow, A::Error> {
                let mut row = RawRow::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Query => row.query = Some(map.next_value()?),
                        Key::Response => row.response = Some(map.next_value()?),
                        Key::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(RowVisitor)
    }
}

fn text_field(value: Option<Value>, field: &'static str) -> std::result::Result<String, BadField> {
    let problem = match value {
        Some(Value::String(text)) => return Ok(text),
        None => "is missing",
        Some(Value::Null) => "is null, not a text",
        Some(Value::Bool(_)) => "is a boolean, not a text",
        Some(Value::Number(_)) => "is a number, not a text",
        Some(Value::Array(_)) => "is an array, not a text",
        Some(Value::Object(_)) => "is an object, not a text",
    };
    Err(BadField { field, problem })
}

#[cfg(test)]
mod tests;
