//! A model of 2 GB in little memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use model::ModelConfig;
use serde_json::{Value, json};

use crate::fixture::{Loaded, options, write_adapter};

const CHILD_FOLDER: &str = "GPART_MERGE_LARGE_FOLDER";
const SHARDS: usize = 4;
const MIB: u64 = 1 << 20;

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 15, "vocab_size": 32000, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": true, "max_position_embeddings": 64,
    })
}

/// Random bfloat16 numbers between 2^-7 and 2 in size, in shards of about the same length.
fn write_model(folder: &Path) -> u64 {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("config.json"), config().to_string()).unwrap();
    let config = ModelConfig::from_folder(folder).unwrap();
    let specs: Vec<_> = model::tensor_specs(&config)
        .map(|(name, shape)| (name, shape.iter().product::<i64>() as u64 * 2, shape))
        .collect();
    let total: u64 = specs.iter().map(|spec| spec.1).sum();
    let mut shards: Vec<Vec<_>> = vec![Vec::new(); SHARDS];
    let mut done = 0;
    for spec in specs {
        let shard = (done * SHARDS as u64 / total) as usize;
        done += spec.1;
        shards[shard].push(spec);
    }
    let (mut map, mut largest, mut state) = (serde_json::Map::new(), 0, 88_172_645_463_325_252_u64);
    for (number, specs) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{SHARDS:05}.safetensors", number + 1);
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut end = 0;
        for (tensor, bytes, shape) in specs {
            let info = json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]});
            header.insert(tensor.clone(), info);
            map.insert(tensor.clone(), json!(name));
            end += bytes;
        }
        largest = largest.max(end);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join(&name)).unwrap());
        let header = Value::Object(header).to_string();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        for _ in 0..end / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Exponents from 120 to 127, any sign, any fraction.
            let bits = (state & 0x83ff_83ff_83ff_83ff) | 0x3c00_3c00_3c00_3c00;
            file.write_all(&bits.to_le_bytes()).unwrap();
        }
        file.into_inner().unwrap();
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    largest
}

/// Peak resident memory of this process, bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Not a test of its own: the process whose memory [`memory_stays_small`] measures.
#[test]
#[ignore = "the child process of another test"]
fn measured_child() {
    let Ok(room) = std::env::var(CHILD_FOLDER) else { return };
    let room = PathBuf::from(room);
    let adapter = room.join("adapter");
    let loaded = Loaded::read(&room.join("model"), &adapter);
    let (before, start) = (peak_memory(), Instant::now());
    let report = loaded.merge(&options(&room.join("out"), &adapter, None), &|_| ()).unwrap();
    let measured = json!({
        "before": before, "peak": peak_memory(), "seconds": start.elapsed().as_secs_f64(), "report": report,
    });
    std::fs::write(room.join("measured.json"), measured.to_string()).unwrap();
}

#[test]
#[ignore = "slow: writes two models of 2 GB"]
fn memory_stays_small() {
    let room = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let shard = write_model(&room.path().join("model"));
    let making = start.elapsed().as_secs_f64();
    write_adapter(&room.path().join("adapter"), 524_288, 2.0);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "large::measured_child", "--ignored"])
        .env(CHILD_FOLDER, room.path())
        .status()
        .unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(room.path().join("measured.json")).unwrap();
    let measured: Value = serde_json::from_str(&text).unwrap();
    let (before, peak) = (measured["before"].as_u64().unwrap(), measured["peak"].as_u64().unwrap());
    let figures = format!(
        "shard {} MiB, peak {} MiB, of that {} MiB before the merge; {} bytes in {:.1} s (making them {making:.1} s)",
        shard / MIB,
        peak / MIB,
        before / MIB,
        measured["report"]["bytes"],
        measured["seconds"].as_f64().unwrap(),
    );
    #[allow(clippy::print_stderr, reason = "the figures are what the test is run for")]
    {
        eprintln!("{figures}\n{}", measured["report"]["kept"]);
    }
    assert!(measured["report"]["bytes"].as_u64().unwrap() > 1_900_000_000, "{figures}");
    // What the issue asks for, and what a merge really takes: buffers, whatever the model's size.
    assert!(peak < shard + 300 * MIB, "{figures}");
    assert!(peak - before < 64 * MIB, "{figures}");
}
