//! The stateless cases written by the official implementation, bit for bit.
#![allow(clippy::unwrap_used, missing_docs)]

use partition::{Assignment, Isa, Stateless, count_parallel, scales};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn sha256<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> String {
    let mut hash = Sha256::new();
    values.into_iter().for_each(|bytes| hash.update(bytes));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(case: &Value) {
    let number = |key: &str| case[key].as_u64().unwrap();
    let seed = case["seed"].as_i64().map(i128::from).or(case["seed"].as_u64().map(i128::from)).unwrap();
    let (d, start, len) = (number("d"), number("start_offset"), number("numel"));
    let partition = Stateless::new(seed, d).unwrap();
    let mut ids = vec![0; len as usize];
    partition.ids_u64(start, &mut ids).unwrap();
    let edge = |key: &str| -> Vec<u64> {
        case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    assert_eq!(&ids[..16], edge("first"), "{case}");
    assert_eq!(&ids[ids.len() - 16..], edge("last"), "{case}");
    assert_eq!(sha256(ids.iter().map(|id| id.to_le_bytes())), case["ids_sha256"].as_str().unwrap(), "{case}");
    for isa in Isa::available() {
        let mut narrow = vec![0; ids.len()];
        partition.with_isa(isa).fill(start, &mut narrow).unwrap();
        assert!(narrow.iter().zip(&ids).all(|(&narrow, &id)| u64::from(narrow) == id), "{isa}: {case}");
    }
    if let Some(expect) = case["counts_sha256"].as_str() {
        let counts = count_parallel(&partition, start..start + len, 2).unwrap();
        assert_eq!(sha256(counts.iter().map(|count| count.to_le_bytes())), expect, "{case}");
        let scales = scales(&counts, true);
        let expect = case["scales_sha256"].as_str().unwrap();
        assert_eq!(sha256(scales.iter().map(|scale| scale.to_le_bytes())), expect, "{case}");
    }
}

#[test]
fn stateless_cases() {
    let text = include_str!("../../../tests/golden/partition/cases.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    let cases = cases["stateless"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    cases.iter().for_each(check);
}
