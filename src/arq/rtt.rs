//! Role: round-trip time estimation (RFC 9002, section 5; RFC 6298).
//! Owns: the estimates of one path.

use std::time::Duration;

/// RTT assumed before the first sample (RFC 9002, section 6.2.2, takes 333 ms; Hellos repeat at 100 ms anyway).
pub const INITIAL_RTT: Duration = Duration::from_millis(200);
/// Smallest granularity of timers (RFC 9002, section 6.1.2).
pub const GRANULARITY: Duration = Duration::from_millis(1);

/// Estimates of one path.
#[derive(Clone, Copy, Debug)]
pub struct Rtt {
    initial: Duration,
    latest: Duration,
    smoothed: Option<Duration>,
    var: Duration,
    min: Duration,
}

impl Default for Rtt {
    fn default() -> Self {
        Self {
            initial: INITIAL_RTT,
            latest: INITIAL_RTT,
            smoothed: None,
            var: INITIAL_RTT / 2,
            min: INITIAL_RTT,
        }
    }
}

impl Rtt {
    /// Takes a sample from which the peer's own delay was already subtracted.
    pub fn sample(&mut self, rtt: Duration) {
        let rtt = rtt.max(Duration::from_micros(1));
        self.latest = rtt;
        match self.smoothed {
            None => {
                (self.smoothed, self.var, self.min) = (Some(rtt), rtt / 2, rtt);
            }
            Some(s) => {
                self.min = self.min.min(rtt);
                self.var = (self.var * 3 + s.abs_diff(rtt)) / 4;
                self.smoothed = Some((s * 7 + rtt) / 8);
            }
        }
    }

    /// A bound that is known before the first sample: the RTT is at most this.
    pub fn set_upper_bound(&mut self, bound: Duration) {
        if self.smoothed.is_none() {
            self.initial = bound.min(INITIAL_RTT);
            (self.latest, self.var, self.min) = (self.initial, self.initial / 2, self.initial);
        }
    }

    /// Another path: the old figures are only a first guess for it.
    pub fn restart(&mut self) {
        let guess = self.smoothed();
        *self = Self::default();
        self.set_upper_bound(guess);
    }

    /// Whether there was a sample.
    pub fn is_measured(&self) -> bool {
        self.smoothed.is_some()
    }

    /// `smoothed_rtt`.
    pub fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(self.initial)
    }

    /// `rttvar`.
    pub fn var(&self) -> Duration {
        self.var
    }

    /// `min_rtt` of this path.
    pub fn min(&self) -> Duration {
        self.min
    }

    /// Latest sample.
    pub fn latest(&self) -> Duration {
        self.latest
    }

    /// Probe timeout: how long feedback may take before the silence means something (RFC 9002, section 6.2.1).
    pub fn pto(&self, max_feedback_delay: Duration) -> Duration {
        self.smoothed() + (self.var * 4).max(GRANULARITY) + max_feedback_delay
    }
}
