//! Role: the control stream: one reliable, ordered byte stream each way.
//! Owns: unacknowledged bytes on the sending side, bytes out of order on the receiving side.
//! Implements: docs/PROTOCOL.md, "Control stream".

use super::rangeset::RangeSet;
use std::collections::{BTreeMap, VecDeque};

/// Most out-of-order stretches kept by a receiver; each costs a map entry.
pub const MAX_OUT_OF_ORDER: usize = 8192;

/// Where memory is short, so much of the stream is kept out of order, and in order: a message fits (`session::MIN_CONTROL_WINDOW`).
const TIGHT_BYTES: usize = 128 * 1024;

/// Sending half.
#[derive(Debug, Default)]
pub struct ControlSender {
    /// Bytes from `base` on.
    buffer: VecDeque<u8>,
    /// Lowest byte not yet acknowledged.
    base: u64,
    /// Next byte never sent.
    next: u64,
    acked: RangeSet,
    /// Lost stretches: offset, length, transmissions so far.
    repairs: VecDeque<(u64, u32, u16)>,
    /// Offset up to which the peer lets us send.
    credit: u64,
}

impl ControlSender {
    /// Appends bytes (whole messages).
    pub fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// Bytes held: not sent yet, or not acknowledged yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes never sent.
    pub fn unsent(&self) -> u64 {
        self.base + self.buffer.len() as u64 - self.next
    }

    /// Whether every byte written was acknowledged.
    pub fn is_drained(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The peer's credit (an absolute offset; never falls).
    pub fn set_credit(&mut self, credit: u64) {
        self.credit = self.credit.max(credit);
    }

    /// The credit of another peer than the one told of before: nothing that was sent has reached it.
    pub fn replace_credit(&mut self, credit: u64) {
        self.credit = credit;
    }

    /// Whether `next_piece` would give something.
    pub fn has_piece(&self) -> bool {
        !self.repairs.is_empty() || self.unsent() > 0 && self.next < self.credit
    }

    /// Whether only credit is missing.
    pub fn is_blocked(&self) -> bool {
        self.repairs.is_empty() && self.unsent() > 0 && self.next >= self.credit
    }

    /// The next stretch to send, of at most `max` bytes: repairs first. Returns offset, length, transmissions including this one.
    pub fn next_piece(&mut self, max: usize) -> Option<(u64, u32, u16)> {
        while let Some((offset, len, times)) = self.repairs.pop_front() {
            let wanted = offset.max(self.base)..offset + u64::from(len);
            let Some(gap) = self.acked.first_gap(wanted.clone()).filter(|_| !wanted.is_empty()) else {
                continue;
            };
            let len = (gap.end - gap.start).min(max as u64);
            if gap.start + len < wanted.end {
                self.repairs.push_front((gap.start + len, (wanted.end - gap.start - len) as u32, times));
            }
            return Some((gap.start, len as u32, times.saturating_add(1)));
        }
        let end = (self.base + self.buffer.len() as u64).min(self.credit);
        if self.next >= end || max == 0 {
            return None;
        }
        let (offset, len) = (self.next, (end - self.next).min(max as u64));
        self.next += len;
        Some((offset, len as u32, 1))
    }

    /// Copies a stretch given by `next_piece`.
    pub fn copy_to(&self, offset: u64, len: u32, out: &mut Vec<u8>) {
        let start = (offset - self.base) as usize;
        let end = start + len as usize;
        let (a, b) = self.buffer.as_slices();
        if start < a.len() {
            out.extend_from_slice(&a[start..end.min(a.len())]);
        }
        if end > a.len() {
            out.extend_from_slice(&b[start.saturating_sub(a.len())..end - a.len()]);
        }
    }

    /// A packet with this stretch was acknowledged.
    pub fn on_acked(&mut self, offset: u64, len: u32) {
        let end = offset + u64::from(len);
        if end <= self.base {
            return;
        }
        self.acked.insert(offset.max(self.base)..end);
        let settled = self.acked.iter().next().filter(|r| r.start <= self.base).map_or(self.base, |r| r.end);
        self.buffer.drain(..(settled - self.base) as usize);
        self.base = settled;
        self.acked.remove_below(settled);
    }

    /// A probe repeats this stretch: it goes before all other repairs.
    pub fn on_urgent(&mut self, offset: u64, len: u32, times: u16) {
        if offset + u64::from(len) > self.base {
            self.repairs.push_front((offset, len, times));
        }
    }

    /// A packet with this stretch was lost (or may be: the tail is sent again before that is known).
    pub fn on_lost(&mut self, offset: u64, len: u32, times: u16) {
        if offset + u64::from(len) > self.base {
            self.repairs.push_back((offset, len, times));
        }
    }
}

/// Receiving half.
#[derive(Debug, Default)]
pub struct ControlReceiver {
    /// In-order bytes not consumed yet start at `consumed`.
    ready: Vec<u8>,
    /// Bytes of `ready` already consumed (compacted now and then).
    taken: usize,
    /// Offset of the first byte not received in order.
    next: u64,
    out_of_order: BTreeMap<u64, Vec<u8>>,
    held_bytes: usize,
}

/// A stretch beyond what was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control stream beyond its credit")]
pub struct BeyondCredit;

impl ControlReceiver {
    /// Takes in a stretch; `credit` is the offset that the peer was told. `Ok(false)`: not kept, must be sent again.
    /// `tight`: memory is short, so that no more than `TIGHT_BYTES` are kept of what cannot be read yet, and as much of what can.
    pub fn insert(
        &mut self,
        offset: u64,
        data: &[u8],
        credit: u64,
        tight: bool,
    ) -> Result<bool, BeyondCredit> {
        let end = offset + data.len() as u64;
        if end > credit {
            return Err(BeyondCredit);
        }
        if end <= self.next {
            return Ok(true);
        }
        if offset > self.next {
            // Stretches that overlap may not add up to much more than the credit: an honest sender's differ.
            let room = 2 * (credit - self.next) as usize;
            let room = if tight { room.min(TIGHT_BYTES) } else { room };
            if self.out_of_order.len() >= MAX_OUT_OF_ORDER || self.held_bytes + data.len() > room {
                return Ok(false);
            }
            let slot = self.out_of_order.entry(offset).or_default();
            if data.len() > slot.len() {
                self.held_bytes += data.len() - slot.len();
                *slot = data.to_vec();
            }
            return Ok(true);
        }
        // A whole message is there to be read: whoever should read it is behind.
        if tight && self.ready().len() > TIGHT_BYTES {
            return Ok(false);
        }
        self.append(&data[(self.next - offset) as usize..]);
        while let Some(entry) = self.out_of_order.first_entry().filter(|e| *e.key() <= self.next) {
            let (offset, data) = entry.remove_entry();
            self.held_bytes -= data.len();
            if let Some(fresh) = data.get((self.next - offset) as usize..) {
                self.append(fresh);
            }
        }
        Ok(true)
    }

    fn append(&mut self, data: &[u8]) {
        self.ready.extend_from_slice(data);
        self.next += data.len() as u64;
    }

    /// In-order bytes not consumed yet.
    pub fn ready(&self) -> &[u8] {
        &self.ready[self.taken..]
    }

    /// Marks bytes of `ready` as consumed.
    pub fn consume(&mut self, n: usize) {
        self.taken += n;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        } else if self.taken > 64 * 1024 {
            self.ready.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Offset of the first byte not consumed.
    pub fn consumed(&self) -> u64 {
        self.next - (self.ready.len() - self.taken) as u64
    }

    /// Bytes held in memory.
    pub fn held_bytes(&self) -> usize {
        self.ready.len() + self.held_bytes
    }
}
