//! Role: removes what abandoned transfers have left: partials with their journals, and temporary files.
//! Owns: the place in the tree that a sweep has come to.
//! Implements: docs/PROTOCOL.md, "Files" (expiry).
//!
//! A tree may hold millions of entries, and other work waits meanwhile: a sweep goes on for a bounded number of
//! entries whenever the store is idle. It follows no link and touches nothing but hidden files of ours that nobody
//! has locked. Age is counted from the last change of any kind (ctime), which nobody can set back.

use super::fs::{FileType, Listing, Stat};
use super::jail::{DirHandle, Jail};
use super::names::{HIDDEN_PREFIX, JOURNAL_SUFFIX, PARTIAL_SUFFIX, SCRATCH_PREFIX, TEMP_SUFFIX, join};
use std::time::{Duration, SystemTime};

/// Between the ends of one sweep and the start of the next. Own choice: expiry is counted in days.
const PAUSE: Duration = Duration::from_secs(3600);
/// Most directories remembered to be looked at; what is beyond waits for a sweep in which there is room.
const MAX_PENDING: usize = 65_536;

/// A sweep that goes round the jail again and again.
#[derive(Debug)]
pub(crate) struct Sweep {
    ttl: Duration,
    /// Temporary files that begin so are our own, and in use.
    own: Vec<u8>,
    pending: Vec<Vec<u8>>,
    here: Option<Here>,
    /// When the next one starts, once this one is done.
    next_at: Option<SystemTime>,
}

/// The directory being read.
#[derive(Debug)]
struct Here {
    path: Vec<u8>,
    dir: DirHandle,
    items: Listing,
}

impl Sweep {
    /// Begins at the top. `ttl`: what did not change for so long is removed.
    pub(crate) fn new(ttl: Duration, own: Vec<u8>) -> Self {
        Self { ttl, own, pending: vec![Vec::new()], here: None, next_at: None }
    }

    /// Goes on for at most `limit` entries, if there is one under way or due.
    pub(crate) fn step(&mut self, jail: &Jail, now: SystemTime, limit: usize) {
        if let Some(at) = self.next_at {
            // A clock that was set back must not stop it for ever.
            let due = now >= at || at.duration_since(now).is_ok_and(|wait| wait > PAUSE);
            if !due {
                return;
            }
            self.next_at = None;
            self.pending.push(Vec::new());
        }
        let Ok(top) = jail.handle() else { return };
        for _ in 0..limit {
            if !self.visit_next(&top, now) {
                self.next_at = Some(now + PAUSE);
                return;
            }
        }
    }

    /// Looks at one entry, or opens the next directory; false when nothing is left.
    fn visit_next(&mut self, top: &DirHandle, now: SystemTime) -> bool {
        let Some(here) = &mut self.here else {
            let Some(path) = self.pending.pop() else { return false };
            if let Ok(dir) = top.open_dir_below(&path)
                && let Ok(items) = dir.list()
            {
                self.here = Some(Here { path, dir, items });
            }
            return true;
        };
        let Some(Ok((name, kind))) = here.items.next() else {
            self.here = None;
            return true;
        };
        if name.starts_with(HIDDEN_PREFIX) {
            expire(&here.dir, &name, &self.own, |stat| is_old(stat, self.ttl, now));
        } else if self.pending.len() < MAX_PENDING {
            let is_dir = match kind {
                FileType::Unknown => here.dir.stat(&name).is_ok_and(|s| s.kind == FileType::Directory),
                kind => kind == FileType::Directory,
            };
            if is_dir {
                self.pending.push(join(&here.path, &name));
            }
        }
        true
    }
}

fn is_old(stat: &Stat, ttl: Duration, now: SystemTime) -> bool {
    now.duration_since(stat.changed).is_ok_and(|age| age >= ttl)
}

/// Removes one hidden file, if it is stale and not in use.
fn expire(dir: &DirHandle, name: &[u8], own: &[u8], is_old: impl Fn(&Stat) -> bool) {
    let Ok(stat) = dir.stat(name) else { return };
    if name.starts_with(SCRATCH_PREFIX) || stat.kind == FileType::Directory || !is_old(&stat) {
        return;
    }
    let sibling = |from: &[u8], to: &[u8]| Some([name.strip_suffix(from)?, to].concat());
    if name.ends_with(TEMP_SUFFIX) {
        if !name.starts_with(own) {
            dir.unlink(name);
        }
    } else if let Some(partial) = sibling(JOURNAL_SUFFIX, PARTIAL_SUFFIX) {
        // With its partial, it goes or stays together with that.
        if dir.stat(&partial).is_err() {
            dir.unlink(name);
        }
    } else if let Some(journal) = sibling(PARTIAL_SUFFIX, JOURNAL_SUFFIX) {
        let fresh_journal = dir.stat(&journal).is_ok_and(|stat| !is_old(&stat));
        let Ok(file) = dir.open_file(name) else { return };
        let locked = file.lock().is_ok();
        // While it is locked here, nobody resumes it; whoever waits for it looks again (`Staged::open_partial`).
        let same = dir.stat(name).is_ok_and(|s| s.id == stat.id);
        if !fresh_journal && locked && same {
            log::info!("an abandoned partial was removed: nobody went on with it within --partial-ttl");
            dir.unlink(&journal);
            dir.unlink(name);
        }
    }
}
