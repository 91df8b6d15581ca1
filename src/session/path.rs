//! Role: how fast and how large to send on the present path.
//! Owns: the peer's address, controller, pacers, path-MTU search of one session.
//! Implements: docs/PROTOCOL.md, "Rate control".

use crate::arq::rtt::Rtt;
use crate::congestion::Controller;
use crate::congestion::mtud::PathMtu;
use crate::congestion::pacer::Pacer;
use crate::endpoint::config::SessionConfig;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// UDP payload that every IPv6 path takes (1,280 bytes less 48 of headers); the size of the first packets.
pub(super) const BASE_DATAGRAM_BYTES: u32 = 1232;
/// `--limit` lets this much leave at once, milliseconds of the rate.
const LIMIT_BURST_MS: u64 = 10;

/// A rate counts as known when it has not grown by a quarter for this time, or three round trips: while a path starts,
/// the rate says what was tried so far (RFC 9002 and BBR end slow start by the same rule of three round trips).
const RATE_STEADY: Duration = Duration::from_millis(100);

/// Controller, pacers and path MTU.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) remote: SocketAddr,
    pub(super) controller: Box<dyn Controller>,
    pub(super) mtu: PathMtu,
    pacer: Pacer,
    limit: Option<(Pacer, u64)>,
    /// This side's limit, and what the peer wishes: the lower one holds.
    limits: [Option<u64>; 2],
    window_cap: Option<u64>,
    /// What is tried at most: this side's own ceiling, and with the peer's.
    own_ceiling: u32,
    ceiling: u32,
    /// The rate that growth is measured against, and when it was last left behind.
    grown: (u64, Instant),
}

impl Path {
    pub(super) fn new(now: Instant, remote: SocketAddr, config: &SessionConfig) -> Self {
        let ceiling = config.max_datagram_bytes.max(BASE_DATAGRAM_BYTES);
        let mut path = Self {
            remote,
            controller: config.controller.build(now, BASE_DATAGRAM_BYTES),
            mtu: PathMtu::new(now, BASE_DATAGRAM_BYTES, ceiling),
            pacer: Pacer::new(now),
            limit: config.limit_bytes_per_sec.map(|rate| (Pacer::new(now), rate)),
            limits: [config.limit_bytes_per_sec, None],
            window_cap: config.window_cap_bytes,
            own_ceiling: ceiling,
            ceiling,
            grown: (0, now),
        };
        path.update(now);
        path
    }

    /// This side's limit, from now on.
    pub(super) fn set_own_limit(&mut self, now: Instant, bytes_per_sec: Option<u64>) {
        self.limits[0] = bytes_per_sec;
        self.renew_limit(now);
    }

    /// What the peer wishes to get at most, from now on.
    pub(super) fn set_peer_limit(&mut self, now: Instant, bytes_per_sec: Option<u64>) {
        self.limits[1] = bytes_per_sec;
        self.renew_limit(now);
    }

    fn renew_limit(&mut self, now: Instant) {
        let Some(rate) = self.limits.into_iter().flatten().min() else {
            self.limit = None;
            return;
        };
        match &mut self.limit {
            Some((_, known)) => *known = rate,
            None => self.limit = Some((Pacer::new(now), rate)),
        }
        self.update(now);
    }

    /// The peer takes no larger datagrams than this. It may be another peer than the one that was told of before.
    pub(super) fn limit_datagrams(&mut self, now: Instant, bytes: u32) {
        let ceiling = bytes.clamp(BASE_DATAGRAM_BYTES, self.own_ceiling);
        if ceiling != self.ceiling {
            self.ceiling = ceiling;
            self.mtu = PathMtu::new(now, BASE_DATAGRAM_BYTES, self.ceiling);
        }
    }

    /// IP and UDP header bytes of a datagram.
    pub(super) fn ip_overhead(&self) -> u64 {
        match self.remote.ip().to_canonical() {
            std::net::IpAddr::V4(_) => 28,
            std::net::IpAddr::V6(_) => 48,
        }
    }

    /// Takes over the controller's latest word.
    pub(super) fn update(&mut self, now: Instant) {
        let burst = self.controller.burst_bytes().max(self.mtu.current().into());
        self.pacer.set_rate(now, self.controller.rate_bytes_per_sec(), burst);
        self.pacer.set_most_late(self.controller.catch_up());
        self.pacer.set_whole(self.controller.measures_trains());
        if let Some((pacer, rate)) = &mut self.limit {
            let burst = (*rate / 1000 * LIMIT_BURST_MS).max(u64::from(self.mtu.current()) + 48);
            pacer.set_rate(now, *rate, burst);
        }
    }

    /// The peer is at another address: rate and datagram size start afresh there.
    pub(super) fn move_to(&mut self, now: Instant, remote: SocketAddr) {
        self.remote = remote;
        self.mtu = PathMtu::new(now, BASE_DATAGRAM_BYTES, self.ceiling);
        self.controller.on_path_change(now);
        self.on_mtu_changed(now);
    }

    /// The interface or the route takes no datagrams of that size.
    pub(super) fn on_refused(&mut self, now: Instant, bytes: u32) {
        if self.mtu.on_refused(now, bytes) {
            self.on_mtu_changed(now);
        }
    }

    /// The path's datagram size changed.
    pub(super) fn on_mtu_changed(&mut self, now: Instant) {
        self.controller.on_mtu(self.mtu.current());
        self.update(now);
    }

    pub(super) fn window_bytes(&self) -> u64 {
        let window = self.controller.window_bytes();
        self.window_cap.map_or(window, |cap| window.min(cap))
    }

    /// What the path carries, bytes a second, all limits regarded; `None`: not known yet.
    pub(super) fn rate_hint(&mut self, now: Instant, rtt: &Rtt) -> Option<u64> {
        if !rtt.is_measured() {
            self.grown.1 = now;
            return None;
        }
        let limit = self.limit.as_ref().map_or(u64::MAX, |(_, rate)| *rate);
        let round_trip = rtt.smoothed().as_secs_f64().max(1e-6);
        let window = self.window_cap.map_or(u64::MAX, |cap| (cap as f64 / round_trip) as u64);
        let rate = self.controller.rate_bytes_per_sec().min(limit).min(window);
        if rate > self.grown.0.saturating_add(self.grown.0 / 4) {
            self.grown = (rate, now);
        }
        self.grown.0 = self.grown.0.min(rate);
        let steady = now.saturating_duration_since(self.grown.1) >= RATE_STEADY.max(3 * rtt.smoothed());
        steady.then_some(rate)
    }

    /// Whether a packet may leave now.
    pub(super) fn may_send(&mut self, now: Instant) -> bool {
        self.pacer.allowance(now) > 0 && self.limit.as_mut().is_none_or(|(p, _)| p.allowance(now) > 0)
    }

    pub(super) fn on_sent(&mut self, now: Instant, payload_bytes: u64) {
        let overhead = self.ip_overhead();
        self.pacer.on_sent(now, payload_bytes);
        if let Some((p, _)) = &mut self.limit {
            p.on_sent(now, payload_bytes + overhead);
        }
    }

    /// When the next train may leave.
    pub(super) fn next_release(&self, now: Instant) -> Instant {
        let paced = self.pacer.next_release(now);
        self.limit.as_ref().map_or(paced, |(p, _)| paced.max(p.next_release(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::config::{EndpointConfig, Secret};

    /// What an unauthenticated Reply says of the peer holds only as long as that Reply is believed.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "only as an origin")]
    fn the_ceiling_is_that_of_the_peer_told_of_last() {
        let now = Instant::now();
        let mut config = EndpointConfig::new(Secret::Insecure).session;
        config.max_datagram_bytes = 9000;
        let mut path = Path::new(now, SocketAddr::from(([127, 0, 0, 1], 1)), &config);
        for (told, ceiling) in [(1232, 1232), (65_535, 9000), (100, 1232), (4000, 4000)] {
            path.limit_datagrams(now, told);
            assert_eq!(path.ceiling, ceiling);
        }
    }
}
