//! Role: removes at the destination what the source lacks, when all of the source has come.
//! Owns: which entries the manifest named, and the walk through the destination.
//! Implements: docs/PROTOCOL.md, "Removal".

use super::{Answers, FileStore};
use crate::store::SessionKey;
use crate::store::dest::DestPlan;
use crate::store::digest::sha256;
use crate::store::error::{from_io, refuse};
use crate::store::names::{is_below, join, split_last};
use crate::store::walk::{Places, Walk};
use crate::transfer::filter::Filter;
use crate::transfer::job::{Done, EntryKind, Location, SourceRoot, StoreError, StoreErrorKind};
use crate::transfer::sync::{Delete, SyncOptions};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

/// Most entries of a manifest with which anything is removed: their hashes take 100 MB.
const MAX_NAMED: usize = 4 << 20;
/// Entries that one job looks at.
const STEP: usize = 1000;

/// What is known for the removal at the end.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// Halves of the SHA-256 of the places that the manifest named.
    named: HashSet<[u8; 16]>,
    /// Directories that were sent, without those inside others.
    tops: Vec<Vec<u8>>,
    /// More than can be remembered.
    overflow: bool,
    walk: Option<Walk>,
}

fn hash(place: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&sha256(place)[..16]);
    half
}

impl Removal {
    /// An entry of the manifest, at its place below the destination.
    pub(super) fn name(&mut self, place: &[u8], kind: EntryKind) {
        self.overflow |= self.named.len() >= MAX_NAMED;
        if self.overflow {
            return;
        }
        // The directories on the way are meant as well, announced or not.
        let mut at = place;
        while !at.is_empty() && self.named.insert(hash(at)) {
            at = split_last(at).0;
        }
        if kind == EntryKind::Dir && !self.tops.last().is_some_and(|top| is_below(place, top)) {
            self.tops.push(place.to_vec());
        }
    }

    fn begin(&mut self, plan: &DestPlan, options: &SyncOptions) -> Walk {
        let mut walk = Walk::default();
        walk.set_filter(Filter::new(&options.patterns));
        if options.delete == Some(Delete::InDest) {
            self.tops = vec![Vec::new()];
        }
        for top in &self.tops {
            walk.add_root(SourceRoot { location: Location::Jail(join(&plan.base, top)), name: Vec::new() });
        }
        walk
    }
}

impl FileStore {
    /// Notes an entry of the manifest.
    pub(super) fn note_for_removal(&mut self, session: SessionKey, path: &[u8], kind: EntryKind) {
        let state = self.sessions.entry(session).or_default();
        if state.options.delete.is_some()
            && let Some(target) = &mut state.target
            && let Ok(place) = target.plan.place(path, kind)
        {
            state.removal.name(&place, kind);
        }
    }

    /// Removes some of what the manifest did not name.
    pub(super) fn remove_extra(&mut self, session: SessionKey, done: &mut Answers) {
        // What was staged is there when the walk comes.
        self.batch.flush(true, done);
        let mut paths = Vec::new();
        let result = self.remove_some(session, &mut paths);
        let (more, error) = match result {
            Ok(more) => (more, None),
            Err(error) => (false, Some(error)),
        };
        self.batch.flush(false, done);
        done.push((session, Done::Removed { paths, more, error }));
    }

    fn remove_some(
        &mut self,
        session: SessionKey,
        paths: &mut Vec<(Vec<u8>, EntryKind)>,
    ) -> Result<bool, StoreError> {
        let state = self.sessions.entry(session).or_default();
        let Some(target) = state.target.as_ref().filter(|target| !target.missing) else { return Ok(false) };
        if state.removal.overflow {
            let why = "has more entries than can be remembered for --delete; nothing was removed";
            return Err(refuse(StoreErrorKind::Limit, b"the source", why));
        }
        let mut walk = match state.removal.walk.take() {
            Some(walk) => walk,
            None => state.removal.begin(&target.plan, &state.options),
        };
        let places = Places { jail: &self.jail, scratch: &self.scratch };
        let (found, end) = walk.next(&places, STEP, 0, false);
        for entry in found {
            let entry = match entry {
                Ok(entry) => entry,
                // A pipe or device is not ours to judge; what vanished meanwhile needs no removal.
                Err(e) if matches!(e.error.kind, StoreErrorKind::Forbidden | StoreErrorKind::NotFound) => {
                    continue;
                }
                Err(e) => return Err(e.error),
            };
            let top = state.removal.tops.get(entry.root as usize).map_or(&[][..], Vec::as_slice);
            let place = join(top, &entry.below);
            if entry.kind == EntryKind::Dir || state.removal.named.contains(&hash(&place)) {
                continue;
            }
            let kind = if entry.kind == EntryKind::DirEnd { EntryKind::Dir } else { entry.kind };
            if !state.options.dry_run {
                let (above, name) = split_last(&place);
                let fail = |e: io::Error| from_io(&place, "cannot be removed", &e);
                let parent = self.dirs.parent((target.id, &target.base), above, &place, None)?;
                let removed = match kind {
                    EntryKind::Dir => parent.remove_dir(name),
                    _ => (**parent).unlink(name),
                };
                match removed {
                    Ok(()) => self.batch.touch(Arc::clone(&parent)),
                    // Something in it is left out of all this, and so it stays.
                    Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOTEMPTY.raw_os_error()) => {
                        continue;
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(fail(e)),
                }
            }
            paths.push((place, kind));
        }
        if !end {
            state.removal.walk = Some(walk);
        }
        Ok(!end)
    }
}
