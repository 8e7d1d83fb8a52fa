//! Compiles the shim against the headers of the libtorch that torch-sys found.
#![allow(clippy::print_stdout, reason = "a build script speaks to cargo on standard output")]

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    const SOURCES: [&str; 3] = ["src/shim.cpp", "src/tensors.cpp", "src/profile.cpp"];
    for file in SOURCES.into_iter().chain(["src/guarded.h"]) {
        println!("cargo::rerun-if-changed={file}");
    }
    // Set by torch-sys's build script, for the crates that depend on it directly.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    let include = Path::new(&lib).with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // libtorch's headers warn by the hundred.
        .warnings(false)
        .flag("-w")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .files(SOURCES)
        .compile("gpart_torch_shim");
}
