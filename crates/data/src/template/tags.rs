//! Hugging Face's `{% generation %}` … `{% endgeneration %}`, which mark what a model says, rewritten into tags
//! that every Jinja knows.

/// What stands at the start of a marked part of a rendered text. Noncharacters, which no text should hold.
pub(super) const BEGIN: &str = "\u{fdd0}\u{fdd1}\u{fdd0}";
/// What stands at its end.
pub(super) const END: &str = "\u{fdd0}\u{fdd2}\u{fdd0}";
/// The variables that hold them.
pub(super) const BEGIN_NAME: &str = "__generation_begin__";
pub(super) const END_NAME: &str = "__generation_end__";

/// A template without the tags.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    pub source: String,
    pub has_generation: bool,
}

/// Replaces the tags, keeping every line where it is. Each becomes a tag, an expression that prints the mark, and
/// a tag, so that white space around it is treated as around the tag it was.
///
/// # Errors
/// The line of a tag that is opened inside another one, or has no partner, and what is wrong.
pub(super) fn rewrite(source: &str) -> Result<Rewritten, (u64, &'static str)> {
    let mut out = String::with_capacity(source.len());
    let mut opened = None;
    let mut has_generation = false;
    let mut at = 0;
    while let Some(tag) = next_tag(source, at) {
        out.push_str(&source[at..tag.start]);
        at = tag.end;
        let Tag { name, left, right, .. } = tag;
        let text = &source[tag.start..tag.end];
        let line = || 1 + source[..tag.start].matches('\n').count() as u64;
        let breaks: String = text.chars().filter(|&c| c == '\n').collect();
        match name {
            "generation" if opened.is_some() => {
                return Err((line(), "`generation` is opened inside another one"));
            }
            "endgeneration" if opened.is_none() => {
                return Err((line(), "`endgeneration` without `generation` before it"));
            }
            "generation" => {
                (opened, has_generation) = (Some(line()), true);
                out.push_str(&format!(
                    "{{%{left} with {breaks}%}}{{{{ {BEGIN_NAME} }}}}{{% set __generation__ = 1 {right}%}}"
                ));
            }
            "endgeneration" => {
                opened = None;
                out.push_str(&format!(
                    "{{%{left} set __generation__ = 0 {breaks}%}}{{{{ {END_NAME} }}}}{{% endwith {right}%}}"
                ));
            }
            _ => out.push_str(text),
        }
    }
    out.push_str(&source[at..]);
    match opened {
        Some(line) => Err((line, "`generation` without `endgeneration` after it")),
        None => Ok(Rewritten { source: out, has_generation }),
    }
}

/// Anything between delimiters; of blocks the name and the marks at its ends.
struct Tag<'a> {
    start: usize,
    end: usize,
    name: &'a str,
    left: &'a str,
    right: &'a str,
}

/// The next expression, comment or block from `at` on; `None` where there is none, or none that ends.
fn next_tag(source: &str, at: usize) -> Option<Tag<'_>> {
    let start = at
        + source[at..]
            .match_indices('{')
            .map(|(i, _)| i)
            .find(|i| matches!(source.as_bytes().get(at + i + 1), Some(b'{' | b'%' | b'#')))?;
    let whole = |end: usize| Tag { start, end, name: "", left: "", right: "" };
    match source.as_bytes()[start + 1] {
        b'#' => Some(whole(start + 2 + source[start + 2..].find("#}")? + 2)),
        b'{' => Some(whole(closing(source, start + 2, "}}")?)),
        _ => {
            let end = closing(source, start + 2, "%}")?;
            let inner = &source[start + 2..end - 2];
            let left = inner.get(..1).filter(|mark| matches!(*mark, "-" | "+")).unwrap_or("");
            let body = &inner[left.len()..];
            let mark = body.len().checked_sub(1).and_then(|last| body.get(last..));
            let right = mark.filter(|mark| matches!(*mark, "-" | "+")).unwrap_or("");
            let name = body[..body.len() - right.len()].trim();
            if name == "raw" {
                return Some(whole(end_of_raw(source, end)?));
            }
            Some(Tag { start, end, name, left, right })
        }
    }
}

/// The end of the delimiter `close`, outside of quotes, from `at` on.
fn closing(source: &str, at: usize, close: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut quote = None;
    let mut i = at;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if bytes[i..].starts_with(close.as_bytes()) => return Some(i + close.len()),
            _ => {}
        }
        i += 1;
    }
    None
}

/// The end of `{% endraw %}`, from `at` on.
fn end_of_raw(source: &str, at: usize) -> Option<usize> {
    let mut from = at;
    loop {
        let start = from + source[from..].find("{%")?;
        // From behind the opening mark on: in `{%}` the two would share a character.
        let end = start + 2 + source[start + 2..].find("%}")? + 2;
        if source[start + 2..end - 2].trim_matches(['-', '+']).trim() == "endraw" {
            return Some(end);
        }
        from = start + 2;
    }
}

/// A rendered text without its marks, and the byte ranges between them. `None` where marks do not alternate, as
/// when a template printed a marked part twice inside another.
pub(super) fn cut_marks(marked: &str) -> Option<(String, Vec<std::ops::Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut spans = Vec::new();
    let mut rest = marked;
    let take = |rest: &mut &str, text: &mut String, mark: &str| {
        let (before, after) = rest.split_once(mark)?;
        text.push_str(before);
        *rest = after;
        Some(text.len())
    };
    while let Some(start) = take(&mut rest, &mut text, BEGIN) {
        let end = take(&mut rest, &mut text, END)?;
        spans.push(start..end);
    }
    text.push_str(rest);
    let is_clean = !text.contains(BEGIN) && !text.contains(END);
    is_clean.then_some((text, spans))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is left of a template once the marks' expressions are written as `<` and `>`.
    fn check(source: &str, expect: &str) {
        let rewritten = rewrite(source).unwrap();
        let short = rewritten.source.replace(&format!("{{{{ {BEGIN_NAME} }}}}"), "<");
        let short = short.replace(&format!("{{{{ {END_NAME} }}}}"), ">").replace("__generation__", "g");
        assert_eq!(short, expect);
        assert_eq!(source.matches('\n').count(), expect.matches('\n').count());
    }

    #[test]
    fn replaces_tags_and_nothing_else() {
        check(
            "a {% generation %}b{% endgeneration %} c",
            "a {% with %}<{% set g = 1 %}b{% set g = 0 %}>{% endwith %} c",
        );
        check(
            "{%- generation -%}\n{%-endgeneration+%}",
            "{%- with %}<{% set g = 1 -%}\n{%- set g = 0 %}>{% endwith +%}",
        );
        check(
            "{%\ngeneration %}{% endgeneration\n%}",
            "{% with \n%}<{% set g = 1 %}{% set g = 0 \n%}>{% endwith %}",
        );
        for kept in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{{ \"\\\"{% generation %}\" }}",
            "{% raw %}{% generation %}{% endraw -%}",
            "{% set generation = 1 %}{{ generation }}",
            "{ % generation %} é {% if generation %}",
            "{% generation",
            "{# {% generation %}",
            "{{ ' {% generation %}",
            "{% raw %} {% generation %}",
            "{%%}{%-%}{%é%}",
            "{% raw %}{%}{% generation %}{%-endraw+%}",
            "{% raw %}{%}",
        ] {
            check(kept, kept);
            assert!(!rewrite(kept).unwrap().has_generation);
        }
    }

    #[test]
    fn names_the_line_of_a_lonely_tag() {
        for (source, line) in [
            ("\n{% generation %}", 2),
            ("{% endgeneration %}", 1),
            ("{% generation %}\n\n{% generation %}{% endgeneration %}", 3),
        ] {
            assert_eq!(rewrite(source).unwrap_err().0, line, "{source}");
        }
    }

    #[test]
    fn cuts_marks() {
        let marked = format!("é{BEGIN}ab{END}c{BEGIN}{END}");
        assert_eq!(cut_marks(&marked), Some(("éabc".to_owned(), vec![2..4, 5..5])));
        assert_eq!(cut_marks("plain"), Some(("plain".to_owned(), vec![])));
        for broken in [format!("{BEGIN}a"), format!("a{END}"), format!("{BEGIN}{BEGIN}{END}{END}")] {
            assert_eq!(cut_marks(&broken), None);
        }
    }
}
