//! Digits as they are read.

use super::expression::Expression;
use super::number::Number;

/// Decimal digits and a point among them.
#[derive(Debug, Default)]
pub(super) struct Digits {
    digits: String,
    point: Option<usize>,
}

impl Digits {
    pub(super) fn push(&mut self, digit: u8) {
        self.digits.push(char::from(b'0' + digit));
    }

    pub(super) fn point(&mut self) {
        self.point = Some(self.digits.len());
    }

    pub(super) fn has_point(&self) -> bool {
        self.point.is_some()
    }

    /// None for more digits than Python would read.
    pub(super) fn number(&self) -> Option<Expression> {
        let decimals = self.point.map_or(0, |point| self.digits.len() - point);
        Number::new(&self.digits, decimals).map(Expression::Number)
    }
}
