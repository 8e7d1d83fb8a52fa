//! config.json as a table whose errors name the key and its value.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// The keys of a config.json, or of a table in it.
pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    pub fn new(map: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self { map, path }
    }

    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The value of a key; null is as good as missing.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and says null, which at times is not the same as missing.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The values of the table.
    pub fn values(&self) -> impl Iterator<Item = &'a Value> {
        self.map.values()
    }

    /// The table under a key.
    pub fn table(&self, key: &'static str) -> Result<Option<Keys<'a>>, ModelError> {
        let table = self.typed(key, "a table of keys and values", |value| value.as_object())?;
        Ok(table.map(|map| Keys { map, path: self.path }))
    }

    pub fn required_integer(&self, key: &'static str) -> Result<i64, ModelError> {
        self.integer(key)?.ok_or_else(|| ModelError::InvalidJson {
            what: "model configuration",
            path: self.path.to_owned(),
            reason: format!("the key '{key}' is missing"),
        })
    }

    pub fn integer(&self, key: &'static str) -> Result<Option<i64>, ModelError> {
        self.typed(key, "a whole number", Value::as_i64)
    }

    pub fn number(&self, key: &'static str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub fn flag(&self, key: &'static str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a text", Value::as_str)
    }

    pub fn list(&self, key: &'static str) -> Result<Option<&'a Vec<Value>>, ModelError> {
        self.typed(key, "a list", Value::as_array)
    }

    fn typed<T>(
        &self,
        key: &'static str,
        what: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.unsupported(key, value, &format!("is not {what}"), "mend config.json");
        convert(value).map(Some).ok_or_else(wrong)
    }

    /// An error about `key`, whose `value` is shortened where it is long.
    pub fn unsupported(
        &self,
        key: &'static str,
        value: impl ToString,
        problem: &str,
        hint: &str,
    ) -> ModelError {
        /// Enough to recognise a value by.
        const SHOWN: usize = 80;
        let mut value = value.to_string();
        if let Some((end, _)) = value.char_indices().nth(SHOWN) {
            value.truncate(end);
            value.push('…');
        }
        ModelError::UnsupportedSetting {
            path: self.path.to_owned(),
            key,
            value,
            problem: problem.to_owned(),
            hint: hint.to_owned(),
        }
    }
}
