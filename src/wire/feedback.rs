//! Role: the feedback frame: acknowledgement, NACKs, flow control and path measurements in one.
//! Owns: nothing. Implements: docs/PROTOCOL.md, "FEEDBACK".

use super::WireError;
use super::buf::{Reader, put_varint, varint_len};
use std::ops::Range;

/// Most blocks in one frame: the newest numbers, and a rotating part of the older ones.
pub const MAX_BLOCKS: usize = 4;
/// Most packet numbers that one block may cover; enough for a datagram of 64 KiB full of bits.
pub const MAX_BLOCK_NUMBERS: u64 = 1 << 19;

const KIND_RUNS: u8 = 0;
const KIND_BITMAP: u8 = 1;

/// A stretch of packet numbers, described from `top` downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// The highest number described.
    pub top: u64,
    /// How many numbers are described: `top`, `top - 1`, ...
    pub count: u64,
    kind: u8,
    body: &'a [u8],
}

impl<'a> Block<'a> {
    /// The numbers described.
    pub fn range(&self) -> Range<u64> {
        self.top + 1 - self.count..self.top + 1
    }

    /// Calls `f(range, received)` for stretches of equal state, from the highest down. The stretches tile `range()`.
    pub fn for_each_run(&self, mut f: impl FnMut(Range<u64>, bool)) {
        let mut above = self.top + 1;
        if self.kind == KIND_RUNS {
            let mut r = Reader::new(self.body);
            let mut received = true;
            while let Ok(n) = r.varint() {
                let low = above.saturating_sub(n);
                if n > 0 {
                    f(low..above, received);
                }
                above = low;
                received = !received;
            }
            return;
        }
        let bit = |i: u64| self.body[(i / 8) as usize] >> (i % 8) & 1 == 1;
        let mut i = 0;
        while i < self.count {
            let state = bit(i);
            let start = i;
            while i < self.count && bit(i) == state {
                i += 1;
            }
            f(above - (i - start)..above, state);
            above -= i - start;
        }
    }
}

/// What one side tells the other about what it received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback<'a> {
    /// Largest packet number received.
    pub largest: u64,
    /// When it arrived: microseconds of the receiver's clock, from an epoch of its own.
    pub received_us: u64,
    /// How long ago that was when this frame was written, microseconds.
    pub delay_us: u64,
    /// UDP payload bytes received in this session, duplicates excluded.
    pub received_bytes: u64,
    /// Packets received with the CE mark.
    pub ce_count: u64,
    /// Segment bytes that may be in flight towards this receiver.
    pub receive_window_bytes: u64,
    /// Control-stream offset up to which the peer may send.
    pub control_credit: u64,
    /// Stretches of numbers, from the highest down.
    pub blocks: BlockList<'a>,
}

/// Up to `MAX_BLOCKS` blocks, without allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockList<'a> {
    blocks: [Option<Block<'a>>; MAX_BLOCKS],
}

impl<'a> BlockList<'a> {
    /// Adds a block below all others; false when full.
    pub fn push(&mut self, block: Block<'a>) -> bool {
        match self.blocks.iter_mut().find(|b| b.is_none()) {
            Some(slot) => {
                *slot = Some(block);
                true
            }
            None => false,
        }
    }

    /// The blocks, highest first.
    pub fn iter(&self) -> impl Iterator<Item = &Block<'a>> {
        self.blocks.iter().flatten()
    }
}

impl<'a> Feedback<'a> {
    /// Appends the body (after the frame type).
    pub fn encode(&self, out: &mut Vec<u8>) {
        for v in [
            self.largest,
            self.received_us,
            self.delay_us,
            self.received_bytes,
            self.ce_count,
            self.receive_window_bytes,
            self.control_credit,
        ] {
            put_varint(out, v);
        }
        out.push(self.blocks.iter().count() as u8);
        let mut above = self.largest + 1;
        for b in self.blocks.iter() {
            put_varint(out, above - 1 - b.top);
            put_varint(out, b.count);
            out.push(b.kind);
            if b.kind == KIND_RUNS {
                put_varint(out, b.body.len() as u64);
            }
            out.extend_from_slice(b.body);
            above = b.top + 1 - b.count;
        }
    }

    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let largest = r.varint()?;
        let received_us = r.varint()?;
        let delay_us = r.varint()?;
        let received_bytes = r.varint()?;
        let ce_count = r.varint()?;
        let receive_window_bytes = r.varint()?;
        let control_credit = r.varint()?;
        let count = r.u8()?;
        if usize::from(count) > MAX_BLOCKS {
            return Err(WireError::Bounds("blocks"));
        }
        let mut blocks = BlockList::default();
        let mut above = largest + 1;
        for _ in 0..count {
            let block = decode_block(r, above)?;
            above = block.top + 1 - block.count;
            blocks.push(block);
        }
        Ok(Self {
            largest,
            received_us,
            delay_us,
            received_bytes,
            ce_count,
            receive_window_bytes,
            control_credit,
            blocks,
        })
    }
}

fn decode_block<'a>(r: &mut Reader<'a>, above: u64) -> Result<Block<'a>, WireError> {
    let skip = r.varint()?;
    let count = r.varint_max(MAX_BLOCK_NUMBERS, "block length")?;
    if count == 0 || skip.saturating_add(count) > above {
        return Err(WireError::Bounds("block"));
    }
    let top = above - 1 - skip;
    let kind = r.u8()?;
    let body = match kind {
        KIND_RUNS => r.bytes(usize::from(u16::MAX), "runs")?,
        KIND_BITMAP => r.take(count.div_ceil(8) as usize)?,
        _ => return Err(WireError::Bounds("block kind")),
    };
    if kind == KIND_RUNS {
        let (mut runs, mut sum) = (Reader::new(body), 0u64);
        while !runs.is_empty() {
            sum = sum.saturating_add(runs.varint()?);
        }
        if sum != count {
            return Err(WireError::Bounds("runs"));
        }
    }
    Ok(Block { top, count, kind, body })
}

/// Builds a block for the numbers `range` (not empty) out of the received ranges inside it, given from the highest down.
/// Takes runs or bits, whichever covers more numbers in `budget_bytes`; may cut the low end. `scratch` holds the body.
pub fn build_block<'s>(
    range: Range<u64>,
    received_from_top: impl Iterator<Item = Range<u64>>,
    budget_bytes: usize,
    scratch: &'s mut Vec<u8>,
) -> Option<Block<'s>> {
    let range = range.start.max(range.end.saturating_sub(MAX_BLOCK_NUMBERS))..range.end;
    if range.is_empty() || budget_bytes < 8 {
        return None;
    }
    scratch.clear();
    let mut above = range.end;
    let mut rest = received_from_top;
    let bitmap_reach = range.end.saturating_sub(budget_bytes as u64 * 8).max(range.start);
    let mut received: Vec<Range<u64>> = Vec::new();
    let mut runs_full = false;
    for r in &mut rest {
        let r = r.start.max(range.start)..r.end.min(above);
        if r.is_empty() {
            if r.end <= range.start { break } else { continue }
        }
        let (gap, len) = (above - r.end, r.end - r.start);
        // `received` first: a block starts with a (possibly empty) received run.
        let head = if above == range.end && gap > 0 { 1 } else { 0 };
        let need = head + if gap > 0 { varint_len(gap) } else { 0 } + varint_len(len);
        if !runs_full && scratch.len() + need <= budget_bytes {
            if head > 0 {
                put_varint(scratch, 0);
            }
            if gap > 0 {
                put_varint(scratch, gap);
            }
            put_varint(scratch, len);
            above = r.start;
        } else {
            runs_full = true;
            if r.end <= bitmap_reach {
                break;
            }
            above = r.start;
        }
        received.push(r);
    }
    // The numbers below the last received one are missing; saying so must fit as well.
    let tail = above - range.start;
    let head = usize::from(above == range.end);
    if !runs_full && (tail == 0 || scratch.len() + head + varint_len(tail) <= budget_bytes) {
        if tail > 0 {
            if head > 0 {
                put_varint(scratch, 0);
            }
            put_varint(scratch, tail);
        }
        return Some(Block {
            top: range.end - 1,
            count: range.end - range.start,
            kind: KIND_RUNS,
            body: scratch,
        });
    }
    let runs_reach = runs_coverage(scratch);
    if range.end - runs_reach <= bitmap_reach {
        return Some(Block { top: range.end - 1, count: runs_reach, kind: KIND_RUNS, body: scratch });
    }
    let count = range.end - bitmap_reach;
    scratch.clear();
    scratch.resize(count.div_ceil(8) as usize, 0);
    for r in received {
        for n in r.start.max(bitmap_reach)..r.end {
            let i = range.end - 1 - n;
            scratch[(i / 8) as usize] |= 1 << (i % 8);
        }
    }
    Some(Block { top: range.end - 1, count, kind: KIND_BITMAP, body: scratch })
}

fn runs_coverage(runs: &[u8]) -> u64 {
    let mut r = Reader::new(runs);
    std::iter::from_fn(|| r.varint().ok()).sum()
}
