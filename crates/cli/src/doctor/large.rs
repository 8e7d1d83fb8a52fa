//! Messages past 2^31 bytes, where counts of 32 bits end.

use std::time::Instant;

use comm::{Communicator, PIECE_ALIGNMENT, Piece, Region};
use serde::Serialize;

use super::messages;
use super::watch::Watch;

/// Bytes of each message: a little more than 2^31, and no multiple of it.
const LENGTH: usize = (1 << 31) + 4 * PIECE_ALIGNMENT;

/// Bytes of memory that a rank takes for them, with what carries them.
const MEMORY_A_RANK: u64 = 3 * LENGTH as u64;

/// The large messages of one communicator.
#[derive(Debug, Clone, Serialize)]
pub struct Large {
    pub carrier: String,
    pub bytes: usize,
    /// Name and seconds of those that were said.
    pub seconds: Vec<(&'static str, f64)>,
    pub wrong: Vec<String>,
    /// Why they were left out.
    pub left_out: Option<String>,
}

/// Collective: a broadcast, a gather and a send. `available` is the host's memory in bytes, for all of its `on_host`
/// ranks; a host with too little leaves all of them out.
pub fn check(
    comm: &dyn Communicator,
    control: &dyn Communicator,
    (available, on_host): (Option<u64>, usize),
    watch: &Watch,
) -> Large {
    let carrier = comm.backend();
    let needed = MEMORY_A_RANK * on_host as u64;
    let enough = available.is_none_or(|available| available > needed);
    let lacking = control.all_gather(&[u8::from(!enough)]).iter().position(|lacks| *lacks == [1]);
    let mut large = Large { carrier, bytes: LENGTH, seconds: Vec::new(), wrong: Vec::new(), left_out: None };
    if let Some(rank) = lacking {
        let gib = needed.div_ceil(1 << 30);
        large.left_out =
            Some(format!("the host of rank {rank} has less than {gib} GiB of memory left for them"));
        return large;
    }
    for (name, say) in [("broadcast", broadcast as Say), ("all-gather", all_gather), ("send", send)] {
        watch.long(format!("{name} of {LENGTH} bytes over {}", large.carrier));
        let started = Instant::now();
        let mistake = say(comm).err().map(|mistake| format!("{name} of {LENGTH} bytes: {mistake}"));
        control.all_gather(&[]);
        large.seconds.push((name, started.elapsed().as_secs_f64()));
        large.wrong.extend(mistake);
    }
    watch.now("the outcome of the large messages".to_owned());
    large.wrong = messages::of_all_ranks(control, &large.wrong);
    large
}

type Say = fn(&dyn Communicator) -> Result<(), String>;

/// Places that a count of 32 bits would miss or hit twice, and both ends.
fn places(length: usize) -> impl Iterator<Item = usize> {
    let around = [0, 1 << 30, 1 << 31, length - 1];
    around.into_iter().flat_map(|at: usize| [at.saturating_sub(1), at, at + 1]).filter(move |at| *at < length)
}

fn mark(bytes: &mut [u8], seed: usize) {
    places(bytes.len()).for_each(|at| bytes[at] = value(at, seed));
}

fn value(at: usize, seed: usize) -> u8 {
    ((at % 239 + at / (1 << 29) * 13 + seed * 41) as u8).max(1)
}

fn verify(bytes: &[u8], seed: usize) -> Result<(), String> {
    match places(bytes.len()).find(|at| bytes[*at] != value(*at, seed)) {
        Some(at) => Err(format!("byte {at} is {}, not {}", bytes[at], value(at, seed))),
        None => Ok(()),
    }
}

fn region(length: usize) -> Result<Region, String> {
    Region::new(length).map_err(|error| format!("no memory for it: {error}"))
}

fn broadcast(comm: &dyn Communicator) -> Result<(), String> {
    let mut bytes = Vec::new();
    if comm.rank() == 0 {
        bytes.resize(LENGTH, 0);
        mark(&mut bytes, 1);
    }
    comm.broadcast(0, &mut bytes);
    verify(&bytes, 1)
}

/// Each rank's share of it is small; together they pass the bound.
fn all_gather(comm: &dyn Communicator) -> Result<(), String> {
    let length = LENGTH.div_ceil(comm.size()).next_multiple_of(PIECE_ALIGNMENT);
    let (mut mine, all) = (region(length)?, region(length * comm.size())?);
    mark(mine.bytes_mut(), comm.rank());
    let all = comm.start_all_gather(Piece::from(mine), all).wait();
    all.bytes().chunks_exact(length).enumerate().try_for_each(|(rank, piece)| verify(piece, rank))
}

fn send(comm: &dyn Communicator) -> Result<(), String> {
    match comm.rank() {
        0 => {
            let mut message = region(LENGTH)?;
            mark(message.bytes_mut(), 2);
            comm.start_send(1, Piece::from(message)).wait();
            Ok(())
        }
        1 => verify(comm.start_receive(0, region(LENGTH)?).wait().bytes(), 2),
        _ => Ok(()),
    }
}
