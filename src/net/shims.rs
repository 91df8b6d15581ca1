//! Role: the impaired links of this process: `--sim` both ways, and the ways back of echo sessions.
//! Owns: one `Impairment` per impaired direction, and the datagrams that wait inside.
//! Implements: docs/SIMULATION.md, "On a real socket".

use super::pipe::Received;
use crate::endpoint::{Ecn, Transmit};
use crate::impair::{Impairment, Profile, Spec};
use crate::store::SessionKey;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

/// What travels with a datagram through an impaired direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    /// The session that sends; `None` for what comes in.
    pub(super) session: Option<SessionKey>,
    /// The other end.
    pub(super) remote: SocketAddr,
    /// ECN field.
    pub(super) ecn: Option<Ecn>,
}

/// The way back of one echo session.
struct Back {
    link: Impairment<Tag>,
    /// The session is over: the link goes when what it delays has left.
    closed: bool,
}

/// All impaired directions.
#[derive(Default)]
pub(super) struct Shims {
    incoming: Option<Impairment<Tag>>,
    outgoing: Option<Impairment<Tag>>,
    back: HashMap<SessionKey, Back>,
}

impl Shims {
    /// The links that `--sim` asks for.
    pub(super) fn new(spec: Option<&Spec>, random_seed: u64, now: Instant) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let (outgoing, incoming) = spec.seeds(random_seed);
        let link = |profile: &Profile, seed| {
            (!profile.is_clean()).then(|| Impairment::new(profile.clone(), seed, now))
        };
        Self {
            outgoing: link(&spec.outgoing, outgoing),
            incoming: link(&spec.incoming, incoming),
            back: HashMap::new(),
        }
    }

    /// Impairs what leaves for an echo session from now on.
    pub(super) fn add_back(&mut self, session: SessionKey, spec: &Spec, random_seed: u64, now: Instant) {
        let link = Impairment::new(spec.outgoing.clone(), spec.seeds(random_seed).0, now);
        self.back.insert(session, Back { link, closed: false });
    }

    /// The session is over.
    pub(super) fn close_back(&mut self, session: SessionKey) {
        if let Some(back) = self.back.get_mut(&session) {
            back.closed = true;
        }
    }

    /// Takes a datagram that came in, if that direction is impaired.
    pub(super) fn take_incoming(&mut self, now: Instant, received: &Received<'_>) -> bool {
        let Some(link) = &mut self.incoming else { return false };
        let tag = Tag { session: None, remote: received.remote, ecn: received.ecn };
        link.submit(now, received.bytes, tag);
        true
    }

    /// Hands what has come through to `sink`.
    pub(super) fn deliver_incoming(&mut self, now: Instant, mut sink: impl FnMut(Tag, &mut [u8])) {
        let Some(link) = &mut self.incoming else { return };
        while let Some((mut datagram, tag)) = link.poll(now) {
            sink(tag, &mut datagram);
            link.recycle(datagram);
        }
    }

    /// Takes a train to be sent, if its direction is impaired.
    pub(super) fn take_outgoing(&mut self, now: Instant, transmit: &Transmit, bytes: &[u8]) -> bool {
        let tag = Tag { session: transmit.session, remote: transmit.remote, ecn: transmit.ecn };
        let back = transmit.session.and_then(|session| self.back.get_mut(&session));
        let Some(link) = back.map(|back| &mut back.link).or(self.outgoing.as_mut()) else { return false };
        let size = transmit.segment_size.unwrap_or(bytes.len()).max(1);
        for datagram in bytes.chunks(size) {
            link.submit(now, datagram, tag);
        }
        true
    }

    /// Hands out what is due to leave, until `send` says that the socket is full (false); that datagram is then the
    /// sender's to keep. What an echo session sends passes the process's own link as well.
    pub(super) fn deliver_outgoing(
        &mut self,
        now: Instant,
        mut send: impl FnMut(Tag, &[u8]) -> bool,
    ) -> bool {
        let outgoing = &mut self.outgoing;
        let mut open = true;
        self.back.retain(|_, back| {
            while open && let Some((datagram, tag)) = back.link.poll(now) {
                match outgoing {
                    Some(link) => link.submit(now, &datagram, tag),
                    None => open = send(tag, &datagram),
                }
                back.link.recycle(datagram);
            }
            !back.closed || back.link.poll_timeout().is_some()
        });
        let Some(link) = outgoing else { return open };
        while open && let Some((datagram, tag)) = link.poll(now) {
            open = send(tag, &datagram);
            link.recycle(datagram);
        }
        open
    }

    /// When the next datagram comes through, in either direction.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let incoming = self.incoming.as_ref().and_then(Impairment::poll_timeout);
        incoming.into_iter().chain(self.poll_timeout_outgoing()).min()
    }

    /// When the next datagram is due to leave; `None`: none waits.
    pub(super) fn poll_timeout_outgoing(&self) -> Option<Instant> {
        let back = self.back.values().filter_map(|back| back.link.poll_timeout());
        back.chain(self.outgoing.as_ref().and_then(Impairment::poll_timeout)).min()
    }
}
