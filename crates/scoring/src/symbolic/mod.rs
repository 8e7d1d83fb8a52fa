//! Step 5 of the official rule: two texts as formulas.
//!
//! The official code reads a text as LaTeX, else as a Python expression, else leaves it a text. Two formulas are equal if
//! sympy simplifies their difference to 0, or if both have real values within a relative 10⁻³.

mod analytic;
mod exact;
mod expression;
mod fuel;
mod latex;
mod lexer;
mod number;
mod numerals;
mod plain;

use expression::Expression;
pub(crate) use fuel::Fuel;

/// Of the values of two formulas.
const VALUE_TOLERANCE: f64 = 1e-3;

/// Longer texts are no formulas; the official parser would take minutes for one.
const LONGEST: usize = 8192;

/// What a text is read as.
enum Reading {
    Formula(Expression),
    /// Python's `^` is no power, so that the text stays one; it still has a value.
    ValueOnly(Expression),
    /// A text, a list, an equation: nothing of which a difference could be taken.
    Other,
}

/// Whether the two are equal as formulas. Running out of fuel makes them unequal.
pub(crate) fn equal(a: &str, b: &str, fuel: &Fuel) -> bool {
    if a.len() > LONGEST || b.len() > LONGEST {
        return false;
    }
    match (read(a, fuel), read(b, fuel)) {
        (Reading::Other, _) | (_, Reading::Other) => false,
        (Reading::Formula(a), Reading::Formula(b)) => are_equal(&a, &b, fuel),
        (Reading::Formula(a) | Reading::ValueOnly(a), Reading::Formula(b) | Reading::ValueOnly(b)) => {
            !a.is_open() && !b.is_open() && analytic::values_are_close(&a, &b, fuel)
        }
    }
}

fn read(text: &str, fuel: &Fuel) -> Reading {
    match latex::parse(text, fuel) {
        Ok(Some(formula)) => Reading::Formula(formula),
        Ok(None) => Reading::Other,
        Err(_) => plain::parse(text, fuel),
    }
}

fn are_equal(a: &Expression, b: &Expression, fuel: &Fuel) -> bool {
    if a == b && !a.has_infinity() {
        return true;
    }
    // A difference of 0 first, exactly where that can be decided; of numbers, nearness counts as well.
    let same = exact::agree(a, b, fuel);
    let are_values = !a.is_open() && !b.is_open();
    match same {
        Some(true) => true,
        Some(false) => are_values && analytic::values_are_close(a, b, fuel),
        None if are_values => analytic::values_are_equal(a, b, fuel),
        None => analytic::agree(a, b, fuel),
    }
}
