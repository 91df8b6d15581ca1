//! Role: makes finished entries durable and visible, many at a time.
//! Owns: entries that wait for their sync and their final name, in the order in which they finished.
//! Implements: docs/PROTOCOL.md, "Files" (commit).
//!
//! A batch ends in three steps: everything staged is synced, then everything gets its name (and directories their
//! mode and mtime) in order, then the directories are synced. A few entries are synced one by one; many by syncing
//! the file system, which costs about as much as two single syncs. No answer is given before the last step.

use super::SessionKey;
use super::error::from_io;
use super::fs::File;
use super::jail::{DirHandle, Preserve, permitted_mode};
use super::partial::Staged;
use super::quota::disk_bytes;
use crate::transfer::job::{Done, FileId, Meta, Overwrite, StoreError};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

/// Up to so many entries or directories are synced singly. Own measurement on ext4: beyond, syncfs is cheaper.
const SINGLE_SYNCS: usize = 8;
/// Up to so many directories are synced singly after renames: the first of these syncs commits the file system's
/// journal, the others then cost next to nothing, while syncfs would also write what others have dirty.
const SINGLE_DIR_SYNCS: usize = 64;
/// Entries in the first batch after a pause; each full batch allows the next one to be `GROWTH` times as large, so
/// that the first answers come at once and a flood of files costs few syncs.
const FIRST_ENTRIES: usize = 16;
const GROWTH: usize = 4;
/// Most entries in a batch: what is lost, and sent again, when the power fails.
const MAX_ENTRIES: usize = 4096;
/// Most bytes of small files in a batch.
const MAX_BYTES: u64 = 32 << 20;
/// Most directories whose handles a batch keeps open, and most big files (which stay locked until renamed).
/// Own choice: together a third of the usual RLIMIT_NOFILE of 1024.
const MAX_DIRS: usize = 256;
const MAX_LOCKED: usize = 64;
/// Jobs that add nothing, most of them of another session's big file, for which a batch waits: at the default chunk size
/// these are 32 MiB, a fraction of a second of any disk. Own choice.
const MAX_OTHER_JOBS: usize = 128;

/// What is to be done with an entry at the end of its batch.
#[derive(Debug)]
pub(crate) enum What {
    /// Give a staged file or link its name.
    Publish {
        /// The hidden file.
        staged: Staged,
        /// Its handle: kept for single syncs, and for a big file's lock.
        handle: Option<File>,
        /// True: `handle` holds a lock and must stay open until the name is given.
        locked: bool,
        /// Existing files.
        overwrite: Overwrite,
        /// For the answer.
        digest: Option<[u8; 32]>,
    },
    /// A directory that is there already; its parent must be synced.
    Made {
        /// The parent.
        parent: Arc<DirHandle>,
    },
    /// A file that stands under its name already; its directory must be synced.
    Same {
        /// Its directory.
        parent: Arc<DirHandle>,
        /// For the answer.
        digest: [u8; 32],
    },
    /// Set mode and mtime of a directory.
    End {
        /// A directory above it.
        parent: Arc<DirHandle>,
        /// Its path below that one; resolved only when all before it have their names.
        below: Vec<u8>,
        /// What to set.
        meta: Meta,
        /// What of it.
        preserve: Preserve,
    },
}

#[derive(Debug)]
struct Pending {
    session: SessionKey,
    file: FileId,
    shown: Vec<u8>,
    what: What,
    error: Option<StoreError>,
}

/// The batch of a store, over all its sessions.
#[derive(Debug)]
pub(crate) struct Batch {
    pending: Vec<Pending>,
    /// Directories with new entries, by identity.
    touched: Dirs,
    /// Directory and final name of what is staged.
    places: HashSet<((u64, u64), Vec<u8>)>,
    bytes: u64,
    locked: usize,
    limit: usize,
    /// Jobs since the last entry's that added nothing.
    other_jobs: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            pending: Vec::new(),
            touched: Dirs::new(),
            places: HashSet::new(),
            bytes: 0,
            locked: 0,
            limit: FIRST_ENTRIES,
            other_jobs: 0,
        }
    }
}

impl Batch {
    /// A directory got a new entry: it is synced at the end of the batch.
    pub(crate) fn touch(&mut self, dir: Arc<DirHandle>) {
        self.touched.insert(dir.id, dir);
    }

    /// Adds an entry with `bytes` of fresh data.
    pub(crate) fn add(&mut self, session: SessionKey, file: FileId, shown: Vec<u8>, what: What, bytes: u64) {
        match &what {
            What::Publish { staged, locked, .. } => {
                self.touch(Arc::clone(&staged.dir));
                self.places.insert((staged.dir.id, staged.name.clone()));
                self.locked += usize::from(*locked);
            }
            What::Made { parent } | What::Same { parent, .. } => self.touch(Arc::clone(parent)),
            What::End { .. } => {}
        }
        self.bytes += bytes;
        self.other_jobs = 0;
        self.pending.push(Pending { session, file, shown, what, error: None });
        if self.pending.len() == SINGLE_SYNCS + 1 {
            // Now it will be synced by file system: the handles of small files are not needed any more.
            for entry in &mut self.pending {
                entry.drop_spare_handle();
            }
        } else if self.pending.len() > SINGLE_SYNCS
            && let Some(entry) = self.pending.last_mut()
        {
            entry.drop_spare_handle();
        }
    }

    /// True if something staged is about to get this name.
    pub(crate) fn holds(&self, dir: &DirHandle, name: &[u8]) -> bool {
        !self.places.is_empty() && self.places.contains(&(dir.id, name.to_vec()))
    }

    /// True if something staged is about to get its name.
    pub(crate) fn has_staged(&self) -> bool {
        !self.places.is_empty()
    }

    /// A job has run.
    pub(crate) fn note_job(&mut self) {
        if !self.pending.is_empty() {
            self.other_jobs += 1;
        }
    }

    /// True if it is time to `flush`, whatever else is queued.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= self.limit
            || self.bytes >= MAX_BYTES
            || self.touched.len() >= MAX_DIRS
            || self.locked >= MAX_LOCKED
            || self.other_jobs >= MAX_OTHER_JOBS
    }

    /// Drops what a session has waiting; returns what stays as partials, and what that takes on the disk.
    pub(crate) fn drop_session(&mut self, session: SessionKey) -> Vec<(FileId, u64)> {
        let mut kept = Vec::new();
        self.pending.retain(|entry| {
            match &entry.what {
                _ if entry.session != session => return true,
                What::Publish { staged, locked: false, .. } => staged.discard(),
                // A sealed big file stays as a partial: its bytes came at a price.
                What::Publish { handle: Some(file), .. } => {
                    kept.push((entry.file, file.stat().map_or(0, |stat| disk_bytes(&stat))));
                }
                _ => {}
            }
            false
        });
        self.locked = self.pending.iter().filter(|e| e.is_locked()).count();
        kept
    }

    /// Syncs, names, syncs, answers. `full`: more is queued, so that the next batch may be larger.
    pub(crate) fn flush(&mut self, full: bool, done: &mut Vec<(SessionKey, Done)>) {
        self.limit = if full { (self.limit * GROWTH).min(MAX_ENTRIES) } else { FIRST_ENTRIES };
        if self.pending.is_empty() {
            if full {
                // Only parents of big files that are still coming: what fails here is tried again at their commit.
                let touched = std::mem::take(&mut self.touched);
                self.touched = sync_file_systems(&touched, &mut []);
            }
            return;
        }
        self.places.clear();
        // Those without a handle can only be synced by file system, even if a session has taken its own away since.
        let many = self.pending.len() > SINGLE_SYNCS
            || self.touched.len() > SINGLE_SYNCS
            || self.pending.iter().any(Pending::lacks_handle);
        let mut pending = std::mem::take(&mut self.pending);
        let touched = std::mem::take(&mut self.touched);
        (self.bytes, self.locked) = (0, 0);
        if crate::planted("name_before_sync") {
            pending.iter_mut().for_each(|entry| drop(entry.apply()));
        }
        if many {
            if pending.iter().any(|entry| matches!(entry.what, What::Publish { .. })) {
                sync_file_systems(&touched, &mut pending);
            }
            // A failed write-back is told to the handle that was open then, not to one that syncs the file system later.
            for entry in pending.iter_mut().filter(|entry| entry.is_locked() && entry.error.is_none()) {
                entry.sync_data();
            }
        } else {
            for entry in &mut pending {
                entry.sync_data();
            }
        }
        // A directory's own mode and mtime are synced like its entries, if they had to be set.
        let (mut ended, mut changed) = (Vec::new(), touched.len());
        for entry in pending.iter_mut().filter(|_| !crate::planted("name_before_sync")) {
            let dir = entry.apply();
            changed += usize::from(dir.is_some());
            ended.extend(dir.filter(|_| changed <= SINGLE_DIR_SYNCS));
        }
        let many_dirs = changed > SINGLE_DIR_SYNCS;
        // What could not be synced is to be synced with whatever comes next there: names depend on every one above.
        self.touched = if many_dirs {
            sync_file_systems(&touched, &mut pending)
        } else {
            sync_dirs(&touched, &ended, &mut pending)
        };
        done.extend(pending.into_iter().map(Pending::into_answer));
    }
}

impl Pending {
    fn is_locked(&self) -> bool {
        matches!(self.what, What::Publish { locked: true, .. })
    }

    /// It has bytes, and no handle to sync them by.
    fn lacks_handle(&self) -> bool {
        matches!(self.what, What::Publish { handle: None, digest: Some(_), .. })
    }

    fn drop_spare_handle(&mut self) {
        if let What::Publish { handle, locked: false, .. } = &mut self.what {
            *handle = None;
        }
    }

    /// The directory that this entry's name is in.
    fn dir(&self) -> &Arc<DirHandle> {
        match &self.what {
            What::Publish { staged, .. } => &staged.dir,
            What::Made { parent } | What::Same { parent, .. } | What::End { parent, .. } => parent,
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.error.is_none() {
            self.error = Some(from_io(&self.shown, "could not be made safe on the disk", error));
        }
    }

    fn sync_data(&mut self) {
        if crate::planted("no_fsync") {
            return;
        }
        if let What::Publish { handle: Some(file), .. } = &self.what
            && let Err(error) = file.sync()
        {
            self.fail(&error);
        }
    }

    /// Gives the entry its name or its mode; returns a directory to be synced for its own sake.
    fn apply(&mut self) -> Option<DirHandle> {
        let result = match &self.what {
            What::Publish { staged, .. } if self.error.is_some() => {
                staged.discard();
                return None;
            }
            What::Publish { staged, overwrite, .. } => {
                let result = staged.publish(*overwrite, &self.shown);
                if result.is_err() {
                    staged.discard();
                }
                result.map(|()| None)
            }
            What::Made { .. } | What::Same { .. } => Ok(None),
            What::End { parent, below, meta, preserve } => set_dir_meta(parent, below, meta, *preserve)
                .map_err(|e| from_io(&self.shown, "cannot be given its mode and time", &e)),
        };
        match result {
            Ok(dir) => dir,
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn into_answer(self) -> (SessionKey, Done) {
        let digest = match self.what {
            What::Publish { digest, .. } => digest,
            What::Same { digest, .. } => Some(digest),
            _ => None,
        };
        let result = match self.error {
            Some(error) => Err(error),
            None => Ok(digest),
        };
        (self.session, Done::Committed { file: self.file, result })
    }
}

/// Sets what differs; returns the directory if anything did.
fn set_dir_meta(
    parent: &DirHandle,
    below: &[u8],
    meta: &Meta,
    preserve: Preserve,
) -> io::Result<Option<DirHandle>> {
    let dir = parent.open_dir_below(below)?;
    let have = dir.stat_self()?.meta;
    let set_time = preserve.mtime && (have.mtime_s, have.mtime_ns) != (meta.mtime_s, meta.mtime_ns);
    let set_mode = preserve.new_mode.is_none() && permitted_mode(&have) != permitted_mode(meta);
    // Times first: afterwards the mode may forbid us the directory.
    if set_time {
        dir.set_times(meta)?;
    }
    if set_mode {
        dir.set_mode(permitted_mode(meta))?;
    }
    Ok((set_time || set_mode).then_some(dir))
}

/// Directories by identity.
type Dirs = BTreeMap<(u64, u64), Arc<DirHandle>>;

/// Syncs each file system that has touched directories once; its entries fail if that fails. Returns the touched
/// directories on those that did.
fn sync_file_systems(touched: &Dirs, pending: &mut [Pending]) -> Dirs {
    let mut seen: Vec<u64> = Vec::new();
    let mut failed = Dirs::new();
    let handles: Vec<Arc<DirHandle>> =
        touched.values().cloned().chain(pending.iter().map(|entry| Arc::clone(entry.dir()))).collect();
    for dir in handles {
        if seen.contains(&dir.id.0) {
            continue;
        }
        seen.push(dir.id.0);
        if let Err(error) = dir.sync_file_system() {
            let same = touched.iter().filter(|(id, _)| id.0 == dir.id.0);
            failed.extend(same.map(|(id, dir)| (*id, Arc::clone(dir))));
            for entry in pending.iter_mut().filter(|entry| entry.dir().id.0 == dir.id.0) {
                entry.fail(&error);
            }
        }
    }
    failed
}

/// Syncs directories one by one. If one fails, so do all entries of its file system: an entry depends on each
/// directory above it, and a file system that fails is in no state to be believed. Returns the touched ones that failed.
fn sync_dirs(touched: &Dirs, ended: &[DirHandle], pending: &mut [Pending]) -> Dirs {
    let mut failed = Dirs::new();
    for dir in touched.values().map(|dir| &**dir).chain(ended) {
        if crate::planted("no_dir_sync") {
            continue;
        }
        if let Err(error) = dir.sync() {
            failed.extend(touched.get_key_value(&dir.id).map(|(id, dir)| (*id, Arc::clone(dir))));
            for entry in pending.iter_mut().filter(|entry| entry.dir().id.0 == dir.id.0) {
                entry.fail(&error);
            }
        }
    }
    failed
}
