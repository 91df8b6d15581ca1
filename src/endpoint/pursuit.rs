//! Role: one request of a client, carried through over as many sessions as it takes.
//! Owns: which session speaks for the request, those that race to be it, and what needs no further word.
//! Implements: docs/PROTOCOL.md, "A server that restarts".
//!
//! A host may have several addresses: they are tried in order, all attempts stay in the race, and the first session that connects
//! wins. When the server then falls silent, a second session says Hello beside the first. If the server answers it and
//! still says nothing to the first, it has lost that one (it was restarted), and the second goes on where the first was.

use super::Endpoint;
use crate::session::event::{CloseReason, Direction, Event, Stats};
use crate::session::rival::Handover;
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::confirmed::Confirmed;
use crate::transfer::job::{Dest, EntryKind, FileId, Location, SourceRoot};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two addresses of a host. RFC 8305 section 8 says 250 ms for TCP on the open network; a hello that
/// is lost is repeated within half a second here, so a whole second lets a lossy link answer.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(1);
/// Probe time-outs in a row after which a server may be gone: at 30 % loss each way an answer is missing for that long
/// once in 15 times, and then a Hello in vain is all it costs.
const SUSPECT_PTOS: u32 = 4;
/// The least silence after which a server may be gone: machines pause, and probes of a short path come fast.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);
/// A server that has answered a Hello gets so many round trips, and so much time at least, to answer the old session too.
const GRACE_RTTS: u32 = 3;
const MIN_GRACE: Duration = Duration::from_millis(150);
/// Probes of the old session within that time.
const GRACE_PROBES: u32 = 3;
/// Pause before the next attempt after a lost session; doubles with each in a row...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ...up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// File numbers of the n-th session are told with n in the bits above those of the wire (2^48).
const EPOCH_SHIFT: u32 = 48;

/// What the application may want to tell its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The server has fallen silent; it is asked whether it still knows this session.
    Silent,
    /// It was heard again in the same session.
    Heard,
    /// The session is lost; after a pause, another one is tried.
    Lost,
    /// Another session goes on where the first was.
    Resumed,
}

/// A second session beside a silent one.
#[derive(Clone, Copy, Debug)]
struct Rival {
    session: SessionKey,
    /// The last word from the server when it began.
    silent_since: Instant,
    /// When the next probe of the silent session is due, and how many were made, since the server has answered.
    probes: Option<(Instant, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has connected (again) yet; when the next address has its turn.
    Racing {
        next_at: Option<Instant>,
    },
    /// This session speaks for the request.
    Running(SessionKey),
    /// Between a lost session and the next attempt.
    Pausing {
        until: Instant,
    },
    Over,
}

/// One request.
#[derive(Debug)]
pub struct Pursuit {
    remotes: Vec<SocketAddr>,
    /// The address of `remotes` that has its turn next.
    next_remote: usize,
    plan: Handover,
    /// It can be asked for again when a part of it is done: not a listing, which is printed as it comes, nor a stream, which is
    /// gone, nor what removes (or tells what it would do), which is decided from the whole of what is sent.
    repeatable: bool,
    /// `--retry`: how often a lost session may be followed by another.
    retries_left: u32,
    stage: Stage,
    live: Vec<SessionKey>,
    rival: Option<Rival>,
    /// No rival before this time.
    rival_after: Option<Instant>,
    /// The silence that the user was told of began then.
    told_silent: Option<Instant>,
    /// What a server that refuses a rival has said; it is no use to ask again.
    verdict: Option<CloseReason>,
    /// Attempts in vain in a row.
    failures: u32,
    /// Sessions that have spoken for the request before this one.
    epoch: u64,
    /// The last authentic word from the server.
    heard_at: Option<Instant>,
    /// Entries of which the application was told the end, sent and received.
    settled: [Confirmed; 2],
    /// Files that an earlier run has begun: bytes, by path, until they are finished.
    resumed: HashMap<(Direction, Vec<u8>), u64>,
    names: HashMap<(Direction, FileId), Vec<u8>>,
    /// Figures of sessions that are over.
    past: Stats,
    /// File bytes confirmed in the present session.
    confirmed_bytes: u64,
    /// What sessions that have not connected yet have said, in order: data leaves before the first answer, so a
    /// source can fail before it too. The window of the manifest bounds their number.
    early: Vec<(SessionKey, Event)>,
    events: VecDeque<Event>,
    notices: VecDeque<Notice>,
}

impl Pursuit {
    /// A request to a host with these addresses. `retries`: sessions that may be lost before the request is.
    pub fn new(
        remotes: Vec<SocketAddr>,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<Dest>,
        retries: u32,
    ) -> Self {
        let settled = Arc::default();
        let streams = roots.iter().any(|root| root.location == Location::Stream)
            || dest.as_ref().is_some_and(|dest| dest.location == Location::Stream);
        let repeatable = !streams && !matches!(request, Request::List { .. });
        Self {
            remotes,
            next_remote: 0,
            plan: Handover { request, roots, dest, settled },
            repeatable,
            retries_left: retries,
            stage: Stage::Racing { next_at: None },
            live: Vec::new(),
            rival: None,
            rival_after: None,
            told_silent: None,
            verdict: None,
            failures: 0,
            epoch: 0,
            heard_at: None,
            settled: Default::default(),
            resumed: HashMap::new(),
            names: HashMap::new(),
            past: Stats::default(),
            confirmed_bytes: 0,
            early: Vec::new(),
            events: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// Does what is due; call it after everything that may have changed a session, and when `poll_timeout` has come.
    pub fn poll(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.repeatable &= endpoint.requests_are_repeatable();
        match self.stage {
            Stage::Racing { next_at } => {
                if next_at.is_none_or(|at| now >= at) {
                    self.try_next(now, endpoint);
                }
            }
            Stage::Running(session) => self.watch(now, endpoint, session),
            Stage::Pausing { until } => {
                if now >= until {
                    (self.next_remote, self.stage) = (0, Stage::Racing { next_at: None });
                    self.try_next(now, endpoint);
                }
            }
            Stage::Over => {}
        }
    }

    /// When `poll` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Racing { next_at } => next_at.filter(|_| self.next_remote < self.remotes.len()),
            Stage::Running(_) => self.rival.and_then(|r| r.probes).map(|(at, _)| at).or(self.rival_after),
            Stage::Pausing { until } => Some(until),
            Stage::Over => None,
        }
    }

    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next notice for the user.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Whether the request is over, one way or the other.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Figures of the whole request.
    pub fn stats(&self, endpoint: &Endpoint) -> Stats {
        let shown = match self.stage {
            Stage::Running(session) => Some(session),
            _ => self.live.last().copied(),
        };
        let mut stats = shown.and_then(|session| endpoint.stats(session)).unwrap_or_default();
        stats.add_past(&self.past);
        stats
    }

    /// Ends the request: the server is told.
    pub fn close(&mut self, now: Instant, endpoint: &mut Endpoint, reason: CloseReason) {
        endpoint.close_all(now, reason);
    }

    /// Tries the next address of the host, if there is one.
    fn try_next(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.stage = Stage::Racing { next_at: Some(now + NEXT_ADDRESS_AFTER) };
        let Some(&remote) = self.remotes.get(self.next_remote) else { return };
        self.next_remote += 1;
        log::debug!("trying {remote}");
        let Handover { request, roots, dest, .. } = self.plan.clone();
        let session = if self.epoch == 0 {
            endpoint.connect(now, remote, request, roots, dest)
        } else {
            let session = endpoint.reach(now, remote, request);
            endpoint.release(now, session, self.plan.clone());
            session
        };
        self.live.push(session);
    }

    /// Looks after the session that runs.
    fn watch(&mut self, now: Instant, endpoint: &mut Endpoint, session: SessionKey) {
        let Some(health) = endpoint.health(session) else { return };
        if !health.is_answered {
            self.heard_at = Some(health.heard_at);
        }
        let Some(rival) = self.rival else {
            let silent = health.silent_ptos >= SUSPECT_PTOS && now >= health.heard_at + SUSPECT_AFTER;
            if self.rival_after.is_some_and(|at| now >= at) {
                self.rival_after = None;
            }
            if silent && self.rival_after.is_none() && self.verdict.is_none() && self.may_resume() {
                log::debug!(
                    "no word from {} for {:?}: saying Hello anew",
                    health.remote,
                    now - health.heard_at
                );
                let request = self.plan.request.clone();
                let session = endpoint.reach(now, health.remote, request);
                self.rival = Some(Rival { session, silent_since: health.heard_at, probes: None });
                if self.told_silent.replace(health.heard_at) != Some(health.heard_at) {
                    self.notices.push_back(Notice::Silent);
                }
            }
            return;
        };
        if health.heard_at > rival.silent_since {
            self.dismiss(now, endpoint, rival.session);
            self.rival = None;
            self.notices.push_back(Notice::Heard);
            return;
        }
        let Some(other) = endpoint.health(rival.session).filter(|h| h.is_answered) else { return };
        let pause = (other.smoothed_rtt * GRACE_RTTS).max(MIN_GRACE) / GRACE_PROBES;
        let probes = match rival.probes {
            Some((at, _)) if now < at => return,
            Some((_, GRACE_PROBES)) => return self.take_over(now, endpoint, session, rival.session),
            Some((_, made)) => (now + pause, made + 1),
            None => (now + pause, 1),
        };
        log::trace!("it answered the Hello: probe {} of the old session", probes.1);
        endpoint.probe(now, session);
        self.rival = Some(Rival { probes: Some(probes), ..rival });
    }

    /// The rival goes on where the session was.
    fn take_over(&mut self, now: Instant, endpoint: &mut Endpoint, old: SessionKey, rival: SessionKey) {
        log::debug!("the server does not know the session any more: another one goes on");
        self.rival = None;
        self.begin_epoch(endpoint.stats(old));
        endpoint.close(now, old, CloseReason::Interrupted);
        endpoint.release(now, rival, self.plan.clone());
        self.stage = Stage::Running(rival);
    }

    /// What was settled so far needs no further word; what the next session says is told as its own.
    fn begin_epoch(&mut self, stats: Option<Stats>) {
        self.epoch += 1;
        self.names.clear();
        self.plan.settled = Arc::new(self.settled_for_sending());
        let mut stats = stats.unwrap_or_default();
        // The next session counts what it finds in place as done, but not what it does not even announce.
        (stats.file_bytes_done, stats.file_bytes_total) = (0, 0);
        if matches!(self.plan.request, Request::Put { .. }) {
            (stats.file_bytes_done, stats.file_bytes_total) = (self.confirmed_bytes, self.confirmed_bytes);
        }
        self.confirmed_bytes = 0;
        self.past.add_past(&stats);
    }

    /// What the next session need not send.
    fn settled_for_sending(&self) -> Confirmed {
        let [sent, received] = &self.settled;
        match self.plan.request {
            Request::Put { .. } => sent.clone(),
            // What is to come back has to be there again, unless it has come back.
            Request::Echo { .. } => received.clone(),
            Request::Get { .. } | Request::List { .. } => Confirmed::default(),
        }
    }

    /// Ends a session that does not speak for the request any more, without a word.
    fn dismiss(&mut self, now: Instant, endpoint: &mut Endpoint, session: SessionKey) {
        if let Some(stats) = endpoint.stats(session) {
            self.past.add_past(&Stats { file_bytes_done: 0, file_bytes_total: 0, ..stats });
        }
        endpoint.abandon(now, session);
    }

    /// An event of one of the sessions. `stats`: its figures, read before the event was polled.
    pub fn handle_event(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        session: SessionKey,
        event: Event,
        stats: Option<Stats>,
    ) {
        if let Event::Connected { .. } = event
            && self.live.contains(&session)
            && matches!(self.stage, Stage::Racing { .. })
        {
            self.stage = Stage::Running(session);
            for other in std::mem::take(&mut self.live).into_iter().filter(|other| *other != session) {
                self.dismiss(now, endpoint, other);
            }
            self.on_connected(event);
            for (speaker, event) in std::mem::take(&mut self.early) {
                if speaker == session {
                    self.tell(event);
                }
            }
            return;
        }
        match (self.stage, event) {
            (Stage::Running(active), event @ Event::Connected { .. }) if active == session => {
                self.on_connected(event);
            }
            (Stage::Running(active), Event::Closed(reason)) if active == session => {
                if let Some(rival) = self.rival.take() {
                    self.dismiss(now, endpoint, rival.session);
                }
                self.on_end(now, endpoint.idle_timeout(), reason, stats);
            }
            (Stage::Running(_), Event::Closed(reason))
                if self.rival.is_some_and(|r| r.session == session) =>
            {
                self.on_rival_end(now, reason, stats);
            }
            (Stage::Running(active), event) if active == session => self.tell(event),
            (Stage::Racing { .. }, Event::Closed(reason)) if self.live.contains(&session) => {
                self.live.retain(|live| *live != session);
                // An answer of whatever kind is the host's; only silence leaves the other addresses a chance.
                if !matches!(reason, CloseReason::Unreachable { .. }) {
                    for other in std::mem::take(&mut self.live) {
                        self.dismiss(now, endpoint, other);
                    }
                } else if !self.live.is_empty() || self.next_remote < self.remotes.len() {
                    self.stage = Stage::Racing { next_at: None };
                    return;
                }
                self.tell_early(session);
                self.on_end(now, endpoint.idle_timeout(), reason, stats);
            }
            (Stage::Racing { .. }, event) if self.live.contains(&session) => {
                self.early.push((session, event));
            }
            _ => {}
        }
    }

    fn tell_early(&mut self, session: SessionKey) {
        for (speaker, event) in std::mem::take(&mut self.early) {
            if speaker == session {
                self.tell(event);
            }
        }
    }

    fn on_connected(&mut self, event: Event) {
        self.failures = 0;
        if self.epoch == 0 {
            self.events.push_back(event);
        } else {
            self.notices.push_back(Notice::Resumed);
        }
    }

    /// The session that spoke for the request is over, or nobody could be reached.
    fn on_end(&mut self, now: Instant, idle_timeout: Duration, reason: CloseReason, stats: Option<Stats>) {
        self.begin_epoch(stats);
        let unreachable = matches!(reason, CloseReason::Unreachable { .. });
        let lost = unreachable
            || matches!(
                reason,
                CloseReason::TimedOut { .. }
                    | CloseReason::RetriesExhausted { .. }
                    | CloseReason::PeerClosed(_)
            );
        // A successor that got no further than the Hello is no second loss as long as the first may still be mended.
        let mending = unreachable && self.heard_at.is_some_and(|at| now < at + idle_timeout);
        let again = lost && self.verdict.is_none() && self.may_resume();
        if again && (mending || self.retries_left > 0) {
            self.retries_left -= u32::from(!mending);
            let pause = (FIRST_PAUSE * (1 << self.failures.min(5))).min(LONGEST_PAUSE);
            self.failures += 1;
            self.stage = Stage::Pausing { until: now + pause };
            self.notices.push_back(Notice::Lost);
            return;
        }
        self.stage = Stage::Over;
        let reason = match (lost, self.verdict.take()) {
            (true, Some(verdict)) => verdict,
            _ if unreachable && self.heard_at.is_some() => CloseReason::TimedOut { after: idle_timeout },
            _ => reason,
        };
        self.events.push_back(Event::Closed(reason));
    }

    /// Some requests cannot begin again once they have begun.
    fn may_resume(&self) -> bool {
        self.heard_at.is_none() || self.repeatable
    }

    fn on_rival_end(&mut self, now: Instant, reason: CloseReason, stats: Option<Stats>) {
        self.rival = None;
        if let Some(stats) = stats {
            self.past.add_past(&Stats { file_bytes_done: 0, file_bytes_total: 0, ..stats });
        }
        match reason {
            // Nothing but silence: the next one at once. A server with no room may have it later.
            CloseReason::Unreachable { .. } => {}
            CloseReason::WrongKey | CloseReason::SecurityMismatch(_) => self.verdict = Some(reason),
            _ => self.rival_after = Some(now + FIRST_PAUSE),
        }
    }

    /// Passes an event on, if the application has not heard it from an earlier session.
    fn tell(&mut self, event: Event) {
        match event {
            Event::FileStarted { direction, file, path, bytes } => {
                if self.epoch > 0 && self.settled[direction as usize].contains(EntryKind::File, &path) {
                    return;
                }
                self.names.insert((direction, file), path.clone());
                let file = self.numbered(file);
                let before = self.resumed.get(&(direction, path.clone())).copied();
                self.events.push_back(Event::FileStarted { direction, file, path, bytes });
                if let Some(bytes) = before.filter(|_| self.epoch > 0) {
                    self.events.push_back(Event::FileResumed { direction, file, bytes });
                }
            }
            Event::FileResumed { direction, file, bytes } => {
                // What an earlier session of this run has brought is not told as that of an earlier run.
                if self.epoch == 0 {
                    if let Some(path) = self.names.get(&(direction, file)) {
                        *self.resumed.entry((direction, path.clone())).or_default() += bytes;
                    }
                    let file = self.numbered(file);
                    self.events.push_back(Event::FileResumed { direction, file, bytes });
                }
            }
            Event::EntryFinished { direction, file, path, kind, bytes, sha256, error } => {
                self.names.remove(&(direction, file));
                self.resumed.remove(&(direction, path.clone()));
                let fresh = self.settled[direction as usize].insert(kind, &path);
                if fresh || self.epoch == 0 {
                    if direction == Direction::Sending && error.is_none() {
                        self.confirmed_bytes += bytes;
                    }
                    let file = self.numbered(file);
                    self.events.push_back(Event::EntryFinished {
                        direction,
                        file,
                        path,
                        kind,
                        bytes,
                        sha256,
                        error,
                    });
                }
            }
            Event::EntryUnchanged { direction, path, kind, bytes } => {
                if self.settled[direction as usize].insert(kind, &path) || self.epoch == 0 {
                    self.events.push_back(Event::EntryUnchanged { direction, path, kind, bytes });
                }
            }
            other => self.events.push_back(other),
        }
    }

    fn numbered(&self, file: FileId) -> FileId {
        if file.0 == u64::MAX { file } else { FileId(file.0 + (self.epoch << EPOCH_SHIFT)) }
    }
}

#[cfg(test)]
mod tests;
