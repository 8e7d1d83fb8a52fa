//! One start of the ranks, from beginning to end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Started};
use crate::error::LaunchError;
use crate::guardian::{self, GUARDIAN};
use crate::last_words::LastWords;
use crate::output::{Lines, Marks, Piece, Splitter, shown};
use crate::{processes, terminal};

/// How long output may go on after all processes here have ended: what was still on its way.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// This program, also if its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Variables for the ranks, with their values.
pub type Variables = Vec<(String, String)>;

/// Ranks at work.
pub struct Attempt {
    guardian: Child,
    /// While this end is open the ranks are wanted.
    lifeline: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
    words: Arc<Mutex<LastWords>>,
    /// Named in the command line.
    _started: Started,
}

/// How what ranks say is shown.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Standard output is a terminal: rank 0 draws there.
    pub terminal: bool,
    /// Several ranks: it is said which one speaks.
    pub prefixed: bool,
}

impl Attempt {
    /// Starts the ranks.
    pub fn start(
        started: Started,
        backend: &Backend,
        variables: &Variables,
        view: View,
    ) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Start { what: "the ranks".to_owned(), source };
        let mut command = Command::new(OWN_PROGRAM);
        command.arg(GUARDIAN).arg(backend.polite_signal()).args(&started.words);
        command.envs(started.environment.iter().copied());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let from_terminal = match view.terminal {
            true => {
                let (read, written) = terminal::pair().map_err(failed)?;
                command.stdout::<OwnedFd>(written);
                Some(read)
            }
            false => {
                command.stdout(Stdio::piped());
                None
            }
        };
        let mut guardian = command.spawn().map_err(failed)?;
        // The command holds the terminal's other end, which must be closed here for reading to come to an end.
        drop(command);
        let words = Arc::new(Mutex::new(LastWords::default()));
        let mut readers = Vec::new();
        let mut read = |from: Box<dyn Read + Send>, stream| {
            let reader = Reader::new(backend.marks(), view, stream, Arc::clone(&words));
            readers.push(std::thread::spawn(move || reader.read(from)));
        };
        if let Some(stdout) = from_terminal {
            read(Box::new(stdout), Stream::Out);
        } else if let Some(stdout) = guardian.stdout.take() {
            read(Box::new(File::from(OwnedFd::from(stdout))), Stream::Out);
        }
        if let Some(stderr) = guardian.stderr.take() {
            read(Box::new(stderr), Stream::Error);
        }
        let lifeline = guardian.stdin.take();
        Ok(Self { guardian, lifeline, readers, words, _started: started })
    }

    /// Whether a rank's end was told of, so that all others end as well.
    pub fn is_breaking_up(&self) -> bool {
        let words = lock(&self.words);
        !words.killed.is_empty() || words.exited.is_some() || !words.lost_hosts.is_empty()
    }

    /// Ends the ranks: politely, and soon by force.
    pub fn end(&mut self) {
        self.lifeline = None;
    }

    /// The exit status, once all ranks here have ended; 128 and the signal's number after a signal.
    pub fn poll(&mut self) -> Option<i32> {
        let status = self.guardian.try_wait().ok()??;
        // A guardian that was killed leaves its ranks to us.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
        Some(status.code().unwrap_or(128 + by_signal.unwrap_or(0)))
    }

    /// What was heard, after all of it was.
    pub fn finish(self) -> LastWords {
        processes::end_descendants(Duration::ZERO);
        let begun = Instant::now();
        while begun.elapsed() < LAST_OUTPUT && !self.readers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        lock(&self.words).clone()
    }
}

/// Whether the guardian could not start the program.
pub fn was_not_started(code: i32) -> bool {
    code == i32::from(guardian::NOT_STARTED)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Error,
}

/// Reads one stream of all ranks.
struct Reader {
    splitter: Splitter,
    lines: Lines,
    view: View,
    stream: Stream,
    words: Arc<Mutex<LastWords>>,
}

impl Reader {
    fn new(marks: Marks, view: View, stream: Stream, words: Arc<Mutex<LastWords>>) -> Self {
        Self { splitter: Splitter::new(marks), lines: Lines::default(), view, stream, words }
    }

    fn read(mut self, mut from: Box<dyn Read + Send>) {
        let mut bytes = [0; 1 << 16];
        loop {
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => {
                    let pieces = self.splitter.feed(&bytes[..length]);
                    self.take(&pieces);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A pseudo-terminal that nobody has open any more says so by an error.
                Err(_) => break,
            }
        }
        let pieces = self.splitter.finish();
        self.take(&pieces);
        let left = self.lines.finish();
        left.into_iter().for_each(|(rank, line)| self.line(rank, &line));
    }

    fn take(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            if self.passes(piece.0) {
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(&piece.1).and_then(|()| stdout.flush());
            }
            let whole = self.lines.feed(piece);
            whole.into_iter().for_each(|(rank, line)| self.line(rank, &line));
        }
    }

    /// Whether bytes of this rank are handed on as they are.
    fn passes(&self, rank: Option<usize>) -> bool {
        self.view.terminal && self.stream == Stream::Out && rank == Some(0)
    }

    fn line(&self, rank: Option<usize>, line: &str) {
        lock(&self.words).hear(rank, line);
        if self.passes(rank) {
            return;
        }
        let clear = if self.view.terminal { terminal::CLEAR_LINE } else { "" };
        let text = format!("{clear}{}", shown(rank.filter(|_| self.view.prefixed), line));
        // Nobody is left to be told when nobody reads; the run goes on.
        let _ = match (self.stream, rank) {
            (Stream::Out, Some(_)) => std::io::stdout().write_all(text.as_bytes()),
            _ => std::io::stderr().write_all(text.as_bytes()),
        };
        let _ = std::io::stdout().flush();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
