//! Which run an evaluation belongs to.

use std::path::Path;

use crate::run::name_of;
use crate::{Evaluation, Run};

/// Gives each evaluation to the run whose adapter it names, by the resolved path or, where that is another machine's, by
/// the folder's name if only one run has it. What is left, evaluations of base models among it, is given back. An
/// evaluation that a run has already is dropped. Runs of the same name are named with their parent's folder from then on.
pub fn attach(runs: &mut [Run], evaluations: Vec<Evaluation>) -> Vec<Evaluation> {
    let mut left = Vec::new();
    for evaluation in evaluations {
        let known =
            runs.iter().flat_map(|run| &run.evaluations).any(|other| same(&other.file, &evaluation.file));
        match owner(runs, &evaluation) {
            _ if known => {}
            Some(run) => {
                let name = name_of(&evaluation.file);
                run.notes.extend(evaluation.notes.iter().map(|note| format!("{name}: {note}")));
                run.evaluations.push(evaluation);
            }
            None => left.push(evaluation),
        }
    }
    name_apart(runs);
    left
}

/// No two runs keep the same name, so that tables and legends tell them apart.
fn name_apart(runs: &mut [Run]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs.iter_mut().filter(|run| names.iter().filter(|name| **name == run.name).count() > 1) {
        let parent = run.folder.parent().map(name_of).unwrap_or_default();
        run.name = format!("{parent}/{}", run.name);
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs.iter_mut().filter(|run| names.iter().filter(|name| **name == run.name).count() > 1) {
        run.name = run.folder.display().to_string();
    }
}

fn owner<'a>(runs: &'a mut [Run], evaluation: &Evaluation) -> Option<&'a mut Run> {
    let path = Path::new(evaluation.adapter_path.as_deref()?);
    let place = runs.iter().position(|run| same(&run.folder, path)).or_else(|| {
        let name = path.file_name()?.to_str()?;
        let mut named = runs.iter().enumerate().filter(|(_, run)| name_of(&run.folder) == name);
        let (at, _) = named.next()?;
        named.next().is_none().then_some(at)
    })?;
    runs.get_mut(place)
}

fn same(one: &Path, other: &Path) -> bool {
    let resolve = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    resolve(one) == resolve(other)
}
