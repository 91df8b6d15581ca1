//! Role: a peer that sends from another address (NAT rebinding, another network): it is followed once it has proved that it is there.
//! Owns: the address under validation.
//! Implements: docs/PROTOCOL.md, "Change of address".

use super::Session;
use super::trace::Trace;
use crate::wire::packet::{CONFIRM_BYTES, DATA_HEADER_BYTES, TRAILER_BYTES};
use rand::Rng;
use std::net::SocketAddr;
use std::time::Instant;

/// Challenges sent to a new address before it is given up.
const MAX_CHALLENGES: u8 = 5;
/// Bytes that go to a new address for each authentic one that came from it (RFC 9000, section 8.1).
const MAX_AMPLIFICATION: u64 = 3;

/// A new address of the peer.
#[derive(Debug)]
pub(super) struct Candidate {
    remote: SocketAddr,
    challenge: [u8; 8],
    sent: u8,
    /// Bytes of authentic packets from there, and of challenges sent there.
    received_bytes: u64,
    sent_bytes: u64,
    next_at: Instant,
}

impl Candidate {
    /// Whether time alone decides about the next challenge, of so many bytes, or about the end.
    fn is_due(&self, bytes: u64) -> bool {
        self.sent >= MAX_CHALLENGES || self.sent_bytes + bytes <= MAX_AMPLIFICATION * self.received_bytes
    }
}

impl Session {
    /// An authentic packet with the highest number came from another address. Until that address answers a challenge, it may be
    /// somebody who replays packets: nothing but challenges goes there.
    pub(super) fn on_new_address(&mut self, now: Instant, from: SocketAddr, bytes: usize) {
        if let Some(c) = self.candidate.as_mut().filter(|c| c.remote == from) {
            c.received_bytes += bytes as u64;
            return;
        }
        log::debug!("packets of {} come from {from}: validating it", self.path.remote);
        let mut challenge = [0; 8];
        self.rng.fill_bytes(&mut challenge);
        self.candidate = Some(Candidate {
            remote: from,
            challenge,
            sent: 0,
            received_bytes: bytes as u64,
            sent_bytes: 0,
            next_at: now,
        });
    }

    /// The challenge that is due now, and where it goes.
    pub(super) fn next_challenge(&mut self, now: Instant) -> Option<(SocketAddr, [u8; 8])> {
        let pto = self.rtt.pto(self.feedback_delay());
        let bytes = self.challenge_bytes();
        let c = self.candidate.as_mut().filter(|c| now >= c.next_at && c.is_due(bytes))?;
        if c.sent >= MAX_CHALLENGES {
            self.candidate = None;
            return None;
        }
        c.sent += 1;
        c.sent_bytes += bytes;
        c.next_at = now + pto;
        Some((c.remote, c.challenge))
    }

    pub(super) fn challenge_deadline(&self) -> Option<Instant> {
        let bytes = self.challenge_bytes();
        self.candidate.as_ref().filter(|c| c.is_due(bytes)).map(|c| c.next_at)
    }

    /// Bytes of a packet with a challenge.
    fn challenge_bytes(&self) -> u64 {
        let (frame, unconfirmed) = (1 + 8, CONFIRM_BYTES + TRAILER_BYTES);
        let more = if self.confirm.is_some() { unconfirmed } else { 0 };
        (DATA_HEADER_BYTES + frame + self.seal.tag_bytes() + more) as u64
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
