//! Role: a simulated disk: what the store asks of a file system (`store::fs`), with faults, and crashes after which only
//! what was synced is certain.
//! Owns: inodes, what of them is durable, the faults that are still to come, what has fired.
//! Implements: docs/SIMULATION.md, "Disks".

mod crash;
mod faults;
mod handles;

pub use faults::{DiskCounters, DiskFault, DiskFaultKind, Quirks};

use crate::store::fs::{Disk, FileType, Stat};
use crate::transfer::job::Meta;
use faults::Op;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// What a disk persists at once: a sector of the usual 512 bytes. Power may fail within one.
const SECTOR: usize = 512;
/// What files take on the disk comes in blocks of the usual 4 KiB.
const BLOCK: usize = 4096;
/// The root's inode number.
const ROOT: Ino = 1;
/// Where the clocks of all disks start: some day in 2023.
const EPOCH_SECS: u64 = 1_700_000_000;

type Ino = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Dir,
    Link,
}

impl Kind {
    fn file_type(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Dir => FileType::Directory,
            Self::Link => FileType::Symlink,
        }
    }
}

/// A change of a directory that is not durable yet.
#[derive(Clone, Debug)]
enum DirChange {
    Set(Vec<u8>, Ino),
    Remove(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>, Ino),
}

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    meta: Meta,
    changed: SystemTime,
    /// A file's bytes, or a link's target, as reading shows them.
    data: Vec<u8>,
    /// What survives for certain: the bytes, mode and mtime of the last successful sync.
    durable: Vec<u8>,
    durable_meta: Meta,
    /// Sectors written since. After a sync that failed they may never reach the disk, though nobody says so again.
    dirty: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    /// Failed write-backs; each handle hears once of those since it was opened (errseq_t of Linux).
    failures: u64,
    /// The handle that holds its lock.
    lock: Option<u64>,
    /// The handles that share it.
    sharers: BTreeSet<u64>,
    parent: Ino,
    entries: BTreeMap<Vec<u8>, Ino>,
    durable_entries: BTreeMap<Vec<u8>, Ino>,
    /// In order, with numbers that order them over all directories.
    pending: Vec<(u64, DirChange)>,
}

impl Inode {
    /// True if a crash would leave a file as it is.
    fn is_durable(&self) -> bool {
        self.kind != Kind::File
            || self.dirty.is_empty()
                && self.lost.is_empty()
                && self.durable == self.data
                && self.durable_meta == self.meta
    }
}

/// Something happened to a name that is not one of the store's own hidden ones, or to the file behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The name now leads to another file or link than before.
    Named {
        /// The name.
        path: Vec<u8>,
        /// It led to something before, which it does no more.
        replaced: bool,
        /// At that moment the bytes, mode and mtime of the file were durable.
        synced: bool,
    },
    /// The name is gone.
    Removed(Vec<u8>),
    /// The bytes of a file that has a visible name were changed.
    Written(Vec<u8>),
}

impl Change {
    /// For a trace.
    pub fn text(&self) -> String {
        let (what, path) = match self {
            Self::Named { path, replaced: false, .. } => ("is there now", path),
            Self::Named { path, replaced: true, .. } => ("is replaced", path),
            Self::Removed(path) => ("is removed", path),
            Self::Written(path) => ("is written to", path),
        };
        format!("{} {what}", String::from_utf8_lossy(path))
    }
}

#[derive(Debug)]
struct State {
    inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    next_handle: u64,
    next_change: u64,
    now: SystemTime,
    /// The clock that never goes back.
    clock: Instant,
    /// Counts processes: handles of earlier ones do nothing.
    process: u64,
    /// A crash came in the middle of an operation: nothing has any effect until somebody acts on it.
    dead: Option<bool>,
    open_files: usize,
    open_dirs: usize,
    ops: u64,
    faults: Vec<DiskFault>,
    quirks: Quirks,
    counters: DiskCounters,
    changes: Vec<Change>,
    fs_failures: u64,
    rng: Xoshiro256PlusPlus,
    /// Bytes that a partial file may take (`None`: no bound), for a disk that is really full.
    capacity: Option<u64>,
}

/// A disk that all processes of one simulated machine share.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

/// What the user of the machine sees under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of the file.
    pub bytes: Vec<u8>,
    /// Mode and mtime.
    pub meta: Meta,
    /// Its inode number.
    pub ino: u64,
}

fn hidden(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').any(|name| name.starts_with(b".fulmar-"))
}

impl SimDisk {
    /// An empty disk. The seed decides what of unsynced data survives a crash.
    pub fn new(seed: u64, quirks: Quirks, clock: Instant) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECS);
        let mut state = State {
            inodes: BTreeMap::new(),
            next_ino: ROOT,
            next_handle: 1,
            next_change: 0,
            now,
            clock,
            process: 1,
            dead: None,
            open_files: 0,
            open_dirs: 0,
            ops: 0,
            faults: Vec::new(),
            quirks,
            counters: DiskCounters::default(),
            changes: Vec::new(),
            fs_failures: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            capacity: None,
        };
        state.new_inode(Kind::Dir, ROOT, 0o755, Vec::new());
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the run has failed anyway.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The disk as the process that runs now sees it.
    pub(crate) fn mount(&self) -> Box<dyn Disk> {
        Box::new(handles::Mount { disk: self.clone(), process: self.state().process })
    }

    /// Sets its clock.
    pub fn set_now(&self, now: Duration) {
        self.state().now = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECS) + now;
    }

    /// Moves its clock that never goes back.
    pub fn tick(&self, clock: Instant) {
        self.state().clock = clock;
    }

    /// Adds faults; each names the operation, counted from now on, from which on it waits for its chance.
    pub fn add_fault(&self, mut fault: DiskFault) {
        let mut s = self.state();
        fault.at_op += s.ops;
        s.faults.push(fault);
    }

    /// Operations so far.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Forgets what was still to fail: from now on it is a good disk.
    pub fn heal(&self) {
        let mut s = self.state();
        s.faults.clear();
        s.capacity = None;
    }

    /// Whether a crash has come in the middle of an operation; `Some(true)`: of the whole machine.
    pub fn is_dead(&self) -> Option<bool> {
        self.state().dead
    }

    /// What has fired so far.
    pub fn counters(&self) -> DiskCounters {
        self.state().counters
    }

    /// Open files and directories of the process that runs now.
    pub fn open_handles(&self) -> (usize, usize) {
        let s = self.state();
        (s.open_files, s.open_dirs)
    }

    /// What happened to visible names since the last call.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state().changes)
    }

    /// Whether anything happened to visible names since `take_changes`.
    pub fn has_changes(&self) -> bool {
        !self.state().changes.is_empty()
    }

    /// The file under a path, hidden ones included; links are not followed.
    pub fn read(&self, path: &[u8]) -> Option<Seen> {
        let s = self.state();
        let ino = s.find(path)?;
        let inode = s.inodes.get(&ino).filter(|i| i.kind == Kind::File)?;
        Some(Seen { bytes: inode.data.clone(), meta: inode.meta, ino })
    }

    /// What would stand under a path if power failed now and nothing had reached the disk but what was synced.
    pub fn read_durable(&self, path: &[u8]) -> Option<Seen> {
        let s = self.state();
        let mut ino = ROOT;
        for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty()) {
            ino = *s.inodes.get(&ino)?.durable_entries.get(part)?;
        }
        let inode = s.inodes.get(&ino).filter(|i| i.kind == Kind::File)?;
        Some(Seen { bytes: inode.durable.clone(), meta: inode.durable_meta, ino })
    }

    /// The inode number of what stands under a path.
    pub fn inode_of(&self, path: &[u8]) -> Option<u64> {
        self.state().find(path)
    }

    /// What all files but journals take, hidden ones included.
    pub fn used_bytes(&self) -> u64 {
        let files = self.files();
        let files = files.iter().filter(|path| !path.ends_with(crate::store::names::JOURNAL_SUFFIX));
        let s = self.state();
        let stats = files.filter_map(|path| s.stat(s.find(path)?).ok());
        stats.map(|stat| crate::store::quota::disk_bytes(&stat)).sum()
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &[u8]) -> bool {
        self.state().find(path).is_some()
    }

    /// Whether a part of the file under a path has these bytes.
    pub fn holds(&self, path: &[u8], offset: usize, bytes: &[u8]) -> bool {
        let s = self.state();
        let inode = s.find(path).and_then(|ino| s.inodes.get(&ino));
        inode.is_some_and(|i| i.data.get(offset..offset + bytes.len()) == Some(bytes))
    }

    /// Paths of all files and links, hidden ones included.
    pub fn files(&self) -> Vec<Vec<u8>> {
        let s = self.state();
        let (mut found, mut todo) = (Vec::new(), vec![(Vec::new(), ROOT)]);
        while let Some((path, ino)) = todo.pop() {
            let Some(inode) = s.inodes.get(&ino) else { continue };
            if inode.kind != Kind::Dir {
                found.push(path);
                continue;
            }
            for (name, child) in &inode.entries {
                todo.push((crate::store::names::join(&path, name), *child));
            }
        }
        found.sort();
        found
    }

    /// Puts a file there as the user of the machine would, durably, making directories. What stood there is replaced.
    pub fn insert(&self, path: &[u8], bytes: Vec<u8>, meta: Meta) {
        let mut s = self.state();
        let mut at = ROOT;
        let mut parts: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
        let Some(name) = parts.pop() else { return };
        for part in parts {
            at = match s.inodes.get(&at).and_then(|dir| dir.entries.get(part)) {
                Some(ino) => *ino,
                None => {
                    let ino = s.new_inode(Kind::Dir, at, 0o755, Vec::new());
                    s.insert_durably(at, part, ino);
                    ino
                }
            };
        }
        let ino = s.new_inode(Kind::File, at, meta.mode, bytes);
        if let Some(inode) = s.inodes.get_mut(&ino) {
            inode.meta = meta;
            (inode.durable, inode.durable_meta) = (inode.data.clone(), meta);
            inode.dirty.clear();
        }
        s.insert_durably(at, name, ino);
        s.changes.retain(|change| !matches!(change, Change::Named { path: p, .. } if p == path));
    }

    /// Changes the bytes of a file in place, as another program of the user would, durably.
    pub fn alter(&self, path: &[u8], change: impl FnOnce(&mut Vec<u8>), meta: Meta) {
        let mut s = self.state();
        let Some(ino) = s.find(path) else { return };
        if let Some(inode) = s.inodes.get_mut(&ino) {
            change(&mut inode.data);
            inode.meta = meta;
            (inode.durable, inode.durable_meta) = (inode.data.clone(), meta);
            inode.dirty.clear();
        }
    }

    /// Removes a tree, as the user of the machine would: from the leaves up, durably.
    pub fn remove(&self, path: &[u8]) {
        let mut s = self.state();
        let (above, name) = crate::store::names::split_last(path);
        let (Some(dir), Some(top)) = (s.find(above), s.find(path)) else { return };
        let mut todo = vec![top];
        while let Some(ino) = todo.pop() {
            let Some(inode) = s.inodes.get_mut(&ino) else { continue };
            todo.extend(std::mem::take(&mut inode.entries).into_values());
            inode.durable_entries.clear();
            inode.pending.clear();
        }
        if let Some(dir) = s.inodes.get_mut(&dir) {
            dir.entries.remove(name);
            dir.durable_entries.remove(name);
            dir.pending.retain(|(_, change)| match change {
                DirChange::Set(n, _) | DirChange::Remove(n) | DirChange::Rename(_, n, _) => n != name,
            });
        }
    }

    /// Flips a bit of this byte of a file, if it has that.
    pub fn rot_at(&self, path: &[u8], offset: usize) {
        let mut s = self.state();
        let Some(ino) = s.find(path) else { return };
        let Some(inode) = s.inodes.get_mut(&ino).filter(|i| offset < i.data.len()) else { return };
        inode.data[offset] ^= 1;
        if let Some(b) = inode.durable.get_mut(offset) {
            *b ^= 1;
        }
        s.counters.rotten += 1;
    }

    /// Flips one bit of a random file of those that the store keeps hidden: bad sectors. False if there is none.
    pub fn rot(&self, at: u64) -> bool {
        let files: Vec<_> = self.files().into_iter().filter(|p| hidden(p)).collect();
        if files.is_empty() {
            return false;
        }
        let mut s = self.state();
        let Some(ino) = s.find(&files[at as usize % files.len()]) else { return false };
        let Some(inode) = s.inodes.get_mut(&ino).filter(|i| !i.data.is_empty()) else { return false };
        let n = (at >> 8) as usize % inode.data.len();
        inode.data[n] ^= 1 << ((at >> 40) & 7);
        if let Some(b) = inode.durable.get_mut(n) {
            *b ^= 1 << ((at >> 40) & 7);
        }
        s.counters.rotten += 1;
        true
    }
}

impl State {
    fn new_inode(&mut self, kind: Kind, parent: Ino, mode: u32, data: Vec<u8>) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        let meta = Meta { mode, ..self.stamp() };
        let dirty = (0..data.len().div_ceil(SECTOR)).collect();
        // A link's target is as durable as the name that leads to it.
        let durable = if kind == Kind::Link { data.clone() } else { Vec::new() };
        let inode = Inode {
            kind,
            meta,
            changed: self.now,
            data,
            durable,
            durable_meta: meta,
            dirty,
            lost: BTreeSet::new(),
            failures: 0,
            lock: None,
            sharers: BTreeSet::new(),
            parent,
            entries: BTreeMap::new(),
            durable_entries: BTreeMap::new(),
            pending: Vec::new(),
        };
        self.inodes.insert(ino, inode);
        ino
    }

    /// The present time as an mtime.
    fn stamp(&self) -> Meta {
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Meta { mode: 0, mtime_s: now.as_secs() as i64, mtime_ns: now.subsec_nanos() }
    }

    fn insert_durably(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        if let Some(dir) = self.inodes.get_mut(&dir) {
            dir.entries.insert(name.to_vec(), ino);
            dir.durable_entries.insert(name.to_vec(), ino);
        }
    }

    fn find(&self, path: &[u8]) -> Option<Ino> {
        let mut at = ROOT;
        for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty()) {
            at = *self.inodes.get(&at)?.entries.get(part)?;
        }
        Some(at)
    }

    /// The path of a directory.
    fn path_of(&self, dir: Ino) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = dir;
        while at != ROOT {
            let Some(parent) = self.inodes.get(&at).map(|i| i.parent) else { break };
            let Some(above) = self.inodes.get(&parent) else { break };
            match above.entries.iter().find(|(_, ino)| **ino == at) {
                Some((name, _)) => parts.push(name.clone()),
                // It was removed: what happens in it is seen by nobody.
                None => parts.push(b".fulmar-gone".to_vec()),
            }
            at = parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    fn links(&self, ino: Ino) -> u64 {
        let named = |dir: &Inode| dir.entries.values().filter(|i| **i == ino).count() as u64;
        self.inodes.values().map(named).sum()
    }

    fn stat(&self, ino: Ino) -> io::Result<Stat> {
        let inode = self.inodes.get(&ino).ok_or(Errno::NOENT)?;
        let links = if inode.kind == Kind::File { self.links(ino) } else { 1 };
        Ok(Stat {
            id: (1, ino),
            kind: inode.kind.file_type(),
            size: inode.data.len() as u64,
            links,
            meta: inode.meta,
            changed: inode.changed,
            allocated_bytes: inode.data.len().div_ceil(BLOCK) as u64 * BLOCK as u64,
        })
    }

    fn entry(&self, dir: Ino, name: &[u8]) -> io::Result<Ino> {
        let dir = self.inodes.get(&dir).ok_or(Errno::NOENT)?;
        Ok(*dir.entries.get(name).ok_or(Errno::NOENT)?)
    }

    /// Notes what becomes of a name, unless it is hidden.
    fn note(&mut self, dir: Ino, name: &[u8], make: impl FnOnce(Vec<u8>) -> Change) {
        let path = crate::store::names::join(&self.path_of(dir), name);
        if !hidden(&path) {
            self.changes.push(make(path));
        }
    }

    fn change(&mut self, dir: Ino, change: DirChange) -> io::Result<()> {
        let at = self.next_change;
        self.next_change += 1;
        let now = self.now;
        let stamp = self.stamp();
        let inode = self.inodes.get_mut(&dir).ok_or(Errno::NOENT)?;
        let (mut named, mut removed) = (None, None);
        match &change {
            DirChange::Set(name, ino) => {
                named = Some((name.clone(), *ino, inode.entries.insert(name.clone(), *ino)));
            }
            DirChange::Remove(name) => {
                inode.entries.remove(name);
                removed = Some(name.clone());
            }
            DirChange::Rename(from, to, ino) => {
                inode.entries.remove(from);
                named = Some((to.clone(), *ino, inode.entries.insert(to.clone(), *ino)));
            }
        }
        inode.changed = now;
        (inode.meta.mtime_s, inode.meta.mtime_ns) = (stamp.mtime_s, stamp.mtime_ns);
        inode.pending.push((at, change));
        if let Some((name, ino, old)) = named
            && let Some(target) = self.inodes.get_mut(&ino)
        {
            target.parent = dir;
            target.changed = now;
            let synced = target.is_durable();
            if target.kind != Kind::Dir {
                self.note(dir, &name, |path| Change::Named { path, replaced: old.is_some(), synced });
            }
        }
        if let Some(name) = removed {
            self.note(dir, &name, Change::Removed);
        }
        Ok(())
    }

    /// Notes that the bytes of a file were changed, if it has a visible name.
    fn note_written(&mut self, ino: Ino) {
        let names: Vec<(Ino, Vec<u8>)> = self
            .inodes
            .iter()
            .flat_map(|(dir, i)| i.entries.iter().map(move |(name, at)| (*dir, name, *at)))
            .filter(|(_, name, at)| *at == ino && !name.starts_with(b".fulmar-"))
            .map(|(dir, name, _)| (dir, name.clone()))
            .collect();
        for (dir, name) in names {
            self.note(dir, &name, Change::Written);
        }
    }

    /// Makes a file or directory durable as it is now.
    fn sync(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.durable_meta = inode.meta;
        match inode.kind {
            Kind::File => {
                inode.durable.resize(inode.data.len(), 0);
                for sector in std::mem::take(&mut inode.dirty) {
                    let from = sector * SECTOR;
                    let to = (from + SECTOR).min(inode.data.len());
                    if from < to {
                        inode.durable[from..to].copy_from_slice(&inode.data[from..to]);
                    }
                }
            }
            Kind::Dir => {
                inode.durable_entries = inode.entries.clone();
                inode.pending.clear();
            }
            Kind::Link => {}
        }
    }

    /// A write-back that fails: what was dirty is lost without anybody trying again, as Linux does.
    fn fail_sync(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        if inode.kind == Kind::File && !inode.dirty.is_empty() {
            inode.failures += 1;
            inode.lost.append(&mut inode.dirty);
        }
        self.fs_failures += 1;
    }

    fn all(&self) -> Vec<Ino> {
        self.inodes.keys().copied().collect()
    }

    /// Begins an operation of a process: its faults strike here.
    fn begin(&mut self, process: u64, op: Op) -> io::Result<Option<DiskFaultKind>> {
        if process != self.process || self.dead.is_some() {
            return Err(Errno::IO.into());
        }
        self.ops += 1;
        faults::strike(self, op)
    }
}
