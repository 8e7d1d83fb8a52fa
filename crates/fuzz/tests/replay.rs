//! The committed inputs, in a second: seeds are accepted, and what once broke a parser does not break it again.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz::TARGETS;

/// A small input takes milliseconds; the rest is for a busy machine.
const LONGEST: Duration = Duration::from_secs(5);

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

#[test]
fn every_target_has_seeds_that_it_accepts() {
    let mut refused = Vec::new();
    for target in TARGETS {
        let seeds = entries(&folder("corpus").join(target.name));
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        refused.extend(seeds.into_iter().filter(|seed| !(target.run)(&fs::read(seed).unwrap())));
    }
    assert!(refused.is_empty(), "{refused:?} are refused");
}

#[test]
fn what_once_broke_a_parser_does_so_no_more() {
    for target in TARGETS {
        for input in entries(&folder("regressions").join(target.name)) {
            let bytes = fs::read(&input).unwrap();
            let started = Instant::now();
            (target.run)(&bytes);
            assert!(started.elapsed() < LONGEST, "{} took {:?}", input.display(), started.elapsed());
        }
    }
}

/// `cargo xtask fuzz` takes the names of the targets from the folders.
#[test]
fn folders_are_those_of_the_targets() {
    let known: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(known.len(), TARGETS.len(), "two targets have one name");
    for kind in ["corpus", "regressions"] {
        for path in entries(&folder(kind)) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            assert!(known.contains(name), "{} belongs to no target", path.display());
        }
    }
}
