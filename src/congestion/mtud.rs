//! Role: path-MTU search (RFC 8899) in datagram payload bytes.
//! Owns: the search state of one path.

use std::time::Instant;

/// Searches for the largest datagram that gets through, beside the transfer.
#[derive(Debug)]
pub struct PathMtu {
    current: u32,
}

impl PathMtu {
    /// Starts at `base` bytes of UDP payload; never probes above `ceiling`.
    pub fn new(now: Instant, base: u32, ceiling: u32) -> Self {
        let _ = (now, ceiling);
        Self { current: base }
    }
    /// Size that data packets may have now.
    pub fn current(&self) -> u32 {
        self.current
    }
    /// Size of a probe to send now, if one is due and none is in flight.
    pub fn poll_probe(&mut self, now: Instant) -> Option<u32> {
        let _ = now;
        None
    }
    /// A probe of that size arrived. True if `current` changed.
    pub fn on_probe_acked(&mut self, now: Instant, size: u32) -> bool {
        let _ = (now, size);
        false
    }
    /// A probe of that size was lost (or refused by the socket: EMSGSIZE).
    pub fn on_probe_lost(&mut self, now: Instant, size: u32) {
        let _ = (now, size);
    }
    /// A packet that was no probe was acknowledged.
    pub fn on_acked(&mut self, now: Instant, size: u32) {
        let _ = (now, size);
    }
    /// A packet that was no probe was lost. True if `current` changed (black hole: large ones vanish, small ones arrive).
    pub fn on_lost(&mut self, now: Instant, size: u32) -> bool {
        let _ = (now, size);
        false
    }
    /// When `poll_probe` may next have something, if it waits for time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
