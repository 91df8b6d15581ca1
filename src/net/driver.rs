//! Role: the event loop: one poll drives the socket, the timers, the disk thread's answers and the signals.
//! Owns: the pure core, the pipe, the train that waits for the socket, the job that waits for the disk thread.
//! Implements: docs/ARCHITECTURE.md, "The event loop".

use super::client::NetError;
use super::core::Core;
use super::disk::Disk;
use super::pipe::{DatagramPipe, MAX_TRAIN_BYTES, Received, Train};
use super::shims::{Shims, Tag};
use super::timer::Timer;
use super::trace::TraceFile;
use super::udp::WarnLimit;
use crate::endpoint::Transmit;
use crate::impair::Spec;
use crate::session::event::Event;
use crate::store::{SessionKey, Store};
use crate::transfer::job::{Done, Job};
use mio::{Events, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);
const SIGNALS: Token = Token(2);
const TIMER: Token = Token(3);

/// Receive calls per turn; with a full socket buffer the loop still comes to send and to answer in between.
const RECV_CALLS: usize = 32;
/// Received bytes per turn after which no further receive call is made: a default socket buffer (208 KiB of kernel
/// accounting) is emptied whole, a raised one in a few turns.
const RECV_BYTES: usize = 1 << 20;
/// Receive errors in a row after which the socket is left alone until the poll reports it again.
const RECV_ERRORS: usize = 8;
/// Trains per turn: 64 of 64 KiB take some 2 ms to seal and send.
const SEND_TRAINS: usize = 64;
/// Jobs handed to the disk thread per phase.
const JOBS_PER_PHASE: usize = 4 * super::disk::QUEUE_JOBS;
/// A deadline this near counts as reached: going to sleep and being woken takes about as long.
const GRAIN: Duration = Duration::from_micros(20);
/// Wait when there is nothing to do although a deadline has passed: the socket is full, or a deadline does not move.
const STALL_WAIT: Duration = Duration::from_millis(1);
/// Turns in a row that were due but did nothing, before `STALL_WAIT` applies.
const STALL_TURNS: u32 = 64;

/// The clock of the loop: never goes back, though a deadline within `GRAIN` is taken for reached.
#[derive(Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "the loop is where time is read for all layers below")]
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// The reading it has now.
    pub(super) fn started(&self) -> Instant {
        self.0
    }

    #[allow(clippy::disallowed_methods, reason = "the loop is where time is read for all layers below")]
    fn refresh(&mut self) -> Instant {
        self.0 = self.0.max(Instant::now());
        self.0
    }
}

/// A train, or the rest of one, that the socket had no room for.
#[derive(Debug)]
struct Unsent {
    transmit: Transmit,
    /// Bytes at the start of the buffer that have left.
    consumed_bytes: usize,
}

/// What the loop is built from.
pub(super) struct Parts<C, P> {
    pub(super) core: C,
    pub(super) pipe: P,
    pub(super) store: Box<dyn Store>,
    /// `--sim`.
    pub(super) sim: Option<Spec>,
    /// Set by a signal handler, or by another thread to end the loop.
    pub(super) signal: Arc<AtomicI32>,
    pub(super) clock: Clock,
}

/// The event loop.
pub(super) struct Driver<C, P> {
    core: C,
    pipe: P,
    disk: Disk,
    poll: Poll,
    events: Events,
    timer: Timer,
    signals: Signals,
    signal: Arc<AtomicI32>,
    clock: Clock,
    readable: bool,
    buf: Vec<u8>,
    unsent: Option<Unsent>,
    job: Option<(SessionKey, Job)>,
    answers: Vec<(SessionKey, Done)>,
    shims: Shims,
    trouble: WarnLimit,
    trace: Option<TraceFile>,
    /// A phase ended at its bound: the next turn must not wait.
    backlog: bool,
    /// The core has nothing to send at this moment.
    silent: bool,
    /// This turn moved something.
    busy: bool,
    /// The first deadline had come before this turn could wait.
    overdue: bool,
    /// Turns in a row that were overdue and moved nothing all the same.
    stalled_turns: u32,
}

impl<C: Core, P: DatagramPipe> Driver<C, P> {
    /// Puts the loop together and starts the disk thread.
    pub(super) fn new(parts: Parts<C, P>) -> Result<Self, NetError> {
        let Parts { core, mut pipe, store, sim, signal, mut clock } = parts;
        let setup =
            |e: io::Error| NetError { exit_code: 1, message: format!("cannot set up the event loop: {e}") };
        let poll = Poll::new().map_err(setup)?;
        let registry = poll.registry();
        pipe.register(registry, SOCKET).map_err(setup)?;
        let waker = Arc::new(Waker::new(registry, WAKER).map_err(setup)?);
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(setup)?;
        registry.register(&mut signals, SIGNALS, mio::Interest::READABLE).map_err(setup)?;
        let timer = Timer::new(registry, TIMER).map_err(setup)?;
        let seed = random_u64()?;
        let shims = Shims::new(sim.as_ref(), seed, clock.refresh());
        Ok(Self {
            core,
            pipe,
            disk: Disk::start(store, waker)?,
            poll,
            events: Events::with_capacity(16),
            timer,
            signals,
            signal,
            clock,
            readable: true,
            buf: Vec::with_capacity(MAX_TRAIN_BYTES),
            unsent: None,
            job: None,
            answers: Vec::new(),
            shims,
            trouble: WarnLimit::default(),
            trace: None,
            backlog: true,
            silent: false,
            busy: false,
            overdue: false,
            stalled_turns: 0,
        })
    }

    /// The core, to start or end sessions. The next turn does not wait.
    pub(super) fn core_mut(&mut self) -> &mut C {
        self.backlog = true;
        &mut self.core
    }

    /// The core, to do what may or may not be due: only what becomes due by that makes the next turn not wait.
    pub(super) fn core_quietly(&mut self) -> &mut C {
        &mut self.core
    }

    /// The core, to look at.
    pub(super) fn core(&self) -> &C {
        &self.core
    }

    /// `--trace`; the core's sessions must be told to record.
    pub(super) fn set_trace(&mut self, trace: Option<TraceFile>) {
        self.trace = trace;
    }

    /// The time now.
    pub(super) fn now(&mut self) -> Instant {
        self.clock.refresh()
    }

    /// A signal came, or another thread asks the loop to end.
    pub(super) fn signalled(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// One turn: waits for something to do, `wake_by` at the latest, and does a bounded share of it.
    ///
    /// # Errors
    /// The poll or the disk thread failed; never the network.
    pub(super) fn turn(&mut self, wake_by: Instant) -> Result<(), NetError> {
        self.wait(wake_by)?;
        self.busy = false;
        self.receive();
        self.take_answers()?;
        self.run_timers();
        self.feed_disk()?;
        self.transmit();
        self.feed_disk()?;
        let stalled = self.overdue && !self.busy;
        self.stalled_turns = if stalled { self.stalled_turns.saturating_add(1) } else { 0 };
        if let Some(trace) = &mut self.trace {
            trace.collect(self.clock.0, &mut self.core);
        }
        Ok(())
    }

    /// The next event; what concerns the loop itself is done on the way.
    pub(super) fn poll_event(&mut self) -> Option<(SessionKey, Event)> {
        let (session, event) = self.core.poll_event()?;
        match &event {
            Event::ImpairBack(spec) => self.impair_back(session, spec),
            Event::Closed(_) => self.shims.close_back(session),
            _ => {}
        }
        if let Some(trace) = &mut self.trace {
            let is_last = matches!(event, Event::Closed(_));
            let stats = is_last.then(|| self.core.stats(session)).flatten();
            trace.event(self.clock.0, session, &event, stats);
        }
        Some((session, event))
    }

    /// Goes on until everything that wants to leave has left, for `limit` at most.
    pub(super) fn flush(&mut self, limit: Duration) -> Result<(), NetError> {
        let end = self.clock.refresh() + limit;
        loop {
            self.transmit();
            if self.is_flushed() || self.clock.refresh() >= end {
                return Ok(());
            }
            self.turn(end)?;
        }
    }

    /// Ends the loop: the disk thread gets the jobs that are left and is waited for.
    pub(super) fn finish(mut self) -> Result<(), NetError> {
        let mut next = self.job.take().or_else(|| self.core.poll_job());
        while let Some((session, job)) = next {
            self.disk.submit_waiting(session, job)?;
            next = self.core.poll_job();
        }
        if let Some(trace) = self.trace.take() {
            trace.finish(self.clock.refresh(), &mut self.core);
        }
        self.disk.shut_down()
    }

    fn is_flushed(&self) -> bool {
        self.silent && self.unsent.is_none() && self.shims.poll_timeout_outgoing().is_none()
    }

    /// How long to wait: not at all when work is left, else until the first deadline.
    fn wait(&mut self, wake_by: Instant) -> Result<(), NetError> {
        let now = self.clock.refresh();
        let mut zero = self.readable || self.backlog;
        let core = self.core.poll_timeout();
        let mut deadline = core.into_iter().chain(self.shims.poll_timeout()).fold(wake_by, Instant::min);
        self.overdue = deadline <= now + GRAIN;
        if self.overdue {
            if self.unsent.is_some() || self.stalled_turns >= STALL_TURNS {
                // Overdue, but nothing can be done about it: do not spin.
                deadline = now + STALL_WAIT;
            } else {
                self.clock.0 = now.max(deadline);
                zero = true;
            }
        }
        let failed =
            |e: io::Error| NetError { exit_code: 1, message: format!("waiting for events failed: {e}") };
        let timeout =
            if zero { Some(Duration::ZERO) } else { self.timer.arm(now, deadline).map_err(failed)? };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            // A signal handler ran in this thread; its own descriptor tells.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        for event in &self.events {
            match event.token() {
                SOCKET => {
                    // The end of a stream is no data, but a reason to read.
                    self.readable |= event.is_readable() || event.is_read_closed();
                    if event.is_writable() && self.unsent.is_some() {
                        self.backlog = true;
                    }
                }
                SIGNALS => {
                    for number in self.signals.pending() {
                        let _ = self.signal.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
                    }
                }
                _ => {}
            }
        }
        self.clock.refresh();
        Ok(())
    }

    fn receive(&mut self) {
        let (mut bytes, mut errors) = (0, 0);
        for _ in 0..RECV_CALLS {
            if !self.readable || bytes >= RECV_BYTES {
                break;
            }
            let Self { clock, core, pipe, shims, .. } = self;
            // Read after the system call: a datagram stamped earlier than it came would make round trips look
            // shorter than the path, and every later one look queued.
            let mut arrival = None;
            let mut sink = |received: Received<'_>| {
                let now = *arrival.get_or_insert_with(|| clock.refresh());
                if !shims.take_incoming(now, &received) {
                    core.handle_datagram(now, received.remote, received.ecn, received.bytes);
                }
            };
            match pipe.recv(&mut sink) {
                Ok(report) => {
                    bytes += report.bytes;
                    self.readable = !report.drained;
                    self.busy = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) => {
                    // Whatever it is, the next datagram may come through; only the loop must not spin on it.
                    self.trouble.warn(|| format!("receiving: {e}"));
                    errors += 1;
                    self.readable = errors < RECV_ERRORS;
                }
            }
        }
        let now = self.clock.refresh();
        let Self { core, shims, busy, .. } = self;
        shims.deliver_incoming(now, |tag, datagram| {
            core.handle_datagram(now, tag.remote, tag.ecn, datagram);
            *busy = true;
        });
    }

    fn take_answers(&mut self) -> Result<(), NetError> {
        self.disk.take_answers(&mut self.answers)?;
        let now = self.clock.refresh();
        for (session, done) in self.answers.drain(..) {
            self.core.handle_done(now, session, done);
            self.busy = true;
        }
        Ok(())
    }

    fn run_timers(&mut self) {
        let now = self.clock.refresh();
        if self.core.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.core.handle_timeout(now);
        }
    }

    /// Hands jobs to the disk thread until there are none, or one finds no room and has to wait.
    fn feed_disk(&mut self) -> Result<(), NetError> {
        for _ in 0..JOBS_PER_PHASE {
            let Some((session, job)) = self.job.take().or_else(|| self.core.poll_job()) else {
                return Ok(());
            };
            self.job = self.disk.submit(session, job)?;
            if self.job.is_some() {
                return Ok(());
            }
            self.busy = true;
        }
        self.backlog = true;
        Ok(())
    }

    /// Sends what waits, then what the core has, up to the bound of a turn.
    fn transmit(&mut self) {
        self.backlog = false;
        self.silent = false;
        if let Some(unsent) = self.unsent.take() {
            self.send(unsent);
        }
        for _ in 0..SEND_TRAINS {
            let now = self.clock.refresh();
            self.send_impaired(now);
            if self.unsent.is_some() {
                return;
            }
            let Some(transmit) = self.core.poll_transmit(now, &mut self.buf, self.pipe.max_segments()) else {
                self.silent = true;
                return;
            };
            self.busy = true;
            if !self.shims.take_outgoing(now, &transmit, &self.buf[..transmit.size]) {
                self.send(Unsent { transmit, consumed_bytes: 0 });
            }
        }
        self.backlog = true;
    }

    /// Gives the train in the buffer to the socket; what it does not take stays there.
    fn send(&mut self, mut unsent: Unsent) {
        let Transmit { session, remote, size, segment_size, ecn } = unsent.transmit;
        let bytes = &self.buf[unsent.consumed_bytes..size];
        let report = self.pipe.send(Train { remote, ecn, segment_size, bytes });
        unsent.consumed_bytes += report.consumed_bytes;
        if report.consumed_bytes > 0 {
            self.busy = true;
        }
        if unsent.consumed_bytes < size {
            self.unsent = Some(unsent);
        }
        if report.too_large {
            let now = self.clock.refresh();
            self.core.handle_too_large(now, session, segment_size.unwrap_or(size).min(size));
        }
    }

    /// Sends what impaired links let out now.
    fn send_impaired(&mut self, now: Instant) {
        let Self { core, pipe, shims, buf, unsent, busy, .. } = self;
        if unsent.is_some() {
            return;
        }
        shims.deliver_outgoing(now, |tag: Tag, bytes| {
            *busy = true;
            let Tag { session, remote, ecn } = tag;
            let report = pipe.send(Train { remote, ecn, segment_size: None, bytes });
            if report.too_large {
                core.handle_too_large(now, session, bytes.len());
            }
            if report.consumed_bytes == bytes.len() {
                return true;
            }
            buf.clear();
            buf.extend_from_slice(bytes);
            let transmit = Transmit { session, remote, size: bytes.len(), segment_size: None, ecn };
            *unsent = Some(Unsent { transmit, consumed_bytes: 0 });
            false
        });
    }

    fn impair_back(&mut self, session: SessionKey, spec: &str) {
        let parsed = spec.parse::<Spec>().map_err(|e| e.to_string());
        match parsed.and_then(|spec| Ok((spec, random_u64().map_err(|e| e.message)?))) {
            Ok((spec, seed)) => self.shims.add_back(session, &spec, seed, self.clock.0),
            // The core has checked the text already, so this is a difference between the two checks.
            Err(e) => log::warn!("session {session}: cannot impair the way back: {e}"),
        }
    }
}

/// Randomness from the operating system.
///
/// # Errors
/// It has none to give, which no later attempt would change.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], NetError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| NetError {
        exit_code: 1,
        message: format!("the operating system gives no random numbers: {e}"),
    })?;
    Ok(bytes)
}

fn random_u64() -> Result<u64, NetError> {
    random_bytes().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests;
