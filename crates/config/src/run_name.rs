//! The official pattern of a run's name, which is its output folder's name too.

use std::path::Path;

use crate::{Task, TrainConfig};

/// Name of the run: the parts of the official script in its order, so that a folder made by either is found by
/// the other. Example:
/// `metamath_mistralai-mistral-7b-v0.1_gpart_d524288_drop0.05_lr0.0002_bs2_ga8_ep2_seq2048_nosysprompt_seed42_524k`.
pub fn run_name(config: &TrainConfig) -> String {
    let prompt = if config.use_system_prompt { "sysprompt" } else { "nosysprompt" };
    let mut parts = vec![
        first_part(config),
        sanitize(&config.model_name),
        config.adapter_type.to_string(),
        format!("d{}", config.d),
        format!("drop{}", general(config.dropout)),
        format!("lr{}", general(config.learning_rate)),
        format!("bs{}", config.micro_batch_size),
        format!("ga{}", config.accumulation_steps),
        format!("ep{}", general(config.epochs)),
        format!("seq{}", config.max_seq_length),
        prompt.to_owned(),
        format!("seed{}", config.seed),
        // θ is all that is trained.
        format!("{}k", config.d / 1000),
    ];
    parts.extend(config.max_samples.map(|rows| format!("n{rows}")));
    parts.join("_")
}

/// The command; with rows of one's own, their name too.
fn first_part(config: &TrainConfig) -> String {
    match config.task {
        Task::Metamath => "metamath".to_owned(),
        Task::Train => {
            let path = Path::new(&config.data);
            let is_file = path.extension().is_some();
            let name = if is_file { path.file_stem() } else { Some(path.as_os_str()) };
            let name = sanitize(&name.unwrap_or_default().to_string_lossy());
            if name.is_empty() { "train".to_owned() } else { format!("train_{name}") }
        }
    }
}

/// A model's name as part of a folder's name: slashes and every other run of characters outside letters,
/// digits, `.`, `_` and `-` become one dash, `-`, `.` and `_` go from both ends, and all is lower case.
pub fn sanitize(name: &str) -> String {
    let mut dashed = String::new();
    for character in name.trim().chars() {
        let kept = character.is_ascii_alphanumeric() || matches!(character, '.' | '_');
        if kept {
            dashed.push(character);
        } else if !dashed.ends_with('-') {
            dashed.push('-');
        }
    }
    dashed.trim_matches(['-', '.', '_']).to_ascii_lowercase()
}

/// C's `%g` (six significant digits, no trailing zeros, an exponent of at least two digits below 1e-4 and from
/// 1e6 on), without the exponent's plus sign.
fn general(value: f64) -> String {
    // The exponent after rounding to six digits decides the form, so it is read off the rounded text.
    let scientific = format!("{value:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return without_trailing_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { "-" } else { "" };
    format!("{}e{sign}{:02}", without_trailing_zeros(digits), exponent.unsigned_abs())
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_c_writes_them() {
        let cases = [
            (0.0, "0"),
            (0.05, "0.05"),
            (2e-4, "0.0002"),
            (1e-4, "0.0001"),
            (9.99e-5, "9.99e-05"),
            (9.999999e-5, "0.0001"),
            (1e-5, "1e-05"),
            (1.25e-10, "1.25e-10"),
            (1e-100, "1e-100"),
            (2.0, "2"),
            (2.5, "2.5"),
            (0.3333333333, "0.333333"),
            (100_000.0, "100000"),
            (999_999.5, "1e06"),
            (1e6, "1e06"),
            (123_456_789.0, "1.23457e08"),
        ];
        for (value, expect) in cases {
            assert_eq!(general(value), expect, "{value}");
        }
    }

    #[test]
    fn model_names_are_sanitized_as_officially() {
        let cases = [
            ("mistralai/Mistral-7B-v0.1", "mistralai-mistral-7b-v0.1"),
            ("/models/My Llama (v2)/", "models-my-llama-v2"),
            ("./model", "model"),
            ("../a//b", "a-b"),
            ("  _x_  ", "x"),
            ("Größe", "gr-e"),
            ("a--b", "a-b"),
            (".", ""),
        ];
        for (name, expect) in cases {
            assert_eq!(sanitize(name), expect, "{name}");
        }
    }
}
