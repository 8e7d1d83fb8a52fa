//! Batch scripts for Slurm.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::args::SlurmArgs;
use crate::error::LaunchError;
use crate::sweep::array::{self, Array, Run};
use crate::templates::{fill, plain, shell, value};
use crate::{gpus, program, report};

const TEMPLATE: &str = include_str!("../templates/job.sbatch");

/// Where what ranks say goes.
const LOG: &str = "slurm-%j.log";
const ARRAY_LOG: &str = "slurm-%A_%a.log";
/// Options that the job which makes the table of a sweep needs as well to be taken.
const OF_TABLE_TOO: [&str; 4] = ["partition", "account", "qos", "reservation"];

/// Values of the template.
#[derive(Serialize)]
struct Values {
    job_name: String,
    nodes: usize,
    ranks_per_node: usize,
    gpus_per_node: usize,
    cpus_per_rank: usize,
    options: Vec<(String, String)>,
    log: String,
    stop_before: u32,
    folder: String,
    mpi: String,
    /// Of a sweep alone.
    array: Option<Array>,
    /// One, or one for each job of the array.
    runs: Vec<Run>,
}

/// Prints, writes or submits a script.
pub fn run(args: &SlurmArgs) -> Result<(), LaunchError> {
    // What is wrong with the settings is said now, not when the job's turn comes.
    let (array, runs) = match array::is_wanted(args)? {
        true => array::of(args).map(|(array, runs)| (Some(array), runs))?,
        false => (None, vec![one_run(args)?]),
    };
    let folder_of_sweep = array.as_ref().map(|array| array.folder.clone());
    let folder = std::env::current_dir()
        .map_err(|source| LaunchError::Start { what: "the script (no working folder)".to_owned(), source })?;
    let found = if args.gpus_per_node.is_none() { gpus::count().count } else { 0 };
    if args.gpus_per_node.is_none() && found == 0 {
        report::note("no GPU here and no --gpus-per-node: the script asks for none");
    }
    let gpus = args.gpus_per_node.unwrap_or(found);
    let script = script(args, gpus, array, runs, &folder.to_string_lossy())?;
    match &args.output_script {
        Some(path) => {
            let failed = |source| LaunchError::Script { path: path.clone(), source };
            std::fs::write(path, &script).map_err(failed)?;
            rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o755)).map_err(|e| failed(e.into()))?;
            let with = if folder_of_sweep.is_some() { "bash" } else { "sbatch" };
            report::note(&format!("wrote {}; submit it with: {with} {}", path.display(), path.display()));
        }
        None if args.submit => match folder_of_sweep {
            Some(folder) => array::submit(&folder, &script)?,
            None => submit(&script)?,
        },
        None => {
            let _ = std::io::stdout().write_all(script.as_bytes());
        }
    }
    Ok(())
}

/// The run of a job that is no array.
fn one_run(args: &SlurmArgs) -> Result<Run, LaunchError> {
    program::check_trains(&args.command)?;
    let program = program::find(args.program.as_deref())?;
    let program = std::path::absolute(&program).unwrap_or(program);
    program::settings(&program, &args.command)?;
    run_of(&program.to_string_lossy(), &args.command)
}

fn run_of(program: &str, command: &[String]) -> Result<Run, LaunchError> {
    let words = std::iter::once(program).chain(command.iter().map(String::as_str));
    let words = words.map(|word| shell("the command", word)).collect::<Result<Vec<String>, _>>()?;
    Ok(Run { about: String::new(), command: words.join(" "), evaluations: Vec::new() })
}

/// Fills the script in.
pub fn script(
    args: &SlurmArgs,
    gpus: usize,
    mut array: Option<Array>,
    runs: Vec<Run>,
    folder: &str,
) -> Result<String, LaunchError> {
    let mut options = Vec::new();
    for (name, given) in [("time", &args.time), ("partition", &args.partition), ("account", &args.account)] {
        if let Some(given) = given {
            options.push((name.to_owned(), plain(&format!("--{name}"), given)?));
        }
    }
    for option in &args.options {
        let (name, given) = option
            .trim_start_matches("--")
            .split_once('=')
            .ok_or_else(|| value("--option", option, "write NAME=VALUE, as in --option mem=0"))?;
        options.push((plain("--option", name)?, plain("--option", given)?));
    }
    if let Some(array) = &mut array {
        let is_shared = |(name, _): &&(String, String)| OF_TABLE_TOO.contains(&name.as_str());
        let shared = options.iter().filter(is_shared);
        array.options = shared.map(|(name, value)| format!(" --{name}={value}")).collect();
    }
    let log = args.log.as_deref().unwrap_or(if array.is_some() { ARRAY_LOG } else { LOG });
    let values = Values {
        job_name: plain("--job-name", &args.job_name)?,
        nodes: args.nodes,
        ranks_per_node: args.ranks_per_node.unwrap_or(gpus.max(1)),
        gpus_per_node: gpus,
        cpus_per_rank: args.cpus_per_rank.unwrap_or(0),
        options,
        log: plain("--log", log)?,
        stop_before: args.stop_before,
        folder: shell("the working folder", folder)?,
        mpi: plain("--mpi", &args.mpi)?,
        array,
        runs,
    };
    fill("job.sbatch", TEMPLATE, values)
}

fn submit(script: &str) -> Result<(), LaunchError> {
    let failed = |why: String| LaunchError::Submit { why };
    let mut command = Command::new("sbatch");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    // sbatch may refuse before it has read all.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => {
            let _ = std::io::stdout().write_all(&output.stdout);
            Ok(())
        }
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Instead};
    use crate::templates::check_snapshot;

    fn made(words: &[&str]) -> Result<String, LaunchError> {
        let words = ["gpart-launch", "slurm"].iter().chain(words);
        let Some(Instead::Slurm(args)) = Cli::try_parse_from(words).unwrap().instead else {
            panic!("not slurm")
        };
        let run = run_of("/opt/gpart dist", &args.command)?;
        script(&args, args.gpus_per_node.unwrap_or(0), None, vec![run], "/home/x/it's here")
    }

    const FULL: [&str; 15] = [
        "--nodes=2",
        "--gpus-per-node=8",
        "--cpus-per-rank=12",
        "--time=2-00:00:00",
        "--partition=gpu,long",
        "--account=a",
        "--option=mem=0",
        "--stop-before=300",
        "--log=logs/%x-%j.log",
        "--job-name=math",
        "--",
        "metamath",
        "--model=$(rm -rf ~)",
        "--sample-prompt",
        "it's\n`x` \"y\"",
    ];

    #[test]
    fn snapshots() {
        check_snapshot("full.sbatch", &made(&FULL).unwrap());
        let small = made(&["--ranks-per-node=2", "--", "metamath", "--preset", "demo"]).unwrap();
        check_snapshot("small.sbatch", &small);
    }

    /// The command arrives word by word, whatever is in it.
    #[test]
    fn shells_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        std::fs::write(&path, made(&FULL).unwrap()).unwrap();
        let status = Command::new("bash").arg("-n").arg(&path).status().unwrap();
        assert!(status.success());
        // Not with the odd words, at which it wonders.
        std::fs::write(&path, made(&["--", "metamath"]).unwrap()).unwrap();
        if let Ok(output) = Command::new("shellcheck").arg(&path).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        // srun says what it was given; no scontrol is there to be called.
        let script = made(&FULL).unwrap().replace("cd -- ", "cd / # ");
        let srun = "srun() { printf '<%s>' \"$@\"; }\n";
        let bash = ["-c", &format!("SLURM_JOB_ID=1\n{srun}{script}")].map(str::to_owned);
        let output = Command::new("bash").args(bash).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = "</opt/gpart dist><metamath><--model=$(rm -rf ~)><--sample-prompt><it's\n`x` \"y\">";
        assert!(said.ends_with(expected), "{said}");
        assert_eq!(output.status.code(), Some(0));
    }

    /// What becomes of a job that is signalled and whose step then ends with this status.
    fn signalled(status: i32) -> (Option<i32>, String) {
        let script = made(&["--", "metamath"]).unwrap().replace("cd -- ", "cd / # ");
        let step = format!("srun() {{ trap 'exit {status}' USR1; while :; do sleep 0.02; done; }}");
        let queue = "scontrol() { echo \"scontrol $*\"; }";
        let signal = "{ sleep 0.3; kill -USR1 $$; } &";
        let whole = format!("SLURM_JOB_ID=7\n{step}\n{queue}\n{signal}\n{script}");
        let output = Command::new("bash").args(["-c", &whole]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn a_job_that_stopped_is_queued_again() {
        for status in [75, 137, 143] {
            let (code, said) = signalled(status);
            assert_eq!(code, Some(status), "{said}");
            assert!(said.ends_with("scontrol requeue 7\n"), "{status}: {said}");
        }
        let (code, said) = signalled(1);
        assert!(code == Some(1) && !said.contains("scontrol"), "{said}");
    }

    #[test]
    fn values_that_do_not_belong_are_refused() {
        for bad in
            ["--job-name=a b", "--partition=a\n#SBATCH --wrap=x", "--option=mem", "--option=a b=c", "--log="]
        {
            let error = made(&[bad, "--", "metamath"]).unwrap_err();
            assert!(matches!(error, LaunchError::Value { .. }), "{bad}: {error}");
        }
    }
}
