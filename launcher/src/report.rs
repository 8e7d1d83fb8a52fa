//! What the launcher itself says, on standard error.

use std::error::Error;
use std::io::Write;

use miette::Diagnostic;

/// What the launcher's own lines begin with, so that they are told from those of ranks.
const NAME: &str = "gpart-launch: ";

/// Prints an error, the chain of its causes and its hint, in one write.
pub fn error(error: &dyn Diagnostic) {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
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
    say(&text);
}

/// Prints a line about what is going on.
pub fn note(text: &str) {
    say(&format!("{NAME}{text}\n"));
}

/// Prints a warning.
pub fn warning(text: &str) {
    say(&format!("warning: {text}\n"));
}

/// Nobody is left to be told when standard error is gone.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
