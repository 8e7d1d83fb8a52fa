//! Replacing one value in a JSON text and leaving every other byte as it is.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::value::RawValue;

/// Where the value of the nested key `path` stands in `text`; none where there is no such key, or a `null`.
pub(crate) fn find(text: &str, path: &[&str]) -> Result<Option<Range<usize>>, serde_json::Error> {
    let mut value = text;
    for key in path {
        // Of a key that is there twice the last one counts, as in every reader of these files.
        let object: HashMap<String, &RawValue> = match serde_json::from_str(value) {
            Ok(object) => object,
            Err(error) if value.len() == text.len() => return Err(error),
            Err(_) => return Ok(None),
        };
        match object.get(*key).map(|raw| raw.get()).filter(|raw| *raw != "null") {
            Some(found) => value = found,
            None => return Ok(None),
        }
    }
    // `value` is a part of `text`, since a raw value that is borrowed is the text itself.
    let start = value.as_ptr() as usize - text.as_ptr() as usize;
    Ok(Some(start..start + value.len()))
}

/// `text` with the value of the nested key `path`, if it is there, replaced by `value`, itself JSON.
pub(crate) fn replace(text: &mut String, path: &[&str], value: &str) -> Result<(), serde_json::Error> {
    if let Some(range) = find(text, path)? {
        text.replace_range(range, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::replace;

    #[test]
    fn only_the_value_changes() {
        let check = |text: &str, path: &[&str], expect: &str| {
            let mut text = text.to_owned();
            replace(&mut text, path, "\"new\"").unwrap();
            assert_eq!(text, expect);
        };
        check("{ \"a\" :1,\n\"dtype\":  \"old\" }\n", &["dtype"], "{ \"a\" :1,\n\"dtype\":  \"new\" }\n");
        check(
            r#"{"b":{"dtype":1},"x":"\"dtype\": 3"}"#,
            &["dtype"],
            r#"{"b":{"dtype":1},"x":"\"dtype\": 3"}"#,
        );
        check(
            r#"{"dtype":3,"b":{"c":0,"dtype": 1 }}"#,
            &["b", "dtype"],
            r#"{"dtype":3,"b":{"c":0,"dtype": "new" }}"#,
        );
        check(r#"{"dtype":null}"#, &["dtype"], r#"{"dtype":null}"#);
        check(r#"{"b":3}"#, &["b", "dtype"], r#"{"b":3}"#);
        check(r#"{"dtype":1, "dtype":2}"#, &["dtype"], r#"{"dtype":1, "dtype":"new"}"#);
        check(r#"{"ü\u00fc":"ü","d\u0074ype":[1]}"#, &["dtype"], r#"{"ü\u00fc":"ü","d\u0074ype":"new"}"#);
        for text in ["", "[]", "{\"a\":", "{} {}"] {
            assert!(replace(&mut text.to_owned(), &["a"], "1").is_err(), "{text}");
        }
    }
}
