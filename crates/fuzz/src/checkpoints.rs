//! The state of a run.

use checkpoint::{State, StateRef};

/// A state file, whose hash is put right: nothing would get past it otherwise.
pub(crate) fn state(bytes: &[u8]) -> bool {
    const HASH_BYTES: usize = 32;
    let mut bytes = bytes.to_vec();
    if let Some(end) = bytes.len().checked_sub(HASH_BYTES) {
        let hash = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(hash.as_bytes());
    }
    let Ok(state) = State::parse(&bytes) else { return false };
    let written = StateRef::from(&state).to_bytes();
    let again = State::parse(&written).expect("what is written can be read");
    // Bytes, since θ may hold what is no number.
    assert!(StateRef::from(&again).to_bytes() == written, "what is read is what was written");
    true
}
