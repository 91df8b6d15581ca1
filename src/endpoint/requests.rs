//! Role: what the application asks of an endpoint: client sessions, from their start to their end.
//! Owns: nothing beyond `Endpoint`.
//! Implements: docs/PROTOCOL.md, "A server that restarts" (the calls that `pursuit` makes).

use super::Endpoint;
use crate::session::event::CloseReason;
use crate::session::rival::{Handover, Health};
use crate::session::{Session, Setup};
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::job::{Dest, SourceRoot};
use crate::wire::{CID_BYTES, Cid};
use rand::Rng;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

impl Endpoint {
    /// Starts a client session. `dest` is for what comes back (get, echo), `roots` for what is sent (put, echo).
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<Dest>,
    ) -> SessionKey {
        let (cid, setup) = self.client_setup(remote);
        let session = Session::connect(now, setup, &self.config.secret, request, roots, dest);
        self.add(now, cid, session, None)
    }

    /// Starts a client session that goes as far as the server's answer to its Hello and then waits for `release`.
    pub fn reach(&mut self, now: Instant, remote: SocketAddr, request: Request) -> SessionKey {
        let (cid, setup) = self.client_setup(remote);
        let session = Session::reach(now, setup, &self.config.secret, request);
        self.add(now, cid, session, None)
    }

    fn client_setup(&mut self, remote: SocketAddr) -> (Cid, Setup) {
        let mut cid = Cid([0; CID_BYTES]);
        self.rng.fill_bytes(&mut cid.0);
        (cid, self.setup(remote, cid))
    }

    /// Lets a session made by `reach` go on with what an earlier one has begun.
    pub fn release(&mut self, now: Instant, session: SessionKey, handover: Handover) {
        self.with_session(now, session, |s| s.release(now, handover));
    }

    /// Has a session ask its peer for a sign of life.
    pub fn probe(&mut self, now: Instant, session: SessionKey) {
        self.with_session(now, session, Session::probe);
    }

    /// How a session stands with its peer.
    pub fn health(&self, session: SessionKey) -> Option<Health> {
        self.sessions.get(&session).map(|e| e.session.health())
    }

    /// Ends one session politely: CLOSE goes out with the next `poll_transmit` calls.
    pub fn close(&mut self, now: Instant, session: SessionKey, reason: CloseReason) {
        self.with_session(now, session, |s| s.close(now, reason));
    }

    /// Ends a session without another word to its peer.
    pub fn abandon(&mut self, now: Instant, session: SessionKey) {
        self.with_session(now, session, Session::abandon);
    }

    /// Does something to a session, which may then want another place in the timers and turns.
    pub(super) fn with_session(&mut self, now: Instant, session: SessionKey, act: impl FnOnce(&mut Session)) {
        if let Some(e) = self.sessions.get_mut(&session) {
            act(&mut e.session);
            self.touch(now, session);
        }
    }

    /// Whether a request of this endpoint may be made again when a part of it is done: what removes is decided from the
    /// whole of what is sent, and what a dry run tells is told once.
    pub fn requests_are_repeatable(&self) -> bool {
        let sync = &self.config.session.sync;
        sync.delete.is_none() && !sync.dry_run
    }

    /// `--timeout`
    pub fn idle_timeout(&self) -> Duration {
        self.config.session.idle_timeout
    }
}
