//! Role: Replies that compete: none is authenticated, so several are kept until one server proves itself.
//! Owns: the client's handshake state until then, and the keys that follow from each Reply.
//! Implements: docs/PROTOCOL.md, "Handshake" (several Replies).

use super::hello::ClientHello;
use super::refusal::Refusal;
use super::{Phase, Session};
use crate::codec::handshake::{CONFIRM_BYTES, ServerShare, Transcript};
use crate::codec::key_update::{OpenKeys, SealKeys};
use crate::wire::Cid;
use crate::wire::handshake::{Params, Reply};
use std::time::{Duration, Instant};

/// Most Replies kept at once. Each costs a SPAKE2 computation, and whoever reads the path can write as many as it likes.
const MAX_OFFERS: usize = 8;

/// What a Reply makes of the handshake.
#[derive(Debug)]
pub(super) struct Offer {
    core: Vec<u8>,
    server_cid: Cid,
    params: Params,
    keys: (SealKeys, OpenKeys),
    confirm: [u8; CONFIRM_BYTES],
    /// By the attempt in the Reply.
    rtt: Option<Duration>,
}

/// The Replies so far. The one in use has its keys in the session.
#[derive(Debug)]
pub(super) struct Offers {
    hello: Box<ClientHello>,
    used: Vec<u8>,
    used_params: Params,
    used_rtt: Option<Duration>,
    others: Vec<Offer>,
    /// The Hello goes out once more: the true Reply may be lost.
    hello_due: bool,
}

impl Offers {
    fn knows(&self, core: &[u8]) -> bool {
        self.used == core || self.others.iter().any(|o| o.core == core)
    }
}

impl Session {
    /// A Reply: the first one is used at once; another one that differs may be the true one, and has its turn next.
    pub(super) fn on_reply(&mut self, now: Instant, reply: &Reply, core: &[u8]) {
        let hello = match (&self.phase, &self.offers) {
            (Phase::Hello(hello), _) => hello,
            (Phase::Confirming, Some(offers)) if offers.knows(core) => return,
            (Phase::Confirming, Some(offers)) if offers.others.len() + 1 < MAX_OFFERS => &offers.hello,
            (Phase::Confirming, Some(_)) => return self.refusals.count(Refusal::Conflict),
            _ => return self.refusals.count(Refusal::Misplaced),
        };
        // Not authenticated yet: a bad share says nothing about the server.
        let Ok(shared) = hello.handshake.finish(&ServerShare(reply.share)) else {
            return self.refusals.count(Refusal::Share);
        };
        let keys = shared.keys(&Transcript::new().add(&hello.core()).add(core));
        if let Some(log) = &self.config.key_log {
            log.session(&keys, self.local_cid, reply.server_cid);
        }
        let offer = Offer {
            core: core.to_vec(),
            server_cid: reply.server_cid,
            params: reply.params,
            keys: (SealKeys::new(keys.client), OpenKeys::new(keys.server)),
            confirm: keys.confirm,
            rtt: hello.sent_at(reply.attempt).map(|at| now - at),
        };
        if matches!(self.phase, Phase::Confirming) {
            self.switch_offer(now, offer);
            // Whoever is to prove itself must hear something.
            self.probe_oldest();
            self.path.update(now);
            self.advance(now);
        } else {
            self.first_offer(now, offer);
        }
    }

    fn first_offer(&mut self, now: Instant, offer: Offer) {
        let Phase::Hello(hello) = std::mem::replace(&mut self.phase, Phase::Confirming) else { return };
        let features = offer.params.features;
        self.offers = Some(Box::new(Offers {
            hello,
            used: Vec::new(),
            used_params: offer.params,
            used_rtt: None,
            others: Vec::new(),
            hello_due: false,
        }));
        self.use_offer(now, offer);
        self.heard_at = now;
        self.write_held_request(now, features);
        self.path.update(now);
        self.advance(now);
    }

    /// Seals with this offer's keys from now on; packet numbers go on, so that to its server what went to others is lost.
    fn use_offer(&mut self, now: Instant, offer: Offer) {
        let Some(offers) = &mut self.offers else { return };
        (offers.used, offers.used_params, offers.used_rtt) = (offer.core, offer.params, offer.rtt);
        self.remote_cid = offer.server_cid;
        (self.seal, self.open) = offer.keys;
        self.confirm = Some(offer.confirm);
        self.rtt = Default::default();
        if let Some(rtt) = offer.rtt {
            self.rtt.sample(rtt);
        }
        self.apply_params(now, &offer.params);
    }

    /// Uses this offer, and keeps the one that was in use.
    fn switch_offer(&mut self, now: Instant, offer: Offer) {
        let no_keys = crate::codec::aead::PacketKeys::crc;
        let keys = (
            std::mem::replace(&mut self.seal, SealKeys::new(no_keys())),
            std::mem::replace(&mut self.open, OpenKeys::new(no_keys())),
        );
        let Some(offers) = &mut self.offers else { return };
        let before = Offer {
            core: std::mem::take(&mut offers.used),
            server_cid: self.remote_cid,
            params: offers.used_params,
            keys,
            confirm: self.confirm.unwrap_or_default(),
            rtt: offers.used_rtt,
        };
        offers.others.push(before);
        self.use_offer(now, offer);
    }

    /// Nothing heard: the next one has its turn, and the Hello is repeated in case the true Reply is not among them.
    pub(super) fn rotate_offers(&mut self, now: Instant) {
        let Some(offers) = &mut self.offers else { return };
        offers.hello_due = true;
        if !offers.others.is_empty() {
            let next = offers.others.remove(0);
            self.switch_offer(now, next);
        }
    }

    /// The Hello, if it is due again although a Reply has come.
    pub(super) fn repeated_hello(&mut self, now: Instant) -> Option<Vec<u8>> {
        let offers = self.offers.as_mut()?;
        std::mem::take(&mut offers.hello_due).then(|| offers.hello.packet(now))
    }

    /// A packet that may come from any of the servers whose Replies are kept: makes the one in use whose keys open it.
    pub(super) fn find_offer(&mut self, now: Instant, number: u64, phase: bool, head: &[u8], sealed: &[u8]) {
        let Some(offers) = self.offers.as_mut().filter(|o| !o.others.is_empty()) else { return };
        // Opening in place destroys what does not open.
        let opens = |o: &mut Offer| o.keys.1.open(number, phase, head, &mut sealed.to_vec()).is_ok();
        if let Some(i) = offers.others.iter_mut().position(opens) {
            let offer = offers.others.remove(i);
            log::debug!("of several Replies, another than the one in use was the server's");
            self.switch_offer(now, offer);
        }
    }
}
