//! Files of `bench step`: what a plan takes from them, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Llama-3.1-8B in steps of 8 micro-batches of 4,096 tokens; no machine was measured.
fn file() -> Value {
    let variant = |name: &str, dropout: f64, deterministic: bool, recompute: bool, seconds: f64| {
        json!({
            "name": name, "dropout": dropout, "deterministic": deterministic, "recompute": recompute, "packing": false,
            "step_seconds": seconds, "tokens_per_second": 32_768.0 / seconds, "model_tflops": 400.0,
            "hardware_tflops": 420.0, "ceiling_share": 0.6, "peak_bytes": 41_000_000_000_u64,
            "parts": {"forward": 0.4, "backward": 0.7, "apply": 0.04, "reduce": 0.03, "update": 0.01, "other": 0.0},
        })
    };
    json!({
        "format": "gpart-dist bench step 1", "device": "NVIDIA H200", "model": "Llama-3.1-8B",
        "shape": {"parameters": 8_030_261_248_u64, "adapted": 1_342_177_280, "hidden": 4096, "layers": 32},
        "dtype": "bfloat16", "micro_batch_tokens": 4096, "micro_batches": 8, "ceiling_tflops": null,
        "variants": [
            variant("default", 0.05, true, false, 1.25),
            variant("no dropout", 0.0, true, false, 1.21),
            variant("recompute", 0.05, true, true, 1.6),
        ],
        "a later key": {"is": "ignored"},
    })
}

fn parse(text: &str) -> Result<Measurement, PlanError> {
    Measurement::parse("step.json", text)
}

/// A run like the one of the file, on so many ranks.
fn planned(file: &Value, ranks: Ranks) -> Facts {
    let mut facts = facts(model(LLAMA_8B, ATTENTION));
    facts.data = Data { rows: Some(395_000), mean_tokens: Some(2048.0), ..facts.data };
    facts.training = Training { dtype: Dtype::Bfloat16, ..facts.training };
    facts.host.is_gpu = true;
    facts.ranks = Ranks { on_device: 1, ..ranks };
    facts.speed = Some(Speed::Measured(parse(&file.to_string()).unwrap()));
    facts
}

fn near(value: f64, expected: f64) {
    assert!((value / expected - 1.0).abs() < 1e-9, "{value}, expected {expected}");
}

#[test]
fn one_rank_takes_what_was_measured() {
    let facts = planned(&file(), ranks(1));
    let one = plan(&facts);
    near(one.timing.step_seconds, 1.25);
    near(one.work.step_seconds.unwrap(), 1.25);
    near(one.timing.once_seconds, 0.01);
    // A token: 4 operations for each weight of the blocks and the head, 2 more for the adapted ones; attention.
    let blocks = 32.0 * (41_943_040.0 + 176_160_768.0);
    let token = 4.0 * (525_336_576.0 + blocks) + 2.0 * 1_342_177_280.0 + 32.0 * 6.0 * 2048.0 * 4096.0;
    near(one.timing.operations_per_second, 32_768.0 * token / 1.24);
    assert!(!one.timing.speed_is_assumed);
    assert!(one.warnings.is_empty(), "{:?}", one.warnings);
    let measured = one.measured.as_ref().unwrap();
    assert_eq!((measured.device.as_str(), measured.variant.as_str()), ("NVIDIA H200", "default"));
    assert!(text(&one).contains("measured on NVIDIA H200 (default)"), "{}", text(&one));
    near(one.scaling.tokens_per_second.unwrap(), 32_768.0 / 1.25);
}

#[test]
fn eight_ranks_of_a_host_and_64_of_eight() {
    let links = |facts: Facts| Facts {
        local_link: Link { gbps: Some(3600.0), ms: Some(0.005) },
        link: Link { gbps: Some(400.0), ms: Some(0.02) },
        ..facts
    };
    let eight = plan(&links(planned(&file(), ranks(8))));
    // θ's gradient: 524,289 integers of 8 bytes at 450 GB/s; a gather of 7 blocks of 128 bytes.
    let all_reduce = 1.75 * 4_194_312.0 / 450e9 + 14.0 * 5e-6;
    let gathers = 4.0 * (7.0 * 128.0 / 450e9 + 3.0 * 5e-6);
    near(eight.timing.step_seconds, 1.24 / 8.0 + 0.01 + all_reduce + gathers);
    near(eight.scaling.efficiency.unwrap(), 1.25 / (8.0 * eight.timing.step_seconds));
    assert_eq!(eight.work.step_seconds, Some(eight.timing.step_seconds));

    let mut facts = links(planned(&file(), Ranks { on_host: 8, ..ranks(64) }));
    facts.training.accumulation = 64;
    let hosts = plan(&facts);
    let all_reduce = 2.0 * 63.0 / 64.0 * 4_194_312.0 / 50e9 + 2.0 * (8.0 * 20e-6 + 55.0 * 5e-6);
    let gathers = 4.0 * (63.0 * 128.0 / 50e9 + 3.0 * 20e-6 + 3.0 * 5e-6);
    near(hosts.timing.step_seconds, 1.24 / 8.0 + 0.01 + all_reduce + gathers);
    // One rank does 64 micro-batches in eight times the time, but for the update.
    near(hosts.scaling.one_rank_step_seconds.unwrap(), 1.24 * 8.0 + 0.01);
    near(hosts.scaling.efficiency.unwrap(), 9.93 / (64.0 * hosts.timing.step_seconds));
}

#[test]
fn the_variant_is_that_of_the_run() {
    let variant = |change: &dyn Fn(&mut Training)| {
        let mut facts = planned(&file(), ranks(1));
        change(&mut facts.training);
        let plan = plan(&facts);
        let name = plan.measured.as_ref().unwrap().variant.clone();
        let otherwise = plan.warnings.iter().find(|warning| warning.code == "measured_otherwise");
        (name, plan.timing, otherwise.map(|warning| warning.reason.clone()))
    };
    let (name, timing, otherwise) = variant(&|training| training.dropout = 0.0);
    // Without dropout ΔW is written once a step, on one rank and on many.
    assert_eq!((name.as_str(), otherwise), ("no dropout", None));
    near(timing.once_seconds, 0.05);
    near(timing.step_seconds, 1.21);
    let (name, timing, otherwise) = variant(&|training| training.recompute = true);
    assert_eq!((name.as_str(), otherwise), ("recompute", None));
    near(timing.step_seconds, 1.6);
    let (name, _, otherwise) =
        variant(&|training| (training.deterministic, training.recompute) = (false, true));
    assert_eq!(name, "default");
    let otherwise = otherwise.unwrap();
    for part in ["with --deterministic true", "without --gradient-checkpointing", "3 variants", "\"default\""]
    {
        assert!(otherwise.contains(part), "{otherwise} lacks {part}");
    }
    // Packed rows are measured for packed rows.
    let mut packed = file();
    packed["variants"][0]["packing"] = json!(true);
    packed["variants"][2]["recompute"] = json!(false);
    assert_eq!(plan(&planned(&packed, ranks(1))).measured.unwrap().variant, "recompute");
    let mut facts = planned(&packed, ranks(1));
    facts.training.packing = true;
    assert_eq!(plan(&facts).measured.unwrap().variant, "default");
    // Stages write their own part of ΔW.
    let mut stages = planned(&file(), mesh(1, 1, 2));
    stages.training.dropout = 0.0;
    let once = plan(&stages).timing.once_seconds;
    assert!((0.03..0.04).contains(&once), "{once}");
}

#[test]
fn what_was_otherwise_is_said() {
    let reason = |facts: &Facts, code: &str| {
        let plan = plan(facts);
        let found = plan.warnings.iter().find(|warning| warning.code == code);
        found.map(|warning| warning.reason.clone()).unwrap_or_else(|| panic!("{code}: {:?}", plan.warnings))
    };
    let same = planned(&file(), ranks(1));
    let mut facts = same.clone();
    facts.training.dtype = Dtype::Float32;
    assert!(reason(&facts, "measured_otherwise").contains("in bfloat16 and not float32"));
    facts = same.clone();
    facts.host.is_gpu = false;
    assert!(reason(&facts, "measured_otherwise").contains("on NVIDIA H200 and not a CPU"));
    facts = same.clone();
    facts.host.gpu = Some("NVIDIA A100".to_owned());
    assert!(reason(&facts, "measured_otherwise").contains("on NVIDIA H200 and not NVIDIA A100"));
    facts.host.gpu = Some("NVIDIA H200".to_owned());
    assert!(!codes(&plan(&facts)).contains(&"measured_otherwise"));
    let mut on_cpu = file();
    on_cpu["device"] = json!("cpu, 2 threads");
    facts = planned(&on_cpu, ranks(1));
    assert!(reason(&facts, "measured_otherwise").contains("and not a GPU"));
    facts.host.is_gpu = false;
    assert!(!codes(&plan(&facts)).contains(&"measured_otherwise"));
    facts = same.clone();
    facts.data.mean_tokens = Some(200.0);
    assert!(reason(&facts, "measured_micro_batch").contains("4,096 tokens, and those of this run have 400"));

    // A model of another shape has the operations a second of the file, and its own operations.
    facts = Facts { model: model(QWEN_HALF_B, ATTENTION), ..same };
    let other = reason(&facts, "measured_shape");
    assert!(other.contains("Llama-3.1-8B (8,030,261,248 weights in 32 blocks of 4096"), "{other}");
    let plan = plan(&facts);
    near(plan.timing.operations_per_second, 400e12 * 1.25 / 1.24);
    assert!(!plan.measured.unwrap().same_shape);
}

#[test]
fn what_is_no_measurement_is_refused() {
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut file = file();
        change(&mut file);
        file.to_string()
    };
    let of = |pointer: &'static str, value: Value| {
        changed(&move |file| *file.pointer_mut(pointer).unwrap() = value.clone())
    };
    let cases = [
        (String::new(), "EOF"),
        ("not JSON".to_owned(), "line 1"),
        ("[1, 2]".to_owned(), "it has no \"format\""),
        ("{\"format\": 1}".to_owned(), "it has no \"format\""),
        (of("/format", json!("gpart-dist bench step 2")), "its format is \"gpart-dist bench step 2\""),
        (of("/format", json!("\u{1b}[31mbench")), "its format is \"[31mbench\""),
        (of("/variants", json!([])), "it has no variant"),
        (of("/variants", json!({})), "invalid type"),
        (of("/device", json!(null)), "invalid type"),
        (of("/shape/adapted", json!(-5)), "-5"),
        (of("/micro_batch_tokens", json!(0)), "micro_batch_tokens is 0"),
        (of("/variants/1/step_seconds", json!(-1.0)), "step_seconds of \"no dropout\" is -1"),
        (of("/variants/0/tokens_per_second", json!(0)), "tokens_per_second of \"default\" is 0"),
        (of("/variants/0/model_tflops", json!(-400)), "model_tflops of \"default\" is -400"),
        (of("/variants/0/dropout", json!(-0.1)), "dropout of \"default\" is -0.1"),
        (of("/variants/0/parts/update", json!(-1)), "parts.update of \"default\" is -1"),
        (
            of("/variants/0/parts/update", json!(2)),
            "apply and update of \"default\" are 2.04 s of a step of 1.25 s",
        ),
        (of("/variants/0/step_seconds", json!("fast")), "invalid type"),
        (changed(&|file| drop(file["variants"][0].as_object_mut().unwrap().remove("parts"))), "`parts`"),
        (file().to_string().replace("1.25", "NaN"), "line 1"),
        (file().to_string().replace("1.25", "1e999"), "number out of range"),
    ];
    for (text, says) in cases {
        let error = parse(&text).expect_err(says);
        let message = error.to_string();
        assert!(
            message.starts_with("the measurement step.json cannot be used: ") && message.contains(says),
            "{message}"
        );
        assert_eq!(miette::Diagnostic::code(&error).unwrap().to_string(), "input::measurement");
        assert!(miette::Diagnostic::help(&error).unwrap().to_string().contains("bench step --json"));
    }
    let long = parse(&of("/model", json!("x".repeat(1000)))).unwrap();
    assert_eq!(long.model.len(), 40);
}

proptest! {
    /// Whatever becomes of a file, it is refused or planned with.
    #[test]
    fn no_file_panics(cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), end: prop::sample::Index) {
        let mut text = file().to_string().into_bytes();
        for (at, byte) in cuts {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text.truncate(if end.index(4) == 0 { end.index(text.len()) } else { text.len() });
        if let Ok(measurement) = parse(&String::from_utf8_lossy(&text)) {
            let facts = planned(&file(), ranks(8));
            let plan = plan(&Facts { speed: Some(Speed::Measured(measurement)), ..facts });
            prop_assert!(plan.timing.step_seconds > 0.0);
        }
    }
}
