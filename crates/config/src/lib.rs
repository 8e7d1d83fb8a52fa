//! Settings of a training run: as written → resolved, with where each value came from.
//!
//! One table ([`sections`]) names every key with its type, limits, default and help. The flags of the command
//! line ([`TrainArgs`]), the keys of a TOML file and the `GPART_*` variables are all made from it, so a key
//! exists in all three or in none. [`resolve`] puts the layers together, lowest first:
//!
//! built-in defaults < preset < `--config` file < `GPART_*` environment < flags,
//!
//! makes every check that needs more than one key, and remembers for each value the layer that set it.
//! A setting that was asked for is used, or refused with a message, or (where it can do no harm) named in a
//! warning: never dropped silently.

mod adopt;
mod args;
mod choices;
mod error;
mod identity;
mod keys;
mod layer;
mod presets;
mod render;
mod resolve;
mod run_name;
#[cfg(test)]
mod tests;
mod train_config;
mod value;

pub use args::TrainArgs;
pub use choices::{
    AdapterType, AssignmentBackend, Bias, Comm, Device, Dtype, GroupingStrategy, LogLevel, LrScheduler,
    PartitionScope, Progress, ReportTo, Resume, Task, TrainOn,
};
pub use error::ConfigError;
pub use identity::{Change, diff_identity, fingerprint_keys};
pub use keys::{Key, Role, Section, sections};
pub use layer::{RESERVED_VARIABLES, Source, hub_id, is_owner_and_name, is_short_name};
pub use presets::{Preset, list_presets};
pub use render::{Row, render};
pub use resolve::{Resolved, resolve};
pub use run_name::{run_name, sanitize};
pub use train_config::{TargetModules, TrainConfig};
pub use value::Kind;
