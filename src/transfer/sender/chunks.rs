//! Role: the chunks that a sender holds in memory: read ahead of the link, let go when they arrived, read again when wanted.
//! Owns: nothing beyond `Sender`.
//! Implements: docs/PROTOCOL.md, "Chunks".

use super::{SendChunk, Sender, Slot};
use crate::transfer::job::{ChunkCodec, Compression, EncodeBudget, FileId, Job};
use crate::wire::MAX_GENERATION;

/// Most chunks asked for again at once: as many as a receiver may have open (`receiver::MAX_OPEN_CHUNKS`).
const MAX_RESENDS: usize = 4096;
/// Most chunks of a file that may be asked for again, ever: each is remembered until the file's end.
const MAX_RESENT_CHUNKS: usize = 65_536;
/// Chunks being read at once; the disk thread works in order, so this is only a queue length.
const MAX_READS: usize = 16;
/// Chunks let go before they were sent that are not worth clearing away.
const MIN_FRESH_GONE: usize = 64;
/// `Auto` reads so far ahead of the wire at least, in bytes and in chunks, while chunks shrink: what is encoded before
/// the link's rate is known is not encoded for that link. Enough for the first round trips of any path.
const MIN_AHEAD: (u64, u64) = (512 * 1024, 2);
/// And so many seconds of the link's rate, once that is known: what a disk may pause, and what a rate may go stale.
const AHEAD_SECS: u64 = 1;

impl Sender {
    /// Asks for chunks as far as the budget goes; one chunk is always allowed.
    pub(super) fn read_ahead(&mut self) {
        if matches!(self.compress, Compression::Zstd(_)) && !self.peer_known || !self.peer_takes {
            return;
        }
        while self.reads_out < MAX_READS
            && let Some((file, chunk)) = self.resends.pop_front()
        {
            self.resends_known.remove(&(file, chunk));
            if let Some(c) = self.unresolved.get(&file.0).and_then(|o| o.chunked.as_ref()) {
                self.reads_out += 1;
                self.held_bytes += u64::from(c.chunk_size);
                self.jobs.push_back(Job::ReadChunk { file, chunk, budget: self.encode });
            }
        }
        while let Some(&file) = self.reading.front() {
            let Some(c) = self.unresolved.get_mut(&file.0).and_then(|o| o.chunked.as_mut()) else {
                self.reading.pop_front();
                continue;
            };
            if let Some(gap) = c.have.first_gap(c.next_read..c.chunk_count) {
                let fits = self.held_bytes + u64::from(c.chunk_size) <= self.budget_bytes;
                let ahead = self.fresh_bytes + self.reads_out as u64 * u64::from(c.chunk_size);
                let enough = ahead_limit(self.compress, self.shrinks, self.encode, c.chunk_size);
                let waits = c.open_ended && c.awaited;
                if waits || self.reads_out >= MAX_READS || !fits && self.held_bytes > 0 || ahead >= enough {
                    return;
                }
                c.next_read = gap.start + 1;
                c.awaited = true;
                self.reads_out += 1;
                self.held_bytes += u64::from(c.chunk_size);
                self.jobs.push_back(Job::ReadChunk { file, chunk: gap.start, budget: self.encode });
            } else {
                self.reading.pop_front();
                if !c.finish_asked {
                    c.finish_asked = true;
                    self.jobs.push_back(Job::FinishSource { file });
                }
            }
        }
    }

    pub(super) fn on_chunk(&mut self, mut c: SendChunk) {
        self.reads_out = self.reads_out.saturating_sub(1);
        let Some(f) = self.unresolved.get_mut(&c.file.0).and_then(|o| o.chunked.as_mut()) else {
            self.held_bytes = self.held_bytes.saturating_sub(self.chunk_size.into());
            return;
        };
        // The budget was charged a whole chunk; from here on what is really held counts.
        self.held_bytes = self.held_bytes.saturating_sub(f.chunk_size.into());
        if f.have.contains(c.chunk) {
            return;
        }
        f.awaited = false;
        if f.open_ended {
            self.counters.bytes_total += u64::from(c.plain_bytes);
        }
        c.generation = f.generations.get(&c.chunk).copied().unwrap_or(0);
        // Asked for again while it was being read: it comes twice.
        let known = f.slots.get(&c.chunk).copied();
        if let Some(slot) = known {
            if self.slots[slot as usize].chunk.as_ref().is_some_and(|k| k.generation == c.generation) {
                return;
            }
            self.release(slot);
        }
        self.held_bytes += c.data.len() as u64;
        self.shrinks = c.codec != ChunkCodec::Raw;
        self.fresh_bytes += c.data.len() as u64;
        self.counters.chunk_bytes_plain += u64::from(c.plain_bytes);
        c.start = self.counters.chunk_bytes_encoded;
        self.counters.chunk_bytes_encoded += c.data.len() as u64;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        if let Some(f) = self.unresolved.get_mut(&c.file.0).and_then(|o| o.chunked.as_mut()) {
            f.slots.insert(c.chunk, slot);
        }
        let s = &mut self.slots[slot as usize];
        s.chunk = Some(c);
        self.fresh.push_back((slot, s.epoch));
    }

    pub(super) fn release(&mut self, slot: u32) {
        let s = &mut self.slots[slot as usize];
        if let Some(c) = s.chunk.take() {
            self.held_bytes = self.held_bytes.saturating_sub(c.data.len() as u64);
            let unsent = c.data.len() as u64 - u64::from(c.next_offset);
            self.fresh_bytes = self.fresh_bytes.saturating_sub(unsent);
            s.epoch = s.epoch.wrapping_add(1);
            self.free.push(slot);
            if let Some(f) = self.unresolved.get_mut(&c.file.0).and_then(|o| o.chunked.as_mut()) {
                f.slots.remove(&c.chunk);
            }
            if unsent > 0 {
                self.fresh_gone += 1;
                self.clear_fresh();
            }
        }
    }

    /// What was let go leaves the queue when it comes to its front, or when most of the queue is like it.
    pub(super) fn clear_fresh(&mut self) {
        let Self { slots, fresh, fresh_gone, .. } = self;
        let is_there = |(slot, epoch): &(u32, u32)| slots[*slot as usize].epoch == *epoch;
        if *fresh_gone > MIN_FRESH_GONE.max(fresh.len() / 2) {
            fresh.retain(is_there);
            *fresh_gone = 0;
        }
        while fresh.front().is_some_and(|f| !is_there(f)) {
            fresh.pop_front();
            *fresh_gone -= 1;
        }
    }

    pub(super) fn resend(&mut self, file: FileId, chunk: u64) -> bool {
        if file.0 >= self.next_id {
            return false;
        }
        let Some(c) = self.unresolved.get_mut(&file.0).and_then(|o| o.chunked.as_mut()) else { return true };
        let unread = chunk >= c.next_read;
        if unread && !c.have.contains(chunk) {
            return false;
        }
        if c.generations.len() >= MAX_RESENT_CHUNKS && !c.generations.contains_key(&chunk) {
            return false;
        }
        let generation = c.generations.entry(chunk).or_insert(0);
        if *generation >= MAX_GENERATION {
            return false;
        }
        *generation += 1;
        // The receiver had it, and has lost it since. One that is still to be read will be read in its turn.
        c.have.remove(chunk..chunk + 1);
        if unread && !c.finish_asked {
            return true;
        }
        if let Some(slot) = c.slots.get(&chunk).copied() {
            self.release(slot);
        }
        if self.resends_known.insert((file, chunk)) {
            self.resends.push_back((file, chunk));
        }
        self.resends.len() <= MAX_RESENDS
    }
}

/// How many bytes, encoded or being read, may wait to be sent for the first time.
fn ahead_limit(compress: Compression, shrinks: bool, budget: EncodeBudget, chunk_size: u32) -> u64 {
    if compress != Compression::Auto || !shrinks {
        return u64::MAX;
    }
    let floor = MIN_AHEAD.0.max(MIN_AHEAD.1 * u64::from(chunk_size));
    budget.link_bytes_per_sec.map_or(floor, |rate| floor.max(rate.saturating_mul(AHEAD_SECS)))
}
