//! Messages from device to device, on doubles of the driver and of NCCL; ranks are threads.
//!
//! The doubles are found only by a process that starts with `LD_LIBRARY_PATH`, so the test starts itself again. Every
//! operation of the double takes a while, so what does not wait for it reads what has not come yet.
#![cfg(feature = "nccl")]
#![allow(clippy::unwrap_used)]

mod threads;

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use comm::{
    Alarm, Choice, Communicator, DeviceCommunicator, DeviceMemory, DevicePending, PIECE_ALIGNMENT, Pending,
    Piece, Region, Wish, data_plane,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const INSIDE: &str = "GPART_TEST_DOUBLES";

#[test]
fn messages_from_device_to_device() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("device-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    build_doubles(&folder);
    let log = folder.join("log");
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "messages_from_device_to_device", "--nocapture"])
        .env("LD_LIBRARY_PATH", &folder)
        .env("FAKE_CUDA_DEVICES", "3")
        .env("FAKE_CUDA_LOG", &log)
        .env("FAKE_NCCL_DELAY_US", "1000")
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    std::fs::remove_dir_all(folder).unwrap();
    let output = [again.stdout, again.stderr].concat();
    assert!(again.status.success(), "{}: {}", again.status, String::from_utf8_lossy(&output));
    let released: Vec<&str> = log.lines().filter(|line| line.starts_with("released")).collect();
    assert_eq!(released.last(), Some(&"released with 0 left"), "{released:?}");
}

fn build_doubles(folder: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda");
    let driver = folder.join("libcuda.so.1");
    let build = |library: &str, source: &str, more: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]);
        cc.arg(format!("-Wl,-soname,{library}")).arg("-o").arg(folder.join(library));
        cc.arg(sources.join(source)).args(more);
        assert!(cc.status().unwrap().success(), "{cc:?}");
    };
    build("libcuda.so.1", "fake_cuda.c", &[]);
    build("libnccl.so.2", "fake_nccl.c", &["-Wl,-rpath,$ORIGIN", driver.to_str().unwrap()]);
}

fn inside() {
    for ranks in 1..4 {
        on_nccl(ranks, gathers_into_two_buffers);
    }
    on_nccl(3, what_is_not_a_devices_is_not_reached);
    on_nccl(2, keepers_keep_until_the_end);
    on_nccl(2, everything_is_counted);
    on_nccl(2, empty_messages);
    any_order();
}

/// Runs `rank` on so many ranks with an NCCL communicator.
fn on_nccl(ranks: usize, rank: impl Fn(&dyn Communicator) + Send + Sync) {
    threads::run(ranks, |control| {
        let alarm = Alarm {
            lost: |lost| panic!("{lost:?}"),
            failed: |failure| panic!("{failure:?}"),
            end: || std::process::exit(102),
        };
        let wish = Wish { choice: Choice::Nccl, computes_on_gpu: true, share_gpu: false };
        let plane = data_plane(wish, control, alarm).unwrap_or_else(|error| panic!("{error}"));
        rank(plane.comm.as_ref());
        drop(plane);
        // No context is given up while another rank still has something in its own: the double counts all of them.
        control.all_gather(&[]);
    });
}

fn device(comm: &dyn Communicator) -> &dyn DeviceCommunicator {
    comm.on_device().unwrap()
}

/// Memory of the "device": what it is on the host is what the device sees.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    fn of_length(length: usize) -> Self {
        Self::new(vec![0xee; length])
    }

    fn message(&self) -> DeviceMemory {
        let bytes = self.0.lock().unwrap();
        DeviceMemory {
            address: bytes.as_ptr() as usize,
            length: bytes.len(),
            keeper: Box::new(Arc::clone(&self.0)),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().copy_from_slice(bytes);
    }
}

/// What a rank says: no two ranks or calls alike.
fn content(rank: usize, call: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 241 + rank * 83 + call * 29) as u8).collect()
}

fn gathered(ranks: usize, call: usize, length: usize) -> Vec<u8> {
    (0..ranks).flat_map(|rank| content(rank, call, length)).collect()
}

/// As the trainer does it: one unit is read while the next is on its way into the other buffer.
fn gathers_into_two_buffers(comm: &dyn Communicator) {
    const LENGTH: usize = 40 * PIECE_ALIGNMENT;
    let (rank, ranks) = (comm.rank(), comm.size());
    let buffers = [Memory::of_length(LENGTH * ranks), Memory::of_length(LENGTH * ranks)];
    let start = |call: usize| {
        let piece = Memory::new(content(rank, call, LENGTH));
        device(comm).start_all_gather(piece.message(), buffers[call % 2].message())
    };
    let mut coming: VecDeque<DevicePending> = (0..2).map(start).collect();
    for call in 0..8 {
        let over = coming.pop_front().unwrap().wait();
        assert_eq!(buffers[call % 2].bytes(), gathered(ranks, call, LENGTH), "call {call} of {ranks}");
        over.wait();
        coming.push_back(start(call + 2));
    }
    coming.into_iter().for_each(DevicePending::finish);
}

fn what_is_not_a_devices_is_not_reached(comm: &dyn Communicator) {
    let memory = Memory::of_length(64);
    assert!(device(comm).reaches(memory.message().address));
    // One thread asks after the other: the environment is the process's.
    for turn in 0..comm.size() {
        comm.all_gather(&[]);
        if turn == comm.rank() {
            // SAFETY: the other ranks wait for this one in the next gather; the doubles read it with `getenv` there.
            unsafe { std::env::set_var("FAKE_CUDA_POINTERS", "host") };
            assert!(!device(comm).reaches(memory.message().address));
            // SAFETY: as above.
            unsafe { std::env::remove_var("FAKE_CUDA_POINTERS") };
        }
    }
    comm.all_gather(&[]);
}

/// What memory looked like when its keeper was dropped, whoever dropped it.
struct Keeper {
    memory: Memory,
    seen: Arc<Mutex<Vec<u8>>>,
    is_dropped: Arc<AtomicBool>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.seen.lock().unwrap() = self.memory.bytes();
        self.is_dropped.store(true, Ordering::SeqCst);
    }
}

fn keepers_keep_until_the_end(comm: &dyn Communicator) {
    let other = 1 - comm.rank();
    let sent = Memory::new(content(comm.rank(), 0, 100));
    let going = device(comm).start_send(other, sent.message());
    let into = Memory::of_length(100);
    let (seen, is_dropped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let keeper =
        Keeper { memory: into.clone(), seen: Arc::clone(&seen), is_dropped: Arc::clone(&is_dropped) };
    let coming =
        device(comm).start_receive(other, DeviceMemory { keeper: Box::new(keeper), ..into.message() });
    // The host goes on meanwhile.
    assert!(!is_dropped.load(Ordering::SeqCst));
    coming.finish();
    assert!(is_dropped.load(Ordering::SeqCst), "who knows that it is over has the memory to itself");
    assert_eq!(*seen.lock().unwrap(), content(other, 0, 100));
    // Nobody has to wait.
    drop(going);
    comm.all_gather(&[]);
}

fn everything_is_counted(comm: &dyn Communicator) {
    let (rank, other) = (comm.rank(), 1 - comm.rank());
    let part = comm.split("part", 0);
    let all = Memory::of_length(256);
    device(part.as_ref())
        .start_all_gather(Memory::new(content(rank, 0, 128)).message(), all.message())
        .finish();
    let going = device(part.as_ref()).start_send(other, Memory::of_length(7).message());
    device(part.as_ref()).start_receive(other, Memory::of_length(7).message()).finish();
    going.finish();
    let traffic = comm.traffic();
    let of_part = traffic.iter().filter(|line| line.axis == "part");
    let counts: Vec<(&str, u64, u64)> =
        of_part.map(|line| (line.operation.name(), line.calls, line.bytes)).collect();
    assert_eq!(counts, [("all-gather", 1, 128), ("send", 1, 7), ("receive", 1, 7)]);
}

fn empty_messages(comm: &dyn Communicator) {
    let other = 1 - comm.rank();
    let nothing = || DeviceMemory { address: 64, length: 0, keeper: Box::new(()) };
    let going = device(comm).start_send(other, nothing());
    device(comm).start_receive(other, nothing()).finish();
    device(comm).start_all_gather(nothing(), nothing()).wait().wait();
    going.finish();
}

/// Something that all ranks do.
#[derive(Debug, Clone)]
enum Step {
    /// From device to device.
    Gather(usize),
    /// To the next rank and from the one before, from device to device.
    Ring(usize),
    /// Through the host's memory, on the same lane.
    GatherOnHost(usize),
    /// And on the same lanes to and from neighbours.
    RingOnHost(usize),
    /// The oldest of those that were not waited for.
    Wait,
    /// Until it is over.
    Finish,
}

/// Whatever is started in whatever order, what was waited for is right.
fn any_order() {
    let length = || prop_oneof![Just(1usize), 1..40usize, Just(20_000usize)];
    let step = prop_oneof![
        length().prop_map(Step::Gather),
        length().prop_map(Step::Ring),
        length().prop_map(Step::GatherOnHost),
        length().prop_map(Step::RingOnHost),
        Just(Step::Wait),
        Just(Step::Finish),
    ];
    let steps = (2..4usize, prop::collection::vec(step, 1..16));
    let mut runner = TestRunner::new(Config { cases: 16, failure_persistence: None, ..Config::default() });
    runner
        .run(&steps, |(ranks, steps)| {
            on_nccl(ranks, |comm| follow(comm, &steps));
            Ok(())
        })
        .unwrap();
}

/// What was started, and what it is to come to.
enum Started {
    Direct(DevicePending, Memory, Vec<u8>),
    OnHost(Pending<Region>, Vec<u8>),
}

impl Started {
    fn check(self, until_over: bool) {
        match self {
            Self::Direct(pending, memory, expected) => {
                match until_over {
                    true => pending.finish(),
                    false => drop(pending.wait()),
                }
                assert_eq!(memory.bytes(), expected);
                // What the default stream does from now on comes after it.
                memory.write(&vec![0; expected.len()]);
            }
            Self::OnHost(pending, expected) => assert_eq!(pending.wait().bytes(), expected),
        }
    }
}

fn follow(comm: &dyn Communicator, steps: &[Step]) {
    let mut started = VecDeque::new();
    let mut going: Vec<DevicePending> = Vec::new();
    for (call, step) in steps.iter().enumerate() {
        match step {
            Step::Wait | Step::Finish => {
                let oldest: Option<Started> = started.pop_front();
                oldest.into_iter().for_each(|oldest| oldest.check(matches!(step, Step::Finish)));
            }
            step => started.push_back(start(comm, step, call, &mut going)),
        }
    }
    started.into_iter().for_each(|started| started.check(false));
    going.into_iter().for_each(DevicePending::finish);
}

fn start(comm: &dyn Communicator, step: &Step, call: usize, going: &mut Vec<DevicePending>) -> Started {
    let (rank, ranks) = (comm.rank(), comm.size());
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    let region = |bytes: Vec<u8>| Region::copy_of(&bytes).unwrap();
    match *step {
        Step::Gather(pieces) => {
            let length = pieces * PIECE_ALIGNMENT;
            let (mine, all) = (content(rank, call, length), Memory::of_length(length * ranks));
            let pending = device(comm).start_all_gather(Memory::new(mine).message(), all.message());
            Started::Direct(pending, all, gathered(ranks, call, length))
        }
        Step::Ring(length) => {
            let into = Memory::of_length(length);
            going.push(device(comm).start_send(next, Memory::new(content(rank, call, length)).message()));
            let pending = device(comm).start_receive(before, into.message());
            Started::Direct(pending, into, content(before, call, length))
        }
        Step::GatherOnHost(pieces) => {
            let length = pieces * PIECE_ALIGNMENT;
            let mine = Piece::from(region(content(rank, call, length)));
            let pending = comm.start_all_gather(mine, Region::new(length * ranks).unwrap());
            Started::OnHost(pending, gathered(ranks, call, length))
        }
        Step::RingOnHost(length) => {
            drop(comm.start_send(next, region(content(rank, call, length)).into()));
            let pending = comm.start_receive(before, Region::new(length).unwrap());
            Started::OnHost(pending, content(before, call, length))
        }
        Step::Wait | Step::Finish => unreachable!("nothing is started"),
    }
}
