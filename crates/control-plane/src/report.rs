//! What a rank says, and what it is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a rank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The process has begun; communicators are being made.
    Starting,
    /// The base model is being read.
    Loading,
    /// Data is being read and tokenised.
    Preparing,
    /// Forward passes of a step.
    Forward,
    /// Backward passes of a step.
    Backward,
    /// θ's gradient is being all-reduced.
    Reducing,
    /// The optimizer's update.
    Updating,
    /// A state or an adapter is being written.
    Saving,
    /// Loss on the evaluation set, or samples, are being computed.
    Evaluating,
    /// The last step is done; results are written and communicators closed.
    Finishing,
}

impl Phase {
    /// Whether it is part of every step, so that step times say how long it may take.
    pub fn is_in_step(self) -> bool {
        matches!(self, Self::Forward | Self::Backward | Self::Reducing | Self::Updating)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Loading => "loading",
            Self::Preparing => "preparing",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Reducing => "reducing",
            Self::Updating => "updating",
            Self::Saving => "saving",
            Self::Evaluating => "evaluating",
            Self::Finishing => "finishing",
        })
    }
}

/// Who a rank is. Names are cut to what a line of a terminal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankInfo {
    /// 0 to `ranks` - 1.
    pub rank: usize,
    /// How many ranks this attempt has.
    pub ranks: usize,
    /// The host's name.
    pub host: String,
    /// What it computes on, as a person would name it.
    pub device: String,
    /// The version of gpart-dist.
    pub version: String,
    /// What must be the same on all ranks, by name, as a hash; at most 64.
    pub fingerprints: BTreeMap<String, String>,
    /// Which start of the run this is, from 1 (see [`attempt_from_env`](crate::attempt_from_env)).
    pub attempt: u32,
}

/// A step that a rank has completed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u64,
    /// How many steps the run will have.
    pub total_steps: u64,
    /// The step's mean loss over all ranks.
    pub loss: f64,
    /// Tokens of all ranks by the second.
    pub tokens_per_second: f64,
    /// Seconds that the step took on this rank.
    pub seconds: f64,
    /// Seconds of these that it waited in collectives, by their names.
    pub waited_seconds: BTreeMap<String, f64>,
}

/// How much memory a rank has on its device, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use now.
    pub now: u64,
    /// The most so far.
    pub peak: u64,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the levels of `tracing`")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for LogLevel {
    type Err = String;

    /// Takes the names in any case.
    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err("a level is one of error, warn, info, debug and trace".into()),
        }
    }
}

/// Something that is asked of a run. It goes to rank 0, which tells the others at the end of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// End after the step in progress, with the state saved.
    Stop {
        /// Why, as a sentence.
        reason: String,
    },
    /// Save a checkpoint that is kept, after the step in progress.
    Checkpoint,
    /// Log at this level from now on.
    LogLevel(LogLevel),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop { reason } if reason.is_empty() => f.write_str("stop"),
            Self::Stop { reason } => write!(f, "stop: {reason}"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::LogLevel(level) => write!(f, "log level {level}"),
        }
    }
}

/// What was asked of a rank since it last looked. Of several wishes of a kind the newest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Why the run shall stop, if it shall.
    pub stop: Option<String>,
    /// Whether a checkpoint shall be saved and kept.
    pub checkpoint: bool,
    /// The level to log at from now on.
    pub log_level: Option<LogLevel>,
}

impl Wishes {
    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds one.
    pub fn add(&mut self, wish: Wish) {
        match wish {
            Wish::Stop { reason } => self.stop = Some(reason),
            Wish::Checkpoint => self.checkpoint = true,
            Wish::LogLevel(level) => self.log_level = Some(level),
        }
    }
}
