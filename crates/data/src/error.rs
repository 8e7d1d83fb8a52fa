//! Everything that can go wrong between a data file and a batch.

use std::path::PathBuf;

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

const ROW_SHAPE: &str = "each row is an object with the text fields `query` and `response`, as in MetaMathQA; \
                         a file is one JSON array of rows, or one row a line";

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
    #[diagnostic(code(input::data_is_directory), help("name the .json or .jsonl file inside it"))]
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
    #[error("data file `{}` is neither a JSON array nor JSON lines: its first character is {found}", path.display())]
    #[diagnostic(code(input::data_format), help("{ROW_SHAPE}"))]
    DataFormat {
        /// The path as given.
        path: PathBuf,
        /// The first character that is not white space, for printing.
        found: String,
    },

    /// No rows in the file, or none given.
    #[error("dataset {origin} has no rows")]
    #[diagnostic(code(input::data_empty), help("{ROW_SHAPE}"))]
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
    #[diagnostic(code(input::data_json), help("{ROW_SHAPE}"))]
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

    /// A row lacks `query` or `response`, or its value is no text.
    #[error("data file `{}`, row {row} (line {line}): field `{field}` {problem}", path.display())]
    #[diagnostic(code(input::data_field), help("{ROW_SHAPE}"))]
    DataField {
        /// The path as given.
        path: PathBuf,
        /// The row.
        row: u64,
        /// Line in the file.
        line: u64,
        /// `query` or `response`.
        field: &'static str,
        /// "is missing", or what it is in place of a text.
        problem: &'static str,
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
