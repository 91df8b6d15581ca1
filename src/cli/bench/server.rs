//! Role: one real upload of random bytes to a server.
//! Owns: the temporary file that is sent.
//! Implements: `fulmar bench --server`.

use super::args::SweepArgs;
use super::plan::Setting;
use super::result::Run;
use super::simulate::{Mean, measured};
use crate::cli::exit::{self, Failure};
use crate::cli::host::{Family, Target};
use crate::cli::options::Output;
use crate::cli::progress::Progress;
use crate::cli::{client, key, paths, signals};
use crate::endpoint::config::EndpointConfig;
use crate::net::client::{ClientOptions, Observer};
use crate::net::trace::TraceFile;
use crate::session::event::{CloseReason, Event, Stats};
use crate::transfer::Request;
use crate::transfer::job::{Compression, Overwrite, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Name of the file on the server. Every upload replaces the one before, so that only one is left.
const NAME: &str = "fulmar-bench.bin";
/// Bytes written at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Where uploads go, and how.
pub struct Uplink {
    target: Target,
    options: ClientOptions,
    signal: Arc<AtomicI32>,
    dir: TempDir,
    output: Output,
}

impl Uplink {
    /// Gets key and address, and a place for the file.
    ///
    /// # Errors
    /// No key, no address, no temporary directory.
    pub fn new(args: &SweepArgs, server: &std::ffi::OsStr) -> Result<Self, Failure> {
        let target = Target::parse(server)?;
        if !target.path.is_empty() {
            return Err(Failure::usage("--server: takes no path: write HOST[:PORT]"));
        }
        let secret = key::client_secret(&args.key, &target.authority())?;
        let remotes = target.resolve(Family::Any)?;
        let mut endpoint = EndpointConfig::new(secret);
        endpoint.session.compress = Compression::None;
        let request =
            Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Always, no_resume: false };
        let options = ClientOptions {
            remotes,
            endpoint,
            request,
            roots: Vec::new(),
            dest: None,
            sim: None,
            retries: 0,
            trace: None,
            limit: None,
        };
        let path = std::env::temp_dir().join(format!("fulmar-bench-{}", &key::generate()?[..16]));
        let signal = signals::install(Some(path.clone()))?;
        Ok(Self { target, options, signal, dir: TempDir::make(path)?, output: Output::new(&args.output) })
    }

    /// The server, for people.
    pub fn authority(&self) -> String {
        self.target.authority()
    }

    /// 130 or 143 if a signal came.
    pub fn interrupted(&self) -> Option<u8> {
        signals::exit_code(&self.signal)
    }

    /// Sends `bytes` with this setting, and writes into `trace` what happens.
    ///
    /// # Errors
    /// The file cannot be written, or the client cannot be set up; what happens to the upload stands in [`Run`].
    pub fn upload(
        &self,
        setting: &Setting,
        seed: u64,
        bytes: u64,
        trace: Option<TraceFile>,
    ) -> Result<Run, Failure> {
        let file = self.dir.0.join(NAME);
        write_random(&file, seed, bytes)?;
        let source =
            paths::source(file.as_os_str()).map_err(|e| Failure::new(e.kind.exit_code(), e.message))?;
        let mut endpoint = self.options.endpoint.clone();
        endpoint.session.window_cap_bytes = setting.window_bytes;
        endpoint.session.chunk_size = setting.chunk_bytes;
        endpoint.session.controller = setting.controller;
        let options = ClientOptions {
            remotes: self.options.remotes.clone(),
            endpoint,
            request: self.options.request.clone(),
            roots: vec![source.root],
            dest: None,
            sim: None,
            retries: 0,
            trace,
            limit: None,
        };
        let mut progress = Progress::new("bench", self.output);
        progress.phase(&format!("{}: connecting to {}", setting.label, self.authority()));
        let mut watcher = Watcher { progress, connected: false, rtt: Mean::default(), failed: None };
        let start = client::now();
        let outcome = crate::net::client::run(options, self.signal.clone(), &mut watcher)?;
        let elapsed = client::now().saturating_duration_since(start);
        watcher.progress.clear();
        let error = match &outcome.reason {
            CloseReason::Done => watcher.failed.map(|error| (error.kind.exit_code(), error.message)),
            CloseReason::Interrupted => {
                Some((self.interrupted().unwrap_or(exit::OTHER), "interrupted".to_owned()))
            }
            reason => Some((reason.exit_code(), reason.to_string())),
        };
        let mut run = measured(seed, bytes, elapsed, &outcome.stats, error);
        run.rtt_ms = watcher.rtt.millis();
        run.queue_ms = run.rtt_ms.zip(run.min_rtt_ms).map(|(mean, least)| (mean - least).max(0.0));
        Ok(run)
    }
}

/// Random bytes from a seed, so that nothing on the way can shorten them.
fn write_random(path: &Path, seed: u64, bytes: u64) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("write", path, &error);
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BLOCK_BYTES as u64) as usize;
        rng.fill_bytes(&mut block[..n]);
        file.write_all(&block[..n]).map_err(failed)?;
        left -= n as u64;
    }
    Ok(())
}

/// Looks at the figures while an upload runs.
struct Watcher {
    progress: Progress,
    connected: bool,
    rtt: Mean,
    failed: Option<StoreError>,
}

impl Observer for Watcher {
    fn event(&mut self, event: &Event, _: &Stats) {
        match event {
            Event::Connected { .. } => self.connected = true,
            Event::FileStarted { direction, file, path, bytes } => {
                self.progress.started(*direction, *file, path, *bytes);
            }
            Event::EntryFinished { error: Some(error), .. } => self.failed = Some(error.clone()),
            _ => {}
        }
    }

    fn tick(&mut self, stats: &Stats) {
        self.rtt.add(stats.smoothed_rtt);
        self.progress.tick(client::now(), stats, self.connected);
    }
}

/// Removes itself, with everything in it.
struct TempDir(PathBuf);

impl TempDir {
    fn make(path: PathBuf) -> Result<Self, Failure> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(&path).map_err(|e| Failure::io("create", &path, &e))?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
