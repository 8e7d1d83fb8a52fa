//! Models and data from the hub: a local server plays it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hub::testing::{Fault, checksum};

use crate::harness::{
    Hub, LLAMA, METAMATH, Mount, Outcome, Ranks, Running, losses, metrics, read_json, repository, snapshot,
};

/// The command of the documentation, with an output and two steps.
const TYPED: [&str; 7] = ["metamath", "--model", "Llama-3.1-8B", "--d", "4096", "--max-steps", "2"];

/// Everything that a run of the demo model on the demo's rows needs.
const FILES: [&str; 6] = [
    "MetaMathQA-395K.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn finish(command: Command) -> Outcome {
    Running::start(command).finish()
}

/// `metamath` on the fast settings with a model of the hub, and the demo's own file of rows.
fn training(hub: &Hub, ranks: Ranks, model: &str, output: &Path) -> Command {
    let root = repository();
    let config = root.join("tests/fast.toml");
    let args = ["metamath", "--config", config.to_str().unwrap(), "--model", model, "--max-steps", "1"];
    let mut command = hub.command(ranks, &args);
    command.arg("--output").arg(output);
    command
}

/// The bytes and the checksum of the demo model's weights, by which the store knows them.
fn weights() -> (usize, String) {
    let bytes = std::fs::read(repository().join("configs/demo/model/model.safetensors")).unwrap();
    (bytes.len(), checksum("model.safetensors", &bytes))
}

/// Lines about a download, as they come.
fn download_lines(said: &str) -> Vec<&str> {
    said.lines().take_while(|line| line.starts_with("downloading ") || line.starts_with("  ")).collect()
}

#[test]
fn two_ranks_need_no_more_than_a_name() {
    let hub = Hub::start();
    let said = finish(hub.command(Ranks::Mpi(2), &TYPED)).expect_code(0);
    assert_eq!(hub.fetched(), FILES, "each file once, and no other");
    let (_, weights) = weights();
    assert_eq!(hub.server.requests_for("GET", &format!("/{weights}")).len(), 1, "the weights once");

    // Rank 0 shows what is downloaded: one line a file, when it is whole.
    let lines = download_lines(&said.stdout).join("\n");
    let starts = lines.lines().filter(|line| line.starts_with("downloading ")).count();
    assert_eq!(lines.lines().count(), starts + FILES.len(), "{lines}");
    for line in [
        format!("downloading {LLAMA}: "),
        format!("downloading {METAMATH}: 1 file, 428.4 kB"),
        "  MetaMathQA-395K.json (1 of 1)  428.4 kB".to_owned(),
        "  config.json (1 of 4)  716 bytes".to_owned(),
        "  model.safetensors (1 of 1)  3.5 MB".to_owned(),
    ] {
        assert!(lines.contains(&line), "no {line:?} in\n{lines}");
    }
    assert!(!said.stdout.contains("waiting") && said.stderr.is_empty(), "{}{}", said.stdout, said.stderr);

    let name =
        "metamath_llama-3.1-8b_gpart_d4096_drop0.05_lr0.0002_bs2_ga8_ep2_seq2048_nosysprompt_seed42_4k";
    let output = hub.folder.path().join("directory/experiments/outputs").join(name);
    assert_eq!(metrics(&output).len(), 2);
    assert_eq!(read_json(&output.join("adapter_config.json"))["base_model_name_or_path"], LLAMA);
    assert_eq!(read_json(&output.join("run.json"))["rows"], 512);

    // From now on the hub is not needed.
    let requests = hub.server.requests().len();
    finish(hub.command(Ranks::Mpi(2), &TYPED)).expect_code(0).expect_text("this run was complete");
    let mut offline = hub.command(Ranks::Mpi(2), &TYPED);
    offline.args(["--output", "again"]).env("HF_HUB_OFFLINE", "1");
    finish(offline).expect_code(0);
    assert_eq!(hub.server.requests().len(), requests);
    assert_eq!(losses(&hub.folder.path().join("directory/again")), losses(&output));
}

#[test]
fn without_the_network_what_is_missing_is_named() {
    let hub = Hub::start();
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let mut command = hub.command(ranks, &TYPED);
        command.env("HF_HUB_OFFLINE", "1");
        let says = [LLAMA, "HF_HUB_OFFLINE", "hf download meta-llama/Llama-3.1-8B"];
        refused(&hub, "offline", 2, &says, command);
    }
    assert!(hub.server.requests().is_empty());
    // With the model alone, what is missing is the data.
    finish(training(&hub, Ranks::Alone, "Llama-3.1-8B", &hub.folder.path().join("out"))).expect_code(0);
    let mut command = hub.command(Ranks::Alone, &TYPED);
    command.env("HF_HUB_OFFLINE", "1");
    let says = [METAMATH, "hf download --repo-type dataset meta-math/MetaMathQA"];
    refused(&hub, "offline, without data", 2, &says, command);
}

#[test]
fn a_look_at_samples_fetches_no_weights() {
    let hub = Hub::start();
    let mut command = hub.command(Ranks::Alone, &TYPED);
    command.args(["--show-samples", "1"]);
    finish(command).expect_code(0).expect_text("row 1: ");
    let expected: Vec<&str> = FILES.into_iter().filter(|name| *name != "model.safetensors").collect();
    assert_eq!(hub.fetched(), expected);
}

/// What is wrong with the settings shows before the weights are fetched.
#[test]
fn no_weights_for_a_run_that_is_refused() {
    let cases: [(&[&str], &str); 3] = [
        (&["--d", "393217"], "393217"),
        (&["--target-modules", "c_attn"], "c_attn"),
        (&["--data", "/no/such.json"], "/no/such.json"),
    ];
    for (flags, says) in cases {
        let hub = Hub::start();
        let mut command =
            training(&hub, Ranks::Alone, "some/model", &hub.folder.path().join("directory/out"));
        command.args(flags);
        refused(&hub, says, 2, &[says], command);
        assert!(!hub.fetched().contains(&"model.safetensors".to_owned()), "{flags:?}");
    }
}

/// Runs a command that is to be refused: the exit code, one message, and nothing in its working directory.
#[track_caller]
fn refused(hub: &Hub, name: &str, code: i32, says: &[&str], command: Command) {
    let directory = hub.folder.path().join("directory");
    let before = snapshot(&directory);
    let outcome = finish(command);
    crate::harness::check_message(name, &outcome, code, says);
    assert!(
        !outcome.stderr.contains("secret"),
        "{name}: a token or a signature is shown\n{}",
        outcome.stderr
    );
    assert_eq!(before, snapshot(&directory), "{name}: files were written");
}

#[test]
fn a_download_that_breaks_goes_on_where_it_stopped() {
    let (length, weights) = weights();
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let hub = Hub::start();
        hub.server.fail(&weights, 1, Fault::CutAfter(1_500_000));
        let output = hub.folder.path().join("out");
        let said = finish(training(&hub, ranks, "some/model", &output)).expect_code(0);
        let ranges: Vec<Option<String>> =
            hub.server.requests_for("GET", &weights).into_iter().map(|request| request.range).collect();
        assert_eq!(ranges, [None, Some("bytes=1500000-".to_owned())], "{ranks:?}");
        let warnings: Vec<&str> =
            said.stderr.lines().filter(|line| line.starts_with("warning: the download")).collect();
        assert_eq!(warnings.len(), 1, "{ranks:?}: {}", said.stderr);
        for part in ["model.safetensors broke after 1500000", &length.to_string(), "trying again in"] {
            assert!(warnings[0].contains(part), "{}", warnings[0]);
        }
    }
}

#[test]
fn a_killed_download_goes_on_where_it_stopped() {
    let hub = Hub::start();
    let (_, weights) = weights();
    hub.server.fail(&weights, 1, Fault::StallAfter(2_000_000));
    let output = hub.folder.path().join("out");
    let mut running = Running::start(training(&hub, Ranks::Mpi(2), "some/model", &output));
    assert!(running.until(|| hub.arriving() == Some(2_000_000)));
    running.kill();
    assert!(!output.exists());
    finish(training(&hub, Ranks::Alone, "some/model", &output)).expect_code(0);
    let last = hub.server.requests_for("GET", &weights).pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=2000000-"));
}

/// A thing that can go wrong between here and the hub.
struct Refusal {
    name: &'static str,
    code: i32,
    says: &'static [&'static str],
    /// Spoils the hub or the environment.
    spoil: fn(&Hub, &mut Command),
}

fn answer(status: u16, headers: &[&str], body: &str) -> Fault {
    Fault::Answer(status, headers.iter().map(|header| (*header).to_owned()).collect(), body.to_owned())
}

#[test]
fn refusals_of_the_hub() {
    check_refusals(&[
        Refusal {
            name: "gated, no token",
            code: 2,
            says: &["some/model is gated", "https://huggingface.co/some/model", "HF_TOKEN", "licence"],
            spoil: |hub, _| hub.server.gate("some/model", "hf_right"),
        },
        Refusal {
            name: "gated, a token that is not on the list",
            code: 2,
            says: &["some/model is gated", "https://huggingface.co/some/model", "HF_TOKEN", "licence"],
            spoil: |hub, command| {
                hub.server.gate("some/model", "hf_right");
                command.env("HF_TOKEN", "hf_wrong_secret");
            },
        },
        Refusal {
            name: "401, a token that the hub does not know",
            code: 2,
            says: &["HF_TOKEN", "https://huggingface.co/settings/tokens"],
            spoil: |hub, command| {
                let body = r#"{"error": "Invalid credentials in Authorization header"}"#;
                hub.server.fail("/some/model", 99, answer(401, &[], body));
                command.env("HF_TOKEN", "hf_wrong_secret");
            },
        },
        Refusal {
            name: "401 without a token, as for a private model",
            code: 2,
            says: &["no model some/model", "private", "HF_TOKEN"],
            spoil: |hub, _| {
                let body = r#"{"error": "Invalid username or password."}"#;
                hub.server.fail("/some/model", 99, answer(401, &[], body));
            },
        },
        Refusal {
            name: "403",
            code: 2,
            says: &["refuses", "/some/model", "may read this repository"],
            spoil: |hub, _| {
                hub.server.fail("/some/model", 99, answer(403, &[], r#"{"error": "no permission"}"#));
            },
        },
        Refusal {
            name: "404",
            code: 2,
            says: &["no model no/such", "spelling"],
            spoil: |_, command| {
                command.args(["--model", "no/such"]);
            },
        },
        Refusal {
            name: "no such revision",
            code: 2,
            says: &["some/model", "v9", "branch, tag"],
            spoil: |_, command| {
                command.args(["--revision", "v9"]);
            },
        },
        Refusal {
            name: "an endpoint that is none",
            code: 2,
            says: &["HF_ENDPOINT", "nonsense"],
            spoil: |_, command| {
                command.env("HF_ENDPOINT", "nonsense");
            },
        },
    ]);
}

#[test]
fn failures_of_the_hub() {
    check_refusals(&[
        Refusal {
            name: "500 again and again",
            code: 1,
            says: &["/some/model", "answered 500", "5 attempts", "out of order"],
            spoil: |hub, _| {
                let body = r#"{"error": "out of order"}"#;
                hub.server.fail("/some/model", 99, answer(500, &["Retry-After: 0"], body));
            },
        },
        Refusal {
            name: "a login page in place of the list",
            code: 1,
            says: &["/api/models/some/model", "not the JSON", "HF_ENDPOINT"],
            spoil: |hub, _| {
                let page = answer(200, &["Content-Type: text/html"], "<html>Please log in</html>");
                hub.server.fail("/api/models/some/model", 99, page);
            },
        },
        Refusal {
            name: "other bytes than the hub has",
            code: 1,
            says: &["model.safetensors", "checksum", "removed"],
            spoil: |hub, _| hub.server.fail(&weights().1, 99, Fault::Corrupt),
        },
        Refusal {
            name: "a file name that leads out of the cache",
            code: 1,
            says: &["some/model", "../../evil.safetensors", "not a plain path"],
            spoil: |hub, _| {
                let index = r#"{"weight_map": {"lm_head.weight": "../../evil.safetensors"}}"#;
                let names = ["config.json", "tokenizer.json", "tokenizer_config.json"];
                let model = repository().join("configs/demo/model");
                let contents = names.map(|name| std::fs::read(model.join(name)).unwrap());
                let mut files: Vec<(&str, &[u8])> =
                    names.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
                files.push(("model.safetensors.index.json", index.as_bytes()));
                hub.server.put_model("some/model", &files);
            },
        },
    ]);
}

/// Each with a hub of its own, every third on two ranks: under `mpirun` a failure takes seconds.
fn check_refusals(cases: &[Refusal]) {
    for (number, case) in cases.iter().enumerate() {
        let ranks = if number % 3 == 0 { Ranks::Mpi(2) } else { Ranks::Alone };
        let hub = Hub::start();
        let output = hub.folder.path().join("directory/out");
        let mut command = training(&hub, ranks, "some/model", &output);
        (case.spoil)(&hub, &mut command);
        let name = format!("{} on {ranks:?}", case.name);
        refused(&hub, &name, case.code, case.says, command);
    }
}

#[test]
fn a_cache_without_space_is_met_before_the_download() {
    let hub = Hub::start();
    let Some(disk) = Mount::tmpfs(hub.home(), 2048) else { return };
    let output = hub.folder.path().join("directory/out");
    let train = |ranks| training(&hub, ranks, "some/model", &output);
    for ranks in [Ranks::Alone, Ranks::Mpi(2)] {
        let says = ["not enough space", disk.folder.to_str().unwrap(), "HF_HOME"];
        refused(&hub, &format!("no space, {ranks:?}"), 1, &says, train(ranks));
    }
    assert!(hub.server.requests_for("GET", &weights().1).is_empty(), "space is looked for first");
    disk.remount("size=16m");
    finish(train(Ranks::Alone)).expect_code(0);
    assert_eq!(hub.fetched().iter().collect::<BTreeSet<_>>().len(), hub.fetched().len(), "once each");
}

/// Whether no file under a folder, nor any name, has this text.
fn no_secret_in(folder: &Path, secret: &str) -> bool {
    let has = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
    let mut waiting: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if has(path.as_os_str().as_encoded_bytes()) {
                return false;
            }
            match path.is_dir() {
                true => waiting.push(path),
                false if has(&std::fs::read(&path).unwrap_or_default()) => return false,
                false => {}
            }
        }
    }
    true
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    // Long and of one letter, so that its parts are found too: in a dump of bytes, say.
    let token = format!("hf_{}", "Z".repeat(80));
    let hub = Hub::start();
    hub.server.gate("some/model", &token);
    let output = hub.folder.path().join("directory/out");
    let mut command = training(&hub, Ranks::Mpi(2), "some/model", &output);
    command.args(["--log-level", "trace"]).env("HF_TOKEN", &token);
    let said = finish(command).expect_code(0);
    for request in hub.server.requests() {
        let expected = (!request.is_store).then(|| format!("Bearer {token}"));
        assert_eq!(request.authorization, expected, "{request:?}");
    }
    assert!(hub.server.requests().iter().any(|request| request.is_store));
    // An address that the server signed is a secret too.
    for secret in ["ZZZZZZZZ", "Signature=secret"] {
        assert!(!said.stdout.contains(secret) && !said.stderr.contains(secret), "{secret} was printed");
        assert!(no_secret_in(hub.folder.path(), secret), "{secret} is in a file");
    }
}

#[test]
fn of_two_processes_one_downloads_and_one_waits() {
    let hub = Hub::start();
    hub.server.fail(&weights().1, 1, Fault::Slow(Duration::from_millis(600)));
    let [a, b] = ["a", "b"].map(|name| hub.folder.path().join(name));
    let mut first = Running::start(training(&hub, Ranks::Alone, "some/model", &a));
    assert!(first.until(|| !hub.server.requests_for("GET", &weights().1).is_empty()));
    let second = finish(training(&hub, Ranks::Alone, "some/model", &b)).expect_code(0);
    let first = first.finish().expect_code(0);
    assert!(!first.stdout.contains("waiting"), "{}", first.stdout);
    second.expect_text("waiting for another process that downloads some/model");
    let fetched = hub.fetched();
    assert_eq!(fetched.iter().collect::<BTreeSet<_>>().len(), fetched.len(), "{fetched:?}");
    assert_eq!(losses(&a), losses(&b));
}
