use crate::{MAX_INDEX, PartitionError, Seed};

/// Which group every global index belongs to; the seam between the backends and the loops that use them.
///
/// An implementation must be a pure function of the index: asking for the same index twice, alone or inside any
/// range, by any cursor, gives the same group. That is what makes slices of a partition equal the whole.
pub trait Assignment: Send + Sync {
    /// The number of groups; every id is below it.
    fn d(&self) -> u64;

    /// A reader of ids, for one thread. Making one costs an allocation, so a loop makes one and keeps it.
    fn cursor(&self) -> Box<dyn Cursor + '_>;

    /// Writes the groups of the indices `start .. start + out.len()` into `out`, through a cursor of its own.
    ///
    /// # Errors
    /// As [`Cursor::fill`].
    fn fill(&self, start: u64, out: &mut [u32]) -> Result<(), PartitionError> {
        self.cursor().fill(start, out)
    }

    /// The runs of indices, ascending and without a gap from 0 on, that together say all there is to say, where every
    /// group is [`crate::Stateless`]'s hash of its index: for a device that hashes by itself. `None` where groups are
    /// anything else.
    fn hashed(&self) -> Option<Vec<HashedRange>> {
        None
    }
}

/// A run of indices whose groups are those of a [`crate::Stateless`] partition of its own.
///
/// Index i belongs to group `first_group` + g(i − `first_index`), where g is the partition of `seed` into `d` groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedRange {
    /// Where the run begins.
    pub first_index: u64,
    /// Its length.
    pub numel: u64,
    /// What is added to the index within the run.
    pub seed: Seed,
    /// The number of the run's groups.
    pub d: u64,
    /// The number of the first of them.
    pub first_group: u64,
}

/// Reads the ids of an [`Assignment`] at any index, and cheapest where the last read ended.
///
/// A backend that draws its ids one after the other has to find its place for every jump (up to some 15 µs); a read that
/// begins where the last one ended costs nothing of the kind.
pub trait Cursor {
    /// Writes the groups of the indices `start .. start + out.len()` into `out`.
    ///
    /// # Errors
    /// When an index of the range has no group, or d does not fit ids of 32 bits. What `out` then holds is
    /// undefined; the cursor remains usable.
    fn fill(&mut self, start: u64, out: &mut [u32]) -> Result<(), PartitionError>;
}

/// Refuses a range that does not end at or below 2^63 − 1.
pub(crate) fn check_range(start: u64, len: u64) -> Result<(), PartitionError> {
    match start.checked_add(len) {
        Some(end) if end <= MAX_INDEX => Ok(()),
        _ => Err(PartitionError::Range { start, len }),
    }
}

/// Refuses a range that ends above the `total` indices of a partition of so many weights.
pub(crate) fn check_within(start: u64, len: u64, total: u64) -> Result<(), PartitionError> {
    match start.checked_add(len) {
        Some(end) if end <= total => Ok(()),
        _ => Err(PartitionError::BeyondTotal { start, len, total }),
    }
}

/// An empty vector with room for `len` elements, or an error where memory does not suffice.
pub(crate) fn reserve<T>(what: &'static str, len: u64) -> Result<Vec<T>, PartitionError> {
    let refused = || PartitionError::TableMemory { what, bytes: len.saturating_mul(size_of::<T>() as u64) };
    let len = usize::try_from(len).map_err(|_| refused())?;
    let mut vector = Vec::new();
    vector.try_reserve_exact(len).map_err(|_| refused())?;
    Ok(vector)
}
