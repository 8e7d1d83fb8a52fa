//! What the output folder grows to.

use serde::Serialize;

use crate::count::{product, sum};
use crate::facts::Facts;
use crate::steps::Steps;

/// Bytes on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// One state file: θ and its moments, 12·d, a header and a hash.
    pub checkpoint: u64,
    /// State files kept.
    pub checkpoints_kept: u64,
    /// One adapter: θ, 4·d, and its configuration.
    pub adapter: u64,
    /// Adapters in the folder at the end.
    pub adapters: u64,
    /// The tokenizer's files, which are copied into the folder; an upper bound where they are not known.
    pub tokenizer: u64,
    /// Metrics, events and logs, for the whole run; none where its length is not known.
    pub records: Option<u64>,
    /// The token cache, in the cache folder and not in `total`; none where rows or lengths are not
    /// known.
    pub token_cache: Option<u64>,
    /// The most that the output folder takes: one checkpoint more than are kept while it is written.
    pub total: u64,
    /// Bytes free there.
    pub free: Option<u64>,
}

/// Magic, length, hash and a header of about a kilobyte and a half (settings and fingerprints).
const STATE_HEADER_BYTES: u64 = 2100;
/// The header of a safetensors file and `adapter_config.json`.
const ADAPTER_HEADER_BYTES: u64 = 1024;
/// A line of `metrics.jsonl` (270 bytes), of the log (470) and a TensorBoard event (170).
const RECORD_BYTES: u64 = 910;
/// Of a tokenizer that is not there yet. Vocabularies of 128,000 to 256,000 tokens come in 7 to 22 MB.
const LARGE_TOKENIZER_BYTES: u64 = 24 << 20;
/// `run.json`, the model card and what else has one size.
const FIXED_BYTES: u64 = 8192;

impl Disk {
    pub(crate) fn new(facts: &Facts, steps: &Steps) -> Self {
        let training = &facts.training;
        let computed = product([training.d, 12]).saturating_add(STATE_HEADER_BYTES);
        let checkpoint = training.checkpoint_bytes.unwrap_or(computed);
        let kept = training.save_total_limit.max(1);
        let saves = match (steps.total, training.save_steps) {
            (None, _) => kept,
            (Some(_), 0) => 1,
            (Some(total), every) => total.div_ceil(every).max(1),
        };
        let permanent = saves.min(kept);
        let window = rolling(training.checkpoint_window, training.save_steps, steps.total);
        let checkpoints_kept = permanent.saturating_add(window);
        let adapter = product([training.d, 4]).saturating_add(ADAPTER_HEADER_BYTES);
        let beside = if training.checkpoint_adapters { permanent } else { 0 };
        let adapters = beside.saturating_add(1);
        let tokenizer = facts.model.tokenizer_bytes.unwrap_or(LARGE_TOKENIZER_BYTES);
        let records = steps.total.map(|total| product([total, RECORD_BYTES]));
        let token_cache = match (facts.data.rows, facts.data.mean()) {
            (Some(rows), (mean, false)) => Some((rows as f64 * (mean * 4.0 + 12.0)) as u64),
            _ => None,
        };
        let total = sum([
            product([
                checkpoint,
                checkpoints_kept.saturating_add(u64::from(saves > permanent || window > 0)),
            ]),
            product([adapter, adapters]),
            records.unwrap_or(0),
            tokenizer,
            FIXED_BYTES,
        ]);
        let free = facts.host.free_disk;
        Self { checkpoint, checkpoints_kept, adapter, adapters, tokenizer, records, token_cache, total, free }
    }
}

/// States of the window at the end of a run that are none of those that stay: every `every`-th and the last one do.
fn rolling(window: u64, every: u64, total: Option<u64>) -> u64 {
    let Some(total) = total else { return window };
    let window = window.min(total);
    let stay = match every {
        0 => 1,
        every => total / every - (total - window) / every + u64::from(!total.is_multiple_of(every)),
    };
    window.saturating_sub(stay)
}

#[cfg(test)]
mod tests {
    use super::rolling;

    #[test]
    fn states_of_the_window_are_counted_once() {
        for (window, every, total, expected) in [
            (0, 250, 1000, 0),
            (2, 250, 1000, 1),
            (2, 250, 999, 1),
            (2, 1, 6, 0),
            (3, 2, 6, 1),
            (3, 4, 9, 1),
            (9, 0, 5, 4),
            (9, 250, 5, 4),
        ] {
            assert_eq!(rolling(window, every, Some(total)), expected, "{window} {every} {total}");
        }
        assert_eq!(rolling(3, 250, None), 3);
    }
}
