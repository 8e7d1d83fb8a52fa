//! sympy's LaTeX grammar (`LaTeX.g4`, read by ANTLR), by recursive descent.
//!
//! Functions are called after the grammar's rules. What the official parser does beyond its grammar is done here too,
//! since verdicts depend on it:
//!
//! - It reads as much of the text as makes a formula and ignores the rest: `5, 7` is 5, and so is `5(`. Wherever a rule
//!   may repeat, one more round is tried, and what does not work out is left unread.
//! - A character that it has no token for is an error where it is looked at, even for deciding whether to go on.
//! - Multiplication binds as it is written: `11\frac{1}{2}` is 5.5, `\text{cm}` is text·c·m, `f(x)` is a function of x.

use super::Fuel;
use super::expression::{Expression, Function};
use super::lexer::{Bracket, Placed, Token, tokens};

mod atoms;

/// Nested groups and signs.
const DEEPEST: u32 = 64;

/// Powers of powers and factorials of factorials in one text.
const LONGEST_CHAIN: u32 = 128;

/// Why there is no formula here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Another reading may do.
    Mismatch,
    /// The official parser would not have looked for another one, as where a number ends in a point. Only what is
    /// around the next brackets can do without it.
    Committed,
    /// The text as a whole is not LaTeX: a bad character, or too much of everything.
    Refused,
}

impl Stop {
    fn committed(self) -> Self {
        if self == Self::Mismatch { Self::Committed } else { self }
    }

    fn outside_brackets(self) -> Self {
        if self == Self::Committed { Self::Mismatch } else { self }
    }
}

type Result<T> = std::result::Result<T, Stop>;

/// The formula that a text starts with; none for an equation or an inequality.
pub(crate) fn parse(text: &str, fuel: &Fuel) -> Result<Option<Expression>> {
    if !matrices_are_paired(text) {
        return Err(Stop::Refused);
    }
    let tokens = tokens(text);
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
        depth: 0,
        chain: 0,
        digits_end: None,
        bars: Bars::OnlyOpen,
        fuel,
    };
    let formula = parser.additive()?;
    let is_relation = parser.peek()? == Token::Relation;
    Ok(if is_relation { None } else { Some(formula) })
}

/// Whether matrices begin and end in turns, which the official code asks for before it reads anything.
fn matrices_are_paired(text: &str) -> bool {
    const KINDS: [&str; 3] = ["pmatrix}", "bmatrix}", "vmatrix}"];
    let mut open = None;
    for (at, _) in text.match_indices('\\') {
        let rest = &text[at..];
        let kind_of = |start| {
            KINDS.iter().find(|kind| rest.strip_prefix(start).is_some_and(|rest| rest.starts_with(**kind)))
        };
        if let Some(kind) = kind_of("\\begin{") {
            if open.replace(kind).is_some() {
                return false;
            }
        } else if let Some(kind) = kind_of("\\end{")
            && open.take() != Some(kind)
        {
            return false;
        }
    }
    open.is_none()
}

/// Part of a product: `\frac{d}{dx}` is none that has a value.
enum Item {
    Formula(Expression),
    Derivative(String),
}

impl Item {
    fn formula(self) -> Result<Expression> {
        match self {
            Self::Formula(formula) => Ok(formula),
            Self::Derivative(_) => Err(Stop::Mismatch),
        }
    }
}

/// Whether functions may be factors: not behind the first factor of an argument without parentheses.
#[derive(Clone, Copy, PartialEq)]
enum Functions {
    Allowed,
    First,
}

/// What a `|` behind a factor may do.
#[derive(Clone, Copy, PartialEq)]
enum Bars {
    /// Open an absolute value; there is none to close.
    OnlyOpen,
    /// Open or close one.
    Open,
    /// Close one.
    Close,
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Placed<'a>],
    at: usize,
    depth: u32,
    chain: u32,
    /// Where a number must end, if it must before its digits do.
    digits_end: Option<usize>,
    bars: Bars,
    fuel: &'a Fuel,
}

impl<'a> Parser<'a> {
    /// The next token.
    fn peek(&self) -> Result<Token<'a>> {
        self.peek_after(0)
    }

    fn peek_after(&self, tokens: usize) -> Result<Token<'a>> {
        self.fuel.burn(1).ok_or(Stop::Refused)?;
        let last = self.tokens.len() - 1;
        match self.tokens[last.min(self.at + tokens)].token {
            Token::Bad => Err(Stop::Refused),
            token => Ok(token),
        }
    }

    fn take(&mut self) -> Result<Token<'a>> {
        let token = self.peek()?;
        self.at += 1;
        Ok(token)
    }

    fn takes(&mut self, token: Token) -> Result<bool> {
        let found = self.peek()? == token;
        self.at += usize::from(found);
        Ok(found)
    }

    fn expect(&mut self, token: Token) -> Result<()> {
        if self.takes(token)? { Ok(()) } else { Err(Stop::Mismatch) }
    }

    /// What `read` reads, or nothing, and then nothing is read.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        let (at, depth, bars, digits_end) = (self.at, self.depth, self.bars, self.digits_end);
        match read(self) {
            Ok(found) => Ok(Some(found)),
            Err(Stop::Mismatch) => {
                (self.at, self.depth, self.bars, self.digits_end) = (at, depth, bars, digits_end);
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    /// `read`, one level further in.
    fn inside<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEEPEST {
            return Err(Stop::Refused);
        }
        self.depth += 1;
        let bars = std::mem::replace(&mut self.bars, Bars::OnlyOpen);
        let digits_end = self.digits_end.take();
        let found = read(self)?;
        self.depth -= 1;
        (self.bars, self.digits_end) = (bars, digits_end);
        Ok(found)
    }

    fn in_brackets(&mut self, bracket: Bracket) -> Result<Expression> {
        self.expect(Token::Open(bracket))?;
        let inside = self.inside(|parser| {
            let formula = parser.additive()?;
            parser.expect(Token::Close(bracket))?;
            Ok(formula)
        });
        inside.map_err(Stop::outside_brackets)
    }

    fn additive(&mut self) -> Result<Expression> {
        let mut terms = vec![self.mp(Functions::Allowed)?];
        loop {
            let sign = self.peek()?;
            if !matches!(sign, Token::Plus | Token::Minus) {
                return Ok(Expression::sum(terms));
            }
            let term = self.attempt(|parser| {
                parser.at += 1;
                parser.mp(Functions::Allowed)
            })?;
            match term {
                None => return Ok(Expression::sum(terms)),
                Some(term) if sign == Token::Minus => terms.push(term.negative()),
                Some(term) => terms.push(term),
            }
        }
    }

    /// Products and quotients.
    fn mp(&mut self, functions: Functions) -> Result<Expression> {
        let mut factors = vec![self.unary(functions)?];
        loop {
            let sign = self.peek()?;
            if !matches!(sign, Token::Times | Token::Over) {
                return Ok(Expression::product(factors));
            }
            let factor = self.attempt(|parser| {
                parser.at += 1;
                parser.unary(functions)
            })?;
            match factor {
                None => return Ok(Expression::product(factors)),
                Some(factor) if sign == Token::Over => factors.push(factor.inverse()),
                Some(factor) => factors.push(factor),
            }
        }
    }

    fn unary(&mut self, functions: Functions) -> Result<Expression> {
        let sign = self.peek()?;
        if !matches!(sign, Token::Plus | Token::Minus) {
            return self.factors(functions);
        }
        self.at += 1;
        let bars = self.bars;
        let formula = self.inside(|parser| {
            parser.bars = bars;
            parser.unary(functions)
        })?;
        Ok(if sign == Token::Minus { formula.negative() } else { formula })
    }

    /// Factors side by side.
    fn factors(&mut self, functions: Functions) -> Result<Expression> {
        let mut items = vec![self.postfix(true)?];
        loop {
            if self.peek()? == Token::Bar && self.bars == Bars::Close {
                break;
            }
            let is_number = matches!(self.peek()?, Token::Digit(_));
            let item = self.attempt(|parser| match parser.postfix(functions == Functions::Allowed) {
                Err(Stop::Committed) if is_number => Err(Stop::Mismatch),
                item => item,
            })?;
            match item {
                Some(item) => items.push(item),
                None => break,
            }
        }
        product_of(items)
    }

    fn postfix(&mut self, may_be_function: bool) -> Result<Item> {
        let mut item = self.exp(may_be_function)?;
        loop {
            match self.peek()? {
                Token::Bang => {
                    self.at += 1;
                    let argument = item.formula()?;
                    if matches!(argument, Expression::Call(Function::Factorial, _)) {
                        self.lengthen_chain()?;
                    }
                    item = Item::Formula(Expression::Call(Function::Factorial, vec![argument]));
                }
                // A value put in for a variable: no answer is written so.
                Token::Bar
                    if self.bars == Bars::OnlyOpen
                        && matches!(self.peek_after(1)?, Token::Underscore | Token::Caret)
                        && self.peek_after(2)? == Token::Open(Bracket::Curly) =>
                {
                    return Err(Stop::Refused);
                }
                _ => return Ok(item),
            }
        }
    }

    fn lengthen_chain(&mut self) -> Result<()> {
        self.chain += 1;
        if self.chain > LONGEST_CHAIN { Err(Stop::Refused) } else { Ok(()) }
    }

    fn exp(&mut self, may_be_function: bool) -> Result<Item> {
        let mut item = self.comp(may_be_function)?;
        let mut is_power = false;
        while self.peek()? == Token::Caret {
            let exponent = self.attempt(|parser| {
                let exponent = parser.script(Token::Caret)?;
                // A subscript behind an exponent says nothing.
                if parser.peek()? == Token::Underscore {
                    parser.script(Token::Underscore).map_err(Stop::committed)?;
                }
                Ok(exponent)
            })?;
            let Some(exponent) = exponent else { break };
            if is_power {
                self.lengthen_chain()?;
            }
            is_power = true;
            item = Item::Formula(Expression::power(item.formula()?, exponent));
        }
        Ok(item)
    }

    /// `^` or `_` with what belongs to it, an atom or something in braces.
    fn script(&mut self, sign: Token) -> Result<Expression> {
        self.expect(sign)?;
        if self.peek()? == Token::Open(Bracket::Curly) {
            return self.in_brackets(Bracket::Curly);
        }
        let digits_end = self.digits_end;
        self.inside(|parser| {
            parser.digits_end = digits_end;
            parser.atom()?.formula()
        })
    }

    fn comp(&mut self, may_be_function: bool) -> Result<Item> {
        let formula = match self.peek()? {
            Token::Open(bracket) => self.in_brackets(bracket),
            Token::Bar => self.absolute(),
            Token::Floor => self.rounded(Token::FloorEnd, Function::Floor),
            Token::Ceiling => self.rounded(Token::CeilingEnd, Function::Ceiling),
            Token::Letter(_) | Token::Symbol(_) if may_be_function => self.call_or_symbol(),
            Token::Function(name) if may_be_function => self.named_function(name),
            Token::Sqrt if may_be_function => self.sqrt(),
            Token::Overline if may_be_function => {
                self.at += 1;
                let inside = self.in_brackets(Bracket::Curly)?;
                Ok(Expression::Call(Function::Conjugate, vec![inside]))
            }
            _ => return self.atom(),
        };
        formula.map(Item::Formula)
    }

    /// `|x|`. Where the bars can be paired in several ways, the first is one in which all are.
    fn absolute(&mut self) -> Result<Expression> {
        self.expect(Token::Bar)?;
        let read = |parser: &mut Self, bars| {
            parser.inside(|parser| {
                parser.bars = bars;
                let formula = parser.additive()?;
                parser.expect(Token::Bar)?;
                Ok(formula)
            })
        };
        let open = |parser: &mut Self| read(parser, Bars::Open).map_err(Stop::outside_brackets);
        let found = match self.attempt(open)? {
            Some(found) => found,
            None => read(self, Bars::Close).map_err(Stop::outside_brackets)?,
        };
        Ok(Expression::Call(Function::Abs, vec![found]))
    }

    fn rounded(&mut self, end: Token, function: Function) -> Result<Expression> {
        self.at += 1;
        let argument = self.inside(|parser| {
            let argument = parser.additive()?;
            parser.expect(end)?;
            Ok(argument)
        })?;
        Ok(Expression::Call(function, vec![argument]))
    }

    fn sqrt(&mut self) -> Result<Expression> {
        self.at += 1;
        let degree = match self.peek()? {
            Token::Open(Bracket::Square) => self.in_brackets(Bracket::Square)?,
            _ => Expression::integer(2),
        };
        Ok(Expression::root(self.in_brackets(Bracket::Curly)?, degree))
    }
}

/// Factors that stand side by side.
fn product_of(items: Vec<Item>) -> Result<Expression> {
    let mut operator = None;
    let mut factors = Vec::with_capacity(items.len());
    let last = items.len() - 1;
    let without_symbols = |at: usize| match &items[at] {
        Item::Formula(formula) => !formula.has_symbols(),
        Item::Derivative(_) => false,
    };
    // An x between numbers is a sign of multiplication.
    let is_times = |at: usize| {
        let is_x = matches!(&items[at], Item::Formula(Expression::Symbol(name)) if name == "x");
        is_x && at > 0 && at < last && without_symbols(at - 1) && without_symbols(at + 1)
    };
    let times: Vec<bool> = (0..items.len()).map(is_times).collect();
    for (item, is_times) in items.into_iter().zip(times) {
        match item {
            Item::Formula(_) if is_times => {}
            Item::Formula(formula) => factors.push(formula),
            Item::Derivative(variable) => {
                let before = std::mem::take(&mut factors);
                if operator.is_some() {
                    return Err(Stop::Refused);
                }
                operator = Some((before, variable));
            }
        }
    }
    if factors.is_empty() {
        return Err(Stop::Mismatch);
    }
    let product = Expression::product(factors);
    Ok(match operator {
        None => product,
        Some((mut before, variable)) => {
            before.push(Expression::Derivative(Box::new([product, Expression::Symbol(variable)])));
            Expression::product(before)
        }
    })
}
