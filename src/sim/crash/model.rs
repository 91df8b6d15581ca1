//! Role: what must be true at every step of a run, whatever goes wrong in it.
//! Owns: what every file may look like, what was promised, which chunks were stored, what has gone wrong so far.
//! Implements: docs/SIMULATION.md, "Invariants".

use super::plan::NodeId;
use crate::session::event::CloseReason;
use crate::sim::disk::{Change, DiskCounters, SimDisk};
use crate::store::SessionKey;
use crate::store::names::{join, partial_name, split_last};
use crate::transfer::job::{Dest, FileId, Job, Location, Meta, Overwrite, StoreError, StoreErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

/// A file as its source was at some time.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) bytes: Rc<Vec<u8>>,
    pub(super) meta: Meta,
    pub(super) sha256: [u8; 32],
}

impl Version {
    pub(super) fn new(bytes: Vec<u8>, meta: Meta) -> Self {
        let sha256 = crate::store::sha256(&bytes);
        Self { bytes: Rc::new(bytes), meta, sha256 }
    }
}

/// A file on a machine's disk.
pub(super) type Place = (NodeId, Vec<u8>);

/// A file that a store is receiving.
#[derive(Clone, Debug)]
struct Incoming {
    place: Place,
    size: u64,
    chunk_size: u64,
    meta: Meta,
    /// Its partial, once that is open: another one may take the name if somebody removes the directory.
    partial: Option<u64>,
}

/// What was stored of a file, as its store has told.
#[derive(Clone, Debug)]
struct Stored {
    meta: Meta,
    size: u64,
    chunk_size: u64,
    chunks: BTreeSet<u64>,
    /// What had gone wrong on the disk until then.
    troubles: u64,
}

/// What has gone wrong so far for one client, and so may be reported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Causes {
    pub(super) link: bool,
    pub(super) server_gone: bool,
    pub(super) source_changed: bool,
    pub(super) source_removed: bool,
    pub(super) dest_removed: bool,
    pub(super) runs: u32,
    pub(super) stopped: bool,
    pub(super) server_stopped: bool,
    pub(super) slow: bool,
    /// Checked bytes of a partial have rotted before they were hashed, or those of a small file in memory.
    pub(super) rotten: bool,
    /// Another client writes to the same names.
    pub(super) rival: bool,
    pub(super) disks: DiskCounters,
    /// A partial of an earlier run may have two names, where renaming without replacing is done by links.
    pub(super) two_names: bool,
}

/// What a session was told of.
#[derive(Debug, Default)]
struct Told {
    dest: Option<Dest>,
    incoming: BTreeMap<FileId, Incoming>,
}

/// The rules.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What may stand under each name.
    pub(super) expected: BTreeMap<Place, Vec<Version>>,
    /// Never to be replaced.
    pub(super) never: BTreeSet<Place>,
    /// The client whose task a place belongs to.
    pub(super) owner: BTreeMap<Place, NodeId>,
    /// Files that somebody was told to be safe: which version.
    promised: BTreeMap<Place, [u8; 32]>,
    sessions: BTreeMap<(NodeId, SessionKey), Told>,
    stored: BTreeMap<Place, Stored>,
    /// Chunks that resumed runs did not need again.
    pub(super) resumed_chunks: u64,
    pub(super) promises: u64,
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Model {
    fn version(&self, place: &Place, size: u64, meta: Meta) -> Option<&Version> {
        let found = self.expected.get(place)?.iter();
        let same = |v: &&Version| {
            v.bytes.len() as u64 == size && (v.meta.mtime_s, v.meta.mtime_ns) == (meta.mtime_s, meta.mtime_ns)
        };
        found.rev().find(same)
    }

    /// A store is given a job.
    pub(super) fn on_job(&mut self, node: NodeId, session: SessionKey, job: &Job) {
        match job {
            Job::SetDest(dest) => {
                self.sessions.entry((node, session)).or_default().dest = Some(dest.clone());
            }
            Job::Begin(entry) if entry.inline.is_none() => {
                let told = self.sessions.entry((node, session)).or_default();
                let Some(Dest { location: Location::Jail(base), name_prefix, .. }) = &told.dest else {
                    return;
                };
                let (above, name) = split_last(&entry.path);
                let name = [name_prefix.as_slice(), name].concat();
                let place = (node, join(base, &join(above, &name)));
                let incoming = Incoming {
                    place,
                    size: entry.size,
                    chunk_size: u64::from(entry.chunk_size),
                    meta: entry.meta,
                    partial: None,
                };
                told.incoming.insert(entry.file, incoming);
            }
            Job::Abort { file, keep_partial: false } => {
                if let Some(incoming) = self.incoming(node, session, *file) {
                    self.stored.remove(&incoming.place);
                }
            }
            Job::EndSession => {
                self.sessions.remove(&(node, session));
            }
            _ => {}
        }
    }

    fn incoming(&self, node: NodeId, session: SessionKey, file: FileId) -> Option<Incoming> {
        self.sessions.get(&(node, session))?.incoming.get(&file).cloned()
    }

    fn partial(place: &Place) -> Vec<u8> {
        let (above, name) = split_last(&place.1);
        join(above, &partial_name(name))
    }

    /// A chunk that a store says is whole must be.
    fn check_chunk(&self, incoming: &Incoming, disk: &SimDisk, chunk: u64) -> Result<(), String> {
        let partial = Self::partial(&incoming.place);
        let Some(version) = self.version(&incoming.place, incoming.size, incoming.meta) else {
            return Ok(());
        };
        let from = (chunk * incoming.chunk_size) as usize;
        let to = (from + incoming.chunk_size as usize).min(version.bytes.len());
        let wanted = version.bytes.get(from..to).ok_or("a chunk beyond the end was stored")?;
        // What an earlier run has brought counts as whole where it stands, beside the partial of yet another run.
        let there = || disk.holds(&partial, from, wanted) || disk.holds(&incoming.place.1, from, wanted);
        if incoming.partial.is_some() && !there() {
            return Err(format!("chunk {chunk} of {} counts as whole, and is not", text(&incoming.place.1)));
        }
        Ok(())
    }

    /// The store has opened a file, in which these chunks are whole.
    pub(super) fn on_began(
        &mut self,
        (node, session, file): (NodeId, SessionKey, FileId),
        have: &[Range<u64>],
        disk: &SimDisk,
        troubles: u64,
        source_is_steady: bool,
    ) -> Result<(), String> {
        let Some(mut incoming) = self.incoming(node, session, file) else { return Ok(()) };
        incoming.partial = disk.inode_of(&Self::partial(&incoming.place));
        if let Some(told) = self.sessions.get_mut(&(node, session)) {
            told.incoming.insert(file, incoming.clone());
        }
        if source_is_steady {
            for chunk in have.iter().cloned().flatten() {
                self.check_chunk(&incoming, disk, chunk)?;
            }
        }
        let resumed: u64 = have.iter().map(|r| r.end - r.start).sum();
        self.resumed_chunks += resumed;
        let same = |s: &Stored| {
            (s.size, s.chunk_size) == (incoming.size, incoming.chunk_size)
                && (s.meta.mtime_s, s.meta.mtime_ns) == (incoming.meta.mtime_s, incoming.meta.mtime_ns)
        };
        let before = self.stored.remove(&incoming.place);
        if let Some(before) = before.filter(|s| same(s) && s.troubles == troubles) {
            let lost = before.chunks.iter().find(|chunk| !have.iter().any(|r| r.contains(chunk)));
            if let Some(chunk) = lost {
                return Err(format!(
                    "chunk {chunk} of {} was stored, and nothing happened to it, but it is to come again",
                    text(&incoming.place.1)
                ));
            }
        }
        let stored = Stored {
            meta: incoming.meta,
            size: incoming.size,
            chunk_size: incoming.chunk_size,
            chunks: have.iter().cloned().flatten().collect(),
            troubles,
        };
        self.stored.insert(incoming.place, stored);
        Ok(())
    }

    /// The store says that a chunk is whole.
    pub(super) fn on_chunk(
        &mut self,
        (node, session, file): (NodeId, SessionKey, FileId),
        chunk: u64,
        disk: &SimDisk,
        source_is_steady: bool,
    ) -> Result<(), String> {
        let Some(incoming) = self.incoming(node, session, file) else { return Ok(()) };
        if incoming.partial != disk.inode_of(&Self::partial(&incoming.place)) {
            return Ok(());
        }
        if let Some(stored) = self.stored.get_mut(&incoming.place) {
            stored.chunks.insert(chunk);
        }
        if source_is_steady { self.check_chunk(&incoming, disk, chunk) } else { Ok(()) }
    }

    /// The store is done with a file, well or badly.
    pub(super) fn on_committed(&mut self, node: NodeId, session: SessionKey, file: FileId) {
        if let Some(incoming) = self.incoming(node, session, file) {
            self.stored.remove(&incoming.place);
        }
    }

    /// A process begins: its sessions are new ones.
    pub(super) fn forget_sessions(&mut self, node: NodeId) {
        self.sessions.retain(|(n, _), _| *n != node);
    }

    /// The offset of a byte in a partial whose chunk was checked and, since one before it is missing, not hashed yet:
    /// if it rots now, only the digest of the whole file can tell.
    pub(super) fn unhashed(&self, node: NodeId) -> Option<(Place, Vec<u8>, usize)> {
        self.stored.iter().filter(|((n, _), _)| *n == node).find_map(|(place, stored)| {
            let gap = (0..).find(|chunk| !stored.chunks.contains(chunk))?;
            let chunk = stored.chunks.range(gap..).next()?;
            Some((place.clone(), Self::partial(place), (chunk * stored.chunk_size) as usize))
        })
    }

    /// Something happened to a partial, or may have.
    pub(super) fn forget_stored(&mut self, node: NodeId) {
        self.stored.retain(|(n, _), _| *n != node);
    }

    /// The user removed a directory: nothing is promised about it any more.
    pub(super) fn forget_below(&mut self, node: NodeId, dir: &[u8]) {
        let below = |(n, path): &Place| *n == node && path.starts_with(dir);
        self.promised.retain(|place, _| !below(place));
        self.stored.retain(|place, _| !below(place));
    }

    /// Something happened to names that everybody sees.
    pub(super) fn on_change(&mut self, node: NodeId, change: &Change, disk: &SimDisk) -> Result<(), String> {
        match change {
            Change::Written(path) => Err(format!("{} was written to under its final name", text(path))),
            Change::Removed(path) => {
                if disk.has(path) {
                    return Ok(());
                }
                Err(format!("{} was removed", text(path)))
            }
            Change::Named { path, replaced, synced } => {
                let place = (node, path.clone());
                self.stored.remove(&place);
                if *replaced && self.never.contains(&place) {
                    return Err(format!("{} was replaced, against --overwrite never", text(path)));
                }
                if !*synced {
                    return Err(format!("{} got its name before its bytes were synced", text(path)));
                }
                self.check_whole(&place, disk)
            }
        }
    }

    /// A visible file must be what its source was at some time.
    fn check_whole(&self, place: &Place, disk: &SimDisk) -> Result<(), String> {
        let Some(seen) = disk.read(&place.1) else { return Ok(()) };
        let Some(versions) = self.expected.get(place) else {
            return Err(format!("{} appeared out of nowhere", text(&place.1)));
        };
        let fits = |v: &Version| *v.bytes == seen.bytes && same_meta(v.meta, seen.meta);
        if versions.iter().any(fits) {
            return Ok(());
        }
        let what = if versions.iter().any(|v| *v.bytes == seen.bytes) { "mode or time" } else { "bytes" };
        Err(format!("{} is visible with wrong {what} ({} bytes)", text(&place.1), seen.bytes.len()))
    }

    /// Somebody was told that a file is there, whole and safe.
    pub(super) fn on_promise(
        &mut self,
        place: Place,
        sha256: Option<[u8; 32]>,
        disk: &SimDisk,
    ) -> Result<(), String> {
        let name = text(&place.1);
        let sha256 = sha256.ok_or_else(|| format!("{name} was reported without a digest"))?;
        let versions = self.expected.get(&place).map(Vec::as_slice).unwrap_or_default();
        let Some(version) = versions.iter().find(|v| v.sha256 == sha256) else {
            return Err(format!("{name} was reported with a digest that its source never had"));
        };
        let Some(seen) = disk.read_durable(&place.1) else {
            return Err(format!("{name} was reported as done, but a power cut would take it"));
        };
        let right = seen.bytes == *version.bytes && same_meta(seen.meta, version.meta);
        // An earlier version that was overwritten meanwhile was there.
        if !right && !versions.iter().any(|v| *v.bytes == seen.bytes) {
            return Err(format!("{name} was reported as done, but a power cut would damage it"));
        }
        self.promises += 1;
        self.promised.insert(place, sha256);
        Ok(())
    }

    /// After a crash: everything visible is whole, everything promised is there.
    pub(super) fn check_disk(&self, node: NodeId, disk: &SimDisk) -> Result<(), String> {
        for path in disk.files() {
            let place = (node, path);
            if self.expected.contains_key(&place) {
                self.check_whole(&place, disk)?;
            }
        }
        for (place, sha256) in self.promised.iter().filter(|((n, _), _)| *n == node) {
            let name = text(&place.1);
            let Some(seen) = disk.read(&place.1) else {
                return Err(format!("{name} was reported as done, and is gone"));
            };
            if self.never.contains(place) && crate::store::sha256(&seen.bytes) != *sha256 {
                return Err(format!("{name} is another one than was reported as done"));
            }
        }
        Ok(())
    }

    /// Whether a file of a task is where it belongs, as its source is now or was before.
    pub(super) fn is_delivered(&self, place: &Place, disk: &SimDisk) -> bool {
        let versions = self.expected.get(place).map(Vec::as_slice).unwrap_or_default();
        disk.read(&place.1).is_some_and(|seen| versions.iter().any(|v| *v.bytes == seen.bytes))
    }
}

fn same_meta(a: Meta, b: Meta) -> bool {
    (a.mode & 0o777, a.mtime_s, a.mtime_ns) == (b.mode & 0o777, b.mtime_s, b.mtime_ns)
}

impl Causes {
    /// Whether something has happened that explains the failure of a file.
    /// `continued`: a run that goes on with what an earlier one has begun, from a source that nobody has changed.
    pub(super) fn explain(&self, error: &StoreError, continued: bool) -> Result<(), String> {
        use StoreErrorKind as K;
        let explained = match error.kind {
            K::Io => self.disks.io_errors() > 0 || self.dest_removed,
            K::NoSpace => self.disks.no_space > 0,
            K::Quota => self.disks.quota > 0,
            K::SourceChanged => self.source_changed || self.source_removed || self.dest_removed,
            // A chunk that is read again, after the source has been found unchanged.
            K::DigestMismatch => self.source_changed || self.source_removed || self.rotten,
            K::NotFound => {
                let unmade = self.disks.no_space + self.disks.quota + self.disks.io_errors() > 0;
                self.source_removed || self.dest_removed || self.source_changed || unmade
            }
            // A server that was killed, or could not be heard, before its first answer arrived may have begun already.
            K::Exists => self.rival || !continued && (self.runs > 1 || self.server_gone),
            K::Busy => self.runs > 1 || self.rival,
            K::WrongKind => self.two_names,
            K::Permission | K::NameTooLong | K::Forbidden | K::Limit => false,
        };
        if explained { Ok(()) } else { Err(format!("an error without a cause: {:?}: {error}", error.kind)) }
    }

    /// Whether something has happened that explains the end of a session.
    pub(super) fn explain_close(&self, reason: &CloseReason) -> Result<(), String> {
        let explained = match reason {
            CloseReason::Done => true,
            CloseReason::Unreachable { .. } | CloseReason::TimedOut { .. } => {
                self.link || self.server_gone || self.slow
            }
            CloseReason::PeerClosed(_) => self.server_stopped,
            CloseReason::Interrupted => self.stopped,
            CloseReason::Refused(_) => {
                self.disks.io_errors() + self.disks.no_space + self.disks.quota > 0 || self.dest_removed
            }
            CloseReason::Protocol(_)
            | CloseReason::RetriesExhausted { .. }
            | CloseReason::WrongKey
            | CloseReason::SecurityMismatch(_) => false,
        };
        if explained { Ok(()) } else { Err(format!("a session ended without a cause: {reason:?}")) }
    }
}

/// What `--overwrite` means for a place.
pub(super) fn is_never(overwrite: Overwrite) -> bool {
    overwrite == Overwrite::Never
}
