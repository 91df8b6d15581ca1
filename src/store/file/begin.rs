//! Role: destinations and the beginnings of entries: directories, links, small files, big ones.
//! Owns: nothing beyond `FileStore`.
//! Implements: docs/PROTOCOL.md, "Files" (destinations, sinks).

use super::{Answers, FileStore, Target, WaitingEnd};
use crate::store::SessionKey;
use crate::store::batch::What;
use crate::store::dest::{DestPlan, Space, checked};
use crate::store::digest::{Layout, RangeSet, sha256};
use crate::store::error::{busy, digest_mismatch, forbidden, from_io, kind_of, refuse, wrong_kind};
use crate::store::fs::FileType;
use crate::store::jail::{DirHandle, ensure_below};
use crate::store::journal::{Identity, Journal};
use crate::store::names::{split_first, split_last};
use crate::store::partial::{Staged, may_place, reserve};
use crate::store::quota::disk_bytes;
use crate::store::sink::{Sink, set_meta, verified, write_all_at};
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::job::{
    BeginEntry, Dest, Done, EntryKind, Inline, Overwrite, StoreError, StoreErrorKind, UNKNOWN_SIZE,
};
use crate::transfer::sync::Verdict;
use crate::wire::MAX_FILE_BYTES;
use std::io;
use std::sync::Arc;

impl FileStore {
    pub(super) fn set_dest(&mut self, session: SessionKey, dest: &Dest) -> Result<(), StoreError> {
        let (space, path) = checked(dest)?;
        let fail = |e: io::Error| from_io(path, "cannot be used as the destination", &e);
        let area = match space {
            Space::Jail => None,
            Space::Scratch => Some(self.scratch.area(&self.jail).map_err(fail)?),
        };
        let opened = match &area {
            None => self.jail.open_dir(path),
            Some(area) => area.open_dir_below(path),
        };
        let is_dir = match opened {
            Ok(_) => true,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => false,
            Err(e) => return Err(fail(e)),
        };
        let plan = DestPlan::new(dest, is_dir)?;
        if self.session(session).options.dry_run {
            // Nothing is made: what is not there counts as empty.
            let found = self.jail.open_dir(&plan.base);
            let missing = found.is_err();
            let base = Arc::new(found.or_else(|_| self.jail.handle()).map_err(fail)?);
            self.next_target += 1;
            let target = Target { plan, base, id: self.next_target, missing };
            self.session(session).target = Some(target);
            return Ok(());
        }
        let batch = &mut self.batch;
        let mut touched = |dir| batch.touch(dir);
        let base = match area {
            None => self.jail.ensure_dir(&plan.base, &mut touched)?,
            Some(area) => ensure_below(area, &plan.base, 0o700, path, Some(&mut touched))?,
        };
        self.next_target += 1;
        let target = Target { plan, base, id: self.next_target, missing: false };
        let state = self.session(session);
        if space == Space::Scratch {
            state.scratch.push(split_first(path).0.to_vec());
        }
        if let Some(old) = state.target.replace(target) {
            self.dirs.forget(Some(old.id));
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, session: SessionKey, entry: BeginEntry, done: &mut Answers) {
        let file = entry.file;
        let streamed = entry.kind == EntryKind::File && entry.inline.is_none();
        let chunks = if streamed { entry.size.div_ceil(entry.chunk_size.max(1).into()) } else { 0 };
        self.note_for_removal(session, &entry.path, entry.kind);
        if self.session(session).options.offers() {
            let compared = self.begin_compared(session, &entry, done);
            if let Some(verdict) = compared.map_err(Verdict::Refused).unwrap_or_else(Some) {
                let answer = match verdict {
                    Verdict::Equal | Verdict::More => Done::Offered { file, verdict: Verdict::Equal },
                    Verdict::Wanted => Done::Committed { file, result: Ok(None) },
                    Verdict::Refused(error) => Done::Committed { file, result: Err(error) },
                };
                return done.push((session, answer));
            }
        }
        match self.begin_entry(session, entry, done) {
            Ok(()) if streamed => {
                let state = self.session(session);
                let have = match state.sinks.get(file) {
                    Some(sink) => sink.have(),
                    // It stands there, all of it.
                    None if chunks > 0 => std::iter::once(0..chunks).collect(),
                    None => Vec::new(),
                };
                done.push((session, Done::Began { file, result: Ok(have) }));
            }
            Ok(()) => {}
            Err(error) if streamed => done.push((session, Done::Began { file, result: Err(error) })),
            Err(error) => done.push((session, Done::Committed { file, result: Err(error) })),
        }
    }

    pub(super) fn begin_entry(
        &mut self,
        session: SessionKey,
        mut entry: BeginEntry,
        done: &mut Answers,
    ) -> Result<(), StoreError> {
        let state = self.sessions.entry(session).or_default();
        let Some(target) = &mut state.target else {
            let early = || refuse(StoreErrorKind::Io, &entry.path, "came before its destination was set");
            return Err(state.refused.clone().unwrap_or_else(early));
        };
        let place = target.plan.place(&entry.path, entry.kind)?;
        if entry.kind == EntryKind::DirEnd {
            let (target, base) = (target.id, Arc::clone(&target.base));
            let end =
                WaitingEnd { file: entry.file, target, base, place, shown: entry.path, meta: entry.meta };
            if let Some(end) = state.sinks.end(end) {
                self.end_directory(session, end);
            }
            return Ok(());
        }
        let (above, name) = split_last(&place);
        let dest = (target.id, &target.base);
        // What is staged must have its name before anything is put beneath it or over it: a link that was sent
        // just now must be in the way of an entry that leads through it.
        let mut found = None;
        if self.batch.has_staged() {
            match self.dirs.parent(dest, above, &entry.path, None) {
                Ok(dir) if self.batch.holds(&dir, name) => self.batch.flush(true, done),
                Ok(dir) => found = Some(dir),
                Err(_) => self.batch.flush(true, done),
            }
        }
        let dir = match found {
            Some(dir) => dir,
            None => {
                let batch = &mut self.batch;
                let mut touched = |dir| batch.touch(dir);
                self.dirs.parent(dest, above, &entry.path, Some(&mut touched))?
            }
        };
        if entry.kind != EntryKind::Dir {
            self.leftovers.tend(&dir, self.temps.prefix());
        }
        match entry.kind {
            EntryKind::Dir => self.make_dir(session, dir, name, entry),
            EntryKind::Symlink => self.place_link(session, dir, name, entry),
            _ => match entry.inline.take() {
                Some(inline) => self.place_inline(session, dir, name, entry, inline),
                None => self.open_sink(session, dir, &place, entry, done),
            },
        }
    }

    pub(super) fn make_dir(
        &mut self,
        session: SessionKey,
        parent: Arc<DirHandle>,
        name: &[u8],
        entry: BeginEntry,
    ) -> Result<(), StoreError> {
        // Ours to write into until its end comes, whatever its mode will be then.
        let preserved = self.session(session).preserve.new_mode.is_none();
        let mode = if preserved { (entry.meta.mode & 0o777) | 0o700 } else { 0o777 };
        let fail = |e: io::Error| from_io(&entry.path, "cannot be made", &e);
        if !parent.make_dir(name, mode).map_err(fail)? {
            let stat = parent.stat(name).map_err(fail)?;
            if stat.kind != FileType::Directory {
                let why = "a file stands where a directory is needed; rename one of them";
                return Err(wrong_kind(&entry.path, why));
            }
        }
        self.batch.add(session, entry.file, entry.path, What::Made { parent }, 0);
        Ok(())
    }

    pub(super) fn place_link(
        &mut self,
        session: SessionKey,
        dir: Arc<DirHandle>,
        name: &[u8],
        entry: BeginEntry,
    ) -> Result<(), StoreError> {
        if entry.target.is_empty() || entry.target.contains(&0) {
            return Err(forbidden(&entry.path, "is a link with an empty target or a NUL byte in it"));
        }
        if self.session(session).continued && dir.read_link(name).is_ok_and(|target| target == entry.target) {
            self.batch.add(session, entry.file, entry.path, What::Made { parent: dir }, 0);
            return Ok(());
        }
        let overwrite = self.overwrite(session);
        may_place(&dir, name, overwrite, &entry.path)?;
        let fail = |e: io::Error| from_io(&entry.path, "cannot be written", &e);
        let staged = Staged::create_link(dir, name, &entry.target, &mut self.temps).map_err(fail)?;
        // Not every file system keeps times of links: a link without is better than none.
        if self.session(session).preserve.mtime {
            let _ = staged.set_link_times(&entry.meta);
        }
        let what = What::Publish { staged, handle: None, locked: false, overwrite, digest: None };
        self.batch.add(session, entry.file, entry.path, what, 0);
        Ok(())
    }

    pub(super) fn place_inline(
        &mut self,
        session: SessionKey,
        dir: Arc<DirHandle>,
        name: &[u8],
        entry: BeginEntry,
        inline: Inline,
    ) -> Result<(), StoreError> {
        let digest = sha256(&inline.data);
        if digest != inline.sha256 || inline.data.len() as u64 != entry.size {
            return Err(digest_mismatch(&entry.path));
        }
        if let Some(standing) = self.standing(session, &dir, name, &entry)?
            && standing.has_digest(&digest).map_err(|e| from_io(&entry.path, "cannot be read", &e))?
        {
            self.batch.add(session, entry.file, entry.path, What::Same { parent: dir, digest }, 0);
            return Ok(());
        }
        let overwrite = self.overwrite(session);
        may_place(&dir, name, overwrite, &entry.path)?;
        self.charge((session, entry.file), entry.size, (&dir, name, 0), &entry.path)?;
        let fail = |e: io::Error| from_io(&entry.path, "cannot be written", &e);
        let (staged, file) = Staged::create(dir, name, &mut self.temps).map_err(fail)?;
        let preserve = self.session(session).preserve;
        let written =
            write_all_at(&*file, 0, &inline.data).and_then(|()| set_meta(&*file, &entry.meta, preserve));
        if let Err(error) = written {
            staged.discard();
            return Err(fail(error));
        }
        let what =
            What::Publish { staged, handle: Some(file), locked: false, overwrite, digest: Some(digest) };
        self.batch.add(session, entry.file, entry.path, what, inline.data.len() as u64);
        Ok(())
    }

    pub(super) fn open_sink(
        &mut self,
        session: SessionKey,
        dir: Arc<DirHandle>,
        place: &[u8],
        entry: BeginEntry,
        done: &mut Answers,
    ) -> Result<(), StoreError> {
        let shown = entry.path.clone();
        if entry.chunk_size == 0 || entry.chunk_size > MAX_CHUNK_SIZE {
            return Err(forbidden(&shown, "was announced with an impossible chunk size"));
        }
        if self.session(session).sinks.get(entry.file).is_some() {
            return Err(busy(&shown));
        }
        let name = split_last(place).1;
        if let Some(standing) = self.standing(session, &dir, name, &entry)? {
            self.session(session).standing.insert(entry.file, standing);
            return Ok(());
        }
        let overwrite = self.overwrite(session);
        let target = self.session(session).target.as_ref();
        let scratch = target.is_some_and(|t| t.plan.space == Space::Scratch);
        let no_resume = target.is_some_and(|t| t.plan.no_resume);
        let target = target.map_or(0, |t| t.id);
        may_place(&dir, name, overwrite, &shown)?;
        let preserve = self.session(session).preserve;
        if entry.size == UNKNOWN_SIZE {
            let fail = |e: io::Error| from_io(&shown, "cannot be written", &e);
            let staged = Staged::create(dir, name, &mut self.temps).map_err(fail)?;
            // Until its end is known, all its chunks are whole ones.
            let size = MAX_FILE_BYTES / u64::from(entry.chunk_size) * u64::from(entry.chunk_size);
            let layout = Layout { size, chunk_size: entry.chunk_size };
            let names = (shown, target, place.to_vec());
            let unfinished = (None, RangeSet::default());
            let sink = Sink::new(staged, unfinished, layout, names, entry.meta, overwrite)
                .into_stream()
                .preserving(preserve);
            self.session(session).sinks.insert(entry.file, sink);
            return Ok(());
        }
        let layout = Layout { size: entry.size, chunk_size: entry.chunk_size };
        let identity = Identity::new(name, layout, &entry.meta);
        self.take_over(session, &dir, name, identity, done);
        // Where the file system knows no locks, at least the sessions of this process are kept apart.
        if self.sessions.values().any(|state| state.sinks.iter().any(|(_, sink)| sink.is_at(&dir, name))) {
            return Err(busy(&shown));
        }
        let (staged, file) = self.open_or_claim(dir, name, &shown, identity)?;
        let there = file.stat().map_or(0, |stat| disk_bytes(&stat));
        let dir = Arc::clone(&staged.dir);
        if let Err(error) = self.charge((session, entry.file), entry.size, (&dir, name, there), &shown) {
            if there == 0 {
                staged.discard();
            }
            return Err(error);
        }
        // A copy in scratch space goes with its session: there is nothing to come back to.
        let journal =
            if scratch { None } else { Some(Journal::open(&staged.dir, name, identity, no_resume)) };
        let journal = match journal.transpose() {
            Ok(journal) => journal,
            // What came before is worth more than this attempt.
            Err(error)
                if there > 0
                    && !matches!(kind_of(&error), StoreErrorKind::NoSpace | StoreErrorKind::Quota) =>
            {
                self.uncharge((session, entry.file), there);
                return Err(from_io(&shown, "has a journal that cannot be read", &error));
            }
            Err(_) => None,
        };
        let (journal, have) = match journal {
            Some((journal, true)) => {
                let have = verified(&*file, &journal, layout);
                (Some(journal), have)
            }
            Some((journal, false)) => (Some(journal), RangeSet::default()),
            None => (None, RangeSet::default()),
        };
        let cut = if have.is_empty() { 0 } else { entry.size };
        let fits = file.stat().is_ok_and(|stat| stat.size <= cut);
        let cut = if fits { Ok(()) } else { file.truncate(cut) };
        let ready = cut
            .map_err(|e| from_io(&shown, "cannot be written", &e))
            .and_then(|()| reserve(&*file, entry.size, self.options.preallocate, &shown));
        if let Err(error) = ready {
            // What is there already is worth the room that it takes: it waits until there is more.
            let left = if have.is_empty() {
                staged.discard();
                0
            } else {
                file.stat().map_or(0, |stat| disk_bytes(&stat))
            };
            self.uncharge((session, entry.file), left);
            return Err(error);
        }
        let sink = Sink::new(
            (staged, file),
            (journal, have),
            layout,
            (shown, target, place.to_vec()),
            entry.meta,
            overwrite,
        )
        .preserving(preserve);
        self.session(session).sinks.insert(entry.file, sink);
        Ok(())
    }

    /// The same file once more, in another session: its first sender is most likely no more, though nobody has
    /// noticed yet, and its partial would stay locked until then. The later session goes on with it. Whoever sends
    /// something else to the same name has to wait.
    pub(super) fn take_over(
        &mut self,
        session: SessionKey,
        dir: &DirHandle,
        name: &[u8],
        identity: Identity,
        done: &mut Answers,
    ) {
        let holder =
            self.sessions.iter().filter(|(other, _)| **other != session).find_map(|(other, state)| {
                let sink = state.sinks.iter().find(|(_, sink)| sink.is_for(dir, name, identity));
                sink.map(|(file, _)| (*other, file))
            });
        if let Some((other, file)) = holder
            && let Some(sink) = self.session(other).sinks.remove(file)
        {
            done.push((other, Done::SinkFailed { file, error: busy(&sink.shown) }));
            self.let_go(other, file, sink);
        }
    }

    pub(super) fn overwrite(&mut self, session: SessionKey) -> Overwrite {
        self.session(session).target.as_ref().map(|t| t.plan.overwrite).unwrap_or_default()
    }
}
