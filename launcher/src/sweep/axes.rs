//! What is swept: lists of values of flags, and their combinations.

use serde::{Deserialize, Serialize};

use crate::args::{SweptList, SweptLists};
use crate::error::LaunchError;

/// Flags that the sweep itself sets.
const RESERVED: [(&str, &str); 3] = [
    ("output", "each run has a folder of its own in that of the sweep, which --output before `--` names"),
    ("output-dir", "each run has a folder of its own in that of the sweep, which --output before `--` names"),
    ("resume", "the sweep takes its runs up by itself"),
];
/// More runs than anybody means.
const MOST_RUNS: usize = 10_000;
/// Longest name of a folder, in bytes; file systems allow 255.
const LONGEST_NAME: usize = 120;
/// So many values are spelt out in the name of a sweep's folder.
const SPELT_OUT: usize = 4;

/// A flag of gpart-dist and the values that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// The flag without dashes before it, in kebab case.
    pub flag: String,
    /// Its values, in the order in which they were written.
    pub values: Vec<String>,
}

/// One value of every axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combination {
    /// Flags and values, in the order of the axes.
    pub settings: Vec<(String, String)>,
    /// The name of its folder.
    pub name: String,
}

impl Combination {
    /// As words of a command: `--seed 1 --d 4096`.
    pub fn words(&self) -> Vec<String> {
        self.settings.iter().flat_map(|(flag, value)| words(flag, value)).collect()
    }

    /// As people read it: `seed 1, d 4096`.
    pub fn shown(&self) -> String {
        let settings: Vec<String> =
            self.settings.iter().map(|(flag, value)| format!("{flag} {value}")).collect();
        settings.join(", ")
    }
}

/// A value that looks like a flag must not be taken for one.
fn words(flag: &str, value: &str) -> Vec<String> {
    match value.starts_with('-') {
        true => vec![format!("--{flag}={value}")],
        false => vec![format!("--{flag}"), value.to_owned()],
    }
}

/// Reads the lists.
pub fn axes(lists: &SweptLists) -> Result<Vec<Axis>, LaunchError> {
    let axes = lists.0.iter().map(axis).collect::<Result<Vec<Axis>, _>>()?;
    for (at, axis) in axes.iter().enumerate() {
        if axes[..at].iter().any(|before| before.flag == axis.flag) {
            let why = format!("{} has a list already", axis.flag);
            return Err(bad_list(&lists.0[at], why));
        }
    }
    let runs = axes.iter().fold(1, |runs: usize, axis| runs.saturating_mul(axis.values.len()));
    match (axes.last(), lists.0.last()) {
        (None, _) | (_, None) => Err(LaunchError::NothingSwept),
        (Some(_), Some(last)) if runs > MOST_RUNS => {
            Err(bad_list(last, format!("these lists make {runs} runs, and {MOST_RUNS} are the most")))
        }
        _ => Ok(axes),
    }
}

fn axis(list: &SweptList) -> Result<Axis, LaunchError> {
    let (flag, text) = match list.option {
        "seeds" => ("seed", list.text.as_str()),
        "d" => ("d", list.text.as_str()),
        _ => list
            .text
            .split_once('=')
            .ok_or_else(|| bad_list(list, format!("{:?} has no = in it", list.text)))?,
    };
    let flag = flag.trim().trim_start_matches('-').replace('_', "-");
    let is_flag = flag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !flag.is_empty();
    if !is_flag {
        return Err(bad_list(list, format!("{flag:?} is no name of a flag")));
    }
    if let Some((_, why)) = RESERVED.iter().find(|(name, _)| *name == flag) {
        return Err(bad_list(list, format!("{flag} cannot be swept: {why}")));
    }
    let separator = if text.contains(';') { ';' } else { ',' };
    let values: Vec<String> = text.split(separator).map(|value| value.trim().to_owned()).collect();
    if values.len() == 1 && values[0].is_empty() {
        return Err(bad_list(list, format!("the list of {flag} is empty")));
    }
    for (at, value) in values.iter().enumerate() {
        if value.is_empty() {
            return Err(bad_list(list, format!("value {} of {flag} is empty in {text:?}", at + 1)));
        }
        if values[..at].contains(value) {
            return Err(bad_list(list, format!("{flag} has the value {value} twice")));
        }
    }
    Ok(Axis { flag, values })
}

fn bad_list(list: &SweptList, why: String) -> LaunchError {
    LaunchError::SweptList { option: list.option, why }
}

/// Refuses a command that sets what the sweep sets, as far as words tell. What goes by another name is found by
/// `super::check`.
pub fn check_command(axes: &[Axis], command: &[String]) -> Result<(), LaunchError> {
    let flags = command.iter().filter_map(|word| word.strip_prefix("--"));
    let flags: Vec<String> =
        flags.map(|flag| flag.split('=').next().unwrap_or(flag).replace('_', "-")).collect();
    if let Some(axis) = axes.iter().find(|axis| flags.contains(&axis.flag)) {
        return Err(LaunchError::SweptTwice { flag: axis.flag.clone() });
    }
    match flags.iter().any(|flag| ["output", "output-dir"].contains(&flag.as_str())) {
        true => Err(LaunchError::OutputOfSweep),
        false => Ok(()),
    }
}

/// All combinations; the first axis varies slowest.
pub fn combinations(axes: &[Axis]) -> Vec<Combination> {
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for axis in axes {
        let with = |before: Vec<(String, String)>| {
            let pair = |value: &String| (axis.flag.clone(), value.clone());
            let longer = move |value: &String| before.iter().cloned().chain([pair(value)]).collect();
            axis.values.iter().map(longer).collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(with).collect();
    }
    let mut taken = std::collections::BTreeSet::new();
    let named = all.into_iter().enumerate().map(|(at, settings)| {
        let mut name = name_of(&settings);
        // Values may differ only in what no name can hold.
        while !taken.insert(name.clone()) {
            name = format!("{name}.{}", at + 1);
        }
        Combination { settings, name }
    });
    named.collect()
}

fn name_of(settings: &[(String, String)]) -> String {
    let parts: Vec<String> = settings.iter().map(|(flag, value)| part(flag, &plain(value))).collect();
    shortened(&parts.join("_"))
}

/// `seed1`, `learning-rate1e-4`, but `dtype-float32`.
fn part(flag: &str, value: &str) -> String {
    let joint = if value.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "-" };
    format!("{flag}{joint}{value}")
}

/// Only characters that are harmless in names of folders and in shells.
fn plain(value: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || "-.+".contains(c) { c } else { '-' };
    value.chars().map(harmless).collect::<String>().trim_matches(['-', '.']).to_owned()
}

/// Names are of ASCII characters alone.
fn shortened(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

/// A name for a sweep over these axes: `seed1-2-3_d4096-32768`.
pub fn name_of_sweep(axes: &[Axis]) -> String {
    let list = |axis: &Axis| {
        let mut values: Vec<String> = axis.values.iter().map(|value| plain(value)).collect();
        if values.len() > SPELT_OUT {
            let more = values.len() - 1;
            values = vec![values.swap_remove(0), format!("and-{more}-more")];
        }
        part(&axis.flag, &values.join("-"))
    };
    shortened(&axes.iter().map(list).collect::<Vec<_>>().join("_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(words: &[&str]) -> SweptLists {
        let list = |word: &&str| {
            let (option, text) = word.split_once(' ').unwrap();
            let option = ["seeds", "d", "set"].into_iter().find(|known| *known == option).unwrap();
            SweptList { option, text: text.to_owned() }
        };
        SweptLists(words.iter().map(list).collect())
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(given: &[&str], names: &[&str], sweep: &str) -> Vec<Combination> {
        let axes = axes(&lists(given)).unwrap();
        let found = combinations(&axes);
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(name_of_sweep(&axes), sweep);
        found
    }

    #[test]
    fn what_is_written_first_varies_slowest() {
        let names = ["seed1_d4096", "seed1_d32768", "seed2_d4096", "seed2_d32768"];
        let found = check(&["seeds 1,2", "d 4096, 32768"], &names, "seed1-2_d4096-32768");
        assert_eq!(found[2].words(), words("--seed 2 --d 4096"));
        assert_eq!(found[2].shown(), "seed 2, d 4096");
        check(
            &["d 8", "set seed=1,2,3,4,5"],
            &["d8_seed1", "d8_seed2", "d8_seed3", "d8_seed4", "d8_seed5"],
            "d8_seed1-and-4-more",
        );
    }

    #[test]
    fn names_are_harmless_and_differ() {
        let names = ["model-a-b", "model-a-b.2", "model-a-b.3"];
        check(&["set model=a/b,a b,../a;b"].map(|_| "set model=a/b;a b;../a/b"), &names, "model-a-b-a-b-a-b");
        let names = ["target-modules-q-proj-k-proj", "target-modules-all-linear"];
        let sweep = "target-modules-q-proj-k-proj-all-linear";
        let found = check(&["set target_modules=q_proj,k_proj;all-linear"], &names, sweep);
        assert_eq!(found[0].words(), words("--target-modules q_proj,k_proj"));
        let found =
            check(&["set --init-bound=-1,1e-4"], &["init-bound1", "init-bound1e-4"], "init-bound1-1e-4");
        assert_eq!(found[0].words(), words("--init-bound=-1"));
        let long = format!("set model={},b", "a".repeat(300));
        assert_eq!(combinations(&axes(&lists(&[&long])).unwrap())[0].name.len(), LONGEST_NAME);
    }

    #[test]
    fn bad_lists_are_refused() {
        for (given, why) in [
            (&["seeds 1,1"][..], "seed has the value 1 twice"),
            (&["seeds "], "the list of seed is empty"),
            (&["d 1,,2"], "value 2 of d is empty in \"1,,2\""),
            (&["d 1,"], "value 2 of d is empty"),
            (&["set lr"], "\"lr\" has no = in it"),
            (&["set =1,2"], "\"\" is no name of a flag"),
            (&["set a b=1,2"], "\"a b\" is no name of a flag"),
            (&["set output=a,b"], "output cannot be swept"),
            (&["set resume=auto"], "resume cannot be swept"),
            (&["seeds 1", "set seed=2"], "seed has a list already"),
            (&["set dp_shard=1", "set dp-shard=2"], "dp-shard has a list already"),
        ] {
            let error = axes(&lists(given)).unwrap_err();
            assert!(matches!(error, LaunchError::SweptList { .. }), "{given:?}");
            assert!(error.to_string().contains(why), "{given:?}: {error}");
        }
        assert!(matches!(axes(&SweptLists::default()), Err(LaunchError::NothingSwept)));
        let many: Vec<String> = (0..200).map(|value| value.to_string()).collect();
        let (seeds, d) = (format!("seeds {}", many.join(",")), format!("d {}", many.join(",")));
        assert!(axes(&lists(&[&seeds, &d])).unwrap_err().to_string().contains("make 40000 runs"));
    }

    #[test]
    fn a_command_that_sets_what_is_swept_is_refused() {
        let axes = axes(&lists(&["seeds 1,2", "set learning-rate=1,2"])).unwrap();
        for bad in ["train --seed 3", "train --seed=3", "train --learning_rate 1"] {
            let error = check_command(&axes, &words(bad)).unwrap_err();
            assert!(matches!(error, LaunchError::SweptTwice { .. }), "{bad}: {error}");
        }
        for bad in ["train --output x", "train --output_dir=x"] {
            assert!(matches!(check_command(&axes, &words(bad)), Err(LaunchError::OutputOfSweep)), "{bad}");
        }
        assert!(check_command(&axes, &words("train --seeds 1 --d 4")).is_ok());
    }
}
