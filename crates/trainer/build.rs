//! Programs and tests of this crate find libtorch without `LD_LIBRARY_PATH`, and know its version.
#![allow(clippy::print_stdout, reason = "a build script speaks to cargo on standard output")]

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by torch-sys's build script, for the crates that depend on it directly.
    let folder = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    if !folder.is_empty() {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
    let version = version_beside(Path::new(&folder)).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=GPART_LIBTORCH_VERSION={version}");
}

/// A libtorch archive names its version in `build-version`, a Python wheel in `version.py`.
fn version_beside(lib: &Path) -> Option<String> {
    let root = lib.parent()?;
    if let Ok(text) = std::fs::read_to_string(root.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(root.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    Some(line.split(['\'', '"']).nth(1)?.to_owned())
}
