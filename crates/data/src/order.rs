//! The official data order: torch's random permutation, seeded with seed + epoch.

use rand_mt::Mt;

/// One more than the largest dataset whose order can be drawn: from here on torch draws 64-bit words.
pub const MAX_ROWS: u64 = (u32::MAX / 20) as u64;

/// The row numbers of epoch `epoch` (from 0) in training order. Without `shuffle` every epoch is 0, 1, 2, …
///
/// `rows` must be less than [`MAX_ROWS`].
pub fn epoch_order(rows: u32, seed: u64, epoch: u64, shuffle: bool) -> Vec<u32> {
    if shuffle { randperm(rows, seed.wrapping_add(epoch)) } else { (0..rows).collect() }
}

/// `torch.randperm(n)` on the CPU with a generator of this seed, bit for bit, for `n` below [`MAX_ROWS`].
///
/// The generator is MT19937, started from the low 32 bits of the seed. Place i is swapped with place
/// i + (word mod (n - i)), for i = 0 … n - 2.
pub fn randperm(n: u32, seed: u64) -> Vec<u32> {
    let mut generator = Mt::new(seed as u32);
    let mut order: Vec<u32> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        let z = generator.next_u32() % (n - i);
        order.swap(i as usize, (i + z) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    fn numbers(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
    }

    #[test]
    fn equals_torch() {
        let golden = include_str!("../../../tests/golden/order/randperm.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let field = |name: &str| case[name].as_u64().unwrap();
            let order = epoch_order(field("n") as u32, field("seed"), field("epoch"), true);
            assert!(order.starts_with(&numbers(&case["first"])), "{case}");
            assert!(order.ends_with(&numbers(&case["last"])), "{case}");
            let bytes: Vec<u8> = order.iter().flat_map(|&i| i64::from(i).to_le_bytes()).collect();
            let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hash, case["sha256"].as_str().unwrap(), "{case}");
            if let Some(whole) = case.get("order") {
                assert_eq!(order, numbers(whole));
            }
        }
    }

    #[test]
    fn sequential_and_empty() {
        assert_eq!(epoch_order(4, 42, 9, false), [0, 1, 2, 3]);
        assert_eq!(randperm(0, 42), [0; 0]);
    }
}
