//! Role: a small HTTP/1.1 server on a thread of its own: metrics, dashboard, snapshots by server-sent events.
//! Owns: its poll, the listeners, the connections and what they have not read yet, the history of the last minutes.
//! Implements: docs/ARCHITECTURE.md, "Watching a server".

use super::super::client::NetError;
use super::WatchOptions;
use super::snapshot::Snapshot;
use answer::{Answer, Serves, State};
use connection::{Connection, Progress};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

mod answer;
mod connection;

const WAKER: Token = Token(0);
/// Tokens of listeners start here...
const FIRST_LISTENER: usize = 1;
/// ...and those of connections here.
const FIRST_CONNECTION: usize = 16;

/// Connections at once; one more is closed at once. A browser opens some six, a scraper one.
const MAX_CONNECTIONS: usize = 64;
/// Of these, those that are sent snapshots as they come.
const MAX_STREAMS: usize = 32;
/// The longest wait of the poll: how late a silent connection is noticed.
const TICK: Duration = Duration::from_secs(1);

/// One address and what it serves.
#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    serves: Serves,
}

/// The server.
#[derive(Debug)]
pub(super) struct Http {
    poll: Poll,
    waker: Arc<Waker>,
    listeners: Vec<Listener>,
    hosts: Vec<String>,
}

impl Http {
    pub(super) fn bind(options: &WatchOptions) -> Result<Self, NetError> {
        let setup = |e: io::Error| NetError {
            exit_code: 1,
            message: format!("cannot set up --metrics and --dashboard: {e}"),
        };
        let poll = Poll::new().map_err(setup)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(setup)?);
        let mut listeners = Vec::new();
        for (address, serves) in wanted(options) {
            let option = if serves.dashboard { "--dashboard" } else { "--metrics" };
            let failed = |e: io::Error| NetError {
                exit_code: 1,
                message: format!("{option}: cannot listen on {address} (TCP): {e}; choose another address"),
            };
            let mut socket = TcpListener::bind(address).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            let token = Token(FIRST_LISTENER + listeners.len());
            poll.registry().register(&mut socket, token, Interest::READABLE).map_err(failed)?;
            listeners.push(Listener { socket, address, serves });
        }
        Ok(Self { poll, waker, listeners, hosts: options.hosts.clone() })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    pub(super) fn address(&self, which: impl Fn(&Serves) -> bool) -> Option<SocketAddr> {
        self.listeners.iter().find(|l| which(&l.serves)).map(|l| l.address)
    }

    /// Serves until the other end of `snapshots` is gone.
    pub(super) fn run(self, snapshots: &Receiver<Box<Snapshot>>) {
        let Self { poll, listeners, hosts, waker: _waker } = self;
        let mut server = Running {
            poll,
            listeners,
            state: State::new(hosts),
            connections: HashMap::new(),
            next_token: FIRST_CONNECTION,
        };
        let mut events = Events::with_capacity(64);
        loop {
            match server.poll.poll(&mut events, Some(TICK)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    log::warn!("--metrics and --dashboard have stopped: {e}");
                    return;
                }
                _ => {}
            }
            let now = now();
            for event in &events {
                server.on_event(now, event.token());
            }
            loop {
                match snapshots.try_recv() {
                    Ok(snapshot) => {
                        server.state.take(*snapshot);
                        server.push();
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            server.connections.retain(|_, c| !c.is_overdue(now));
        }
    }
}

/// The addresses to bind; one that both options name is bound once.
fn wanted(options: &WatchOptions) -> Vec<(SocketAddr, Serves)> {
    let (metrics, dashboard) = (options.metrics, options.dashboard);
    let shared = metrics.is_some() && metrics == dashboard && metrics.is_some_and(|a| a.port() != 0);
    let mut all = Vec::new();
    if let Some(address) = metrics {
        all.push((address, Serves { metrics: true, dashboard: shared }));
    }
    if let Some(address) = dashboard.filter(|_| !shared) {
        all.push((address, Serves { metrics: false, dashboard: true }));
    }
    all
}

/// The thread's state.
struct Running {
    poll: Poll,
    listeners: Vec<Listener>,
    state: State,
    connections: HashMap<Token, Connection>,
    next_token: usize,
}

impl Running {
    fn on_event(&mut self, now: Instant, token: Token) {
        match token.0 {
            0 => {}
            n if n < FIRST_CONNECTION => self.accept(now, n - FIRST_LISTENER),
            _ => self.serve(now, token),
        }
    }

    fn accept(&mut self, now: Instant, which: usize) {
        // Until nobody waits: the poll tells of news only. Whatever error it is, the next one tells again.
        while let Some(Ok((mut stream, _))) = self.listeners.get(which).map(|l| l.socket.accept()) {
            if self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            let token = Token(self.next_token);
            self.next_token += 1;
            let both = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut stream, token, both).is_ok() {
                self.connections.insert(token, Connection::new(stream, which, now));
            }
        }
    }

    fn serve(&mut self, now: Instant, token: Token) {
        let streams = self.connections.values().filter(|c| c.is_stream()).count();
        let Some(c) = self.connections.get_mut(&token) else { return };
        let Some(listener) = self.listeners.get(c.listener()) else { return };
        let state = &mut self.state;
        let progress = c.advance(now, |request| {
            let answer = state.answer(request, listener.serves);
            if answer.is_stream && streams >= MAX_STREAMS {
                return Answer::short(503, "too many viewers; close one and load the page again");
            }
            answer
        });
        if progress == Progress::Over {
            self.connections.remove(&token);
        }
    }

    /// Gives the newest snapshot to those who watch and have read the one before.
    fn push(&mut self) {
        let now = now();
        let Self { state, connections, .. } = self;
        if !connections.values().any(Connection::is_stream) {
            return;
        }
        let event = state.event();
        connections.retain(|_, c| !c.is_stream() || c.push(now, event) != Progress::Over);
    }
}

#[allow(clippy::disallowed_methods, reason = "this thread has its own clock for time-outs")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
pub(super) mod tests;
