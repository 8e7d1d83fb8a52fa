//! libtorch 2.11.0, the version that the bindings want: the user's own, a Python's, or PyPI's wheel unpacked.
//!
//! The wheel is unpacked without its dependencies. Its `libtorch_cpu.so` needs two of NVIDIA's libraries to load,
//! on machines without a GPU as well; they are found through its relative RPATH, so they are unpacked beside it.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::IsTerminal;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::apt;
use super::system::PIP;
use crate::shell::{Failure, Outcome, output_of, run, run_quietly, say, while_doing};

/// The version that the bindings are made for.
pub const VERSION: &str = "2.11.0";
const WHEELS: [&str; 3] = ["torch==2.11.0", "nvidia-cuda-cupti==13.0.*", "nvidia-cuda-runtime==13.0.*"];

/// Prints version and folder of an installed torch without importing it, which would take seconds.
const PYTHON_TORCH: &str = "import importlib.metadata as m, importlib.util as u
print(m.version('torch').split('+')[0], u.find_spec('torch').submodule_search_locations[0])";

/// Makes a libtorch findable for the build: by the user's own variables, or as `.deps/libtorch`.
pub fn ensure(root: &Path) -> Outcome {
    let link = root.join(".deps/libtorch");
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return users_python();
    }
    if let Some(dir) = users_libtorch(&link) {
        return users_folder(&dir);
    }
    if inspect(&link).is_ok() {
        let target = fs::read_link(&link).unwrap_or_else(|_| link.clone());
        say("libtorch", format!("found {VERSION} (.deps/libtorch → {})", target.display()));
        return Ok(());
    }
    let folder = match python_torch("python3") {
        Some((version, folder)) if version == VERSION && inspect(&folder).is_ok() => {
            say("libtorch", format!("found {VERSION} in python3 ({})", folder.display()));
            folder
        }
        _ => cached()?,
    };
    point(&link, &folder)
}

/// `LIBTORCH` where the user set it; cargo itself sets it to our link (`.cargo/config.toml`).
fn users_libtorch(link: &Path) -> Option<PathBuf> {
    let dir = PathBuf::from(env::var_os("LIBTORCH")?);
    let canonical_parent = |path: &Path| path.parent().and_then(|parent| parent.canonicalize().ok());
    let ours = dir.ends_with(".deps/libtorch") && canonical_parent(&dir) == canonical_parent(link);
    (!ours).then_some(dir)
}

fn users_folder(dir: &Path) -> Outcome {
    let hint = format!(
        "LIBTORCH is the folder that holds include/ and lib/ of libtorch {VERSION}; \
         unset it, and set-up fetches that version"
    );
    if !dir.is_absolute() {
        let message =
            format!("LIBTORCH={} is a relative path; build scripts need an absolute one", dir.display());
        return Err(Failure::with_hint(message, hint));
    }
    inspect(dir).map_err(|why| Failure::with_hint(format!("LIBTORCH={}: {why}", dir.display()), hint))?;
    say("libtorch", format!("found {} (LIBTORCH={})", version_in(dir).unwrap_or_default(), dir.display()));
    Ok(())
}

fn users_python() -> Outcome {
    // The build script of torch-sys asks the same interpreter.
    let python = if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
    let wrong = |found: String| {
        let message = format!("LIBTORCH_USE_PYTORCH is set, but {python} {found}");
        Failure::with_hint(
            message,
            format!("`{python} -m pip install torch=={VERSION}`, or unset the variable"),
        )
    };
    let (version, folder) = python_torch(python).ok_or_else(|| wrong("has no torch".to_owned()))?;
    inspect(&folder).map_err(|why| wrong(format!("has torch {version} in {}: {why}", folder.display())))?;
    say("libtorch", format!("found {version} (LIBTORCH_USE_PYTORCH, {})", folder.display()));
    Ok(())
}

/// Version and folder of the torch that a Python would import.
fn python_torch(python: &str) -> Option<(String, PathBuf)> {
    let printed = output_of(Command::new(python).args(["-c", PYTHON_TORCH]))?;
    let (version, folder) = printed.trim().split_once(' ')?;
    Some((version.to_owned(), PathBuf::from(folder)))
}

/// Whether a folder holds a libtorch that we can build against and load; else what is wrong with it.
fn inspect(dir: &Path) -> Result<(), String> {
    let version = version_in(dir).ok_or("no libtorch headers there")?;
    if version != VERSION && env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none() {
        return Err(format!("it holds version {version}, and {VERSION} is needed"));
    }
    let lib = env::var_os("LIBTORCH_LIB").map_or_else(|| dir.to_path_buf(), PathBuf::from).join("lib");
    for name in ["libtorch_cpu.so", "libtorch.so", "libc10.so"] {
        if !lib.join(name).is_file() {
            return Err(format!("{} is missing", lib.join(name).display()));
        }
    }
    // A wheel without its neighbours, or a file cut short, shows here and not at the first run of the binary.
    let loads = output_of(Command::new("ldd").arg(lib.join("libtorch_cpu.so")))
        .ok_or_else(|| format!("{} is damaged", lib.join("libtorch_cpu.so").display()))?;
    let unresolved = |line: &str| line.contains("not found").then(|| line.trim().to_owned());
    match loads.lines().find_map(unresolved) {
        Some(line) => Err(format!("its libtorch_cpu.so cannot load: {line}")),
        None => Ok(()),
    }
}

/// The version in the headers of a libtorch.
fn version_in(dir: &Path) -> Option<String> {
    let include =
        env::var_os("LIBTORCH_INCLUDE").map_or_else(|| dir.to_path_buf(), PathBuf::from).join("include");
    ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"]
        .iter()
        .find_map(|header| version_from(&fs::read_to_string(include.join(header)).ok()?))
}

/// "2.11.0" from `#define TORCH_VERSION_MAJOR 2`, `…_MINOR 11`, `…_PATCH 0`.
fn version_from(header: &str) -> Option<String> {
    let number = |part: &str| {
        let prefix = format!("#define TORCH_VERSION_{part} ");
        header.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::trim)
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

/// The unpacked wheels in the user's cache, fetched if they are not there yet.
fn cached() -> Outcome<PathBuf> {
    let cache = cache_folder()?;
    fs::create_dir_all(&cache).map_err(while_doing("create", &cache))?;
    let _lock = lock(&cache.join("setup.lock"))?;
    let folder = cache.join(format!("torch-{VERSION}"));
    if let Err(why) = inspect(&folder.join("torch")) {
        if folder.exists() {
            say("libtorch", format!("repairing {}: {why}", folder.display()));
            fs::remove_dir_all(&folder).map_err(while_doing("remove", &folder))?;
        }
        fetch(&cache, &folder)?;
    }
    Ok(folder.join("torch"))
}

pub(super) fn cache_folder() -> Outcome<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let base =
        base.ok_or_else(|| Failure::with_hint("no cache folder: HOME is not set", "set XDG_CACHE_HOME"))?;
    Ok(base.join("gpart-dist"))
}

/// Held until the file is dropped; the kernel lets go of it when a process dies.
pub(super) fn lock(path: &Path) -> Outcome<File> {
    let file = File::create(path).map_err(while_doing("create", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => say("libtorch", "waiting for another set-up to finish …"),
        Err(TryLockError::Error(error)) => return Err(while_doing("lock", path)(error)),
    }
    file.lock().map_err(while_doing("lock", path))?;
    Ok(file)
}

/// Downloads and unpacks the wheels of libtorch.
fn fetch(cache: &Path, folder: &Path) -> Outcome {
    let wheels = Wheels {
        part: "libtorch",
        packages: &WHEELS,
        size: "545 MB; 1.2 GB unpacked",
        hint: format!(
            "pip's own settings say where it looks; or bring libtorch {VERSION} and set LIBTORCH=DIR"
        ),
    };
    wheels.fetch(cache, folder, |unpacked| inspect(&unpacked.join("torch")))
}

/// Wheels from PyPI that are unpacked without their dependencies.
pub(super) struct Wheels<'a> {
    /// The name in the first column of what we print.
    pub part: &'static str,
    pub packages: &'a [&'static str],
    pub size: &'static str,
    /// What to do where pip fails.
    pub hint: String,
}

impl Wheels<'_> {
    /// Downloads and unpacks beside the final folder, then renames: what is there under its name is complete. The
    /// caller holds the cache's lock.
    pub(super) fn fetch(
        &self,
        cache: &Path,
        folder: &Path,
        inspect: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Outcome {
        let started = Instant::now();
        let python = python_with_pip()?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // The lock is ours, so a folder of this name was left by an interrupted set-up.
        let partial = cache.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(while_doing("remove", &partial))?;
        }
        let (wheels, unpacked) = (partial.join("wheels"), partial.join("unpacked"));
        for dir in [&wheels, &unpacked] {
            fs::create_dir_all(dir).map_err(while_doing("create", dir))?;
        }
        say(self.part, format!("fetching {} with pip ({}) …", self.packages.join(" "), self.size));
        run(&mut self.download(&python, &wheels))
            .map_err(|failure| Failure::with_hint(failure.message, self.hint.clone()))?;
        say(self.part, format!("unpacking into {} …", folder.display()));
        let entries = fs::read_dir(&wheels).map_err(while_doing("read", &wheels))?;
        for wheel in entries.flatten().map(|entry| entry.path()) {
            run_quietly(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
            fs::remove_file(&wheel).map_err(while_doing("remove", &wheel))?;
        }
        inspect(&unpacked).map_err(|why| Failure::new(format!("the wheels from pip do not serve: {why}")))?;
        fs::rename(&unpacked, folder).map_err(while_doing("create", folder))?;
        fs::remove_dir_all(&partial).map_err(while_doing("remove", &partial))?;
        say(self.part, format!("in place after {:.0} s", started.elapsed().as_secs_f64()));
        Ok(())
    }

    /// pip's download of the wheels. Which Python a wheel is for does not matter to libtorch, but torch has none for
    /// Pythons before 3.10, so there a later one is asked for.
    fn download(&self, python: &str, wheels: &Path) -> Command {
        let mut command = Command::new(python);
        command
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest"])
            .arg(wheels);
        let is_old = "import sys; sys.exit(sys.version_info >= (3, 10))";
        if output_of(Command::new(python).args(["-c", is_old])).is_some() {
            command.args(["--python-version", "3.12"]);
        }
        // A progress bar needs a terminal; elsewhere pip says nothing unless something is wrong.
        if !std::io::stdout().is_terminal() {
            command.arg("--quiet");
        }
        command.args(self.packages);
        command
    }
}

/// A Python whose pip works, installed by apt if there is none.
pub(super) fn python_with_pip() -> Outcome<String> {
    let has_pip = |python: &&str| output_of(Command::new(python).args(["-m", "pip", "--version"])).is_some();
    // Debian's Python comes second: a user's own may lack pip while Debian's has it.
    let candidates = ["python3", "/usr/bin/python3"];
    if let Some(python) = candidates.iter().find(|python| has_pip(python)) {
        return Ok((*python).to_owned());
    }
    say(PIP.name, "missing: no python3 with pip");
    apt::install(&[PIP])?;
    let found = candidates.iter().find(|python| has_pip(python));
    found.map(|python| (*python).to_owned()).ok_or_else(|| apt::still_missing(&[PIP]))
}

fn point(link: &Path, folder: &Path) -> Outcome {
    place_link("libtorch", link, folder)
}

/// Points a link of `.deps` at a folder, in one step for anyone who is building.
pub(super) fn place_link(part: &'static str, link: &Path, folder: &Path) -> Outcome {
    let parent = link.parent().unwrap_or(link);
    fs::create_dir_all(parent).map_err(while_doing("create", parent))?;
    if link.is_dir() && !link.is_symlink() {
        let message = format!("{} is a folder, and does not serve as {part}", link.display());
        return Err(Failure::with_hint(message, "move it away; set-up puts a link there"));
    }
    let fresh = parent.join(format!("{part}.{}", std::process::id()));
    symlink(folder, &fresh).map_err(while_doing("create", &fresh))?;
    fs::rename(&fresh, link).map_err(while_doing("replace", link))?;
    say(part, format!("linked .deps/{part} → {}", folder.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_version_is_read_from_the_header() {
        let header = "#pragma once\n#define TORCH_VERSION_MAJOR 2\n/// doc\n#define TORCH_VERSION_MINOR 11\n\
                      #define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION_ABI_TAG 0\n";
        assert_eq!(version_from(header).unwrap(), "2.11.0");
        assert_eq!(version_from("#define TORCH_VERSION_MAJOR 2\n"), None);
    }

    #[test]
    fn a_folder_without_libtorch_is_refused_with_the_reason() {
        let dir = env::temp_dir().join(format!("xtask-libtorch-{}", std::process::id()));
        let include = dir.join("include/torch/headeronly");
        fs::create_dir_all(&include).unwrap();
        assert!(inspect(&dir).unwrap_err().contains("no libtorch headers"));
        let header = |minor| {
            format!(
                "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH 0\n"
            )
        };
        fs::write(include.join("version.h"), header(7)).unwrap();
        assert!(inspect(&dir).unwrap_err().contains("2.7.0"));
        fs::write(include.join("version.h"), header(11)).unwrap();
        assert!(inspect(&dir).unwrap_err().contains("libtorch_cpu.so is missing"));
        fs::create_dir_all(dir.join("lib")).unwrap();
        for name in ["libtorch_cpu.so", "libtorch.so", "libc10.so"] {
            fs::write(dir.join("lib").join(name), "").unwrap();
        }
        assert!(inspect(&dir).unwrap_err().contains("damaged"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
