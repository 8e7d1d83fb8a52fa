//! A bound on the work of a verdict.

use std::cell::Cell;

/// Steps that a verdict may still take: tokens tried by a parser, nodes visited, factors multiplied. A count and no
/// clock, so that a verdict is the same on every machine.
pub(crate) struct Fuel(Cell<u64>);

/// Some ten milliseconds' worth; ordinary answers take some hundreds.
const STEPS: u64 = 80_000;

impl Default for Fuel {
    fn default() -> Self {
        Self(Cell::new(STEPS))
    }
}

impl Fuel {
    /// Uses up `steps`; none where there are not so many left, and never any again.
    pub(crate) fn burn(&self, steps: u64) -> Option<()> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.map(|_| ())
    }
}
