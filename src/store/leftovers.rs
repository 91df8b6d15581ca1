//! Role: removes temporary files that a killed process has left where this one writes.
//! Owns: which directories were looked through.
//! Implements: docs/PROTOCOL.md, "Files" (expiry).
//!
//! A partial has a name that follows from the final one: a later run goes on with it. A temporary file has not, and only
//! a server looks for what is old (`sweep`). So whoever puts temporary files into a directory holds a shared lock on it
//! as long as they are there; whoever gets the exclusive one knows that those there are nobody's.

use super::jail::DirHandle;
use super::names::{HIDDEN_PREFIX, TEMP_SUFFIX};
use std::collections::HashSet;

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

fn remove_stale(dir: &DirHandle, own: &[u8]) {
    let Ok(items) = dir.list() else { return };
    let temporary = |name: &[u8]| {
        name.starts_with(HIDDEN_PREFIX) && name.ends_with(TEMP_SUFFIX) && !name.starts_with(own)
    };
    let names = items.take(MAX_ENTRIES).flatten().map(|(name, _)| name);
    let stale: Vec<Vec<u8>> = names.filter(|name| temporary(name)).collect();
    for name in &stale {
        dir.unlink(name);
    }
    if !stale.is_empty() {
        log::debug!("{} temporary files of a process that is no more were removed", stale.len());
    }
}
