//! What this process waits for at the moment, for whoever watches over it from another thread.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::Operation;

/// An operation that this rank waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waiting {
    /// What the communicator joins.
    pub axis: &'static str,
    /// Which operation.
    pub operation: Operation,
    /// For so long.
    pub time: Duration,
}

/// A rank is a process, and one of its threads computes and waits; so there is one place for all communicators.
static NOW: Mutex<Option<(&'static str, Operation, Instant)>> = Mutex::new(None);

/// What this rank waits for now; none while it computes.
pub fn waiting() -> Option<Waiting> {
    let now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
    now.map(|(axis, operation, since)| Waiting { axis, operation, time: since.elapsed() })
}

/// Says what the rank waits for from now on.
pub(crate) fn begin(axis: &'static str, operation: Operation, since: Instant) {
    *NOW.lock().unwrap_or_else(PoisonError::into_inner) = Some((axis, operation, since));
}

/// Says that it goes on.
pub(crate) fn end() {
    *NOW.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
