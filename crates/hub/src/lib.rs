//! A model's or dataset's name on the Hugging Face hub → files of the Hugging Face cache, downloaded where they are
//! missing.
//!
//! The cache is that of Python's `huggingface_hub`: what either downloads the other finds (see [`Hub`] for where it
//! lies). A snapshot that is complete is used without a question to the network, so `main` stays the commit that it
//! was when it was first downloaded; delete it from the cache, or give another revision, to have a newer one.
//!
//! **Why a client of our own over `ureq`.** The crate `hf-hub` 1.0 uses the same cache, but begins a broken download
//! from its first byte (over plain HTTP; its other way is the storage's own protocol), does not compare checksums,
//! does not flush a file before it gets its name, does not look for free space, and brings some 300 packages with an
//! asynchronous runtime. Here a download goes on where it
//! stopped (HTTP ranges), every file is verified against the checksum that the hub has for it (SHA-256, or git's
//! SHA-1), and it gets its name when it is whole and on the disk, so a kill at any time leaves a cache that the next
//! call completes. One process a host downloads, the others wait.

mod cache;
mod client;
mod download;
mod environment;
mod error;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod lock;
mod name;
mod select;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use error::HubError;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::{Manifest, RepoCache, cache_error};
use client::{Client, Listing};
use download::{Download, Place, Wanted};
use environment::Settings;
use lock::Lock;
use name::{Kind, Repo, is_commit};
use select::State;

/// What of a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Configuration, tokenizer and weights.
    Everything,
    /// Configuration and tokenizer.
    WithoutWeights,
    /// `config.json` alone.
    ConfigOnly,
}

/// What happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process downloads, and this one waits for it. Said once a wait.
    Waiting {
        /// The file whose lock it holds.
        lock: &'a Path,
    },
    /// A download begins.
    Start {
        /// Files to be downloaded.
        files: usize,
        /// Bytes to be downloaded, without those that an earlier attempt left.
        bytes: u64,
    },
    /// Bytes have arrived. Comes up to some thousand times a second.
    File {
        /// Its name in the repository.
        name: &'a str,
        /// Its number among the files to be downloaded, from 1.
        index: usize,
        /// How many those are.
        of: usize,
        /// Bytes on the disk. Can go back to 0 where a server has no ranges.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// An attempt failed, and another one follows.
    Retry {
        /// What failed.
        reason: &'a str,
        /// How long it waits before.
        wait: Duration,
    },
}

/// Patience. The defaults are for a real network.
#[derive(Debug, Clone)]
pub struct Options {
    /// Attempts in a row without progress before giving up; at least 1.
    pub attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub first_wait: Duration,
    /// The longest wait, also where a server wishes for a longer one.
    pub longest_wait: Duration,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// For an answer to begin, and between two pieces of it.
    pub read_timeout: Duration,
    /// How often a lock of another process is looked at.
    pub lock_poll: Duration,
    /// Bytes that may still be written to the file system of a folder.
    pub free_space: fn(&Path) -> io::Result<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            lock_poll: Duration::from_millis(200),
            free_space,
        }
    }
}

/// The hub and the cache before it.
///
/// The cache is `$HF_HUB_CACHE`, `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub` or `~/.cache/huggingface/hub`,
/// the first that is set. `HF_ENDPOINT` names another hub, `HF_HUB_OFFLINE=1` forbids the network, `HF_TOKEN`,
/// `HF_TOKEN_PATH` or `$HF_HOME/token` have the token, which no host but the endpoint's ever sees. `HTTPS_PROXY`,
/// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured for HTTP proxies, `SSL_CERT_FILE` (or `REQUESTS_CA_BUNDLE`)
/// for a network that has its own certificates.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Settings,
    options: Options,
}

/// Which files of a repository.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Model(Want),
    Dataset,
}

impl Hub {
    /// Reads the variables through `get`, and the token's file where no variable holds the token.
    ///
    /// # Errors
    /// [`HubError::BadEnvironment`] for a variable that cannot be used.
    pub fn from_env(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        Ok(Self { settings: Settings::from_env(get)?, options: Options::default() })
    }

    /// The same hub with other patience.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The cache's folder, which need not exist.
    pub fn cache_folder(&self) -> &Path {
        &self.settings.cache
    }

    /// The folder of a model: `config.json`, `generation_config.json`, what the tokenizer has, and
    /// `model.safetensors` or its index and the shards that it names. Other formats are never fetched.
    ///
    /// `revision` is a branch, tag or commit; `None` is `main`. Where the cache has what is needed but it is not
    /// known whether the repository has more, the hub is asked, and if that fails the cache is used as it is.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn model(
        &self,
        id: &str,
        revision: Option<&str>,
        want: Want,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<PathBuf, HubError> {
        let repo = Repo::new(Kind::Model, id, revision)?;
        let cache = RepoCache::new(&self.settings.cache, &repo);
        let commit = self.provide(&repo, &cache, Choice::Model(want), progress)?;
        Ok(cache.snapshot(&commit))
    }

    /// The files of a dataset's train split, sorted: `*.parquet`, `*.jsonl` or `*.json`, the first of these formats
    /// that there is; those with `train` in their names if any has it, none with `test` or `validation`.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn dataset(
        &self,
        id: &str,
        revision: Option<&str>,
        progress: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<PathBuf>, HubError> {
        let repo = Repo::new(Kind::Dataset, id, revision)?;
        let cache = RepoCache::new(&self.settings.cache, &repo);
        let commit = self.provide(&repo, &cache, Choice::Dataset, progress)?;
        let snapshot = cache.snapshot(&commit);
        let (_, files) = select::dataset_state(&cache, &commit);
        Ok(files.iter().map(|name| snapshot.join(name)).collect())
    }

    /// The commit whose snapshot has what is wanted.
    fn provide(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        choice: Choice,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<String, HubError> {
        let found = cache.commit_of(&repo.revision).map(|commit| {
            let state = choice.state(cache, &commit);
            (commit, state)
        });
        match found {
            Some((commit, State::Complete)) => Ok(commit),
            Some((commit, State::Usable)) if self.settings.is_offline => Ok(commit),
            Some((commit, State::Usable)) => {
                // What is there stays what it is: not the branch as it is now, but the commit that it was.
                let same = Repo { revision: commit.clone(), ..repo.clone() };
                Ok(self.download(&same, cache, choice, notify).unwrap_or(commit))
            }
            found if self.settings.is_offline => {
                let missing = match found {
                    Some((_, State::Missing(names))) => names,
                    _ => vec!["everything".to_owned()],
                };
                let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
                Err(HubError::Offline {
                    what: format!("{} {} at revision {}", repo.kind.word(), repo.id, repo.revision),
                    cache: self.settings.cache.clone(),
                    missing: select::enumerate(&missing),
                    command: repo.command(),
                })
            }
            _ => self.download(repo, cache, choice, notify),
        }
    }

    /// Under the repository's lock: asks what there is, downloads what is missing, remembers what the revision is.
    fn download(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        choice: Choice,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<String, HubError> {
        let _lock = Lock::take(&cache.repo_lock(), self.options.lock_poll, notify)?;
        // Another process may have completed it meanwhile.
        if let Some(commit) = cache.commit_of(&repo.revision)
            && choice.state(cache, &commit) == State::Complete
        {
            return Ok(commit);
        }
        let client = Client::new(&self.settings, &self.options)?;
        let listing = client.listing(repo, notify)?;
        // Not before the hub has answered: other programs stumble over the folder of a name that does not exist.
        std::fs::create_dir_all(cache.blobs()).map_err(|e| cache_error("create", &cache.blobs(), e))?;
        if is_commit(&repo.revision) && listing.commit != repo.revision {
            let url = format!("{}/{}", self.settings.endpoint, repo.listing_path());
            return Err(client::garbage(
                &url,
                format!("another commit was asked for than {}", listing.commit),
            ));
        }
        let download =
            Download { client: &client, repo, cache, commit: &listing.commit, options: &self.options };
        let names = match choice {
            Choice::Model(want) => self.model_files(&download, &listing, want, notify)?,
            Choice::Dataset => dataset_files(&download, &listing)?,
        };
        let files = wanted(&download, &listing, &names, notify)?;
        self.fetch_all(&download, &files, notify)?;
        // Last of all: a reference stands for a snapshot that was complete.
        cache.write_ref(&repo.revision, &listing.commit)?;
        Ok(listing.commit)
    }

    /// The names of a model's files, weights last: where those are all there, everything is.
    fn model_files(
        &self,
        download: &Download<'_>,
        listing: &Listing,
        want: Want,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<String>, HubError> {
        let has = |name: &str| listing.files.iter().any(|file| file.name == name);
        let lacks = |missing| HubError::NotAModel {
            id: download.repo.id.clone(),
            missing,
            there: select::enumerate(&listing.names()),
        };
        if !has(select::CONFIG) {
            return Err(lacks(select::CONFIG));
        }
        let is_one_file = has(select::WEIGHTS);
        if want == Want::Everything && !is_one_file && !has(select::INDEX) {
            return Err(lacks("model.safetensors or model.safetensors.index.json"));
        }
        let all = Manifest { files: select::beside_weights(Want::Everything, has) };
        download.cache.write_manifest(download.commit, &all)?;
        let mut names = select::beside_weights(want, has);
        match (want, is_one_file) {
            (Want::Everything, true) => names.push(select::WEIGHTS.to_owned()),
            (Want::Everything, false) => {
                // Small, and it tells what else there is to count and to make space for.
                let index = [select::INDEX.to_owned()];
                for file in wanted(download, listing, &index, notify)? {
                    if !download.is_there(&file) {
                        let mut aside = |event: Event<'_>| {
                            if !matches!(event, Event::File { .. }) {
                                notify(event);
                            }
                        };
                        download.fetch(&file, Place { index: 1, of: 1 }, &mut aside)?;
                    }
                }
                names.extend(index);
                let path = download.cache.snapshot(download.commit).join(select::INDEX);
                names.extend(select::read_shards(&path)?);
            }
            _ => {}
        }
        Ok(names)
    }

    fn fetch_all(
        &self,
        download: &Download<'_>,
        files: &[Wanted],
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), HubError> {
        let files: Vec<&Wanted> = files.iter().filter(|file| !download.is_there(file)).collect();
        let needed = files.iter().fold(0, |sum: u64, file| sum.saturating_add(download.missing(file)));
        let folder = download.cache.blobs();
        // Where the system does not tell, the writes will.
        let free = (self.options.free_space)(&folder).unwrap_or(u64::MAX);
        if needed > free {
            return Err(HubError::NoSpace { folder, needed, free });
        }
        if !files.is_empty() {
            notify(Event::Start { files: files.len(), bytes: needed });
        }
        for (i, file) in files.iter().enumerate() {
            download.fetch(file, Place { index: i + 1, of: files.len() }, notify)?;
        }
        Ok(())
    }
}

impl Choice {
    fn state(self, cache: &RepoCache, commit: &str) -> State {
        match self {
            Choice::Model(want) => select::model_state(cache, commit, want),
            Choice::Dataset => select::dataset_state(cache, commit).0,
        }
    }
}

impl Listing {
    fn names(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).collect()
    }
}

fn dataset_files(download: &Download<'_>, listing: &Listing) -> Result<Vec<String>, HubError> {
    let there = listing.names();
    let files = select::pick_train_files(&there).or_error(&download.repo.id, &there)?;
    for name in &files {
        name::check_file_name(download.repo, name)?;
    }
    download.cache.write_manifest(download.commit, &Manifest { files: files.clone() })?;
    Ok(files)
}

/// Names → files with size and checksum. A name comes from the server: it is checked here, before it is a path.
fn wanted(
    download: &Download<'_>,
    listing: &Listing,
    names: &[String],
    notify: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Wanted>, HubError> {
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        name::check_file_name(download.repo, name)?;
        let Some(entry) = listing.files.iter().find(|file| file.name == *name) else {
            return Err(HubError::FileNotFound {
                id: download.repo.id.clone(),
                revision: download.repo.revision.clone(),
                file: name.clone(),
            });
        };
        let content = match &entry.content {
            Some(content) => content.clone(),
            None => download.client.content(download.repo, download.commit, name, notify)?,
        };
        files.push(Wanted { name: name.clone(), content });
    }
    Ok(files)
}

/// Bytes that the user may still write to the file system of a folder.
fn free_space(folder: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(folder)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}
