//! Parquet files, through the row-wise reader of the `parquet` crate.

use std::sync::Arc;

use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::{Number, Value};

use super::check::{MESSAGES, RawRow, Use};
use super::{Collector, hint, pages};
use crate::contain::contain_panics;
use crate::{Error, Result};

/// The first four bytes of every Parquet file, and the last four.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Reads a whole file, or as many rows as are wanted, into the collector.
pub(super) fn read(collector: &mut Collector, source: impl ChunkReader + 'static) -> Result<()> {
    // The reader asserts where a damaged file breaks its expectations.
    let outcome = contain_panics(|| read_groups(collector, source));
    outcome.unwrap_or_else(|problem| Err(damaged(collector, problem)))
}

fn damaged(collector: &Collector, problem: String) -> Error {
    Error::DataParquet { place: collector.place(None), problem }
}

fn read_groups(collector: &mut Collector, source: impl ChunkReader + 'static) -> Result<()> {
    let failed =
        |collector: &Collector, error: parquet::errors::ParquetError| damaged(collector, error.to_string());
    let file = SerializedFileReader::new(source).map_err(|error| failed(collector, error))?;
    let schema = file.metadata().file_metadata().schema();
    let wanted = wanted_columns(collector, schema)?;
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build();
    let projection = projection.map_err(|error| failed(collector, error))?;
    let rows = pages::rows(file, projection).map_err(|error| failed(collector, error))?;
    for row in rows {
        if collector.is_full() {
            return Ok(());
        }
        let row = row.map_err(|error| failed(collector, error))?;
        let mut raw = RawRow::default();
        for (name, field) in row.into_columns() {
            match Use::of(&name, collector.options) {
                Use::Query => raw.query = Some(json(field)),
                Use::Response => raw.response = Some(json(field)),
                Use::Messages => raw.messages = Some(json(field)),
                Use::Other => drop(raw.other.insert(name, json(field))),
                Use::Skip => {}
            }
        }
        collector.keep(raw).map_err(|bad| bad.at(collector.place(None)))?;
    }
    Ok(())
}

/// The columns to read: those with a use, if they make up a row.
fn wanted_columns(collector: &Collector, schema: &Type) -> Result<Vec<Arc<Type>>> {
    let options = collector.options;
    let columns = schema.get_fields();
    let has = |name: &str| columns.iter().any(|column| column.name() == name);
    let missing = [&options.query_field, &options.response_field].into_iter().find(|name| !has(name));
    if let Some(missing) = missing
        && !options.any_fields
        && !has(MESSAGES)
    {
        let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
        let (path, column) = (collector.path().into(), missing.clone());
        let (columns, hint) = (hint::list(&names), hint::guess(&names, false).into());
        return Err(Error::DataColumn { path, column, columns, hint });
    }
    let wanted = columns.iter().filter(|column| Use::of(column.name(), options) != Use::Skip);
    Ok(wanted.cloned().collect())
}

/// A value as JSON would hold it. Bytes that are UTF-8 are text (some writers do not mark text as such); dates,
/// times and decimals are their usual text; numbers that JSON lacks are null.
fn json(field: Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => float(value.into()),
        Field::Float(value) => float(value.into()),
        Field::Double(value) => float(value),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => bytes.data().into(),
        },
        Field::Group(row) => {
            row.into_columns().into_iter().map(|(name, field)| (name, json(field))).collect()
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(json).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| (plain(json(key.clone())), json(value.clone()));
            map.entries().iter().map(entry).collect()
        }
        other => other.to_string().into(),
    }
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
