//! Rows held out of the training data.

use crate::order::{MAX_ROWS, randperm};
use crate::{Error, Result, Rows};

impl Rows {
    /// Takes rows out for validation: returns what is left for training, and the held-out rows.
    ///
    /// `split` is a share of the rows if it lies between 0 and 1 (rounded to the nearest row, halves up), else their
    /// number. Which ones is decided by torch's random permutation with this seed: those it names first. Both parts
    /// keep the order of the file.
    ///
    /// # Errors
    /// A number that is neither, or one that leaves a part without rows; more rows than an order can be drawn for.
    pub fn split(self, split: f64, seed: u64) -> Result<(Self, Self)> {
        let rows = self.len();
        if rows as u64 >= MAX_ROWS {
            let need = "less than 214748364, as far as the official order is drawn with 32-bit words";
            return Err(Error::Setting { name: "number of rows", value: rows.to_string(), need });
        }
        let count = held_out_rows(split, rows)?;
        let mut is_held_out = vec![false; rows];
        for row in &randperm(rows as u32, seed)[..count] {
            is_held_out[*row as usize] = true;
        }
        Ok(self.partition(&is_held_out))
    }
}

/// The number of rows that [`Rows::split`] holds out of `rows` rows: at least 1 and less than all.
///
/// # Errors
/// A `split` that is neither a share nor a whole number, or one that leaves a part without rows.
pub fn held_out_rows(split: f64, rows: usize) -> Result<usize> {
    let is_share = split > 0.0 && split < 1.0;
    let is_count = split >= 1.0 && split.fract() == 0.0;
    if !is_share && !is_count {
        let need = "a share above 0 and below 1, or a whole number of rows";
        return Err(Error::Setting { name: "validation split", value: split.to_string(), need });
    }
    let count = if is_share { (split * rows as f64).round() } else { split };
    // Comparing as f64 first: a huge number saturates on conversion.
    match count {
        count if count < 1.0 => Err(Error::Split { split, part: "the held-out data", rows }),
        count if count >= rows as f64 => Err(Error::Split { split, part: "the training data", rows }),
        count => Ok(count as usize),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use miette::Diagnostic as _;

    use super::*;
    use crate::{Content, Row};

    fn rows(n: usize) -> Rows {
        Rows::new((0..n).map(|i| Row::pair(i.to_string(), "")).collect()).unwrap()
    }

    fn numbers(rows: &Rows) -> Vec<u32> {
        let number = |row: &Row| match &row.content {
            Content::Pair { query, .. } => query.parse().unwrap(),
            Content::Chat(_) | Content::Fields => unreachable!(),
        };
        rows.as_slice().iter().map(number).collect()
    }

    #[test]
    fn takes_what_the_permutation_names_first() {
        for (split, count) in [(0.1, 2), (0.05, 1), (0.475, 10), (1.0, 1), (19.0, 19), (7.0, 7)] {
            let (train, held_out) = rows(20).split(split, 42).unwrap();
            let mut expect = randperm(20, 42)[..count].to_vec();
            expect.sort_unstable();
            assert_eq!(numbers(&held_out), expect, "{split}");
            assert_eq!(train.len() + held_out.len(), 20);
            assert_eq!(train.place(0).row, u64::from(numbers(&train)[0]) + 1);
        }
        assert_eq!(held_out_rows(0.1, 395_000).unwrap(), 39_500);
        assert_ne!(numbers(&rows(20).split(5.0, 1).unwrap().1), numbers(&rows(20).split(5.0, 2).unwrap().1));
    }

    #[test]
    fn refuses_what_leaves_a_part_empty() {
        for (split, n, code) in [
            (0.01, 10, "data_split"),
            (0.99, 10, "data_split"),
            (10.0, 10, "data_split"),
            (1e300, 10, "data_split"),
            (f64::INFINITY, 10, "data_setting"),
            (1.0, 1, "data_split"),
            (0.5, 1, "data_split"),
            (0.0, 10, "data_setting"),
            (-1.0, 10, "data_setting"),
            (1.5, 10, "data_setting"),
            (f64::NAN, 10, "data_setting"),
        ] {
            let error = rows(n).split(split, 1).unwrap_err();
            assert_eq!(error.to_string(), held_out_rows(split, n).unwrap_err().to_string());
            assert_eq!(error.code().unwrap().to_string(), format!("input::{code}"), "{split}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_in_order(n in 2usize..200, seed: u64, share in 0.0f64..1.0) {
            if let Ok((train, held_out)) = rows(n).split(share.max(1e-9), seed) {
                let (train, held_out) = (numbers(&train), numbers(&held_out));
                proptest::prop_assert!(!train.is_empty() && !held_out.is_empty());
                proptest::prop_assert!(train.is_sorted() && held_out.is_sorted());
                let all: BTreeSet<u32> = train.iter().chain(&held_out).copied().collect();
                proptest::prop_assert_eq!(all.len(), n);
                proptest::prop_assert_eq!(train.len() + held_out.len(), n);
            }
        }
    }
}
