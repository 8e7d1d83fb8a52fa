//! Rows of training data from JSON, JSON lines and Parquet: what a row holds and where it came from.

mod check;
pub(crate) mod hint;
mod json;
mod pages;
mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::Place;
use crate::{Error, Result};
use check::{Bad, RawRow};

/// How rows are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOptions {
    /// The field that holds the question (`--query-field`).
    pub query_field: String,
    /// The field that holds the answer (`--response-field`).
    pub response_field: String,
    /// Only the first rows of all files together (`--max-samples`).
    pub max_samples: Option<usize>,
    /// Keep the rows' other fields for a template (see [`Template::uses_fields`](crate::Template::uses_fields)).
    /// Without it they are skipped, which saves most of a large file's memory.
    pub keep_fields: bool,
    /// Take rows of any fields, for a template of the user's own: if the first row has neither both text fields nor
    /// `messages`, all rows are [`Content::Fields`]. The rows' fields are kept, whatever `keep_fields` says.
    pub any_fields: bool,
}

impl RowOptions {
    fn keeps_fields(&self) -> bool {
        self.keep_fields || self.any_fields
    }
}

impl Default for RowOptions {
    fn default() -> Self {
        Self {
            query_field: "query".into(),
            response_field: "response".into(),
            max_samples: None,
            keep_fields: false,
            any_fields: false,
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the stage.
    System,
    /// Asks.
    User,
    /// Answers: what is trained on.
    Assistant,
    /// Returns what a tool said.
    Tool,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// The role's name in data files and templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Its other fields (`name`, `tool_calls`, …), which a template may use.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a row teaches.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A question and its answer.
    Pair {
        /// The question.
        query: String,
        /// The worked answer.
        response: String,
    },
    /// A conversation, of at least one message.
    Chat(Vec<Message>),
    /// Nothing that is known without a template: the row has its [`fields`](Row::fields) alone.
    Fields,
}

/// One row of a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it teaches.
    pub content: Content,
    // Boxed, since most rows of most runs have none and hundreds of thousands are held.
    fields: Option<Box<Map<String, Value>>>,
    file: u32,
    number: u32,
}

impl Row {
    /// A question and its answer that come from no file.
    pub fn pair(query: impl Into<String>, response: impl Into<String>) -> Self {
        Self::new(Content::Pair { query: query.into(), response: response.into() })
    }

    /// A conversation that comes from no file.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self::new(Content::Chat(messages))
    }

    /// A row of plain fields that comes from no file.
    pub fn of_fields(fields: Map<String, Value>) -> Self {
        Self::new(Content::Fields).with_fields(fields)
    }

    fn new(content: Content) -> Self {
        Self { content, fields: None, file: 0, number: 0 }
    }

    /// Adds fields for templates.
    pub fn with_fields(mut self, fields: Map<String, Value>) -> Self {
        self.fields = (!fields.is_empty()).then(|| Box::new(fields));
        self
    }

    /// The row's other fields, in the file's order; empty unless they were asked for
    /// ([`RowOptions::keep_fields`]). Of [`Content::Fields`], all its fields.
    pub fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.fields.iter().flat_map(|fields| fields.iter())
    }

    fn schema(&self) -> Kind {
        match self.content {
            Content::Pair { .. } => Kind::Pair,
            Content::Chat(_) => Kind::Chat,
            Content::Fields => Kind::Fields,
        }
    }
}

/// What the rows of a file look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// A question and its answer, in fields of these names.
    Pairs {
        /// The field that holds the question.
        query_field: String,
        /// The field that holds the answer.
        response_field: String,
    },
    /// Conversations in the field `messages`.
    Chat,
    /// Fields of any names, for a template over them ([`RowOptions::any_fields`]).
    Fields {
        /// The field that would hold a question; rows may have it or not.
        query_field: String,
        /// The field that holds the answer, in rows that have it.
        response_field: String,
    },
}

/// [`Schema`] without the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pair,
    Chat,
    Fields,
}

/// Rows of one schema, with the files they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    rows: Vec<Row>,
    schema: Schema,
    files: Vec<PathBuf>,
}

impl Rows {
    /// Rows that come from no file; the fields of pairs are `query` and `response`.
    ///
    /// # Errors
    /// Pairs, conversations and rows of plain fields mixed.
    pub fn new(mut rows: Vec<Row>) -> Result<Self> {
        let kind = rows.first().map_or(Kind::Pair, Row::schema);
        let files = vec![PathBuf::from("memory")];
        for (i, row) in rows.iter_mut().enumerate() {
            (row.file, row.number) = (0, i as u32 + 1);
            if row.schema() != kind {
                let place = Place { path: files[0].clone(), row: i as u64 + 1, line: None };
                return Err(Error::DataMixed {
                    place,
                    found: describe(row.schema()),
                    expected: describe(kind),
                });
            }
        }
        Ok(Self { rows, schema: schema_of(kind, &RowOptions::default()), files })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What the rows look like.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The rows in their order.
    pub fn as_slice(&self) -> &[Row] {
        &self.rows
    }

    /// The file and row that row `i` came from, for messages.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn place(&self, i: usize) -> Place {
        let row = &self.rows[i];
        Place { path: self.files[row.file as usize].clone(), row: row.number.into(), line: None }
    }

    /// The rows of these numbers, each taken once.
    pub(crate) fn partition(self, chosen: &[bool]) -> (Self, Self) {
        let Self { rows, schema, files } = self;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (row, &is_chosen) in rows.into_iter().zip(chosen) {
            if is_chosen { right.push(row) } else { left.push(row) }
        }
        let left = Self { rows: left, schema: schema.clone(), files: files.clone() };
        (left, Self { rows: right, schema, files })
    }
}

/// Reads the rows of these files, in order.
///
/// A file is a JSON array of objects, JSON lines (one object a line; empty lines are skipped), or Parquet. Its
/// content decides which, not its name. A row has the two text fields of [`RowOptions`], or `messages`: a list of
/// objects with a `role` (system, user, assistant or tool) and a text `content`, or, with
/// [`any_fields`](RowOptions::any_fields), fields of any names. The first row decides which of them all files hold. Of a repeated field the last one counts. `max_samples` keeps the first rows; what
/// follows in a JSON file is still checked to be whole JSON, so that half a file is not taken for a whole one.
///
/// # Errors
/// Names the file, the row and, in JSON, the line: missing, a directory, unreadable, not UTF-8, no JSON, cut short, a
/// damaged Parquet file, a row without its fields or of another schema than the first, an unknown role, no rows at
/// all, or settings that contradict each other.
pub fn read_rows<P: AsRef<Path>>(paths: &[P], options: &RowOptions) -> Result<Rows> {
    let mut collector = Collector::new(options)?;
    for path in paths {
        let path = path.as_ref();
        let source = open(path)?;
        if collector.is_full() {
            continue;
        }
        collector.begin(path);
        read_file(&mut collector, source)?;
    }
    collector.finish()
}

/// Reads the rows of a file's content, as [`read_rows`] does; `name` is what errors call it.
///
/// # Errors
/// As [`read_rows`].
pub fn rows_from_bytes(name: &Path, bytes: Vec<u8>, options: &RowOptions) -> Result<Rows> {
    let mut collector = Collector::new(options)?;
    collector.begin(name);
    if bytes.starts_with(parquet::MAGIC) {
        parquet::read(&mut collector, bytes::Bytes::from(bytes))?;
    } else {
        json::read(&mut collector, Cursor::new(bytes))?;
    }
    collector.finish()
}

fn open(path: &Path) -> Result<File> {
    let unreadable = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::DataMissing { path: path.into() },
        _ => Error::DataUnreadable { path: path.into(), source },
    };
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Err(Error::DataIsDirectory { path: path.into() });
    }
    File::open(path).map_err(unreadable)
}

fn read_file(collector: &mut Collector, file: File) -> Result<()> {
    let mut source = BufReader::with_capacity(1 << 20, file);
    let unreadable = |source| Error::DataUnreadable { path: collector.path().into(), source };
    if source.fill_buf().map_err(unreadable)?.starts_with(parquet::MAGIC) {
        // The Parquet reader seeks by itself.
        return parquet::read(collector, source.into_inner());
    }
    json::read(collector, source)
}

/// Rows gathered over files.
struct Collector<'a> {
    options: &'a RowOptions,
    limit: usize,
    kind: Option<Kind>,
    rows: Vec<Row>,
    files: Vec<PathBuf>,
    /// Whole rows of the file being read, kept or not.
    seen: u64,
}

impl<'a> Collector<'a> {
    fn new(options: &'a RowOptions) -> Result<Self> {
        if options.max_samples == Some(0) {
            return Err(Error::Setting { name: "max-samples", value: "0".into(), need: "at least 1" });
        }
        if options.query_field == options.response_field {
            let (name, value) = ("query-field", format!("`{}`", options.query_field));
            return Err(Error::Setting { name, value, need: "another one than response-field" });
        }
        let limit = options.max_samples.unwrap_or(usize::MAX);
        Ok(Self { options, limit, kind: None, rows: Vec::new(), files: Vec::new(), seen: 0 })
    }

    fn begin(&mut self, path: &Path) {
        self.files.push(path.into());
        self.seen = 0;
    }

    /// The file being read.
    fn path(&self) -> &Path {
        self.files.last().map_or(Path::new(""), PathBuf::as_path)
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    /// Checks and keeps the next row.
    fn keep(&mut self, raw: RawRow) -> std::result::Result<(), Bad> {
        let mut row = check::row(raw, self.options, &mut self.kind)?;
        row.file = self.files.len() as u32 - 1;
        // Saturates far beyond the number of rows that an order can be drawn for.
        row.number = u32::try_from(self.seen + 1).unwrap_or(u32::MAX);
        self.rows.push(row);
        self.seen += 1;
        Ok(())
    }

    /// The row being read.
    fn place(&self, line: Option<u64>) -> Place {
        Place { path: self.path().into(), row: self.seen + 1, line }
    }

    fn finish(self) -> Result<Rows> {
        let Some(kind) = self.kind.filter(|_| !self.rows.is_empty()) else {
            let origin = match &self.files[..] {
                [] => "of no files".to_owned(),
                [file] => format!("`{}`", file.display()),
                [first, rest @ ..] => format!("`{}` (and {} more files)", first.display(), rest.len()),
            };
            return Err(Error::DataEmpty { origin });
        };
        Ok(Rows { rows: self.rows, schema: schema_of(kind, self.options), files: self.files })
    }
}

fn schema_of(kind: Kind, options: &RowOptions) -> Schema {
    let (query_field, response_field) = (options.query_field.clone(), options.response_field.clone());
    match kind {
        Kind::Chat => Schema::Chat,
        Kind::Pair => Schema::Pairs { query_field, response_field },
        Kind::Fields => Schema::Fields { query_field, response_field },
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Pair => "a question and its answer",
        Kind::Chat => "`messages`",
        Kind::Fields => "only fields of other names",
    }
}

#[cfg(test)]
mod tests;
