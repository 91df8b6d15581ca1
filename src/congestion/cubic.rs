//! Role: loss-based control for comparison and for paths where its fairness is wanted (RFC 9438), paced.
//! Owns: window and slow-start threshold of one path.
//! Implements: docs/PROTOCOL.md, "Rate control".

use super::{Controller, FeedbackSample, PacketInfo};
use std::time::{Duration, Instant};

/// RFC 9438 section 4.6: multiplicative decrease.
const BETA: f64 = 0.7;
/// RFC 9438 section 4.2, in packets per second cubed.
const C: f64 = 0.4;
/// RFC 6928.
const INITIAL_PACKETS: u64 = 10;
/// RFC 9438 section 4.6 refers to RFC 5681: at least two segments.
const MIN_PACKETS: u64 = 2;
/// RFC 9406 section 4.3: MIN_RTT_THRESH and MAX_RTT_THRESH.
const RTT_THRESH: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(16));
/// RFC 9406 section 4.3: samples a round needs, slow-down of conservative slow start and its length in rounds.
const ROUND_SAMPLES: u32 = 8;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;
/// Pacing gains as Linux has them (`tcp_pacing_ss_ratio`, `tcp_pacing_ca_ratio`).
const PACE_SLOW_START: f64 = 2.0;
const PACE_AVOIDANCE: f64 = 1.2;
/// RTT assumed until the first sample (RFC 9002 section 6.2.2).
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// HyStart++ (RFC 9406): leaves slow start when the round's smallest RTT rises.
#[derive(Debug, Default)]
struct HyStart {
    last_round_rtt: Option<Duration>,
    round_rtt: Option<Duration>,
    samples: u32,
    /// Conservative slow start: the RTT it began with, rounds so far.
    css: Option<(Duration, u32)>,
}

/// RFC 9438 with HyStart++ and pacing. One reduction per round trip, by loss or by CE.
#[derive(Debug)]
pub struct Cubic {
    datagram: u64,
    window: f64,
    ssthresh: f64,
    w_max: f64,
    k_secs: f64,
    /// Window of a Reno flow beside (RFC 9438 section 4.3).
    w_est: f64,
    epoch: Option<Instant>,
    /// Packets sent before this belong to the loss event that was answered.
    recovery_until: Option<Instant>,
    undo: Option<Undo>,
    round_ends: Instant,
    hystart: HyStart,
    rtt: Duration,
    in_flight_before: u64,
    last_sent: Instant,
}

/// State before the last reduction, to return to if all its losses were spurious (RFC 9438 section 4.9.1).
#[derive(Clone, Copy, Debug)]
struct Undo {
    window: f64,
    ssthresh: f64,
    w_max: f64,
    lost: u32,
}

impl Cubic {
    /// Starts a path.
    pub fn new(now: Instant, datagram_bytes: u32) -> Self {
        let datagram = u64::from(datagram_bytes.max(1));
        Self {
            datagram,
            window: (INITIAL_PACKETS * datagram) as f64,
            ssthresh: f64::INFINITY,
            w_max: 0.0,
            k_secs: 0.0,
            w_est: 0.0,
            epoch: None,
            recovery_until: None,
            undo: None,
            round_ends: now,
            hystart: HyStart::default(),
            rtt: INITIAL_RTT,
            in_flight_before: 0,
            last_sent: now,
        }
    }

    fn min_window(&self) -> f64 {
        (MIN_PACKETS * self.datagram) as f64
    }

    fn reduce(&mut self, lost: u32) {
        self.undo = Some(Undo { window: self.window, ssthresh: self.ssthresh, w_max: self.w_max, lost });
        // Fast convergence, RFC 9438 section 4.7.
        self.w_max = if self.window < self.w_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(self.min_window());
        self.ssthresh = self.window;
        self.epoch = None;
        self.recovery_until = Some(self.last_sent);
    }

    fn on_losses(&mut self, sample: &FeedbackSample<'_>) {
        let covered = |packet: &PacketInfo| self.recovery_until.is_some_and(|until| packet.sent_at <= until);
        let fresh = sample.lost.iter().filter(|packet| !covered(packet)).count() as u32;
        if fresh > 0
            || (sample.ce_marked > 0
                && self.recovery_until.is_none_or(|until| sample.largest_sent_at > until))
        {
            self.reduce(fresh);
        } else if let Some(undo) = &mut self.undo {
            undo.lost += sample.lost.len() as u32;
        }
        if sample.spurious > 0
            && let Some(mut undo) = self.undo
        {
            undo.lost = undo.lost.saturating_sub(sample.spurious);
            self.undo = Some(undo);
            if undo.lost == 0 {
                self.window = self.window.max(undo.window);
                self.ssthresh = undo.ssthresh;
                self.w_max = undo.w_max;
                self.epoch = None;
                self.undo = None;
            }
        }
    }

    fn slow_start(&mut self, acked: u64, sample: &FeedbackSample<'_>) {
        if let Some(rtt) = sample.latest_rtt {
            self.hystart.round_rtt = Some(self.hystart.round_rtt.map_or(rtt, |old| old.min(rtt)));
            self.hystart.samples += 1;
        }
        let divisor = if self.hystart.css.is_some() { CSS_GROWTH_DIVISOR } else { 1 };
        self.window += (acked / divisor) as f64;
        let (Some(now_rtt), Some(last_rtt)) = (self.hystart.round_rtt, self.hystart.last_round_rtt) else {
            return;
        };
        if self.hystart.samples < ROUND_SAMPLES {
            return;
        }
        match self.hystart.css {
            None if now_rtt >= last_rtt + (last_rtt / 8).clamp(RTT_THRESH.0, RTT_THRESH.1) => {
                self.hystart.css = Some((last_rtt, 0));
            }
            Some((baseline, _)) if now_rtt < baseline => self.hystart.css = None,
            Some((_, rounds)) if rounds >= CSS_ROUNDS => self.ssthresh = self.window,
            _ => {}
        }
    }

    fn avoidance(&mut self, acked: u64, now: Instant) {
        let datagram = self.datagram as f64;
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                self.epoch = Some(now);
                self.w_max = self.w_max.max(self.window);
                self.k_secs = ((self.w_max - self.window) / datagram / C).cbrt();
                self.w_est = self.window;
                now
            }
        };
        let t = now.saturating_duration_since(epoch).as_secs_f64() + self.rtt.as_secs_f64();
        let target =
            (self.w_max + C * (t - self.k_secs).powi(3) * datagram).clamp(self.window, self.window * 1.5);
        let alpha = if self.w_est < self.w_max { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        self.w_est += alpha * datagram * acked as f64 / self.window;
        self.window += (target - self.window) / self.window * acked as f64;
        self.window = self.window.max(self.w_est);
    }
}

impl Controller for Cubic {
    fn on_sent(&mut self, packet: &PacketInfo, bytes_in_flight: u64) {
        self.last_sent = packet.sent_at;
        self.in_flight_before = self.in_flight_before.max(bytes_in_flight);
    }

    fn on_feedback(&mut self, sample: &FeedbackSample<'_>) {
        if !sample.smoothed_rtt.is_zero() {
            self.rtt = sample.smoothed_rtt;
        }
        self.on_losses(sample);
        let recovery = self.recovery_until;
        let acked: u64 = (sample.acked.iter())
            .filter(|packet| recovery.is_none_or(|until| packet.sent_at > until))
            .map(|packet| u64::from(packet.size_bytes))
            .sum();
        // RFC 9002 section 7.8: an underused window does not grow.
        let limited = self.in_flight_before as f64 * 2.0 >= self.window;
        if acked > 0 && limited {
            if self.window < self.ssthresh {
                self.slow_start(acked, sample);
            } else {
                self.avoidance(acked, sample.now);
            }
        }
        if sample.largest_sent_at >= self.round_ends {
            self.round_ends = self.last_sent;
            self.in_flight_before = sample.bytes_in_flight;
            self.hystart.last_round_rtt = self.hystart.round_rtt.take();
            self.hystart.samples = 0;
            if let Some((_, rounds)) = &mut self.hystart.css {
                *rounds += 1;
            }
        }
    }

    fn on_silence(&mut self, _now: Instant, silent_ptos: u32, _bytes_in_flight: u64) {
        // RFC 9002 section 7.6: persistent congestion leaves the minimum window.
        if silent_ptos >= 3 && self.window > self.min_window() {
            self.ssthresh = (self.window * BETA).max(self.min_window());
            self.w_max = self.window;
            self.window = self.min_window();
            self.epoch = None;
            self.recovery_until = None;
            self.undo = None;
        }
    }

    fn on_path_change(&mut self, now: Instant) {
        *self = Self::new(now, self.datagram as u32);
    }

    fn on_mtu(&mut self, datagram_bytes: u32) {
        self.datagram = u64::from(datagram_bytes.max(1));
        self.window = self.window.max(self.min_window());
    }

    fn window_bytes(&self) -> u64 {
        self.window as u64
    }

    fn rate_bytes_per_sec(&self) -> u64 {
        let gain = if self.window < self.ssthresh { PACE_SLOW_START } else { PACE_AVOIDANCE };
        (gain * self.window / self.rtt.as_secs_f64().max(1e-5)) as u64
    }

    fn burst_bytes(&self) -> u64 {
        (self.rate_bytes_per_sec() / 1000).clamp(2 * self.datagram, (16 * self.datagram).max(64 * 1024))
    }

    fn name(&self) -> &'static str {
        "cubic"
    }
}
