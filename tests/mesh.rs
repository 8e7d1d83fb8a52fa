//! The same bits on any mesh: θ after every step beside a single rank's, for every family, on real ranks.
//!
//! The normal set covers every pair of model, mesh, partition, dropout and recompute; `--full` runs all combinations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    Ranks, Running, command, lines_so_far, losses, metrics, read_json, repository, scratch, thetas,
    traffic_as_planned,
};

/// dp-replicate, dp-shard, pp.
type Mesh = [usize; 3];

/// For models of three blocks and more.
const SHALLOW: [Mesh; 9] =
    [[2, 1, 1], [3, 1, 1], [1, 2, 1], [1, 3, 1], [1, 4, 1], [1, 1, 2], [2, 2, 1], [2, 1, 2], [1, 2, 2]];

/// For the demo model alone.
const DEEP: [Mesh; 3] = [[1, 1, 3], [1, 1, 4], [2, 2, 2]];

/// How a model is trained, whatever the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Method {
    backend: &'static str,
    dropout: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    mesh: Mesh,
    method: Method,
    recompute: bool,
}

const METHODS: [Method; 4] = [
    Method { backend: "stateless", dropout: "0.05" },
    Method { backend: "materialized", dropout: "0" },
    Method { backend: "stateless", dropout: "0" },
    Method { backend: "materialized", dropout: "0.05" },
];

/// One case a mesh; `turn` makes models take different ones.
fn pairwise(meshes: &[Mesh], turn: usize) -> Vec<Case> {
    let case = |(at, mesh): (usize, &Mesh)| {
        let number = at + turn;
        Case { mesh: *mesh, method: METHODS[number % 4], recompute: (number / 2) % 2 == 1 }
    };
    meshes.iter().enumerate().map(case).collect()
}

fn every(meshes: &[Mesh]) -> Vec<Case> {
    let of = |mesh: &Mesh| {
        let mesh = *mesh;
        METHODS
            .into_iter()
            .flat_map(move |method| [false, true].map(|recompute| Case { mesh, method, recompute }))
    };
    meshes.iter().flat_map(of).collect()
}

fn demo_meshes() -> Vec<Mesh> {
    SHALLOW.iter().chain(&DEEP).copied().collect()
}

/// What a model is trained on.
struct Model {
    folder: PathBuf,
    data: PathBuf,
    d: &'static str,
}

fn demo() -> Model {
    let demo = repository().join("configs/demo");
    Model { folder: demo.join("model"), data: demo.join("train.json"), d: "2048" }
}

fn family(name: &str) -> Model {
    let root = repository().join("tests/golden/architectures");
    Model { folder: root.join(name).join("base"), data: root.join("train.json"), d: "1000" }
}

/// Three steps of three, three and one micro-batches, the last of one row: never what the ranks divide, and fewer than
/// the pipelines of the larger meshes.
fn training(model: &Model, method: Method, ranks: Ranks, output: &Path, more: &[&str]) -> Command {
    let (folder, data) = (model.folder.to_str().unwrap(), model.data.to_str().unwrap());
    let output_text = output.to_str().unwrap();
    let mut args =
        vec!["metamath", "--model", folder, "--data", data, "--output", output_text, "--d", model.d];
    args.extend(["--max-samples", "13", "--max-seq-length", "80", "--micro-batch-size", "2"]);
    args.extend([
        "--accumulation-steps",
        "3",
        "--epochs",
        "1",
        "--learning-rate",
        "2e-2",
        "--warmup-ratio",
        "0",
    ]);
    args.extend(["--assignment-backend", method.backend, "--dropout", method.dropout]);
    args.extend(more);
    command(ranks, &args)
}

fn train(model: &Model, method: Method, ranks: Ranks, output: &Path, more: &[&str]) {
    Running::start(training(model, method, ranks, output, more)).finish().expect_code(0);
}

fn same_bits(model: &Model, cases: &[Case]) {
    let folder = scratch();
    let mut alone: BTreeMap<Method, (Vec<String>, Vec<f64>)> = BTreeMap::new();
    for Case { method, .. } in cases {
        alone.entry(*method).or_insert_with(|| {
            let output = folder.path().join(format!("{}-{}", method.backend, method.dropout));
            train(model, *method, Ranks::Alone, &output, &["--epochs", "1"]);
            (thetas(&output), losses(&output))
        });
    }
    for (number, case) in cases.iter().enumerate() {
        let [replicate, shard, pp] = case.mesh.map(|degree| degree.to_string());
        let output = folder.path().join(number.to_string());
        let mut more = vec!["--dp-replicate", &replicate, "--dp-shard", &shard, "--pp", &pp, "--epochs", "1"];
        if case.recompute {
            more.push("--gradient-checkpointing");
        }
        train(model, case.method, Ranks::Mpi(case.mesh.iter().product()), &output, &more);
        let (expected, expected_losses) = &alone[&case.method];
        assert_eq!(expected.iter().collect::<BTreeSet<_>>().len(), 3, "every step moves θ");
        assert_eq!(thetas(&output), *expected, "{case:?}");
        assert_eq!(losses(&output), *expected_losses, "{case:?}");
        assert_traffic_as_planned(&output, case);
    }
}

/// Every rank moved what the plan's formulas say, to the byte: weights along dp-shard, activations along pp, and of θ's
/// gradient the integers and the flag.
fn assert_traffic_as_planned(output: &Path, case: &Case) {
    let run = traffic_as_planned(output);
    let ranks = run["traffic"]["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), case.mesh.iter().product::<usize>(), "{case:?}");
    assert_eq!(run["peak_memory_bytes"].as_array().unwrap().len(), ranks.len());
    for rank in ranks {
        let planned = rank["planned"].as_array().unwrap();
        let moves = |axis: &str| planned.iter().any(|line| line["axis"] == axis && line["bytes"] != 0);
        assert_eq!(moves("dp-shard"), case.mesh[1] > 1, "{case:?}");
    }
    // Three steps of d integers and a flag, whatever the model.
    let d = run["config"]["d"].as_u64().unwrap();
    assert_eq!(ranks[0]["planned"][0]["bytes"].as_u64().unwrap(), 3 * 8 * (d + 1), "{case:?}");
}

const FAMILIES: [&str; 4] = ["llama31", "qwen2", "gemma", "mistral"];

#[test]
fn the_demo_model() {
    same_bits(&demo(), &pairwise(&demo_meshes(), 0));
}

#[test]
fn a_llama_31() {
    same_bits(&family("llama31"), &pairwise(&SHALLOW, 1));
}

#[test]
fn a_qwen2() {
    same_bits(&family("qwen2"), &pairwise(&SHALLOW, 2));
}

#[test]
fn a_gemma() {
    same_bits(&family("gemma"), &pairwise(&SHALLOW, 3));
}

#[test]
fn a_mistral() {
    same_bits(&family("mistral"), &pairwise(&SHALLOW, 4));
}

#[test]
#[ignore = "takes minutes: 96 runs"]
fn every_combination_of_the_demo_model() {
    same_bits(&demo(), &every(&demo_meshes()));
}

#[test]
#[ignore = "takes minutes: 288 runs"]
fn every_combination_of_every_family() {
    for name in FAMILIES {
        same_bits(&family(name), &every(&SHALLOW));
    }
}

/// The runs of the normal set have every pair of values of any two settings.
#[test]
fn the_normal_set_covers_every_pair() {
    let mut seen = BTreeSet::new();
    let mut expected = BTreeSet::new();
    let mut models: Vec<(usize, Vec<Mesh>)> = vec![(0, demo_meshes())];
    models.extend((1..=FAMILIES.len()).map(|turn| (turn, SHALLOW.to_vec())));
    let values = |turn: usize, case: &Case| {
        [
            format!("model {turn}"),
            format!("mesh {:?}", case.mesh),
            case.method.backend.to_owned(),
            format!("dropout {}", case.method.dropout),
            format!("recompute {}", case.recompute),
        ]
    };
    let pairs = |values: &[String; 5]| -> Vec<(String, String)> {
        let pair = |a: usize, b: usize| (values[a].clone(), values[b].clone());
        (0..5).flat_map(|a| (a + 1..5).map(move |b| (a, b))).map(|(a, b)| pair(a, b)).collect()
    };
    for (turn, meshes) in &models {
        seen.extend(pairwise(meshes, *turn).iter().flat_map(|case| pairs(&values(*turn, case))));
        expected.extend(every(meshes).iter().flat_map(|case| pairs(&values(*turn, case))));
    }
    // Meshes that one model alone has cannot meet every method in one run each.
    let deep = |pair: &&(String, String)| DEEP.iter().any(|mesh| pair.0 == format!("mesh {mesh:?}"));
    let missing: Vec<_> = expected.difference(&seen).filter(|pair| !deep(pair)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A run that is killed and goes on along another axis, and then alone, ends where one rank ends.
#[test]
fn a_run_goes_on_on_another_mesh() {
    let (model, method) = (demo(), METHODS[0]);
    let folder = scratch();
    let (alone, moved) = (folder.path().join("alone"), folder.path().join("moved"));
    let steps = ["--epochs", "8", "--save-steps", "1"];
    train(&model, method, Ranks::Alone, &alone, &steps);
    for (ranks, mesh, at_least) in [(2, ["--dp-shard", "2"], 3), (3, ["--pp", "3"], 8)] {
        let more = [&steps[..], &mesh].concat();
        let mut running = Running::start(training(&model, method, Ranks::Mpi(ranks), &moved, &more));
        assert!(running.until(|| lines_so_far(&moved) >= at_least), "it was to be killed before its end");
        running.kill();
    }
    train(&model, method, Ranks::Alone, &moved, &steps);
    assert_eq!(metrics(&moved).len(), 24);
    assert_eq!(thetas(&moved), thetas(&alone));
}

/// Held-out loss and samples go through the same stages.
#[test]
fn held_out_loss_and_samples_are_the_same() {
    let folder = scratch();
    let held_out = repository().join("configs/demo/heldout.json");
    let more = [
        "--eval-data",
        held_out.to_str().unwrap(),
        "--eval-batch-size",
        "7",
        "--sample-prompt",
        "Question: 2 + 2",
        "--sample-tokens",
        "9",
    ];
    let run = |name: &str, ranks: Ranks, mesh: &[&str]| {
        let output = folder.path().join(name);
        let (model, data) = (demo().folder, demo().data);
        let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
        let mut args = vec!["metamath", "--model", model, "--data", data, "--d", "2048", "--max-steps", "2"];
        args.extend(["--max-samples", "12", "--accumulation-steps", "3", "--warmup-ratio", "0"]);
        args.extend(["--learning-rate", "2e-2", "--output", output.to_str().unwrap(), "--progress", "plain"]);
        args.extend(more.iter().chain(mesh));
        let outcome = Running::start(command(ranks, &args)).finish().expect_code(0);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        let samples = said.lines().filter(|line| line.contains("2 + 2")).map(str::to_owned);
        let losses = std::fs::read_to_string(output.join("held_out.jsonl")).unwrap();
        (losses, samples.collect::<Vec<String>>())
    };
    let alone = run("alone", Ranks::Alone, &[]);
    assert_eq!(alone.0.lines().count(), 2, "before and after");
    assert!(!alone.1.is_empty(), "the sample is shown");
    assert_eq!(run("sharded", Ranks::Mpi(3), &["--dp-shard", "3"]), alone);
    assert_eq!(run("pipelined", Ranks::Mpi(3), &["--pp", "3"]), alone);
    assert_eq!(run("both", Ranks::Mpi(4), &["--pp", "2", "--dp-shard", "2"]), alone);
}

/// Half precision keeps its rounding, and no prefetch changes nothing.
#[test]
fn half_precision() {
    let folder = scratch();
    let (model, method) = (demo(), METHODS[0]);
    for dtype in ["bfloat16", "float16"] {
        let alone = folder.path().join(dtype);
        train(&model, method, Ranks::Alone, &alone, &["--epochs", "1", "--dtype", dtype]);
        for (ranks, mesh) in [
            (3, &["--dp-shard", "3", "--gradient-checkpointing"][..]),
            (2, &["--dp-shard", "2", "--prefetch", "false"]),
            (4, &["--pp", "2", "--dp-shard", "2"]),
        ] {
            let output = folder.path().join(format!("{dtype}-{}", mesh.join("")));
            let more = [&["--epochs", "1", "--dtype", dtype], mesh].concat();
            train(&model, method, Ranks::Mpi(ranks), &output, &more);
            assert_eq!(thetas(&output), thetas(&alone), "{dtype} {mesh:?}");
        }
    }
}

/// A vocabulary of several tiles: the head is gathered one after the other, the embedding's rows come from all.
#[test]
fn a_large_vocabulary() {
    let folder = scratch();
    let model = Model { folder: large_vocabulary(folder.path()), ..demo() };
    let meshes = [[1, 2, 1], [1, 3, 1], [1, 1, 2], [1, 2, 2]];
    same_bits(&model, &pairwise(&meshes, 0));
}

/// Makes a model whose head and embedding have several tiles.
pub fn large_vocabulary(folder: &Path) -> PathBuf {
    let shape = folder.join("config.json");
    let mut config = read_json(&repository().join("configs/demo/model/config.json"));
    config["vocab_size"] = 40_000.into();
    config["hidden_size"] = 48.into();
    config["num_attention_heads"] = 3.into();
    config["num_key_value_heads"] = 1.into();
    config["head_dim"] = 16.into();
    std::fs::write(&shape, config.to_string()).unwrap();
    let (shape, made) = (shape.to_str().unwrap(), folder.join("model"));
    let args = [
        "random-model",
        "--config",
        shape,
        "--tokenizer",
        "configs/demo/model",
        "--output",
        made.to_str().unwrap(),
    ];
    Running::start(command(Ranks::Alone, &args)).finish().expect_code(0);
    made
}
