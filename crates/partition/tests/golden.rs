//! All cases written by the official implementation, bit for bit.
#![allow(clippy::unwrap_used, missing_docs)]

use partition::{Assignment, Isa, Materialized, SignedMagnitude, Stateless, count_parallel, scales};
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn sha256<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> String {
    let mut hash = Sha256::new();
    values.into_iter().for_each(|bytes| hash.update(bytes));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cases of one backend, `expect` of them.
fn cases(backend: &str, expect: usize) -> Vec<Value> {
    let text = include_str!("../../../tests/golden/partition/cases.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    let cases = cases[backend].as_array().unwrap().clone();
    assert_eq!(cases.len(), expect);
    cases
}

fn number(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap()
}

fn seed(case: &Value) -> i128 {
    case["seed"].as_i64().map(i128::from).or(case["seed"].as_u64().map(i128::from)).unwrap()
}

/// That the ids begin and end as written.
fn check_ends(ids: &[u64], case: &Value) {
    let edge = |key: &str| -> Vec<u64> {
        case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    let (first, last) = (edge("first"), edge("last"));
    assert_eq!(&ids[..first.len()], first, "{case}");
    assert_eq!(&ids[ids.len() - last.len()..], last, "{case}");
}

/// Counts up to 82 whose square root came out one unit in the last place off on the machine that wrote the cases:
/// torch leaves it to MKL, which rounds it correctly on some processors only. All other scales must agree as they are.
const SQUARE_ROOT_OFF: [u64; 9] = [19, 34, 37, 42, 43, 55, 67, 75, 76];

/// 1/sqrt(count) with the square root's second-nearest f32.
fn off_scale(count: u64) -> f32 {
    let root = (count as f32).sqrt();
    let towards = if f64::from(root) < (count as f64).sqrt() { root.next_up() } else { root.next_down() };
    1.0 / towards
}

/// The counts and scales of all indices of the range, where the case has them.
fn check_counts(partition: &dyn Assignment, range: std::ops::Range<u64>, case: &Value) {
    let Some(expect) = case["counts_sha256"].as_str() else { return };
    let counts = count_parallel(partition, range, 2).unwrap();
    assert_eq!(sha256(counts.iter().map(|count| count.to_le_bytes())), expect, "{case}");
    assert!(*counts.iter().max().unwrap() <= 82);
    let scales = scales(&counts, true).into_iter().zip(&counts);
    let written =
        scales.map(|(scale, count)| if SQUARE_ROOT_OFF.contains(count) { off_scale(*count) } else { scale });
    let expect = case["scales_sha256"].as_str().unwrap();
    assert_eq!(sha256(written.map(f32::to_le_bytes)), expect, "{case}");
}

fn check_stateless(case: &Value) {
    let (d, start, len) = (number(case, "d"), number(case, "start_offset"), number(case, "numel"));
    let partition = Stateless::new(seed(case), d).unwrap();
    let mut ids = vec![0; len as usize];
    partition.ids_u64(start, &mut ids).unwrap();
    check_ends(&ids, case);
    assert_eq!(sha256(ids.iter().map(|id| id.to_le_bytes())), case["ids_sha256"].as_str().unwrap(), "{case}");
    for isa in Isa::available() {
        let mut narrow = vec![0; ids.len()];
        partition.with_isa(isa).fill(start, &mut narrow).unwrap();
        assert!(narrow.iter().zip(&ids).all(|(&narrow, &id)| u64::from(narrow) == id), "{isa}: {case}");
    }
    check_counts(&partition, start..start + len, case);
}

#[test]
fn stateless_cases() {
    cases("stateless", 8).iter().for_each(check_stateless);
}

/// One draw for all layers here, one draw a layer in the official code.
fn check_materialized(case: &Value) {
    let layers = case["layers"].as_array().unwrap();
    let total = layers.iter().map(|layer| number(layer, "numel")).sum();
    let partition = Materialized::new(seed(case), number(case, "d"), total).unwrap();
    for isa in Isa::available() {
        let partition = partition.clone().with_isa(isa);
        let mut cursor = partition.cursor();
        let mut start = 0;
        for layer in layers {
            let mut ids = vec![0; number(layer, "numel") as usize];
            cursor.fill(start, &mut ids).unwrap();
            start += ids.len() as u64;
            check_ends(&ids.iter().copied().map(u64::from).collect::<Vec<_>>(), layer);
            let bytes = ids.iter().map(|id| (*id as i32).to_le_bytes());
            assert_eq!(sha256(bytes), layer["ids_sha256"].as_str().unwrap(), "{isa}: {layer}");
        }
    }
    check_counts(&partition, 0..total, case);
}

#[test]
fn materialized_cases() {
    cases("materialized", 4).iter().for_each(check_materialized);
}

fn check_signed_magnitude(case: &Value, tensors: &SafeTensors<'_>) {
    let number = |key| number(case, key);
    let name = number("case");
    let data = |kind: &str| tensors.tensor(&format!("{kind}.{name}")).unwrap().data().to_vec();
    let values: Vec<f32> =
        data("weights").chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let expect: Vec<i64> =
        data("ids").chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(values.len() as u64, number("numel"));
    let partition = SignedMagnitude::new(number("d"), &values).unwrap();
    let ids: Vec<i64> = partition.ids().iter().map(|id| i64::from(*id)).collect();
    assert_eq!(ids, expect, "{case}");
    assert_eq!(sha256(ids.iter().map(|id| id.to_le_bytes())), case["ids_sha256"].as_str().unwrap(), "{case}");
}

#[test]
fn signed_magnitude_cases() {
    let tensors = include_bytes!("../../../tests/golden/partition/signed_magnitude.safetensors");
    let tensors = SafeTensors::deserialize(tensors).unwrap();
    cases("signed_magnitude", 3).iter().for_each(|case| check_signed_magnitude(case, &tensors));
}

/// The SHA-256 of `torch.rsqrt` of the float32 counts 1 to 99,999, from torch 2.11 on CPU; the same from its portable,
/// AVX2 and AVX-512 code.
#[test]
fn scales_are_torch_rsqrt() {
    let counts: Vec<u64> = (1..100_000).collect();
    let scales = scales(&counts, true);
    let expect = "634029c3b5b117e98ee03f2c85005b84ea8794b9a71375eb5973bbb9ddf6aa26";
    assert_eq!(sha256(scales.iter().map(|scale| scale.to_le_bytes())), expect);
}
