//! Role: the receiving side of a transfer: manifest entries, chunk assembly, writes, results.
//! Owns: entries without a result, chunks in assembly, the bytes of this session that wait for the store.
//! Implements: docs/PROTOCOL.md, "Transfer", "Flow control".

use super::job::{
    BeginEntry, ChunkCodec, Dest, Done, EntryKind, FileId, Job, SourceEntry, StoreError, StoreErrorKind,
    UNKNOWN_SIZE,
};
use super::sender::{MAX_STREAMED, MAX_UNRESOLVED};
use crate::session::event::{Direction, Event};
use crate::session::refusal::{Refusal, Refusals};
use crate::wire::MAX_HAVE_RANGES;
use crate::wire::message::Message;
use incoming::{Assembly, Incoming};
use offers::Offers;
use removal::Removal;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use streams::most_of_stream;

mod assembly;
mod incoming;
mod offers;
mod removal;
mod streams;

/// Most chunks in assembly at once in one session; a sender holds its chunks in memory too, so an honest one has fewer.
pub const MAX_OPEN_CHUNKS: usize = 4096;
/// Segments that came before their manifest entry are kept up to this many bytes.
pub const MAX_EARLY_BYTES: usize = 2 << 20;
/// How often an entry's path is kept while it waits for the store: in its job, beside its chunks, for its event.
const PATH_COPIES: u64 = 3;
/// What one entry, chunk or early segment costs beside its bytes, for the budget.
const OVERHEAD_BYTES: u64 = 128;

/// Whether a segment could be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Taken, or not needed any more.
    Yes,
    /// No room now: treat its packet as not received; it will be repaired.
    NotNow,
    /// It contradicts the manifest.
    Violation(&'static str),
}

/// What may be received: the destination may hold more than what was asked for, such as the start-up files of a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whatever comes.
    Anything,
    /// Trees whose roots have these names.
    Roots(HashSet<Vec<u8>>),
    /// Files, right into the destination.
    PlainFiles,
}

impl Asked {
    fn covers(&self, e: &BeginEntry) -> bool {
        match self {
            Self::Anything => true,
            Self::Roots(names) => {
                // The entry itself, or a directory above it, is a root.
                let mut ends = e.path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
                ends.any(|end| names.contains(&e.path[..end])) || names.contains(&e.path)
            }
            Self::PlainFiles => e.kind == EntryKind::File && !e.path.contains(&b'/'),
        }
    }
}

/// What counts as a refusal among the ways in which a file can fail here.
fn refusal_of(kind: StoreErrorKind) -> Option<Refusal> {
    match kind {
        StoreErrorKind::Forbidden | StoreErrorKind::NameTooLong => Some(Refusal::Path),
        StoreErrorKind::Limit | StoreErrorKind::NoSpace | StoreErrorKind::Quota => Some(Refusal::Size),
        StoreErrorKind::DigestMismatch => Some(Refusal::Digest),
        _ => None,
    }
}

#[derive(Debug)]
struct Early {
    chunk: u64,
    offset: u32,
    generation: u32,
    encoded: Option<(ChunkCodec, u32)>,
    crc32: Option<u32>,
    data: Vec<u8>,
}

/// Figures of the receiving side.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReceiverCounters {
    /// File bytes announced.
    pub bytes_total: u64,
    /// File bytes stored.
    pub bytes_done: u64,
    /// Plain bytes of stored chunks.
    pub chunk_bytes_plain: u64,
    /// What they were on the wire.
    pub chunk_bytes_encoded: u64,
}

/// The receiving side of one session.
#[derive(Debug)]
pub struct Receiver {
    budget_bytes: u64,
    /// What all sessions of the process together may still reserve for chunks in assembly.
    assembly_left: u64,
    /// Listing: entries become events, nothing is stored.
    listing: bool,
    max_file_bytes: u64,
    asked: Asked,
    next_id: u64,
    entries: HashMap<u64, Incoming>,
    /// By file, so that an entry finds its own at once.
    early: BTreeMap<u64, Vec<Early>>,
    early_bytes: usize,
    join: Option<(FileId, u64, Vec<u8>)>,
    /// Bytes on their way to the store.
    queued_bytes: u64,
    /// Inline contents on their way to the store.
    inline_bytes: u64,
    /// Encoded chunks in assembly.
    reserved_bytes: u64,
    /// Those of `reserved_bytes` that have arrived.
    assembled_bytes: u64,
    open_chunks: usize,
    /// Stretches of bytes that have arrived of all chunks in assembly.
    gaps: usize,
    /// Entries with chunks: each is an open file.
    streamed: usize,
    /// Those of them that the store has not opened yet, oldest first.
    unopened: VecDeque<FileId>,
    manifest_end: bool,
    offers: Offers,
    removal: Removal,
    /// A server's: the client is told what was removed.
    tells_removal: bool,
    /// Entries that failed, here or at the source.
    failures: u64,
    counters: ReceiverCounters,
    refusals: Refusals,
    jobs: VecDeque<Job>,
    outbox: VecDeque<Message>,
    events: VecDeque<Event>,
}

impl Receiver {
    /// Nothing received. `budget_bytes`: this session's share of the receive budget.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            assembly_left: u64::MAX,
            listing: false,
            max_file_bytes: u64::MAX,
            asked: Asked::Anything,
            next_id: 0,
            entries: HashMap::new(),
            early: BTreeMap::new(),
            early_bytes: 0,
            join: None,
            queued_bytes: 0,
            inline_bytes: 0,
            reserved_bytes: 0,
            assembled_bytes: 0,
            open_chunks: 0,
            gaps: 0,
            refusals: Refusals::default(),
            streamed: 0,
            unopened: VecDeque::new(),
            manifest_end: false,
            offers: Offers::default(),
            removal: Removal::default(),
            tells_removal: false,
            failures: 0,
            counters: ReceiverCounters::default(),
            jobs: VecDeque::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Entries become `Event::Listed`.
    pub fn set_listing(&mut self) {
        self.listing = true;
    }

    /// Files above this are refused.
    pub fn set_max_file_bytes(&mut self, bytes: u64) {
        self.max_file_bytes = bytes;
    }

    /// What the other side may send; anything, if this is never called.
    pub fn set_asked(&mut self, asked: Asked) {
        self.asked = asked;
    }

    /// This session's share of the receive budget changed.
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget_bytes = bytes;
    }

    /// What all sessions of the process together may still reserve for chunks in assembly.
    pub fn set_assembly_left(&mut self, bytes: u64) {
        self.assembly_left = bytes;
    }

    /// Bytes reserved for chunks in assembly.
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    /// Where entries go; must precede them.
    pub fn set_dest(&mut self, dest: Dest) {
        self.jobs.push_back(Job::SetDest(dest));
    }

    /// What stands under its name already, and is the same, is done: an earlier session of this request has brought it.
    /// Must precede entries.
    pub fn set_continued(&mut self) {
        self.jobs.push_back(Job::Continue);
    }

    /// Next job for the store; joined writes are flushed when nothing else is left.
    pub fn poll_job(&mut self) -> Option<Job> {
        if self.jobs.is_empty() {
            self.flush_join();
        }
        self.jobs.pop_front()
    }

    /// Next message for the control stream.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.outbox.pop_front()
    }

    /// Next event for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Figures.
    pub fn counters(&self) -> ReceiverCounters {
        self.counters
    }

    /// Files that were refused, by reason.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Whether the manifest ended and every entry has its result.
    pub fn is_finished(&self) -> bool {
        self.manifest_end && self.entries.is_empty() && self.removal.is_settled()
    }

    /// Bytes of this session waiting in memory.
    pub fn used_bytes(&self) -> u64 {
        self.queued_bytes + self.inline_bytes + self.reserved_bytes + self.early_bytes as u64
    }

    /// Segment bytes that may be in flight towards us.
    pub fn window_bytes(&self) -> u64 {
        // What assembly has reserved and not received is room for exactly that.
        let awaited = self.reserved_bytes - self.assembled_bytes;
        self.budget_bytes.saturating_sub(self.used_bytes()).max(awaited)
    }

    /// The file that the store has been opening for longest, if it has opened none of those under way: what an earlier
    /// run has left of them is not known yet.
    pub fn opening(&self) -> Option<FileId> {
        self.unopened.front().copied().filter(|_| self.unopened.len() == self.streamed)
    }

    /// Whether manifest entries should wait: the store has enough inline contents to work on. Only what the store settles
    /// by itself may count here: digests, which files without a result wait for, come by the same stream.
    pub fn is_congested(&self) -> bool {
        self.inline_bytes > self.budget_bytes / 2
    }

    /// A message from the sender. `Err`: a protocol error.
    pub fn handle_message(&mut self, message: Message) -> Result<(), &'static str> {
        match message {
            Message::Entry(e) => self.on_entry(*e)?,
            Message::StreamEnd { file, bytes } => self.on_stream_end(file, bytes)?,
            Message::Offer(o) => self.on_offer(*o)?,
            Message::EntryFailed { path, error } => {
                self.failures += 1;
                self.events.push_back(Event::EntryFinished {
                    direction: Direction::Receiving,
                    file: FileId(u64::MAX),
                    path,
                    kind: EntryKind::File,
                    bytes: 0,
                    sha256: None,
                    error: Some(error),
                });
            }
            Message::ManifestEnd => self.manifest_end = true,
            Message::Digest { file, sha256 } => {
                if file.0 >= self.next_id {
                    return Err("digest of an unknown file");
                }
                if let Some(e) = self.entries.get_mut(&file.0) {
                    e.digest = Some(sha256);
                }
                self.commit_if_whole(file);
            }
            Message::Abandon { file, error } => {
                if file.0 >= self.next_id {
                    return Err("abandoning an unknown file");
                }
                if self.entries.contains_key(&file.0) {
                    // A source that cannot be read now may be readable later; one that changed begins anew.
                    let keep_partial = error.kind != StoreErrorKind::SourceChanged;
                    self.jobs.push_back(Job::Abort { file, keep_partial });
                    self.resolve(file, Err(error), false);
                }
            }
            _ => return Err("message of the wrong direction"),
        }
        Ok(())
    }

    fn on_entry(&mut self, e: BeginEntry) -> Result<(), &'static str> {
        if self.manifest_end || e.file.0 != self.next_id {
            return Err("manifest out of order");
        }
        self.next_id += 1;
        if !self.asked.covers(&e) {
            return Err("an entry that was not asked for");
        }
        if self.listing {
            self.events.push_back(Event::Listed(SourceEntry {
                root: 0,
                below: Vec::new(),
                path: e.path,
                kind: e.kind,
                meta: e.meta,
                size: e.size,
                target: e.target,
                inline: None,
            }));
            return Ok(());
        }
        if self.entries.len() >= 2 * MAX_UNRESOLVED {
            return Err("more unanswered entries than the window allows");
        }
        let chunked = e.kind == EntryKind::File && e.inline.is_none();
        self.streamed += usize::from(chunked);
        // Twice: results may be under way.
        if self.streamed > 2 * MAX_STREAMED {
            return Err("more open files than the window allows");
        }
        // A chunked file waits for more messages, and so does the end of a directory with such files: they must not count
        // against the budget that holds messages up.
        let waits = chunked || e.kind == EntryKind::DirEnd;
        let named_bytes = OVERHEAD_BYTES + PATH_COPIES * e.path.len() as u64 + e.target.len() as u64;
        let inline_bytes = if waits { 0 } else { named_bytes };
        let inline_bytes = inline_bytes + e.inline.as_ref().map_or(0, |i| i.data.len() as u64);
        self.inline_bytes += inline_bytes;
        let open_ended = e.size == UNKNOWN_SIZE;
        if e.kind == EntryKind::File && !open_ended {
            self.counters.bytes_total = self.counters.bytes_total.saturating_add(e.size);
        }
        let file = e.file;
        let size = if open_ended { most_of_stream(e.chunk_size) } else { e.size };
        self.entries.insert(
            file.0,
            Incoming {
                chunk_size: if chunked { e.chunk_size } else { 0 },
                counted_bytes: 0,
                open_ended,
                ..Incoming::settled_by_store(e.path.clone(), e.kind, size, inline_bytes)
            },
        );
        if !open_ended && e.size > self.max_file_bytes {
            let message = format!(
                "{}: {} bytes are more than this server accepts for one file",
                String::from_utf8_lossy(&e.path),
                e.size
            );
            self.resolve(file, Err(StoreError { kind: StoreErrorKind::Limit, message }), true);
            return Ok(());
        }
        if chunked {
            self.unopened.push_back(file);
            self.events.push_back(Event::FileStarted {
                direction: Direction::Receiving,
                file,
                path: e.path.clone(),
                bytes: if open_ended { 0 } else { e.size },
            });
        }
        self.jobs.push_back(Job::Begin(Box::new(e)));
        self.replay_early(file)
    }

    /// Answers of the store that concern receiving.
    pub fn handle_done(&mut self, done: Done) {
        match done {
            Done::Began { file, result } => {
                self.opened(file);
                match result {
                    Ok(have) => self.on_have(file, have),
                    Err(e) => self.resolve(file, Err(e), true),
                }
            }
            Done::Written { file, bytes } => self.on_taken(file, bytes),
            Done::ChunkStored { file, chunk, ok } => self.on_chunk_stored(file, chunk, ok),
            Done::SinkFailed { file, error } if self.entries.contains_key(&file.0) => {
                self.jobs.push_back(Job::Abort { file, keep_partial: true });
                self.resolve(file, Err(error), true);
            }
            Done::Committed { file, result } => self.resolve(file, result, true),
            Done::Removed { paths, more, error } => self.on_removed(paths, more, error),
            Done::Offered { file, verdict } => self.on_offered(file, verdict),
            _ => {}
        }
    }

    fn opened(&mut self, file: FileId) {
        self.unopened.retain(|f| *f != file);
    }

    /// The store has so many bytes of this file less to work on. After the file's result they no longer count.
    fn on_taken(&mut self, file: FileId, bytes: u64) {
        if let Some(e) = self.entries.get_mut(&file.0) {
            let bytes = bytes.min(e.queued_bytes);
            e.queued_bytes -= bytes;
            self.queued_bytes -= bytes;
        }
    }

    fn on_have(&mut self, file: FileId, have: Vec<Range<u64>>) {
        let Some(e) = self.entries.get_mut(&file.0) else { return };
        // Segments may have come before it was known that their chunk is there.
        let in_vain: Vec<u64> =
            e.open.keys().copied().filter(|c| have.iter().any(|r| r.contains(c))).collect();
        for a in in_vain.iter().filter_map(|c| e.open.remove(c)) {
            self.open_chunks -= 1;
            self.gaps -= a.received.range_count();
            self.reserved_bytes -= a.data.len() as u64;
            self.assembled_bytes -= a.assembled_bytes();
        }
        let mut resumed_bytes = 0;
        for r in &have {
            e.stored.insert(r.clone());
            let bytes = (r.end * u64::from(e.chunk_size)).min(e.size) - r.start * u64::from(e.chunk_size);
            resumed_bytes += bytes;
        }
        e.counted_bytes += resumed_bytes;
        self.counters.bytes_done = self.counters.bytes_done.saturating_add(resumed_bytes);
        if resumed_bytes > 0 {
            let direction = Direction::Receiving;
            self.events.push_back(Event::FileResumed { direction, file, bytes: resumed_bytes });
        }
        for ranges in have.chunks(MAX_HAVE_RANGES) {
            self.outbox.push_back(Message::Have { file, ranges: ranges.to_vec() });
        }
        self.commit_if_whole(file);
    }

    fn on_chunk_stored(&mut self, file: FileId, chunk: u64, ok: bool) {
        let Some(e) = self.entries.get_mut(&file.0) else { return };
        let Some((generation, encoded_bytes)) = e.finishing.remove(&chunk) else {
            if !ok {
                self.on_chunk_lost(file, chunk);
            }
            return;
        };
        e.queued_bytes -= encoded_bytes;
        self.queued_bytes -= encoded_bytes;
        if ok {
            // One that was on its way when it turned out to be there already has been counted.
            let bytes = if e.stored.contains(chunk) { 0 } else { e.plain_bytes(chunk) };
            e.counted_bytes += bytes;
            self.counters.bytes_done = self.counters.bytes_done.saturating_add(bytes);
            e.stored.insert(chunk..chunk + 1);
            self.commit_if_whole(file);
        } else {
            self.ask_again(file, chunk, generation);
        }
    }

    /// A chunk that was whole has changed on the disk.
    fn on_chunk_lost(&mut self, file: FileId, chunk: u64) {
        let Some(e) = self.entries.get_mut(&file.0).filter(|e| e.stored.contains(chunk)) else { return };
        e.stored.remove(chunk..chunk + 1);
        e.commit_asked = false;
        let bytes = e.plain_bytes(chunk).min(e.counted_bytes);
        e.counted_bytes -= bytes;
        self.counters.bytes_done = self.counters.bytes_done.saturating_sub(bytes);
        let generation = e.wanted_generation.get(&chunk).copied().unwrap_or(0);
        self.ask_again(file, chunk, generation);
    }

    fn commit_if_whole(&mut self, file: FileId) {
        let Some(e) = self.entries.get_mut(&file.0) else { return };
        let Some(sha256) = e.digest else { return };
        if e.is_chunked() && !e.open_ended && !e.commit_asked && e.stored.contains_range(0..e.chunk_count()) {
            e.commit_asked = true;
            self.jobs.push_back(Job::Commit { file, sha256 });
        }
    }

    /// An entry is done for good; `tell`: the sender does not know yet.
    fn resolve(&mut self, file: FileId, result: Result<Option<[u8; 32]>, StoreError>, tell: bool) {
        let Some(e) = self.entries.remove(&file.0) else { return };
        self.inline_bytes -= e.inline_bytes;
        self.streamed -= usize::from(e.is_chunked());
        self.opened(file);
        self.open_chunks -= e.open.len();
        self.gaps -= e.open.values().map(|a| a.received.range_count()).sum::<usize>();
        self.reserved_bytes -= e.open.values().map(|a| a.data.len() as u64).sum::<u64>();
        self.assembled_bytes -= e.open.values().map(Assembly::assembled_bytes).sum::<u64>();
        // Jobs of a file that failed may never be answered.
        self.queued_bytes -= e.queued_bytes;
        self.join.take_if(|(f, ..)| *f == file);
        // Only a file in chunks has any, and none is left once it is committed.
        if e.is_chunked() && result.is_err() {
            self.jobs.retain(|job| {
                !matches!(job, Job::Write { file: f, .. } | Job::WriteEncoded { file: f, .. } | Job::FinishChunk { file: f, .. } if *f == file)
            });
        }
        let size = if e.open_ended { e.counted_bytes } else { e.size };
        let open_bytes = if e.kind == EntryKind::File { size - e.counted_bytes.min(size) } else { 0 };
        match &result {
            Ok(_) => self.counters.bytes_done = self.counters.bytes_done.saturating_add(open_bytes),
            // What never came is neither done nor awaited any more.
            Err(_) => self.counters.bytes_total = self.counters.bytes_total.saturating_sub(open_bytes),
        }
        if tell {
            if let Some(why) = result.as_ref().err().and_then(|e| refusal_of(e.kind)) {
                self.refusals.count(why);
            }
            self.outbox.push_back(Message::Result { file, result: result.clone() });
        }
        let (sha256, error) = match result {
            Ok(digest) => (digest, None),
            Err(e) => (None, Some(e)),
        };
        self.failures += u64::from(error.is_some());
        self.events.push_back(Event::EntryFinished {
            direction: Direction::Receiving,
            file,
            path: e.path,
            kind: e.kind,
            bytes: if e.kind == EntryKind::File { size } else { 0 },
            sha256,
            error,
        });
    }

    /// Entries without a result.
    #[cfg(test)]
    pub(crate) fn open_entries(&self) -> usize {
        self.entries.len()
    }
}
