//! Role: the files that are offered first, and sent only when the receiver wants them.
//! Owns: offers without an answer, the ends of directories that wait for them, files that are hashed or looked at again.
//! Implements: docs/PROTOCOL.md, "Offers".

use super::{MAX_UNRESOLVED, Outgoing, Sender};
use crate::session::event::{Direction, Event};
use crate::transfer::job::{EntryError, EntryKind, FileId, Job, SourceEntry, StoreError};
use crate::transfer::sync::{Compare, Offer, SyncOptions};
use crate::wire::MAX_INLINE_BYTES;
use crate::wire::message::Message;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

/// Wanted files that are looked at again at once: with the bytes of small ones, a megabyte.
const MAX_FINDING: usize = 64;
/// Sources that are hashed before they are offered bear numbers from here on, beyond those of any manifest.
const FIRST_HASHED: u64 = 1 << 60;

/// What a walk found, and the source whose digest must be known before it can be offered.
#[derive(Debug)]
pub(super) struct Found {
    entry: Result<SourceEntry, EntryError>,
    hashed: Option<FileId>,
}

#[derive(Debug, Default)]
pub(super) struct Offers {
    /// Files are offered.
    pub(super) enabled: bool,
    with_digest: bool,
    dry_run: bool,
    /// A client's: the server has not said yet that it has removed all that is to be removed.
    pub(super) awaits_removal: bool,
    /// Offers that are neither declined nor announced as entries yet.
    pub(super) open: BTreeSet<u64>,
    /// Ends of directories, with the number below which no offer may be open when they are announced.
    held_ends: VecDeque<(u64, SourceEntry)>,
    /// Wanted, to be looked at again.
    wanted: VecDeque<(FileId, u32, Vec<u8>)>,
    finding: usize,
    /// Wanted, ready to be announced.
    ready: VecDeque<(FileId, Result<SourceEntry, EntryError>)>,
    hashes_begun: u64,
    hashes: HashMap<u64, Result<[u8; 32], StoreError>>,
}

impl Offers {
    /// Ends that wait are bounded like everything else that is announced.
    pub(super) fn may_go_on(&self) -> bool {
        self.held_ends.len() < MAX_UNRESOLVED
    }

    /// Nothing more will be announced because of an offer.
    pub(super) fn are_settled(&self) -> bool {
        self.open.is_empty() && self.held_ends.is_empty()
    }

    pub(super) fn on_found(&mut self, file: FileId, result: Result<SourceEntry, EntryError>) {
        self.finding = self.finding.saturating_sub(1);
        self.ready.push_back((file, result));
    }

    fn free_end(&mut self) -> Option<SourceEntry> {
        let (mark, _) = self.held_ends.front()?;
        if self.open.first().is_some_and(|open| open < mark) {
            return None;
        }
        self.held_ends.pop_front().map(|(_, end)| end)
    }
}

impl Sender {
    /// What the client wishes; before any root.
    pub fn set_options(&mut self, options: &SyncOptions) {
        self.offers.enabled = options.offers();
        self.offers.with_digest = options.compare == Some(Compare::Digest);
        self.offers.dry_run = options.dry_run;
        self.offers.awaits_removal = options.delete.is_some();
        self.jobs.push_back(Job::SetOptions(Box::new(options.clone())));
    }

    /// Takes in what a walk found; begins its digest if that is to be compared.
    pub(super) fn take_in(&mut self, entry: Result<SourceEntry, EntryError>) {
        let (kind, path) = match &entry {
            Ok(e) => (e.kind, &e.path),
            Err(e) => (EntryKind::File, &e.path),
        };
        if self.settled.contains(kind, path) {
            return;
        }
        let mut hashed = None;
        if let Ok(e) = &entry
            && self.offers.with_digest
            && e.kind == EntryKind::File
        {
            let file = FileId(FIRST_HASHED + self.offers.hashes_begun);
            self.offers.hashes_begun += 1;
            self.open_source(file, e);
            self.jobs.push_back(Job::HashSource { file });
            hashed = Some(file);
        }
        self.found.push_back(Found { entry, hashed });
    }

    pub(super) fn on_hashed(&mut self, file: FileId, result: Result<Option<[u8; 32]>, StoreError>) {
        let digest = match result {
            Ok(None) => return self.jobs.push_back(Job::HashSource { file }),
            Ok(Some(digest)) => Ok(digest),
            Err(error) => Err(error),
        };
        self.jobs.push_back(Job::CloseSource { file });
        self.offers.hashes.insert(file.0, digest);
    }

    /// Announces what is next, and returns about how many bytes that takes; `None`: nothing can be announced now.
    pub(super) fn announce_next(&mut self) -> Option<u64> {
        if let Some((offer, result)) = self.offers.ready.pop_front() {
            let bytes = self.announce_or_fail(result);
            self.offers.open.remove(&offer.0);
            return Some(bytes);
        }
        if let Some(end) = self.offers.free_end() {
            return Some(self.announce(end));
        }
        if !self.offers.may_go_on() {
            return None;
        }
        let mut sha256 = None;
        if let Some(FileId(id)) = self.found.front()?.hashed {
            sha256 = Some(self.offers.hashes.remove(&id)?);
        }
        let entry = match (self.found.pop_front()?.entry, &sha256) {
            (Ok(e), Some(Err(error))) => Err(EntryError { path: e.path, error: error.clone() }),
            (entry, _) => entry,
        };
        if !self.offers.enabled {
            return Some(self.announce_or_fail(entry));
        }
        match entry {
            Ok(e) if e.kind == EntryKind::File => Some(self.offer(e, sha256.and_then(Result::ok))),
            Ok(e) if e.kind == EntryKind::DirEnd => {
                self.offers.held_ends.push_back((self.next_id, e));
                Some(0)
            }
            other => Some(self.announce_or_fail(other)),
        }
    }

    fn announce_or_fail(&mut self, entry: Result<SourceEntry, EntryError>) -> u64 {
        match entry {
            Ok(entry) => self.announce(entry),
            Err(e) => {
                let bytes = e.path.len() as u64;
                self.fail_entry(e);
                bytes
            }
        }
    }

    fn offer(&mut self, e: SourceEntry, sha256: Option<[u8; 32]>) -> u64 {
        let file = FileId(self.next_id);
        self.next_id += 1;
        self.offers.open.insert(file.0);
        let weight = 32 + e.path.len() as u64 + sha256.map_or(0, |d| d.len() as u64);
        self.unresolved.insert(
            file.0,
            Outgoing {
                path: e.path.clone(),
                kind: EntryKind::File,
                size: e.size,
                sha256: None,
                // It counts when it is wanted.
                counted_bytes: e.size,
                chunked: None,
                offered: Some((e.root, e.below)),
            },
        );
        let offer = Offer { file, path: e.path, meta: e.meta, size: e.size, sha256 };
        self.outbox.push_back(Message::Offer(Box::new(offer)));
        weight
    }

    /// Has wanted files looked at again: they may have changed since they were offered.
    pub(super) fn look_again(&mut self) {
        while self.offers.finding + self.offers.ready.len() < MAX_FINDING
            && let Some((file, root, below)) = self.offers.wanted.pop_front()
        {
            self.offers.finding += 1;
            let inline_max_bytes = MAX_INLINE_BYTES as u64;
            self.jobs.push_back(Job::FindEntry { file, root, below, inline_max_bytes });
        }
    }

    /// The server has removed these. False: nobody asked for that.
    pub(super) fn on_removed(&mut self, paths: Vec<(Vec<u8>, EntryKind)>) -> bool {
        let direction = Direction::Sending;
        let event = |(path, kind)| Event::EntryRemoved { direction, path, kind };
        self.events.extend(paths.into_iter().map(event));
        self.offers.awaits_removal
    }

    /// It is done with that.
    pub(super) fn on_removal_end(&mut self, error: Option<StoreError>) -> bool {
        self.events.extend(error.map(Event::RemovalFailed));
        std::mem::take(&mut self.offers.awaits_removal)
    }

    /// These entries are there. False: one of them has no business here.
    pub(super) fn on_unchanged(&mut self, ranges: &[Range<u64>]) -> bool {
        for id in ranges.iter().cloned().flatten() {
            // Each number must be open, so that no range can be long in vain.
            let fits = |o: &Outgoing| o.kind != EntryKind::File || o.offered.is_some();
            if !self.offers.enabled || !self.unresolved.get(&id).is_some_and(fits) {
                return false;
            }
            let Some(o) = self.unresolved.remove(&id) else { return false };
            self.offers.open.remove(&id);
            self.events.push_back(Event::EntryUnchanged {
                direction: Direction::Sending,
                path: o.path,
                kind: o.kind,
                bytes: o.size,
            });
        }
        true
    }

    /// These offers are wanted. False: one of them was none.
    pub(super) fn on_want(&mut self, ranges: &[Range<u64>]) -> bool {
        for id in ranges.iter().cloned().flatten() {
            if self.unresolved.get(&id).is_none_or(|o| o.offered.is_none()) {
                return false;
            }
            let Some(o) = self.unresolved.remove(&id) else { return false };
            if self.offers.dry_run {
                self.offers.open.remove(&id);
                let (direction, path) = (Direction::Sending, o.path);
                self.events.push_back(Event::EntryPlanned { direction, path, bytes: o.size });
            } else if let Some((root, below)) = o.offered {
                self.offers.wanted.push_back((FileId(id), root, below));
            }
        }
        true
    }
}
