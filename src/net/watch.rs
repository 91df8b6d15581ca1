//! Role: what a server shows of itself: gathers figures in the loop, hands snapshots to a thread that serves them.
//! Owns: sums over sessions that ended, a small record of each that lives, the newest finished files.
//! Implements: docs/ARCHITECTURE.md, "Watching a server".

use super::client::NetError;
use crate::endpoint::Endpoint;
use crate::session::event::{CloseReason, Direction, Event, Stats};
use crate::session::refusal::Refusal;
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::job::EntryKind;
use mio::Waker;
use snapshot::{Counters, FileView, Histogram, SessionView, Snapshot};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod http;
mod metrics;
pub mod snapshot;

/// Between two snapshots: fast enough for eyes, and rare beside the thousands of turns of a busy loop.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// Finished files that are remembered for the dashboard.
const MAX_FILES: usize = 30;
/// Sessions that a snapshot names; of more, those that move most. Their sums count all.
const MAX_VIEWS: usize = 50;
/// Bytes of a name from a peer that are kept; a path may have thousands.
const MAX_NAME_BYTES: usize = 256;
/// Weight of the newest rate in the one that is shown.
const RATE_WEIGHT: f64 = 0.4;
/// Snapshots that may wait for the thread; when it is behind, newer ones are dropped.
const QUEUE_SNAPSHOTS: usize = 2;

/// What is served, and where.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// `--metrics`
    pub metrics: Option<SocketAddr>,
    /// `--dashboard`
    pub dashboard: Option<SocketAddr>,
    /// `--status-host`: names beside localhost and addresses under which a browser may ask.
    pub hosts: Vec<String>,
}

impl WatchOptions {
    /// Whether anything is served.
    pub fn is_wanted(&self) -> bool {
        self.metrics.is_some() || self.dashboard.is_some()
    }
}

/// What is kept of one session.
#[derive(Debug, Default)]
struct Record {
    client_id: String,
    request: String,
    path: String,
    /// What it is busy with.
    file: String,
    files: u64,
    failed: u64,
    /// When it was seen first.
    since: Option<Instant>,
    /// Wire bytes in and out, file bytes, at the last snapshot.
    before: (u64, u64, u64),
    /// The same as rates, bits per second.
    rates: (f64, f64, f64),
}

/// The bound addresses, before the server runs.
#[derive(Debug)]
pub struct Bound {
    http: http::Http,
}

impl Bound {
    /// Binds the addresses.
    ///
    /// # Errors
    /// An address cannot be bound; the sentence names it and its option.
    pub fn bind(options: &WatchOptions) -> Result<Self, NetError> {
        Ok(Self { http: http::Http::bind(options)? })
    }

    /// The real address of `--metrics`.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.http.address(|serves| serves.metrics)
    }

    /// The real address of `--dashboard`.
    pub fn dashboard_addr(&self) -> Option<SocketAddr> {
        self.http.address(|serves| serves.dashboard)
    }
}

/// The loop's side.
#[derive(Debug)]
pub(super) struct Watch {
    started: Instant,
    about: About,
    records: HashMap<SessionKey, Record>,
    ended: Counters,
    files: VecDeque<FileView>,
    rtt: Histogram,
    queue_delay: Histogram,
    next_at: Instant,
    last: Option<(Instant, Counters)>,
    snapshots: Option<SyncSender<Box<Snapshot>>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

/// What does not change.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) listen: SocketAddr,
    pub(super) max_sessions: usize,
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(now: Instant, bound: Bound, about: About) -> Result<Self, NetError> {
        let (snapshots, incoming) = std::sync::mpsc::sync_channel(QUEUE_SNAPSHOTS);
        let waker = bound.http.waker();
        let run = move || bound.http.run(&incoming);
        let thread = std::thread::Builder::new().name("status".into()).spawn(run);
        let thread = thread.map_err(|e| NetError {
            exit_code: 1,
            message: format!("cannot start the thread for --metrics and --dashboard: {e}"),
        })?;
        let mut watch = Self::new(now, about, snapshots, waker);
        watch.thread = Some(thread);
        Ok(watch)
    }

    /// Nothing counted yet; snapshots go into this queue, and whoever takes them is woken by that.
    fn new(now: Instant, about: About, snapshots: SyncSender<Box<Snapshot>>, waker: Arc<Waker>) -> Self {
        Self {
            started: now,
            about,
            records: HashMap::new(),
            ended: Counters::default(),
            files: VecDeque::new(),
            rtt: Histogram::default(),
            queue_delay: Histogram::default(),
            next_at: now,
            last: None,
            snapshots: Some(snapshots),
            waker,
            thread: None,
        }
    }

    /// One event of a session; `stats` as they are now.
    pub(super) fn event(&mut self, now: Instant, session: SessionKey, event: &Event, stats: Option<&Stats>) {
        match event {
            Event::Connected { client_id, .. } => {
                let record = self.records.entry(session).or_default();
                record.client_id = shown(client_id.as_bytes());
                record.since.get_or_insert(now);
            }
            Event::Requested(request) => {
                let record = self.records.entry(session).or_default();
                let (name, path) = asked(request);
                (record.request, record.path) = (name.into(), path);
            }
            Event::FileStarted { path, .. } => {
                self.records.entry(session).or_default().file = shown(path);
            }
            Event::EntryFinished { direction, path, kind: EntryKind::File, bytes, error, .. } => {
                self.file_finished(now, session, *direction, path, *bytes, error.is_some());
            }
            Event::EntryFinished { error: Some(_), .. } => {
                self.records.entry(session).or_default().failed += 1;
            }
            Event::Closed(reason) => {
                self.records.remove(&session);
                if let Some(stats) = stats {
                    self.ended.add(stats);
                }
                self.ended.sessions += 1;
                match reason {
                    CloseReason::Done => self.ended.sessions_done += 1,
                    CloseReason::Refused(_) => self.ended.sessions_refused += 1,
                    _ => self.ended.sessions_failed += 1,
                }
            }
            _ => {}
        }
    }

    fn file_finished(
        &mut self,
        now: Instant,
        session: SessionKey,
        direction: Direction,
        path: &[u8],
        bytes: u64,
        is_failed: bool,
    ) {
        let record = self.records.entry(session).or_default();
        let counts = match direction {
            Direction::Sending => &mut self.ended.files_sent,
            Direction::Receiving => &mut self.ended.files_received,
        };
        if is_failed {
            record.failed += 1;
            counts.failed += 1;
        } else {
            record.files += 1;
            counts.done += 1;
            counts.bytes += bytes;
        }
        if self.files.len() >= MAX_FILES {
            self.files.pop_back();
        }
        self.files.push_front(FileView {
            at_s: now.saturating_duration_since(self.started).as_secs(),
            session,
            path: shown(path),
            is_sent: direction == Direction::Sending,
            bytes,
            is_failed,
        });
    }

    /// Hands over a snapshot, if it is time. Never waits.
    pub(super) fn publish(&mut self, now: Instant, core: &Endpoint) {
        if now < self.next_at {
            return;
        }
        self.next_at = now + PUBLISH_EVERY;
        let Some(snapshots) = &self.snapshots else { return };
        let snapshots = snapshots.clone();
        let snapshot = Box::new(self.snapshot(now, core));
        match snapshots.try_send(snapshot) {
            // Waking fails only when the kernel has no memory left; the next one may do.
            Ok(()) => drop(self.waker.wake()),
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => {
                log::warn!("--metrics and --dashboard have stopped: their thread has failed");
                self.snapshots = None;
            }
        }
    }

    fn snapshot(&mut self, now: Instant, core: &Endpoint) -> Snapshot {
        let mut counters = self.ended.clone();
        let mut views = Vec::new();
        let seconds = self.last.as_ref().map(|(at, _)| now.saturating_duration_since(*at).as_secs_f64());
        core.for_each_session(|session, remote, stats| {
            counters.sessions += 1;
            counters.add(stats);
            if !stats.smoothed_rtt.is_zero() {
                self.rtt.observe(stats.smoothed_rtt);
            }
            if let Some(delay) = stats.queue_delay {
                self.queue_delay.observe(delay);
            }
            let record = self.records.entry(session).or_default();
            record.update(seconds, stats);
            views.push(record.view(now, session, remote, stats));
        });
        let rate = |view: &SessionView| view.in_bits_per_sec + view.out_bits_per_sec;
        views.sort_by(|a, b| rate(b).cmp(&rate(a)).then(a.session.cmp(&b.session)));
        let sessions_now = views.len();
        views.truncate(MAX_VIEWS);
        let before = self.last.take().map(|(_, before)| before).unwrap_or_default();
        let (_, half_open) = core.admission();
        let refusals = core.refusals();
        let snapshot = Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            listen: self.about.listen.to_string(),
            started_unix_s: started_unix_s(now.saturating_duration_since(self.started)),
            uptime_s: now.saturating_duration_since(self.started).as_secs_f64(),
            sessions_now,
            sessions_max: self.about.max_sessions,
            half_open,
            rates: counters.rates_since(&before, seconds),
            refusals: Refusal::ALL.map(|why| (why.name(), refusals.get(why))).into(),
            sessions: views,
            files: self.files.iter().cloned().collect(),
            rtt: self.rtt.clone(),
            queue_delay: self.queue_delay.clone(),
            counters: counters.clone(),
        };
        self.last = Some((now, counters));
        snapshot
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.snapshots = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Record {
    /// New rates, `seconds` after the last ones.
    fn update(&mut self, seconds: Option<f64>, stats: &Stats) {
        let at = (stats.wire_bytes_received, stats.wire_bytes_sent, stats.file_bytes_done);
        let before = std::mem::replace(&mut self.before, at);
        let Some(seconds) = seconds.filter(|s| *s > 0.0) else { return };
        let mix = |rate: f64, now: u64, before: u64| {
            let new = 8.0 * now.saturating_sub(before) as f64 / seconds;
            rate + RATE_WEIGHT * (new - rate)
        };
        self.rates = (
            mix(self.rates.0, at.0, before.0),
            mix(self.rates.1, at.1, before.1),
            mix(self.rates.2, at.2, before.2),
        );
    }

    fn view(&mut self, now: Instant, session: SessionKey, remote: SocketAddr, stats: &Stats) -> SessionView {
        let since = *self.since.get_or_insert(now);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let is_measured = !stats.smoothed_rtt.is_zero();
        SessionView {
            session,
            remote: remote.to_string(),
            client_id: self.client_id.clone(),
            request: self.request.clone(),
            path: self.path.clone(),
            file: self.file.clone(),
            age_s: now.saturating_duration_since(since).as_secs_f64(),
            files: self.files,
            failed: self.failed,
            file_bytes_done: stats.file_bytes_done,
            file_bytes_total: stats.file_bytes_total,
            in_bits_per_sec: self.rates.0 as u64,
            out_bits_per_sec: self.rates.1 as u64,
            goodput_bits_per_sec: self.rates.2 as u64,
            loss_in_pct: snapshot::percent(stats.nacks_sent, stats.packets_received + stats.nacks_sent),
            loss_out_pct: stats.loss_pct(),
            repaired: stats.packets_repaired,
            rtt_ms: is_measured.then(|| ms(stats.smoothed_rtt)),
            min_rtt_ms: is_measured.then(|| ms(stats.min_rtt)),
            queue_ms: stats.queue_delay.map(ms),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "Prometheus wants to know when the server was started")]
fn started_unix_s(uptime: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(uptime).as_secs()
}

/// A name from a peer: lossy UTF-8 of bounded length. Pages show it as text, never as markup.
fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(MAX_NAME_BYTES)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < name.len() {
        text.push_str("...");
    }
    text
}

/// What is asked for, and where.
fn asked(request: &Request) -> (&'static str, String) {
    match request {
        Request::Put { dest, .. } => ("put", format!("/{}", shown(dest))),
        Request::Get { paths, .. } => {
            let first = paths.first().map_or(&[][..], Vec::as_slice);
            let more = match paths.len() {
                0 | 1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            ("get", format!("/{}{more}", shown(first)))
        }
        Request::List { path } => ("ls", format!("/{}", shown(path))),
        Request::Echo { .. } => ("echo", String::new()),
    }
}

#[cfg(test)]
mod tests;
