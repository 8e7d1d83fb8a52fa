//! The whole resumable state as one self-verifying file.
//!
//! Layout, all integers and floats little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `GPARTCK1` |
//! | 8 | length of the header |
//! | … | header, JSON: `d`, `step`, `meta` |
//! | 4·d | θ, f32 |
//! | 4·d | first moment, f32 |
//! | 4·d | second moment, f32 |
//! | 32 | blake3 of everything before |

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CheckpointError, Disk, write_atomic_on};

const MAGIC: &[u8; 8] = b"GPARTCK1";
const HASH_BYTES: usize = 32;
/// Magic and header length.
const PREFIX_BYTES: usize = 16;

/// State after a step, read from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Run configuration and fingerprints; this crate does not look inside.
    pub meta: Value,
    /// θ, length d.
    pub theta: Vec<f32>,
    /// Adam's first moment, length d.
    pub exp_avg: Vec<f32>,
    /// Adam's second moment, length d.
    pub exp_avg_sq: Vec<f32>,
}

/// State after a step, to be written; the three vectors have one length.
#[derive(Debug, Clone, Copy)]
pub struct StateRef<'a> {
    /// Optimizer steps done.
    pub step: u64,
    /// Run configuration and fingerprints.
    pub meta: &'a Value,
    /// θ, length d.
    pub theta: &'a [f32],
    /// Adam's first moment, length d.
    pub exp_avg: &'a [f32],
    /// Adam's second moment, length d.
    pub exp_avg_sq: &'a [f32],
}

impl<'a> From<&'a State> for StateRef<'a> {
    fn from(state: &'a State) -> Self {
        let State { step, meta, theta, exp_avg, exp_avg_sq } = state;
        Self { step: *step, meta, theta, exp_avg, exp_avg_sq }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    d: u64,
    step: u64,
    meta: Value,
}

impl StateRef<'_> {
    /// Writes the state to `path` atomically and durably.
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    pub fn write_on(&self, disk: &dyn Disk, path: &Path) -> Result<(), CheckpointError> {
        self.with_parts(|parts| write_atomic_on(disk, path, parts))
    }

    /// The bytes of the state file, as [`State::parse`] reads them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.with_parts(|parts| parts.concat())
    }

    /// Calls `consume` with the parts of the file in order.
    fn with_parts<T>(&self, consume: impl FnOnce(&[&[u8]]) -> T) -> T {
        assert!(
            self.theta.len() == self.exp_avg.len() && self.theta.len() == self.exp_avg_sq.len(),
            "θ and its moments have one length"
        );
        let header = Header { d: self.theta.len() as u64, step: self.step, meta: self.meta.clone() };
        let header = serde_json::to_vec(&header).unwrap_or_else(|_| unreachable!("a header is plain JSON"));
        let length = (header.len() as u64).to_le_bytes();
        let [theta, exp_avg, exp_avg_sq] =
            [self.theta, self.exp_avg, self.exp_avg_sq].map(bytemuck::cast_slice::<f32, u8>);
        let body = [&MAGIC[..], &length, &header, theta, exp_avg, exp_avg_sq];
        let mut hasher = blake3::Hasher::new();
        for part in body {
            hasher.update(part);
        }
        let hash = hasher.finalize();
        consume(&[MAGIC, &length, &header, theta, exp_avg, exp_avg_sq, hash.as_bytes()])
    }
}

impl State {
    /// Reads and verifies a state file.
    ///
    /// # Errors
    /// [`CheckpointError::Read`], or [`CheckpointError::Damaged`] when a single bit is not as it was written.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let bytes =
            std::fs::read(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })?;
        Self::parse(&bytes).map_err(|reason| CheckpointError::Damaged { path: path.to_owned(), reason })
    }

    /// Verifies and takes apart the bytes of a state file.
    ///
    /// # Errors
    /// What does not fit, as the end of a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < PREFIX_BYTES + HASH_BYTES || !bytes.starts_with(MAGIC) {
            return Err(format!("it does not begin like a checkpoint ({} bytes)", bytes.len()));
        }
        let (body, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
        if blake3::hash(body).as_bytes() != hash {
            return Err("its hash does not match its content".to_owned());
        }
        let mut length = [0; 8];
        length.copy_from_slice(&body[8..PREFIX_BYTES]);
        let rest = &body[PREFIX_BYTES..];
        let header_bytes = usize::try_from(u64::from_le_bytes(length))
            .ok()
            .and_then(|n| rest.get(..n))
            .ok_or("its header is longer than the file")?;
        let header: Header = serde_json::from_slice(header_bytes).map_err(|e| format!("its header: {e}"))?;
        let payload = &rest[header_bytes.len()..];
        let each = usize::try_from(header.d).ok().and_then(|d| d.checked_mul(4));
        let Some(each) = each.filter(|each| each.checked_mul(3) == Some(payload.len())) else {
            return Err(format!("{} bytes cannot hold three vectors of {} numbers", payload.len(), header.d));
        };
        let vector = |k: usize| {
            let bytes = payload[k * each..(k + 1) * each].chunks_exact(4);
            bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        Ok(Self {
            step: header.step,
            meta: header.meta,
            theta: vector(0),
            exp_avg: vector(1),
            exp_avg_sq: vector(2),
        })
    }
}
