//! Role: what a plot needs of millions of events, in bounded memory: sums and means over equal steps of time.
//! Owns: the bins of one session; they grow wider, two by two, as time goes on.
//! Implements: docs/TRACES.md, "The report".

/// Bins of one session at most: about as many as a wide plot has pixels in two.
const MAX_BINS: usize = 400;
/// Width of the first bins, milliseconds.
const FIRST_WIDTH_MS: f64 = 1.0;
/// Single points of one kind that are kept; of more, every second, fourth, ... in order.
const MAX_POINTS: usize = 8192;

/// A mean that can be merged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mean {
    sum: f64,
    count: u32,
    most: f64,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.merge(Self { sum: value, count: 1, most: value });
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
        self.most = self.most.max(other.most);
    }

    pub(super) fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }

    pub(super) fn most(&self) -> Option<f64> {
        (self.count > 0).then_some(self.most)
    }
}

/// The lowest and the highest of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Span(Option<(u64, u64)>);

impl Span {
    pub(super) fn add(&mut self, from: u64, to: u64) {
        self.merge(Self(Some((from, to))));
    }

    fn merge(&mut self, other: Self) {
        self.0 = match (self.0, other.0) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }

    pub(super) fn get(&self) -> Option<(u64, u64)> {
        self.0
    }
}

/// One step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bin {
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) repairs: u64,
    pub(super) lost: u64,
    pub(super) window: Mean,
    pub(super) in_flight: Mean,
    pub(super) pacing: Mean,
    pub(super) rtt: Mean,
    pub(super) queue: Mean,
    /// Offsets sent for the first time: chunks, control.
    pub(super) fresh: [Span; 2],
    /// Packet numbers received.
    pub(super) numbers: Span,
}

impl Bin {
    fn merge(&mut self, other: &Self) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.repairs += other.repairs;
        self.lost += other.lost;
        self.window.merge(other.window);
        self.in_flight.merge(other.in_flight);
        self.pacing.merge(other.pacing);
        self.rtt.merge(other.rtt);
        self.queue.merge(other.queue);
        self.fresh.iter_mut().zip(other.fresh).for_each(|(a, b)| a.merge(b));
        self.numbers.merge(other.numbers);
    }
}

/// All bins of a session.
#[derive(Clone, Debug)]
pub(super) struct Bins {
    width_ms: f64,
    bins: Vec<Bin>,
}

impl Default for Bins {
    fn default() -> Self {
        Self { width_ms: FIRST_WIDTH_MS, bins: Vec::new() }
    }
}

impl Bins {
    /// The bin of a time, in milliseconds since the session began.
    pub(super) fn at(&mut self, time_ms: f64) -> &mut Bin {
        let time_ms = time_ms.max(0.0);
        while time_ms / self.width_ms >= MAX_BINS as f64 {
            self.width_ms *= 2.0;
            let merged = self.bins.chunks(2).map(|pair| {
                let mut bin = pair[0];
                pair[1..].iter().for_each(|other| bin.merge(other));
                bin
            });
            self.bins = merged.collect();
        }
        let i = (time_ms / self.width_ms) as usize;
        if i >= self.bins.len() {
            self.bins.resize(i + 1, Bin::default());
        }
        &mut self.bins[i]
    }

    /// Width of each, seconds.
    pub(super) fn width_s(&self) -> f64 {
        self.width_ms / 1e3
    }

    /// Each with the time at which it begins, in seconds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, &Bin)> {
        self.bins.iter().enumerate().map(|(i, bin)| (i as f64 * self.width_s(), bin))
    }
}

/// Single points, thinned out evenly when there are too many.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    /// Milliseconds and value.
    points: Vec<(f64, u64)>,
    seen: u64,
    /// Every 2^n-th is kept.
    thinned: u32,
}

impl Points {
    pub(super) fn add(&mut self, time_ms: f64, value: u64) {
        if self.seen.is_multiple_of(1 << self.thinned) {
            self.points.push((time_ms, value));
            if self.points.len() > MAX_POINTS {
                let mut nth = 0_u32;
                self.points.retain(|_| {
                    nth += 1;
                    nth % 2 == 1
                });
                self.thinned += 1;
            }
        }
        self.seen += 1;
    }

    /// Seconds and value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, u64)> {
        self.points.iter().map(|(ms, value)| (ms / 1e3, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_keep_sums_and_means_while_they_grow() {
        let mut bins = Bins::default();
        for ms in 0..10_000_u32 {
            let bin = bins.at(f64::from(ms));
            bin.sent_bytes += 1;
            bin.rtt.add(f64::from(ms % 2));
            bin.fresh[0].add(u64::from(ms), u64::from(ms) + 1);
        }
        assert_eq!(bins.width_s(), 0.032);
        assert_eq!(bins.iter().count(), 313);
        assert_eq!(bins.iter().map(|(_, bin)| bin.sent_bytes).sum::<u64>(), 10_000);
        assert!(bins.iter().all(|(_, bin)| bin.rtt.get() == Some(0.5) && bin.rtt.most() == Some(1.0)));
        assert_eq!(bins.at(64.0).fresh[0].get(), Some((64, 96)));
        // An hour later there are no more of them.
        bins.at(3_600_000.0).sent_bytes += 1;
        assert!(bins.iter().count() <= MAX_BINS);
        assert_eq!(bins.iter().map(|(_, bin)| bin.sent_bytes).sum::<u64>(), 10_001);
    }

    #[test]
    fn points_are_thinned_evenly() {
        let mut points = Points::default();
        for i in 0..100_000_u64 {
            points.add(i as f64, i);
        }
        let kept: Vec<u64> = points.iter().map(|(_, value)| value).collect();
        assert!(kept.len() <= MAX_POINTS && kept.len() > MAX_POINTS / 2, "{}", kept.len());
        assert!(kept.windows(2).all(|pair| pair[1] - pair[0] == 16), "{:?}", &kept[..8]);
    }
}
