//! The merge itself: file by file, batch by batch.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use partition::Assignment;
use projection::{Executor, Scoped, scale_theta};

use crate::layout::{OutputShard, Work};
use crate::numbers::Sums;
use crate::output::Staging;
use crate::piece::{Files, Piece, Processor};
use crate::plan::{Content, OutputFile};
use crate::report::{Kept, KeptByKind, Report, WrittenFile};
use crate::{MergeError, Plan};

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
            processor: Processor::new(assignment, &scaled_theta),
            executor: Scoped(self.threads),
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
    processor: Processor<'a>,
    executor: Scoped,
    /// By kind of module.
    sums: Vec<Sums>,
    progress: &'a dyn Fn(Progress<'_>),
    done_bytes: u64,
    total_bytes: u64,
}

impl Writer<'_> {
    fn write_shard(
        &mut self,
        shard: &OutputShard,
        target: &File,
        staging: &Staging,
    ) -> Result<(), MergeError> {
        let source = File::open(&shard.source).map_err(MergeError::read(&shard.source))?;
        let files =
            Files { source, source_path: &shard.source, target, target_path: &staging.path(&shard.name) };
        target.write_all_at(&shard.prefix, 0).map_err(|e| files.write_error(e))?;
        self.advance(shard, shard.prefix.len() as u64);
        let pieces: Vec<Piece<'_>> = shard.parts.iter().flat_map(Piece::of).collect();
        for batch in pieces.chunks(self.executor.threads() * PIECES_PER_THREAD) {
            let outcomes: Vec<OnceLock<Result<Sums, MergeError>>> =
                batch.iter().map(|_| OnceLock::new()).collect();
            let processor = &self.processor;
            self.executor.run(batch.len(), &|task| {
                // Each task has a cell of its own, so it is empty.
                let _ = outcomes[task].set(processor.process(&batch[task], &files));
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
}
