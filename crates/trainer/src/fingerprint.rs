//! Short hashes that tell whether two runs, or two ranks, work on the same things.

use std::path::Path;

use model::CheckpointFiles;

/// Up to this size a checkpoint is hashed whole.
const WHOLE_BYTES: u64 = 256 << 20;
/// Beyond it, this many pieces of every tensor are, evenly spread: enough to tell fine-tunes apart in seconds, not
/// enough to find a single flipped bit.
const PIECES: usize = 64;
const PIECE_BYTES: usize = 4 << 10;

/// Hash (hex) of a model's configuration and weights: names, dtypes, shapes and content; of checkpoints above
/// 256 MiB, 64 pieces of 4 KiB of every tensor.
pub(crate) fn model(files: &CheckpointFiles, config_json: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    // A config that vanished between loading and here would be noticed as another fingerprint.
    hasher.update(&std::fs::read(config_json).unwrap_or_default());
    let whole = files.total_bytes() <= WHOLE_BYTES;
    for (name, entry) in files.entries() {
        hasher.update(format!("{name} {:?} {:?}\n", entry.dtype, entry.shape).as_bytes());
        let bytes = files.bytes(entry);
        if whole || bytes.len() <= PIECES * PIECE_BYTES {
            hasher.update(bytes);
        } else {
            for piece in 0..PIECES {
                let start = (bytes.len() - PIECE_BYTES) / (PIECES - 1) * piece;
                hasher.update(&bytes[start..start + PIECE_BYTES]);
            }
        }
        // The system maps far more than was looked at.
        files.release(name);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Hash (hex) of group sizes, little-endian u64.
pub(crate) fn counts(counts: &[u64]) -> String {
    blake3::hash(bytemuck::cast_slice(counts)).to_hex()[..32].to_owned()
}

/// Hash (hex) of the groups of all weights, little-endian u32.
pub(crate) fn ids(assignment: &dyn partition::Assignment, total: u64) -> Result<String, crate::TrainError> {
    const CHUNK: u64 = 1 << 16;
    let (mut hasher, mut cursor) = (blake3::Hasher::new(), assignment.cursor());
    let mut ids = vec![0_u32; CHUNK as usize];
    let mut next = 0;
    while next < total {
        let ids = &mut ids[..CHUNK.min(total - next) as usize];
        cursor.fill(next, ids)?;
        hasher.update(bytemuck::cast_slice(ids));
        next += ids.len() as u64;
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// Hash (hex) of θ's little-endian f32 bytes.
pub(crate) fn theta(theta: &[f32]) -> blake3::Hash {
    blake3::hash(bytemuck::cast_slice(theta))
}
