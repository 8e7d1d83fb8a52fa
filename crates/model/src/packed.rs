//! Attention where several sequences lie end to end in one row, each by itself.

use tch::{Device, Kind, Tensor};
use torch_shim::Packed;

use crate::Decoder;
use crate::decoder::allowed;
use crate::transfer::to_device;

/// The sequences of a row.
#[derive(Debug)]
pub(crate) struct PackedSequences {
    lengths: Vec<i64>,
    /// For one kernel over all of them, where there is one.
    for_kernel: Option<Packed>,
    device: Device,
}

impl PackedSequences {
    pub(crate) fn new(lengths: &[usize], kind: Kind, device: Device) -> Self {
        let lengths: Vec<i64> = lengths.iter().map(|length| *length as i64).collect();
        let has_kernel = device != Device::Cpu && matches!(kind, Kind::BFloat16 | Kind::Half);
        let for_kernel = has_kernel.then(|| {
            let mut cumulative = vec![0_i32];
            cumulative.extend(lengths.iter().scan(0, |end, length| {
                *end += *length as i32;
                Some(*end)
            }));
            let longest = lengths.iter().copied().max().unwrap_or(0);
            Packed { cumulative: to_device(&Tensor::from_slice(&cumulative), device), longest }
        });
        Self { lengths, for_kernel, device }
    }

    /// Attention of query `[1, A, T, D]`, key and value `[1, K, T, D]` within each sequence, to at most `window` tokens:
    /// `[1, A, T, D]`.
    pub(crate) fn attend(&self, model: &Decoder, states: [&Tensor; 3], window: Option<i64>) -> Tensor {
        // Heads of more than 256 numbers have no kernel.
        if let Some(packed) = self.for_kernel.as_ref().filter(|_| model.config().head_dim <= 256) {
            let [query, key, value] = states.map(|states| states.squeeze_dim(0).transpose(0, 1));
            let attended = torch_shim::packed_attention(&query, &key, &value, packed, window)
                .unwrap_or_else(|error| panic!("{error}"));
            return attended.transpose(0, 1).unsqueeze(0);
        }
        let mut start = 0;
        let sequences = self.lengths.iter().map(|&length| {
            let [query, key, value] = states.map(|states| states.narrow(2, start, length));
            start += length;
            let mask = window.filter(|window| *window < length);
            let mask = mask.map(|window| to_device(&allowed(length, Some(window), None), self.device));
            model.attend(&query, &key, &value, mask.as_ref())
        });
        Tensor::cat(&sequences.collect::<Vec<Tensor>>(), 2)
    }
}
