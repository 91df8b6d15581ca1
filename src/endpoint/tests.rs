//! Endpoints wired to each other datagram by datagram, so that tests can drop, change, repeat and forge them.

mod admission;
mod attacks;
mod cost;
mod endings;
mod limits;
mod session;

use super::config::{EndpointConfig, Secret, ServerConfig};
use super::*;
use crate::session::event::CloseReason;
use crate::store::Store;
use crate::store::memory::{Content, MemoryStore};
use crate::transfer::Request;
use crate::transfer::job::{Compression, Dest, Location, Overwrite, SourceRoot};
use crate::wire::handshake::Hello;
use crate::wire::packet::{TYPE_DATA, TYPE_REJECT, TYPE_REPLY, TYPE_RETRY};
use rand::RngExt;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// One datagram on its way.
#[derive(Clone, Debug)]
struct Packet {
    /// Since the beginning.
    sent: Duration,
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

struct Peer {
    addr: SocketAddr,
    endpoint: Endpoint,
    store: MemoryStore,
    events: Vec<(Duration, SessionKey, Event)>,
    /// Final figures, taken with the last event.
    last: Option<Stats>,
    /// Jobs are not run: the disk hangs.
    hung: bool,
}

type Tap = Box<dyn FnMut(&Packet) -> Vec<Packet>>;

/// Peer 0 is the server. What is sent goes through `tap`, which says what really travels, then takes `delay`.
struct Net {
    start: Instant,
    now: Instant,
    delay: Duration,
    peers: Vec<Peer>,
    wire: BTreeMap<(Instant, u64), Packet>,
    serial: u64,
    log: Vec<Packet>,
    tap: Tap,
    steps: u64,
}

/// Settings of all peers that make a transfer last.
fn limited(rate: u64) -> impl Fn(usize, &mut EndpointConfig) {
    move |_, c| c.session.limit_bytes_per_sec = Some(rate)
}

fn key() -> Secret {
    Secret::Key(b"a key for tests".to_vec().into())
}

#[allow(clippy::disallowed_methods)] // Only as an origin: the tests add to it.
fn origin() -> Instant {
    Instant::now()
}

/// Seeds of 64 kinds repeat: connection IDs of clients must not, as those of real ones do not.
fn seed_of(seed: u8, peer: usize) -> [u8; 32] {
    let mut bytes = [seed.wrapping_add((100 * peer) as u8); 32];
    bytes[31] ^= (peer / 64) as u8;
    bytes
}

impl Net {
    fn new(seed: u8, secret: Secret, clients: usize, change: impl Fn(usize, &mut EndpointConfig)) -> Self {
        let start = origin();
        let peers = (0..=clients)
            .map(|i| {
                let mut config = EndpointConfig::new(secret.clone());
                config.server = (i == 0).then(ServerConfig::default);
                change(i, &mut config);
                Peer {
                    addr: SocketAddr::from((Ipv4Addr::new(10, 0, (i >> 8) as u8, i as u8), 5770)),
                    endpoint: Endpoint::new(config, seed_of(seed, i), start),
                    store: MemoryStore::new(),
                    events: Vec::new(),
                    last: None,
                    hung: false,
                }
            })
            .collect();
        Self {
            start,
            now: start,
            delay: ms(10),
            peers,
            wire: BTreeMap::new(),
            serial: 0,
            log: Vec::new(),
            tap: Box::new(|p| vec![p.clone()]),
            steps: 0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn put(&mut self, client: usize, name: &[u8], size: u64) -> SessionKey {
        let content = Content::Pattern { seed: client as u64, size };
        self.peers[client].store.insert_file(name, content, Default::default());
        self.put_existing(client, name)
    }

    fn put_existing(&mut self, client: usize, name: &[u8]) -> SessionKey {
        let request =
            Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Never, no_resume: false };
        let root = SourceRoot { location: Location::Local(name.to_vec()), name: name.to_vec() };
        let to = self.peers[0].addr;
        let k = self.peers[client].endpoint.connect(self.now, to, request, vec![root], None);
        self.serve(client);
        k
    }

    fn get(&mut self, client: usize, name: &[u8]) -> SessionKey {
        let request = Request::Get {
            paths: vec![name.to_vec()],
            compress: Compression::None,
            chunk_size: crate::transfer::DEFAULT_CHUNK_SIZE,
        };
        let dest = Dest {
            location: Location::Jail(Vec::new()),
            into_dir: true,
            overwrite: Overwrite::Never,
            no_resume: false,
            name_prefix: Vec::new(),
        };
        let to = self.peers[0].addr;
        let k = self.peers[client].endpoint.connect(self.now, to, request, Vec::new(), Some(dest));
        self.serve(client);
        k
    }

    /// Puts a datagram on the wire as it is.
    fn inject(&mut self, packet: Packet) {
        self.serial += 1;
        self.wire.insert((self.now + self.delay, self.serial), packet);
    }

    fn serve(&mut self, i: usize) {
        let (mut done, mut buf) = (Vec::new(), Vec::new());
        loop {
            let elapsed = self.elapsed();
            let p = &mut self.peers[i];
            let mut worked = false;
            while !p.hung
                && let Some((k, job)) = p.endpoint.poll_job()
            {
                p.store.run(k, job, &mut done);
                worked = true;
            }
            if !p.hung {
                p.store.idle(&mut done);
            }
            for (k, d) in done.drain(..) {
                p.endpoint.handle_done(self.now, k, d);
                worked = true;
            }
            while let Some((k, event)) = p.endpoint.poll_event() {
                if matches!(event, Event::Closed(_)) {
                    p.last = p.endpoint.stats(k);
                }
                p.events.push((elapsed, k, event));
            }
            while let Some(t) = self.peers[i].endpoint.poll_transmit(self.now, &mut buf, 16) {
                worked = true;
                let from = self.peers[i].addr;
                for bytes in buf[..t.size].chunks(t.segment_size.unwrap_or(t.size)) {
                    let packet = Packet { sent: elapsed, from, to: t.remote, bytes: bytes.to_vec() };
                    for p in (self.tap)(&packet) {
                        self.inject(p);
                    }
                    self.log.push(packet);
                }
            }
            if !worked {
                return;
            }
        }
    }

    fn step(&mut self) -> bool {
        let timers = self.peers.iter_mut().filter_map(|p| p.endpoint.poll_timeout()).min();
        let next = self.wire.keys().next().map(|(t, _)| *t).into_iter().chain(timers).min();
        let Some(next) = next else { return false };
        self.steps += 1;
        assert!(self.steps < 3_000_000, "stuck at {:?}", self.elapsed());
        self.now = self.now.max(next);
        while let Some(e) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
            let mut p = e.remove();
            if let Some(i) = self.peers.iter().position(|x| x.addr == p.to) {
                self.peers[i].endpoint.handle_datagram(self.now, p.from, None, &mut p.bytes);
                self.serve(i);
            }
        }
        for i in 0..self.peers.len() {
            if self.peers[i].endpoint.poll_timeout().is_some_and(|t| t <= self.now) {
                self.peers[i].endpoint.handle_timeout(self.now);
                self.serve(i);
            }
        }
        true
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self.peers.iter_mut().filter_map(|p| p.endpoint.poll_timeout()).min();
            let next = self.wire.keys().next().map(|(t, _)| *t).into_iter().chain(timers).min();
            if next.is_none_or(|t| t > end) || !self.step() {
                break;
            }
        }
        self.now = self.now.max(end);
    }

    /// Until the clients have no session left, at most an hour.
    fn run(&mut self) {
        while self.peers[1..].iter().any(|p| p.endpoint.session_count() > 0) {
            assert!(self.elapsed() < Duration::from_secs(3600), "no end");
            assert!(self.step(), "nothing will ever happen again");
        }
    }

    /// How a peer's first session ended, and when.
    fn closed(&self, peer: usize) -> Option<(Duration, CloseReason)> {
        self.peers[peer].events.iter().find_map(|(t, _, e)| match e {
            Event::Closed(reason) => Some((*t, reason.clone())),
            _ => None,
        })
    }

    fn expect_done(&mut self, client: usize, name: &[u8]) {
        assert_eq!(self.closed(client).map(|(_, r)| r), Some(CloseReason::Done));
        let (a, b) = (self.peers[client].store.get(name), self.peers[0].store.get(name));
        assert!(a.is_some() && a == b, "the same file on both sides");
    }

    /// Datagrams sent by a peer.
    fn sent_by(&self, peer: usize) -> impl Iterator<Item = &Packet> {
        let addr = self.peers[peer].addr;
        self.log.iter().filter(move |p| p.from == addr)
    }
}

#[test]
fn a_plain_transfer() {
    for secret in [key(), Secret::Insecure] {
        let mut net = Net::new(1, secret, 1, |_, _| {});
        net.put(1, b"f", 700_000);
        net.run();
        net.expect_done(1, b"f");
        assert!(net.elapsed() < ms(1000), "{:?}", net.elapsed());
        net.run_for(Duration::from_secs(10));
        assert_eq!(net.peers[0].endpoint.session_count(), 0, "the server forgets it too");
        assert_eq!(net.peers[0].endpoint.poll_timeout(), None, "and has nothing left to wait for");
    }
}
