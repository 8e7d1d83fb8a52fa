//! The kernel, over any implementation of sixteen lanes.

/// Sixteen running sums.
///
/// # Safety
/// The functions of an implementation may need an instruction set; whoever names the implementation promises that it is
/// there.
pub(crate) trait Lanes: Copy {
    /// Zeros.
    unsafe fn zero() -> Self;

    /// The sixteen numbers at `from`.
    unsafe fn load(from: *const f32) -> Self;

    /// self + a · b, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;

    /// The sum over the lanes, by halves.
    unsafe fn sum(self) -> f32;
}

/// Numbers in all lanes together.
pub(crate) const WIDTH: usize = 16;

/// Calls `put` with row, row of W and sum for all pairs of rows.
///
/// # Safety
/// As for [`Lanes`]; `x` and `w` are whole rows of `k`.
#[inline(always)]
pub(crate) unsafe fn product<L: Lanes>(
    x: &[f32],
    w: &[f32],
    k: usize,
    put: &mut dyn FnMut(usize, usize, f32),
) {
    let (rows, outputs) = (x.len() / k, w.len() / k);
    let mut column = 0;
    while column < outputs {
        let step = if outputs - column >= 4 { 4 } else { 1 };
        let mut row = 0;
        while row < rows {
            let tile = Tile { x: &x[row * k..], w: &w[column * k..], k, row, column };
            // SAFETY: as promised; `x` and `w` begin with as many rows as the tile has.
            unsafe {
                match (step, rows - row) {
                    (4, 4..) => row += tile.run::<L, 4, 4>(put),
                    (4, 3) => row += tile.run::<L, 3, 4>(put),
                    (4, 2) => row += tile.run::<L, 2, 4>(put),
                    (4, _) => row += tile.run::<L, 1, 4>(put),
                    _ => row += tile.run::<L, 1, 1>(put),
                }
            }
        }
        column += step;
    }
}

/// Some rows of X with some of W.
struct Tile<'a> {
    x: &'a [f32],
    w: &'a [f32],
    k: usize,
    row: usize,
    column: usize,
}

impl Tile<'_> {
    /// Sums `M` rows with `N`, and returns `M`.
    #[inline(always)]
    unsafe fn run<L: Lanes, const M: usize, const N: usize>(
        &self,
        put: &mut dyn FnMut(usize, usize, f32),
    ) -> usize {
        let Self { x, w, k, row, column } = *self;
        debug_assert!(x.len() >= M * k && w.len() >= N * k);
        // SAFETY: all reads are of whole rows; the last numbers of a row, fewer than sixteen, go through a copy.
        unsafe {
            let mut sums = [[L::zero(); M]; N];
            let whole = k / WIDTH * WIDTH;
            let mut at = 0;
            while at < whole {
                let xs: [L; M] = std::array::from_fn(|m| L::load(x.as_ptr().add(m * k + at)));
                for (n, sums) in sums.iter_mut().enumerate() {
                    let w = L::load(w.as_ptr().add(n * k + at));
                    for (m, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.add_product(xs[m], w);
                    }
                }
                at += WIDTH;
            }
            if whole < k {
                let rest = |from: &[f32], row: usize| {
                    let mut lanes = [0.0; WIDTH];
                    lanes[..k - whole].copy_from_slice(&from[row * k + whole..(row + 1) * k]);
                    L::load(lanes.as_ptr())
                };
                for (n, sums) in sums.iter_mut().enumerate() {
                    let w = rest(w, n);
                    for (m, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.add_product(rest(x, m), w);
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                for (m, sum) in sums.iter().enumerate() {
                    put(row + m, column + n, sum.sum());
                }
            }
        }
        M
    }
}
