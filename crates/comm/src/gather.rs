//! All-gather of messages whose lengths differ, made of rounds in which they do not.

use crate::PIECE_ALIGNMENT;

/// Payload that travels with its length in the first round, bytes.
const INLINE: usize = 120;
const INLINE_BLOCK: usize = INLINE + 8;

/// Collective: every rank's `bytes`, by rank. `round` gathers blocks of one length, end to end.
pub(crate) fn gather(bytes: &[u8], round: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut block = vec![0u8; INLINE_BLOCK];
    block[..8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let inline = bytes.len().min(INLINE);
    block[8..8 + inline].copy_from_slice(&bytes[..inline]);
    let first = round(&block);
    let lengths: Vec<usize> =
        first.chunks_exact(INLINE_BLOCK).map(|block| number(&block[..8]) as usize).collect();
    let widest = lengths.iter().copied().max().unwrap_or(0);
    if widest <= INLINE {
        let blocks = first.chunks_exact(INLINE_BLOCK);
        return blocks.zip(&lengths).map(|(block, length)| block[8..8 + length].to_vec()).collect();
    }
    let mut padded = bytes.to_vec();
    padded.resize(widest.next_multiple_of(PIECE_ALIGNMENT), 0);
    let all = round(&padded);
    let blocks = all.chunks_exact(padded.len());
    blocks.zip(&lengths).map(|(block, length)| block[..*length].to_vec()).collect()
}

/// A little-endian 64-bit number.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}
