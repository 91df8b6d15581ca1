//! Role: the figures of a server at one moment, as they are handed from the loop to the thread that serves them.
//! Owns: nothing; these are values.
//! Implements: docs/ARCHITECTURE.md, "Watching a server".

use crate::session::event::Stats;
use serde::Serialize;
use std::time::Duration;

/// Everything that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Of fulmar.
    pub version: &'static str,
    /// The UDP address served.
    pub listen: String,
    /// When the server was started, seconds since 1970.
    pub started_unix_s: u64,
    /// Since then.
    pub uptime_s: f64,
    /// Sessions alive.
    pub sessions_now: usize,
    /// Sessions allowed.
    pub sessions_max: usize,
    /// Handshakes under way.
    pub half_open: usize,
    /// Over the time since the last snapshot.
    pub rates: Rates,
    /// What was turned away, by reason.
    pub refusals: Vec<(&'static str, u64)>,
    /// The sessions that move most.
    pub sessions: Vec<SessionView>,
    /// The files finished last, newest first.
    pub files: Vec<FileView>,
    /// Since the start, live sessions included.
    pub counters: Counters,
    /// Smoothed RTTs, one observation per session and snapshot.
    #[serde(skip)]
    pub rtt: Histogram,
    /// Queueing delays, likewise.
    #[serde(skip)]
    pub queue_delay: Histogram,
}

/// All sessions together, over a short time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rates {
    /// UDP payload received.
    pub in_bits_per_sec: u64,
    /// UDP payload sent.
    pub out_bits_per_sec: u64,
    /// File bytes delivered, either way.
    pub goodput_bits_per_sec: u64,
    /// Of the packets on their way to the server, the missing ones.
    pub loss_in_pct: f64,
    /// Of the packets that the server sent, the lost ones.
    pub loss_out_pct: f64,
}

/// One session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// Its number in the log.
    pub session: u64,
    /// The peer's address.
    pub remote: String,
    /// `--client-id`, possibly empty.
    pub client_id: String,
    /// `put`, `get`, `ls`, `echo`; empty before the request.
    pub request: String,
    /// What for.
    pub path: String,
    /// The file that began last.
    pub file: String,
    /// Seconds since it connected.
    pub age_s: f64,
    /// Files done.
    pub files: u64,
    /// Entries failed.
    pub failed: u64,
    /// File bytes delivered.
    pub file_bytes_done: u64,
    /// File bytes announced so far.
    pub file_bytes_total: u64,
    /// UDP payload received.
    pub in_bits_per_sec: u64,
    /// UDP payload sent.
    pub out_bits_per_sec: u64,
    /// File bytes delivered.
    pub goodput_bits_per_sec: u64,
    /// Of the packets on their way to the server, the missing ones.
    pub loss_in_pct: f64,
    /// Of the packets that the server sent, the lost ones.
    pub loss_out_pct: f64,
    /// Packets sent again.
    pub repaired: u64,
    /// Smoothed RTT.
    pub rtt_ms: Option<f64>,
    /// Smallest RTT.
    pub min_rtt_ms: Option<f64>,
    /// Queueing delay on the way out.
    pub queue_ms: Option<f64>,
}

/// One finished file.
#[derive(Clone, Debug, Serialize)]
pub struct FileView {
    /// Seconds after the server's start.
    pub at_s: u64,
    /// Its session.
    pub session: u64,
    /// Manifest path.
    pub path: String,
    /// Sent by the server; else received.
    pub is_sent: bool,
    /// Its size.
    pub bytes: u64,
    /// It did not come through.
    pub is_failed: bool,
}

/// Files of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Done.
    pub done: u64,
    /// Not done.
    pub failed: u64,
    /// Bytes of those done.
    pub bytes: u64,
}

/// Sums over sessions. They only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Sessions set up.
    pub sessions: u64,
    /// Of those that ended: as they should.
    pub sessions_done: u64,
    /// Refused.
    pub sessions_refused: u64,
    /// Lost, broken off, in breach of the protocol.
    pub sessions_failed: u64,
    /// Received files.
    pub files_received: Files,
    /// Sent files.
    pub files_sent: Files,
    /// File bytes delivered, those of unfinished files included.
    pub file_bytes: u64,
    /// UDP payload.
    pub wire_bytes_sent: u64,
    /// UDP payload.
    pub wire_bytes_received: u64,
    /// Packets.
    pub packets_sent: u64,
    /// Packets accepted.
    pub packets_received: u64,
    /// Packets sent that carry something again.
    pub packets_repaired: u64,
    /// Packets sent that were declared lost.
    pub packets_lost: u64,
    /// Of those, the ones that had arrived.
    pub packets_spurious: u64,
    /// Packets whose checksum or tag did not fit.
    pub packets_corrupted: u64,
    /// Packets received twice.
    pub packets_duplicate: u64,
    /// Missing packets reported to peers.
    pub nacks_sent: u64,
    /// Missing packets reported by peers.
    pub nacks_received: u64,
}

impl Counters {
    /// Adds a session's figures.
    pub(super) fn add(&mut self, s: &Stats) {
        self.file_bytes += s.file_bytes_done;
        self.wire_bytes_sent += s.wire_bytes_sent;
        self.wire_bytes_received += s.wire_bytes_received;
        self.packets_sent += s.packets_sent;
        self.packets_received += s.packets_received;
        self.packets_repaired += s.packets_repaired;
        self.packets_lost += s.packets_lost;
        self.packets_spurious += s.packets_spurious;
        self.packets_corrupted += s.packets_corrupted;
        self.packets_duplicate += s.packets_duplicate;
        self.nacks_sent += s.nacks_sent;
        self.nacks_received += s.nacks_received;
    }

    /// What has come since `before`, `seconds` ago.
    pub(super) fn rates_since(&self, before: &Self, seconds: Option<f64>) -> Rates {
        let Some(seconds) = seconds.filter(|s| *s > 0.0) else { return Rates::default() };
        let more = |of: fn(&Self) -> u64| of(self).saturating_sub(of(before));
        let rate = |of| (8.0 * more(of) as f64 / seconds) as u64;
        let missing = more(|c| c.nacks_sent);
        Rates {
            in_bits_per_sec: rate(|c| c.wire_bytes_received),
            out_bits_per_sec: rate(|c| c.wire_bytes_sent),
            goodput_bits_per_sec: rate(|c| c.file_bytes),
            loss_in_pct: percent(missing, missing + more(|c| c.packets_received)),
            loss_out_pct: percent(more(|c| c.packets_lost), more(|c| c.packets_sent)),
        }
    }
}

/// A share in percent, 100 at most; zero of nothing.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (100.0 * part as f64 / whole as f64).min(100.0) }
}

/// Upper bounds of a histogram's buckets in milliseconds: 1 ms to 2 s covers all paths on earth and by satellite.
pub const BUCKETS_MS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];

/// Observations of a time, as Prometheus counts them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Observations up to each bound, not those of lower bounds.
    pub counts: [u64; BUCKETS_MS.len()],
    /// All observations.
    pub total: u64,
    /// Their sum.
    pub sum: Duration,
}

impl Histogram {
    /// One more.
    pub(super) fn observe(&mut self, time: Duration) {
        if let Some(i) = BUCKETS_MS.iter().position(|bound| time <= Duration::from_millis(*bound)) {
            self.counts[i] += 1;
        }
        self.total += 1;
        self.sum = self.sum.saturating_add(time);
    }
}
