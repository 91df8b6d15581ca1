//! Role: what a server does with packets of peers that have not proved anything yet.
//! Owns: half-open handshakes, the cookie key, the budget of PAKE computations, failed guesses per address.
//! Implements: docs/PROTOCOL.md, "Admission".

use super::throttle::{Bucket, Throttle};
use crate::codec::handshake::{
    ClientShare, CookieKey, ENTROPY_BYTES, ServerHandshake, SessionKeys, Transcript,
};
use crate::endpoint::config::{Place, Secret};
use crate::session::refusal::{Refusal, Refusals};
use crate::wire::handshake::{Hello, Params, Reject, RejectCode, Reply, Retry, Security};
use crate::wire::packet::{ProtectedHeader, strip_trailer};
use crate::wire::{Cid, VERSION};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Most half-open handshakes; beyond, the oldest is forgotten.
pub const MAX_HALF_OPEN: usize = 1024;
/// With more half-open handshakes than this, a Hello needs a cookie.
const COOKIE_ABOVE_HALF_OPEN: usize = 128;
/// How long a half-open handshake waits for its Confirm.
const HALF_OPEN_LIFETIME: Duration = Duration::from_secs(10);
/// PAKE computations a second; one takes about a quarter of a millisecond, so this is a tenth of a core.
const PAKES_PER_SEC: f64 = 400.0;
/// PAKE computations at once after a rest.
const PAKE_BURST: f64 = 64.0;
/// Below so many left, a Hello needs a cookie.
const COOKIE_BELOW_PAKES: f64 = 32.0;
/// The last ones are for networks that have not used up a share of their own, so that somebody who computes as fast as he is let
/// keeps nobody else out.
const PAKES_RESERVED: f64 = 16.0;
/// That share, a second and at once.
const NETWORK_PAKES: (f64, f64) = (20.0, 16.0);
/// The Reply is repeated this often at most, however often the Hello comes: half of the shortest pause between two Hellos of a client.
const REPLY_SPACING: Duration = Duration::from_millis(20);
/// A cookie is good for one to two of these.
const COOKIE_BUCKET: Duration = Duration::from_secs(30);
/// Wait after the first failed guess from an address; doubles with each, up to 64 times. Each of several workers counts for itself, so
/// this and the time after which guesses are forgotten are multiplied by their number: that many can be guessed at in turns.
const GUESS_PAUSE: Duration = Duration::from_millis(100);
/// Addresses whose failed guesses are remembered.
const MAX_GUESSERS: usize = 1024;
/// Failed guesses are forgotten after so long without another.
const GUESS_MEMORY: Duration = Duration::from_secs(60);
/// How often they are looked through for that.
const GUESS_SWEEP: Duration = Duration::from_secs(1);
/// What a client is told that finds no room.
const BUSY: &str = "the server has as many sessions as it allows: try again later";

/// A handshake that was answered and not confirmed.
#[derive(Debug)]
struct HalfOpen {
    client_cid: Cid,
    remote: SocketAddr,
    hello_core: Vec<u8>,
    reply: Reply,
    keys: SessionKeys,
    params: Params,
    created_at: Instant,
    /// When the Reply was given last.
    replied_at: Instant,
    /// The Reply was repeated, so that nobody knows which one the Confirm answers.
    repeated: bool,
    /// A confirmation did not fit, and was counted.
    failed: bool,
}

/// A peer that has proved that it knows the key.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) server_cid: Cid,
    pub(super) client_cid: Cid,
    pub(super) keys: SessionKeys,
    pub(super) params: Params,
    /// What the Reply promised.
    pub(super) told: Params,
    /// The address that got the Reply.
    pub(super) remote: SocketAddr,
    /// From the first Reply to the Confirm.
    pub(super) handshake_rtt: Duration,
    /// There was only one Reply: this is the RTT, not just a bound of it.
    pub(super) rtt_is_exact: bool,
}

#[derive(Debug)]
struct Guesser {
    failures: u32,
    last_at: Instant,
}

/// Counters of what was turned away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionCounters {
    /// Hellos answered with a Retry.
    pub retries: u64,
    /// Hellos dropped for want of PAKE budget or because strangers asked too often, and Hellos and Confirms that came too soon after a failed guess.
    pub dropped: u64,
    /// Confirmations that did not fit.
    pub wrong_keys: u64,
    /// Hellos and Confirms refused for want of a session slot.
    pub busy: u64,
    /// Handshake packets whose checksum did not fit.
    pub corrupted: u64,
}

/// Peers that have a session or had one of late, as their Hellos named them: a late copy of a Hello asks for nothing new, nor
/// does one from another address, where a client may be by now that has heard nothing of its session yet.
#[derive(Debug)]
struct Peers {
    /// With the addresses that the Replies went to.
    known: HashMap<Cid, SocketAddr>,
    /// Those whose session is over, and when they are forgotten.
    ended: VecDeque<(Instant, Cid)>,
    /// When this was last looked through, at every packet of a handshake: the end of a session is dated by it, since only such
    /// packets ask.
    looked_at: Instant,
}

impl Peers {
    fn new(now: Instant) -> Self {
        Self { known: HashMap::new(), ended: VecDeque::new(), looked_at: now }
    }

    fn contains(&self, cid: Cid) -> bool {
        self.known.contains_key(&cid)
    }

    /// Whether it was admitted at another address.
    fn has_moved(&self, cid: Cid, remote: SocketAddr) -> bool {
        self.known.get(&cid).is_some_and(|first| *first != remote)
    }

    fn admit(&mut self, cid: Cid, remote: SocketAddr) {
        self.known.insert(cid, remote);
    }

    fn end(&mut self, cid: Cid) {
        self.ended.push_back((self.looked_at + HALF_OPEN_LIFETIME, cid));
    }

    fn expire(&mut self, now: Instant) {
        self.looked_at = now;
        while let Some((_, peer)) = self.ended.front().filter(|(until, _)| *until <= now) {
            self.known.remove(peer);
            self.ended.pop_front();
        }
    }
}

/// Admission of one endpoint.
#[derive(Debug)]
pub(super) struct Admission {
    half_open: HashMap<Cid, HalfOpen>,
    by_client: HashMap<(Cid, SocketAddr), Cid>,
    order: VecDeque<(Instant, Cid)>,
    peers: Peers,
    cookie_key: CookieKey,
    epoch: Instant,
    pakes: Bucket,
    /// Networks that computed of late, and what is left of their own share.
    pake_users: HashMap<IpAddr, Bucket>,
    throttle: Throttle,
    guessers: HashMap<IpAddr, Guesser>,
    swept_at: Instant,
    place: Place,
    pub(super) refusals: Refusals,
}

impl Admission {
    pub(super) fn new(now: Instant, place: Place, rng: &mut StdRng) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self {
            half_open: HashMap::new(),
            by_client: HashMap::new(),
            order: VecDeque::new(),
            peers: Peers::new(now),
            cookie_key: CookieKey::new(key),
            epoch: now,
            pakes: Bucket::new(now, PAKE_BURST),
            pake_users: HashMap::new(),
            throttle: Throttle::new(now, rng),
            guessers: HashMap::new(),
            swept_at: now,
            place,
            refusals: Refusals::default(),
        }
    }

    /// A Hello; the answer, if it gets one.
    #[allow(clippy::too_many_arguments, reason = "the parts of one datagram, and what answers it")]
    pub(super) fn on_hello(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        packet: &[u8],
        secret: &Secret,
        params: Params,
        room: bool,
        rng: &mut StdRng,
    ) -> Option<Vec<u8>> {
        self.expire(now);
        let (hello, core) = match Hello::decode(packet) {
            Ok(found) => found,
            Err(_) => return self.on_other_version(now, remote, packet),
        };
        let wanted = match secret {
            Secret::Key(_) => Security::Aes128Gcm,
            Secret::Insecure => Security::Insecure,
        };
        if hello.security != wanted {
            self.refusals.count(Refusal::Security);
            let text = match wanted {
                Security::Aes128Gcm => {
                    "the server encrypts and this client runs with --insecure: give the server's key instead"
                }
                Security::Insecure => "the server runs with --insecure: give --insecure here too",
            };
            return self.reject(now, remote, hello.client_cid, RejectCode::Security, text);
        }
        if let Some(known) = self.by_client.get(&(hello.client_cid, remote)) {
            let h = self.half_open.get_mut(known)?;
            if h.hello_core != core {
                self.refusals.count(Refusal::Conflict);
                return None;
            }
            // The same Hello again: the Reply was lost, or is slow.
            if now < h.replied_at + REPLY_SPACING {
                self.refusals.count(Refusal::Overload);
                return None;
            }
            (h.repeated, h.replied_at) = (true, now);
            return Some(Reply { attempt: hello.attempt, ..h.reply.clone() }.encode());
        }
        if self.peers.contains(hello.client_cid) {
            self.refusals.count(Refusal::Conflict);
            return None;
        }
        if !room {
            self.refusals.count(Refusal::Busy);
            return self.reject(now, remote, hello.client_cid, RejectCode::Busy, BUSY);
        }
        self.respond(now, remote, &hello, core, secret, params, rng)
    }

    /// A refusal, if a stranger at that address may have an answer now.
    fn reject(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        client_cid: Cid,
        code: RejectCode,
        text: &str,
    ) -> Option<Vec<u8>> {
        self.may_answer(now, remote).then(|| Reject { client_cid, code, text: text.into() }.encode())
    }

    fn may_answer(&mut self, now: Instant, remote: SocketAddr) -> bool {
        let allowed = self.throttle.allows(now, network_of(remote.ip()));
        self.refusals.add(Refusal::Overload, u64::from(!allowed));
        allowed
    }

    fn cookie_bucket(&self, now: Instant) -> u64 {
        (now - self.epoch).as_secs() / COOKIE_BUCKET.as_secs()
    }

    /// A cookie to come again with, if a stranger at that address may have an answer now.
    fn retry(&mut self, now: Instant, remote: SocketAddr, hello: &Hello, why: Refusal) -> Option<Vec<u8>> {
        if !self.may_answer(now, remote) {
            return None;
        }
        self.refusals.count(why);
        let cookie = self.cookie_key.mint(remote, &hello.share, self.cookie_bucket(now));
        Some(Retry { client_cid: hello.client_cid, cookie }.encode())
    }

    fn on_other_version(&mut self, now: Instant, remote: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
        match Hello::cid_of_any_version(packet) {
            Some((version, client_cid)) if version != VERSION => {
                self.refusals.count(Refusal::Version);
                let text =
                    format!("this server speaks version {VERSION} of the protocol, the client {version}");
                self.reject(now, remote, client_cid, RejectCode::Version, &text)
            }
            _ => {
                self.refusals.count(Refusal::Checksum);
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn respond(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        hello: &Hello,
        core: &[u8],
        secret: &Secret,
        params: Params,
        rng: &mut StdRng,
    ) -> Option<Vec<u8>> {
        let left = self.pakes.refill(now, PAKES_PER_SEC, PAKE_BURST);
        let loaded = self.half_open.len() > COOKIE_ABOVE_HALF_OPEN || left < COOKIE_BELOW_PAKES;
        if loaded {
            let bucket = self.cookie_bucket(now);
            let valid = |c: &[u8; 16]| self.cookie_key.check(remote, &hello.share, bucket, c);
            if !hello.cookie.as_ref().is_some_and(valid) {
                return self.retry(now, remote, hello, Refusal::Cookie);
            }
        }
        if is_waiting(&self.guessers, self.place, now, remote.ip()) {
            self.refusals.count(Refusal::Guessing);
            return None;
        }
        if !self.may_compute(now, remote.ip(), left) {
            // Not now, but the client is to know that there is somebody.
            return self.retry(now, remote, hello, Refusal::Overload);
        }
        let mut entropy = zeroize::Zeroizing::new([0u8; ENTROPY_BYTES]);
        rng.fill_bytes(&mut *entropy);
        let answered = ServerHandshake::respond(secret, &entropy, &ClientShare(hello.share));
        let Ok((share, shared)) = answered else {
            self.refusals.count(Refusal::Share);
            return None;
        };
        // The first byte steers between worker processes.
        let mut cid = Cid([self.place.index; 8]);
        rng.fill_bytes(&mut cid.0[1..]);
        let reply = Reply {
            client_cid: hello.client_cid,
            server_cid: cid,
            share: share.0,
            params,
            attempt: hello.attempt,
        };
        let keys = shared.keys(&Transcript::new().add(core).add(&reply.core()));
        let packet = reply.encode();
        self.make_room();
        self.by_client.insert((hello.client_cid, remote), cid);
        self.order.push_back((now, cid));
        let half_open = HalfOpen {
            client_cid: hello.client_cid,
            remote,
            hello_core: core.to_vec(),
            reply,
            keys,
            params: hello.params,
            created_at: now,
            replied_at: now,
            repeated: false,
            failed: false,
        };
        self.half_open.insert(cid, half_open);
        Some(packet)
    }

    /// Takes a PAKE computation from the budget, of which `left` are there, if this address may have one.
    fn may_compute(&mut self, now: Instant, ip: IpAddr, left: f64) -> bool {
        if left < 1.0 {
            return false;
        }
        let (per_sec, most) = NETWORK_PAKES;
        let own = self.pake_users.entry(network_of(ip)).or_insert(Bucket::new(now, most));
        if own.refill(now, per_sec, most) >= 1.0 {
            own.take();
        } else if left <= PAKES_RESERVED {
            return false;
        }
        self.pakes.take();
        true
    }

    /// A Confirm for a connection ID without a session: admitted, or perhaps an answer.
    pub(super) fn on_confirm(
        &mut self,
        now: Instant,
        packet: &[u8],
        room: bool,
    ) -> Result<Admitted, Option<Vec<u8>>> {
        // Unknown ones first: they are what a flood is made of, and cost no pass over the packet.
        let Ok((header, _)) = ProtectedHeader::decode(packet) else {
            self.refusals.count(Refusal::Malformed);
            return Err(None);
        };
        let (Some(confirm), Some(h)) = (header.confirm, self.half_open.get_mut(&header.cid)) else {
            self.refusals.count(Refusal::Stray);
            return Err(None);
        };
        if strip_trailer(packet).is_err() {
            self.refusals.count(Refusal::Checksum);
            return Err(None);
        }
        // Handshakes gathered beforehand must not make many guesses at once; an honest Confirm comes again.
        if !h.failed && is_waiting(&self.guessers, self.place, now, h.remote.ip()) {
            self.refusals.count(Refusal::Guessing);
            return Err(None);
        }
        let (client_cid, remote) = (h.client_cid, h.remote);
        // After one that does not fit, one that does is still welcome: whoever knows the Reply can spoil the first, and no second
        // guess is possible in a handshake, since the share in the Hello holds for one password only.
        if !h.keys.confirm_matches(&confirm) {
            if !std::mem::replace(&mut h.failed, true) {
                self.refusals.count(Refusal::WrongKey);
                self.note_failure(now, remote.ip());
            }
            let text = "the key is not this server's";
            return Err(self.reject(now, remote, client_cid, RejectCode::WrongKey, text));
        }
        // It answered two Replies, to two addresses: the session that it has already will find it at the new one.
        if self.peers.has_moved(client_cid, remote) {
            self.refusals.count(Refusal::Conflict);
            return Err(None);
        }
        if !room {
            self.refusals.count(Refusal::Busy);
            return Err(self.reject(now, remote, client_cid, RejectCode::Busy, BUSY));
        }
        let Some(h) = self.half_open.remove(&header.cid) else { return Err(None) };
        self.by_client.remove(&(h.client_cid, h.remote));
        self.peers.admit(h.client_cid, h.remote);
        self.guessers.remove(&network_of(h.remote.ip()));
        Ok(Admitted {
            server_cid: header.cid,
            client_cid: h.client_cid,
            keys: h.keys,
            params: h.params,
            told: h.reply.params,
            remote: h.remote,
            handshake_rtt: now - h.created_at,
            rtt_is_exact: !h.repeated,
        })
    }

    /// The session of this peer is over. A copy of its Hello may still be on its way.
    pub(super) fn ended(&mut self, client_cid: Cid) {
        self.peers.end(client_cid);
    }

    fn note_failure(&mut self, now: Instant, ip: IpAddr) {
        let network = network_of(ip);
        // The pause that follows, and the PAKE budget, bound how often this can be said.
        log::warn!("a client at {ip} does not have this server's key");
        if self.guessers.len() >= MAX_GUESSERS && !self.guessers.contains_key(&network) {
            let oldest = self.guessers.iter().min_by_key(|(_, g)| g.last_at).map(|(ip, _)| *ip);
            oldest.and_then(|ip| self.guessers.remove(&ip));
        }
        let g = self.guessers.entry(network).or_insert(Guesser { failures: 0, last_at: now });
        *g = Guesser { failures: g.failures.saturating_add(1), last_at: now };
    }

    fn make_room(&mut self) {
        while self.half_open.len() >= MAX_HALF_OPEN {
            let Some((_, cid)) = self.order.pop_front() else { break };
            self.forget(cid);
        }
    }

    fn forget(&mut self, cid: Cid) {
        if let Some(h) = self.half_open.remove(&cid) {
            self.refusals.count(Refusal::HalfOpen);
            self.by_client.remove(&(h.client_cid, h.remote));
        }
    }

    fn expire(&mut self, now: Instant) {
        self.peers.expire(now);
        while let Some((created_at, cid)) = self.order.front().copied() {
            if now < created_at + HALF_OPEN_LIFETIME {
                break;
            }
            self.order.pop_front();
            if self.half_open.get(&cid).is_some_and(|h| h.created_at == created_at) {
                self.forget(cid);
            }
        }
        if now < self.swept_at + GUESS_SWEEP {
            return;
        }
        self.swept_at = now;
        let memory = GUESS_MEMORY * u32::from(self.place.of);
        self.guessers.retain(|_, g| now < g.last_at + memory);
        let (per_sec, most) = NETWORK_PAKES;
        self.pake_users.retain(|_, own| own.refill(now, per_sec, most) < most);
    }

    /// The figures by which admission is judged.
    pub(super) fn counters(&self) -> AdmissionCounters {
        let n = |why| self.refusals.get(why);
        AdmissionCounters {
            retries: n(Refusal::Cookie),
            dropped: n(Refusal::Overload) + n(Refusal::Guessing),
            wrong_keys: n(Refusal::WrongKey),
            busy: n(Refusal::Busy),
            corrupted: n(Refusal::Checksum),
        }
    }

    /// Half-open handshakes, for tests of bounds.
    pub(super) fn half_open_count(&self) -> usize {
        self.half_open.len()
    }
}

/// Whose guesses, computations and questions are counted together: an IPv4 address, or an IPv6 network of 64 bits, which one host may use as it likes.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Whether an address has to wait after its failed guesses.
fn is_waiting(guessers: &HashMap<IpAddr, Guesser>, place: Place, now: Instant, ip: IpAddr) -> bool {
    let pause = |failures: u32| GUESS_PAUSE * (1 << failures.saturating_sub(1).min(6)) * u32::from(place.of);
    guessers.get(&network_of(ip)).is_some_and(|g| now < g.last_at + pause(g.failures))
}
