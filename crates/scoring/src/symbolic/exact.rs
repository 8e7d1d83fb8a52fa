//! Formulas made of +, −, ·, / and whole powers, in prime fields.
//!
//! Two such formulas are the same function if they agree at a random point, but for a chance of their degree in 2⁶⁰
//! (Schwartz and Zippel). No rounding is involved, and numbers of any length take no more room than short ones.

use super::Fuel;
use super::expression::{Expression, Function};

/// The integers modulo a prime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    prime: u64,
}

/// The two largest primes below 2⁶¹. Two, so that no number that somebody might write is 0 in both.
pub(crate) const PRIMES: [Field; 2] = [Field { prime: (1 << 61) - 1 }, Field { prime: (1 << 61) - 31 }];

impl Field {
    pub(crate) fn reduce(self, value: u64) -> u64 {
        value % self.prime
    }

    pub(crate) fn add(self, a: u64, b: u64) -> u64 {
        (a + b) % self.prime
    }

    pub(crate) fn negative(self, a: u64) -> u64 {
        if a == 0 { 0 } else { self.prime - a }
    }

    pub(crate) fn multiply(self, a: u64, b: u64) -> u64 {
        (u128::from(a) * u128::from(b) % u128::from(self.prime)) as u64
    }

    pub(crate) fn power(self, base: u64, mut exponent: u64) -> u64 {
        let (mut square, mut power) = (base, 1);
        while exponent > 0 {
            if exponent % 2 == 1 {
                power = self.multiply(power, square);
            }
            square = self.multiply(square, square);
            exponent /= 2;
        }
        power
    }

    /// Of anything but 0.
    pub(crate) fn inverse(self, a: u64) -> u64 {
        self.power(a, self.prime - 2)
    }

    fn signed(self, value: i128) -> u64 {
        let size = (value.unsigned_abs() % u128::from(self.prime)) as u64;
        if value < 0 { self.negative(size) } else { size }
    }
}

/// Whether the two are the same function; none where that cannot be decided here.
pub(super) fn agree(a: &Expression, b: &Expression, fuel: &Fuel) -> Option<bool> {
    for (index, field) in PRIMES.into_iter().enumerate() {
        let point = Point { field, index, fuel };
        if point.value(a)? != point.value(b)? {
            return Some(false);
        }
    }
    Some(true)
}

/// A number for every symbol, made of its name.
struct Point<'a> {
    field: Field,
    index: usize,
    fuel: &'a Fuel,
}

impl Point<'_> {
    fn value(&self, formula: &Expression) -> Option<u64> {
        self.fuel.burn(1)?;
        let field = self.field;
        match formula {
            Expression::Number(number) => Some(number.residues[self.index]),
            Expression::Symbol(name) => Some(field.reduce(hash(name, self.index as u64))),
            Expression::Sum(terms) => {
                terms.iter().try_fold(0, |sum, term| Some(field.add(sum, self.value(term)?)))
            }
            Expression::Product(factors) => factors
                .iter()
                .try_fold(1, |product, factor| Some(field.multiply(product, self.value(factor)?))),
            Expression::Power(parts) => self.power(&parts[0], &parts[1]),
            Expression::Call(function, arguments) => self.call(*function, arguments),
            Expression::Unknown(name, arguments) => {
                let seed = hash(name, self.index as u64);
                let mix = |seed: u64, argument| Some(mix(seed ^ self.value(argument)?));
                arguments.iter().try_fold(seed, mix).map(|value| field.reduce(value))
            }
            Expression::Infinity | Expression::Constant(_) | Expression::Derivative(_) => None,
        }
    }

    fn power(&self, base: &Expression, exponent: &Expression) -> Option<u64> {
        let exponent = integer(exponent, self.fuel)?;
        let base = self.value(base)?;
        self.fuel.burn(8)?;
        let power = self.field.power(base, exponent.unsigned_abs());
        match (exponent < 0, power) {
            (true, 0) => None,
            (true, power) => Some(self.field.inverse(power)),
            (false, power) => Some(power),
        }
    }

    fn call(&self, function: Function, arguments: &[Expression]) -> Option<u64> {
        let field = self.field;
        let ratio = |ratio: Ratio| {
            let below = field.signed(ratio.below);
            (below != 0).then(|| field.multiply(field.signed(ratio.above), field.inverse(below)))
        };
        match function {
            Function::Abs => {
                let value = rational(&arguments[0], self.fuel)?;
                ratio(Ratio { above: value.above.checked_abs()?, ..value })
            }
            Function::Conjugate => ratio(rational(&arguments[0], self.fuel)?),
            Function::Floor | Function::Ceiling => {
                let value = rational(&arguments[0], self.fuel)?;
                let floor = value.above.div_euclid(value.below);
                let is_whole = value.above % value.below == 0;
                let up = i128::from(function == Function::Ceiling && !is_whole);
                Some(field.signed(floor + up))
            }
            Function::Factorial => {
                let of = small(integer(&arguments[0], self.fuel)?)?;
                self.fuel.burn(of)?;
                Some((1..=of).fold(1, |product, factor| field.multiply(product, factor)))
            }
            Function::Binomial => {
                let chosen = integer(&arguments[1], self.fuel)?;
                if chosen < 0 {
                    return Some(0);
                }
                let chosen = small(chosen)?;
                self.fuel.burn(2 * chosen)?;
                let from = self.value(&arguments[0])?;
                let factor = |step: u64| field.add(from, field.negative(step));
                let above = (0..chosen).fold(1, |product, step| field.multiply(product, factor(step)));
                let below = (1..=chosen).fold(1, |product, step| field.multiply(product, step));
                Some(field.multiply(above, field.inverse(below)))
            }
            _ => None,
        }
    }
}

/// For counts of factors.
fn small(value: i64) -> Option<u64> {
    const MOST_FACTORS: u64 = 10_000;
    u64::try_from(value).ok().filter(|value| *value <= MOST_FACTORS)
}

/// A fraction in lowest terms, `below` positive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratio {
    above: i128,
    below: i128,
}

impl Ratio {
    fn new(above: i128, below: i128) -> Option<Self> {
        let (mut a, mut b) = (above.checked_abs()?, below.checked_abs()?);
        if b == 0 {
            return None;
        }
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let sign = below.signum();
        Some(Self { above: sign * above / a, below: sign * below / a })
    }
}

/// The value of a formula that is a whole number of 64 bits.
pub(super) fn integer(formula: &Expression, fuel: &Fuel) -> Option<i64> {
    let value = rational(formula, fuel)?;
    if value.below == 1 { i64::try_from(value.above).ok() } else { None }
}

/// The value of a formula that is a fraction of moderate size.
fn rational(formula: &Expression, fuel: &Fuel) -> Option<Ratio> {
    fuel.burn(1)?;
    match formula {
        Expression::Number(number) => {
            let is_whole = number.value.fract() == 0.0 && number.value.abs() < (1_u64 << 53) as f64;
            let whole = number.integer.or(is_whole.then_some(number.value as i64))?;
            Ratio::new(i128::from(whole), 1)
        }
        Expression::Sum(terms) => {
            let zero = Ratio { above: 0, below: 1 };
            terms.iter().try_fold(zero, |sum, term| {
                let term = rational(term, fuel)?;
                let above =
                    sum.above.checked_mul(term.below)?.checked_add(term.above.checked_mul(sum.below)?)?;
                Ratio::new(above, sum.below.checked_mul(term.below)?)
            })
        }
        Expression::Product(factors) => {
            let one = Ratio { above: 1, below: 1 };
            factors.iter().try_fold(one, |product, factor| {
                let factor = rational(factor, fuel)?;
                let above = product.above.checked_mul(factor.above)?;
                Ratio::new(above, product.below.checked_mul(factor.below)?)
            })
        }
        Expression::Power(parts) => {
            let base = rational(&parts[0], fuel)?;
            let exponent = i32::try_from(integer(&parts[1], fuel)?).ok()?;
            let size = exponent.unsigned_abs();
            let (above, below) = (base.above.checked_pow(size)?, base.below.checked_pow(size)?);
            if exponent < 0 { Ratio::new(below, above) } else { Ratio::new(above, below) }
        }
        _ => None,
    }
}

/// A number that follows from a name and a seed in no way that a formula could reflect.
pub(super) fn hash(name: &str, seed: u64) -> u64 {
    name.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)))
}

/// A step of SplitMix64.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::PRIMES;

    #[test]
    fn inverses() {
        for field in PRIMES {
            for value in [1, 2, 3, 10, field.prime - 1] {
                assert_eq!(field.multiply(value, field.inverse(value)), 1, "{value} modulo {}", field.prime);
            }
            assert_eq!(field.add(field.negative(5), 5), 0);
            assert_eq!(field.signed(-5), field.negative(5));
            // Fermat's test, for primes that were typed.
            for base in [2, 3, 5, 7, 11] {
                assert_eq!(field.power(base, field.prime - 1), 1);
            }
        }
    }
}
