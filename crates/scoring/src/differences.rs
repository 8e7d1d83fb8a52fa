//! Where verdicts differ from the official ones, and where they do not although one might think so.
//!
//! **Different:**
//!
//! | prediction | reference | official | here | why |
//! |---|---|---|---|---|
//! | `None` | no answer at all | equal | not equal | a row without an answer cannot be answered |
//! | `\sum_{i=1}^{3} i` | `6` | equal | not equal | sums, products, integrals and limits are no answers; they equal the same text only |
//! | `5+\sqrt{2.5}-b` | `\sqrt{2.5}-b+5` | not equal | equal | sympy's rounding of decimals leaves 10⁻¹⁶ of a difference |
//! | `2`, `2, -3, 4` | equal: read up to the first comma | not equal | half of an answer; lists outside brackets are compared part by part |
//! | what sympy cannot simplify to 0 | what has the same value at six random points | not equal | equal | the same holds for what it takes minutes for |
//! | `9^{9^{9^9}}` and its like | any | the run hangs | not equal | every verdict has a fixed number of steps |
//!
//! **The same, and worth knowing.** The official parser ignores what it cannot read behind a formula, takes letters for
//! factors and knows no units. Scores would not be comparable with published ones if this were otherwise:
//!
//! | prediction | reference | verdict |
//! |---|---|---|
//! | `x` | `x^-2` | equal: an exponent needs braces |
//! | `x \in [1,3]` | `x \in [1,2]` | equal: both are read up to the bracket |
//! | `ACB` | `ABC` | equal: products of letters |
//! | `1800`, `0.18` | `18` | equal: percentages by the official rule |
//! | `11.5` | `11\frac{1}{2}` | not equal: 11 · ½ |
//! | `3.14159` | `\pi` | not equal: `\pi`, `e` and `i` are symbols |
//! | `A`, `90`, `50`, `5` | `\text{A}`, `90^\circ`, `50\%`, `5\text{ cm}` | not equal |
//! | `(1,2)` | `\left(1,2\right)` | not equal: only plain brackets are taken apart |
//! | `y = 2x` | `y=2x` | not equal: of equations no difference is taken |
//! | `25. So it is` | `25` | not equal: read as 2 |

#[cfg(test)]
mod tests {
    use crate::texts_are_equal;

    #[test]
    fn tables_are_right() {
        let check = |prediction: &str, reference: &str, expect: bool| {
            assert_eq!(texts_are_equal(prediction, reference), expect, "{prediction:?} for {reference:?}");
        };
        check("\\sum_{i=1}^{3} i", "6", false);
        check("\\int_0^1 x dx", "\\frac{1}{2}", false);
        check("\\lim_{x\\to 0} x", "0", false);
        check("5+\\sqrt{2.5}-b", "\\sqrt{2.5}-b+5", true);
        check("9^{9^{9^9}}", "9^{9^{9^8}}", false);
        check("2", "2, -3, 4", false);
        check("x", "x^-2", true);
        check("x \\in [1,3]", "x \\in [1,2]", true);
        check("ACB", "ABC", true);
        check("1800", "18", true);
        check("0.18", "18", true);
        check("11.5", "11\\frac{1}{2}", false);
        check("3.14159", "\\pi", false);
        check("A", "\\text{A}", false);
        check("90", "90^\\circ", false);
        check("50", "50\\%", false);
        check("5", "5\\text{ cm}", false);
        check("(1,2)", "\\left(1,2\\right)", false);
        check("y = 2x", "y=2x", false);
        check("25. So it is", "25", false);
    }
}
