//! Everything that can go wrong between a data file and a batch.

use std::path::PathBuf;

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as given.
    pub path: PathBuf,
    /// The row in it, from 1.
    pub row: u64,
    /// The line in it, from 1, where that is known.
    pub line: Option<u64>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(out, "data file `{}`, row {}", self.path.display(), self.row)?;
        self.line.map_or(Ok(()), |line| write!(out, " (line {line})"))
    }
}

/// An error of this crate. Rows and lines are counted from 1.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum Error {
    /// The data file does not exist.
    #[error("data file `{}` does not exist", path.display())]
    #[diagnostic(
        code(input::data_missing),
        help("check the path; a relative one starts at the working directory")
    )]
    DataMissing {
        /// The path as given.
        path: PathBuf,
    },

    /// The data path is a directory.
    #[error("data file `{}` is a directory", path.display())]
    #[diagnostic(code(input::data_is_directory), help("name the .json, .jsonl or .parquet file inside it"))]
    DataIsDirectory {
        /// The path as given.
        path: PathBuf,
    },

    /// The data file cannot be opened or read.
    #[error("cannot read data file `{}`", path.display())]
    #[diagnostic(code(input::data_unreadable), help("check the file's permissions and the disk it is on"))]
    DataUnreadable {
        /// The path as given.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The first character is neither `[` nor `{`.
    #[error("data file `{}` is neither a JSON array nor JSON lines nor Parquet: its first character is {found}", path.display())]
    #[diagnostic(
        code(input::data_format),
        help(
            "a file is one JSON array of rows, one JSON row a line, or Parquet; unpack or convert others first"
        )
    )]
    DataFormat {
        /// The path as given.
        path: PathBuf,
        /// The first character that is not white space, for printing.
        found: String,
    },

    /// No rows in the file, or none given.
    #[error("dataset {origin} has no rows")]
    #[diagnostic(code(input::data_empty), help("check that it is the right file, and whole"))]
    DataEmpty {
        /// The file, quoted, or a word for rows that come from no file.
        origin: String,
    },

    /// The JSON text ends too early.
    #[error("data file `{}` is cut short: it ends inside row {row} (line {line}, column {column})", path.display())]
    #[diagnostic(code(input::data_cut), help("the file is incomplete; copy or download it again"))]
    DataCut {
        /// The path as given.
        path: PathBuf,
        /// The row that was being read.
        row: u64,
        /// Line in the file.
        line: u64,
        /// Column in the line, in bytes.
        column: u64,
    },

    /// The JSON text is not JSON, or a row is not an object.
    #[error("data file `{}`, row {row} (line {line}, column {column}): {problem}", path.display())]
    #[diagnostic(code(input::data_json), help("{hint}"))]
    DataJson {
        /// The path as given.
        path: PathBuf,
        /// The row that was being read.
        row: u64,
        /// Line in the file.
        line: u64,
        /// Column in the line, in bytes.
        column: u64,
        /// What the parser said.
        problem: String,
        /// What to do about it.
        hint: &'static str,
    },

    /// The text is not UTF-8.
    #[error("data file `{}`, row {row} (line {line}): the text is not UTF-8", path.display())]
    #[diagnostic(
        code(input::data_utf8),
        help("convert the file, for example: iconv -f latin1 -t utf-8 OLD > NEW")
    )]
    DataUtf8 {
        /// The path as given.
        path: PathBuf,
        /// The row that was being read.
        row: u64,
        /// Line in the file.
        line: u64,
    },

    /// A row lacks a field, or its value is of the wrong kind.
    #[error("{place}: field `{field}` {problem}")]
    #[diagnostic(code(input::data_field), help("{hint}"))]
    DataField {
        /// The row.
        place: Place,
        /// The field's name.
        field: String,
        /// "is missing" and which ones there are, or what it is in place of what it should be.
        problem: Box<str>,
        /// What to do about it.
        hint: Box<str>,
    },

    /// A message of a conversation is not one.
    #[error("{place}: message {message} {problem}")]
    #[diagnostic(
        code(input::data_message),
        help("each message is an object with the texts `role` and `content`")
    )]
    DataMessage {
        /// The row.
        place: Place,
        /// The message in it, from 1.
        message: usize,
        /// What is wrong with it.
        problem: String,
    },

    /// Nobody of that name speaks here.
    #[error("{place}: message {message} has the unknown role `{role}`")]
    #[diagnostic(code(input::data_role), help("the roles are system, user, assistant and tool"))]
    DataRole {
        /// The row.
        place: Place,
        /// The message in it, from 1.
        message: usize,
        /// The role as written.
        role: String,
    },

    /// Conversations and questions with answers in one data set.
    #[error("{place}: rows of mixed schemas: this one has {found}, those before it have {expected}")]
    #[diagnostic(
        code(input::data_mixed),
        help(
            "train on one kind of rows; turn questions with answers into `messages`, or leave one kind out"
        )
    )]
    DataMixed {
        /// The row.
        place: Place,
        /// What it has.
        found: &'static str,
        /// What the first row has.
        expected: &'static str,
    },

    /// A Parquet file without the columns that make up a row.
    #[error("data file `{}` has no column `{column}`: its columns are {columns}", path.display())]
    #[diagnostic(code(input::data_column), help("{hint}"))]
    DataColumn {
        /// The path as given.
        path: PathBuf,
        /// The column looked for.
        column: String,
        /// Those that there are.
        columns: String,
        /// What to do about it.
        hint: Box<str>,
    },

    /// A Parquet file that cannot be decoded.
    #[error("{place}: the Parquet file is damaged or of an unknown kind: {problem}")]
    #[diagnostic(code(input::data_parquet), help("copy or download the file again"))]
    DataParquet {
        /// The row that was being read.
        place: Place,
        /// What the decoder said.
        problem: String,
    },

    /// A split that leaves one part without rows.
    #[error("a validation split of {split} leaves {part} without a row: there are {rows} rows")]
    #[diagnostic(
        code(input::data_split),
        help("give a share above 0 and below 1, or a whole number of rows, such that both parts have one")
    )]
    Split {
        /// The share or number asked for.
        split: f64,
        /// The part.
        part: &'static str,
        /// Rows in all.
        rows: usize,
    },

    /// A template's file cannot be read.
    #[error("cannot read template `{}`", path.display())]
    #[diagnostic(code(input::template_unreadable), help("check the path and the file's permissions"))]
    TemplateUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The model's directory has no chat template.
    #[error("the tokenizer in `{}` has no chat template", path.display())]
    #[diagnostic(
        code(input::chat_template_missing),
        help("base models often have none; take that of the model's instruct version with --template FILE")
    )]
    ChatTemplateMissing {
        /// The model's directory.
        path: PathBuf,
    },

    /// A template does not parse.
    #[error("template `{}`, line {line}: {problem}", path.display())]
    #[diagnostic(
        code(input::template_invalid),
        help("templates are Jinja, as the chat templates of transformers are")
    )]
    TemplateInvalid {
        /// The file it came from.
        path: PathBuf,
        /// Line of the template.
        line: u64,
        /// What the engine said.
        problem: String,
    },

    /// A template cannot write a row.
    #[error("template `{}`, line {line}: {problem} ({place})", path.display())]
    #[diagnostic(
        code(input::template_failed),
        help("the template refuses this row or asks for what it lacks; change the one or the other")
    )]
    TemplateFailed {
        /// The file it came from.
        path: PathBuf,
        /// Line of the template.
        line: u64,
        /// The row.
        place: Place,
        /// What the engine or the template said.
        problem: String,
    },

    /// A template writes nothing.
    #[error("template `{}` makes an empty text ({place})", path.display())]
    #[diagnostic(
        code(input::template_empty),
        help("check that the template uses the names of the row's fields")
    )]
    TemplateEmpty {
        /// The file it came from.
        path: PathBuf,
        /// The row.
        place: Place,
    },

    /// Where the answers are in a template's text cannot be told.
    #[error("template `{}` does not tell which part of its text is the answer: {problem} ({place})", path.display())]
    #[diagnostic(
        code(input::template_span),
        help(
            "train on everything with --train-on all, or mark the answers in a template of your own with \
             {{% generation %}} and {{% endgeneration %}}"
        )
    )]
    TemplateSpan {
        /// The file it came from.
        path: PathBuf,
        /// The row.
        place: Place,
        /// Why not.
        problem: String,
    },

    /// The official text is for questions with answers.
    #[error("the official template is for rows with a question and its answer, not for `messages`")]
    #[diagnostic(code(input::template_rows), help("use the tokenizer's chat template, or one of your own"))]
    TemplateRows,

    /// The template is for rows with fields of certain names.
    #[error("{place}: the {template} template needs {needs}; the row has {fields}")]
    #[diagnostic(code(input::template_fields), help("{hint}"))]
    TemplateFields {
        /// The row.
        place: Place,
        /// "official" or "chat".
        template: &'static str,
        /// The fields that it writes.
        needs: Box<str>,
        /// The fields that there are.
        fields: Box<str>,
        /// What to do about it.
        hint: Box<str>,
    },

    /// A number of the user's is out of its range.
    #[error("{name} is {value}, but must be {need}")]
    #[diagnostic(code(input::data_setting), help("change {name}"))]
    Setting {
        /// The setting, in the words of the command line without dashes.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        need: &'static str,
    },

    /// A file of the tokenizer is not there.
    #[error("tokenizer file `{}` does not exist", path.display())]
    #[diagnostic(
        code(input::tokenizer_missing),
        help(
            "the model's directory must hold tokenizer.json and tokenizer_config.json in Hugging Face layout"
        )
    )]
    TokenizerMissing {
        /// The file looked for.
        path: PathBuf,
    },

    /// A file of the tokenizer cannot be read or makes no sense.
    #[error("tokenizer file `{}`: {problem}", path.display())]
    #[diagnostic(
        code(input::tokenizer_invalid),
        help("the file is damaged or of an unknown kind; copy or download it again")
    )]
    TokenizerInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A special token has no id.
    #[error("{role} token `{token}` (from {origin}) is not in the vocabulary of `{}`", path.display())]
    #[diagnostic(
        code(input::tokenizer_special),
        help("name a token that tokenizer.json lists, spelt exactly so")
    )]
    TokenNotInVocabulary {
        /// "bos", "eos" or "pad".
        role: &'static str,
        /// The token's text.
        token: String,
        /// The file or flag that named it.
        origin: &'static str,
        /// The tokenizer file.
        path: PathBuf,
    },

    /// The tokenizer makes ids that the model has no embedding for.
    #[error(
        "tokenizer `{}` does not fit the model: token `{token}` has id {id}, but the model's vocab_size is {vocab_size}",
        path.display()
    )]
    #[diagnostic(
        code(input::tokenizer_vocabulary),
        help("tokenizer.json and config.json belong to different models; take both from the same one")
    )]
    VocabularyTooLarge {
        /// The tokenizer file.
        path: PathBuf,
        /// The token with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: u64,
    },

    /// The tokenizer refused a text or an id.
    #[error("the tokenizer failed: {problem}")]
    #[diagnostic(code(input::tokenizer_failed), help("check that tokenizer.json belongs to the model"))]
    TokenizerFailed {
        /// What it said, and on which row where that is known.
        problem: String,
    },

    /// The worker threads could not be started.
    #[error("cannot start {threads} tokenizing threads")]
    #[diagnostic(
        code(run::threads),
        help("lower the number of threads, or raise the limit on processes (ulimit -u)")
    )]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },
}
