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
//! mostly its branches; `bolero` has libFuzzer as its engine too, but its `cargo bolero` is one more tool to install
//! and takes a nightly toolchain for its sanitizers. Coverage itself needs neither nightly nor `cargo fuzz`: the pass
//! is part of stable rustc's LLVM, and what libFuzzer needs is a C++ compiler, which set-up finds anyway. The flags
//! go to every crate, those of others as well: with ours alone instrumented, the way into Parquet, TOML and templates
//! is dark.

mod adapters;
mod checkpoints;
mod dataset;
mod hubs;
mod merges;
mod models;
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
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "adapter_config", run: adapters::config },
    Target { name: "adapter_tensors", run: adapters::tensors },
    Target { name: "chat_template", run: dataset::chat_template },
    Target { name: "checkpoint_state", run: checkpoints::state },
    Target { name: "config_file", run: settings::file },
    Target { name: "config_words", run: settings::words },
    Target { name: "hub_listing", run: hubs::listing },
    Target { name: "hub_index", run: hubs::index },
    Target { name: "merge_header", run: merges::header },
    Target { name: "merge_text", run: merges::text },
    Target { name: "model_config", run: models::config },
    Target { name: "model_index", run: models::index },
    Target { name: "model_tensors", run: models::tensors },
    Target { name: "rows_json", run: dataset::rows_json },
    Target { name: "rows_parquet", run: dataset::rows_parquet },
    Target { name: "run_settings", run: settings::of_a_run },
    Target { name: "template", run: dataset::template },
    Target { name: "token_cache", run: dataset::token_cache },
    Target { name: "tokenizer", run: tokenizers::vocabulary },
    Target { name: "tokenizer_config", run: tokenizers::special_tokens },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}
