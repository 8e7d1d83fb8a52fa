//! One file: from where a broken download stopped to a verified blob.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use crate::cache::{RepoCache, cache_error, sync_folder_of};
use crate::client::{Client, Content, Failure, PROGRESS, header};
use crate::lock::Lock;
use crate::name::Repo;
use crate::{Event, HubError, Options};

const BUFFER: usize = 256 << 10;

/// A file that is to be in a snapshot.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// A plain path, with `/` between folders.
    pub(crate) name: String,
    pub(crate) content: Content,
}

/// Which of the files that are to be downloaded it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) index: usize,
    pub(crate) of: usize,
}

impl Wanted {
    fn event(&self, place: Place, done: u64) -> Event<'_> {
        Event::File { name: &self.name, index: place.index, of: place.of, done, total: self.content.size }
    }
}

/// What all files of one download share.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client<'a>,
    pub(crate) repo: &'a Repo,
    pub(crate) cache: &'a RepoCache,
    pub(crate) commit: &'a str,
    pub(crate) options: &'a Options,
}

impl Download<'_> {
    /// Whether the snapshot has the file, with its length. What is under a blob's name was verified by whoever
    /// wrote it.
    pub(crate) fn is_there(&self, file: &Wanted) -> bool {
        has_length(&self.cache.snapshot(self.commit).join(&file.name), file.content.size)
    }

    /// Bytes still to be downloaded of a file that the snapshot does not have.
    pub(crate) fn missing(&self, file: &Wanted) -> u64 {
        let blob = self.cache.blob(&file.content.checksum);
        if has_length(&blob, file.content.size) {
            return 0;
        }
        let partial = fs::metadata(incomplete(&blob)).map_or(0, |data| data.len());
        // One that is too long is thrown away.
        if partial > file.content.size { file.content.size } else { file.content.size - partial }
    }

    /// Downloads a file where it is missing and links it into the snapshot.
    pub(crate) fn fetch(
        &self,
        file: &Wanted,
        place: Place,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), HubError> {
        let blob = self.cache.blob(&file.content.checksum);
        let _lock =
            Lock::take(&self.cache.blob_lock(&file.content.checksum), self.options.lock_poll, notify)?;
        if !has_length(&blob, file.content.size) {
            let mut partial = Partial::open(incomplete(&blob), &file.content)?;
            let found = partial.len;
            notify(file.event(place, partial.len));
            self.fill(file, place, &mut partial, notify)?;
            // What another program left half done may be no beginning of this file: once more, from nothing.
            if found > 0 && !partial.is_right() {
                partial.restart()?;
                self.fill(file, place, &mut partial, notify)?;
            }
            partial.finish(&file.name, &blob)?;
        }
        self.cache.link(self.commit, &file.name, &file.content.checksum)
    }

    fn fill(
        &self,
        file: &Wanted,
        place: Place,
        partial: &mut Partial,
        notify: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), HubError> {
        self.client.retrying(notify, |notify| {
            let start = partial.len;
            if start == partial.content.size {
                return Ok(());
            }
            let reply = self.client.get_file(self.repo, self.commit, &file.name, start)?;
            self.receive(file, partial, reply, &mut |done| notify(file.event(place, done))).map_err(
                |failure| {
                    match failure {
                        Failure::Passing { error, wait, .. } => {
                            // From nothing again is no progress, however many bytes it brought.
                            let has_progressed = partial.len >= start.saturating_add(PROGRESS);
                            Failure::Passing { error, wait, has_progressed }
                        }
                        failure => failure,
                    }
                },
            )
        })
    }

    /// Appends one answer's bytes.
    fn receive(
        &self,
        file: &Wanted,
        partial: &mut Partial,
        reply: Response<Body>,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let (size, name) = (partial.content.size, &file.name);
        let broken = |partial: &Partial, reason: String| {
            Failure::passing(HubError::Interrupted {
                file: name.clone(),
                done: partial.len,
                total: size,
                attempts: self.client.attempts(),
                reason,
            })
        };
        let wrong_length =
            |found| Failure::passing(HubError::Length { file: name.clone(), expected: size, found });
        match reply.status().as_u16() {
            206 => {
                let range = header(reply.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
                let (start, total) = parse_range(range).unwrap_or((u64::MAX, None));
                if let Some(total) = total.filter(|total| *total != size) {
                    return Err(wrong_length(total));
                }
                if start != partial.len {
                    let reason = format!("bytes from {} on were asked for, '{range}' came", partial.len);
                    partial.restart()?;
                    return Err(broken(partial, reason));
                }
            }
            416 => {
                partial.restart()?;
                return Err(broken(partial, "the server has no such range of bytes".to_owned()));
            }
            // The whole file, from a server that has no ranges.
            _ if partial.len > 0 => partial.restart()?,
            _ => {}
        }
        let announced =
            header(reply.headers(), CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
        if let Some(announced) = announced.filter(|announced: &u64| *announced != size - partial.len) {
            return Err(wrong_length(partial.len.saturating_add(announced)));
        }
        let mut body = reply.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            match body.read(&mut buffer) {
                Ok(0) if partial.len == size => return Ok(()),
                Ok(0) => return Err(broken(partial, "the connection was closed".to_owned())),
                Ok(n) if partial.len + n as u64 > size => {
                    let found = partial.len + n as u64;
                    partial.restart()?;
                    return Err(wrong_length(found));
                }
                Ok(n) => partial.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(partial, e.to_string())),
            }
            report(partial.len);
        }
    }
}

/// `bytes FIRST-LAST/TOTAL` → first and total.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (bytes, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = bytes.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

fn has_length(path: &Path, length: u64) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == length)
}

/// Where a blob's bytes arrive; `huggingface_hub` uses the same name, and either goes on with the other's.
fn incomplete(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    PathBuf::from(name)
}

/// A blob that arrives: its file and the checksum of the bytes so far.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    hasher: Hasher,
    content: Content,
}

impl Partial {
    /// Opens what an earlier attempt left, or an empty file.
    fn open(path: PathBuf, content: &Content) -> Result<Self, HubError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|e| cache_error("write", &path, e))?;
        let failed = |e| cache_error("read", &path, e);
        let mut hasher = Hasher::new(content);
        let mut len = 0;
        if file.metadata().map_err(failed)?.len() <= content.size {
            let mut buffer = vec![0; BUFFER];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) if len + n as u64 <= content.size => {
                        hasher.update(&buffer[..n]);
                        len += n as u64;
                    }
                    // No regular file, or one that grows under the lock: what is in it does not count.
                    Ok(_) => {
                        hasher = Hasher::new(content);
                        len = 0;
                        break;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        file.seek(SeekFrom::Start(len)).map_err(failed)?;
        let mut partial = Self { path, file, len, hasher, content: content.clone() };
        if len == 0 {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.hasher = Hasher::new(&self.content);
        self.len = 0;
        let is_empty = self.file.metadata().is_ok_and(|data| data.len() == 0);
        let cut = if is_empty { Ok(()) } else { self.file.set_len(0) };
        cut.and_then(|()| self.file.rewind()).map_err(|e| cache_error("write", &self.path, e))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|e| self.write_error(e))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn is_right(&self) -> bool {
        self.hasher.clone().finish() == self.content.checksum
    }

    /// Verifies the bytes, flushes them to the disk and gives them the blob's name.
    fn finish(self, name: &str, blob: &Path) -> Result<(), HubError> {
        let found = self.hasher.clone().finish();
        if found != self.content.checksum {
            fs::remove_file(&self.path).map_err(|e| cache_error("remove", &self.path, e))?;
            let expected = self.content.checksum;
            return Err(HubError::Checksum { file: name.to_owned(), expected, found });
        }
        // Without this the rename could reach the disk before the bytes do, and a power cut would leave a blob
        // that looks verified.
        self.file.sync_all().map_err(|e| self.write_error(e))?;
        fs::rename(&self.path, blob).map_err(|e| cache_error("rename", &self.path, e))?;
        sync_folder_of(blob);
        Ok(())
    }

    fn write_error(&self, e: io::Error) -> HubError {
        if !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return cache_error("write", &self.path, e);
        }
        let folder = self.path.parent().unwrap_or(&self.path).to_owned();
        // The part of the last write that did reach the disk is of no consequence: it is hashed when it is read.
        let free = crate::free_space(&folder).unwrap_or(0);
        HubError::NoSpace { folder, needed: self.content.size - self.len, free }
    }
}

/// The checksum that the hub has for a file: of its bytes, or as git has it for a blob.
#[derive(Debug, Clone)]
enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn new(content: &Content) -> Self {
        if content.checksum.len() == 64 {
            Self::Sha256(Sha256::new())
        } else {
            Self::Git(Sha1::new_with_prefix(format!("blob {}\0", content.size)))
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    /// Hexadecimal, lower case.
    fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers() {
        let check = |range: &str, expect: Option<(u64, Option<u64>)>| assert_eq!(parse_range(range), expect);
        check("bytes 5-9/10", Some((5, Some(10))));
        check("bytes 5-9/*", Some((5, None)));
        check("bytes */10", None);
        check("", None);
        check("bytes 99999999999999999999-/1", None);
    }

    #[test]
    fn checksums_of_known_contents() {
        let check = |bytes: &[u8], checksum: &str| {
            let content = Content { size: bytes.len() as u64, checksum: checksum.to_owned() };
            let mut hasher = Hasher::new(&content);
            hasher.update(bytes);
            assert_eq!(hasher.finish(), checksum);
        };
        // `git hash-object` of an empty file and of "hello\n"; `sha256sum` of nothing.
        check(b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        check(b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a");
        check(b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
