//! An adapter's folder.

use std::path::Path;

use adapter::{AdaptedSpace, Adapter, AdapterConfig, Candidate};

use crate::scratch::{Scratch, with_file};
use crate::show::refused;

/// `adapter_config.json`, the modules that it selects in a small model, and their partition.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let path = Path::new("adapter_config.json");
    let config = match AdapterConfig::from_json(text, path) {
        Err(error) => return refused(&error),
        Ok(config) => config,
    };
    let written = serde_json::to_string(&config).expect("a configuration is plain JSON");
    let again = AdapterConfig::from_json(&written, path).expect("what is written can be read");
    assert_eq!(config, again, "what is written is what was read");
    let selection = match config.selection(path) {
        Err(error) => return refused(&error),
        Ok(selection) => selection,
    };
    let space = match AdaptedSpace::select(&candidates(), &selection) {
        Err(error) => return refused(&error),
        Ok(space) => space,
    };
    if let Err(error) = space.check_d(config.d) {
        refused(&error);
    }
    match config.partition(&space) {
        Err(error) => refused(&error),
        Ok(spec) => assign(&spec, space.total()),
    }
}

/// Two blocks of a small model and its head.
pub(crate) fn candidates() -> Vec<Candidate> {
    let module = |block: u32, name: &str| Candidate {
        name: format!("model.layers.{block}.self_attn.{name}"),
        shape: [4, 3],
        bias: name == "q_proj",
    };
    let block = |block| ["q_proj", "k_proj", "v_proj"].map(|name| module(block, name));
    let head = Candidate { name: "lm_head".to_owned(), shape: [5, 3], bias: false };
    block(0).into_iter().chain(block(1)).chain([head]).collect()
}

fn assign(spec: &partition::Spec, total: u64) -> bool {
    let values: Vec<f32> = (0..total).map(|i| i as f32 - 20.5).collect();
    let assignment = match partition::build(spec, total, Some(&values)) {
        Err(error) => return refused(&error),
        Ok(assignment) => assignment,
    };
    let mut groups = vec![u32::MAX; total as usize];
    match assignment.cursor().fill(0, &mut groups) {
        Err(error) => refused(&error),
        Ok(()) => {
            assert!(groups.iter().all(|group| u64::from(*group) < assignment.d()), "every group is below d");
            true
        }
    }
}

const CONFIG: &[u8] = include_bytes!("../corpus/adapter_config/stateless.json");

thread_local! {
    static FOLDER: Scratch = Scratch::new("adapter_model.safetensors", &[("adapter_config.json", CONFIG)]);
}

/// `adapter_model.safetensors` beside a configuration that stays.
pub(crate) fn tensors(bytes: &[u8]) -> bool {
    with_file(&FOLDER, bytes, |scratch| match Adapter::read(scratch.folder()) {
        Err(error) => refused(&error),
        Ok(adapter) => {
            assert_eq!(adapter.theta.len() as u64, adapter.config.d, "θ has d numbers");
            assert!(adapter.theta.iter().all(|x| x.is_finite()), "θ is made of numbers");
            true
        }
    })
}
