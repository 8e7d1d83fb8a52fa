//! A bundle made by `cargo xtask bundle`, and run on a Debian that has nothing but a libtorch.

use std::path::Path;
use std::process::Command;

use crate::harness::{repository, scratch};

/// Needs root, debootstrap and a mirror of Debian; takes some minutes.
#[test]
#[ignore = "makes a bundle and a bare Debian: minutes, as root"]
fn a_bundle_runs_on_a_bare_debian() {
    let folder = scratch();
    let bundle = folder.path().join("bundle.tar.gz");
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(repository()).args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--",
        "bundle",
        "--output",
    ]);
    let made = command.arg(&bundle).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{said}");
    let size = bundle.metadata().unwrap().len();
    assert!(size < 60_000_000, "{size} bytes");
    let libtorch = repository().join(".deps/libtorch").canonicalize().unwrap();
    let libtorch: &Path = libtorch.parent().unwrap();
    let mut command = Command::new(repository().join("tests/bare_debian.sh"));
    let shown = command.arg(&bundle).arg(libtorch).arg(folder.path().join("debian")).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.status.success(), "{said}");
}
