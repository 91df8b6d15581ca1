//! Role: a process on a simulated machine: an endpoint, a store over the machine's disk, and the queue between them.
//! Owns: what one process has under way and what it has reported.
//! Implements: docs/SIMULATION.md, "Crashes and faults".

use super::plan::{NodeId, Way};
use super::world::{SentBytes, World};
use crate::codec::chunk::Encoder;
use crate::endpoint::Endpoint;
use crate::endpoint::config::EndpointConfig;
use crate::session::CopiedKeys;
use crate::session::event::{CloseReason, Direction, Event};
use crate::sim::disk::SimDisk;
use crate::store::file::{FileOptions, FileStore};
use crate::store::{SessionKey, Store};
use crate::transfer::job::{Done, EntryKind, Job, StoreError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Jobs queued for the disk, as in `net::disk`.
const MAX_QUEUED: usize = 64;
/// Partials stay so long: the command line's default.
const PARTIAL_TTL: Duration = Duration::from_secs(7 * 86_400);
/// A session's least share of a budget, as in `endpoint`.
const MIN_SHARE: u64 = 256 * 1024;
/// Files and directories that a process may have open at once: sources, sinks with their journals, directories of the
/// batch, of the cache and of walks.
const MAX_HANDLES: usize = 700;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) endpoint: Endpoint,
    store: FileStore,
    queue: VecDeque<(SessionKey, Job)>,
    /// When the disk thread is done with the job at the head of the queue.
    disk_at: Option<Instant>,
    /// The client's session.
    pub(super) key: Option<SessionKey>,
    pub(super) sent_bytes: SentBytes,
    /// Bytes given to the store to be written and not answered for.
    unwritten: u64,
    pub(super) flips: Vec<u32>,
    pub(super) completed: bool,
    pub(super) failures: Vec<(Vec<u8>, StoreError)>,
    closed: BTreeSet<SessionKey>,
    /// Session, whether it is sent, file.
    reported: BTreeSet<(SessionKey, bool, u64)>,
    /// Keys that somebody copied when a session had just begun.
    pub(super) stolen: BTreeMap<SessionKey, CopiedKeys>,
    /// Labels of the sessions (server).
    labels: BTreeMap<SessionKey, String>,
}

impl Process {
    pub(super) fn new(
        config: EndpointConfig,
        seed: [u8; 32],
        now: Instant,
        disk: &SimDisk,
        quota_bytes: Option<u64>,
    ) -> Self {
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&seed[..8]);
        let partial_ttl = config.server.is_some().then_some(PARTIAL_TTL);
        let options = FileOptions { preallocate: seed[9] & 1 == 1, partial_ttl, quota_bytes };
        Self {
            endpoint: Endpoint::new(config, seed, now),
            store: FileStore::over(disk.mount(), options, nonce, Encoder::default()),
            queue: VecDeque::new(),
            disk_at: None,
            key: None,
            sent_bytes: SentBytes::new(),
            unwritten: 0,
            flips: Vec::new(),
            completed: false,
            failures: Vec::new(),
            closed: BTreeSet::new(),
            reported: BTreeSet::new(),
            stolen: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Bytes that count against the quota, if there is one.
    pub(super) fn quota_used_bytes(&self) -> Option<u64> {
        self.store.quota_used_bytes()
    }

    pub(super) fn next_time(&mut self) -> Option<Instant> {
        [self.endpoint.poll_timeout(), self.disk_at].into_iter().flatten().min()
    }

    /// Flips a bit of a chunk or piece whose turn has come.
    fn flip(&mut self, data: &mut Bytes) -> bool {
        let mut hit = false;
        for nth in &mut self.flips {
            hit |= *nth == 0;
            *nth = nth.wrapping_sub(1);
        }
        self.flips.retain(|nth| *nth != u32::MAX);
        if hit && !data.is_empty() {
            let mut bytes = data.to_vec();
            let at = bytes.len() / 2;
            bytes[at] ^= 4;
            *data = bytes.into();
        }
        hit
    }
}

fn write_bytes(job: &Job) -> u64 {
    match job {
        Job::Write { data, .. } | Job::WriteEncoded { data, .. } => data.len() as u64,
        _ => 0,
    }
}

impl World<'_> {
    /// Lets a process do all that it can do now.
    pub(super) fn serve(&mut self, i: NodeId) -> Result<(), String> {
        loop {
            let mut worked = self.take_jobs(i);
            let now = self.now;
            while self.nodes[i].process.as_ref().is_some_and(|p| p.disk_at.is_some_and(|t| t <= now)) {
                worked = true;
                if !self.run_job(i)? {
                    return Ok(());
                }
                self.take_jobs(i);
            }
            let over = self.take_events(i)?;
            worked |= self.transmit(i);
            if over {
                return self.client_is_over(i);
            }
            if !worked {
                return Ok(());
            }
        }
    }

    fn take_jobs(&mut self, i: NodeId) -> bool {
        let mut worked = false;
        while let Some(p) = &mut self.nodes[i].process
            && p.queue.len() < MAX_QUEUED
            && let Some((session, mut job)) = p.endpoint.poll_job()
        {
            worked = true;
            p.unwritten += write_bytes(&job);
            let (hit, inline) = match &mut job {
                Job::Write { data, .. } | Job::WriteEncoded { data, .. } => (p.flip(data), false),
                Job::Begin(entry) => (entry.inline.as_mut().is_some_and(|i| p.flip(&mut i.data)), true),
                _ => (false, false),
            };
            p.queue.push_back((session, job));
            self.coverage.flips += u64::from(hit);
            // A chunk comes again; of what rides in its entry, only the digest can tell.
            if hit && inline {
                // What comes in a client's first flight belongs to a session that nobody has told of yet.
                let client = self.run_of(i, session).map(|(client, _)| client);
                let hit = |c: &usize| client.is_none_or(|client| client == *c);
                (0..self.causes.len()).filter(hit).for_each(|c| self.causes[c].rotten = true);
            }
        }
        let idle = self.nodes[i].process.as_ref().is_some_and(|p| p.disk_at.is_none() && !p.queue.is_empty());
        if idle {
            let at = self.now + self.job_time(i);
            if let Some(p) = &mut self.nodes[i].process {
                p.disk_at = Some(at);
            }
        }
        worked
    }

    /// Runs the job at the head of the queue; false if the machine crashed meanwhile.
    fn run_job(&mut self, i: NodeId) -> Result<bool, String> {
        let node = &mut self.nodes[i];
        let Some(p) = &mut node.process else { return Ok(false) };
        p.disk_at = None;
        node.disk.tick(self.now);
        let mut done = Vec::new();
        if let Some((session, job)) = p.queue.pop_front() {
            p.unwritten = p.unwritten.saturating_sub(write_bytes(&job));
            self.model.on_job(i, session, &job);
            p.store.run(session, job, &mut done);
            if p.queue.is_empty() && node.disk.is_dead().is_none() {
                p.store.idle(&mut done);
            }
        }
        self.coverage.jobs += 1;
        if self.crash_if_dead(i)? {
            return Ok(false);
        }
        self.check_disk_changes(i)?;
        self.take_answers(i, done)?;
        let next = self.nodes[i].process.as_ref().is_some_and(|p| !p.queue.is_empty());
        if next {
            let at = self.now + self.job_time(i);
            if let Some(p) = &mut self.nodes[i].process {
                p.disk_at = Some(at);
            }
        }
        Ok(true)
    }

    /// What has happened to names that everybody sees.
    pub(super) fn check_disk_changes(&mut self, i: NodeId) -> Result<(), String> {
        let disk = &self.nodes[i].disk;
        let (files, dirs) = disk.open_handles();
        if files + dirs > MAX_HANDLES {
            return Err(format!("node {i} has {files} files and {dirs} directories open"));
        }
        if disk.has_changes() {
            for change in disk.take_changes() {
                self.model.on_change(i, &change, &self.nodes[i].disk)?;
                self.say(|| format!("node {i}: {}", change.text()));
            }
        }
        Ok(())
    }

    fn take_answers(&mut self, i: NodeId, done: Vec<(SessionKey, Done)>) -> Result<(), String> {
        let troubles = self.troubles(i);
        for (session, mut answer) in done {
            let steady = self.run_of(i, session).is_none_or(|(client, run)| self.is_steady(client, run));
            let disk = &self.nodes[i].disk;
            match &mut answer {
                Done::Began { file, result: Ok(have) } => {
                    self.model.on_began((i, session, *file), have, disk, troubles, steady)?;
                }
                Done::ChunkStored { ok: false, .. } => self.coverage.refused_chunks += 1,
                Done::ChunkStored { file, chunk, ok: true } => {
                    self.model.on_chunk((i, session, *file), *chunk, disk, steady)?;
                }
                Done::Committed { file, .. } | Done::SinkFailed { file, .. } => {
                    self.model.on_committed(i, session, *file);
                }
                Done::Chunk { data, .. } => {
                    if let Some(p) = &mut self.nodes[i].process {
                        self.coverage.flips += u64::from(p.flip(data));
                    }
                }
                _ => {}
            }
            if !matches!(
                answer,
                Done::Written { .. } | Done::Chunk { .. } | Done::ChunkStored { ok: true, .. }
            ) {
                let answer = &answer;
                self.say(|| format!("node {i}: session {session}: {}", brief(answer)));
            }
            let now = self.now;
            if let Some(p) = &mut self.nodes[i].process {
                p.endpoint.handle_done(now, session, answer);
                let shares = RECEIVE_SHARE.max(p.endpoint.session_count() as u64 * MIN_SHARE);
                if p.unwritten > shares {
                    return Err(format!("node {i} holds {} bytes that wait for the disk", p.unwritten));
                }
            }
        }
        Ok(())
    }

    /// Takes in what a process reports; true if it is a client whose session is over.
    fn take_events(&mut self, i: NodeId) -> Result<bool, String> {
        let mut over = false;
        while let Some(p) = &mut self.nodes[i].process
            && let Some((session, event)) = p.endpoint.poll_event()
        {
            self.on_event(i, session, event, &mut over)?;
        }
        Ok(over)
    }

    fn on_event(
        &mut self,
        i: NodeId,
        session: SessionKey,
        event: Event,
        over: &mut bool,
    ) -> Result<(), String> {
        let Some(p) = &mut self.nodes[i].process else { return Ok(()) };
        if p.closed.contains(&session) {
            return Err(format!("node {i}: session {session} reports after its end: {event:?}"));
        }
        if let Event::Connected { .. } = &event
            && let Some(keys) = p.endpoint.copied_keys(session)
        {
            p.stolen.insert(session, keys);
        }
        match event {
            Event::Connected { client_id, .. } if i == 0 => {
                p.labels.insert(session, client_id.clone());
                self.say(|| format!("server: session {session} of {client_id}"));
                // A client that has heard nothing of a server before that was killed may say Hello to the next one.
                let life = self.nodes[0].runs;
                let before = self.admitted.insert(client_id.clone(), life);
                let run = self.run_of(0, session);
                let present = run.filter(|(client, run)| {
                    // Or has only just gone: its last datagrams may be under way.
                    let c = &self.nodes[*client];
                    c.runs == *run && (c.process.is_some() || c.start_at.is_some())
                });
                if before.is_some_and(|before| present.is_none() || before == life) {
                    return Err(format!("the server has admitted {client_id} twice"));
                }
            }
            Event::EntryFinished { direction, file, path, kind, sha256, error, .. } => {
                // What never got a number, since it could not be sent, has this one.
                if file.0 != u64::MAX
                    && !p.reported.insert((session, direction == Direction::Sending, file.0))
                {
                    return Err(format!("node {i}: session {session} reports file {} twice", file.0));
                }
                match error {
                    None if kind == EntryKind::File => {
                        self.on_delivered(i, session, direction, &path, sha256)?
                    }
                    None => {}
                    Some(error) => self.on_failed(i, session, path, error)?,
                }
            }
            Event::Completed => p.completed |= p.key == Some(session),
            Event::Closed(reason) => {
                p.closed.insert(session);
                let stats = p.endpoint.stats(session);
                let sent = p.sent_bytes.get(&session).copied().unwrap_or(0);
                if let Some(stats) = stats {
                    // A client's datagrams are known by its label; none may count twice.
                    let label = p.labels.get(&session).cloned();
                    let left = label.and_then(|label| self.left.get(&label)).copied();
                    if let Some(left) = left.filter(|left| stats.packets_received > *left) {
                        let took = stats.packets_received;
                        return Err(format!(
                            "session {session} took {took} packets of {left} that were sent"
                        ));
                    }
                    if stats.wire_bytes_sent != sent {
                        return Err(format!(
                            "node {i}: session {session} counts {} bytes sent, the socket {sent}",
                            stats.wire_bytes_sent
                        ));
                    }
                    if stats.file_bytes_done > stats.file_bytes_total {
                        return Err(format!(
                            "node {i}: session {session} has more bytes done than announced"
                        ));
                    }
                }
                *over |= p.key == Some(session);
                self.say(|| format!("node {i}: session {session} is over: {reason}"));
                self.on_closed(i, session, &reason)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The label of a session: that of its client's run.
    pub(super) fn label_of(&self, i: NodeId, session: SessionKey) -> Option<String> {
        if i > 0 {
            return Some(label(i, self.nodes[i].runs));
        }
        self.nodes[0].process.as_ref()?.labels.get(&session).cloned()
    }

    /// The client, and the run of its command, whose session this is.
    fn run_of(&self, i: NodeId, session: SessionKey) -> Option<(NodeId, u32)> {
        let label = self.label_of(i, session)?;
        let mut parts = label.split('-');
        let client = parts.nth(1)?.parse().ok().filter(|c| *c < self.nodes.len())?;
        Some((client, parts.nth(1)?.parse().ok()?))
    }

    fn on_closed(&mut self, i: NodeId, session: SessionKey, reason: &CloseReason) -> Result<(), String> {
        let Some((client, run)) = self.run_of(i, session) else { return Ok(()) };
        let mut causes = self.causes_of(client, run);
        if i == 0 {
            // A client that ends its command badly says goodbye, or not even that.
            let client_gone = self.nodes[client].runs > 1 || self.nodes[client].process.is_none();
            causes.link |= client_gone;
            causes.server_stopped |= client_gone || causes.stopped;
            causes.stopped |= causes.server_stopped;
        }
        causes.explain_close(reason).map_err(|e| format!("node {i}, session {session}: {e}"))
    }

    fn on_failed(
        &mut self,
        i: NodeId,
        session: SessionKey,
        path: Vec<u8>,
        error: StoreError,
    ) -> Result<(), String> {
        self.coverage.reported_errors += 1;
        self.say(|| format!("node {i}: session {session}: {error}"));
        if let Some((client, run)) = self.run_of(i, session) {
            let continued = self.is_continued(client, run);
            self.causes_of(client, run).explain(&error, continued).map_err(|e| format!("node {i}: {e}"))?;
        }
        if let Some(p) = &mut self.nodes[i].process
            && p.key == Some(session)
        {
            p.failures.push((path, error));
        }
        Ok(())
    }

    fn on_delivered(
        &mut self,
        i: NodeId,
        session: SessionKey,
        direction: Direction,
        path: &[u8],
        sha256: Option<[u8; 32]>,
    ) -> Result<(), String> {
        let Some((client, _)) = self.run_of(i, session) else { return Ok(()) };
        let way = self.plan.tasks[client - 1].way;
        // What the way to the server and back leaves there is nobody's.
        if way == Way::Echo && (direction == Direction::Sending) == (i > 0) {
            return Ok(());
        }
        let place = self.place_of(client, way, path);
        if self.causes[client].dest_removed && !self.nodes[place.0].disk.has(&place.1) {
            return Ok(());
        }
        self.model.on_promise(place.clone(), sha256, &self.nodes[place.0].disk)
    }

    /// A process ends of its own accord: what is queued for the disk is done, then everything is closed.
    pub(super) fn leave(&mut self, i: NodeId) -> Result<(), String> {
        while let Some(p) = &mut self.nodes[i].process {
            while let Some((session, job)) = p.endpoint.poll_job() {
                p.queue.push_back((session, job));
            }
            if p.queue.is_empty() {
                break;
            }
            p.disk_at = None;
            if !self.run_job(i)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// As `world::RECEIVE_BUDGET`.
const RECEIVE_SHARE: u64 = 1 << 20;

/// What a client calls itself in a run of its command.
pub(super) fn label(client: NodeId, run: u32) -> String {
    format!("client-{client}-run-{run}")
}

fn brief(done: &Done) -> String {
    match done {
        Done::Entries { entries, end } => {
            format!("{} entries found{}", entries.len(), if *end { ", all" } else { "" })
        }
        Done::SourceDigest { file, .. } => format!("source {} read", file.0),
        Done::Committed { file, result: Ok(_) } => format!("file {} is committed", file.0),
        other => format!("{other:?}"),
    }
}
