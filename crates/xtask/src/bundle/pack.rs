//! Checksums, size, and the folder or archive that comes out. What is there under its name is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Staged;
use crate::shell::{Failure, Outcome, output_of, run_quietly, say, while_doing};

/// Most bytes of a bundle, packed.
const MOST: u64 = 60_000_000;

/// A folder in which a bundle is made, and the place for it.
pub struct Target {
    output: PathBuf,
    /// Beside the output, so that the last step is a rename.
    partial: PathBuf,
    name: String,
}

impl Target {
    /// # Errors
    /// A folder that is not a bundle is in the way.
    pub fn new(output: PathBuf, name: &str) -> Outcome<Self> {
        if output.is_dir() && !output.join("SHA256SUMS").is_file() && !is_empty(&output) {
            let message = format!("{} is there and is no bundle", output.display());
            return Err(Failure::with_hint(message, "name another folder or a .tar.gz with --output"));
        }
        let parent =
            output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(while_doing("create", parent))?;
        let partial = parent.join(format!(".{name}.{}.partial", std::process::id()));
        let target = Self { partial, name: name.to_owned(), output };
        let staging = target.staging();
        fs::create_dir_all(&staging).map_err(while_doing("create", &staging))?;
        Ok(target)
    }

    /// Where the bundle takes shape.
    pub fn staging(&self) -> PathBuf {
        self.partial.join(&self.name)
    }

    fn is_archive(&self) -> bool {
        let name = self.output.to_string_lossy();
        name.ends_with(".tar.gz") || name.ends_with(".tgz")
    }

    /// Puts the bundle in its place, and says what it is and how large.
    ///
    /// # Errors
    /// It is too large; nothing is replaced then.
    pub fn finish(self, time: u64) -> Outcome {
        let folder = self.staging();
        let files = sizes(&folder)?;
        let unpacked = files.iter().map(|(_, size)| size).sum();
        // What travels counts, also where a folder was asked for.
        let archive = self.partial.join("archive.tar.gz");
        pack(&self.partial, &self.name, &archive, time)?;
        let packed = archive.metadata().map_err(while_doing("look at", &archive))?.len();
        check_size(packed, &files)?;
        let made = if self.is_archive() { archive } else { folder };
        if self.output.is_dir() {
            fs::remove_dir_all(&self.output).map_err(while_doing("replace", &self.output))?;
        }
        fs::rename(&made, &self.output).map_err(while_doing("create", &self.output))?;
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let (packed, unpacked) = (megabytes(packed), megabytes(unpacked));
        let text = format!("{}: {packed} packed, {unpacked} in {} files", self.output.display(), files.len());
        say("bundle", text);
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.partial);
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// The same files give the same bytes: sorted, without names of users, with one time.
fn pack(parent: &Path, name: &str, archive: &Path, time: u64) -> Outcome {
    let mut tar = Command::new("tar");
    tar.current_dir(parent).args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{time}"))
        .args(["--use-compress-program=gzip -9n", "-cf"])
        .arg(archive)
        .arg(name);
    run_quietly(&mut tar)
}

/// Refuses what is too large, naming the largest files.
fn check_size(size: u64, files: &[(PathBuf, u64)]) -> Outcome {
    if size <= MOST {
        return Ok(());
    }
    let mut largest: Vec<_> = files.iter().collect();
    largest.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let shown: Vec<String> =
        largest.iter().take(5).map(|(path, size)| format!("{} {size}", path.display())).collect();
    let message = format!("the bundle has {size} bytes packed, and at most {MOST} are allowed");
    Err(Failure::with_hint(message, format!("the largest files: {}", shown.join(", "))))
}

/// Files of a folder, relative to it, sorted, with their sizes.
fn sizes(folder: &Path) -> Outcome<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).map_err(while_doing("read", &next))?.flatten() {
            let path = entry.path();
            let meta = path.metadata().map_err(while_doing("look at", &path))?;
            match meta.is_dir() {
                true => waiting.push(path),
                false => found.push((path.strip_prefix(folder).unwrap_or(&path).to_owned(), meta.len())),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes `SHA256SUMS` of every other file.
pub fn write_sums(folder: &Path) -> Outcome {
    let files: Vec<PathBuf> = sizes(folder)?.into_iter().map(|(path, _)| path).collect();
    let files = files.iter().filter(|path| *path != Path::new("SHA256SUMS"));
    let sums = output_of(Command::new("sha256sum").current_dir(folder).arg("--").args(files))
        .ok_or_else(|| Failure::with_hint("sha256sum failed", "it is part of GNU coreutils"))?;
    Staged { folder: folder.to_owned() }.write("SHA256SUMS", &sums)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-bundle-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn fill(target: &Target) {
        let staged = Staged { folder: target.staging() };
        staged.write("bin/program", "program").unwrap();
        staged.write("run.sh", "script").unwrap();
        write_sums(&staged.folder).unwrap();
    }

    #[test]
    fn sums_cover_every_file_and_notice_a_change() {
        let folder = scratch("sums");
        let target = Target::new(folder.join("out"), "name").unwrap();
        fill(&target);
        target.finish(0).unwrap();
        let out = folder.join("out");
        let check = || {
            let mut command = Command::new("sha256sum");
            output_of(command.current_dir(&out).args(["--check", "--strict", "--quiet", "SHA256SUMS"]))
        };
        assert_eq!(fs::read_to_string(out.join("SHA256SUMS")).unwrap().lines().count(), 2);
        assert!(check().is_some());
        fs::write(out.join("bin/program"), "another").unwrap();
        assert!(check().is_none());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_archive_is_the_same_twice_and_holds_one_folder() {
        let folder = scratch("archive");
        let made = ["a.tar.gz", "b.tar.gz"].map(|name| {
            let target = Target::new(folder.join(name), "name").unwrap();
            fill(&target);
            target.finish(1_700_000_000).unwrap();
            fs::read(folder.join(name)).unwrap()
        });
        assert!(made[0] == made[1]);
        let listed = output_of(Command::new("tar").arg("-tzf").arg(folder.join("a.tar.gz"))).unwrap();
        assert_eq!(listed, "name/\nname/SHA256SUMS\nname/bin/\nname/bin/program\nname/run.sh\n");
        // Nothing else is left beside them.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_of_somebody_elses_is_not_replaced() {
        let folder = scratch("foreign");
        fs::write(folder.join("thesis.tex"), "years").unwrap();
        let failure = Target::new(folder.clone(), "name").err().unwrap();
        assert!(failure.message.contains("is no bundle"), "{}", failure.message);
        assert!(folder.join("thesis.tex").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_too_large_is_refused_with_the_largest_files() {
        let files = [("small".into(), 1), ("large".into(), MOST)];
        assert!(check_size(MOST, &files).is_ok());
        let failure = check_size(MOST + 1, &files).unwrap_err();
        assert!(failure.message.contains("60000001"), "{}", failure.message);
        assert!(failure.hint.unwrap().contains("large 60000000, small 1"));
    }
}
