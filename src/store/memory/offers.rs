//! Role: compares what is offered with what is there, in memory.
//! Owns: nothing beyond `MemoryStore`.
//! Implements: docs/PROTOCOL.md, "Offers".

use super::sink::in_space;
use super::source::{Walk, not_found, read};
use super::{MemoryStore, Node, Out};
use crate::store::SessionKey;
use crate::store::digest::sha256;
use crate::store::error::{exists, forbidden, refuse, wrong_kind};
use crate::store::names::join;
use crate::transfer::job::{
    BeginEntry, Done, EntryError, EntryKind, FileId, Overwrite, SourceRoot, StoreError, StoreErrorKind,
};
use crate::transfer::sync::{Compare, Offer, SyncOptions, Verdict};

impl MemoryStore {
    pub(super) fn session_options(&mut self, session: SessionKey) -> SyncOptions {
        self.sessions.entry(session).or_default().options.clone()
    }

    pub(super) fn hash_source(&mut self, session: SessionKey, file: FileId, out: Out<'_>) {
        let state = self.sessions.entry(session).or_default();
        let Some(source) = state.sending.sources.get_mut(&file) else { return };
        // A chunk a time: whoever asks must ask again.
        let chunk = source.digest.next();
        let result = if chunk < source.layout.count() {
            read(&self.tree.0, source, chunk).map(|plain| {
                source.digest.take(chunk, &plain);
                None
            })
        } else {
            Ok(Some(source.digest.value()))
        };
        out(Done::SourceHashed { file, result });
    }

    pub(super) fn find_entry(
        &mut self,
        session: SessionKey,
        file: FileId,
        root: u32,
        below: &[u8],
        inline_max_bytes: u64,
    ) -> Done {
        let state = self.sessions.entry(session).or_default();
        let spec: Option<&SourceRoot> = state.sending.roots.get(root as usize);
        let found = spec.and_then(|spec| {
            let base = Self::tree_path(&spec.location);
            let node = self.tree.get(&join(&base, below)).filter(|node| matches!(node, Node::File(..)))?;
            let walk = Walk { root, name: &spec.name, base: &base, inline_max_bytes };
            Some(walk.entry(below, node, EntryKind::File, false))
        });
        let path = join(spec.map_or(&[][..], |spec| &spec.name), below);
        let result = found.ok_or_else(|| EntryError { error: not_found(&path), path });
        Done::Found { file, result }
    }

    pub(super) fn offer(&mut self, session: SessionKey, offer: Offer, out: Out<'_>) {
        let file = offer.file;
        let verdict = self.judge(session, &offer).unwrap_or_else(Verdict::Refused);
        out(Done::Offered { file, verdict });
    }

    fn place(
        &mut self,
        session: SessionKey,
        path: &[u8],
        kind: EntryKind,
    ) -> Result<(Vec<u8>, Overwrite), StoreError> {
        let state = self.sessions.entry(session).or_default();
        let Some(plan) = &mut state.receiving.plan else {
            return Err(refuse(StoreErrorKind::Io, path, "came before its destination was set"));
        };
        let (space, overwrite) = (plan.space, plan.overwrite);
        let place = plan.place(path, kind)?;
        let place = in_space(space, &join(&plan.base, &place));
        self.no_link_above(&place, path)?;
        Ok((place, overwrite))
    }

    fn judge(&mut self, session: SessionKey, offer: &Offer) -> Result<Verdict, StoreError> {
        let compare = self.session_options(session).compare;
        let (place, overwrite) = self.place(session, &offer.path, EntryKind::File)?;
        let equal = match self.tree.get(&place) {
            None => return Ok(Verdict::Wanted),
            Some(Node::Dir(_)) => {
                return Err(wrong_kind(&offer.path, "is a directory at the destination; rename one of them"));
            }
            Some(Node::Symlink(..)) => false,
            Some(Node::File(content, meta)) => {
                let time = (meta.mtime_s, meta.mtime_ns) == (offer.meta.mtime_s, offer.meta.mtime_ns);
                content.size() == offer.size
                    && match compare {
                        None => false,
                        Some(Compare::SizeAndTime) => time,
                        Some(Compare::Digest) => {
                            Some(sha256(&content.read(0, offer.size as usize))) == offer.sha256
                        }
                    }
            }
        };
        match (equal, overwrite) {
            (true, _) => Ok(Verdict::Equal),
            (false, Overwrite::Never) => Err(exists(&offer.path)),
            (false, Overwrite::Always) => Ok(Verdict::Wanted),
        }
    }

    /// The answer to an entry that is there as it should be, or that a dry run does not make.
    pub(super) fn begin_compared(&mut self, session: SessionKey, entry: &BeginEntry) -> Option<Done> {
        let file = entry.file;
        let dry_run = self.session_options(session).dry_run;
        let equal = Done::Offered { file, verdict: Verdict::Equal };
        let failed = |error| Some(Done::Committed { file, result: Err(error) });
        match entry.kind {
            EntryKind::DirEnd => return dry_run.then_some(equal),
            EntryKind::File if dry_run => return failed(forbidden(&entry.path, "was sent in a dry run")),
            EntryKind::File => return None,
            EntryKind::Dir | EntryKind::Symlink => {}
        }
        let (place, overwrite) = match self.place(session, &entry.path, entry.kind) {
            Ok(found) => found,
            Err(error) => return failed(error),
        };
        match (entry.kind, self.tree.get(&place)) {
            (EntryKind::Dir, Some(Node::Dir(_))) => return Some(equal),
            (EntryKind::Symlink, Some(Node::Symlink(target, _))) if *target == entry.target => {
                return Some(equal);
            }
            (EntryKind::Symlink, Some(Node::Symlink(..) | Node::File(..)))
                if overwrite == Overwrite::Never =>
            {
                return failed(exists(&entry.path));
            }
            _ => {}
        }
        dry_run.then_some(Done::Committed { file, result: Ok(None) })
    }
}
