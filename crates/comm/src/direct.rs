//! Messages from and to memory of the device that a rank computes on, without a copy through the host.
//!
//! Work on a device goes in the order of streams. A rank computes on the device's default (legacy) stream; a message goes
//! on a stream of its own:
//!
//! ```text
//!  default stream   … compute A │start│ compute B … │wait│ compute C …
//!                               ╰─────╮             ╭────╯
//!  message's stream                   ╰── message ──╯
//! ```
//!
//! It begins after what was put on the default stream before the start (A), goes on beside what is put there afterwards
//! (B), and what is put there after the wait (C) begins when it is over. The host goes on at once in both places.

use crate::pending::Pending;
use crate::{Alarm, Failure};

/// Memory that a device reaches, as a message reads or writes it.
pub struct DeviceMemory {
    /// Where it begins, as the device addresses it.
    pub address: usize,
    /// Bytes.
    pub length: usize,
    /// Keeps the memory from being given back, and from being handed out again, until the message is over. What is only
    /// freed in the order of the default stream (as libtorch's allocator does it) might be somebody else's by then. It is
    /// dropped on a thread of the communicator's.
    pub keeper: Box<dyn Send>,
}

/// Messages of a communicator that go from device to device. Each is also counted and watched like those of
/// [`Communicator`](crate::Communicator), and between two ranks they keep their order among each other. Both ends of a
/// message say it in this way, or neither.
///
/// All are called on a thread that computes on the device.
pub trait DeviceCommunicator {
    /// Whether memory at this address may be used.
    fn reaches(&self, address: usize) -> bool;

    /// As [`Communicator::start_all_gather`](crate::Communicator::start_all_gather): `all` has `size` times the length of
    /// `mine`, which is a multiple of [`PIECE_ALIGNMENT`](crate::PIECE_ALIGNMENT). Neither may overlap.
    fn start_all_gather(&self, mine: DeviceMemory, all: DeviceMemory) -> DevicePending;

    /// Starts sending a message, which nobody may write before it is over.
    fn start_send(&self, to: usize, message: DeviceMemory) -> DevicePending;

    /// Starts receiving the next message of `from`, which has the length of `into`.
    fn start_receive(&self, from: usize, into: DeviceMemory) -> DevicePending;
}

/// Lets the default stream wait for a message; says what the driver has against it.
pub(crate) type Gate = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// A message between devices that was started. It is carried to its end whether or not anybody waits for it.
#[must_use = "what comes after a message has to wait for it"]
pub struct DevicePending {
    /// Comes when the message is on its stream.
    launched: Pending<Gate>,
    /// Comes when it is over.
    over: Pending<()>,
    /// For a driver that fails, and the message's name there.
    alarm: Option<(Alarm, &'static str)>,
}

impl DevicePending {
    /// A message that is on the default stream itself.
    #[cfg_attr(not(feature = "nccl"), allow(dead_code, reason = "NCCL alone reaches devices"))]
    pub(crate) fn in_order() -> Self {
        Self { launched: Pending::done(Box::new(|| Ok(()))), over: Pending::done(()), alarm: None }
    }

    #[cfg_attr(not(feature = "nccl"), allow(dead_code, reason = "NCCL alone reaches devices"))]
    pub(crate) fn going(
        launched: Pending<Gate>,
        over: Pending<()>,
        alarm: Alarm,
        name: &'static str,
    ) -> Self {
        Self { launched, over, alarm: Some((alarm, name)) }
    }

    /// What the calling thread puts on the default stream from now on begins when the message is over. The host waits
    /// until the message is on its stream, and never for the device. What comes back is for who wants to know on the
    /// host when it is over: then the memory that its keeper holds is free again.
    pub fn wait(self) -> Pending<()> {
        if let (Err(what), Some((alarm, waiting_in))) = ((self.launched.wait())(), self.alarm) {
            (alarm.failed)(&Failure { what, waiting_in });
            (alarm.end)();
        }
        self.over
    }

    /// The host waits until it is over; the default stream goes on.
    pub fn finish(self) {
        self.over.wait();
    }
}
