//! Role: the library's face: what programs that embed fulmar call, and what stays stable between releases.
//! Owns: nothing.
//! Implements: the "Library" section of the crate's documentation.

pub mod client;
pub mod sans_io;
pub mod server;

use crate::endpoint::config::Secret;
use crate::net::client::NetError;
use crate::session::event::CloseReason;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use zeroize::Zeroizing;

/// Bytes of a generated key, before hexadecimal: the strength of the ciphers.
const KEY_BYTES: usize = 32;
/// What a [`Stop`] stores: the number of SIGTERM, as if that had come.
const STOP: i32 = 15;

/// The secret that client and server share: a generated key, or any password.
///
/// ```
/// let key = fulmar::Key::from_bytes("correct horse battery staple");
/// ```
#[derive(Clone, Debug)]
pub struct Key(pub(crate) Secret);

impl Key {
    /// A key or password as bytes, without a line end.
    pub fn from_bytes(key: impl AsRef<[u8]>) -> Self {
        Self(Secret::Key(Zeroizing::new(key.as_ref().to_vec())))
    }

    /// The first line of a file, as `--key-file` takes it.
    ///
    /// # Errors
    /// The file cannot be read, or its first line is empty.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let shown = path.as_ref().display();
        let read = std::fs::read(path.as_ref()).map(Zeroizing::new);
        let text =
            read.map_err(|e| Error::new(ErrorKind::Other, format!("cannot read the key file {shown}: {e}")))?;
        let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(Error::new(ErrorKind::Other, format!("the key file {shown} is empty")));
        }
        Ok(Self::from_bytes(line))
    }

    /// A new key of 256 random bits, as 64 hexadecimal digits.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *bytes)
            .map_err(|e| Error::new(ErrorKind::Other, format!("the system gives no randomness: {e}")))?;
        let digits: Zeroizing<String> = Zeroizing::new(bytes.iter().map(|b| format!("{b:02x}")).collect());
        Ok(Self::from_bytes(digits.as_bytes()))
    }

    /// No encryption and no authentication, a CRC-32 in every packet: for experiments. Both sides must have it so.
    pub fn insecure() -> Self {
        Self(Secret::Insecure)
    }

    /// The bytes, to hand them to the other side; `None` for [`Key::insecure`].
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Secret::Key(bytes) => Some(bytes),
            Secret::Insecure => None,
        }
    }
}

/// What kind of failure an [`Error`] is. They are the classes of the program's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The peer cannot be reached, or was lost.
    Unreachable,
    /// The keys differ, or one side only encrypts.
    Authentication,
    /// Refused, or not possible there: missing, exists, permission, space, limits.
    Refused,
    /// What arrived is not what was sent, or the source changed while it was read.
    Integrity,
    /// It was told to stop, by a [`Stop`] or a signal.
    Interrupted,
    /// Anything else, such as an I/O error.
    Other,
}

/// Why something failed: one sentence for the user, and its class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The class.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The class of an exit code.
fn kind_of(exit_code: u8) -> ErrorKind {
    match exit_code {
        3 => ErrorKind::Unreachable,
        4 => ErrorKind::Authentication,
        5 => ErrorKind::Refused,
        6 => ErrorKind::Integrity,
        _ => ErrorKind::Other,
    }
}

impl From<NetError> for Error {
    fn from(error: NetError) -> Self {
        Self::new(kind_of(error.exit_code), error.message)
    }
}

impl From<CloseReason> for Error {
    fn from(reason: CloseReason) -> Self {
        let kind = match reason {
            CloseReason::Interrupted => ErrorKind::Interrupted,
            _ => kind_of(reason.exit_code()),
        };
        Self::new(kind, reason.to_string())
    }
}

/// Ends a [`Client`](client::Client)'s request or a [`Server`](server::Server) from another thread, within 100 ms: the peer is told,
/// and what is unfinished stays invisible. Once stopped, it stays so.
#[derive(Clone, Debug, Default)]
pub struct Stop(pub(crate) Arc<AtomicI32>);

impl Stop {
    /// Stops.
    pub fn stop(&self) {
        self.0.store(STOP, Ordering::Relaxed);
    }

    /// Whether it was stopped, by this or by SIGINT or SIGTERM.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}
