//! Role: the pure side as the event loop sees it, so that the loop can be tested with a scripted peer.
//! Owns: nothing; `Endpoint` is the implementation that runs.
//! Implements: docs/ARCHITECTURE.md, "The event loop".

use crate::endpoint::{Ecn, Endpoint, Transmit};
use crate::session::event::{Event, Stats};
use crate::session::trace::Record;
use crate::store::SessionKey;
use crate::transfer::job::{Done, Job};
use std::net::SocketAddr;
use std::time::Instant;

/// What the loop calls; see the methods of the same names of [`Endpoint`].
pub(super) trait Core {
    /// One datagram came in.
    fn handle_datagram(&mut self, now: Instant, remote: SocketAddr, ecn: Option<Ecn>, datagram: &mut [u8]);
    /// `poll_timeout` has come.
    fn handle_timeout(&mut self, now: Instant);
    /// The next deadline.
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// The next train into `buf`.
    fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>, max_segments: usize) -> Option<Transmit>;
    /// The socket refused datagrams of that size.
    fn handle_too_large(&mut self, now: Instant, session: Option<SessionKey>, segment_size: usize);
    /// The next job for the store.
    fn poll_job(&mut self) -> Option<(SessionKey, Job)>;
    /// An answer of the store.
    fn handle_done(&mut self, now: Instant, session: SessionKey, done: Done);
    /// The next event for the application.
    fn poll_event(&mut self) -> Option<(SessionKey, Event)>;
    /// What traced sessions recorded; how many records were left out.
    fn take_traces(&mut self, _: &mut Vec<(SessionKey, Record)>) -> u64 {
        0
    }
    /// Figures of a session.
    fn stats(&self, _: SessionKey) -> Option<Stats> {
        None
    }
}

impl Core for Endpoint {
    fn handle_datagram(&mut self, now: Instant, remote: SocketAddr, ecn: Option<Ecn>, datagram: &mut [u8]) {
        self.handle_datagram(now, remote, ecn, datagram);
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.poll_timeout()
    }
    fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>, max_segments: usize) -> Option<Transmit> {
        self.poll_transmit(now, buf, max_segments)
    }
    fn handle_too_large(&mut self, now: Instant, session: Option<SessionKey>, segment_size: usize) {
        self.handle_too_large(now, session, segment_size);
    }
    fn poll_job(&mut self) -> Option<(SessionKey, Job)> {
        self.poll_job()
    }
    fn handle_done(&mut self, now: Instant, session: SessionKey, done: Done) {
        self.handle_done(now, session, done);
    }
    fn poll_event(&mut self) -> Option<(SessionKey, Event)> {
        self.poll_event()
    }
    fn take_traces(&mut self, out: &mut Vec<(SessionKey, Record)>) -> u64 {
        self.take_traces(out)
    }
    fn stats(&self, session: SessionKey) -> Option<Stats> {
        self.stats(session)
    }
}
