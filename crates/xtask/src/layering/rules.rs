//! The rules of ARCHITECTURE.md as data: one row a workspace member.

/// What one member may do.
#[derive(Debug)]
pub struct Member {
    /// The package's name.
    pub name: &'static str,
    /// Members that its code may use; development dependencies are free.
    pub may_use: &'static [&'static str],
    /// External libraries under a rule of their own, see [`RESTRICTED`], that it may name.
    pub may_name: &'static [&'static str],
    /// May print and end the process.
    pub may_print: bool,
    /// Reads no clock and does no I/O.
    pub is_pure: bool,
}

const LIBRARY: Member = Member { name: "", may_use: &[], may_name: &[], may_print: false, is_pure: false };

const LIBTORCH: &[&str] = &["tch", "torch-sys"];
const MPI: &[&str] = &["mpi", "mpi-sys"];
const CUDA: &[&str] = &["cudarc"];
const GRPC: &[&str] =
    &["prost", "tonic", "tonic-health", "tonic-prost", "tonic-prost-build", "tonic-reflection"];
const MPI_AND_CUDA: &[&str] = &["mpi", "mpi-sys", "cudarc"];

/// External packages that only the members with the name in `may_name` may depend on, for tests as well.
pub const RESTRICTED: &[&[&str]] = &[LIBTORCH, MPI, CUDA, GRPC];

const TRAINER_USES: &[&str] = &[
    "partition",
    "projection",
    "mesh",
    "comm",
    "model",
    "adapter",
    "data",
    "checkpoint",
    "config",
    "hub",
    "plan",
    "torch-shim",
];
const EVAL_USES: &[&str] = &[
    "partition",
    "projection",
    "rowwise",
    "comm",
    "model",
    "adapter",
    "data",
    "checkpoint",
    "scoring",
    "trainer",
];
const CLI_USES: &[&str] = &[
    "partition",
    "projection",
    "mesh",
    "comm",
    "control-plane",
    "model",
    "adapter",
    "data",
    "eval",
    "checkpoint",
    "config",
    "hub",
    "merge",
    "plan",
    "report",
    "scoring",
    "synthetic",
    "torch-shim",
    "trainer",
];

pub const MEMBERS: &[Member] = &[
    Member { name: "partition", is_pure: true, ..LIBRARY },
    Member { name: "projection", may_use: &["partition"], may_name: CUDA, is_pure: true, ..LIBRARY },
    Member { name: "mesh", is_pure: true, ..LIBRARY },
    Member { name: "plan", may_use: &["mesh", "partition", "projection"], is_pure: true, ..LIBRARY },
    Member { name: "comm", may_name: MPI_AND_CUDA, ..LIBRARY },
    Member { name: "model", may_use: &["torch-shim"], may_name: LIBTORCH, ..LIBRARY },
    Member { name: "adapter", may_use: &["checkpoint", "partition"], ..LIBRARY },
    Member { name: "data", ..LIBRARY },
    Member { name: "hub", ..LIBRARY },
    Member { name: "torch-shim", may_name: LIBTORCH, ..LIBRARY },
    Member { name: "rowwise", may_use: &["projection"], is_pure: true, ..LIBRARY },
    Member { name: "eval", may_use: EVAL_USES, may_name: LIBTORCH, ..LIBRARY },
    Member { name: "checkpoint", ..LIBRARY },
    Member { name: "config", ..LIBRARY },
    Member { name: "scoring", ..LIBRARY },
    Member { name: "synthetic", ..LIBRARY },
    Member { name: "control-proto", may_name: GRPC, ..LIBRARY },
    Member { name: "control-plane", may_use: &["control-proto"], may_name: GRPC, ..LIBRARY },
    Member {
        name: "merge",
        may_use: &["adapter", "model", "partition", "projection"],
        // For its build script alone: it reads the base through `model`, which links libtorch.
        may_name: LIBTORCH,
        ..LIBRARY
    },
    Member { name: "report", may_use: &["adapter", "checkpoint", "partition"], ..LIBRARY },
    Member { name: "trainer", may_use: TRAINER_USES, may_name: LIBTORCH, ..LIBRARY },
    Member { name: "cli", may_use: CLI_USES, may_name: LIBTORCH, may_print: true, ..LIBRARY },
    Member {
        name: "fuzz",
        may_use: &[
            "adapter",
            "checkpoint",
            "config",
            "data",
            "hub",
            "merge",
            "model",
            "partition",
            "scoring",
        ],
        // For its build script alone, as in `merge`.
        may_name: LIBTORCH,
        may_print: true,
        ..LIBRARY
    },
    Member { name: "launcher", may_use: &["control-plane"], may_print: true, ..LIBRARY },
    Member { name: "xtask", may_print: true, ..LIBRARY },
    Member { name: "e2e", may_print: true, ..LIBRARY },
];

/// Macros that write to the terminal.
pub const PRINTING_MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];

/// Paths that end the process. `process::exit` also catches what a `use std::process` brought in.
pub const ENDING_PATHS: &[&[&str]] =
    &[&["std", "process", "exit"], &["process", "exit"], &["std", "process", "abort"], &["process", "abort"]];

/// Modules of the standard library that read clocks or do I/O.
pub const IMPURE_PATHS: &[&[&str]] =
    &[&["std", "time"], &["std", "fs"], &["std", "io"], &["std", "net"], &["std", "process"]];

/// The row of a package.
pub fn member(name: &str) -> Option<&'static Member> {
    MEMBERS.iter().find(|member| member.name == name)
}
