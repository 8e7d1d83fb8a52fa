//! Every family against files that transformers wrote (CPU, float32), and against itself: in half precision, with
//! padding on the other side, with windows that matter and windows that do not.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use model::{CheckpointFiles, Decoder, DecoderWeights, ModelConfig, WholeHead, cross_entropy, next_labels};
use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad};

const CASES: [&str; 5] = ["llama", "llama-tied", "qwen2", "gemma", "mistral"];

struct Case {
    folder: PathBuf,
    tolerance: Value,
    expected: Vec<(String, Tensor)>,
    input: Input,
}

/// A micro-batch, row-major.
#[derive(Clone)]
struct Input {
    rows: usize,
    length: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
    labels: Vec<i64>,
}

impl Case {
    fn read(name: &str) -> Self {
        tch::set_num_threads(1);
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/models")).join(name);
        let meta = std::fs::read_to_string(folder.join("meta.json")).unwrap();
        let tolerance = serde_json::from_str::<Value>(&meta).unwrap()["tolerance"].clone();
        let expected = Tensor::read_safetensors(folder.join("expected.safetensors")).unwrap();
        let get = |name: &str| &expected.iter().find(|(n, _)| n == name).unwrap().1;
        let ints = |name: &str| Vec::<i64>::try_from(get(name).reshape(-1)).unwrap();
        let size = get("input.input_ids").size();
        let input = Input {
            rows: size[0] as usize,
            length: size[1] as usize,
            ids: ints("input.input_ids"),
            mask: ints("input.attention_mask"),
            labels: ints("input.labels"),
        };
        Self { folder: folder.join("base"), tolerance, expected, input }
    }

    fn tolerance(&self, name: &str) -> f64 {
        self.tolerance[name].as_f64().unwrap()
    }

    fn expected(&self, name: &str) -> &Tensor {
        &self.expected.iter().find(|(n, _)| n == name).unwrap().1
    }

    fn config(&self, edit: impl Fn(&mut Value)) -> ModelConfig {
        let path = self.folder.join("config.json");
        let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut value);
        ModelConfig::from_json(&value.to_string(), &path).unwrap()
    }

    fn load(&self, kind: Kind, edit: impl Fn(&mut Value)) -> Model {
        let config = self.config(edit);
        let files = CheckpointFiles::open(&self.folder).unwrap();
        let weights = DecoderWeights::load(&files, &config, kind, Device::Cpu, &|_, _| ()).unwrap();
        Model { decoder: Decoder::new(config, kind, Device::Cpu), weights }
    }
}

struct Model {
    decoder: Decoder,
    weights: DecoderWeights,
}

impl Model {
    fn hidden(&self, input: &Input) -> Tensor {
        let context = self.decoder.context(&input.mask, input.rows, input.length);
        let ids = Tensor::from_slice(&input.ids).reshape([input.rows as i64, input.length as i64]);
        no_grad(|| self.decoder.hidden_states(&self.weights, &ids, &context))
    }

    fn logits(&self, input: &Input) -> Tensor {
        let normed = self.decoder.final_norm(&self.weights.norm, &self.hidden(input));
        normed.linear::<&Tensor>(&self.weights.head, None).to_kind(Kind::Float)
    }
}

impl Input {
    /// The same rows with their padding on the left.
    fn padded_on_the_left(&self) -> Self {
        let mut left = self.clone();
        for row in 0..self.rows {
            let range = row * self.length..(row + 1) * self.length;
            let padding = self.mask[range.clone()].iter().filter(|m| **m == 0).count();
            left.ids[range.clone()].rotate_right(padding);
            left.mask[range.clone()].rotate_right(padding);
            left.labels[range].rotate_right(padding);
        }
        left
    }

    /// Values at the tokens, `[tokens, …]`; what a model says at padding means nothing.
    fn at_tokens(&self, values: &Tensor) -> Tensor {
        let positions: Vec<i64> =
            (0..self.mask.len()).filter(|at| self.mask[*at] == 1).map(|at| at as i64).collect();
        assert!(positions.len() < self.mask.len(), "the cases have padding");
        values.flatten(0, 1).index_select(0, &Tensor::from_slice(&positions))
    }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn logits_and_loss_are_those_of_transformers() {
    for name in CASES {
        let case = Case::read(name);
        let model = case.load(Kind::Float, |_| ());
        let found = case.input.at_tokens(&model.logits(&case.input));
        let expected = case.input.at_tokens(case.expected("base.logits"));
        let difference = largest_difference(&found, &expected);
        assert!(difference < case.tolerance("logits_abs"), "{name}: logits differ by {difference}");
        let norm = |x: &Tensor| model.decoder.final_norm(&model.weights.norm, x);
        let hidden = model.hidden(&case.input);
        let mut head = WholeHead(&model.weights.head);
        let targets = next_labels(&case.input.labels, vec![case.input.length; case.input.rows]);
        let Ok(loss) = cross_entropy(&hidden, &norm, &mut head, &targets, 7, None);
        let mean = loss.loss_sum.double_value(&[]) / loss.tokens as f64;
        let expected = case.expected("base.loss").double_value(&[0]);
        assert!((mean - expected).abs() < case.tolerance("loss_abs"), "{name}: loss {mean}, not {expected}");
    }
}

#[test]
fn half_precision_stays_near_float32() {
    for name in CASES {
        let case = Case::read(name);
        let wide = case.input.at_tokens(&case.load(Kind::Float, |_| ()).logits(&case.input));
        // Units in the last place of the result's magnitude, over two blocks.
        for (kind, ulps) in [(Kind::BFloat16, 2.0_f64.powi(-8)), (Kind::Half, 2.0_f64.powi(-11))] {
            let half = case.input.at_tokens(&case.load(kind, |_| ()).logits(&case.input));
            assert_eq!(half.isfinite().all().int64_value(&[]), 1, "{name} in {kind:?}");
            let relative = (&half - &wide).norm().double_value(&[]) / wide.norm().double_value(&[]);
            assert!(relative > 0.0 && relative < 4.0 * ulps, "{name} in {kind:?}: off by {relative}");
        }
    }
}

/// Left padding moves tokens and adds masked positions; rotary positions are relative, so nothing else changes.
/// Mistral's window (5) is shorter than the rows (18).
#[test]
fn left_padding_gives_what_right_padding_gives() {
    for name in CASES {
        let case = Case::read(name);
        let model = case.load(Kind::Float, |_| ());
        let left = case.input.padded_on_the_left();
        assert_ne!(left.mask, case.input.mask);
        let difference = largest_difference(
            &left.at_tokens(&model.logits(&left)),
            &case.input.at_tokens(&model.logits(&case.input)),
        );
        assert!(difference < case.tolerance("logits_abs"), "{name}: {difference}");
    }
}

#[test]
fn a_window_as_long_as_the_row_changes_nothing() {
    let case = Case::read("mistral");
    let length = case.input.length as i64;
    for input in [case.input.clone(), case.input.padded_on_the_left()] {
        let logits = |window: Value| {
            let model = case.load(Kind::Float, |v| v["sliding_window"] = window.clone());
            input.at_tokens(&model.logits(&input))
        };
        let unwindowed = logits(Value::Null);
        assert_eq!(logits(length.into()), unwindowed);
        assert_eq!(logits((1_i64 << 40).into()), unwindowed);
        assert_ne!(logits((length - 2).into()), unwindowed, "the longest row has {length} tokens");
    }
}

/// Qwen2 windows only some blocks: each block must do what it does in a model that treats all blocks alike.
#[test]
fn each_block_has_its_own_window() {
    let case = Case::read("qwen2");
    let windowed = |edit: &dyn Fn(&mut Value)| {
        case.load(Kind::Float, |v| {
            v["use_sliding_window"] = true.into();
            v["sliding_window"] = 5.into();
            edit(v);
        })
    };
    let without_types = |v: &mut Value| drop(v.as_object_mut().unwrap().remove("layer_types"));
    let full = case.load(Kind::Float, |_| ());
    let sliding = windowed(&|v| {
        without_types(v);
        v["max_window_layers"] = 0.into();
    });
    let last = windowed(&|v| {
        without_types(v);
        v["max_window_layers"] = 1.into();
    });
    let first = windowed(&|v| v["layer_types"] = serde_json::json!(["sliding_attention", "full_attention"]));
    let none = windowed(&|v| v["layer_types"] = serde_json::json!(["full_attention", "full_attention"]));
    let input = &case.input;
    let x = Tensor::randn([input.rows as i64, input.length as i64, 64], (Kind::Float, Device::Cpu));
    let block = |model: &Model, block: usize| {
        let context = model.decoder.context(&input.mask, input.rows, input.length);
        no_grad(|| model.decoder.block(block, &model.weights.blocks[block], &x, &context))
    };
    assert_ne!(block(&full, 0), block(&sliding, 0));
    for (model, expected) in
        [(&last, [&full, &sliding]), (&first, [&sliding, &full]), (&none, [&full, &full])]
    {
        for (at, expected) in expected.into_iter().enumerate() {
            assert_eq!(block(model, at), block(expected, at), "block {at}");
        }
    }
}
