//! Attention where several sequences lie end to end in one row, each by itself.

use std::sync::OnceLock;

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
    pub(crate) fn new(lengths: &[usize], kind: Kind, head_dim: i64, device: Device) -> Self {
        let lengths: Vec<i64> = lengths.iter().map(|length| *length as i64).collect();
        let for_kernel = has_kernel(kind, head_dim, device).then(|| {
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
        if let Some(packed) = &self.for_kernel {
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

/// Whether one kernel of libtorch attends within all sequences: in half precision, for heads of a multiple of 8 up to 256
/// numbers, on GPUs from compute capability 8.0 on. The last is found out by a call for a single token, once.
fn has_kernel(kind: Kind, head_dim: i64, device: Device) -> bool {
    static ON_THIS_GPU: OnceLock<bool> = OnceLock::new();
    let fits = matches!(kind, Kind::BFloat16 | Kind::Half) && head_dim % 8 == 0 && head_dim <= 256;
    let answers = || {
        let states = Tensor::zeros([1, 1, 8], (kind, device));
        let cumulative = to_device(&Tensor::from_slice(&[0_i32, 1]), device);
        let packed = Packed { cumulative, longest: 1 };
        torch_shim::packed_attention(&states, &states, &states, &packed, None).is_ok()
    };
    device != Device::Cpu && fits && *ON_THIS_GPU.get_or_init(answers)
}
