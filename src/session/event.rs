//! Role: what a session tells the application, and the figures it keeps.
//! Owns: nothing; these are values.
//! Implements: the reporting side of docs/PROTOCOL.md, "Sessions".

use crate::transfer::Request;
use crate::transfer::job::{FileId, SourceEntry, StoreError};
use std::net::SocketAddr;
use std::time::Duration;

/// Which way a file moves, seen from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// This side sends it.
    Sending,
    /// This side receives it.
    Receiving,
}

/// Something the application may want to show or log.
#[derive(Clone, Debug)]
pub enum Event {
    /// Handshake done, both sides authenticated.
    Connected {
        /// The peer's address.
        remote: SocketAddr,
        /// The client's `--client-id` label, possibly empty (server side).
        client_id: String,
    },
    /// The client's request (server side).
    Requested(Request),
    /// A file (not inline) begins.
    FileStarted {
        /// Which way.
        direction: Direction,
        /// Its id in that direction.
        file: FileId,
        /// Manifest path.
        path: Vec<u8>,
        /// Bytes.
        bytes: u64,
    },
    /// Bytes of a file that began need not travel: an earlier run has left them. It may come several times.
    FileResumed {
        /// Which way.
        direction: Direction,
        /// Its id in that direction.
        file: FileId,
        /// How many (more).
        bytes: u64,
    },
    /// An entry is done for good: confirmed by the receiver, or failed.
    EntryFinished {
        /// Which way.
        direction: Direction,
        /// Its id in that direction.
        file: FileId,
        /// Manifest path.
        path: Vec<u8>,
        /// What it was (files, directories, links).
        kind: crate::transfer::job::EntryKind,
        /// Bytes (files only).
        bytes: u64,
        /// SHA-256 as both sides computed it (files only).
        sha256: Option<[u8; 32]>,
        /// `Err`: why not.
        error: Option<StoreError>,
    },
    /// An entry need not travel: it is there, equal.
    EntryUnchanged {
        /// Which way it would have gone.
        direction: Direction,
        /// Manifest path.
        path: Vec<u8>,
        /// What it is.
        kind: crate::transfer::job::EntryKind,
        /// Bytes (files only).
        bytes: u64,
    },
    /// A dry run: this file would travel.
    EntryPlanned {
        /// Which way it would go.
        direction: Direction,
        /// Manifest path.
        path: Vec<u8>,
        /// Bytes.
        bytes: u64,
    },
    /// The source lacks it, and so it was removed at the destination (in a dry run: it would be).
    EntryRemoved {
        /// Which way the files went.
        direction: Direction,
        /// Path below the destination.
        path: Vec<u8>,
        /// What it was: a file, a directory, a link.
        kind: crate::transfer::job::EntryKind,
    },
    /// Nothing (more) is removed, and why.
    RemovalFailed(StoreError),
    /// An entry of a listing (client side).
    Listed(SourceEntry),
    /// The server asks its own net layer to impair what it sends to this session (echo).
    ImpairBack(String),
    /// The whole request is done: every entry was reported. Exit code 0 if none failed.
    Completed,
    /// The session is over; the last event.
    Closed(CloseReason),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The request is done and the peer was told.
    #[error("done")]
    Done,
    /// No answer within the connect time-out.
    #[error("no answer from {remote} within {after:?}: check the address, the port (UDP) and firewalls")]
    Unreachable {
        /// Address tried.
        remote: SocketAddr,
        /// How long.
        after: Duration,
    },
    /// The peer fell silent for the idle time-out.
    #[error("lost the peer: nothing heard for {after:?}")]
    TimedOut {
        /// How long.
        after: Duration,
    },
    /// One segment was sent `--max-retries` times in vain.
    #[error("gave up: one segment was sent {times} times without success (--max-retries)")]
    RetriesExhausted {
        /// How many transmissions.
        times: u32,
    },
    /// The keys differ.
    #[error("authentication failed: the key is not the server's")]
    WrongKey,
    /// One side encrypts, the other does not.
    #[error("{0}")]
    SecurityMismatch(String),
    /// The server refuses this session or request.
    #[error("{0}")]
    Refused(String),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The peer says goodbye before the end (signal, shutdown).
    #[error("the peer ended the session: {0}")]
    PeerClosed(String),
    /// This side was told to stop.
    #[error("interrupted")]
    Interrupted,
}

impl CloseReason {
    /// The process exit code: 0 done, 3 unreachable or lost, 4 authentication, 5 refused, 1 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::RetriesExhausted { .. }
            | Self::PeerClosed(_) => 3,
            Self::WrongKey | Self::SecurityMismatch(_) => 4,
            Self::Refused(_) => 5,
            Self::Protocol(_) | Self::Interrupted => 1,
        }
    }
}

/// Counters and gauges of one session. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// UDP payload bytes sent, handshake and feedback included.
    pub wire_bytes_sent: u64,
    /// UDP payload bytes received and accepted.
    pub wire_bytes_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received and accepted.
    pub packets_received: u64,
    /// Packets sent that carry something sent before.
    pub packets_repaired: u64,
    /// Packets sent that were declared lost.
    pub packets_lost: u64,
    /// Of those, the ones that turned out to have arrived.
    pub packets_spurious: u64,
    /// Gaps (missing packet numbers) reported to the peer, each counted at its first report.
    pub nacks_sent: u64,
    /// Gaps reported by the peer, each counted at its first report.
    pub nacks_received: u64,
    /// Datagrams dropped because a checksum or tag did not fit.
    pub packets_corrupted: u64,
    /// Packets received twice.
    pub packets_duplicate: u64,
    /// File bytes whose delivery this side has confirmed or been told of (both directions).
    pub file_bytes_done: u64,
    /// File bytes announced by the manifest so far, less what was missing of files that failed: the one of these figures
    /// that also falls.
    pub file_bytes_total: u64,
    /// Plain bytes that went through chunk encoding, and what came out, for the compression ratio.
    pub chunk_bytes_plain: u64,
    /// See `chunk_bytes_plain`.
    pub chunk_bytes_encoded: u64,
    /// Smallest RTT, zero before the first sample.
    pub min_rtt: Duration,
    /// Smoothed RTT, zero before the first sample.
    pub smoothed_rtt: Duration,
    /// Bytes in flight now.
    pub bytes_in_flight: u64,
    /// Congestion window now.
    pub window_bytes: u64,
    /// Pacing rate now.
    pub rate_bytes_per_sec: u64,
    /// Forward queueing delay as the controller sees it.
    pub queue_delay: Option<Duration>,
    /// Present datagram size.
    pub datagram_bytes: u32,
}

impl Stats {
    /// Adds the counters of an earlier session of the same request; gauges stay as they are.
    pub fn add_past(&mut self, past: &Stats) {
        self.wire_bytes_sent += past.wire_bytes_sent;
        self.wire_bytes_received += past.wire_bytes_received;
        self.packets_sent += past.packets_sent;
        self.packets_received += past.packets_received;
        self.packets_repaired += past.packets_repaired;
        self.packets_lost += past.packets_lost;
        self.packets_spurious += past.packets_spurious;
        self.nacks_sent += past.nacks_sent;
        self.nacks_received += past.nacks_received;
        self.packets_corrupted += past.packets_corrupted;
        self.packets_duplicate += past.packets_duplicate;
        self.file_bytes_done += past.file_bytes_done;
        self.file_bytes_total += past.file_bytes_total;
        self.chunk_bytes_plain += past.chunk_bytes_plain;
        self.chunk_bytes_encoded += past.chunk_bytes_encoded;
        if self.smoothed_rtt.is_zero() {
            (self.min_rtt, self.smoothed_rtt) = (past.min_rtt, past.smoothed_rtt);
        }
    }

    /// Share of packets sent that were lost, in percent. Zero when nothing was sent.
    pub fn loss_pct(&self) -> f64 {
        let lost = self.packets_lost.saturating_sub(self.packets_spurious);
        if self.packets_sent == 0 { 0.0 } else { 100.0 * lost as f64 / self.packets_sent as f64 }
    }
}
