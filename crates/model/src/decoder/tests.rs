#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

fn decoder(edit: impl Fn(&mut serde_json::Value), kind: Kind) -> Decoder {
    let mut value = serde_json::json!({
        "architectures": ["MistralForCausalLM"], "vocab_size": 3, "hidden_size": 8, "intermediate_size": 4,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": null
    });
    edit(&mut value);
    let config = ModelConfig::from_json(&value.to_string(), Path::new("config.json")).unwrap();
    Decoder::new(config, kind, Device::Cpu)
}

/// The masks of two rows of six tokens against the rule, position by position.
#[test]
fn masks_follow_the_rule_and_are_made_only_where_needed() {
    const T: usize = 6;
    let check =
        |attention_mask: [i64; 2 * T], window: Option<i64>, full_expected: bool, windowed_expected: bool| {
            let model = decoder(|v| v["sliding_window"] = window.into(), Kind::Float);
            let context = model.context(&attention_mask, 2, T);
            assert_eq!(context.mask(false).is_some(), full_expected);
            assert_eq!(context.mask(true).is_some(), windowed_expected);
            for (mask, window) in [(context.mask(false), None), (context.mask(true), window)] {
                let Some(mask) = mask else { continue };
                let mask = mask.expand([2, 1, T as i64, T as i64], true);
                for (b, i, j) in (0..2).flat_map(|b| (0..T).flat_map(move |i| (0..T).map(move |j| (b, i, j))))
                {
                    let near = window.is_none_or(|w| (i as i64) - w < j as i64);
                    // Where all padding is on the right, causality keeps tokens from it, and masks do not name it.
                    let real = attention_mask[b * T + j] == 1 || !full_expected;
                    let expected = i == j || (j <= i && near && real);
                    let found = mask.int64_value(&[b as i64, 0, i as i64, j as i64]) == 1;
                    assert_eq!(found, expected, "row {b}, {i} to {j}, window {window:?}");
                }
            }
        };
    let right = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0];
    let left = [1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1];
    check(right, None, false, false);
    check(right, Some(6), false, false);
    check(right, Some(5), false, true);
    check(right, Some(1), false, true);
    check(left, None, true, true);
    check(left, Some(6), true, true);
    check(left, Some(3), true, true);
}

/// In bfloat16 the scale of the embedding is rounded first: sqrt(3072) = 55.43 becomes 55.5.
#[test]
fn the_scale_of_the_embedding_is_rounded_to_the_compute_dtype() {
    for (kind, expected) in [(Kind::Float, 3072_f64.sqrt()), (Kind::BFloat16, 55.5), (Kind::Half, 55.4375)] {
        let gemma = |v: &mut serde_json::Value| {
            v["architectures"] = serde_json::json!(["GemmaForCausalLM"]);
            v["hidden_size"] = 3072.into();
        };
        let table = Tensor::ones([3, 3072], (kind, Device::Cpu));
        let found = decoder(gemma, kind).embed(&table, &Tensor::from_slice(&[1_i64]).unsqueeze(0));
        assert!((found.double_value(&[0, 0, 0]) - expected).abs() < 1e-5, "{kind:?}");
        let plain = decoder(|_| (), kind).embed(&table, &Tensor::from_slice(&[1_i64]).unsqueeze(0));
        assert_eq!(plain.double_value(&[0, 0, 0]), 1.0);
    }
}

/// What differs between the two norms in half precision is where they round.
#[test]
fn norms_round_where_transformers_does() {
    let kind = Kind::BFloat16;
    let x = Tensor::randn([64, 8], (Kind::Float, Device::Cpu)).to_kind(kind);
    let weight = (Tensor::randn([8], (Kind::Float, Device::Cpu)) * 0.1).to_kind(kind);
    let wide = x.to_kind(Kind::Float);
    let normed = &wide * (wide.square().mean_dim(-1, true, Kind::Float) + 1e-6).rsqrt();
    let gemma = decoder(|v| v["architectures"] = serde_json::json!(["GemmaForCausalLM"]), kind);
    let once = (&normed * (weight.to_kind(Kind::Float) + 1.0)).to_kind(kind);
    assert_eq!(gemma.final_norm(&weight, &x), once);
    let centred = (weight.to_kind(Kind::Float) + 1.0).to_kind(kind);
    let twice = normed.to_kind(kind) * &centred;
    assert_eq!(decoder(|_| (), kind).final_norm(&centred, &x), twice);
    assert_ne!(once, twice, "the case tells the two apart");
}

/// Against the formulas in f64; at ±2 the two spellings of GELU differ by a thousand times the tolerance.
#[test]
fn activations_are_their_formulas() {
    let points: Vec<f64> = (-40..=40).map(|at| f64::from(at) / 8.0).collect();
    let x = Tensor::from_slice(&points);
    let tanh_gelu = |x: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let check = |architecture: &str, formula: &dyn Fn(f64) -> f64| {
        let model = decoder(|v| v["architectures"] = serde_json::json!([architecture]), Kind::Double);
        let found = Vec::<f64>::try_from(model.activate(&x)).unwrap();
        for (x, found) in points.iter().zip(found) {
            assert!((found - formula(*x)).abs() < 1e-7, "{architecture} at {x}: {found}");
        }
    };
    check("GemmaForCausalLM", &tanh_gelu);
    check("LlamaForCausalLM", &silu);
}

/// A block over sequences end to end gives each what it gets alone, with and without a window shorter than some.
#[test]
fn packed_sequences_do_not_see_each_other() {
    let lengths = [5_usize, 1, 9];
    for window in [None, Some(4)] {
        let model = decoder(|v| v["sliding_window"] = window.into(), Kind::Double);
        tch::manual_seed(3);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
        let ones = || Tensor::ones([8], (Kind::Double, Device::Cpu));
        let weights = BlockWeights::from_parts(ones(), ones(), |kind| random(&kind.shape(model.config())));
        let x = random(&[1, 15, 8]);
        let packed = model.block(0, &weights, &x, &model.packed_context(&lengths));
        let mut start = 0;
        for length in lengths {
            let part = |x: &Tensor| x.narrow(1, start, length as i64);
            let alone = model.block(0, &weights, &part(&x), &model.context(&vec![1; length], 1, length));
            let off = (part(&packed) - alone).abs().max().double_value(&[]);
            assert!(off < 1e-12, "{length} tokens from {start}, window {window:?}: {off}");
            start += length as i64;
        }
        // One row of all of them is another thing.
        let one = model.block(0, &weights, &x, &model.context(&[1; 15], 1, 15));
        assert!((one - packed).abs().max().double_value(&[]) > 1e-3);
    }
}
