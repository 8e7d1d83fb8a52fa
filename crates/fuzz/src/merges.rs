//! What a merge reads of the base's files.

use adapter::{AdaptedSpace, Selection};
use merge::Dtype;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::adapters::candidates;
use crate::scratch::{Scratch, with_file};
use crate::show::refused;

thread_local! {
    static SHARD: Scratch = Scratch::new("model.safetensors", &[]);
    static SPACE: AdaptedSpace = AdaptedSpace::select(&candidates(), &Selection::of_names(["q_proj", "v_proj"]))
        .expect("the modules are there");
}

/// The header of a shard, and the one made of it for the output.
pub(crate) fn header(bytes: &[u8]) -> bool {
    // What a merge opens has passed the reader of safetensors; a file that has must give one that does.
    let is_sound = SafeTensors::deserialize(bytes).is_ok();
    with_file(&SHARD, bytes, |scratch| {
        let mut accepted = false;
        for dtype in [None, Some(Dtype::Float32), Some(Dtype::Bfloat16)] {
            match SPACE.with(|space| merge::fuzzing::output_header(scratch.file(), dtype, space)) {
                Err(error) => drop(refused(&error)),
                Ok((mut output, tensor_bytes)) => {
                    accepted = true;
                    if is_sound {
                        assert!(tensor_bytes <= 4 * bytes.len() as u64, "no number grows more than fourfold");
                        output.resize(output.len() + tensor_bytes as usize, 0);
                        let read = SafeTensors::deserialize(&output);
                        assert!(read.is_ok(), "the output's header is no header: {:?}", read.err());
                    }
                }
            }
        }
        accepted || is_sound && panic!("a sound file was refused")
    })
}

/// A value of a JSON text, replaced: the rest of the text is still JSON and still the same.
pub(crate) fn text(bytes: &[u8]) -> bool {
    let Ok(old) = std::str::from_utf8(bytes) else { return false };
    let mut accepted = false;
    for path in [&["dtype"][..], &["metadata", "total_size"]] {
        let mut new = old.to_owned();
        if merge::fuzzing::replace_value(&mut new, path, "\"new\"").is_err() {
            assert_eq!(new, old, "what is refused stays as it is");
            continue;
        }
        accepted = true;
        // A number that no f64 holds is text to the one and an error to the other.
        let (Ok(mut before), Ok(after)) =
            (serde_json::from_str::<Value>(old), serde_json::from_str::<Value>(&new))
        else {
            continue;
        };
        if new != old {
            let place = path.iter().try_fold(&mut before, |value, key| value.get_mut(key));
            *place.expect("what was replaced was there") = Value::from("new");
        }
        assert_eq!(before, after, "nothing but the value changed");
    }
    accepted
}
