//! The two spellings of rotary settings.

use super::RopeScaling;
use super::keys::Keys;
use crate::ModelError;

/// Base of the rotary frequencies where config.json has none, in all families.
const DEFAULT_THETA: f64 = 10_000.0;

/// Base and stretching, from `rope_parameters` (transformers 5) or `rope_scaling` beside `rope_theta` (before).
pub(super) fn read(keys: &Keys<'_>) -> Result<(f64, RopeScaling), ModelError> {
    refuse_partial(keys)?;
    let (new, old) = (keys.table("rope_parameters")?, keys.table("rope_scaling")?);
    if let (Some(_), Some(value)) = (&new, keys.get("rope_scaling"))
        && keys.get("rope_parameters") != Some(value)
    {
        let hint = "they are the new and the old spelling of the same settings; keep one";
        return Err(keys.unsupported("rope_scaling", value, "is not what rope_parameters says", hint));
    }
    let outer_theta = keys.number("rope_theta")?;
    let Some(block) = new.or(old) else {
        return Ok((checked_theta(keys, outer_theta.unwrap_or(DEFAULT_THETA))?, RopeScaling::None));
    };
    refuse_partial(&block)?;
    if let Some(nested) = block.values().find(|value| value.is_object()) {
        let hint = "the implemented families use one rotary setting for all blocks";
        return Err(keys.unsupported("rope_parameters", nested, "differs between blocks", hint));
    }
    let theta = block.number("rope_theta")?.or(outer_theta).unwrap_or(DEFAULT_THETA);
    Ok((checked_theta(keys, theta)?, scaling(&block)?))
}

fn scaling(block: &Keys<'_>) -> Result<RopeScaling, ModelError> {
    let kind = match block.text("rope_type")? {
        Some(kind) => kind,
        None => block.text("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: at_least(block, "factor", 1.0)? }),
        "llama3" => {
            let low = at_least(block, "low_freq_factor", f64::from(f32::MIN_POSITIVE))?;
            let high = at_least(block, "high_freq_factor", f64::from(f32::MIN_POSITIVE))?;
            if high as f32 <= low as f32 {
                let problem = format!("is not above low_freq_factor = {low}");
                return Err(block.unsupported("high_freq_factor", high, &problem, "mend config.json"));
            }
            Ok(RopeScaling::Llama3 {
                factor: at_least(block, "factor", 1.0)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position: at_least(block, "original_max_position_embeddings", 1.0)?,
            })
        }
        other => {
            let hint = "rotary types default, linear and llama3 are implemented";
            Err(block.unsupported("rope_type", other, "is not implemented", hint))
        }
    }
}

/// A number that f32 holds and that is `least` or more.
fn at_least(block: &Keys<'_>, key: &'static str, least: f64) -> Result<f64, ModelError> {
    let value = block.number(key)?;
    value.filter(|value| *value >= least && *value <= f64::from(f32::MAX)).ok_or_else(|| {
        let shown = value.map_or("null".to_owned(), |value| value.to_string());
        let problem = format!("is not a number of at least {least:e}");
        block.unsupported(key, shown, &problem, "the rotary settings need it")
    })
}

fn checked_theta(keys: &Keys<'_>, theta: f64) -> Result<f64, ModelError> {
    if theta >= 1.0 && theta <= f64::from(f32::MAX) {
        return Ok(theta);
    }
    let hint = "it is the longest wavelength over 2π; usual values are 10000 and more";
    Err(keys.unsupported("rope_theta", theta, "is not a number of at least 1", hint))
}

fn refuse_partial(keys: &Keys<'_>) -> Result<(), ModelError> {
    match keys.number("partial_rotary_factor")? {
        Some(factor) if factor != 1.0 => {
            let hint = "only models that turn the whole head are implemented";
            Err(keys.unsupported("partial_rotary_factor", factor, "is not implemented", hint))
        }
        _ => Ok(()),
    }
}
