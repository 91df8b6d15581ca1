//! Role: all peers of one socket: connection-ID demux, handshake admission, session table, shared limits.
//! Owns: the session table, the timer heap, the ready list, the shared budgets; half-open handshakes in `admission`.
//! Implements: docs/PROTOCOL.md, "Connection IDs", "Admission".

mod admission;
pub mod config;
pub mod pursuit;

use crate::congestion::pacer::Pacer;
use crate::session::event::{CloseReason, Event, Stats};
use crate::session::rival::{Handover, Health};
use crate::session::{Session, Setup, local_params};
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::job::{Dest, Done, Job, SourceRoot};
use crate::wire::packet::{TYPE_CONFIRM, TYPE_HELLO};
use crate::wire::{CID_BYTES, Cid};
use admission::Admission;
pub use admission::{AdmissionCounters, MAX_HALF_OPEN};
use config::EndpointConfig;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// A session's share of a budget never falls below this: one chunk of the default size.
const MIN_SHARE_BYTES: u64 = 256 * 1024;
/// Answers to strangers that wait for the socket; more are dropped (they will ask again).
const MAX_ANSWERS: usize = 256;
/// Bytes that an address gets per byte that came from it before it is validated (RFC 9000, section 8.1).
const MAX_AMPLIFICATION: usize = 3;
/// The least size of a full datagram, for counting how many the shared limit lets pass.
const MIN_DATAGRAM_BYTES: u64 = 1200;
/// The shared limit lets this many milliseconds' worth leave at once.
const LIMIT_BURST_MS: u64 = 10;

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

#[derive(Debug)]
struct Entry {
    session: Session,
    /// The earliest time in the heap for it.
    armed: Option<Instant>,
    ready: bool,
    /// It is in `dirty_jobs`, in `dirty_events`.
    has_jobs: bool,
    has_events: bool,
    /// It is in `held_back`.
    held: bool,
    /// Bytes sent under the shared limit, on a scale on which sessions that were idle catch up with the others.
    served_bytes: u64,
}

/// All sessions of one socket. Pure: datagrams, time, store answers in; datagrams, jobs, events out.
#[derive(Debug)]
pub struct Endpoint {
    config: EndpointConfig,
    rng: StdRng,
    sessions: HashMap<SessionKey, Entry>,
    by_cid: HashMap<Cid, SessionKey>,
    next_key: SessionKey,
    timers: BinaryHeap<Reverse<(Instant, SessionKey)>>,
    /// Sessions that may have something to send.
    ready: VecDeque<SessionKey>,
    /// Sessions that may have jobs or events.
    dirty_jobs: VecDeque<SessionKey>,
    dirty_events: VecDeque<SessionKey>,
    /// Sessions that the shared limit holds back.
    held_back: Vec<SessionKey>,
    admission: Admission,
    answers: VecDeque<(SocketAddr, Vec<u8>)>,
    limit: Option<Pacer>,
    /// `served_bytes` of the session that sent last, before it did; a session that was idle starts from here (start-time fair queueing).
    served_floor: u64,
    /// When the shared limit lets something leave again.
    limit_release: Option<Instant>,
    shares: usize,
}

impl Endpoint {
    /// `seed` drives every random choice, so it must come from the operating system's generator in production.
    pub fn new(config: EndpointConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let admission = Admission::new(now, &mut rng);
        let rate = config.server.as_ref().and_then(|s| s.total_limit_bytes_per_sec);
        let limit = rate.map(|rate| {
            let mut p = Pacer::new(now);
            p.set_rate(now, rate, (rate / 1000 * LIMIT_BURST_MS).max(3000));
            p
        });
        Self {
            config,
            rng,
            sessions: HashMap::new(),
            by_cid: HashMap::new(),
            next_key: 1,
            timers: BinaryHeap::new(),
            ready: VecDeque::new(),
            dirty_jobs: VecDeque::new(),
            dirty_events: VecDeque::new(),
            held_back: Vec::new(),
            admission,
            answers: VecDeque::new(),
            limit,
            served_floor: 0,
            limit_release: None,
            shares: 0,
        }
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
        let mut cid = Cid([0; CID_BYTES]);
        self.rng.fill_bytes(&mut cid.0);
        let setup = self.setup(remote, cid);
        let session = Session::connect(now, setup, &self.config.secret, request, roots, dest);
        self.add(now, cid, session)
    }

    /// Starts a client session that goes as far as the server's answer to its Hello and then waits for `release`.
    pub fn reach(&mut self, now: Instant, remote: SocketAddr, request: Request) -> SessionKey {
        let mut cid = Cid([0; CID_BYTES]);
        self.rng.fill_bytes(&mut cid.0);
        let setup = self.setup(remote, cid);
        let session = Session::reach(now, setup, &self.config.secret, request);
        self.add(now, cid, session)
    }

    /// Lets a session made by `reach` go on with what an earlier one has begun.
    pub fn release(&mut self, now: Instant, session: SessionKey, handover: Handover) {
        if let Some(e) = self.sessions.get_mut(&session) {
            e.session.release(now, handover);
            self.touch(now, session);
        }
    }

    /// Has a session ask its peer for a sign of life.
    pub fn probe(&mut self, now: Instant, session: SessionKey) {
        if let Some(e) = self.sessions.get_mut(&session) {
            e.session.probe();
            self.touch(now, session);
        }
    }

    /// How a session stands with its peer.
    pub fn health(&self, session: SessionKey) -> Option<Health> {
        self.sessions.get(&session).map(|e| e.session.health())
    }

    /// Ends one session politely: CLOSE goes out with the next `poll_transmit` calls.
    pub fn close(&mut self, now: Instant, session: SessionKey, reason: CloseReason) {
        if let Some(e) = self.sessions.get_mut(&session) {
            e.session.close(now, reason);
            self.touch(now, session);
        }
    }

    /// Ends a session without another word to its peer.
    pub fn abandon(&mut self, now: Instant, session: SessionKey) {
        if let Some(e) = self.sessions.get_mut(&session) {
            e.session.abandon();
            self.touch(now, session);
        }
    }

    /// `--timeout`
    pub fn idle_timeout(&self) -> Duration {
        self.config.session.idle_timeout
    }

    fn setup(&mut self, remote: SocketAddr, local_cid: Cid) -> Setup {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let n = self.sessions.len() as u64 + 1;
        Setup {
            config: self.config.session.clone(),
            remote,
            local_cid,
            seed,
            receive_budget: share(self.config.receive_budget_bytes, n),
            send_budget: share(self.config.send_budget_bytes, n),
        }
    }

    fn add(&mut self, now: Instant, cid: Cid, session: Session) -> SessionKey {
        let key = self.next_key;
        self.next_key += 1;
        self.by_cid.insert(cid, key);
        self.sessions.insert(
            key,
            Entry {
                session,
                armed: None,
                ready: false,
                has_jobs: false,
                has_events: false,
                held: false,
                served_bytes: 0,
            },
        );
        self.share_budgets();
        self.touch(now, key);
        key
    }

    /// Hands out new shares when the number of sessions has changed by a good part.
    fn share_budgets(&mut self) {
        let n = self.sessions.len().max(1);
        if n > self.shares || n * 4 < self.shares * 3 {
            self.shares = n;
            let receive = share(self.config.receive_budget_bytes, n as u64);
            let send = share(self.config.send_budget_bytes, n as u64);
            self.sessions.values_mut().for_each(|e| e.session.set_budgets(receive, send));
        }
    }

    /// Something happened to a session: it may have work for everybody.
    fn touch(&mut self, now: Instant, key: SessionKey) {
        let Some(e) = self.sessions.get_mut(&key) else { return };
        if !e.ready {
            e.ready = true;
            self.ready.push_back(key);
        }
        self.mark(key);
        self.arm(now, key, true);
    }

    /// A session may have jobs and events.
    fn mark(&mut self, key: SessionKey) {
        let Some(e) = self.sessions.get_mut(&key) else { return };
        if !std::mem::replace(&mut e.has_jobs, true) {
            self.dirty_jobs.push_back(key);
        }
        if !std::mem::replace(&mut e.has_events, true) {
            self.dirty_events.push_back(key);
        }
    }

    fn arm(&mut self, now: Instant, key: SessionKey, allow_data: bool) {
        let Some(e) = self.sessions.get_mut(&key) else { return };
        if let Some(t) = e.session.poll_timeout(now, allow_data && !e.held)
            && e.armed.is_none_or(|a| t < a)
        {
            e.armed = Some(t);
            self.timers.push(Reverse((t, key)));
        }
    }

    /// One datagram from the socket; it is decrypted in place. Anything invalid is counted, never an error.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        ecn: Option<Ecn>,
        datagram: &mut [u8],
    ) {
        if datagram.first() == Some(&TYPE_HELLO) {
            self.on_hello(now, remote, datagram);
            return;
        }
        let Some(cid) = datagram.get(1..1 + CID_BYTES).and_then(|b| b.try_into().ok()).map(Cid) else {
            return;
        };
        let mut key = self.by_cid.get(&cid).copied();
        if key.is_none() && datagram.first() == Some(&TYPE_CONFIRM) {
            key = self.on_confirm(now, remote, datagram);
        }
        let Some(key) = key else { return };
        if let Some(e) = self.sessions.get_mut(&key) {
            e.session.handle_datagram(now, remote, ecn == Some(Ecn::Ce), datagram);
            self.touch(now, key);
        }
    }

    fn has_room(&self) -> bool {
        self.config.server.as_ref().is_some_and(|s| self.sessions.len() < s.max_sessions)
    }

    fn on_hello(&mut self, now: Instant, remote: SocketAddr, packet: &[u8]) {
        if self.config.server.is_none() {
            return;
        }
        let n = self.sessions.len() as u64 + 1;
        let params = local_params(&self.config.session, share(self.config.receive_budget_bytes, n));
        let room = self.has_room();
        let answer =
            self.admission.on_hello(now, remote, packet, &self.config.secret, params, room, &mut self.rng);
        // Nobody has shown yet that the address is theirs (RFC 9000, section 8.1).
        let answer = answer.filter(|a| a.len() <= MAX_AMPLIFICATION * packet.len());
        self.answer(remote, answer);
    }

    fn answer(&mut self, remote: SocketAddr, packet: Option<Vec<u8>>) {
        if let Some(p) = packet.filter(|_| self.answers.len() < MAX_ANSWERS) {
            self.answers.push_back((remote, p));
        }
    }

    fn on_confirm(&mut self, now: Instant, remote: SocketAddr, packet: &[u8]) -> Option<SessionKey> {
        let server = self.config.server.clone()?;
        let room = self.has_room();
        let admitted = match self.admission.on_confirm(now, packet, room) {
            Ok(admitted) => admitted,
            Err(answer) => {
                self.answer(remote, answer);
                return None;
            }
        };
        let setup = self.setup(admitted.remote, admitted.server_cid);
        let session = Session::accept(
            now,
            setup,
            server,
            self.next_key,
            admitted.client_cid,
            admitted.keys,
            (&admitted.params, &admitted.told),
            (admitted.handshake_rtt, admitted.rtt_is_exact),
        );
        Some(self.add(now, admitted.server_cid, session))
    }

    /// Time has come to `poll_timeout`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.release_held(now);
        while let Some(&Reverse((t, key))) = self.timers.peek() {
            if t > now {
                break;
            }
            self.timers.pop();
            let Some(e) = self.sessions.get_mut(&key).filter(|e| e.armed == Some(t)) else { continue };
            e.armed = None;
            e.session.handle_timeout(now);
            // Re-armed when the ready list has asked it for datagrams: what is due now is sent by then.
            if !e.ready {
                e.ready = true;
                self.ready.push_back(key);
            }
            self.mark(key);
        }
    }

    /// The shared limit has room again: everybody whom it held back competes for it.
    fn release_held(&mut self, now: Instant) {
        if self.held_back.is_empty() || self.limit.as_mut().is_some_and(|p| p.allowance(now) == 0) {
            return;
        }
        for key in std::mem::take(&mut self.held_back) {
            if let Some(e) = self.sessions.get_mut(&key) {
                e.held = false;
            }
            self.touch(now, key);
        }
    }

    /// When `handle_timeout` wants to be called; pacing releases are included.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        while let Some(&Reverse((t, key))) = self.timers.peek() {
            if self.sessions.get(&key).is_some_and(|e| e.armed == Some(t)) {
                break;
            }
            self.timers.pop();
        }
        let timer = self.timers.peek().map(|Reverse((t, _))| *t);
        timer.into_iter().chain(self.limit_release.filter(|_| !self.held_back.is_empty())).min()
    }

    /// Writes the next train into `buf` (cleared first), at most `max_segments` datagrams and 64 KiB; `None`: nothing to send now.
    /// Sessions take turns, so calling it in a loop is fair.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        buf.clear();
        if let Some((remote, packet)) = self.answers.pop_front() {
            buf.extend_from_slice(&packet);
            return Some(Transmit {
                session: None,
                remote,
                size: packet.len(),
                segment_size: None,
                ecn: None,
            });
        }
        // Nobody goes first because a datagram happened to come for it.
        self.release_held(now);
        while let Some(key) = self.next_ready() {
            let Some(e) = self.sessions.get_mut(&key) else { continue };
            let allowance = self.limit.as_mut().map(|p| p.allowance(now));
            let allow = allowance != Some(0);
            // Short trains, so that turns are short and debts small.
            let room = allowance.map_or(usize::MAX, |a| (a / MIN_DATAGRAM_BYTES) as usize + 1);
            let Some(train) = e.session.poll_transmit(now, buf, max_segments.min(room), allow) else {
                e.ready = false;
                if !allow {
                    if !std::mem::replace(&mut e.held, true) {
                        self.held_back.push(key);
                    }
                    self.limit_release = self.limit.as_ref().map(|p| p.next_release(now));
                }
                // Sending may have ended the session or freed what others wait for.
                self.mark(key);
                self.arm(now, key, allow);
                continue;
            };
            self.ready.push_back(key);
            let remote = train.remote.unwrap_or(e.session.remote());
            let datagrams = train.size.div_ceil(train.segment_size.max(1));
            if let Some(p) = &mut self.limit {
                let ip_bytes = train.size as u64 + datagrams as u64 * e.session.ip_overhead();
                p.on_sent(now, ip_bytes);
                self.served_floor = self.served_floor.max(e.served_bytes);
                e.served_bytes = self.served_floor + ip_bytes;
            }
            return Some(Transmit {
                session: Some(key),
                remote,
                size: train.size,
                segment_size: (datagrams > 1).then_some(train.segment_size),
                ecn: Some(Ecn::Ect0),
            });
        }
        None
    }

    /// Whose turn it is: one after the other, but under the shared limit the one that has had least, since trains differ in size.
    fn next_ready(&mut self) -> Option<SessionKey> {
        if self.limit.is_none() {
            return self.ready.pop_front();
        }
        let served = |key: &SessionKey| self.sessions.get(key).map_or(0, |e| e.served_bytes);
        let least = (0..self.ready.len()).min_by_key(|i| served(&self.ready[*i]))?;
        self.ready.remove(least)
    }

    /// The socket refused a train (EMSGSIZE): its datagrams were larger than the interface takes.
    pub fn handle_too_large(&mut self, now: Instant, session: Option<SessionKey>, segment_size: usize) {
        log::debug!("datagrams of {segment_size} bytes are too large for the interface");
        if let Some(e) = session.and_then(|key| self.sessions.get_mut(&key)) {
            e.session.handle_too_large(now, segment_size.try_into().unwrap_or(u32::MAX));
        }
    }

    /// The next job for the store.
    pub fn poll_job(&mut self) -> Option<(SessionKey, Job)> {
        while let Some(&key) = self.dirty_jobs.front() {
            if let Some(e) = self.sessions.get_mut(&key) {
                if let Some(job) = e.session.poll_job() {
                    return Some((key, job));
                }
                e.has_jobs = false;
            }
            self.dirty_jobs.pop_front();
            self.reap(key);
        }
        None
    }

    /// An answer of the store. Answers for sessions that are gone are ignored.
    pub fn handle_done(&mut self, now: Instant, session: SessionKey, done: Done) {
        if let Some(e) = self.sessions.get_mut(&session) {
            e.session.handle_done(now, done);
            self.touch(now, session);
        }
    }

    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<(SessionKey, Event)> {
        while let Some(&key) = self.dirty_events.front() {
            if let Some(e) = self.sessions.get_mut(&key) {
                if let Some(event) = e.session.poll_event() {
                    return Some((key, event));
                }
                e.has_events = false;
            }
            self.dirty_events.pop_front();
            self.reap(key);
        }
        None
    }

    fn reap(&mut self, key: SessionKey) {
        if self.sessions.get(&key).is_some_and(|e| e.session.is_over()) {
            if let Some(e) = self.sessions.remove(&key) {
                self.by_cid.remove(&e.session.local_cid());
            }
            self.share_budgets();
        }
    }

    /// Figures of a live session (or of one whose `Closed` event has only just been polled).
    pub fn stats(&self, session: SessionKey) -> Option<Stats> {
        self.sessions.get(&session).map(|e| e.session.stats())
    }

    /// Ends every session politely: CLOSE goes out with the next `poll_transmit` calls.
    pub fn close_all(&mut self, now: Instant, reason: CloseReason) {
        let keys: Vec<_> = self.sessions.keys().copied().collect();
        for key in keys {
            if let Some(e) = self.sessions.get_mut(&key) {
                e.session.close(now, reason.clone());
                self.touch(now, key);
            }
        }
    }

    /// Sessions alive, handshakes of clients included.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What admission has turned away, and half-open handshakes now.
    pub fn admission(&self) -> (AdmissionCounters, usize) {
        (self.admission.counters, self.admission.half_open_count())
    }
}

fn share(budget: u64, sessions: u64) -> u64 {
    (budget / sessions.max(1)).max(MIN_SHARE_BYTES)
}
