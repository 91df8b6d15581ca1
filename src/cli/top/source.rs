//! Role: gets a server's snapshots over HTTP: once, or as server-sent events that go on.
//! Owns: the thread that listens, and the newest snapshot.
//! Implements: the client side of docs/ARCHITECTURE.md, "Watching a server".

use crate::cli::exit::{self, Failure};
use crate::cli::text;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long to wait for the connection and for each answer; events come twice a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the next attempt when the server is gone.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest line that is read: a snapshot with fifty sessions has some 40 KiB, the history 60.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Points of the history that are kept: ten minutes.
const MAX_HISTORY: usize = 1200;

/// A snapshot, as far as it is shown; see `net::watch::snapshot`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    pub(super) version: String,
    pub(super) listen: String,
    pub(super) uptime_s: f64,
    pub(super) sessions_now: u64,
    pub(super) rates: Rates,
    pub(super) refusals: Vec<(String, u64)>,
    pub(super) sessions: Vec<Session>,
    pub(super) files: Vec<File>,
    pub(super) counters: Counters,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rates {
    pub(super) in_bits_per_sec: u64,
    pub(super) out_bits_per_sec: u64,
    pub(super) loss_in_pct: f64,
    pub(super) loss_out_pct: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Session {
    pub(super) session: u64,
    pub(super) remote: String,
    pub(super) client_id: String,
    pub(super) request: String,
    pub(super) path: String,
    pub(super) age_s: f64,
    pub(super) file_bytes_done: u64,
    pub(super) file_bytes_total: u64,
    pub(super) in_bits_per_sec: u64,
    pub(super) out_bits_per_sec: u64,
    pub(super) loss_in_pct: f64,
    pub(super) loss_out_pct: f64,
    pub(super) rtt_ms: Option<f64>,
    pub(super) queue_ms: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) at_s: u64,
    pub(super) session: u64,
    pub(super) path: String,
    pub(super) is_sent: bool,
    pub(super) bytes: u64,
    pub(super) is_failed: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counters {
    pub(super) sessions: u64,
    pub(super) sessions_failed: u64,
    pub(super) wire_bytes_sent: u64,
    pub(super) wire_bytes_received: u64,
    pub(super) packets_repaired: u64,
    pub(super) files_received: Files,
    pub(super) files_sent: Files,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Files {
    pub(super) done: u64,
    pub(super) failed: u64,
}

/// What the screen shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) snapshot: Snapshot,
    /// Bits per second in and out, oldest first.
    pub(super) history: Vec<(u64, u64)>,
    /// Why nothing comes, if so.
    pub(super) trouble: Option<String>,
}

/// A server that is listened to.
pub(super) struct Source {
    status: Arc<Mutex<Status>>,
}

impl Source {
    /// Starts the thread, which goes on until the process ends.
    pub(super) fn start(address: SocketAddr, host: String, first: Snapshot) -> Result<Self, Failure> {
        let status = Arc::new(Mutex::new(Status { snapshot: first, ..Status::default() }));
        let theirs = status.clone();
        let listen = move || {
            loop {
                let why = match follow(address, &host, &theirs) {
                    Ok(()) => format!("{host} has closed the connection"),
                    Err(failure) => failure.message,
                };
                lock(&theirs).trouble = Some(why);
                pause();
            }
        };
        std::thread::Builder::new().name("top".into()).spawn(listen).map_err(|error| {
            Failure::new(exit::OTHER, format!("cannot start a thread: {}", text::io_error(&error)))
        })?;
        Ok(Self { status })
    }

    /// What is known now.
    pub(super) fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

fn lock(status: &Mutex<Status>) -> std::sync::MutexGuard<'_, Status> {
    // Nothing that runs under the lock can leave it half changed.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::disallowed_methods, reason = "this thread only waits for a server to come back")]
fn pause() {
    std::thread::sleep(RETRY_AFTER);
}

/// One snapshot.
pub(super) fn fetch(address: SocketAddr, host: &str) -> Result<Snapshot, Failure> {
    let mut reader = ask(address, host, "/snapshot.json")?;
    let mut body = Vec::new();
    let read = (&mut reader).take(MAX_LINE_BYTES).read_to_end(&mut body);
    read.map_err(|error| broken(host, &error))?;
    serde_json::from_slice(&body).map_err(|_| no_dashboard(host))
}

/// Takes snapshots until the connection ends.
fn follow(address: SocketAddr, host: &str, status: &Mutex<Status>) -> Result<(), Failure> {
    let mut reader = ask(address, host, "/events")?;
    let mut kind = String::new();
    while let Some(line) = line(&mut reader).map_err(|error| broken(host, &error))? {
        if let Some(name) = line.strip_prefix("event: ") {
            kind = name.to_owned();
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let mut status = lock(status);
        match kind.as_str() {
            "history" => {
                type Point = (f64, u64, u64, f64, f64, u64);
                let points: Vec<Point> = serde_json::from_str(data).map_err(|_| no_dashboard(host))?;
                status.history = points.iter().map(|(_, received, sent, ..)| (*received, *sent)).collect();
            }
            "snapshot" => {
                let snapshot: Snapshot = serde_json::from_str(data).map_err(|_| no_dashboard(host))?;
                status.history.push((snapshot.rates.in_bits_per_sec, snapshot.rates.out_bits_per_sec));
                let surplus = status.history.len().saturating_sub(MAX_HISTORY);
                status.history.drain(..surplus);
                status.snapshot = snapshot;
                status.trouble = None;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sends a request; what stands after the head of a good answer.
fn ask(address: SocketAddr, host: &str, path: &str) -> Result<BufReader<TcpStream>, Failure> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| {
        Failure::new(
            exit::UNREACHABLE,
            format!(
                "cannot reach {} (TCP): {}; start the server with --dashboard {}, or give its address",
                text::one_line(host),
                text::io_error(&error),
                address.port()
            ),
        )
    })?;
    let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    set.map_err(|error| broken(host, &error))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    (&stream).write_all(request.as_bytes()).map_err(|error| broken(host, &error))?;
    let mut reader = BufReader::new(stream);
    let mut next = || line(&mut reader).map_err(|error| broken(host, &error));
    let first = next()?.unwrap_or_default();
    if !first.starts_with("HTTP/1.1 200 ") {
        return Err(match first.get(9..12) {
            Some("421") => Failure::new(
                exit::REFUSED,
                format!(
                    "{} does not go by that name: start it with --status-host, or give its address",
                    text::one_line(host)
                ),
            ),
            Some("503") => Failure::new(
                exit::REFUSED,
                format!("{} is busy or starting: try again", text::one_line(host)),
            ),
            _ => no_dashboard(host),
        });
    }
    while !next()?.unwrap_or_default().is_empty() {}
    Ok(reader)
}

/// The next line; `None` at the end.
fn line(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut raw = Vec::new();
    let n = reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut raw)?;
    let line = String::from_utf8_lossy(&raw).trim_end_matches(['\r', '\n']).to_owned();
    Ok((n > 0).then_some(line))
}

fn broken(host: &str, error: &std::io::Error) -> Failure {
    let why = match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => text::io_error(error),
    };
    Failure::new(exit::UNREACHABLE, format!("lost {}: {why}; is the server running?", text::one_line(host)))
}

fn no_dashboard(host: &str) -> Failure {
    Failure::new(
        exit::OTHER,
        format!(
            "{} is no dashboard of fulmar: give the ADDR:PORT of serve --dashboard",
            text::one_line(host)
        ),
    )
}
