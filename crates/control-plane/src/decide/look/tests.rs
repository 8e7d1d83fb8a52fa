use super::*;
use crate::decide::{StepTime, Wait};
use proptest::prelude::*;

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A rank at 100 s: heard just now, backward for 0.1 s, with steps of a second behind it.
fn member(rank: usize) -> Member {
    Member {
        host: format!("host{rank}"),
        heard: at(100.0),
        connected: true,
        left: false,
        phase: Phase::Backward,
        phase_since: at(99.9),
        wait: None,
        recent: (1..=20).map(|step| StepTime { step, seconds: 1.0, waited: 0.2 }).collect(),
        fingerprints: BTreeMap::from([("settings".to_owned(), "abc".to_owned())]),
    }
}

fn picture(ranks: usize) -> Picture {
    Picture { ranks, began: at(0.0), members: (0..ranks).map(|rank| (rank, member(rank))).collect() }
}

fn of(picture: &mut Picture, rank: usize) -> &mut Member {
    picture.members.get_mut(&rank).expect("a rank of the picture")
}

/// From `moment` on everyone but `culprit` waits, and is heard from until `now`.
fn others_wait(picture: &mut Picture, culprit: usize, moment: f64, now: f64) {
    for (&rank, member) in &mut picture.members {
        if rank != culprit {
            member.heard = at(now);
            member.wait = Some(Wait { collective: "gather of block 3".into(), since: at(moment) });
        }
    }
}

fn found(picture: &Picture, now: f64) -> Vec<Finding> {
    look(picture, &Limits::default(), at(now))
}

#[test]
fn nothing_is_wrong_with_a_run_that_gets_on() {
    assert_eq!(found(&picture(4), 100.5), []);
    assert_eq!(median_step(&picture(4)), Some(1.0));
    assert_eq!(look(&Picture::default(), &Limits::default(), at(1000.0)), []);
}

#[test]
fn a_stopped_rank_is_named_within_three_steps_and_five_seconds() {
    for step_seconds in [0.01, 0.5, 1.0, 2.0, 30.0] {
        let mut run = picture(4);
        for member in run.members.values_mut() {
            member.recent.iter_mut().for_each(|step| step.seconds = step_seconds);
        }
        // Its last heartbeat came up to a second before it was stopped, at 100 s; the run is looked at twice a second.
        let latest = 100.0 + 3.0 * step_seconds + 5.0 - 0.5;
        others_wait(&mut run, 2, 100.5, latest);
        let findings = found(&run, latest);
        let [finding] = findings.as_slice() else { panic!("{step_seconds}: {findings:?}") };
        assert_eq!(
            (finding.kind, finding.rank, finding.host.as_str()),
            (FindingKind::Silent, Some(2), "host2")
        );
        assert_eq!((finding.waiting, finding.collective.as_deref()), (3, Some("gather of block 3")));
        assert!((finding.waiting_seconds - (latest - 100.5)).abs() < 1e-6);
        assert_eq!(finding.phase, Some(Phase::Backward));
    }
}

#[test]
fn the_sentence_says_who_where_what_and_who_waits() {
    let mut run = picture(3);
    others_wait(&mut run, 1, 101.0, 112.0);
    assert_eq!(
        found(&run, 112.0)[0].message,
        "rank 1 on host1 has been silent for 12 s; it was in phase backward; 2 other ranks wait for it in gather of block 3 for 11 s"
    );
    of(&mut run, 1).connected = false;
    assert!(found(&run, 112.0)[0].message.contains("its connection is gone"));
}

#[test]
fn a_rank_that_hangs_is_named_and_not_those_that_wait_for_it() {
    let mut run = picture(4);
    others_wait(&mut run, 3, 100.0, 120.0);
    of(&mut run, 3).heard = at(120.0);
    let findings = found(&run, 120.0);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((finding.kind, finding.rank, finding.waiting), (FindingKind::Hung, Some(3), 3));
    assert!(
        finding.message.starts_with("rank 3 on host3 has been in phase backward for 20 s"),
        "{}",
        finding.message
    );
    // Before the limit of three steps and five seconds nobody is.
    of(&mut run, 3).phase_since = at(112.5);
    others_wait(&mut run, 3, 113.0, 120.0);
    assert_eq!(found(&run, 120.0), []);
}

#[test]
fn a_rank_that_is_busy_and_never_joins_is_named() {
    let mut run = picture(2);
    others_wait(&mut run, 0, 100.0, 130.0);
    *of(&mut run, 0) = Member { heard: at(130.0), phase_since: at(129.9), ..member(0) };
    let findings = found(&run, 130.0);
    assert_eq!((findings[0].kind, findings[0].rank), (FindingKind::Hung, Some(0)), "{findings:?}");
    assert!(findings[0].message.contains("does not join"), "{findings:?}");
    // Writing a state is not endless, but has another limit.
    of(&mut run, 0).phase = Phase::Saving;
    assert_eq!(found(&run, 130.0), []);
}

#[test]
fn all_reducing_ranks_wait_without_saying_so() {
    let mut run = picture(2);
    *of(&mut run, 0) =
        Member { phase: Phase::Reducing, heard: at(120.0), phase_since: at(100.0), ..member(0) };
    of(&mut run, 1).heard = at(120.0);
    let findings = found(&run, 120.0);
    assert_eq!((findings.len(), findings[0].rank), (1, Some(1)), "{findings:?}");
    assert_eq!(findings[0].collective.as_deref(), Some("the all-reduce of θ"));
}

#[test]
fn where_all_wait_no_rank_is_blamed() {
    let mut run = picture(3);
    others_wait(&mut run, 9, 100.0, 120.0);
    of(&mut run, 2).wait = Some(Wait { collective: "hashes".into(), since: at(101.0) });
    let findings = found(&run, 120.0);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((finding.kind, finding.rank), (FindingKind::Stuck, None));
    assert!(finding.message.contains("2 in gather of block 3, 1 in hashes"), "{}", finding.message);
    of(&mut run, 2).left = true;
    assert!(found(&run, 120.0)[0].message.ends_with("1 rank has left"), "{:?}", found(&run, 120.0));
}

#[test]
fn before_the_first_step_there_is_patience() {
    let mut run = picture(2);
    for member in run.members.values_mut() {
        member.recent.clear();
        member.phase = Phase::Loading;
    }
    of(&mut run, 0).heard = at(125.0);
    assert_eq!(found(&run, 125.0), []);
    of(&mut run, 0).heard = at(131.0);
    assert_eq!(found(&run, 131.0)[0].rank, Some(1));
}

#[test]
fn ranks_that_do_not_come_are_missing_and_those_that_left_are_not() {
    let mut run = picture(3);
    run.members.remove(&1);
    for member in run.members.values_mut() {
        member.left = true;
    }
    let findings = found(&run, 400.0);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].kind, findings[0].rank), (FindingKind::Missing, Some(1)));
}

#[test]
fn a_slow_rank_is_named_only_when_it_is_slow_step_after_step() {
    let mut run = picture(4);
    for (at, step) in of(&mut run, 1).recent.iter_mut().enumerate() {
        // It computes 1.6 s where the others compute 0.8 s, but for three of twenty steps.
        step.seconds = if at % 7 == 0 { 0.8 } else { 1.6 };
        step.waited = 0.0;
    }
    let findings = found(&run, 100.1);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((finding.kind, finding.rank), (FindingKind::Slow, Some(1)));
    assert!(finding.message.contains("in 17 of the last 20 steps"), "{}", finding.message);
    of(&mut run, 1).recent.iter_mut().step_by(2).for_each(|step| step.seconds = 0.8);
    assert_eq!(found(&run, 100.1), []);
    of(&mut run, 1).recent.truncate(5);
    assert_eq!(found(&run, 100.1), []);
}

#[test]
fn a_rank_of_another_make_is_named() {
    let mut run = picture(3);
    of(&mut run, 2).fingerprints.insert("settings".into(), "abd".into());
    let findings = found(&run, 100.1);
    assert_eq!(findings[0].message, "rank 2 on host2 has another settings than rank 0 on host0");
    assert_eq!(overdue(&findings, &Limits::default()), None);
}

#[test]
fn the_attempt_ends_when_patience_does() {
    let mut run = picture(2);
    others_wait(&mut run, 1, 101.0, 163.0);
    assert_eq!(overdue(&found(&run, 163.0), &Limits::default()), None);
    others_wait(&mut run, 1, 101.0, 165.0);
    assert_eq!(overdue(&found(&run, 165.0), &Limits::default()).and_then(|finding| finding.rank), Some(1));
}

fn members() -> impl Strategy<Value = Member> {
    let phase = prop_oneof![
        Just(Phase::Starting),
        Just(Phase::Backward),
        Just(Phase::Reducing),
        Just(Phase::Saving),
        Just(Phase::Finishing)
    ];
    let wait = prop::option::of(("[ab]", 0.0f64..300.0));
    let times = prop::collection::vec((any::<u64>(), any::<f64>(), any::<f64>()), 0..40);
    (0.0f64..300.0, any::<bool>(), any::<bool>(), phase, 0.0f64..300.0, wait, times).prop_map(
        |(heard, connected, left, phase, phase_since, wait, times)| Member {
            heard: at(heard),
            connected,
            left,
            phase,
            phase_since: at(phase_since),
            wait: wait.map(|(collective, since)| Wait { collective, since: at(since) }),
            recent: times
                .into_iter()
                .map(|(step, seconds, waited)| StepTime { step, seconds, waited })
                .collect(),
            ..member(0)
        },
    )
}

proptest! {
    #[test]
    fn any_picture_is_looked_at(
        members in prop::collection::btree_map(0usize..8, members(), 0..8),
        ranks in 0usize..9,
        now in 0.0f64..400.0,
    ) {
        let ranks = ranks.max(members.keys().last().map_or(0, |last| last + 1));
        let run = Picture { ranks, began: at(0.0), members };
        let findings = look(&run, &Limits::default(), at(now));
        for (place, finding) in findings.iter().enumerate() {
            prop_assert!(!finding.message.is_empty());
            prop_assert!(finding.waiting <= run.members.len());
            let blames_leaver = finding.rank.and_then(|rank| run.members.get(&rank)).is_some_and(|member| member.left);
            let is_late = matches!(finding.kind, FindingKind::Silent | FindingKind::Hung);
            prop_assert!(!(blames_leaver && is_late));
            prop_assert!(!findings[..place].iter().any(|other| other.is_same(finding)));
        }
        overdue(&findings, &Limits::default());
    }

    #[test]
    fn the_later_it_is_the_more_is_silent(
        members in prop::collection::btree_map(0usize..6, members(), 1..6),
        now in 0.0f64..400.0,
        later in 0.0f64..100.0,
    ) {
        let run = Picture { ranks: 6, began: at(0.0), members };
        let silent = |now: f64| -> Vec<_> {
            let findings = look(&run, &Limits::default(), at(now));
            findings.into_iter().filter(|f| f.kind == FindingKind::Silent).map(|f| f.rank).collect()
        };
        let after = silent(now + later);
        prop_assert!(silent(now).iter().all(|rank| after.contains(rank)));
    }

    #[test]
    fn a_rank_that_waits_is_never_called_hung(
        members in prop::collection::btree_map(0usize..6, members(), 1..6),
        now in 0.0f64..400.0,
    ) {
        let run = Picture { ranks: 6, began: at(0.0), members };
        for finding in look(&run, &Limits::default(), at(now)) {
            if finding.kind == FindingKind::Hung {
                let member = finding.rank.and_then(|rank| run.members.get(&rank)).expect("a rank of the picture");
                prop_assert!(member.wait.is_none());
            }
        }
    }
}
