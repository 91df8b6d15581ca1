//! Role: see `congestion`.
//! Owns: the model of one path.

use super::{Controller, FeedbackSample, PacketInfo};
use std::time::Instant;

/// Placeholder of constant window until the real one lands.
#[derive(Debug)]
pub struct Adaptive;

impl Adaptive {
    /// Starts a path.
    pub fn new(_now: Instant, _datagram_bytes: u32) -> Self {
        Self
    }
}

impl Controller for Adaptive {
    fn on_sent(&mut self, _: &PacketInfo, _: u64) {}
    fn on_feedback(&mut self, _: &FeedbackSample<'_>) {}
    fn on_silence(&mut self, _: Instant, _: u32) {}
    fn on_path_change(&mut self, _: Instant) {}
    fn on_mtu(&mut self, _: u32) {}
    fn window_bytes(&self) -> u64 {
        1 << 20
    }
    fn rate_bytes_per_sec(&self) -> u64 {
        10_000_000
    }
    fn burst_bytes(&self) -> u64 {
        20_000
    }
    fn name(&self) -> &'static str {
        "adaptive"
    }
}
