//! Role: the sending side of a transfer: walks sources, streams the manifest, encodes chunks ahead, cuts segments.
//! Owns: entries without a result, encoded chunks until they are acknowledged, the repair queue.
//! Implements: docs/PROTOCOL.md, "Transfer", "Segments".

use super::confirmed::Confirmed;
use super::job::{
    BeginEntry, ChunkCodec, Compression, Done, EncodeBudget, EntryError, EntryKind, FileId, Job, SourceEntry,
    SourceRoot, StoreError, StoreErrorKind, UNKNOWN_SIZE,
};
use crate::arq::rangeset::RangeSet;
use crate::arq::sent::SegmentRef;
use crate::session::event::{Direction, Event};
use crate::wire::MAX_INLINE_BYTES;
use crate::wire::message::Message;
use bytes::Bytes;
use offers::{Found, Offers};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use streams::stream_chunks;

mod chunks;
mod offers;
mod segments;
mod streams;

/// Most entries announced and not yet answered: the manifest's window.
pub const MAX_UNRESOLVED: usize = 8192;
/// Most of them with a stream of chunks of their own: each is an open file at the receiver.
pub const MAX_STREAMED: usize = 512;
/// Most stretches of chunks of a file that a receiver may say it has; what it says beyond is ignored, and sent.
const MAX_HAVE_STRETCHES: usize = 8192;
/// Entries asked of a walk at once.
const WALK_BATCH: usize = 256;
/// The manifest stays so far ahead of what the control stream has sent; enough for 10 ms at 400 Mbit/s.
const MANIFEST_AHEAD_BYTES: u64 = 512 * 1024;

/// One encoded chunk on its way.
#[derive(Debug)]
struct SendChunk {
    file: FileId,
    chunk: u64,
    generation: u32,
    codec: ChunkCodec,
    plain_bytes: u32,
    crc32: u32,
    data: Bytes,
    /// Bytes of all chunks before this one, as they were encoded.
    start: u64,
    next_offset: u32,
    acked: RangeSet,
}

#[derive(Debug, Default)]
struct Slot {
    epoch: u32,
    chunk: Option<SendChunk>,
}

/// What is left to do for a file that does not ride inline.
#[derive(Debug)]
struct Chunked {
    chunk_count: u64,
    chunk_size: u32,
    next_read: u64,
    have: RangeSet,
    /// Chunks that were counted as done: acknowledged, or there already.
    counted: RangeSet,
    finish_asked: bool,
    /// A stream of which the end is not known: one chunk is asked for at a time.
    open_ended: bool,
    /// That one is being waited for.
    awaited: bool,
    /// Generations of chunks that were asked for again.
    generations: HashMap<u64, u32>,
    /// Slots of its chunks in memory: what the receiver says of some chunks must not cost a look at all.
    slots: BTreeMap<u64, u32>,
}

impl Chunked {
    /// Counts chunks as done, each once; how many bytes that adds, of a file of `size` bytes.
    fn count(&mut self, chunks: Range<u64>, size: u64) -> u64 {
        let last = self.chunk_count.saturating_sub(1);
        let ends = chunks.contains(&last) && !self.counted.contains(last);
        let whole = self.counted.insert(chunks) * u64::from(self.chunk_size);
        let excess = self.chunk_count * u64::from(self.chunk_size) - size;
        if ends { whole - excess } else { whole }
    }
}

/// An announced entry without a result.
#[derive(Debug)]
struct Outgoing {
    path: Vec<u8>,
    kind: EntryKind,
    size: u64,
    sha256: Option<[u8; 32]>,
    counted_bytes: u64,
    chunked: Option<Chunked>,
    /// Only offered: its root, and its path below that.
    offered: Option<(u32, Vec<u8>)>,
}

/// The sending side of one session.
#[derive(Debug)]
pub struct Sender {
    chunk_size: u32,
    compress: Compression,
    list_only: bool,
    budget_bytes: u64,
    /// A root was added after the last `NextEntries`.
    roots_added: bool,
    roots_open: bool,
    walk_busy: bool,
    walk_end: bool,
    /// Entries that an earlier session of the same request has settled.
    settled: Arc<Confirmed>,
    found: VecDeque<Found>,
    next_id: u64,
    unresolved: HashMap<u64, Outgoing>,
    /// Files with chunks still to be read, in order.
    reading: VecDeque<FileId>,
    reads_out: usize,
    /// What chunks are to be encoded for; without rate and zstd until the peer is known.
    encode: EncodeBudget,
    /// The handshake has told what the peer decodes.
    peer_known: bool,
    peer_takes: bool,
    /// The latest chunk came encoded, or none has come yet.
    shrinks: bool,
    /// Encoded bytes that were never sent.
    fresh_bytes: u64,
    /// Chunks that came wrong, to be read again.
    resends: VecDeque<(FileId, u64)>,
    /// The same, to be looked up.
    resends_known: HashSet<(FileId, u64)>,
    /// Unresolved entries with chunks.
    streamed: usize,
    held_bytes: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots with bytes never sent, and their epochs, in order. One that was let go meanwhile stays, but never in front.
    fresh: VecDeque<(u32, u32)>,
    /// Those of `fresh` that were let go.
    fresh_gone: usize,
    repairs: VecDeque<SegmentRef>,
    manifest_end_sent: bool,
    counters: SenderCounters,
    offers: Offers,
    jobs: VecDeque<Job>,
    outbox: VecDeque<Message>,
    events: VecDeque<Event>,
}

/// Figures of the sending side.
#[derive(Clone, Copy, Debug, Default)]
pub struct SenderCounters {
    /// File bytes announced.
    pub bytes_total: u64,
    /// File bytes acknowledged.
    pub bytes_done: u64,
    /// Plain bytes of encoded chunks.
    pub chunk_bytes_plain: u64,
    /// What they became.
    pub chunk_bytes_encoded: u64,
}

impl Sender {
    /// Nothing to send yet. `budget_bytes` bounds the encoded chunks held.
    pub fn new(chunk_size: u32, compress: Compression, budget_bytes: u64) -> Self {
        Self {
            chunk_size,
            compress,
            list_only: false,
            budget_bytes,
            roots_added: false,
            roots_open: true,
            walk_busy: false,
            walk_end: true,
            found: VecDeque::new(),
            settled: Arc::default(),
            next_id: 0,
            unresolved: HashMap::new(),
            reading: VecDeque::new(),
            reads_out: 0,
            encode: EncodeBudget::default(),
            peer_known: false,
            peer_takes: true,
            shrinks: true,
            fresh_bytes: 0,
            resends: VecDeque::new(),
            resends_known: HashSet::new(),
            streamed: 0,
            held_bytes: 0,
            slots: Vec::new(),
            free: Vec::new(),
            fresh: VecDeque::new(),
            fresh_gone: 0,
            repairs: VecDeque::new(),
            manifest_end_sent: false,
            counters: SenderCounters::default(),
            offers: Offers::default(),
            jobs: VecDeque::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What the receiver wishes for (a GET).
    pub fn set_wishes(&mut self, chunk_size: u32, compress: Compression) {
        (self.chunk_size, self.compress) = (chunk_size, compress);
    }

    /// The handshake is done: whether the peer decodes zstd.
    pub fn set_peer_zstd(&mut self, understood: bool) {
        (self.peer_known, self.encode.zstd) = (true, understood);
    }

    /// What the link carries, bytes a second; `None` while that is not known.
    pub fn set_rate_hint(&mut self, bytes_per_sec: Option<u64>) {
        self.encode.link_bytes_per_sec = bytes_per_sec;
    }

    /// These entries are not sent (again).
    pub fn set_settled(&mut self, settled: Arc<Confirmed>) {
        self.settled = settled;
    }

    /// One level, names only (a LIST).
    pub fn set_list_only(&mut self) {
        self.list_only = true;
    }

    /// Share of the process's send budget.
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget_bytes = bytes;
    }

    /// Whether the peer has any room at all: what is read for one that has none would only wait.
    pub fn set_peer_takes(&mut self, takes: bool) {
        self.peer_takes = takes;
    }

    /// Bytes of chunks held, and room for those being read.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Adds a tree to be sent.
    pub fn add_root(&mut self, root: SourceRoot) {
        self.jobs.push_back(Job::AddRoot(root));
        self.walk_end = false;
        self.roots_added = true;
    }

    /// No more roots will come: the manifest ends when they are walked.
    pub fn finish_roots(&mut self) {
        self.roots_open = false;
    }

    /// Next job for the store.
    pub fn poll_job(&mut self) -> Option<Job> {
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
    pub fn counters(&self) -> SenderCounters {
        self.counters
    }

    /// Whether the manifest ended and every entry has its result.
    pub fn is_finished(&self) -> bool {
        self.manifest_end_sent && self.unresolved.is_empty() && !self.offers.awaits_removal
    }

    /// Whether all chunk data known of was sent at least once: the tail.
    pub fn is_tail(&self) -> bool {
        self.resends.is_empty() && self.reading.is_empty() && self.reads_out == 0 && self.fresh.is_empty()
    }

    /// Whether chunks are still to be read, as soon as there is room for them.
    pub fn would_read(&self) -> bool {
        !self.resends.is_empty() || !self.reading.is_empty()
    }

    /// Keeps walk, manifest and read-ahead going. `control_unsent`: bytes waiting in the control stream.
    pub fn pump(&mut self, mut control_unsent: u64) {
        if !self.walk_busy
            && !self.walk_end
            && self.found.is_empty()
            && self.unresolved.len() < MAX_UNRESOLVED
            && self.offers.may_go_on()
        {
            self.walk_busy = true;
            self.roots_added = false;
            self.jobs.push_back(Job::NextEntries {
                max_entries: WALK_BATCH,
                inline_max_bytes: if self.offers.enabled { 0 } else { MAX_INLINE_BYTES as u64 },
                list_only: self.list_only,
            });
        }
        while control_unsent < MANIFEST_AHEAD_BYTES
            && self.unresolved.len() < MAX_UNRESOLVED
            && self.streamed < MAX_STREAMED
        {
            let Some(bytes) = self.announce_next() else { break };
            control_unsent += bytes;
        }
        self.look_again();
        if !self.manifest_end_sent
            && !self.roots_open
            && self.walk_end
            && !self.walk_busy
            && self.found.is_empty()
            && self.offers.are_settled()
        {
            self.manifest_end_sent = true;
            self.outbox.push_back(Message::ManifestEnd);
        }
        self.read_ahead();
    }

    fn fail_entry(&mut self, e: EntryError) {
        self.outbox.push_back(Message::EntryFailed { path: e.path.clone(), error: e.error.clone() });
        self.events.push_back(Event::EntryFinished {
            direction: Direction::Sending,
            file: FileId(u64::MAX),
            path: e.path,
            kind: EntryKind::File,
            bytes: 0,
            sha256: None,
            error: Some(e.error),
        });
    }

    /// Gives an entry its id and announces it; returns about how many bytes that takes.
    fn announce(&mut self, e: SourceEntry) -> u64 {
        let file = FileId(self.next_id);
        self.next_id += 1;
        let is_file = e.kind == EntryKind::File;
        let chunked = is_file && e.inline.is_none() && !self.list_only;
        let weight = 64 + e.path.len() as u64 + e.inline.as_ref().map_or(0, |i| i.data.len() as u64);
        let stream = e.size == UNKNOWN_SIZE;
        if is_file && !self.list_only && !stream {
            self.counters.bytes_total = self.counters.bytes_total.saturating_add(e.size);
        }
        if chunked {
            self.streamed += 1;
            self.open_chunked(file, &e);
        }
        // A listing is not answered entry by entry.
        if !self.list_only {
            self.unresolved.insert(
                file.0,
                Outgoing {
                    path: e.path.clone(),
                    kind: e.kind,
                    // A stream's is a multiple of the chunk size until its end: all its chunks are whole ones.
                    size: match is_file {
                        true if stream => stream_chunks(self.chunk_size) * u64::from(self.chunk_size),
                        true => e.size,
                        false => 0,
                    },
                    sha256: e.inline.as_ref().map(|i| i.sha256),
                    counted_bytes: 0,
                    offered: None,
                    chunked: chunked.then(|| Chunked {
                        chunk_count: match stream {
                            true => stream_chunks(self.chunk_size),
                            false => e.size.div_ceil(self.chunk_size.into()),
                        },
                        open_ended: stream,
                        awaited: false,
                        chunk_size: self.chunk_size,
                        next_read: 0,
                        have: RangeSet::new(),
                        counted: RangeSet::new(),
                        finish_asked: false,
                        generations: HashMap::new(),
                        slots: BTreeMap::new(),
                    }),
                },
            );
        }
        self.outbox.push_back(Message::Entry(Box::new(BeginEntry {
            file,
            path: e.path,
            kind: e.kind,
            meta: e.meta,
            size: e.size,
            chunk_size: self.chunk_size,
            target: e.target,
            inline: e.inline,
        })));
        weight
    }

    fn open_source(&mut self, file: FileId, e: &SourceEntry) {
        self.jobs.push_back(Job::OpenSource {
            file,
            root: e.root,
            below: e.below.clone(),
            size: e.size,
            meta: e.meta,
            chunk_size: self.chunk_size,
            compress: self.compress,
        });
    }

    fn open_chunked(&mut self, file: FileId, e: &SourceEntry) {
        self.open_source(file, e);
        self.reading.push_back(file);
        self.events.push_back(Event::FileStarted {
            direction: Direction::Sending,
            file,
            path: e.path.clone(),
            bytes: if e.size == UNKNOWN_SIZE { 0 } else { e.size },
        });
    }

    /// Answers of the store that concern sending.
    pub fn handle_done(&mut self, done: Done) {
        match done {
            Done::Entries { entries, end } => {
                self.walk_busy = false;
                // A root that was added meanwhile is not walked yet.
                self.walk_end = end && !self.roots_added;
                entries.into_iter().for_each(|found| self.take_in(found));
            }
            Done::Chunk { file, chunk, codec, plain_bytes, crc32, data } => {
                self.on_chunk(SendChunk {
                    file,
                    chunk,
                    generation: 0,
                    codec,
                    plain_bytes,
                    crc32,
                    data,
                    start: 0,
                    next_offset: 0,
                    acked: RangeSet::new(),
                });
            }
            Done::SourceDigest { file, sha256 } => {
                if let Some(o) = self.unresolved.get_mut(&file.0) {
                    o.sha256 = Some(sha256);
                    self.outbox.push_back(Message::Digest { file, sha256 });
                }
            }
            Done::SourceFailed { file, read, error } => {
                if read {
                    self.reads_out = self.reads_out.saturating_sub(1);
                    self.held_bytes = self.held_bytes.saturating_sub(self.chunk_size.into());
                }
                if self.unresolved.contains_key(&file.0) {
                    self.outbox.push_back(Message::Abandon { file, error: error.clone() });
                    self.resolve(file, Err(error));
                }
            }
            Done::StreamEnded { file, bytes } => self.on_stream_end(file, bytes),
            Done::StreamWaits { file, chunk } => self.on_stream_wait(file, chunk),
            Done::SourceHashed { file, result } => self.on_hashed(file, result),
            Done::Found { file, result } => self.offers.on_found(file, result),
            _ => {}
        }
    }

    /// A message from the receiver. False: it does not fit any state (a protocol error).
    pub fn handle_message(&mut self, message: Message) -> bool {
        match message {
            Message::Result { file, result } => {
                if file.0 >= self.next_id {
                    return false;
                }
                if let Some(o) = self.unresolved.get(&file.0) {
                    if o.offered.is_some() && result.is_ok() {
                        return false;
                    }
                    self.resolve(file, result);
                }
            }
            Message::Have { file, ranges } => {
                if file.0 >= self.next_id {
                    return false;
                }
                self.on_have(file, &ranges);
            }
            Message::Resend { file, chunk } => return self.resend(file, chunk),
            Message::Removed(paths) => return self.on_removed(paths),
            Message::RemovalEnd(error) => return self.on_removal_end(error),
            Message::Unchanged(ranges) => return self.on_unchanged(&ranges),
            Message::Want(ranges) => return self.on_want(&ranges),
            _ => return false,
        }
        true
    }

    fn on_have(&mut self, file: FileId, ranges: &[Range<u64>]) {
        let Some(o) = self.unresolved.get_mut(&file.0) else { return };
        let Some(c) = o.chunked.as_mut() else { return };
        let (mut resumed_bytes, mut unwanted) = (0, Vec::new());
        for r in ranges {
            if c.have.range_count() >= MAX_HAVE_STRETCHES {
                break;
            }
            let end = (r.end + u64::from(crate::planted("forgotten_chunk"))).min(c.chunk_count);
            let range = r.start.min(end)..end;
            if c.have.insert(range.clone()) > 0 {
                resumed_bytes += c.count(range.clone(), o.size);
                unwanted.extend(c.slots.range(range).map(|(_, slot)| *slot));
            }
        }
        o.counted_bytes += resumed_bytes;
        self.counters.bytes_done += resumed_bytes;
        unwanted.into_iter().for_each(|slot| self.release(slot));
        if resumed_bytes > 0 {
            let direction = Direction::Sending;
            self.events.push_back(Event::FileResumed { direction, file, bytes: resumed_bytes });
        }
    }

    fn resolve(&mut self, file: FileId, result: Result<Option<[u8; 32]>, StoreError>) {
        let Some(mut o) = self.unresolved.remove(&file.0) else { return };
        self.offers.open.remove(&file.0);
        if let Some(c) = &mut o.chunked {
            self.streamed -= 1;
            std::mem::take(&mut c.slots).into_values().for_each(|slot| self.release(slot));
            self.jobs.push_back(Job::CloseSource { file });
        }
        let open_ended = o.chunked.as_ref().is_some_and(|c| c.open_ended);
        let size = if open_ended { o.counted_bytes } else { o.size };
        let open_bytes = size - o.counted_bytes.min(size);
        match &result {
            Ok(_) => self.counters.bytes_done += open_bytes,
            // What never came is neither done nor awaited any more.
            Err(_) => self.counters.bytes_total = self.counters.bytes_total.saturating_sub(open_bytes),
        }
        let error = match result {
            Err(e) => Some(e),
            // Without a digest nothing is confirmed, and ours is not known before the source was read whole.
            Ok(theirs) if o.kind == EntryKind::File && (theirs.is_none() || theirs != o.sha256) => {
                Some(StoreError {
                    kind: StoreErrorKind::DigestMismatch,
                    message: format!(
                        "{}: the receiver's SHA-256 is not that of the source; send it again",
                        String::from_utf8_lossy(&o.path)
                    ),
                })
            }
            Ok(_) => None,
        };
        self.events.push_back(Event::EntryFinished {
            direction: Direction::Sending,
            file,
            path: o.path,
            kind: o.kind,
            bytes: size,
            sha256: o.sha256,
            error,
        });
    }
}
