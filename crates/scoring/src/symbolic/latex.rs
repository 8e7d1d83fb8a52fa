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
use super::numerals::Digits;

/// Nested groups and signs.
const DEEPEST: u32 = 64;

/// Powers of powers and factorials of factorials in one text.
const LONGEST_CHAIN: u32 = 128;

/// Why there is no formula here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Another reading may do.
    Mismatch,
    /// The text as a whole is not LaTeX: a bad character, or too much of everything.
    Refused,
}

type Result<T> = std::result::Result<T, Stop>;

/// The formula that a text starts with; none for an equation or an inequality.
pub(crate) fn parse(text: &str, fuel: &Fuel) -> Result<Option<Expression>> {
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
            Err(Stop::Refused) => Err(Stop::Refused),
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
        self.inside(|parser| {
            let formula = parser.additive()?;
            parser.expect(Token::Close(bracket))?;
            Ok(formula)
        })
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
            let item = self.attempt(|parser| parser.postfix(functions == Functions::Allowed))?;
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
                        && matches!(self.peek_after(1)?, Token::Underscore | Token::Caret) =>
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
                    parser.attempt(|parser| parser.script(Token::Underscore))?;
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
        self.atom()?.formula()
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
        let found = match self.attempt(|parser| read(parser, Bars::Open))? {
            Some(found) => found,
            None => read(self, Bars::Close)?,
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

    /// `f(x)`, else `f` alone, whatever follows.
    fn call_or_symbol(&mut self) -> Result<Expression> {
        let (name, is_infinity) = self.name()?;
        let after_name = self.at;
        if self.peek()? == Token::Open(Bracket::Round) {
            let mut arguments = Arguments::default();
            let all = self.attempt(|parser| parser.arguments(&mut arguments))?;
            match all {
                Some(()) => return Ok(Expression::Unknown(name.call, arguments.list)),
                // Several arguments could not have been factors, so this was to be a function.
                None if arguments.has_comma => return Err(Stop::Mismatch),
                None => self.at = after_name,
            }
        }
        Ok(if is_infinity { Expression::Infinity } else { Expression::Symbol(name.symbol) })
    }

    /// Arguments in parentheses. `found` has what was read when there is an error, too.
    fn arguments(&mut self, found: &mut Arguments) -> Result<()> {
        self.expect(Token::Open(Bracket::Round))?;
        self.inside(|parser| {
            loop {
                found.list.push(parser.additive()?);
                if !parser.takes(Token::Comma)? {
                    return parser.expect(Token::Close(Bracket::Round));
                }
                found.has_comma = true;
            }
        })
    }

    /// A letter or a command with its subscript and primes. Whether it is `\infty`.
    fn name(&mut self) -> Result<(Name, bool)> {
        let (base, is_letter) = match self.take()? {
            Token::Letter(letter) => (letter, true),
            Token::Symbol(name) => (name, false),
            _ => return Err(Stop::Mismatch),
        };
        let mut primes = self.primes()?;
        let mut subscript = String::new();
        if self.peek()? == Token::Underscore {
            let inside = self.script(Token::Underscore)?;
            subscript = format!("_{{{}}}", inside.in_name());
        }
        if primes.is_empty() {
            primes = self.primes()?;
        }
        let call = format!("{base}{subscript}{primes}");
        // The primes of a command are read and forgotten, as a symbol's.
        let symbol = if is_letter { call.clone() } else { format!("{base}{subscript}") };
        Ok((Name { symbol, call }, base == "infty"))
    }

    fn primes(&mut self) -> Result<&'a str> {
        let Token::Quotes(primes) = self.peek()? else { return Ok("") };
        self.at += 1;
        Ok(primes)
    }

    fn named_function(&mut self, name: &str) -> Result<Expression> {
        self.at += 1;
        let start = self.at;
        let first = self.attempt(|parser| parser.scripts_and_argument())?;
        let parts = match first {
            Some(parts) => parts,
            None => self.with_fewer_digits(start)?,
        };
        applied(name, parts)
    }

    /// `\log_28` is the logarithm of 8 to base 2: a script's number leaves a digit to the argument that needs one.
    fn with_fewer_digits(&mut self, start: usize) -> Result<Scripted> {
        let is_digit = |at: usize| matches!(self.tokens.get(at), Some(Placed { token: Token::Digit(_), .. }));
        if !is_digit(start + 1) {
            return Err(Stop::Mismatch);
        }
        let mut end = start + 1;
        while is_digit(end) {
            end += 1;
        }
        if end < start + 3 {
            return Err(Stop::Mismatch);
        }
        self.digits_end = Some(end - 1);
        let parts = self.scripts_and_argument();
        self.digits_end = None;
        parts
    }

    fn scripts_and_argument(&mut self) -> Result<Scripted> {
        let (mut below, mut above) = (None, None);
        for _ in 0..2 {
            match self.peek()? {
                Token::Underscore if below.is_none() => below = Some(self.script(Token::Underscore)?),
                Token::Caret if above.is_none() => above = Some(self.script(Token::Caret)?),
                _ => {}
            }
        }
        self.digits_end = None;
        let in_parentheses = match self.peek()? {
            Token::Open(Bracket::Round) => {
                let mut arguments = Arguments::default();
                let all = self.attempt(|parser| parser.arguments(&mut arguments))?;
                // All but the first are read and forgotten.
                all.map(|()| arguments.list.swap_remove(0))
            }
            _ => None,
        };
        let argument = match in_parentheses {
            Some(argument) => argument,
            None => {
                let bars = self.bars;
                self.inside(|parser| {
                    parser.bars = bars;
                    parser.mp(Functions::First)
                })?
            }
        };
        Ok(Scripted { below, above, argument })
    }

    fn atom(&mut self) -> Result<Item> {
        let formula = match self.peek()? {
            Token::Letter(_) | Token::Symbol(_) => {
                let (name, is_infinity) = self.name()?;
                if is_infinity { Expression::Infinity } else { Expression::Symbol(name.symbol) }
            }
            Token::Digit(_) => self.number()?,
            Token::Differential(name) => {
                self.at += 1;
                Expression::symbol(format!("d{name}"))
            }
            Token::Mathit => self.mathit()?,
            Token::Frac => return self.frac(),
            Token::Binom => {
                self.at += 1;
                let above = self.in_brackets(Bracket::Curly)?;
                Expression::Call(Function::Binomial, vec![above, self.in_brackets(Bracket::Curly)?])
            }
            _ => return Err(Stop::Mismatch),
        };
        Ok(Item::Formula(formula))
    }

    /// Digits, thousands behind commas, a point and more digits. Blanks between them do not matter.
    fn number(&mut self) -> Result<Expression> {
        let mut digits = Digits::default();
        self.digits(&mut digits)?;
        while self.peek()? == Token::Comma && self.three_digits_follow()? {
            self.at += 1;
            for _ in 0..3 {
                if let Token::Digit(digit) = self.take()? {
                    digits.push(digit);
                }
            }
        }
        if self.takes(Token::Point)? {
            digits.point();
            // Once there is a point there has to be a digit behind it.
            if self.digits(&mut digits)? == 0 {
                return Err(Stop::Mismatch);
            }
        }
        digits.number().ok_or(Stop::Refused)
    }

    fn digits(&mut self, digits: &mut Digits) -> Result<usize> {
        let start = self.at;
        while self.digits_end.is_none_or(|end| self.at < end) {
            let Token::Digit(digit) = self.peek()? else { break };
            digits.push(digit);
            self.at += 1;
        }
        Ok(self.at - start)
    }

    fn three_digits_follow(&self) -> Result<bool> {
        for ahead in 1..=3 {
            if !matches!(self.peek_after(ahead)?, Token::Digit(_)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn mathit(&mut self) -> Result<Expression> {
        self.at += 1;
        self.expect(Token::Open(Bracket::Curly))?;
        let start = self.tokens[self.at.min(self.tokens.len() - 1)].start;
        let mut end = start;
        while let Token::Letter(_) = self.peek()? {
            end = self.tokens[self.at].end;
            self.at += 1;
        }
        self.expect(Token::Close(Bracket::Curly))?;
        Ok(Expression::symbol(&self.text[start..end]))
    }

    fn frac(&mut self) -> Result<Item> {
        self.at += 1;
        let above_at = self.at;
        let above = self.frac_part()?;
        let below_at = self.at;
        let below = self.frac_part()?;
        if let Some(variable) = self.differential_of(below_at) {
            match self.tokens[above_at + 1].token {
                Token::Letter("d") if below_at == above_at + 3 => return Ok(Item::Derivative(variable)),
                // The numerator without its `d` is what the derivative is of; whole, it tells them apart as well.
                Token::Letter("d") | Token::Differential(_) => {
                    let of = Box::new([above, Expression::Symbol(variable)]);
                    return Ok(Item::Formula(Expression::Derivative(of)));
                }
                _ => {}
            }
        }
        let inverse = below.inverse();
        let is_one = above == Expression::integer(1);
        Ok(Item::Formula(if is_one { inverse } else { Expression::product(vec![above, inverse]) }))
    }

    /// The variable, where a denominator is `{dx}`.
    fn differential_of(&self, at: usize) -> Option<String> {
        match (self.tokens.get(at)?.token, self.tokens.get(at + 1)?.token, self.tokens.get(at + 2)?.token) {
            (Token::Open(_), Token::Differential(name), Token::Close(_)) => Some(name.to_owned()),
            _ => None,
        }
    }

    fn frac_part(&mut self) -> Result<Expression> {
        if let Token::Digit(digit) = self.peek()? {
            self.at += 1;
            return Ok(Expression::integer(u32::from(digit)));
        }
        self.in_brackets(Bracket::Curly)
    }
}

/// Arguments of a function as far as they could be read.
#[derive(Default)]
struct Arguments {
    list: Vec<Expression>,
    has_comma: bool,
}

/// A name as a symbol has it and as a function has it.
struct Name {
    symbol: String,
    call: String,
}

/// What belongs to a function such as `\log_2^2 x`.
struct Scripted {
    below: Option<Expression>,
    above: Option<Expression>,
    argument: Expression,
}

fn applied(name: &str, parts: Scripted) -> Result<Expression> {
    let Scripted { below, above, argument } = parts;
    let is = |value: &Expression, integer: i64| match value {
        Expression::Number(number) => number.integer == Some(integer),
        _ => false,
    };
    let is_inverse = above.as_ref().is_some_and(|above| is(above, -1));
    let inverse = if is_inverse { Function::inverse_of(name) } else { None };
    let call = match name {
        "log" | "ln" | "lg" => {
            let usual = || {
                if name == "lg" {
                    Expression::integer(10)
                } else {
                    Expression::Constant(super::expression::Constant::E)
                }
            };
            let base = below.unwrap_or_else(usual);
            Expression::Call(Function::Log, vec![argument, base])
        }
        _ => {
            let function = inverse.or_else(|| Function::named(name)).ok_or(Stop::Mismatch)?;
            Expression::Call(function, vec![argument])
        }
    };
    // An exponent of 0 is taken for none.
    Ok(match above {
        Some(above) if inverse.is_none() && !is(&above, 0) => Expression::power(call, above),
        _ => call,
    })
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
