//! The order of work in a pipeline.

/// What a stage does next, by the number of the micro-batch within its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Forward through the stage's blocks.
    Forward(usize),
    /// Backward through them; its forward was made before.
    Backward(usize),
}

/// The one-forward-one-backward schedule (1F1B; PipeDream-Flush, arXiv 2006.09503) of a stage: `warm_up` forwards fill the
/// pipeline, then come a forward and a backward in turn, then the backwards that are left. At most `warm_up` + 1
/// micro-batches are between their forward and their backward. Backwards come in the order of forwards. Without a warm-up,
/// as with one stage: forward and backward of each micro-batch in turn.
pub fn one_forward_one_backward(warm_up: usize, micro_batches: usize) -> Vec<Action> {
    let warm_up = warm_up.min(micro_batches);
    let mut actions: Vec<Action> = (0..warm_up).map(Action::Forward).collect();
    for next in warm_up..micro_batches {
        actions.extend([Action::Forward(next), Action::Backward(next - warm_up)]);
    }
    actions.extend((micro_batches - warm_up..micro_batches).map(Action::Backward));
    actions
}

/// The warm-up of stage `stage` of `stages`: as many forwards as there are stages after it. With `ahead` one more, except on
/// the last stage: with that in hand a stage goes on while messages are on their way and while its neighbours take
/// longer (eager 1F1B, arXiv 2211.05322, doubles the number to that end).
pub fn warm_up(stage: usize, stages: usize, ahead: bool) -> usize {
    match stages.saturating_sub(1 + stage) {
        0 => 0,
        after => after + usize::from(ahead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_schedule_of_a_small_pipeline() {
        use Action::{Backward as B, Forward as F};
        assert_eq!(one_forward_one_backward(0, 2), [F(0), B(0), F(1), B(1)]);
        assert_eq!(one_forward_one_backward(1, 3), [F(0), F(1), B(0), F(2), B(1), B(2)]);
        assert_eq!(one_forward_one_backward(4, 2), [F(0), F(1), B(0), B(1)]);
        assert_eq!(one_forward_one_backward(2, 0), []);
        assert_eq!([0, 1, 2, 3].map(|stage| warm_up(stage, 4, false)), [3, 2, 1, 0]);
        assert_eq!([0, 1, 2, 3].map(|stage| warm_up(stage, 4, true)), [4, 3, 2, 0]);
    }

    /// Runs all stages, each taking its next action as soon as its input is there.
    fn run(stages: usize, micro_batches: usize, ahead: bool) -> Result<(), TestCaseError> {
        let plan = |stage| one_forward_one_backward(warm_up(stage, stages, ahead), micro_batches);
        let plans: Vec<_> = (0..stages).map(plan).collect();
        let mut next = vec![0; stages];
        let mut forwards = vec![0; stages];
        let mut backwards = vec![0; stages];
        loop {
            let mut moved = false;
            for stage in 0..stages {
                let ready = match plans[stage].get(next[stage]) {
                    Some(Action::Forward(i)) => {
                        prop_assert_eq!(*i, forwards[stage]);
                        stage == 0 || forwards[stage - 1] > *i
                    }
                    Some(Action::Backward(i)) => {
                        prop_assert_eq!(*i, backwards[stage]);
                        forwards[stage] > *i && (stage + 1 == stages || backwards[stage + 1] > *i)
                    }
                    None => false,
                };
                if ready {
                    match plans[stage][next[stage]] {
                        Action::Forward(_) => forwards[stage] += 1,
                        Action::Backward(_) => backwards[stage] += 1,
                    }
                    next[stage] += 1;
                    moved = true;
                    prop_assert!(forwards[stage] - backwards[stage] <= warm_up(stage, stages, ahead) + 1);
                }
            }
            if !moved {
                break;
            }
        }
        prop_assert!(forwards.iter().chain(&backwards).all(|done| *done == micro_batches), "stuck");
        Ok(())
    }

    proptest! {
        #[test]
        fn no_stage_waits_for_ever(stages in 1usize..7, micro_batches in 0usize..12, ahead: bool) {
            run(stages, micro_batches, ahead)?;
        }
    }
}
