//! Formulas as trees. They stay as they were written: nothing is simplified but signs and products of one factor.

use std::fmt::Write;

use super::number::Number;

/// A formula.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    Number(Number),
    /// `\infty`; as a number it is only equal to itself.
    Infinity,
    /// To the LaTeX grammar `\pi`, `e` and `i` are symbols like any other; Python's names are not.
    Constant(Constant),
    Symbol(String),
    Sum(Vec<Expression>),
    Product(Vec<Expression>),
    Power(Box<[Expression; 2]>),
    Call(Function, Vec<Expression>),
    /// A function that nothing is known of, `f(x)`.
    Unknown(String, Vec<Expression>),
    /// A derivative: equal to what is written alike, and to nothing else.
    Derivative(Box<[Expression; 2]>),
}

/// Constants of Python's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Constant {
    Pi,
    E,
    I,
}

/// Functions that can be evaluated. All have one argument but for the last two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    Sin,
    Cos,
    Tan,
    Csc,
    Sec,
    Cot,
    Arcsin,
    Arccos,
    Arctan,
    Arccsc,
    Arcsec,
    Arccot,
    Sinh,
    Cosh,
    Tanh,
    Arsinh,
    Arcosh,
    Artanh,
    Exp,
    Abs,
    Conjugate,
    Floor,
    Ceiling,
    Factorial,
    /// Of a number and a base.
    Log,
    /// Of a number and how many of it.
    Binomial,
}

impl Expression {
    pub(crate) fn integer(value: u32) -> Self {
        Self::Number(value.into())
    }

    pub(crate) fn symbol(name: impl Into<String>) -> Self {
        Self::Symbol(name.into())
    }

    pub(crate) fn sum(terms: Vec<Self>) -> Self {
        Self::single(terms).unwrap_or_else(Self::Sum)
    }

    pub(crate) fn product(factors: Vec<Self>) -> Self {
        Self::single(factors).unwrap_or_else(Self::Product)
    }

    fn single(mut parts: Vec<Self>) -> Result<Self, Vec<Self>> {
        match parts.pop() {
            Some(part) if parts.is_empty() => Ok(part),
            Some(part) => {
                parts.push(part);
                Err(parts)
            }
            None => Err(parts),
        }
    }

    pub(crate) fn power(base: Self, exponent: Self) -> Self {
        Self::Power(Box::new([base, exponent]))
    }

    pub(crate) fn negative(self) -> Self {
        match self {
            Self::Number(mut number) => {
                number.negate();
                Self::Number(number)
            }
            other => Self::Product(vec![Self::integer(1).negative(), other]),
        }
    }

    pub(crate) fn inverse(self) -> Self {
        Self::power(self, Self::integer(1).negative())
    }

    pub(crate) fn root(base: Self, degree: Self) -> Self {
        Self::power(base, degree.inverse())
    }

    /// Its direct parts.
    pub(crate) fn parts(&self) -> &[Self] {
        match self {
            Self::Number(_) | Self::Infinity | Self::Constant(_) | Self::Symbol(_) => &[],
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) | Self::Unknown(_, parts) => parts,
            Self::Power(parts) | Self::Derivative(parts) => &parts[..],
        }
    }

    fn any(&self, holds: &impl Fn(&Self) -> bool) -> bool {
        holds(self) || self.parts().iter().any(|part| part.any(holds))
    }

    /// Whether a symbol occurs.
    pub(crate) fn has_symbols(&self) -> bool {
        self.any(&|part| matches!(part, Self::Symbol(_)))
    }

    /// Whether its value depends on what is not known.
    pub(crate) fn is_open(&self) -> bool {
        self.any(&|part| matches!(part, Self::Symbol(_) | Self::Unknown(..) | Self::Derivative(_)))
    }

    pub(crate) fn has_infinity(&self) -> bool {
        self.any(&|part| matches!(part, Self::Infinity))
    }

    /// For the name of a symbol with this as its subscript.
    pub(crate) fn in_name(&self) -> String {
        let mut name = String::new();
        self.write_name(&mut name);
        name
    }

    fn write_name(&self, out: &mut String) {
        match self {
            // Writing to a string cannot fail.
            Self::Number(Number { integer: Some(value), .. }) => _ = write!(out, "{value}"),
            Self::Number(number) => _ = write!(out, "{}", number.value),
            Self::Symbol(name) => out.push_str(name),
            Self::Sum(parts) | Self::Product(parts) => {
                let mut names: Vec<String> = parts.iter().map(Self::in_name).collect();
                names.sort();
                let sign = if matches!(self, Self::Sum(_)) { " + " } else { "*" };
                _ = write!(out, "({})", names.join(sign));
            }
            other => {
                let kind = match other {
                    Self::Call(function, _) => format!("{function:?}"),
                    Self::Unknown(name, _) => name.clone(),
                    Self::Power(_) => "**".to_owned(),
                    Self::Derivative(_) => "Derivative".to_owned(),
                    constant => format!("{constant:?}"),
                };
                let names: Vec<String> = other.parts().iter().map(Self::in_name).collect();
                _ = write!(out, "{kind}({})", names.join(", "));
            }
        }
    }
}

impl Function {
    /// By the name of the LaTeX command.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let functions = [
            ("sin", Self::Sin),
            ("cos", Self::Cos),
            ("tan", Self::Tan),
            ("csc", Self::Csc),
            ("sec", Self::Sec),
            ("cot", Self::Cot),
            ("arcsin", Self::Arcsin),
            ("arccos", Self::Arccos),
            ("arctan", Self::Arctan),
            ("arccsc", Self::Arccsc),
            ("arcsec", Self::Arcsec),
            ("arccot", Self::Arccot),
            ("sinh", Self::Sinh),
            ("cosh", Self::Cosh),
            ("tanh", Self::Tanh),
            ("arsinh", Self::Arsinh),
            ("arcosh", Self::Arcosh),
            ("artanh", Self::Artanh),
            ("exp", Self::Exp),
        ];
        functions.into_iter().find(|(known, _)| *known == name).map(|(_, function)| function)
    }

    /// What `\sin^{-1}` and its like are.
    pub(crate) fn inverse_of(name: &str) -> Option<Self> {
        let inverse = match name {
            "sin" => Self::Arcsin,
            "cos" => Self::Arccos,
            "tan" => Self::Arctan,
            "csc" => Self::Arccsc,
            "sec" => Self::Arcsec,
            "cot" => Self::Arccot,
            "sinh" => Self::Arsinh,
            "cosh" => Self::Arcosh,
            "tanh" => Self::Artanh,
            _ => return None,
        };
        Some(inverse)
    }
}
