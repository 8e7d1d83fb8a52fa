//! What killed runs leave in folders for temporary files: Open MPI's session folders and segments of shared memory. On
//! machines where /tmp or /dev/shm are small a few crashes would fill them. Only what belongs to this user and to
//! processes that are gone is removed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{hosts, processes};

/// A segment younger than this may have been made by a process that is about to map it.
const YOUNG: Duration = Duration::from_secs(2);

/// Removes what is left of runs that are gone. Gives how many things it removed.
pub fn remove() -> usize {
    let user = rustix::process::geteuid().as_raw();
    let host = hosts::own_name();
    let variables = ["TMPDIR", "TEMP", "TMP"].into_iter().filter_map(std::env::var_os);
    let folders: BTreeSet<OsString> = variables.chain(["/tmp".into()]).collect();
    let sessions: usize = folders.iter().map(|folder| sessions(Path::new(folder), &host, user)).sum();
    sessions + segments(Path::new("/dev/shm"), &host, user)
}

/// Session folders: `ompi.HOST.UID/pid.PID`.
fn sessions(temporary: &Path, host: &str, user: u32) -> usize {
    // The host's name may be cut at its first dot.
    let short = host.split('.').next().unwrap_or(host);
    let names: BTreeSet<String> = [host, short].map(|host| format!("ompi.{host}.{user}")).into();
    let mut removed = 0;
    for top in names.into_iter().map(|name| temporary.join(name)).filter(|top| is_own(top, user)) {
        for (name, path) in entries(&top) {
            let pid = name.strip_prefix("pid.").and_then(|pid| pid.parse().ok());
            let is_dead = pid.is_some_and(|pid| !processes::is_alive(pid));
            removed += usize::from(is_dead && is_own(&path, user) && std::fs::remove_dir_all(&path).is_ok());
        }
        // The folder above stays, empty or not: an mpirun that starts now may be about to make its own in it.
    }
    removed
}

/// Segments of shared memory, `vader_segment.HOST.UID.JOB.RANK` (`sm_segment` since 5.0), that nobody has mapped.
fn segments(shared: &Path, host: &str, user: u32) -> usize {
    let short = host.split('.').next().unwrap_or(host);
    let prefixes: Vec<String> = ["vader_segment", "sm_segment"]
        .into_iter()
        .flat_map(|kind| [host, short].map(|host| format!("{kind}.{host}.{user}.")))
        .collect();
    let is_ours = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let found: Vec<PathBuf> =
        entries(shared).into_iter().filter(|(name, _)| is_ours(name)).map(|(_, path)| path).collect();
    let old = found.into_iter().filter(|path| is_own(path, user) && !is_young(path));
    let old: Vec<PathBuf> = old.collect();
    if old.is_empty() {
        return 0;
    }
    // Looked up after the list was made: what is mapped by now is in use.
    let mapped = mapped_below(shared);
    let unused = old.into_iter().filter(|path| !mapped.contains(path));
    unused.filter(|path| std::fs::remove_file(path).is_ok()).count()
}

/// Files of a folder that any process has mapped.
fn mapped_below(folder: &Path) -> BTreeSet<PathBuf> {
    let prefix = format!("{}/", folder.display());
    let mut mapped = BTreeSet::new();
    for pid in processes::all() {
        let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in String::from_utf8_lossy(&maps).lines() {
            if let Some(at) = line.find(&prefix) {
                mapped.insert(PathBuf::from(line[at..].trim_end()));
            }
        }
    }
    mapped
}

fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

/// A link is not followed: it is not ours to say what it points to.
fn is_own(path: &Path, user: u32) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|data| data.uid() == user && !data.file_type().is_symlink())
}

fn is_young(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|data| data.modified());
    modified.is_ok_and(|when| when.elapsed().is_ok_and(|age| age < YOUNG))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn only_sessions_of_the_dead_go() {
        let temporary = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let make = |path: String| std::fs::create_dir_all(temporary.path().join(path)).unwrap();
        let (dead, alive) = (gone(), std::process::id());
        make(format!("ompi.here.{user}/pid.{dead}/0"));
        make(format!("ompi.here.{user}/pid.{alive}/0"));
        make(format!("ompi.here.{user}/other"));
        make(format!("ompi.there.{user}/pid.{dead}"));
        make(format!("ompi.here.{}/pid.{dead}", user + 1));
        assert_eq!(sessions(temporary.path(), "here.example", user), 1);
        let is = |path: String| temporary.path().join(path).exists();
        assert!(!is(format!("ompi.here.{user}/pid.{dead}")) && is(format!("ompi.here.{user}/pid.{alive}")));
        assert!(is(format!("ompi.here.{user}/other")) && is(format!("ompi.there.{user}/pid.{dead}")));
        assert!(is(format!("ompi.here.{}/pid.{dead}", user + 1)));
    }

    #[test]
    fn only_segments_that_nobody_maps_go() {
        let shared = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        let make = |name: String, age| {
            let path = shared.path().join(name);
            std::fs::write(&path, [0; 4096]).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(age).unwrap();
            path
        };
        let unused = make(format!("vader_segment.here.{user}.1.0"), old);
        let young = make(format!("vader_segment.here.{user}.2.0"), std::time::SystemTime::now());
        let foreign = make(format!("vader_segment.there.{user}.1.0"), old);
        let used = make(format!("vader_segment.here.{user}.3.0"), old);
        // A program stays mapped while it runs: a copy of one serves.
        std::fs::copy("/bin/sleep", &used).unwrap();
        rustix::fs::chmod(&used, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        std::fs::File::options().append(true).open(&used).unwrap().set_modified(old).unwrap();
        let mut user_of_it = std::process::Command::new(&used).arg("60").spawn().unwrap();
        // On a busy machine it may take a moment until it is the program.
        let maps = format!("/proc/{}/maps", user_of_it.id());
        let begun = std::time::Instant::now();
        let is_mapped = || std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("vader_segment"));
        while !is_mapped() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(segments(shared.path(), "here", user), 1);
        assert!(!unused.exists() && young.exists() && foreign.exists() && used.exists());
        user_of_it.kill().unwrap();
        user_of_it.wait().unwrap();
    }
}
