//! Role: finds a crowd's way out of a queue that is full: whoever came while it was full takes it for the path's delay.
//! Owns: when the next retreat is due, and the one under way.
//! Implements: docs/CONGESTION.md, "Overload".

use super::path::Interval;

/// More than this share lost is no radio link that anybody would use, but may be a queue that many flows overflow at once.
const SHARE: f64 = 0.4;
/// Standard deviations (of a share of one half) beyond it.
const DEVIATIONS: f64 = 2.5;
/// RTTs that it must last: the first flight into a short queue loses as much, once.
const LASTS_RTTS: f64 = 1.5;
/// Pace of a retreat, relative to what arrived before it: everybody sees the overload at the same time and goes at the
/// same time, so that the queue, which may be of two RTTs, empties within one.
const CUT: f64 = 0.25;
/// RTTs that it lasts: the queue empties in the first, and shows in feedback of the second.
const RTTS: f64 = 3.0;
/// Beside that, so long: slow flows see the overload later than fast ones, and the retreats of most must overlap.
const LEAST_SECS: f64 = 0.3;
/// Retreats in vain after which the link is believed to lose so much.
const BELIEVED_AFTER: u32 = 2;
/// Pace after one of those, relative to what arrived.
const IN_VAIN: f64 = 0.7;
/// Loss during the retreat, relative to that before it, that was of the flows' making.
const GONE: f64 = 0.5;
/// Pause after it in RTTs, and beside that; it doubles when the delay did not fall, up to the second of these.
const PAUSE_RTTS: f64 = 4.0;
const PAUSE_SECS: (f64, f64) = (0.5, 64.0);
/// By so much the base delay must fall, beside the jitter.
const FALL_SECS: f64 = 0.001;

/// A retreat under way.
#[derive(Clone, Copy, Debug)]
struct Retreat {
    until: f64,
    /// What arrived before it, and what the capacity was thought to be.
    got_rate: f64,
    capacity: f64,
    base: f64,
    loss: f64,
    since: f64,
}

/// What a retreat showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// To go on with.
    pub(super) capacity: f64,
    /// The loss was made by those who send.
    pub(super) ours: bool,
    /// The queue had been taken for a part of the path.
    pub(super) base_fell: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Overload {
    /// Retreats in a row that changed nothing.
    in_vain: u32,
    retreat: Option<Retreat>,
    /// More than that was lost ever since.
    over_since: f64,
    next_at: f64,
    pause: f64,
}

/// Whether so much is lost that the path must be taken for full. `spread`: variance relative to that of independent loss.
pub(super) fn is_overload(interval: &Interval, datagram: f64, spread: f64) -> bool {
    let packets = (interval.bytes / datagram).max(1.0);
    interval.loss > SHARE + 2.0 * interval.blur + DEVIATIONS * (0.25 * spread / packets).sqrt()
}

impl Overload {
    pub(super) fn new() -> Self {
        Self { in_vain: 0, retreat: None, over_since: f64::INFINITY, next_at: 0.0, pause: PAUSE_SECS.0 }
    }

    /// Begins a retreat because of what this interval lost.
    pub(super) fn begin(&mut self, now: f64, rtt: f64, interval: &Interval, capacity: f64, base: f64) {
        let until = now + RTTS * rtt + LEAST_SECS;
        let (got_rate, loss) = (interval.got_rate, interval.loss);
        self.retreat = Some(Retreat { until, got_rate, capacity, base, loss, since: now });
    }

    /// Sender's seconds at which the retreat under way began.
    pub(super) fn since(&self) -> Option<f64> {
        self.retreat.map(|r| r.since)
    }

    /// Whether one is due, by what was lost.
    pub(super) fn due(&mut self, now: f64, rtt: f64, interval: &Interval, datagram: f64) -> bool {
        if !is_overload(interval, datagram, 1.0) {
            self.over_since = f64::INFINITY;
        } else if self.over_since.is_infinite() {
            self.over_since = now;
        }
        self.retreat.is_none() && now >= self.next_at && now >= self.over_since + LASTS_RTTS * rtt
    }

    /// The pace of the retreat under way.
    pub(super) fn pace(&self) -> Option<f64> {
        self.retreat.map(|r| r.got_rate * CUT)
    }

    /// The retreat is over: what came of it. `loss`: of what was sent in it.
    pub(super) fn end(
        &mut self,
        now: f64,
        rtt: f64,
        base: f64,
        jitter: f64,
        loss: Option<f64>,
    ) -> Option<Outcome> {
        let r = self.retreat.filter(|r| now >= r.until)?;
        self.retreat = None;
        let base_fell = base < r.base - FALL_SECS - jitter;
        let ours = base_fell || loss.is_some_and(|loss| loss < GONE * r.loss);
        self.in_vain = if ours { 0 } else { self.in_vain + 1 };
        let believed = self.in_vain > BELIEVED_AFTER;
        if base_fell {
            self.pause = PAUSE_SECS.0;
        } else if ours || believed {
            self.pause = (2.0 * self.pause).min(PAUSE_SECS.1);
        }
        self.next_at = now + self.pause + PAUSE_RTTS * rtt;
        let capacity = match (believed, base_fell) {
            (true, _) => r.capacity,
            (false, true) => r.got_rate,
            // Everybody a little less than what arrived: so the queue empties at last.
            (false, false) => r.got_rate * if ours { 1.0 } else { IN_VAIN },
        };
        Some(Outcome { capacity, ours, base_fell })
    }
}
