//! What `gpart-dist bench step --json` measured of one rank, and what that makes of a plan's rates.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::PlanError;
use crate::facts::{Facts, Training};
use crate::parameters::Parameters;
use crate::stage::operations_a_token;

/// The format that is read. A change that readers must know of changes its number.
const FORMAT: &str = "gpart-dist bench step 1";
/// Longest name that is shown of a file.
const NAME_CHARACTERS: usize = 40;

/// Steps of one rank, each with other settings, measured on one device with one model. Keys that are not named here are
/// ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Measurement {
    /// What the device's maker calls it.
    pub(crate) device: String,
    /// The model's name.
    pub(crate) model: String,
    /// The model's shape.
    pub(crate) shape: Shape,
    /// Number format of the computation, by its name.
    pub(crate) dtype: String,
    /// Tokens of a micro-batch.
    pub(crate) micro_batch_tokens: f64,
    /// At least one.
    pub(crate) variants: Vec<Variant>,
}

/// What tells models apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Shape {
    pub parameters: u64,
    pub adapted: u64,
    pub hidden: u64,
    pub layers: u64,
}

/// A step with some settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Variant {
    pub name: String,
    pub dropout: f64,
    pub deterministic: bool,
    pub recompute: bool,
    #[serde(default)]
    pub packing: bool,
    pub step_seconds: f64,
    pub tokens_per_second: f64,
    /// 10^12 operations a second by the formula of [`crate::Work`].
    pub model_tflops: f64,
    pub parts: Parts,
}

/// Parts of a step, seconds; those that a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct Parts {
    /// ΔW is written into the weights.
    #[serde(default)]
    pub apply: f64,
    /// Adam, and what else is done to θ once a step.
    pub update: f64,
}

/// What a plan takes from a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// What it was measured on.
    pub device: String,
    /// Which model.
    pub model: String,
    /// Which variant of those in the file.
    pub variant: String,
    /// The model had this model's shape.
    pub same_shape: bool,
    /// Operations a second of a rank by the formula of [`crate::Work`], while it does what grows with its share of a step.
    pub operations_per_second: f64,
    /// Seconds of θ's update, which every rank makes.
    pub update_seconds: f64,
    /// Seconds of writing ΔW of the whole model, where that is done once a step; 0 where it is done for every
    /// micro-batch, and counts as computing.
    pub apply_seconds: f64,
}

impl Measurement {
    /// From the text of a file, whose name is only for messages.
    ///
    /// # Errors
    /// [`PlanError::Measurement`] for anything else than what `bench step --json` prints, in the format of this version.
    pub fn parse(file: &str, text: &str) -> Result<Self, PlanError> {
        let refused = |what: String| PlanError::Measurement { file: file.to_owned(), what };
        let value: Value = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        match value.get("format").map(Value::as_str) {
            Some(Some(FORMAT)) => {}
            Some(Some(other)) => {
                return Err(refused(format!("its format is {:?}, and {FORMAT:?} is read", shown(other))));
            }
            _ => return Err(refused(format!("it has no \"format\": {FORMAT:?}"))),
        }
        let mut read: Self = serde_json::from_value(value).map_err(|error| refused(error.to_string()))?;
        read.check().map_err(refused)?;
        for name in [&mut read.device, &mut read.model, &mut read.dtype] {
            *name = shown(name);
        }
        read.variants.iter_mut().for_each(|variant| variant.name = shown(&variant.name));
        Ok(read)
    }

    /// Numbers that no step can have. JSON has no NaN, and reading refuses what is too large for a number.
    fn check(&self) -> Result<(), String> {
        positive("micro_batch_tokens", self.micro_batch_tokens)?;
        if self.variants.is_empty() {
            return Err("it has no variant".to_owned());
        }
        for variant in &self.variants {
            let (name, Parts { apply, update }) = (shown(&variant.name), variant.parts);
            let of = |key: &str| format!("{key} of {name:?}");
            positive(&of("step_seconds"), variant.step_seconds)?;
            positive(&of("tokens_per_second"), variant.tokens_per_second)?;
            positive(&of("model_tflops"), variant.model_tflops)?;
            not_negative(&of("dropout"), variant.dropout)?;
            not_negative(&of("parts.apply"), apply)?;
            not_negative(&of("parts.update"), update)?;
            if apply + update >= variant.step_seconds {
                let step = variant.step_seconds;
                return Err(format!(
                    "apply and update of {name:?} are {} s of a step of {step} s",
                    apply + update
                ));
            }
        }
        Ok(())
    }

    /// It was measured on a CPU.
    pub fn is_of_cpu(&self) -> bool {
        self.device.to_ascii_lowercase().starts_with("cpu")
    }

    /// The variant with these settings or, where there is none, the first.
    pub(crate) fn variant(&self, training: &Training) -> Option<&Variant> {
        let mut fitting = self.variants.iter().filter(|variant| variant.differences(training).is_empty());
        fitting.next().or(self.variants.first())
    }

    /// It is of a model like this one.
    pub(crate) fn is_of_shape(&self, facts: &Facts) -> bool {
        self.shape == Shape::of(facts)
    }

    /// What a plan takes from it. What is done once a step is not spread over micro-batches:
    ///
    /// operations a second = tokens a second · step · operations a token / (step − once), with once = update, and ΔW's
    /// writing where one serves the whole step (no dropout, no recompute). So the plan of one rank has the step that was
    /// measured. A model of another shape is reckoned with the operations a second that the file has, in place of
    /// tokens a second · operations a token.
    pub(crate) fn of_rank(&self, facts: &Facts) -> Option<Measured> {
        let variant = self.variant(&facts.training)?;
        let same_shape = self.is_of_shape(facts);
        let step = variant.step_seconds;
        let is_once = |dropout: f64, recompute: bool| dropout == 0.0 && !recompute;
        let is_applied_once = is_once(variant.dropout, variant.recompute)
            && is_once(facts.training.dropout, facts.training.recomputes());
        let apply = if is_applied_once { variant.parts.apply } else { 0.0 };
        let while_measured = match same_shape {
            true => {
                let (linear, attention) = operations_a_token(&facts.model, facts.data.mean().0);
                variant.tokens_per_second * (linear + attention)
            }
            false => variant.model_tflops * 1e12,
        };
        let adapted = Parameters::new(&facts.model).adapted as f64 / self.shape.adapted.max(1) as f64;
        Some(Measured {
            device: self.device.clone(),
            model: self.model.clone(),
            variant: variant.name.clone(),
            same_shape,
            operations_per_second: while_measured * step / (step - variant.parts.update - apply),
            update_seconds: variant.parts.update,
            apply_seconds: apply * adapted,
        })
    }
}

impl Shape {
    pub fn of(facts: &Facts) -> Self {
        let Parameters { total, adapted, .. } = Parameters::new(&facts.model);
        Self { parameters: total, adapted, hidden: facts.model.hidden, layers: facts.model.block_count() }
    }
}

impl Variant {
    /// The settings that differ from the run's: how they were in the measurement.
    pub fn differences(&self, training: &Training) -> Vec<&'static str> {
        let settings = [
            (self.dropout > 0.0, training.dropout > 0.0, ["without dropout", "with dropout"]),
            (
                self.deterministic,
                training.deterministic,
                ["with --deterministic false", "with --deterministic true"],
            ),
            (
                self.recompute,
                training.recomputes(),
                ["without --gradient-checkpointing", "with --gradient-checkpointing"],
            ),
            (self.packing, training.packing, ["without --packing", "with --packing"]),
        ];
        let differing = settings.into_iter().filter(|(measured, planned, _)| measured != planned);
        differing.map(|(measured, _, names)| names[usize::from(measured)]).collect()
    }
}

fn positive(what: &str, number: f64) -> Result<(), String> {
    match number.is_finite() && number > 0.0 {
        true => Ok(()),
        false => Err(format!("{what} is {number}, which is not above 0")),
    }
}

fn not_negative(what: &str, number: f64) -> Result<(), String> {
    match number.is_finite() && number >= 0.0 {
        true => Ok(()),
        false => Err(format!("{what} is {number}, which is not 0 or more")),
    }
}

/// A name from a file as it may be shown: on one line, and not long.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARACTERS).collect()
}
