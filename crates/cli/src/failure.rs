//! How a command ends when it does not end well, and which exit code says so.

use std::process::ExitCode;

/// The command did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The caller's: a flag, a file or a value in it is wrong. Repeating the same command cannot help. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else: nobody answers, the server refused, a file cannot be read. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}
