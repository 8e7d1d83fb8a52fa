//! Against files that the official implementation wrote (CPU, float32): logits, loss, gradient of θ.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Adapter, Selection};
use data::MicroBatch;
use model::{CheckpointFiles, Decoder, DecoderWeights, ModelConfig};
use partition::{Assignment, Stateless, count_parallel, scales};
use plan::ActivationBudget;
use projection::{FixedPoint, Reducer, Serial, scale_theta};
use tch::{Device, Kind, Tensor};
use trainer::{Overlay, Pass, Recompute, Resident, ScaledTheta, Stage, Update, linear_modules};

fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

struct Expected(Vec<(String, Tensor)>);

impl Expected {
    fn read(path: &Path) -> Self {
        Self(Tensor::read_safetensors(path).unwrap())
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.0.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        Vec::try_from(self.get(name).reshape(-1)).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        Vec::try_from(self.get(name).reshape(-1)).unwrap()
    }

    fn batch(&self) -> MicroBatch {
        let size = self.get("input.input_ids").size();
        MicroBatch {
            rows: size[0] as usize,
            len: size[1] as usize,
            packed: Vec::new(),
            input_ids: self.ints("input.input_ids"),
            attention_mask: self.ints("input.attention_mask"),
            labels: self.ints("input.labels"),
        }
    }
}

struct Loaded {
    files: CheckpointFiles,
    model: Decoder,
    weights: DecoderWeights,
    config: ModelConfig,
}

fn load(folder: &Path) -> Loaded {
    tch::set_num_threads(1);
    let config = ModelConfig::from_folder(folder).unwrap();
    let files = CheckpointFiles::open(folder).unwrap();
    let weights = DecoderWeights::load(&files, &config, Kind::Float, Device::Cpu, &|_, _| ()).unwrap();
    Loaded { files, model: Decoder::new(config.clone(), Kind::Float, Device::Cpu), weights, config }
}

fn logits(model: &Decoder, weights: &DecoderWeights, batch: &MicroBatch) -> Tensor {
    tch::no_grad(|| {
        let context = model.context(&batch.attention_mask, batch.rows, batch.len);
        let ids = Tensor::from_slice(&batch.input_ids).reshape([batch.rows as i64, batch.len as i64]);
        let x = model.hidden_states(weights, &ids, &context);
        model.final_norm(&weights.norm, &x).linear::<&Tensor>(&weights.head, None)
    })
}

/// Largest difference at tokens; what a model says at padding means nothing.
fn largest_difference(a: &Tensor, b: &Tensor, mask: &[i64]) -> f64 {
    let size = a.size();
    let mask = Tensor::from_slice(mask).reshape([size[0], size[1], 1]).to_kind(Kind::Float);
    ((a - b) * mask).abs().max().double_value(&[])
}

/// What the official model computes for a case, computed here; `recompute` must not change a bit.
fn check_case(
    loaded: &Loaded,
    expected: &Expected,
    folder: &Path,
    case: &str,
    tolerance: &serde_json::Value,
) {
    let tolerance = |name: &str| tolerance[name].as_f64().unwrap();
    let adapter = Adapter::read(&folder.join("adapters").join(case)).unwrap();
    let theta = expected.floats(&format!("{case}.theta"));
    assert_eq!(adapter.theta, theta, "the adapter file holds the case's θ");
    let space = space(loaded, &adapter);
    let partition = partition(loaded, &adapter, &space);
    let counts = count_parallel(partition.as_ref(), 0..space.total(), 2).unwrap();
    let scope = adapter.config.partition(&space).unwrap().scope;
    let scales = scales(&counts, adapter.config.isometric, &scope);
    let mut scaled = vec![0.0; theta.len()];
    scale_theta(&theta, &scales, &mut scaled).unwrap();
    let scaled = ScaledTheta { values: &scaled, stamp: 1 };
    let batch = expected.batch();
    let mut grads = Vec::new();
    // One block of two has room for its graph.
    let model = trainer::model_facts(&loaded.config, &space);
    let mut budget = ActivationBudget { model, dtype: plan::Dtype::Float32, in_flight: 1, bytes: 0 };
    let first_kept = |budget: &ActivationBudget| {
        budget.first_kept(0..loaded.weights.blocks.len(), batch.rows as u64, batch.len as u64, usize::MAX)
    };
    while first_kept(&budget) == loaded.weights.blocks.len() {
        budget.bytes += 1 << 10;
    }
    assert!(first_kept(&budget) > 0, "{case}: not all fit");
    let packed = packed(&batch);
    for (recompute, batch) in [
        (Recompute::Never, &batch),
        (Recompute::Always, &batch),
        (Recompute::Within(budget), &batch),
        (Recompute::Never, &packed),
    ] {
        let mut pass = pass(loaded, &space, partition.as_ref(), recompute, 7);
        let own = &loaded.weights;
        let blocks = own.blocks.iter().enumerate();
        let blocks = blocks
            .map(|(block, weights)| pass.overlay.applied(block, weights.share(), scaled).unwrap())
            .collect();
        let adapted = DecoderWeights {
            embedding: own.embedding.shallow_clone(),
            blocks,
            norm: own.norm.shallow_clone(),
            head: own.head.shallow_clone(),
        };
        if batch.packed.is_empty() {
            let found = logits(&loaded.model, &adapted, batch);
            let difference =
                largest_difference(&found, expected.get(&format!("{case}.logits")), &batch.attention_mask);
            assert!(difference < tolerance("logits_abs"), "{case}: logits differ by {difference}");
        }
        let fixed = FixedPoint::new(*counts.iter().max().unwrap(), 1);
        let mut reducer = Reducer::new(theta.len() as u64, fixed, 1).unwrap();
        let tokens = batch.supervised_count() as f64;
        let (mut frozen, update) =
            (Resident::whole(&loaded.weights), Update { theta: scaled, dropout: None });
        let loss = pass.forward_backward(&mut frozen, batch, update, tokens, &mut reducer).unwrap();
        let loss = loss.double_value(&[]) / tokens;
        let expected_loss = f64::from(expected.floats(&format!("{case}.loss"))[0]);
        assert!((loss - expected_loss).abs() < tolerance("loss_abs"), "{case}: loss {loss} {expected_loss}");
        let (mut sums, mut grad) = (vec![0; theta.len()], vec![0.0; theta.len()]);
        assert!(!reducer.finish_step(&Serial, &mut sums).unwrap());
        fixed.finish(&sums, &scales, &mut grad).unwrap();
        grads.push(grad);
    }
    assert_eq!(grads[0], grads[1], "{case}: recompute changes the gradient");
    assert_eq!(grads[0], grads[2], "{case}: recompute within a budget changes the gradient");
    let expected_grad = expected.floats(&format!("{case}.theta_grad"));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let off =
        |a: &[f32], b: &[f32]| norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied());
    let relative = off(&grads[0], &expected_grad);
    assert!(relative < tolerance("grad_rel_l2"), "{case}: gradient off by {relative}");
    let relative = off(&grads[3], &grads[0]);
    assert!(relative < 1e-5, "{case}: packing moves the gradient by {relative}");
}

/// The tokens of a batch, its rows end to end.
fn packed(batch: &MicroBatch) -> MicroBatch {
    let tokens = |values: &[i64]| -> Vec<i64> {
        let there = values.iter().zip(&batch.attention_mask).filter(|(_, mask)| **mask == 1);
        there.map(|(value, _)| *value).collect()
    };
    let rows = batch.attention_mask.chunks(batch.len);
    let lengths: Vec<usize> = rows.map(|row| row.iter().sum::<i64>() as usize).collect();
    assert!(lengths.iter().any(|length| *length < batch.len), "something is padded");
    MicroBatch {
        rows: 1,
        len: lengths.iter().sum(),
        attention_mask: vec![1; lengths.iter().sum()],
        packed: lengths,
        input_ids: tokens(&batch.input_ids),
        labels: tokens(&batch.labels),
    }
}

fn pass<'a>(
    loaded: &'a Loaded,
    space: &AdaptedSpace,
    partition: &'a dyn Assignment,
    recompute: Recompute,
    cross_entropy_chunk: usize,
) -> Pass<'a> {
    let blocks = loaded.weights.blocks.len();
    let first_adapted = space.modules()[0].candidate / model::LinearKind::ALL.len();
    Pass {
        model: &loaded.model,
        stage: Stage::whole(blocks, first_adapted),
        overlay: Overlay::new(space, 0..blocks, partition, &Serial, (Kind::Float, Device::Cpu)),
        recompute,
        cross_entropy_chunk,
        probe: None,
    }
}

fn space(loaded: &Loaded, adapter: &Adapter) -> AdaptedSpace {
    let selection = adapter.config.selection(Path::new("golden")).unwrap();
    AdaptedSpace::select(&linear_modules(&loaded.config), &selection).unwrap()
}

fn partition(loaded: &Loaded, adapter: &Adapter, space: &AdaptedSpace) -> Box<dyn Assignment> {
    let spec = adapter.config.partition(space).unwrap();
    trainer::partition(&spec, space, &loaded.files).unwrap()
}

/// Every adapted module lies where the official code puts it; in scope `transformer_block` it counts from the
/// beginning of each block.
fn check_offsets(space: &AdaptedSpace, meta: &serde_json::Value, by_block: bool, case: &str) {
    let layers = meta["adapters"][case]["layers"].as_array().unwrap();
    assert_eq!(space.modules().len(), layers.len(), "{case}");
    let block_of = |name: &str| name.split('.').nth(2).unwrap().to_owned();
    let mut start = (String::new(), 0);
    for (module, layer) in space.modules().iter().zip(layers) {
        let name = layer["module"].as_str().unwrap().strip_prefix("base_model.model.").unwrap();
        assert_eq!(module.name, name, "{case}");
        if by_block && start.0 != block_of(name) {
            start = (block_of(name), module.offset);
        }
        assert_eq!(module.offset - start.1, layer["offset"].as_u64().unwrap(), "{case}: {name}");
    }
}

/// What we write is what the official code wrote: every field, sets in any order, and every bit of θ.
fn check_files(official: &Path, adapter: &Adapter, case: &str) {
    let written = tempfile::tempdir().unwrap();
    adapter.write(written.path()).unwrap();
    let read = |folder: &Path| -> serde_json::Value {
        let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        if let Some(targets) = value["target_modules"].as_array_mut() {
            targets.sort_by_key(ToString::to_string);
        }
        value
    };
    assert_eq!(read(written.path()), read(official), "{case}");
    let tensors = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert_eq!(tensors(written.path()), tensors(official), "{case}");
}

/// Every adapter of the model's folder.
fn check_model(name: &str) {
    let folder = golden("models").join(name);
    let meta: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("meta.json")).unwrap()).unwrap();
    let loaded = load(&folder.join("base"));
    let expected = Expected::read(&folder.join("expected.safetensors"));
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(folder.join("adapters")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for path in &cases {
        let case = path.file_name().unwrap().to_str().unwrap();
        let adapter = Adapter::read(path).unwrap();
        let by_block = adapter.config.partition_scope == "transformer_block";
        check_offsets(&space(&loaded, &adapter), &meta, by_block, case);
        check_files(path, &adapter, case);
        check_case(&loaded, &expected, &folder, case, &meta["tolerance"]);
    }
}

#[test]
fn llama_with_llama3_rope_and_grouped_queries() {
    check_model("llama");
}

#[test]
fn llama_with_tied_embeddings() {
    check_model("llama-tied");
}

#[test]
fn qwen2_with_biases() {
    check_model("qwen2");
}

#[test]
fn gemma() {
    check_model("gemma");
}

#[test]
fn mistral_with_a_sliding_window() {
    check_model("mistral");
}

/// Left padding moves tokens and adds masked positions; rotary positions are relative, so the loss stays.
#[test]
fn left_padding_gives_the_loss_of_right_padding() {
    let folder = golden("models/llama");
    let loaded = load(&folder.join("base"));
    let right = Expected::read(&folder.join("expected.safetensors")).batch();
    let mut left = right.clone();
    for row in 0..right.rows {
        let range = row * right.len..(row + 1) * right.len;
        let padding = right.attention_mask[range.clone()].iter().filter(|m| **m == 0).count();
        left.input_ids[range.clone()].rotate_right(padding);
        left.attention_mask[range.clone()].rotate_right(padding);
        left.labels[range].rotate_right(padding);
    }
    let loss = |batch: &MicroBatch| {
        let partition = Stateless::new(42, 1).unwrap();
        let selection = Selection::of_names(["q_proj"]);
        let space = AdaptedSpace::select(&linear_modules(&loaded.config), &selection).unwrap();
        let mut pass = pass(&loaded, &space, &partition, Recompute::Never, 0);
        let mut weights = Resident::whole(&loaded.weights);
        let input = pass.embed(&weights, batch);
        let theta = ScaledTheta { values: &[0.0], stamp: 0 };
        let hidden = pass.infer(&mut weights, batch, input, theta).unwrap();
        let head = pass.head(&mut weights, &hidden, batch, None).unwrap();
        (head.loss_sum.double_value(&[]), head.tokens)
    };
    let (right, left) = (loss(&right), loss(&left));
    assert_eq!(right.1, left.1);
    assert!((right.0 - left.0).abs() < 1e-4 * right.0, "{right:?} {left:?}");
}
