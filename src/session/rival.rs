//! Role: what a client does about a peer that may be gone: looks for signs of life, and lets a second session take over.
//! Owns: nothing beyond `Session`; who takes over from whom is decided by `endpoint::pursuit`.
//! Implements: docs/PROTOCOL.md, "A server that restarts".

use super::timers::PROBE_PACKETS;
use super::{Phase, Role, Session};
use crate::transfer::Request;
use crate::transfer::confirmed::Confirmed;
use crate::transfer::job::{Dest, SourceRoot};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a client's session stands with its peer.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The server has answered the Hello, and nothing authentic has come from it yet.
    pub is_answered: bool,
    /// When the last authentic packet came (or the session began).
    pub heard_at: Instant,
    /// Probe time-outs in a row without an answer.
    pub silent_ptos: u32,
    /// Smoothed round-trip time.
    pub smoothed_rtt: Duration,
}

/// What an earlier session of the same request hands to its successor.
#[derive(Clone, Debug)]
pub struct Handover {
    /// What is asked for.
    pub request: Request,
    /// What is sent.
    pub roots: Vec<SourceRoot>,
    /// Where what comes goes.
    pub dest: Option<Dest>,
    /// What needs no further word.
    pub settled: Arc<Confirmed>,
}

impl Session {
    /// How it stands with the peer.
    pub fn health(&self) -> Health {
        Health {
            remote: self.path.remote,
            is_answered: matches!(self.phase, Phase::Confirming),
            heard_at: self.heard_at,
            silent_ptos: self.silent_ptos,
            smoothed_rtt: self.rtt.smoothed(),
        }
    }

    /// Asks the peer for a sign of life, at once.
    pub fn probe(&mut self) {
        if matches!(self.phase, Phase::Open) {
            self.probes_due = PROBE_PACKETS as u8;
        }
    }

    /// Lets a session that was made by `reach` go on with what another has begun. It may have been answered already.
    pub fn release(&mut self, now: Instant, handover: Handover) {
        let Handover { request, roots, dest, settled } = handover;
        if let Role::Client { request: asked, .. } = &mut self.role {
            *asked = request.clone();
        }
        // The connect time-out is for what the server says to that.
        self.started_at = now;
        self.sender.set_settled(settled);
        let features = self.peer_features;
        self.continues = true;
        self.start_request(request, roots, dest);
        if matches!(self.phase, Phase::Confirming | Phase::Open) {
            self.write_held_request(now, features);
        }
        self.advance(now);
    }
}
