//! What follows each run of a sweep: evaluations of its adapter.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::args::SweptArgs;
use crate::error::LaunchError;

/// Data sets that `gpart-dist eval` knows.
const DATASETS: [&str; 2] = ["gsm8k", "math"];

/// Evaluations that were asked for.
#[derive(Debug, Default)]
pub struct Evaluations {
    /// Data sets, and files with their rows where they were given.
    datasets: Vec<(String, Option<PathBuf>)>,
    /// Further words.
    words: Vec<String>,
}

impl Evaluations {
    /// Reads the options.
    pub fn of(args: &SweptArgs) -> Result<Self, LaunchError> {
        let mut datasets: Vec<(String, Option<PathBuf>)> = Vec::new();
        for name in args.datasets.iter().map(|name| name.trim()) {
            if !DATASETS.contains(&name) {
                return Err(bad("--eval", format!("{name:?} is none of {}", DATASETS.join(", "))));
            }
            if datasets.iter().any(|(other, _)| other == name) {
                return Err(bad("--eval", format!("{name} stands there twice")));
            }
            datasets.push((name.to_owned(), None));
        }
        for given in &args.evaluation_data {
            let named = given.split_once('=').filter(|(name, _)| DATASETS.contains(name));
            let (place, file) = match (named, &mut datasets[..]) {
                (Some((name, file)), all) => (all.iter_mut().find(|(one, _)| one == name), file),
                (None, [only]) => (Some(only), given.as_str()),
                (None, _) => {
                    return Err(bad("--eval-data", format!("{given:?} does not say for which data set")));
                }
            };
            let (name, data) = place.ok_or_else(|| {
                bad("--eval-data", format!("{given:?} is for a data set that --eval leaves out"))
            })?;
            if !Path::new(file).is_file() {
                return Err(bad("--eval-data", format!("there is no file {file:?}")));
            }
            if data.is_some() {
                return Err(bad("--eval-data", format!("{name} has two files")));
            }
            *data = std::path::absolute(file).ok();
        }
        let words = match &args.evaluation_words {
            Some(words) => shlex::split(words)
                .ok_or_else(|| bad("--eval-args", format!("a quote in {words:?} has no end")))?,
            None => Vec::new(),
        };
        Ok(Self { datasets, words })
    }

    /// Refuses a gpart-dist that cannot evaluate, before there is something to evaluate.
    pub fn check_program(&self, program: &Path) -> Result<(), LaunchError> {
        if self.datasets.is_empty() {
            return Ok(());
        }
        let mut asked = Command::new(program);
        asked.args(["eval", "--help"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match asked.status() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(bad("--eval", format!("{} has no command `eval`", program.display()))),
        }
    }

    /// The commands for a run: data sets and words.
    pub fn commands(&self, model: Option<&str>, run: &Path) -> Vec<(String, Vec<String>)> {
        let command = |(name, data): &(String, Option<PathBuf>)| {
            let text = |path: &Path| path.to_string_lossy().into_owned();
            let mut words = vec!["eval".to_owned(), "--dataset".to_owned(), name.clone()];
            let is_given = |word: &String| word == "--model" || word.starts_with("--model=");
            if let Some(model) = model.filter(|_| !self.words.iter().any(is_given)) {
                words.extend(["--model".to_owned(), model.to_owned()]);
            }
            words.extend(["--adapter".to_owned(), text(run)]);
            data.iter().for_each(|data| words.extend(["--data".to_owned(), text(data)]));
            words.extend(["--output".to_owned(), text(&results(run, name))]);
            words.extend(self.words.iter().cloned());
            (name.clone(), words)
        };
        self.datasets.iter().map(command).collect()
    }
}

/// The file that an evaluation writes.
pub fn results(run: &Path, dataset: &str) -> PathBuf {
    run.join(format!("evaluation_results_{dataset}.json"))
}

fn bad(what: &'static str, why: String) -> LaunchError {
    LaunchError::Evaluation { what, why }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Instead};

    fn of(words: &[&str]) -> Result<Evaluations, LaunchError> {
        let words = ["gpart-launch", "sweep", "--seeds=1"].iter().chain(words).chain(&["--", "metamath"]);
        let Some(Instead::Sweep(args)) = Cli::try_parse_from(words).unwrap().instead else {
            panic!("no sweep")
        };
        Evaluations::of(&args.swept)
    }

    #[test]
    fn commands_are_put_together() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path().to_str().unwrap();
        let data = format!("--eval-data=math={file}");
        let found = of(&["--eval=gsm8k,math", &data, "--eval-args=--batch-size 4 --x 'a b'"]).unwrap();
        let [first, second] = found.commands(Some("m"), Path::new("/r")).try_into().unwrap();
        let start = "eval --dataset gsm8k --model m --adapter /r --output /r/evaluation_results_gsm8k.json";
        let more = ["--batch-size", "4", "--x", "a b"].map(str::to_owned);
        let expected: Vec<String> = start.split(' ').map(str::to_owned).chain(more).collect();
        assert_eq!(first, ("gsm8k".to_owned(), expected));
        let start = format!("eval --dataset math --adapter /r --data {file} --output");
        let other = of(&["--eval=math", &format!("--eval-data={file}")]).unwrap();
        assert!(other.commands(None, Path::new("/r"))[0].1.join(" ").starts_with(&start));
        assert!(second.1.contains(&"--data".to_owned()));
        let own = of(&["--eval=math", "--eval-args=--model=x"]).unwrap();
        assert!(!own.commands(Some("m"), Path::new("/r"))[0].1.contains(&"m".to_owned()));
        assert!(of(&[]).unwrap().commands(Some("m"), Path::new("/r")).is_empty());
    }

    #[test]
    fn bad_options_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path().to_str().unwrap();
        for (given, why) in [
            (&["--eval=gms8k"][..], "\"gms8k\" is none of gsm8k, math"),
            (&["--eval="], "\"\" is none of"),
            (&["--eval=math,math"], "math stands there twice"),
            (&["--eval=math", "--eval-data=gsm8k=x"], "for a data set that --eval leaves out"),
            (&["--eval=math", "--eval-data=nowhere"], "there is no file \"nowhere\""),
            (&["--eval=math,gsm8k", &format!("--eval-data={file}")], "does not say for which data set"),
            (&["--eval=math", &format!("--eval-data={file}"), "--eval-data=math=/proc/version"], "two files"),
            (&["--eval=math", "--eval-args='a"], "has no end"),
        ] {
            let error = of(given).unwrap_err();
            assert!(error.to_string().contains(why), "{given:?}: {error}");
        }
    }
}
