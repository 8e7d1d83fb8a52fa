//! A sweep as an array of Slurm jobs: one a run, and one more that makes the table when all have ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use super::record::{Record, write_whole};
use super::{Plan, refuse_another, shown_words};
use crate::args::SlurmArgs;
use crate::error::LaunchError;
use crate::report;
use crate::templates::shell;

/// The script's name in the sweep's folder.
const SCRIPT: &str = "sweep.sbatch";
/// What the job that makes the table says, in the sweep's folder.
const LOG: &str = "collect.log";

/// What one job of an array, or the only job, runs.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Which one it is, for people.
    pub about: String,
    /// Program and arguments, as a shell reads them.
    pub command: String,
    /// What follows where that has succeeded.
    pub evaluations: Vec<String>,
}

/// The array.
#[derive(Debug, Serialize)]
pub struct Array {
    /// Numbers of its jobs, as sbatch has them: `0-5%2`.
    pub range: String,
    /// `6 runs`
    pub count: String,
    /// The command that makes the table, as one word of a shell.
    pub collect: String,
    /// Options that its job has in common with the others: words with a blank before each.
    pub options: String,
    /// Where it says what it does.
    pub log: String,
    /// The sweep's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Whether a script is for a sweep. Options that mean nothing without one are refused.
pub fn is_wanted(args: &SlurmArgs) -> Result<bool, LaunchError> {
    if !args.swept.lists.0.is_empty() {
        return Ok(true);
    }
    let given = [
        ("--output", args.swept.output.is_some()),
        ("--eval", !args.swept.datasets.is_empty()),
        ("--at-once", args.at_once.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(LaunchError::NoSweep { option }),
        None => Ok(false),
    }
}

/// Checks the sweep, and puts its runs together.
pub fn of(args: &SlurmArgs) -> Result<(Array, Vec<Run>), LaunchError> {
    let plan = Plan::make(&args.swept, args.program.as_deref(), &args.command)?;
    if let Ok(Some(record)) = Record::read(&plan.folder) {
        refuse_another(&plan.folder, &record, &Record::new(&plan.command, &plan.axes, &plan.runs))?;
    }
    let own = std::env::current_exe()
        .map_err(|source| LaunchError::Start { what: "the script (no own program)".to_owned(), source })?;
    script(&plan, args.at_once, &own)
}

fn script(plan: &Plan, at_once: Option<usize>, own: &Path) -> Result<(Array, Vec<Run>), LaunchError> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let quoted = |words: Vec<String>| {
        let program = std::iter::once(text(&plan.program));
        let words = program.chain(words).map(|word| shell("the command", &word));
        words.collect::<Result<Vec<String>, _>>().map(|words| words.join(" "))
    };
    let run = |at: usize| {
        let evaluations = plan.evaluations_of_run(at).into_iter().map(|(_, command)| quoted(command));
        Ok(Run {
            // A comment of the script: it ends with its line.
            about: plan.runs[at].shown().replace(char::is_control, " "),
            command: quoted(plan.command_of_run(at))?,
            evaluations: evaluations.collect::<Result<_, LaunchError>>()?,
        })
    };
    let runs = (0..plan.runs.len()).map(run).collect::<Result<Vec<Run>, LaunchError>>()?;
    let limit = at_once.map_or(String::new(), |most| format!("%{most}"));
    let collect = ["sweep", "--collect-only", "--output"].map(str::to_owned).into_iter();
    let collect = collect.chain([text(&plan.folder), "--program".to_owned(), text(&plan.program)]);
    let collect: Vec<String> = std::iter::once(text(own)).chain(collect).collect();
    let array = Array {
        range: format!("0-{}{limit}", runs.len() - 1),
        count: super::going::counted(runs.len()),
        collect: shell("the command", &shown_words(&collect))?,
        options: String::new(),
        log: shell("the sweep's folder", &text(&plan.folder.join(LOG)))?,
        folder: plan.folder.clone(),
    };
    Ok((array, runs))
}

/// Keeps the script in the sweep's folder, and lets it submit itself.
pub fn submit(folder: &Path, script: &str) -> Result<(), LaunchError> {
    let unwritable = |source| LaunchError::Output { folder: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    let path = folder.join(SCRIPT);
    write_whole(&path, script.as_bytes())?;
    let failed = |why: String| LaunchError::Submit { why };
    let mut command = Command::new("bash");
    command.arg(&path).stdin(Stdio::null()).env_remove("SLURM_ARRAY_TASK_ID").stderr(Stdio::piped());
    let output = command.spawn().and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    report::note(&format!("the script is {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Instead};
    use crate::sweep::axes;
    use crate::sweep::evaluation::Evaluations;
    use crate::templates::check_snapshot;

    fn made(options: &[&str], command: &[&str]) -> String {
        let words = ["gpart-launch", "slurm"].iter().chain(options).chain(&["--"]).chain(command);
        let Some(Instead::Slurm(args)) = Cli::try_parse_from(words).unwrap().instead else {
            panic!("not slurm")
        };
        let axes = axes::axes(&args.swept.lists).unwrap();
        let runs = axes::combinations(&axes);
        let plan = Plan {
            program: "/opt/gpart dist".into(),
            folder: "/data/it's here".into(),
            command: args.command.clone(),
            models: vec![Some("m".to_owned()); runs.len()],
            evaluations: Evaluations::of(&args.swept).unwrap(),
            axes,
            runs,
        };
        let (array, runs) = script(&plan, args.at_once, Path::new("/opt/gpart-launch")).unwrap();
        crate::slurm::script(&args, 8, Some(array), runs, "/home/x").unwrap()
    }

    const OPTIONS: [&str; 8] = [
        "--seeds=1,2",
        "--set=target-modules=q_proj,k_proj;all-linear",
        "--at-once=2",
        "--partition=gpu",
        "--option=qos=high",
        "--option=mem=0",
        "--job-name=grid",
        "--eval=gsm8k,math",
    ];

    #[test]
    fn snapshot() {
        let script = made(&OPTIONS, &["metamath", "--model", "m"]);
        check_snapshot("sweep.sbatch", &script);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        std::fs::write(&path, script).unwrap();
        if let Ok(output) = Command::new("shellcheck").arg(&path).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }

    /// What bash makes of it with these functions in place of Slurm's programs, and this number in the array.
    fn bash(options: &[&str], task: &str, functions: &str) -> (Option<i32>, String) {
        let script = made(options, &["metamath", "--x", "a 'b' $(c)"]).replace("cd -- ", "cd / # ");
        let job = "SLURM_ARRAY_JOB_ID=70";
        let queue = "scontrol() { echo \"scontrol $*\"; }";
        let whole = format!("{job}\n{task}\n{queue}\n{functions}\n{script}");
        let output = Command::new("bash").args(["-c", &whole, "job.sh"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Says what it runs, from the program on.
    const SRUN: &str = "srun() { shift 5; printf '<%s>' \"$@\"; echo; }";

    #[test]
    fn each_job_runs_its_combination() {
        let (code, said) = bash(&OPTIONS, "SLURM_ARRAY_TASK_ID=2", SRUN);
        let run = "/data/it's here/seed2_target-modules-q-proj-k-proj";
        let eval = |name: &str| {
            format!(
                "</opt/gpart dist><eval><--dataset><{name}><--model><m><--adapter><{run}><--output>\
                 <{run}/evaluation_results_{name}.json>\n"
            )
        };
        let training = format!(
            "</opt/gpart dist><metamath><--x><a 'b' $(c)><--seed><2><--target-modules><q_proj,k_proj><--output><{run}>\n"
        );
        assert_eq!((code, said), (Some(0), training + &eval("gsm8k") + &eval("math")));
        let (code, said) = bash(&OPTIONS, "SLURM_ARRAY_TASK_ID=4", SRUN);
        assert_eq!((code, said.trim()), (Some(2), "the array has 4 runs, and none has the number 4"));
    }

    #[test]
    fn a_failure_keeps_its_status() {
        let task = "SLURM_ARRAY_TASK_ID=0";
        // Of the training: nothing follows.
        let (code, said) = bash(&OPTIONS, task, "srun() { shift 5; echo \"$2\"; return 7; }");
        assert_eq!((code, said.as_str()), (Some(7), "metamath\n"));
        // Of an evaluation: the other one follows.
        let fails = "srun() { shift 5; echo \"$2 $4\"; [[ $4 != gsm8k ]] || return 3; }";
        let (code, said) = bash(&OPTIONS, task, fails);
        assert!(code == Some(3) && said.ends_with("eval gsm8k\neval math\n"), "{said}");
    }

    /// That job alone, not the array.
    #[test]
    fn a_job_that_stopped_is_queued_again() {
        let task = "SLURM_ARRAY_TASK_ID=1\n{ sleep 0.3; kill -USR1 $$; } &";
        let slow = |status: i32| {
            format!("srun() {{ trap 'exit {status}' USR1; echo \"$7\"; while :; do sleep 0.02; done; }}")
        };
        for status in [75, 138] {
            let (code, said) = bash(&OPTIONS, task, &slow(status));
            assert_eq!(code, Some(status), "{said}");
            assert!(said.starts_with("metamath\n") && said.ends_with("scontrol requeue 70_1\n"), "{said}");
            assert!(!said.contains("eval"), "{said}");
        }
        // The training was through all the same: its evaluations are for the next time.
        let (code, said) = bash(&OPTIONS, task, &slow(0));
        assert!(code == Some(75) && said.ends_with("scontrol requeue 70_1\n"), "{said}");
        assert!(!said.contains("eval"), "{said}");
        // In an evaluation, which knows no signal.
        let late = "srun() { [[ $7 == eval ]] || return 0; exec -a eval sleep 20; }";
        let (code, said) = bash(&OPTIONS, task, late);
        assert!(code == Some(138) && said.ends_with("scontrol requeue 70_1\n"), "{code:?} {said}");
    }

    #[test]
    fn it_submits_itself_and_the_table() {
        let sbatch = "sbatch() { printf '<%s>' \"$@\" >&2; echo \"$((++n + 40));cluster\"; }";
        let (code, said) = bash(&OPTIONS, "", sbatch);
        let collect =
            "/opt/gpart-launch sweep --collect-only --output \"/data/it's here\" --program '/opt/gpart dist'";
        let array = "<--parsable><job.sh>";
        let table = format!(
            "<--parsable><--dependency=afterany:41><--job-name=grid-table><--nodes=1><--ntasks=1><--partition=gpu>\
             <--qos=high><--output=/data/it's here/collect.log><--wrap={collect}>"
        );
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(array) && said.contains(&table), "{said}");
        assert!(said.contains("submitted 4 runs as the array 41\n"), "{said}");
        let (code, said) = bash(&OPTIONS, "", "sbatch() { [[ $2 != --dep* ]] && echo 41; }");
        assert!(
            code == Some(2) && said.contains(&format!("by hand, when all have ended: {collect}")),
            "{said}"
        );
        let (code, _) = bash(&OPTIONS, "", "sbatch() { return 1; }");
        assert_eq!(code, Some(2));
    }
}
