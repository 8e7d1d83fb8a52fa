//! The paths and macros that a Rust source file names outside comments, literals and `#[cfg(test)]` items.

/// Something that a source file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `std::fs::read`: its segments; a tree of a `use` gives one path a leaf.
    Path(Vec<String>),
    /// `println!`
    Macro(String),
}

/// The names in a file, each with its line counted from one.
pub fn names(source: &str) -> Vec<(Name, usize)> {
    let tokens = without_test_items(tokens(source));
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Token::Word(word) = &tokens[at].0 else {
            at += 1;
            continue;
        };
        if is_mark(&tokens, at + 1, '!') && !is_mark(&tokens, at + 2, '=') {
            found.push((Name::Macro(word.clone()), tokens[at].1));
            at += 2;
        } else {
            at = read_path(&tokens, at, &[], &mut found);
        }
    }
    found
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Mark(char),
}

type Placed = (Token, usize);

fn is_mark(tokens: &[Placed], at: usize, mark: char) -> bool {
    tokens.get(at).is_some_and(|(token, _)| *token == Token::Mark(mark))
}

fn is_separator(tokens: &[Placed], at: usize) -> bool {
    is_mark(tokens, at, ':') && is_mark(tokens, at + 1, ':')
}

/// Reads `a::b::{c, d::e}` from `at` on, adds a path for every leaf, and returns where it ends.
fn read_path(tokens: &[Placed], mut at: usize, before: &[String], found: &mut Vec<(Name, usize)>) -> usize {
    let mut segments = before.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.1);
    loop {
        match tokens.get(at) {
            Some((Token::Word(word), word_line)) => {
                // A `self` in a group is the module before it.
                if word != "self" || segments.is_empty() {
                    segments.push(word.clone());
                }
                line = *word_line;
                at += 1;
            }
            Some((Token::Mark('{'), _)) if !segments.is_empty() => {
                at += 1;
                while at < tokens.len() && !is_mark(tokens, at, '}') {
                    let end = read_path(tokens, at, &segments, found);
                    at = end.max(at + 1);
                }
                return at + 1;
            }
            Some((Token::Mark('*'), _)) if !segments.is_empty() => at += 1,
            _ => return at,
        }
        if !is_separator(tokens, at) {
            if segments.len() > 1 {
                found.push((Name::Path(segments), line));
            }
            return at;
        }
        at += 2;
    }
}

/// Drops every item that follows a `#[cfg(test)]`, up to its `;` or the end of its block.
fn without_test_items(tokens: Vec<Placed>) -> Vec<Placed> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let starts_here = |at: usize| {
        tokens.len() >= at + attribute.len()
            && tokens[at..].iter().zip(attribute).all(|((token, _), expected)| match token {
                Token::Word(word) => word == expected,
                Token::Mark(mark) => expected.len() == 1 && expected.starts_with(*mark),
            })
    };
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if starts_here(at) {
            at = item_end(&tokens, at + attribute.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn item_end(tokens: &[Placed], from: usize) -> usize {
    let mut depth = 0usize;
    for (at, (token, _)) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Mark(';') if depth == 0 => return at + 1,
            Token::Mark('{') => depth += 1,
            Token::Mark('}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// Words and marks; comments and literals are left out.
fn tokens(source: &str) -> Vec<Placed> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            '\'' => quote_end(&chars, at),
            c if c.is_alphanumeric() || c == '_' => {
                let end = chars[at..].iter().position(|c| !c.is_alphanumeric() && *c != '_');
                let end = end.map_or(chars.len(), |length| at + length);
                let word: String = chars[at..end].iter().collect();
                match literal_end(&chars, end, &word) {
                    Some(literal_end) => literal_end,
                    None => {
                        if !c.is_numeric() {
                            tokens.push((Token::Word(word), line));
                        }
                        end
                    }
                }
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push((Token::Mark(c), line));
                }
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| from + length)
}

/// Block comments nest.
fn comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0usize;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// The end of a string whose opening quote is just before `from`.
fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `'a'` and `'\n'` are characters; `'a` is a lifetime.
fn quote_end(chars: &[char], from: usize) -> usize {
    if chars.get(from + 1) == Some(&'\\') {
        let close = chars.iter().skip(from + 3).position(|c| *c == '\'');
        return close.map_or(chars.len(), |length| from + 3 + length + 1);
    }
    if chars.get(from + 2) == Some(&'\'') { from + 3 } else { from + 1 }
}

/// The end of a literal with the prefix `word`, such as `b"…"`, `r#"…"#` or `b'x'`; `at` is just after the prefix.
fn literal_end(chars: &[char], at: usize, word: &str) -> Option<usize> {
    let raw = matches!(word, "r" | "br" | "cr");
    match chars.get(at)? {
        '"' if matches!(word, "b" | "c") => Some(string_end(chars, at + 1)),
        '\'' if word == "b" => Some(quote_end(chars, at)),
        '"' | '#' if raw => {
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if chars.get(at + hashes) != Some(&'"') {
                // `r#type` is a word.
                return None;
            }
            let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let body = at + hashes + 1;
            let end = chars[body..].windows(close.len()).position(|window| window == close);
            Some(end.map_or(chars.len(), |length| body + length + close.len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: &[(&str, usize)]) {
        let shown: Vec<(String, usize)> = names(source)
            .into_iter()
            .map(|(name, line)| match name {
                Name::Path(segments) => (segments.join("::"), line),
                Name::Macro(word) => (format!("{word}!"), line),
            })
            .collect();
        let expect: Vec<(String, usize)> =
            expect.iter().map(|(name, line)| ((*name).to_owned(), *line)).collect();
        assert_eq!(shown, expect, "in {source}");
    }

    #[test]
    fn paths_and_macros_have_lines() {
        check("fn f() {\n    println!(\"x\");\n}", &[("println!", 2)]);
        check(
            "use std::fs;\nlet a = std::time::Instant::now();",
            &[("std::fs", 1), ("std::time::Instant::now", 2)],
        );
        check("if a != b && !done {}", &[]);
    }

    #[test]
    fn groups_of_a_use_are_taken_apart() {
        check(
            "use std::{\n  fmt,\n  process::{self, exit},\n  fs::*,\n};\nuse a::b;",
            &[("std::fmt", 2), ("std::process", 3), ("std::process::exit", 3), ("std::fs", 4), ("a::b", 6)],
        );
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        check(
            "// std::fs\n/* a /* std::fs */ println!() */ let s = \"std::fs \\\" println!()\";\nx::y",
            &[("x::y", 3)],
        );
        check(
            "let s = r#\"std::fs \" \"#; let c = '\"'; let d = '\\''; let e = b\"std::fs\"; x::y",
            &[("x::y", 1)],
        );
        check("fn f<'a>(x: &'a str) { x::y }", &[("x::y", 1)]);
    }

    #[test]
    fn items_for_tests_are_left_out() {
        check("#[cfg(test)]\nmod tests {\n  fn f() { std::fs::read(x) }\n}\na::b", &[("a::b", 5)]);
        check("#[cfg(test)]\nuse std::fs;\na::b", &[("a::b", 3)]);
        check("#[cfg(feature = \"x\")]\nuse std::fs;", &[("std::fs", 2)]);
    }

    #[test]
    fn files_cut_short_are_read_to_their_end() {
        for source in
            ["\"", "'", "'\\", "/*", "r#\"", "use std::{", "use std::{a::{", "a::", "#[cfg(test)]", "b'"]
        {
            names(source);
        }
    }
}
