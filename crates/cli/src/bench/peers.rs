//! Peers in the same run: `peers.py` times them by a Python of this host.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const SCRIPT: &str = include_str!("peers.py");

/// One peer, or why it was not timed.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub name: String,
    /// None where it was skipped or failed; `note` says why.
    pub measured: Option<Measured>,
    pub note: String,
}

/// What a peer came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Median of a step.
    pub seconds: f64,
    pub tokens_per_second: f64,
    pub peak_bytes: Option<u64>,
}

/// Whether it is a Python with torch.
///
/// # Errors
/// In words, why not.
pub fn check(python: &Path) -> Result<(), String> {
    let tried = Command::new(python)
        .args(["-c", "import torch; print(torch.__version__)"])
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    match tried.status.success() && !tried.stdout.is_empty() {
        true => Ok(()),
        false => Err(format!("{} has no torch", python.display())),
    }
}

/// Runs the peers of `request` (`peers.py` says what is in it); its progress goes to standard error. In words what went
/// wrong otherwise.
pub fn run(python: &Path, request: &Value) -> Result<Vec<Peer>, String> {
    let folder = std::env::temp_dir().join(format!("gpart-peers-{}", std::process::id()));
    let result = in_folder(python, request, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn in_folder(python: &Path, request: &Value, folder: &Path) -> Result<Vec<Peer>, String> {
    let at = |name: &str| folder.join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    std::fs::write(at("peers.py"), SCRIPT).map_err(failed)?;
    std::fs::write(at("request.json"), request.to_string()).map_err(failed)?;
    let status = Command::new(python)
        .arg(at("peers.py"))
        .args(["--request".as_ref(), at("request.json").as_os_str(), "--output".as_ref()])
        .arg(at("result.json"))
        // Libraries of ours are not for its torch, whose own lie beside it.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    if !status.success() {
        return Err(format!("{} ended with {status}; what it said is above", python.display()));
    }
    let text = std::fs::read_to_string(at("result.json")).map_err(failed)?;
    peers(&text).ok_or_else(|| "what they wrote is not what was agreed on".to_owned())
}

fn peers(text: &str) -> Option<Vec<Peer>> {
    let value: Value = serde_json::from_str(text).ok()?;
    value["rows"].as_array()?.iter().map(peer).collect()
}

fn peer(row: &Value) -> Option<Peer> {
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    let name = text("peer")?;
    if let Some(reason) = text("skipped").or_else(|| text("failed")) {
        return Some(Peer { name, measured: None, note: reason });
    }
    let note = text("note").unwrap_or_default();
    if let Some(teraflops) = row["teraflops"].as_f64() {
        return Some(Peer { name, measured: None, note: format!("{teraflops:.1} TFLOP/s; {note}") });
    }
    let measured = Measured {
        seconds: row["seconds"].as_f64()?,
        tokens_per_second: row["tokens_per_second"].as_f64()?,
        peak_bytes: row["peak_bytes"].as_u64(),
    };
    Some(Peer { name, measured: Some(measured), note })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rows_are_read_and_nonsense_is_not() {
        let text = r#"{"rows": [
            {"peer": "frozen", "seconds": 0.5, "tokens_per_second": 100.0, "peak_bytes": 7, "note": "n"},
            {"peer": "lora", "skipped": "peft is not installed"},
            {"peer": "official-stateless", "failed": "out of memory"},
            {"peer": "matmul-ceiling", "teraflops": 1.25, "note": "1024"}]}"#;
        let found = peers(text).unwrap();
        assert_eq!(
            found.iter().map(|peer| peer.measured.is_some()).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        assert_eq!(
            (found[0].measured.unwrap().seconds, found[1].note.as_str()),
            (0.5, "peft is not installed")
        );
        for nonsense in ["", "{}", r#"{"rows": [{}]}"#, r#"{"rows": [{"peer": "x", "seconds": "1"}]}"#] {
            assert_eq!(peers(nonsense), None, "{nonsense}");
        }
    }
}
