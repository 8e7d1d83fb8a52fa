//! What factors are made of: names, numbers, fractions and functions with their arguments.

use super::{Functions, Item, Parser, Result, Stop};
use crate::symbolic::expression::{Constant, Expression, Function};
use crate::symbolic::lexer::{Bracket, Placed, Token};
use crate::symbolic::numerals::Digits;

impl<'a> Parser<'a> {
    /// `f(x)`, else `f` alone, whatever follows.
    pub(super) fn call_or_symbol(&mut self) -> Result<Expression> {
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
        let all = self.inside(|parser| {
            loop {
                found.list.push(parser.additive()?);
                if !parser.takes(Token::Comma)? {
                    return parser.expect(Token::Close(Bracket::Round));
                }
                found.has_comma = true;
            }
        });
        all.map_err(Stop::outside_brackets)
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

    pub(super) fn named_function(&mut self, name: &str) -> Result<Expression> {
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

    pub(super) fn atom(&mut self) -> Result<Item> {
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
    ///
    /// Where the digits before a point cannot belong to it, the number ends earlier: `36.` is 3, and so is `36. So`.
    fn number(&mut self) -> Result<Expression> {
        let mut digits = Digits::default();
        let run = self.digits_ahead()?;
        let is_dangling = self.is_dangling_after(run)?;
        if is_dangling && run == 1 {
            return Err(Stop::Committed);
        }
        self.take_digits(if is_dangling { 1 } else { run }, &mut digits)?;
        while !is_dangling && self.thousands_follow()? {
            self.at += 1;
            self.take_digits(3, &mut digits)?;
        }
        if !is_dangling && self.takes(Token::Point)? {
            digits.point();
            let run = self.digits_ahead()?;
            // With a point behind it, the last digit starts another number.
            let is_followed = run > 1 && self.peek_after(run)? == Token::Point;
            self.take_digits(if is_followed { run - 1 } else { run }, &mut digits)?;
            if run > 1 && !is_followed {
                // The official parser looks whether the last digits are thousands.
                self.thousands_follow()?;
            }
        }
        digits.number().ok_or(Stop::Refused)
    }

    fn take_digits(&mut self, count: usize, digits: &mut Digits) -> Result<()> {
        for _ in 0..count {
            if let Token::Digit(digit) = self.take()? {
                digits.push(digit);
            }
        }
        Ok(())
    }

    /// How many digits come next, up to where they must end.
    fn digits_ahead(&self) -> Result<usize> {
        let mut count = 0;
        while self.digits_end.is_none_or(|end| self.at + count < end) {
            let Token::Digit(_) = self.peek_after(count)? else { break };
            count += 1;
        }
        Ok(count)
    }

    /// Whether there is a point without a digit behind it.
    fn is_dangling_after(&self, tokens: usize) -> Result<bool> {
        Ok(self.peek_after(tokens)? == Token::Point
            && !matches!(self.peek_after(tokens + 1)?, Token::Digit(_)))
    }

    /// Whether there are a comma and three digits, and no dangling point after them.
    fn thousands_follow(&self) -> Result<bool> {
        if self.peek()? != Token::Comma {
            return Ok(false);
        }
        for ahead in 1..=3 {
            if !matches!(self.peek_after(ahead)?, Token::Digit(_)) {
                return Ok(false);
            }
        }
        Ok(!self.is_dangling_after(4)?)
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
                if name == "lg" { Expression::integer(10) } else { Expression::Constant(Constant::E) }
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
