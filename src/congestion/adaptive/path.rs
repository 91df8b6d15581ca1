//! Role: what feedback says about the path: one-way queueing delay, jitter, the rate at which the bottleneck passes us.
//! Owns: the log of sent packets that are not covered yet, the recent points of feedback, the base delay.
//! Implements: docs/CONGESTION.md, "Measuring".

use super::super::{FeedbackSample, PacketInfo};
use std::collections::VecDeque;
use std::time::Instant;

/// Packets in the log at most. Above 1 Gbit/s at 1 s there are 84,000 full packets in flight; beyond this bound the
/// oldest are forgotten and only their rate sample is lost.
const LOG_PACKETS: usize = 1 << 20;
/// Points kept; feedback comes 8 to 16 times per RTT, so this is many RTTs. On slow links it comes with every other packet:
/// so many then hold the packets that an experiment wants to see (`loss::TRIAL_PACKETS`).
const POINTS: usize = 512;
/// The base delay is the minimum over one to two of these (a route change shows after at most 20 s; 50 ppm of clock
/// drift make 1 ms in that time).
pub(super) const BASE_SLOT_SECS: f64 = 10.0;

/// A packet that left and is not covered by feedback yet.
#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    /// Bytes sent up to and including it.
    cumulative: u64,
    /// Sender's seconds.
    at: f64,
    /// Pacing rate when it left.
    pace: f64,
    /// Queue that it was expected to meet, seconds.
    expected: f64,
}

/// What one feedback frame with a new largest number told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Receiver's seconds at which the largest packet arrived.
    pub(super) received: f64,
    /// Sender's seconds at which it left.
    pub(super) sent: f64,
    /// Bytes sent up to and including it ("number space": lost or not).
    pub(super) cumulative: u64,
    /// Bytes received in all.
    pub(super) got: u64,
    /// One-way delay with an unknown constant offset.
    pub(super) delay: f64,
    /// Pacing rate when it left.
    pub(super) pace: f64,
    /// Queue that it was expected to meet, seconds.
    pub(super) expected: f64,
}

/// Two points compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    /// Receiver's seconds between them.
    pub(super) span: f64,
    pub(super) bytes: f64,
    /// Rate at which the bottleneck passed us, packets lost behind it included.
    pub(super) pass_rate: f64,
    /// Rate that arrived.
    pub(super) got_rate: f64,
    /// Rate that left the sender.
    pub(super) sent_rate: f64,
    /// Share that did not arrive.
    pub(super) loss: f64,
    /// Smallest and largest queueing delay at its points.
    pub(super) min_queue: f64,
    pub(super) max_queue: f64,
    /// Uncertainty of the loss share by packets that overtake each other.
    pub(super) blur: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Path {
    epoch: Instant,
    log: VecDeque<Sent>,
    pub(super) sent_total: u64,
    covered: u64,
    largest: Option<u64>,
    points: VecDeque<Point>,
    base_now: f64,
    base_before: f64,
    base_rotates: f64,
    /// Sender's seconds at which the queue was last seen (nearly) empty.
    pub(super) base_seen: f64,
    /// Mean absolute difference of successive delays (RFC 3550 section 6.4.1).
    pub(super) jitter: f64,
}

impl Path {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            log: VecDeque::new(),
            sent_total: 0,
            covered: 0,
            largest: None,
            points: VecDeque::new(),
            base_now: f64::INFINITY,
            base_before: f64::INFINITY,
            base_rotates: f64::INFINITY,
            base_seen: 0.0,
            jitter: 0.0,
        }
    }

    /// Seconds since the path began.
    pub(super) fn secs(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }

    pub(super) fn on_sent(&mut self, packet: &PacketInfo, pace: f64, expected: f64) {
        self.sent_total += u64::from(packet.size_bytes);
        if self.log.len() >= LOG_PACKETS {
            self.log.pop_front();
        }
        let at = self.secs(packet.sent_at);
        self.log.push_back(Sent { number: packet.number, cumulative: self.sent_total, at, pace, expected });
    }

    /// Takes a feedback frame in. Returns the new point if the largest number advanced.
    pub(super) fn on_feedback(&mut self, sample: &FeedbackSample<'_>) -> Option<Point> {
        let newest = sample.acked.last()?;
        if newest.sent_at != sample.largest_sent_at
            || self.largest.is_some_and(|largest| newest.number <= largest)
        {
            return None;
        }
        self.largest = Some(newest.number);
        let mut sent = None;
        while let Some(front) = self.log.front().filter(|front| front.number <= newest.number) {
            sent = Some(*front);
            self.log.pop_front();
        }
        let sent = sent.filter(|sent| sent.number == newest.number)?;
        self.covered = sent.cumulative;
        let received = sample.largest_received_us as f64 * 1e-6;
        let point = Point {
            received,
            sent: sent.at,
            cumulative: sent.cumulative,
            got: sample.received_bytes_total,
            delay: received - sent.at,
            pace: sent.pace,
            expected: sent.expected,
        };
        if let Some(last) = self.points.back() {
            // The peer's clock is hostile until bounded: time that runs backwards starts a new row of points.
            if point.received <= last.received || point.got < last.got {
                self.points.clear();
            } else {
                let step = (point.delay - last.delay).abs().min(0.1);
                self.jitter += (step - self.jitter) / 16.0;
            }
        }
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.note_base(self.secs(sample.now), point.delay);
        Some(point)
    }

    fn note_base(&mut self, now: f64, delay: f64) {
        if self.base_rotates.is_infinite() || now >= self.base_rotates {
            self.base_rotates = now + BASE_SLOT_SECS;
            self.base_before = self.base_now;
            self.base_now = delay;
        }
        self.base_now = self.base_now.min(delay);
        if delay <= self.base() + (0.5 * self.jitter).max(0.0005) {
            self.base_seen = now;
        }
    }

    /// Keeps the base delay for longer (while a competitor holds the queue up).
    pub(super) fn hold_base(&mut self, now: f64) {
        self.base_rotates = self.base_rotates.max(now + BASE_SLOT_SECS / 2.0);
    }

    /// The least delay of late (its origin is unknown).
    pub(super) fn base(&self) -> f64 {
        self.base_now.min(self.base_before)
    }

    /// Forgets points (not the base delay): what comes after a silence does not join on.
    pub(super) fn clear_points(&mut self) {
        self.points.clear();
    }

    /// Queueing delay at the bottleneck: the smallest of the last `span` seconds (of sending), at least of three
    /// points, so that neither jitter nor a place late in a train looks like a queue.
    pub(super) fn queue(&self, span: f64) -> Option<f64> {
        let newest = self.points.back()?.sent;
        let recent = self.points.iter().rev().enumerate();
        let delays = recent
            .take_while(|&(i, point)| i < 3 || point.sent > newest - span)
            .map(|(_, point)| point.delay);
        Some((delays.fold(f64::INFINITY, f64::min) - self.base()).max(0.0))
    }

    /// The newest point against the youngest one at least `span` seconds and `bytes` bytes before it.
    pub(super) fn interval(&self, span: f64, bytes: f64) -> Option<Interval> {
        let new = *self.points.back()?;
        let far = |old: &Point| {
            new.received - old.received >= span && (new.cumulative - old.cumulative) as f64 >= bytes
        };
        self.compare(far)
    }

    /// The newest point against the oldest one whose packet left at `since` (sender's seconds) or later.
    pub(super) fn interval_since(&self, since: f64) -> Option<Interval> {
        let first = self.points.iter().find(|point| point.sent >= since)?.sent;
        self.compare(|old| old.sent <= first)
    }

    fn compare(&self, far: impl Fn(&Point) -> bool) -> Option<Interval> {
        let new = self.points.back()?;
        let (mut min_delay, mut max_delay) = (new.delay, new.delay);
        for old in self.points.iter().rev().skip(1) {
            min_delay = min_delay.min(old.delay);
            max_delay = max_delay.max(old.delay);
            let (span, bytes) = (new.received - old.received, (new.cumulative - old.cumulative) as f64);
            if !far(old) || span <= 0.0 || bytes <= 0.0 {
                continue;
            }
            let got = (new.got - old.got) as f64;
            return Some(Interval {
                span,
                bytes,
                pass_rate: bytes / span,
                got_rate: got / span,
                sent_rate: bytes / (new.sent - old.sent).max(1e-6),
                loss: (1.0 - got / bytes).clamp(0.0, 1.0),
                min_queue: (min_delay - self.base()).max(0.0),
                max_queue: (max_delay - self.base()).max(0.0),
                blur: (self.jitter / span).min(0.5),
            });
        }
        None
    }

    /// Bytes and seconds between the last two points, if both packets left in one train: how fast the bottleneck passed
    /// what lay between.
    pub(super) fn train(&self, min_bytes: f64) -> Option<(f64, f64)> {
        let new = self.points.back()?;
        let old = self.points.iter().rev().nth(1)?;
        let (secs, bytes) = (new.received - old.received, (new.cumulative - old.cumulative) as f64);
        (bytes >= min_bytes && new.sent - old.sent < 0.1 * secs).then_some((bytes, secs))
    }

    /// Bytes sent after the largest number that feedback covers, lost ones included.
    pub(super) fn outstanding(&self) -> f64 {
        (self.sent_total - self.covered) as f64
    }
}
