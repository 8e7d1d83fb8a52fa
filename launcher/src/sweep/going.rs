//! A sweep under way: run after run, each with its evaluations.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::evaluation::results;
use super::record::{Record, State, is_complete, shown_axes};
use super::{Plan, collect};
use crate::args::SweepArgs;
use crate::command::resuming;
use crate::error::LaunchError;
use crate::exit::Exit;
use crate::{report, run, signals};

/// What a sweep goes on with.
pub struct Going<'a> {
    /// What is to be run.
    pub plan: &'a Plan,
    /// How.
    pub args: &'a SweepArgs,
    /// Signals to this process.
    pub signals: &'a Receiver<i32>,
    /// How far it is.
    pub record: Record,
}

/// How one thing that was started ended.
struct Ended {
    exit: Exit,
    reason: Option<String>,
    took: Duration,
}

impl Going<'_> {
    /// Runs to the end. Tells whether nothing came of it, so that a folder made for it need not stay.
    pub fn run(mut self, nothing_came_of_it: &mut bool) -> Result<Exit, LaunchError> {
        let (plan, all) = (self.plan, self.plan.runs.len());
        let done = (0..all).filter(|at| self.is_done(*at)).count();
        let already = if done > 0 { format!("; {done} done already") } else { String::new() };
        let (swept, folder) = (shown_axes(&plan.axes), plan.folder.display());
        report::note(&format!("a sweep of {} over {swept} in {folder}{already}", counted(all)));
        // Where one got through, another one that is refused says nothing about the rest.
        let mut is_first = done == 0;
        for at in 0..all {
            if self.is_done(at) {
                report::note(&format!("{}: done before", plan.name(at)));
                self.record.runs[at].progress.state = State::Done;
            } else {
                if let Some(exit) = self.stopped_before(&plan.name(at)) {
                    return Ok(exit);
                }
                let ended = self.train(at)?;
                if is_first && ended.exit == Exit::Input {
                    report::note("the sweep stops here: the other runs would most likely be refused as well");
                    *nothing_came_of_it = self.forget_if_nothing_is_there();
                    return Ok(Exit::Input);
                }
                (is_first, *nothing_came_of_it) = (false, false);
                if let Some(exit) = self.ends_here(at, ended.exit)? {
                    return Ok(exit);
                }
            }
            *nothing_came_of_it = false;
            if self.is_done(at)
                && let Some(exit) = self.evaluate(at)?
            {
                return Ok(exit);
            }
        }
        self.finish()
    }

    /// A run is done when it says so itself. One that this sweep never started is started: whether what lies in its
    /// folder is that run is for gpart-dist to tell, which ends at once if it is complete.
    fn is_done(&self, at: usize) -> bool {
        self.record.runs[at].progress.state != State::Waiting && is_complete(&self.plan.folder_of_run(at))
    }

    /// Trains.
    fn train(&mut self, at: usize) -> Result<Ended, LaunchError> {
        let plan = self.plan;
        report::note(&format!("{}: {}{}", plan.place(at), plan.runs[at].shown(), self.left_from(at)));
        let mut command = plan.command_of_run(at);
        // What the first start alone may say, `--resume never`, would refuse all others.
        if self.record.runs[at].progress.state != State::Waiting {
            command = resuming(&command);
        }
        self.record.runs[at].progress.begins();
        self.record.write(&plan.folder)?;
        let begun = Instant::now();
        let outcome = run::training(&self.args.launch, &command, self.signals);
        let ended = ended(outcome, begun);
        self.record.runs[at].progress.ends(ended.exit, ended.reason.clone(), ended.took);
        self.record.write(&plan.folder)?;
        report::note(&format!("{}: {} after {}", plan.name(at), how(ended.exit), spell(ended.took)));
        Ok(ended)
    }

    /// How long it may take from this run on, by those that are done; nothing is known before the first one.
    fn left_from(&self, at: usize) -> String {
        let runs = &self.record.runs;
        let (done, left): (Vec<usize>, Vec<usize>) = (0..runs.len()).partition(|at| self.is_done(*at));
        let took = |at: &usize| {
            let evaluations = runs[*at].evaluations.iter().map(|one| one.progress.seconds);
            runs[*at].progress.seconds + evaluations.sum::<f64>()
        };
        // Of one that was killed the time is not known.
        let known: Vec<f64> = done.iter().map(took).filter(|seconds| *seconds > 0.0).collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let left = left.iter().filter(|other| **other >= at).count();
        if known.is_empty() {
            return String::new();
        }
        let time = spell(Duration::from_secs_f64(mean * left as f64));
        let more = if left > 1 { format!(" and {} more", left - 1) } else { String::new() };
        format!("; about {time} for it{more}, by those before")
    }

    /// Evaluates a run that is done. Some: the sweep ends here.
    fn evaluate(&mut self, at: usize) -> Result<Option<Exit>, LaunchError> {
        let plan = self.plan;
        let folder = plan.folder_of_run(at);
        for (dataset, command) in plan.evaluations_of_run(at) {
            let progress = &mut self.record.runs[at].evaluation(&dataset, &command).progress;
            if progress.state == State::Done && results(&folder, &dataset).exists() {
                report::note(&format!("{}: evaluated on {dataset} before", plan.name(at)));
                continue;
            }
            if let Some(exit) = self.stopped_before(&format!("{dataset} of {}", plan.name(at))) {
                return Ok(Some(exit));
            }
            report::note(&format!("{}: evaluating on {dataset}", plan.name(at)));
            self.record.runs[at].evaluation(&dataset, &command).progress.begins();
            self.record.write(&plan.folder)?;
            let begun = Instant::now();
            let outcome = run::evaluation(&self.args.launch, &command, folder.clone(), self.signals);
            let ended = ended(outcome, begun);
            let progress = &mut self.record.runs[at].evaluation(&dataset, &command).progress;
            progress.ends(ended.exit, ended.reason.clone(), ended.took);
            self.record.write(&plan.folder)?;
            let (how, took) = (how(ended.exit), spell(ended.took));
            report::note(&format!("{}: the evaluation on {dataset} is {how} after {took}", plan.name(at)));
            if let Some(exit) = self.ends_here(at, ended.exit)? {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }

    /// Whether, after something ended so, the sweep ends too.
    fn ends_here(&self, at: usize, exit: Exit) -> Result<Option<Exit>, LaunchError> {
        match exit {
            Exit::Done => Ok(None),
            Exit::Preempted | Exit::Interrupted => {
                let left = counted((at..self.plan.runs.len()).filter(|at| !self.is_done(*at)).count());
                report::note(&format!("the sweep stops here, with {left} left; the same command goes on"));
                Ok(Some(exit))
            }
            Exit::Failed | Exit::Input if self.args.stop_at_failure => {
                report::note("the sweep stops here: --stop-at-failure");
                self.failures().map_or(Ok(Some(Exit::Failed)), Err)
            }
            Exit::Failed | Exit::Input => Ok(None),
        }
    }

    /// A signal may have come when nothing was running, or just as something ended.
    fn stopped_before(&self, what: &str) -> Option<Exit> {
        if !signals::came() {
            return None;
        }
        report::note(&format!("the sweep was asked to stop before {what}; the same command goes on"));
        Some(Exit::Preempted)
    }

    /// A sweep that was refused at its first run leaves no trace where it found none.
    fn forget_if_nothing_is_there(&self) -> bool {
        let untouched = |at: usize| !self.plan.folder_of_run(at).exists();
        let all = (0..self.plan.runs.len()).all(untouched);
        all && std::fs::remove_file(self.plan.folder.join(super::record::FILE)).is_ok()
    }

    /// The end: what failed, and the table of what did not.
    fn finish(self) -> Result<Exit, LaunchError> {
        let (plan, all) = (self.plan, self.plan.runs.len());
        let done = (0..all).filter(|at| self.is_done(*at)).count();
        let seconds: f64 = self.record.runs.iter().map(|run| run.progress.seconds).sum();
        report::note(&format!(
            "the sweep is through: {done} of {all} done, {} of training",
            spell(Duration::from_secs_f64(seconds))
        ));
        self.record.write(&plan.folder)?;
        let failures = self.failures();
        let table = match done {
            0 => Ok(()),
            _ => collect::collect(&plan.program, &plan.folder),
        };
        match (failures, table) {
            (None, table) => table.map(|()| Exit::Done),
            (Some(failures), Ok(())) => Err(failures),
            (Some(failures), Err(error)) => {
                report::error(&error);
                Err(failures)
            }
        }
    }

    /// What failed, if anything did.
    fn failures(&self) -> Option<LaunchError> {
        let (mut failed, mut lines) = (0, String::new());
        for (at, run) in self.record.runs.iter().enumerate() {
            let own = [("", &run.progress)].into_iter();
            // One that was asked for earlier, and is not now, is not looked at.
            let asked = self.plan.evaluations_of_run(at);
            let is_asked = |dataset: &str| asked.iter().any(|(one, _)| one == dataset);
            let evaluations = run.evaluations.iter().filter(|one| is_asked(&one.dataset));
            let evaluations = evaluations.map(|one| (one.dataset.as_str(), &one.progress));
            let bad: Vec<_> = own.chain(evaluations).filter(|(_, one)| one.state == State::Failed).collect();
            failed += usize::from(!bad.is_empty());
            for (dataset, progress) in bad {
                let what = if dataset.is_empty() { String::new() } else { format!(", {dataset}") };
                let (code, when) =
                    (progress.exit_code.unwrap_or(1), progress.ended.as_deref().unwrap_or("?"));
                let reason = progress.reason.as_deref().unwrap_or_default().replace('\n', "\n    ");
                lines += &format!("\n  {}{what}, exit status {code}, {when}: {reason}", self.plan.name(at));
            }
        }
        (failed > 0).then_some(LaunchError::SweepFailed { failed, all: self.plan.runs.len(), lines })
    }
}

/// Says what went wrong, as a run by itself would.
fn ended(outcome: Result<Exit, LaunchError>, begun: Instant) -> Ended {
    let took = begun.elapsed();
    match outcome {
        Ok(exit) => Ended { exit, reason: None, took },
        Err(error) => {
            if !matches!(error, LaunchError::Reported) {
                report::error(&error);
            }
            Ended { exit: Exit::of(&error), reason: Some(error.to_string()), took }
        }
    }
}

fn how(exit: Exit) -> &'static str {
    match exit {
        Exit::Done => "done",
        Exit::Failed => "failed",
        Exit::Input => "refused",
        Exit::Preempted => "stopped",
        Exit::Interrupted => "ended at once",
    }
}

/// `1 run`, `4 runs`.
pub fn counted(runs: usize) -> String {
    if runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") }
}

/// `8 s`, `12 min 3 s`, `5 h 2 min`
fn spell(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelt() {
        let of = |seconds: f64| spell(Duration::from_secs_f64(seconds));
        assert_eq!((of(0.2), of(59.4), of(59.6)), ("0 s".into(), "59 s".into(), "1 min 0 s".into()));
        assert_eq!((of(723.0), of(18_125.0)), ("12 min 3 s".into(), "5 h 2 min".into()));
    }
}
