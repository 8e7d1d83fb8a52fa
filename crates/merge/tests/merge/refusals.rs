//! What is refused, with what is left behind: nothing.

use std::os::unix::fs::symlink;
use std::path::Path;

use adapter::{AdaptedSpace, Candidate, Selection};
use merge::{Base, Dtype, MergeError, prepare};

use crate::fixture::{
    Loaded, Stored, config, merge, names, options, small, tensors, write_adapter, write_model,
};

fn check_refused(room: &Path, output: &Path, expect: &str) {
    let (base, adapter) = (room.join("model"), room.join("adapter"));
    let before = (names(room), names(&base), names(&adapter));
    let error = merge(&base, &adapter, output, None).unwrap_err().to_string();
    assert!(error.contains(expect), "{}: {error} lacks {expect}", output.display());
    assert_eq!((names(room), names(&base), names(&adapter)), before);
}

#[test]
fn an_output_in_an_input_or_with_something_in_it() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    small(room);
    symlink(room.join("model"), room.join("link")).unwrap();
    symlink(room, room.join("up")).unwrap();
    let check = |output: &str, expect: &str| check_refused(room, &room.join(output), expect);
    check("model", "the same folder as the base");
    check("model/", "the same folder as the base");
    check("./adapter/../model", "the same folder as the base");
    check("link", "the same folder as the base");
    check("up/up/model/.", "the same folder as the base");
    check("missing/../model", "the same folder as the base");
    check("model/merged", "inside the base");
    check("link/a/b", "inside the base");
    check("model/../link/a/../b", "inside the base");
    check("adapter", "the same folder as the adapter");
    check("up/adapter/merged", "inside the adapter");
    check(".", "is not empty: it holds ");
    check("model/config.json", "inside the base");
    std::fs::write(room.join("file"), "").unwrap();
    check("file", "cannot be a folder");
    check("file/merged", "cannot be a folder");
    std::fs::create_dir(room.join("used")).unwrap();
    std::fs::write(room.join("used/config.json"), "mine").unwrap();
    check("used", "is not empty: it holds config.json");
    assert_eq!(std::fs::read(room.join("used/config.json")).unwrap(), b"mine");
}

#[test]
fn a_new_or_empty_output_is_taken() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    std::fs::create_dir(room.path().join("empty")).unwrap();
    symlink(room.path().join("empty"), room.path().join("link")).unwrap();
    // A name that only begins as the base's does is another folder.
    for output in ["link", "new", "model-merged", "a/b/c", "a/missing/../d"] {
        let report = merge(&base, &adapter, &room.path().join(output), None).unwrap();
        assert_eq!(names(&report.output), ["config.json", "model.safetensors", "tokenizer.json"], "{output}");
    }
    assert!(room.path().join("empty/config.json").exists());
    assert!(!room.path().join("a/missing").exists());
    let error = merge(&base, &adapter, &room.path().join("new"), None).unwrap_err();
    assert!(matches!(error, MergeError::OutputNotEmpty { .. }), "{error}");
}

/// Merges a model of edited tensors into a nested folder; the error, after a look at what is left.
fn error_of(edit: impl FnOnce(&mut Vec<Stored>), size: f32, dtype: Option<Dtype>) -> MergeError {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = (room.path().join("model"), room.path().join("adapter"));
    let mut tensors = tensors("F32");
    edit(&mut tensors);
    write_model(&base, &tensors);
    write_adapter(&adapter, 30, size);
    let before = names(room.path());
    let error = merge(&base, &adapter, &room.path().join("made/here"), dtype).unwrap_err();
    assert_eq!(names(room.path()), before, "{error}");
    error
}

const ADAPTED: &str = "model.layers.1.mlp.down_proj.weight";

fn tensor<'t>(tensors: &'t mut [Stored], name: &str) -> &'t mut Stored {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let check = |name: &'static str, value: f32, size: f32, dtype: Option<Dtype>, expect: &str| {
        let edit = |all: &mut Vec<Stored>| {
            tensor(all, name).values[5] = value;
            tensor(all, name).values[7] = value;
        };
        let error = error_of(edit, size, dtype).to_string();
        assert!(error.contains(name) && error.contains("element 5") && error.contains(expect), "{error}");
    };
    check(ADAPTED, f32::NAN, 0.5, None, "is NaN in float32");
    check(ADAPTED, f32::INFINITY, 0.0, None, "is inf in float32");
    check(ADAPTED, 70000.0, 0.5, Some(Dtype::Float16), "70000 + ");
    check(ADAPTED, -70000.0, 0.5, Some(Dtype::Float16), "is -inf in float16");
    check("model.embed_tokens.weight", 1e9, 0.5, Some(Dtype::Float16), "1000000000 + 0 is inf in float16");
    check("model.norm.weight", f32::MAX, 0.5, Some(Dtype::Bfloat16), "is inf in bfloat16");
}

#[test]
fn a_base_that_lacks_something() {
    let check = |edit: &dyn Fn(&mut Stored), expect: &str| {
        let error = error_of(|all| edit(tensor(all, ADAPTED)), 0.5, None).to_string();
        assert!(error.contains(expect), "{error} lacks {expect}");
    };
    check(&|t| t.name = "other".to_owned(), &format!("'{ADAPTED}' is missing"));
    check(&|t| t.dtype = "I8", "I8");
    check(&|t| t.shape.reverse(), &format!("'{ADAPTED}' has shape"));
}

#[test]
fn an_adapter_of_another_model() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    let loaded = Loaded::read(&base, &adapter);
    let options = options(&room.path().join("out"), &adapter, None);
    let whole = Base { files: &loaded.files, config: &loaded.config };
    let check = |name: &str, shape: [u64; 2], bias: bool, expect: &str| {
        let candidate = Candidate { name: name.to_owned(), shape, bias };
        let selection = Selection { bias, ..Selection::of_names(["q_proj"]) };
        let space = AdaptedSpace::select(&[candidate], &selection).unwrap();
        let error = prepare(whole, &loaded.adapter, &space, &options).unwrap_err().to_string();
        assert!(error.contains(expect), "{error} lacks {expect}");
    };
    check("model.layers.2.self_attn.q_proj", [8, 8], false, "layers.2.self_attn.q_proj.weight' is missing");
    check(
        "model.layers.1.self_attn.q_proj",
        [8, 16],
        false,
        "has shape [8, 8] where the adapter has [8, 16]",
    );
    check("model.layers.1.self_attn.q_proj", [8, 8], true, "q_proj.bias' is missing");

    let plan = prepare(whole, &loaded.adapter, &loaded.space, &options).unwrap();
    let error = plan.run(&*loaded.assignment, &loaded.scales[1..], &|_| ()).unwrap_err();
    assert!(matches!(error, MergeError::WrongD { theta: 30, d: 30, scales: 29 }), "{error}");
    let mut short = loaded.adapter.clone();
    short.theta.pop();
    let error = prepare(whole, &short, &loaded.space, &options).unwrap_err();
    assert!(matches!(error, MergeError::WrongD { theta: 29, d: 30, .. }), "{error}");
    assert_eq!(names(room.path()), ["adapter", "model"]);
}

#[test]
fn another_base_name_is_a_warning() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = small(room.path());
    let check = |name: Option<&str>, warns: bool| {
        let mut loaded = Loaded::read(&base, &adapter);
        loaded.adapter.config.base_model_name_or_path = name.map(str::to_owned);
        let output = room.path().join("out");
        let report = loaded.merge(&options(&output, &adapter, None), &|_| ()).unwrap();
        assert_eq!(!report.warnings.is_empty(), warns, "{report:?}");
        std::fs::remove_dir_all(output).unwrap();
    };
    check(None, false);
    check(Some("someone/Model"), false);
    check(Some("someone/another-model"), true);
}

#[test]
fn a_config_of_another_architecture_never_comes_so_far() {
    let mut value = config();
    value["architectures"] = serde_json::json!(["OPTForCausalLM"]);
    value["model_type"] = serde_json::json!("opt");
    assert!(model::ModelConfig::from_json(&value.to_string(), Path::new("config.json")).is_err());
}
