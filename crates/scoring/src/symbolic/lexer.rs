//! Tokens of sympy's LaTeX grammar (`LaTeX.g4`). As in ANTLR the longest token wins.

/// A token. Operators that the grammar treats alike are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Plus,
    Minus,
    /// `*`, `\times`, `\cdot`.
    Times,
    /// `/`, `\div`, `:`.
    Over,
    /// `(`, `[`, `{` or `\{`.
    Open(Bracket),
    Close(Bracket),
    Bar,
    /// `\langle`, `\left|` and other parts of what is no number.
    Foreign,
    /// `\sin` and the like, and `\log`, `\lg`, `\ln`, `\exp`, without the backslash.
    Function(&'a str),
    Floor,
    FloorEnd,
    Ceiling,
    CeilingEnd,
    Sqrt,
    Overline,
    Frac,
    Binom,
    Mathit,
    Underscore,
    Caret,
    /// `dx`, without the `d`.
    Differential(&'a str),
    Letter(&'a str),
    Digit(u8),
    /// `=`, `<`, `\le` and the like.
    Relation,
    Bang,
    Quotes(&'a str),
    /// Any other command, without the backslash.
    Symbol(&'a str),
    Comma,
    Point,
    /// What the grammar has no token for. It fails whoever looks at it.
    Bad,
    End,
}

/// Kinds of brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bracket {
    Round,
    Square,
    Curly,
    /// `\{`
    Literal,
}

/// A token and where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed<'a> {
    pub(crate) token: Token<'a>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// All tokens up to the first that is bad, and `Bad` or `End` last.
pub(crate) fn tokens(text: &str) -> Vec<Placed<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let (token, length) = token(&text[at..]);
        let end = at + length;
        if let Some(token) = token {
            tokens.push(Placed { token, start: at, end });
            if matches!(token, Token::Bad | Token::End) {
                return tokens;
            }
        }
        at = end;
    }
}

/// The first token, or none for what is skipped, and its bytes.
fn token(text: &str) -> (Option<Token<'_>>, usize) {
    use Bracket::{Curly, Round, Square};
    let Some(first) = text.chars().next() else { return (Some(Token::End), 0) };
    let token = match first {
        ' ' | '\t' | '\r' | '\n' => return (None, 1),
        '\\' => return command(text),
        '+' => Token::Plus,
        '-' => Token::Minus,
        '*' => Token::Times,
        '/' | ':' => Token::Over,
        '(' => Token::Open(Round),
        ')' => Token::Close(Round),
        '[' => Token::Open(Square),
        ']' => Token::Close(Square),
        '{' => Token::Open(Curly),
        '}' => Token::Close(Curly),
        '|' => Token::Bar,
        '_' => Token::Underscore,
        '^' => Token::Caret,
        '<' | '>' => Token::Relation,
        '=' => return (Some(Token::Relation), equals(text)),
        '&' => return aligned_equals(text),
        '!' => Token::Bang,
        ',' => Token::Comma,
        '.' => Token::Point,
        '0'..='9' => Token::Digit(first as u8 - b'0'),
        '\'' => {
            let length = text.len() - text.trim_start_matches('\'').len();
            return (Some(Token::Quotes(&text[..length])), length);
        }
        'd' => return differential(text),
        'a'..='z' | 'A'..='Z' => Token::Letter(&text[..1]),
        _ => Token::Bad,
    };
    (Some(token), 1)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// `=`, and `&` behind it.
fn equals(text: &str) -> usize {
    let rest = text[1..].trim_start_matches(is_blank);
    rest.strip_prefix('&').map_or(1, |rest| text.len() - rest.len())
}

/// `&` and `=` behind it.
fn aligned_equals(text: &str) -> (Option<Token<'_>>, usize) {
    let rest = text[1..].trim_start_matches(is_blank).strip_prefix('=');
    rest.map_or((Some(Token::Bad), 1), |rest| (Some(Token::Relation), text.len() - rest.len()))
}

/// A `d` with a letter or a command behind it, or a `d` alone.
fn differential(text: &str) -> (Option<Token<'_>>, usize) {
    let rest = text[1..].trim_start_matches(is_blank);
    let name = match rest.strip_prefix('\\') {
        Some(command) => &command[..letters(command)],
        None => &rest[..letters(rest).min(1)],
    };
    if name.is_empty() {
        return (Some(Token::Letter(&text[..1])), 1);
    }
    let blanks = text.len() - 1 - rest.len();
    let backslash = usize::from(rest.starts_with('\\'));
    (Some(Token::Differential(name)), 1 + blanks + backslash + name.len())
}

fn letters(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_alphabetic).count()
}

fn command(text: &str) -> (Option<Token<'_>>, usize) {
    let after = &text[1..];
    let name = &after[..letters(after)];
    let length = 1 + name.len();
    if name.is_empty() {
        return punctuation(after);
    }
    let rest = &text[length..];
    match name {
        "left" | "right" if rest.starts_with('|') => (Some(Token::Foreign), length + 1),
        "left" | "right" | "thinspace" | "medspace" | "thickspace" | "quad" | "qquad" | "negthinspace"
        | "negmedspace" | "negthickspace" | "vrule" | "vcenter" | "vbox" | "vskip" | "vspace" | "hfil" => {
            (None, length)
        }
        _ => (Some(named(name)), length),
    }
}

/// A backslash and no letter behind it.
fn punctuation(after: &str) -> (Option<Token<'_>>, usize) {
    match after.bytes().next() {
        Some(b',' | b':' | b';' | b'!' | b'*' | b'-' | b'.' | b'/' | b'"' | b'(' | b'=') => (None, 2),
        Some(b'{') => (Some(Token::Open(Bracket::Literal)), 2),
        Some(b'}') => (Some(Token::Close(Bracket::Literal)), 2),
        _ => (Some(Token::Bad), 1),
    }
}

fn named(name: &str) -> Token<'_> {
    match name {
        "times" | "cdot" => Token::Times,
        "div" => Token::Over,
        "langle" | "rangle" | "lim" | "to" | "rightarrow" | "Rightarrow" | "longrightarrow"
        | "Longrightarrow" | "int" | "sum" | "prod" => Token::Foreign,
        "exp" | "log" | "lg" | "ln" | "sin" | "cos" | "tan" | "csc" | "sec" | "cot" | "arcsin" | "arccos"
        | "arctan" | "arccsc" | "arcsec" | "arccot" | "sinh" | "cosh" | "tanh" | "arsinh" | "arcosh"
        | "artanh" => Token::Function(name),
        "lfloor" => Token::Floor,
        "rfloor" => Token::FloorEnd,
        "lceil" => Token::Ceiling,
        "rceil" => Token::CeilingEnd,
        "sqrt" => Token::Sqrt,
        "overline" => Token::Overline,
        "frac" | "dfrac" | "tfrac" => Token::Frac,
        "binom" | "dbinom" | "tbinom" => Token::Binom,
        "mathit" => Token::Mathit,
        "neq" | "leq" | "le" | "leqq" | "leqslant" | "geq" | "ge" | "geqq" | "geqslant" => Token::Relation,
        name => Token::Symbol(name),
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, tokens};

    #[test]
    fn longest_token_wins() {
        let check = |text: &str, expect: &[Token]| {
            let found: Vec<Token> = tokens(text).iter().map(|placed| placed.token).collect();
            assert_eq!(found, expect, "{text:?}");
        };
        check("\\leftx", &[Token::Symbol("leftx"), Token::End]);
        check("\\left x", &[Token::Letter("x"), Token::End]);
        check("\\left|", &[Token::Foreign, Token::End]);
        check("\\le\\leq", &[Token::Relation, Token::Relation, Token::End]);
        check("dx", &[Token::Differential("x"), Token::End]);
        check("d \\alpha2", &[Token::Differential("alpha"), Token::Digit(2), Token::End]);
        check("d+", &[Token::Letter("d"), Token::Plus, Token::End]);
        check("d\\,x", &[Token::Letter("d"), Token::Letter("x"), Token::End]);
        check("1,\\!0", &[Token::Digit(1), Token::Comma, Token::Digit(0), Token::End]);
        check("= &x", &[Token::Relation, Token::Letter("x"), Token::End]);
        check("& =x", &[Token::Relation, Token::Letter("x"), Token::End]);
        check("= x", &[Token::Relation, Token::Letter("x"), Token::End]);
        check("x''", &[Token::Letter("x"), Token::Quotes("''"), Token::End]);
        for bad in ["&x", "%", "\\%", "\\\\", "\\", "\\ ", "$", "é", "~"] {
            check(bad, &[Token::Bad]);
        }
    }
}
