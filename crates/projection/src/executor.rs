/// Where parallel work runs: the caller's thread pool, or one of the two here.
pub trait Executor: Sync {
    /// How many tasks can run at once; at least 1.
    fn threads(&self) -> usize;

    /// Calls `task` once with every number below `tasks`, and returns when all calls have returned.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// Everything on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Executor for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// New threads for every call, this many with the calling one; simple, and worth it for milliseconds of work.
#[derive(Debug, Clone, Copy)]
pub struct Scoped(
    /// How many threads; 0 is taken as 1.
    pub usize,
);

impl Executor for Scoped {
    fn threads(&self) -> usize {
        self.0.max(1)
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let threads = self.threads().min(tasks);
        let strided = |thread: usize| (thread..tasks).step_by(threads).for_each(task);
        std::thread::scope(|scope| {
            for thread in 1..threads {
                scope.spawn(move || strided(thread));
            }
            if threads > 0 {
                strided(0);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Executor, Scoped, Serial};

    fn check(executor: &dyn Executor) {
        for tasks in [0, 1, 2, 3, 10] {
            let calls: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            executor.run(tasks, &|task| {
                calls[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn every_task_runs_once() {
        check(&Serial);
        [0, 1, 2, 3, 16].into_iter().for_each(|threads| check(&Scoped(threads)));
    }
}
