//! Role: exit codes, and the one place where an error line is printed.
//! Owns: nothing.
//! Implements: the exit code table of `fulmar --help`.

use super::text;
use crate::net::client::NetError;

/// Done, and confirmed by the receiver.
pub const DONE: u8 = 0;
/// Anything that no other code covers, such as an I/O error.
pub const OTHER: u8 = 1;
/// The command line cannot be carried out as it is written.
pub const USAGE: u8 = 2;
/// The peer cannot be reached, or was lost.
pub const UNREACHABLE: u8 = 3;
/// The keys differ, or one side encrypts and the other does not.
pub const AUTHENTICATION: u8 = 4;
/// Refused, or not possible there: missing, exists, permission, space, limits.
pub const REFUSED: u8 = 5;
/// What arrived is not what was sent, or the source changed while it was read.
pub const INTEGRITY: u8 = 6;
/// Added to a signal's number, as shells do.
pub const SIGNAL_BASE: u8 = 128;

/// An error on its way to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The process exit code.
    pub exit_code: u8,
    /// One sentence: what failed, and what to do.
    pub message: String,
}

impl Failure {
    /// An error with this exit code.
    pub fn new(exit_code: u8, message: impl Into<String>) -> Self {
        Self { exit_code, message: message.into() }
    }

    /// A command line that cannot be carried out.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// A local I/O error: what was tried, on which file, and why it failed. Its class gives the exit code.
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let exit_code = match error.kind() {
            Kind::NotFound
            | Kind::PermissionDenied
            | Kind::AlreadyExists
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::ReadOnlyFilesystem => REFUSED,
            _ => OTHER,
        };
        Self::new(exit_code, format!("cannot {what} {}: {}", text::path(path), text::io_error(error)))
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::new(error.exit_code, error.message)
    }
}

/// Prints an error as one line, `fulmar: ...`, on stderr. Every error that the user sees goes through here.
pub fn complain(message: &str) {
    super::terminal::stderr_line(&format!("fulmar: {}", text::one_line(message)));
}
