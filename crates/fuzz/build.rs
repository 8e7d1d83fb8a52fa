//! Programs and tests of this crate find libtorch without `LD_LIBRARY_PATH`.
#![allow(clippy::print_stdout, reason = "a build script speaks to cargo on standard output")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by torch-sys's build script, for the crates that depend on it directly.
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
