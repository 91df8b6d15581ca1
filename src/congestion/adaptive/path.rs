//! Role: what feedback says about the path: one-way queueing delay, jitter, the rate at which the bottleneck passes us.
//! Owns: the log of sent packets that are not covered yet, the two tracks of points, and which of them counts.
//! Implements: docs/CONGESTION.md, "Measuring".

use super::super::{FeedbackSample, PacketInfo};
use super::middle::Middle;
use super::track::Track;
use std::collections::VecDeque;
use std::time::Instant;

/// Packets in the log at most. Above 1 Gbit/s at 1 s there are 84,000 full packets in flight; beyond this bound the
/// oldest are forgotten and only their rate sample is lost.
const LOG_PACKETS: usize = 1 << 20;
/// Share of packets that were overtaken from which on the largest number is no measure of the path, and below which it is
/// again: it is that of the packets that overtake, a few of many.
const OVERTAKEN: (f64, f64) = (0.15, 0.05);
/// Packets of which it is a moving average, and the most that one feedback weighs.
const OVERTAKEN_PACKETS: f64 = 128.0;
const OVERTAKEN_WEIGHT: f64 = 0.25;
/// The delays of the largest numbers must jump by so many times as much as those of the middle.
const CALMER: f64 = 2.0;

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

impl Sent {
    /// What it tells when it arrived at the receiver's second `received`, with `got` bytes in all.
    fn arrived(&self, received: f64, got: u64) -> Point {
        Point {
            received,
            sent: self.at,
            cumulative: self.cumulative,
            got,
            delay: received - self.at,
            pace: self.pace,
            expected: self.expected,
        }
    }
}

/// What the arrival of one packet told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Receiver's seconds at which the packet arrived.
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

/// See the module. What the points say is said by the track that counts.
#[derive(Debug)]
pub(super) struct Path {
    epoch: Instant,
    log: VecDeque<Sent>,
    pub(super) sent_total: u64,
    largest: Option<u64>,
    /// Points of the largest number received: exact, as long as packets keep their order.
    front: Track,
    /// Points of the middle one of the packets that each feedback newly covers: a little blurred, whatever overtakes what.
    middle: Middle,
    /// The last packet whose point the middle believed.
    middle_number: Option<u64>,
    /// Share of packets that arrived after later ones.
    overtaken: f64,
    /// The middle counts.
    disordered: bool,
}

impl std::ops::Deref for Path {
    type Target = Track;
    fn deref(&self) -> &Track {
        if self.disordered { &self.middle.track } else { &self.front }
    }
}

impl Path {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            log: VecDeque::new(),
            sent_total: 0,
            largest: None,
            front: Track::new(),
            middle: Middle::new(),
            middle_number: None,
            overtaken: 0.0,
            disordered: false,
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

    /// Takes a feedback frame in. Returns the new point of the track that counts, if it has one.
    pub(super) fn on_feedback(&mut self, sample: &FeedbackSample<'_>) -> Option<Point> {
        self.note_order(sample);
        let front = self.front_point(sample);
        let middle = self.middle_point(sample);
        let now = self.secs(sample.now);
        if let Some(point) = front {
            self.front.push(now, point);
        }
        // What both have passed is not asked for again.
        let covered = self.middle_number.min(self.largest);
        while self.log.front().is_some_and(|front| Some(front.number) <= covered) {
            self.log.pop_front();
        }
        if self.disordered { middle } else { front }
    }

    /// How many of the packets that arrived had been overtaken by others.
    fn note_order(&mut self, sample: &FeedbackSample<'_>) {
        let Some(largest) = self.largest else { return };
        let late = sample.acked.partition_point(|packet| packet.number < largest) as f64;
        let count = sample.acked.len() as f64;
        if count > 0.0 {
            let weight = (count / OVERTAKEN_PACKETS).min(OVERTAKEN_WEIGHT);
            self.overtaken += (late / count - self.overtaken) * weight;
        }
        let bound = if self.disordered { OVERTAKEN.1 } else { OVERTAKEN.0 };
        // Jitter that all packets share leaves the first of them the better measure.
        let calmer = self.front.jitter > CALMER * self.middle.jitter;
        let known = self.middle.track.newest().is_some();
        self.disordered = self.overtaken > bound && known && (self.disordered || calmer);
    }

    /// The round trip and its least, where packets overtake each other: samples of the largest number say too little.
    pub(super) fn round_trip(&self) -> Option<(f64, f64)> {
        self.middle.round_trip().filter(|_| self.disordered)
    }

    fn sent(&self, number: u64) -> Option<Sent> {
        let i = self.log.binary_search_by_key(&number, |sent| sent.number).ok()?;
        Some(self.log[i])
    }

    fn front_point(&mut self, sample: &FeedbackSample<'_>) -> Option<Point> {
        let newest = sample.acked.last()?;
        if newest.sent_at != sample.largest_sent_at
            || self.largest.is_some_and(|largest| newest.number <= largest)
        {
            return None;
        }
        self.largest = Some(newest.number);
        let sent = self.sent(newest.number)?;
        Some(sent.arrived(sample.largest_received_us as f64 * 1e-6, sample.received_bytes_total))
    }

    /// The middle one of the packets newly covered arrived in the middle of the time that the feedback covers.
    fn middle_point(&mut self, sample: &FeedbackSample<'_>) -> Option<Point> {
        let written = sample.written_us as f64 * 1e-6;
        let since = self.middle.span(written)?;
        let half = sample.acked.len() / 2;
        let sent = self.sent(sample.acked.get(half)?.number)?;
        let later = &sample.acked[half + 1..];
        // Nothing may have come for a while before.
        let spread = later.get(later.len() / 2).map_or(0.0, |packet| self.secs(packet.sent_at) - sent.at);
        let age = (since / 2.0).min(2.0 * spread);
        let bytes_later: u64 = later.iter().map(|packet| u64::from(packet.size_bytes)).sum();
        let trip = (self.secs(sample.now) - sent.at - age).max(1e-6);
        let got = sample.received_bytes_total.saturating_sub(bytes_later);
        let point = self.middle.push(self.secs(sample.now), sent.arrived(written - age, got), trip)?;
        let i = self.log.partition_point(|sent| sent.cumulative < point.cumulative);
        self.middle_number = self.log.get(i).map(|sent| sent.number).or(self.middle_number);
        Some(point)
    }

    /// Keeps the base delay for longer (while a competitor holds the queue up).
    pub(super) fn hold_base(&mut self, now: f64) {
        self.front.hold_base(now);
        self.middle.track.hold_base(now);
    }

    /// Forgets points (not the base delay): what comes after a silence does not join on.
    pub(super) fn clear_points(&mut self) {
        self.front.clear_points();
        self.middle.track.clear_points();
    }

    /// Bytes sent after the packet of the newest point, lost ones included.
    pub(super) fn outstanding(&self) -> f64 {
        (self.sent_total - self.covered) as f64
    }
}
