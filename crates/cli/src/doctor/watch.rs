//! An eye on the clock: a check that does not end is an outcome too.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a check may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long messages past 2^31 bytes may take.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// How much longer a rank waits that is not to speak.
const SPEAKERS_LEAD: Duration = Duration::from_secs(2);

/// Shows what is being done where somebody watches, and ends the process when it takes too long, saying which.
pub struct Watch {
    going: Arc<Mutex<Going>>,
    is_shown: bool,
}

struct Going {
    what: String,
    until: Option<Instant>,
}

impl Watch {
    /// Starts to watch. Rank 0 speaks; `is_shown` on a terminal that somebody looks at.
    pub fn start(rank: usize, is_shown: bool) -> Self {
        let going = Arc::new(Mutex::new(Going { what: String::new(), until: None }));
        let seen = Arc::clone(&going);
        let lead = if rank == 0 { Duration::ZERO } else { SPEAKERS_LEAD };
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let going = lock(&seen);
                if going.until.is_some_and(|until| Instant::now() > until + lead) {
                    end(rank, &going.what);
                }
            }
        });
        Self { going, is_shown: is_shown && rank == 0 }
    }

    /// What is done from now on.
    pub fn now(&self, what: String) {
        self.set(what, PATIENCE);
    }

    /// The same for what takes long by its nature.
    pub fn long(&self, what: String) {
        self.set(what, LONG_PATIENCE);
    }

    /// Nothing is waited for any more.
    pub fn over(&self) {
        lock(&self.going).until = None;
        self.show("");
    }

    fn set(&self, what: String, patience: Duration) {
        self.show(&format!("{what} …"));
        *lock(&self.going) = Going { what, until: Some(Instant::now() + patience) };
    }
}

impl Watch {
    /// Replaces the line that was shown before.
    fn show(&self, text: &str) {
        if self.is_shown {
            let _ = std::io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over();
    }
}

fn lock(going: &Mutex<Going>) -> MutexGuard<'_, Going> {
    going.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Peers sit in a collective, so nothing can be wound up in order.
fn end(rank: usize, what: &str) -> ! {
    if rank == 0 {
        let text = format!(
            "error: {what} did not end in time\n\
             hint: a firewall between the hosts, a network interface that only some of them have (--mca \
             btl_tcp_if_include NAME, NCCL_SOCKET_IFNAME=NAME) or another version of the library there; the checks \
             before this one went well\n"
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    // SAFETY: `_exit` is always safe to call; it runs no destructors, which would wait for peers.
    unsafe { libc::_exit(1) }
}
