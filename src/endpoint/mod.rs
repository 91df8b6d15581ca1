//! Role: all peers of one socket: connection-ID demux, handshake admission, session table, shared limits.
//! Owns: the session table, the timer heap; half-open handshakes in `admission`, the ready list in `turns`, shared memory in `budgets`.
//! Implements: docs/PROTOCOL.md, "Connection IDs", "Admission".

mod admission;
mod budgets;
pub mod config;
pub mod pursuit;
mod requests;
mod throttle;
mod turns;

use crate::congestion::pacer::Pacer;
use crate::session::event::{CloseReason, Event, Stats};
use crate::session::refusal::{Refusal, Refusals};
use crate::session::trace::Record;
use crate::session::{CopiedKeys, Session, Setup, local_params};
use crate::store::SessionKey;
use crate::transfer::job::{Done, Job};
use crate::wire::packet::{TYPE_CONFIRM, TYPE_HELLO};
use crate::wire::{CID_BYTES, Cid};
use admission::Admission;
pub use admission::{AdmissionCounters, MAX_HALF_OPEN};
use budgets::{Account, Budgets, Used};
use config::EndpointConfig;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;
use turns::Turns;

#[cfg(test)]
mod tests;

/// Answers to strangers that wait for the socket; more are dropped (they will ask again).
const MAX_ANSWERS: usize = 256;
/// Bytes that an address gets per byte that came from it before it is validated (RFC 9000, section 8.1).
const MAX_AMPLIFICATION: usize = 3;
/// The least size of a full datagram, for counting how many the shared limit lets pass.
const MIN_DATAGRAM_BYTES: u64 = 1200;
/// Void entries of the timer heap that are not worth clearing away.
const MAX_VOID_TIMERS: usize = 64;
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

/// What the shared limit lets leave at once.
fn limit_burst_bytes(bytes_per_sec: u64) -> u64 {
    (bytes_per_sec / 1000 * LIMIT_BURST_MS).max(3000)
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
    /// Server: the peer as its Hello named it.
    peer: Option<Cid>,
    /// The earliest time in the heap for it.
    armed: Option<Instant>,
    ready: bool,
    /// It is in `dirty_jobs`, in `dirty_events`.
    has_jobs: bool,
    has_events: bool,
    account: Account,
}

impl Entry {
    fn renew_shares(&mut self, budgets: &Budgets) {
        if let Some(shares) = budgets.renew(&mut self.account) {
            self.session.set_budgets(shares.receive_bytes, shares.send_bytes, shares.assembly_left);
        }
    }
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
    turns: Turns,
    /// Sessions that may have jobs or events.
    dirty_jobs: VecDeque<SessionKey>,
    dirty_events: VecDeque<SessionKey>,
    admission: Admission,
    answers: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The latest thing sent was an answer: a session goes first if one can.
    answered: bool,
    limit: Option<Pacer>,
    /// When the shared limit lets something leave again.
    limit_release: Option<Instant>,
    budgets: Budgets,
    /// How often a session was looked at: what an event costs, for tests.
    #[cfg(test)]
    visits: u64,
    /// Last records of sessions that are gone, and how many they had to leave out.
    last_records: (Vec<(SessionKey, Record)>, u64),
    /// Of datagrams without a session, and of sessions that are over.
    refusals: Refusals,
}

impl Endpoint {
    /// `seed` drives every random choice, so it must come from the operating system's generator in production.
    pub fn new(config: EndpointConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let place = config.server.as_ref().map(|s| s.place).unwrap_or_default();
        let admission = Admission::new(now, place, &mut rng);
        let rate = config.server.as_ref().and_then(|s| s.total_limit_bytes_per_sec);
        let limit = rate.map(|rate| {
            let mut p = Pacer::new(now);
            p.set_rate(now, rate, limit_burst_bytes(rate));
            p
        });
        let turns = Turns::new(limit.is_some());
        let budgets = Budgets::new(now, config.receive_budget_bytes, config.send_budget_bytes);
        Self {
            config,
            rng,
            sessions: HashMap::new(),
            by_cid: HashMap::new(),
            next_key: 1,
            timers: BinaryHeap::new(),
            turns,
            dirty_jobs: VecDeque::new(),
            dirty_events: VecDeque::new(),
            admission,
            answers: VecDeque::new(),
            answered: false,
            limit,
            limit_release: None,
            budgets,
            #[cfg(test)]
            visits: 0,
            last_records: (Vec::new(), 0),
            refusals: Refusals::default(),
        }
    }

    /// Another `--limit` from now on, IP bytes a second (`None`: no limit): of a server for all sessions together, of a
    /// client for its session, which tells the server if that is the one that sends.
    pub fn set_limit(&mut self, now: Instant, bytes_per_sec: Option<u64>) {
        let Some(server) = &mut self.config.server else {
            self.config.session.limit_bytes_per_sec = bytes_per_sec;
            let keys: Vec<SessionKey> = self.sessions.keys().copied().collect();
            for key in keys {
                self.with_session(now, key, |session| session.set_limit(now, bytes_per_sec));
            }
            return;
        };
        server.total_limit_bytes_per_sec = bytes_per_sec;
        if self.limit.is_none() && bytes_per_sec.is_none() {
            return;
        }
        self.turns.make_fair();
        let rate = bytes_per_sec.unwrap_or(u64::MAX);
        self.limit.get_or_insert_with(|| Pacer::new(now)).set_rate(now, rate, limit_burst_bytes(rate));
        // Whoever is held back looks again.
        self.limit_release = Some(now);
    }

    fn setup(&mut self, remote: SocketAddr, local_cid: Cid) -> Setup {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let shares = self.budgets.for_another();
        Setup {
            config: self.config.session.clone(),
            remote,
            local_cid,
            seed,
            receive_budget: shares.receive_bytes,
            send_budget: shares.send_bytes,
        }
    }

    fn add(&mut self, now: Instant, cid: Cid, session: Session, peer: Option<Cid>) -> SessionKey {
        let key = self.next_key;
        self.next_key += 1;
        self.by_cid.insert(cid, key);
        self.sessions.insert(
            key,
            Entry {
                session,
                peer,
                armed: None,
                ready: false,
                has_jobs: false,
                has_events: false,
                account: Account::default(),
            },
        );
        self.touch(now, key);
        key
    }

    /// Counts sessions that were looked at, for tests.
    #[inline]
    fn note_visits(&mut self, _sessions: usize) {
        #[cfg(test)]
        {
            self.visits += _sessions as u64;
        }
    }

    /// Something happened to a session: it may have work for everybody.
    fn touch(&mut self, now: Instant, key: SessionKey) {
        let Some(e) = self.sessions.get_mut(&key) else { return };
        if !std::mem::replace(&mut e.ready, true) {
            self.turns.push(key);
        }
        let (waiting_bytes, assembly_bytes) = e.session.receive_memory();
        self.budgets.note_used(&mut e.account, Used { waiting_bytes, assembly_bytes });
        e.renew_shares(&self.budgets);
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
        self.note_visits(1);
        let Some(e) = self.sessions.get_mut(&key) else { return };
        let allow_data = allow_data && !self.turns.is_held(key);
        if let Some(t) = e.session.poll_timeout(now, allow_data)
            && e.armed.is_none_or(|a| t < a)
        {
            e.armed = Some(t);
            self.timers.push(Reverse((t, key)));
            // Entries that an earlier one has made void stay until their time: they must not outnumber the others for long.
            if self.timers.len() > 2 * MAX_VOID_TIMERS.max(self.sessions.len()) {
                let Self { timers, sessions, .. } = self;
                timers.retain(|Reverse((t, key))| sessions.get(key).is_some_and(|e| e.armed == Some(*t)));
            }
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
            return self.refusals.count(Refusal::Malformed);
        };
        let mut key = self.by_cid.get(&cid).copied();
        if key.is_none() && datagram.first() == Some(&TYPE_CONFIRM) && self.config.server.is_some() {
            key = self.on_confirm(now, remote, datagram);
        } else if key.is_none() {
            self.refusals.count(Refusal::Stray);
        }
        let Some(key) = key else { return };
        let Some(e) = self.sessions.get_mut(&key) else { return };
        e.renew_shares(&self.budgets);
        let before = e.session.taken();
        e.session.handle_datagram(now, remote, ecn == Some(Ecn::Ce), datagram);
        // What was dropped wakes nobody.
        if e.session.taken() != before {
            self.budgets.note_datagram(now, &mut e.account, datagram.len());
            self.touch(now, key);
        }
    }

    fn has_room(&self) -> bool {
        self.config.server.as_ref().is_some_and(|s| self.sessions.len() < s.max_sessions)
    }

    fn on_hello(&mut self, now: Instant, remote: SocketAddr, packet: &[u8]) {
        if self.config.server.is_none() {
            return self.refusals.count(Refusal::Stray);
        }
        let params = local_params(&self.config.session, self.budgets.for_another().receive_bytes);
        let room = self.has_room();
        let answer =
            self.admission.on_hello(now, remote, packet, &self.config.secret, params, room, &mut self.rng);
        // Nobody has shown yet that the address is theirs (RFC 9000, section 8.1).
        let too_long = answer.as_ref().is_some_and(|a| a.len() > MAX_AMPLIFICATION * packet.len());
        self.refusals.add(Refusal::Amplification, u64::from(too_long));
        let answer = answer.filter(|_| !too_long);
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
        let peer = Some(admitted.client_cid);
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
        Some(self.add(now, admitted.server_cid, session, peer))
    }

    /// Time has come to `poll_timeout`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&Reverse((t, key))) = self.timers.peek() {
            if t > now {
                break;
            }
            self.timers.pop();
            self.note_visits(1);
            let Some(e) = self.sessions.get_mut(&key).filter(|e| e.armed == Some(t)) else { continue };
            e.armed = None;
            e.session.handle_timeout(now);
            // Re-armed when the ready list has asked it for datagrams: what is due now is sent by then.
            if !std::mem::replace(&mut e.ready, true) {
                self.turns.push(key);
            }
            self.mark(key);
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
        timer.into_iter().chain(self.limit_release.filter(|_| self.turns.any_held())).min()
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
        // Strangers and sessions take turns, so that a flood of the former leaves half of the turns to the latter.
        if !self.answered
            && let Some(answer) = self.transmit_answer(buf)
        {
            return Some(answer);
        }
        self.answered = false;
        self.transmit_session(now, buf, max_segments).or_else(|| self.transmit_answer(buf))
    }

    fn transmit_answer(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (remote, packet) = self.answers.pop_front()?;
        self.answered = true;
        buf.extend_from_slice(&packet);
        Some(Transmit { session: None, remote, size: packet.len(), segment_size: None, ecn: None })
    }

    fn transmit_session(&mut self, now: Instant, buf: &mut Vec<u8>, max_segments: usize) -> Option<Transmit> {
        loop {
            let allowance = self.limit.as_mut().map(|p| p.allowance(now));
            let allow = allowance != Some(0);
            let Some(key) = self.turns.pop(allow) else { break };
            self.note_visits(1);
            let Some(e) = self.sessions.get_mut(&key) else { continue };
            // Short trains, so that turns are short and debts small.
            let room = allowance.map_or(usize::MAX, |a| (a / MIN_DATAGRAM_BYTES) as usize + 1);
            let Some(train) = e.session.poll_transmit(now, buf, max_segments.min(room), allow) else {
                e.ready = false;
                if !allow {
                    self.turns.hold(key);
                }
                // Sending may have ended the session or freed what others wait for.
                self.mark(key);
                self.arm(now, key, allow);
                continue;
            };
            e.ready = true;
            self.budgets.note_datagram(now, &mut e.account, train.size);
            let remote = train.remote.unwrap_or(e.session.remote());
            let datagrams = train.size.div_ceil(train.segment_size.max(1));
            if let Some(p) = &mut self.limit {
                let ip_bytes = train.size as u64 + datagrams as u64 * e.session.ip_overhead();
                p.on_sent(now, ip_bytes);
                self.turns.on_sent(key, ip_bytes);
            }
            self.turns.push(key);
            return Some(Transmit {
                session: Some(key),
                remote,
                size: train.size,
                segment_size: (datagrams > 1).then_some(train.segment_size),
                ecn: Some(Ecn::Ect0),
            });
        }
        if self.turns.any_held() {
            self.limit_release = self.limit.as_ref().map(|p| p.next_release(now));
        }
        None
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
                    // In turns: a tree of small files must not hold the disk for as long as it has more.
                    self.dirty_jobs.rotate_left(1);
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
            if let Some(mut e) = self.sessions.remove(&key) {
                self.by_cid.remove(&e.session.local_cid());
                self.budgets.note_used(&mut e.account, Used::default());
                let (records, left_out) = &mut self.last_records;
                if let Some(recorder) = e.session.recorder() {
                    *left_out += recorder.take(|record| records.push((key, record)));
                }
                self.refusals.merge(&e.session.refusals());
                if let Some(client_cid) = e.peer {
                    self.admission.ended(client_cid);
                }
            }
            self.turns.remove(key);
        }
    }

    /// Figures of a live session (or of one whose `Closed` event has only just been polled).
    pub fn stats(&self, session: SessionKey) -> Option<Stats> {
        self.sessions.get(&session).map(|e| e.session.stats())
    }

    /// See `CopiedKeys`.
    pub(crate) fn copied_keys(&self, session: SessionKey) -> Option<CopiedKeys> {
        self.sessions.get(&session).map(|e| e.session.copied_keys())
    }

    /// Shows every session that lives: its peer and its figures.
    pub fn for_each_session(&self, mut each: impl FnMut(SessionKey, SocketAddr, &Stats)) {
        self.sessions.iter().for_each(|(key, e)| each(*key, e.session.remote(), &e.session.stats()));
    }

    /// Takes what traced sessions have recorded, each session's in order; how many records were left out for want of
    /// room. With `SessionConfig::trace` it must be called every turn.
    pub fn take_traces(&mut self, out: &mut Vec<(SessionKey, Record)>) -> u64 {
        let (records, left_out) = &mut self.last_records;
        let mut left_out = std::mem::take(left_out);
        out.append(records);
        for (key, e) in &mut self.sessions {
            if let Some(recorder) = e.session.recorder() {
                left_out += recorder.take(|record| out.push((*key, record)));
            }
        }
        left_out
    }

    /// Ends every session politely: CLOSE goes out with the next `poll_transmit` calls.
    pub fn close_all(&mut self, now: Instant, reason: CloseReason) {
        let keys: Vec<_> = self.sessions.keys().copied().collect();
        for key in keys {
            self.close(now, key, reason.clone());
        }
    }

    /// Sessions alive, handshakes of clients included.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What was refused since the beginning, by reason, over all sessions and strangers. Looks at every session.
    pub fn refusals(&self) -> Refusals {
        let mut all = self.refusals.clone();
        all.merge(&self.admission.refusals);
        self.sessions.values().for_each(|e| all.merge(&e.session.refusals()));
        all
    }

    /// What admission has turned away, and half-open handshakes now.
    pub fn admission(&self) -> (AdmissionCounters, usize) {
        (self.admission.counters(), self.admission.half_open_count())
    }
}
