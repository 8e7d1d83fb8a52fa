//! The product of a few rows with a matrix, in f32, each row by itself: Y = X · Wᵀ where a row of Y has the same bits
//! whatever the number of rows, of threads, and the instruction set.
//!
//! Libraries choose their kernel, and with it the order of a sum, by the shape: one row is multiplied in another order than
//! four. For generation that would mean that a row's text can depend on the rows beside it. It also costs time: with few
//! rows the product is as fast as W can be read, and kernels that rearrange W first read it twice.
//!
//! A number of Y is the sum over k of x_k · w_k in 16 lanes, lane l adding k = l, l + 16, … with fused multiply-adds, and
//! then the lanes by halves: (l, l + 8), (l, l + 4), (l, l + 2), (0, 1).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod scalar;

use projection::Executor;

/// Rows of W that a task takes.
const TASK_ROWS: usize = 64;

/// Which kernels a processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernels {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Scalar,
}

impl Kernels {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }
}

/// Two matrices, row by row, with rows of one length.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// X, `[rows, k]`.
    pub x: &'a [f32],
    /// W, `[outputs, k]`.
    pub w: &'a [f32],
    /// Length of the rows of both.
    pub k: usize,
}

/// Writes X · Wᵀ to `out`, `[rows, outputs]`, row by row.
///
/// # Panics
/// `k` is 0, the matrices are not whole rows of it, or `out` has not a number for each pair of rows.
pub fn product(operands: Operands<'_>, out: &mut [f32], executor: &dyn Executor) {
    product_with(Kernels::best(), operands, out, executor);
}

fn product_with(kernels: Kernels, operands: Operands<'_>, out: &mut [f32], executor: &dyn Executor) {
    let Operands { x, w, k } = operands;
    assert!(k > 0 && x.len().is_multiple_of(k) && w.len().is_multiple_of(k), "matrices are rows of {k}");
    let (rows, outputs) = (x.len() / k, w.len() / k);
    assert_eq!(out.len(), rows * outputs, "a number for each of {rows} x {outputs}");
    let target = Target { numbers: out.as_mut_ptr(), outputs };
    executor.run(outputs.div_ceil(TASK_ROWS), &|task| {
        let columns = task * TASK_ROWS..outputs.min((task + 1) * TASK_ROWS);
        let w = &w[columns.start * k..columns.end * k];
        let mut put = |row: usize, column: usize, number: f32| {
            debug_assert!(row < rows && column < columns.len());
            // SAFETY: the place is inside of `out`, which is borrowed for as long as the tasks run; each task has columns
            // of its own, so none writes where another does.
            unsafe { target.place(row, columns.start + column).write(number) };
        };
        match kernels {
            // SAFETY: `best` has seen that the processor has what this is compiled for.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => unsafe { avx512::product(x, w, k, &mut put) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => unsafe { avx2::product(x, w, k, &mut put) },
            Kernels::Scalar => scalar::product(x, w, k, &mut put),
        }
    });
}

/// Where the numbers go, for all tasks.
struct Target {
    numbers: *mut f32,
    outputs: usize,
}

impl Target {
    /// The place of a number.
    fn place(&self, row: usize, column: usize) -> *mut f32 {
        self.numbers.wrapping_add(row * self.outputs + column)
    }
}

// SAFETY: tasks write through it at places of their own (see `product_with`).
unsafe impl Sync for Target {}

#[cfg(test)]
mod tests;
