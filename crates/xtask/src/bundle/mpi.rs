//! Open MPI as this machine has it, or an installation that is named: programs, libraries, plugins, help texts, put where
//! `OPAL_PREFIX` and `PMIX_INSTALL_PREFIX` make it look for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::elf::{Home, home, needs};
use super::{Staged, need};
use crate::setup::MPI;
use crate::shell::{Failure, Outcome, output_of, say, while_doing};

/// What stands for the bundle's folder while Open MPI is asked where it would look.
const MARKER: &str = "/BUNDLE";

/// An installation.
pub struct OpenMpi {
    pub version: String,
    /// Folder of `mpirun` and `orted`.
    pub programs: PathBuf,
    /// Its variable for another place; an installation that is named needs it to know where it is.
    prefix: Option<PathBuf>,
    /// Where its plugins and texts are, and where they belong in the bundle.
    folders: Vec<(PathBuf, PathBuf)>,
}

impl OpenMpi {
    /// The one on PATH, or the one in a folder that holds `bin/` and `lib/`.
    ///
    /// # Errors
    /// Another MPI, or one that does not say where it is.
    pub fn find(prefix: Option<&Path>) -> Outcome<Self> {
        let info = match prefix {
            Some(prefix) => prefix.join("bin/ompi_info"),
            None => need("ompi_info", MPI).map_err(|failure| {
                Failure::with_hint(
                    format!("a bundle ships Open MPI, and ompi_info is not here: {}", failure.message),
                    "put Open MPI's bin on PATH, or name its folder with --mpi",
                )
            })?,
        };
        let ask = |prefix: Option<&Path>, args: &[&str]| {
            let mut command = Command::new(&info);
            command.args(args);
            if let Some(prefix) = prefix {
                // Programs of an installation that is not where it was made find their libraries with it.
                command.env("OPAL_PREFIX", prefix);
            }
            output_of(&mut command).ok_or_else(|| Failure::new(format!("{} does not run", info.display())))
        };
        let (here, there) = (
            ask(prefix, &["--parsable", "--path", "all"])?,
            ask(Some(Path::new(MARKER)), &["--parsable", "--path", "all"])?,
        );
        let version = ask(prefix, &["--version"])?;
        let version = version.lines().find_map(|line| line.strip_prefix("Open MPI v")).unwrap_or("unknown");
        let folder = |printed: &str, name: &str| {
            let start = format!("path:{name}:");
            printed.lines().find_map(|line| line.strip_prefix(&start)).map(PathBuf::from)
        };
        let folders = ["pkglibdir", "pkgdatadir"].iter().filter_map(|name| {
            let to = folder(&there, name)?.strip_prefix(MARKER).ok()?.to_owned();
            Some((folder(&here, name)?, to))
        });
        let programs = folder(&here, "bindir")
            .ok_or_else(|| Failure::new(format!("{} does not name bindir", info.display())))?;
        Ok(Self {
            version: version.to_owned(),
            programs,
            prefix: prefix.map(Path::to_owned),
            folders: folders.collect(),
        })
    }

    /// Copies programs, the libraries that they and `binary` need, plugins whose needs are among those, and texts.
    pub fn collect(&self, staged: &Staged, binary: &Path) -> Outcome {
        let mut libraries = Libraries { first: self.folders_of_libraries(), ..Libraries::default() };
        libraries.of(binary)?;
        for name in ["mpirun", "orted"] {
            let program = self.program(name)?;
            libraries.of(&program)?;
            staged.copy(&program, Path::new("bin").join(name))?;
        }
        let mut left_out = BTreeSet::new();
        for (from, to) in &self.folders {
            for file in files_in(from) {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_plugin = name.contains(".so");
                if is_plugin && !libraries.allow(&file, &name, &mut left_out)? {
                    continue;
                }
                if is_plugin || is_text(&name) {
                    staged.copy(&file, to.join(&name))?;
                }
            }
        }
        if !left_out.is_empty() {
            let names: Vec<&str> = left_out.iter().map(String::as_str).collect();
            say("MPI", format!("plugins that need these are left out: {}", names.join(" ")));
        }
        self.collect_pmix(staged, &mut libraries)?;
        self.collect_subfolders(staged)?;
        libraries.copy(staged)
    }

    /// Where an installation that is named has its libraries: the binary was linked with those of another.
    fn folders_of_libraries(&self) -> Vec<PathBuf> {
        let folder = self.prefix.as_ref().map(|prefix| prefix.join("lib"));
        folder.into_iter().flat_map(|folder| [folder.clone(), folder.join("openmpi")]).collect()
    }

    /// A program with links followed.
    fn program(&self, name: &str) -> Outcome<PathBuf> {
        // PyPI's Open MPI has scripts' work done by a program in front of mpirun; ours is done by run.sh.
        let behind = self.programs.join("orterun_wrapper");
        let program = if name == "mpirun" && behind.is_file() { behind } else { self.programs.join(name) };
        program.canonicalize().map_err(while_doing("find", &program))
    }

    /// Plugins and texts of a PMIx of its own, as Debian has it.
    fn collect_pmix(&self, staged: &Staged, libraries: &mut Libraries) -> Outcome {
        let Some(library) = libraries.path("libpmix.so") else { return Ok(()) };
        let library = library.canonicalize().map_err(while_doing("find", &library))?;
        let folder = library.parent().unwrap_or(&library).to_owned();
        let mut left_out = BTreeSet::new();
        for plugin in files_in(&folder.join("pmix")) {
            let name = plugin.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".so") && libraries.allow(&plugin, &name, &mut left_out)? {
                staged.copy(&plugin, Path::new("pmix/lib/pmix").join(name))?;
            }
        }
        for text in files_in(&folder.join("../share/pmix")) {
            let name = text.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_text(&name) {
                staged.copy(&text, Path::new("pmix/share/pmix").join(name))?;
            }
        }
        Ok(())
    }

    /// Folders that a named installation keeps among its plugins (those of a wheel's own UCX and libfabric) are part of it.
    fn collect_subfolders(&self, staged: &Staged) -> Outcome {
        if self.prefix.is_none() {
            return Ok(());
        }
        for (from, to) in self.folders.iter().filter(|(from, _)| from.is_dir()) {
            for folder in fs::read_dir(from).map_err(while_doing("read", from))?.flatten() {
                if folder.path().is_dir() {
                    staged.copy_tree(&folder.path(), &to.join(folder.file_name()))?;
                }
            }
        }
        Ok(())
    }
}

fn is_text(name: &str) -> bool {
    // Settings of compiler wrappers, which are not shipped, are left out.
    (name.starts_with("help-") && name.ends_with(".txt")) || name.ends_with(".ini")
}

/// Plain files of a folder, sorted; none where there is no such folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Libraries that go into the bundle.
#[derive(Default)]
struct Libraries {
    by_name: BTreeMap<String, PathBuf>,
    /// Where they are looked for first.
    first: Vec<PathBuf>,
}

impl Libraries {
    /// Adds all that a program needs.
    fn of(&mut self, file: &Path) -> Outcome {
        self.by_name.extend(needs(file, &self.first)?);
        Ok(())
    }

    fn path(&self, start: &str) -> Option<PathBuf> {
        self.by_name.iter().find(|(name, _)| name.starts_with(start)).map(|(_, path)| path.clone())
    }

    /// Whether a plugin is shipped; its libraries then are. One that needs something of a network that the programs do
    /// without (libfabric, UCX, verbs) is not: those belong to the host's drivers.
    fn allow(&mut self, plugin: &Path, name: &str, left_out: &mut BTreeSet<String>) -> Outcome<bool> {
        let needed = needs(plugin, &self.first)?;
        let foreign: Vec<&String> = needed.keys().filter(|needed| !self.is_ours(needed, name)).collect();
        if foreign.is_empty() {
            self.by_name.extend(needed);
            return Ok(true);
        }
        left_out.extend(foreign.into_iter().cloned());
        Ok(false)
    }

    fn is_ours(&self, needed: &str, plugin: &str) -> bool {
        // Ranks are started through PMIx, so what it needs is needed.
        let is_essential = plugin.starts_with("mca_pmix_ext");
        let is_part = needed.starts_with("libmca_common_");
        is_essential || is_part || self.by_name.contains_key(needed) || home(needed) != Home::Bundle
    }

    fn copy(&self, staged: &Staged) -> Outcome {
        for (name, path) in &self.by_name {
            let folder = match home(name) {
                Home::Bundle => "lib",
                Home::Fallback => "lib/fallback",
                Home::Libc | Home::Libtorch => continue,
            };
            staged.copy(path, Path::new(folder).join(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_of_other_networks_are_left_out() {
        let known = ["libmpi.so.40", "libhwloc.so.15"].map(|name| (name.to_owned(), PathBuf::from(name)));
        let libraries = Libraries { by_name: known.into(), ..Libraries::default() };
        for (needed, plugin, expect) in [
            ("libhwloc.so.15", "mca_rmaps_seq.so", true),
            ("libc.so.6", "mca_btl_self.so", true),
            ("libmca_common_ompio.so.41", "mca_io_ompio.so", true),
            ("libucp.so.0", "mca_pml_ucx.so", false),
            ("libfabric.so.1", "mca_mtl_ofi.so", false),
            ("libmunge.so.2", "mca_pmix_ext3x.so", true),
            ("libmunge.so.2", "mca_sec_munge.so", false),
        ] {
            assert_eq!(libraries.is_ours(needed, plugin), expect, "{needed} of {plugin}");
        }
    }

    #[test]
    fn help_is_shipped_and_compilers_settings_are_not() {
        assert!(is_text("help-orterun.txt") && is_text("mca-btl-openib-device-params.ini"));
        assert!(!is_text("mpicc-wrapper-data.txt") && !is_text("openmpi-valgrind.supp"));
    }
}
