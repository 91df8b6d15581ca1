//! Role: turns operating system errors and refusals into `StoreError`: a class and one sentence for the user.
//! Owns: nothing.
//! Implements: docs/PROTOCOL.md, "Files" (error classes).

use crate::transfer::job::{StoreError, StoreErrorKind};
use rustix::io::Errno;
use std::io;

/// A path as it stands in a message: lossy UTF-8, control characters escaped so that a name cannot forge a line.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if out.is_empty() { ".".into() } else { out }
}

/// A refusal in our own words: `<path>: <text>`.
pub(crate) fn refuse(kind: StoreErrorKind, path: &[u8], text: &str) -> StoreError {
    StoreError { kind, message: format!("{}: {text}", shown(path)) }
}

/// The file is there and may not be replaced.
pub(crate) fn exists(path: &[u8]) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Exists,
        message: format!("{} exists; use --overwrite always to replace it", shown(path)),
    }
}

/// The source is not what the walk found.
pub(crate) fn source_changed(path: &[u8]) -> StoreError {
    let text = "changed while it was being read; nothing was kept; run the command again";
    refuse(StoreErrorKind::SourceChanged, path, text)
}

/// What arrived has another SHA-256 than the source.
pub(crate) fn digest_mismatch(path: &[u8]) -> StoreError {
    let text = "arrived with another SHA-256 than it was sent with; nothing was kept; run the command again";
    refuse(StoreErrorKind::DigestMismatch, path, text)
}

/// Another writer holds the partial.
pub(crate) fn busy(path: &[u8]) -> StoreError {
    refuse(
        StoreErrorKind::Busy,
        path,
        "is being written by another transfer now; try again when that has ended",
    )
}

/// A directory (or not a directory) where the other was needed.
pub(crate) fn wrong_kind(path: &[u8], text: &str) -> StoreError {
    refuse(StoreErrorKind::WrongKind, path, text)
}

/// A path that a peer may not name.
pub(crate) fn forbidden(path: &[u8], text: &str) -> StoreError {
    refuse(StoreErrorKind::Forbidden, path, text)
}

/// The class of an operating system error. cap-std reports a path that leads out of its directory as
/// `PermissionDenied` without an OS code; the kernel's own beneath-resolution says EXDEV or ELOOP.
pub(crate) fn kind_of(error: &io::Error) -> StoreErrorKind {
    use StoreErrorKind as K;
    let Some(code) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::PermissionDenied => K::Forbidden,
            io::ErrorKind::NotFound => K::NotFound,
            io::ErrorKind::AlreadyExists => K::Exists,
            io::ErrorKind::UnexpectedEof => K::SourceChanged,
            io::ErrorKind::StorageFull => K::NoSpace,
            _ => K::Io,
        };
    };
    match Errno::from_raw_os_error(code) {
        Errno::NOSPC | Errno::FBIG => K::NoSpace,
        Errno::DQUOT => K::Quota,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => K::Permission,
        Errno::NAMETOOLONG => K::NameTooLong,
        Errno::NOENT => K::NotFound,
        Errno::NOTDIR | Errno::ISDIR => K::WrongKind,
        Errno::XDEV | Errno::LOOP => K::Forbidden,
        Errno::EXIST | Errno::NOTEMPTY => K::Exists,
        _ => K::Io,
    }
}

/// The error for `path` (as the manifest names it) when `doing` it failed, for instance "cannot be written".
pub(crate) fn from_io(path: &[u8], doing: &str, error: &io::Error) -> StoreError {
    use StoreErrorKind as K;
    let kind = kind_of(error);
    let why = match kind {
        K::Exists => return exists(path),
        K::SourceChanged => return source_changed(path),
        K::NotFound => "there is no such file or directory; check the name",
        K::Permission => "permission denied; check the rights of the file and of its directory",
        K::NoSpace => "there is not enough space on the disk; free some and run the command again",
        K::Quota => "the disk quota is exhausted; free some space and run the command again",
        K::WrongKind => {
            "a file stands where a directory is needed, or a directory where a file is; rename one"
        }
        K::NameTooLong => "the name or path is too long for this file system; use a shorter one",
        K::Forbidden => "the path leads through a link or out of the directory; name a path inside it",
        _ => {
            let cause = os_text(error);
            let files = [Errno::MFILE, Errno::NFILE].map(|e| Some(e.raw_os_error()));
            let advice = match files.contains(&error.raw_os_error()) {
                true => "allow more open files (ulimit -n), or transfer fewer at once",
                false => "check the disk and run the command again",
            };
            return StoreError { kind, message: format!("{} {doing}: {cause}; {advice}", shown(path)) };
        }
    };
    StoreError { kind, message: format!("{} {doing}: {why}", shown(path)) }
}

/// The system's words for an error, without Rust's "(os error N)" and without any path.
fn os_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => {
            let text = io::Error::from_raw_os_error(code).to_string();
            text.split(" (os error").next().unwrap_or("input/output error").to_ascii_lowercase()
        }
        None => "input/output error".into(),
    }
}
