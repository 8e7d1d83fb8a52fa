//! Requests to the hub: redirects, the token, retries, and what a refusal means.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use crate::environment::{Settings, Token};
use crate::name::{Kind, Repo, is_commit, is_hex};
use crate::{Event, HubError, Options};

const MAX_REDIRECTS: usize = 10;

/// A list of files is refused above this many bytes; one of 100,000 files has about 30 MiB.
const LARGEST_LISTING: u64 = 256 << 20;

/// What a refusal says is read up to here.
const LARGEST_MESSAGE: u64 = 64 << 10;

/// An attempt that brought at least this many bytes does not count as one without progress.
pub(crate) const PROGRESS: u64 = 1 << 20;

/// Talks to one hub.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    agent: Agent,
    endpoint: &'a str,
    token: Option<&'a Token>,
    options: &'a Options,
}

/// Why one attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another attempt would fail as well.
    Final(HubError),
    /// Worth another attempt.
    Passing {
        /// What to say if it was the last one.
        error: HubError,
        /// The server's own wish.
        wait: Option<Duration>,
        /// Whether this attempt brought [`PROGRESS`].
        has_progressed: bool,
    },
}

impl Failure {
    pub(crate) fn passing(error: HubError) -> Self {
        Self::Passing { error, wait: None, has_progressed: false }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// With `/` between folders; not checked.
    pub(crate) name: String,
    /// Size in bytes and checksum, where the list has them.
    pub(crate) content: Option<Content>,
}

/// What a file's bytes have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// In bytes.
    pub(crate) size: u64,
    /// Hexadecimal: 64 digits are the SHA-256 of the bytes, 40 are git's SHA-1 of a blob.
    pub(crate) checksum: String,
}

impl Content {
    fn new(size: Option<u64>, checksum: Option<&str>) -> Option<Self> {
        let checksum = checksum?.to_ascii_lowercase();
        let is_checksum = matches!(checksum.len(), 40 | 64) && is_hex(&checksum);
        is_checksum.then_some(Self { size: size?, checksum })
    }
}

/// The files of a repository at a commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<Entry>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    #[serde(default)]
    siblings: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEntry {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(settings: &'a Settings, options: &'a Options) -> Result<Self, HubError> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, where it is decided who sees the token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(settings.proxy.clone())
            .tls_config(TlsConfig::builder().root_certs(settings.root_certificates()?).build())
            .user_agent(concat!("gpart-dist/", env!("CARGO_PKG_VERSION")))
            // Checksums and ranges are of the bytes as they lie on the server.
            .accept_encoding("identity")
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.read_timeout))
            .timeout_per_read(Some(options.read_timeout))
            .build();
        Ok(Self {
            agent: Agent::new_with_config(config),
            endpoint: &settings.endpoint,
            token: settings.token.as_ref(),
            options,
        })
    }

    /// The commit that a revision is and the files that it has.
    pub(crate) fn listing(
        &self,
        repo: &Repo,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<Listing, HubError> {
        let url = format!("{}/{}", self.endpoint, repo.listing_path());
        self.retrying(notify, |_| {
            let mut reply = self.answer(Method::GET, &url, None, repo, None)?;
            let bytes = reply.body_mut().with_config().limit(LARGEST_LISTING).read_to_vec();
            let bytes = bytes.map_err(|e| Failure::passing(self.unreachable(&url, e.to_string())))?;
            Ok(Listing::parse(&bytes, &url)?)
        })
    }

    /// Size and checksum of one file, for a hub whose list does not have them.
    pub(crate) fn content(
        &self,
        repo: &Repo,
        commit: &str,
        file: &str,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<Content, HubError> {
        let url = self.file_url(repo, commit, file);
        self.retrying(notify, |_| {
            let reply = self.answer(Method::HEAD, &url, None, repo, Some(file))?;
            let headers = reply.headers();
            let size = header(headers, "x-linked-size").or_else(|| header(headers, CONTENT_LENGTH.as_str()));
            let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
            Content::new(size.and_then(|size| size.parse().ok()), etag)
                .ok_or_else(|| garbage(&url, "no size and checksum of the file in the headers").into())
        })
    }

    pub(crate) fn file_url(&self, repo: &Repo, commit: &str, file: &str) -> String {
        format!("{}/{}", self.endpoint, repo.file_path(commit, file))
    }

    /// One GET of a file from byte `start`, redirects followed: an answer of status 200, 206 or 416.
    pub(crate) fn get_file(
        &self,
        repo: &Repo,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Response<Body>, Failure> {
        let start = Some(start).filter(|start| *start > 0);
        self.answer(Method::GET, &self.file_url(repo, commit, file), start, repo, Some(file))
    }

    /// Runs `attempt` until it succeeds, fails for good, or has failed [`Options::attempts`] times in a row.
    pub(crate) fn retrying<T>(
        &self,
        notify: &mut dyn FnMut(Event<'_>),
        mut attempt: impl FnMut(&mut dyn FnMut(Event<'_>)) -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            let (error, wait, has_progressed) = match attempt(notify) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { error, wait, has_progressed }) => (error, wait, has_progressed),
            };
            failures = if has_progressed { 1 } else { failures + 1 };
            if failures >= self.options.attempts {
                return Err(error);
            }
            let backoff = self.options.first_wait.saturating_mul(1 << (failures - 1).min(16));
            let wait = wait.unwrap_or(backoff).min(self.options.longest_wait);
            notify(Event::Retry { reason: &error.of_one_attempt(), wait });
            std::thread::sleep(wait);
        }
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.options.attempts
    }

    fn unreachable(&self, url: &str, reason: String) -> HubError {
        HubError::Unreachable { url: without_query(url), attempts: self.options.attempts, reason }
    }

    /// One request. Redirects are followed: those of a HEAD on the hub alone, since the headers that count are
    /// those of the hub and not of the store that it refers to.
    fn answer(
        &self,
        method: Method,
        url: &str,
        start: Option<u64>,
        repo: &Repo,
        file: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.send(&method, &url, start)?;
            let status = reply.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return match status {
                    200..=299 => Ok(reply),
                    416 if start.is_some() => Ok(reply),
                    _ => Err(self.refusal(&url, reply, repo, file)),
                };
            }
            let target = header(reply.headers(), LOCATION.as_str()).unwrap_or_default();
            let target = join(&url, target).ok_or_else(|| {
                garbage(&url, format!("it redirects to '{}'", clean(&without_query(target))))
            })?;
            if method == Method::HEAD && !is_same_origin(&target, self.endpoint) {
                return Ok(reply);
            }
            if url.starts_with("https:") && !target.starts_with("https:") {
                return Err(garbage(&url, "it redirects from https to http").into());
            }
            url = target;
        }
        Err(garbage(&url, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    fn send(&self, method: &Method, url: &str, start: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(url);
        // The store behind the hub has addresses that carry their own permission. Nobody else sees the token.
        if let Some(token) = self.token.filter(|_| is_same_origin(url, self.endpoint)) {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret));
        }
        if let Some(start) = start {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let request = request.body(()).map_err(|e| garbage(url, format!("not an address: {e}")))?;
        self.agent.run(request).map_err(|e| match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Final(garbage(url, e.to_string())),
            // What the TLS library refuses; another attempt would meet the same certificate.
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => {
                Failure::Final(HubError::Certificate { url: without_query(url), reason: e.to_string() })
            }
            ureq::Error::Io(e) => Failure::passing(self.unreachable(url, e.to_string())),
            e => Failure::passing(self.unreachable(url, e.to_string())),
        })
    }

    /// What a status other than 2xx means.
    fn refusal(&self, url: &str, mut reply: Response<Body>, repo: &Repo, file: Option<&str>) -> Failure {
        let status = reply.status().as_u16();
        let headers = reply.headers().clone();
        let message = refusal_message(&headers, reply.body_mut());
        let code = header(&headers, "x-error-code").unwrap_or_default();
        let id = repo.id.clone();
        let error = match (status, code) {
            (401 | 403, "GatedRepo") => self.gated(repo, message),
            (403, _) if message.to_ascii_lowercase().contains("gated") => self.gated(repo, message),
            (404, "RevisionNotFound") => HubError::RevisionNotFound { id, revision: repo.revision.clone() },
            (404, "EntryNotFound") => self.file_not_found(repo, file.unwrap_or_default()),
            (401 | 403 | 404, "RepoNotFound") => self.repo_not_found(repo),
            (401, _) => match self.token {
                Some(token) => HubError::BadToken { source_of_token: token.origin.clone(), message },
                // Without a token, the hub does not tell a private repository from one that is not there.
                None => self.repo_not_found(repo),
            },
            (403, _) => HubError::Forbidden { url: without_query(url), message },
            (404, _) => match file {
                Some(file) => self.file_not_found(repo, file),
                None => self.repo_not_found(repo),
            },
            _ => {
                let may_pass = matches!(status, 408 | 429 | 500..=599);
                let attempts = if may_pass { self.options.attempts } else { 1 };
                let error = HubError::Status { url: without_query(url), status, attempts, message };
                let wait = header(&headers, RETRY_AFTER.as_str()).and_then(|wait| wait.parse().ok());
                let wait = wait.map(Duration::from_secs);
                return if may_pass {
                    Failure::Passing { error, wait, has_progressed: false }
                } else {
                    Failure::Final(error)
                };
            }
        };
        Failure::Final(error)
    }

    fn gated(&self, repo: &Repo, message: String) -> HubError {
        let kind = if repo.kind == Kind::Dataset { "datasets/" } else { "" };
        let link = format!("https://huggingface.co/{kind}{}", repo.id);
        let advice = match self.token {
            None => format!(
                "log in and accept the licence at {link}, make a token with read access at \
                 https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
            ),
            Some(token) => format!(
                "the token from {} is not on the list: with its account accept the licence at {link} (and wait, \
                 where the owners look at each request), then run the same command again",
                token.origin
            ),
        };
        HubError::Gated { id: repo.id.clone(), message, advice }
    }

    fn repo_not_found(&self, repo: &Repo) -> HubError {
        HubError::RepoNotFound {
            kind: repo.kind.word(),
            id: repo.id.clone(),
            endpoint: self.endpoint.to_owned(),
        }
    }

    fn file_not_found(&self, repo: &Repo, file: &str) -> HubError {
        HubError::FileNotFound { id: repo.id.clone(), revision: repo.revision.clone(), file: file.to_owned() }
    }
}

impl Listing {
    /// Reads a hub's answer; `url` is only named in errors.
    pub(crate) fn parse(answer: &[u8], url: &str) -> Result<Self, HubError> {
        let raw: RawListing = serde_json::from_slice(answer)
            .map_err(|e| garbage(url, format!("the list of files is not the JSON of a hub: {e}")))?;
        if !is_commit(&raw.sha) {
            return Err(garbage(url, format!("'{}' is no commit", clean(&raw.sha))));
        }
        Ok(Self { commit: raw.sha, files: raw.siblings.into_iter().map(Entry::from).collect() })
    }
}

impl From<RawEntry> for Entry {
    fn from(raw: RawEntry) -> Self {
        let content = match &raw.lfs {
            Some(lfs) => Content::new(lfs.size.or(raw.size), lfs.sha256.as_deref()),
            None => Content::new(raw.size, raw.blob_id.as_deref()),
        };
        Self { name: raw.rfilename, content }
    }
}

pub(crate) fn garbage(url: &str, reason: impl Into<String>) -> HubError {
    HubError::Garbage { url: without_query(url), reason: reason.into() }
}

pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The hub's own words: a header, or `error` of a JSON body, or how a page begins.
fn refusal_message(headers: &HeaderMap, body: &mut Body) -> String {
    if let Some(message) = header(headers, "x-error-message").filter(|message| !message.is_empty()) {
        return clean(message);
    }
    let bytes = body.with_config().limit(LARGEST_MESSAGE).read_to_vec().unwrap_or_default();
    let json: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    match json.as_ref().and_then(|json| json.get("error")?.as_str()) {
        Some(message) => clean(message),
        None if bytes.is_empty() => "no reason is given".to_owned(),
        None => clean(&String::from_utf8_lossy(&bytes)),
    }
}

/// Text of a server, fit for one line of a terminal.
pub(crate) fn clean(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An address for messages. A query can hold a signature that lets anybody fetch the file.
pub(crate) fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// Where a `Location` leads, seen from `url`.
fn join(url: &str, location: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let joined = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        return None;
    };
    joined.parse::<Uri>().ok()?.host().is_some().then_some(joined)
}

/// Same scheme, host and port.
fn is_same_origin(a: &str, b: &str) -> bool {
    let origin = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_owned();
        let port = uri.port_u16().or(match scheme.as_str() {
            "https" => Some(443),
            _ => Some(80),
        });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    origin(a).is_some_and(|a| Some(a) == origin(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn who_sees_the_token() {
        let check = |url: &str, expect: bool| {
            assert_eq!(is_same_origin(url, "https://hub.example"), expect, "{url}");
        };
        check("https://hub.example/a/b", true);
        check("https://HUB.example:443/", true);
        check("http://hub.example/", false);
        check("https://hub.example:8443/", false);
        check("https://hub.example.evil.example/", false);
        check("https://hub.example@evil.example/", false);
        check("https://cdn.hub.example/", false);
        check("nonsense", false);
    }

    #[test]
    fn where_redirects_lead() {
        let check = |location: &str, expect: Option<&str>| {
            assert_eq!(join("https://h.example:1/a/b?c", location).as_deref(), expect, "{location}");
        };
        check("/x?y=%2F", Some("https://h.example:1/x?y=%2F"));
        check("//cdn.example/x", Some("https://cdn.example/x"));
        check("https://cdn.example/x", Some("https://cdn.example/x"));
        check("", None);
        check("x", None);
        check("file:///etc/passwd", None);
        check("https://", None);
    }

    #[test]
    fn text_of_a_server_is_one_short_line() {
        assert_eq!(clean("a\n b\u{1b}[31m\tc"), "a b [31m c");
        assert_eq!(clean(&"ä".repeat(400)).chars().count(), 301);
    }
}
