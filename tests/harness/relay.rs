//! A line between two tun devices: packets come out in order, after a delay, no faster than a rate. None is lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a line is like. Both directions are alike and do not slow each other down.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// One way; a round trip takes twice as long.
    pub delay: Duration,
    /// Bits a second in each direction, counted with the IP headers.
    pub rate: f64,
    /// Longest IP packet in bytes.
    pub mtu: usize,
}

/// A forwarding thread that wakes up late makes up for this much lost time: the packets of that time wait in the
/// device's queue, and a line of metal would have sent them.
const SLACK: Duration = Duration::from_micros(200);

/// A stopped relay ends after at most this long.
const STOP_SEEN: Duration = Duration::from_millis(50);

/// The forwarding threads, one for each direction. They end on drop.
pub struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts to forward between two devices, which do not block.
    pub fn start(ends: [File; 2], link: Link) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let [a, b] = ends;
        let pairs = [(a.try_clone().unwrap(), b.try_clone().unwrap()), (b, a)];
        let threads = pairs
            .into_iter()
            .map(|(from, into)| {
                let stop = stop.clone();
                std::thread::spawn(move || Direction::new(from, into, link).run(&stop))
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed; one more, while another unwinds, would abort the clean-up.
            let _ = thread.join();
        }
    }
}

/// One direction of the line.
struct Direction {
    from: File,
    into: File,
    link: Link,
    /// Packets on their way, with the time when each comes out.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    /// When the last bit of the last packet has been put on the line.
    free_at: Instant,
}

impl Direction {
    fn new(from: File, into: File, link: Link) -> Self {
        let (under_way, spare) = (VecDeque::new(), Vec::new());
        Self { from, into, link, under_way, spare, free_at: Instant::now() }
    }

    fn run(mut self, stop: &AtomicBool) {
        be_prompt();
        while !stop.load(Ordering::Relaxed) {
            self.deliver();
            let now = Instant::now();
            let next =
                self.under_way.front().map_or(STOP_SEEN, |(due, _)| due.saturating_duration_since(now));
            if wait_for(&self.from, next.min(STOP_SEEN)) {
                self.accept();
            }
        }
    }

    /// Hands over what is due.
    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, packet)) = self.under_way.pop_front() else { return };
            // A device that is going away takes nothing more, which is no concern of the line's.
            let _ = self.into.write(&packet);
            self.spare.push(packet);
        }
    }

    /// Takes the packets that wait, a few at a time so that what is due does not wait for them.
    fn accept(&mut self) {
        for _ in 0..32 {
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(self.link.mtu, 0);
            let Ok(length) = self.from.read(&mut packet) else {
                self.spare.push(packet);
                return;
            };
            packet.truncate(length);
            let now = Instant::now();
            let takes = Duration::from_secs_f64(length as f64 * 8.0 / self.link.rate);
            self.free_at = self.free_at.max(now.checked_sub(SLACK).unwrap_or(now)) + takes;
            self.under_way.push_back((self.free_at.max(now) + self.link.delay, packet));
        }
    }
}

/// The thread plays hardware: it goes before the ranks that compute beside it, and its sleeps are not rounded up.
fn be_prompt() {
    // SAFETY: both calls change how this thread is scheduled and touch no memory. Failing, it is only less prompt.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
}

/// Waits until there is something to read, at most this long.
fn wait_for(file: &File, timeout: Duration) -> bool {
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: one entry and one time, both of which outlive the call; no signal mask.
    let ready = unsafe { libc::ppoll(&mut entry, 1, &timeout, std::ptr::null()) };
    ready > 0 && entry.revents & libc::POLLIN != 0
}

/// Opens a tun device of this name in the network namespace of the calling thread. It lasts as long as the file.
pub fn open_tun(name: &str) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an `ifreq` of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    for (into, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *into = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is an `ifreq`, as TUNSETIFF wants, and outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}
