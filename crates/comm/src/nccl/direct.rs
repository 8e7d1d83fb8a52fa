//! Messages from device to device, as their starters see them.

use super::NcclComm;
use super::flight::Direct;
use super::lane::{self, Kind};
use super::worker::LaneId;
use crate::ledger::Operation;
use crate::pending::{Account, Pending};
use crate::{Communicator, DeviceCommunicator, DeviceMemory, DevicePending, PIECE_ALIGNMENT};

impl DeviceCommunicator for NcclComm {
    fn reaches(&self, address: usize) -> bool {
        self.worker.device.reaches(address)
    }

    fn start_all_gather(&self, mine: DeviceMemory, all: DeviceMemory) -> DevicePending {
        let length = mine.length;
        assert!(
            length.is_multiple_of(PIECE_ALIGNMENT) && all.length == length * self.size(),
            "pieces of one size"
        );
        if self.size() == 1 {
            // In the order of the default stream, where libtorch's allocator keeps memory long enough by itself.
            let copied = self.worker.device.copy_on_default_stream(mine.address, all.address, length);
            copied.unwrap_or_else(|error| self.worker.fail(error, Operation::AllGather.name()));
            return DevicePending::in_order();
        }
        let (lane, bytes) = ((self.together(), Kind::AllGather), length * (self.size() - 1));
        self.fly(lane, (Operation::AllGather, bytes), Some(mine), Some(all))
    }

    fn start_send(&self, to: usize, message: DeviceMemory) -> DevicePending {
        let (lane, length) = ((self.lane_to(to), Kind::Send), message.length);
        self.fly(lane, (Operation::Send, length), Some(message), None)
    }

    fn start_receive(&self, from: usize, into: DeviceMemory) -> DevicePending {
        let (lane, length) = ((self.lane_from(from), Kind::Receive), into.length);
        self.fly(lane, (Operation::Receive, length), None, Some(into))
    }
}

impl NcclComm {
    fn fly(
        &self,
        (lane, kind): (LaneId, Kind),
        (operation, bytes): (Operation, usize),
        source: Option<DeviceMemory>,
        target: Option<DeviceMemory>,
    ) -> DevicePending {
        self.ledger.count(self.axis, operation, bytes);
        let account = Account { ledger: self.ledger.clone(), axis: self.axis, operation };
        // Here and now, on the thread that computes: what it puts on the default stream from now on is not waited for.
        let after = self.worker.device.mark_default_stream();
        let after = after.unwrap_or_else(|error| self.worker.fail(error, operation.name()));
        let (launched, on_stream) = Pending::going(account.clone(), Box::new(|| ()));
        let (over, at_end) = Pending::going(account, Box::new(|| ()));
        let address = |memory: &Option<DeviceMemory>| memory.as_ref().map_or(0, |memory| memory.address);
        let direct = Direct {
            name: operation.name(),
            kind,
            source: address(&source),
            target: address(&target),
            length: source.as_ref().or(target.as_ref()).map_or(0, |memory| memory.length),
            after,
            keepers: source.into_iter().chain(target).map(|memory| memory.keeper).collect(),
            launched,
            over,
        };
        self.worker.operate(lane, lane::Operation::Direct(direct));
        DevicePending::going(on_stream, at_end, self.worker.alarm, operation.name())
    }
}
