//! Signals to the launcher.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::error::LaunchError;

/// Whether one has come, also if a run has taken it out of the channel since.
static CAME: AtomicBool = AtomicBool::new(false);

/// From now on signals that ask for an end arrive here instead of ending this process.
pub fn listen() -> Result<Receiver<i32>, LaunchError> {
    let failed = |source| LaunchError::Start { what: "the handling of signals".to_owned(), source };
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(failed)?;
    let (sender, receiver) = channel();
    let wait = move || {
        for signal in signals.forever() {
            CAME.store(true, Ordering::SeqCst);
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(failed)?;
    Ok(receiver)
}

/// Whether an end was asked for since [`listen`].
pub fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

/// What a signal is called.
pub fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        SIGUSR1 => "SIGUSR1",
        _ => "a signal",
    }
}
