//! Exit codes.

/// How the process ends. These numbers are a contract with launchers and scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The run failed.
    Failed = 1,
    /// The user's input is wrong; what was there before is untouched.
    Input = 2,
    /// Stopped early and resumable.
    Preempted = 75,
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
