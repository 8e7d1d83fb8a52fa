//! Reading the dependencies out of a `Cargo.toml`, with line numbers. Only as much TOML as cargo manifests use.

use std::collections::BTreeMap;

/// Where a dependency is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Development,
    Build,
    /// `[workspace.dependencies]`: what the others inherit.
    Workspace,
}

/// One dependency as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The name of the package, also where the manifest renames it.
    pub package: String,
    /// The name in the manifest.
    pub key: String,
    pub kind: Kind,
    /// Counted from one.
    pub line: usize,
}

/// What the rules need of a manifest.
#[derive(Debug, Default)]
pub struct Manifest {
    pub package: String,
    pub dependencies: Vec<Dependency>,
    /// `workspace.members`, as written.
    pub members: Vec<String>,
}

impl Manifest {
    /// Reads a manifest; what is not understood is skipped, because cargo has already accepted the file.
    pub fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut section = Section::Other;
        let mut statement = String::new();
        let mut first_line = 0;
        for (index, line) in text.lines().enumerate() {
            let line = without_comment(line).trim();
            if statement.is_empty() {
                if line.starts_with('[') {
                    section = Section::parse(line);
                    if let Section::One(kind, key) = &section {
                        manifest.add(key, key.clone(), *kind, index + 1);
                    }
                    continue;
                }
                first_line = index + 1;
            }
            statement.push_str(line);
            // An array may span lines; it is one statement.
            if statement.matches('[').count() > statement.matches(']').count() {
                continue;
            }
            if let Some((key, value)) = statement.split_once('=') {
                manifest.assign(&section, key.trim(), value.trim(), first_line);
            }
            statement.clear();
        }
        manifest
    }

    fn assign(&mut self, section: &Section, key: &str, value: &str, line: usize) {
        match section {
            Section::Package if key == "name" => self.package = unquoted(value).to_owned(),
            Section::Workspace if key == "members" => {
                let items = value.trim_matches(['[', ']']).split(',');
                self.members =
                    items.map(|item| unquoted(item).to_owned()).filter(|item| !item.is_empty()).collect();
            }
            Section::Many(kind) => {
                // `tch.workspace = true` and `tch = { … }` both name tch.
                let (name, attribute) = key.split_once('.').unwrap_or((key, ""));
                let package = match attribute.trim() {
                    "package" => Some(unquoted(value)),
                    _ => renamed_package(value),
                };
                self.add(unquoted(name), package.unwrap_or(unquoted(name)).to_owned(), *kind, line);
            }
            Section::One(..) if key == "package" => {
                if let Some(last) = self.dependencies.last_mut() {
                    last.package = unquoted(value).to_owned();
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, key: &str, package: String, kind: Kind, line: usize) {
        self.dependencies.push(Dependency { package, key: key.to_owned(), kind, line });
    }

    /// Gives dependencies inherited from the workspace the package name that the workspace gives them.
    pub fn inherit(&mut self, workspace: &Self) {
        let inherited = workspace.dependencies.iter().filter(|dependency| dependency.kind == Kind::Workspace);
        let names: BTreeMap<&str, &str> = inherited.map(|d| (d.key.as_str(), d.package.as_str())).collect();
        for dependency in &mut self.dependencies {
            if dependency.package == dependency.key
                && let Some(package) = names.get(dependency.key.as_str())
            {
                dependency.package = (*package).to_owned();
            }
        }
    }
}

enum Section {
    Package,
    Workspace,
    /// A table of dependencies.
    Many(Kind),
    /// `[dependencies.tch]`: one dependency with a table of its own.
    One(Kind, String),
    Other,
}

impl Section {
    fn parse(header: &str) -> Self {
        let name = header.trim_matches(['[', ']']).trim();
        match name {
            "package" => return Self::Package,
            "workspace" => return Self::Workspace,
            _ => {}
        }
        for (table, kind) in [
            ("workspace.dependencies", Kind::Workspace),
            ("dev-dependencies", Kind::Development),
            ("build-dependencies", Kind::Build),
            ("dependencies", Kind::Normal),
        ] {
            // Also `target.'cfg(unix)'.dependencies`; the longer names are tried first.
            if name == table || name.ends_with(&format!(".{table}")) {
                return Self::Many(kind);
            }
            if let Some((before, key)) = name.rsplit_once('.')
                && (before == table || before.ends_with(&format!(".{table}")))
            {
                return Self::One(kind, unquoted(key).to_owned());
            }
        }
        Self::Other
    }
}

/// The value of `package` in `{ package = "mpi", version = "1" }`.
fn renamed_package(value: &str) -> Option<&str> {
    let table = value.strip_prefix('{')?;
    let pairs = table.split([',', '}']).filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| key.trim() == "package").map(|(_, name)| unquoted(name)).next()
}

fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    line
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_in_every_spelling() {
        let text = r#"
[package]
name = "trainer" # the loop
[lints]
workspace = true
[dependencies]
tch.workspace = true
comm = { path = "../comm", default-features = false }
message = { package = "mpi", version = "0.8", features = [
    "a",
    "b",
] }
"quoted" = "1" # mpi = "0.8"
[dependencies.long]
package = "torch-sys"
version = "1"
[target.'cfg(unix)'.dev-dependencies]
tempfile.workspace = true
[build-dependencies]
cc = "1"
"#;
        let manifest = Manifest::parse(text);
        assert_eq!(manifest.package, "trainer");
        let found: Vec<(&str, Kind, usize)> =
            manifest.dependencies.iter().map(|d| (d.package.as_str(), d.kind, d.line)).collect();
        assert_eq!(
            found,
            [
                ("tch", Kind::Normal, 7),
                ("comm", Kind::Normal, 8),
                ("mpi", Kind::Normal, 9),
                ("quoted", Kind::Normal, 13),
                ("torch-sys", Kind::Normal, 14),
                ("tempfile", Kind::Development, 18),
                ("cc", Kind::Build, 20),
            ]
        );
    }

    #[test]
    fn the_workspace_lists_members_and_names() {
        let root = Manifest::parse(
            "[workspace]\nmembers = [\n  \"crates/*\", # all\n  \"tests\",\n]\n\
             [workspace.dependencies]\nmessage = { version = \"1\", package = \"mpi\" }\n",
        );
        assert_eq!(root.members, ["crates/*", "tests"]);
        let mut member = Manifest::parse("[dependencies]\nmessage.workspace = true\n");
        member.inherit(&root);
        assert_eq!(member.dependencies[0].package, "mpi");
    }
}
