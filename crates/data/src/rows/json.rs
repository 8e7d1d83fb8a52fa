//! A JSON array of rows, or one row a line.

use std::io::BufRead;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::check::{Bad, MESSAGES, RawRow, Use};
use super::{Collector, RowOptions};
use crate::{Error, Result};

/// Reads a whole file into the collector.
pub(super) fn read(collector: &mut Collector, mut source: impl BufRead) -> Result<()> {
    let mut reading = Reading { collector, lines_before: 0, bad: None };
    match reading.first_character(&mut source)? {
        None => Ok(()),
        Some(b'[') => reading.array(source),
        Some(b'{') => reading.lines(source),
        Some(byte) => {
            let found = if byte.is_ascii_graphic() {
                format!("`{}`", byte as char)
            } else {
                format!("byte 0x{byte:02x}")
            };
            Err(Error::DataFormat { path: reading.collector.path().into(), found })
        }
    }
}

/// The state of one pass over a file.
struct Reading<'c, 'o> {
    collector: &'c mut Collector<'o>,
    /// Lines consumed before the JSON parser saw anything.
    lines_before: u64,
    /// Set when a row parsed but is none of ours; the parser's own error then only tells the line.
    bad: Option<Bad>,
}

impl Reading<'_, '_> {
    fn unreadable(&self, source: std::io::Error) -> Error {
        Error::DataUnreadable { path: self.collector.path().into(), source }
    }

    /// Skips a byte-order mark and white space; the first other byte is left in `source`.
    fn first_character(&mut self, source: &mut impl BufRead) -> Result<Option<u8>> {
        if source.fill_buf().map_err(|error| self.unreadable(error))?.starts_with(b"\xef\xbb\xbf") {
            source.consume(3);
        }
        loop {
            let buffer = source.fill_buf().map_err(|error| self.unreadable(error))?;
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

    fn array(&mut self, source: impl BufRead) -> Result<()> {
        let mut parser = serde_json::Deserializer::from_reader(source);
        let outcome = (&mut *self).deserialize(&mut parser).and_then(|()| parser.end());
        outcome.map_err(|error| self.explain(error, 0))
    }

    fn lines(&mut self, mut source: impl BufRead) -> Result<()> {
        let mut line = Vec::new();
        let mut number = self.lines_before;
        loop {
            line.clear();
            if source.read_until(b'\n', &mut line).map_err(|error| self.unreadable(error))? == 0 {
                return Ok(());
            }
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            // Without its end: to the parser, that would be one more line.
            let is_ended = line.pop_if(|byte| *byte == b'\n').is_some();
            let text = match std::str::from_utf8(&line) {
                Ok(text) => text,
                Err(error) => return Err(self.not_utf8(error, number, is_ended)),
            };
            // The parser counts lines from 1 within this one.
            let before = number - 1 - self.lines_before;
            self.line(text).map_err(|error| match self.explain(error, before) {
                Error::DataCut { path, row, line, column } if is_ended => {
                    let problem = "the line ends inside the row".to_owned();
                    Error::DataJson { path, row, line, column, problem, hint: WHOLE_LINES }
                }
                other => other,
            })?;
        }
    }

    fn line(&mut self, text: &str) -> serde_json::Result<()> {
        if self.collector.is_full() {
            serde_json::from_str::<IgnoredAny>(text)?;
            self.collector.seen += 1;
            return Ok(());
        }
        let mut parser = serde_json::Deserializer::from_str(text);
        let row = RowSeed(self.collector.options).deserialize(&mut parser)?;
        parser.end()?;
        self.keep(row)
    }

    fn keep<E: serde::de::Error>(&mut self, row: RawRow) -> std::result::Result<(), E> {
        self.collector.keep(row).map_err(|bad| {
            self.bad = Some(bad);
            E::custom("bad row")
        })
    }

    fn not_utf8(&self, error: std::str::Utf8Error, line: u64, is_ended: bool) -> Error {
        let (path, row) = (self.collector.path().into(), self.collector.seen + 1);
        match error.error_len() {
            // The file ends inside a character, as half a file may.
            None if !is_ended => Error::DataCut { path, row, line, column: error.valid_up_to() as u64 + 1 },
            _ => Error::DataUtf8 { path, row, line },
        }
    }

    /// Turns the parser's error into one that names the file and the row.
    fn explain(&mut self, error: serde_json::Error, lines_before: u64) -> Error {
        let path = self.collector.path().into();
        let row = self.collector.seen + 1;
        let line = self.lines_before + lines_before + error.line().max(1) as u64;
        let column = error.column() as u64;
        if let Some(bad) = self.bad.take() {
            return bad.at(self.collector.place(Some(line)));
        }
        let text = error.to_string();
        // serde_json has no other sign of a text that is not UTF-8.
        if text.starts_with("invalid unicode code point") {
            return Error::DataUtf8 { path, row, line };
        }
        match error.classify() {
            serde_json::error::Category::Eof => Error::DataCut { path, row, line, column },
            serde_json::error::Category::Io => Error::DataUnreadable { path, source: error.into() },
            category => {
                let is_json = category == serde_json::error::Category::Data;
                let hint = if is_json { OBJECTS } else { VALID_JSON };
                let problem = text.split(" at line ").next().unwrap_or(&text).to_string();
                Error::DataJson { path, row, line, column, problem, hint }
            }
        }
    }
}

const WHOLE_LINES: &str = "a file that starts with `{` has one whole row on each line; rows that span lines must be \
                           in one array, [{…}, {…}], with nothing around it";
const OBJECTS: &str =
    "each row is an object with named fields, such as {\"query\": \"…\", \"response\": \"…\"}";
const VALID_JSON: &str =
    "the file must be valid JSON: one array of rows, or one row a line; `jq . FILE` checks it";

impl<'de> DeserializeSeed<'de> for &mut Reading<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> std::result::Result<(), A::Error> {
        loop {
            if !self.collector.is_full() {
                let Some(row) = array.next_element_seed(RowSeed(self.collector.options))? else {
                    return Ok(());
                };
                self.keep(row)?;
            } else if array.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            } else {
                self.collector.seen += 1;
            }
        }
    }
}

/// Parses one row: an object of which only the fields in use are stored.
#[derive(Clone, Copy)]
struct RowSeed<'o>(&'o RowOptions);

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = RawRow;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<RawRow, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = RawRow;

    fn expecting(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        let RowOptions { query_field, response_field, any_fields, .. } = self.0;
        if *any_fields {
            return out.write_str("an object");
        }
        write!(out, "an object with `{query_field}` and `{response_field}`, or with `{MESSAGES}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawRow, A::Error> {
        let mut row = RawRow::default();
        while let Some((usage, name)) = map.next_key_seed(KeySeed(self.0))? {
            match usage {
                Use::Query => row.query = Some(map.next_value()?),
                Use::Response => row.response = Some(map.next_value()?),
                Use::Messages => row.messages = Some(map.next_value()?),
                Use::Other => drop(row.other.insert(name, map.next_value::<Value>()?)),
                Use::Skip => {
                    map.next_value::<IgnoredAny>()?;
                    row.skipped.push(name);
                }
            }
        }
        Ok(row)
    }
}

/// A field's use, and its name where that is not known from its use.
struct KeySeed<'o>(&'o RowOptions);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (Use, String);

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = (Use, String);

    fn expecting(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Self::Value, E> {
        let usage = Use::of(name, self.0);
        let is_kept = matches!(usage, Use::Other | Use::Skip);
        Ok((usage, if is_kept { name.to_owned() } else { String::new() }))
    }
}
