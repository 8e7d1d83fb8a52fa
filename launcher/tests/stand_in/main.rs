//! Stands in for gpart-dist in tests of the launcher: ranks that report to the coordinator, make steps that cost nothing,
//! resume, stop when asked to, and fail on request; evaluations that report to nobody; a table of runs.
//!
//! Requests are variables: `STAND_IN_STEPS` and `STAND_IN_MILLISECONDS` for the run's shape; `STAND_IN_FAIL=HOW:RANK:STEP`
//! for a failure of a rank in a step of the first `STAND_IN_FAIL_ATTEMPTS` attempts (all by default). HOW is `crash`, `kill`,
//! `exit2`, `exit7`, `nan`, `memory` or `deaf` (gets on, but stops at no wish). With `STAND_IN_ONLY=WORDS` only commands
//! with these words in them fail, or have that many steps. `STAND_IN_EVALUATION=CODE` lets evaluations end so, and
//! `STAND_IN_NO_TABLE` makes it a gpart-dist that cannot collect.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control_plane::{Endpoint, Phase, RankInfo, RankLink, StepReport, attempt_from_env};

/// Programs of MPI end when they lose mpirun: its library sees to that. `STAND_IN_ENDS_WITH_MPIRUN` asks for the same.
fn end_with_mpirun() {
    if std::env::var_os("STAND_IN_ENDS_WITH_MPIRUN").is_some() {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("config") => config(&words[1..]),
        Some("eval") => evaluate(&words),
        Some("collect") => collect(&words),
        Some("metamath") => Rank::new(&words)?.run(),
        _ => exit(2),
    }
}

/// The value of `--NAME VALUE` or `--NAME=VALUE`.
fn flag(words: &[String], name: &str) -> Option<String> {
    let with_value = format!("--{name}=");
    let bare = format!("--{name}");
    words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(&with_value) {
        Some(value) => Some(value.to_owned()),
        None if *word == bare => words.get(at + 1).cloned(),
        None => None,
    })
}

fn config(words: &[String]) -> Result<(), Failure> {
    if words.iter().any(|word| word == "--wrong") && flag(words, "wrong").as_deref() != Some("no") {
        writeln!(std::io::stderr(), "error: --wrong is no flag\nhint: leave it out")?;
        exit(2);
    }
    let output = flag(words, "output");
    let from = |given: bool| if given { "flag" } else { "from output-root-dir and the run's name" };
    if words.iter().any(|word| word == "--json") {
        let mut map = serde_json::Map::new();
        map.insert("output".into(), serde_json::json!({"value": output, "from": from(output.is_some())}));
        for (key, setting) in settings(words) {
            map.insert(key, setting);
        }
        for key in ["dp-replicate", "dp-shard", "pp"] {
            let value = flag(words, key).and_then(|value| value.parse::<u64>().ok());
            let from = if value.is_some() { "flag" } else { "default" };
            map.insert(key.into(), serde_json::json!({"value": value, "from": from}));
        }
        writeln!(std::io::stdout(), "{}", serde_json::Value::from(map))?;
    } else {
        let output = output.unwrap_or_else(|| "outputs/named".to_owned());
        writeln!(std::io::stdout(), "output  {output}  from output-root-dir and the run's name")?;
    }
    Ok(())
}

/// Settings of flags, as gpart-dist shows them: by their main names, and the last one counts.
fn settings(words: &[String]) -> Vec<(String, serde_json::Value)> {
    let flags = words.iter().filter_map(|word| word.strip_prefix("--")).filter(|word| *word != "json");
    let names: std::collections::BTreeSet<&str> =
        flags.map(|flag| flag.split('=').next().unwrap_or(flag)).collect();
    let mut found: Vec<(usize, String, serde_json::Value)> = Vec::new();
    for name in names.into_iter().filter(|name| *name != "output") {
        let value = flag(words, name).unwrap_or_default();
        let key = if name == "lr" { "learning-rate" } else { name };
        let value = value.parse::<f64>().map_or(serde_json::json!(value), |number| serde_json::json!(number));
        let at = words.iter().position(|word| word.starts_with(&format!("--{name}"))).unwrap_or(0);
        found.push((
            at,
            key.to_owned(),
            serde_json::json!({"value": value, "from": format!("flag --{key}")}),
        ));
    }
    found.sort_by_key(|(at, _, _)| *at);
    found.into_iter().map(|(_, key, setting)| (key, setting)).collect()
}

/// Whether requests are meant for a command with these words.
fn is_meant(words: &[String]) -> bool {
    std::env::var("STAND_IN_ONLY").map_or(true, |only| words.join(" ").contains(&only))
}

/// Reports to nobody, and knows no signal.
fn evaluate(words: &[String]) -> Result<(), Failure> {
    if words.iter().any(|word| word == "--help") {
        return Ok(());
    }
    end_with_mpirun();
    let rank = std::env::var("OMPI_COMM_WORLD_RANK").map_or(Ok(0), |rank| rank.parse::<u32>())?;
    writeln!(std::io::stdout(), "evaluation on rank {rank}: {}", words.join(" "))?;
    std::thread::sleep(Duration::from_millis(number("STAND_IN_EVALUATION_MILLISECONDS", 20)));
    if is_meant(words)
        && let code @ 1.. = number("STAND_IN_EVALUATION", 0)
    {
        exit(code as i32);
    }
    let output = flag(words, "output").ok_or("no --output")?;
    if rank == 0 {
        fs::write(&output, "{}")?;
    }
    Ok(())
}

/// A line for each run with what it has: enough to tell which runs were there.
fn collect(words: &[String]) -> Result<(), Failure> {
    if std::env::var_os("STAND_IN_NO_TABLE").is_some() {
        writeln!(std::io::stderr(), "error: unrecognized subcommand 'collect'\n\nUsage: …")?;
        exit(2);
    }
    let folder = Path::new(words.get(1).ok_or("no folder")?);
    let mut runs: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Failure>>()?;
    runs.sort();
    writeln!(std::io::stdout(), "table as {}", flag(words, "format").unwrap_or_default())?;
    for run in runs.into_iter().filter(|run| run.join("run.json").exists()) {
        let state = fs::read_to_string(run.join("state"))?;
        writeln!(std::io::stdout(), "{} {state}", run.file_name().unwrap_or_default().to_string_lossy())?;
    }
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

struct Rank {
    rank: usize,
    ranks: usize,
    attempt: u32,
    output: PathBuf,
    is_meant: bool,
    steps: u64,
    pace: Duration,
    link: Option<RankLink>,
    asked_by_signal: Arc<AtomicBool>,
    asked: bool,
}

impl Rank {
    fn new(words: &[String]) -> Result<Self, Failure> {
        end_with_mpirun();
        let variable =
            |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok()?.parse::<usize>().ok());
        let rank = variable(&["OMPI_COMM_WORLD_RANK", "SLURM_PROCID"]).unwrap_or(0);
        let ranks = variable(&["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"]).unwrap_or(1);
        let asked_by_signal = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&asked_by_signal))?;
        // As gpart-dist does: mpirun sends it before it kills.
        signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&asked_by_signal))?;
        let attempt = attempt_from_env();
        let info = RankInfo {
            rank,
            ranks,
            host: fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned(),
            device: "cpu".into(),
            version: "0".into(),
            fingerprints: Default::default(),
            attempt,
        };
        let link = Endpoint::from_env()?.map(|endpoint| RankLink::connect(&endpoint, info)).transpose()?;
        let output = PathBuf::from(flag(words, "output").unwrap_or_else(|| "outputs/named".to_owned()));
        let is_meant = is_meant(words);
        let steps = if is_meant { number("STAND_IN_STEPS", 10) } else { 10 };
        let pace = Duration::from_millis(number("STAND_IN_MILLISECONDS", 50));
        writeln!(std::io::stdout(), "hello of {rank} of {ranks}, attempt {attempt}: {}", words.join(" "))?;
        Ok(Self { rank, ranks, attempt, output, is_meant, steps, pace, link, asked_by_signal, asked: false })
    }

    fn run(mut self) -> Result<(), Failure> {
        let (mut step, mut theta) = self.state();
        if self.rank == 0 {
            fs::create_dir_all(&self.output)?;
            let mut starts =
                fs::File::options().create(true).append(true).open(self.output.join("starts"))?;
            cut_back(&self.output.join("metrics.jsonl"), step)?;
            writeln!(starts, "{}", std::env::args().skip(1).collect::<Vec<_>>().join(" "))?;
        }
        if self.rank == 0 && step > 0 {
            writeln!(std::io::stdout(), "resumed after step {step}")?;
        }
        while step < self.steps {
            step += 1;
            let begun = Instant::now();
            self.tell(|link| {
                link.begins(step);
                link.phase(Phase::Forward);
            });
            std::thread::sleep(self.pace);
            self.fail(step)?;
            theta = (theta ^ step).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
            let stop = self.meet(step)?;
            if self.rank == 0 {
                self.save(step, theta)?;
            }
            let report = StepReport {
                step,
                total_steps: self.steps,
                loss: 1.0 / step as f64,
                tokens_per_second: 100.0,
                seconds: begun.elapsed().as_secs_f64(),
                waited_seconds: Default::default(),
            };
            self.tell(|link| link.step(report.clone()));
            if stop {
                drop(self.link);
                exit(75);
            }
        }
        self.tell(|link| link.phase(Phase::Finishing));
        if self.rank == 0 {
            fs::write(self.output.join("run.json"), "{\"summary\": {}}")?;
        }
        drop(self.link);
        Ok(())
    }

    fn tell(&self, what: impl Fn(&RankLink)) {
        self.link.iter().for_each(what);
    }

    fn state(&self) -> (u64, u64) {
        let text = fs::read_to_string(self.output.join("state")).unwrap_or_default();
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0xcbf2_9ce4_8422_2325))
    }

    fn save(&self, step: u64, theta: u64) -> Result<(), Failure> {
        // In this order, and cut back at the next start: killed in between it makes the step once more.
        let mut metrics =
            fs::File::options().create(true).append(true).open(self.output.join("metrics.jsonl"))?;
        writeln!(metrics, "{{\"step\": {step}, \"theta_blake3\": \"{theta:016x}\"}}")?;
        let fresh = self.output.join("state.new");
        fs::write(&fresh, format!("{step} {theta}"))?;
        fs::rename(fresh, self.output.join("state"))?;
        writeln!(std::io::stdout(), "step {step}/{}", self.steps)?;
        self.tell(|link| link.durable(step));
        Ok(())
    }

    /// Waits for all ranks. Rank 0 decides whether this step is the last one for now.
    fn meet(&mut self, step: u64) -> Result<bool, Failure> {
        // A folder of its own for each start of the ranks: what earlier ones left there would be taken for theirs.
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let start = [variable("GPART_CONTROL_TOKEN"), variable("SLURM_RESTART_COUNT")].concat();
        let folder = self.output.join(format!("meet-{}-{start:.8}", self.attempt));
        fs::create_dir_all(&folder)?;
        let wishes = self.link.as_ref().map(RankLink::wishes).unwrap_or_default();
        self.asked |= wishes.stop.is_some() || self.asked_by_signal.load(Ordering::SeqCst);
        let is_deaf = std::env::var("STAND_IN_FAIL").is_ok_and(|how| how.starts_with("deaf"));
        let word = if self.asked && !is_deaf { "stop" } else { "go" };
        let file = |rank: usize| folder.join(format!("{rank}-{step}"));
        let fresh = folder.join(format!("{}.new", self.rank));
        fs::write(&fresh, word)?;
        fs::rename(fresh, file(self.rank))?;
        self.tell(|link| {
            link.phase(Phase::Reducing);
            link.collective(Some("all_reduce"));
        });
        while !(0..self.ranks).all(|rank| file(rank).exists()) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tell(|link| link.collective(None));
        Ok(fs::read_to_string(file(0))? == "stop")
    }

    fn fail(&self, step: u64) -> Result<(), Failure> {
        let Ok(wanted) = std::env::var("STAND_IN_FAIL") else { return Ok(()) };
        let parts: Vec<&str> = wanted.split(':').collect();
        let [how, rank, when] = parts[..] else { return Ok(()) };
        let is_due = rank.parse() == Ok(self.rank) && when.parse() == Ok(step);
        if !is_due || !self.is_meant || u64::from(self.attempt) > number("STAND_IN_FAIL_ATTEMPTS", u64::MAX) {
            return Ok(());
        }
        let mut stderr = std::io::stderr();
        match how {
            "crash" => std::process::abort(),
            "kill" => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?
            }
            "exit2" => {
                writeln!(stderr, "error: the data is wrong")?;
                exit(2);
            }
            "exit7" => {
                writeln!(stderr, "error: rank {rank} on here (cpu): the disk is full")?;
                exit(7);
            }
            "nan" => {
                writeln!(
                    stderr,
                    "error: the loss of step {step}, micro-batch 0, is NaN (computed by rank {rank})"
                )?;
                exit(1);
            }
            "memory" => take_all_memory(&self.output),
            _ => {}
        }
        Ok(())
    }
}

/// Leaves so many lines.
fn cut_back(path: &Path, lines: u64) -> Result<(), Failure> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let kept: String = text.split_inclusive('\n').take(usize::try_from(lines)?).collect();
    if kept != text {
        fs::write(path, kept)?;
    }
    Ok(())
}

/// Takes memory until the kernel objects.
fn take_all_memory(output: &Path) {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    while !output.join("enough").exists() {
        taken.push(vec![1; 16 << 20]);
    }
}
