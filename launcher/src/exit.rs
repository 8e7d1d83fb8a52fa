//! Exit codes: those of `gpart-dist`, so that scripts need not know which of the two they started.

/// How the launcher ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The run is done.
    Done = 0,
    /// The run failed, and starting it again would not help or has not helped.
    Failed = 1,
    /// The input is wrong; what was there before is untouched.
    Input = 2,
    /// Stopped early on request. The same command goes on from there.
    Preempted = 75,
    /// Ended at once by a second signal. The same command goes on from the last checkpoint.
    Interrupted = 130,
}

impl Exit {
    /// By the error's code: `input::…` is the user's to mend.
    pub fn of(error: &dyn miette::Diagnostic) -> Self {
        match error.code().is_some_and(|code| code.to_string().starts_with("input::")) {
            true => Self::Input,
            false => Self::Failed,
        }
    }
}
