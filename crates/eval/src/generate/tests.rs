#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::Kind;

use super::*;
use crate::Sources;
use crate::loaded::Inputs;

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// libtorch's threads are the process's: tests that set them take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(model: &str, adapter: Option<&str>, kind: Kind, threads: usize) -> (Inputs, LoadedModel) {
    tch::set_num_threads(threads as i32);
    let sources = Sources {
        model: repository(model),
        model_name: model.to_owned(),
        adapter: adapter.map(repository),
        data: Vec::new(),
    };
    let inputs = Inputs::open(&sources, None).unwrap();
    let loaded = LoadedModel::load(&inputs, (kind, tch::Device::Cpu), threads, None, &|_, _| ()).unwrap();
    (inputs, loaded)
}

/// The continuations of all prompts, in their order.
fn generate(
    loaded: &LoadedModel,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    max_new_tokens: usize,
) -> Vec<Vec<u32>> {
    let mut generator = Generator::new(loaded, options.clone(), &|_| false);
    let mut queue = prompts.iter().enumerate().peekable();
    let mut all = vec![Vec::new(); prompts.len()];
    loop {
        while generator.has_room() {
            let Some((id, prompt)) = queue.next() else { break };
            generator.admit(id, prompt, max_new_tokens);
        }
        generator.step();
        for finished in generator.take_finished() {
            let ended = finished.new_ids.last().is_some_and(|last| options.stop_ids.contains(last));
            assert_eq!(ended, finished.finish == Finish::EndToken);
            assert!(ended || finished.new_ids.len() == max_new_tokens);
            all[finished.id] = finished.new_ids;
        }
        if generator.is_idle() && queue.peek().is_none() {
            return all;
        }
    }
}

#[test]
fn greedy_ids_are_those_of_transformers_in_any_batch() {
    let _turn = turn();
    let text = std::fs::read_to_string(repository("tests/golden/metamath/greedy_generation.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (inputs, loaded) = load("configs/demo/model", None, Kind::Float, 1);
    let mut prompts = Vec::new();
    let mut expected = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let mut encoded: Vec<u32> = inputs.tokenizer.bos_id().into_iter().collect();
        encoded.extend(inputs.tokenizer.encode(case["prompt"].as_str().unwrap()).unwrap());
        assert_eq!(encoded, ids(&case["prompt_ids"]));
        prompts.push(encoded);
        expected.push(ids(&case["new_ids"]));
    }
    let max_new_tokens = cases["max_new_tokens"].as_u64().unwrap() as usize;
    for batch_size in [1, 2, 4, 8] {
        let options = GenerateOptions { stop_ids: inputs.stop_ids.clone(), batch_size };
        assert_eq!(generate(&loaded, &prompts, &options, max_new_tokens), expected, "batch {batch_size}");
    }
}

/// Long continuations, over the growth of caches, of rows that begin at different times: alone and together, on one
/// thread and on two, with an adapter in f32 and in bfloat16.
#[test]
fn ids_do_not_depend_on_the_batch_or_on_threads() {
    let _turn = turn();
    for (model, adapted, kind) in [
        ("configs/demo/model", false, Kind::Float),
        ("llama31", true, Kind::Float),
        ("llama31", true, Kind::BFloat16),
        ("gemma", true, Kind::Float),
        ("qwen2", true, Kind::Float),
        ("mistral", false, Kind::BFloat16),
    ] {
        let golden = format!("tests/golden/architectures/{model}");
        let adapter = adapted.then(|| format!("{golden}/adapter"));
        let (base, adapter) = (format!("{golden}/base"), adapter.as_deref());
        let model = if model.contains('/') { model } else { &base };
        let (inputs, loaded) = load(model, adapter, kind, 1);
        let vocabulary = inputs.config.vocab_size as u32;
        let prompts: Vec<Vec<u32>> = (0..11_u32)
            .map(|row| (0..3 + 4 * row).map(|i| (i * i * 7 + row * 31 + 2) % vocabulary).collect())
            .collect();
        let options = |batch_size| GenerateOptions { stop_ids: inputs.stop_ids.clone(), batch_size };
        let alone = generate(&loaded, &prompts, &options(1), 40);
        assert!(alone.iter().any(|ids| ids.len() > 5), "{model} says something");
        for batch_size in [3, 4, 8, 11] {
            let found = generate(&loaded, &prompts, &options(batch_size), 40);
            assert_eq!(found, alone, "{model} {kind:?}, batch {batch_size}");
        }
        // The prompt's own products are libtorch's, whose bits may depend on its threads: not the tokens of these.
        let expected = generate(&loaded, &prompts, &options(4), 20);
        let (_, two) = load(model, adapter, kind, 2);
        assert_eq!(generate(&two, &prompts, &options(4), 20), expected, "{model} {kind:?}, two threads");
    }
}

#[test]
fn rows_end_where_they_are_told_to() {
    let _turn = turn();
    let (inputs, loaded) = load("configs/demo/model", None, Kind::Float, 1);
    let prompt = inputs.tokenizer.encode("Question: What is 1 + 1?\nAnswer:").unwrap();
    let options = GenerateOptions { stop_ids: Vec::new(), batch_size: 2 };
    let all = generate(&loaded, std::slice::from_ref(&prompt), &options, 12).remove(0);
    assert_eq!(all.len(), 12);
    let stop = GenerateOptions { stop_ids: vec![all[3]], ..options.clone() };
    let first = all.iter().position(|id| *id == all[3]).unwrap();
    assert_eq!(generate(&loaded, std::slice::from_ref(&prompt), &stop, 12), [all[..=first].to_vec()]);
    let ends = |ids: &[u32]| ids.len() == 5;
    let mut generator = Generator::new(&loaded, options, &ends);
    generator.admit(7, &prompt, 12);
    while !generator.is_idle() {
        generator.step();
    }
    let finished = generator.take_finished();
    assert_eq!(finished, [Finished { id: 7, new_ids: all[..5].to_vec(), finish: Finish::StopString }]);
}
