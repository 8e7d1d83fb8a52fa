use miette::Diagnostic;
use thiserror::Error;

use crate::memory::{Memory, Part, Remedy};
use crate::text;

/// Why there is no plan, or why a run must not start.
#[derive(Debug, PartialEq, Error, Diagnostic)]
pub enum PlanError {
    /// The degrees do not multiply to the number of ranks.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mesh(#[from] mesh::MeshError),
    /// There are more pipeline stages than blocks.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Stages(#[from] mesh::StageError),
    /// A file is no measurement.
    #[error("the measurement {file} cannot be used: {what}")]
    #[diagnostic(
        code(input::measurement),
        help("make one on the machine that is planned for: `gpart-dist bench step --json > FILE`")
    )]
    Measurement {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The host does not have the memory.
    #[error(
        "the run needs about {} of memory on this {} ({}), which has {} available: {}",
        text::bytes(*needed), if *is_gpu { "GPU" } else { "host" }, memory.ranks_text(), text::bytes(*available), largest(memory)
    )]
    #[diagnostic(code(input::memory), help("{}", advice(remedies)))]
    Memory {
        /// Bytes that all ranks of the host need.
        needed: u64,
        /// Bytes that the host has.
        available: u64,
        /// They are a GPU's.
        is_gpu: bool,
        /// Ranks on the host.
        ranks: u64,
        /// What one rank needs.
        memory: Box<Memory>,
        /// What would make it less, most helpful first.
        remedies: Vec<Remedy>,
    },
}

/// The largest parts of a rank's peak.
fn largest(memory: &Memory) -> String {
    let phase = memory.largest_phase().map_or(&[][..], |phase| &phase.parts);
    let mut parts: Vec<&Part> = memory.held.iter().chain(phase).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let named = parts.iter().take(4).map(|part| format!("{} {}", part.name, text::bytes(part.bytes)));
    named.collect::<Vec<_>>().join(", ")
}

/// What to change, and what the host would need then.
pub(crate) fn advice(remedies: &[Remedy]) -> String {
    let named = remedies.iter().map(|remedy| format!("{} ({})", remedy.change, text::bytes(remedy.needed)));
    match remedies.is_empty() {
        true => "use a host with more memory, or a smaller model".to_owned(),
        false => format!("it would need instead: {}", named.collect::<Vec<_>>().join("; ")),
    }
}
