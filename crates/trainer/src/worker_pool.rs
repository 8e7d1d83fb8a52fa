//! Threads that live as long as the run, for the loops over weights.

use projection::Executor;

use crate::TrainError;

/// A pool of `--threads` threads. The calling thread is none of them, so it waits while they work.
pub struct WorkerPool {
    pool: rayon::ThreadPool,
    threads: usize,
}

impl WorkerPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`TrainError::Threads`] when the system refuses.
    pub fn new(threads: usize) -> Result<Self, TrainError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("gpart-{index}"))
            .build()
            .map_err(|e| TrainError::Threads { threads, reason: e.to_string() })?;
        Ok(Self { pool, threads })
    }
}

impl Executor for WorkerPool {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.pool.scope(|scope| {
            for number in 0..tasks {
                scope.spawn(move |_| task(number));
            }
        });
    }
}
