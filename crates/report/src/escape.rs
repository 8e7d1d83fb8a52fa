//! Data inside of formats with a syntax of their own. (HTML is escaped by the template engine, XML by the plotting
//! library.)

/// For text in XML: without the control characters that no XML document may hold.
pub(crate) fn printable(text: &str) -> String {
    let keep = |c: char| if c == '\n' || c == '\t' { ' ' } else { c };
    text.chars().map(keep).filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect()
}

/// For JSON inside an HTML `<script>`: no `<` can then open or close a tag or comment, whatever the text.
pub(crate) fn script_json(json: &str) -> String {
    // Outside of its strings JSON has none of these characters.
    let escaped = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    escaped.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// For an attribute or text of XML.
pub(crate) fn xml(text: &str) -> String {
    let printable = printable(text);
    let escaped = printable.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('"', "&quot;").replace('\'', "&#39;")
}

/// For a cell of CSV: spreadsheets compute what begins like a formula, so such a text is quoted once more.
pub(crate) fn csv(text: &str) -> String {
    match text.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r') => format!("'{text}"),
        _ => text.to_owned(),
    }
}

/// For a line of text: line breaks become spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// For text and cells of Markdown, in which HTML would be live.
pub(crate) fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '#' | '~' | '$' | '!' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// For text of LaTeX, with pdfLaTeX's fonts in mind for the signs that tables use.
pub(crate) fn latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '\\' => escaped.push_str(r"\textbackslash{}"),
            '~' => escaped.push_str(r"\textasciitilde{}"),
            '^' => escaped.push_str(r"\textasciicircum{}"),
            '<' => escaped.push_str(r"\textless{}"),
            '>' => escaped.push_str(r"\textgreater{}"),
            '|' => escaped.push_str(r"\textbar{}"),
            '±' => escaped.push_str(r"$\pm$"),
            '−' => escaped.push_str("$-$"),
            '·' => escaped.push_str(r"$\cdot$"),
            '–' => escaped.push_str("--"),
            '×' => escaped.push_str(r"$\times$"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(escaped: String, expect: &str) {
        assert_eq!(escaped, expect);
    }

    #[test]
    fn every_format() {
        check(script_json(r#""</script><!-- & -->""#), r#""\u003c/script\u003e\u003c!-- \u0026 --\u003e""#);
        check(xml("<a href='x'>&\u{0}\u{1b}"), "&lt;a href=&#39;x&#39;&gt;&amp;");
        check(printable("a\nb\u{7}\u{ffff}c"), "a bc");
        check(csv("=cmd()"), "'=cmd()");
        check(csv("-3"), "'-3");
        check(csv("plain, text"), "plain, text");
        check(markdown("a|b_<script>\n"), "a\\|b\\_&lt;script&gt; ");
        check(
            latex(r"100% of $a_b & {c} ~^\ ± 1"),
            r"100\% of \$a\_b \& \{c\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$ 1",
        );
    }
}
