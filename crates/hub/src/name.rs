//! Names of repositories, revisions and files, checked before any of them becomes part of a path or an address.

use crate::HubError;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// For messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        }
    }

    /// The part of an address or a folder's name.
    fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// A repository of the hub at a revision.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(crate) kind: Kind,
    /// `owner/name`, or `name` alone as the oldest repositories have it.
    pub(crate) id: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
}

impl Repo {
    /// Checks both names by the hub's rules.
    pub(crate) fn new(kind: Kind, id: &str, revision: Option<&str>) -> Result<Self, HubError> {
        let what = match kind {
            Kind::Model => "name of a model on the hub",
            Kind::Dataset => "name of a dataset on the hub",
        };
        if let Some(reason) = flaw_of_id(id) {
            return Err(HubError::BadName { what, value: id.to_owned(), reason });
        }
        let revision = revision.unwrap_or("main");
        if !is_plain_path(revision) {
            let reason = "a branch, tag or commit has no empty part, no '..' and no control character";
            return Err(HubError::BadName { what: "revision", value: revision.to_owned(), reason });
        }
        Ok(Self { kind, id: id.to_owned(), revision: revision.to_owned() })
    }

    /// The folder's name in the cache, such as `models--meta-llama--Llama-3.1-8B`.
    pub(crate) fn folder_name(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.id.replace('/', "--"))
    }

    /// The path of the list of files, below the endpoint. `blobs=true` adds sizes and checksums.
    pub(crate) fn listing_path(&self) -> String {
        let revision = percent_encode(&self.revision, b"");
        format!("api/{}/{}/revision/{revision}?blobs=true", self.kind.plural(), self.id)
    }

    /// The path of a file, below the endpoint.
    pub(crate) fn file_path(&self, commit: &str, file: &str) -> String {
        let prefix = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        format!("{prefix}{}/resolve/{commit}/{}", self.id, percent_encode(file, b"/"))
    }

    /// What downloads the whole repository with the hub's own tool.
    pub(crate) fn command(&self) -> String {
        let kind = if self.kind == Kind::Dataset { "--repo-type dataset " } else { "" };
        let revision = if self.revision == "main" { "" } else { &format!(" --revision {}", self.revision) };
        format!("hf download {kind}{}{revision}", self.id)
    }
}

/// The rule of the hub that a repository's name breaks.
fn flaw_of_id(id: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        Some("it should be owner/name")
    } else if !parts.iter().all(|part| part.chars().all(allowed)) {
        Some("letters, digits, '-', '_' and '.' are allowed")
    } else if parts.iter().any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
        Some("neither part may begin or end with '-' or '.'")
    } else if id.contains("--") || id.contains("..") {
        Some("'--' and '..' are not allowed")
    } else if id.len() > 96 {
        Some("it is longer than 96 characters")
    } else {
        None
    }
}

/// Whether a name with `/` between its parts stays inside the folder that it is joined to, on any system.
pub(crate) fn is_plain_path(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    name.len() <= 1024
        && name.split('/').all(plain)
        && !name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
}

/// A file's name as a server or one of its files gives it, before it becomes a path.
pub(crate) fn check_file_name(repo: &Repo, name: &str) -> Result<(), HubError> {
    if is_plain_path(name) {
        Ok(())
    } else {
        Err(HubError::UnsafeName { id: repo.id.clone(), name: name.to_owned() })
    }
}

/// Whether this is a full commit hash.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether all characters are hexadecimal digits in lower case.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `%XX` for everything but unreserved characters (RFC 3986, 2.3) and those in `keep`.
fn percent_encode(text: &str, keep: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_of_repositories() {
        let check = |id: &str, expect: bool| {
            assert_eq!(Repo::new(Kind::Model, id, None).is_ok(), expect, "{id:?}");
        };
        check("meta-llama/Llama-3.1-8B", true);
        check("gpt2", true);
        check("mistralai/Mistral-7B-v0.1", true);
        for id in
            ["", "/", "a/", "/a", "a/b/c", "../b", "a/..", "a/b c", "a/b\n", "a--b/c", ".a/b", "a/b-", "ä/b"]
        {
            check(id, false);
        }
        check(&format!("a/{}", "b".repeat(100)), false);
    }

    #[test]
    fn names_of_files() {
        let check = |name: &str, expect: bool| assert_eq!(is_plain_path(name), expect, "{name:?}");
        check("config.json", true);
        check("data/train-00000-of-00001.parquet", true);
        check("refs/pr/1", true);
        check("a b/ü.json", true);
        for name in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a\\..\\b", "C:x", "a\0b", "a\nb"]
        {
            check(name, false);
        }
        check(&"a".repeat(256), false);
    }

    #[test]
    fn addresses_and_folders() {
        let repo = Repo::new(Kind::Dataset, "o/n", Some("refs/pr/1")).unwrap();
        assert_eq!(repo.folder_name(), "datasets--o--n");
        assert_eq!(repo.listing_path(), "api/datasets/o/n/revision/refs%2Fpr%2F1?blobs=true");
        assert_eq!(repo.file_path("c", "a b/#?.json"), "datasets/o/n/resolve/c/a%20b/%23%3F.json");
        assert_eq!(repo.command(), "hf download --repo-type dataset o/n --revision refs/pr/1");
    }
}
