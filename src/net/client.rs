//! Role: runs one client request from connect to close.
//! Owns: the client's event loop instance, the attempts to reach the host's addresses.
//! Implements: docs/ARCHITECTURE.md, "The client".

use super::driver::{Clock, Driver, Parts, random_bytes};
use super::stream::{Link, STREAM_DATAGRAM_BYTES, STREAM_PEER, StreamPipe};
use super::trace::TraceFile;
use super::udp::{UdpPipe, path_payload};
use crate::endpoint::Endpoint;
use crate::endpoint::config::EndpointConfig;
use crate::impair::Spec;
use crate::session::event::{CloseReason, Event, Stats};
use crate::store::stdout::StdoutStore;
use crate::store::{SessionKey, Store};
use crate::transfer::Request;
use crate::transfer::job::{Dest, Location, SourceRoot};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

/// Pause between two addresses of a host. RFC 8305 section 8 says 250 ms for TCP on the open network; a hello that
/// is lost is repeated within half a second here, so a whole second lets a lossy link answer.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(1);
/// Between two calls of `Observer::tick`, and the longest time in which a signal set by another thread goes unseen.
const TICK: Duration = Duration::from_millis(100);
/// How long the last datagrams may take to leave.
const FLUSH: Duration = Duration::from_millis(500);

/// Everything `run` needs.
#[derive(Debug)]
pub struct ClientOptions {
    /// Addresses of the host, tried in order (the next one after a second without an answer).
    pub remotes: Vec<SocketAddr>,
    /// Secret, limits, time-outs. `session.max_datagram_bytes` is set by `run`, from the interface's MTU.
    pub endpoint: EndpointConfig,
    /// What to ask for.
    pub request: Request,
    /// What is sent (put, echo).
    pub roots: Vec<SourceRoot>,
    /// Where what comes back goes (get, echo): a directory, the jail, and the destination inside it; with
    /// `Location::Stream` it is standard output, and the directory means nothing.
    pub dest: Option<(PathBuf, Dest)>,
    /// `--sim`, both directions.
    pub sim: Option<Spec>,
    /// `--trace`.
    pub trace: Option<TraceFile>,
}

/// Called by the loop; must not block.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: &Event, stats: &Stats);
    /// About ten times a second.
    fn tick(&mut self, stats: &Stats);
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why the session ended; `CloseReason::Done` even if single files failed.
    pub reason: CloseReason,
    /// Final figures.
    pub stats: Stats,
}

/// Errors before or outside the session (socket, store). The text names what failed and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NetError {
    /// Suggested exit code: 1 for sockets and threads, 3 when no address can be tried, the store's own for a
    /// directory.
    pub exit_code: u8,
    /// One sentence.
    pub message: String,
}

/// Runs the request. `signal`: set to a signal number by the signal handler; the loop then tells the peer and ends
/// with `CloseReason::Interrupted`. SIGINT and SIGTERM wake the loop and are stored there if nobody has done so;
/// without a signal, a change is seen within 100 ms.
///
/// # Errors
/// The socket, the store or the disk thread failed. How the session ended, badly or well, is an [`Outcome`].
pub fn run(
    options: ClientOptions,
    signal: Arc<AtomicI32>,
    observer: &mut dyn Observer,
) -> Result<Outcome, NetError> {
    let mut options = options;
    let (pipe, remotes) = bind_for(std::mem::take(&mut options.remotes))?;
    let session = &mut options.endpoint.session;
    session.max_datagram_bytes =
        remotes.iter().copied().map(path_payload).max().unwrap_or(session.max_datagram_bytes);
    options.remotes = remotes;
    run_over(pipe.with_routed_source().into(), options, signal, observer)
}

/// The same over a byte stream instead of UDP; `options.remotes` does not count.
///
/// # Errors
/// As those of [`run`].
pub fn run_over_stream(
    stream: StreamPipe,
    mut options: ClientOptions,
    signal: Arc<AtomicI32>,
    observer: &mut dyn Observer,
) -> Result<Outcome, NetError> {
    options.remotes = vec![STREAM_PEER];
    options.endpoint.session.max_datagram_bytes = STREAM_DATAGRAM_BYTES;
    run_over(stream.into(), options, signal, observer)
}

fn run_over(
    pipe: Link,
    options: ClientOptions,
    signal: Arc<AtomicI32>,
    observer: &mut dyn Observer,
) -> Result<Outcome, NetError> {
    let ClientOptions { remotes, mut endpoint, request, roots, dest, sim, trace } = options;
    endpoint.session.trace = trace.is_some();
    let (jail, dest) = dest.unzip();
    let store: Box<dyn Store> = match &dest {
        Some(Dest { location: Location::Stream, .. }) => Box::new(stdout_store(&signal)?),
        _ => super::open_store(jail.as_deref(), None)?,
    };
    let clock = Clock::start();
    let core = Endpoint::new(endpoint, random_bytes()?, clock.started());
    let mut driver = Driver::new(Parts { core, pipe, store, sim, signal, clock })?;
    driver.set_trace(trace);
    let remotes = remotes.into_iter();
    let attempts = Attempts { remotes, live: Vec::new(), active: None, next_at: None, request, roots, dest };
    Client { driver, attempts, stats: Stats::default(), early: Vec::new(), observer }.run()
}

fn stdout_store(signal: &Arc<AtomicI32>) -> Result<StdoutStore, NetError> {
    StdoutStore::new(signal.clone()).map_err(|e| NetError {
        exit_code: 1,
        message: format!("standard output cannot be used as the destination: {e}"),
    })
}

/// A socket that reaches the addresses, and those that it reaches.
fn bind_for(remotes: Vec<SocketAddr>) -> Result<(UdpPipe, Vec<SocketAddr>), NetError> {
    let mut remotes: Vec<SocketAddr> = remotes;
    for remote in &mut remotes {
        remote.set_ip(remote.ip().to_canonical());
    }
    let Some(first) = remotes.first() else {
        return Err(NetError { exit_code: 3, message: "the host has no address".into() });
    };
    let failed = |e: std::io::Error| NetError {
        exit_code: 1,
        message: format!("cannot open a UDP socket to reach {first}: {e}"),
    };
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    if remotes.iter().all(SocketAddr::is_ipv4) {
        return Ok((UdpPipe::bind(v4).map_err(failed)?, remotes));
    }
    match UdpPipe::bind((Ipv6Addr::UNSPECIFIED, 0).into()) {
        Ok(pipe) => Ok((pipe, remotes)),
        // No IPv6 here: perhaps an IPv4 address is among them.
        Err(e) => {
            let error = failed(e);
            remotes.retain(SocketAddr::is_ipv4);
            match UdpPipe::bind(v4) {
                Ok(pipe) if !remotes.is_empty() => Ok((pipe, remotes)),
                _ => Err(error),
            }
        }
    }
}

/// The addresses of the host, and the sessions that try to reach them. All of them stay in the race; the first one
/// that connects wins, and the others fall silent, so that the request runs once.
struct Attempts {
    remotes: std::vec::IntoIter<SocketAddr>,
    live: Vec<(SessionKey, SocketAddr)>,
    active: Option<SessionKey>,
    /// When the next address has its turn; `None`: at once.
    next_at: Option<Instant>,
    request: Request,
    roots: Vec<SourceRoot>,
    dest: Option<Dest>,
}

impl Attempts {
    /// The session whose figures are shown.
    fn shown(&self) -> Option<SessionKey> {
        self.active.or_else(|| self.live.last().map(|(session, _)| *session))
    }

    /// Tries the next address if its turn has come.
    fn advance(&mut self, driver: &mut Driver<Endpoint, Link>) {
        let now = driver.now();
        if self.active.is_some() || self.next_at.is_some_and(|at| now < at) {
            return;
        }
        self.next_at = Some(now + NEXT_ADDRESS_AFTER);
        let Some(remote) = self.remotes.next() else { return };
        log::debug!("trying {remote}");
        let (request, roots, dest) = (self.request.clone(), self.roots.clone(), self.dest.clone());
        let session = driver.core_mut().connect(now, remote, request, roots, dest);
        self.live.push((session, remote));
    }

    /// `session` has connected: it is the one. The others fall silent.
    fn connected(&mut self, session: SessionKey, driver: &mut Driver<Endpoint, Link>) {
        if self.active.is_some() {
            return;
        }
        self.active = Some(session);
        for &(other, remote) in self.live.iter().filter(|(other, _)| *other != session) {
            driver.mute(other, remote);
        }
    }

    /// Whether the end of `session` is the end of the request.
    fn is_final(&mut self, session: SessionKey, reason: &CloseReason) -> bool {
        self.live.retain(|(live, _)| *live != session);
        match self.active {
            Some(active) => active == session,
            // An answer of whatever kind is the host's; only silence leaves the other addresses a chance.
            None if !matches!(reason, CloseReason::Unreachable { .. }) => true,
            None => {
                self.next_at = None;
                self.live.is_empty() && self.remotes.len() == 0
            }
        }
    }
}

struct Client<'a> {
    driver: Driver<Endpoint, Link>,
    attempts: Attempts,
    stats: Stats,
    /// What sessions that have not connected yet have said, in order: data leaves before the first answer, so a
    /// source can fail before it too. The window of the manifest bounds their number.
    early: Vec<(SessionKey, Event)>,
    observer: &'a mut dyn Observer,
}

impl Client<'_> {
    fn run(mut self) -> Result<Outcome, NetError> {
        let mut next_tick = self.driver.now() + TICK;
        let reason = loop {
            self.attempts.advance(&mut self.driver);
            self.driver.turn(next_tick)?;
            if let Some(reason) = self.handle_events() {
                break reason;
            }
            if self.driver.signalled() {
                let now = self.driver.now();
                self.driver.core_mut().close_all(now, CloseReason::Interrupted);
                self.driver.flush(FLUSH)?;
                self.handle_events();
                break CloseReason::Interrupted;
            }
            let now = self.driver.now();
            if now >= next_tick {
                self.observer.tick(&self.stats);
                next_tick = now + TICK;
            }
        };
        self.driver.flush(FLUSH)?;
        self.driver.finish()?;
        Ok(Outcome { reason, stats: self.stats })
    }

    /// Passes events on; the reason when the request is over.
    fn handle_events(&mut self) -> Option<CloseReason> {
        loop {
            // The figures of a session are gone with its last event, so they are read before.
            if let Some(stats) = self.attempts.shown().and_then(|s| self.driver.core().stats(s)) {
                self.stats = stats;
            }
            let (session, event) = self.driver.poll_event()?;
            if let Event::Connected { .. } = event {
                self.attempts.connected(session, &mut self.driver);
            }
            let over = match &event {
                Event::Closed(reason) => self.attempts.is_final(session, reason).then(|| reason.clone()),
                _ => None,
            };
            match event {
                event if over.is_some() => {
                    self.tell_early(session);
                    self.observer.event(&event, &self.stats);
                    return over;
                }
                event @ Event::Connected { .. } if self.attempts.active == Some(session) => {
                    self.observer.event(&event, &self.stats);
                    self.tell_early(session);
                }
                event if self.attempts.active == Some(session) => self.observer.event(&event, &self.stats),
                event if self.attempts.active.is_none() => self.early.push((session, event)),
                _ => {}
            }
        }
    }

    /// Passes on what this session said before it connected; what others said is void.
    fn tell_early(&mut self, session: SessionKey) {
        for (speaker, event) in std::mem::take(&mut self.early) {
            if speaker == session {
                self.observer.event(&event, &self.stats);
            }
        }
    }
}

#[cfg(test)]
mod tests;
