//! Operations that go on while the rank computes.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use crate::ledger::{Ledger, Operation};
use crate::waiting;

/// An operation that was started. What it needs and makes belongs to it until [`Pending::wait`].
#[must_use = "an operation has to be waited for"]
pub struct Pending<T> {
    state: State<T>,
}

enum State<T> {
    Done(T),
    Going { result: Receiver<T>, account: Account, hurry: Hurry },
}

/// Tells whoever carries an operation on that it is waited for.
pub(crate) type Hurry = Box<dyn FnOnce() + Send>;

/// Where the time spent waiting is counted.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub ledger: Ledger,
    pub axis: &'static str,
    pub operation: Operation,
}

impl<T> Pending<T> {
    /// An operation that is over already.
    pub fn done(value: T) -> Self {
        Self { state: State::Done(value) }
    }

    /// An operation that will send its result; `hurry` is called when somebody begins to wait for it.
    #[cfg_attr(
        not(any(feature = "mpi", feature = "nccl")),
        allow(dead_code, reason = "only communicators with peers wait")
    )]
    pub(crate) fn going(account: Account, hurry: Hurry) -> (Sender<T>, Self) {
        let (sender, result) = channel();
        (sender, Self { state: State::Going { result, account, hurry } })
    }

    /// Its result, if it is over; nothing is counted as waiting.
    #[cfg(feature = "nccl")]
    pub(crate) fn poll(self) -> Result<T, Self> {
        match self.state {
            State::Done(value) => Ok(value),
            State::Going { result, account, hurry } => {
                result.try_recv().map_err(|_| Self { state: State::Going { result, account, hurry } })
            }
        }
    }

    /// Waits for its end, without spinning.
    ///
    /// # Panics
    /// The thread that carries messages is gone, which it never is while a communicator lives.
    pub fn wait(self) -> T {
        match self.state {
            State::Done(value) => value,
            State::Going { result, account, hurry } => {
                let started = Instant::now();
                hurry();
                waiting::begin(account.axis, account.operation, started);
                let value =
                    result.recv().expect("the thread that carries messages outlives its communicators");
                waiting::end();
                account.ledger.waited(account.axis, account.operation, started.elapsed());
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_known_elsewhere() {
        let account = Account { ledger: Ledger::default(), axis: "world", operation: Operation::AllReduce };
        let (sender, pending) = Pending::going(account, Box::new(|| ()));
        let waits = std::thread::spawn(move || pending.wait());
        let seen = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            waiting::waiting()
        });
        assert_eq!(seen.map(|seen| (seen.axis, seen.operation)), Some(("world", Operation::AllReduce)));
        assert!(sender.send(7).is_ok() && waits.join().is_ok_and(|value| value == 7));
        assert_eq!(waiting::waiting(), None);
    }
}
