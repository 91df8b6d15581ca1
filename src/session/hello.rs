//! Role: the client's handshake: Hello, its repetition, Reply, Retry, Reject.
//! Owns: the handshake's secret state until the Reply.
//! Implements: docs/PROTOCOL.md, "Handshake".

use super::event::CloseReason;
use super::refusal::Refusal;
use super::{Phase, REJECT_GRACE, Role, Session};
use crate::codec::handshake::{ClientHandshake, ENTROPY_BYTES};
use crate::endpoint::config::Secret;
use crate::wire::handshake::{Hello, Params, Reject, RejectCode, Reply, Retry, Security};
use crate::wire::packet::{TYPE_REJECT, TYPE_REPLY, TYPE_RETRY};
use crate::wire::{Cid, VERSION};
use rand::Rng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// When the Hello is sent, milliseconds after the first time. At 30 % loss half of all handshakes lose a packet, so the
/// first repeats come early.
const HELLO_TIMES_MS: [u64; 7] = [0, 40, 90, 150, 230, 350, 500];
/// Spacing of further repeats, for the first seconds and after.
const HELLO_SPACING_MS: [u64; 2] = [250, 500];
/// Repeats with the shorter spacing.
const EAGER_REPEATS: u64 = 10;
/// Each sign of the server starts the connect time-out again, since a server with a thousand clients at its door takes a while to
/// let them in; but unauthenticated signs do so only until so many times of it have gone by.
const MAX_CONNECT_TIMEOUTS: u32 = 6;

/// When a client gives up that has begun then and had its last sign of the server then.
pub(super) fn connect_deadline(timeout: Duration, sign_at: Instant, begun_at: Instant) -> Instant {
    (sign_at + timeout).min(begun_at + timeout * MAX_CONNECT_TIMEOUTS)
}

/// The client before the Reply.
#[derive(Debug)]
pub(super) struct ClientHello {
    pub(super) handshake: ClientHandshake,
    hello: Hello,
    pub(super) first_at: Instant,
    pub(super) sent: u32,
    pub(super) deadline: Instant,
    /// When each attempt left; from the 256th on, only the latest is kept.
    sent_at: Vec<Instant>,
    /// The Hello goes out at once, whatever the schedule says (a Retry asked for it).
    pub(super) now_please: bool,
}

impl ClientHello {
    pub(super) fn new(
        now: Instant,
        deadline: Instant,
        secret: &Secret,
        client_cid: Cid,
        params: Params,
        rng: &mut StdRng,
    ) -> Self {
        let mut entropy = zeroize::Zeroizing::new([0u8; ENTROPY_BYTES]);
        rng.fill_bytes(&mut *entropy);
        let (handshake, share) = ClientHandshake::new(secret, &entropy);
        let security = match secret {
            Secret::Key(_) => Security::Aes128Gcm,
            Secret::Insecure => Security::Insecure,
        };
        let hello = Hello {
            version: VERSION,
            client_cid,
            security,
            share: share.0,
            params,
            attempt: 0,
            cookie: None,
        };
        Self { handshake, hello, first_at: now, sent: 0, deadline, sent_at: Vec::new(), now_please: false }
    }

    /// What the transcript covers.
    pub(super) fn core(&self) -> Vec<u8> {
        self.hello.core()
    }

    /// When this attempt left, if it did.
    pub(super) fn sent_at(&self, attempt: u8) -> Option<Instant> {
        self.sent_at.get(usize::from(attempt)).copied()
    }

    /// When the Hello is to be sent next.
    pub(super) fn next_at(&self) -> Instant {
        let last = HELLO_TIMES_MS.len() - 1;
        let n = self.sent as usize;
        let ms = HELLO_TIMES_MS.get(n).copied().unwrap_or_else(|| {
            let repeats = (n - last) as u64;
            let [eager, patient] = HELLO_SPACING_MS;
            let slow = repeats.saturating_sub(EAGER_REPEATS);
            HELLO_TIMES_MS[last] + (repeats - slow) * eager + slow * patient
        });
        if self.now_please { self.first_at } else { self.first_at + Duration::from_millis(ms) }
    }

    /// The packet.
    pub(super) fn packet(&mut self, now: Instant) -> Vec<u8> {
        self.sent += u32::from(!self.now_please);
        self.now_please = false;
        self.hello.attempt = self.sent_at.len().min(255) as u8;
        self.sent_at.truncate(255);
        self.sent_at.push(now);
        self.hello.encode()
    }
}

impl Session {
    /// Reply, Retry or Reject, to a client. Anything that does not fit is dropped.
    pub(super) fn handle_handshake_packet(&mut self, now: Instant, packet: &[u8]) {
        let counted = match packet.first().copied() {
            Some(TYPE_REPLY) => Reply::decode(packet).map(|(reply, core)| self.on_reply(now, &reply, core)),
            Some(TYPE_RETRY) => Retry::decode(packet).map(|r| self.on_retry(now, &r)),
            Some(TYPE_REJECT) => Reject::decode(packet).map(|r| self.on_reject(now, r)),
            _ => return self.refusals.count(Refusal::Malformed),
        };
        self.taken += u64::from(counted.is_ok());
        if counted.is_err() {
            self.stats.packets_corrupted += 1;
            self.refusals.count(Refusal::Checksum);
        }
    }

    fn on_retry(&mut self, now: Instant, retry: &Retry) {
        if let Phase::Hello(hello) = &mut self.phase {
            // The same cookie once more: the server has no time for this Hello now, but is there.
            if hello.hello.cookie != Some(retry.cookie) {
                hello.hello.cookie = Some(retry.cookie);
                hello.now_please = true;
            }
            hello.deadline = connect_deadline(self.config.connect_timeout, now, hello.first_at);
        } else {
            self.refusals.count(Refusal::Misplaced);
        }
    }

    fn on_reject(&mut self, now: Instant, r: Reject) {
        if !matches!(self.phase, Phase::Hello(_) | Phase::Confirming) {
            return self.refusals.count(Refusal::Misplaced);
        }
        let reason = match r.code {
            RejectCode::WrongKey => CloseReason::WrongKey,
            RejectCode::Security => CloseReason::SecurityMismatch(r.text),
            RejectCode::Version | RejectCode::Busy => CloseReason::Refused(r.text),
        };
        if let Role::Client { reject, .. } = &mut self.role {
            reject.get_or_insert((now + REJECT_GRACE, reason));
        }
    }
}
