//! Role: the store on disk: runs the jobs of all sessions against one directory, the jail.
//! Owns: the jail, the scratch area, the batch, and per session its walk, sources, sinks and destination.
//! Implements: docs/PROTOCOL.md, "Files".

use super::batch::Batch;
use super::buffers::Buffers;
use super::dest::DestPlan;
use super::digest::Layout;
use super::fs::Disk;
use super::fs::real::RealDisk;
use super::jail::{DirCache, DirHandle, Jail, Preserve};
use super::leftovers::Leftovers;
use super::neighbours::Neighbours;
use super::partial::TempNames;
use super::quota::Quota;
use super::scratch::Scratch;
use super::source::{OpenSources, Source};
use super::standing::Standing;
use super::sweep::Sweep;
use super::walk::{Places, Walk};
use super::{SessionKey, Store, may_begin_session};
use crate::codec::chunk::Encoder;
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::filter::Filter;
use crate::transfer::job::{Done, FileId, Job, Meta, StoreError};
use crate::transfer::sync::SyncOptions;
use delete::Removal;
use offers::Comparison;
use sinks::Sinks;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod begin;
mod delete;
mod finish;
mod offers;
mod room;
mod sinks;
mod sources;
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
    /// Why the destination cannot be used: what comes for it fails for the same reason.
    refused: Option<StoreError>,
    walk: Walk,
    sources: BTreeMap<FileId, Source>,
    target: Option<Target>,
    sinks: Sinks,
    /// An earlier session of the same request may have brought files already.
    continued: bool,
    /// Such files, until their digest comes.
    standing: BTreeMap<FileId, Standing>,
    options: SyncOptions,
    comparing: BTreeMap<FileId, Comparison>,
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
    sessions: BTreeMap<SessionKey, SessionState>,
    open_sources: OpenSources,
    encoder: Encoder,
    /// What chunks are read into.
    buffers: Buffers,
    dirs: DirCache,
    batch: Batch,
    sweep: Option<Sweep>,
    leftovers: Leftovers,
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
        let disk = RealDisk::open(dir).map_err(fail)?;
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|e| fail(io::Error::other(e.to_string())))?;
        Ok(Self::over(Box::new(disk), options, nonce, Encoder::new(clock)))
    }

    /// A store over any disk. `nonce` tells it apart from every other one that works in the same place.
    pub(crate) fn over(disk: Box<dyn Disk>, options: FileOptions, nonce: [u8; 8], encoder: Encoder) -> Self {
        let jail = Jail::over(disk);
        // What a killed process left is in nobody's way: a directory that cannot be cleaned can still be served.
        if let Err(error) = Scratch::remove_stale(&jail) {
            log::debug!("stale scratch directories could not be looked for: {error}");
        }
        let quota = options.quota_bytes.map(|limit| Quota::new(limit, &jail));
        let temps = TempNames::new(nonce);
        let mut sweep = options.partial_ttl.map(|ttl| Sweep::new(ttl, temps.prefix().to_vec()));
        if let Some(sweep) = &mut sweep {
            sweep.step(&jail, jail.wall_clock(), FIRST_SWEEP);
        }
        Self {
            jail,
            options,
            scratch: Scratch::new(nonce),
            temps,
            sweep,
            leftovers: Leftovers::default(),
            quota,
            neighbours: None,
            sessions: BTreeMap::new(),
            open_sources: OpenSources::default(),
            encoder,
            buffers: Buffers::default(),
            dirs: DirCache::default(),
            batch: Batch::default(),
            next_target: 0,
        }
    }

    /// Bytes that count against the quota, if there is one.
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
                self.session(session).refused = result.as_ref().err().cloned();
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
                if let Some(sink) = self.session(session).sinks.get_mut(file) {
                    sink.set_size(bytes);
                }
            }
            Job::Commit { file, sha256 } => self.commit(session, file, sha256, done),
            Job::Abort { file, keep_partial } => self.abort(session, file, keep_partial),
            Job::RemoveExtra => self.remove_extra(session, done),
            Job::RemoveScratch(path) => self.remove_scratch(&path),
            Job::EndSession => self.end_session(session),
        }
        self.batch.note_job();
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
            sweep.step(&self.jail, self.jail.wall_clock(), IDLE_SWEEP);
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
