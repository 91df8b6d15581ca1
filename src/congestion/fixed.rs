//! Role: a constant rate, for experiments.
//! Owns: the rate.
//! Implements: docs/PROTOCOL.md, "Rate control".

use super::{Controller, FeedbackSample, PacketInfo};
use std::time::Instant;

/// Sends at one rate whatever happens (the circuit breaker still stops it on silence).
#[derive(Debug)]
pub struct Fixed {
    rate: u64,
}

impl Fixed {
    /// `bytes_per_sec` of UDP payload.
    pub fn new(bytes_per_sec: u64) -> Self {
        Self { rate: bytes_per_sec }
    }
}

impl Controller for Fixed {
    fn on_sent(&mut self, _: &PacketInfo, _: u64) {}
    fn on_feedback(&mut self, _: &FeedbackSample<'_>) {}
    fn on_silence(&mut self, _: Instant, _: u32, _: u64) {}
    fn on_path_change(&mut self, _: Instant) {}
    fn on_mtu(&mut self, _: u32) {}
    fn window_bytes(&self) -> u64 {
        u64::MAX
    }
    fn rate_bytes_per_sec(&self) -> u64 {
        self.rate
    }
    fn burst_bytes(&self) -> u64 {
        64 * 1024
    }
    fn name(&self) -> &'static str {
        "fixed"
    }
}
