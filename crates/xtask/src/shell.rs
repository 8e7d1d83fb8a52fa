//! Running other programs, finding them, and the one error type of this binary.

use std::env;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What ends a command: a message, what to do about it, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub hint: Option<String>,
    /// 1: something failed; 2: the command line is wrong.
    pub code: u8,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), code: 1 }
    }

    pub fn usage(message: impl Into<String>, usage: &str) -> Self {
        Self { message: format!("{}\n\n{usage}", message.into()), hint: None, code: 2 }
    }
}

/// Adds what was being done to an I/O error.
pub fn while_doing<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Failure + 'a {
    move |error| Failure::new(format!("cannot {what} {}: {error}", path.display()))
}

/// One line of progress: the part in a column of its own, then what was found or is being done.
pub fn say(part: &str, text: impl std::fmt::Display) {
    show(format_args!("{part:<10} {text}\n"));
}

/// Writes to standard output; a reader that has gone away (`| head`) is no reason to stop.
pub fn show(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // The programs started next write to the same place, past this process's buffer.
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// The folder of the workspace's `Cargo.toml`.
pub fn repository_root() -> Outcome<PathBuf> {
    // Cargo sets the variable for `cargo run`; a binary started by hand falls back on where it was built.
    let crate_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = crate_dir.join("../..");
    root.canonicalize().map_err(while_doing("find the repository root", &root))
}

/// The first executable file called `name` on PATH; a `name` with a slash is taken as a path.
pub fn which(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    if name.components().count() > 1 {
        return is_executable(name).then(|| name.to_path_buf());
    }
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Standard output of a program that ends well; `None` if it cannot be started or fails.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program quietly with `input` on its standard input; true if it ends well.
pub fn accepts(command: &mut Command, input: &str) -> bool {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else { return false };
    // A program that ends without reading all of it is judged by its status alone.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    child.wait().is_ok_and(|status| status.success())
}

/// Runs a program whose output goes where ours goes.
pub fn run(command: &mut Command) -> Outcome {
    let shown = display(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| Failure::new(format!("cannot start `{shown}`: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("`{shown}` failed ({status})"))) }
}

/// Runs a chatty program and shows what it said only if it fails.
pub fn run_quietly(command: &mut Command) -> Outcome {
    let shown = display(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("cannot start `{shown}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = output.stdout;
    said.extend(output.stderr);
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    Err(Failure::new(format!("`{shown}` failed ({}):\n{tail}", output.status)))
}

/// The cargo that runs us, in the workspace, with what set-up found out about this machine.
pub fn cargo(root: &Path, environment: &[(String, String)]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// A command as a user would type it; variables that it sets come first.
pub fn display(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quote(&value?.to_string_lossy())))
    });
    let program = command.get_program().to_string_lossy();
    // The full path of cargo tells a reader nothing; the path of any other program may.
    let program = if program.ends_with("/cargo") { "cargo".to_owned() } else { quote(&program) };
    let args = command.get_args().map(|arg| quote(&arg.to_string_lossy()));
    set.chain([program]).chain(args).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_command_is_shown_as_it_can_be_typed() {
        let mut command = Command::new("mpirun");
        command.env("A", "1").args(["-n", "2", "--model", "my model", "it's", ""]);
        assert_eq!(display(&command), r"A=1 mpirun -n 2 --model 'my model' 'it'\''s' ''");
    }

    #[test]
    fn failures_of_programs_are_failures() {
        assert!(run(Command::new("sh").args(["-c", "exit 3"])).is_err());
        assert!(run(&mut Command::new("/no/such/program")).is_err());
        let failure = run_quietly(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(failure.message.ends_with("why"), "{}", failure.message);
        assert!(accepts(Command::new("sh").args(["-c", "grep -q yes"]), "yes\n"));
        assert!(!accepts(Command::new("sh").args(["-c", "grep -q yes"]), "no\n"));
        assert_eq!(output_of(Command::new("sh").args(["-c", "echo out; exit 1"])), None);
    }

    #[test]
    fn which_finds_programs_on_path_only() {
        assert!(which("sh").is_some());
        assert!(which("/bin/sh").is_some());
        assert!(which("no-such-program-anywhere").is_none());
        assert!(which("/etc/passwd").is_none(), "a file that is not executable");
    }
}
