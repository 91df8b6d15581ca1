//! Role: what a row of points says: queueing delay, jitter, the rates between two of them.
//! Owns: the recent points of one kind, and their base delay.
//! Implements: docs/CONGESTION.md, "Measuring".

use super::path::{Interval, Point};
use std::collections::VecDeque;

/// Points kept; feedback comes 8 to 16 times per RTT, so this is many RTTs. On slow links it comes with every other packet:
/// so many then hold the packets that an experiment wants to see (`loss::TRIAL_PACKETS`).
const POINTS: usize = 512;
/// The base delay is the minimum over one to two of these (a route change shows after at most 20 s; 50 ppm of clock
/// drift make 1 ms in that time).
pub(super) const BASE_SLOT_SECS: f64 = 10.0;

/// See the module.
#[derive(Debug)]
pub(super) struct Track {
    points: VecDeque<Point>,
    base_now: f64,
    base_before: f64,
    base_rotates: f64,
    /// Sender's seconds at which the queue was last seen (nearly) empty.
    pub(super) base_seen: f64,
    /// Mean absolute difference of successive delays (RFC 3550 section 6.4.1).
    pub(super) jitter: f64,
    /// Bytes sent up to and including the packet of the newest point.
    pub(super) covered: u64,
}

impl Track {
    pub(super) fn new() -> Self {
        Self {
            points: VecDeque::new(),
            base_now: f64::INFINITY,
            base_before: f64::INFINITY,
            base_rotates: f64::INFINITY,
            base_seen: 0.0,
            jitter: 0.0,
            covered: 0,
        }
    }

    /// Takes a point in; `now`: sender's seconds.
    pub(super) fn push(&mut self, now: f64, point: Point) {
        self.add(point);
        self.note_base(now, point.delay);
    }

    /// Takes a point in whose delay says nothing of the least.
    pub(super) fn add(&mut self, point: Point) {
        self.covered = point.cumulative;
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
    }

    /// Begins again with this base delay.
    pub(super) fn reset_base(&mut self, now: f64, delay: f64) {
        (self.base_now, self.base_before) = (delay, f64::INFINITY);
        self.base_rotates = now + BASE_SLOT_SECS;
    }

    /// The newest point.
    pub(super) fn newest(&self) -> Option<&Point> {
        self.points.back()
    }

    pub(super) fn note_base(&mut self, now: f64, delay: f64) {
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
            new.received - old.received >= span
                && new.cumulative.saturating_sub(old.cumulative) as f64 >= bytes
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
            let (span, bytes) =
                (new.received - old.received, new.cumulative.saturating_sub(old.cumulative) as f64);
            if !far(old) || span <= 0.0 || bytes <= 0.0 {
                continue;
            }
            let got = new.got.saturating_sub(old.got) as f64;
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
        let (secs, bytes) =
            (new.received - old.received, new.cumulative.saturating_sub(old.cumulative) as f64);
        (bytes >= min_bytes && new.sent - old.sent < 0.1 * secs).then_some((bytes, secs))
    }
}
