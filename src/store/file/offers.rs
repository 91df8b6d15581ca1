//! Role: compares what is offered with what is there, and tells what a dry run would do.
//! Owns: nothing beyond `FileStore`; a `Comparison` is the state of one that takes several steps.
//! Implements: docs/PROTOCOL.md, "Offers".

use super::{Answers, FileStore};
use crate::store::SessionKey;
use crate::store::digest::{Layout, Sequential};
use crate::store::error::{exists, forbidden, from_io, refuse, wrong_kind};
use crate::store::fs::{File, FileOps, FileType, Stat};
use crate::store::jail::{DirHandle, permitted_mode};
use crate::store::names::split_last;
use crate::store::sink::read_exact_at;
use crate::store::walk::Places;
use crate::transfer::job::{
    BeginEntry, Done, EntryError, EntryKind, FileId, Meta, Overwrite, SourceEntry, StoreError, StoreErrorKind,
};
use crate::transfer::sync::{Compare, Offer, SyncOptions, Verdict};
use std::io;
use std::sync::Arc;

/// Bytes of a file that one job hashes: some 10 ms, so that no other session waits long.
pub(super) const HASH_STEP_BYTES: u64 = 8 << 20;
/// Bytes that are read at once for it.
const HASH_READ_BYTES: u32 = 256 << 10;

/// A file whose SHA-256 is being computed.
#[derive(Debug)]
pub(super) struct Comparison {
    file: File,
    layout: Layout,
    digest: Sequential,
    offer: Offer,
}

impl Comparison {
    /// Goes on for a while; `None`: there is more.
    fn step(&mut self) -> io::Result<Option<bool>> {
        let (mut left, mut buffer) = (HASH_STEP_BYTES, Vec::new());
        while let Some((offset, len)) = self.layout.extent(self.digest.next()) {
            if left == 0 {
                return Ok(None);
            }
            read_exact_at(&*self.file, offset, len, &mut buffer)?;
            self.digest.take(self.digest.next(), &buffer);
            left = left.saturating_sub(len as u64);
        }
        Ok(Some(Some(self.digest.value()) == self.offer.sha256))
    }
}

/// Times are equal if the seconds are and the nanoseconds too, or one side's file system keeps none.
pub(super) fn same_time(a: &Meta, b: &Meta) -> bool {
    a.mtime_s == b.mtime_s && (a.mtime_ns == b.mtime_ns || a.mtime_ns == 0 || b.mtime_ns == 0)
}

/// Gives a file that is equal the mode and time that it would have if it had been sent.
fn adjust(file: &dyn FileOps, have: &Meta, offer: &Offer, options: &SyncOptions) -> io::Result<()> {
    let mode = permitted_mode(&offer.meta);
    if !options.no_mode && permitted_mode(have) != mode {
        file.set_mode(mode)?;
    }
    if !options.no_mtime && !same_time(have, &offer.meta) {
        file.set_times(&offer.meta)?;
    }
    Ok(())
}

/// What is there, and where.
enum There {
    Nothing,
    Entry(Arc<DirHandle>, Vec<u8>, Stat),
}

impl FileStore {
    pub(super) fn offer(&mut self, session: SessionKey, offer: Offer, done: &mut Answers) {
        let file = offer.file;
        self.note_for_removal(session, &offer.path, EntryKind::File);
        let verdict = self.judge(session, offer, done).unwrap_or_else(Verdict::Refused);
        done.push((session, Done::Offered { file, verdict }));
    }

    fn judge(
        &mut self,
        session: SessionKey,
        offer: Offer,
        done: &mut Answers,
    ) -> Result<Verdict, StoreError> {
        let there = self.look_at(session, &offer.path, EntryKind::File, done)?;
        let There::Entry(dir, name, stat) = there else { return Ok(Verdict::Wanted) };
        let overwrite = self.overwrite(session);
        let differs = || match overwrite {
            Overwrite::Never => Err(exists(&offer.path)),
            Overwrite::Always => Ok(Verdict::Wanted),
        };
        let (have, size) = (stat.meta, stat.size);
        let regular = match stat.kind {
            FileType::Directory => {
                return Err(wrong_kind(&offer.path, "is a directory at the destination; rename one of them"));
            }
            kind => kind == FileType::RegularFile,
        };
        let state = self.session(session);
        let options = &state.options;
        match options.compare {
            Some(Compare::SizeAndTime) if regular && size == offer.size && same_time(&have, &offer.meta) => {
                let exact = options.dry_run
                    || options.no_mode
                    || permitted_mode(&have) == permitted_mode(&offer.meta)
                    || dir.open_file(&name).and_then(|f| adjust(&*f, &have, &offer, options)).is_ok();
                if exact { Ok(Verdict::Equal) } else { differs() }
            }
            Some(Compare::Digest) if regular && size == offer.size => {
                let Ok(file) = dir.open_file(&name) else { return differs() };
                let layout = Layout { size, chunk_size: HASH_READ_BYTES };
                let (digest, id) = (Sequential::default(), offer.file);
                state.comparing.insert(id, Comparison { file, layout, digest, offer });
                self.compare_step(session, id)
            }
            _ => differs(),
        }
    }

    /// Goes on with a comparison by digest.
    pub(super) fn compare(&mut self, session: SessionKey, file: FileId, done: &mut Answers) {
        if self.session(session).comparing.contains_key(&file) {
            let verdict = self.compare_step(session, file).unwrap_or_else(Verdict::Refused);
            done.push((session, Done::Offered { file, verdict }));
        }
    }

    fn compare_step(&mut self, session: SessionKey, file: FileId) -> Result<Verdict, StoreError> {
        let overwrite = self.overwrite(session);
        let state = self.session(session);
        let Some(mut c) = state.comparing.remove(&file) else { return Ok(Verdict::Wanted) };
        // What cannot be read is not equal.
        match c.step().unwrap_or(Some(false)) {
            None => {
                state.comparing.insert(file, c);
                Ok(Verdict::More)
            }
            Some(true) => {
                let adjusted = c.file.stat().and_then(|stat| {
                    if state.options.dry_run {
                        Ok(())
                    } else {
                        adjust(&*c.file, &stat.meta, &c.offer, &state.options)
                    }
                });
                // Equal it is all the same: whoever may not set its time will compare again next time.
                if let Err(error) = adjusted {
                    log::debug!("an equal file could not be given its mode and time: {error}");
                }
                Ok(Verdict::Equal)
            }
            Some(false) if overwrite == Overwrite::Never => Err(exists(&c.offer.path)),
            Some(false) => Ok(Verdict::Wanted),
        }
    }

    /// What stands where an entry would go; nothing is made on the way.
    fn look_at(
        &mut self,
        session: SessionKey,
        path: &[u8],
        kind: EntryKind,
        done: &mut Answers,
    ) -> Result<There, StoreError> {
        let state = self.sessions.entry(session).or_default();
        let Some(target) = &mut state.target else {
            return Err(refuse(StoreErrorKind::Io, path, "came before its destination was set"));
        };
        let place = target.plan.place(path, kind)?;
        if target.missing {
            return Ok(There::Nothing);
        }
        let (above, name) = split_last(&place);
        let dest = (target.id, &target.base);
        let mut parent = self.dirs.parent(dest, above, path, None);
        if self.batch.has_staged() && parent.as_ref().map_or(true, |dir| self.batch.holds(dir, name)) {
            self.batch.flush(true, done);
            parent = self.dirs.parent(dest, above, path, None);
        }
        let dir = match parent {
            Ok(dir) => dir,
            Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(There::Nothing),
            Err(e) => return Err(e),
        };
        match dir.stat(name) {
            Ok(stat) => Ok(There::Entry(dir, name.to_vec(), stat)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
            Err(e) => Err(from_io(path, "cannot be looked at", &e)),
        }
    }

    /// Whether a directory, its end or a link is there as it should be. `None`: it is to be made.
    pub(super) fn begin_compared(
        &mut self,
        session: SessionKey,
        entry: &BeginEntry,
        done: &mut Answers,
    ) -> Result<Option<Verdict>, StoreError> {
        let dry_run = self.session(session).options.dry_run;
        // A dry run has no use for the rest; the end of a directory sets only what differs.
        let otherwise = if dry_run { Some(Verdict::Wanted) } else { None };
        match entry.kind {
            EntryKind::DirEnd => return Ok(dry_run.then_some(Verdict::Equal)),
            EntryKind::File if dry_run => return Err(forbidden(&entry.path, "was sent in a dry run")),
            EntryKind::File => return Ok(None),
            EntryKind::Dir | EntryKind::Symlink => {}
        }
        let there = self.look_at(session, &entry.path, entry.kind, done)?;
        let There::Entry(dir, name, stat) = there else { return Ok(otherwise) };
        match (entry.kind, stat.kind) {
            (EntryKind::Dir, FileType::Directory) => Ok(Some(Verdict::Equal)),
            (EntryKind::Dir, _) => {
                let why = "a file stands where a directory is needed; rename one of them";
                Err(wrong_kind(&entry.path, why))
            }
            (_, FileType::Directory) => {
                Err(wrong_kind(&entry.path, "is a directory at the destination; rename one of them"))
            }
            (_, FileType::Symlink) if dir.read_link(&name).is_ok_and(|target| target == entry.target) => {
                Ok(Some(Verdict::Equal))
            }
            _ if self.overwrite(session) == Overwrite::Never => Err(exists(&entry.path)),
            _ => Ok(otherwise),
        }
    }

    /// An offered file as it is now.
    pub(super) fn find_entry(
        &mut self,
        session: SessionKey,
        (root, below): (u32, Vec<u8>),
        inline_max_bytes: u64,
    ) -> Result<SourceEntry, EntryError> {
        let state = self.sessions.entry(session).or_default();
        let places = Places { jail: &self.jail, scratch: &self.scratch };
        state.walk.find(&places, root, below, inline_max_bytes)
    }

    /// Goes on with the digest of a source.
    pub(super) fn hash_source(&mut self, session: SessionKey, file: FileId, done: &mut Answers) {
        let Some(source) = self.open_source(session, file) else { return };
        let result = source.and_then(|source| source.hash_step(HASH_STEP_BYTES));
        if result.as_ref().map_or(true, Option::is_some) {
            self.open_sources.remove(session, file);
        }
        done.push((session, Done::SourceHashed { file, result }));
    }
}
