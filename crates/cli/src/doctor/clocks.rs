//! Clocks: whether those of the ranks agree, and whether this one runs evenly.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use comm::{Communicator, Piece, Region};
use serde::Serialize;

/// Questions a rank: the one that was answered fastest counts.
const QUESTIONS: usize = 10;
/// Ranks that are asked; of more, the first ones.
const MOST_RANKS: usize = 256;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Clocks {
    /// Seconds by which each rank's clock is ahead of rank 0's, and how far that may be off.
    pub ahead: Vec<(f64, f64)>,
    /// Seconds that rank 0's clock of the day gained on its steady one during the checks.
    pub jumped: f64,
    /// The steady clock went back.
    pub went_back: bool,
}

/// Both clocks at the beginning.
pub struct Start(Instant, SystemTime);

impl Start {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// How much the clock of the day gained on the steady one since, seconds.
    fn jumped(&self) -> f64 {
        let steady = self.0.elapsed().as_secs_f64();
        let of_day = match self.1.elapsed() {
            Ok(elapsed) => elapsed.as_secs_f64(),
            Err(back) => -back.duration().as_secs_f64(),
        };
        of_day - steady
    }
}

/// Collective: compares the clocks.
pub fn check(comm: &dyn Communicator, start: &Start) -> Clocks {
    let asked = comm.size().min(MOST_RANKS);
    let mut ahead = vec![(0.0, 0.0)];
    for rank in 1..asked {
        match comm.rank() {
            0 => ahead.push(ask(comm, rank)),
            own if own == rank => (0..QUESTIONS).for_each(|_| answer(comm)),
            _ => {}
        }
    }
    let mut last = Instant::now();
    let mut went_back = false;
    for _ in 0..10_000 {
        let now = Instant::now();
        went_back |= now < last;
        last = now;
    }
    Clocks { ahead, jumped: start.jumped(), went_back }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How far the rank's clock is ahead, and half the time of the fastest answer.
fn ask(comm: &dyn Communicator, rank: usize) -> (f64, f64) {
    let question = |_| {
        let (Ok(question), Ok(into)) = (Region::new(8), Region::new(8)) else { return (0.0, f64::INFINITY) };
        let coming = comm.start_receive(rank, into);
        let asked = (now(), Instant::now());
        comm.start_send(rank, Piece::from(question)).wait();
        let answer = coming.wait();
        let half = asked.1.elapsed().as_secs_f64() / 2.0;
        let theirs = answer.bytes().try_into().map_or(0, u64::from_le_bytes) as f64 / 1e9;
        (theirs - asked.0.as_secs_f64() - half, half)
    };
    (0..QUESTIONS).map(question).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0.0, f64::INFINITY))
}

fn answer(comm: &dyn Communicator) {
    let Ok(into) = Region::new(8) else { return };
    let _ = comm.start_receive(0, into).wait();
    if let Ok(answer) = Region::copy_of(&(now().as_nanos() as u64).to_le_bytes()) {
        comm.start_send(0, Piece::from(answer)).wait();
    }
}
