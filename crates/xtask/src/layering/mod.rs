//! `cargo xtask layering`: the dependency rules of ARCHITECTURE.md, checked from manifests and sources.

mod manifest;
mod rules;
mod source;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::{Failure, Outcome, say, while_doing};
use manifest::{Kind, Manifest};
use rules::Member;
use source::Name;

/// One breach: where, and of which rule.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// Checks every workspace member.
///
/// # Errors
/// All breaches, a line each.
pub fn run(root: &Path) -> Outcome {
    let workspace = Manifest::parse(&read(&root.join("Cargo.toml"))?);
    let members = member_folders(root, &workspace.members)?;
    let mut breaches = Vec::new();
    for folder in &members {
        let file = folder.join("Cargo.toml");
        let mut manifest = Manifest::parse(&read(&file)?);
        manifest.inherit(&workspace);
        let shown = relative(root, &file);
        let Some(member) = rules::member(&manifest.package) else {
            let rule = format!(
                "`{}` has no row in crates/xtask/src/layering/rules.rs (and in ARCHITECTURE.md)",
                manifest.package
            );
            breaches.push(Breach { file: shown, line: 1, rule });
            continue;
        };
        breaches.extend(check_manifest(member, &manifest, &shown));
        for file in rust_files(&folder.join("src"))? {
            breaches.extend(check_source(member, &read(&file)?, &relative(root, &file)));
        }
    }
    if breaches.is_empty() {
        say("layering", format!("{} members keep the rules of ARCHITECTURE.md", members.len()));
        return Ok(());
    }
    let lines: String = breaches.iter().map(|breach| format!("\n  {breach}")).collect();
    let hint = "the rules are in ARCHITECTURE.md and, as data, in crates/xtask/src/layering/rules.rs";
    Err(Failure::with_hint(format!("dependency rules broken ({}):{lines}", breaches.len()), hint))
}

fn check_manifest(member: &Member, manifest: &Manifest, file: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for dependency in &manifest.dependencies {
        let package = dependency.package.as_str();
        let rule = if let Some(family) = rules::RESTRICTED.iter().find(|family| family.contains(&package)) {
            let may = |other: &&Member| family.iter().all(|package| other.may_name.contains(package));
            let names: Vec<&str> = rules::MEMBERS.iter().filter(may).map(|other| other.name).collect();
            (!may(&member))
                .then(|| format!("`{}` depends on {package}; only {} may", member.name, names.join(", ")))
        } else {
            // What a test uses does not become part of the crate.
            let is_edge = rules::member(package).is_some() && dependency.kind != Kind::Development;
            (is_edge && !member.may_use.contains(&package)).then(|| {
                let allowed = if member.may_use.is_empty() {
                    "no member".to_owned()
                } else {
                    member.may_use.join(", ")
                };
                format!("`{}` depends on `{package}`; it may use {allowed}", member.name)
            })
        };
        breaches.extend(rule.map(|rule| Breach { file: file.to_owned(), line: dependency.line, rule }));
    }
    breaches
}

fn check_source(member: &Member, text: &str, file: &str) -> Vec<Breach> {
    let starts_with = |path: &[String], prefixes: &[&[&str]]| {
        prefixes
            .iter()
            .any(|prefix| path.len() >= prefix.len() && path.iter().zip(*prefix).all(|(a, b)| a == b))
    };
    let rule_broken = |name: &Name| match name {
        Name::Macro(word) if !member.may_print && rules::PRINTING_MACROS.contains(&word.as_str()) => {
            Some(format!(
                "`{word}!` in `{}`: only the binaries print; use tracing or return the text",
                member.name
            ))
        }
        Name::Path(path) if !member.may_print && starts_with(path, rules::ENDING_PATHS) => Some(format!(
            "`{}` in `{}`: only the binaries exit; return an error",
            path.join("::"),
            member.name
        )),
        Name::Path(path) if member.is_pure && starts_with(path, rules::IMPURE_PATHS) => {
            Some(format!("`{}` in `{}`, which reads no clock and does no I/O", path.join("::"), member.name))
        }
        _ => None,
    };
    let names = source::names(text);
    let broken = names.into_iter().filter_map(|(name, line)| Some((rule_broken(&name)?, line)));
    broken.map(|(rule, line)| Breach { file: file.to_owned(), line, rule }).collect()
}

/// The folders that `workspace.members` names; `crates/*` is every folder there with a manifest.
fn member_folders(root: &Path, patterns: &[String]) -> Outcome<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for pattern in patterns {
        match pattern.strip_suffix("/*") {
            Some(parent) => {
                let below = entries(&root.join(parent))?;
                folders.extend(below.into_iter().filter(|folder| folder.join("Cargo.toml").exists()));
            }
            None => folders.push(root.join(pattern)),
        }
    }
    Ok(folders)
}

/// Every `.rs` file below a folder but those that hold only tests.
fn rust_files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !folder.exists() {
        return Ok(files);
    }
    for path in entries(folder)? {
        let for_tests = path.file_stem().is_some_and(|stem| stem == "tests");
        if for_tests {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn entries(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(while_doing("read", folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn read(file: &Path) -> Outcome<String> {
    fs::read_to_string(file).map_err(while_doing("read", file))
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check_dependencies(package: &str, manifest: &str, expect: &[&str]) {
        let member = rules::member(package).unwrap();
        let breaches = check_manifest(member, &Manifest::parse(manifest), "Cargo.toml");
        assert_eq!(breaches.iter().map(Breach::to_string).collect::<Vec<_>>(), expect);
    }

    fn check_code(package: &str, code: &str, expect: &[&str]) {
        let breaches = check_source(rules::member(package).unwrap(), code, "lib.rs");
        assert_eq!(breaches.iter().map(Breach::to_string).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn mpi_and_libtorch_have_their_few_users() {
        let mpi = "[dependencies]\nmpi = \"0.8\"\n";
        check_dependencies("comm", mpi, &[]);
        check_dependencies("trainer", mpi, &["Cargo.toml:2: `trainer` depends on mpi; only comm may"]);
        let tch = "[dev-dependencies]\ntch.workspace = true\n";
        for package in ["model", "torch-shim", "trainer", "eval", "merge", "cli", "fuzz"] {
            check_dependencies(package, tch, &[]);
        }
        let expect = "Cargo.toml:2: `projection` depends on tch; only model, torch-shim, eval, merge, trainer, cli, fuzz may";
        check_dependencies("projection", tch, &[expect]);
    }

    #[test]
    fn edges_follow_the_table() {
        check_dependencies("projection", "[dependencies]\npartition.workspace = true\n", &[]);
        let backwards = "[dependencies]\nserde.workspace = true\nprojection.workspace = true\n";
        check_dependencies(
            "partition",
            backwards,
            &["Cargo.toml:3: `partition` depends on `projection`; it may use no member"],
        );
        check_dependencies(
            "model",
            "[dependencies]\nadapter = { path = \"../adapter\" }\n",
            &["Cargo.toml:2: `model` depends on `adapter`; it may use torch-shim"],
        );
        check_dependencies("data", "[dev-dependencies]\nadapter.workspace = true\n", &[]);
    }

    #[test]
    fn libraries_neither_print_nor_exit() {
        let code = "fn f() {\n    println!(\"x\");\n    std::process::exit(1);\n}\n";
        check_code("cli", code, &[]);
        check_code(
            "data",
            code,
            &[
                "lib.rs:2: `println!` in `data`: only the binaries print; use tracing or return the text",
                "lib.rs:3: `std::process::exit` in `data`: only the binaries exit; return an error",
            ],
        );
        check_code(
            "data",
            "use std::process;\nfn f() { process::exit(1) }",
            &["lib.rs:2: `process::exit` in `data`: only the binaries exit; return an error"],
        );
        check_code("data", "// println!\n#[cfg(test)]\nmod tests { fn f() { println!() } }", &[]);
    }

    #[test]
    fn pure_crates_have_no_clock_and_no_files() {
        let code = "use std::{collections::HashMap, time::Instant};\nuse std::fs;\n";
        check_code("checkpoint", code, &[]);
        for package in ["partition", "mesh", "projection"] {
            let (time, files) = (
                format!(
                    "lib.rs:1: `std::time::Instant` in `{package}`, which reads no clock and does no I/O"
                ),
                format!("lib.rs:2: `std::fs` in `{package}`, which reads no clock and does no I/O"),
            );
            check_code(package, code, &[&time, &files]);
        }
    }

    /// A row for a crate that is not there, or an edge to one, would silently allow nothing or anything.
    #[test]
    fn the_table_is_closed_and_has_no_cycle() {
        for (index, member) in rules::MEMBERS.iter().enumerate() {
            assert!(rules::MEMBERS[..index].iter().all(|other| other.name != member.name), "{}", member.name);
            for used in member.may_use {
                let row = rules::member(used).unwrap_or_else(|| panic!("{used} has no row"));
                assert!(!row.may_use.contains(&member.name), "{} and {used} use each other", member.name);
            }
        }
    }
}
