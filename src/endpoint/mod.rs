//! Role: all peers of one socket: connection-ID demux, handshake admission, session table, shared limits.
//! Owns: the session table, half-open handshakes, the timer heap, the ready list, the shared budgets.
//! Implements: docs/PROTOCOL.md, "Connection IDs", "Admission".

pub mod config;

use crate::session::event::{CloseReason, Event, Stats};
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::job::{Dest, Done, Job, SourceRoot};
use config::EndpointConfig;
use std::net::SocketAddr;
use std::time::Instant;

/// ECN field of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// ECT(0): what fulmar sends.
    Ect0,
    /// Congestion experienced.
    Ce,
}

/// One or more datagrams of equal size to one address, ready for the socket (GSO-shaped).
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// The session that sends, `None` before one exists (handshake answers).
    pub session: Option<SessionKey>,
    /// Where to.
    pub remote: SocketAddr,
    /// Bytes of the whole train in the caller's buffer.
    pub size: usize,
    /// Datagram size if the train has several; the last one may be shorter.
    pub segment_size: Option<usize>,
    /// ECN field to set.
    pub ecn: Option<Ecn>,
}

/// All sessions of one socket. Pure: datagrams, time, store answers in; datagrams, jobs, events out.
#[derive(Debug)]
pub struct Endpoint {
    _config: EndpointConfig,
}

impl Endpoint {
    /// `seed` drives every random choice, so it must come from the operating system's generator in production.
    pub fn new(config: EndpointConfig, seed: [u8; 32], now: Instant) -> Self {
        let _ = (seed, now);
        Self { _config: config }
    }
    /// Starts a client session. `dest` is for what comes back (get, echo), `roots` for what is sent (put, echo).
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<Dest>,
    ) -> SessionKey {
        let _ = (now, remote, request, roots, dest);
        0
    }
    /// One datagram from the socket; it is decrypted in place. Anything invalid is counted, never an error.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        let _ = (now, remote, ecn, datagram);
    }
    /// Time has come to `poll_timeout`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }
    /// When `handle_timeout` wants to be called; pacing releases are included.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    /// Writes the next train into `buf` (cleared first), at most `max_segments` datagrams and 64 KiB; `None`: nothing to send now.
    /// Sessions take turns, so calling it in a loop is fair.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        let _ = (now, buf, max_segments);
        None
    }
    /// The socket refused a train (EMSGSIZE): its datagrams were larger than the interface takes.
    pub fn handle_too_large(&mut self, now: Instant, session: Option<SessionKey>, segment_size: usize) {
        let _ = (now, session, segment_size);
    }
    /// The next job for the store.
    pub fn poll_job(&mut self) -> Option<(SessionKey, Job)> {
        None
    }
    /// An answer of the store. Answers for sessions that are gone are ignored.
    pub fn handle_done(&mut self, now: Instant, session: SessionKey, done: Done) {
        let _ = (now, session, done);
    }
    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<(SessionKey, Event)> {
        None
    }
    /// Figures of a live session (or of one whose `Closed` event has not been polled yet).
    pub fn stats(&self, session: SessionKey) -> Option<Stats> {
        let _ = session;
        None
    }
    /// Ends every session politely: one CLOSE each goes out with the next `poll_transmit` calls.
    pub fn close_all(&mut self, now: Instant, reason: CloseReason) {
        let _ = (now, reason);
    }
    /// Sessions alive, handshakes included.
    pub fn session_count(&self) -> usize {
        0
    }
}
