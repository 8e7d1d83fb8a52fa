//! Whole calls against the server of [`crate::testing`].
#![allow(clippy::unwrap_used)]

mod cached;
mod processes;
mod refused;
mod resumed;
mod transferred;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use miette::Diagnostic;

use crate::testing::FakeHub;
use crate::{Event, Hub, HubError, Options, Want};

const CONFIG: &[u8] = br#"{"model_type": "llama"}"#;
const ID: &str = "owner/tiny";

/// A server and an empty cache before it.
struct Bench {
    server: FakeHub,
    home: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { server: FakeHub::start(), home: tempfile::tempdir().unwrap() }
    }

    /// With a model of one weights file and 300,000 bytes.
    fn with_model() -> Self {
        let bench = Self::new();
        bench.server.put_model(
            ID,
            &[
                (".gitattributes", b"x"),
                ("README.md", b"# tiny"),
                ("config.json", CONFIG),
                ("model.safetensors", &weights()),
                ("original/consolidated.00.pth", b"pickle"),
                ("pytorch_model.bin", b"pickle"),
                ("tokenizer.json", b"{}"),
                ("tokenizer_config.json", b"{\"a\": 1}"),
                ("weights.gguf", b"gguf"),
            ],
        );
        bench
    }

    fn hub(&self) -> Hub {
        self.hub_with(&[])
    }

    fn hub_with(&self, variables: &[(&str, &str)]) -> Hub {
        hub(&self.server.url(), self.home.path(), variables)
    }

    fn model(&self) -> Result<PathBuf, HubError> {
        self.hub().model(ID, None, Want::Everything, &mut |_| {})
    }

    fn repo_folder(&self) -> PathBuf {
        self.home.path().join("hub/models--owner--tiny")
    }

    /// Where the weights arrive.
    fn incomplete(&self) -> PathBuf {
        let checksum = crate::testing::checksum("model.safetensors", &weights());
        self.repo_folder().join(format!("blobs/{checksum}.incomplete"))
    }
}

fn weights() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i % 251) as u8).collect()
}

fn hub(endpoint: &str, home: &Path, variables: &[(&str, &str)]) -> Hub {
    let get = |name: &str| -> Option<OsString> {
        let given = variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        given.or_else(|| match name {
            "HF_HOME" => Some(home.into()),
            "HF_ENDPOINT" => Some(endpoint.into()),
            _ => None,
        })
    };
    Hub::from_env(&get).unwrap().with_options(impatient())
}

fn impatient() -> Options {
    Options {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(5),
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_millis(400),
        lock_poll: Duration::from_millis(5),
        ..Options::default()
    }
}

/// `[code] message | help`, as the command line prints them.
fn told(error: &HubError) -> String {
    let part =
        |part: Option<Box<dyn std::fmt::Display + '_>>| part.map(|p| p.to_string()).unwrap_or_default();
    format!("[{}] {error} | {}", part(error.code()), part(error.help()))
}

fn assert_told(error: &HubError, parts: &[&str]) {
    let told = told(error);
    for part in parts {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
}

/// All names below a folder, blobs and locks included.
fn tree(folder: &Path) -> Vec<String> {
    crate::cache::files_below(folder)
}

fn no_progress(_: Event<'_>) {}
