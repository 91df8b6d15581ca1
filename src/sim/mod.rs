//! Role: endpoints on a virtual clock, joined by impaired links, with stores in memory.
//! Owns: the virtual world: clock, nodes, links. One seed decides everything that happens in it.
//! Implements: docs/SIMULATION.md.
//!
//! ```
//! use fulmar::sim::{Scenario, World};
//! let mut scenario = Scenario::new(7);
//! scenario.up = "loss=10%,delay=50ms".parse::<fulmar::impair::Spec>().unwrap().outgoing;
//! let mut world = World::new(&scenario);
//! world.client_store(0).insert(b"hello.txt", &b"over a bad link"[..]);
//! let session = world.put(0, &[b"hello.txt"]);
//! let end = world.run();
//! assert!(end.is_ok(), "{end:?}");
//! assert_eq!(world.server_store().get(b"hello.txt").unwrap(), &b"over a bad link"[..]);
//! assert!(world.report(0, session).failures.is_empty());
//! ```

use crate::endpoint::Endpoint;
use crate::endpoint::config::{EndpointConfig, Secret, ServerConfig};
use crate::endpoint::pursuit::{Notice, Pursuit};
use crate::impair::{Counters, Impairment, Profile, derive_seed};
use crate::session::event::{CloseReason, Direction, Event, Stats};
use crate::session::trace::Record;
use crate::store::memory::MemoryStore;
use crate::store::{SessionKey, Store};
use crate::transfer::Request;
use crate::transfer::job::{Compression, Dest, Done, Location, Overwrite, SourceRoot, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

pub mod crash;
pub mod disk;
mod restart;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;

/// A stalled host catches up in batches of so many datagrams, each of which takes it so long: about what one core does.
const BATCH: usize = 32;
const COST: Duration = Duration::from_micros(5);
/// Most datagrams of one train.
const MAX_SEGMENTS: usize = 64;
/// Steps after which a world is stuck in a loop: 5 MB in segments of 1 KiB at 30 % loss take fewer than 100,000.
const DEFAULT_MAX_STEPS: u64 = 20_000_000;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Decides everything random.
    pub seed: u64,
    /// Clients.
    pub clients: usize,
    /// Each client's link to the server.
    pub up: Profile,
    /// The server's link to each client.
    pub down: Profile,
    /// Settings of the clients.
    pub client: EndpointConfig,
    /// Settings of the server.
    pub server: EndpointConfig,
    /// Virtual time after which `run` gives up.
    pub time_limit: Duration,
    /// Everybody shares the server's link (one bottleneck) instead of having one each.
    pub shared_link: bool,
    /// Hosts that now and then do nothing for a while, as those that share a processor do.
    pub stalls: Option<Stalls>,
}

/// A busy host: after an exponentially distributed time it stands still for a uniformly distributed one, then takes
/// what has come in meanwhile, batch by batch, as fast as it can.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    /// Mean time between two stalls.
    pub every: Duration,
    /// Longest stall.
    pub longest: Duration,
}

impl Scenario {
    /// One client, clean links, encryption with a fixed key.
    pub fn new(seed: u64) -> Self {
        let secret = Secret::Key(b"a key for simulations".to_vec().into());
        let client = EndpointConfig::new(secret.clone());
        let mut server = EndpointConfig::new(secret);
        server.server = Some(ServerConfig::default());
        Self {
            seed,
            clients: 1,
            up: Profile::default(),
            down: Profile::default(),
            client,
            server,
            time_limit: Duration::from_secs(3600),
            shared_link: false,
            stalls: None,
        }
    }

    /// The same impairment both ways.
    pub fn symmetric(seed: u64, profile: Profile) -> Self {
        let mut s = Self::new(seed);
        (s.up, s.down) = (profile.clone(), profile);
        s
    }
}

/// What a session reported.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Paths of files that were confirmed, with their digests, by direction.
    pub finished: Vec<(Direction, Vec<u8>, Option<[u8; 32]>)>,
    /// Paths of entries that failed.
    pub failures: Vec<(Vec<u8>, StoreError)>,
    /// Paths of entries that were there already, equal.
    pub unchanged: Vec<Vec<u8>>,
    /// Paths of files that a dry run would send.
    pub planned: Vec<Vec<u8>>,
    /// Paths listed.
    pub listed: Vec<Vec<u8>>,
    /// How it ended.
    pub closed: Option<CloseReason>,
    /// When it ended, since the world began.
    pub closed_at: Duration,
    /// Final figures.
    pub stats: Stats,
}

/// What a session told the application, and when; with its last event its final figures.
pub type Told = (SessionKey, Instant, Event, Option<Stats>);

#[derive(Debug)]
struct Node {
    addr: SocketAddr,
    endpoint: Endpoint,
    store: MemoryStore,
    reports: HashMap<SessionKey, Report>,
    /// A request that outlives its sessions.
    pursuit: Option<Pursuit>,
    notices: Vec<Notice>,
    /// Events for a trace, if there is one.
    told: Option<Vec<Told>>,
    /// What came in during a stall.
    inbox: Vec<(SocketAddr, Vec<u8>)>,
    stall: Option<Stall>,
}

/// When a host stands still next, or until when it does.
#[derive(Debug)]
struct Stall {
    rng: StdRng,
    law: Stalls,
    from: Instant,
    until: Instant,
    /// Until when a batch keeps it.
    busy: Instant,
}

impl Stall {
    fn new(seed: u64, law: Stalls, now: Instant) -> Self {
        let mut stall = Self { rng: StdRng::seed_from_u64(seed), law, from: now, until: now, busy: now };
        stall.plan();
        stall
    }

    fn plan(&mut self) {
        let wait = -(1.0 - self.rng.random::<f64>()).ln();
        self.from = self.until + self.law.every.mul_f64(wait.min(100.0));
        self.until = self.from + self.law.longest.mul_f64(self.rng.random::<f64>());
    }

    /// The first instant from `at` on at which the host works.
    fn awake_at(&mut self, at: Instant) -> Instant {
        while self.until <= at {
            self.plan();
        }
        let at = at.max(self.busy);
        if at < self.from { at } else { self.until }
    }
}

impl Node {
    /// When it does something next, by itself or with what has come in.
    fn next_time(&mut self, now: Instant) -> Option<Instant> {
        let timeout = self.poll_timeout();
        let next = if self.inbox.is_empty() { timeout? } else { timeout.map_or(now, |t| t.min(now)) };
        Some(self.awake_at(next.max(now)))
    }

    fn awake_at(&mut self, at: Instant) -> Instant {
        self.stall.as_mut().map_or(at, |stall| stall.awake_at(at))
    }
}

/// Nodes and links on one clock. Node 0 is the server.
#[derive(Debug)]
pub struct World {
    start: Instant,
    now: Instant,
    nodes: Vec<Node>,
    /// `links[i]`: from client `i` to the server and back; one for all with `shared_link`.
    links: Vec<[Impairment<(usize, SocketAddr)>; 2]>,
    shared_link: bool,
    time_limit: Duration,
    datagrams: u64,
    buf: Vec<u8>,
    server: EndpointConfig,
    /// Servers so far.
    restarts: u64,
    seed: u64,
}

/// Paths of a client's store, each under its last component.
fn local_roots(paths: &[&[u8]]) -> Vec<SourceRoot> {
    let name = |p: &[u8]| p.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    paths.iter().map(|p| SourceRoot { location: Location::Local(p.to_vec()), name: name(p) }).collect()
}

impl World {
    /// Builds nodes and links.
    #[allow(clippy::disallowed_methods, reason = "an Instant cannot be made up: this one is only the origin")]
    pub fn new(scenario: &Scenario) -> Self {
        let start = Instant::now();
        let seed = |stream: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&derive_seed(scenario.seed, stream).to_le_bytes());
            bytes
        };
        let node = |i: usize, config: &EndpointConfig| Node {
            addr: SocketAddr::from((Ipv4Addr::new(10, 0, (i >> 8) as u8, i as u8), 5770)),
            endpoint: Endpoint::new(config.clone(), seed(i as u64), start),
            store: MemoryStore::new(),
            reports: HashMap::new(),
            pursuit: None,
            notices: Vec::new(),
            told: config.session.trace.then(Vec::new),
            inbox: Vec::new(),
            stall: scenario
                .stalls
                .map(|law| Stall::new(derive_seed(scenario.seed, 2_000_000 + i as u64), law, start)),
        };
        let mut nodes = vec![node(0, &scenario.server)];
        nodes.extend((1..=scenario.clients).map(|i| node(i, &scenario.client)));
        let count = if scenario.shared_link { 1 } else { scenario.clients };
        let links = (0..count as u64)
            .map(|i| {
                let link = |p: &Profile, s| Impairment::new(p.clone(), derive_seed(scenario.seed, s), start);
                [link(&scenario.up, 1_000_000 + 2 * i), link(&scenario.down, 1_000_001 + 2 * i)]
            })
            .collect();
        Self {
            start,
            now: start,
            nodes,
            links,
            shared_link: scenario.shared_link,
            time_limit: scenario.time_limit,
            datagrams: 0,
            buf: Vec::new(),
            server: scenario.server.clone(),
            restarts: 0,
            seed: scenario.seed,
        }
    }

    /// The server's files.
    pub fn server_store(&mut self) -> &mut MemoryStore {
        &mut self.nodes[0].store
    }

    /// A client's files.
    pub fn client_store(&mut self, client: usize) -> &mut MemoryStore {
        &mut self.nodes[client + 1].store
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Datagrams that arrived anywhere so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// What the links to the server and back have done so far.
    pub fn link_counters(&self, client: usize) -> [Counters; 2] {
        let link = &self.links[if self.shared_link { 0 } else { client }];
        [link[0].counters(), link[1].counters()]
    }

    /// When a client's session ended, if it has.
    pub fn closed_at(&self, client: usize, session: SessionKey) -> Option<Duration> {
        let report = self.nodes[client + 1].reports.get(&session)?;
        report.closed.as_ref().map(|_| report.closed_at)
    }

    /// What a client's session reported so far.
    pub fn report(&self, client: usize, session: SessionKey) -> Report {
        self.nodes[client + 1].reports.get(&session).cloned().unwrap_or_default()
    }

    /// What the server's sessions reported so far.
    pub fn server_reports(&self) -> impl Iterator<Item = &Report> {
        self.nodes[0].reports.values()
    }

    /// What a client's sessions recorded and told since the last call, if their configuration says `trace`; how many
    /// records were left out.
    pub fn take_trace(&mut self, client: usize) -> (Vec<(SessionKey, Record)>, Vec<Told>, u64) {
        let node = &mut self.nodes[client + 1];
        let mut records = Vec::new();
        let left_out = node.endpoint.take_traces(&mut records);
        let told = node.told.as_mut().map(std::mem::take).unwrap_or_default();
        (records, told, left_out)
    }

    /// The beginning of virtual time.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Figures of a live session.
    pub fn stats(&self, client: usize, session: SessionKey) -> Option<Stats> {
        self.nodes[client + 1].endpoint.stats(session)
    }

    /// Changes a client's link in mid-run.
    pub fn set_link(&mut self, client: usize, up: Profile, down: Profile) {
        let now = self.now;
        let link = if self.shared_link { 0 } else { client };
        self.links[link][0].set_profile(up, now);
        self.links[link][1].set_profile(down, now);
    }

    /// A client gets another address, as a NAT would give it; what is sent to the old one is lost.
    pub fn move_client(&mut self, client: usize) {
        let addr = &mut self.nodes[client + 1].addr;
        addr.set_port(addr.port() + 1);
    }

    /// Uploads local paths of a client's store into the server's root.
    pub fn put(&mut self, client: usize, paths: &[&[u8]]) -> SessionKey {
        let request =
            Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Never, no_resume: false };
        self.request(client, request, paths, None)
    }

    /// Downloads paths into a client's root.
    pub fn get(&mut self, client: usize, paths: &[&[u8]]) -> SessionKey {
        let request = Request::Get {
            paths: paths.iter().map(|p| p.to_vec()).collect(),
            compress: Compression::Auto,
            chunk_size: crate::transfer::DEFAULT_CHUNK_SIZE,
        };
        self.request(client, request, &[], Some(Self::root_dest(b"")))
    }

    /// Uploads files and has them sent back as `received_<name>`.
    pub fn echo(&mut self, client: usize, paths: &[&[u8]]) -> SessionKey {
        let request = Request::Echo {
            sim_back: String::new(),
            keep: false,
            overwrite: Overwrite::Never,
            no_resume: false,
        };
        self.request(client, request, paths, Some(Self::root_dest(b"received_")))
    }

    fn root_dest(prefix: &[u8]) -> Dest {
        Dest {
            location: Location::Jail(Vec::new()),
            into_dir: true,
            overwrite: Overwrite::Never,
            no_resume: false,
            name_prefix: prefix.to_vec(),
        }
    }

    /// Any request.
    pub fn request(
        &mut self,
        client: usize,
        request: Request,
        roots: &[&[u8]],
        dest: Option<Dest>,
    ) -> SessionKey {
        self.request_roots(client, request, local_roots(roots), dest)
    }

    /// Any request, of any roots.
    pub fn request_roots(
        &mut self,
        client: usize,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<Dest>,
    ) -> SessionKey {
        let server = self.nodes[0].addr;
        let node = &mut self.nodes[client + 1];
        let key = node.endpoint.connect(self.now, server, request, roots, dest);
        self.serve(client + 1);
        key
    }

    /// Runs until every client session has ended, or the time limit: `Err` says what is still open.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..DEFAULT_MAX_STEPS {
            if self.nodes[1..].iter().all(Node::is_done) {
                return Ok(());
            }
            if self.elapsed() > self.time_limit {
                let open: usize = self.nodes[1..].iter().map(|n| n.endpoint.session_count()).sum();
                return Err(format!("{open} sessions still open after {:?}", self.time_limit));
            }
            if !self.step() {
                return Err("nothing left to happen, yet sessions are open".into());
            }
        }
        Err(format!("no end after {DEFAULT_MAX_STEPS} steps, at {:?}", self.elapsed()))
    }

    /// Runs for so long.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_time().is_some_and(|t| t <= end) && self.step() {}
        self.now = self.now.max(end);
    }

    fn next_time(&mut self) -> Option<Instant> {
        let links = self.links.iter().flatten().filter_map(Impairment::poll_timeout).min();
        let now = self.now;
        let nodes = self.nodes.iter_mut().filter_map(|n| n.next_time(now)).min();
        links.into_iter().chain(nodes).min()
    }

    /// Goes on to the next instant at which something happens; false if nothing ever will.
    pub fn step(&mut self) -> bool {
        let Some(next) = self.next_time() else { return false };
        self.now = self.now.max(next);
        let mut touched: Vec<usize> = Vec::new();
        for i in 0..self.nodes.len() {
            if self.nodes[i].inbox.is_empty() || self.nodes[i].awake_at(self.now) > self.now {
                continue;
            }
            let node = &mut self.nodes[i];
            let batch = node.inbox.len().min(BATCH);
            for (from, mut datagram) in node.inbox.drain(..batch) {
                node.endpoint.handle_datagram(self.now, from, None, &mut datagram);
            }
            if let Some(stall) = &mut node.stall {
                stall.busy = self.now + COST * batch as u32;
            }
            touched.push(i);
        }
        for link in 0..self.links.len() {
            for way in 0..2 {
                while let Some((mut datagram, (to, from))) = self.links[link][way].poll(self.now) {
                    self.datagrams += 1;
                    if self.nodes[to].awake_at(self.now) > self.now {
                        self.nodes[to].inbox.push((from, datagram));
                        continue;
                    }
                    self.nodes[to].endpoint.handle_datagram(self.now, from, None, &mut datagram);
                    self.links[link][way].recycle(datagram);
                    if !touched.contains(&to) {
                        touched.push(to);
                    }
                }
            }
        }
        for i in 0..self.nodes.len() {
            if self.nodes[i].poll_timeout().is_some_and(|t| t <= self.now)
                && self.nodes[i].awake_at(self.now) <= self.now
            {
                self.nodes[i].endpoint.handle_timeout(self.now);
                if !touched.contains(&i) {
                    touched.push(i);
                }
            }
        }
        touched.iter().for_each(|i| self.serve(*i));
        true
    }

    /// Lets a node do all that it can do now.
    fn serve(&mut self, i: usize) {
        let mut done: Vec<(SessionKey, Done)> = Vec::new();
        loop {
            let node = &mut self.nodes[i];
            let mut worked = false;
            while let Some((key, job)) = node.endpoint.poll_job() {
                node.store.run(key, job, &mut done);
                worked = true;
            }
            node.store.idle(&mut done);
            for (key, d) in done.drain(..) {
                node.endpoint.handle_done(self.now, key, d);
                worked = true;
            }
            self.drain_events(i);
            self.nodes[i].pursue(self.now);
            worked |= self.transmit(i);
            if !worked {
                break;
            }
        }
    }

    fn transmit(&mut self, i: usize) -> bool {
        let mut worked = false;
        while let Some(t) = self.nodes[i].endpoint.poll_transmit(self.now, &mut self.buf, MAX_SEGMENTS) {
            worked = true;
            let Some(to) = self.nodes.iter().position(|n| n.addr == t.remote) else { continue };
            let link = if self.shared_link { 0 } else { to.max(i) - 1 };
            let way = usize::from(i == 0);
            let from = self.nodes[i].addr;
            for datagram in self.buf[..t.size].chunks(t.segment_size.unwrap_or(t.size).max(1)) {
                self.links[link][way].submit(self.now, datagram, (to, from));
            }
        }
        worked
    }

    fn drain_events(&mut self, i: usize) {
        let elapsed = self.elapsed();
        let node = &mut self.nodes[i];
        while let Some((key, event)) = node.endpoint.poll_event() {
            let stats = node.endpoint.stats(key);
            if let Some(told) = &mut node.told {
                let last = matches!(event, Event::Closed(_)).then(|| stats.clone()).flatten();
                told.push((key, self.now, event.clone(), last));
            }
            if let Some(pursuit) = &mut node.pursuit {
                pursuit.handle_event(self.now, &mut node.endpoint, key, event, stats);
                while let Some(event) = pursuit.poll_event() {
                    let stats = pursuit.stats(&node.endpoint);
                    node.reports.entry(0).or_default().note(elapsed, event, Some(stats));
                }
                continue;
            }
            node.reports.entry(key).or_default().note(elapsed, event, stats);
        }
    }
}

impl Report {
    fn note(&mut self, elapsed: Duration, event: Event, stats: Option<Stats>) {
        let report = self;
        match event {
            Event::EntryFinished { direction, path, sha256, error: None, .. } => {
                report.finished.push((direction, path, sha256));
            }
            Event::EntryFinished { path, error: Some(e), .. } => report.failures.push((path, e)),
            Event::EntryUnchanged { path, .. } => report.unchanged.push(path),
            Event::EntryPlanned { path, .. } => report.planned.push(path),
            Event::Listed(e) => report.listed.push(e.path),
            Event::Closed(reason) => {
                report.closed = Some(reason);
                report.closed_at = elapsed;
                report.stats = stats.unwrap_or_default();
            }
            _ => {}
        }
    }
}
