//! `bench step` on the CPU: what it prints, what `plan --measured` makes of it, its trace, and what it refuses.

use serde_json::Value;

use crate::harness::{Outcome, Ranks, Running, check_message, command, repository, scratch};

/// `bench step` of the demo model's shape with few tokens.
fn bench_step(more: &[&str]) -> Outcome {
    let model = repository().join("configs/demo/model");
    let short = ["bench", "step", "--model", model.to_str().unwrap(), "--device", "cpu", "--repeats", "2"];
    Running::patiently(command(Ranks::Alone, &[&short, more].concat())).finish()
}

const SMALL: [&str; 4] = ["--length", "32", "--d", "4096"];

fn parsed(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
}

#[test]
fn every_variant_is_measured_and_a_plan_reads_it() {
    let folder = scratch();
    let trace = folder.path().join("trace.json");
    let more = ["--packing", "false,true", "--json", "--profile", trace.to_str().unwrap()];
    let found = parsed(&bench_step(&[&SMALL, &more[..]].concat()).expect_code(0));
    let variants = found["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 4, "two dropouts, padded and packed");
    for variant in variants {
        let number = |name: &str| variant[name].as_f64().unwrap_or_else(|| panic!("{name}: {variant:#}"));
        let tokens = 2.0 * 32.0;
        assert!((number("tokens_per_second") * number("step_seconds") / tokens - 1.0).abs() < 1e-6);
        assert!(number("model_tflops") > 0.0 && number("peak_bytes") > 1e6);
        // Without padding packing is another order of additions alone.
        let padded = variants[0]["loss"].as_f64().unwrap();
        assert!((number("loss") - padded).abs() < 1e-2, "{} and {padded}", number("loss"));
        let parts = variant["parts"].as_object().unwrap();
        assert_eq!(parts.len(), 7);
        assert!(parts.values().all(|seconds| seconds.as_f64().unwrap() > 0.0), "{parts:?}");
    }
    let trace = std::fs::read_to_string(&trace).unwrap();
    assert!(serde_json::from_str::<Value>(&trace).is_ok(), "a trace is JSON");
    for part in ["step 1", "backward", "reduce", "aten::mm"] {
        assert!(trace.contains(&format!("\"{part}\"")), "no {part} in the trace");
    }
    let file = folder.path().join("measured.json");
    std::fs::write(&file, found.to_string()).unwrap();
    let model = repository().join("configs/demo/model");
    let plan =
        ["plan", "metamath", "--model", model.to_str().unwrap(), "--d", "4096", "--ranks", "8", "--json"];
    let measured = ["--measured", file.to_str().unwrap(), "--rows", "1000", "--mean-tokens", "32"];
    let planned = command(Ranks::Alone, &[&plan[..], &measured[..]].concat());
    let planned = parsed(&Running::start(planned).finish().expect_code(0));
    assert!(planned["timing"]["step_seconds"].as_f64().unwrap() > 0.0, "{planned:#}");
    assert_eq!(planned["timing"]["speed_is_assumed"], false);
}

#[test]
fn the_table_has_the_same_and_peers_that_fail_are_named() {
    let text = bench_step(&[&SMALL, &["--dropout", "0"][..]].concat()).expect_code(0).stdout;
    for part in ["operations a token", "fastest matrix product", "dropout 0, deterministic", "backward"] {
        assert!(text.contains(part), "no {part}: {text}");
    }
    let outcome = bench_step(&[&SMALL, &["--peers", "/no/such/python"][..]].concat());
    check_message("peers", &outcome, 2, &["the peers could not be timed", "/no/such/python", "hint:"]);
}

#[test]
fn less_memory_and_the_lengths_of_rows() {
    let data = repository().join("configs/demo/train.json");
    let tokenizer = repository().join("configs/demo/model");
    let rows = ["--data", data.to_str().unwrap(), "--tokenizer", tokenizer.to_str().unwrap()];
    let more =
        ["--d", "4096", "--dropout", "0", "--gradient-checkpointing", "--packing", "true,false", "--json"];
    let found = parsed(&bench_step(&[&rows[..], &more[..]].concat()).expect_code(0));
    let variants = found["variants"].as_array().unwrap();
    assert_eq!(variants[0]["recomputed_share"], 1.0);
    let positions = |variant: &Value| variant["positions"].as_u64().unwrap();
    assert!(positions(&variants[0]) < positions(&variants[1]), "rows of a file differ in length");
}

#[test]
fn bad_input() {
    // Of what the command line itself refuses.
    for (flags, part) in [
        (&["--length", "0"][..], "at least 1"),
        (&["--dropout", "1"], "below 1"),
        (&["--data", "rows.jsonl"], "--tokenizer"),
        (&["--activation-memory=-1"], "at least 0"),
    ] {
        let outcome = bench_step(flags).expect_code(2);
        assert!(outcome.stderr.contains(part), "{flags:?}: {}", outcome.stderr);
    }
    for (flags, parts) in [
        (&["--target-modules", "no_such"][..], &["no_such"][..]),
        (&["--micro-batch-size", "2000000000", "--accumulation-steps", "2000000000"], &["rows", "too large"]),
        (&["--profile", "/no/such/folder/trace.json", "--length", "8", "--d", "16"], &["/no/such/folder"]),
    ] {
        check_message(&flags.join(" "), &bench_step(flags), 2, parts);
    }
    let unknown = command(Ranks::Alone, &["bench", "step", "--model", "Llama-9-1T", "--device", "cpu"]);
    check_message("unknown", &Running::start(unknown).finish(), 2, &["Llama-9-1T", "Llama-3.1-8B"]);
}
