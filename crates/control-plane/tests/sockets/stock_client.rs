//! A client that shares no code with ours: Python's grpcio, with messages from server reflection alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{link, step, until};
use control_plane::{Coordinator, CoordinatorOptions, TOKEN_VARIABLE, TlsPolicy};

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok().filter(|output| output.status.success())
}

/// A Python with grpcio, made once below the system's temporary folder; `None` where it cannot be had.
fn python() -> Option<PathBuf> {
    let folder = std::env::temp_dir().join("gpart-test-grpcio");
    let python = folder.join("bin/python");
    let has_grpc =
        |python: &Path| run(Command::new(python).args(["-c", "import grpc, grpc_reflection"])).is_some();
    if !has_grpc(&python) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let packages = ["grpcio>=1.60", "grpcio-reflection>=1.60"];
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--retries", "1"])
            .args(packages))?;
    }
    has_grpc(&python).then_some(python)
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn a_stock_client_reads_follows_and_stops_a_run() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with grpcio here, and pip cannot install it");
        return;
    };
    for tls in [TlsPolicy::Off, TlsPolicy::MadeAtStart] {
        stops_a_run(&python, tls);
    }
}

fn stops_a_run(python: &Path, tls: TlsPolicy) {
    let options = CoordinatorOptions { tls, ..CoordinatorOptions::new("test", 1) };
    let coordinator = Coordinator::start(options).expect("a coordinator");
    let endpoint = coordinator.endpoint();
    let rank = link(endpoint, 0, 1);
    rank.step(step(5));
    until("the step", || coordinator.status().step == 5);
    let folder = tempfile::tempdir().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sockets/stock_client.py");
    let mut command = Command::new(python);
    command.arg(script).arg(&endpoint.address).env(TOKEN_VARIABLE, endpoint.token.reveal());
    if let Some(certificate) = &endpoint.certificate {
        let file = folder.path().join("certificate.pem");
        std::fs::write(&file, certificate).expect("written");
        command.arg(file);
    }
    let output = command.output().expect("python");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(answer["run"], "test");
    assert_eq!(answer["step"], 5);
    assert_eq!(answer["healthy"], 1, "SERVING");
    assert_eq!(answer["refused"], "UNAUTHENTICATED");
    assert_eq!(answer["hosts"], serde_json::json!(["host0"]));
    assert_eq!(answer["reason"], "asked from Python");
    let services: Vec<_> = answer["services"].as_array().into_iter().flatten().collect();
    for service in ["gpart.control.v1.RankService", "gpart.control.v1.RunService", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|name| *name == service), "{services:?}");
    }
    until("the wish", || rank.wishes().stop.as_deref() == Some("asked from Python"));
}
