//! Immediate operations, posted. Everything here runs on the thread that owns MPI.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mpi::ffi;

use crate::PIECE_ALIGNMENT;

/// Elements a message: counts in MPI 3 are 32-bit. Longer vectors go in several messages.
const MESSAGE_ELEMENTS: usize = 1 << 30;

/// Of messages, and of the halves of an all-reduce of two ranks: neither is taken for the other.
const MESSAGE: c_int = 0;
const EXCHANGE: c_int = 1;

/// An MPI communicator. MPI is initialised for several threads, and only the owning thread calls it.
#[derive(Clone, Copy)]
pub(super) struct Handle(ffi::MPI_Comm);

// SAFETY: the handle is a number or an address that MPI resolves; it is only ever used on the owning thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// An operation under way, with what it needs.
pub(super) struct Posted {
    /// What is not over yet.
    pub requests: Vec<ffi::MPI_Request>,
    /// The operation's name, for messages.
    pub name: &'static str,
    /// Somebody waits for it now.
    pub waited_for: Arc<AtomicBool>,
    /// Owns the memory that the requests read and write; hands it back.
    pub done: Box<dyn FnOnce()>,
}

impl Posted {
    /// Lets MPI go on with it; whether it is over.
    pub(super) fn is_done(&mut self) -> bool {
        let mut flag: c_int = 0;
        let requests = self.requests.as_mut_ptr();
        // SAFETY: the requests were made by MPI and are tested by their owner alone; statuses are not wanted. Over
        // requests become null requests, which count as over.
        let code = unsafe {
            ffi::MPI_Testall(self.requests.len() as c_int, requests, &mut flag, ffi::RSMPI_STATUSES_IGNORE)
        };
        check("MPI_Testall", code);
        flag != 0
    }
}

/// The world that MPI started with.
pub(super) fn world() -> Handle {
    // SAFETY: a constant of the library.
    Handle(unsafe { ffi::RSMPI_COMM_WORLD })
}

pub(super) fn rank_and_size(comm: Handle) -> (usize, usize) {
    let (mut rank, mut size) = (0, 0);
    // SAFETY: a live communicator and two places for the answers.
    unsafe {
        check("MPI_Comm_rank", ffi::MPI_Comm_rank(comm.0, &mut rank));
        check("MPI_Comm_size", ffi::MPI_Comm_size(comm.0, &mut size));
    }
    (rank as usize, size as usize)
}

/// Collective. The communicator of those that name the same group, in the order of `key`.
pub(super) fn split(comm: Handle, group: usize, key: usize) -> Handle {
    // SAFETY: a constant of the library; then a live communicator and a place for the answer.
    unsafe {
        let mut part = ffi::RSMPI_COMM_NULL;
        check("MPI_Comm_split", ffi::MPI_Comm_split(comm.0, group as c_int, key as c_int, &mut part));
        Handle(part)
    }
}

/// Ends all ranks of the world at once.
pub(super) fn abort(code: i32) {
    // SAFETY: the world is live until MPI is finalised, which the calling thread does itself.
    unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
}

// The functions below hand MPI the addresses of memory that must stay where it is, and not be touched, until the
// requests are over: the caller moves its owner into `Posted::done`, and vectors and regions keep their address.

/// `sums` become the sums of all ranks' `own`.
pub(super) fn all_reduce_sum(comm: Handle, own: &[i64], sums: &mut [i64]) -> Vec<ffi::MPI_Request> {
    let parts = own.chunks(MESSAGE_ELEMENTS).zip(sums.chunks_mut(MESSAGE_ELEMENTS));
    let post = |(own, sums): (&[i64], &mut [i64])| {
        request("MPI_Iallreduce", |request| {
            // SAFETY: two vectors of that many 64-bit integers, see above.
            unsafe {
                ffi::MPI_Iallreduce(
                    own.as_ptr().cast(),
                    sums.as_mut_ptr().cast(),
                    own.len() as c_int,
                    ffi::RSMPI_INT64_T,
                    ffi::RSMPI_SUM,
                    comm.0,
                    request,
                )
            }
        })
    };
    parts.map(post).collect()
}

/// `all` becomes every rank's `mine`, by rank. Lengths are multiples of the alignment of pieces or below 2^30.
pub(super) fn all_gather(comm: Handle, mine: &[u8], all: &mut [u8]) -> Vec<ffi::MPI_Request> {
    let (unit, count) = match mine.len().is_multiple_of(PIECE_ALIGNMENT) {
        true => (PIECE_ALIGNMENT, mine.len() / PIECE_ALIGNMENT),
        false => (1, mine.len()),
    };
    let posted = request("MPI_Iallgather", |request| {
        // SAFETY: the type is made, committed, used and given up by this thread (MPI keeps it until the operation is
        // over); `mine` has `count` of it and `all` that many for each rank, see above.
        unsafe {
            let mut kind = ffi::RSMPI_DATATYPE_NULL;
            check(
                "MPI_Type_contiguous",
                ffi::MPI_Type_contiguous(unit as c_int, ffi::RSMPI_UINT8_T, &mut kind),
            );
            check("MPI_Type_commit", ffi::MPI_Type_commit(&mut kind));
            let (count, send, receive) = (count as c_int, mine.as_ptr().cast(), all.as_mut_ptr().cast());
            let code = ffi::MPI_Iallgather(send, count, kind, receive, count, kind, comm.0, request);
            check("MPI_Type_free", ffi::MPI_Type_free(&mut kind));
            code
        }
    });
    vec![posted]
}

/// `bytes` become those of `root`.
pub(super) fn broadcast(comm: Handle, root: usize, bytes: &mut [u8]) -> Vec<ffi::MPI_Request> {
    let post = |part: &mut [u8]| {
        let (start, count) = (part.as_mut_ptr().cast::<c_void>(), part.len() as c_int);
        request("MPI_Ibcast", |request| {
            // SAFETY: that many bytes, see above.
            unsafe { ffi::MPI_Ibcast(start, count, ffi::RSMPI_UINT8_T, root as c_int, comm.0, request) }
        })
    };
    bytes.chunks_mut(MESSAGE_ELEMENTS).map(post).collect()
}

/// Sends bytes to a rank.
pub(super) fn send(comm: Handle, to: usize, bytes: &[u8]) -> Vec<ffi::MPI_Request> {
    send_tagged(comm, to, bytes, MESSAGE)
}

/// Receives as many bytes from a rank.
pub(super) fn receive(comm: Handle, from: usize, bytes: &mut [u8]) -> Vec<ffi::MPI_Request> {
    receive_tagged(comm, from, bytes, MESSAGE)
}

/// Sends bytes to a rank and receives as many from it.
pub(super) fn exchange(comm: Handle, peer: usize, own: &[u8], theirs: &mut [u8]) -> Vec<ffi::MPI_Request> {
    let mut requests = receive_tagged(comm, peer, theirs, EXCHANGE);
    requests.extend(send_tagged(comm, peer, own, EXCHANGE));
    requests
}

fn send_tagged(comm: Handle, to: usize, bytes: &[u8], tag: c_int) -> Vec<ffi::MPI_Request> {
    let post = |part: &[u8]| {
        let (start, count) = (part.as_ptr().cast::<c_void>(), part.len() as c_int);
        request("MPI_Isend", |request| {
            // SAFETY: that many bytes, see above.
            unsafe { ffi::MPI_Isend(start, count, ffi::RSMPI_UINT8_T, to as c_int, tag, comm.0, request) }
        })
    };
    bytes.chunks(MESSAGE_ELEMENTS).map(post).collect()
}

fn receive_tagged(comm: Handle, from: usize, bytes: &mut [u8], tag: c_int) -> Vec<ffi::MPI_Request> {
    let post = |part: &mut [u8]| {
        let (start, count) = (part.as_mut_ptr().cast::<c_void>(), part.len() as c_int);
        request("MPI_Irecv", |request| {
            // SAFETY: room for that many bytes, see above.
            unsafe { ffi::MPI_Irecv(start, count, ffi::RSMPI_UINT8_T, from as c_int, tag, comm.0, request) }
        })
    };
    bytes.chunks_mut(MESSAGE_ELEMENTS).map(post).collect()
}

fn request(name: &'static str, post: impl FnOnce(*mut ffi::MPI_Request) -> c_int) -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
    let code = post(&mut request);
    check(name, code);
    request
}

/// MPI ends the world on errors by itself; should it be told not to, nothing here could go on either.
fn check(name: &'static str, code: c_int) {
    assert!(code == 0, "{name} failed with code {code}");
}
