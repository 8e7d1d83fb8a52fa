//! Licences of what is shipped: of the crates that are linked into the binaries, and of the libraries beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Staged;
use crate::setup::Machine;
use crate::shell::{Failure, Outcome, cargo, output_of, say};

/// Writes `licenses/`.
pub fn collect(root: &Path, machine: &Machine, staged: &Staged) -> Outcome {
    crates(root, machine, staged)?;
    libraries(staged)
}

/// `licenses/rust-crates.txt`: every crate with its licence, then each text once, with the crates that it is of.
fn crates(root: &Path, machine: &Machine, staged: &Staged) -> Outcome {
    let mut tree = cargo(root, &machine.environment);
    tree.args(["tree", "--package", "cli", "--package", "launcher", "--edges", "normal", "--prefix", "none"]);
    tree.args(["--format", "{p}|{l}|{r}"]);
    let printed = output_of(&mut tree).ok_or_else(|| Failure::new("cargo tree failed"))?;
    let folders = registry_folders();
    let (mut list, mut texts) = (String::new(), BTreeMap::<String, BTreeSet<String>>::new());
    // A crate is listed as often as it is needed.
    let unique: BTreeSet<_> = printed.lines().filter_map(read_line).collect();
    for (name, license, address) in unique {
        list += &format!("{name:<40} {license:<45} {address}\n");
        let folder = folders.iter().map(|folder| folder.join(&name)).find(|folder| folder.is_dir());
        for text in folder.iter().flat_map(|folder| texts_in(folder)) {
            texts.entry(text).or_default().insert(name.clone());
        }
    }
    let of = |(text, names): (&String, &BTreeSet<String>)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!("\n{}\n{}\n{}\n\n{}\n", "=".repeat(100), names.join(", "), "=".repeat(100), text.trim_end())
    };
    let all: String = texts.iter().map(of).collect();
    say("licences", format!("{} crates, {} different texts", list.lines().count(), texts.len()));
    let head =
        "Crates that are linked into gpart-dist and gpart-launch, and the texts of their licences.\n\n";
    staged.write("licenses/rust-crates.txt", &format!("{head}{list}{all}"))
}

/// Name with version, licence and repository of a line of `cargo tree`; none for members of the workspace.
fn read_line(line: &str) -> Option<(String, &str, &str)> {
    let mut parts = line.splitn(3, '|');
    let package = parts.next()?;
    let (license, address) = (parts.next()?, parts.next()?.trim_end_matches(" (*)"));
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    // A member of the workspace has its folder behind the version.
    let is_member = words.next().is_some_and(|word| word.starts_with("(/"));
    (!is_member).then(|| (format!("{name}-{version}"), license, address))
}

/// Where cargo unpacks crates.
fn registry_folders() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.map(|home| home.join("registry/src"));
    let entries = sources.into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn texts_in(folder: &Path) -> Vec<String> {
    let is_license = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        ["license", "licence", "copying", "notice", "unlicense"].iter().any(|start| name.starts_with(start))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(is_license).filter_map(|path| fs::read_to_string(path).ok()).collect()
}

/// `licenses/PACKAGE`: what the distribution keeps for the packages of the shipped libraries, and the licences that those
/// texts refer to.
fn libraries(staged: &Staged) -> Outcome {
    let mut packages = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for file in staged_libraries(&staged.folder) {
        match package_of(&file) {
            Some(package) => packages.insert(package),
            None => unknown.insert(file),
        };
    }
    let mut referred = BTreeSet::new();
    for package in &packages {
        let text = Path::new("/usr/share/doc").join(package).join("copyright");
        let words = fs::read_to_string(&text).unwrap_or_default();
        for (_, rest) in words
            .match_indices("/usr/share/common-licenses/")
            .map(|(at, found)| (at, &words[at + found.len()..]))
        {
            let end =
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c)).unwrap_or(rest.len());
            referred.insert(rest[..end].trim_end_matches('.').to_owned());
        }
        staged.copy(&text, Path::new("licenses").join(package))?;
    }
    for name in referred {
        let text = Path::new("/usr/share/common-licenses").join(&name);
        if text.is_file() {
            staged.copy(&text, Path::new("licenses/common").join(name))?;
        }
    }
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
        say(
            "licences",
            format!("no package of this system owns {}: add their licences by hand", names.join(" ")),
        );
    }
    Ok(())
}

/// Names of shipped libraries and programs of others.
fn staged_libraries(folder: &Path) -> Vec<String> {
    let names = |below: &str| {
        let entries = fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let programs = names("bin").filter(|name| !name.starts_with("gpart-"));
    names("lib").chain(names("lib/fallback")).chain(programs).collect()
}

/// The Debian package that has a file of such a name where libraries and programs are.
fn package_of(name: &str) -> Option<String> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [format!("/usr/lib/{multiarch}"), format!("/lib/{multiarch}"), "/usr/bin".to_owned()];
    folders.iter().find_map(|folder| {
        let path = Path::new(folder).join(name);
        // dpkg knows a file by the name that it was installed under, before /lib became a link to /usr/lib.
        let real = path.canonicalize().ok()?;
        let without_usr = real.strip_prefix("/usr").ok().map(|rest| Path::new("/").join(rest));
        let known = [Some(path), Some(real), without_usr].into_iter().flatten();
        let printed =
            known.filter_map(|path| output_of(Command::new("dpkg-query").arg("-S").arg(path))).next()?;
        printed.split([':', ',']).next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_tree() {
        for (line, expect) in [
            ("serde v1.0.1|MIT|https://a", Some(("serde-1.0.1".to_owned(), "MIT", "https://a"))),
            ("serde v1.0.1|MIT|https://a (*)", Some(("serde-1.0.1".to_owned(), "MIT", "https://a"))),
            ("derive v1.0.1 (proc-macro)|MIT|", Some(("derive-1.0.1".to_owned(), "MIT", ""))),
            ("cli v0.1.0 (/src/crates/cli)|Apache-2.0|", None),
            ("", None),
        ] {
            assert_eq!(read_line(line), expect, "{line}");
        }
    }
}
