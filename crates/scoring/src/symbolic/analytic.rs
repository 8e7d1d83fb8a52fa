//! Values of formulas in complex floating point.

use std::f64::consts::{E, PI, TAU};

use num_complex::Complex64;

use super::exact::{hash, integer};
use super::expression::{Constant, Expression, Function};
use super::{Fuel, VALUE_TOLERANCE};
use crate::python::is_close;

/// A value and how large the numbers were that it came from, which says how exact it can be.
#[derive(Debug, Clone, Copy)]
struct Value {
    at: Complex64,
    size: f64,
}

/// Of the numbers that a value came from: what lies below is rounding.
const ROUNDING: f64 = 1e-12;

/// Points that formulas with symbols are compared at, and those of them at which both must have a value.
const POINTS: u64 = 6;
const LEAST_POINTS: usize = 3;

/// Whether two formulas without symbols have the same value, or real ones that are near to each other.
pub(super) fn values_are_equal(a: &Expression, b: &Expression, fuel: &Fuel) -> bool {
    let (Some(a), Some(b)) = (value(a, 0, fuel), value(b, 0, fuel)) else { return false };
    is_same(a, b) || are_close(a, b)
}

/// Whether two formulas without symbols have real values that are near to each other.
pub(super) fn values_are_close(a: &Expression, b: &Expression, fuel: &Fuel) -> bool {
    let (Some(a), Some(b)) = (value(a, 0, fuel), value(b, 0, fuel)) else { return false };
    are_close(a, b)
}

/// Whether two formulas have the same value wherever both have one.
pub(super) fn agree(a: &Expression, b: &Expression, fuel: &Fuel) -> bool {
    let mut compared = 0;
    for point in 0..POINTS {
        let (Some(a), Some(b)) = (value(a, point, fuel), value(b, point, fuel)) else { continue };
        if !is_same(a, b) {
            return false;
        }
        compared += 1;
    }
    compared >= LEAST_POINTS
}

fn is_same(a: Value, b: Value) -> bool {
    // Of infinite ones no difference could be taken.
    a.at.is_finite() && b.at.is_finite() && (a.at - b.at).norm() <= ROUNDING * (a.size + b.size)
}

fn are_close(a: Value, b: Value) -> bool {
    match (real(a), real(b)) {
        (Some(a), Some(b)) => is_close(a, b, VALUE_TOLERANCE),
        _ => false,
    }
}

fn real(value: Value) -> Option<f64> {
    let rounding = ROUNDING * value.size;
    if value.at.re.is_infinite() {
        return Some(value.at.re);
    }
    let part = if value.at.re.abs() <= rounding { 0.0 } else { value.at.re };
    (value.at.im.abs() <= rounding).then_some(part)
}

fn value(formula: &Expression, point: u64, fuel: &Fuel) -> Option<Value> {
    fuel.burn(2)?;
    let exactly = |at: f64| Some(Value { at: at.into(), size: at.abs() });
    let value = |part: &Expression| value(part, point, fuel);
    match formula {
        Expression::Number(number) => exactly(number.value).filter(|value| value.at.is_finite()),
        Expression::Infinity => exactly(f64::INFINITY),
        Expression::Constant(Constant::Pi) => exactly(PI),
        Expression::Constant(Constant::E) => exactly(E),
        Expression::Constant(Constant::I) => Some(Value { at: Complex64::I, size: 1.0 }),
        Expression::Symbol(name) => {
            let at = place(name, point);
            Some(Value { at, size: at.norm() })
        }
        Expression::Sum(terms) => {
            let zero = Value { at: Complex64::ZERO, size: 0.0 };
            terms.iter().try_fold(zero, |sum, term| plus(sum, value(term)?))
        }
        Expression::Product(factors) => {
            let one = Value { at: Complex64::ONE, size: 1.0 };
            factors.iter().try_fold(one, |product, factor| times(product, value(factor)?))
        }
        Expression::Power(parts) => {
            let whole = integer(&parts[1], fuel).and_then(|exponent| i32::try_from(exponent).ok());
            match whole {
                Some(exponent) => whole_power(value(&parts[0])?, exponent),
                None => power(value(&parts[0])?, value(&parts[1])?),
            }
        }
        Expression::Call(Function::Log, arguments) => {
            let (of, base) = (finite(value(&arguments[0])?)?, finite(value(&arguments[1])?)?);
            function_value(of, |z| Some(logarithm(z)? / logarithm(base.at)?))
        }
        Expression::Call(Function::Binomial, arguments) => {
            binomial(value(&arguments[0])?, value(&arguments[1])?, integer(&arguments[1], fuel), fuel)
        }
        Expression::Call(function, arguments) => {
            let argument = finite(value(&arguments[0])?)?;
            function_value(argument, |z| call(*function, z))
        }
        Expression::Unknown(name, arguments) => unknown(name, arguments.iter().map(value), point),
        Expression::Derivative(_) => None,
    }
}

fn finite(value: Value) -> Option<Value> {
    value.at.is_finite().then_some(value)
}

/// A value whose parts are finite; anything else would be an overflow.
fn checked(at: Complex64, size: f64) -> Option<Value> {
    finite(Value { at, size: size.max(at.norm()) })
}

/// An infinite value of a sign, if it has one.
fn infinite(at: f64) -> Option<Value> {
    at.is_infinite().then_some(Value { at: at.into(), size: f64::INFINITY })
}

fn plus(a: Value, b: Value) -> Option<Value> {
    if a.at.is_finite() && b.at.is_finite() {
        return checked(a.at + b.at, a.size + b.size);
    }
    infinite(a.at.re + b.at.re).filter(|_| a.at.im == 0.0 && b.at.im == 0.0)
}

fn times(a: Value, b: Value) -> Option<Value> {
    if a.at.is_finite() && b.at.is_finite() {
        return checked(a.at * b.at, a.size * b.at.norm() + a.at.norm() * b.size);
    }
    infinite(a.at.re * b.at.re).filter(|_| a.at.im == 0.0 && b.at.im == 0.0)
}

fn whole_power(base: Value, exponent: i32) -> Option<Value> {
    if exponent == 0 {
        return checked(Complex64::ONE, 1.0);
    }
    if !base.at.is_finite() {
        return if exponent > 0 {
            infinite(base.at.re.powi(exponent))
        } else {
            checked(Complex64::ZERO, 0.0)
        };
    }
    if exponent < 0 && base.at.norm() <= ROUNDING * base.size {
        return None;
    }
    let at = if base.at.im == 0.0 { base.at.re.powi(exponent).into() } else { base.at.powi(exponent) };
    let relative = if base.at.norm() > 0.0 { base.size / base.at.norm() } else { 1.0 };
    checked(at, at.norm() * relative * f64::from(exponent).abs())
}

fn power(base: Value, exponent: Value) -> Option<Value> {
    let (base, exponent) = (finite(base)?, finite(exponent)?);
    if base.at.norm() <= ROUNDING * base.size {
        // 0 to a power that is not known stays what it is.
        let is_positive = exponent.at.im == 0.0 && exponent.at.re > 0.0;
        return if is_positive { checked(Complex64::ZERO, base.size.powf(exponent.at.re)) } else { None };
    }
    let is_real = base.at.im == 0.0 && exponent.at.im == 0.0;
    let at = if is_real && base.at.re > 0.0 {
        base.at.re.powf(exponent.at.re).into()
    } else {
        (exponent.at * logarithm(base.at)?).exp()
    };
    let relative = (base.size / base.at.norm()) * exponent.at.norm().max(1.0) + exponent.size;
    checked(at, at.norm() * relative)
}

/// The principal value. A negative real number may come with either sign of zero.
fn logarithm(z: Complex64) -> Option<Complex64> {
    let z = if z.im == 0.0 { Complex64::new(z.re, 0.0) } else { z };
    (z != Complex64::ZERO).then(|| z.ln())
}

/// `function` at a value, and how much rounding in the argument may change.
fn function_value(argument: Value, function: impl Fn(Complex64) -> Option<Complex64>) -> Option<Value> {
    const STEP: f64 = 1e-7;
    let at = function(argument.at)?;
    let nearby = function(argument.at + argument.size * STEP).unwrap_or(at);
    let slope = (nearby - at).norm() / STEP;
    checked(at, at.norm() + if slope.is_finite() && slope < 1e6 * (1.0 + at.norm()) { slope } else { 0.0 })
}

fn call(function: Function, z: Complex64) -> Option<Complex64> {
    let inverse = |z: Complex64| (z.norm() > 1e-14).then(|| z.inv());
    let value = match function {
        Function::Sin => z.sin(),
        Function::Cos => z.cos(),
        Function::Tan => z.sin() * inverse(z.cos())?,
        Function::Csc => inverse(z.sin())?,
        Function::Sec => inverse(z.cos())?,
        Function::Cot => z.cos() * inverse(z.sin())?,
        Function::Arcsin => z.asin(),
        Function::Arccos => z.acos(),
        Function::Arctan => z.atan(),
        Function::Arccsc => inverse(z)?.asin(),
        Function::Arcsec => inverse(z)?.acos(),
        Function::Arccot if z == Complex64::ZERO => (PI / 2.0).into(),
        Function::Arccot => inverse(z)?.atan(),
        Function::Sinh => z.sinh(),
        Function::Cosh => z.cosh(),
        Function::Tanh => z.sinh() * inverse(z.cosh())?,
        Function::Arsinh => z.asinh(),
        Function::Arcosh => z.acosh(),
        Function::Artanh => z.atanh(),
        Function::Exp => z.exp(),
        Function::Abs => z.norm().into(),
        Function::Conjugate => z.conj(),
        Function::Floor => Complex64::new(settled(z.re).floor(), settled(z.im).floor()),
        Function::Ceiling => Complex64::new(settled(z.re).ceil(), settled(z.im).ceil()),
        Function::Factorial => factorial(z)?,
        Function::Log | Function::Binomial => return None,
    };
    Some(value)
}

/// The whole number that rounding has moved a value away from, if there is one.
fn settled(value: f64) -> f64 {
    let whole = value.round();
    if (value - whole).abs() <= ROUNDING * value.abs().max(1.0) { whole } else { value }
}

/// Γ(z + 1).
fn factorial(z: Complex64) -> Option<Complex64> {
    const LARGEST: f64 = 170.0;
    let whole = settled(z.re);
    if z.im == 0.0 && whole.fract() == 0.0 {
        let product = || (2..=whole as u32).map(f64::from).product::<f64>().into();
        return (0.0..=LARGEST).contains(&whole).then(product);
    }
    gamma(z + 1.0)
}

/// Lanczos' approximation with g = 7 and nine terms, good to some 10⁻¹⁴.
fn gamma(z: Complex64) -> Option<Complex64> {
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if z.re < 0.5 {
        let below = (z * PI).sin() * gamma(1.0 - z)?;
        return (below.norm() > 0.0).then(|| PI / below);
    }
    let z = z - 1.0;
    let sum = (1..9).fold(Complex64::from(TERMS[0]), |sum, i| sum + TERMS[i] / (z + i as f64));
    let t = z + 7.5;
    let value = TAU.sqrt() * (t.ln() * (z + 0.5)).exp() * (-t).exp() * sum;
    value.is_finite().then_some(value)
}

fn binomial(from: Value, chosen: Value, whole: Option<i64>, fuel: &Fuel) -> Option<Value> {
    const MOST_FACTORS: i64 = 1000;
    let from = finite(from)?;
    match whole {
        Some(whole) if whole < 0 => checked(Complex64::ZERO, 0.0),
        Some(whole) if whole <= MOST_FACTORS => {
            fuel.burn(whole.unsigned_abs())?;
            let step = |product: Complex64, i: i64| product * (from.at - i as f64) / (i + 1) as f64;
            let at = (0..whole).fold(Complex64::ONE, step);
            checked(at, at.norm() * (1.0 + whole as f64))
        }
        _ => {
            let chosen = finite(chosen)?;
            let below = factorial(chosen.at)? * factorial(from.at - chosen.at)?;
            let at = factorial(from.at)? / below;
            checked(at, 10.0 * at.norm())
        }
    }
}

/// Some smooth function, another one for every name.
fn unknown(name: &str, arguments: impl Iterator<Item = Option<Value>>, point: u64) -> Option<Value> {
    let start = place(name, point);
    let mut sum = Value { at: start, size: start.norm() };
    for (i, argument) in arguments.enumerate() {
        let argument = finite(argument?)?;
        let (factor, slope) = (place(name, 1000 + 2 * i as u64), place(name, 1001 + 2 * i as u64));
        sum = plus(sum, function_value(argument, |z| Some(factor * (slope * z + sum.at).sin()))?)?;
    }
    Some(sum)
}

/// A place near the unit circle, so that high powers neither vanish nor overflow.
fn place(name: &str, point: u64) -> Complex64 {
    const SEED: u64 = 7_919;
    let bits = hash(name, SEED + point);
    let share = |bits: u64| (bits & 0xffff_ffff) as f64 / f64::from(u32::MAX);
    Complex64::from_polar(0.8 + 0.45 * share(bits), TAU * share(bits >> 32))
}
