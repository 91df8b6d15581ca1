//! Role: puts segments together into chunks, and hands bytes to the store.
//! Owns: nothing beyond `Receiver`.
//! Implements: docs/PROTOCOL.md, "Segments", "Chunks".

use super::{Accept, Assembly, Early, MAX_EARLY_BYTES, MAX_JOBS, MAX_OPEN_CHUNKS, OVERHEAD_BYTES, Receiver};
use crate::arq::rangeset::RangeSet;
use crate::transfer::job::{FileId, Job, StoreError, StoreErrorKind};
use crate::transfer::sender::MAX_UNRESOLVED;
use crate::wire::MAX_GENERATION;
use crate::wire::frame::Segment;
use crate::wire::message::Message;
use bytes::Bytes;

/// Contiguous segments are joined into one write of up to this size.
const WRITE_JOIN_BYTES: usize = 256 * 1024;
/// A join grows by so much at a time.
const WRITE_STEP_BYTES: usize = 32 * 1024;
/// Most gaps in one chunk in assembly; one of 4 MiB in segments of 1,200 bytes has fewer.
const MAX_CHUNK_GAPS: usize = 4096;
/// Most gaps in all chunks in assembly of a session together; a window of 80,000 packets at 30 % loss has some 16,000.
/// Beyond, only segments that make no further gap are taken.
const MAX_GAPS: usize = 65_536;
/// Most chunks of a file that came wrong and are awaited again; so many may be asked for at once (`sender::MAX_RESENDS`).
const MAX_WRONG_CHUNKS: usize = 4096;

impl Receiver {
    /// Takes in the segments that came before their entry.
    pub(super) fn replay_early(&mut self, file: FileId) -> Result<(), &'static str> {
        for e in self.early.remove(&file.0).unwrap_or_default() {
            self.early_bytes -= e.data.len() + OVERHEAD_BYTES as usize;
            let accept = self.on_segment(&Segment {
                file: file.0,
                chunk: e.chunk,
                offset: e.offset,
                generation: e.generation,
                encoded: e.encoded,
                crc32: e.crc32,
                data: &e.data,
            });
            match accept {
                Accept::Yes => {}
                Accept::Violation(what) => return Err(what),
                // It was acknowledged already: ask for the whole chunk again rather than lose it.
                Accept::NotNow => self.ask_again(file, e.chunk, e.generation),
            }
        }
        Ok(())
    }

    /// Has a chunk sent again, as the next generation; a chunk that never comes right ends its file.
    pub(super) fn ask_again(&mut self, file: FileId, chunk: u64, generation: u32) {
        let Some(e) = self.entries.get_mut(&file.0) else { return };
        let too_many = e.wanted_generation.len() >= MAX_WRONG_CHUNKS;
        let wanted = e.wanted_generation.entry(chunk).or_insert(0);
        if *wanted > generation {
            return;
        }
        if generation < MAX_GENERATION && !too_many {
            *wanted = generation + 1;
            self.outbox.push_back(Message::Resend { file, chunk });
            return;
        }
        let message =
            format!("{}: chunks came wrong again and again; send it again", String::from_utf8_lossy(&e.path));
        self.jobs.push_back(Job::Abort { file, keep_partial: false });
        self.resolve(file, Err(StoreError { kind: StoreErrorKind::DigestMismatch, message }), true);
    }

    /// A segment arrived.
    pub fn on_segment(&mut self, s: &Segment<'_>) -> Accept {
        if self.listing {
            return Accept::Violation("a segment in a listing");
        }
        if s.file >= self.next_id {
            return self.keep_early(s);
        }
        let file = FileId(s.file);
        let Some(e) = self.entries.get_mut(&s.file) else { return Accept::Yes };
        if s.chunk >= e.chunk_count() {
            return Accept::Violation("a segment beyond the end of its file");
        }
        let wanted = e.wanted_generation.get(&s.chunk).copied().unwrap_or(0);
        // Each generation has the chunk's memory cleared, so nobody but this side begins one.
        if s.generation > wanted {
            return Accept::Violation("a chunk sent again that was not asked for");
        }
        if e.stored.contains(s.chunk) || e.finishing.contains_key(&s.chunk) || s.generation < wanted {
            return Accept::Yes;
        }
        let plain = e.plain_bytes(s.chunk);
        let end = u64::from(s.offset) + s.data.len() as u64;
        let total = match s.encoded {
            Some((_, n)) => n.into(),
            None if e.open_ended => e.stream_chunk_bytes(s.chunk, end, s.crc32.is_some()),
            None => plain,
        };
        if end > total || total > plain || (end == total) != s.crc32.is_some() {
            return Accept::Violation("a segment that does not fit its chunk");
        }
        if e.open_ended && s.chunk * u64::from(e.chunk_size) >= self.max_file_bytes {
            self.refuse_stream(file);
            return Accept::Yes;
        }
        let reserve = s.encoded.map_or(0, |(_, n)| u64::from(n));
        if self.jobs.len() >= MAX_JOBS
            || s.encoded.is_some() && is_behind(self.queued_bytes, self.budget_bytes, reserve)
        {
            return Accept::NotNow;
        }
        let known = e.open.get(&s.chunk);
        if known.is_none_or(|a| a.generation < s.generation) {
            let held = known.map_or(0, |a| a.data.len() as u64);
            if known.is_none() && (self.open_chunks >= MAX_OPEN_CHUNKS || e.is_scattered(s.chunk)) {
                return Accept::NotNow;
            }
            let others = self.reserved_bytes - held;
            if reserve > 0 && self.progress.barred {
                return Accept::NotNow;
            }
            if others > 0 && others + reserve > self.budget_bytes || reserve > held + self.assembly_left {
                return Accept::NotNow;
            }
            self.assembly_left = (self.assembly_left + held).saturating_sub(reserve);
            self.open_chunks += usize::from(known.is_none());
            self.reserved_bytes = others + reserve;
            self.assembled_bytes -= known.map_or(0, Assembly::assembled_bytes);
            self.gaps -= known.map_or(0, |a| a.received.range_count());
            let fresh = Assembly {
                generation: s.generation,
                encoded: s.encoded,
                received: RangeSet::new(),
                crc32: None,
                data: vec![0; reserve as usize],
            };
            e.open.insert(s.chunk, fresh);
        }
        // Twice the budget is more than an honest sender can have in flight; but one datagram always finds room.
        let queued = self.queued_bytes + s.data.len() as u64;
        if s.encoded.is_none() && self.queued_bytes > 0 && queued > 2 * self.budget_bytes {
            return Accept::NotNow;
        }
        self.place_segment(file, s, total)
    }

    fn place_segment(&mut self, file: FileId, s: &Segment<'_>, total: u64) -> Accept {
        let Some(e) = self.entries.get_mut(&file.0) else { return Accept::Yes };
        let Some(a) = e.open.get_mut(&s.chunk) else { return Accept::Yes };
        if s.generation < a.generation {
            return Accept::Yes;
        }
        if a.encoded != s.encoded {
            return Accept::Violation("a chunk that changes its encoding within a generation");
        }
        if a.received.range_count() >= MAX_CHUNK_GAPS {
            return Accept::NotNow;
        }
        let range = u64::from(s.offset)..u64::from(s.offset) + s.data.len() as u64;
        if self.gaps >= MAX_GAPS && range.start > 0 && !a.received.touches(&range) {
            return Accept::NotNow;
        }
        a.crc32 = a.crc32.or(s.crc32);
        let gaps_before = a.received.range_count();
        let new_bytes = a.received.insert(range.clone());
        self.gaps = self.gaps + a.received.range_count() - gaps_before;
        let (fresh, raw) = (new_bytes > 0, s.encoded.is_none());
        if !raw {
            self.assembled_bytes += new_bytes;
            self.progress.bytes += new_bytes;
        }
        if fresh && !raw {
            a.data[range.start as usize..range.end as usize].copy_from_slice(s.data);
        }
        // The last chunk of a stream waits until the store knows that it is one.
        let ends_stream = e.open_ended && e.short.is_some_and(|(chunk, _)| chunk == s.chunk);
        let whole = a.received.contains_range(0..total) && !ends_stream;
        let file_offset = s.chunk * u64::from(e.chunk_size) + range.start;
        if fresh && raw {
            self.queue_write(file, file_offset, s.data);
        }
        if whole {
            self.finish_chunk(file, s.chunk);
        }
        Accept::Yes
    }

    pub(super) fn finish_chunk(&mut self, file: FileId, chunk: u64) {
        let Some(e) = self.entries.get_mut(&file.0) else { return };
        let Some(a) = e.open.remove(&chunk) else { return };
        self.open_chunks -= 1;
        self.gaps -= a.received.range_count();
        e.finishing.insert(chunk, (a.generation, a.data.len() as u64));
        e.queued_bytes += a.data.len() as u64;
        let crc32 = a.crc32.unwrap_or_default();
        let plain = e.plain_bytes(chunk);
        self.counters.chunk_bytes_plain += plain;
        match a.encoded {
            None => {
                self.counters.chunk_bytes_encoded += plain;
                self.flush_join();
                self.jobs.push_back(Job::FinishChunk { file, chunk, crc32 });
            }
            Some((codec, bytes)) => {
                self.counters.chunk_bytes_encoded += u64::from(bytes);
                self.reserved_bytes -= u64::from(bytes);
                self.assembled_bytes -= u64::from(bytes);
                self.queued_bytes += u64::from(bytes);
                self.queued_encoded_bytes += u64::from(bytes);
                self.progress.on_whole();
                self.jobs.push_back(Job::WriteEncoded {
                    file,
                    chunk,
                    codec,
                    crc32,
                    data: Bytes::from(a.data),
                });
            }
        }
    }

    fn keep_early(&mut self, s: &Segment<'_>) -> Accept {
        let cost = s.data.len() + OVERHEAD_BYTES as usize;
        let room = MAX_EARLY_BYTES.min(self.budget_bytes as usize / 2);
        if self.manifest_end {
            return Accept::Violation("a segment of a file that is not in the manifest");
        }
        if self.early_bytes + cost > room || s.file > self.next_id + MAX_UNRESOLVED as u64 {
            return Accept::NotNow;
        }
        self.early_bytes += cost;
        self.early.entry(s.file).or_default().push(Early {
            chunk: s.chunk,
            offset: s.offset,
            generation: s.generation,
            encoded: s.encoded,
            crc32: s.crc32,
            data: s.data.to_vec(),
        });
        Accept::Yes
    }

    fn queue_write(&mut self, file: FileId, offset: u64, data: &[u8]) {
        self.queued_bytes += data.len() as u64;
        if let Some(e) = self.entries.get_mut(&file.0) {
            e.queued_bytes += data.len() as u64;
        }
        if let Some((f, start, joined)) = &mut self.join
            && *f == file
            && *start + joined.len() as u64 == offset
            && joined.len() + data.len() <= WRITE_JOIN_BYTES
        {
            // Doubled, but not by more than a step: the budget counts bytes, and room that is never filled is memory too.
            if joined.capacity() - joined.len() < data.len() {
                joined.reserve_exact(joined.len().min(WRITE_STEP_BYTES).max(data.len()));
            }
            joined.extend_from_slice(data);
            return;
        }
        self.flush_join();
        let mut joined = Vec::with_capacity(data.len());
        joined.extend_from_slice(data);
        self.join = Some((file, offset, joined));
    }

    pub(super) fn flush_join(&mut self) {
        if let Some((file, offset, data)) = self.join.take() {
            self.jobs.push_back(Job::Write { file, offset, data: Bytes::from(data) });
        }
    }
}

/// Whether the store has more to work on than an honest sender can have in flight: twice the budget. Beside an encoded chunk
/// of `another` bytes one more of its size may always wait there, so that the disk works while the next one comes.
pub(super) fn is_behind(queued_bytes: u64, budget_bytes: u64, another: u64) -> bool {
    queued_bytes > (2 * budget_bytes).max(another)
}
