//! Role: machines with disks that crash and fail, processes on them that end and are run again, links between them.
//! Owns: the virtual world of one run: clock, machines, processes, links, strangers.
//! Implements: docs/SIMULATION.md, "Crashes and faults".

use super::model::{Causes, Model, Place, Version, is_never};
use super::plan::{Fault, FileSpec, Hostile, LinkFault, NodeId, Plan, Task, Way, What};
use super::process::Process;
use super::{Coverage, Outcome};
use crate::endpoint::config::{EndpointConfig, Secret, ServerConfig};
use crate::impair::{Impairment, Profile, derive_seed};
use crate::sim::disk::SimDisk;
use crate::store::names::join;
use crate::transfer::Request;
use crate::transfer::job::{Dest, Location, Meta, Overwrite, SourceRoot};
use crate::wire::frame::{CloseCode, Frame};
use crate::wire::packet::ProtectedHeader;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The server's port.
const PORT: u16 = 5770;
/// After everything has healed, a command is run again until it succeeds, for so long at most. It may have to wait
/// for sessions of its predecessors that the server has not given up yet.
const PATIENCE: Duration = Duration::from_secs(120);
/// Idle and connect time-outs of the sessions: shorter than the defaults, so that runs are short.
const IDLE: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(4);
/// Between the failure of a command and its next run.
const RERUN_AFTER: Duration = Duration::from_millis(300);
/// Packets after which keys are updated: every transfer passes through some updates.
const KEY_UPDATE_PACKETS: u64 = 25;
/// What a session may hold in memory for what it receives, all sessions together.
const RECEIVE_BUDGET: u64 = 1 << 20;
/// Datagrams that strangers remember, to send them again.
const REMEMBERED: usize = 256;
/// Steps after which a run is stuck in a loop.
const MAX_STEPS: u64 = 3_000_000;
/// Idle, sessions are gone from a server after so long.
const LINGER: Duration = Duration::from_secs(20);

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) addr: SocketAddr,
    pub(super) disk: SimDisk,
    pub(super) process: Option<Process>,
    /// When a process is (or the command is run) again.
    pub(super) start_at: Option<Instant>,
    pub(super) runs: u32,
    /// The client's command has succeeded.
    pub(super) done: bool,
    clock_secs: i64,
    /// So many packets are still to be forged with its stale keys.
    forgeries: u32,
    /// A pause that a crash in mid-operation brings.
    crash_pause: Duration,
    pub(super) slow_until: Option<Instant>,
    rng: Xoshiro256PlusPlus,
}

/// One run.
pub(super) struct World<'p> {
    pub(super) plan: &'p Plan,
    start: Instant,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Machine>,
    links: Vec<[Impairment<(SocketAddr, SocketAddr)>; 2]>,
    link_faults: Vec<(NodeId, LinkFault, Instant)>,
    next_fault: usize,
    healed: bool,
    pub(super) model: Model,
    /// Per client.
    pub(super) causes: Vec<Causes>,
    seen: VecDeque<(Vec<u8>, SocketAddr, SocketAddr)>,
    rng: Xoshiro256PlusPlus,
    /// Labels of sessions that a server has admitted.
    pub(super) admitted: BTreeSet<String>,
    /// When the runs of the commands began, and when somebody last changed a source, by client.
    run_began: BTreeMap<(NodeId, u32), Instant>,
    mutated_at: BTreeMap<NodeId, Instant>,
    /// Datagrams that left a client, by the label of its run.
    pub(super) left: BTreeMap<String, u64>,
    pub(super) coverage: Coverage,
    pub(super) trace: Option<Vec<String>>,
    mutations: u32,
    buf: Vec<u8>,
}

fn rng(plan: &Plan, stream: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(derive_seed(plan.seed, stream))
}

impl<'p> World<'p> {
    #[allow(clippy::disallowed_methods, reason = "an Instant cannot be made up: this one is only the origin")]
    pub(super) fn new(plan: &'p Plan, trace: bool) -> Self {
        let start = Instant::now();
        let machine = |i: usize| Machine {
            addr: SocketAddr::from((Ipv4Addr::new(10, 0, 0, i as u8), PORT)),
            disk: SimDisk::new(derive_seed(plan.seed, 100 + i as u64), plan.quirks[i]),
            process: None,
            start_at: Some(start + i.checked_sub(1).map_or(Duration::ZERO, |c| plan.tasks[c].start)),
            runs: 0,
            done: false,
            clock_secs: 0,
            forgeries: 0,
            crash_pause: Duration::ZERO,
            slow_until: None,
            rng: rng(plan, 200 + i as u64),
        };
        let links = (1..=plan.tasks.len() as u64).map(|i| {
            let link =
                |way| Impairment::new(plan.link.clone(), derive_seed(plan.seed, 300 + 2 * i + way), start);
            [link(0), link(1)]
        });
        let mut world = Self {
            plan,
            start,
            now: start,
            nodes: (0..=plan.tasks.len()).map(machine).collect(),
            links: links.collect(),
            link_faults: Vec::new(),
            next_fault: 0,
            healed: false,
            model: Model::default(),
            causes: vec![Causes::default(); plan.tasks.len() + 1],
            seen: VecDeque::new(),
            rng: rng(plan, 400),
            admitted: BTreeSet::new(),
            run_began: BTreeMap::new(),
            mutated_at: BTreeMap::new(),
            left: BTreeMap::new(),
            coverage: Coverage::default(),
            trace: trace.then(Vec::new),
            mutations: 0,
            buf: Vec::new(),
        };
        for (i, task) in plan.tasks.iter().enumerate() {
            let rivals = plan.tasks.iter().any(|t| t.rival);
            world.causes[i + 1].rival = rivals && (i == 0 || task.rival);
            for file in &task.files {
                world.make_source(i + 1, task, file);
            }
        }
        world
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        let at = self.elapsed();
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.6} {}", at.as_secs_f64(), text()));
        }
    }

    /// Where a task's source lies, and where its files arrive.
    fn source_of(client: NodeId, way: Way, file: &FileSpec) -> Place {
        match way {
            Way::Get => (0, join(format!("pub{client}").as_bytes(), &file.path)),
            Way::Put | Way::Echo => (client, join(b"out", &file.path)),
        }
    }

    /// The directory on the server that a client uploads to.
    fn upload_dir(&self, client: NodeId) -> Vec<u8> {
        let owner = if self.plan.tasks[client - 1].rival { 1 } else { client };
        format!("up{owner}").into_bytes()
    }

    pub(super) fn place_of(&self, client: NodeId, way: Way, path: &[u8]) -> Place {
        match way {
            Way::Put => (0, join(&self.upload_dir(client), path)),
            Way::Get => (client, join(b"down", path)),
            // What is sent back comes file by file, without its directories.
            Way::Echo => {
                let name = crate::store::names::split_last(path).1;
                (client, join(b"down", &[b"received_", name].concat()))
            }
        }
    }

    /// The manifest path of a file.
    fn manifest_path(client: NodeId, way: Way, file: &FileSpec) -> Vec<u8> {
        match way {
            Way::Get => join(format!("pub{client}").as_bytes(), &file.path),
            Way::Put | Way::Echo => join(b"out", &file.path),
        }
    }

    fn make_source(&mut self, client: NodeId, task: &Task, file: &FileSpec) {
        let mut bytes = vec![0; file.bytes];
        if file.compressible {
            for (n, line) in bytes.chunks_mut(40).enumerate() {
                let text = format!("{n:>12} of some lines that say little {client}");
                line.copy_from_slice(&text.as_bytes()[..line.len()]);
            }
        } else {
            self.rng.fill_bytes(&mut bytes);
        }
        let mode = if self.rng.random_range(0..2) == 0 { 0o644 } else { 0o750 };
        let meta = Meta { mode, mtime_s: 1_600_000_000, mtime_ns: self.rng.random_range(0..1_000_000_000) };
        let (node, path) = Self::source_of(client, task.way, file);
        self.nodes[node].disk.insert(&path, bytes.clone(), meta);
        let place = self.place_of(client, task.way, &Self::manifest_path(client, task.way, file));
        let always = |t: &Task| t.way == Way::Put && !is_never(t.overwrite);
        let shared = self.causes[client].rival;
        if !always(task) && !(shared && self.plan.tasks.iter().any(always)) {
            self.model.never.insert(place.clone());
        }
        self.model.owner.insert(place.clone(), client);
        self.model.expected.entry(place).or_default().push(Version::new(bytes, meta));
    }

    /// Runs to the end, or to the first violation.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for step in 0..MAX_STEPS {
            let over = self.healed && self.nodes[1..].iter().all(|n| n.done);
            let quiet = || self.nodes[0].process.as_ref().is_none_or(|p| p.endpoint.session_count() == 0);
            if over && quiet() {
                self.coverage.steps += step;
                return self.finish();
            }
            let limit = self.plan.heal_at + PATIENCE + if over { LINGER } else { Duration::ZERO };
            if self.elapsed() > limit {
                return Err(self.stuck(over));
            }
            let next = self.next_time().ok_or("nothing left to happen, yet there is work")?;
            self.now = self.now.max(next);
            self.step()?;
        }
        Err(format!("no end after {MAX_STEPS} steps, at {:?}", self.elapsed()))
    }

    fn stuck(&self, over: bool) -> String {
        if over {
            return format!("the server still has a session {LINGER:?} after everything was done");
        }
        let open: Vec<NodeId> = (1..self.nodes.len()).filter(|c| !self.nodes[*c].done).collect();
        format!("no success {PATIENCE:?} after everything healed: clients {open:?}")
    }

    fn next_time(&mut self) -> Option<Instant> {
        let links = self.links.iter().flatten().filter_map(Impairment::poll_timeout).min();
        let fault = self.plan.faults.get(self.next_fault).map(|f| self.start + f.at);
        let heal = (!self.healed).then(|| self.start + self.plan.heal_at);
        let ends = self.link_faults.iter().map(|(_, _, until)| *until).min();
        let mut first = [links, fault, heal, ends].into_iter().flatten().min();
        for node in &mut self.nodes {
            let process = node.process.as_mut().and_then(Process::next_time);
            let start = node.start_at.filter(|_| node.process.is_none());
            first = [first, process, start].into_iter().flatten().min();
        }
        first
    }

    /// Everything that happens at this instant.
    fn step(&mut self) -> Result<(), String> {
        self.update_links();
        while let Some(fault) = self.plan.faults.get(self.next_fault).copied()
            && self.start + fault.at <= self.now
        {
            self.next_fault += 1;
            if !self.healed {
                self.strike(&fault)?;
            }
        }
        if !self.healed && self.start + self.plan.heal_at <= self.now {
            self.heal();
        }
        for i in 0..self.nodes.len() {
            let due = self.nodes[i].start_at.is_some_and(|at| at <= self.now);
            if due && self.nodes[i].process.is_none() && !self.nodes[i].done {
                self.start_process(i)?;
            }
        }
        for link in 0..self.links.len() {
            for way in 0..2 {
                while let Some((datagram, (to, from))) = self.links[link][way].poll(self.now) {
                    self.deliver(to, from, datagram.clone());
                    self.links[link][way].recycle(datagram);
                }
            }
        }
        for i in 0..self.nodes.len() {
            let now = self.now;
            if let Some(p) = &mut self.nodes[i].process
                && p.endpoint.poll_timeout().is_some_and(|t| t <= now)
            {
                p.endpoint.handle_timeout(now);
            }
            if self.nodes[i].forgeries > 0 {
                self.forge(i);
            }
            self.serve(i)?;
        }
        self.check_links()
    }

    fn check_links(&self) -> Result<(), String> {
        for link in self.links.iter().flatten() {
            let c = link.counters();
            let out = c.passed + c.lost + c.lost_to_queue + c.lost_to_limit + link.in_transit() as u64;
            if c.submitted + c.duplicated != out {
                return Err(format!("the link's counters do not balance: {c:?}"));
            }
        }
        Ok(())
    }

    fn deliver(&mut self, to: SocketAddr, from: SocketAddr, mut datagram: Vec<u8>) {
        if self.seen.len() >= REMEMBERED {
            // The first ones, which set up sessions, are the most interesting.
            let at = self.rng.random_range(REMEMBERED / 8..REMEMBERED);
            self.seen.remove(at);
        }
        self.seen.push_back((datagram.clone(), from, to));
        let now = self.now;
        if let Some(node) = self.nodes.iter_mut().find(|n| n.addr == to)
            && let Some(p) = &mut node.process
        {
            p.endpoint.handle_datagram(now, from, None, &mut datagram);
        }
    }

    /// Sends what a process wants to send.
    pub(super) fn transmit(&mut self, i: NodeId) -> bool {
        let mut worked = false;
        loop {
            let Some(p) = &mut self.nodes[i].process else { return worked };
            let Some(t) = p.endpoint.poll_transmit(self.now, &mut self.buf, 16) else { return worked };
            worked = true;
            if let Some(session) = t.session {
                *p.sent_bytes.entry(session).or_default() += t.size as u64;
            }
            let from = self.nodes[i].addr;
            let client = if i == 0 { self.nodes.iter().position(|n| n.addr == t.remote) } else { Some(i) };
            let Some(client) = client.filter(|c| *c > 0) else { continue };
            let way = usize::from(i == 0);
            if i > 0 {
                let count = t.size.div_ceil(t.segment_size.unwrap_or(t.size).max(1)) as u64;
                *self.left.entry(super::process::label(i, self.nodes[i].runs)).or_default() += count;
            }
            for datagram in self.buf[..t.size].chunks(t.segment_size.unwrap_or(t.size).max(1)) {
                self.links[client - 1][way].submit(self.now, datagram, (t.remote, from));
            }
        }
    }

    fn heal(&mut self) {
        self.say(|| "everything heals".into());
        self.healed = true;
        self.link_faults.clear();
        for client in 1..self.nodes.len() {
            self.apply_link(client);
        }
        for node in &mut self.nodes {
            node.disk.heal();
            node.slow_until = None;
        }
        // Sources that somebody took away are there again.
        for (i, task) in self.plan.tasks.iter().enumerate() {
            for file in &task.files {
                let (node, path) = Self::source_of(i + 1, task.way, file);
                if self.nodes[node].disk.read(&path).is_none() {
                    self.make_source(i + 1, task, file);
                    self.mutated_at.insert(i + 1, self.now);
                }
            }
        }
    }

    fn update_links(&mut self) {
        let now = self.now;
        let ended: Vec<NodeId> =
            self.link_faults.iter().filter(|(_, _, until)| *until <= now).map(|(c, _, _)| *c).collect();
        self.link_faults.retain(|(_, _, until)| *until > now);
        for client in ended {
            self.apply_link(client);
        }
    }

    fn apply_link(&mut self, client: NodeId) {
        let mut ways = [self.plan.link.clone(), self.plan.link.clone()];
        let dead = |p: &mut Profile| p.loss = 1.0;
        for (_, fault, _) in self.link_faults.iter().filter(|(c, _, _)| *c == client) {
            match fault {
                LinkFault::Partition => ways.iter_mut().for_each(dead),
                LinkFault::DeafServer => dead(&mut ways[0]),
                LinkFault::DeafClient => dead(&mut ways[1]),
                LinkFault::Lossy => ways.iter_mut().for_each(|p| (p.loss, p.burst) = (p.loss.max(0.3), 5.0)),
                LinkFault::Corrupting => ways.iter_mut().for_each(|p| p.corrupt = 0.3),
                LinkFault::Unruly => ways.iter_mut().for_each(|p| {
                    (p.duplicate, p.reorder, p.jitter) = (0.4, 0.4, Duration::from_millis(40));
                }),
            }
        }
        let [up, down] = ways;
        self.links[client - 1][0].set_profile(up, self.now);
        self.links[client - 1][1].set_profile(down, self.now);
    }

    /// A fault's time has come.
    fn strike(&mut self, fault: &Fault) -> Result<(), String> {
        self.say(|| format!("FAULT {:?}", fault.what));
        match fault.what {
            What::Kill { node, pause } => self.crash(node, false, pause)?,
            What::PowerCut { node, pause } => self.crash(node, true, pause)?,
            What::Stop { node, pause } => self.stop(node, pause)?,
            What::Disk { node, fault, pause } => {
                self.nodes[node].crash_pause = pause;
                self.nodes[node].disk.add_fault(fault);
            }
            What::Rot { node, at } => {
                // Nobody can tell rot under an open file from a write by somebody else.
                if self.nodes[node].process.is_some() {
                    self.crash(node, false, Duration::from_millis(50))?;
                }
                self.nodes[node].disk.rot(at);
                self.model.forget_stored(node);
            }
            What::Flip { node, nth } => {
                if let Some(p) = &mut self.nodes[node].process {
                    p.flips.push(nth);
                }
            }
            What::Link { client, fault, length } => {
                self.link_faults.push((client, fault, self.now + length));
                self.causes[client].link = true;
                self.coverage.link[fault as usize] += 1;
                self.apply_link(client);
            }
            What::Move { client } => {
                let addr = &mut self.nodes[client].addr;
                addr.set_port(addr.port() + 1000);
                self.coverage.moves += 1;
            }
            What::Clock { node, by_secs } => {
                self.nodes[node].clock_secs += by_secs;
                self.set_clock(node);
                self.model.forget_stored(node);
                self.coverage.clock_steps += 1;
            }
            What::Mutate { client, file, how } => self.mutate(client, file, how),
            What::RemoveDest { client } => {
                let way = self.plan.tasks[client - 1].way;
                let (node, path) = self.place_of(client, way, b"");
                let dir = crate::store::names::split_first(&path).0.to_vec();
                self.nodes[node].disk.remove(&dir);
                self.model.forget_below(node, &dir);
                self.causes[client].dest_removed = true;
                let rival = self.causes[client].rival;
                self.causes.iter_mut().for_each(|c| c.dest_removed |= c.rival && rival);
                self.coverage.removed_dirs += 1;
            }
            What::SlowDisk { node, length } => {
                self.nodes[node].slow_until = Some(self.now + length);
                self.causes.iter_mut().for_each(|c| c.slow |= length > IDLE / 2);
                self.coverage.slow_disks += 1;
            }
            What::Hostile { node, how, count } => self.attack(node, how, count),
        }
        Ok(())
    }

    fn set_clock(&mut self, node: NodeId) {
        let elapsed = self.elapsed();
        let n = &self.nodes[node];
        // Far enough from 1970 for every step back.
        let secs = (i64::from(u32::MAX) / 8 + n.clock_secs).max(0) as u64;
        n.disk.set_now(Duration::from_secs(secs) + elapsed);
    }

    fn mutate(&mut self, client: NodeId, file: usize, how: super::plan::Mutation) {
        use super::plan::Mutation as M;
        let task = &self.plan.tasks[client - 1];
        let file = &task.files[file.min(task.files.len() - 1)];
        let (node, path) = Self::source_of(client, task.way, file);
        let Some(seen) = self.nodes[node].disk.read(&path) else { return };
        self.mutations += 1;
        // Every change has a time of its own, as on a file system with fine timestamps.
        let meta = Meta { mtime_s: 1_650_000_000 + i64::from(self.mutations), ..seen.meta };
        let mut bytes = seen.bytes;
        let disk = &self.nodes[node].disk;
        match how {
            M::Truncate => bytes.truncate(bytes.len() / 2),
            M::Grow => bytes.extend_from_slice(b"and something more, at the end"),
            M::Change => bytes.iter_mut().take(1).for_each(|b| *b ^= 1),
            M::Replace => bytes.iter_mut().for_each(|b| *b = b.wrapping_add(1)),
            M::Remove => {
                disk.remove(&path);
                self.causes[client].source_removed = true;
                self.mutated_at.insert(client, self.now);
                self.coverage.mutations += 1;
                return;
            }
        }
        match how {
            M::Replace => disk.insert(&path, bytes.clone(), meta),
            _ => disk.alter(&path, |b| b.clone_from(&bytes), meta),
        }
        self.causes[client].source_changed = true;
        self.mutated_at.insert(client, self.now);
        self.coverage.mutations += 1;
        let place = self.place_of(client, task.way, &Self::manifest_path(client, task.way, file));
        self.model.expected.entry(place).or_default().push(Version::new(bytes, meta));
    }

    fn attack(&mut self, node: NodeId, how: Hostile, count: u32) {
        if how == Hostile::StaleKeys {
            self.nodes[node].forgeries += count;
            return;
        }
        let now = self.now;
        let to = self.nodes[node].addr;
        for n in 0..count {
            let elsewhere = SocketAddr::from((Ipv4Addr::new(10, 6, 6, 6), 666 + n as u16));
            let known = (!self.seen.is_empty()).then(|| {
                let at = self.rng.random_range(0..self.seen.len());
                self.seen[at].clone()
            });
            let (mut datagram, from) = match (how, known) {
                (Hostile::Garbage, _) | (_, None) => {
                    let mut bytes = vec![0; self.rng.random_range(0..1400)];
                    self.rng.fill_bytes(&mut bytes);
                    (bytes, elsewhere)
                }
                (Hostile::Replay | Hostile::StaleKeys, Some((d, from, _))) => (d, from),
                (Hostile::ReplayFromElsewhere, Some((d, _, _))) => (d, elsewhere),
                (Hostile::Mutate, Some((mut d, from, _))) => {
                    if !d.is_empty() {
                        let at = self.rng.random_range(0..d.len());
                        d[at] ^= 1 << self.rng.random_range(0..8);
                    }
                    (d, from)
                }
            };
            // Nobody but the attacker himself may be talked to from there.
            if let Some(p) = self.nodes.iter_mut().find(|m| m.addr == to).and_then(|m| m.process.as_mut()) {
                p.endpoint.handle_datagram(now, from, None, &mut datagram);
            }
        }
        self.coverage.hostile[how as usize] += u64::from(count);
    }

    /// Somebody who has copied the keys of a machine's sessions at their beginning comes back with them.
    fn forge(&mut self, node: NodeId) {
        let Some(p) = &self.nodes[node].process else { return };
        let (now, from) = (self.now, self.nodes[node].addr);
        let mut forged = Vec::new();
        for (session, stolen) in &p.stolen {
            let Some(present) = p.endpoint.copied_keys(*session) else { continue };
            // Until the peer has heard of the new ones, the old ones are not stale.
            if present.first_number == stolen.first_number || !present.confirmed {
                continue;
            }
            let number = present.next_number + 3;
            let header = ProtectedHeader {
                cid: stolen.cid,
                truncated_number: number as u32,
                key_phase: stolen.phase,
                confirm: None,
            };
            let mut packet = Vec::new();
            header.encode(&mut packet);
            let start = packet.len();
            Frame::Close { code: CloseCode::Done as u64, text: b"forged" }.encode(&mut packet);
            stolen.keys.seal_packet(number, &mut packet, 0, start);
            forged.push(packet);
        }
        self.nodes[node].forgeries = self.nodes[node].forgeries.saturating_sub(forged.len() as u32);
        self.coverage.hostile[Hostile::StaleKeys as usize] += forged.len() as u64;
        for packet in forged {
            // Its receiver is told by the connection ID.
            for i in (0..self.nodes.len()).filter(|i| *i != node && (*i == 0 || node == 0)) {
                if let Some(p) = &mut self.nodes[i].process {
                    p.endpoint.handle_datagram(now, from, None, &mut packet.clone());
                }
            }
        }
    }

    /// A process or a whole machine ends at once.
    pub(super) fn crash(&mut self, node: NodeId, power: bool, pause: Duration) -> Result<(), String> {
        self.say(|| format!("node {node}: {}", if power { "power cut" } else { "killed" }));
        // What the last operation did is there, though nobody has heard of it.
        self.check_disk_changes(node)?;
        if power {
            self.nodes[node].disk.power_cut();
            self.model.forget_stored(node);
            self.coverage.power_cuts += 1;
        } else {
            self.nodes[node].disk.kill();
            self.coverage.kills += 1;
        }
        self.model.check_disk(node, &self.nodes[node].disk)?;
        self.note_two_names(node);
        self.end_process(node, pause);
        Ok(())
    }

    fn note_two_names(&mut self, node: NodeId) {
        if self.plan.quirks[node].no_noreplace {
            self.causes.iter_mut().for_each(|c| c.two_names = true);
        }
    }

    /// The process is gone; whatever it still wanted has no effect.
    fn end_process(&mut self, node: NodeId, pause: Duration) {
        let was = self.nodes[node].process.take();
        if node == 0 {
            self.causes.iter_mut().for_each(|c| c.server_gone = true);
        }
        if was.is_some() {
            self.nodes[node].start_at = Some(self.now + pause.max(Duration::from_millis(1)));
        }
    }

    /// A crash came out of the disk, in the middle of an operation.
    pub(super) fn crash_if_dead(&mut self, node: NodeId) -> Result<bool, String> {
        let Some(power) = self.nodes[node].disk.is_dead() else { return Ok(false) };
        let pause = self.nodes[node].crash_pause;
        self.crash(node, power, pause)?;
        Ok(true)
    }

    fn stop(&mut self, node: NodeId, pause: Duration) -> Result<(), String> {
        let now = self.now;
        let Some(p) = &mut self.nodes[node].process else { return Ok(()) };
        p.endpoint.close_all(now, crate::session::event::CloseReason::Interrupted);
        self.coverage.stops += 1;
        if node == 0 {
            self.causes.iter_mut().for_each(|c| c.server_stopped = true);
        } else {
            self.causes[node].stopped = true;
        }
        self.serve(node)?;
        if self.nodes[node].process.is_some() {
            self.leave(node)?;
            self.end_process(node, pause);
        }
        Ok(())
    }

    fn config(&self, node: NodeId) -> EndpointConfig {
        let secret = match self.plan.insecure {
            true => Secret::Insecure,
            false => Secret::Key(b"a key for simulations".to_vec().into()),
        };
        let mut config = EndpointConfig::new(secret);
        config.receive_budget_bytes = RECEIVE_BUDGET;
        config.send_budget_bytes = RECEIVE_BUDGET;
        config.session.chunk_size = self.plan.chunk_size;
        config.session.compress = self.plan.compress;
        config.session.idle_timeout = IDLE;
        config.session.connect_timeout = CONNECT;
        config.session.key_update_packets = Some(KEY_UPDATE_PACKETS);
        config.session.client_id = super::process::label(node, self.nodes[node].runs);
        if node == 0 {
            config.server = Some(ServerConfig::default());
        }
        config
    }

    fn start_process(&mut self, i: NodeId) -> Result<(), String> {
        self.set_clock(i);
        self.nodes[i].start_at = None;
        self.model.forget_sessions(i);
        self.nodes[i].runs += 1;
        let runs = self.nodes[i].runs;
        if i > 0 {
            self.causes[i].runs = runs;
            self.run_began.insert((i, runs), self.now);
            if !self.plan.tasks[i - 1].same_port {
                self.nodes[i].addr.set_port(PORT + 7 * (runs as u16 % 5000));
            }
        }
        self.say(|| format!("node {i}: run {runs}"));
        let mut seed = [0; 32];
        self.nodes[i].rng.fill_bytes(&mut seed);
        let process = Process::new(self.config(i), seed, self.now, &self.nodes[i].disk);
        self.nodes[i].process = Some(process);
        if self.crash_if_dead(i)? {
            return Ok(());
        }
        if i > 0 {
            self.connect(i);
        }
        self.serve(i)
    }

    fn connect(&mut self, client: NodeId) {
        let task = &self.plan.tasks[client - 1];
        let overwrite = task.overwrite;
        let local = || vec![SourceRoot { location: Location::Local(b"out".to_vec()), name: b"out".to_vec() }];
        let down = |prefix: &[u8]| Dest {
            location: Location::Jail(b"down".to_vec()),
            into_dir: true,
            overwrite: Overwrite::Never,
            no_resume: false,
            name_prefix: prefix.to_vec(),
        };
        let (request, roots, dest) = match task.way {
            Way::Put => {
                let dest = self.upload_dir(client);
                (Request::Put { dest, into_dir: true, overwrite, no_resume: false }, local(), None)
            }
            Way::Get => {
                let paths = vec![format!("pub{client}").into_bytes()];
                let (compress, chunk_size) = (self.plan.compress, self.plan.chunk_size);
                (Request::Get { paths, compress, chunk_size }, Vec::new(), Some(down(b"")))
            }
            Way::Echo => {
                let sim_back = String::new();
                let request =
                    Request::Echo { sim_back, keep: false, overwrite: Overwrite::Never, no_resume: false };
                (request, local(), Some(down(b"received_")))
            }
        };
        let (now, server) = (self.now, self.nodes[0].addr);
        if let Some(p) = &mut self.nodes[client].process {
            p.key = Some(p.endpoint.connect(now, server, request, roots, dest));
        }
    }

    /// A client's session is over: has the command succeeded?
    pub(super) fn client_is_over(&mut self, client: NodeId) -> Result<(), String> {
        let Some(p) = &self.nodes[client].process else { return Ok(()) };
        let complete = p.completed && p.failures.is_empty();
        let failures = p.failures.clone();
        let task = &self.plan.tasks[client - 1];
        let missing = task.files.iter().find(|file| {
            let place = self.place_of(client, task.way, &Self::manifest_path(client, task.way, file));
            !self.model.is_delivered(&place, &self.nodes[place.0].disk)
        });
        if complete && let Some(file) = missing.filter(|_| !self.causes[client].dest_removed) {
            // A file that was not there when the tree was walked is nobody's fault.
            if !self.causes[client].source_removed {
                let name = String::from_utf8_lossy(&file.path).into_owned();
                return Err(format!("client {client} reports success, but {name} is not there"));
            }
        }
        let exists = crate::transfer::job::StoreErrorKind::Exists;
        let only_there = failures.iter().all(|(_, e)| e.kind == exists);
        let success = self.nodes[client].process.as_ref().is_some_and(|p| p.completed);
        let done = success && only_there && missing.is_none();
        self.say(|| format!("client {client}: over, {}", if done { "done" } else { "to be run again" }));
        self.leave(client)?;
        if self.nodes[client].process.is_some() {
            self.nodes[client].process = None;
            let (files, dirs) = self.nodes[client].disk.open_handles();
            if files + dirs > 0 {
                return Err(format!("client {client} ended with {files} files and {dirs} directories open"));
            }
        }
        self.nodes[client].done = done;
        self.nodes[client].start_at = (!done).then(|| self.now + RERUN_AFTER);
        Ok(())
    }

    /// Everything is done: what was promised survives the power cut that comes now, and nothing is left over.
    fn finish(&mut self) -> Result<(), String> {
        if let Some(p) = &self.nodes[0].process {
            let (counters, _) = p.endpoint.admission();
            if counters.wrong_keys > 0 {
                return Err("the server counts wrong keys, and there were none".into());
            }
        }
        for i in 0..self.nodes.len() {
            self.nodes[i].disk.power_cut();
            self.nodes[i].process = None;
            self.model.check_disk(i, &self.nodes[i].disk)?;
        }
        Ok(())
    }

    pub(super) fn outcome(mut self, result: Result<(), String>) -> Outcome {
        let mut c = self.coverage;
        for node in &self.nodes {
            c.disk.add(&node.disk.counters());
            c.runs += u64::from(node.runs);
        }
        for link in self.links.iter().flatten() {
            let l = link.counters();
            c.datagrams += l.passed;
            c.lost += l.lost + l.lost_to_queue;
            c.corrupted += l.corrupted;
            c.duplicated += l.duplicated;
            c.reordered += l.reordered;
        }
        (c.resumed_chunks, c.promises) = (self.model.resumed_chunks, self.model.promises);
        c.virtual_ms = self.elapsed().as_millis() as u64;
        Outcome { violation: result.err(), trace: self.trace.take().unwrap_or_default(), coverage: c }
    }

    /// How long the next job of a machine's disk takes.
    pub(super) fn job_time(&mut self, node: NodeId) -> Duration {
        let n = &mut self.nodes[node];
        if let Some(until) = n.slow_until.filter(|until| *until > self.now) {
            return until - self.now;
        }
        self.plan.disk_delay.mul_f64(n.rng.random_range(0.0..1.0))
    }

    pub(super) fn troubles(&self, node: NodeId) -> u64 {
        let c = self.nodes[node].disk.counters();
        c.io_errors() + c.no_space + c.quota + c.power_cuts + c.rotten
    }

    /// What has happened that concerns a run of a client's command.
    pub(super) fn causes_of(&self, client: NodeId, run: u32) -> Causes {
        let mut causes = self.causes[client];
        causes.disks.add(&self.nodes[0].disk.counters());
        causes.disks.add(&self.nodes[client].disk.counters());
        if self.is_steady(client, run) {
            (causes.source_changed, causes.source_removed) = (false, false);
        }
        causes
    }

    /// True if nobody has changed the source since this run began. A source that comes back when everything heals
    /// has changed too.
    pub(super) fn is_steady(&self, client: NodeId, run: u32) -> bool {
        let began = self.run_began.get(&(client, run));
        let mutated = self.mutated_at.get(&client);
        mutated.is_none_or(|at| began.is_some_and(|began| at < began))
    }
}

/// Sent bytes by session.
pub(super) type SentBytes = BTreeMap<crate::store::SessionKey, u64>;
