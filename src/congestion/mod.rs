//! Role: how fast to send. Rate control is apart from loss repair: this layer never decides what is lost or resent.
//! Owns: the model of the path (one `Controller` per session), the pacer, the path-MTU search.
//! Implements: docs/PROTOCOL.md, "Rate control"; the model and its reasons are in docs/CONGESTION.md.

use std::time::{Duration, Instant};

pub mod adaptive;
pub mod cubic;
pub mod fixed;
pub mod mtud;
pub mod pacer;

#[cfg(test)]
mod bbr;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

/// One packet that was sent, as rate control sees it.
#[derive(Clone, Copy, Debug)]
pub struct PacketInfo {
    /// Its number.
    pub number: u64,
    /// UDP payload bytes.
    pub size_bytes: u32,
    /// When it was handed to the socket.
    pub sent_at: Instant,
    /// The sender had less to send than the window and the pacer allowed when this packet left.
    pub app_limited: bool,
}

/// What one feedback frame told.
#[derive(Clone, Debug)]
pub struct FeedbackSample<'a> {
    /// Arrival of the feedback.
    pub now: Instant,
    /// Packets acknowledged for the first time, ascending.
    pub acked: &'a [PacketInfo],
    /// Packets declared lost on this occasion, ascending. A packet declared lost may turn out spurious later.
    pub lost: &'a [PacketInfo],
    /// Packets declared lost earlier that turn out to have arrived.
    pub spurious: u32,
    /// Sent time of the largest packet number received so far.
    pub largest_sent_at: Instant,
    /// Receiver's clock (microseconds since its own epoch) when that largest packet arrived.
    pub largest_received_us: u64,
    /// Receiver's clock when the feedback was written.
    pub written_us: u64,
    /// UDP payload bytes that the receiver has received in this session so far, duplicates excluded.
    pub received_bytes_total: u64,
    /// A round-trip sample, ack delay subtracted, if the largest number is new.
    pub latest_rtt: Option<Duration>,
    /// RFC 6298/9002 smoothed RTT.
    pub smoothed_rtt: Duration,
    /// Mean deviation of the RTT.
    pub rttvar: Duration,
    /// Smallest RTT of the session's present path.
    pub min_rtt: Duration,
    /// Bytes in flight after this feedback.
    pub bytes_in_flight: u64,
    /// Packets newly reported with the CE mark.
    pub ce_marked: u64,
}

/// Decides window and rate from feedback. Pure: time comes with every call.
pub trait Controller: Send + std::fmt::Debug {
    /// An ack-eliciting packet left. `bytes_in_flight` includes it.
    fn on_sent(&mut self, packet: &PacketInfo, bytes_in_flight: u64);
    /// A feedback frame arrived.
    fn on_feedback(&mut self, sample: &FeedbackSample<'_>);
    /// No feedback for `silent_ptos` probe timeouts in a row (1 at the first) although `bytes_in_flight` are under way: slow
    /// down, then stop (circuit breaker).
    fn on_silence(&mut self, now: Instant, silent_ptos: u32, bytes_in_flight: u64);
    /// The path changed (address change): start again carefully.
    fn on_path_change(&mut self, now: Instant);
    /// The size of full datagrams changed.
    fn on_mtu(&mut self, datagram_bytes: u32);
    /// Bytes that may be in flight.
    fn window_bytes(&self) -> u64;
    /// Pacing rate, UDP payload bytes a second.
    fn rate_bytes_per_sec(&self) -> u64;
    /// The largest burst that may leave back to back, in bytes.
    fn burst_bytes(&self) -> u64;
    /// How much of the time by which a busy host sends too late may be caught up at once: what the path has room for.
    fn catch_up(&self) -> Duration {
        pacer::CATCH_UP
    }
    /// The trains are measured: they leave whole, and feedback is wanted several times within each.
    fn measures_trains(&self) -> bool {
        false
    }
    /// Estimate of the forward queueing delay, if the controller keeps one.
    fn queue_delay(&self) -> Option<Duration> {
        None
    }
    /// A name for logs and tables.
    fn name(&self) -> &'static str;
}

/// Which controller to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControllerKind {
    /// Models the path and yields to queueing delay (default).
    #[default]
    Adaptive,
    /// RFC 9438.
    Cubic,
    /// A constant rate, UDP payload bytes a second.
    Fixed {
        /// UDP payload bytes a second.
        bytes_per_sec: u64,
    },
}

impl ControllerKind {
    /// Makes a controller. `datagram_bytes` is the present full datagram size.
    pub fn build(self, now: Instant, datagram_bytes: u32) -> Box<dyn Controller> {
        match self {
            Self::Adaptive => Box::new(adaptive::Adaptive::new(now, datagram_bytes)),
            Self::Cubic => Box::new(cubic::Cubic::new(now, datagram_bytes)),
            Self::Fixed { bytes_per_sec } => Box::new(fixed::Fixed::new(bytes_per_sec)),
        }
    }
}
