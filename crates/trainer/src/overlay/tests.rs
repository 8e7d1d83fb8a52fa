#![allow(clippy::unwrap_used)]

use adapter::Selection;
use model::{BlockWeights, ModelConfig};
use partition::Stateless;
use projection::Serial;

use super::*;

/// What is made here and sent elsewhere has the bits of what is made in place: in f32 and in half precision, with dropout
/// and without, biases included.
#[test]
fn updates_for_another_device_are_those_made_in_place() {
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 5, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2
    });
    let config = ModelConfig::from_json(&config.to_string(), std::path::Path::new("config.json")).unwrap();
    let mut selection = Selection::of_names(["q_proj", "v_proj", "down_proj"]);
    selection.bias = true;
    let space = AdaptedSpace::select(&crate::linear_modules(&config), &selection).unwrap();
    let partition = Stateless::new(42, 37).unwrap();
    let values: Vec<f32> = (0..37).map(|j| ((j * j) as f32 - 300.0) * 1.7e-3).collect();
    let theta = ScaledTheta { values: &values, stamp: 1 };
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
        tch::manual_seed(3);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
        let tensors = model::block_specs(&config, 1).iter().map(|(_, shape)| random(shape)).collect();
        let frozen = BlockWeights::from_tensors(&config, tensors);
        let masks = [None, Dropout::new(0.3, 7, 2, 1).unwrap()];
        for (dropout, merge) in masks.into_iter().flat_map(|mask| [(mask, false), (mask, true)]) {
            let mut overlay = Overlay::new(&space, 0..2, &partition, &Serial, (kind, Device::Cpu));
            if merge {
                overlay.merge();
            }
            overlay.restore(1, &frozen, theta, dropout).unwrap();
            let buffers = |overlay: &Overlay<'_>| -> Vec<Tensor> {
                overlay.slots[1].buffers.iter().map(|buffer| buffer.values.copy()).collect()
            };
            let expected = buffers(&overlay);
            assert!(expected.len() > 3, "weights and biases");
            for buffer in &mut overlay.slots[1].buffers {
                let _ = buffer.values.zero_();
            }
            let before = overlay.slots[1].buffers[0].values.shallow_clone();
            overlay.fill_elsewhere(1, 1, &frozen, theta, dropout).unwrap();
            assert_eq!(buffers(&overlay), expected, "{kind:?} {dropout:?} {merge}");
            assert_eq!(before, expected[0], "the buffers stay where they are");
        }
    }
}
