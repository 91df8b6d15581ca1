//! Role: removes hidden files that a killed process has left where this one writes, and nobody would go on with.
//! Owns: which directories were looked through.
//! Implements: docs/PROTOCOL.md, "Files" (expiry).
//!
//! A partial has a name that follows from the final one: a later run goes on with it. A temporary file has not, and only
//! a server looks for what is old (`sweep`). So whoever puts temporary files into a directory holds a shared lock on it
//! as long as they are there; whoever gets the exclusive one knows that those there are nobody's.

use super::jail::DirHandle;
use super::names::{HIDDEN_PREFIX, JOURNAL_SUFFIX, PARTIAL_SUFFIX, TEMP_SUFFIX};
use std::collections::HashSet;
use std::io::ErrorKind;

/// Most directories that are looked through, and most entries of one: some 50 ms. What is beyond waits for another run.
const MAX_DIRS: usize = 65_536;
const MAX_ENTRIES: usize = 100_000;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// By device and inode number. Our own temporary files may be in these: the exclusive lock would not tell.
    seen: HashSet<(u64, u64)>,
}

impl Leftovers {
    /// To be called before anything temporary is put into `dir`. `own`: what names of our own temporary files begin with.
    /// Where there are no locks, nothing is removed.
    pub(crate) fn tend(&mut self, dir: &DirHandle, own: &[u8]) {
        if dir.is_held() {
            return;
        }
        let fresh = self.seen.len() < MAX_DIRS && self.seen.insert(dir.id);
        if fresh && dir.lock().is_ok() {
            remove_stale(dir, own);
        }
        // This takes the place of the exclusive one, if we have that.
        dir.hold();
    }
}

/// Temporary files of others, and journals that lost their partial when that got its name.
fn remove_stale(dir: &DirHandle, own: &[u8]) {
    let Ok(items) = dir.list() else { return };
    let names = items.take(MAX_ENTRIES).flatten().map(|(name, _)| name);
    let hidden: Vec<Vec<u8>> = names.filter(|name| name.starts_with(HIDDEN_PREFIX)).collect();
    let stale = |name: &[u8]| match name.strip_suffix(JOURNAL_SUFFIX) {
        Some(stem) => {
            dir.stat(&[stem, PARTIAL_SUFFIX].concat()).is_err_and(|e| e.kind() == ErrorKind::NotFound)
        }
        None => name.ends_with(TEMP_SUFFIX) && !name.starts_with(own),
    };
    let mut removed = 0;
    for name in hidden.iter().filter(|name| stale(name)) {
        dir.unlink(name);
        removed += 1;
    }
    if removed > 0 {
        log::debug!("{removed} hidden files of a process that is no more were removed");
    }
}
