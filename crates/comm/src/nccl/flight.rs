//! Operations from device to device: what a lane has on its stream of them.
//!
//! A staged operation is a round trip of the host and has the lane to itself. Of these any number are on the stream, one
//! behind the other, each behind what its starter had put on the default stream, and the host only looks at marks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::cuda::{Device, Event, Stream};
use super::lane::Kind;
use crate::direct::Gate;

/// An operation on memory of the device.
pub(super) struct Direct {
    /// For messages.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Where what is sent begins; 0 where nothing is.
    pub(super) source: usize,
    /// Where what is written begins; 0 where nothing is.
    pub(super) target: usize,
    /// Bytes of the message, or of a rank's piece.
    pub(super) length: usize,
    /// It begins after this.
    pub(super) after: Event,
    /// Both memories are what they are until these are dropped.
    pub(super) keepers: Vec<Box<dyn Send>>,
    /// Is told when it is on the stream,
    pub(super) launched: Sender<Gate>,
    /// and when it is over.
    pub(super) over: Sender<()>,
}

/// One that is on the stream.
struct Flying {
    name: &'static str,
    mark: Arc<Event>,
    keepers: Vec<Box<dyn Send>>,
    over: Sender<()>,
}

/// The direct operations of a lane that NCCL has been given.
#[derive(Default)]
pub(super) struct Flights {
    /// NCCL gets it under way in the background.
    launching: Option<Direct>,
    /// In the order of the stream.
    flying: VecDeque<Flying>,
}

impl Flights {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.launching.is_none() && self.flying.is_empty()
    }

    /// Whether NCCL still puts one on the stream: it takes no other call meanwhile.
    pub(super) fn is_launching(&self) -> bool {
        self.launching.is_some()
    }

    /// The one that the rank waits for.
    pub(super) fn name(&self) -> Option<&'static str> {
        let first = self.flying.front().map(|flying| flying.name);
        first.or_else(|| self.launching.as_ref().map(|launching| launching.name))
    }

    /// NCCL was given this one.
    pub(super) fn launch(&mut self, operation: Direct) {
        self.launching = Some(operation);
    }

    /// NCCL has put it on the stream: marks its end there, and lets its starter go on.
    pub(super) fn take_off(&mut self, stream: &Stream, device: &Arc<Device>) -> Result<(), String> {
        let Some(Direct { name, keepers, launched, over, .. }) = self.launching.take() else { return Ok(()) };
        let mark = Arc::new(stream.new_mark(device)?);
        let gate = Arc::clone(&mark);
        self.flying.push_back(Flying { name, mark, keepers, over });
        // Whoever does not wait any more needs no gate either.
        let _ = launched.send(Box::new(move || gate.hold_default_stream()));
        Ok(())
    }

    /// Lets go of those that are over; whether there were any.
    pub(super) fn land(&mut self) -> Result<bool, String> {
        let mut landed = false;
        while let Some(first) = self.flying.front()
            && first.mark.is_over()?
        {
            let Some(Flying { keepers, over, .. }) = self.flying.pop_front() else { break };
            // First the memory: who hears that it is over may count on it.
            drop(keepers);
            let _ = over.send(());
            landed = true;
        }
        Ok(landed)
    }
}
