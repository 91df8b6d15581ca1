//! Role: path-MTU search (RFC 8899) in datagram payload bytes.
//! Owns: the search state of one path.
//! Implements: docs/PROTOCOL.md, "Path MTU".

use std::time::{Duration, Instant};

/// RFC 8899 section 5.1.2, MAX_PROBES: tries of one size on a path without loss.
const MIN_TRIES: u32 = 3;
/// Tries of one size on a path with heavy loss: at 30 % ordinary loss, 6 tries fail together once in 1,400.
const MAX_TRIES: u32 = 8;
/// A size is given up when ordinary loss explains its failures with less than this probability.
const CHANCE_OF_ERROR: f64 = 1e-3;
/// RFC 8899 section 5.1.1, PMTU_RAISE_TIMER.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Pause before the second try of a size; doubles with each further one. Losses of a burst then do not all hit the
/// same size.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// A probe about which nothing was heard for so long is forgotten (its fate was lost with the session's state).
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// The search ends when the remaining gain is below this many bytes: about 1 % of an Ethernet frame.
const STEP_BYTES: u32 = 16;
/// Large packets lost in a row, none acknowledged, before a black hole is suspected. Bursts of ordinary loss have a
/// mean of 8 on bad radio links; a row of 32 beside acknowledged small packets does not happen to them.
const BLACK_HOLE_LOST: u32 = 32;
/// Small packets that must have been acknowledged since the last large one was.
const BLACK_HOLE_SMALL_ACKED: u32 = 4;
/// The suspicion must last this long (an outage ends the small ones too; a burst of loss is shorter).
const BLACK_HOLE_SPAN: Duration = Duration::from_millis(500);

/// Searches for the largest datagram that gets through, beside the transfer.
///
/// The first probe is the ceiling (the interface's MTU, which mostly is the path's too); if that fails, the interval
/// between the largest size that worked and the smallest that failed is halved. A lost probe alone proves nothing:
/// each size is tried again until ordinary loss, measured on the other packets, no longer explains the failures.
#[derive(Debug)]
pub struct PathMtu {
    base: u32,
    current: u32,
    ceiling: u32,
    /// Smallest size known not to pass (`ceiling + 1` at first).
    too_large: u32,
    /// Size under trial and its failures so far.
    trial: Option<(u32, u32)>,
    in_flight: Option<(u32, Instant)>,
    next_at: Option<Instant>,
    /// Loss share of ordinary packets, a moving average.
    loss: f64,
    /// An ordinary packet was acknowledged since the probe left: the path was alive.
    alive_since_probe: bool,
    large_lost: u32,
    small_acked: u32,
    /// First loss of the present row of large ones.
    row_since: Option<Instant>,
}

impl PathMtu {
    /// Starts at `base` bytes of UDP payload; never probes above `ceiling`.
    pub fn new(now: Instant, base: u32, ceiling: u32) -> Self {
        let ceiling = ceiling.max(base);
        Self {
            base,
            current: base,
            ceiling,
            too_large: ceiling + 1,
            trial: None,
            in_flight: None,
            next_at: Some(now),
            loss: 0.0,
            alive_since_probe: false,
            large_lost: 0,
            small_acked: 0,
            row_since: None,
        }
    }

    /// Size that data packets may have now.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// Size of a probe to send now, if one is due and none is in flight. The caller sends it and reports its fate.
    pub fn poll_probe(&mut self, now: Instant) -> Option<u32> {
        if let Some((_, sent_at)) = self.in_flight {
            if now < sent_at + FORGET_AFTER {
                return None;
            }
            self.in_flight = None;
            self.next_at = Some(now);
        }
        if now < self.next_at? {
            return None;
        }
        if self.trial.is_none() {
            if self.search_done() {
                if self.too_large > self.ceiling {
                    self.next_at = None; // At the ceiling: nothing above to find.
                    return None;
                }
                self.too_large = self.ceiling + 1; // The raise timer fired: look again.
            }
            self.trial = Some((self.next_size(), 0));
        }
        let size = self.trial?.0;
        self.in_flight = Some((size, now));
        self.alive_since_probe = false;
        Some(size)
    }

    /// A probe of that size arrived. True if `current` changed.
    pub fn on_probe_acked(&mut self, now: Instant, size: u32) -> bool {
        if self.in_flight.is_some_and(|(probe, _)| probe == size) {
            self.in_flight = None;
        }
        if size <= self.current || size > self.ceiling {
            return false;
        }
        self.current = size;
        self.clear_row();
        // A late acknowledgement may overrule a verdict.
        self.too_large = if self.too_large > size { self.too_large } else { self.ceiling + 1 };
        self.trial = self.trial.filter(|&(trial, _)| trial > size);
        self.schedule(now);
        true
    }

    /// A probe of that size was lost (or refused by the socket: EMSGSIZE).
    pub fn on_probe_lost(&mut self, now: Instant, size: u32) {
        if self.in_flight.is_some_and(|(probe, _)| probe == size) {
            self.in_flight = None;
        }
        let Some((trial, failed)) = self.trial else { return };
        if trial != size || size <= self.current {
            return;
        }
        // In an outage everything is lost: that says nothing about the size.
        let failed = if self.alive_since_probe { failed + 1 } else { failed };
        if failed >= self.tries() {
            self.too_large = self.too_large.min(size);
            self.trial = None;
            self.schedule(now);
        } else {
            self.trial = Some((trial, failed));
            self.next_at = Some(now + RETRY_AFTER * (1 << failed.min(5)));
        }
    }

    /// The interface refuses datagrams of that size (EMSGSIZE), or the route is known to: no probing at or above it. True if
    /// `current` changed.
    pub fn on_refused(&mut self, now: Instant, size: u32) -> bool {
        if size > self.ceiling || size <= self.base {
            return false;
        }
        self.ceiling = size - 1;
        self.too_large = size;
        (self.trial, self.in_flight) = (None, None);
        let before = self.current;
        if self.current > self.ceiling {
            self.current = self.base;
        }
        if self.current < self.ceiling {
            // The new ceiling is tried first.
            self.too_large = self.ceiling + 1;
            self.next_at = Some(now);
        }
        self.current != before
    }

    /// A packet that was no probe was acknowledged.
    pub fn on_acked(&mut self, _now: Instant, size: u32) {
        self.loss -= self.loss / 256.0;
        self.alive_since_probe = true;
        if size > self.base {
            self.clear_row();
        } else if self.large_lost > 0 {
            self.small_acked = self.small_acked.saturating_add(1);
        }
    }

    /// A packet that was no probe was lost. True if `current` changed (black hole: large ones vanish, small ones
    /// arrive).
    pub fn on_lost(&mut self, now: Instant, size: u32) -> bool {
        self.loss += (1.0 - self.loss) / 256.0;
        if size <= self.base {
            // Small ones are lost as well: that is no matter of size.
            self.small_acked = self.small_acked.saturating_sub(1);
            return false;
        }
        if self.current <= self.base {
            return false;
        }
        let since = *self.row_since.get_or_insert(now);
        self.large_lost = self.large_lost.saturating_add(1);
        if self.large_lost < BLACK_HOLE_LOST
            || self.small_acked < BLACK_HOLE_SMALL_ACKED
            || now < since + BLACK_HOLE_SPAN
        {
            return false;
        }
        self.too_large = self.current;
        self.current = self.base;
        self.trial = None;
        self.in_flight = None;
        self.clear_row();
        self.schedule(now);
        true
    }

    /// When `poll_probe` may next have something, if it waits for time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.in_flight {
            Some((_, sent_at)) => Some(sent_at + FORGET_AFTER),
            None => self.next_at,
        }
    }

    fn search_done(&self) -> bool {
        self.current >= self.ceiling || self.too_large.saturating_sub(self.current) <= STEP_BYTES
    }

    fn next_size(&self) -> u32 {
        if self.too_large > self.ceiling {
            self.ceiling
        } else {
            self.current + (self.too_large - self.current) / 2
        }
    }

    fn schedule(&mut self, now: Instant) {
        self.next_at = if self.current >= self.ceiling {
            None
        } else if self.search_done() {
            Some(now + RAISE_AFTER)
        } else {
            Some(now)
        };
    }

    fn clear_row(&mut self) {
        self.large_lost = 0;
        self.small_acked = 0;
        self.row_since = None;
    }

    /// Failures of one size that ordinary loss no longer explains.
    fn tries(&self) -> u32 {
        let loss = self.loss.clamp(0.001, 0.9);
        ((CHANCE_OF_ERROR.ln() / loss.ln()).ceil() as u32).clamp(MIN_TRIES, MAX_TRIES)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Only as an origin: the tests add to it.
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// Runs the search over a path that passes up to `path` bytes and loses `loss` of everything.
    fn search(path: u32, ceiling: u32, loss: f64, seed: u64) -> (u32, u32) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut mtu = PathMtu::new(now, 1200, ceiling);
        let mut probes = 0;
        for _ in 0..4000 {
            now += Duration::from_millis(5);
            let probe = mtu.poll_probe(now);
            for _ in 0..20 {
                let size = mtu.current();
                if rng.random_bool(loss) {
                    assert!(!mtu.on_lost(now, size), "ordinary loss is no black hole");
                } else {
                    mtu.on_acked(now, size);
                }
            }
            if let Some(size) = probe {
                probes += 1;
                assert!(size <= ceiling);
                if size <= path && !rng.random_bool(loss) {
                    mtu.on_probe_acked(now, size);
                } else {
                    mtu.on_probe_lost(now, size);
                }
            }
        }
        (mtu.current(), probes)
    }

    #[test]
    fn ceiling_first_then_search() {
        assert_eq!(search(1472, 1472, 0.0, 1), (1472, 1));
        assert_eq!(search(65_507, 65_507, 0.0, 1), (65_507, 1));
        for path in [1200, 1252, 1392, 1420, 1471, 8972] {
            let (found, probes) = search(path, 9000, 0.0, 1);
            assert!(found <= path && path - found <= STEP_BYTES, "path {path}: found {found}");
            assert!(probes < 60, "{probes} probes");
        }
        assert_eq!(search(1200, 1200, 0.0, 1), (1200, 0));
    }

    #[test]
    fn heavy_loss_does_not_end_the_search() {
        let mut short = 0;
        for seed in 0..200 {
            let (found, _) = search(1420, 1472, 0.3, seed);
            assert!(found <= 1420);
            short += u32::from(1420 - found > STEP_BYTES);
        }
        assert!(short <= 3, "{short} of 200 searches ended short");
        let missed = (0..200).filter(|&seed| search(1472, 1472, 0.3, seed).0 != 1472).count();
        assert!(missed <= 2, "{missed} of 200");
    }

    #[test]
    fn an_outage_proves_nothing() {
        let mut now = Instant::now();
        let mut mtu = PathMtu::new(now, 1200, 1472);
        for _ in 0..50 {
            now += Duration::from_secs(2);
            let size = mtu.poll_probe(now).expect("keeps trying");
            mtu.on_lost(now, 1200);
            mtu.on_probe_lost(now, size);
        }
        mtu.on_acked(now, 1200);
        now += Duration::from_secs(2);
        assert_eq!(mtu.poll_probe(now), Some(1472));
        assert!(mtu.on_probe_acked(now, 1472));
        // A later outage, long and total, is no black hole either.
        for _ in 0..500 {
            now += Duration::from_millis(10);
            assert!(!mtu.on_lost(now, 1472));
        }
        assert_eq!(mtu.current(), 1472);
    }

    #[test]
    fn black_hole_by_size_only() {
        let mut now = Instant::now();
        let mut mtu = PathMtu::new(now, 1200, 1472);
        let size = mtu.poll_probe(now).expect("first probe");
        assert!(mtu.on_probe_acked(now, size));
        let mut fell_after = None;
        for i in 0..200 {
            now += Duration::from_millis(10);
            mtu.on_acked(now, 100);
            if mtu.on_lost(now, 1472) {
                fell_after = Some(i);
                break;
            }
        }
        assert!(fell_after.is_some_and(|i| i < 100), "{fell_after:?}");
        assert_eq!(mtu.current(), 1200);
        // The search goes on below the size that failed, and looks above again after ten minutes.
        let size = mtu.poll_probe(now).expect("search goes on");
        assert!(size > 1200 && size < 1472);
        for _ in 0..100 {
            mtu.on_acked(now, 1200);
            now += Duration::from_secs(4);
            if let Some(size) = mtu.poll_probe(now) {
                mtu.on_acked(now, 1200);
                mtu.on_probe_lost(now, size);
            }
        }
        let raise = mtu.poll_timeout().expect("raise timer");
        assert!(raise <= now + RAISE_AFTER);
        assert_eq!(mtu.poll_probe(raise), Some(1472));
    }

    #[test]
    fn a_forgotten_probe_is_sent_again() {
        let now = Instant::now();
        let mut mtu = PathMtu::new(now, 1200, 1472);
        assert_eq!(mtu.poll_probe(now), Some(1472));
        assert_eq!(mtu.poll_probe(now + Duration::from_secs(1)), None);
        assert_eq!(mtu.poll_timeout(), Some(now + FORGET_AFTER));
        assert_eq!(mtu.poll_probe(now + FORGET_AFTER), Some(1472));
    }
}
