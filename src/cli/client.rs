//! Role: runs one client request for put, get, ls and echo: connects what the engine says with report and progress.
//! Owns: the observer of a running request.
//! Implements: the client side of `fulmar --help`.

use super::args::{ChunkArgs, ConnectArgs, KeyArgs, LinkArgs};
use super::exit::Failure;
use super::host::Target;
use super::progress::Progress;
use super::report::{Ended, FileResult, Report};
use super::{key, key_log, limit, options, signals, trace};
use crate::endpoint::config::EndpointConfig;
use crate::endpoint::pursuit::Notice;
use crate::net::client::{self, ClientOptions, NetError, Observer, Outcome};
use crate::net::stream::StreamPipe;
use crate::session::event::{Direction, Event, Stats};
use crate::transfer::Request;
use crate::transfer::job::{Dest, EntryKind, FileId, SourceEntry, SourceRoot, StoreError};
use crate::transfer::sync::SyncOptions;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Instant;

/// What a command makes of the results that come in.
pub trait Results {
    /// An entry is done (`error` is `None`) or failed.
    fn entry(&mut self, direction: Direction, file: FileResult, error: Option<&StoreError>);
    /// An entry is there already, equal.
    fn unchanged(&mut self, path: &[u8], kind: EntryKind, bytes: u64) {
        let _ = (path, kind, bytes);
    }
    /// A dry run: this file would go.
    fn planned(&mut self, path: &[u8], bytes: u64) {
        let _ = (path, bytes);
    }
    /// The source lacks it: it was removed, or would be.
    fn removed(&mut self, path: &[u8], kind: EntryKind) {
        let _ = (path, kind);
    }
    /// Nothing more is removed.
    fn removal_failed(&mut self, error: &StoreError) {
        let _ = error;
    }
    /// An entry of a listing.
    fn listed(&mut self, entry: &SourceEntry) {
        let _ = entry;
    }
}

impl Results for Report {
    fn entry(&mut self, _: Direction, file: FileResult, error: Option<&StoreError>) {
        match error {
            None => self.done(file),
            Some(error) => self.failed(file, error),
        }
    }

    fn unchanged(&mut self, path: &[u8], kind: EntryKind, bytes: u64) {
        self.found_unchanged(path, kind, bytes);
    }

    fn removed(&mut self, path: &[u8], kind: EntryKind) {
        self.was_removed(path, kind);
    }

    fn removal_failed(&mut self, error: &StoreError) {
        self.not_removed(&error.message);
    }

    fn planned(&mut self, path: &[u8], bytes: u64) {
        self.would_go(path, EntryKind::File, bytes);
    }
}

/// Options of a client command, all checked.
#[derive(Debug)]
pub struct Setup {
    /// The server.
    pub target: Target,
    /// For the engine, complete but for request, roots and destination.
    pub options: ClientOptions,
}

impl Setup {
    /// Checks the options, then gets the key, then resolves the host: what is cheap to check comes first.
    pub fn new(
        target: Target,
        link: &LinkArgs,
        connect: &ConnectArgs,
        chunk: &ChunkArgs,
        key_args: &KeyArgs,
    ) -> Result<Self, Failure> {
        let session = options::client_session(link, connect, chunk)?;
        let retries = options::retries(connect)?;
        let sim = options::link_sim(link)?;
        let trace = trace::open(link.trace.as_deref(), false)?;
        let limit = limit::live(link, 1)?;
        let secret = key::client_secret(key_args, &target.authority())?;
        let remotes = target.resolve(options::family(connect))?;
        let mut endpoint = EndpointConfig::new(secret);
        endpoint.session = session;
        endpoint.session.key_log = key_log::from_environment()?;
        let request = Request::List { path: Vec::new() };
        let (roots, dest) = (Vec::new(), None);
        let options = ClientOptions { remotes, endpoint, request, roots, dest, sim, retries, trace, limit };
        Ok(Self { target, options })
    }

    /// The same, with these wishes.
    pub fn with_sync(mut self, sync: SyncOptions) -> Self {
        self.options.endpoint.session.sync = sync;
        self
    }

    /// The same; whether an earlier run of it was broken off.
    pub fn going_on(mut self, continues: bool) -> Self {
        self.options.endpoint.session.continues = continues;
        self
    }

    /// Runs the request to its end, with signal handlers in place.
    pub fn run(
        self,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<(PathBuf, Dest)>,
        results: &mut dyn Results,
        progress: Progress,
    ) -> Ended {
        let signal = match signals::install(None) {
            Ok(signal) => signal,
            Err(failure) => return Ended::before_start(failure),
        };
        let options = ClientOptions { request, roots, dest, ..self.options };
        run(options, &self.target.authority(), signal, results, progress)
    }
}

/// Runs a request to its end.
pub fn run(
    options: ClientOptions,
    host: &str,
    signal: Arc<AtomicI32>,
    results: &mut dyn Results,
    progress: Progress,
) -> Ended {
    watch(host, signal.clone(), results, progress, |watcher| client::run(options, signal, watcher))
}

/// The same over a byte stream.
pub fn run_over_stream(
    stream: StreamPipe,
    options: ClientOptions,
    host: &str,
    signal: Arc<AtomicI32>,
    results: &mut dyn Results,
    progress: Progress,
) -> Ended {
    watch(host, signal.clone(), results, progress, |watcher| {
        client::run_over_stream(stream, options, signal, watcher)
    })
}

fn watch(
    host: &str,
    signal: Arc<AtomicI32>,
    results: &mut dyn Results,
    mut progress: Progress,
    run: impl FnOnce(&mut dyn Observer) -> Result<Outcome, NetError>,
) -> Ended {
    let start = now();
    progress.phase(&format!("connecting to {host}"));
    let mut watcher = Watcher { results, progress, connected: false, resumed: HashMap::new() };
    let outcome = run(&mut watcher).map_err(Failure::from);
    let connected = watcher.connected;
    watcher.progress.clear();
    Ended {
        outcome,
        signal: signals::exit_code(&signal),
        connected,
        elapsed: now().saturating_duration_since(start),
    }
}

#[allow(clippy::disallowed_methods)] // The command line measures what the user waits for.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Passes on what the event loop says.
struct Watcher<'a> {
    results: &'a mut dyn Results,
    progress: Progress,
    connected: bool,
    /// Bytes of files under way that had come before.
    resumed: HashMap<(Direction, FileId), u64>,
}

impl Observer for Watcher<'_> {
    fn event(&mut self, event: &Event, _: &Stats) {
        match event {
            Event::Connected { .. } => {
                self.connected = true;
                self.progress.phase("connected");
            }
            Event::FileStarted { direction, file, path, bytes } => {
                self.progress.started(*direction, *file, path, *bytes);
            }
            Event::FileResumed { direction, file, bytes } => {
                *self.resumed.entry((*direction, *file)).or_default() += bytes;
            }
            Event::EntryFinished { direction, file, path, kind, bytes, sha256, error } => {
                let is_file = *kind == EntryKind::File;
                self.progress.finished(*direction, *file, *bytes, error.is_none() && is_file);
                let result = FileResult {
                    path: path.clone(),
                    kind: *kind,
                    bytes: *bytes,
                    sha256: *sha256,
                    resumed_bytes: self.resumed.remove(&(*direction, *file)).unwrap_or_default(),
                    ..FileResult::default()
                };
                self.results.entry(*direction, result, error.as_ref());
            }
            Event::EntryUnchanged { path, kind, bytes, .. } => self.results.unchanged(path, *kind, *bytes),
            Event::EntryPlanned { path, bytes, .. } => self.results.planned(path, *bytes),
            Event::EntryRemoved { path, kind, .. } => self.results.removed(path, *kind),
            Event::RemovalFailed(error) => self.results.removal_failed(error),
            Event::Listed(entry) => self.results.listed(entry),
            _ => {}
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Silent => self.progress.phase("the server is silent; asking whether it is still there"),
            Notice::Heard => self.progress.phase("the server is back"),
            Notice::Lost => self.progress.trouble("lost the server; trying again"),
            Notice::Resumed => self.progress.trouble("reached the server anew; going on where it was"),
        }
    }

    fn tick(&mut self, stats: &Stats) {
        self.progress.tick(now(), stats, self.connected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::ProgressWhen;
    use crate::cli::options::Output;
    use crate::transfer::job::StoreErrorKind;

    #[test]
    fn events_reach_report_and_progress() {
        let output = Output { quiet: true, progress: ProgressWhen::Never, json: false };
        let mut report = Report::new("put", output);
        let progress = Progress::new("put", output);
        let resumed = HashMap::new();
        let mut watcher = Watcher { results: &mut report, progress, connected: false, resumed };
        let stats = Stats::default();
        let remote = std::net::SocketAddr::from(([127, 0, 0, 1], 5770));
        watcher.tick(&stats);
        watcher.event(&Event::Connected { remote, client_id: String::new() }, &stats);
        assert!(watcher.connected);
        let refused = StoreError { kind: StoreErrorKind::Exists, message: "b exists".into() };
        let entries = [
            ("d", EntryKind::Dir, 0, None),
            ("d/a", EntryKind::File, 7, None),
            ("d/l", EntryKind::Symlink, 0, None),
            ("d/b", EntryKind::File, 9, Some(refused)),
            ("d", EntryKind::DirEnd, 0, None),
        ];
        for (id, (path, kind, bytes, error)) in (0u64..).zip(entries) {
            let event = Event::EntryFinished {
                direction: Direction::Sending,
                file: FileId(id),
                path: path.into(),
                kind,
                bytes,
                sha256: (kind == EntryKind::File).then_some([1; 32]),
                error,
            };
            watcher.event(&event, &stats);
        }
        drop(watcher);
        let totals = report.totals;
        assert_eq!((totals.ok, totals.failed, totals.dirs, totals.bytes), (2, 1, 1, 7));
        assert_eq!(report.listed.len(), 2);
    }
}
