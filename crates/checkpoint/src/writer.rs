//! States written by a thread of their own, while the next step computes.
//!
//! Nothing is copied for it: a state is shared with the thread, and the next update reads it and writes another one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk::{Disk, free_bytes};
use crate::{CheckpointError, Kept, StateRef, Store};

/// θ and its moments, each of length d.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// θ.
    pub theta: Vec<f32>,
    /// Adam's first moment.
    pub exp_avg: Vec<f32>,
    /// Adam's second moment.
    pub exp_avg_sq: Vec<f32>,
}

impl Vectors {
    /// `theta` with moments of zero.
    pub fn starting_at(theta: Vec<f32>) -> Self {
        let zeros = vec![0.0; theta.len()];
        Self { exp_avg: zeros.clone(), exp_avg_sq: zeros, theta }
    }
}

/// What comes after a state is durable, on the writing thread.
pub type Then = Box<dyn FnOnce() -> Result<(), CheckpointError> + Send>;

/// A state to be written.
pub struct Job {
    /// Optimizer steps done.
    pub step: u64,
    /// The state after them.
    pub vectors: Arc<Vectors>,
    /// As in [`StateRef::meta`].
    pub meta: Value,
    /// How long it is kept.
    pub kept: Kept,
    /// Done once the state is durable.
    pub then: Then,
}

/// A state that is durable: no power cut takes it away.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Optimizer steps done.
    pub step: u64,
    /// Its file.
    pub path: PathBuf,
    /// How long it took to write, flush and name it, and what came after.
    pub took: Duration,
    /// Bytes left where it is, if the system says.
    pub free_bytes: Option<u64>,
}

type Outcome = Result<Written, CheckpointError>;

/// A thread that writes one state at a time into a store.
pub struct Writer {
    /// None once the thread is told to end.
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(store: Store, disk: Arc<dyn Disk>) -> std::io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, outcomes) = channel();
        let serve = move || {
            for job in inbox {
                let outcome = write(&store, disk.as_ref(), job);
                if outbox.send(outcome).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(serve)?;
        Ok(Self { jobs: Some(jobs), outcomes, thread: Some(thread), under_way: false })
    }

    /// Begins to write a state. The one before must have been waited for.
    ///
    /// # Panics
    /// It was not.
    pub fn submit(&mut self, job: Job) {
        assert!(!self.under_way, "one state at a time");
        let jobs = self.jobs.as_ref().expect("jobs are only taken away on drop");
        jobs.send(job).expect("the thread lives as long as its owner");
        self.under_way = true;
    }

    /// Waits until the state under way is durable; none when there is none. Whoever shares its vectors has let go of them
    /// then.
    ///
    /// # Errors
    /// [`CheckpointError::Write`]; earlier states are as they were.
    pub fn wait(&mut self) -> Result<Option<Written>, CheckpointError> {
        match std::mem::take(&mut self.under_way) {
            true => self.outcomes.recv().expect("the thread answers every job").map(Some),
            false => Ok(None),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A state under way is still written.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(store: &Store, disk: &dyn Disk, job: Job) -> Outcome {
    let started = Instant::now();
    let Job { step, vectors, meta, kept, then } = job;
    let Vectors { theta, exp_avg, exp_avg_sq } = vectors.as_ref();
    let path = store.save_on(disk, StateRef { step, meta: &meta, theta, exp_avg, exp_avg_sq }, kept)?;
    // Before the answer: the next update writes into the vectors of the state before, and finds itself their only owner.
    drop(vectors);
    then()?;
    let free_bytes = free_bytes(store.folder());
    Ok(Written { step, path, took: started.elapsed(), free_bytes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::disk::SystemDisk;

    /// Writes down what is done, in order, and takes its time to flush.
    #[derive(Default)]
    struct Watched {
        done: Arc<Mutex<Vec<String>>>,
        flush: Duration,
    }

    impl Watched {
        fn note(&self, what: &str) {
            self.done.lock().unwrap().push(what.to_owned());
        }
    }

    impl Disk for Watched {
        fn write(&self, path: &Path, parts: &[&[u8]]) -> std::io::Result<File> {
            self.note("write");
            SystemDisk.write(path, parts)
        }
        fn sync(&self, file: &File) -> std::io::Result<()> {
            std::thread::sleep(self.flush);
            self.note("fsync");
            SystemDisk.sync(file)
        }
        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            self.note("rename");
            SystemDisk.rename(from, to)
        }
        fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
            self.note("fsync of the folder");
            SystemDisk.sync_folder(folder)
        }
    }

    /// A disk that is full.
    struct FullDisk;

    impl Disk for FullDisk {
        fn write(&self, path: &Path, parts: &[&[u8]]) -> std::io::Result<File> {
            // Something fits.
            SystemDisk.write(path, &parts[..1])?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn sync(&self, _file: &File) -> std::io::Result<()> {
            unreachable!("nothing was written")
        }
        fn rename(&self, _from: &Path, _to: &Path) -> std::io::Result<()> {
            unreachable!("nothing was written")
        }
        fn sync_folder(&self, _folder: &Path) -> std::io::Result<()> {
            unreachable!("nothing was written")
        }
    }

    fn job(step: u64, vectors: &Arc<Vectors>, then: Then) -> Job {
        Job {
            step,
            vectors: Arc::clone(vectors),
            meta: serde_json::json!({"step": step}),
            kept: Kept::Rolling,
            then,
        }
    }

    #[test]
    fn a_state_is_durable_before_anything_follows() {
        let folder = tempfile::tempdir().unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let disk = Watched { done: Arc::clone(&done), flush: Duration::ZERO };
        let store = Store::new(folder.path().join("checkpoints"), 1, 1);
        let mut writer = Writer::start(store.clone(), Arc::new(disk)).unwrap();
        let vectors = Arc::new(Vectors::starting_at(vec![1.0, 2.0]));
        let (noted, path) = (Arc::clone(&done), store.path_of(1, Kept::Rolling));
        let line = Box::new(move || {
            assert!(path.exists(), "the line comes after the rename");
            noted.lock().unwrap().push("line".to_owned());
            Ok(())
        });
        writer.submit(job(1, &vectors, line));
        let written = writer.wait().unwrap().unwrap();
        assert_eq!((written.step, Arc::strong_count(&vectors)), (1, 1));
        assert!(written.free_bytes.is_some());
        assert_eq!(*done.lock().unwrap(), ["write", "fsync", "rename", "fsync of the folder", "line"]);
        assert_eq!(writer.wait().unwrap(), None);
        assert_eq!(store.newest().unwrap().state.unwrap().1.theta, [1.0, 2.0]);
    }

    #[test]
    fn a_slow_disk_is_waited_for_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let flush = Duration::from_millis(300);
        let disk = Watched { flush, ..Watched::default() };
        let mut writer = Writer::start(Store::new(folder.path(), 2, 2), Arc::new(disk)).unwrap();
        let vectors = Arc::new(Vectors::starting_at(vec![1.0; 10]));
        let started = Instant::now();
        writer.submit(job(1, &vectors, Box::new(|| Ok(()))));
        let submitted = started.elapsed();
        let written = writer.wait().unwrap().unwrap();
        assert!(submitted < flush && written.took >= flush, "{submitted:?} {written:?}");
    }

    #[test]
    fn a_full_disk_is_told_to_whoever_waits() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(Store::new(folder.path(), 2, 2), Arc::new(FullDisk)).unwrap();
        let vectors = Arc::new(Vectors::starting_at(vec![1.0]));
        writer.submit(job(1, &vectors, Box::new(|| unreachable!("nothing is durable"))));
        assert!(matches!(writer.wait(), Err(CheckpointError::Write { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_last_state_is_written_though_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), 2, 2);
        let disk = Watched { flush: Duration::from_millis(50), ..Watched::default() };
        let mut writer = Writer::start(store.clone(), Arc::new(disk)).unwrap();
        writer.submit(job(4, &Arc::new(Vectors::starting_at(vec![1.0])), Box::new(|| Ok(()))));
        drop(writer);
        assert_eq!(store.newest().unwrap().state.unwrap().1.step, 4);
    }
}
