//! What comes after an attempt that has ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What ended an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first rank to end badly, or all of them, had this exit status.
    Exit(i32),
    /// A rank was killed by this signal.
    Signal(i32),
    /// The system killed a rank for its memory.
    OutOfMemory,
    /// A host does not answer any more.
    HostLost,
    /// A rank did not get on, and the attempt was ended for it.
    Hung {
        /// The finding's sentence.
        what: String,
    },
    /// Loss or θ is not a number.
    NotANumber,
}

/// How an attempt ended, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// What happened.
    pub cause: Cause,
    /// The rank it happened to, if it is known.
    pub rank: Option<usize>,
    /// The host it happened on, if it is known.
    pub host: Option<String>,
    /// How many ranks cannot be started again as before: all of a lost host, those killed for memory.
    pub lost_ranks: usize,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rank = self.rank.map_or_else(|| "a rank".to_owned(), |rank| format!("rank {rank}"));
        let at = self.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        match &self.cause {
            Cause::Exit(status) => write!(f, "{rank}{at} ended with exit status {status}"),
            Cause::Signal(signal) => write!(f, "{rank}{at} was killed by signal {signal}"),
            Cause::OutOfMemory => write!(f, "{rank}{at} was killed for its memory"),
            Cause::HostLost => {
                let host = self.host.as_deref().unwrap_or("a host");
                write!(f, "{host} does not answer any more")
            }
            Cause::Hung { what } => f.write_str(what),
            Cause::NotANumber => write!(f, "the loss of {rank}{at} is not a number"),
        }
    }
}

/// One start of the run, after it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// On how many ranks.
    pub ranks: usize,
    /// The newest durable step when it ended.
    pub durable_step: Option<u64>,
    /// How it ended.
    pub ending: Ending,
}

/// All that a restart depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// All attempts, oldest first; the last one has just ended.
    pub attempts: Vec<Attempt>,
    /// How many ranks the hosts that are left can take.
    pub slots: usize,
    /// Why the run was asked to stop, if it was.
    pub stopping: Option<String>,
}

/// How far restarts go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How many restarts without a durable step in between are made at most.
    pub restarts_without_progress: usize,
    /// The fewest ranks to go on with; 0 counts as 1.
    pub min_ranks: usize,
    /// The number of ranks stays a multiple of this, for the mesh's other axes; 0 counts as 1.
    pub ranks_multiple_of: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { restarts_without_progress: 3, min_ranks: 1, ranks_multiple_of: 1 }
    }
}

/// What to do, and why. Each reason is a sentence without its period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Start the same command again, on this many ranks.
    Restart {
        /// At least 1, never more than before.
        ranks: usize,
        /// Why.
        reason: String,
    },
    /// End: another start would fail as well, or has failed too often.
    GiveUp {
        /// Why.
        reason: String,
    },
    /// The run is complete.
    Done {
        /// As a sentence.
        reason: String,
    },
    /// The run was asked to stop, and can be taken up again.
    Preempted {
        /// As a sentence.
        reason: String,
    },
}

/// Exit status of a run that was asked to stop (`EX_TEMPFAIL`).
const PREEMPTED: i32 = 75;
/// Exit status for input that the user has to mend.
const WRONG_INPUT: i32 = 2;

/// What comes after the last attempt of `history`.
pub fn restart(history: &History, policy: &Policy) -> Verdict {
    let Some(last) = history.attempts.last() else {
        return Verdict::GiveUp { reason: "no attempt was made".into() };
    };
    let ending = &last.ending;
    match ending.cause {
        Cause::Exit(0) => return Verdict::Done { reason: "the run is complete".into() },
        Cause::Exit(PREEMPTED) => {
            let why = history.stopping.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            return Verdict::Preempted {
                reason: format!(
                    "the run was asked to stop{why}; {}, and the same command takes it up again",
                    progress(last)
                ),
            };
        }
        Cause::Exit(WRONG_INPUT) => {
            return Verdict::GiveUp {
                reason: format!("{ending}: the input has to be mended, and another start would fail as well"),
            };
        }
        Cause::NotANumber => {
            return Verdict::GiveUp {
                reason: format!("{ending}: the same steps would come to the same numbers again"),
            };
        }
        Cause::Exit(_) | Cause::Signal(_) | Cause::OutOfMemory | Cause::HostLost | Cause::Hung { .. } => {}
    }
    if let Some(why) = &history.stopping {
        return Verdict::Preempted {
            reason: format!("{ending} after the run was asked to stop ({why}); {}", progress(last)),
        };
    }
    let idle = restarts_without_progress(&history.attempts);
    if idle >= policy.restarts_without_progress {
        return Verdict::GiveUp {
            reason: format!("{ending}, and {idle} restarts brought no new durable step; {}", progress(last)),
        };
    }
    on_what_is_left(last, history.slots, policy)
}

/// A restart on the ranks that can be had.
fn on_what_is_left(last: &Attempt, slots: usize, policy: &Policy) -> Verdict {
    let ending = &last.ending;
    let wanted = match ending.cause {
        Cause::OutOfMemory => last.ranks.saturating_sub(ending.lost_ranks.max(1)),
        _ => last.ranks,
    };
    let multiple = policy.ranks_multiple_of.max(1);
    let ranks = wanted.min(slots) / multiple * multiple;
    let fewest = policy.min_ranks.max(1);
    if ranks < fewest {
        let of = if multiple > 1 { format!(" in multiples of {multiple}") } else { String::new() };
        return Verdict::GiveUp {
            reason: format!("{ending}, and {ranks} ranks{of} are left, where at least {fewest} are needed"),
        };
    }
    let change = if ranks < last.ranks {
        format!("with {ranks} of {} ranks", last.ranks)
    } else {
        format!("with {ranks} ranks again")
    };
    Verdict::Restart { ranks, reason: format!("{ending}; going on {change}; {}", progress(last)) }
}

/// How many of the last attempts came after one that had got as far.
fn restarts_without_progress(attempts: &[Attempt]) -> usize {
    let Some(last) = attempts.last() else { return 0 };
    attempts.iter().rev().skip(1).take_while(|attempt| attempt.durable_step >= last.durable_step).count()
}

fn progress(attempt: &Attempt) -> String {
    match attempt.durable_step {
        Some(step) => format!("step {step} is durable"),
        None => "no step is durable yet".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ending(cause: Cause) -> Ending {
        Ending { cause, rank: Some(1), host: Some("beta".into()), lost_ranks: 0 }
    }

    fn history(cause: Cause) -> History {
        let attempt = Attempt { ranks: 4, durable_step: Some(7), ending: ending(cause) };
        History { attempts: vec![attempt], slots: 4, stopping: None }
    }

    fn verdict(history: &History) -> Verdict {
        restart(history, &Policy::default())
    }

    fn reason(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Restart { reason, .. }
            | Verdict::GiveUp { reason }
            | Verdict::Done { reason }
            | Verdict::Preempted { reason } => reason,
        }
    }

    #[test]
    fn exit_statuses_mean_what_the_manual_says() {
        assert!(matches!(verdict(&history(Cause::Exit(0))), Verdict::Done { .. }));
        assert!(matches!(verdict(&history(Cause::Exit(75))), Verdict::Preempted { .. }));
        assert!(matches!(verdict(&history(Cause::Exit(2))), Verdict::GiveUp { .. }));
        assert!(matches!(verdict(&history(Cause::NotANumber)), Verdict::GiveUp { .. }));
        for cause in [Cause::Exit(1), Cause::Signal(11), Cause::Hung { what: "rank 1 is silent".into() }] {
            assert!(matches!(verdict(&history(cause)), Verdict::Restart { ranks: 4, .. }));
        }
    }

    #[test]
    fn a_crash_says_who_where_and_how_far() {
        assert_eq!(
            verdict(&history(Cause::Signal(9))),
            Verdict::Restart {
                ranks: 4,
                reason:
                    "rank 1 on beta was killed by signal 9; going on with 4 ranks again; step 7 is durable"
                        .into(),
            }
        );
    }

    #[test]
    fn a_lost_host_costs_its_ranks() {
        let mut lost = history(Cause::HostLost);
        lost.slots = 2;
        let answer = verdict(&lost);
        assert!(matches!(answer, Verdict::Restart { ranks: 2, .. }), "{answer:?}");
        assert!(reason(&answer).contains("beta does not answer"), "{answer:?}");
        lost.slots = 0;
        assert!(matches!(verdict(&lost), Verdict::GiveUp { .. }));
    }

    #[test]
    fn a_kill_for_memory_costs_a_rank_and_the_last_one_ends_it() {
        let mut killed = history(Cause::OutOfMemory);
        assert!(matches!(verdict(&killed), Verdict::Restart { ranks: 3, .. }));
        killed.attempts[0].ranks = 1;
        assert!(matches!(verdict(&killed), Verdict::GiveUp { .. }));
    }

    #[test]
    fn the_mesh_keeps_its_other_axes() {
        let policy = Policy { ranks_multiple_of: 2, ..Policy::default() };
        let answer = restart(&history(Cause::OutOfMemory), &policy);
        assert!(matches!(answer, Verdict::Restart { ranks: 2, .. }), "{answer:?}");
    }

    #[test]
    fn three_restarts_without_a_new_step_are_enough() {
        let mut run = history(Cause::Signal(11));
        for _ in 0..2 {
            run.attempts.push(run.attempts[0].clone());
            assert!(matches!(verdict(&run), Verdict::Restart { .. }), "{run:?}");
        }
        run.attempts.push(run.attempts[0].clone());
        let answer = verdict(&run);
        assert!(matches!(answer, Verdict::GiveUp { .. }), "{answer:?}");
        assert!(reason(&answer).contains("signal 11"), "{answer:?}");
        run.attempts[3].durable_step = Some(8);
        assert!(matches!(verdict(&run), Verdict::Restart { .. }));
    }

    #[test]
    fn a_run_that_was_to_stop_is_not_started_again() {
        let mut run = history(Cause::Signal(15));
        run.stopping = Some("maintenance".into());
        assert!(matches!(verdict(&run), Verdict::Preempted { .. }));
    }

    fn causes() -> impl Strategy<Value = Cause> {
        prop_oneof![
            any::<i32>().prop_map(Cause::Exit),
            any::<i32>().prop_map(Cause::Signal),
            Just(Cause::OutOfMemory),
            Just(Cause::HostLost),
            Just(Cause::NotANumber),
            Just(Cause::Hung { what: "x".into() }),
        ]
    }

    proptest! {
        #[test]
        fn a_restart_always_fits(
            attempts in prop::collection::vec(
                (0usize..9, prop::option::of(0u64..5), causes(), 0usize..9), 0..7),
            slots in 0usize..9,
            stopping in prop::option::of(Just("x".to_owned())),
            policy in (0usize..4, 0usize..4, 0usize..4),
        ) {
            let attempts: Vec<_> = attempts.into_iter().map(|(ranks, durable_step, cause, lost_ranks)| Attempt {
                ranks, durable_step, ending: Ending { lost_ranks, ..ending(cause) },
            }).collect();
            let last = attempts.last().map_or(0, |attempt| attempt.ranks);
            let policy = Policy {
                restarts_without_progress: policy.0, min_ranks: policy.1, ranks_multiple_of: policy.2,
            };
            let run = History { attempts, slots, stopping };
            let answer = restart(&run, &policy);
            prop_assert!(!reason(&answer).is_empty());
            if let Verdict::Restart { ranks, .. } = answer {
                prop_assert!(ranks >= policy.min_ranks.max(1) && ranks <= slots && ranks <= last);
                prop_assert_eq!(ranks % policy.ranks_multiple_of.max(1), 0);
                prop_assert!(run.stopping.is_none());
            }
        }

        #[test]
        fn a_run_that_never_gets_on_ends(cause in causes(), allowed in 0usize..6) {
            let policy = Policy { restarts_without_progress: allowed, ..Policy::default() };
            let mut run = History { attempts: Vec::new(), slots: 64, stopping: None };
            let mut ranks = 64;
            for starts in 1..=allowed + 2 {
                run.attempts.push(Attempt { ranks, durable_step: None, ending: ending(cause.clone()) });
                match restart(&run, &policy) {
                    Verdict::Restart { ranks: next, .. } => ranks = next,
                    _ => return Ok(()),
                }
                prop_assert!(starts <= allowed, "restart {} of {}", starts, allowed);
            }
        }
    }
}
