//! A server that plays the hub, for tests: lists, files of git and of large file storage, which a second server on
//! another port serves as the real hub's store does, and faults on demand.
//!
//! It keeps every request, so a test can say which were made and with which headers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct FakeHub {
    shared: Arc<Shared>,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// `Range`, such as `bytes=5-`.
    pub range: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// Whether the second server was asked, the store of large files.
    pub is_store: bool,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another answer: status, headers (`Name: value`), body.
    Answer(u16, Vec<String>, String),
    /// The connection is closed after this many bytes of the body.
    CutAfter(usize),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// The first byte of the body is another.
    Corrupt,
    /// One byte less than there should be, and announced so.
    Short,
    /// The answer begins this much later.
    Slow(Duration),
    /// Headers come and this many bytes of the body, and nothing else until the client goes away.
    StallAfter(usize),
}

#[derive(Debug)]
struct Shared {
    hub: SocketAddr,
    store: SocketAddr,
    state: Mutex<State>,
    is_stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// By `models/ID` or `datasets/ID`.
    repos: BTreeMap<String, FakeRepo>,
    faults: Vec<(String, usize, Fault)>,
    requests: Vec<Request>,
    commits: u64,
}

#[derive(Debug, Default)]
struct FakeRepo {
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    token: Option<String>,
    has_plain_listing: bool,
}

impl FakeHub {
    /// Starts both servers on free ports of this machine.
    pub fn start() -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            hub: hub.local_addr().unwrap(),
            store: store.local_addr().unwrap(),
            state: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        });
        for (listener, is_store) in [(hub, false), (store, true)] {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared, is_store));
        }
        Self { shared }
    }

    /// What `HF_ENDPOINT` should be.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.hub)
    }

    /// Has a model of these files, as a new commit that is `main` from now on.
    pub fn put_model(&self, id: &str, files: &[(&str, &[u8])]) {
        self.put(&format!("models/{id}"), files);
    }

    /// Has a dataset of these files.
    pub fn put_dataset(&self, id: &str, files: &[(&str, &[u8])]) {
        self.put(&format!("datasets/{id}"), files);
    }

    /// Has a model of the files that lie in a folder.
    pub fn put_model_folder(&self, id: &str, folder: &Path) {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let files: Vec<(String, Vec<u8>)> = entries
            .filter(|entry| entry.path().is_file())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        self.put_model(id, &files);
    }

    /// Gates a model: its files are handed out for this token alone, its list to everybody.
    pub fn gate(&self, id: &str, token: &str) {
        self.change(&format!("models/{id}"), |repo| repo.token = Some(token.to_owned()));
    }

    /// Leaves sizes and checksums out of a model's list, as some mirrors do.
    pub fn hide_sizes(&self, id: &str) {
        self.change(&format!("models/{id}"), |repo| repo.has_plain_listing = true);
    }

    /// The next `times` requests whose path contains `path` meet this fault.
    pub fn fail(&self, path: &str, times: usize, fault: Fault) {
        self.state().faults.push((path.to_owned(), times, fault));
    }

    /// All requests so far, of both servers, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The requests of one method whose path contains `path`.
    pub fn requests_for(&self, method: &str, path: &str) -> Vec<Request> {
        let fits = |request: &Request| request.method == method && request.path.contains(path);
        self.requests().into_iter().filter(fits).collect()
    }

    /// The commit that `main` of a model is.
    pub fn commit(&self, id: &str) -> String {
        self.state().repos[&format!("models/{id}")].commit.clone()
    }

    fn put(&self, key: &str, files: &[(&str, &[u8])]) {
        let mut state = self.state();
        state.commits += 1;
        let commit = format!("{:040x}", state.commits);
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        state.repos.insert(key.to_owned(), FakeRepo { commit, files, ..FakeRepo::default() });
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut FakeRepo)) {
        change(self.state().repos.get_mut(key).unwrap());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        // Each listener looks at the flag when the next connection comes.
        for address in [self.shared.hub, self.shared.store] {
            let _ = TcpStream::connect(address);
        }
    }
}

/// Large files are those that the hub keeps in its store.
fn is_large(name: &str, bytes: &[u8]) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".parquet") || bytes.len() > 1 << 20
}

/// The checksum by which the hub names a file's content: SHA-256 in the store, git's SHA-1 of a blob otherwise.
pub fn checksum(name: &str, bytes: &[u8]) -> String {
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if is_large(name, bytes) {
        hex(&Sha256::digest(bytes))
    } else {
        let mut sha1 = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
        sha1.update(bytes);
        hex(&sha1.finalize())
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, is_store: bool) {
    for stream in listener.incoming() {
        if shared.is_stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // A client that goes away in the middle is part of the play.
        std::thread::spawn(move || serve(stream, &shared, is_store));
    }
}

/// One request a connection.
fn serve(stream: TcpStream, shared: &Shared, is_store: bool) -> Option<()> {
    let request = read_request(&stream, is_store)?;
    let (fault, mut answer) = {
        let mut state = shared.state.lock().unwrap();
        state.requests.push(request.clone());
        let hit = state.faults.iter_mut().find(|(path, times, _)| *times > 0 && request.path.contains(path));
        let fault = hit.map(|(_, times, fault)| {
            *times -= 1;
            fault.clone()
        });
        let answer = if is_store { stored(&state, &request) } else { answer(&state, shared, &request) };
        (fault, answer)
    };
    let range = match &fault {
        Some(Fault::IgnoreRange) => None,
        _ => request.range.as_deref(),
    };
    answer.cut_to(range);
    let mut sent = usize::MAX;
    match &fault {
        Some(Fault::Answer(status, headers, body)) => {
            let (status, headers, body) = (*status, headers.clone(), body.clone().into_bytes());
            answer = Answer { status, headers, body, has_ranges: false };
        }
        Some(Fault::Corrupt) if !answer.body.is_empty() => answer.body[0] ^= 1,
        Some(Fault::Short) => drop(answer.body.pop()),
        Some(Fault::CutAfter(bytes) | Fault::StallAfter(bytes)) => sent = *bytes,
        Some(Fault::Slow(time)) => std::thread::sleep(*time),
        _ => {}
    }
    let is_head = request.method == "HEAD";
    answer.write(&stream, is_head, sent)?;
    if matches!(fault, Some(Fault::StallAfter(_))) {
        let _ = (&stream).read(&mut [0]);
    }
    stream.shutdown(Shutdown::Both).ok()
}

fn read_request(stream: &TcpStream, is_store: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, path, range: None, authorization: None, is_store };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = Some(value.trim().to_owned());
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value,
            "authorization" => request.authorization = value,
            _ => {}
        }
    }
    Some(request)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    has_ranges: bool,
}

impl Answer {
    fn refusal(status: u16, code: &str, message: &str) -> Self {
        let headers = vec![format!("X-Error-Code: {code}"), format!("X-Error-Message: {message}")];
        Self { status, headers, body: Vec::new(), has_ranges: false }
    }

    /// `bytes=FIRST-`, which is all that this crate asks for.
    fn cut_to(&mut self, range: Option<&str>) {
        let first: Option<usize> =
            range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let Some(first) = first.filter(|_| self.has_ranges && self.status == 200) else { return };
        let total = self.body.len();
        if first >= total {
            *self = Self { status: 416, headers: Vec::new(), body: Vec::new(), has_ranges: false };
            return;
        }
        self.status = 206;
        self.headers.push(format!("Content-Range: bytes {first}-{}/{total}", total - 1));
        self.body.drain(..first);
    }

    fn write(&self, mut stream: &TcpStream, is_head: bool, sent: usize) -> Option<()> {
        let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", self.status);
        if !self.headers.iter().any(|header| header.starts_with("Transfer-Encoding")) {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        self.headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if !is_head {
            stream.write_all(&self.body[..sent.min(self.body.len())]).ok()?;
        }
        stream.flush().ok()
    }
}

/// The store: contents by checksum, for whoever has the address.
fn stored(state: &State, request: &Request) -> Answer {
    let wanted = request.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let all = state.repos.values().flat_map(|repo| &repo.files);
    match all.into_iter().find(|(name, bytes)| checksum(name, bytes) == wanted) {
        Some((_, bytes)) => {
            Answer { status: 200, headers: Vec::new(), body: bytes.clone(), has_ranges: true }
        }
        None => Answer { status: 403, headers: Vec::new(), body: Vec::new(), has_ranges: false },
    }
}

fn answer(state: &State, shared: &Shared, request: &Request) -> Answer {
    let path = request.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    if let Some((key, revision)) = path.strip_prefix("api/").and_then(|path| path.split_once("/revision/")) {
        return match state.repos.get(key) {
            None => Answer::refusal(404, "RepoNotFound", "Repository not found"),
            Some(repo) if !repo.has(revision) => {
                Answer::refusal(404, "RevisionNotFound", "Invalid rev id: nonsense")
            }
            Some(repo) => repo.listing(key),
        };
    }
    let (key, rest) = match path.split_once("/resolve/") {
        Some((id, rest)) if id.starts_with("datasets/") => (id.to_owned(), rest),
        Some((id, rest)) => (format!("models/{id}"), rest),
        None => return Answer::refusal(404, "", "Sorry, we can't find the page you are looking for."),
    };
    let (revision, name) = rest.split_once('/').unwrap_or((rest, ""));
    let Some(repo) = state.repos.get(&key) else {
        return Answer::refusal(404, "RepoNotFound", "Repository not found");
    };
    if let Some(token) = &repo.token {
        let message = "Access to this model is restricted and you are not in the authorized list.";
        match &request.authorization {
            None => return Answer::refusal(401, "GatedRepo", message),
            Some(found) if *found != format!("Bearer {token}") => {
                return Answer::refusal(403, "GatedRepo", message);
            }
            Some(_) => {}
        }
    }
    match repo.files.get(name).filter(|_| repo.has(revision)) {
        Some(bytes) => repo.file(name, bytes, shared.store),
        None => Answer::refusal(404, "EntryNotFound", "Entry not found"),
    }
}

impl FakeRepo {
    fn has(&self, revision: &str) -> bool {
        revision == "main" || revision == self.commit
    }

    fn listing(&self, key: &str) -> Answer {
        let entries = self.files.iter().map(|(name, bytes)| {
            let mut entry = serde_json::json!({ "rfilename": name });
            if !self.has_plain_listing {
                entry["size"] = bytes.len().into();
                entry["blobId"] = checksum("", bytes).into();
                if is_large(name, bytes) {
                    entry["blobId"] = "0".repeat(40).into();
                    let sha256 = checksum(name, bytes);
                    entry["lfs"] =
                        serde_json::json!({ "sha256": sha256, "size": bytes.len(), "pointerSize": 134 });
                }
            }
            entry
        });
        let entries: Vec<_> = entries.collect();
        let id = key.split_once('/').unwrap_or_default().1;
        let json = serde_json::json!({ "id": id, "sha": self.commit, "siblings": entries, "gated": false });
        let headers = vec!["Content-Type: application/json".to_owned()];
        Answer { status: 200, headers, body: json.to_string().into_bytes(), has_ranges: false }
    }

    fn file(&self, name: &str, bytes: &[u8], store: SocketAddr) -> Answer {
        let checksum = checksum(name, bytes);
        let commit = format!("X-Repo-Commit: {}", self.commit);
        if !is_large(name, bytes) {
            let headers = vec![commit, format!("ETag: \"{checksum}\"")];
            return Answer { status: 200, headers, body: bytes.to_vec(), has_ranges: true };
        }
        let headers = vec![
            commit,
            format!("X-Linked-ETag: \"{checksum}\""),
            format!("X-Linked-Size: {}", bytes.len()),
            format!("Location: http://{store}/{checksum}?Signature=secret"),
        ];
        Answer { status: 302, headers, body: b"Found".to_vec(), has_ranges: false }
    }
}
