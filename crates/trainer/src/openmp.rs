//! libtorch's own threads, for the loops over weights.
//!
//! libtorch computes on an OpenMP team whose idle threads spin for milliseconds. A second pool of threads would fight
//! them for the cores right after every matrix product, which is when the loops over weights run. So the loops borrow
//! the team, through the entry point that compilers emit for `#pragma omp parallel`.

use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use projection::{Executor, Scoped, Serial};

/// `GOMP_parallel(fn, data, num_threads, flags)` of the GNU OpenMP ABI, which LLVM's and Intel's runtimes offer too.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// An executor of `threads` threads: libtorch's team, or threads of our own where its OpenMP is not to be found.
pub fn executor(threads: usize) -> Box<dyn Executor> {
    match (threads, find()) {
        (0 | 1, _) => Box::new(Serial),
        (_, Some(parallel)) => Box::new(Team { parallel, threads }),
        (_, None) => Box::new(Scoped(threads)),
    }
}

fn find() -> Option<Parallel> {
    // SAFETY: a look-up of a name among the libraries that are loaded; the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
    // SAFETY: the symbol of this name has this signature in every OpenMP runtime that has it.
    (!symbol.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Parallel>(symbol) })
}

struct Team {
    parallel: Parallel,
    threads: usize,
}

/// What the threads of one call share.
struct Job<'a> {
    next: AtomicUsize,
    tasks: usize,
    task: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

impl Executor for Team {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job { next: AtomicUsize::new(0), tasks, task, panic: Mutex::new(None) };
        let data = (&raw const job).cast_mut().cast::<c_void>();
        // SAFETY: `work` gets a pointer to a `Job` that outlives the call, since the call returns only when all
        // threads of the team are done; it shares the job by shared reference, and `Job` is `Sync`.
        unsafe { (self.parallel)(work, data, self.threads as c_uint, 0) };
        let panic = job.panic.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Runs on each thread of the team; takes tasks until there are none. A panic must not cross into C.
extern "C" fn work(data: *mut c_void) {
    // SAFETY: `Team::run` passes a pointer to a live `Job`.
    let job = unsafe { &*data.cast::<Job<'_>>() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let number = job.next.fetch_add(1, Ordering::Relaxed);
            if number >= job.tasks {
                break;
            }
            (job.task)(number);
        }
    }));
    if let Err(panic) = result {
        *job.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_the_team() {
        // A tensor operation first: libtorch, and with it its OpenMP, is loaded.
        let _ = tch::Tensor::ones([4], (tch::Kind::Float, tch::Device::Cpu));
        assert!(find().is_some(), "libtorch brings an OpenMP runtime");
        let team = executor(3);
        assert_eq!(team.threads(), 3);
        let calls: Vec<AtomicUsize> = (0..10).map(|_| AtomicUsize::new(0)).collect();
        team.run(calls.len(), &|number| {
            calls[number].fetch_add(1, Ordering::Relaxed);
        });
        assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
    }

    #[test]
    #[should_panic(expected = "task 1")]
    fn a_panic_reaches_the_caller() {
        executor(2).run(2, &|number| assert!(number != 1, "task {number}"));
    }
}
