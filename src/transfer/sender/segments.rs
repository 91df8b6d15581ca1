//! Role: cuts encoded chunks into segments, and takes in what became of them.
//! Owns: nothing beyond `Sender`.
//! Implements: docs/PROTOCOL.md, "Segments".

use super::{SendChunk, Sender};
use crate::arq::sent::SegmentRef;
use crate::transfer::job::ChunkCodec;
use crate::wire::buf::varint_len;
use crate::wire::frame::Segment;

/// A segment is not worth a frame below this room, except at a chunk's end.
const MIN_SEGMENT_ROOM: usize = 64;

impl Sender {
    /// Whether a lost segment waits to be sent again.
    pub fn has_repair(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// Whether bytes wait that were never sent.
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// The next segment that fits into `room` bytes of frame, repairs first; fresh ones only if `allow_fresh`.
    /// The frame is written with `encode_segment`.
    pub fn next_segment(&mut self, room: usize, allow_fresh: bool) -> Option<SegmentRef> {
        if room < MIN_SEGMENT_ROOM {
            return None;
        }
        while let Some(r) = self.repairs.pop_front() {
            let Some(c) = self.chunk_of(&r) else { continue };
            let (start, end) = (u64::from(r.offset), u64::from(r.offset + r.len));
            let Some(gap) = c.acked.first_gap(start..end) else { continue };
            let cut = cut_segment(c, gap.start as u32, (gap.end - gap.start) as u32, room);
            let sent_end = gap.start + u64::from(cut);
            if sent_end < end {
                self.repairs.push_front(SegmentRef {
                    offset: sent_end as u32,
                    len: (end - sent_end) as u32,
                    ..r
                });
            }
            return Some(SegmentRef {
                offset: gap.start as u32,
                len: cut,
                attempt: r.attempt.saturating_add(1),
                ..r
            });
        }
        if !allow_fresh {
            return None;
        }
        let (slot, _) = *self.fresh.front()?;
        let s = &mut self.slots[slot as usize];
        let c = s.chunk.as_mut()?;
        let offset = c.next_offset;
        let len = cut_segment(c, offset, c.data.len() as u32 - offset, room);
        c.next_offset += len;
        let (epoch, ends) = (s.epoch, c.next_offset as usize == c.data.len());
        self.fresh_bytes = self.fresh_bytes.saturating_sub(len.into());
        if ends {
            self.fresh.pop_front();
            self.clear_fresh();
            // Its place is free; feedback may be a while.
            self.read_ahead();
        }
        Some(SegmentRef { slot, epoch, offset, len, attempt: 1 })
    }

    fn chunk_of(&self, r: &SegmentRef) -> Option<&SendChunk> {
        self.slots.get(r.slot as usize).filter(|s| s.epoch == r.epoch)?.chunk.as_ref()
    }

    /// Where the segment lies when all chunks of the session are laid end to end; `None` when its chunk is gone.
    pub fn stream_offset(&self, r: &SegmentRef) -> Option<u64> {
        self.chunk_of(r).map(|c| c.start + u64::from(r.offset))
    }

    /// Bytes that the frame of this segment takes; zero when its chunk is gone.
    pub fn segment_frame_bytes(&self, r: &SegmentRef, last: bool) -> usize {
        let Some(c) = self.chunk_of(r) else { return 0 };
        let ends = (r.offset + r.len) as usize == c.data.len();
        frame_overhead(c, r.offset, ends) + r.len as usize + if last { 0 } else { varint_len(r.len.into()) }
    }

    /// Whether the segment is still worth sending (its chunk is neither done nor dropped, its bytes not acknowledged).
    pub fn is_wanted(&self, r: &SegmentRef) -> bool {
        self.chunk_of(r)
            .is_some_and(|c| c.acked.first_gap(u64::from(r.offset)..u64::from(r.offset + r.len)).is_some())
    }

    /// Appends the segment's frame; `last`: it ends the packet.
    pub fn encode_segment(&self, r: &SegmentRef, out: &mut Vec<u8>, last: bool) {
        let Some(c) = self.chunk_of(r) else { return };
        let range = r.offset as usize..(r.offset + r.len) as usize;
        let ends = range.end == c.data.len();
        Segment {
            file: c.file.0,
            chunk: c.chunk,
            offset: r.offset,
            generation: c.generation,
            encoded: (c.codec != ChunkCodec::Raw).then_some((c.codec, c.data.len() as u32)),
            crc32: ends.then_some(c.crc32),
            data: &c.data[range],
        }
        .encode(out, last);
    }

    /// A packet with this segment arrived.
    pub fn on_acked(&mut self, r: &SegmentRef) {
        let Some(s) = self.slots.get_mut(r.slot as usize).filter(|s| s.epoch == r.epoch) else { return };
        let Some(c) = s.chunk.as_mut() else { return };
        c.acked.insert(u64::from(r.offset)..u64::from(r.offset + r.len));
        if !c.acked.contains_range(0..c.data.len() as u64) {
            return;
        }
        if let Some(o) = self.unresolved.get_mut(&c.file.0)
            && let Some(chunked) = o.chunked.as_mut()
        {
            let bytes = chunked.count(c.chunk..c.chunk + 1, o.size);
            o.counted_bytes += bytes;
            self.counters.bytes_done += bytes;
        }
        self.release(r.slot);
    }

    /// Sends this segment again before all others.
    pub fn on_urgent(&mut self, r: &SegmentRef) {
        if self.is_wanted(r) {
            self.repairs.push_front(*r);
        }
    }

    /// A packet with this segment was lost.
    pub fn on_lost(&mut self, r: &SegmentRef) {
        if self.is_wanted(r) {
            self.repairs.push_back(*r);
        }
    }
}

fn frame_overhead(c: &SendChunk, offset: u32, ends: bool) -> usize {
    let encoded = (c.codec != ChunkCodec::Raw).then_some(c.data.len() as u32);
    Segment::overhead(c.file.0, c.chunk, offset, c.generation, encoded, ends)
}

/// How many of `len` bytes from `offset` fit into a frame of `room` bytes. The segment that ends the chunk carries its CRC-32.
fn cut_segment(c: &SendChunk, offset: u32, len: u32, room: usize) -> u32 {
    let fits = room.saturating_sub(frame_overhead(c, offset, false)) as u32;
    if (offset + len) as usize != c.data.len() || fits < len {
        return len.min(fits);
    }
    let with_crc = room.saturating_sub(frame_overhead(c, offset, true)) as u32;
    // Not room for both the last bytes and the CRC: leave something for another segment.
    if with_crc >= len { len } else { with_crc.min(len - 1).max(1) }
}
