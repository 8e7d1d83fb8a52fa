//! A run as people and their tools see it. All of it serialises; durations are seconds, memory is bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decide::Finding;
use crate::report::{Phase, Wish};

/// A run at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run's name.
    pub run: String,
    /// Which start of the run this is, from 1.
    pub attempt: u32,
    /// How often it was restarted.
    pub restarts: u32,
    /// How many ranks this attempt has.
    pub rank_count: usize,
    /// How long the coordinator has been there, in seconds.
    pub up_seconds: f64,
    /// The newest completed step; 0 before the first.
    pub step: u64,
    /// How many steps the run will have; 0 while that is unknown.
    pub total_steps: u64,
    /// The newest step whose state is durable.
    pub durable_step: Option<u64>,
    /// Mean loss of the newest completed step. A loss that is not finite is `None` in JSON.
    pub loss: Option<f64>,
    /// Tokens of all ranks by the second, in the newest completed step.
    pub tokens_per_second: Option<f64>,
    /// The median of recent steps, in seconds.
    pub step_seconds: Option<f64>,
    /// How long the rest will take at that pace, in seconds.
    pub eta_seconds: Option<f64>,
    /// Why the run was asked to stop, if it was.
    pub stopping: Option<String>,
    /// The ranks that have registered in this attempt, in order.
    pub ranks: Vec<RankStatus>,
    /// What is wrong at the moment.
    pub findings: Vec<Finding>,
}

/// A rank at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankStatus {
    /// 0 to the number of ranks - 1.
    pub rank: usize,
    /// The host's name.
    pub host: String,
    /// What it computes on.
    pub device: String,
    /// The process on its host.
    pub pid: u32,
    /// The version of gpart-dist.
    pub version: String,
    /// Whether its stream of reports is open.
    pub connected: bool,
    /// The step in progress; `None` before the first.
    pub step: Option<u64>,
    /// What it is doing.
    pub phase: Phase,
    /// For how many seconds.
    pub phase_seconds: f64,
    /// The collective that it waits in now.
    pub collective: Option<String>,
    /// For how many seconds; 0 where it waits in none.
    pub collective_seconds: f64,
    /// Seconds since its last report.
    pub heard_seconds: f64,
    /// Memory in use on its device, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most so far, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Seconds that its newest completed step took.
    pub step_seconds: Option<f64>,
    /// Seconds of these that it waited in collectives.
    pub waited_seconds: Option<f64>,
    /// Tokens of all ranks by the second, as this rank measured them in its newest completed step.
    pub tokens_per_second: Option<f64>,
    /// Seconds that it waited in each collective of that step, by name.
    pub waited_in: BTreeMap<String, f64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one from event to event.
    pub number: u64,
    /// When, in milliseconds of Unix time on the coordinator's clock.
    pub unix_milliseconds: i64,
    /// In which start of the run, from 1.
    pub attempt: u32,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A rank has introduced itself.
    RankRegistered {
        /// Which.
        rank: usize,
        /// Its host.
        host: String,
        /// What it computes on.
        device: String,
    },
    /// A rank's stream has ended.
    RankLost {
        /// Which.
        rank: usize,
        /// Its host.
        host: String,
        /// Whether the rank had said that it ends.
        in_order: bool,
    },
    /// Rank 0 has completed a step.
    StepDone {
        /// From 1.
        step: u64,
        /// How many there will be.
        total_steps: u64,
        /// Mean loss over all ranks. One that is not finite is null in JSON.
        #[serde(deserialize_with = "number_or_null")]
        loss: f64,
        /// Tokens of all ranks by the second.
        tokens_per_second: f64,
        /// Seconds it took.
        seconds: f64,
    },
    /// A step's state is on the disk.
    StepDurable {
        /// The step.
        step: u64,
    },
    /// Something is wrong.
    FindingBegan {
        /// What.
        finding: Finding,
    },
    /// It is no more.
    FindingOver {
        /// What was wrong.
        finding: Finding,
    },
    /// Something was asked of the run.
    WishNoted {
        /// What.
        wish: Wish,
    },
    /// The run was started, or started again.
    AttemptBegan {
        /// On how many ranks.
        ranks: usize,
        /// Why.
        reason: String,
    },
    /// A line of whoever runs the coordinator.
    Note {
        /// The line.
        text: String,
    },
    /// The coordinator ends.
    RunEnded {
        /// How the run came out, as a sentence.
        outcome: String,
    },
}

/// JSON has no number that is not finite; `serde_json` writes null for one.
fn number_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_as_json() {
        let event = |loss| Event {
            number: 3,
            unix_milliseconds: 5,
            attempt: 1,
            kind: EventKind::StepDone { step: 1, total_steps: 2, loss, tokens_per_second: 3.0, seconds: 0.5 },
        };
        let json = serde_json::to_string(&event(1.5)).expect("json");
        assert!(json.contains(r#""event":"step_done""#), "{json}");
        assert_eq!(serde_json::from_str::<Event>(&json).expect("an event"), event(1.5));
        let json = serde_json::to_string(&event(f64::NAN)).expect("json");
        let read: Event = serde_json::from_str(&json).expect("an event");
        assert!(matches!(read.kind, EventKind::StepDone { loss, .. } if loss.is_nan()), "{read:?}");
    }
}
