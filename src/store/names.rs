//! Role: which names a peer may use, and the names of the store's own hidden files.
//! Owns: nothing; pure.
//! Implements: docs/PROTOCOL.md, "Files" (paths).

use super::error::{forbidden, refuse};
use crate::transfer::job::{StoreError, StoreErrorKind};
use ring::digest::{SHA256, digest};

/// Every hidden file of ours begins so; peers cannot name such files, and walks pass them over.
pub(crate) const HIDDEN_PREFIX: &[u8] = b".fulmar-";
/// Directory names of scratch areas begin so; random hexadecimal digits follow.
pub(crate) const SCRATCH_PREFIX: &[u8] = b".fulmar-scratch-";
/// Longest name that any file system of Linux takes (NAME_MAX, limits.h).
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// Checks a relative path of a peer before any system call sees it. `empty_ok`: the directory itself may be meant.
pub(crate) fn check_relative(path: &[u8], empty_ok: bool) -> Result<(), StoreError> {
    if path.is_empty() {
        return if empty_ok {
            Ok(())
        } else {
            Err(forbidden(path, "an empty path is not allowed here; name a file"))
        };
    }
    path.split(|&b| b == b'/').try_for_each(|name| check_component(path, name))
}

/// Checks one component of `path`.
pub(crate) fn check_component(path: &[u8], name: &[u8]) -> Result<(), StoreError> {
    let why = if name.is_empty() {
        "absolute paths and empty components are not allowed; name a path inside the served directory"
    } else if name == b"." || name == b".." {
        "`.` and `..` are not allowed; name a path inside the served directory"
    } else if name.contains(&0) {
        "a path cannot contain a NUL byte"
    } else if name.starts_with(HIDDEN_PREFIX) {
        "names that begin with .fulmar- are kept for partial files; use another name"
    } else if name.len() > MAX_NAME_BYTES {
        let why = "the name is longer than 255 bytes; use a shorter one";
        return Err(refuse(StoreErrorKind::NameTooLong, path, why));
    } else {
        return Ok(());
    };
    Err(forbidden(path, why))
}

/// Splits off the last component: (parent, name); the parent is empty when there is only one.
pub(crate) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Splits off the first component: (name, rest); the rest is empty when there is only one.
pub(crate) fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

/// `a` and `b` with a slash between them, unless one of them is empty.
pub(crate) fn join(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(a.len() + 1 + b.len());
    out.extend_from_slice(a);
    if !a.is_empty() && !b.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(b);
    out
}

/// True if `path` lies below `dir` (or is it).
pub(crate) fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && (path.len() == dir.len() || path[dir.len()] == b'/'))
}

/// Ends of the names of partials, their journals, and temporary files.
pub(crate) const PARTIAL_SUFFIX: &[u8] = b".part";
pub(crate) const JOURNAL_SUFFIX: &[u8] = b".journal";
pub(crate) const TEMP_SUFFIX: &[u8] = b".tmp";

/// The name of the partial of a file called `name`, in the same directory. A hash, since a name of 255 bytes
/// leaves no room for a suffix: 96 bits of SHA-256.
pub(crate) fn partial_name(name: &[u8]) -> Vec<u8> {
    hidden_name(name, PARTIAL_SUFFIX)
}

/// The name of the journal of that partial.
pub(crate) fn journal_name(name: &[u8]) -> Vec<u8> {
    hidden_name(name, JOURNAL_SUFFIX)
}

fn hidden_name(name: &[u8], suffix: &[u8]) -> Vec<u8> {
    let hash = digest(&SHA256, name);
    let mut out = HIDDEN_PREFIX.to_vec();
    push_hex(&mut out, &hash.as_ref()[..12]);
    out.extend_from_slice(suffix);
    out
}

/// Appends lower-case hexadecimal digits.
pub(crate) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)]);
        out.push(DIGITS[usize::from(b & 15)]);
    }
}
