//! What to do about a row whose fields have other names: guesses from the names that it does have.

/// Fields that hold questions in well-known data sets, the likeliest first.
const QUESTIONS: [&str; 6] = ["instruction", "prompt", "question", "problem", "query", "input"];
/// Fields that hold answers, the likeliest first.
const ANSWERS: [&str; 5] = ["output", "completion", "response", "solution", "answer"];
/// Fields that an object around all rows is known to keep them in.
const WRAPPERS: [&str; 8] = ["data", "rows", "train", "examples", "items", "instances", "samples", "records"];

/// Most names that are told, and most characters of each.
const MOST_NAMES: usize = 12;
const MOST_CHARACTERS: usize = 40;

/// The names as a list of their own, such as `` `a`, `b` ``. A file may hold anything: control characters are
/// escaped, long names and long lists are cut.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    let quoted = names.iter().take(MOST_NAMES).map(|name| {
        let mut characters = name.as_ref().chars();
        let start: String = characters.by_ref().take(MOST_CHARACTERS).collect();
        let more = if characters.next().is_some() { "…" } else { "" };
        format!("`{}{more}`", start.escape_debug())
    });
    let mut all = quoted.collect::<Vec<_>>().join(", ");
    if names.len() > MOST_NAMES {
        all.push_str(", …");
    }
    all
}

/// The names as part of a sentence about a row.
pub(crate) fn fields<S: AsRef<str>>(names: &[S]) -> String {
    match names.len() {
        0 => "no fields".to_owned(),
        1 => format!("the field {}", list(names)),
        _ => format!("the fields {}", list(names)),
    }
}

/// What to do where a row has these fields and not those that were looked for. `is_json` decides whether `jq` can
/// help.
pub(crate) fn guess<S: AsRef<str>>(names: &[S], is_json: bool) -> String {
    let has = |name: &str| names.iter().any(|known| known.as_ref() == name);
    let known = |of: &[&'static str]| of.iter().copied().find(|name| has(name));
    if let (Some(question), Some(answer)) = (known(&QUESTIONS), known(&ANSWERS)) {
        let flags = format!("try --query-field {question} --response-field {answer}");
        return match has("input") && question != "input" {
            true => format!("{flags}; to use `input` too, write a template and give it with --template FILE"),
            false => flags,
        };
    }
    if has("conversations") {
        return conversations(is_json);
    }
    if has("text") {
        return "for plain text, give --template FILE, a file that holds {{ text }}, and --train-on all"
            .into();
    }
    match known(&WRAPPERS).filter(|_| is_json) {
        Some(name) => {
            format!(
                "if `{name}` holds the rows, they must be the top level of the file: jq .{name} OLD > NEW"
            )
        }
        None => {
            "name the fields of the question and the answer with --query-field and --response-field, or give \
                 --template FILE, a template over the fields that there are"
                .into()
        }
    }
}

/// ShareGPT's form of a chat.
fn conversations(is_json: bool) -> String {
    if !is_json {
        return "chats are read from `messages` with `role` and `content`: rename `conversations`, `from` (human is \
                user, gpt is assistant) and `value`"
            .into();
    }
    // The first filter takes both an array and one row a line.
    "chats need `messages` with `role` and `content`: jq -c '(arrays[], objects) | {messages: [.conversations[] | \
     {role: ({human: \"user\", gpt: \"assistant\"}[.from] // .from), content: .value}]}' OLD > NEW"
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_make_flags() {
        let check = |names: &[&str], expect: &str| {
            for is_json in [true, false] {
                let hint = guess(names, is_json);
                assert!(hint.contains(expect), "{names:?}: {hint}");
                assert!(hint.len() < 220, "{hint}");
            }
        };
        check(
            &["instruction", "input", "output"],
            "--query-field instruction --response-field output; to use `input`",
        );
        check(&["output", "instruction"], "--query-field instruction --response-field output");
        check(&["instruction", "context", "response"], "--query-field instruction --response-field response");
        check(&["prompt", "completion"], "--query-field prompt --response-field completion");
        check(&["question", "answer", "id"], "--query-field question --response-field answer");
        check(&["problem", "solution", "answer"], "--query-field problem --response-field solution");
        check(&["input", "output"], "--query-field input --response-field output");
        check(&["query", "answer"], "--query-field query --response-field answer");
        check(&["id", "conversations"], "`messages` with `role` and `content`");
        check(&["text"], "{{ text }}, and --train-on all");
        check(&["frage", "antwort"], "--query-field and --response-field, or give --template FILE");
        check(&["instruction"], "--query-field and --response-field, or give --template FILE");
        check(&[], "--query-field and --response-field, or give --template FILE");
    }

    #[test]
    fn an_object_around_the_rows() {
        assert!(guess(&["version", "data"], true).contains("top level of the file: jq .data OLD > NEW"));
        assert!(guess(&["id", "conversations"], true).contains("jq -c "));
        // The command reads JSON alone.
        for name in ["data", "conversations"] {
            assert!(!guess(&[name], false).contains("jq"));
        }
    }

    #[test]
    fn names_are_told_whatever_they_are() {
        assert_eq!(fields::<&str>(&[]), "no fields");
        assert_eq!(fields(&["a"]), "the field `a`");
        assert_eq!(fields(&["a", "\u{1b}[31m\n"]), "the fields `a`, `\\u{1b}[31m\\n`");
        assert_eq!(list(&["é".repeat(41)]), format!("`{}…`", "é".repeat(40)));
        assert_eq!(list(&["x"; 13]), format!("{}, …", ["`x`"; 12].join(", ")));
    }
}
