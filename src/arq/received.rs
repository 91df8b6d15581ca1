//! Role: what arrived: duplicates, gaps, and when feedback about them is due.
//! Owns: the received packet numbers of one direction, above the sender's floor.
//! Implements: docs/PROTOCOL.md, "Feedback".

use super::rangeset::RangeSet;
use crate::wire::feedback::{BlockList, Feedback, build_block};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Most ranges of received numbers kept; beyond, packets that would make another are treated as not received.
/// 30 % loss makes about 0.2 ranges a packet, so this spans 80,000 packets.
pub const MAX_RANGES: usize = 16_384;
/// Feedback delay before the sender's first FLOOR frame.
const INITIAL_MAX_DELAY: Duration = Duration::from_millis(10);
/// Packets between two feedbacks before the sender's first FLOOR frame.
const INITIAL_MAX_PACKETS: u64 = 8;
/// The longest feedback delay that a sender can ask for.
const MAX_MAX_DELAY: Duration = Duration::from_millis(250);
/// Most packets between two feedbacks, whatever the sender asks: what one frame can name must not be outrun.
const MAX_MAX_PACKETS: u64 = 2000;
/// A last feedback is repeated so often when nothing more arrives: it may be lost, and no later one would follow.
const IDLE_REPEATS: u8 = 2;

/// Received packet numbers and the feedback about them.
#[derive(Debug)]
pub struct ReceivedNumbers {
    epoch: Instant,
    numbers: RangeSet,
    floor: u64,
    largest: Option<(u64, Instant)>,
    bytes: u64,
    ce_count: u64,
    eliciting_since: u64,
    deadline: Option<Instant>,
    last_sent: Option<Instant>,
    repeats_left: u8,
    max_packets: u64,
    max_delay: Duration,
    reported_below: u64,
    nacks: u64,
    older_cursor: u64,
    scratch: [Vec<u8>; 2],
}

impl ReceivedNumbers {
    /// Nothing received yet; `epoch` is the zero of the receive timestamps.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            numbers: RangeSet::new(),
            floor: 0,
            largest: None,
            bytes: 0,
            ce_count: 0,
            eliciting_since: 0,
            deadline: None,
            last_sent: None,
            repeats_left: 0,
            max_packets: INITIAL_MAX_PACKETS,
            max_delay: INITIAL_MAX_DELAY,
            reported_below: 0,
            nacks: 0,
            older_cursor: 0,
            scratch: Default::default(),
        }
    }

    /// The number that `expand_number` should expect.
    pub fn expected(&self) -> u64 {
        self.largest.map_or(0, |(n, _)| n + 1)
    }

    /// Whether this number was seen, or is too old to tell.
    pub fn is_duplicate(&self, number: u64) -> bool {
        number < self.floor || self.numbers.contains(number)
    }

    /// Whether there is room to remember one more gap. If not, a packet that would make one is treated as not received until the
    /// sender's floor has moved: forgetting gaps would leave the sender waiting for ever.
    pub fn has_room_for(&self, number: u64) -> bool {
        self.numbers.range_count() < MAX_RANGES
            || number > 0 && self.numbers.contains(number - 1)
            || self.numbers.contains(number + 1)
    }

    /// A new valid packet arrived.
    pub fn on_packet(&mut self, now: Instant, number: u64, size_bytes: usize, eliciting: bool, ce: bool) {
        let expected = self.expected();
        self.numbers.insert(number..number + 1);
        self.bytes += size_bytes as u64;
        self.ce_count += u64::from(ce);
        if number >= expected {
            self.largest = Some((number, now));
        }
        if !eliciting {
            return;
        }
        self.eliciting_since += 1;
        self.repeats_left = IDLE_REPEATS;
        // A gap, or a number that closes one, is told sooner than steady progress, but not per packet.
        let news = number != expected || ce;
        let wait = if news { self.max_delay / 4 } else { self.max_delay };
        let since = self.last_sent.map_or(now, |t| t.max(now - self.max_delay.min(now - self.epoch)));
        let due = if self.eliciting_since >= self.max_packets { now } else { since + wait };
        let due = due.max(now);
        self.deadline = Some(self.deadline.map_or(due, |d| d.min(due)));
    }

    /// The sender's FLOOR frame.
    pub fn on_floor(&mut self, floor: u64, max_packets: u64, max_delay: Duration) {
        self.raise_floor(floor.min(self.expected()));
        self.max_packets = max_packets.clamp(1, MAX_MAX_PACKETS);
        self.max_delay = max_delay.min(MAX_MAX_DELAY);
    }

    fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.numbers.remove_below(self.floor);
    }

    /// Feedback is wanted at this time for another reason (flow control opened).
    pub fn request_feedback(&mut self, at: Instant) {
        if self.largest.is_some() {
            self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
        }
    }

    /// When feedback is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Gaps reported so far, each counted once.
    pub fn nacks(&self) -> u64 {
        self.nacks
    }

    /// Writes the feedback frame's fields; `budget_bytes` bounds the blocks. `None` before the first packet.
    pub fn build(
        &mut self,
        now: Instant,
        budget_bytes: usize,
        receive_window_bytes: u64,
        control_credit: u64,
    ) -> Option<Feedback<'_>> {
        let (largest, at) = self.largest?;
        self.count_new_gaps(largest);
        self.schedule_next(now);
        let span = self.floor..largest + 1;
        let [newest, older] = &mut self.scratch;
        let mut blocks = BlockList::default();
        let first =
            build_block(span.clone(), self.numbers.iter_down_from(span.end), budget_bytes * 3 / 4, newest);
        if let Some(first) = first {
            let low = first.range().start;
            blocks.push(first);
            if let Some(b) =
                older_block(&self.numbers, span.start..low, &mut self.older_cursor, budget_bytes / 4, older)
            {
                blocks.push(b);
            }
        }
        let micros = |d: Duration| d.as_micros() as u64;
        Some(Feedback {
            largest,
            received_us: micros(at - self.epoch),
            delay_us: micros(now - at),
            received_bytes: self.bytes,
            ce_count: self.ce_count,
            receive_window_bytes,
            control_credit,
            blocks,
        })
    }

    fn count_new_gaps(&mut self, largest: u64) {
        let from = self.reported_below.max(self.floor);
        if from <= largest {
            let received: u64 = self
                .numbers
                .iter_down_from(largest + 1)
                .take_while(|r| r.end > from)
                .map(|r| r.end - r.start.max(from))
                .sum();
            self.nacks += largest + 1 - from - received;
        }
        self.reported_below = largest + 1;
    }

    fn schedule_next(&mut self, now: Instant) {
        self.last_sent = Some(now);
        self.deadline = None;
        if self.eliciting_since > 0 || self.repeats_left > 0 {
            // Nothing new since the last one: this was a repeat.
            if self.eliciting_since == 0 {
                self.repeats_left -= 1;
            }
            if self.repeats_left > 0 {
                let pause = self.max_delay.max(Duration::from_millis(2)) * 2;
                self.deadline = Some(now + pause);
            }
        }
        self.eliciting_since = 0;
    }
}

/// The part of the older numbers whose turn it is. The cursor moves down and starts again below the newest block, so that every number
/// above the floor is described once in a while even if all newer feedback was lost.
fn older_block<'s>(
    numbers: &RangeSet,
    span: Range<u64>,
    cursor: &mut u64,
    budget_bytes: usize,
    scratch: &'s mut Vec<u8>,
) -> Option<crate::wire::feedback::Block<'s>> {
    if span.is_empty() {
        return None;
    }
    let top = if *cursor > span.start && *cursor <= span.end { *cursor } else { span.end };
    let block = build_block(span.start..top, numbers.iter_down_from(top), budget_bytes, scratch)?;
    *cursor = block.range().start;
    Some(block)
}
