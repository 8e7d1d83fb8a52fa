//! Pieces of tensors, each read, computed and written at its position by one thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use partition::Assignment;
use projection::Map;

use crate::layout::{Part, Work};
use crate::numbers::{self, Sums};
use crate::{Dtype, MergeError};

/// Numbers (or bytes, where they are only copied) that a thread takes at a time. Part of the report's definition, as
/// sums of f64 are made piece by piece; large enough that a call to the system costs nothing beside it.
const PIECE: u64 = 1 << 18;

/// A run of units of one tensor.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'s> {
    pub part: &'s Part,
    /// First unit.
    first: u64,
    pub units: u64,
}

/// Where pieces are read and written.
pub(crate) struct Files<'s> {
    pub source: File,
    pub source_path: &'s Path,
    pub target: &'s File,
    pub target_path: &'s Path,
}

/// What all threads share.
pub(crate) struct Processor<'a> {
    map: Map<'a>,
    scaled_theta: &'a [f32],
    /// Buffers that no thread uses now.
    scratch: Mutex<Vec<Scratch>>,
}

/// The buffers of a piece.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    base: Vec<f32>,
    delta: Vec<f32>,
}

impl<'a> Processor<'a> {
    /// For the map θ → ΔW of a partition; `scaled_theta` is s·θ.
    pub(crate) fn new(assignment: &'a dyn Assignment, scaled_theta: &'a [f32]) -> Self {
        Self { map: Map::new(assignment, None), scaled_theta, scratch: Mutex::new(Vec::new()) }
    }

    /// Reads, computes and writes a piece. The sums are those of a merged one.
    pub(crate) fn process(&self, piece: &Piece<'_>, files: &Files<'_>) -> Result<Sums, MergeError> {
        let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
        let outcome = self.convert(piece, files, &mut scratch);
        lock(&self.scratch).push(scratch);
        outcome
    }

    fn convert(
        &self,
        piece: &Piece<'_>,
        files: &Files<'_>,
        scratch: &mut Scratch,
    ) -> Result<Sums, MergeError> {
        let part = piece.part;
        let (stored, written) = part.unit_sizes();
        let Scratch { bytes, base, delta } = scratch;
        bytes.resize((piece.units * stored) as usize, 0);
        files
            .source
            .read_exact_at(bytes, part.source + piece.first * stored)
            .map_err(MergeError::read(&files.source_path))?;
        let mut sums = Sums::default();
        if let Work::Convert { from, to } | Work::Merge { from, to, .. } = part.work {
            base.resize(piece.units as usize, 0.0);
            from.decode(bytes, base);
            let result = if let Work::Merge { adapted, .. } = part.work {
                delta.resize(piece.units as usize, 0.0);
                self.map.apply(self.scaled_theta, adapted.first_index + piece.first, None, delta)?;
                let (piece_sums, bad) = numbers::merge(from, to, base, delta);
                if let Some(at) = bad {
                    return Err(self.not_finite(piece, to, base, at));
                }
                sums = piece_sums;
                &*delta
            } else {
                check_range(piece, to, base)?;
                &*base
            };
            bytes.resize((piece.units * written) as usize, 0);
            to.encode(result, bytes);
        }
        let at = part.target + piece.first * written;
        files.target.write_all_at(bytes, at).map_err(|e| files.write_error(e))?;
        Ok(sums)
    }

    /// The error for element `at` of a piece, whose ΔW has been overwritten and is made once more.
    fn not_finite(&self, piece: &Piece<'_>, dtype: Dtype, base: &[f32], at: usize) -> MergeError {
        let Work::Merge { adapted, .. } = piece.part.work else {
            unreachable!("only sums are looked at here")
        };
        let mut delta = [0.0];
        let first = adapted.first_index + piece.first + at as u64;
        if let Err(error) = self.map.apply(self.scaled_theta, first, None, &mut delta) {
            return error.into();
        }
        not_finite(piece, dtype, base[at], delta[0], at)
    }
}

/// Refuses numbers that the narrower type would make infinite; what the base has that is not finite is its own.
fn check_range(piece: &Piece<'_>, to: Dtype, base: &[f32]) -> Result<(), MergeError> {
    match base.iter().position(|x| x.is_finite() && !to.round(*x).is_finite()) {
        Some(at) => Err(not_finite(piece, to, base[at], 0.0, at)),
        None => Ok(()),
    }
}

fn not_finite(piece: &Piece<'_>, dtype: Dtype, base: f32, delta: f32, at: usize) -> MergeError {
    let hint = match base.is_finite() {
        true if (base + delta).is_finite() => {
            "the number is beyond the range of this dtype; choose --dtype bfloat16 or float32"
        }
        true => "the adapter's update is far too large: did its training diverge?",
        false => "the base has a number that is not finite: is the file damaged?",
    };
    MergeError::NotFinite {
        tensor: piece.part.tensor.clone(),
        index: piece.first + at as u64,
        base,
        delta,
        result: dtype.round(base + delta),
        dtype,
        hint,
    }
}

impl<'s> Piece<'s> {
    /// The pieces of a tensor, in order.
    pub(crate) fn of(part: &'s Part) -> impl Iterator<Item = Self> {
        let starts = (0..part.units).step_by(PIECE as usize);
        starts.map(move |first| Self { part, first, units: PIECE.min(part.units - first) })
    }
}

impl Files<'_> {
    /// The error of a failed write.
    pub(crate) fn write_error(&self, error: std::io::Error) -> MergeError {
        MergeError::write(self.target_path)(error)
    }
}

/// Locks a mutex whose holder may have panicked: the panic itself reaches the caller through the executor.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
