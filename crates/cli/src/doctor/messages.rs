//! Every kind of message against a known answer, with its time.

use std::time::{Duration, Instant};

use comm::{Communicator, PIECE_ALIGNMENT, Pending, Piece, Region};
use serde::Serialize;

use super::watch::Watch;

/// Bytes of the messages that are timed: a small one, a page, θ of 524,288 numbers as sums, and a large one.
pub const SIZES: [usize; 4] = [8, 4 << 10, 4 << 20, 64 << 20];
/// How often each size is said, unless that takes longer than [`LONGEST`].
const CALLS: [usize; 4] = [50, 50, 8, 3];
/// Most seconds for one kind of message of one size, and when little time is to be spent.
const LONGEST: f64 = 1.0;
const QUICK: f64 = 0.02;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Bytes of the largest message.
    pub largest: usize,
    /// Few calls: the times say little then, the answers as much.
    pub quick: bool,
}

/// The kinds of messages.
pub const KINDS: [Kind; 5] =
    [Kind::AllReduce, Kind::AllGather, Kind::Broadcast, Kind::SendReceive, Kind::Exchange];

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Sums of all ranks' numbers.
    AllReduce,
    /// Everybody's piece, for everybody.
    AllGather,
    /// One rank's bytes, for everybody.
    Broadcast,
    /// From each rank to the next one, around the ring.
    SendReceive,
    /// From each rank to each.
    Exchange,
}

impl Kind {
    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::AllGather => "all-gather",
            Self::Broadcast => "broadcast",
            Self::SendReceive => "send, receive",
            Self::Exchange => "all to all",
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub kind: Kind,
    /// Of an all-reduce and a broadcast the vector's; of a gather and of all to all what all ranks say together, about;
    /// of a send one message's.
    pub bytes: usize,
    /// Median over the calls, of the rank that waited longest.
    pub seconds: f64,
    pub calls: usize,
}

/// The messages of one communicator.
#[derive(Debug, Clone, Serialize)]
pub struct Messages {
    /// Name and version of what carries them.
    pub carrier: String,
    pub measured: Vec<Measured>,
    /// Kinds that gave a wrong answer: on which ranks, and what.
    pub wrong: Vec<String>,
}

/// Collective: says everything on `comm`. Outcomes are compared over `control`.
pub fn check(comm: &dyn Communicator, control: &dyn Communicator, effort: Effort, watch: &Watch) -> Messages {
    let carrier = comm.backend();
    let mut measured = Vec::new();
    let mut wrong = Vec::new();
    for kind in KINDS {
        for (bytes, calls) in SIZES.into_iter().zip(CALLS).filter(|(bytes, _)| *bytes <= effort.largest) {
            watch.now(format!("{} of {bytes} bytes over {carrier}", kind.name()));
            measured.push(measure((kind, bytes, calls), effort, (comm, control), &mut wrong));
        }
    }
    watch.now(format!("messages of uneven lengths over {carrier}"));
    wrong.extend(uneven(comm));
    watch.now(format!("several messages at once over {carrier}"));
    wrong.extend(at_once(comm).err());
    watch.now(format!("a split of the ranks over {carrier}"));
    wrong.extend(split(comm));
    watch.now("the outcome of the messages".to_owned());
    Messages { carrier, measured, wrong: of_all_ranks(control, &wrong) }
}

/// Collective: what any rank found wrong.
pub fn of_all_ranks(control: &dyn Communicator, wrong: &[String]) -> Vec<String> {
    let all = control.all_gather(&serde_json::to_vec(wrong).unwrap_or_default());
    let of_rank = |(rank, bytes): (usize, &Vec<u8>)| {
        let texts: Vec<String> = serde_json::from_slice(bytes).unwrap_or_default();
        texts.into_iter().map(move |text| format!("rank {rank}: {text}")).collect::<Vec<String>>()
    };
    all.iter().enumerate().flat_map(of_rank).collect()
}

fn measure(
    (kind, bytes, calls): (Kind, usize, usize),
    effort: Effort,
    (comm, control): (&dyn Communicator, &dyn Communicator),
    wrong: &mut Vec<String>,
) -> Measured {
    // Counts as a warm-up too: connections are made at the first message.
    let first = say(kind, bytes, comm, 0, wrong);
    let first = slowest(control, &[first.as_secs_f64()])[0];
    let longest = if effort.quick { QUICK } else { LONGEST };
    let calls = ((longest / first.max(1e-9)) as usize).clamp(1, calls);
    let times: Vec<f64> = (1..=calls).map(|call| say(kind, bytes, comm, call, wrong).as_secs_f64()).collect();
    let mut times = slowest(control, &times);
    times.sort_unstable_by(f64::total_cmp);
    Measured { kind, bytes, seconds: times[calls / 2], calls }
}

/// Collective: of each of several times, that of the slowest rank.
fn slowest(control: &dyn Communicator, times: &[f64]) -> Vec<f64> {
    let own: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
    let all = control.all_gather(&own);
    let time = |bytes: &[u8], call: usize| {
        let bytes = bytes.get(8 * call..8 * call + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0.0, f64::from_le_bytes)
    };
    let of_call = |call| all.iter().map(|bytes| time(bytes, call)).fold(0.0, f64::max);
    (0..times.len()).map(of_call).collect()
}

/// Says one message of a kind and checks what comes; how long it took.
fn say(kind: Kind, bytes: usize, comm: &dyn Communicator, call: usize, wrong: &mut Vec<String>) -> Duration {
    let (time, mistake) = match kind {
        Kind::AllReduce => all_reduce(comm, bytes / 8, call),
        Kind::AllGather => all_gather(comm, bytes, call),
        Kind::Broadcast => broadcast(comm, bytes, call),
        Kind::SendReceive => ring(comm, bytes, call),
        Kind::Exchange => exchange(comm, bytes, call),
    };
    // One mistake a kind and size says it all.
    if let (0, Some(mistake)) = (call, mistake) {
        wrong.push(format!("{} of {bytes} bytes: {mistake}", kind.name()));
    }
    time
}

type Said = (Duration, Option<String>);

/// Times `work` from a common beginning on.
fn timed<T>(comm: &dyn Communicator, work: impl FnOnce() -> T) -> (Duration, T) {
    comm.all_gather(&[]);
    let started = Instant::now();
    let value = work();
    (started.elapsed(), value)
}

/// What rank `rank` says at place `index`: no two ranks, calls or neighbours alike.
fn byte(rank: usize, index: usize, call: usize) -> u8 {
    (index % 251 + index / 251 % 7 * 31 + rank * 101 + call * 17) as u8
}

fn content(rank: usize, length: usize, call: usize) -> Vec<u8> {
    (0..length).map(|index| byte(rank, index, call)).collect()
}

fn differs(what: &str, found: &[u8], rank: usize, call: usize) -> Option<String> {
    let at = found.iter().enumerate().position(|(index, found)| *found != byte(rank, index, call))?;
    Some(format!("byte {at} of {} from {what} is {}, not {}", found.len(), found[at], byte(rank, at, call)))
}

fn no_memory(error: &std::io::Error) -> Said {
    (Duration::ZERO, Some(format!("no memory for it: {error}")))
}

fn all_reduce(comm: &dyn Communicator, length: usize, call: usize) -> Said {
    // Sums that pass 2^63 and come back: they wrap.
    let value = |rank: usize, index: usize| (i64::MAX - index as i64).wrapping_mul((rank + call + 1) as i64);
    let mut values: Vec<i64> = (0..length).map(|index| value(comm.rank(), index)).collect();
    let (time, ()) = timed(comm, || comm.all_reduce_sum(&mut values));
    let sum = |index| (0..comm.size()).fold(0i64, |sum, rank| sum.wrapping_add(value(rank, index)));
    let mistake = (0..length).find(|index| values[*index] != sum(*index));
    (time, mistake.map(|at| format!("sum {at} of {length} is {}, not {}", values[at], sum(at))))
}

fn all_gather(comm: &dyn Communicator, bytes: usize, call: usize) -> Said {
    let (rank, ranks) = (comm.rank(), comm.size());
    let length = (bytes / ranks).next_multiple_of(PIECE_ALIGNMENT);
    if bytes < PIECE_ALIGNMENT {
        let (time, all) = timed(comm, || comm.all_gather(&content(rank, bytes, call)));
        let check = |(from, found): (usize, &Vec<u8>)| differs(&format!("rank {from}"), found, from, call);
        return (time, all.iter().enumerate().find_map(check));
    }
    let regions = Region::copy_of(&content(rank, length, call))
        .and_then(|mine| Ok((mine, Region::new(length * ranks)?)));
    let (mine, all) = match regions {
        Ok(regions) => regions,
        Err(error) => return no_memory(&error),
    };
    let (time, all) = timed(comm, || comm.start_all_gather(Piece::from(mine), all).wait());
    let pieces = all.bytes().chunks_exact(length).enumerate();
    let mistake = pieces.map(|(from, found)| differs(&format!("rank {from}"), found, from, call));
    (time, mistake.flatten().next())
}

fn broadcast(comm: &dyn Communicator, bytes: usize, call: usize) -> Said {
    let root = call % comm.size();
    let mut found = if comm.rank() == root { content(root, bytes, call) } else { Vec::new() };
    let (time, ()) = timed(comm, || comm.broadcast(root, &mut found));
    let short = (found.len() != bytes).then(|| format!("{} bytes came", found.len()));
    (time, short.or_else(|| differs(&format!("rank {root}"), &found, root, call)))
}

fn ring(comm: &dyn Communicator, bytes: usize, call: usize) -> Said {
    let (rank, ranks) = (comm.rank(), comm.size());
    let (to, from) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    let regions =
        Region::copy_of(&content(rank, bytes, call)).and_then(|mine| Ok((mine, Region::new(bytes)?)));
    let (mine, into) = match regions {
        Ok(regions) => regions,
        Err(error) => return no_memory(&error),
    };
    let (time, found) = timed(comm, || {
        let coming = comm.start_receive(from, into);
        comm.start_send(to, Piece::from(mine)).wait();
        coming.wait()
    });
    (time, differs(&format!("rank {from}"), found.bytes(), from, call))
}

fn exchange(comm: &dyn Communicator, bytes: usize, call: usize) -> Said {
    let (rank, ranks) = (comm.rank(), comm.size());
    let length = (bytes / ranks).max(1);
    let outgoing: Result<Vec<Region>, std::io::Error> =
        (0..ranks).map(|to| Region::copy_of(&content(rank, length, call + to))).collect();
    let (time, arrived) = match outgoing {
        Ok(outgoing) => timed(comm, || comm::exchange(comm, outgoing, &vec![length; ranks])),
        Err(error) => return no_memory(&error),
    };
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(error) => return no_memory(&error),
    };
    let pieces = arrived.iter().enumerate();
    let mistake =
        pieces.map(|(from, found)| differs(&format!("rank {from}"), found.bytes(), from, call + rank));
    (time, mistake.flatten().next())
}

/// Lengths that differ from rank to rank, nothing and more than a block of the first round among them.
fn uneven(comm: &dyn Communicator) -> Option<String> {
    let length = |rank: usize| rank * 1009 % 2027;
    let all = comm.all_gather(&content(comm.rank(), length(comm.rank()), 5));
    let check = |(from, found): (usize, &Vec<u8>)| match found.len() == length(from) {
        true => differs(&format!("rank {from}"), found, from, 5),
        false => Some(format!("{} bytes came from rank {from}, not {}", found.len(), length(from))),
    };
    let mistake = all.iter().enumerate().find_map(check)?;
    Some(format!("all-gather of uneven lengths: {mistake}"))
}

/// Messages of several lengths on their way at once, both ways around the ring, beside a gather: each in its order.
fn at_once(comm: &dyn Communicator) -> Result<(), String> {
    const MESSAGES: usize = 6;
    let (rank, ranks) = (comm.rank(), comm.size());
    let neighbours = [(rank + 1) % ranks, (rank + ranks - 1) % ranks];
    let length = |number: usize| 1 + number * 70_001;
    let no_memory = |error: std::io::Error| format!("no memory for messages: {error}");
    let mut coming = Vec::new();
    let mut going = Vec::new();
    for from in neighbours {
        for number in 0..MESSAGES {
            let into = Region::new(length(number)).map_err(no_memory)?;
            coming.push((from, number, comm.start_receive(from, into)));
        }
    }
    let mine = Region::copy_of(&content(rank, 1 << 20, 9)).map_err(no_memory)?;
    let all = comm.start_all_gather(Piece::from(mine), Region::new(ranks << 20).map_err(no_memory)?);
    for to in neighbours {
        for number in 0..MESSAGES {
            let message = Region::copy_of(&content(rank, length(number), number)).map_err(no_memory)?;
            going.push(comm.start_send(to, Piece::from(message)));
        }
    }
    let mut mistakes = Vec::new();
    for (from, number, message) in coming {
        mistakes.extend(differs(&format!("rank {from}"), message.wait().bytes(), from, number % MESSAGES));
    }
    going.into_iter().for_each(Pending::wait);
    let pieces = all.wait();
    let pieces = pieces.bytes().chunks_exact(1 << 20).enumerate();
    mistakes.extend(pieces.filter_map(|(from, found)| differs(&format!("rank {from}"), found, from, 9)));
    mistakes.pop().map_or(Ok(()), |mistake| Err(format!("several messages at once: {mistake}")))
}

/// Even and odd ranks each for themselves.
fn split(comm: &dyn Communicator) -> Option<String> {
    let parity = comm.rank() % 2;
    let part = comm.split("doctor", parity);
    let members: Vec<usize> = (0..comm.size()).filter(|rank| rank % 2 == parity).collect();
    let named: Vec<Vec<u8>> = members.iter().map(|rank| rank.to_le_bytes().to_vec()).collect();
    let all = part.all_gather(&comm.rank().to_le_bytes());
    let mut sum = [comm.rank() as i64];
    part.all_reduce_sum(&mut sum);
    let right = all == named && sum[0] == members.iter().sum::<usize>() as i64;
    (!right).then(|| format!("split into even and odd ranks: {} members came, sum {}", all.len(), sum[0]))
}
