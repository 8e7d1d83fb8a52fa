//! Runs that repeat one another with other seeds, and in what groups of them differ.

use std::collections::BTreeMap;

use crate::Run;
use crate::facts::NOTHING;
use crate::numbers::thousands;
use crate::run::Status;

/// Settings that change neither the data, the model nor the mathematics of a run: where it writes, what it tells and
/// keeps, and the seed, over which one averages.
const NOT_COMPARED: [&str; 18] = [
    "seed",
    "output",
    "output-root-dir",
    "output-dir-file",
    "resume",
    "save-steps",
    "save-total-limit",
    "checkpoint-window",
    "logging-steps",
    "report-to",
    "progress",
    "log-level",
    "metrics-listen",
    "control",
    "show-samples",
    "sample-prompt",
    "sample-tokens",
    "memory-check",
];

/// Settings that are columns of their own wherever settings are listed.
const SHOWN_ELSEWHERE: [&str; 4] = ["model", "model-name", "task", "d"];

/// In a key: the name of a run that has no settings.
const NAME: &str = "name";

/// Runs with the same settings but for the seed.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// The runs, in the order given. One alone where it is unfinished.
    pub(crate) runs: Vec<&'a Run>,
    /// In what it differs from the other groups, such as `d 4,096`.
    pub(crate) label: String,
    /// As `label`, without what has columns of its own.
    pub(crate) other_settings: String,
}

impl<'a> Group<'a> {
    /// Any run of the group: what is asked of it is the same in all.
    pub(crate) fn first(&self) -> &'a Run {
        self.runs[0]
    }

    /// A value of every run that has it.
    pub(crate) fn values(&self, value: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        self.runs.iter().filter_map(|run| value(run)).collect()
    }

    /// Whether all its runs came to their end.
    pub(crate) fn is_finished(&self) -> bool {
        self.runs.iter().all(|run| !matches!(run.status, Status::Unfinished(_)))
    }
}

/// Puts runs together that differ in seed and output alone. An unfinished run stays alone: a mean over curves that end at
/// different steps would jump.
pub(crate) fn group<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<Group<'a>> {
    let mut keys: Vec<(BTreeMap<String, String>, Vec<&Run>)> = Vec::new();
    for run in runs {
        let key = compared(run);
        let alone = matches!(run.status, Status::Unfinished(_));
        let same = keys.iter_mut().find(|(other, members)| {
            !alone && *other == key && !matches!(members[0].status, Status::Unfinished(_))
        });
        match same {
            Some((_, members)) => members.push(run),
            None => keys.push((key, vec![run])),
        }
    }
    let mut groups = labelled(keys);
    groups.sort_by_key(|group| {
        (!group.is_finished(), group.first().model().map(str::to_owned), group.first().d())
    });
    let labels: Vec<String> = groups.iter().map(|group| group.label.clone()).collect();
    for group in &mut groups {
        let ambiguous = labels.iter().filter(|label| **label == group.label).count() > 1;
        if group.label.is_empty() && group.runs.len() > 1 {
            group.label = format!("{} seeds", group.runs.len());
        } else if group.label.is_empty() {
            group.label.clone_from(&group.first().name);
        } else if ambiguous {
            group.label = format!("{} · {}", group.label, group.first().name);
        }
        if !group.is_finished() {
            group.label.push_str(" (unfinished)");
        }
    }
    groups
}

/// The groups with what they differ in. Runs without settings, such as official adapters, are known by their name: to compare
/// them with the others would list every setting.
fn labelled(keys: Vec<(BTreeMap<String, String>, Vec<&Run>)>) -> Vec<Group<'_>> {
    let with_settings = keys.iter().filter(|(_, runs)| runs[0].facts.is_some());
    let differing = differing_keys(&with_settings.map(|(key, _)| key).collect::<Vec<_>>());
    let label = |key: &BTreeMap<String, String>, but: &[&str]| match key.get(NAME) {
        Some(name) => name.clone(),
        None => describe(key, &differing, but),
    };
    keys.iter()
        .map(|(key, runs)| Group {
            label: label(key, &[]),
            other_settings: label(key, &SHOWN_ELSEWHERE),
            runs: runs.clone(),
        })
        .collect()
}

/// Keys whose values are not the same in all maps, in alphabetical order.
pub(crate) fn differing_keys(maps: &[&BTreeMap<String, String>]) -> Vec<String> {
    let mut keys: Vec<&String> = maps.iter().flat_map(|map| map.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| maps.iter().any(|map| map.get(*key) != maps[0].get(*key)));
    keys.into_iter().cloned().collect()
}

/// All of a run's settings but where it writes.
pub(crate) fn settings(run: &Run) -> BTreeMap<String, String> {
    let paths = ["output", "output-root-dir", "output-dir-file"];
    let facts = run.facts.iter().flat_map(|facts| facts.settings());
    // What one version writes as nothing, another does not write.
    let given = facts.filter(|(key, value)| !paths.contains(key) && value != NOTHING);
    given.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What must be the same in a group.
fn compared(run: &Run) -> BTreeMap<String, String> {
    let mut key = settings(run);
    key.retain(|name, _| !NOT_COMPARED.contains(&name.as_str()));
    if let Some(facts) = &run.facts {
        let prints = facts.fingerprints.iter().map(|(name, value)| (format!("{name} fingerprint"), value));
        key.extend(prints.map(|(name, value)| (name, crate::facts::setting(value))));
    } else if let Some(adapter) = &run.adapter {
        // An official adapter's folder: its name holds the settings of the training, and the seed.
        let config = serde_json::to_value(&adapter.config).unwrap_or_default();
        let entries = config.as_object().into_iter().flatten();
        key.extend(entries.map(|(name, value)| (name.replace('_', "-"), crate::facts::setting(value))));
        key.insert(NAME.to_owned(), without_seed(&run.name));
    } else {
        key.insert(NAME.to_owned(), run.name.clone());
    }
    key
}

/// A name without the number in `seed123` or `seed_123`.
fn without_seed(name: &str) -> String {
    let Some(at) = name.find("seed") else { return name.to_owned() };
    let (before, after) = name.split_at(at + "seed".len());
    let rest = after.trim_start_matches('_').trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}{rest}")
}

fn describe(key: &BTreeMap<String, String>, differing: &[String], but: &[&str]) -> String {
    let shown = differing.iter().filter(|name| !but.contains(&name.as_str()));
    // A model's fingerprint differs with its name, and says nothing to a person.
    let shown = shown.filter(|name| !name.ends_with("fingerprint"));
    let part = |name: &String| {
        let value = key.get(name)?;
        let value = value.parse().map_or_else(
            |_| value.clone(),
            |number| if name == "d" { thousands(number) } else { value.clone() },
        );
        // Such as a template: its beginning tells as much.
        let short: String = value.chars().take(60).collect();
        let more = if short.len() < value.len() { "…" } else { "" };
        Some(format!("{name} {short}{more}"))
    };
    shown.filter_map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::facts::Facts;

    fn run(name: &str, config: serde_json::Value, finished: bool) -> Run {
        let summary = if finished { json!({"steps": 4}) } else { json!(null) };
        let facts: Facts = serde_json::from_value(json!({"config": config, "summary": summary})).unwrap();
        Run {
            folder: name.into(),
            name: name.to_owned(),
            status: if finished { Status::Finished } else { Status::Unfinished("killed".to_owned()) },
            facts: Some(facts),
            steps: Vec::new(),
            held_out: Vec::new(),
            adapter: None,
            adapter_bytes: None,
            evaluations: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[track_caller]
    fn check(runs: &[Run], expect: &[(&str, &[&str])]) {
        let groups = group(runs);
        let found: Vec<(&str, Vec<&str>)> = groups
            .iter()
            .map(|group| (group.label.as_str(), group.runs.iter().map(|run| run.name.as_str()).collect()))
            .collect();
        let expect: Vec<(&str, Vec<&str>)> =
            expect.iter().map(|(label, names)| (*label, names.to_vec())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn seeds_are_put_together() {
        let config =
            |seed: u64, d: u64| json!({"seed": seed, "d": d, "output": seed, "lr": 0.1, "log-level": seed});
        let runs = [
            run("a", config(1, 32_768), true),
            run("b", config(1, 4096), true),
            run("c", config(2, 32_768), true),
            run("d", config(3, 32_768), false),
        ];
        check(
            &runs,
            &[("d 4,096", &["b"]), ("d 32,768 · a", &["a", "c"]), ("d 32,768 · d (unfinished)", &["d"])],
        );
        check(&runs[..1], &[("a", &["a"])]);
        check(&[runs[0].clone(), runs[2].clone()], &[("2 seeds", &["a", "c"])]);
    }

    #[test]
    fn any_other_setting_parts_them() {
        let config = |seed: u64, lr: f64| json!({"seed": seed, "learning-rate": lr});
        let runs = [run("a", config(1, 0.1), true), run("b", config(2, 0.2), true)];
        check(&runs, &[("learning-rate 0.1", &["a"]), ("learning-rate 0.2", &["b"])]);
    }

    #[test]
    fn runs_without_settings_go_by_their_name() {
        let config =
            |lr: f64, extra: serde_json::Value| json!({"learning-rate": lr, "d": 64, "template": extra});
        let official = Run { facts: None, ..run("lr1_seed3", json!({}), true) };
        let runs = [
            run("a", config(0.1, json!(null)), true),
            run("b", json!({"learning-rate": 0.2, "d": 64}), true),
            official,
        ];
        check(
            &runs,
            &[("lr1_seed3", &["lr1_seed3"]), ("learning-rate 0.1", &["a"]), ("learning-rate 0.2", &["b"])],
        );
    }

    #[test]
    fn seeds_in_names() {
        assert_eq!(without_seed("metamath_lr0.02_seed12_32k"), "metamath_lr0.02_seed_32k");
        assert_eq!(without_seed("x/seed_3"), "x/seed");
        assert_eq!(without_seed("none"), "none");
    }
}
