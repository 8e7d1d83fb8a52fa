//! The merge itself: pieces of tensors, each read, computed and written at its position by one thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use partition::Assignment;
use projection::{Executor, Map, Scoped, scale_theta};

use crate::layout::{OutputShard, Part, Work};
use crate::numbers::{self, Sums};
use crate::output::Staging;
use crate::plan::{Content, OutputFile};
use crate::report::{Kept, KeptByKind, Report, WrittenFile};
use crate::{Dtype, MergeError, Plan};

/// How far a merge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being written.
    pub file: &'a str,
    /// Bytes written so far, of all files.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Numbers (or bytes, where they are only copied) that a thread takes at a time. Part of the report's definition, as
/// sums of f64 are made piece by piece; large enough that a call to the system costs nothing beside it.
const PIECE: u64 = 1 << 18;

/// Pieces a thread between two reports of progress, and two starts of threads.
const PIECES_PER_THREAD: usize = 16;

impl Plan<'_> {
    /// Writes the output. `assignment` and `scales` are those of the adapter's partition over the space that the
    /// plan was made for; `progress` is called on this thread, every few dozen megabytes.
    ///
    /// On an error, everything that was written is removed again.
    ///
    /// # Errors
    /// A partition of another size than θ, a result that is not finite, a failed read or write, an output that
    /// another process has taken.
    pub fn run(
        self,
        assignment: &dyn Assignment,
        scales: &[f32],
        progress: &dyn Fn(Progress<'_>),
    ) -> Result<Report, MergeError> {
        let theta = &self.adapter.theta;
        if assignment.d() != theta.len() as u64 || scales.len() != theta.len() {
            let (theta, d) = (theta.len(), assignment.d());
            return Err(MergeError::WrongD { theta, d, scales: scales.len() });
        }
        let mut scaled_theta = vec![0.0; theta.len()];
        scale_theta(theta, scales, &mut scaled_theta)?;
        let names = self.names();
        let staging = Staging::begin(&self.output, &names)?;
        // All files first: a disk that is too small is found before the work.
        let files = self.shards.iter().map(|shard| staging.create(&shard.name, shard.bytes));
        let files: Vec<File> = files.collect::<Result<_, _>>()?;
        let mut writer = Writer {
            map: Map::new(assignment, None),
            scaled_theta: &scaled_theta,
            executor: Scoped(self.threads),
            scratch: Mutex::new(Vec::new()),
            sums: vec![Sums::default(); self.kinds.len()],
            progress,
            done_bytes: 0,
            total_bytes: self.bytes(),
        };
        for (shard, file) in self.shards.iter().zip(files) {
            writer.write_shard(shard, &file, &staging)?;
        }
        let sums = writer.sums;
        for file in &self.files {
            write_file(file, &staging)?;
        }
        staging.publish(&names)?;
        Ok(self.report(&sums))
    }

    fn report(&self, sums: &[Sums]) -> Report {
        let mut whole = Sums::default();
        sums.iter().for_each(|kind| whole.add(kind));
        let kept = Kept::new(&whole);
        let by_kind = self.kinds.iter().zip(sums);
        let shards = self.shards.iter().map(|shard| (&shard.name, shard.bytes));
        let files = shards.chain(self.files.iter().map(|file| (&file.name, file.bytes())));
        let [merged_tensors, converted_tensors, copied_tensors] = self.tensor_counts();
        Report {
            output: self.output.clone(),
            dtype: self.dtype,
            files: files.map(|(name, bytes)| WrittenFile { name: name.clone(), bytes }).collect(),
            bytes: self.bytes(),
            merged_tensors,
            converted_tensors,
            copied_tensors,
            kept,
            by_kind: by_kind
                .map(|(kind, sums)| KeptByKind { kind: kind.clone(), kept: Kept::new(sums) })
                .collect(),
            warnings: self.warnings.iter().cloned().chain(Report::loss_warning(&kept)).collect(),
        }
    }
}

fn write_file(file: &OutputFile, staging: &Staging) -> Result<(), MergeError> {
    match &file.content {
        Content::Text(text) => staging.write(&file.name, text.as_bytes()),
        Content::CopyOf { path, .. } => {
            let bytes = std::fs::read(path).map_err(MergeError::read(path))?;
            staging.write(&file.name, &bytes)
        }
    }
}

struct Writer<'a> {
    map: Map<'a>,
    scaled_theta: &'a [f32],
    executor: Scoped,
    /// Buffers that no thread uses now.
    scratch: Mutex<Vec<Scratch>>,
    /// By kind of module.
    sums: Vec<Sums>,
    progress: &'a dyn Fn(Progress<'_>),
    done_bytes: u64,
    total_bytes: u64,
}

/// The buffers of a piece.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    base: Vec<f32>,
    delta: Vec<f32>,
}

/// A run of units of one tensor.
#[derive(Clone, Copy)]
struct Piece<'s> {
    part: &'s Part,
    first: u64,
    units: u64,
}

/// The two files of a shard.
struct Files<'s> {
    shard: &'s OutputShard,
    source: File,
    target: &'s File,
    staging: &'s Staging,
}

impl Writer<'_> {
    fn write_shard(
        &mut self,
        shard: &OutputShard,
        target: &File,
        staging: &Staging,
    ) -> Result<(), MergeError> {
        let source = File::open(&shard.source).map_err(MergeError::read(&shard.source))?;
        let files = Files { shard, source, target, staging };
        target.write_all_at(&shard.prefix, 0).map_err(|e| files.write_error(e))?;
        self.advance(shard, shard.prefix.len() as u64);
        let pieces: Vec<Piece<'_>> = shard.parts.iter().flat_map(Piece::of).collect();
        for batch in pieces.chunks(self.executor.threads() * PIECES_PER_THREAD) {
            let outcomes: Vec<OnceLock<Result<Sums, MergeError>>> =
                batch.iter().map(|_| OnceLock::new()).collect();
            self.executor.run(batch.len(), &|task| {
                // Each task has a cell of its own, so it is empty.
                let _ = outcomes[task].set(self.write_piece(&batch[task], &files));
            });
            // In order: of several errors the first piece's is reported, and sums do not depend on the threads.
            for (piece, outcome) in batch.iter().zip(outcomes) {
                let sums = outcome.into_inner().unwrap_or_else(|| unreachable!("every task ran"))?;
                if let Work::Merge { adapted, .. } = piece.part.work {
                    self.sums[adapted.kind].add(&sums);
                }
            }
            let written = batch.iter().map(|piece| piece.units * piece.part.unit_sizes().1).sum();
            self.advance(shard, written);
        }
        target.sync_all().map_err(|e| files.write_error(e))
    }

    fn advance(&mut self, shard: &OutputShard, bytes: u64) {
        self.done_bytes += bytes;
        let (file, done_bytes, total_bytes) = (shard.name.as_str(), self.done_bytes, self.total_bytes);
        (self.progress)(Progress { file, done_bytes, total_bytes });
    }

    fn write_piece(&self, piece: &Piece<'_>, files: &Files<'_>) -> Result<Sums, MergeError> {
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
            .map_err(MergeError::read(&files.shard.source))?;
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
        let Work::Merge { adapted, .. } = piece.part.work else { unreachable!("only sums are looked at here") };
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
    fn of(part: &'s Part) -> impl Iterator<Item = Self> {
        let starts = (0..part.units).step_by(PIECE as usize);
        starts.map(move |first| Self { part, first, units: PIECE.min(part.units - first) })
    }
}

impl Files<'_> {
    fn write_error(&self, error: std::io::Error) -> MergeError {
        MergeError::write(self.staging.path(&self.shard.name))(error)
    }
}

/// Locks a mutex whose holder may have panicked: the panic itself reaches the caller through the executor.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
