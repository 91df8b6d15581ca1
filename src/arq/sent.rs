//! Role: what was sent and what became of it: acknowledgement, loss, spurious loss.
//! Owns: the send window of one direction: a ring of packets from the floor up.
//! Implements: docs/PROTOCOL.md, "Loss detection".

use crate::congestion::PacketInfo;
use crate::wire::feedback::Feedback;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A lost packet is remembered so many RTTs longer, so that a late arrival is noticed as spurious.
const LOST_MEMORY_RTTS: u32 = 2;
/// The reordering window never falls below this share of the RTT...
const MIN_REORDER_SHARE: u32 = 32;
/// ...nor below this (timer and scheduling noise of a busy receiver).
const MIN_REORDER: Duration = Duration::from_micros(500);
/// An acknowledgement that took more than so many RTTs, or this, was held up by something else than reordering.
const MOST_DURATION_RTTS: u32 = 8;
const MIN_DURATION: Duration = Duration::from_millis(5);
/// Rounds for which a reordering window grown by a late packet is kept (RFC 8985, section 6.2, keeps it 16 recoveries).
const REORDER_PERSIST_RTTS: u32 = 16;

/// A number that feedback passes over is taken as missing when it was overtaken so many RTTs ago, or this...
const UNNAMED_RTTS: u32 = 8;
const MIN_UNNAMED: Duration = Duration::from_millis(250);
/// ...and so many feedbacks have come since: an honest receiver goes through all numbers above the floor with fewer, even where
/// most of its feedback is lost.
const UNNAMED_FEEDBACKS: u32 = 64;
/// Numbers in the window from which on it is enough to be overtaken by half as many: 5 Gbit/s over 300 ms are some 130,000.
const MAX_TRACKED: usize = 1 << 18;

/// Reference to the segment that a packet carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Slot of the chunk in the sender's table.
    pub slot: u32,
    /// Tells apart successive chunks in one slot.
    pub epoch: u32,
    /// Offset into the encoded chunk.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// How many times these bytes were sent, this time included.
    pub attempt: u16,
}

/// What a packet carried that may have to be repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// A stretch of the control stream: offset, length, transmissions so far.
    pub control: Option<(u64, u32, u16)>,
    /// Up to two segments: the end of one chunk and the start of the next.
    pub segments: [Option<SegmentRef>; 2],
    /// Path-MTU probe.
    pub mtu_probe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not ack-eliciting, or already settled: nobody waits for it.
    Untracked,
    /// Number skipped on purpose: an acknowledgement of it is a lie.
    Skipped,
    InFlight,
    /// Declared lost.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    sent_at: Instant,
    size_bytes: u32,
    state: State,
    app_limited: bool,
    /// Feedback named it as missing.
    missing: bool,
    /// Carries nothing that the other copy of it does not: tail duplicates.
    content: Content,
}

/// A packet whose fate was decided.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// As rate control sees it.
    pub info: PacketInfo,
    /// What it carried.
    pub content: Content,
}

/// What one feedback frame changed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Newly acknowledged (control's view), ascending.
    pub acked: Vec<Settled>,
    /// Newly lost, ascending.
    pub lost: Vec<Settled>,
    /// Lost before, arrived after all.
    pub spurious: Vec<Settled>,
    /// Newly named as missing.
    pub nacks: u64,
}

impl Outcome {
    fn clear(&mut self) {
        self.acked.clear();
        self.lost.clear();
        self.spurious.clear();
        self.nacks = 0;
    }
}

/// The peer acknowledged what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// A number not sent yet.
    #[error("feedback for a packet that was not sent yet")]
    Future,
    /// A number skipped on purpose (optimistic acknowledgement).
    #[error("feedback for a packet that was never sent")]
    Skipped,
}

/// The send window.
#[derive(Debug)]
pub struct SentPackets {
    ring: VecDeque<Slot>,
    /// Number of `ring[0]`.
    floor: u64,
    bytes_in_flight: u64,
    packets_in_flight: u64,
    largest_acked: Option<u64>,
    /// Sent time of the packet sent last among those acknowledged.
    newest_acked_at: Option<Instant>,
    /// Every number below is settled.
    unsettled_from: u64,
    /// Packets in the ring that were declared lost.
    lost_remembered: u64,
    reorder_window: Duration,
    reorder_grown_at: Option<Instant>,
    /// The longest that an acknowledgement took of late, and since when nothing took as long.
    longest: Duration,
    longest_at: Option<Instant>,
    loss_deadline: Option<Instant>,
    last_eliciting_at: Option<Instant>,
    /// The largest number acknowledged at a time, that time, and the feedbacks since: what lies below it and is still in flight
    /// when its time has come was passed over.
    overtaken: Option<(u64, Instant, u32)>,
}

impl Default for SentPackets {
    fn default() -> Self {
        Self::new()
    }
}

impl SentPackets {
    /// Nothing sent.
    pub fn new() -> Self {
        Self {
            ring: VecDeque::new(),
            floor: 0,
            bytes_in_flight: 0,
            packets_in_flight: 0,
            largest_acked: None,
            newest_acked_at: None,
            unsettled_from: 0,
            lost_remembered: 0,
            reorder_window: Duration::ZERO,
            reorder_grown_at: None,
            longest: Duration::ZERO,
            longest_at: None,
            loss_deadline: None,
            last_eliciting_at: None,
            overtaken: None,
        }
    }

    /// The number that the next packet gets.
    pub fn next_number(&self) -> u64 {
        self.floor + self.ring.len() as u64
    }

    /// The lowest number still tracked.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Ack-eliciting bytes neither acknowledged nor declared lost.
    pub fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }

    /// Ack-eliciting packets neither acknowledged nor declared lost.
    pub fn packets_in_flight(&self) -> u64 {
        self.packets_in_flight
    }

    /// When the last ack-eliciting packet left.
    pub fn last_eliciting_at(&self) -> Option<Instant> {
        self.last_eliciting_at
    }

    /// When a packet named as missing will have been missing for the reordering window.
    pub fn loss_deadline(&self) -> Option<Instant> {
        self.loss_deadline
    }

    /// The present reordering window.
    pub fn reorder_window(&self) -> Duration {
        self.reorder_window
    }

    /// Leaves out the next number on purpose.
    pub fn skip_number(&mut self, now: Instant) {
        self.push(now, 0, State::Skipped, false, Content::default());
    }

    /// Records a packet under `next_number()`.
    pub fn on_sent(
        &mut self,
        now: Instant,
        size_bytes: u32,
        eliciting: bool,
        app_limited: bool,
        content: Content,
    ) {
        let state = if eliciting { State::InFlight } else { State::Untracked };
        if eliciting {
            self.bytes_in_flight += u64::from(size_bytes);
            self.packets_in_flight += 1;
            self.last_eliciting_at = Some(now);
        }
        self.push(now, size_bytes, state, app_limited, content);
    }

    fn push(&mut self, sent_at: Instant, size_bytes: u32, state: State, app_limited: bool, content: Content) {
        self.ring.push_back(Slot { sent_at, size_bytes, state, app_limited, missing: false, content });
    }

    fn info(&self, number: u64, slot: &Slot) -> PacketInfo {
        PacketInfo {
            number,
            size_bytes: slot.size_bytes,
            sent_at: slot.sent_at,
            app_limited: slot.app_limited,
        }
    }

    /// Sent time of a tracked number.
    pub fn sent_at(&self, number: u64) -> Option<Instant> {
        let i = number.checked_sub(self.floor)?;
        self.ring.get(i as usize).map(|s| s.sent_at)
    }

    /// Takes in a feedback frame. `rtt` is the smoothed RTT.
    pub fn on_feedback(
        &mut self,
        now: Instant,
        feedback: &Feedback<'_>,
        rtt: Duration,
        out: &mut Outcome,
    ) -> Result<(), FeedbackError> {
        out.clear();
        if feedback.largest >= self.next_number() {
            return Err(FeedbackError::Future);
        }
        let mut lie = false;
        for block in feedback.blocks.iter() {
            block.for_each_run(|range, received| {
                let range = range.start.max(self.floor)..range.end.max(self.floor);
                if received {
                    lie |= self.acknowledge(now, range, rtt, out);
                } else {
                    self.mark_missing(range, out);
                }
            });
        }
        if lie {
            return Err(FeedbackError::Skipped);
        }
        // Runs come from the highest number down.
        out.acked.reverse();
        self.largest_acked = self.largest_acked.max(Some(feedback.largest));
        self.name_passed_over(now, rtt, out);
        self.detect_losses(now, rtt, out);
        Ok(())
    }

    /// True if a skipped number was claimed.
    fn acknowledge(
        &mut self,
        now: Instant,
        range: std::ops::Range<u64>,
        rtt: Duration,
        out: &mut Outcome,
    ) -> bool {
        let newest_before = self.newest_acked_at;
        let bound = rtt.max(self.longest);
        // Below `unsettled_from` there is nothing to acknowledge but late arrivals of what is remembered as lost.
        let start =
            if self.lost_remembered == 0 { range.start.max(self.unsettled_from) } else { range.start };
        for number in (start..range.end).rev() {
            let i = (number - self.floor) as usize;
            let slot = self.ring[i];
            match slot.state {
                State::Untracked => continue,
                State::Skipped => return true,
                State::InFlight => {
                    self.bytes_in_flight -= u64::from(slot.size_bytes);
                    self.packets_in_flight -= 1;
                    out.acked.push(Settled { info: self.info(number, &slot), content: slot.content });
                    if self.newest_acked_at.is_none_or(|t| slot.sent_at > t) {
                        self.newest_acked_at = Some(slot.sent_at);
                    }
                }
                State::Lost => {
                    self.lost_remembered -= 1;
                    out.spurious.push(Settled { info: self.info(number, &slot), content: slot.content })
                }
            }
            if slot.missing || slot.state == State::Lost {
                // It was overtaken: by how much tells how long to wait for others.
                self.note_duration(now, now.saturating_duration_since(slot.sent_at), rtt);
                if let Some(newest) = newest_before.filter(|t| *t > slot.sent_at) {
                    self.grow_reorder_window(now, newest - slot.sent_at, bound);
                }
            }
            self.ring[i].state = State::Untracked;
        }
        false
    }

    /// Where packets overtake each other, those that win, whose round trips are the samples, say little of the others.
    fn note_duration(&mut self, now: Instant, duration: Duration, rtt: Duration) {
        let stale = self.longest_at.is_none_or(|t| now > t + rtt.max(self.longest) * REORDER_PERSIST_RTTS);
        if stale || duration >= self.longest {
            self.longest = duration.min(MOST_DURATION_RTTS * rtt.max(MIN_DURATION));
            self.longest_at = Some(now);
        }
    }

    fn grow_reorder_window(&mut self, now: Instant, lateness: Duration, bound: Duration) {
        let wanted = (lateness + lateness / 4).min(bound);
        if wanted >= self.reorder_window {
            self.reorder_window = wanted;
            self.reorder_grown_at = Some(now);
        }
    }

    fn mark_missing(&mut self, range: std::ops::Range<u64>, out: &mut Outcome) {
        let start = range.start.max(self.unsettled_from).max(self.floor);
        for number in start..range.end {
            let slot = &mut self.ring[(number - self.floor) as usize];
            if slot.state == State::InFlight && !slot.missing {
                slot.missing = true;
                out.nacks += 1;
            }
        }
    }

    /// A peer that neither acknowledges a number nor names it missing must not keep the window open for ever.
    fn name_passed_over(&mut self, now: Instant, rtt: Duration, out: &mut Outcome) {
        let Some(largest) = self.largest_acked else { return };
        let patience = (rtt.max(self.longest) * UNNAMED_RTTS).max(MIN_UNNAMED);
        let mut below = 0;
        match &mut self.overtaken {
            Some((number, since, feedbacks)) => {
                *feedbacks += 1;
                if *feedbacks >= UNNAMED_FEEDBACKS && now >= *since + patience {
                    below = *number;
                    self.overtaken = Some((largest, now, 0));
                }
            }
            None => self.overtaken = Some((largest, now, 0)),
        }
        if self.ring.len() > MAX_TRACKED {
            below = below.max(largest.saturating_sub(MAX_TRACKED as u64 / 2));
        }
        // Up to the floor nothing is in the ring.
        if below > self.floor {
            self.mark_missing(self.floor..below, out);
        }
    }

    /// Declares lost what has been missing for the reordering window; call at `loss_deadline` too.
    pub fn detect_losses(&mut self, now: Instant, rtt: Duration, out: &mut Outcome) {
        self.loss_deadline = None;
        let Some(largest) = self.largest_acked else { return };
        let rtt = rtt.max(self.longest);
        if self.reorder_grown_at.is_some_and(|t| now > t + rtt * REORDER_PERSIST_RTTS) {
            self.reorder_window /= 2;
            self.reorder_grown_at = Some(now);
        }
        let window = self.reorder_window.max(rtt / MIN_REORDER_SHARE).max(MIN_REORDER);
        let newest = self.newest_acked_at;
        let mut settled_so_far = true;
        let mut number = self.unsettled_from.max(self.floor);
        while number <= largest {
            let i = (number - self.floor) as usize;
            let slot = self.ring[i];
            if slot.state == State::InFlight {
                let overtaken = slot.missing && newest.is_some_and(|t| t >= slot.sent_at + window);
                // The clock may also say so: it was overtaken, and a whole RTT plus the window went by.
                let due = slot.sent_at + rtt + window;
                if overtaken || slot.missing && now >= due {
                    self.declare_lost(number, out);
                } else {
                    if slot.missing {
                        self.loss_deadline = Some(self.loss_deadline.map_or(due, |d| d.min(due)));
                    }
                    settled_so_far = false;
                }
            }
            if settled_so_far {
                self.unsettled_from = number + 1;
            }
            number += 1;
        }
        self.advance_floor(now, rtt);
    }

    fn declare_lost(&mut self, number: u64, out: &mut Outcome) {
        let slot = &mut self.ring[(number - self.floor) as usize];
        slot.state = State::Lost;
        self.lost_remembered += 1;
        let slot = *slot;
        self.bytes_in_flight -= u64::from(slot.size_bytes);
        self.packets_in_flight -= 1;
        out.lost.push(Settled { info: self.info(number, &slot), content: slot.content });
    }

    fn advance_floor(&mut self, now: Instant, rtt: Duration) {
        let memory = rtt * LOST_MEMORY_RTTS + self.reorder_window;
        let Some(largest) = self.largest_acked else { return };
        while let Some(slot) = self.ring.front() {
            let done = match slot.state {
                State::Untracked | State::Skipped => self.floor <= largest,
                State::Lost => now >= slot.sent_at + memory,
                State::InFlight => false,
            };
            if !done {
                break;
            }
            self.lost_remembered -= u64::from(slot.state == State::Lost);
            self.ring.pop_front();
            self.floor += 1;
        }
        self.unsettled_from = self.unsettled_from.max(self.floor);
    }

    /// The oldest packets in flight, for probes and tail repeats: calls `f(number, sent_at, content)` until it returns false.
    pub fn for_each_in_flight(&self, mut f: impl FnMut(u64, Instant, &Content) -> bool) {
        let start = self.unsettled_from.max(self.floor);
        for (i, slot) in self.ring.iter().enumerate().skip((start - self.floor) as usize) {
            if slot.state == State::InFlight && !f(self.floor + i as u64, slot.sent_at, &slot.content) {
                break;
            }
        }
    }
}
