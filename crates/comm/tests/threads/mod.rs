//! Ranks that are threads of one process: as much of a control communicator as bringing up NCCL takes.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};

use comm::{Communicator, Pending, Piece, Region, Traffic};

/// What ranks have said to each other and nobody has taken yet.
#[derive(Default)]
struct Hub {
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    /// By communicator and number of the call, every rank's bytes.
    rounds: BTreeMap<(String, usize), Vec<Option<Vec<u8>>>>,
    /// By communicator, sender and receiver.
    mail: BTreeMap<(String, usize, usize), VecDeque<Vec<u8>>>,
}

/// A rank.
pub struct Threads {
    hub: Arc<Hub>,
    name: String,
    rank: usize,
    size: usize,
    calls: Cell<usize>,
}

/// Runs `rank` as so many ranks; panics where one of them did.
pub fn run(ranks: usize, rank: impl Fn(&Threads) + Send + Sync) {
    let hub = Arc::new(Hub::default());
    std::thread::scope(|scope| {
        for number in 0..ranks {
            let (hub, rank) = (Arc::clone(&hub), &rank);
            scope.spawn(move || {
                let name = "all".to_owned();
                let own = Threads { hub, name, rank: number, size: ranks, calls: Cell::new(0) };
                // The others would wait for it.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rank(&own))).is_err() {
                    std::process::exit(101);
                }
            });
        }
    });
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn backend(&self) -> String {
        "threads".to_owned()
    }

    fn all_reduce_sum(&self, _values: &mut [i64]) {
        unreachable!("the start of NCCL has no sums")
    }

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let key = (self.name.clone(), self.calls.replace(self.calls.get() + 1));
        let mut said = self.hub.said.lock().unwrap();
        said.rounds.entry(key.clone()).or_insert_with(|| vec![None; self.size])[self.rank] =
            Some(bytes.to_vec());
        self.hub.changed.notify_all();
        loop {
            if let Some(all) = said.rounds[&key].iter().cloned().collect::<Option<Vec<Vec<u8>>>>() {
                return all;
            }
            said = self.hub.changed.wait(said).unwrap();
        }
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        let mut all = self.all_gather(bytes);
        *bytes = all.swap_remove(root);
    }

    fn split(&self, axis: &'static str, group: usize) -> Box<dyn Communicator> {
        let name = format!("{}/{}:{axis}:{group}", self.name, self.calls.get());
        let groups = self.all_gather(&group.to_le_bytes());
        let mates: Vec<usize> = (0..self.size).filter(|rank| groups[*rank] == groups[self.rank]).collect();
        let rank = mates.iter().position(|mate| *mate == self.rank).unwrap();
        let (hub, size) = (Arc::clone(&self.hub), mates.len());
        Box::new(Self { hub, name, rank, size, calls: Cell::new(0) })
    }

    fn start_all_gather(&self, _mine: Piece, _all: Region) -> Pending<Region> {
        unreachable!("the start of NCCL has no pieces")
    }

    fn start_send(&self, to: usize, message: Piece) -> Pending<()> {
        let key = (self.name.clone(), self.rank, to);
        self.hub.said.lock().unwrap().mail.entry(key).or_default().push_back(message.bytes().to_vec());
        self.hub.changed.notify_all();
        Pending::done(())
    }

    /// Waits for it at once: tests begin to send before they begin to receive.
    fn start_receive(&self, from: usize, mut into: Region) -> Pending<Region> {
        let key = (self.name.clone(), from, self.rank);
        let mut said = self.hub.said.lock().unwrap();
        loop {
            if let Some(message) = said.mail.get_mut(&key).and_then(VecDeque::pop_front) {
                into.bytes_mut().copy_from_slice(&message);
                return Pending::done(into);
            }
            said = self.hub.changed.wait(said).unwrap();
        }
    }

    fn traffic(&self) -> Vec<Traffic> {
        Vec::new()
    }
}
