//! What was said: calls, bytes and time of each kind of operation on each axis.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the usual names of the operations")]
pub enum Operation {
    AllReduce,
    AllGather,
    Broadcast,
    Send,
    Receive,
}

impl Operation {
    /// The name as in `run.json` and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::AllGather => "all-gather",
            Self::Broadcast => "broadcast",
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }
}

/// Totals of one kind of operation on one axis, of this rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// What the communicator joins, as its maker named it.
    pub axis: &'static str,
    /// Which operation.
    pub operation: Operation,
    /// How often.
    pub calls: u64,
    /// Bytes: of an all-reduce the length of the vector; of an all-gather what the others sent this rank; of the rest
    /// the length of the message.
    pub bytes: u64,
    /// Seconds that this rank waited for it.
    pub waited_seconds: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    calls: u64,
    bytes: u64,
    waited: Duration,
}

/// Totals of all communicators that come from one start.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<(&'static str, Operation), Totals>>>);

impl Ledger {
    /// Counts an operation of so many bytes.
    pub fn count(&self, axis: &'static str, operation: Operation, bytes: usize) {
        self.change(axis, operation, |totals| {
            totals.calls += 1;
            totals.bytes += bytes as u64;
        });
    }

    /// Counts time spent waiting for one that was counted before.
    pub fn waited(&self, axis: &'static str, operation: Operation, time: Duration) {
        self.change(axis, operation, |totals| totals.waited += time);
    }

    fn change(&self, axis: &'static str, operation: Operation, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(totals.entry((axis, operation)).or_default());
    }

    /// The totals so far, by axis and operation.
    pub fn totals(&self) -> Vec<Traffic> {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |((axis, operation), totals): (&(&'static str, Operation), &Totals)| Traffic {
            axis,
            operation: *operation,
            calls: totals.calls,
            bytes: totals.bytes,
            waited_seconds: totals.waited.as_secs_f64(),
        };
        totals.iter().map(line).collect()
    }
}
