//! Small models and adapters, and a merge from folder to folder as the command does it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adapter::{AdaptedSpace, Adapter, AdapterConfig, Candidate};
use merge::{Base, Dtype, MergeError, Options, Progress, Report, prepare};
use model::{CheckpointFiles, ModelConfig};
use partition::Assignment;
use serde_json::{Value, json};

/// A tensor to be stored. The values are rounded to the dtype when they are written.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub values: Vec<f32>,
}

/// Everything that belongs to an adapter on a model.
pub struct Loaded {
    pub files: CheckpointFiles,
    pub config: ModelConfig,
    pub adapter: Adapter,
    pub space: AdaptedSpace,
    pub assignment: Box<dyn Assignment>,
    pub scales: Vec<f32>,
}

impl Loaded {
    pub fn read(model: &Path, adapter: &Path) -> Self {
        let config = ModelConfig::from_folder(model).unwrap();
        let files = CheckpointFiles::open(model).unwrap();
        let adapter = Adapter::read(adapter).unwrap();
        let candidates: Vec<Candidate> = model::linear_modules(&config)
            .map(|module| Candidate {
                name: module.name,
                shape: module.shape.map(|dim| dim as u64),
                bias: module.bias.is_some(),
            })
            .collect();
        let path = Path::new("adapter_config.json");
        let space = AdaptedSpace::select(&candidates, &adapter.config.selection(path).unwrap()).unwrap();
        let spec = adapter.config.partition(&space).unwrap();
        let by_value = adapter.config.grouping_strategy == "signed_magnitude";
        let values = by_value.then(|| adapted_values(&files, &space));
        let assignment = partition::build(&spec, space.total(), values.as_deref()).unwrap();
        let counts = partition::count_parallel(&*assignment, 0..space.total(), 1).unwrap();
        let scales = partition::scales(&counts, adapter.config.isometric, &spec.scope);
        Self { files, config, adapter, space, assignment, scales }
    }

    pub fn merge(&self, options: &Options, progress: &dyn Fn(Progress<'_>)) -> Result<Report, MergeError> {
        let base = Base { files: &self.files, config: &self.config };
        let plan = prepare(base, &self.adapter, &self.space, options)?;
        plan.run(&*self.assignment, &self.scales, progress)
    }

    /// ΔW of every adapted tensor, by the definition.
    pub fn deltas(&self) -> BTreeMap<String, Vec<f32>> {
        let mut deltas = BTreeMap::new();
        for module in self.space.modules() {
            let mut ids = vec![0; module.numel() as usize];
            self.assignment.fill(module.offset, &mut ids).unwrap();
            let group = |id: &u32| self.scales[*id as usize] * self.adapter.theta[*id as usize];
            let delta: Vec<f32> = ids.iter().map(group).collect();
            let (weight, bias) = delta.split_at(module.weight_numel() as usize);
            deltas.insert(format!("{}.weight", module.name), weight.to_vec());
            if module.bias {
                deltas.insert(format!("{}.bias", module.name), bias.to_vec());
            }
        }
        deltas
    }
}

fn adapted_values(files: &CheckpointFiles, space: &AdaptedSpace) -> Vec<f32> {
    let mut values = Vec::new();
    for module in space.modules() {
        let names = [Some("weight"), module.bias.then_some("bias")];
        for name in names.into_iter().flatten() {
            let entry = files.get(&format!("{}.{name}", module.name)).unwrap();
            values.extend(decode(&format!("{:?}", entry.dtype), files.bytes(entry)));
        }
    }
    values
}

pub fn options(output: &Path, adapter: &Path, dtype: Option<Dtype>) -> Options {
    Options { output: output.to_owned(), adapter_folder: adapter.to_owned(), dtype, threads: 2 }
}

pub fn merge(
    model: &Path,
    adapter: &Path,
    output: &Path,
    dtype: Option<Dtype>,
) -> Result<Report, MergeError> {
    Loaded::read(model, adapter).merge(&options(output, adapter, dtype), &|_| ())
}

/// A model of two blocks.
pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
        "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "num_hidden_layers": 2, "vocab_size": 10, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": true, "max_position_embeddings": 64,
    })
}

/// The tensors of [`config`] with values between -1 and 1, the same every time.
pub fn tensors(dtype: &'static str) -> Vec<Stored> {
    let config = ModelConfig::from_json(&config().to_string(), Path::new("config.json")).unwrap();
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    model::tensor_specs(&config)
        .map(|(name, shape)| {
            let shape: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
            let values = (0..shape.iter().product()).map(|_| next()).collect();
            Stored { name, dtype, shape, values }
        })
        .collect()
}

/// Writes one safetensors file: the header's keys in the order of `tensors`, the data in the reverse order.
pub fn write_tensors(path: &Path, tensors: &[Stored]) {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt", "made by": "a test"}));
    for tensor in tensors {
        header.insert(tensor.name.clone(), Value::Null);
    }
    let mut data = Vec::new();
    for tensor in tensors.iter().rev() {
        let start = data.len();
        data.extend(encode(tensor.dtype, &tensor.values));
        let info = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), info);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], &header, &data].concat()).unwrap();
}

/// A model folder: one file.
pub fn write_model(folder: &Path, tensors: &[Stored]) {
    std::fs::create_dir_all(folder).unwrap();
    write_tensors(&folder.join("model.safetensors"), tensors);
    let text = serde_json::to_string_pretty(&config()).unwrap();
    std::fs::write(folder.join("config.json"), text).unwrap();
    std::fs::write(folder.join("tokenizer.json"), "{\"a\": 1}").unwrap();
    std::fs::write(folder.join("README.md"), "a card").unwrap();
}

/// The same as two shards and an index.
pub fn write_sharded_model(folder: &Path, tensors: &[Stored]) {
    write_model(folder, tensors);
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut map = serde_json::Map::new();
    for (number, part) in [first, second].into_iter().enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", number + 1);
        write_tensors(&folder.join(&name), part);
        map.extend(part.iter().map(|tensor| (tensor.name.clone(), json!(name))));
    }
    let bytes: usize = tensors.iter().map(|tensor| encode(tensor.dtype, &tensor.values).len()).sum();
    let index = json!({"metadata": {"note": "kept", "total_size": bytes}, "weight_map": map});
    let text = serde_json::to_string_pretty(&index).unwrap();
    std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
}

/// An adapter of the q and down projections; θ is between -`size` and `size`.
pub fn write_adapter(folder: &Path, d: u64, size: f32) {
    std::fs::create_dir_all(folder).unwrap();
    let theta = (0..d).map(|j| size * (j as f32 * 2.7).sin()).collect();
    let target_modules = Some(json!(["q_proj", "down_proj"]));
    let config = AdapterConfig { d, target_modules, ..AdapterConfig::default() };
    Adapter { config, theta }.write(folder).unwrap();
}

/// A folder with `model` and `adapter` in it, of float32.
pub fn small(folder: &Path) -> (PathBuf, PathBuf) {
    let (model, adapter) = (folder.join("model"), folder.join("adapter"));
    write_model(&model, &tensors("F32"));
    write_adapter(&adapter, 30, 0.5);
    (model, adapter)
}

/// Numbers as a file holds them.
pub fn encode(dtype: &str, values: &[f32]) -> Vec<u8> {
    let half = |bits: &dyn Fn(f32) -> u16| values.iter().flat_map(|x| bits(*x).to_le_bytes()).collect();
    match dtype {
        "F32" => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        "BF16" => half(&|x| half::bf16::from_f32(x).to_bits()),
        "F16" => half(&|x| half::f16::from_f32(x).to_bits()),
        "I64" => values.iter().flat_map(|x| (*x as i64).to_le_bytes()).collect(),
        "I8" => values.iter().map(|x| (*x * 100.0) as i8 as u8).collect(),
        other => panic!("{other}"),
    }
}

pub fn decode(dtype: &str, bytes: &[u8]) -> Vec<f32> {
    let pair = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match dtype {
        "F32" => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        "BF16" => bytes.chunks(2).map(|b| half::bf16::from_bits(pair(b)).to_f32()).collect(),
        "F16" => bytes.chunks(2).map(|b| half::f16::from_bits(pair(b)).to_f32()).collect(),
        other => panic!("{other}"),
    }
}

/// Dtype and bytes of every tensor of a model folder.
pub fn read_tensors(folder: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let files = CheckpointFiles::open(folder).unwrap();
    let entry = |(name, entry): (&str, &model::TensorEntry)| {
        (name.to_owned(), (format!("{:?}", entry.dtype), files.bytes(entry).to_vec()))
    };
    files.entries().map(entry).collect()
}

/// The header of a safetensors file.
pub fn header(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    serde_json::from_slice(&bytes[8..8 + length]).unwrap()
}

/// Names of all files in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
