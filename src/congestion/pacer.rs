//! Role: turns a rate into instants at which bytes may leave.
//! Owns: one token bucket.
//! Implements: docs/PROTOCOL.md, "Rate control".

use std::time::{Duration, Instant};

/// Bucket units per byte: the level is kept in byte-nanoseconds per second, so that `nanoseconds * rate` adds
/// without rounding and the long-run rate is exact.
const UNITS_PER_BYTE: i128 = 1_000_000_000;

/// How much a caller may catch up beside the burst, however it came to be late. A wake-up is commonly up to a millisecond
/// late (epoll's grain); without this credit each late wake-up would lower the long-run rate.
pub const CATCH_UP: Duration = Duration::from_millis(1);

/// A pacer that was never given a rate lets a modest burst out, so that a handshake is never held.
const INITIAL_BURST_BYTES: u64 = 64 * 1024;

/// Token bucket that fills at the pacing rate and holds one burst. Also used for `--limit` (counting IP bytes).
///
/// The bucket may go into debt by the last datagram of a train; the debt is paid before the next train, so the rate
/// over any long interval is exact.
#[derive(Clone, Debug)]
pub struct Pacer {
    level: i128,
    last: Instant,
    bytes_per_sec: u64,
    burst_bytes: u64,
    /// Nothing leaves until a whole burst may, which then leaves in one train.
    whole: bool,
    /// A train is leaving.
    open: bool,
    /// What a caller who was told to wait, and came later than that, may catch up at most.
    most_late: Duration,
    /// When a caller who has something to send was told to come again.
    due: Option<Instant>,
    /// What may be caught up now.
    catch_up: Duration,
}

impl Pacer {
    /// A pacer that may send one burst at once. Without a rate (until `set_rate`) it limits nothing.
    pub fn new(now: Instant) -> Self {
        Self {
            level: i128::from(INITIAL_BURST_BYTES) * UNITS_PER_BYTE,
            last: now,
            bytes_per_sec: u64::MAX,
            burst_bytes: INITIAL_BURST_BYTES,
            whole: false,
            open: true,
            most_late: CATCH_UP,
            due: None,
            catch_up: CATCH_UP,
        }
    }

    /// How much of the time that a busy host was late may be caught up at once. Never less than `CATCH_UP`.
    pub fn set_most_late(&mut self, most: Duration) {
        self.most_late = most.max(CATCH_UP);
    }

    /// Whether bursts leave whole only, as trains that are measured.
    pub fn set_whole(&mut self, whole: bool) {
        self.whole = whole;
    }

    /// Sets rate and burst from now on. A rate of `u64::MAX` limits nothing; a rate of 0 holds everything.
    pub fn set_rate(&mut self, now: Instant, bytes_per_sec: u64, burst_bytes: u64) {
        if bytes_per_sec == self.bytes_per_sec && burst_bytes == self.burst_bytes {
            return;
        }
        self.refill(now);
        self.bytes_per_sec = bytes_per_sec;
        self.burst_bytes = burst_bytes.max(1);
        self.level = self.level.min(self.capacity());
    }

    /// Bytes that may leave now (0: wait until `next_release`). A datagram may leave when this is positive: the bucket
    /// may go into debt by less than one datagram. Never more than one burst.
    pub fn allowance(&mut self, now: Instant) -> u64 {
        if self.bytes_per_sec == u64::MAX {
            return u64::MAX;
        }
        self.refill(now);
        self.open = self.level > 0 && (self.open || self.level >= self.wanted());
        let held = self.level <= 0 || self.whole && !self.open;
        self.due = held.then(|| self.next_release(now));
        if held {
            return 0;
        }
        // Round up: a fraction of a byte is enough for a datagram to go into debt by less than its size.
        let bytes = (self.level.max(0) + UNITS_PER_BYTE - 1) / UNITS_PER_BYTE;
        u64::try_from(bytes).unwrap_or(u64::MAX).min(self.burst_bytes)
    }

    /// Bytes left.
    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.bytes_per_sec == u64::MAX {
            self.last = self.last.max(now);
            return;
        }
        self.refill(now);
        self.level -= i128::from(bytes) * UNITS_PER_BYTE;
    }

    /// When a worthwhile train (a whole burst if they leave whole, else a quarter) may leave; not after `now` if that much may leave already.
    pub fn next_release(&self, now: Instant) -> Instant {
        if self.bytes_per_sec == u64::MAX {
            return now;
        }
        let missing = self.wanted() - self.level_at(now);
        if missing <= 0 {
            return now;
        }
        if self.bytes_per_sec == 0 {
            return now + Duration::from_secs(3600);
        }
        let rate = i128::from(self.bytes_per_sec);
        let ns = (missing + rate - 1) / rate;
        now + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX / 2).min(3_600_000_000_000))
    }

    /// The level from which a train is worthwhile.
    fn wanted(&self) -> i128 {
        let bytes = if self.whole { self.burst_bytes } else { self.burst_bytes / 4 };
        i128::from(bytes.max(1)) * UNITS_PER_BYTE
    }

    fn capacity(&self) -> i128 {
        let catch_up = self.catch_up.as_nanos() as i128 * i128::from(self.bytes_per_sec);
        i128::from(self.burst_bytes) * UNITS_PER_BYTE + catch_up
    }

    fn level_at(&self, now: Instant) -> i128 {
        let ns = now.saturating_duration_since(self.last).as_nanos() as i128;
        (self.level + ns * i128::from(self.bytes_per_sec)).min(self.capacity())
    }

    fn refill(&mut self, now: Instant) {
        if self.bytes_per_sec != u64::MAX {
            self.note_lateness(now);
            self.level = self.level_at(now);
        }
        self.last = self.last.max(now);
    }

    /// Who had nothing to send for a while is not late.
    fn note_lateness(&mut self, now: Instant) {
        match self.due {
            Some(due) => {
                self.catch_up = now.saturating_duration_since(due).clamp(CATCH_UP, self.most_late);
            }
            None if now > self.last + CATCH_UP => self.catch_up = CATCH_UP,
            None => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Only as an origin: the tests add to it.
mod tests {
    use super::*;

    fn drive(rate: u64, burst: u64, datagram: u64, late: Duration, span: Duration) -> (u64, u64) {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(start), start);
        pacer.set_rate(now, rate, burst);
        let (mut sent, mut largest_train) = (0, 0);
        while now < start + span {
            let mut train = 0;
            while pacer.allowance(now) > 0 && train < burst {
                pacer.on_sent(now, datagram);
                train += datagram;
            }
            sent += train;
            largest_train = largest_train.max(train);
            let next = pacer.next_release(now);
            now = next.max(now) + late;
        }
        (sent, largest_train)
    }

    #[test]
    fn long_run_rate_is_exact() {
        for rate in [1_000, 875_000, 25_000_000, 1_234_567_891] {
            for late in [0, 50, 700] {
                let burst = (rate / 1000).clamp(3000, 1 << 20);
                let span = Duration::from_secs(if rate < 10_000 { 2000 } else { 5 });
                let (sent, train) = drive(rate, burst, 1472, Duration::from_micros(late), span);
                let expected = rate as f64 * span.as_secs_f64();
                let off = (sent as f64 - expected) / expected;
                assert!(off.abs() < 0.006, "rate {rate} late {late}: off by {off}");
                assert!(train < burst + 1472, "a train is at most a burst and the datagram in debt");
            }
        }
    }

    #[test]
    fn bounded_after_idle() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.set_rate(start, 1_000_000, 10_000);
        let later = start + Duration::from_secs(100);
        assert_eq!(pacer.allowance(later), 10_000);
        pacer.on_sent(later, 10_000);
        // What a late caller may catch up is one millisecond's worth.
        assert_eq!(pacer.allowance(later), 1_000);
        pacer.on_sent(later, 1_000);
        assert_eq!(pacer.allowance(later), 0);
        assert_eq!(pacer.next_release(later), later + Duration::from_micros(2_500));
    }

    /// Who was told to wait and comes late catches up what is allowed; who had nothing to send does not.
    #[test]
    fn a_late_caller_catches_up() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.set_rate(start, 1_000_000, 2_000);
        pacer.set_most_late(Duration::from_millis(8));
        let sent = |pacer: &mut Pacer, now| {
            let mut sent = 0;
            while pacer.allowance(now) > 0 {
                pacer.on_sent(now, 500);
                sent += 500;
            }
            sent
        };
        assert_eq!(sent(&mut pacer, start), 3_000);
        // Due after half a millisecond (a quarter of a burst), asked after 6: a burst and what was missed.
        let now = start + Duration::from_millis(6);
        assert_eq!(sent(&mut pacer, now), 6_000);
        // Very late: no more than a burst and 8 ms.
        let now = now + Duration::from_millis(60);
        assert_eq!(sent(&mut pacer, now), 10_000);
        // The last call said that more may leave, but nothing was there to send: 60 ms later that is no lateness.
        let now = now + Duration::from_millis(3);
        assert!(pacer.allowance(now) > 0);
        let now = now + Duration::from_millis(60);
        assert_eq!(sent(&mut pacer, now), 3_000);
    }

    #[test]
    fn zero_rate_holds_and_unlimited_does_not() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        assert_eq!(pacer.allowance(start), u64::MAX);
        pacer.set_rate(start, 0, 1500);
        pacer.on_sent(start, 1500);
        assert_eq!(pacer.allowance(start + Duration::from_secs(10)), 0);
        assert!(pacer.next_release(start) > start + Duration::from_secs(1000));
        pacer.set_rate(start, u64::MAX, 1500);
        assert_eq!(pacer.allowance(start), u64::MAX);
    }
}
