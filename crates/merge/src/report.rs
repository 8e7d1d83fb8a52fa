//! What a merge did, and how much of the update came through the rounding.

use std::path::PathBuf;

use serde::Serialize;

use crate::Dtype;
use crate::numbers::Sums;

/// Below this share of the update the user is told that the dtype loses it.
const SENSIBLE_PROJECTION: f64 = 0.9;

/// Above this share of the update the user is told that rounding is a good part of what was added.
const SENSIBLE_ERROR: f64 = 0.1;

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The folder that was written.
    pub output: PathBuf,
    /// The dtype that was asked for; none where every tensor keeps its own.
    pub dtype: Option<Dtype>,
    /// All files, in the order in which they were written.
    pub files: Vec<WrittenFile>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Tensors to which the adapter was added.
    pub merged_tensors: usize,
    /// Tensors that were rounded or widened to the dtype, and no more.
    pub converted_tensors: usize,
    /// Tensors that were copied bit for bit.
    pub copied_tensors: usize,
    /// Over all adapted numbers.
    pub kept: Kept,
    /// By kind of module, in the model's order.
    pub by_kind: Vec<KeptByKind>,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WrittenFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// How much of an update ΔW came through the rounding to the output's dtype. W' is the merged number, W° the base's
/// number as the output's dtype holds it (the base's own unless the dtype is narrower). Ratios are none where
/// ΔW is zero throughout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Kept {
    /// Adapted numbers.
    pub numbers: u64,
    /// Those whose ΔW is not 0.
    pub moved: u64,
    /// Those of them that differ from W°.
    pub changed: u64,
    /// ‖ΔW‖.
    pub delta_norm: f64,
    /// ‖W' − W°‖² / ‖ΔW‖².
    pub energy: Option<f64>,
    /// ⟨W' − W°, ΔW⟩ / ‖ΔW‖²: the share of the update that was kept; 1 is all, on average over the weights.
    pub projection: Option<f64>,
    /// ‖W' − (W + ΔW)‖ / ‖ΔW‖.
    pub relative_error: Option<f64>,
}

/// [`Kept`] of one kind of module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeptByKind {
    /// Last component of the modules' names, such as `q_proj`.
    pub kind: String,
    /// Over the weights, and adapted biases, of these modules.
    #[serde(flatten)]
    pub kept: Kept,
}

impl Kept {
    pub(crate) fn new(sums: &Sums) -> Self {
        let over = |numerator: f64, denominator: f64| (denominator > 0.0).then(|| numerator / denominator);
        Self {
            numbers: sums.numbers,
            moved: sums.moved,
            changed: sums.changed,
            delta_norm: sums.delta_sq.sqrt(),
            energy: over(sums.kept_sq, sums.delta_sq),
            projection: over(sums.dot, sums.delta_sq),
            relative_error: over(sums.error_sq, sums.delta_sq).map(f64::sqrt),
        }
    }

    /// One line: what rounding added, share kept, numbers changed.
    pub fn summary(&self) -> String {
        match (self.projection, self.relative_error) {
            (Some(projection), Some(error)) => format!(
                "rounding noise {:.1}% of it, {:.1}% of it kept on average, {} of {} weights changed",
                100.0 * error,
                100.0 * projection,
                self.changed,
                self.moved
            ),
            _ => "no update".to_owned(),
        }
    }
}

impl Report {
    /// The table for a terminal: labels and values, the whole model first, then each kind of module.
    pub fn rows(&self) -> Vec<(String, String)> {
        let dtype = self.dtype.map_or("as stored".to_owned(), |dtype| dtype.to_string());
        let tensors = format!(
            "{} merged, {} converted, {} copied",
            self.merged_tensors, self.converted_tensors, self.copied_tensors
        );
        let mut rows = vec![
            ("output".to_owned(), self.output.display().to_string()),
            ("dtype".to_owned(), dtype),
            ("files".to_owned(), format!("{} ({} bytes)", self.files.len(), self.bytes)),
            ("tensors".to_owned(), tensors),
            ("norm of the update".to_owned(), format!("{:.6e}", self.kept.delta_norm)),
            ("update".to_owned(), self.kept.summary()),
        ];
        rows.extend(self.by_kind.iter().map(|row| (format!("  {}", row.kind), row.kept.summary())));
        rows
    }

    /// A warning where the dtype loses a good part of the update.
    pub(crate) fn loss_warning(kept: &Kept) -> Option<String> {
        let (projection, error) = (kept.projection?, kept.relative_error?);
        if projection < SENSIBLE_PROJECTION {
            return Some(format!(
                "rounding kept {:.1}% of the update: most of it is smaller than the steps of the output's dtype; \
                 --dtype float32 keeps all of it",
                100.0 * projection
            ));
        }
        (error > SENSIBLE_ERROR).then(|| {
            format!(
                "rounding to the output's dtype adds noise of {:.1}% of the update; --dtype float32 adds none",
                100.0 * error
            )
        })
    }
}
