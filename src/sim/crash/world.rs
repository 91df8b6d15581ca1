//! Role: machines with disks that crash and fail, processes on them that end and are run again, links between them.
//! Owns: the virtual world of one run: clock, machines, processes, links, strangers.
//! Implements: docs/SIMULATION.md, "Crashes and faults".

use super::model::{Causes, Model, Place, Version, is_never};
use super::plan::{FileSpec, LinkFault, NodeId, Plan, Task, Way, What};
use super::process::Process;
use super::{Coverage, Outcome};
use crate::endpoint::config::{EndpointConfig, Secret, ServerConfig};
use crate::impair::{Impairment, derive_seed};
use crate::session::rival::Handover;
use crate::sim::disk::{DiskFaultKind, SimDisk};
use crate::store::names::{HIDDEN_PREFIX, SCRATCH_PREFIX, join, split_last};
use crate::transfer::Request;
use crate::transfer::confirmed::Confirmed;
use crate::transfer::job::{Dest, Location, Meta, Overwrite, SourceRoot};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The server's port.
const PORT: u16 = 5770;
/// After everything has healed, a command is run again until it succeeds, for so long at most. It may have to wait
/// for sessions of its predecessors that the server has not given up yet.
const PATIENCE: Duration = Duration::from_secs(120);
/// Idle and connect time-outs of the sessions: shorter than the defaults, so that runs are short.
pub(super) const IDLE: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(8);
/// Between the failure of a command and its next run.
const RERUN_AFTER: Duration = Duration::from_millis(300);
/// Packets after which keys are updated: every transfer passes through some updates.
const KEY_UPDATE_PACKETS: u64 = 25;
/// What a session may hold in memory for what it receives, all sessions together.
const RECEIVE_BUDGET: u64 = 1 << 20;
/// Of what is sent, in half of the runs: four of the largest chunks.
const LITTLE_BUDGET: u64 = 64 << 10;
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
    pub(super) clock_secs: i64,
    /// So many packets are still to be forged with its stale keys.
    pub(super) forgeries: u32,
    /// A pause that a crash in mid-operation brings.
    pub(super) crash_pause: Duration,
    pub(super) slow_until: Option<Instant>,
    pub(super) rng: Xoshiro256PlusPlus,
}

/// One run.
pub(super) struct World<'p> {
    pub(super) plan: &'p Plan,
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Machine>,
    pub(super) links: Vec<[Impairment<(SocketAddr, SocketAddr)>; 2]>,
    pub(super) link_faults: Vec<(NodeId, LinkFault, Instant)>,
    next_fault: usize,
    pub(super) healed: bool,
    pub(super) model: Model,
    /// Per client.
    pub(super) causes: Vec<Causes>,
    pub(super) seen: VecDeque<(Vec<u8>, SocketAddr, SocketAddr)>,
    pub(super) rng: Xoshiro256PlusPlus,
    /// Labels of sessions that a server has admitted, and in which of its lives.
    pub(super) admitted: BTreeMap<String, u32>,
    /// When the runs of the commands began, and when somebody last changed a source, by client.
    run_began: BTreeMap<(NodeId, u32), Instant>,
    pub(super) mutated_at: BTreeMap<NodeId, Instant>,
    /// Datagrams that left a client, by the label of its run.
    pub(super) left: BTreeMap<String, u64>,
    pub(super) coverage: Coverage,
    pub(super) trace: Option<Vec<String>>,
    pub(super) mutations: u32,
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
            disk: SimDisk::new(derive_seed(plan.seed, 100 + i as u64), plan.quirks[i], start),
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
            admitted: BTreeMap::new(),
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
    pub(super) fn source_of(client: NodeId, way: Way, file: &FileSpec) -> Place {
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
    pub(super) fn manifest_path(client: NodeId, way: Way, file: &FileSpec) -> Vec<u8> {
        match way {
            Way::Get => join(format!("pub{client}").as_bytes(), &file.path),
            Way::Put | Way::Echo => join(b"out", &file.path),
        }
    }

    pub(super) fn make_source(&mut self, client: NodeId, task: &Task, file: &FileSpec) {
        let mut bytes = vec![0; file.bytes];
        if file.compressible {
            // Half of it is new: what flips there decodes as well as before.
            for line in bytes.chunks_mut(40) {
                let text = format!("................{client} of some lines that say little");
                line.copy_from_slice(&text.as_bytes()[..line.len()]);
                let fresh = line.len().min(16);
                self.rng.fill_bytes(&mut line[..fresh]);
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
        let replaced = always(task) || shared && self.plan.tasks.iter().any(always);
        if !replaced {
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

    fn config(&self, node: NodeId) -> EndpointConfig {
        let secret = match self.plan.insecure {
            true => Secret::Insecure,
            false => Secret::Key(b"a key for simulations".to_vec().into()),
        };
        let mut config = EndpointConfig::new(secret);
        config.receive_budget_bytes = RECEIVE_BUDGET;
        // With little, sources are read while they travel, and change between two chunks.
        config.send_budget_bytes =
            if self.plan.seed.is_multiple_of(2) { RECEIVE_BUDGET } else { LITTLE_BUDGET };
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
        let quota = self.plan.quota_bytes.filter(|_| i == 0);
        let process = Process::new(self.config(i), seed, self.now, &self.nodes[i].disk, quota);
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
        let (now, server, runs) = (self.now, self.nodes[0].addr, self.nodes[client].runs);
        if let Some(p) = &mut self.nodes[client].process {
            let session = if self.plan.continues && runs > 1 {
                let session = p.endpoint.reach(now, server, request.clone());
                let settled = Arc::new(Confirmed::default());
                p.endpoint.release(now, session, Handover { request, roots, dest, settled });
                self.coverage.continued += 1;
                session
            } else {
                p.endpoint.connect(now, server, request, roots, dest)
            };
            p.key = Some(session);
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
        self.check_quota()?;
        self.check_leftovers()?;
        for i in 0..self.nodes.len() {
            self.nodes[i].disk.power_cut();
            self.nodes[i].process = None;
            self.model.check_disk(i, &self.nodes[i].disk)?;
        }
        Ok(())
    }

    /// What a quota counts is never less than what is there, unless removing something has failed or a user has been at it.
    fn check_quota(&self) -> Result<(), String> {
        let server = &self.nodes[0];
        let counted = server.process.as_ref().and_then(Process::quota_used_bytes);
        let (there, c) = (server.disk.used_bytes(), server.disk.counters());
        let excused = c.io_errors() > 0 || self.coverage.mutations + self.coverage.removed_dirs > 0;
        match counted.filter(|_| !excused) {
            Some(counted) if counted < there => {
                Err(format!("the quota counts {counted} bytes, and there are {there}"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing hidden is left beside files that are all done: what a killed client has left is gone with its next run. Excused
    /// is what could not be removed or locked, and what a server that was killed has left, which it removes in time.
    fn check_leftovers(&self) -> Result<(), String> {
        for (i, node) in self.nodes.iter().enumerate() {
            let cut = |what: &What| match what {
                What::PowerCut { node, .. } => *node == i,
                What::Disk { node, fault, .. } => *node == i && fault.kind == DiskFaultKind::PowerCut,
                _ => false,
            };
            let excused = node.disk.counters().io_errors() > 0
                || self.plan.quirks[i].no_locks
                || i == 0 && node.runs > 1
                || self.plan.faults.iter().any(|fault| cut(&fault.what))
                || self.causes.iter().any(|c| c.dest_removed || c.rival);
            let left = node.disk.files().into_iter().find(|path| {
                let name = split_last(path).1;
                name.starts_with(HIDDEN_PREFIX) && !path.starts_with(SCRATCH_PREFIX)
            });
            if let Some(path) = left.filter(|_| !excused) {
                return Err(format!("node {i}: {} is left", String::from_utf8_lossy(&path)));
            }
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

    /// True if a run goes on with what earlier ones have begun, and nobody has ever changed the source.
    pub(super) fn is_continued(&self, client: NodeId, run: u32) -> bool {
        self.plan.continues && run > 1 && !self.mutated_at.contains_key(&client)
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
