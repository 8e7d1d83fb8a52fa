//! How a few rows are multiplied with the weights: each by itself, as fast as the weights can be read.

use model::{LibtorchProducts, RowProducts};
use projection::Executor;
use tch::{Device, Kind, Tensor};

/// The products of a compute dtype on a device; on the CPU on so many threads.
pub(crate) fn of((kind, device): (Kind, Device), threads: usize) -> Box<dyn RowProducts> {
    match (kind, device) {
        (Kind::Float, Device::Cpu) => Box::new(Rowwise { executor: trainer::executor(threads) }),
        // oneDNN's kernels for half precision are as fast as memory from few rows on.
        _ => Box::new(LibtorchProducts),
    }
}

/// Products in f32 on the CPU by [`rowwise`].
struct Rowwise {
    executor: Box<dyn Executor>,
}

impl RowProducts for Rowwise {
    fn filled_up(&self, rows: usize) -> usize {
        rows
    }

    fn product(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let x = x.contiguous();
        let (mut shape, k) = (x.size(), weight.size()[1]);
        if let Some(last) = shape.last_mut() {
            *last = weight.size()[0];
        }
        let mut out = Tensor::empty(&shape, (Kind::Float, Device::Cpu));
        let operands = rowwise::Operands { x: numbers(&x), w: numbers(weight), k: k as usize };
        rowwise::product(operands, numbers_mut(&mut out), self.executor.as_ref());
        match bias {
            Some(bias) => out + bias,
            None => out,
        }
    }
}

/// The elements of a contiguous f32 CPU tensor.
fn numbers(tensor: &Tensor) -> &[f32] {
    check_layout(tensor);
    // SAFETY: the tensor is a contiguous f32 CPU tensor (checked above) and lives as long as the borrow; nothing writes
    // to it meanwhile.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The elements of a contiguous f32 CPU tensor that nobody else holds.
fn numbers_mut(tensor: &mut Tensor) -> &mut [f32] {
    check_layout(tensor);
    // SAFETY: as in `numbers`; the tensor was just made, so no other shares its storage.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

fn check_layout(tensor: &Tensor) {
    assert!(
        tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous(),
        "activations and weights are contiguous f32 CPU tensors"
    );
}
