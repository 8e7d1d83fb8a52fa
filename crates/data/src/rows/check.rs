//! From a row as parsed, whatever the file's format, to a row as used: every message here is ours.

use serde_json::{Map, Value};

use super::{Kind, Message, Role, Row, RowOptions, describe, hint};
use crate::Error;
use crate::error::Place;

/// The field that holds a conversation.
pub(super) const MESSAGES: &str = "messages";

/// A row before its fields are checked, so that a wrong type gets a message of ours.
#[derive(Debug, Default)]
pub(super) struct RawRow {
    pub query: Option<Value>,
    pub response: Option<Value>,
    pub messages: Option<Value>,
    /// The other fields, where they are to be kept.
    pub other: Map<String, Value>,
    /// The names of the others, for an error that tells what there is.
    pub skipped: Vec<String>,
}

impl RawRow {
    fn names(&self, options: &RowOptions) -> Vec<String> {
        let known = [
            (&self.query, options.query_field.as_str()),
            (&self.response, options.response_field.as_str()),
            (&self.messages, MESSAGES),
        ];
        let known = known.into_iter().filter(|(value, _)| value.is_some()).map(|(_, name)| name);
        let others = self.other.keys().chain(&self.skipped).map(String::as_str);
        known.chain(others).map(str::to_owned).collect()
    }

    /// Whether it can be a row of plain fields: it has some, but not both those of a question and its answer.
    fn is_plain(&self) -> bool {
        match (&self.query, &self.response) {
            (Some(_), Some(_)) => false,
            (None, None) => !self.other.is_empty(),
            _ => true,
        }
    }

    /// All fields but `messages`, where the others are kept.
    fn into_fields(mut self, options: &RowOptions) -> Map<String, Value> {
        for (name, value) in [(&options.query_field, self.query), (&options.response_field, self.response)] {
            if let Some(value) = value {
                self.other.insert(name.clone(), value);
            }
        }
        self.other
    }
}

/// What a field of a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Query,
    Response,
    Messages,
    Other,
    Skip,
}

impl Use {
    pub fn of(field: &str, options: &RowOptions) -> Self {
        // The names that the user gave go first: a question may lie in a field called `messages`.
        match field {
            _ if field == options.query_field => Self::Query,
            _ if field == options.response_field => Self::Response,
            MESSAGES => Self::Messages,
            _ if options.keeps_fields() => Self::Other,
            _ => Self::Skip,
        }
    }
}

/// What is wrong with a row; where it is in the file is added later.
#[derive(Debug)]
pub(super) enum Bad {
    Missing { field: String, names: Vec<String> },
    Field { field: String, problem: &'static str },
    Message { message: usize, problem: String },
    Role { message: usize, role: String },
    Mixed { found: Kind, expected: Kind },
}

impl Bad {
    pub fn at(self, place: Place) -> Error {
        match self {
            Self::Missing { field, names } => {
                let problem = format!("is missing; the row has {}", hint::fields(&names)).into();
                let hint = match field.as_str() {
                    MESSAGES => LIST_OF_MESSAGES.into(),
                    // Only a text file has lines.
                    _ => hint::guess(&names, place.line.is_some()).into(),
                };
                Error::DataField { place, field, problem, hint }
            }
            Self::Field { field, problem } => {
                let hint = if field == MESSAGES { LIST_OF_MESSAGES } else { TEXTS };
                Error::DataField { place, field, problem: problem.into(), hint: hint.into() }
            }
            Self::Message { message, problem } => Error::DataMessage { place, message, problem },
            Self::Role { message, role } => Error::DataRole { place, message, role },
            Self::Mixed { found, expected } => {
                Error::DataMixed { place, found: describe(found), expected: describe(expected) }
            }
        }
    }
}

const LIST_OF_MESSAGES: &str = "`messages` is a list of objects with the texts `role` and `content`";
const TEXTS: &str =
    "the question and the answer are texts; --query-field and --response-field name their fields";

type Checked<T> = Result<T, Bad>;

/// The row, if it is one of `kind`; the first row sets that.
pub(super) fn row(raw: RawRow, options: &RowOptions, kind: &mut Option<Kind>) -> Checked<Row> {
    let has = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    // A null stands for a field that is not there: tables of mixed rows fill them up so.
    let may_be_plain = options.any_fields && kind.is_none_or(|kind| kind == Kind::Fields);
    let found = match has(&raw.messages) {
        true => Some(Kind::Chat),
        false if may_be_plain && raw.is_plain() => Some(Kind::Fields),
        false if has(&raw.query) || has(&raw.response) => Some(Kind::Pair),
        false => None,
    };
    let by_name = if raw.messages.is_some() { Kind::Chat } else { Kind::Pair };
    let expected = *kind.get_or_insert(found.unwrap_or(by_name));
    match found {
        Some(found) if found != expected => Err(Bad::Mixed { found, expected }),
        _ => match expected {
            Kind::Chat => chat(raw, options),
            Kind::Pair => pair(raw, options),
            Kind::Fields => Ok(Row::of_fields(raw.into_fields(options))),
        },
    }
}

fn pair(raw: RawRow, options: &RowOptions) -> Checked<Row> {
    for (value, field) in [(&raw.query, &options.query_field), (&raw.response, &options.response_field)] {
        if value.is_none() {
            return Err(Bad::Missing { field: field.clone(), names: raw.names(options) });
        }
    }
    let query = text(raw.query, &options.query_field)?;
    let response = text(raw.response, &options.response_field)?;
    Ok(Row::pair(query, response).with_fields(raw.other))
}

fn chat(mut raw: RawRow, options: &RowOptions) -> Checked<Row> {
    let field = |problem| Bad::Field { field: MESSAGES.into(), problem };
    let list = match raw.messages.take() {
        Some(Value::Array(list)) if list.is_empty() => return Err(field("is an empty list")),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(field(not_a_list(&other))),
        None => return Err(Bad::Missing { field: MESSAGES.into(), names: raw.names(options) }),
    };
    let messages = list.into_iter().enumerate().map(|(i, value)| message(value, i + 1));
    let messages = messages.collect::<Checked<Vec<Message>>>()?;
    let fields = if options.keeps_fields() { raw.into_fields(options) } else { raw.other };
    Ok(Row::chat(messages).with_fields(fields))
}

fn message(value: Value, number: usize) -> Checked<Message> {
    let wrong = |problem: String| Bad::Message { message: number, problem };
    let mut other = match value {
        Value::Object(object) => object,
        value => return Err(wrong(format!("is {}, not an object", kind_of(&value)))),
    };
    let mut take = |name: &str| match other.shift_remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(_)) if name == "content" => {
            Err(wrong("has `content` in parts; only text is supported".into()))
        }
        Some(value) => Err(wrong(format!("has `{name}` that is {}, not a text", kind_of(&value)))),
        None => Err(wrong(format!("has no `{name}`"))),
    };
    let role = take("role")?;
    let content = take("content")?;
    match Role::ALL.into_iter().find(|known| known.name() == role) {
        Some(role) => Ok(Message { role, content, other }),
        None => Err(Bad::Role { message: number, role }),
    }
}

fn text(value: Option<Value>, field: &str) -> Checked<String> {
    let problem = match value {
        Some(Value::String(text)) => return Ok(text),
        None | Some(Value::Null) => "is null, not a text",
        Some(Value::Bool(_)) => "is a boolean, not a text",
        Some(Value::Number(_)) => "is a number, not a text",
        Some(Value::Array(_)) => "is an array, not a text",
        Some(Value::Object(_)) => "is an object, not a text",
    };
    Err(Bad::Field { field: field.into(), problem })
}

fn not_a_list(value: &Value) -> &'static str {
    match value {
        Value::Null => "is null, not a list",
        Value::Bool(_) => "is a boolean, not a list",
        Value::Number(_) => "is a number, not a list",
        Value::String(_) => "is a text, not a list",
        Value::Array(_) | Value::Object(_) => "is an object, not a list",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
