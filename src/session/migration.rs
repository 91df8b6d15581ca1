//! Role: a peer that sends from another address (NAT rebinding, another network): it is followed once it has proved that it is there.
//! Owns: the address under validation.
//! Implements: docs/PROTOCOL.md, "Change of address".

use super::Session;
use super::trace::Trace;
use rand::Rng;
use std::net::SocketAddr;
use std::time::Instant;

/// Challenges sent to a new address before it is given up.
const MAX_CHALLENGES: u8 = 5;

/// A new address of the peer.
#[derive(Debug)]
pub(super) struct Candidate {
    remote: SocketAddr,
    challenge: [u8; 8],
    sent: u8,
    next_at: Instant,
}

impl Session {
    /// An authentic packet with the highest number came from another address. Until that address answers a challenge, it may be
    /// somebody who replays packets: nothing but challenges goes there.
    pub(super) fn on_new_address(&mut self, now: Instant, from: SocketAddr) {
        if self.candidate.as_ref().is_some_and(|c| c.remote == from) {
            return;
        }
        log::debug!("packets of {} come from {from}: validating it", self.path.remote);
        let mut challenge = [0; 8];
        self.rng.fill_bytes(&mut challenge);
        self.candidate = Some(Candidate { remote: from, challenge, sent: 0, next_at: now });
    }

    /// The challenge that is due now, and where it goes.
    pub(super) fn next_challenge(&mut self, now: Instant) -> Option<(SocketAddr, [u8; 8])> {
        let pto = self.rtt.pto(self.feedback_delay());
        let c = self.candidate.as_mut().filter(|c| now >= c.next_at)?;
        if c.sent >= MAX_CHALLENGES {
            self.candidate = None;
            return None;
        }
        c.sent += 1;
        c.next_at = now + pto;
        Some((c.remote, c.challenge))
    }

    pub(super) fn challenge_deadline(&self) -> Option<Instant> {
        self.candidate.as_ref().map(|c| c.next_at)
    }

    /// A PATH_RESPONSE: the peer is where the challenge went. Rate control starts afresh there.
    pub(super) fn on_path_response(&mut self, now: Instant, bytes: [u8; 8]) {
        if let Some(c) = self.candidate.take_if(|c| c.challenge == bytes) {
            log::debug!("peer moved from {} to {}", self.path.remote, c.remote);
            self.path.move_to(now, c.remote);
            self.rtt.restart();
            if let Some(t) = &mut self.trace {
                t.push(now, Trace::Moved { remote: c.remote });
            }
        }
    }
}
