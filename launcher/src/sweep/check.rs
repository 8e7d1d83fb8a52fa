//! Settings of all runs, checked before the first one is started: what is wrong with the last one is not to be found
//! hours later.

use super::Plan;
use crate::error::LaunchError;
use crate::program::{self, Resolved};
use crate::report;

/// Checks them. Gives the model of each run.
pub fn settings(plan: &Plan) -> Result<Vec<Option<String>>, LaunchError> {
    let mut all: Vec<Resolved> = Vec::new();
    for at in 0..plan.runs.len() {
        let resolved = program::resolved(&plan.program, &plan.command_of_run(at));
        if matches!(resolved, Err(LaunchError::Reported)) {
            report::note(&format!("that is about {}; nothing was started", plan.name(at)));
        }
        all.push(resolved?);
    }
    refuse_other_names(plan, &all)?;
    refuse_same(plan, &all)?;
    let model = |one: &Resolved| one.get("model").and_then(|model| model.value.as_str().map(str::to_owned));
    Ok(all.iter().map(model).collect())
}

/// A flag may have several names. Where one is given twice, the last one counts, in silence: so it is seen by what
/// changes although it was set by a flag already.
fn refuse_other_names(plan: &Plan, all: &[Resolved]) -> Result<(), LaunchError> {
    let ends = [(0, all.first()), (plan.runs.len() - 1, all.last())];
    for (at, whole) in ends.into_iter().filter_map(|(at, one)| Some((at, one?))) {
        for (flag, _) in &plan.runs[at].settings {
            let others = plan.runs[at].settings.iter().filter(|(other, _)| other != flag);
            let words = others.flat_map(|(flag, value)| [format!("--{flag}={value}")]);
            let command: Vec<String> = plan.command.iter().cloned().chain(words).collect();
            // Without this flag there may be no run at all.
            let Some(without) = program::resolved_quietly(&plan.program, &command) else { continue };
            let is_set_twice = whole.iter().any(|(key, setting)| {
                let before = without.get(key);
                setting.from.starts_with("flag ")
                    && before.is_some_and(|one| one.from == setting.from && one.value != setting.value)
                    && key != "output"
            });
            if is_set_twice {
                return Err(LaunchError::SweptTwice { flag: flag.clone() });
            }
        }
    }
    Ok(())
}

/// `1` and `01` are one seed.
fn refuse_same(plan: &Plan, all: &[Resolved]) -> Result<(), LaunchError> {
    let values = |one: &Resolved| {
        let settings = one.iter().filter(|(key, _)| *key != "output");
        settings.map(|(key, setting)| (key.clone(), setting.value.to_string())).collect::<Vec<_>>()
    };
    let mut seen = std::collections::BTreeMap::new();
    for (at, one) in all.iter().enumerate() {
        if let Some(first) = seen.insert(values(one), at) {
            return Err(LaunchError::SameSettings { first: plan.name(first), second: plan.name(at) });
        }
    }
    Ok(())
}
