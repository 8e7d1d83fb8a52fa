#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use tch::{Device, Kind, Reduction, Tensor};

use super::*;
use crate::head::{TILE_ROWS, WholeHead, likeliest};

/// A head of which one tile is there at a time, in sweeps.
struct Swept<'a> {
    whole: WholeHead<'a>,
    asked: Vec<usize>,
}

impl<'a> Swept<'a> {
    fn new(table: &'a Tensor) -> Self {
        Self { whole: WholeHead(table), asked: Vec::new() }
    }
}

impl Head for Swept<'_> {
    type Error = Infallible;

    fn tiles(&self) -> usize {
        self.whole.tiles()
    }

    fn is_at_hand(&self) -> bool {
        false
    }

    fn tile(&mut self, tile: usize) -> Result<Tensor, Infallible> {
        self.asked.push(tile);
        self.whole.tile(tile).map(|tile| tile.copy())
    }
}

struct Case {
    hidden: Tensor,
    table: Tensor,
    labels: Vec<i64>,
}

impl Case {
    /// What its positions are to predict.
    fn next(&self) -> Vec<i64> {
        next_labels(&self.labels, [13, 13])
    }
}

/// Two rows of 13 tokens; labels lie in all tiles, and some positions have none.
fn case(vocab: i64, kind: Kind) -> Case {
    tch::manual_seed(7);
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
    let labels = (0..26).map(|at| if at % 5 == 3 { IGNORED } else { (at * 7919 + 11) % vocab }).collect();
    Case { hidden: random(&[2, 13, 8]), table: random(&[vocab, 8]), labels }
}

fn norm(x: &Tensor) -> Tensor {
    x * 1.5
}

/// Loss and gradient by one product with the whole table, by libtorch.
fn in_one_piece(case: &Case, normaliser: f64) -> (f64, Tensor) {
    let leaf = case.hidden.to_kind(Kind::Float).set_requires_grad(true);
    let logits = norm(&leaf).matmul(&case.table.to_kind(Kind::Float).tr()).narrow(1, 0, 12);
    let targets = Tensor::from_slice(&case.labels).reshape([2, 13]).narrow(1, 1, 12);
    let vocab = case.table.size()[0];
    let loss = logits.reshape([24, vocab]).cross_entropy_loss::<&Tensor>(
        &targets.reshape([24]),
        None,
        Reduction::Sum,
        IGNORED,
        0.0,
    );
    let sum = loss.double_value(&[]);
    (sum, Tensor::run_backward(&[loss / normaliser], &[&leaf], false, false).swap_remove(0))
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Float) - b.to_kind(Kind::Float)).abs().max().double_value(&[])
}

#[test]
fn tiles_and_chunks_give_the_loss_of_one_piece() {
    for vocab in [50, TILE_ROWS, 2 * TILE_ROWS + 77] {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            let case = case(vocab, kind);
            let (expected, expected_grad) = in_one_piece(&case, 20.0);
            for chunk in [0, 1, 7] {
                let mut whole = WholeHead(&case.table);
                let Ok(found) =
                    cross_entropy(&case.hidden, &norm, &mut whole, &case.next(), chunk, Some(20.0));
                assert_eq!(found.tokens, 20);
                assert!(
                    (found.loss_sum.double_value(&[]) / expected - 1.0).abs() < tolerance,
                    "{vocab} {kind:?} {chunk}"
                );
                let grad = found.grad.unwrap();
                assert_eq!(grad.kind(), kind);
                let off = largest_difference(&grad, &expected_grad);
                let scale = expected_grad.abs().max().double_value(&[]);
                assert!(off < tolerance * scale, "{vocab} {kind:?} {chunk}: {off} of {scale}");
            }
        }
    }
}

#[test]
fn one_tile_at_a_time_changes_no_bit() {
    for vocab in [50, 2 * TILE_ROWS + 77] {
        for (kind, chunk, normaliser) in [
            (Kind::Float, 7, Some(20.0)),
            (Kind::Float, 26, Some(20.0)),
            (Kind::BFloat16, 0, Some(3.0)),
            (Kind::Half, 5, None),
        ] {
            let case = case(vocab, kind);
            let (mut whole, mut swept) = (WholeHead(&case.table), Swept::new(&case.table));
            let Ok(a) = cross_entropy(&case.hidden, &norm, &mut whole, &case.next(), chunk, normaliser);
            let Ok(b) = cross_entropy(&case.hidden, &norm, &mut swept, &case.next(), chunk, normaliser);
            assert_eq!(a.loss_sum, b.loss_sum, "{vocab} {kind:?}");
            assert_eq!(a.grad, b.grad, "{vocab} {kind:?}");
            let there = 0..swept.tiles();
            let back = there.clone().rev().filter(|_| normaliser.is_some());
            assert_eq!(swept.asked, there.chain(back).collect::<Vec<usize>>());
        }
    }
}

#[test]
fn rows_without_labels_have_no_loss() {
    let case = case(50, Kind::Float);
    let Ok(found) =
        cross_entropy(&case.hidden, &norm, &mut WholeHead(&case.table), &[IGNORED; 26], 7, Some(1.0));
    assert_eq!((found.loss_sum.double_value(&[]), found.tokens), (0.0, 0));
    assert_eq!(largest_difference(&found.grad.unwrap(), &case.hidden.zeros_like()), 0.0);
}

#[test]
fn the_likeliest_token_is_found_in_any_tile() {
    let vocab = 2 * TILE_ROWS + 77;
    let normed = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
    for expected in [[3, 9], [TILE_ROWS + 5, 2 * TILE_ROWS + 1], [2 * TILE_ROWS + 76, 2 * TILE_ROWS + 76]] {
        let table = Tensor::zeros([vocab, 2], (Kind::Float, Device::Cpu)) - 1.0;
        for id in expected {
            let _ = table.get(id).fill_(4.0);
        }
        let Ok(found) = likeliest(&normed, &mut WholeHead(&table));
        assert_eq!(i64::from(found), expected[0], "the smaller id of equals");
    }
}

#[test]
fn a_sequence_does_not_predict_the_next_one() {
    let labels = [1, 2, 3, 4, 5, 6];
    assert_eq!(next_labels(&labels, [6]), [2, 3, 4, 5, 6, IGNORED]);
    assert_eq!(next_labels(&labels, [2, 0, 1, 3]), [2, IGNORED, IGNORED, 5, 6, IGNORED]);
    assert_eq!(next_labels(&[], []), [0_i64; 0]);
}
