//! Role: the store on disk: runs the jobs of all sessions against one directory, the jail.
//! Owns: the jail, the scratch area, the batch, and per session its walk, sources, sinks and destination.
//! Implements: docs/PROTOCOL.md, "Files".

use super::batch::{Batch, What};
use super::dest::{DestPlan, Space, checked};
use super::digest::{Layout, RangeSet, sha256};
use super::error::{busy, digest_mismatch, exists, forbidden, from_io, refuse, wrong_kind};
use super::jail::{
    DirCache, DirHandle, Jail, Preserve, ensure_below, file_type, remove_tree, retry, times_of,
};
use super::journal::{Identity, Journal};
use super::names::{check_relative, is_below, split_first, split_last};
use super::neighbours::Neighbours;
use super::partial::{Staged, TempNames, may_place, reserve};
use super::quota::{Quota, disk_bytes};
use super::scratch::Scratch;
use super::sink::{Sink, set_meta, verified, write_all_at};
use super::source::{OpenSources, Source, StreamStop};
use super::standing::Standing;
use super::sweep::Sweep;
use super::walk::{Places, Walk};
use super::{SessionKey, Store, may_begin_session};
use crate::codec::chunk::Encoder;
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::filter::Filter;
use crate::transfer::job::{
    BeginEntry, Dest, Done, EncodeBudget, EntryKind, FileId, Inline, Job, Meta, StoreError, StoreErrorKind,
    UNKNOWN_SIZE,
};
use crate::transfer::sync::{SyncOptions, Verdict};
use crate::wire::MAX_FILE_BYTES;
use delete::Removal;
use offers::Comparison;
use rustix::fs::FileType;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

mod delete;
mod offers;
mod yielding;

/// How a store on disk behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOptions {
    /// Set aside the whole space of a big file before it comes (fallocate). A file that cannot fit is refused early
    /// in any case; this also keeps others from taking the space meanwhile, and costs time up front.
    pub preallocate: bool,
    /// Partials, journals and temporary files that did not change for so long are removed, wherever they are in
    /// the directory, unless a transfer holds them. `None`: they stay until their transfer is run again.
    pub partial_ttl: Option<Duration>,
    /// Files that would take the directory above this many bytes are refused; partials count.
    pub quota_bytes: Option<u64>,
}

/// Entries that a sweep for stale partials looks at before the store is first used: some 50 ms.
const FIRST_SWEEP: usize = 20_000;
/// Entries that it looks at whenever the store is idle: about a millisecond.
const IDLE_SWEEP: usize = 500;

#[allow(clippy::disallowed_methods, reason = "the age of files is told by the clock of the file system")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be used as the directory for transfers: {source}; name an existing directory")]
pub struct OpenError {
    /// As the user named it.
    path: String,
    /// What the system said.
    source: io::Error,
}

/// A destination in use.
#[derive(Debug)]
struct Target {
    plan: DestPlan,
    base: Arc<DirHandle>,
    /// Tells its directories apart in the cache.
    id: u64,
    /// A dry run into a directory that is not there: `base` is not to be used.
    missing: bool,
}

/// A directory whose end has come while files below it are still open.
#[derive(Debug)]
struct WaitingEnd {
    file: FileId,
    /// The destination that was set when it came: its number and directory.
    target: u64,
    base: Arc<DirHandle>,
    place: Vec<u8>,
    shown: Vec<u8>,
    meta: Meta,
}

#[derive(Debug, Default)]
struct SessionState {
    walk: Walk,
    sources: HashMap<FileId, Source>,
    target: Option<Target>,
    sinks: HashMap<FileId, Sink>,
    waiting: Vec<WaitingEnd>,
    /// An earlier session of the same request may have brought files already.
    continued: bool,
    /// Such files, until their digest comes.
    standing: HashMap<FileId, Standing>,
    options: SyncOptions,
    comparing: HashMap<FileId, Comparison>,
    removal: Removal,
    preserve: Preserve,
    /// Scratch trees that it made.
    scratch: Vec<Vec<u8>>,
}

/// A store on disk. See the module's head.
#[derive(Debug)]
pub struct FileStore {
    jail: Jail,
    options: FileOptions,
    scratch: Scratch,
    temps: TempNames,
    sessions: HashMap<SessionKey, SessionState>,
    open_sources: OpenSources,
    encoder: Encoder,
    dirs: DirCache,
    batch: Batch,
    sweep: Option<Sweep>,
    quota: Option<Quota>,
    neighbours: Option<Arc<Neighbours>>,
    next_target: u64,
}

/// Measures the compressors.
#[allow(clippy::disallowed_methods)] // The store is where the real clock is; the codec gets it as an argument.
fn clock() -> Instant {
    Instant::now()
}

/// Answers of one job.
type Answers = Vec<(SessionKey, Done)>;

impl FileStore {
    /// Opens a store for `dir`, beneath which every path of a peer is resolved.
    ///
    /// # Errors
    /// `dir` is not an existing directory, cannot be opened, or the system gives no random numbers.
    pub fn open(dir: &Path, options: FileOptions) -> Result<Self, OpenError> {
        let fail = |source| OpenError { path: dir.display().to_string(), source };
        let jail = Jail::open(dir).map_err(fail)?;
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|e| fail(io::Error::other(e.to_string())))?;
        // What a killed process left is in nobody's way: a directory that cannot be cleaned can still be served.
        if let Err(error) = Scratch::remove_stale(&jail) {
            log::debug!("stale scratch directories could not be looked for: {error}");
        }
        let quota = options.quota_bytes.map(|limit| Quota::new(limit, &jail, clock()));
        let temps = TempNames::new(nonce);
        let mut sweep = options.partial_ttl.map(|ttl| Sweep::new(ttl, temps.prefix().to_vec()));
        if let Some(sweep) = &mut sweep {
            sweep.step(&jail, wall_clock(), FIRST_SWEEP);
        }
        Ok(Self {
            jail,
            options,
            scratch: Scratch::new(nonce),
            temps,
            sweep,
            quota,
            neighbours: None,
            sessions: HashMap::new(),
            open_sources: OpenSources::default(),
            encoder: Encoder::new(clock),
            dirs: DirCache::default(),
            batch: Batch::default(),
            next_target: 0,
        })
    }

    /// Bytes that count against the quota, if there is one.
    #[cfg(test)]
    pub(crate) fn quota_used_bytes(&self) -> Option<u64> {
        self.quota.as_ref().map(Quota::used_bytes)
    }

    fn session(&mut self, session: SessionKey) -> &mut SessionState {
        self.sessions.entry(session).or_default()
    }
}

impl Store for FileStore {
    fn run(&mut self, session: SessionKey, job: Job, done: &mut Answers) {
        if !self.sessions.contains_key(&session) && !may_begin_session(&job) {
            return;
        }
        if let Some(file) = self.standing_of(session, &job) {
            done.extend(Standing::answer(&job).map(|answer| (session, answer)));
            if let Job::Abort { .. } = job {
                self.session(session).standing.remove(&file);
            }
            if !matches!(job, Job::Commit { .. }) {
                return;
            }
        }
        match job {
            Job::AddRoot(root) => self.session(session).walk.add_root(root),
            Job::NextEntries { max_entries, inline_max_bytes, list_only } => {
                let state = self.sessions.entry(session).or_default();
                let places = Places { jail: &self.jail, scratch: &self.scratch };
                let (entries, end) = state.walk.next(&places, max_entries, inline_max_bytes, list_only);
                done.push((session, Done::Entries { entries, end }));
            }
            Job::OpenSource { file, root, below, size, meta, chunk_size, compress } => {
                let state = self.session(session);
                let shown = state.walk.shown(root, &below);
                let layout = Layout { size, chunk_size: chunk_size.clamp(1, MAX_CHUNK_SIZE) };
                state.sources.insert(file, Source::new((root, below, shown), layout, meta, compress));
            }
            Job::ReadChunk { file, chunk, budget } => self.read_chunk(session, (file, chunk), budget, done),
            Job::FinishSource { file } => self.finish_source(session, file, done),
            Job::HashSource { file } => self.hash_source(session, file, done),
            Job::FindEntry { file, root, below, inline_max_bytes } => {
                let result = self.find_entry(session, (root, below), inline_max_bytes);
                done.push((session, Done::Found { file, result }));
            }
            Job::SetOptions(options) => {
                let state = self.session(session);
                // It has been compiled before, by whoever asked for it; nothing is sent if it cannot be.
                state.walk.set_filter(Filter::new(&options.patterns));
                state.preserve = Preserve::new(options.no_mode, options.no_mtime);
                state.options = *options;
            }
            Job::Offer(offer) => self.offer(session, *offer, done),
            Job::Compare { file } => self.compare(session, file, done),
            Job::CloseSource { file } => {
                self.session(session).sources.remove(&file);
                self.open_sources.remove(session, file);
            }
            Job::SetDest(dest) => {
                let result = self.set_dest(session, &dest);
                done.push((session, Done::DestSet(result)));
            }
            Job::Continue => self.session(session).continued = true,
            Job::Begin(entry) => self.begin(session, *entry, done),
            Job::Write { file, offset, data } => {
                let answer = |()| Done::Written { file, bytes: data.len() as u64 };
                self.with_sink(session, file, done, |sink| sink.write(offset, &data).map(answer));
            }
            Job::FinishChunk { file, chunk, crc32 } => {
                let answer = |ok| Done::ChunkStored { file, chunk, ok };
                self.with_sink(session, file, done, |sink| sink.finish_chunk(chunk, crc32).map(answer));
            }
            Job::WriteEncoded { file, chunk, codec, crc32, data } => {
                let answer = |ok| Done::ChunkStored { file, chunk, ok };
                self.with_sink(session, file, done, |sink| {
                    sink.write_encoded(chunk, codec, crc32, &data).map(answer)
                });
            }
            Job::SetSize { file, bytes } => {
                if let Some(sink) = self.session(session).sinks.get_mut(&file) {
                    sink.set_size(bytes);
                }
            }
            Job::Commit { file, sha256 } => self.commit(session, file, sha256, done),
            Job::Abort { file, keep_partial } => self.abort(session, file, keep_partial),
            Job::RemoveExtra => self.remove_extra(session, done),
            Job::RemoveScratch(path) => self.remove_scratch(&path),
            Job::EndSession => self.end_session(session),
        }
        if self.batch.is_full() {
            self.batch.flush(true, done);
        }
        self.settle_quota(done);
        self.yield_claimed(done);
    }

    fn idle(&mut self, done: &mut Answers) {
        self.yield_claimed(done);
        self.batch.flush(false, done);
        self.settle_quota(done);
        if let Some(sweep) = &mut self.sweep {
            sweep.step(&self.jail, wall_clock(), IDLE_SWEEP);
        }
    }

    fn look_within(&self) -> Option<Duration> {
        self.claims_due()
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        let sessions: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.end_session(session);
        }
        self.scratch.remove(&self.jail);
    }
}

/// Sending.
impl FileStore {
    /// The source, with its file open.
    fn open_source(&mut self, session: SessionKey, file: FileId) -> Option<Result<&mut Source, StoreError>> {
        let state = self.sessions.get_mut(&session)?;
        let source = state.sources.get_mut(&file)?;
        if !source.is_open() {
            let places = Places { jail: &self.jail, scratch: &self.scratch };
            let shown = state.walk.shown(source.root, &source.below);
            let opened = state.walk.open_file(&places, source.root, &source.below, &shown);
            if let Err(error) = opened.and_then(|file| source.set_file(file)) {
                return Some(Err(error));
            }
            if let Some((s, f)) = self.open_sources.push(session, file)
                && let Some(old) = self.sessions.get_mut(&s).and_then(|state| state.sources.get_mut(&f))
            {
                old.close();
            }
        }
        self.sessions.get_mut(&session)?.sources.get_mut(&file).map(Ok)
    }

    fn read_chunk(
        &mut self,
        session: SessionKey,
        (file, chunk): (FileId, u64),
        budget: EncodeBudget,
        done: &mut Answers,
    ) {
        let sharers = self.sessions.values().filter(|s| !s.sources.is_empty()).count();
        let mut encoder = std::mem::take(&mut self.encoder);
        let Some(source) = self.open_source(session, file) else {
            self.encoder = encoder;
            return;
        };
        let result = source.and_then(|source| match source.is_stream() {
            true => source.stream_chunk(chunk, &mut encoder, (budget, sharers)),
            false => source.chunk(chunk, &mut encoder, (budget, sharers)).map(Ok),
        });
        self.encoder = encoder;
        let answer = match result {
            Ok(Err(StreamStop::Ended(bytes))) => Done::StreamEnded { file, bytes },
            Ok(Err(StreamStop::Waits)) => Done::StreamWaits { file, chunk },
            Ok(Ok((plain_bytes, encoded))) => Done::Chunk {
                file,
                chunk,
                codec: encoded.codec,
                plain_bytes,
                crc32: encoded.crc32,
                data: encoded.data,
            },
            Err(error) => Done::SourceFailed { file, read: true, error },
        };
        done.push((session, answer));
    }

    fn finish_source(&mut self, session: SessionKey, file: FileId, done: &mut Answers) {
        let Some(source) = self.open_source(session, file) else { return };
        let result = source.and_then(|source| {
            let result = source.finish();
            // Chunks may be asked for again, rarely: then it is opened again.
            source.close();
            result
        });
        self.open_sources.remove(session, file);
        let answer = match result {
            Ok(sha256) => Done::SourceDigest { file, sha256 },
            Err(error) => Done::SourceFailed { file, read: false, error },
        };
        done.push((session, answer));
    }
}

/// Receiving.
impl FileStore {
    fn set_dest(&mut self, session: SessionKey, dest: &Dest) -> Result<(), StoreError> {
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

    fn begin(&mut self, session: SessionKey, entry: BeginEntry, done: &mut Answers) {
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
                let have = match state.sinks.get(&file) {
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

    fn begin_entry(
        &mut self,
        session: SessionKey,
        mut entry: BeginEntry,
        done: &mut Answers,
    ) -> Result<(), StoreError> {
        let state = self.sessions.entry(session).or_default();
        let Some(target) = &mut state.target else {
            return Err(refuse(StoreErrorKind::Io, &entry.path, "came before its destination was set"));
        };
        let place = target.plan.place(&entry.path, entry.kind)?;
        if entry.kind == EntryKind::DirEnd {
            let (target, base) = (target.id, Arc::clone(&target.base));
            let end =
                WaitingEnd { file: entry.file, target, base, place, shown: entry.path, meta: entry.meta };
            state.waiting.push(end);
            self.release_ends(session);
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
        match entry.kind {
            EntryKind::Dir => self.make_dir(session, dir, name, entry),
            EntryKind::Symlink => self.place_link(session, dir, name, entry),
            _ => match entry.inline.take() {
                Some(inline) => self.place_inline(session, dir, name, entry, inline),
                None => self.open_sink(session, dir, &place, entry, done),
            },
        }
    }

    fn make_dir(
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
            if file_type(&stat) != FileType::Directory {
                let why = "a file stands where a directory is needed; rename one of them";
                return Err(wrong_kind(&entry.path, why));
            }
        }
        self.batch.add(session, entry.file, entry.path, What::Made { parent }, 0);
        Ok(())
    }

    fn place_link(
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
            let _ = staged.set_link_times(&times_of(&entry.meta));
        }
        let what = What::Publish { staged, handle: None, locked: false, overwrite, digest: None };
        self.batch.add(session, entry.file, entry.path, what, 0);
        Ok(())
    }

    fn place_inline(
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
        if let Some(standing) = self.standing(session, &dir, name, &entry)
            && standing.has_digest(&digest).unwrap_or(false)
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
            write_all_at(&file, 0, &inline.data).and_then(|()| set_meta(&file, &entry.meta, preserve));
        if let Err(error) = written {
            staged.discard();
            return Err(fail(error));
        }
        let what =
            What::Publish { staged, handle: Some(file), locked: false, overwrite, digest: Some(digest) };
        self.batch.add(session, entry.file, entry.path, what, inline.data.len() as u64);
        Ok(())
    }

    fn open_sink(
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
        if self.session(session).sinks.contains_key(&entry.file) {
            return Err(busy(&shown));
        }
        let name = split_last(place).1;
        if let Some(standing) = self.standing(session, &dir, name, &entry) {
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
        let (staged, file) = self.open_or_claim(dir, name, &shown, identity)?;
        let there = rustix::fs::fstat(&file).map_or(0, |stat| disk_bytes(&stat));
        let dir = Arc::clone(&staged.dir);
        if let Err(error) = self.charge((session, entry.file), entry.size, (&dir, name, there), &shown) {
            if there == 0 {
                staged.discard();
            }
            return Err(error);
        }
        // A copy in scratch space goes with its session: there is nothing to come back to.
        let journal = if scratch { None } else { Journal::open(&staged.dir, name, identity, no_resume).ok() };
        let (journal, have) = match journal {
            Some((journal, true)) => {
                let have = verified(&file, &journal, layout);
                (Some(journal), have)
            }
            Some((journal, false)) => (Some(journal), RangeSet::default()),
            None => (None, RangeSet::default()),
        };
        let cut = if have.is_empty() { 0 } else { entry.size };
        let fits = rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size as u64 <= cut);
        let cut = if fits { Ok(()) } else { retry(|| rustix::fs::ftruncate(&file, cut)) };
        let ready = cut
            .map_err(|e| from_io(&shown, "cannot be written", &e))
            .and_then(|()| reserve(&file, entry.size, self.options.preallocate, &shown));
        if let Err(error) = ready {
            // What is there already is worth the room that it takes: it waits until there is more.
            if have.is_empty() {
                staged.discard();
            }
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
    fn take_over(
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
                sink.map(|(file, _)| (*other, *file))
            });
        if let Some((other, file)) = holder
            && let Some(sink) = self.session(other).sinks.remove(&file)
        {
            done.push((other, Done::SinkFailed { file, error: busy(&sink.shown) }));
            self.uncharge((other, file), sink.disk_bytes());
            drop(sink);
            self.release_ends(other);
        }
    }

    fn overwrite(&mut self, session: SessionKey) -> crate::transfer::job::Overwrite {
        self.session(session).target.as_ref().map(|t| t.plan.overwrite).unwrap_or_default()
    }

    /// Runs one step of a file being received; if it fails, the file is dropped, and further jobs for it ignored.
    fn with_sink(
        &mut self,
        session: SessionKey,
        file: FileId,
        done: &mut Answers,
        step: impl FnOnce(&mut Sink) -> Result<Done, StoreError>,
    ) {
        let state = self.sessions.entry(session).or_default();
        let Some(sink) = state.sinks.get_mut(&file) else { return };
        let mut result = step(sink);
        if let Some(quota) = self.quota.as_mut().filter(|_| sink.is_stream())
            && !quota.grow(session, file, sink.disk_bytes())
            && result.is_ok()
        {
            let why = "takes more than the server's quota leaves; remove something there first";
            result = Err(refuse(StoreErrorKind::Quota, &sink.shown, why));
        }
        match result {
            Ok(answer) => done.push((session, answer)),
            Err(error) => {
                // A later run goes on with what is there, except with that of a peer that broke the rules.
                let mut left = 0;
                if let Some(sink) = state.sinks.remove(&file) {
                    if error.kind == StoreErrorKind::Forbidden || sink.is_stream() {
                        sink.discard();
                    } else {
                        left = sink.disk_bytes();
                    }
                }
                self.uncharge((session, file), left);
                done.push((session, Done::SinkFailed { file, error }));
                self.release_ends(session);
            }
        }
    }

    /// The file of a job that is about one that stands there already.
    fn standing_of(&self, session: SessionKey, job: &Job) -> Option<FileId> {
        let file = match job {
            Job::Write { file, .. }
            | Job::FinishChunk { file, .. }
            | Job::WriteEncoded { file, .. }
            | Job::Commit { file, .. }
            | Job::Abort { file, .. } => file,
            _ => return None,
        };
        let state = self.sessions.get(&session)?;
        state.standing.contains_key(file).then_some(*file)
    }

    /// What stands under this name already, if an earlier session of the same request may have brought it.
    fn standing(
        &mut self,
        session: SessionKey,
        dir: &Arc<DirHandle>,
        name: &[u8],
        entry: &BeginEntry,
    ) -> Option<Standing> {
        let continued = self.session(session).continued;
        continued.then(|| Standing::find(dir, name, (entry.size, &entry.meta), &entry.path)).flatten()
    }

    fn commit(&mut self, session: SessionKey, file: FileId, sha256: [u8; 32], done: &mut Answers) {
        if let Some(standing) = self.session(session).standing.remove(&file) {
            let error = match standing.has_digest(&sha256) {
                Ok(true) => {
                    // It may have got its name in the last moment of a server that was killed.
                    let what = What::Same { parent: standing.dir, digest: sha256 };
                    return self.batch.add(session, file, standing.shown, what, 0);
                }
                Ok(false) => exists(&standing.shown),
                Err(error) => from_io(&standing.shown, "cannot be read", &error),
            };
            return done.push((session, Done::Committed { file, result: Err(error) }));
        }
        let Some(mut sink) = self.session(session).sinks.remove(&file) else { return };
        match sink.seal(sha256) {
            Ok(()) => {
                let (overwrite, shown) = (sink.overwrite, sink.shown.clone());
                let (staged, handle) = sink.into_staged();
                let digest = Some(sha256);
                let what = What::Publish { staged, handle: Some(handle), locked: true, overwrite, digest };
                self.batch.add(session, file, shown, what, 0);
            }
            Err(error) => {
                let bad =
                    if error.kind == StoreErrorKind::DigestMismatch { sink.recheck() } else { Vec::new() };
                if !bad.is_empty() {
                    log::warn!("{} chunks of a file changed on the disk: they come again", bad.len());
                    let again = |chunk| (session, Done::ChunkStored { file, chunk, ok: false });
                    done.extend(bad.into_iter().map(again));
                    self.session(session).sinks.insert(file, sink);
                    return;
                }
                // With a wrong digest there is no telling what is wrong: the next run is to be clean. When the disk
                // has failed, what it can still read is worth keeping.
                if error.kind == StoreErrorKind::DigestMismatch || !sink.is_complete() || sink.is_stream() {
                    sink.discard();
                }
                done.push((session, Done::Committed { file, result: Err(error) }));
            }
        }
        self.release_ends(session);
    }

    fn abort(&mut self, session: SessionKey, file: FileId, keep_partial: bool) {
        if let Some(sink) = self.session(session).sinks.remove(&file) {
            let keep_partial = keep_partial && !sink.is_stream();
            let left = if keep_partial { sink.disk_bytes() } else { 0 };
            if !keep_partial {
                sink.discard();
            }
            self.uncharge((session, file), left);
        }
        self.release_ends(session);
    }

    /// Asks the quota for the room that a file takes; `there`: bytes of it that an earlier run has left.
    fn charge(
        &mut self,
        (session, file): (SessionKey, FileId),
        size: u64,
        (dir, name, there): (&DirHandle, &[u8], u64),
        shown: &[u8],
    ) -> Result<(), StoreError> {
        let Some(quota) = &mut self.quota else { return Ok(()) };
        let state = self.sessions.get(&session);
        let scratch = state.and_then(|s| s.target.as_ref()).is_some_and(|t| t.plan.space == Space::Scratch);
        let replaced = dir.stat(name).map_or(0, |stat| disk_bytes(&stat));
        quota.begin((session, file), size, (there, replaced), (scratch, shown), (&self.jail, clock()))
    }

    /// A file that was charged does not go on; `left` bytes of it stay.
    fn uncharge(&mut self, (session, file): (SessionKey, FileId), left: u64) {
        if let Some(quota) = &mut self.quota {
            quota.dropped(session, file, left);
        }
    }

    /// Tells the quota what has become of files.
    fn settle_quota(&mut self, done: &Answers) {
        let Some(quota) = &mut self.quota else { return };
        for (session, answer) in done {
            match answer {
                Done::Committed { file, result: Ok(_) } => quota.placed(*session, *file),
                Done::Committed { file, .. } | Done::Began { file, result: Err(_) } => {
                    quota.dropped(*session, *file, 0);
                }
                _ => {}
            }
        }
    }

    /// Puts into the batch the directory ends below which no file is open any more. They come after everything
    /// inside them that is in the batch already, since a batch keeps its order.
    fn release_ends(&mut self, session: SessionKey) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let waiting = std::mem::take(&mut state.waiting);
        for end in waiting {
            let blocks = |sink: &Sink| sink.target == end.target && is_below(&sink.place, &end.place);
            if state.sinks.values().any(blocks) {
                state.waiting.push(end);
                continue;
            }
            let (above, name) = split_last(&end.place);
            let parent = self.dirs.parent((end.target, &end.base), above, &end.shown, None);
            let (parent, below) = match parent {
                Ok(parent) => (parent, name.to_vec()),
                Err(_) => (end.base, end.place),
            };
            let what = What::End { parent, below, meta: end.meta, preserve: state.preserve };
            self.batch.add(session, end.file, end.shown, what, 0);
        }
    }

    fn remove_scratch(&mut self, path: &[u8]) {
        let Some(area) = self.scratch.existing() else { return };
        if check_relative(path, false).is_err() {
            return;
        }
        let (above, name) = split_last(path);
        let removed = area.open_dir_below(above).and_then(|dir| remove_tree(&dir, name));
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("an echo copy could not be removed: {error}");
        }
    }

    fn end_session(&mut self, session: SessionKey) {
        self.batch.drop_session(session);
        self.open_sources.remove_session(session);
        let Some(state) = self.sessions.remove(&session) else { return };
        if let Some(target) = &state.target {
            self.dirs.forget(Some(target.id));
        }
        for (file, sink) in &state.sinks {
            self.uncharge((session, *file), sink.disk_bytes());
        }
        // A stream cannot be gone on with.
        state.sinks.into_values().filter(Sink::is_stream).for_each(Sink::discard);
        for path in state.scratch {
            self.remove_scratch(&path);
        }
        if let Some(quota) = &mut self.quota {
            quota.end_session(session);
        }
    }
}
