//! Role: requests of a client: put, get, list.
//! Owns: the addresses, the settings and the stop flag of one client.
//! Implements: the "Library" section of the crate's documentation.

use super::{Error, ErrorKind, Key, Stop};
use crate::cli::paths;
use crate::endpoint::config::EndpointConfig;
use crate::impair::Spec;
use crate::net::client::{ClientOptions, Observer, run};
use crate::session::event::{CloseReason, Event, Stats};
use crate::transfer::Request;
use crate::transfer::job::{Compression, Dest, EntryKind, Overwrite, SourceRoot};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a client's requests are made. The defaults are those of the program.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Send at most so much, IP bytes a second.
    pub limit_bytes_per_sec: Option<u64>,
    /// At most so many bytes in flight.
    pub window_bytes: Option<u64>,
    /// Bytes of a file that are compressed, checked and resumed as one: 1 KiB to 4 MiB.
    pub chunk_size: u32,
    /// Compression.
    pub compress: Compression,
    /// Give up when the server has not answered for so long.
    pub connect_timeout: Duration,
    /// Give up after so long without hearing from the server.
    pub timeout: Duration,
    /// Replace files that exist.
    pub overwrite: bool,
    /// Go on where an interrupted run of the same request broke off.
    pub resume: bool,
    /// A name for this client in the server's log, at most 64 bytes.
    pub label: String,
    /// An impaired link, as `--sim` takes it (`loss=10%,delay=50ms`), for tests.
    pub impairment: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let session = crate::endpoint::config::SessionConfig::default();
        Self {
            limit_bytes_per_sec: session.limit_bytes_per_sec,
            window_bytes: session.window_cap_bytes,
            chunk_size: session.chunk_size,
            compress: session.compress,
            connect_timeout: session.connect_timeout,
            timeout: session.idle_timeout,
            overwrite: false,
            resume: true,
            label: session.client_id,
            impairment: None,
        }
    }
}

/// What stands in a directory, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its path: for a `put` below the destination, for a `get` and a `list` below the path asked for. Bytes, as file
    /// systems have them, with `/` between components.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes (files only).
    pub bytes: u64,
    /// The SHA-256 that both sides agree on (files that were transferred).
    pub sha256: Option<[u8; 32]>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What happens while a request runs. More variants may come.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Update<'a> {
    /// The server has proved that it has the key.
    Connected(SocketAddr),
    /// A file begins that does not ride inside the list of files (small ones do).
    Started {
        /// Its path.
        path: &'a [u8],
        /// Its size.
        bytes: u64,
    },
    /// A file, directory or link is done for good: confirmed by the receiver, or failed.
    Finished(&'a Entry),
    /// About ten times a second: counters and gauges. `file_bytes_done` of `file_bytes_total` is the progress.
    Progress(&'a Stats),
}

/// How a request went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// Every file, directory and link, in the order in which they were done. For a `list`, what is there.
    pub entries: Vec<Entry>,
    /// The figures of the whole session.
    pub stats: Stats,
}

impl Outcome {
    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.error.is_some())
    }
}

/// A client of one server. Each request is a session of its own and blocks until it is done; clients in several
/// threads do not know of each other.
///
/// While a request runs, SIGINT and SIGTERM end it (see [`ErrorKind::Interrupted`]); afterwards they have no effect
/// until the program installs handlers of its own.
///
/// ```no_run
/// use fulmar::{Client, Key, Update};
///
/// let key = Key::from_file("fulmar.key")?;
/// let client = Client::new("server.example.org:5770", key)?;
/// let outcome = client.put(&["big.iso", "photos"], "incoming/", |update| {
///     if let Update::Progress(stats) = update {
///         println!("{} of {} bytes", stats.file_bytes_done, stats.file_bytes_total);
///     }
/// })?;
/// assert_eq!(outcome.failed().count(), 0);
/// # Ok::<(), fulmar::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    remotes: Vec<SocketAddr>,
    key: Key,
    stop: Stop,
    /// How requests are made; change it between them.
    pub settings: Settings,
}

impl Client {
    /// A client of the server at this address: `("host", port)`, `"host:port"` or a [`SocketAddr`]. Of several addresses
    /// of a name each is tried. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`]: the name has no address.
    pub fn new(server: impl ToSocketAddrs, key: Key) -> Result<Self, Error> {
        let remotes = server.to_socket_addrs().map_err(|e| {
            Error::new(ErrorKind::Unreachable, format!("cannot find the address of the server: {e}"))
        })?;
        Ok(Self { remotes: remotes.collect(), key, stop: Stop::default(), settings: Settings::default() })
    }

    /// Ends the request that runs, from another thread.
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Uploads files and directories. With a trailing slash (or nothing in it) `dest` is a directory below the one that is
    /// served, else the new name of the only source. Sources are named as with `cp -r`.
    ///
    /// # Errors
    /// A source cannot be read, or the session failed. Single files that failed are entries of the [`Outcome`].
    pub fn put<P: AsRef<Path>>(
        &self,
        sources: &[P],
        dest: &str,
        progress: impl FnMut(Update<'_>),
    ) -> Result<Outcome, Error> {
        let roots = sources.iter().map(|source| paths::source(source.as_ref().as_os_str()).map(|s| s.root));
        let roots = roots.collect::<Result<Vec<SourceRoot>, _>>();
        let roots = roots.map_err(|e| Error::new(super::kind_of(e.kind.exit_code()), e.message))?;
        let unnamed = roots.len() > 1 || roots.iter().any(|root| root.name.is_empty());
        let request = Request::Put {
            dest: dest.trim_matches('/').into(),
            into_dir: dest.is_empty() || dest.ends_with('/') || unnamed,
            overwrite: self.overwrite(),
            no_resume: !self.settings.resume,
        };
        self.request(request, roots, None, progress)
    }

    /// Downloads paths below the served directory (an empty one is all of it) into `dest`: a directory if it is one, has a
    /// trailing slash, or there are several paths; else the new name. Nothing is ever written outside.
    ///
    /// # Errors
    /// The destination cannot be used, or the session failed. Single files that failed are entries of the [`Outcome`].
    pub fn get<P: AsRef<Path>>(
        &self,
        paths: &[P],
        dest: impl AsRef<Path>,
        progress: impl FnMut(Update<'_>),
    ) -> Result<Outcome, Error> {
        let wanted: Vec<Vec<u8>> = paths.iter().map(|p| p.as_ref().as_os_str().as_bytes().to_vec()).collect();
        let several = wanted.len() > 1;
        let into_dir = several || wanted.iter().any(Vec::is_empty);
        let place = paths::destination(dest.as_ref(), several, into_dir, self.overwrite());
        let (dir, mut place) =
            place.map_err(|failure| Error::new(super::kind_of(failure.exit_code), failure.message))?;
        place.no_resume = !self.settings.resume;
        let (compress, chunk_size) = (self.settings.compress, self.settings.chunk_size);
        self.request(
            Request::Get { paths: wanted, compress, chunk_size },
            Vec::new(),
            Some((dir, place)),
            progress,
        )
    }

    /// What is below one path of the server: one level, or the one file.
    ///
    /// # Errors
    /// The session failed, or there is nothing of that name.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<Entry>, Error> {
        let request = Request::List { path: path.as_ref().as_os_str().as_bytes().to_vec() };
        let outcome = self.request(request, Vec::new(), None, |_| ())?;
        if let Some(why) = outcome.failed().find_map(|entry| entry.error.clone()) {
            return Err(Error::new(ErrorKind::Refused, why));
        }
        Ok(outcome.entries)
    }

    fn overwrite(&self) -> Overwrite {
        if self.settings.overwrite { Overwrite::Always } else { Overwrite::Never }
    }

    fn request(
        &self,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<(PathBuf, Dest)>,
        progress: impl FnMut(Update<'_>),
    ) -> Result<Outcome, Error> {
        let Settings { limit_bytes_per_sec, window_bytes, chunk_size, compress, .. } = self.settings;
        let mut endpoint = EndpointConfig::new(self.key.0.clone());
        let session = &mut endpoint.session;
        (session.limit_bytes_per_sec, session.window_cap_bytes) = (limit_bytes_per_sec, window_bytes);
        (session.chunk_size, session.compress) = (chunk_size, compress);
        session.connect_timeout = self.settings.connect_timeout;
        session.idle_timeout = self.settings.timeout;
        session.client_id = self.settings.label.clone();
        let sim = self.settings.impairment.as_deref().map(str::parse::<Spec>).transpose();
        let sim = sim.map_err(|e| Error::new(ErrorKind::Other, format!("impairment: {e}")))?;
        let (remotes, retries, trace) = (self.remotes.clone(), 0, None);
        let limit = None;
        let options = ClientOptions { remotes, endpoint, request, roots, dest, sim, retries, trace, limit };
        let mut watcher = Watcher { entries: Vec::new(), progress };
        let ended = run(options, self.stop.0.clone(), &mut watcher)?;
        match ended.reason {
            CloseReason::Done => Ok(Outcome { entries: watcher.entries, stats: ended.stats }),
            reason => Err(reason.into()),
        }
    }
}

/// Turns what the loop says into updates, and keeps the entries.
struct Watcher<F> {
    entries: Vec<Entry>,
    progress: F,
}

impl<F: FnMut(Update<'_>)> Observer for Watcher<F> {
    fn event(&mut self, event: &Event, _: &Stats) {
        let entry = match event {
            Event::Connected { remote, .. } => return (self.progress)(Update::Connected(*remote)),
            Event::FileStarted { path, bytes, .. } => {
                return (self.progress)(Update::Started { path, bytes: *bytes });
            }
            // The end of a directory is the wire's business.
            Event::EntryFinished { kind: EntryKind::DirEnd, error: None, .. } => return,
            Event::EntryFinished { path, kind, bytes, sha256, error, .. } => Entry {
                path: path.clone(),
                kind: *kind,
                bytes: *bytes,
                sha256: *sha256,
                error: error.as_ref().map(ToString::to_string),
            },
            Event::Listed(entry) => Entry {
                path: entry.path.clone(),
                kind: entry.kind,
                bytes: entry.size,
                sha256: None,
                error: None,
            },
            _ => return,
        };
        (self.progress)(Update::Finished(&entry));
        self.entries.push(entry);
    }

    fn tick(&mut self, stats: &Stats) {
        (self.progress)(Update::Progress(stats));
    }
}
