//! A model's folder: `config.json`, tensors, index of shards.

use std::path::Path;

use model::{CheckpointFiles, ModelConfig, linear_modules, tensor_specs};

use crate::scratch::{Scratch, with_file};
use crate::show::refused;

pub(crate) const TENSORS: &[u8] = include_bytes!("../corpus/model_tensors/two.safetensors");
const CONFIG: &str = include_str!("../corpus/model_config/llama.json");

thread_local! {
    static SINGLE: Scratch = Scratch::new("model.safetensors", &[]);
    static INDEX: Scratch = Scratch::new("model.safetensors.index.json", &[("a.safetensors", TENSORS)]);
}

/// `config.json`.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match ModelConfig::from_json(text, Path::new("config.json")) {
        Err(error) => refused(&error),
        Ok(config) => {
            // The limits of a configuration are such that these neither overflow nor take memory of their own.
            let listed: i64 = tensor_specs(&config).map(|(_, shape)| shape.iter().product::<i64>()).sum();
            assert_eq!(config.parameters().total(), listed as u64, "parameters are counted in two ways");
            assert!(linear_modules(&config).all(|module| module.shape.iter().all(|dim| *dim > 0)));
            config.window(0);
            true
        }
    }
}

/// `model.safetensors`.
pub(crate) fn tensors(bytes: &[u8]) -> bool {
    with_file(&SINGLE, bytes, open)
}

/// `model.safetensors.index.json` beside a shard.
pub(crate) fn index(bytes: &[u8]) -> bool {
    with_file(&INDEX, bytes, open)
}

fn open(scratch: &Scratch) -> bool {
    let files = match CheckpointFiles::open(scratch.folder()) {
        Err(error) => return refused(&error),
        Ok(files) => files,
    };
    let mut total = 0;
    for (name, entry) in files.entries() {
        let numel: usize = entry.shape.iter().product();
        let bytes = files.bytes(entry);
        assert_eq!(bytes.len() * 8, numel * entry.dtype.bitsize(), "tensor {name} is as large as its shape");
        assert!(files.path(entry).starts_with(scratch.folder()), "no file lies elsewhere");
        total += bytes.len() as u64;
    }
    assert_eq!(total, files.total_bytes(), "every byte is a tensor's");
    let config = ModelConfig::from_json(CONFIG, Path::new("config.json")).expect("the seed is sound");
    if let Err(error) = files.check(&config) {
        refused(&error);
    }
    true
}
