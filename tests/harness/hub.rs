//! The local server that plays the hub, with the demo's model and rows in it, and an empty cache before it.

use std::path::{Path, PathBuf};
use std::process::Command;

use hub::testing::FakeHub;
use tempfile::TempDir;

use super::{Ranks, command, repository, scratch};

/// Official name of the model that `Llama-3.1-8B` stands for.
pub const LLAMA: &str = "meta-llama/Llama-3.1-8B";
/// The dataset that `metamath` takes when nothing else is said.
pub const METAMATH: &str = "meta-math/MetaMathQA";

/// A hub of a test's own.
pub struct Hub {
    pub server: FakeHub,
    /// Cache, working directory and whatever else a test needs.
    pub folder: TempDir,
}

impl Hub {
    /// A hub that has the demo model as [`LLAMA`] and as `some/model`, and the demo's rows as [`METAMATH`].
    pub fn start() -> Self {
        let server = FakeHub::start();
        let demo = repository().join("configs/demo");
        for id in [LLAMA, "some/model"] {
            server.put_model_folder(id, &demo.join("model"));
        }
        let rows = std::fs::read(demo.join("train.json")).unwrap();
        let files: [(&str, &[u8]); 3] =
            [("MetaMathQA-395K.json", &rows), ("README.md", b"# MetaMathQA"), (".gitattributes", b"")];
        server.put_dataset(METAMATH, &files);
        Self { server, folder: scratch() }
    }

    /// What `HF_HOME` is.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("huggingface")
    }

    /// `gpart-dist ARGS` in an empty directory, with this hub and no other way to the network.
    pub fn command(&self, ranks: Ranks, args: &[&str]) -> Command {
        let directory = self.folder.path().join("directory");
        std::fs::create_dir_all(&directory).unwrap();
        let mut command = command(ranks, args);
        command.current_dir(directory);
        self.point_at(&mut command);
        command
    }

    /// Sets the variables that lead to this hub.
    pub fn point_at(&self, command: &mut Command) {
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", self.server.url()).env("HF_HOME", self.home());
        command.env("NO_PROXY", "127.0.0.1");
    }

    /// The files that were fetched, by name, sorted; those of the store by the name that led there.
    pub fn fetched(&self) -> Vec<String> {
        let requests = self.server.requests_for("GET", "/resolve/");
        let mut names: Vec<String> =
            requests.iter().map(|request| request.path.rsplit('/').next().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// Bytes of the file that is arriving in the cache, if any is.
    pub fn arriving(&self) -> Option<u64> {
        let blobs = |repo: PathBuf| std::fs::read_dir(repo.join("blobs")).ok();
        let repos = std::fs::read_dir(self.home().join("hub")).ok()?.flatten();
        let mut files = repos.filter_map(|repo| blobs(repo.path())).flatten().flatten();
        let is_incomplete = |path: &Path| path.extension().is_some_and(|end| end == "incomplete");
        files.find(|file| is_incomplete(&file.path())).and_then(|file| Some(file.metadata().ok()?.len()))
    }
}
