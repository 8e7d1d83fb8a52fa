//! The estimate beside what the trainer took, on Linux with libtorch 2.11, two micro-batches of one row.

use super::Dtype::{Bfloat16, Float32};
use super::*;

/// A model of H = 512, 8 query heads of 64 and V = 4096, and the most that the trainer had of its own (RssAnon), MiB.
struct Measured {
    intermediate: u64,
    blocks: u64,
    kv_heads: u64,
    length: u64,
    dtype: Dtype,
    recompute: bool,
    mib: u64,
}

/// The libraries' share of the program: they are mapped, and not the process's own.
const MAPPED_LIBRARIES: u64 = 140 << 20;

/// With MALLOC_MMAP_THRESHOLD_=65536 every piece goes back to the system at once.
#[test]
fn what_is_alive_is_estimated_within_a_twentieth() {
    for row in [
        (1408, 4, 8, 1024, Float32, false, 306),
        (1408, 4, 8, 2048, Float32, false, 440),
        (1408, 4, 8, 4096, Float32, false, 732),
        (1408, 4, 2, 2048, Float32, false, 398),
        (1408, 4, 2, 4096, Float32, false, 662),
        (1408, 8, 8, 2048, Float32, false, 745),
        (1408, 8, 8, 4096, Float32, false, 1271),
        (2816, 4, 8, 2048, Float32, false, 629),
        (2816, 4, 8, 4096, Float32, false, 1082),
        (1408, 4, 8, 1024, Float32, true, 186),
        (1408, 4, 8, 4096, Float32, true, 368),
        (1408, 4, 8, 1024, Bfloat16, false, 209),
        (1408, 4, 8, 4096, Bfloat16, false, 438),
        (1408, 4, 8, 1024, Bfloat16, true, 142),
        (1408, 4, 8, 4096, Bfloat16, true, 231),
    ] {
        let measured = measured(row);
        let (alive, _) = estimate(&measured);
        let error = alive / measured.mib as f64 - 1.0;
        assert!(error.abs() < 0.05, "{alive:.0} MiB, measured {}: {error:+.3}", measured.mib);
    }
}

/// As glibc comes.
#[test]
fn what_the_allocator_holds_is_estimated_within_a_quarter() {
    for row in [
        (1408, 4, 8, 1024, Float32, false, 452),
        (1408, 4, 8, 2048, Float32, false, 684),
        (1408, 4, 8, 4096, Float32, false, 1188),
        (1408, 4, 2, 2048, Float32, false, 603),
        (1408, 4, 2, 4096, Float32, false, 1006),
        (1408, 8, 8, 2048, Float32, false, 1247),
        (1408, 4, 8, 4096, Float32, true, 657),
        (1408, 4, 8, 4096, Bfloat16, false, 802),
        (1408, 4, 8, 4096, Bfloat16, true, 382),
    ] {
        let measured = measured(row);
        let (alive, held) = estimate(&measured);
        let error = held / measured.mib as f64 - 1.0;
        assert!((-0.1..0.25).contains(&error), "{held:.0} MiB, measured {}: {error:+.3}", measured.mib);
        assert!(alive < measured.mib as f64);
    }
}

/// Beyond d = 4096 and the same threads, in MiB after some steps; and the whole with held-out batches of 8 rows.
#[test]
fn theta_and_held_out_data_cost_what_was_measured() {
    let of = |d: u64, threads: u64, recompute: bool, eval_batch_size: Option<u64>| {
        let mut facts = facts(model([512, 1408, 4, 8, 8, 64, 4096], ATTENTION));
        facts.data = Data { rows: Some(8), longest_tokens: Some(1024), max_seq_length: 1024, ..facts.data };
        let training = Training { d, threads, recompute, eval_batch_size, ..facts.training };
        facts.training = Training { micro_batch_size: 1, accumulation: 2, ..training };
        (plan(&facts).memory.peak - MAPPED_LIBRARIES) as f64 / f64::from(1 << 20)
    };
    for (threads, mib) in [(1, 229.0), (2, 258.0)] {
        let more = of(4_000_000, threads, false, None) - of(4096, threads, false, None);
        assert!((more - mib).abs() < 2.0, "{more} MiB with {threads} threads, measured {mib}");
    }
    let held_out = of(4096, 1, true, Some(8));
    assert!((held_out / 312.0 - 1.0).abs() < 0.05, "{held_out} MiB, measured 312");
}

fn measured(row: (u64, u64, u64, u64, Dtype, bool, u64)) -> Measured {
    let (intermediate, blocks, kv_heads, length, dtype, recompute, mib) = row;
    Measured { intermediate, blocks, kv_heads, length, dtype, recompute, mib }
}

/// What is alive, and that with what the allocator holds, in MiB.
fn estimate(measured: &Measured) -> (f64, f64) {
    let Measured { intermediate, blocks, kv_heads, length, dtype, recompute, .. } = *measured;
    let mut facts = facts(model([512, intermediate, blocks, 8, kv_heads, 64, 4096], ATTENTION));
    facts.data =
        Data { rows: Some(8), longest_tokens: Some(length), mean_tokens: None, max_seq_length: length };
    let training = facts.training;
    facts.training = Training {
        dtype,
        recompute,
        micro_batch_size: 1,
        accumulation: 2,
        d: 4096,
        dropout: 0.0,
        ..training
    };
    facts.model.stored_bytes = Some(Parameters::new(&facts.model).total * 4);
    let memory = plan(&facts).memory;
    let own = |bytes: u64| (bytes - MAPPED_LIBRARIES) as f64 / f64::from(1 << 20);
    (own(memory.peak), own(memory.peak + memory.allocator))
}

/// Ranks of other meshes, four micro-batches of 1,024 tokens, eight blocks, f32: the most that any of them had.
#[test]
fn ranks_of_other_meshes_are_estimated_within_a_twentieth() {
    for (dp_replicate, dp_shard, pp, pp_ahead, recompute, mib) in [
        (2, 1, 1, true, false, 488),
        (1, 2, 1, true, false, 464),
        (1, 1, 2, true, false, 525),
        (1, 1, 2, false, false, 406),
        (1, 2, 1, true, true, 218),
    ] {
        let mut facts = facts(model([512, 1408, 8, 8, 8, 64, 4096], ATTENTION));
        facts.data = Data { rows: Some(16), longest_tokens: Some(1024), max_seq_length: 1024, ..facts.data };
        let training = Training { recompute, pp_ahead, d: 4096, dropout: 0.0, ..facts.training };
        facts.training = Training { micro_batch_size: 1, accumulation: 4, ..training };
        facts.ranks = mesh(dp_replicate, dp_shard, pp);
        let memory = plan(&facts).memory;
        let alive = (memory.peak - MAPPED_LIBRARIES) as f64 / f64::from(1 << 20);
        let error = alive / f64::from(mib) - 1.0;
        assert!(error.abs() < 0.05, "{alive:.0} MiB, measured {mib}: {error:+.3}");
    }
}
