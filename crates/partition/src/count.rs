use std::ops::Range;
use std::sync::Mutex;

use crate::assignment::check_range;
use crate::{Assignment, CHUNK, Cursor, PartitionError};

/// Below this many weights a thread costs more than it saves.
const WEIGHTS_PER_THREAD: u64 = 1 << 18;

/// Adds the group sizes of the indices in `range` to `counts` (length d), on the calling thread.
///
/// Slices of a range count to the same as the whole, so a rank can count its own slice and the counts be added.
///
/// # Errors
/// When `counts` has not d entries, or the backend refuses the range. `counts` is then left part-way.
pub fn count(
    assignment: &(impl Assignment + ?Sized),
    range: Range<u64>,
    counts: &mut [u64],
) -> Result<(), PartitionError> {
    let (d, got) = (assignment.d(), counts.len());
    if d != got as u64 {
        return Err(PartitionError::CountsLength { d, got });
    }
    check_range(range.start, range.end.saturating_sub(range.start))?;
    let mut cursor = assignment.cursor();
    // Counters of 32 bits halve the memory that the loop jumps about in, where there is enough to count.
    if range.end.saturating_sub(range.start) < d {
        return tally(&mut *cursor, range, counts, |slot: &mut u64| *slot += 1);
    }
    let mut narrow: Vec<u32> = zeros(d)?;
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start.saturating_add(u64::from(u32::MAX)));
        tally(&mut *cursor, start..end, &mut narrow, |slot: &mut u32| *slot += 1)?;
        for (total, part) in counts.iter_mut().zip(&mut narrow) {
            *total += u64::from(std::mem::take(part));
        }
        start = end;
    }
    Ok(())
}

/// The group sizes of the indices in `range`: d counts, made on up to `threads` threads.
///
/// Each thread counts a part of the range by itself; the result does not depend on their number.
///
/// # Errors
/// When d counts do not fit in memory, or the backend refuses the range.
pub fn count_parallel(
    assignment: &(impl Assignment + ?Sized),
    range: Range<u64>,
    threads: usize,
) -> Result<Vec<u64>, PartitionError> {
    let len = range.end.saturating_sub(range.start);
    check_range(range.start, len)?;
    let mut total: Vec<u64> = zeros(assignment.d())?;
    let threads = (threads as u64).min(len / WEIGHTS_PER_THREAD).max(1);
    if threads == 1 {
        count(assignment, range, &mut total)?;
        return Ok(total);
    }
    let part = len.div_ceil(threads);
    let shared = Mutex::new(&mut total);
    let count_part = |thread: u64| -> Result<(), PartitionError> {
        let start = range.start + (thread * part).min(len);
        let mut own: Vec<u64> = zeros(assignment.d())?;
        count(assignment, start..(start + part).min(range.end), &mut own)?;
        // A thread that panicked has not held the lock, as the addition cannot panic.
        let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (sum, part) in shared.iter_mut().zip(own) {
            *sum += part;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let count_part = &count_part;
        let workers: Vec<_> = (1..threads).map(|thread| scope.spawn(move || count_part(thread))).collect();
        let first = count_part(0);
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .fold(first, Result::and)
    })?;
    Ok(total)
}

/// The hot loop: ids of one chunk, then one increment an id.
fn tally<C>(
    cursor: &mut dyn Cursor,
    range: Range<u64>,
    counts: &mut [C],
    increment: impl Fn(&mut C),
) -> Result<(), PartitionError> {
    let mut buffer = [0_u32; CHUNK];
    let mut start = range.start;
    while start < range.end {
        let ids = &mut buffer[..(range.end - start).min(CHUNK as u64) as usize];
        cursor.fill(start, ids)?;
        for &id in &*ids {
            match counts.get_mut(id as usize) {
                Some(slot) => increment(slot),
                None => return Err(PartitionError::IdOutOfRange { start, id, d: counts.len() as u64 }),
            }
        }
        start += ids.len() as u64;
    }
    Ok(())
}

/// `d` zeros, or an error where memory does not suffice.
fn zeros<C: Clone + Default>(d: u64) -> Result<Vec<C>, PartitionError> {
    let refused = || PartitionError::Memory { d, bytes: d.saturating_mul(size_of::<C>() as u64) };
    let len = usize::try_from(d).map_err(|_| refused())?;
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| refused())?;
    zeros.resize(len, C::default());
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::{count, count_parallel};
    use crate::{Assignment, Cursor, PartitionError, Stateless};

    /// A backend that names a group it does not have.
    struct Broken;

    impl Assignment for Broken {
        fn d(&self) -> u64 {
            3
        }

        fn cursor(&self) -> Box<dyn Cursor + '_> {
            Box::new(Self)
        }
    }

    impl Cursor for Broken {
        fn fill(&mut self, _: u64, out: &mut [u32]) -> Result<(), PartitionError> {
            out.fill(3);
            Ok(())
        }
    }

    #[test]
    fn a_broken_backend_is_an_error() {
        let error = count(&Broken, 10..12, &mut [0; 3]).unwrap_err();
        assert_eq!(error, PartitionError::IdOutOfRange { start: 10, id: 3, d: 3 });
    }

    #[test]
    fn counts_of_another_length_are_refused() {
        let partition = Stateless::new(42, 5).unwrap();
        let error = count(&partition, 0..9, &mut [0; 4]).unwrap_err();
        assert_eq!(error, PartitionError::CountsLength { d: 5, got: 4 });
    }

    #[test]
    fn more_groups_than_memory_holds_are_refused() {
        let partition = Stateless::new(42, 1 << 62).unwrap();
        assert!(matches!(count_parallel(&partition, 0..9, 1), Err(PartitionError::Memory { .. })));
    }

    #[test]
    fn threads_do_not_change_counts() {
        let partition = Stateless::new(7, 1000).unwrap();
        let range = 123..3_000_124;
        let one = count_parallel(&partition, range.clone(), 1).unwrap();
        assert_eq!(one.iter().sum::<u64>(), 3_000_001);
        for threads in [0, 2, 3, 7, 64] {
            assert_eq!(count_parallel(&partition, range.clone(), threads).unwrap(), one, "{threads} threads");
        }
    }

    proptest! {
        #[test]
        fn counts_are_the_occurrences_and_slices_add_up(
            seed in any::<u64>(), d in 1_u64..2000, start in 0_u64..1 << 50, len in 0_u64..5000, cut in 0_u64..5000,
        ) {
            let partition = Stateless::new(seed, d).unwrap();
            let (end, cut) = (start + len, start + cut.min(len));
            let mut expect = vec![0; d as usize];
            (start..end).for_each(|index| expect[partition.group(index) as usize] += 1);
            let mut counts = vec![0; d as usize];
            count(&partition, cut..end, &mut counts).unwrap();
            count(&partition, start..cut, &mut counts).unwrap();
            prop_assert_eq!(&counts, &expect);
            prop_assert_eq!(counts.iter().sum::<u64>(), len);
            prop_assert_eq!(count_parallel(&partition, start..end, 3).unwrap(), expect);
        }
    }
}
