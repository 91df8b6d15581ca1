//! Role: turns a rate into instants at which bytes may leave.
//! Owns: one token bucket.

use std::time::Instant;

/// Token bucket that fills at the pacing rate and holds one burst. Also used for `--limit` (counting IP bytes).
#[derive(Debug)]
pub struct Pacer {
    _last: Instant,
}

impl Pacer {
    /// A pacer that may send one burst at once.
    pub fn new(now: Instant) -> Self {
        Self { _last: now }
    }
    /// Sets rate and burst from now on.
    pub fn set_rate(&mut self, now: Instant, bytes_per_sec: u64, burst_bytes: u64) {
        let _ = (now, bytes_per_sec, burst_bytes);
    }
    /// Bytes that may leave now (0: wait until `next_release`). A datagram may leave when this is positive: the bucket may go into debt by less than one datagram.
    pub fn allowance(&mut self, now: Instant) -> u64 {
        let _ = now;
        u64::MAX
    }
    /// Bytes left.
    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        let _ = (now, bytes);
    }
    /// When a worthwhile train (a quarter burst, at least one datagram) may leave; not after `now` if `allowance` is positive enough.
    pub fn next_release(&self, now: Instant) -> Instant {
        now
    }
}
