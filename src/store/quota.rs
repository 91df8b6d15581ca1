//! Role: keeps what lies below the served directory within `--quota`.
//! Owns: how many bytes are there, and what files under way may still add to that.
//! Implements: docs/PROTOCOL.md, "Files" (quota).
//!
//! The tree is counted when the store is opened; afterwards each file adds what was announced for it when it begins, and
//! what it really takes when it ends. Others may remove files meanwhile: nobody is refused before the tree has been counted
//! again, which happens once a minute at most.

use super::SessionKey;
use super::fs::{FileType, Stat};
use super::jail::{DirHandle, Jail};
use super::names::{HIDDEN_PREFIX, JOURNAL_SUFFIX, join};
use crate::transfer::job::{FileId, StoreError, StoreErrorKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Space is taken in blocks of this size by nearly every file system.
const BLOCK_BYTES: u64 = 4096;
/// The tree is not counted again sooner. Own choice: a million files take a second or two, during which others wait.
const RECOUNT_AFTER: Duration = Duration::from_secs(60);

/// A file under way.
#[derive(Clone, Copy, Debug, Default)]
struct Charge {
    /// What of it was there before (the partial of an earlier run): counted already.
    before_bytes: u64,
    /// What it may add.
    added_bytes: u64,
    /// What it takes when it is whole.
    whole_bytes: u64,
    /// What goes when it gets its name: the file that it replaces.
    replaced_bytes: u64,
    /// It is a copy in scratch space, which goes with its session.
    scratch: bool,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Quota {
    limit_bytes: u64,
    used_bytes: u64,
    counted_at: Instant,
    under_way: BTreeMap<(SessionKey, FileId), Charge>,
    scratch_bytes: BTreeMap<SessionKey, u64>,
}

/// What a file takes on the disk.
pub(crate) fn disk_bytes(stat: &Stat) -> u64 {
    if stat.kind == FileType::RegularFile { stat.allocated_bytes } else { 0 }
}

impl Quota {
    /// Counts what is there.
    pub(crate) fn new(limit_bytes: u64, jail: &Jail) -> Self {
        let used_bytes = count(jail);
        log::info!("the directory holds {used_bytes} of at most {limit_bytes} bytes (--quota)");
        Self {
            limit_bytes,
            used_bytes,
            counted_at: jail.now(),
            under_way: BTreeMap::new(),
            scratch_bytes: BTreeMap::new(),
        }
    }

    /// Lets a file of `size` bytes begin, of which `before_bytes` are there from an earlier run, in place of one of
    /// `replaced_bytes`.
    pub(crate) fn begin(
        &mut self,
        (session, file): (SessionKey, FileId),
        size: u64,
        (before_bytes, replaced_bytes): (u64, u64),
        (scratch, shown): (bool, &[u8]),
        jail: &Jail,
    ) -> Result<(), StoreError> {
        let whole_bytes = size.saturating_add(BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
        let added_bytes = whole_bytes.saturating_sub(before_bytes);
        let now = jail.now();
        if self.free() < added_bytes && now >= self.counted_at + RECOUNT_AFTER {
            // What is under way counts as announced, what of it lies on the disk already twice: on the safe side.
            self.counted_at = now;
            let announced: u64 = self.under_way.values().map(|c| c.added_bytes).sum();
            self.used_bytes = count(jail).saturating_add(announced);
        }
        if self.free() < added_bytes {
            let message = format!(
                "{} needs {size} bytes, but of the server's quota of {} only {} are free; remove something there first",
                super::error::shown(shown),
                self.limit_bytes,
                self.free()
            );
            return Err(StoreError { kind: StoreErrorKind::Quota, message });
        }
        self.used_bytes = self.used_bytes.saturating_add(added_bytes);
        self.under_way.insert(
            (session, file),
            Charge { before_bytes, added_bytes, whole_bytes, replaced_bytes, scratch },
        );
        Ok(())
    }

    fn free(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }

    /// A stream has come to take `bytes`; false if they exceed the quota.
    pub(crate) fn grow(&mut self, session: SessionKey, file: FileId, bytes: u64) -> bool {
        let charge = self.under_way.entry((session, file)).or_default();
        let more = bytes.saturating_sub(charge.added_bytes);
        charge.added_bytes += more;
        charge.whole_bytes = charge.added_bytes;
        self.used_bytes = self.used_bytes.saturating_add(more);
        self.used_bytes <= self.limit_bytes
    }

    /// A file has got its name.
    pub(crate) fn placed(&mut self, session: SessionKey, file: FileId) {
        let Some(charge) = self.under_way.remove(&(session, file)) else { return };
        // A shorter file may have taken the place of a longer one's partial.
        let gone = charge.before_bytes + charge.added_bytes + charge.replaced_bytes;
        self.used_bytes = self.used_bytes.saturating_sub(gone).saturating_add(charge.whole_bytes);
        if charge.scratch {
            *self.scratch_bytes.entry(session).or_default() += charge.whole_bytes;
        }
    }

    /// A file was given up; `left_bytes` of it stay as a partial.
    pub(crate) fn dropped(&mut self, session: SessionKey, file: FileId, left_bytes: u64) {
        let Some(charge) = self.under_way.remove(&(session, file)) else { return };
        let gone = charge.before_bytes + charge.added_bytes;
        self.used_bytes = self.used_bytes.saturating_sub(gone).saturating_add(left_bytes);
    }

    /// A session is over, its files have been dropped, and its copies in scratch space are removed.
    pub(crate) fn end_session(&mut self, session: SessionKey) {
        let left: Vec<FileId> =
            self.under_way.keys().filter(|(s, _)| *s == session).map(|(_, f)| *f).collect();
        for file in left {
            self.dropped(session, file, 0);
        }
        let scratch = self.scratch_bytes.remove(&session).unwrap_or(0);
        self.used_bytes = self.used_bytes.saturating_sub(scratch);
    }

    /// Bytes counted as used.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }
}

/// What all regular files below the directory take. What cannot be read is not counted.
fn count(jail: &Jail) -> u64 {
    let Ok(top) = jail.handle() else { return 0 };
    let mut pending = vec![Vec::new()];
    let mut bytes: u64 = 0;
    while let Some(path) = pending.pop() {
        let Ok(dir) = top.open_dir_below(&path) else { continue };
        bytes = bytes.saturating_add(count_dir(&dir, &path, &mut pending));
    }
    bytes
}

fn count_dir(dir: &DirHandle, path: &[u8], pending: &mut Vec<Vec<u8>>) -> u64 {
    let Ok(items) = dir.list() else { return 0 };
    let mut bytes: u64 = 0;
    for (name, _) in items.flatten() {
        let Ok(stat) = dir.stat(&name) else { continue };
        if stat.kind == FileType::Directory {
            pending.push(join(path, &name));
        } else if !(name.starts_with(HIDDEN_PREFIX) && name.ends_with(JOURNAL_SUFFIX)) {
            // Journals are a 30,000th of their files, and come and go with them.
            // One file under several names takes its space once.
            bytes = bytes.saturating_add(disk_bytes(&stat) / stat.links.max(1));
        }
    }
    bytes
}
