//! Role: what a request has been told about already, so that a later session of it neither sends nor reports it again.
//! Owns: a bounded set of digests of entries.
//! Implements: docs/PROTOCOL.md, "A server that restarts".

use super::job::EntryKind;
use ring::digest::{Context, SHA256};
use std::collections::HashSet;

/// Most entries remembered: 32 MiB of memory. What is beyond is announced again, and found in place by the receiver.
const MAX_REMEMBERED: usize = 1 << 20;

/// Entries that have been confirmed, or have failed for good.
#[derive(Clone, Debug, Default)]
pub struct Confirmed(HashSet<u128>);

impl Confirmed {
    /// Remembers an entry; false if it was known before.
    pub fn insert(&mut self, kind: EntryKind, path: &[u8]) -> bool {
        let key = key(kind, path);
        if self.0.len() >= MAX_REMEMBERED { !self.0.contains(&key) } else { self.0.insert(key) }
    }

    /// Whether an entry is known.
    pub fn contains(&self, kind: EntryKind, path: &[u8]) -> bool {
        !self.0.is_empty() && self.0.contains(&key(kind, path))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The first half of a SHA-256: what is taken for confirmed is not sent, so no two entries may ever share it.
fn key(kind: EntryKind, path: &[u8]) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(&[kind as u8]);
    context.update(path);
    let mut half = [0; 16];
    half.copy_from_slice(&context.finish().as_ref()[..16]);
    u128::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_paths_are_told_apart() {
        let mut c = Confirmed::default();
        assert!(c.is_empty() && !c.contains(EntryKind::Dir, b"a"));
        assert!(c.insert(EntryKind::Dir, b"a"));
        assert!(!c.insert(EntryKind::Dir, b"a"));
        assert!(c.contains(EntryKind::Dir, b"a"));
        assert!(!c.contains(EntryKind::DirEnd, b"a") && !c.contains(EntryKind::Dir, b"b"));
        assert_eq!(c.len(), 1);
    }
}
