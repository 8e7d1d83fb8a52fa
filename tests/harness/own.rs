//! Rows of one's own: files in each format made from the demo's rows, and runs of `train` on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{
    Outcome, Ranks, Running, check_message, command, lines_so_far, read_json, repository, snapshot,
    training_args,
};

/// `train` on the fast settings of `fast.toml`.
pub fn own_training(ranks: Ranks, output: &Path, more: &[&str]) -> Command {
    let mut args = training_args(output, more);
    args[0] = "train".into();
    command(ranks, &args)
}

/// Runs `train` to the end and expects success.
pub fn train_own(ranks: Ranks, output: &Path, more: &[&str]) -> Outcome {
    Running::start(own_training(ranks, output, more)).finish().expect_code(0)
}

/// A run of `train` killed after it recorded `steps`.
pub fn killed_after(ranks: Ranks, steps: usize, output: &Path, flags: &[&str]) {
    let mut running = Running::start(own_training(ranks, output, flags));
    assert!(running.until(|| lines_so_far(output) >= steps), "the run ended before: {flags:?}");
    running.kill();
}

/// Runs `train` into an output, expects a refusal with these words and nothing changed beside or in it.
#[track_caller]
pub fn refused(ranks: Ranks, output: &Path, flags: &[&str], says: &[&str]) {
    let before = snapshot(output.parent().unwrap());
    let outcome = Running::start(own_training(ranks, output, flags)).finish();
    check_message(&format!("{flags:?} on {ranks:?}"), &outcome, 2, says);
    assert_eq!(before, snapshot(output.parent().unwrap()), "{flags:?} changed files");
}

/// Held-out losses by step.
pub fn held_out(output: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(output.join("held_out.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap())).collect()
}

/// Questions and answers of the demo's `train.json` or `heldout.json`, from the first on.
pub fn demo_rows(file: &str, count: usize) -> Vec<[String; 2]> {
    let all = read_json(&repository().join("configs/demo").join(file));
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows: Vec<_> =
        all.as_array().unwrap().iter().map(|r| [text(r, "query"), text(r, "response")]).collect();
    rows[..count].to_vec()
}

/// A conversation of these turns, role and content by turns.
pub fn chat_row(turns: &[(&str, &str)]) -> Value {
    let message = |(role, content): &(&str, &str)| json!({"role": role, "content": content});
    json!({"messages": turns.iter().map(message).collect::<Vec<_>>()})
}

/// The rows as conversations of two turns.
pub fn chat_rows(rows: &[[String; 2]]) -> Vec<Value> {
    rows.iter().map(|[query, response]| chat_row(&[("user", query), ("assistant", response)])).collect()
}

/// Writes one row a line.
pub fn write_lines(path: &Path, rows: &[Value]) {
    std::fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// Writes one array.
pub fn write_json(path: &Path, rows: &[Value]) {
    std::fs::write(path, Value::from(rows).to_string()).unwrap();
}

/// Writes questions and answers under these field names, as JSON lines or Parquet by the file's name.
pub fn write_pairs(path: &Path, rows: &[[String; 2]], fields: [&str; 2]) {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let schema = format!(
            "message rows {{ required binary {} (UTF8); required binary {} (UTF8); }}",
            fields[0], fields[1]
        );
        let column = |at: usize| parquet::Column::texts(rows.iter().map(|row| row[at].as_str()));
        return parquet::write(path, &schema, &[column(0), column(1)]);
    }
    let row = |[query, response]: &[String; 2]| json!({fields[0]: query, fields[1]: response});
    write_lines(path, &rows.iter().map(row).collect::<Vec<_>>());
}

/// Writes conversations of two turns, as JSON lines or Parquet by the file's name.
pub fn write_chats(path: &Path, rows: &[[String; 2]]) {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        const SCHEMA: &str = "message rows { optional group messages (LIST) { repeated group list { \
            optional group element { optional binary role (UTF8); optional binary content (UTF8); } } } }";
        // Every value is there (level 4); the second message of a row continues its list (level 1).
        let levels = Some((vec![4; 2 * rows.len()], [0, 1].repeat(rows.len())));
        let roles = ["user", "assistant"].repeat(rows.len());
        let roles = parquet::Column { levels: levels.clone(), ..parquet::Column::texts(roles) };
        let contents = parquet::Column::texts(rows.iter().flatten().map(String::as_str));
        return parquet::write(path, SCHEMA, &[roles, parquet::Column { levels, ..contents }]);
    }
    write_lines(path, &chat_rows(rows));
}

/// Writes a template beside other files of a test, and gives its path.
pub fn write_template(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Parquet files, with the crate's own writer.
pub mod parquet {
    use std::path::Path;
    use std::sync::Arc;

    use ::parquet::basic::Compression;
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    /// One column of a file.
    pub struct Column {
        pub values: Values,
        /// Definition and repetition levels, for columns that are not required or lie in lists.
        pub levels: Option<(Vec<i16>, Vec<i16>)>,
    }

    pub enum Values {
        Texts(Vec<ByteArray>),
        Numbers(Vec<i64>),
    }

    impl Column {
        pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
            Self { values: Values::Texts(texts.into_iter().map(ByteArray::from).collect()), levels: None }
        }

        pub fn numbers(numbers: &[i64]) -> Self {
            Self { values: Values::Numbers(numbers.to_vec()), levels: None }
        }
    }

    /// Writes a file of one row group, compressed.
    pub fn write(path: &Path, schema: &str, columns: &[Column]) {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for Column { values, levels } in columns {
            let (def, rep) = levels.as_ref().map(|(def, rep)| (&def[..], &rep[..])).unzip();
            let mut open = group.next_column().unwrap().unwrap();
            match values {
                Values::Texts(texts) => open.typed::<ByteArrayType>().write_batch(texts, def, rep).unwrap(),
                Values::Numbers(numbers) => open.typed::<Int64Type>().write_batch(numbers, def, rep).unwrap(),
            };
            open.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }
}
