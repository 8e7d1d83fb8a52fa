//! What can go wrong between a name and its files.

use std::path::PathBuf;

use miette::Diagnostic;
use thiserror::Error;

/// A model or dataset that cannot be had. No message holds the token or a signed address.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no hub has.
    #[error("'{value}' is no {what}: {reason}")]
    #[diagnostic(
        code(input::hub_name),
        help("a name on the hub looks like meta-llama/Llama-3.1-8B; a folder or file is given by its path")
    )]
    BadName {
        /// What it should have been, such as "name of a model on the hub".
        what: &'static str,
        /// As it was given.
        value: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A variable of the environment that cannot be used. Its value may be a secret and is not shown.
    #[error("the environment variable {variable} cannot be used: {reason}")]
    #[diagnostic(code(input::hub_environment), help("mend the variable, or unset it"))]
    BadEnvironment {
        /// The variable's name.
        variable: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not in the cache, and the network is not to be used.
    #[error("the {what} is not complete in {}, and HF_HUB_OFFLINE is set; missing: {missing}", cache.display())]
    #[diagnostic(
        code(input::hub_offline),
        help(
            "unset HF_HUB_OFFLINE, or on a machine with a network run `{command}` and copy the cache here, or set HF_HOME to a cache that has it"
        )
    )]
    Offline {
        /// Such as "model owner/name at revision main".
        what: String,
        /// The cache's folder.
        cache: PathBuf,
        /// Names of the files that are not there.
        missing: String,
        /// What downloads it elsewhere.
        command: String,
    },
    /// No answer: a name that does not resolve, a refused connection, a timeout.
    #[error("no answer from {url} after {attempts} attempts: {reason}")]
    #[diagnostic(
        code(run::hub_unreachable),
        help(
            "check the network, HTTPS_PROXY and HF_ENDPOINT; without a network, run `hf download` on a machine that has one, copy its cache and set HF_HOME"
        )
    )]
    Unreachable {
        /// The address, without its query.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// The last attempt's failure.
        reason: String,
    },
    /// The other side does not prove to be the hub.
    #[error("the TLS certificate of {url} is not accepted: {reason}")]
    #[diagnostic(
        code(input::hub_certificate),
        help(
            "where the network's proxy opens TLS, set SSL_CERT_FILE to a PEM file with its certificates; check the clock and HF_ENDPOINT"
        )
    )]
    Certificate {
        /// The address, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The licence has to be accepted first.
    #[error("{id} is gated: its owners want the licence accepted before they hand out its files ({message})")]
    #[diagnostic(code(input::hub_gated), help("{advice}"))]
    Gated {
        /// The name on the hub.
        id: String,
        /// The hub's own words.
        message: String,
        /// Where to accept it and what to do then.
        advice: String,
    },
    /// The token is not one that the hub knows.
    #[error("the hub does not accept the token from {source_of_token}: {message}")]
    #[diagnostic(
        code(input::hub_token),
        help(
            "make a new one with read access at https://huggingface.co/settings/tokens and set HF_TOKEN, or unset it where no token is needed"
        )
    )]
    BadToken {
        /// The variable or file that the token was read from.
        source_of_token: String,
        /// The hub's own words.
        message: String,
    },
    /// The token is known, but not allowed.
    #[error("the hub refuses {url}: {message}")]
    #[diagnostic(
        code(input::hub_forbidden),
        help(
            "check that the token in HF_TOKEN may read this repository (fine-grained tokens name what they may read)"
        )
    )]
    Forbidden {
        /// The address, without its query.
        url: String,
        /// The hub's own words.
        message: String,
    },
    /// No such repository, or a private one.
    #[error("there is no {kind} {id} on {endpoint}, or it is private")]
    #[diagnostic(
        code(input::hub_not_found),
        help(
            "check the spelling, upper and lower case included; for a private one set HF_TOKEN to a token that may read it"
        )
    )]
    RepoNotFound {
        /// "model" or "dataset".
        kind: &'static str,
        /// The name on the hub.
        id: String,
        /// The hub's address.
        endpoint: String,
    },
    /// No such branch, tag or commit.
    #[error("{id} has no revision '{revision}'")]
    #[diagnostic(code(input::hub_revision), help("give a branch, tag or full commit hash that {id} has"))]
    RevisionNotFound {
        /// The name on the hub.
        id: String,
        /// As it was given.
        revision: String,
    },
    /// A file that was listed, or that another one names, is not there.
    #[error("{id} has no file '{file}' at revision {revision}")]
    #[diagnostic(
        code(input::hub_file_not_found),
        help("the repository is incomplete or changed meanwhile; try again, or give another revision")
    )]
    FileNotFound {
        /// The name on the hub.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// Its name in the repository.
        file: String,
    },
    /// A status that leaves nothing to do, or that stayed after all attempts.
    #[error("{url} answered {status} after {attempts} attempts: {message}")]
    #[diagnostic(
        code(run::hub_status),
        help(
            "try again later; https://status.huggingface.co tells whether the hub has trouble. What was downloaded is kept"
        )
    )]
    Status {
        /// The address, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
        /// The hub's own words.
        message: String,
    },
    /// An answer that is not what the hub answers.
    #[error("{url} does not answer as a hub does: {reason}")]
    #[diagnostic(
        code(run::hub_garbage),
        help(
            "does HF_ENDPOINT name a hub, and does no proxy or login page of the network answer in its place?"
        )
    )]
    Garbage {
        /// The address, without its query.
        url: String,
        /// What does not fit.
        reason: String,
    },
    /// A transfer that broke, again and again.
    #[error(
        "the download of {file} broke after {done} of {total} bytes, {attempts} times without progress: {reason}"
    )]
    #[diagnostic(
        code(run::hub_interrupted),
        help("run the same command again: it goes on where this one stopped")
    )]
    Interrupted {
        /// Its name in the repository.
        file: String,
        /// Bytes on the disk.
        done: u64,
        /// Bytes in all.
        total: u64,
        /// How often it was tried.
        attempts: u32,
        /// The last attempt's failure.
        reason: String,
    },
    /// The server sends another number of bytes than it announced.
    #[error("{file} should have {expected} bytes, but the server sends {found}")]
    #[diagnostic(
        code(run::hub_length),
        help(
            "something between here and the hub alters the files: check HF_ENDPOINT and proxies, then try again"
        )
    )]
    Length {
        /// Its name in the repository.
        file: String,
        /// Bytes that were announced.
        expected: u64,
        /// Bytes that came or were about to.
        found: u64,
    },
    /// The bytes are not those that the hub has.
    #[error(
        "{file} arrived with checksum {found} instead of {expected}; what was downloaded of it is removed"
    )]
    #[diagnostic(
        code(run::hub_checksum),
        help("run the same command again; if it stays, something between here and the hub alters the files")
    )]
    Checksum {
        /// Its name in the repository.
        file: String,
        /// The hub's.
        expected: String,
        /// Of what arrived.
        found: String,
    },
    /// The cache's disk is too small.
    #[error("not enough space in {}: {needed} bytes are still to be downloaded, {free} bytes are free", folder.display())]
    #[diagnostic(
        code(run::hub_no_space),
        help(
            "free some space, or set HF_HOME to a folder on a larger disk; what was downloaded is kept, and the same command goes on from there"
        )
    )]
    NoSpace {
        /// The cache's folder.
        folder: PathBuf,
        /// Bytes that are missing.
        needed: u64,
        /// Bytes that the user may still write.
        free: u64,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} {} in the cache of the hub", path.display())]
    #[diagnostic(
        code(input::hub_cache),
        help("check that you may write there, or set HF_HOME or HF_HUB_CACHE to a folder of your own")
    )]
    Cache {
        /// Such as "write".
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The cache's file system has no locks, so two processes could spoil each other's download.
    #[error("cannot lock {}", path.display())]
    #[diagnostic(
        code(input::hub_lock),
        help(
            "set HF_HOME or HF_HUB_CACHE to a folder on a local disk, or download with `hf download` first"
        )
    )]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The server names a file that would lie outside the cache.
    #[error("{id} names a file {name:?}, which is not a plain path inside a repository")]
    #[diagnostic(
        code(run::hub_file_name),
        help("do not trust this repository, or the server in HF_ENDPOINT")
    )]
    UnsafeName {
        /// The name on the hub.
        id: String,
        /// As the server gave it.
        name: String,
    },
    /// A repository that holds no model that this program reads.
    #[error("{id} has no {missing}; it has {there}")]
    #[diagnostic(
        code(input::hub_no_model),
        help(
            "models are read from config.json and safetensors; for one in another format look for a converted copy, or save it with transformers' save_pretrained"
        )
    )]
    NotAModel {
        /// The name on the hub.
        id: String,
        /// What it lacks.
        missing: &'static str,
        /// What it has.
        there: String,
    },
    /// A dataset without a file for training.
    #[error("{id} has no JSON, JSONL or Parquet file of a train split; it has {there}")]
    #[diagnostic(
        code(input::hub_no_data),
        help("fetch the file with `hf download --repo-type dataset {id}`, convert it, and give its path")
    )]
    NoData {
        /// The name on the hub.
        id: String,
        /// What it has.
        there: String,
    },
    /// A dataset of several parts, of which one has to be chosen.
    #[error("{id} has train files in several folders, and it is not said which to take: {folders}")]
    #[diagnostic(
        code(input::hub_several_data),
        help("fetch one with `hf download --repo-type dataset {id}` and give the path of its file")
    )]
    SeveralData {
        /// The name on the hub.
        id: String,
        /// The folders.
        folders: String,
    },
}

impl HubError {
    /// What one attempt failed of, without how often it was tried.
    pub(crate) fn of_one_attempt(&self) -> String {
        match self {
            Self::Unreachable { url, reason, .. } => format!("no answer from {url}: {reason}"),
            Self::Status { url, status, message, .. } => format!("{url} answered {status}: {message}"),
            Self::Interrupted { file, done, total, reason, .. } => {
                format!("the download of {file} broke after {done} of {total} bytes: {reason}")
            }
            other => other.to_string(),
        }
    }
}
