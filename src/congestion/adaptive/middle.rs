//! Role: points of the middle of what each feedback newly covers: what they say holds whatever overtakes what.
//! Owns: the last such points, and the round trip by them.
//! Implements: docs/CONGESTION.md, "Packets that overtake".

use super::path::Point;
use super::track::Track;
use std::collections::VecDeque;

/// Points of which the median is taken, since a single one may be of a packet that overtook the others: for the queue, and,
/// since a wrong base delay would last, for that.
const FEW: usize = 5;
const MANY: usize = 15;
/// Weight of one round trip in their mean (RFC 6298).
const RTT_WEIGHT: f64 = 0.125;

/// See the module.
#[derive(Debug)]
pub(super) struct Middle {
    pub(super) track: Track,
    /// With their round trips; the newest last.
    recent: VecDeque<(Point, f64)>,
    /// Points in all, as far as it matters.
    seen: usize,
    /// Receiver's seconds at which the newest feedback was written.
    written: Option<f64>,
    /// Mean round trip, and the least that it was, seconds.
    round_trip: Option<(f64, f64)>,
    /// Mean absolute difference of the delays of successive points, before any median is taken.
    pub(super) jitter: f64,
}

impl Middle {
    pub(super) fn new() -> Self {
        Self {
            track: Track::new(),
            recent: VecDeque::with_capacity(MANY),
            seen: 0,
            written: None,
            round_trip: None,
            jitter: 0.0,
        }
    }

    /// Mean round trip and the least that the mean was, seconds.
    pub(super) fn round_trip(&self) -> Option<(f64, f64)> {
        self.round_trip
    }

    /// Receiver's seconds that this feedback covers; `None` if a newer one came before it.
    pub(super) fn span(&mut self, written: f64) -> Option<f64> {
        let since = self.written.map_or(0.0, |before| written - before);
        if since < 0.0 {
            return None;
        }
        self.written = Some(written);
        Some(since)
    }

    /// Takes a point in, and the round trip of its packet; `now`: sender's seconds. Returns the one of the last few that may be
    /// believed, if it is new.
    pub(super) fn push(&mut self, now: f64, point: Point, trip: f64) -> Option<Point> {
        if self.recent.len() >= MANY {
            self.recent.pop_front();
        }
        if let Some((last, _)) = self.recent.back() {
            let step = (point.delay - last.delay).abs().min(0.1);
            self.jitter += (step - self.jitter) / 16.0;
        }
        self.recent.push_back((point, trip));
        self.seen = (self.seen + 1).min(MANY + 1);
        let (many, _) = median(&self.recent, MANY)?;
        if self.seen <= MANY {
            self.track.reset_base(now, many.delay);
        }
        self.track.note_base(now, many.delay);
        let (point, trip) = median(&self.recent, FEW).filter(|_| self.seen >= FEW)?;
        let older = |last: &Point| point.received <= last.received || point.cumulative <= last.cumulative;
        if self.track.newest().is_some_and(older) {
            return None;
        }
        let mean = self.round_trip.map_or(trip, |(mean, _)| mean + (trip - mean) * RTT_WEIGHT);
        self.round_trip = Some((mean, self.round_trip.map_or(mean, |(_, least)| least.min(mean))));
        self.track.add(point);
        Some(point)
    }
}

/// Of the last `count` points, at most `MANY`, the one with the middle delay.
fn median(points: &VecDeque<(Point, f64)>, count: usize) -> Option<(Point, f64)> {
    let mut sorted = [(0.0, 0); MANY];
    let first = points.len().saturating_sub(count);
    let mut filled = 0;
    for (slot, (i, (point, _))) in sorted.iter_mut().zip(points.iter().enumerate().skip(first)) {
        *slot = (point.delay, i);
        filled += 1;
    }
    let sorted = &mut sorted[..filled];
    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    points.get(sorted.get(filled / 2)?.1).copied()
}
