//! Role: `fulmar serve --workers N`: the parent that starts, watches and stops the workers, and what makes a process one of them.
//! Owns: the workers' processes, channels and UDP sockets.
//! Implements: docs/ARCHITECTURE.md, "Workers".
//!
//! The parent binds all sockets and keeps them: their order, by which the kernel steers, then outlasts any worker, and what
//! comes while a worker is down waits for the next one.

use super::args::ServeArgs;
use super::exit::{self, Failure};
use super::{options, signals, terminal, text};
use crate::endpoint::config::{Place, Secret, ServerConfig};
use crate::net::server::Server;
use crate::net::steer::MAX_WORKERS;
use crate::net::workers::{Channel, Message};
use crate::store::Neighbours;
use socket2::Socket;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// This program, also when its file has been replaced meanwhile (proc(5)): all workers are of one version.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// How long a signal may go unseen.
const BEAT: Duration = Duration::from_millis(100);
/// Before a worker that died is started again; doubled each time, as long as it does not live for `STEADY`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(10);
/// Before one is started again that was told to stop: who tells all processes of a service at once (systemd) tells the parent too.
const POLITE_PAUSE: Duration = Duration::from_secs(1);

/// `--workers`; 1: no other processes.
pub fn count(args: &ServeArgs) -> Result<u8, Failure> {
    let Some(text) = args.workers.as_deref() else { return Ok(1) };
    text.parse::<u8>().ok().filter(|n| (1..=MAX_WORKERS).contains(n)).ok_or_else(|| {
        let shown = text::one_line(text);
        Failure::usage(format!("--workers: `{shown}` is not a whole number from 1 to {MAX_WORKERS}"))
    })
}

/// Which worker this process is, if it is one.
pub fn own_place(args: &ServeArgs) -> Result<Option<Place>, Failure> {
    let Some(text) = args.worker.as_deref() else { return Ok(None) };
    let of = count(args)?;
    let index = text.parse::<u8>().ok().filter(|index| *index < of);
    index.map(|index| Some(Place { index, of })).ok_or_else(not_by_hand)
}

fn not_by_hand() -> Failure {
    Failure::usage(
        "--worker is what fulmar serve --workers gives to the processes that it starts: leave it out",
    )
}

/// Divides what all workers have together. Every one has the whole of the rest.
pub fn divide(config: &mut ServerConfig, place: Place) -> Result<(), Failure> {
    config.place = place;
    let (index, of) = (usize::from(place.index), usize::from(place.of));
    if config.max_sessions < of {
        return Err(Failure::usage(format!(
            "--max-sessions {} is less than one for each of {of} workers: raise it, or lower --workers",
            config.max_sessions
        )));
    }
    config.max_sessions = config.max_sessions / of + usize::from(index < config.max_sessions % of);
    config.total_limit_bytes_per_sec =
        config.total_limit_bytes_per_sec.map(|limit| (limit / u64::from(place.of)).max(1));
    Ok(())
}

/// What cannot be had from several processes.
pub fn check(args: &ServeArgs, of: u8) -> Result<(), Failure> {
    if of > 1 && args.quota.is_some() {
        return Err(Failure::usage(
            "--quota cannot be kept by several workers, since each would count for itself: leave out --workers, or give \
             the directory a file system or project quota of its own",
        ));
    }
    Ok(())
}

/// The address of a worker's page or figures: each has the next port.
pub fn own_port(address: SocketAddr, place: Place) -> Result<SocketAddr, Failure> {
    if address.port() == 0 {
        return Ok(address);
    }
    let port = address.port().checked_add(place.index.into());
    port.map(|port| SocketAddr::new(address.ip(), port)).ok_or_else(|| {
        Failure::usage(format!(
            "no {} ports follow {}, one for each worker: choose a lower port for --metrics and --dashboard",
            place.of,
            address.port()
        ))
    })
}

/// The trace of a worker: `serve.sqlog` is `serve-worker2.sqlog`.
pub fn own_trace(path: &Path, place: Place) -> PathBuf {
    if place.of == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-worker{}", place.index));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// A worker's end of its channel.
#[derive(Debug)]
pub struct Inherited {
    channel: Channel,
    /// The key of the server.
    pub secret: Secret,
    /// Its UDP socket.
    pub socket: OwnedFd,
    /// The other workers.
    pub neighbours: Arc<Neighbours>,
}

impl Inherited {
    /// Takes what the parent gives.
    pub fn take(place: Place) -> Result<Self, Failure> {
        terminal::set_log_label(format!("worker {}: ", place.index));
        let channel = Channel::inherited(&io::stdin()).map_err(|_| not_by_hand())?;
        let Some(Message::Start(secret, socket)) = channel.receive() else {
            return Err(Failure::new(exit::OTHER, "the parent of this worker is gone"));
        };
        let asking = channel.clone();
        let neighbours = Arc::new(Neighbours::new(move |claim| asking.send_claim(claim)));
        Ok(Self { channel, secret, socket, neighbours })
    }

    /// Tells the parent that the worker serves from now on, and listens to it: when the channel ends, `signal` is set.
    pub fn ready(
        channel: Channel,
        neighbours: Arc<Neighbours>,
        signal: Arc<AtomicI32>,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure::new(exit::OTHER, format!("cannot talk to the parent: {}", text::io_error(&error)))
        };
        channel.send_ready().map_err(failed)?;
        let listen = move || {
            while let Some(message) = channel.receive() {
                if let Message::Claim(claim) = message {
                    neighbours.claimed(claim);
                }
            }
            let stop = signal_hook::consts::SIGTERM;
            let _ = signal.compare_exchange(0, stop, Ordering::SeqCst, Ordering::SeqCst);
        };
        std::thread::Builder::new().name("parent".into()).spawn(listen).map_err(failed)?;
        Ok(())
    }

    /// The channel, to be given to `ready`.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// What the parent hears of.
enum News {
    /// A worker is ready.
    Ready,
    /// A claim of the worker with this number.
    Claim(usize, Box<[u8; crate::store::CLAIM_BYTES]>),
    /// It has ended.
    Ended(usize, io::Result<ExitStatus>),
}

/// A place for a worker, with the one that fills it now.
struct Seat {
    socket: Socket,
    channel: Channel,
    process: u32,
    started: Instant,
    pause: Duration,
    /// Nobody is there until then.
    restart_at: Option<Instant>,
    is_running: bool,
}

/// The parent.
struct Parent {
    seats: Vec<Seat>,
    secret: Secret,
    sender: Sender<News>,
    news: Receiver<News>,
}

/// Runs the workers until a signal comes; the exit code.
pub fn supervise(
    args: &ServeArgs,
    count: u8,
    (secret, own_key): (Secret, Option<PathBuf>),
) -> Result<u8, Failure> {
    let (sockets, local) = Server::bind_group(options::listen(&args.listen)?, count)?;
    let signal = signals::install(None)?;
    let (sender, news) = channel();
    let mut parent = Parent { seats: Vec::new(), secret, sender, news };
    let ready = parent.start_all(sockets, &signal);
    match ready {
        Ok(true) => {
            super::serve::announce(&parent.secret, own_key, args.verbosity.quiet);
            log::info!("listening on {local} (UDP) with {count} workers, serving {}", text::path(&args.dir));
            terminal::stdout_line(&format!("listening on {local}"));
            parent.watch(&signal);
        }
        Ok(false) => {}
        // The worker has said why.
        Err(code) => {
            parent.stop();
            return Ok(code);
        }
    }
    parent.stop();
    Ok(exit::DONE)
}

#[allow(clippy::disallowed_methods, reason = "processes live in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Parent {
    /// Starts all workers and waits until they are ready; false if a signal came first. An error is the exit code of one that could
    /// not start.
    fn start_all(&mut self, sockets: Vec<Socket>, signal: &AtomicI32) -> Result<bool, u8> {
        for (index, socket) in sockets.into_iter().enumerate() {
            let started = self.start(index, &socket).map_err(|error| {
                exit::complain(&format!("cannot start worker {index}: {}", text::io_error(&error)));
                exit::OTHER
            });
            let (channel, process) = started?;
            let (started, pause) = (now(), FIRST_PAUSE);
            self.seats.push(Seat {
                socket,
                channel,
                process,
                started,
                pause,
                restart_at: None,
                is_running: true,
            });
            // What stops one stops all: the first one says it, once.
            if index == 0 && !self.await_ready(1, signal)? {
                return Ok(false);
            }
        }
        self.await_ready(self.seats.len() - 1, signal)
    }

    /// Waits for so many workers that are starting.
    fn await_ready(&mut self, mut awaited: usize, signal: &AtomicI32) -> Result<bool, u8> {
        while awaited > 0 {
            match self.news.recv_timeout(BEAT) {
                Ok(News::Ready) => awaited -= 1,
                Ok(News::Ended(index, status)) => {
                    self.seats[index].is_running = false;
                    let code = status.ok().and_then(|status| status.code());
                    return Err(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::OTHER));
                }
                _ if signal.load(Ordering::SeqCst) != 0 => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Starts one worker, and the thread that waits for it.
    fn start(&self, index: usize, socket: &Socket) -> io::Result<(Channel, u32)> {
        let (channel, theirs) = Channel::pair()?;
        let mut command = Command::new(OWN_PROGRAM);
        let mut arguments: Vec<OsString> = std::env::args_os().collect();
        command.arg0(arguments.remove(0));
        // After the name of the command, so that it cannot be taken for a directory.
        arguments.insert(1.min(arguments.len()), format!("--worker={index}").into());
        // A group of its own: Ctrl-C in a terminal is for the parent, which stops its workers in its own way.
        command.args(arguments).stdin(Stdio::from(theirs)).stdout(Stdio::null()).process_group(0);
        let child = command.spawn()?;
        // Its end of the channel must not stay open here.
        drop(command);
        let process = child.id();
        let begun =
            channel.send_start(&self.secret, socket).and_then(|()| self.attend(index, &channel, child));
        if let Err(error) = begun {
            channel.close();
            return Err(error);
        }
        Ok((channel, process))
    }

    /// Brings what a worker says, and its end, to the parent's loop.
    fn attend(&self, index: usize, channel: &Channel, mut child: Child) -> io::Result<()> {
        let (sender, channel) = (self.sender.clone(), channel.clone());
        std::thread::Builder::new().name(format!("worker {index}")).spawn(move || {
            while let Some(message) = channel.receive() {
                // The receiver is gone only when the process is about to end.
                let _ = match message {
                    Message::Ready => sender.send(News::Ready),
                    Message::Claim(claim) => sender.send(News::Claim(index, Box::new(claim))),
                    Message::Start(..) => Ok(()),
                };
            }
            let status = child.wait();
            let _ = sender.send(News::Ended(index, status));
        })?;
        Ok(())
    }

    /// Until a signal comes: hands on claims, and starts workers again that have died.
    fn watch(&mut self, signal: &AtomicI32) {
        while signal.load(Ordering::SeqCst) == 0 {
            match self.news.recv_timeout(BEAT) {
                Ok(News::Claim(from, claim)) => {
                    for (index, seat) in self.seats.iter().enumerate().filter(|(index, _)| *index != from) {
                        log::trace!("worker {from} claims a file from worker {index}");
                        seat.channel.send_claim(&claim);
                    }
                }
                Ok(News::Ended(index, status)) => self.seats[index].ended(index, status),
                Ok(News::Ready) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.restart(now());
        }
    }

    fn restart(&mut self, now: Instant) {
        for index in 0..self.seats.len() {
            if self.seats[index].restart_at.is_none_or(|at| at > now) {
                continue;
            }
            match self.start(index, &self.seats[index].socket) {
                Ok((channel, process)) => {
                    log::info!("worker {index} is started again: process {process}");
                    let seat = &mut self.seats[index];
                    (seat.channel, seat.process, seat.started) = (channel, process, now);
                    (seat.restart_at, seat.is_running) = (None, true);
                }
                Err(error) => {
                    let seat = &mut self.seats[index];
                    seat.pause = LONGEST_PAUSE.min(2 * seat.pause);
                    seat.restart_at = Some(now + seat.pause);
                    log::error!("worker {index} cannot be started again: {}", text::io_error(&error));
                }
            }
        }
    }

    /// Tells the workers to stop and waits for them.
    fn stop(&mut self) {
        self.seats.iter().for_each(|seat| seat.channel.close());
        let mut running = self.seats.iter().filter(|seat| seat.is_running).count();
        while running > 0 {
            match self.news.recv() {
                Ok(News::Ended(..)) => running -= 1,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

impl Seat {
    fn ended(&mut self, index: usize, status: io::Result<ExitStatus>) {
        let now = now();
        let steady = now.saturating_duration_since(self.started) >= STEADY;
        self.pause = if steady { FIRST_PAUSE } else { LONGEST_PAUSE.min(2 * self.pause) };
        (self.restart_at, self.is_running) = (Some(now + self.pause), false);
        if status.as_ref().is_ok_and(ExitStatus::success) {
            self.restart_at = Some(now + POLITE_PAUSE);
            return log::info!(
                "worker {index} (process {}) has stopped, as somebody told it to",
                self.process
            );
        }
        let how = match status {
            Ok(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, code) => format!("ended with exit code {}", code.unwrap_or_default()),
            },
            Err(error) => format!("is gone: {}", text::io_error(&error)),
        };
        log::error!(
            "worker {index} (process {}) {how}; its sessions are lost, and it is started again",
            self.process
        );
    }
}

#[cfg(test)]
mod tests;
