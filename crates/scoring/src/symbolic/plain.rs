//! What is no LaTeX to sympy is tried as a Python expression: `.5`, `-.5*x`, `5.`.
//!
//! Few answers get here, since almost everything starts with something that is LaTeX, so only arithmetic is read.

use super::expression::{Constant, Expression, Function};
use super::numerals::Digits;
use super::{Fuel, Reading};

/// Nested parentheses, signs and powers.
const DEEPEST: u32 = 64;

/// Reads a whole text as a Python expression of numbers, names and operators.
pub(super) fn parse(text: &str, fuel: &Fuel) -> Reading {
    let mut parser = Parser { text: text.as_bytes(), at: 0, depth: 0, has_caret: false, fuel };
    let formula = parser.sum().filter(|_| parser.peek().is_none());
    match formula {
        None => Reading::Other,
        Some(formula) if parser.has_caret => Reading::ValueOnly(formula),
        Some(formula) => Reading::Formula(formula),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
    has_caret: bool,
    fuel: &'a Fuel,
}

impl Parser<'_> {
    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = self.peek().is_some() && self.text[self.at..].starts_with(sign.as_bytes());
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn inside(&mut self, read: impl FnOnce(&mut Self) -> Option<Expression>) -> Option<Expression> {
        self.fuel.burn(4)?;
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let found = read(self);
        self.depth -= 1;
        found
    }

    fn sum(&mut self) -> Option<Expression> {
        let mut terms = vec![self.product()?];
        loop {
            if self.takes("+") {
                terms.push(self.product()?);
            } else if self.takes("-") {
                terms.push(self.product()?.negative());
            } else {
                return Some(Expression::sum(terms));
            }
        }
    }

    fn product(&mut self) -> Option<Expression> {
        let mut factors = vec![self.signed()?];
        loop {
            if self.takes("*") {
                factors.push(self.signed()?);
            } else if self.takes("/") {
                // A second slash would round the quotient down.
                if self.peek() == Some(b'/') {
                    return None;
                }
                factors.push(self.signed()?.inverse());
            } else {
                return Some(Expression::product(factors));
            }
        }
    }

    fn signed(&mut self) -> Option<Expression> {
        if self.takes("-") {
            return self.inside(Self::signed).map(Expression::negative);
        }
        if self.takes("+") {
            return self.inside(Self::signed);
        }
        let base = self.atom()?;
        if self.takes("**") {
            return Some(Expression::power(base, self.inside(Self::signed)?));
        }
        if self.takes("^") {
            self.has_caret = true;
            return Some(Expression::power(base, self.inside(Self::signed)?));
        }
        Some(base)
    }

    fn atom(&mut self) -> Option<Expression> {
        match self.peek()? {
            b'(' => {
                self.at += 1;
                let formula = self.inside(Self::sum)?;
                self.takes(")").then_some(formula)
            }
            b'0'..=b'9' | b'.' => self.number(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.name(),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Expression> {
        let mut digits = Digits::default();
        let start = self.at;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'0'..=b'9' => digits.push(byte - b'0'),
                b'.' if !digits.has_point() => digits.point(),
                _ => break,
            }
            self.at += 1;
        }
        let is_number = self.text[start..self.at].iter().any(u8::is_ascii_digit);
        if is_number { digits.number() } else { None }
    }

    fn name(&mut self) -> Option<Expression> {
        let start = self.at;
        let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        self.at += self.text[start..].iter().take_while(|byte| is_of_name(byte)).count();
        let name = std::str::from_utf8(&self.text[start..self.at]).ok()?;
        if self.peek() == Some(b'(') {
            return self.call(name.to_owned().as_str());
        }
        Some(match name {
            "pi" => Expression::Constant(Constant::Pi),
            "E" => Expression::Constant(Constant::E),
            "I" => Expression::Constant(Constant::I),
            "oo" => Expression::Infinity,
            name => Expression::symbol(name),
        })
    }

    fn call(&mut self, name: &str) -> Option<Expression> {
        self.at += 1;
        let argument = self.inside(Self::sum)?;
        if !self.takes(")") {
            return None;
        }
        let function = match name {
            "sqrt" => return Some(Expression::root(argument, Expression::integer(2))),
            "log" | "ln" => {
                let base = Expression::Constant(Constant::E);
                return Some(Expression::Call(Function::Log, vec![argument, base]));
            }
            "Abs" | "abs" => Function::Abs,
            "factorial" => Function::Factorial,
            // Short names of sympy's own aside, any other name is a function that nothing is known of.
            "E" | "I" | "N" | "O" | "Q" | "S" => return None,
            name if name.len() == 1 => return Some(Expression::Unknown(name.to_owned(), vec![argument])),
            name => Function::named(name)?,
        };
        Some(Expression::Call(function, vec![argument]))
    }
}
