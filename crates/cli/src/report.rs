//! Errors as people read them: what went wrong, why, and what to do.

use std::error::Error;
use std::io::Write;

use miette::Diagnostic;

/// Prints an error, the chain of its causes and its hint to standard error, in one write.
pub fn print(error: &dyn Diagnostic) {
    let _ = std::io::stderr().write_all(render(error).as_bytes());
}

/// The text of an error, as [`print`] prints it.
pub fn render(error: &dyn Diagnostic) -> String {
    let mut text = format!("error: {error}\n");
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    let mut last = error.to_string();
    while let Some(inner) = cause {
        // A transparent wrapper repeats its inner message.
        let message = inner.to_string();
        if message != last {
            text += &format!("  because: {message}\n");
        }
        last = message;
        cause = inner.source();
    }
    if let Some(hint) = error.help() {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// A panic is a bug. Whatever it is, peers must not wait for a rank that is gone: the process ends at once,
/// without finalising MPI (which would wait for them), and mpirun ends the rest.
pub fn end_all_ranks_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let rank = comm::rank_by_launcher().map_or_else(String::new, |rank| format!(" on rank {rank}"));
        let text = format!(
            "error: internal error{rank}: {info}\nhint: this is a bug; please report it with the command line\n"
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
        // SAFETY: `_exit` is always safe to call; it runs no destructors, which is the point.
        unsafe { libc::_exit(1) }
    }));
}
