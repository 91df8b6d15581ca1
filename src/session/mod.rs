//! Role: one peer: datagrams, time and store answers in; datagrams, jobs and events out.
//! Owns: all state of one session, in parts that each own their piece: `hello`, `path`, the ARQ windows, the transfer.
//! Implements: docs/PROTOCOL.md, "Sessions".

pub mod event;
mod hello;
mod input;
mod migration;
mod offers;
mod output;
mod path;
pub mod refusal;
mod request;
pub mod rival;
mod tail;
mod timers;
pub mod trace;

use crate::arq::control::{ControlReceiver, ControlSender};
use crate::arq::received::ReceivedNumbers;
use crate::arq::rtt::Rtt;
use crate::arq::sent::{Outcome, SentPackets};
use crate::codec::handshake::SessionKeys;
use crate::codec::key_update::{OpenKeys, SealKeys};
use crate::endpoint::config::{Secret, ServerConfig, SessionConfig};
use crate::transfer::Request;
use crate::transfer::job::{Dest, Done, FileId, Job, SourceRoot};
use crate::transfer::receiver::Receiver;
use crate::transfer::sender::Sender;
use crate::transfer::sync::SyncOptions;
use crate::wire::Cid;
use crate::wire::handshake::{FEATURE_STREAM, FEATURE_SYNC, FEATURE_ZSTD, Params};
use crate::wire::message::Message;
use event::{CloseReason, Event, Stats};
use hello::ClientHello;
use migration::Candidate;
use offers::Offers;
use path::Path;
use rand::SeedableRng;
use rand::rngs::StdRng;
use refusal::{Refusal, Refusals};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use output::Train;
use trace::Trace;

/// Control-stream bytes in flight at most, whatever the budget: a bandwidth-delay product of 320 Mbit/s at 100 ms.
const MAX_CONTROL_WINDOW: u64 = 4 << 20;
/// The least control window: a message must fit.
const MIN_CONTROL_WINDOW: u64 = 128 * 1024;
/// Control-stream bytes that wait for a peer's acknowledgement at most; beyond, nothing is taken in that would answer with more.
const MAX_CONTROL_BUFFER: usize = 8 << 20;
/// A store that takes longer than this to open a file is looking through what an earlier run has left of it.
const OPENING_PATIENCE: Duration = Duration::from_millis(20);
/// Why a session ends at the AEAD's limits.
const KEYS_USED_UP: &str = "the keys are used up (RFC 9001, section 6.6)";
/// A server waits so long for a session's request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an unauthenticated Reject waits for a valid packet to contradict it.
const REJECT_GRACE: Duration = Duration::from_millis(300);
/// A server keeps a finished session so long for the client's CLOSE.
const LINGER: Duration = Duration::from_secs(3);

#[derive(Debug)]
enum Phase {
    /// Client: Hello sent, no Reply yet.
    Hello(Box<ClientHello>),
    /// Client: keys known, no valid packet from the server yet. Packets carry the confirmation.
    Confirming,
    /// Both sides proved themselves.
    Open,
    /// Said goodbye; so many CLOSE packets are still to be sent.
    Closing { reason: CloseReason, copies: u8 },
    /// Over.
    Closed,
}

/// Who this side is.
#[derive(Debug)]
enum Role {
    Client { request: Request, reject: Option<(Instant, CloseReason)> },
    Server { config: ServerConfig, requested: Option<Request>, serial: u64, options: Option<SyncOptions> },
}

/// Keys with which a session seals, in wrong hands.
#[derive(Debug)]
pub(crate) struct CopiedKeys {
    /// The keys.
    pub(crate) keys: crate::codec::aead::PacketKeys,
    /// The first packet of their generation: tells generations apart.
    pub(crate) first_number: u64,
    /// The peer has acknowledged a packet of this generation, and so gone on to it.
    pub(crate) confirmed: bool,
    /// The number of the packet that comes next.
    pub(crate) next_number: u64,
    /// The phase bit that goes with them.
    pub(crate) phase: bool,
    /// The connection ID of packets to the peer.
    pub(crate) cid: Cid,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    role: Role,
    phase: Phase,
    local_cid: Cid,
    remote_cid: Cid,
    seal: SealKeys,
    open: OpenKeys,
    rng: StdRng,
    started_at: Instant,
    heard_at: Instant,
    /// Datagrams that were not dropped: something may have changed.
    taken: u64,
    idle_timeout: Duration,
    path: Path,
    rtt: Rtt,
    sent: SentPackets,
    outcome: Outcome,
    received: ReceivedNumbers,
    control_tx: ControlSender,
    control_rx: ControlReceiver,
    control_window: u64,
    credit_told: u64,
    window_told: u64,
    /// Segment bytes that the peer lets us have in flight.
    peer_window: u64,
    newest_feedback: Option<u64>,
    /// When feedback came last.
    feedback_at: Option<Instant>,
    ce_seen: u64,
    silent_ptos: u32,
    silent_since: Option<Instant>,
    last_pto_at: Instant,
    probes_due: u8,
    ping_due: bool,
    floor_sent_at: Option<Instant>,
    path_response: Option<[u8; 8]>,
    /// A new address of the peer that has not proved itself yet.
    candidate: Option<Candidate>,
    /// Client: the Replies so far, until a server has proved itself.
    offers: Option<Box<Offers>>,
    /// The key confirmation, as long as packets must carry it.
    confirm: Option<[u8; 16]>,
    /// When the next copy of the tail is due; `None`: not known, look.
    tail_at: Option<Instant>,
    sender: Sender,
    receiver: Receiver,
    completed_at: Option<Instant>,
    /// The store has been opening this file since then, see `Receiver::opening`.
    opening: Option<(FileId, Instant)>,
    /// The request was refused; the session ends when the client has been told.
    refused: bool,
    /// Something was said that the peer must know before this side may end the session: an entry failed.
    must_be_heard: bool,
    /// What the peer understands.
    peer_features: u64,
    /// Client: an earlier session has begun this request.
    continues: bool,
    /// Client: the request waits for the Reply, and everything after it too.
    request_held: bool,
    /// Client: it stands in the control stream.
    request_written: bool,
    /// Client: a source is a stream.
    streams: bool,
    /// Set while a packet is being built; acted on with the next time-out.
    give_up: Option<CloseReason>,
    stats: Stats,
    /// What happens to packets, when somebody wants to know.
    trace: Option<Box<trace::Recorder>>,
    refusals: Refusals,
    events: VecDeque<Event>,
    end_job: bool,
    scratch: (Vec<u8>, Vec<u8>),
}

/// What both kinds of session start from.
#[derive(Debug)]
pub struct Setup {
    /// Settings.
    pub config: SessionConfig,
    /// The peer.
    pub remote: SocketAddr,
    /// Connection ID of packets to us.
    pub local_cid: Cid,
    /// Randomness of this session.
    pub seed: [u8; 32],
    /// Share of the receive budget.
    pub receive_budget: u64,
    /// Share of the send budget.
    pub send_budget: u64,
}

/// What we tell the peer at set-up.
pub fn local_params(config: &SessionConfig, receive_budget: u64) -> Params {
    Params {
        idle_timeout_ms: config.idle_timeout.as_millis() as u64,
        max_datagram_bytes: 65_535,
        control_credit_bytes: control_window(receive_budget),
        receive_window_bytes: receive_budget,
        features: FEATURE_ZSTD | FEATURE_SYNC | FEATURE_STREAM,
    }
}

fn control_window(receive_budget: u64) -> u64 {
    (receive_budget / 2).clamp(MIN_CONTROL_WINDOW, MAX_CONTROL_WINDOW)
}

impl Session {
    /// A client session, which starts with a Hello.
    pub fn connect(
        now: Instant,
        setup: Setup,
        secret: &Secret,
        request: Request,
        roots: Vec<SourceRoot>,
        dest: Option<Dest>,
    ) -> Self {
        let mut s = Self::reach(now, setup, secret, request.clone());
        s.start_request(request, roots, dest);
        s
    }

    /// A client session that says Hello and, once answered, waits for `release` before it asks for anything.
    pub fn reach(now: Instant, setup: Setup, secret: &Secret, request: Request) -> Self {
        let params = local_params(&setup.config, setup.receive_budget);
        let deadline = now + setup.config.connect_timeout;
        let mut rng = StdRng::from_seed(setup.seed);
        let hello = ClientHello::new(now, deadline, secret, setup.local_cid, params, &mut rng);
        let role = Role::Client { request, reject: None };
        Self::new(now, setup, rng, role, Phase::Hello(Box::new(hello)))
    }

    /// A server session, made when a valid Confirm has arrived.
    #[allow(clippy::too_many_arguments)]
    pub fn accept(
        now: Instant,
        setup: Setup,
        server: ServerConfig,
        serial: u64,
        remote_cid: Cid,
        keys: SessionKeys,
        (peer, told): (&Params, &Params),
        (handshake_rtt, exact): (Duration, bool),
    ) -> Self {
        let rng = StdRng::from_seed(setup.seed);
        let role = Role::Server { config: server, requested: None, serial, options: None };
        let mut s = Self::new(now, setup, rng, role, Phase::Open);
        s.remote_cid = remote_cid;
        if let Some(log) = &s.config.key_log {
            log.session(&keys, s.remote_cid, s.local_cid);
        }
        s.seal = SealKeys::new(keys.server);
        s.open = OpenKeys::new(keys.client);
        if exact {
            s.rtt.sample(handshake_rtt);
        } else {
            s.rtt.set_upper_bound(handshake_rtt);
        }
        s.apply_params(now, peer);
        (s.credit_told, s.window_told) = (told.control_credit_bytes, told.receive_window_bytes);
        if let Role::Server { config, .. } = &s.role {
            s.receiver.set_max_file_bytes(config.max_file_bytes);
        }
        s
    }

    fn new(now: Instant, setup: Setup, rng: StdRng, role: Role, phase: Phase) -> Self {
        let Setup { config, remote, local_cid, receive_budget, send_budget, .. } = setup;
        // Replaced at the handshake's end; nothing is sealed before.
        let no_keys = crate::codec::aead::PacketKeys::crc;
        let is_client = matches!(role, Role::Client { .. });
        let mut trace = config.trace.then(Box::<trace::Recorder>::default);
        if let Some(t) = &mut trace {
            t.push(now, Trace::Started { remote, is_client });
        }
        Self {
            role,
            phase,
            local_cid,
            remote_cid: Cid([0; 8]),
            seal: SealKeys::new(no_keys()),
            open: OpenKeys::new(no_keys()),
            rng,
            started_at: now,
            heard_at: now,
            taken: 0,
            idle_timeout: config.idle_timeout,
            path: Path::new(now, remote, &config),
            rtt: Rtt::default(),
            sent: SentPackets::new(),
            outcome: Outcome::default(),
            received: ReceivedNumbers::new(now),
            control_tx: ControlSender::default(),
            control_rx: ControlReceiver::default(),
            control_window: control_window(receive_budget),
            credit_told: control_window(receive_budget),
            window_told: receive_budget,
            peer_window: 0,
            newest_feedback: None,
            feedback_at: None,
            ce_seen: 0,
            silent_ptos: 0,
            silent_since: None,
            last_pto_at: now,
            probes_due: 0,
            ping_due: false,
            floor_sent_at: None,
            path_response: None,
            candidate: None,
            offers: None,
            confirm: None,
            tail_at: None,
            sender: Sender::new(config.chunk_size, config.compress, send_budget),
            receiver: Receiver::new(receive_budget),
            completed_at: None,
            opening: None,
            refused: false,
            must_be_heard: false,
            peer_features: 0,
            continues: config.continues,
            request_held: false,
            request_written: false,
            streams: false,
            give_up: None,
            stats: Stats::default(),
            trace,
            refusals: Refusals::default(),
            events: VecDeque::new(),
            end_job: false,
            scratch: Default::default(),
            config,
        }
    }

    fn apply_params(&mut self, now: Instant, peer: &Params) {
        self.idle_timeout =
            self.config.idle_timeout.min(Duration::from_millis(peer.idle_timeout_ms.max(1000)));
        self.peer_window = peer.receive_window_bytes;
        self.peer_features = peer.features;
        self.control_tx.replace_credit(peer.control_credit_bytes);
        self.sender.set_peer_zstd(peer.features & FEATURE_ZSTD != 0);
        self.path.limit_datagrams(now, peer.max_datagram_bytes.min(65_535) as u32);
    }

    /// The address of the peer.
    pub fn remote(&self) -> SocketAddr {
        self.path.remote
    }

    /// IP and UDP header bytes of each datagram to the peer.
    pub fn ip_overhead(&self) -> u64 {
        self.path.ip_overhead()
    }

    /// The connection ID of packets to us.
    pub fn local_cid(&self) -> Cid {
        self.local_cid
    }

    /// New shares of the process's budgets; `assembly_left`: what all sessions together may still reserve for chunks in assembly.
    pub fn set_budgets(&mut self, receive: u64, send: u64, assembly_left: u64) {
        self.receiver.set_budget(receive);
        self.receiver.set_assembly_left(assembly_left);
        self.sender.set_budget(send);
        self.control_window = control_window(receive);
    }

    /// Datagrams so far that were not dropped unread.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes received that wait for the store, and bytes reserved for chunks in assembly.
    pub fn receive_memory(&self) -> (u64, u64) {
        let assembly = self.receiver.reserved_bytes();
        (self.receiver.used_bytes() - assembly, assembly)
    }

    /// The socket or the route takes no datagrams of that many bytes. What was lost by that is repaired like any loss.
    pub fn handle_too_large(&mut self, now: Instant, bytes: u32) {
        self.path.on_refused(now, bytes);
    }

    /// Whether the session is over and its last event was given out.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Closed) && self.events.is_empty() && !self.end_job
    }

    /// Ends the session: the peer is told if it can be.
    pub fn close(&mut self, _now: Instant, reason: CloseReason) {
        match self.phase {
            Phase::Closing { .. } | Phase::Closed => {}
            Phase::Hello(_) => self.finish(reason),
            // Two copies: nobody will repeat a lost one.
            Phase::Confirming | Phase::Open => self.phase = Phase::Closing { reason, copies: 2 },
        }
    }

    /// Ends the session without another word to the peer.
    pub fn abandon(&mut self) {
        self.finish(CloseReason::Interrupted);
    }

    /// Over, without another word to the peer.
    fn finish(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.collect_transfer_events();
            self.events.push_back(Event::Closed(reason));
            self.end_job = true;
        }
    }

    /// The next job for the store.
    pub fn poll_job(&mut self) -> Option<Job> {
        if matches!(self.phase, Phase::Closed) {
            return std::mem::take(&mut self.end_job).then_some(Job::EndSession);
        }
        self.sender.poll_job().or_else(|| self.receiver.poll_job())
    }

    /// An answer of the store.
    pub fn handle_done(&mut self, now: Instant, done: Done) {
        match done {
            Done::Entries { .. }
            | Done::Chunk { .. }
            | Done::SourceDigest { .. }
            | Done::SourceFailed { .. }
            | Done::StreamEnded { .. }
            | Done::StreamWaits { .. }
            | Done::SourceHashed { .. }
            | Done::Found { .. } => self.sender.handle_done(done),
            Done::DestSet(result) => self.on_dest_set(now, result),
            _ => self.receiver.handle_done(done),
        }
        self.advance(now);
    }

    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let (tx, rx) = (self.sender.counters(), self.receiver.counters());
        let mut s = self.stats.clone();
        s.nacks_sent = self.received.nacks();
        s.packets_corrupted += self.open.failed_packets();
        // A peer may claim what it likes.
        s.file_bytes_done = tx.bytes_done.saturating_add(rx.bytes_done);
        s.file_bytes_total = tx.bytes_total.saturating_add(rx.bytes_total);
        s.chunk_bytes_plain = tx.chunk_bytes_plain + rx.chunk_bytes_plain;
        s.chunk_bytes_encoded = tx.chunk_bytes_encoded + rx.chunk_bytes_encoded;
        if self.rtt.is_measured() {
            (s.min_rtt, s.smoothed_rtt) = (self.rtt.min(), self.rtt.smoothed());
        }
        s.bytes_in_flight = self.sent.bytes_in_flight();
        s.window_bytes = self.path.window_bytes();
        s.rate_bytes_per_sec = self.path.controller.rate_bytes_per_sec();
        s.queue_delay = self.path.controller.queue_delay();
        s.datagram_bytes = self.path.mtu.current();
        s
    }

    /// What somebody has who reads this session's memory now, and could use later: for a simulated attacker.
    pub(crate) fn copied_keys(&self) -> CopiedKeys {
        let (keys, first_number, confirmed) = self.seal.copied();
        let (next_number, phase) = (self.sent.next_number(), self.seal.phase());
        CopiedKeys { keys, first_number, confirmed, next_number, phase, cid: self.remote_cid }
    }

    /// What this session has not taken from its peer, by reason.
    pub fn refusals(&self) -> Refusals {
        let mut all = self.refusals.clone();
        all.merge(self.receiver.refusals());
        all.add(Refusal::Forged, self.open.failed_packets());
        all.add(Refusal::Replayed, self.stats.packets_duplicate);
        all
    }

    /// Lets everything that waits for something else make progress: manifest, messages, events, completion.
    fn advance(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Closed) {
            return;
        }
        if self.request_held {
            return;
        }
        self.process_control(now);
        self.receiver.pump_removal();
        self.collect_transfer_events();
        self.finish_echo_roots();
        let hint = self.path.rate_hint(now, &self.rtt);
        self.sender.set_rate_hint(hint);
        self.sender.pump(self.control_tx.unsent());
        self.collect_transfer_events();
        let (out, scratch) = &mut self.scratch;
        out.clear();
        while let Some(m) = self.sender.poll_message().or_else(|| self.receiver.poll_message()) {
            self.must_be_heard |= matches!(m, Message::Abandon { .. } | Message::EntryFailed { .. });
            m.encode(out, scratch);
        }
        self.control_tx.write(out);
        let opening = self.receiver.opening();
        if self.opening.map(|(file, _)| file) != opening {
            self.opening = opening.map(|file| (file, now));
        }
        self.check_credit(now);
        self.check_completion(now);
    }

    fn collect_transfer_events(&mut self) {
        while let Some(e) = self.sender.poll_event().or_else(|| self.receiver.poll_event()) {
            self.on_transfer_event(&e);
            self.events.push_back(e);
        }
    }

    /// Tells the peer soon when much more room has opened than it knows of.
    fn check_credit(&mut self, now: Instant) {
        let window = self.receive_window(now);
        let window_opened = self.window_told < window / 2;
        let credit_opened = self.control_credit() > self.credit_told + self.control_window / 4;
        if window_opened || credit_opened {
            self.received.request_feedback(now + self.rtt.smoothed() / 8);
        }
    }

    /// Segment bytes that may be in flight towards us. None while the store looks through what an earlier run has left:
    /// what came now would most likely come in vain.
    fn receive_window(&self, now: Instant) -> u64 {
        let looking = self.opening.is_some_and(|(_, since)| now >= since + OPENING_PATIENCE);
        if looking { 0 } else { self.receiver.window_bytes() }
    }

    /// The control-stream offset that the peer may send up to.
    fn control_credit(&self) -> u64 {
        (self.control_rx.consumed() + self.control_window).max(self.credit_told)
    }
}
