//! Role: runs a server until it is told to stop.
//! Owns: the server's event loop instance.
//! Implements: docs/ARCHITECTURE.md, "The server".

use super::client::NetError;
use super::driver::{Clock, Driver, Parts, random_bytes};
use super::limit::{Follow, LiveLimit};
use super::server_log::ServerLog;
use super::steer;
use super::stream::{Link, STREAM_DATAGRAM_BYTES, STREAM_PEER, StreamPipe};
use super::trace::TraceFile;
use super::udp::{UdpPipe, local_payload, path_payload};
use super::watch::{About, Bound, Watch, WatchOptions};
use crate::endpoint::Endpoint;
use crate::endpoint::config::EndpointConfig;
use crate::impair::Spec;
use crate::session::event::{CloseReason, Event};
use crate::store::{Neighbours, Store};
use socket2::Socket;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

/// The longest time in which a stop asked for by another thread (not by a signal) goes unseen.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Niceness of a server that may choose it: below that of ordinary programs (0), above that of the kernel's own threads (-20).
const NICENESS: i32 = -10;
/// How long the last words to the peers may take to leave.
const FLUSH: Duration = Duration::from_millis(500);

/// Everything `run` needs.
#[derive(Debug)]
pub struct ServerOptions {
    /// Address to bind; `[::]` is dual-stack.
    pub listen: SocketAddr,
    /// The served directory.
    pub dir: PathBuf,
    /// Secret, limits, time-outs; `endpoint.server` is `Some`. `session.max_datagram_bytes` is set by `bind`, from
    /// the interfaces' MTU.
    pub endpoint: EndpointConfig,
    /// `--sim`, both directions.
    pub sim: Option<Spec>,
    /// See `FileOptions::partial_ttl`.
    pub partial_ttl: Option<Duration>,
    /// See `FileOptions::quota_bytes`.
    pub quota_bytes: Option<u64>,
    /// `--trace`.
    pub trace: Option<TraceFile>,
    /// Takes the place of `total_limit_bytes_per_sec`, and may change.
    pub limit: Option<LiveLimit>,
    /// `--metrics` and `--dashboard`.
    pub watch: WatchOptions,
}

/// A bound server.
pub struct Server {
    options: ServerOptions,
    pipe: Link,
    local: SocketAddr,
    store: Box<dyn Store>,
    watch: Option<Bound>,
    /// See `once`.
    once: Option<Duration>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("options", &self.options)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the socket and opens the directory. `[::]` falls back to `0.0.0.0` on a machine without IPv6.
    ///
    /// # Errors
    /// Exit code 1: the address cannot be bound (the sentence names the port and the way out). A directory that
    /// cannot be served has the store's code: 5 when it is missing or forbidden.
    pub fn bind(options: ServerOptions) -> Result<Self, NetError> {
        let store = super::open_store(Some(&options.dir), options.partial_ttl, options.quota_bytes)?;
        let listen = options.listen;
        let pipe = bind_or_v4(listen, UdpPipe::bind);
        let pipe = pipe.map_err(|e| bind_error(listen, &e))?;
        Self::with(options, pipe, store)
    }

    /// A worker: its socket is bound already, and `neighbours` serve the same directory.
    ///
    /// # Errors
    /// As `bind`; exit code 1 if the socket cannot be used.
    pub fn adopt(
        options: ServerOptions,
        socket: OwnedFd,
        neighbours: Arc<Neighbours>,
    ) -> Result<Self, NetError> {
        let store = super::open_file_store(Some(&options.dir), options.partial_ttl, options.quota_bytes)?;
        let listen = options.listen;
        let pipe = UdpPipe::from_socket(socket.into()).map_err(|e| bind_error(listen, &e))?;
        Self::with(options, pipe, Box::new(store.with_neighbours(neighbours)))
    }

    /// Binds one socket for each of so many workers, as `bind` would bind one; the address, with its real port.
    ///
    /// # Errors
    /// As `bind`; the system cannot steer packets to workers.
    pub fn bind_group(listen: SocketAddr, count: u8) -> Result<(Vec<Socket>, SocketAddr), NetError> {
        let group = bind_or_v4(listen, |address| steer::bind_group(address, count));
        let group = group.map_err(|e| match e.kind() {
            io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => NetError {
                exit_code: 1,
                message: "this system cannot share a UDP port among workers (Linux 4.5 or newer can): serve without \
                          --workers"
                    .into(),
            },
            _ => bind_error(listen, &e),
        })?;
        let local = group[0].local_addr().map(|a| a.as_socket()).ok().flatten().unwrap_or(listen);
        Ok((group, local))
    }

    fn with(mut options: ServerOptions, pipe: UdpPipe, store: Box<dyn Store>) -> Result<Self, NetError> {
        let listen = options.listen;
        let local = super::pipe::DatagramPipe::local_addr(&pipe).map_err(|e| bind_error(listen, &e))?;
        options.endpoint.session.max_datagram_bytes = local_payload(local);
        let watch = options.watch.is_wanted().then(|| Bound::bind(&options.watch)).transpose()?;
        Ok(Self { options, pipe: pipe.into(), local, store, watch, once: None })
    }

    /// Takes sessions over a byte stream as well.
    #[must_use]
    pub fn with_stream(mut self, stream: StreamPipe) -> Self {
        self.pipe = self.pipe.with_stream(stream);
        self
    }

    /// Serves one request: `run` returns when the session that made it is over, or when nobody has made one within
    /// `wait`.
    #[must_use]
    pub fn once(mut self, wait: Duration) -> Self {
        self.once = Some(wait);
        self
    }

    /// The address bound (the real port when 0 was asked for).
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The TCP addresses of `--metrics` and `--dashboard`, with their real ports.
    pub fn watch_addrs(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        self.watch.as_ref().map_or((None, None), |w| (w.metrics_addr(), w.dashboard_addr()))
    }

    /// Serves until `signal` is set, then tells the peers and returns. SIGINT and SIGTERM wake the loop and are
    /// stored there if nobody has done so; without a signal, a change is seen within 100 ms.
    ///
    /// # Errors
    /// The disk thread or the poll failed. No peer and no network trouble ends the loop.
    pub fn run(self, signal: Arc<AtomicI32>) -> Result<(), NetError> {
        raise_priority();
        let Self { options, pipe, local, store, watch, once } = self;
        let ServerOptions { dir, mut endpoint, sim, trace, limit, .. } = options;
        endpoint.session.trace = trace.is_some();
        let mut follow = limit.map(|limit| {
            let first = limit.get();
            if let Some(server) = &mut endpoint.server {
                server.total_limit_bytes_per_sec = first;
            }
            Follow::new(limit, first)
        });
        let max_payload = endpoint.session.max_datagram_bytes;
        let clock = Clock::start();
        let mut server_log = ServerLog::new(clock.started());
        let max_sessions = endpoint.server.as_ref().map_or(0, |s| s.max_sessions);
        let about = About { listen: local, max_sessions };
        let mut watch = watch.map(|bound| Watch::start(clock.started(), bound, about)).transpose()?;
        let core = Endpoint::new(endpoint, random_bytes()?, clock.started());
        let mut once = once.map(|wait| Once { until: clock.started() + wait, asked: false });
        let mut driver = Driver::new(Parts { core, pipe, store, sim, signal, clock })?;
        driver.set_trace(trace);
        log::info!("listening on {local} (UDP), serving {}", dir.display());
        while !driver.signalled() {
            let wake_by = driver.now() + HEARTBEAT;
            driver.turn(wake_by)?;
            let asked = handle_events(&mut driver, (&mut server_log, watch.as_mut()), max_payload);
            let now = driver.now();
            if let Some(limit) = follow.as_mut().and_then(Follow::change) {
                driver.core_mut().set_limit(now, limit);
            }
            if let Some(watch) = &mut watch {
                watch.publish(now, driver.core());
            }
            if once.as_mut().is_some_and(|once| once.is_over(now, asked, driver.core().session_count())) {
                break;
            }
            let core = driver.core();
            server_log.progress(now, |session| core.stats(session), || core.refusals());
        }
        log::info!("stopping: {} sessions are told", driver.core().session_count());
        let now = driver.now();
        driver.core_mut().close_all(now, CloseReason::Interrupted);
        driver.flush(FLUSH)?;
        handle_events(&mut driver, (&mut server_log, watch.as_mut()), max_payload);
        server_log.refused(driver.core().refusals());
        driver.finish()
    }
}

/// What the loop does not read in time, the socket drops, and a thousand programs beside it can keep it from reading for a second.
/// It is seldom busy for long, so it asks to go first when it is, if it may (root and CAP_SYS_NICE may).
fn raise_priority() {
    if let Err(e) = rustix::process::setpriority_process(None, NICENESS) {
        log::debug!("no priority over other processes: {e}");
    }
}

/// How far a server is that serves one request.
struct Once {
    /// Somebody must have asked for something by then.
    until: Instant,
    asked: bool,
}

impl Once {
    /// `asked`: a request has come since the last call. A client that tries two addresses may have two sessions, so
    /// the end is when none is left.
    fn is_over(&mut self, now: Instant, asked: bool, sessions: usize) -> bool {
        self.asked |= asked;
        if self.asked { sessions == 0 } else { now >= self.until }
    }
}

/// Largest datagram that gets to this peer, as far as this machine knows.
fn payload_towards(remote: SocketAddr) -> u32 {
    if remote == STREAM_PEER { STREAM_DATAGRAM_BYTES } else { path_payload(remote) }
}

/// Logs what happened; true if there was a request among it.
fn handle_events(
    driver: &mut Driver<Endpoint, Link>,
    (server_log, mut watch): (&mut ServerLog, Option<&mut Watch>),
    max_payload: u32,
) -> bool {
    let mut asked = false;
    while let Some((session, event)) = driver.poll_event() {
        if let Event::Connected { remote, .. } = event {
            // A wildcard socket talks through several interfaces. What the one towards this peer does not take
            // need not be found out by trying.
            asked = true;
            let payload = payload_towards(remote);
            if payload < max_payload {
                let now = driver.now();
                driver.core_mut().handle_too_large(now, Some(session), payload as usize + 1);
            }
        }
        let now = driver.now();
        let stats = driver.core().stats(session);
        if let Some(watch) = &mut watch {
            watch.event(now, session, &event, stats.as_ref());
        }
        server_log.event(now, session, &event, stats);
    }
    asked
}

/// `[::]` falls back to `0.0.0.0` on a machine without IPv6.
fn bind_or_v4<T>(listen: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    bind(listen).or_else(|e| {
        let no_ipv6 = e.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        if no_ipv6 && listen.ip().is_unspecified() {
            return bind((Ipv4Addr::UNSPECIFIED, listen.port()).into());
        }
        Err(e)
    })
}

/// One sentence: which port, what is wrong, what to do.
fn bind_error(listen: SocketAddr, error: &io::Error) -> NetError {
    let port = listen.port();
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "UDP port {port} is in use on {}: stop the program that has it, or choose another port with --listen",
            listen.ip()
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{} is no address of this machine: choose one that is, or [::] for all, with --listen",
            listen.ip()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("no permission to bind UDP port {port}: choose one above 1023 with --listen")
        }
        _ => format!("cannot bind {listen} (UDP): {error}; choose another address with --listen"),
    };
    NetError { exit_code: 1, message }
}

#[cfg(test)]
mod tests;
