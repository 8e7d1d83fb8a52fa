//! Fuzz targets: one for every parser of ours, each a function of bytes that must not panic, hang or take memory beyond
//! measure, whatever the bytes are.
//!
//! `cargo xtask fuzz` drives them with libFuzzer (see `main.rs`); an ordinary test replays the committed inputs:
//! `corpus/TARGET`, valid ones that fuzzing starts from, and `regressions/TARGET`, those that once broke something.
//!
//! Targets say more than "it did not crash" where that is cheap: what was read can be written and read again, no name
//! from a server leaves its folder, no range leaves its file.
//!
//! **Why libFuzzer.** Of the three ways there were, a mutation loop of our own is blind without coverage, and a parser is
//! mostly its branches; `bolero` drives libFuzzer as well, through one more tool to install. `cargo fuzz` would be
//! another one, and it is not needed: the pass that counts is part of stable rustc's LLVM, and what libFuzzer needs is a
//! C++ compiler, which set-up finds anyway. The flags go to every crate, those of others as well: with ours alone
//! instrumented, the way into Parquet, TOML and templates is dark.

mod adapters;
mod checkpoints;
mod dataset;
mod hubs;
mod merges;
mod models;
mod scores;
mod scratch;
mod settings;
mod show;
mod tokenizers;

/// A parser and what is checked of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of its folders of inputs.
    pub name: &'static str,
    /// Panics where the parser, or what it read, is not as it should be. Whether the parser accepted the input.
    pub run: fn(&[u8]) -> bool,
    /// Bytes that may be in use at once, whatever the input is.
    pub most_memory: usize,
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]) -> bool) -> Self {
        Self { name, run, most_memory: 1 << 30 }
    }

    /// A page of a Parquet file may claim to have 2 GiB before it was compressed, and the foreign decoder makes room for
    /// it at once; what is bounded so is not a finding.
    const fn of_large_pages(self) -> Self {
        Self { most_memory: (2 << 30) + (1 << 28), ..self }
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target::new("adapter_config", adapters::config),
    Target::new("adapter_tensors", adapters::tensors),
    Target::new("chat_template", dataset::chat_template),
    Target::new("checkpoint_state", checkpoints::state),
    Target::new("config_file", settings::file),
    Target::new("config_words", settings::words),
    Target::new("hub_listing", hubs::listing),
    Target::new("hub_index", hubs::index),
    Target::new("merge_header", merges::header),
    Target::new("merge_text", merges::text),
    Target::new("model_config", models::config),
    Target::new("model_index", models::index),
    Target::new("model_tensors", models::tensors),
    Target::new("rows_json", dataset::rows_json),
    Target::new("rows_parquet", dataset::rows_parquet).of_large_pages(),
    Target::new("run_settings", settings::of_a_run),
    Target::new("score_lines", scores::lines),
    Target::new("score_verdict", scores::verdict),
    Target::new("template", dataset::template),
    Target::new("token_cache", dataset::token_cache),
    Target::new("tokenizer", tokenizers::vocabulary),
    Target::new("tokenizer_config", tokenizers::special_tokens),
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}
