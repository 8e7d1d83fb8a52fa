//! Sweeps: every combination of some settings, one run after the other, then a table of them.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::args::{LaunchArgs, SweepArgs, SweptArgs};
use crate::error::LaunchError;
use crate::exit::Exit;
use crate::lock::OutputLock;
use crate::{program, report, signals};

pub mod array;
mod axes;
mod check;
mod collect;
mod evaluation;
mod going;
mod record;

use axes::{Axis, Combination};
use evaluation::Evaluations;
use record::Record;

/// Below the working folder.
const DEFAULT_PLACE: &str = "experiments/sweeps";

/// What is to be run.
struct Plan {
    /// The gpart-dist to run.
    program: PathBuf,
    /// The sweep's folder.
    folder: PathBuf,
    /// The command that all runs share.
    command: Vec<String>,
    /// What is swept.
    axes: Vec<Axis>,
    /// The runs, in their order.
    runs: Vec<Combination>,
    /// What follows each run.
    evaluations: Evaluations,
    /// The model of each run, as its settings have it.
    models: Vec<Option<String>>,
}

impl Plan {
    /// Makes it, with all settings checked. Nothing is written.
    fn make(swept: &SweptArgs, program: Option<&Path>, command: &[String]) -> Result<Self, LaunchError> {
        program::check_trains(command)?;
        let axes = axes::axes(&swept.lists)?;
        axes::check_command(&axes, command)?;
        let evaluations = Evaluations::of(swept)?;
        let program = program::find(program)?;
        let program = std::path::absolute(&program).unwrap_or(program);
        evaluations.check_program(&program)?;
        let folder = folder_of(swept, &axes)?;
        let runs = axes::combinations(&axes);
        let command = command.to_vec();
        let mut plan = Self { program, folder, command, axes, runs, evaluations, models: Vec::new() };
        plan.models = check::settings(&plan)?;
        Ok(plan)
    }

    /// The folder of a run.
    fn folder_of_run(&self, at: usize) -> PathBuf {
        self.folder.join(&self.runs[at].name)
    }

    /// The command of a run.
    fn command_of_run(&self, at: usize) -> Vec<String> {
        let output = self.folder_of_run(at).to_string_lossy().into_owned();
        let own = self.runs[at].words().into_iter().chain(["--output".to_owned(), output]);
        self.command.iter().cloned().chain(own).collect()
    }

    /// The evaluations of a run: data sets and commands.
    fn evaluations_of_run(&self, at: usize) -> Vec<(String, Vec<String>)> {
        let model = self.models.get(at).and_then(Option::as_deref);
        self.evaluations.commands(model, &self.folder_of_run(at))
    }

    /// `run 3 of 6`
    fn place(&self, at: usize) -> String {
        format!("run {} of {}", at + 1, self.runs.len())
    }

    /// `run 3 of 6 (seed 1, d 4096)`
    fn name(&self, at: usize) -> String {
        format!("{} ({})", self.place(at), self.runs[at].shown())
    }
}

/// Does what was asked for with the sweep.
pub fn run(args: &SweepArgs) -> Result<Exit, LaunchError> {
    if args.collect_only {
        return collect_only(args);
    }
    let plan = Plan::make(&args.swept, args.launch.program.as_deref(), &args.command)?;
    if args.dry_run {
        let _ = std::io::stdout().write_all(commands(&plan, &args.launch).as_bytes());
        return Ok(Exit::Done);
    }
    let signals = signals::listen()?;
    let lock = OutputLock::take(&plan.folder)?;
    let mut nothing_came_of_it = true;
    let outcome = match open(&plan) {
        Ok(record) => {
            let going = going::Going { plan: &plan, args, signals: &signals, record };
            going.run(&mut nothing_came_of_it)
        }
        Err(error) => Err(error),
    };
    lock.give_back(nothing_came_of_it);
    outcome
}

/// The record of the sweep in its folder: the one that is there, or a new one.
fn open(plan: &Plan) -> Result<Record, LaunchError> {
    let fresh = Record::new(&plan.command, &plan.axes, &plan.runs);
    match Record::read(&plan.folder) {
        Ok(None) => Ok(fresh),
        Ok(Some(record)) => refuse_another(&plan.folder, &record, &fresh).map(|()| record),
        Err(why) => {
            let aside = record::put_aside(&plan.folder)?;
            report::warning(&format!(
                "{} cannot be read ({why}): it is {} now. Every run is started once more; one that is complete ends at once",
                plan.folder.join(record::FILE).display(),
                aside.display()
            ));
            Ok(fresh)
        }
    }
}

fn refuse_another(folder: &Path, there: &Record, now: &Record) -> Result<(), LaunchError> {
    let differences = there.differences(now);
    if differences.is_empty() {
        return Ok(());
    }
    let lines = differences.iter().map(|line| format!("\n  {line}")).collect();
    Err(LaunchError::OtherSweep { folder: folder.to_owned(), lines })
}

fn folder_of(swept: &SweptArgs, axes: &[Axis]) -> Result<PathBuf, LaunchError> {
    let named = || Path::new(DEFAULT_PLACE).join(axes::name_of_sweep(axes));
    let folder = swept.output.clone().unwrap_or_else(named);
    if folder.as_os_str().is_empty() {
        return Err(LaunchError::NoSweepFolder { folder });
    }
    std::path::absolute(&folder).map_err(|source| LaunchError::Output { folder, source })
}

/// Makes the table of what is there.
fn collect_only(args: &SweepArgs) -> Result<Exit, LaunchError> {
    let folder = match &args.swept.output {
        Some(folder) => folder.clone(),
        None => folder_of(&args.swept, &axes::axes(&args.swept.lists)?)?,
    };
    if !folder.is_dir() {
        return Err(LaunchError::NoSweepFolder { folder });
    }
    let program = program::find(args.launch.program.as_deref())?;
    collect::collect(&program, &folder).map(|()| Exit::Done)
}

/// The commands of all runs, as a shell would take them; what has no command of its own is a comment.
fn commands(plan: &Plan, launch: &LaunchArgs) -> String {
    let mut text = String::new();
    for at in 0..plan.runs.len() {
        let words = ["gpart-launch".to_owned()].into_iter().chain(launch.words()).chain(["--".to_owned()]);
        let words: Vec<String> = words.chain(plan.command_of_run(at)).collect();
        text += &format!("{}\n", shown_words(&words));
        for (_, command) in plan.evaluations_of_run(at) {
            text += &format!("#   then, on the same ranks: gpart-dist {}\n", shown_words(&command));
        }
    }
    text
}

/// Words as a shell would take them.
fn shown_words(words: &[String]) -> String {
    let quoted =
        |word: &String| shlex::try_quote(word).map_or_else(|_| word.clone(), |word| word.into_owned());
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}
