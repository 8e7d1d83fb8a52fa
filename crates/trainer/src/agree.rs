//! Decisions that all ranks take together, so that none waits for a peer that has already given up.

use comm::Communicator;

use crate::TrainError;
use crate::control::Wishes;

/// An error of which one rank speaks for all.
pub trait RankError {
    /// Whether the user can mend it (exit 2) or the work failed (exit 1).
    fn is_input(&self) -> bool;

    /// What the ranks get that do not speak: rank `rank` does.
    fn elsewhere(rank: usize, input: bool) -> Self;
}

impl RankError for TrainError {
    fn is_input(&self) -> bool {
        TrainError::is_input(self)
    }

    fn elsewhere(rank: usize, input: bool) -> Self {
        Self::Elsewhere { rank, input }
    }
}

/// Collective: `Ok` on every rank or an error on every rank. The lowest rank that failed keeps its error to report
/// it; the others get [`RankError::elsewhere`].
///
/// # Errors
/// Any rank's.
pub fn agree<T, E: RankError>(comm: &dyn Communicator, result: Result<T, E>) -> Result<T, E> {
    let verdict = match &result {
        Ok(_) => vec![],
        Err(error) => vec![u8::from(error.is_input())],
    };
    let verdicts = comm.all_gather(&verdict);
    match verdicts.iter().position(|verdict| !verdict.is_empty()) {
        None => result,
        Some(rank) if rank == comm.rank() => result,
        Some(rank) => Err(E::elsewhere(rank, verdicts[rank][0] != 0)),
    }
}

/// Collective: rank 0's value on every rank, or its error.
pub(crate) fn from_first(
    comm: &dyn Communicator,
    make: impl FnOnce() -> Result<Vec<u8>, TrainError>,
) -> Result<Vec<u8>, TrainError> {
    let mut bytes = agree(comm, if comm.rank() == 0 { make() } else { Ok(Vec::new()) })?;
    comm.broadcast(0, &mut bytes);
    Ok(bytes)
}

/// Collective: names the ranks whose facts are not those of most ranks (of rank 0, where two are as many). Each fact is a
/// name and a value.
///
/// # Errors
/// Some rank's facts differ.
pub fn same_everywhere(comm: &dyn Communicator, facts: &[(&str, String)]) -> Result<(), TrainError> {
    let mine: Vec<&str> = facts.iter().map(|(_, value)| value.as_str()).collect();
    let all = comm.all_gather(mine.join("\n").as_bytes());
    let votes = |rank: usize| all.iter().filter(|facts| **facts == all[rank]).count();
    // The first of equals: `max_by_key` takes the last.
    let like = (0..all.len()).rev().max_by_key(|rank| votes(*rank)).unwrap_or(0);
    let odd: Vec<usize> = (0..all.len()).filter(|rank| all[*rank] != all[like]).collect();
    let Some(first_odd) = odd.first() else { return Ok(()) };
    let (usual, odd_one) = (String::from_utf8_lossy(&all[like]), String::from_utf8_lossy(&all[*first_odd]));
    let differing = usual.lines().zip(odd_one.lines()).position(|(a, b)| a != b);
    let what = differing.and_then(|at| facts.get(at)).map_or("start", |(name, _)| name);
    let ranks = odd.iter().map(|rank| format!("rank {rank}")).collect::<Vec<_>>().join(", ");
    agree(comm, Err(TrainError::StartedDifferently { ranks, like, what: what.to_owned() }))
}

/// Collective: every rank has the same θ after `step`, by its hash; an error names those that differ from rank 0. Returns
/// what any rank was asked for.
pub(crate) fn same_theta(
    comm: &dyn Communicator,
    step: u64,
    hash: &str,
    wishes: Wishes,
) -> Result<Wishes, TrainError> {
    let all = comm.all_gather(&[hash.as_bytes(), &[wishes.to_byte()]].concat());
    let hash_of = |rank: usize| all[rank].split_last().map(|(_, hash)| hash);
    let odd = (0..all.len()).filter(|rank| hash_of(*rank) != hash_of(0)).map(|rank| format!("rank {rank}"));
    let ranks = odd.collect::<Vec<String>>().join(", ");
    match ranks.is_empty() {
        true => Ok(Wishes::of_any(all.iter().filter_map(|bytes| bytes.last().copied()))),
        false => agree(comm, Err(TrainError::RanksDiffer { step, ranks })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use comm::Single;
    use std::cell::RefCell;

    /// A rank whose peers say what the script says, collective by collective.
    struct Scripted {
        rank: usize,
        /// By collective, last first: what each rank says; this one's place is not read.
        answers: RefCell<Vec<Vec<&'static str>>>,
    }

    /// Rank 1 of three; the script is what ranks 0 and 2 say.
    fn middle(script: &[[&'static str; 2]]) -> Scripted {
        let answers = script.iter().rev().map(|[first, last]| vec![*first, "", *last]).collect();
        Scripted { rank: 1, answers: RefCell::new(answers) }
    }

    impl Communicator for Scripted {
        fn rank(&self) -> usize {
            self.rank
        }
        fn size(&self) -> usize {
            self.answers.borrow().last().map_or(0, Vec::len)
        }
        fn backend(&self) -> String {
            "script".to_owned()
        }
        fn all_reduce_sum(&self, _values: &mut [i64]) {}
        fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
            let answers = self.answers.borrow_mut().pop().expect("a collective that the peers do not make");
            let mut answers: Vec<Vec<u8>> = answers.into_iter().map(Vec::from).collect();
            answers[self.rank] = bytes.to_vec();
            answers
        }
        fn broadcast(&self, _root: usize, _bytes: &mut Vec<u8>) {}
        fn split(&self, _axis: &'static str, _group: usize) -> Box<dyn Communicator> {
            unreachable!("the script has no groups")
        }
        fn start_all_gather(&self, _mine: comm::Piece, _all: comm::Region) -> comm::Pending<comm::Region> {
            unreachable!("the script has no regions")
        }
        fn start_send(&self, _to: usize, _message: comm::Piece) -> comm::Pending<()> {
            unreachable!("the script has no messages")
        }
        fn start_receive(&self, _from: usize, _into: comm::Region) -> comm::Pending<comm::Region> {
            unreachable!("the script has no messages")
        }
        fn traffic(&self) -> Vec<comm::Traffic> {
            Vec::new()
        }
    }

    #[test]
    fn another_theta_names_its_ranks() {
        let none = Wishes::default();
        let stop = Wishes { stop: true, ..none };
        assert!(same_theta(&middle(&[["aa\0", "aa\0"]]), 3, "aa", none).is_ok_and(|wishes| wishes == none));
        assert!(
            same_theta(&middle(&[["aa\0", "aa\u{1}"]]), 3, "aa", none).is_ok_and(|wishes| wishes == stop)
        );
        // Rank 0 reports; the others know that it does.
        let error = same_theta(&middle(&[["aa\0", "bb\0"], ["\0", ""]]), 3, "aa", none);
        assert!(matches!(error, Err(TrainError::Elsewhere { rank: 0, input: false })), "{error:?}");
        let script = vec![vec!["", "\0", "\0", "\0"], vec!["", "bb\0", "aa\0", "cc\0"]];
        let first = Scripted { rank: 0, answers: RefCell::new(script) };
        let error = same_theta(&first, 3, "aa", none).expect_err("two ranks differ").to_string();
        assert_eq!(error, "after step 3 θ differs on rank 1, rank 3 from rank 0's");
    }

    #[test]
    fn the_lowest_rank_that_failed_reports() {
        let no_labels = || Err::<(), _>(TrainError::CommandLine);
        let error = agree(&middle(&[["", "\u{1}"]]), no_labels());
        assert!(matches!(error, Err(TrainError::CommandLine)), "rank 1 is the lowest");
        let error = agree(&middle(&[["\u{1}", ""]]), no_labels());
        assert!(matches!(error, Err(TrainError::Elsewhere { rank: 0, input: true })));
        let error = agree(&middle(&[["", "\0"]]), Ok(()));
        assert!(matches!(error, Err(TrainError::Elsewhere { rank: 2, input: false })));
        assert!(agree(&middle(&[["", ""]]), Ok::<_, TrainError>(())).is_ok());
    }

    #[test]
    fn a_rank_that_was_started_differently_is_named() {
        let facts = [("model", "m".to_owned()), ("training data", "d".to_owned())];
        assert!(same_everywhere(&middle(&[["m\nd", "m\nd"]]), &facts).is_ok());
        let error = same_everywhere(&middle(&[["m\nd", "m\nx"], ["", ""]]), &facts);
        let error = error.expect_err("rank 2 has other data").to_string();
        assert_eq!(error, "rank 2: not started like rank 0: training data differs");
    }

    #[test]
    fn the_odd_rank_is_named_whichever_it_is() {
        let script = vec![vec!["", "", ""], vec!["m", "x", "x"]];
        let first = Scripted { rank: 0, answers: RefCell::new(script) };
        let error = same_everywhere(&first, &[("model", "m".to_owned())]).expect_err("rank 0 is the odd one");
        assert_eq!(error.to_string(), "rank 0: not started like rank 1: model differs");
    }

    #[test]
    fn one_rank_agrees_with_itself() {
        assert!(matches!(agree(&Single, Ok::<_, TrainError>(3)), Ok(3)));
        let error: Result<(), _> = agree(&Single, Err(TrainError::CommandLine));
        assert!(matches!(error, Err(TrainError::CommandLine)));
        assert!(same_everywhere(&Single, &[("model", "a".to_owned())]).is_ok());
    }
}
