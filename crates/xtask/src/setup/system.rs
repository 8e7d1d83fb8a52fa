//! Looking for the compiler, MPI and libclang, in the places where the build scripts of our dependencies look.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Machine;
use crate::shell::{accepts, output_of, say, which};

/// Something that Debian can install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The name in the first column of what we print.
    pub name: &'static str,
    /// What it must offer, for the user who installs it by other means.
    pub needs: &'static str,
    pub debian: &'static [&'static str],
}

pub const COMPILER: Part = Part {
    name: "compiler",
    needs: "a C and C++17 compiler (CC, CXX, or cc and c++ on PATH)",
    debian: &["g++"],
};
pub const MPI: Part = Part {
    name: "MPI",
    needs: "mpicc and mpirun on PATH, with mpi.h",
    debian: &["openmpi-bin", "libopenmpi-dev"],
};
pub const LIBCLANG: Part = Part {
    name: "libclang",
    needs: "libclang.so (LIBCLANG_PATH names its folder)",
    debian: &["libclang-dev"],
};
pub const PIP: Part = Part {
    name: "pip",
    needs: "python3 with pip, to fetch libtorch (or a libtorch 2.11.0 of your own: LIBTORCH=DIR)",
    debian: &["python3", "python3-pip"],
};

/// Whether a part is here: what it is, or what is wrong.
pub enum Found {
    Yes(String),
    No(String),
}

/// The C++ compiler that the `cc` crate will use.
pub fn compiler(_: &mut Machine) -> (Part, Found) {
    let cxx = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let Some(path) = which(&cxx) else {
        return (COMPILER, Found::No(format!("missing: no {} on PATH", cxx.to_string_lossy())));
    };
    if !accepts(Command::new(&path).args(["-std=c++17", "-E", "-x", "c++", "-"]), "#include <string>\n") {
        return (COMPILER, Found::No(format!("missing: {} finds no C++17 headers", path.display())));
    }
    let version = output_of(Command::new(&path).arg("--version")).unwrap_or_default();
    (COMPILER, Found::Yes(format!("{} ({})", first_line(&version), path.display())))
}

/// The MPI whose `mpicc` comes first: `MPICC`, then PATH.
pub fn mpi(machine: &mut Machine) -> (Part, Found) {
    let wrapper = env::var_os("MPICC").unwrap_or_else(|| "mpicc".into());
    let Some(mpicc) = which(&wrapper) else {
        return (MPI, Found::No(format!("missing: no {} on PATH", wrapper.to_string_lossy())));
    };
    if !accepts(Command::new(&mpicc).args(["-E", "-x", "c", "-"]), "#include <mpi.h>\n") {
        return (MPI, Found::No(format!("missing: {} finds no mpi.h", mpicc.display())));
    }
    let Some(mpirun) = which("mpirun") else {
        // Debian's wrapper without Debian's launcher is half an installation; any other is the user's own.
        if mpicc.starts_with("/usr/bin") {
            return (MPI, Found::No("missing: mpicc is here, mpirun is not".to_owned()));
        }
        let note = format!("{}; no mpirun on PATH, which the demo and the tests need", mpicc.display());
        return (MPI, Found::Yes(note));
    };
    machine.has_mpirun = true;
    let version = output_of(Command::new(mpirun).arg("--version")).unwrap_or_default();
    machine.open_mpi = version.contains("Open MPI") || version.contains("OpenRTE");
    // Hydra, MPICH's launcher, answers with a block of build details that has the version in its second line.
    let version = version.lines().find(|line| line.contains(|c: char| c.is_ascii_digit())).unwrap_or("");
    let version = version.trim().trim_start_matches("mpirun ").replace(['(', ')'], "");
    name_mpi_libraries(machine, &mpicc);
    (MPI, Found::Yes(format!("{version} ({})", mpicc.display())))
}

/// An MPI outside the linker's default folders, without a module that says where it is, is named to the programs
/// that we start.
fn name_mpi_libraries(machine: &mut Machine, mpicc: &Path) {
    let shown = output_of(Command::new(mpicc).arg("-show")).unwrap_or_default();
    let known: Vec<PathBuf> =
        env::var_os("LD_LIBRARY_PATH").map(|dirs| env::split_paths(&dirs).collect()).unwrap_or_default();
    let runs_by_default = |dir: &Path| dir.starts_with("/usr/lib") || dir.starts_with("/lib");
    let library = shown
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("-L"))
        .map(PathBuf::from)
        .find(|dir| dir.join("libmpi.so").exists() && !runs_by_default(dir) && !known.contains(dir));
    if let Some(dir) = library {
        let joined = env::join_paths([vec![dir], known].concat()).unwrap_or_else(|_| OsString::new());
        tell(machine, "MPI", "LD_LIBRARY_PATH", joined.to_string_lossy().into_owned());
    }
}

/// libclang, and the headers that a compiler brings of its own, for the bindings to MPI.
pub fn libclang(machine: &mut Machine) -> (Part, Found) {
    let Some(library) = find_libclang(machine) else {
        return (
            LIBCLANG,
            Found::No("missing: no libclang.so in LIBCLANG_PATH or the usual folders".to_owned()),
        );
    };
    // Without clang itself nothing tells a libclang from elsewhere (pip's, conda's) where <stddef.h> is; the C
    // compiler's own will do. Debian's libclang knows /usr/lib/clang.
    let near = library.parent().into_iter().flat_map(|dir| [dir.join("clang"), dir.join("../clang")]);
    let has_headers = near.into_iter().any(|dir| has_match(&dir, "include/stddef.h"));
    if !has_headers && which("clang").is_none() && env::var_os("BINDGEN_EXTRA_CLANG_ARGS").is_none() {
        let cc = env::var_os("CC").unwrap_or_else(|| "cc".into());
        if let Some(dir) = output_of(Command::new(cc).arg("-print-file-name=include")) {
            let include = format!("-I{}", dir.trim());
            tell(machine, "libclang", "BINDGEN_EXTRA_CLANG_ARGS", include);
        }
    }
    (LIBCLANG, Found::Yes(library.display().to_string()))
}

fn find_libclang(machine: &mut Machine) -> Option<PathBuf> {
    if let Some(path) = env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
        return if path.is_file() { path.canonicalize().ok() } else { libclang_in(&path) };
    }
    let llvm_config = env::var_os("LLVM_CONFIG_PATH").unwrap_or_else(|| "llvm-config".into());
    let told = which(llvm_config).and_then(|path| output_of(Command::new(path).arg("--libdir")));
    // Where clang-sys looks without being told; newest LLVM first.
    let usual = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"].map(PathBuf::from);
    let mut versioned: Vec<PathBuf> =
        ["/usr/lib", "/usr/lib64", "/usr/local"].iter().flat_map(|dir| subfolders(Path::new(dir))).collect();
    versioned.sort_by_key(|dir| (std::cmp::Reverse(trailing_number(dir)), dir.clone()));
    let below = versioned.iter().flat_map(|dir| [dir.join("lib"), dir.join("lib64"), dir.clone()]);
    let dirs = told.map(|dir| PathBuf::from(dir.trim())).into_iter().chain(below).chain(usual);
    if let Some(found) = dirs.into_iter().find_map(|dir| libclang_in(&dir)) {
        return Some(found);
    }
    // A conda environment is not among those folders, so the build has to be told.
    let conda = PathBuf::from(env::var_os("CONDA_PREFIX")?).join("lib");
    let found = libclang_in(&conda)?;
    tell(machine, "libclang", "LIBCLANG_PATH", conda.display().to_string());
    Some(found)
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.so.18.1.0` …, with links followed.
fn libclang_in(dir: &Path) -> Option<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.file_name().is_some_and(|name| is_libclang(&name.to_string_lossy())));
    names.sort();
    names.iter().find_map(|path| path.canonicalize().ok())
}

fn is_libclang(name: &str) -> bool {
    // `libclang-cpp.so` is another library.
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let Some((version, suffix)) = rest.split_once(".so") else { return false };
    let numeric = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
    numeric(version.strip_prefix('-').unwrap_or(version)) && numeric(suffix)
}

/// Sets a variable for the programs that we start, and shows it for those that the user starts.
fn tell(machine: &mut Machine, part: &str, name: &str, value: String) {
    say(part, format!("for your own cargo commands: export {name}={value}"));
    machine.environment.push((name.to_owned(), value));
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn has_match(dir: &Path, below: &str) -> bool {
    subfolders(dir).iter().any(|version| version.join(below).exists())
}

/// 14 of `llvm-14`, 0 where there is none.
fn trailing_number(dir: &Path) -> u32 {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.rsplit('-').next().and_then(|tail| tail.parse().ok()).unwrap_or(0)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in [
            "libclang.so",
            "libclang.so.1",
            "libclang-14.so.1",
            "libclang.so.18.1.0",
            "libclang-14.so.14.0.6",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so", "libclang-cpp.so.14", "libclang.a", "libclangAST.so", "libLLVM.so"] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn newest_llvm_first() {
        assert_eq!(trailing_number(Path::new("/usr/lib/llvm-14")), 14);
        assert_eq!(trailing_number(Path::new("/usr/lib/x86_64-linux-gnu")), 0);
    }
}
