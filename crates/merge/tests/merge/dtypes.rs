//! Every dtype into every other: numbers, headers, and the files beside them.

use std::path::Path;

use merge::{Dtype, Report};
use serde_json::{Value, json};

use crate::fixture::{
    Loaded, Stored, config, decode, encode, header, merge, names, options, read_tensors, tensors,
    write_adapter, write_model, write_sharded_model,
};

const HEADER_NAMES: [(Dtype, &str); 3] =
    [(Dtype::Float32, "F32"), (Dtype::Bfloat16, "BF16"), (Dtype::Float16, "F16")];

/// Rounding to nearest even by arithmetic: to a multiple of the step at x, which is 2^-`precision` of its power of two
/// and no finer than `smallest`.
fn round(x: f32, dtype: &str) -> f32 {
    let (precision, smallest) = match dtype {
        "F32" => return x,
        "BF16" => (7, 2_f64.powi(-133)),
        _ => (10, 2_f64.powi(-24)),
    };
    let mut step = 1.0;
    while step > f64::from(x.abs()) {
        step /= 2.0;
    }
    while 2.0 * step <= f64::from(x.abs()) {
        step *= 2.0;
    }
    let step = (step * 2_f64.powi(-precision)).max(smallest);
    ((f64::from(x) / step).round_ties_even() * step) as f32
}

/// Tensors of which one is no weight and one is empty.
fn odd_tensors(dtype: &'static str) -> Vec<Stored> {
    let mut all = tensors(dtype);
    let stored = |name: &str, dtype, shape: &[u64], values: &[f32]| Stored {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        values: values.to_vec(),
    };
    all.insert(3, stored("model.position_ids", "I64", &[3], &[0.0, 1.0, -2.0]));
    all.push(stored("model.nothing", "F32", &[0, 4], &[]));
    // A number that a base may well hold and that no adapter touches.
    all[0].values[5] = f32::NEG_INFINITY;
    all
}

#[test]
fn every_number_is_the_rounded_sum() {
    let room = tempfile::tempdir().unwrap();
    let adapter = room.path().join("adapter");
    write_adapter(&adapter, 30, 0.5);
    for (_, from) in HEADER_NAMES {
        let base = room.path().join(from);
        write_model(&base, &odd_tensors(from));
        let before = read_tensors(&base);
        for to in [None, Some(Dtype::Float32), Some(Dtype::Bfloat16), Some(Dtype::Float16)] {
            let output = room.path().join(format!("{from} as {to:?}"));
            let loaded = Loaded::read(&base, &adapter);
            let deltas = loaded.deltas();
            let report = loaded.merge(&options(&output, &adapter, to), &|_| ()).unwrap();
            let after = read_tensors(&output);
            let to_name = to.map_or(from, |to| HEADER_NAMES.iter().find(|(d, _)| *d == to).unwrap().1);
            assert!(before.keys().eq(after.keys()));
            for (name, (dtype, bytes)) in &after {
                let (old_dtype, old_bytes) = &before[name];
                if old_dtype == "I64" {
                    assert_eq!((dtype, bytes), (old_dtype, old_bytes));
                    continue;
                }
                assert_eq!(dtype, if name == "model.nothing" && to.is_none() { "F32" } else { to_name });
                let base = decode(old_dtype, old_bytes);
                let delta = deltas.get(name).cloned().unwrap_or_else(|| vec![0.0; base.len()]);
                let expect = base.iter().zip(&delta).map(|(w, d)| match w.is_finite() {
                    true => round(w + d, to_name),
                    false => *w,
                });
                let expect: Vec<f32> = expect.collect();
                assert_eq!(encode(to_name, &expect), *bytes, "{name}: {from} as {to_name}");
                if deltas.contains_key(name) {
                    assert_ne!(encode(to_name, &base), *bytes, "{name} is adapted");
                }
            }
            check_header(&base, &output, to.map(|_| to_name));
            assert_eq!(report.merged_tensors, 4);
            // Without a change of type only the adapted tensors are computed; the empty one is always F32.
            let converted = match to {
                None => 0,
                Some(_) if from == to_name => usize::from(from != "F32"),
                Some(_) => after.len() - 1 - 4 - usize::from(to_name == "F32"),
            };
            assert_eq!(report.converted_tensors, converted, "{from} as {to:?}");
            assert_eq!(report.copied_tensors, after.len() - 4 - converted);
        }
    }
}

/// Keys, shapes and metadata as they were, in the same order; the data in the same order.
fn check_header(base: &Path, output: &Path, dtype: Option<&str>) {
    let [before, after] = [base, output].map(|folder| header(&folder.join("model.safetensors")));
    let (before, after) = (before.as_object().unwrap(), after.as_object().unwrap());
    assert!(before.keys().eq(after.keys()));
    assert_eq!(before["__metadata__"], after["__metadata__"]);
    let by_position = |header: &serde_json::Map<String, Value>| {
        let mut names: Vec<&String> = header.keys().filter(|name| *name != "__metadata__").collect();
        names.sort_by_key(|name| header[*name]["data_offsets"][1].as_u64().unwrap());
        names.into_iter().cloned().collect::<Vec<_>>()
    };
    assert_eq!(by_position(before), by_position(after));
    for (name, info) in after.iter().filter(|(name, _)| *name != "__metadata__") {
        assert_eq!(info["shape"], before[name]["shape"]);
        if dtype.is_none() {
            assert_eq!(info, &before[name]);
        }
    }
}

#[test]
fn the_config_names_the_dtype_that_was_chosen() {
    let check = |edit: &dyn Fn(&mut Value), dtype: Option<Dtype>, expect: &dyn Fn(&mut Value)| {
        let room = tempfile::tempdir().unwrap();
        let (base, adapter) = crate::fixture::small(room.path());
        let mut value = config();
        edit(&mut value);
        // An unusual layout, of which nothing may change.
        let text =
            |value: &Value| serde_json::to_string_pretty(value).unwrap().replace("\n  ", "\n\t ") + "\n\n";
        std::fs::write(base.join("config.json"), text(&value)).unwrap();
        merge(&base, &adapter, &room.path().join("out"), dtype).unwrap();
        expect(&mut value);
        assert_eq!(std::fs::read_to_string(room.path().join("out/config.json")).unwrap(), text(&value));
    };
    let same = |_: &mut Value| ();
    check(&same, None, &same);
    check(&same, Some(Dtype::Bfloat16), &|v| v["torch_dtype"] = json!("bfloat16"));
    check(&|v| v["dtype"] = json!("float32"), Some(Dtype::Float16), &|v| {
        v["torch_dtype"] = json!("float16");
        v["dtype"] = json!("float16");
    });
    check(&|v| drop(v.as_object_mut().unwrap().remove("torch_dtype")), Some(Dtype::Float16), &same);
    check(&|v| v["torch_dtype"] = Value::Null, Some(Dtype::Float16), &same);
}

#[test]
fn a_sharded_base_stays_sharded() {
    let room = tempfile::tempdir().unwrap();
    let (single, sharded, adapter) =
        (room.path().join("single"), room.path().join("sharded"), room.path().join("adapter"));
    write_model(&single, &tensors("F32"));
    write_sharded_model(&sharded, &tensors("F32"));
    write_adapter(&adapter, 30, 0.5);
    let index = |folder: &Path| std::fs::read_to_string(folder.join("model.safetensors.index.json")).unwrap();
    for dtype in [None, Some(Dtype::Bfloat16)] {
        let [one, two] = [(&single, "one"), (&sharded, "two")].map(|(base, name)| {
            let output = room.path().join(format!("{name} {dtype:?}"));
            let report = merge(base, &adapter, &output, dtype).unwrap();
            (output, report)
        });
        assert_eq!(read_tensors(&one.0), read_tensors(&two.0));
        assert_eq!((&one.1.kept, &one.1.by_kind), (&two.1.kept, &two.1.by_kind));
        let mut expect = names(&sharded);
        expect.retain(|name| name != "README.md");
        assert_eq!(names(&two.0), expect);
        let factor = if dtype.is_some() { 2 } else { 1 };
        let size = |folder: &Path| {
            let value: Value = serde_json::from_str(&index(folder)).unwrap();
            value["metadata"]["total_size"].as_u64().unwrap()
        };
        assert_eq!(size(&two.0) * factor, size(&sharded));
        let replaced = index(&sharded).replace(&size(&sharded).to_string(), &size(&two.0).to_string());
        assert_eq!(index(&two.0), replaced);
        let lengths: u64 =
            names(&two.0).iter().map(|name| std::fs::metadata(two.0.join(name)).unwrap().len()).sum();
        assert_eq!(two.1.bytes, lengths);
        assert_eq!(two.1.files.len(), names(&two.0).len());
        assert_eq!(two.1.files.last().unwrap().name, "config.json");
    }
}

#[test]
fn threads_change_nothing() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = crate::fixture::small(room.path());
    let loaded = Loaded::read(&base, &adapter);
    let run = |threads: usize| -> (Report, _) {
        let output = room.path().join(format!("out-{threads}"));
        let options = merge::Options { threads, ..options(&output, &adapter, Some(Dtype::Bfloat16)) };
        let report = loaded.merge(&options, &|_| ()).unwrap();
        (Report { output: "same".into(), ..report }, read_tensors(&output))
    };
    let one = run(1);
    for threads in [0, 2, 7] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn the_report_says_what_rounding_kept() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = (room.path().join("base"), room.path().join("adapter"));
    write_model(&base, &tensors("BF16"));
    // Far below the steps of bfloat16: most of it is lost.
    write_adapter(&adapter, 30, 2e-3);
    let report = merge(&base, &adapter, &room.path().join("half"), None).unwrap();
    let kept = report.kept;
    assert!(kept.projection.unwrap() < 0.9 && kept.changed < kept.moved, "{kept:?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("--dtype float32")), "{report:?}");
    let kinds: Vec<&str> = report.by_kind.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds, ["q_proj", "down_proj"]);
    assert_eq!(report.by_kind[0].kept.numbers, 2 * 8 * 8);
    let rows = report.rows();
    assert!(
        rows.iter().any(|(label, value)| label.trim() == "q_proj" && value.contains("% of it kept")),
        "{rows:?}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["by_kind"][1]["kind"], "down_proj");
    assert_eq!(json["dtype"], Value::Null);
    assert!(json["kept"]["projection"].is_number());

    let report = merge(&base, &adapter, &room.path().join("full"), Some(Dtype::Float32)).unwrap();
    assert!((report.kept.projection.unwrap() - 1.0).abs() < 1e-4 && report.warnings.is_empty(), "{report:?}");

    write_adapter(&adapter, 30, 0.0);
    let report = merge(&base, &adapter, &room.path().join("zero"), None).unwrap();
    assert_eq!((report.kept.moved, report.kept.projection), (0, None));
    assert_eq!(read_tensors(&base), read_tensors(&room.path().join("zero")));
}

#[test]
fn progress_reaches_the_end() {
    let room = tempfile::tempdir().unwrap();
    let (base, adapter) = crate::fixture::small(room.path());
    let seen = std::cell::RefCell::new(Vec::new());
    let loaded = Loaded::read(&base, &adapter);
    let observe =
        |progress: merge::Progress<'_>| seen.borrow_mut().push((progress.done_bytes, progress.total_bytes));
    let report = loaded.merge(&options(&room.path().join("out"), &adapter, None), &observe).unwrap();
    let seen = seen.into_inner();
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(seen.iter().all(|(_, total)| *total == report.bytes));
    let small: u64 = report.files[1..].iter().map(|file| file.bytes).sum();
    assert_eq!(seen.last().unwrap().0 + small, report.bytes);
}
