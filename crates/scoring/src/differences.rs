//! Where verdicts differ from the official ones, and where they do not although one might think so.
//!
//! **On purpose different:**
//!
//! | prediction, reference | official | here | why |
//! |---|---|---|---|
//! | `None`, no reference at all | equal | not equal | a row without an answer cannot be answered |
//! | `\int_0^1 x\,dx`, `\frac{1}{2}`; sums, products and limits likewise | equal | not equal | nobody answers with a problem; these equal what is written alike |
//! | what sympy cannot simplify to 0, and is 0 at six random points | not equal | equal | sympy gives up or takes minutes |
//! | `9^{9^{9^9}}` and its like | the run hangs | not equal | every verdict has a fixed number of steps |
//!
//! **The same, and worth knowing.** The official parser ignores what it cannot read behind a formula, takes letters for
//! factors and knows no units. Scores would not be comparable with published ones if this were otherwise:
//!
//! | prediction | reference | verdict |
//! |---|---|---|
//! | `2` | `2, -3, 4` | equal: a list outside brackets is read up to its first comma |
//! | `101` | `101_2` | equal, as is `x` to `x^-2` and to `x^(2)` |
//! | `x \in [1,3]` | `x \in [1,2]` | equal: both are read up to the bracket |
//! | `ACB` | `ABC` | equal: products of letters |
//! | `1800` or `0.18` | `18` | equal: percentages by the official rule |
//! | `11.5` | `11\frac{1}{2}` | not equal: 11 · ½ |
//! | `3.14159` | `\pi` | not equal: `\pi`, `e` and `i` are symbols |
//! | `A`, `90`, `50`, `5` | `\text{A}`, `90^\circ`, `50\%`, `5\text{ cm}` | not equal |
//! | `(1,2)` | `\left(1,2\right)` | not equal: only plain brackets are taken apart |
//! | `y = 2x` | `y=2x` | not equal: of equations no difference is taken |
//! | `25. So it is` | `25` | not equal: read as 2 |
