//! Role: runs one client request from connect to close.
//! Owns: the client's event loop instance, the attempts to reach the host's addresses.
//! Implements: docs/ARCHITECTURE.md, "The client".

use super::driver::{Clock, Driver, Parts, random_bytes};
use super::limit::{Follow, LiveLimit};
use super::stream::{Link, STREAM_DATAGRAM_BYTES, STREAM_PEER, StreamPipe};
use super::trace::TraceFile;
use super::udp::{UdpPipe, path_payload};
use crate::endpoint::Endpoint;
use crate::endpoint::config::EndpointConfig;
use crate::endpoint::pursuit::{Notice, Pursuit};
use crate::impair::Spec;
use crate::session::event::{CloseReason, Event, Stats};
use crate::store::Store;
use crate::store::stdout::StdoutStore;
use crate::transfer::Request;
use crate::transfer::job::{Dest, Location, SourceRoot};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

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
    /// `--retry`: sessions that may be lost before the request is. A server that restarts within the idle time-out is
    /// found without.
    pub retries: u32,
    /// `--trace`.
    pub trace: Option<TraceFile>,
    /// Takes the place of `endpoint.session.limit_bytes_per_sec`, and may change.
    pub limit: Option<LiveLimit>,
}

/// Called by the loop; must not block.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: &Event, stats: &Stats);
    /// About ten times a second.
    fn tick(&mut self, stats: &Stats);
    /// The request goes on, but not without trouble.
    fn notice(&mut self, notice: Notice) {
        let _ = notice;
    }
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
    let ClientOptions { remotes, mut endpoint, request, roots, dest, sim, retries, trace, limit } = options;
    endpoint.session.trace = trace.is_some();
    if let Some(limit) = &limit {
        endpoint.session.limit_bytes_per_sec = limit.get();
    }
    let follow = limit.map(|limit| Follow::new(limit, endpoint.session.limit_bytes_per_sec));
    let (jail, dest) = dest.unzip();
    let store: Box<dyn Store> = match &dest {
        Some(Dest { location: Location::Stream, .. }) => Box::new(stdout_store(&signal)?),
        _ => super::open_store(jail.as_deref(), None, None)?,
    };
    let clock = Clock::start();
    let core = Endpoint::new(endpoint, random_bytes()?, clock.started());
    let mut driver = Driver::new(Parts { core, pipe, store, sim, signal, clock })?;
    driver.set_trace(trace);
    let pursuit = Pursuit::new(remotes, request, roots, dest, retries);
    Client { driver, pursuit, stats: Stats::default(), observer, follow }.run()
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

struct Client<'a> {
    driver: Driver<Endpoint, Link>,
    pursuit: Pursuit,
    stats: Stats,
    observer: &'a mut dyn Observer,
    follow: Option<Follow>,
}

impl Client<'_> {
    fn run(mut self) -> Result<Outcome, NetError> {
        let mut next_tick = self.driver.now() + TICK;
        self.pursue();
        let reason = loop {
            let wake_by = self.pursuit.poll_timeout().map_or(next_tick, |at| at.min(next_tick));
            self.driver.turn(wake_by)?;
            if let Some(reason) = self.handle_events() {
                break reason;
            }
            self.pursue();
            if self.driver.signalled() {
                let now = self.driver.now();
                self.pursuit.close(now, self.driver.core_mut(), CloseReason::Interrupted);
                self.driver.flush(FLUSH)?;
                self.handle_events();
                break CloseReason::Interrupted;
            }
            let now = self.driver.now();
            if now >= next_tick {
                self.observer.tick(&self.stats);
                if let Some(limit) = self.follow.as_mut().and_then(Follow::change) {
                    self.driver.core_mut().set_limit(now, limit);
                }
                next_tick = now + TICK;
            }
        };
        self.driver.flush(FLUSH)?;
        self.driver.finish()?;
        Ok(Outcome { reason, stats: self.stats })
    }

    /// Lets the pursuit do what is due.
    fn pursue(&mut self) {
        let now = self.driver.now();
        self.pursuit.poll(now, self.driver.core_quietly());
        while let Some(notice) = self.pursuit.poll_notice() {
            self.observer.notice(notice);
        }
    }

    /// Passes events on; the reason when the request is over.
    fn handle_events(&mut self) -> Option<CloseReason> {
        self.stats = self.pursuit.stats(self.driver.core());
        while let Some((session, event)) = self.driver.poll_event() {
            // The figures of a session are gone with its last event.
            let (now, core) = (self.driver.now(), self.driver.core_quietly());
            let stats = core.stats(session);
            self.pursuit.handle_event(now, core, session, event, stats);
            self.stats = self.pursuit.stats(core);
            while let Some(event) = self.pursuit.poll_event() {
                self.observer.event(&event, &self.stats);
                if let Event::Closed(reason) = event {
                    return Some(reason);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
