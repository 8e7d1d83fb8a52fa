//! Activations and their gradients on their way between neighbouring stages, in order.
//!
//! Where messages go from device to device, they are received into fresh tensors there, and the host runs ahead of the
//! device: it waits for messages of before alone, so that the memory of those under way stays bounded. Elsewhere they go
//! through the host's memory, whatever carries them.

use std::collections::VecDeque;

use comm::{Communicator, DeviceCommunicator, DeviceMemory, DevicePending, Pending, Region};
use tch::{Device, Kind, Tensor};

use crate::TrainError;

/// The ranks of a pipeline, by stage, and what they say to each other.
pub(crate) struct Stages {
    comm: Box<dyn Communicator>,
    /// The compute dtype.
    kind: Kind,
    /// Where tensors are.
    device: Device,
    /// Messages go from device to device. The same on all ranks.
    direct: bool,
}

impl Stages {
    pub(crate) fn new(comm: Box<dyn Communicator>, kind: Kind, device: Device, direct: bool) -> Self {
        Self { comm, kind, device, direct }
    }

    fn device_communicator(&self) -> Option<&dyn DeviceCommunicator> {
        self.comm.on_device().filter(|_| self.direct)
    }

    fn receive(&self, from: usize, shape: [i64; 3]) -> Result<Coming, TrainError> {
        if let Some(device) = self.device_communicator() {
            let tensor = Tensor::empty(shape, (self.kind, self.device));
            let pending = device.start_receive(from, device_memory(&tensor));
            return Ok(Coming::Direct(tensor, pending));
        }
        let numbers = shape.iter().product::<i64>() as usize;
        let region = message(numbers * self.kind.elt_size_in_bytes())?;
        Ok(Coming::ThroughHost(self.comm.start_receive(from, region), shape))
    }

    fn send(&self, to: usize, tensor: &Tensor) -> Result<Going, TrainError> {
        if let Some(device) = self.device_communicator() {
            return Ok(Going::Direct(device.start_send(to, device_memory(&tensor.contiguous()))));
        }
        let tensor = tensor.to_device(Device::Cpu).contiguous();
        let numbers = tensor.numel();
        let mut region = message(numbers * tensor.kind().elt_size_in_bytes())?;
        tensor
            .f_copy_data_u8(region.bytes_mut(), numbers)
            .map_err(|error| TrainError::Message(error.to_string()))?;
        Ok(Going::ThroughHost(self.comm.start_send(to, region.into())))
    }
}

/// Collective: whether messages of `data` may read and write tensors of `device` where they are, on every rank of `control`.
/// Only then does any rank send them so, since both ends of a message have to.
pub(crate) fn reach_device(control: &dyn Communicator, data: &dyn Communicator, device: Device) -> bool {
    let reaches = |communicator: &dyn DeviceCommunicator| {
        let tensor = Tensor::zeros([64], (Kind::Uint8, device));
        communicator.reaches(device_memory(&tensor).address)
    };
    let own = u8::from(data.on_device().is_some_and(reaches));
    control.all_gather(&[own]).iter().all(|said| said[..] == [1])
}

/// The memory of a contiguous tensor, which stays that tensor's while the message has it.
pub(crate) fn device_memory(tensor: &Tensor) -> DeviceMemory {
    assert!(tensor.is_contiguous(), "a message lies in one piece");
    DeviceMemory {
        address: tensor.data_ptr() as usize,
        length: tensor.numel() * tensor.kind().elt_size_in_bytes(),
        keeper: Box::new(tensor.shallow_clone()),
    }
}

/// A message that is received.
enum Coming {
    ThroughHost(Pending<Region>, [i64; 3]),
    Direct(Tensor, DevicePending),
}

/// Messages of a neighbour in order, two of them on their way at a time.
pub(crate) struct Inbox {
    from: usize,
    /// `[B, T, H]` of those that are not expected yet.
    shapes: VecDeque<[i64; 3]>,
    coming: VecDeque<Coming>,
    /// Of messages that the device waits for.
    arriving: VecDeque<Pending<()>>,
}

impl Inbox {
    const AHEAD: usize = 2;

    /// Expects messages of these shapes, `[B, T, H]`; none where there is no such neighbour.
    pub(crate) fn new(
        stages: &Stages,
        from: Option<usize>,
        shapes: Vec<[i64; 3]>,
    ) -> Result<Self, TrainError> {
        let shapes = if from.is_some() { shapes.into() } else { VecDeque::new() };
        let (from, coming, arriving) = (from.unwrap_or(0), VecDeque::new(), VecDeque::new());
        let mut inbox = Self { from, shapes, coming, arriving };
        inbox.expect(stages)?;
        Ok(inbox)
    }

    fn expect(&mut self, stages: &Stages) -> Result<(), TrainError> {
        while self.coming.len() < Self::AHEAD
            && let Some(shape) = self.shapes.pop_front()
        {
            self.coming.push_back(stages.receive(self.from, shape)?);
        }
        Ok(())
    }

    /// The next message, where the rank computes.
    pub(crate) fn next(&mut self, stages: &Stages) -> Result<Tensor, TrainError> {
        let Some(next) = self.coming.pop_front() else { unreachable!("more messages than micro-batches") };
        let tensor = match next {
            Coming::ThroughHost(pending, shape) => {
                let region = pending.wait();
                Tensor::from_data_size(region.bytes(), &shape, stages.kind).to_device(stages.device)
            }
            Coming::Direct(tensor, pending) => {
                self.arriving.push_back(pending.wait());
                tensor
            }
        };
        // Without this the host would run through all micro-batches, and take memory for each, before the device is
        // through the first.
        while self.arriving.len() > Self::AHEAD
            && let Some(oldest) = self.arriving.pop_front()
        {
            oldest.wait();
        }
        self.expect(stages)?;
        Ok(tensor)
    }
}

/// A message that is sent.
enum Going {
    ThroughHost(Pending<()>),
    Direct(DevicePending),
}

impl Going {
    fn finish(self) {
        match self {
            Self::ThroughHost(pending) => pending.wait(),
            Self::Direct(pending) => pending.finish(),
        }
    }
}

/// Messages on their way to neighbours.
#[derive(Default)]
pub(crate) struct Outbox(VecDeque<Going>);

impl Outbox {
    /// Messages that may be under way at once: the receiver expects as many.
    const AHEAD: usize = 2 * Inbox::AHEAD;

    /// Sends a tensor, which nobody writes any more.
    pub(crate) fn send(&mut self, stages: &Stages, to: usize, tensor: &Tensor) -> Result<(), TrainError> {
        if self.0.len() >= Self::AHEAD
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.finish();
        }
        self.0.push_back(stages.send(to, tensor)?);
        Ok(())
    }

    /// All are sent.
    pub(crate) fn finish(self) {
        self.0.into_iter().for_each(Going::finish);
    }
}

fn message(length: usize) -> Result<Region, TrainError> {
    Region::new(length)
        .map_err(|source| TrainError::NoMemoryForWeights { what: "activations on their way", source })
}
