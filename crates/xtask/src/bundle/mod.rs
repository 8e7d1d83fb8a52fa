//! `cargo xtask bundle`: everything that a host needs to run gpart-dist, but for libtorch: the binaries, Open MPI with
//! its plugins, presets, the tiny models and golden runs of `gpart-dist gpu-check`, and a script that starts them.
//!
//! ```text
//! run.sh               finds libtorch and starts what is in bin/
//! bin/                 gpart-dist, gpart-launch, mpirun, orted
//! lib/                 what they need beside libc and libtorch; lib/fallback: what nearly every host has itself
//! configs/, tests/golden/
//! LICENSE, licenses/   ours, and those of everything that is in the binaries and in lib/
//! VERSION, SHA256SUMS
//! ```
//!
//! The bundle may lie in any folder: libraries are found relative to the file that needs them.

mod elf;
mod licenses;
mod mpi;
mod pack;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{self, Machine};
use crate::shell::{Failure, Outcome, output_of, say, which, while_doing};
use crate::tasks;

/// The script that starts everything.
const RUN_SH: &str = include_str!("run.sh");

/// What is copied from the repository, and where it is run from.
const FROM_REPOSITORY: [&str; 4] =
    ["LICENSE", "configs", "tests/golden/architectures", "tests/golden/metamath"];

/// The command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A folder, or an archive where the name ends in `.tar.gz`.
    output: Option<PathBuf>,
    release: bool,
    /// Installation of Open MPI to take in place of the one on PATH.
    mpi: Option<PathBuf>,
}

impl Wanted {
    /// None where the words are no such command line.
    pub fn parse(words: &[&str]) -> Option<Self> {
        let mut wanted = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--release" => wanted.release = true,
                "--output" => wanted.output = Some(PathBuf::from(words.next()?)),
                "--mpi" => wanted.mpi = Some(PathBuf::from(words.next()?)),
                _ => return None,
            }
        }
        Some(wanted)
    }
}

/// Builds, collects, checks the size, and puts the bundle in place.
pub fn bundle(root: &Path, wanted: &Wanted) -> Outcome {
    let machine = setup::run(root)?;
    let tools = elf::Tools::find()?;
    let mpi = mpi::OpenMpi::find(wanted.mpi.as_deref())?;
    say("MPI", format!("Open MPI {} ({})", mpi.version, mpi.programs.display()));
    let binaries = build(root, &machine, wanted.release)?;
    let name = format!("gpart-dist-{}-{}-linux", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let default = tasks::target_folder(root, &machine)?.join(format!("bundle/{name}.tar.gz"));
    // Relative to where the command was typed, as everybody expects.
    let output = wanted.output.clone().map_or(default, |path| std::path::absolute(&path).unwrap_or(path));
    let target = pack::Target::new(output, &name)?;
    let staged = Staged { folder: target.staging().to_owned() };
    collect(root, &staged, &binaries, &mpi, &tools, wanted.release)?;
    licenses::collect(root, &machine, &staged)?;
    pack::write_sums(&staged.folder)?;
    target.finish(commit_time(root))
}

/// The folder in which a bundle takes shape.
pub struct Staged {
    pub folder: PathBuf,
}

impl Staged {
    /// Copies a file to a place in the bundle, with its mode, links followed.
    pub fn copy(&self, from: &Path, to: impl AsRef<Path>) -> Outcome<PathBuf> {
        let to = self.folder.join(to);
        let parent = to.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(while_doing("create", parent))?;
        fs::copy(from, &to).map_err(while_doing("copy", from))?;
        Ok(to)
    }

    /// Copies a folder with all that is in it.
    pub fn copy_tree(&self, from: &Path, to: &Path) -> Outcome {
        for entry in fs::read_dir(from).map_err(while_doing("read", from))?.flatten() {
            let (path, to) = (entry.path(), to.join(entry.file_name()));
            match path.is_dir() {
                true => self.copy_tree(&path, &to)?,
                false => self.copy(&path, &to).map(drop)?,
            }
        }
        Ok(())
    }

    /// Writes a text file.
    pub fn write(&self, to: &str, text: &str) -> Outcome {
        let path = self.folder.join(to);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(while_doing("create", parent))?;
        fs::write(&path, text).map_err(while_doing("write", &path))
    }
}

/// The built `gpart-dist` and `gpart-launch`.
///
/// A release is built in a target folder of its own, with the folders of this machine named otherwise in the messages
/// that the compilers write into the binaries. The debug build is the one that the tests use, as it is: building
/// libtorch's bindings again takes minutes.
fn build(root: &Path, machine: &Machine, release: bool) -> Outcome<[PathBuf; 2]> {
    let target = tasks::target_folder(root, machine)?;
    let folder = match release {
        false => {
            tasks::build_binary(root, machine, false)?;
            target.join("debug")
        }
        true => {
            let target = target.join("bundle-build");
            let renamed = renamed_folders(root);
            let flags = |flag: &str, between: &str| -> String {
                let flags: Vec<String> =
                    renamed.iter().map(|(from, to)| format!("{flag}={from}={to}")).collect();
                flags.join(between)
            };
            let more = [
                ("CARGO_TARGET_DIR", target.display().to_string()),
                ("CARGO_ENCODED_RUSTFLAGS", flags("--remap-path-prefix", "\x1f")),
                ("CXXFLAGS", flags("-ffile-prefix-map", " ")),
                ("CFLAGS", flags("-ffile-prefix-map", " ")),
            ];
            let mut machine = Machine { environment: machine.environment.clone(), ..Machine::default() };
            machine.environment.extend(more.map(|(name, value)| (name.to_owned(), value)));
            tasks::build_binary(root, &machine, true)?;
            target.join("release")
        }
    };
    Ok(["gpart-dist", "gpart-launch"].map(|name| folder.join(name)))
}

/// Folders of this machine and what they are called in a release. Compilers take the last that fits.
fn renamed_folders(root: &Path) -> Vec<(String, String)> {
    let libtorch = env::var_os("LIBTORCH").map_or_else(|| root.join(".deps/libtorch"), PathBuf::from);
    let home = |name: &str, below: &str| {
        let own = env::var_os(name).map(PathBuf::from);
        own.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(below)))
    };
    let folders = [
        (Some(root.to_owned()), "/gpart-dist"),
        (Some(libtorch), "/libtorch"),
        (home("CARGO_HOME", ".cargo"), "/cargo"),
        (home("RUSTUP_HOME", ".rustup"), "/rustup"),
    ];
    let known =
        folders.into_iter().filter_map(|(from, to)| Some((from?.display().to_string(), to.to_owned())));
    known.filter(|(from, _)| from.len() > 1).collect()
}

fn collect(
    root: &Path,
    staged: &Staged,
    binaries: &[PathBuf; 2],
    mpi: &mpi::OpenMpi,
    tools: &elf::Tools,
    release: bool,
) -> Outcome {
    for (binary, name) in binaries.iter().zip(["bin/gpart-dist", "bin/gpart-launch"]) {
        staged.copy(binary, name)?;
    }
    for part in FROM_REPOSITORY {
        let from = root.join(part);
        match from.is_dir() {
            true => staged.copy_tree(&from, Path::new(part))?,
            false => staged.copy(&from, part).map(drop)?,
        }
    }
    mpi.collect(staged, &binaries[0])?;
    let run = staged.folder.join("run.sh");
    staged.write("run.sh", RUN_SH)?;
    make_executable(&run)?;
    let files = tools.make_relocatable(&staged.folder)?;
    let glibc = elf::newest_glibc(&staged.folder, &files)?;
    audit(root, &files, release)?;
    staged.write("VERSION", &version(root, mpi, &glibc, release))
}

/// Names of folders of this machine that are left in binaries: none in a release.
fn audit(root: &Path, files: &[PathBuf], release: bool) -> Outcome {
    let names: Vec<String> = renamed_folders(root).into_iter().map(|(from, _)| from).collect();
    let mut found = 0;
    for file in files {
        let bytes = fs::read(file).map_err(while_doing("read", file))?;
        found += names.iter().map(|name| count(&bytes, name.as_bytes())).sum::<usize>();
    }
    match (found, release) {
        (0, _) => say("paths", "no folder of this machine is named in the binaries"),
        (found, false) => say(
            "paths",
            format!(
                "folders of this machine are named {found} times, in messages alone; --release names none"
            ),
        ),
        (found, true) => say("paths", format!("folders of this machine are still named {found} times")),
    }
    Ok(())
}

fn count(bytes: &[u8], name: &[u8]) -> usize {
    // A search for the first byte is as fast as memory; the rest is compared where it is found.
    let Some(first) = name.first() else { return 0 };
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.filter(|(at, _)| bytes[*at..].starts_with(name)).count()
}

/// `VERSION`: a line a thing; the script reads `libtorch` and `glibc`.
fn version(root: &Path, mpi: &mpi::OpenMpi, glibc: &str, release: bool) -> String {
    let git = |args: &[&str]| {
        let printed = output_of(Command::new("git").current_dir(root).args(args));
        printed.map(|text| text.trim().to_owned())
    };
    let dirty = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let rustc = output_of(Command::new("rustc").arg("--version")).unwrap_or_default();
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let compiler = output_of(Command::new(compiler).arg("--version")).unwrap_or_default();
    let lines = [
        ("gpart-dist", env!("CARGO_PKG_VERSION").to_owned()),
        ("commit", format!("{commit}{}", if dirty { " with changes" } else { "" })),
        ("date", git(&["log", "-1", "--format=%cI"]).unwrap_or_else(|| "unknown".to_owned())),
        ("profile", if release { "release" } else { "dev" }.to_owned()),
        ("target", format!("{}-linux-gnu", env::consts::ARCH)),
        ("libtorch", setup::LIBTORCH_VERSION.to_owned()),
        ("glibc", glibc.to_owned()),
        ("openmpi", mpi.version.clone()),
        ("rustc", rustc.trim().trim_start_matches("rustc ").to_owned()),
        ("c++", compiler.lines().next().unwrap_or("unknown").to_owned()),
    ];
    lines.map(|(name, value)| format!("{name:<11} {value}\n")).concat()
}

/// Seconds since 1970 of the commit, for the files of the archive: the same bundle twice is the same bytes.
fn commit_time(root: &Path) -> u64 {
    let printed = output_of(Command::new("git").current_dir(root).args(["log", "-1", "--format=%ct"]));
    printed.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn make_executable(path: &Path) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(while_doing("make executable", path))
}

/// A program that the bundle cannot be made without, installed where it is missing.
fn need(program: &str, part: setup::Part) -> Outcome<PathBuf> {
    if let Some(path) = which(program) {
        return Ok(path);
    }
    setup::install(&[part])?;
    which(program).ok_or_else(|| Failure::new(format!("{program} is not on PATH, though it was installed")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_command_line() {
        let check =
            |words: &[&str], expect: Option<Wanted>| assert_eq!(Wanted::parse(words), expect, "{words:?}");
        check(&[], Some(Wanted::default()));
        let output = Some(PathBuf::from("a.tar.gz"));
        check(&["--release", "--output", "a.tar.gz"], Some(Wanted { output, release: true, mpi: None }));
        check(&["--mpi", "/opt/mpi"], Some(Wanted { mpi: Some("/opt/mpi".into()), ..Wanted::default() }));
        check(&["--output"], None);
        check(&["--debug"], None);
    }

    #[test]
    fn what_is_shipped_of_the_repository_is_there() {
        let root = crate::shell::repository_root().unwrap();
        for part in FROM_REPOSITORY {
            assert!(root.join(part).exists(), "{part}");
        }
    }

    #[test]
    fn names_are_counted() {
        assert_eq!(count(b"/home/a /home/b /hom", b"/home/"), 2);
        assert_eq!(count(b"", b"/home/"), 0);
    }

    #[test]
    fn the_script_is_one_that_a_plain_shell_reads() {
        let mut command = Command::new("sh");
        assert!(crate::shell::accepts(command.args(["-n", "-"]), RUN_SH));
    }
}
