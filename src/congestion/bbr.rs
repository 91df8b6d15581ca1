//! Role: BBRv1 as a competitor in the simulated link of `bench`; tests only.
//! Owns: the model of one path.
//! Implements: nothing; see draft-cardwell-iccrg-bbr-congestion-control-00.

use super::bench::PAYLOAD;
use super::{Controller, FeedbackSample, PacketInfo};
use std::time::{Duration, Instant};

/// BBRv1 in the smallest form that competes like it: windowed maximum of the delivery rate, gain cycle, PROBE_RTT,
/// inflight at most twice the bandwidth-delay product, blind to loss.
#[derive(Debug)]
pub(super) struct Bbr {
    rates: std::collections::VecDeque<(u64, f64)>,
    round: u64,
    round_ends: Option<Instant>,
    delivered: f64,
    marks: std::collections::VecDeque<(Instant, f64, Instant)>,
    min_rtt: f64,
    min_rtt_at: Option<Instant>,
    probe_rtt_until: Option<Instant>,
    phase: usize,
    phase_at: Option<Instant>,
    startup: bool,
    drain: bool,
    full: (f64, u32),
    in_flight: u64,
    last_sent: Option<Instant>,
    last_ack: Option<Instant>,
}

impl Bbr {
    pub(super) fn new() -> Self {
        Self {
            rates: Default::default(),
            round: 0,
            round_ends: None,
            delivered: 0.0,
            marks: Default::default(),
            min_rtt: 1.0,
            min_rtt_at: None,
            probe_rtt_until: None,
            phase: 2,
            phase_at: None,
            startup: true,
            drain: false,
            full: (0.0, 0),
            in_flight: 0,
            last_sent: None,
            last_ack: None,
        }
    }
    fn bandwidth(&self) -> f64 {
        self.rates.iter().map(|rate| rate.1).fold(0.0, f64::max)
    }
    fn gain(&self) -> f64 {
        match (self.startup, self.drain) {
            (true, _) => 2.885,
            (_, true) => 1.0 / 2.885,
            _ => [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0][self.phase],
        }
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, packet: &PacketInfo, bytes_in_flight: u64) {
        self.in_flight = bytes_in_flight;
        self.last_sent = Some(packet.sent_at);
        let acked_at = self.last_ack.unwrap_or(packet.sent_at);
        self.marks.push_back((packet.sent_at, self.delivered, acked_at));
    }
    fn on_feedback(&mut self, sample: &FeedbackSample<'_>) {
        let now = sample.now;
        self.last_ack = Some(now);
        self.in_flight = sample.bytes_in_flight;
        self.delivered += sample.acked.iter().map(|packet| f64::from(packet.size_bytes)).sum::<f64>();
        let mut mark = None;
        while self.marks.front().is_some_and(|mark| mark.0 <= sample.largest_sent_at) {
            mark = self.marks.pop_front();
        }
        if let Some((_, before, acked_at)) = mark {
            let span = now.duration_since(acked_at).as_secs_f64().max(1e-4);
            let rate = (self.delivered - before) / span;
            self.rates.push_back((self.round, rate));
        }
        let round = self.round;
        self.rates.retain(|rate| rate.0 + 10 > round);
        while self.rates.len() > 300 {
            let best = self.bandwidth();
            let at = self.rates.iter().position(|rate| rate.1 < best).unwrap_or(0);
            self.rates.remove(at);
        }
        if let Some(rtt) = sample.latest_rtt {
            let rtt = rtt.as_secs_f64();
            let expired = self.min_rtt_at.is_none_or(|at| now.duration_since(at).as_secs_f64() > 10.0);
            if rtt <= self.min_rtt || expired {
                if expired && self.min_rtt_at.is_some() {
                    self.probe_rtt_until = Some(now + Duration::from_secs_f64(0.2 + rtt));
                }
                self.min_rtt = rtt;
                self.min_rtt_at = Some(now);
            }
        }
        if self.round_ends.is_none_or(|ends| sample.largest_sent_at >= ends) {
            self.round_ends = self.last_sent;
            self.round += 1;
            if self.startup {
                let bandwidth = self.bandwidth();
                self.full = if bandwidth > 1.25 * self.full.0 {
                    (bandwidth, 0)
                } else {
                    (self.full.0, self.full.1 + 1)
                };
                if self.full.1 >= 3 {
                    self.startup = false;
                    self.drain = true;
                }
            }
        }
        if self.drain && (sample.bytes_in_flight as f64) < self.bandwidth() * self.min_rtt {
            self.drain = false;
        }
        let span = now.duration_since(*self.phase_at.get_or_insert(now)).as_secs_f64();
        if span > self.min_rtt {
            self.phase = (self.phase + 1) % 8;
            self.phase_at = Some(now);
        }
        if self.probe_rtt_until.is_some_and(|until| now > until) {
            self.probe_rtt_until = None;
        }
    }
    fn on_silence(&mut self, _: Instant, _: u32, _: u64) {}
    fn on_path_change(&mut self, _: Instant) {}
    fn on_mtu(&mut self, _: u32) {}
    fn window_bytes(&self) -> u64 {
        if self.probe_rtt_until.is_some() {
            return 4 * u64::from(PAYLOAD);
        }
        let gain = if self.startup || self.drain { 2.885 } else { 2.0 };
        ((gain * self.bandwidth() * self.min_rtt) as u64).max(10 * u64::from(PAYLOAD))
    }
    fn rate_bytes_per_sec(&self) -> u64 {
        ((self.gain() * self.bandwidth()) as u64).max(500_000)
    }
    fn burst_bytes(&self) -> u64 {
        4 * u64::from(PAYLOAD)
    }
    fn name(&self) -> &'static str {
        "bbr"
    }
}
