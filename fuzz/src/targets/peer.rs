//! Targets that need an endpoint: handshakes, sealed packets, and whole sessions with a peer that does what it likes.

use super::{FIXED_SECRETS, origin, sealing_keys};
use arbitrary::{Arbitrary, Unstructured};
use fulmar::codec::aead::PacketKeys;
use fulmar::codec::handshake::{
    CONFIRM_BYTES, ClientHandshake, ClientShare, ENTROPY_BYTES, ServerHandshake, ServerShare, SessionKeys,
    Transcript,
};
use fulmar::endpoint::config::{EndpointConfig, Secret, ServerConfig, SessionConfig};
use fulmar::endpoint::{Endpoint, MAX_HALF_OPEN};
use fulmar::session::{Session, Setup, local_params};
use fulmar::store::Store;
use fulmar::store::memory::{Content, MemoryStore};
use fulmar::transfer::Request;
use fulmar::transfer::job::{Compression, Dest, Location, Overwrite, SourceRoot};
use fulmar::wire::buf::Reader;
use fulmar::wire::frame::Frame;
use fulmar::wire::handshake::{Hello, Params, Reply, Security};
use fulmar::wire::packet::{ProtectedHeader, TYPE_CONFIRM, TYPE_DATA, append_trailer, strip_trailer};
use fulmar::wire::{Cid, VERSION};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 5770))
}

fn params() -> Params {
    local_params(&SessionConfig::default(), 1 << 20)
}

/// An endpoint with a store in memory.
struct Node {
    endpoint: Endpoint,
    store: MemoryStore,
    now: Instant,
    out: Vec<(SocketAddr, Vec<u8>)>,
    given: usize,
    sent: usize,
}

/// The largest file that there is: a few chunks of the smallest size, streamed.
const LARGE_BYTES: u64 = 40_000;
/// Steps of a session, and wake-ups in one of them, and at its end: few enough for thousands of sessions a second.
const MAX_STEPS: usize = 32;
const MAX_WAKE_UPS: usize = 30;
const MAX_LAST_WAKE_UPS: usize = 100;
/// Every so many lengths of input are followed to the end of all time-outs, which takes longer than all that goes before.
const TO_THE_END: usize = 16;
/// Rounds of work at one instant; far more than any input can give reason for.
const MAX_ROUNDS: usize = 20_000;

impl Node {
    fn new(server: bool) -> Self {
        let mut node = Self::empty(server);
        let content = Content::Pattern { seed: 1, size: LARGE_BYTES };
        node.store.insert_file(b"large", content, Default::default());
        node.store.insert(b"small", &b"some bytes"[..]);
        node.store.insert(b"tree/inner", &b"more bytes"[..]);
        node.store.insert_symlink(b"link", b"small");
        node
    }

    /// Without any files: strangers do not get to them.
    fn empty(server: bool) -> Self {
        let mut config = EndpointConfig::new(Secret::Insecure);
        config.receive_budget_bytes = 1 << 20;
        config.send_budget_bytes = 1 << 20;
        config.server = server.then(|| ServerConfig { max_file_bytes: 1 << 40, ..ServerConfig::default() });
        let now = origin();
        let store = MemoryStore::new();
        Self { endpoint: Endpoint::new(config, [7; 32], now), store, now, out: Vec::new(), given: 0, sent: 0 }
    }

    fn give(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.given += datagram.len();
        self.endpoint.handle_datagram(self.now, from, None, &mut datagram.to_vec());
        self.serve();
    }

    fn serve(&mut self) {
        let (mut done, mut buf) = (Vec::new(), Vec::new());
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "work without an end");
            let mut worked = false;
            while let Some((session, job)) = self.endpoint.poll_job() {
                self.store.run(session, job, &mut done);
                worked = true;
            }
            self.store.idle(&mut done);
            for (session, answer) in done.drain(..) {
                self.endpoint.handle_done(self.now, session, answer);
                worked = true;
            }
            while self.endpoint.poll_event().is_some() {}
            while let Some(t) = self.endpoint.poll_transmit(self.now, &mut buf, 4) {
                assert!(t.size == buf.len() && t.size > 0);
                worked = true;
                self.sent += t.size;
                let pieces = buf.chunks(t.segment_size.unwrap_or(t.size));
                self.out.extend(pieces.map(|bytes| (t.remote, bytes.to_vec())));
            }
            if !worked {
                return;
            }
        }
    }

    /// Time goes by, in at most so many steps.
    fn pass(&mut self, time: Duration, most_steps: usize) {
        let end = self.now + time;
        let mut same = 0;
        for _ in 0..most_steps {
            let Some(next) = self.endpoint.poll_timeout().filter(|t| *t <= end) else { break };
            // A deadline that is past again and again, with nothing done about it, is a loop that spins.
            same = if next <= self.now { same + 1 } else { 0 };
            assert!(same < 100, "a deadline that does not move");
            self.now = self.now.max(next);
            self.endpoint.handle_timeout(self.now);
            self.serve();
        }
        self.now = end.max(self.now);
    }
}

/// Datagrams of strangers to a server, and answers of strangers to a client; each with its CRC-32 put right.
pub fn handshake(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut node = Node::empty(first & 1 == 0);
    let mut cid = Cid([0; 8]);
    if first & 1 == 1 {
        let request = Request::List { path: Vec::new() };
        node.endpoint.connect(node.now, addr(1), request, Vec::new(), None);
        node.serve();
        let (_, hello) = node.out.first().expect("a Hello");
        cid = Hello::decode(hello).expect("a Hello").0.client_cid;
    }
    // The client's own first datagram is no answer.
    node.sent = 0;
    while let Some((control, tail)) = rest.split_first() {
        let len = usize::from(control & 0x7f).min(tail.len());
        let (body, tail) = tail.split_at(len);
        rest = tail;
        let mut datagram = body.to_vec();
        if first & 1 == 1 && datagram.len() >= 9 {
            // For the one session that there is.
            datagram[1..9].copy_from_slice(&cid.0);
        }
        append_trailer(&mut datagram, 0);
        node.give(addr(1 + (control >> 7)), &datagram);
        if control & 3 == 3 {
            node.pass(Duration::from_millis(50), 100);
        }
    }
    if first & 1 == 0 {
        assert!(node.endpoint.admission().1 <= MAX_HALF_OPEN);
        assert!(node.sent <= 3 * node.given, "{} bytes for {}", node.sent, node.given);
    }
    if !data.len().is_multiple_of(TO_THE_END) {
        return;
    }
    node.pass(Duration::from_secs(100), 2000);
    if first & 1 == 1 {
        assert_eq!(node.endpoint.session_count(), 0, "an attempt ends");
    }
}

/// A server's session with fixed keys, AES-128-GCM: the input is what the packets hold.
pub fn sealed(data: &[u8]) {
    let now = origin();
    let [client, server] = FIXED_SECRETS.map(|secret| PacketKeys::from_secret(&secret));
    let keys = SessionKeys { client, server, confirm: [0; CONFIRM_BYTES] };
    let setup = Setup {
        config: SessionConfig::default(),
        remote: addr(1),
        local_cid: Cid([5; 8]),
        seed: [3; 32],
        receive_budget: 1 << 20,
        send_budget: 1 << 20,
    };
    let told = params();
    let rtt = (Duration::from_millis(20), true);
    let mut session =
        Session::accept(now, setup, ServerConfig::default(), 1, Cid([6; 8]), keys, (&told, &told), rtt);
    let mut store = MemoryStore::new();
    store.insert_file(b"large", Content::Pattern { seed: 1, size: LARGE_BYTES }, Default::default());
    let client = sealing_keys();
    let (mut rest, mut number, mut buf, mut done) = (data, 0u64, Vec::new(), Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*head) & 0x0fff).min(tail.len());
        let (payload, tail) = tail.split_at(len);
        rest = tail;
        let mut packet = Vec::new();
        let (cid, truncated_number) = (Cid([5; 8]), number as u32);
        ProtectedHeader { cid, truncated_number, key_phase: false, confirm: None }.encode(&mut packet);
        let start = packet.len();
        packet.extend_from_slice(payload);
        client.seal_packet(number, &mut packet, 0, start);
        session.handle_datagram(now, addr(1 + (head[0] >> 7)), head[0] & 0x40 != 0, &mut packet);
        number += 1 + u64::from(head[0] >> 4 & 3);
        while let Some(job) = session.poll_job() {
            store.run(1, job, &mut done);
        }
        store.idle(&mut done);
        done.drain(..).for_each(|(_, answer)| session.handle_done(now, answer));
        while session.poll_event().is_some() {}
        for _ in 0..64 {
            buf.clear();
            if session.poll_transmit(now, &mut buf, 4, true).is_none() {
                break;
            }
        }
    }
    let later = now + Duration::from_millis(500);
    session.handle_timeout(later);
    buf.clear();
    let _ = session.poll_transmit(later, &mut buf, 4, true);
    let _ = session.poll_timeout(later, true);
}

/// One thing that the scripted peer does.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// A packet with this payload.
    Payload(&'a [u8]),
    /// The next bytes of the control stream.
    Control(&'a [u8]),
    /// A segment.
    Segment {
        file: u8,
        chunk: u8,
        offset: u16,
        generation: u8,
        encoded: Option<(bool, u16)>,
        ends: bool,
        data: &'a [u8],
    },
    /// Feedback: how far from the newest number sent, and the runs from there down.
    Feedback { behind: i8, runs: Vec<u16>, received_us: u64, received_bytes: u64, window: u32, credit: u32 },
    /// Everything that has come, acknowledged.
    Acknowledge,
    /// Numbers left out.
    Skip(u8),
    /// The last packet once more, from elsewhere.
    Replay(u8),
    /// Anything at all.
    Datagram(&'a [u8]),
    /// Milliseconds go by.
    Pass(u16),
    /// Packets come from another address from now on.
    Move(u8),
}

/// The scripted peer's side of the session.
struct Peer {
    cid: Cid,
    confirm: Option<[u8; 16]>,
    from: SocketAddr,
    number: u64,
    offset: u64,
    /// Numbers that the endpoint sent, as far as they are known.
    seen: Vec<u64>,
    last: Vec<u8>,
}

impl Peer {
    fn send(&mut self, node: &mut Node, payload: &[u8]) {
        let mut packet = Vec::new();
        let header = ProtectedHeader {
            cid: self.cid,
            truncated_number: self.number as u32,
            key_phase: false,
            confirm: self.confirm,
        };
        header.encode(&mut packet);
        let start = packet.len();
        packet.extend_from_slice(payload);
        PacketKeys::crc().seal_packet(self.number, &mut packet, 0, start);
        if self.confirm.is_some() {
            append_trailer(&mut packet, 0);
        }
        self.number += 1;
        node.give(self.from, &packet);
        self.last = packet;
    }

    fn look(&mut self, node: &mut Node) {
        for (_, datagram) in node.out.drain(..) {
            let body = match datagram[0] {
                TYPE_CONFIRM => strip_trailer(&datagram).expect("a CRC-32"),
                b if b & !1 == TYPE_DATA => &datagram[..],
                _ => continue,
            };
            let (header, len) = ProtectedHeader::decode(body).expect("a header");
            // Whatever the peer did: what is sent can be read.
            let mut r = Reader::new(&body[len..body.len() - 4]);
            while !r.is_empty() {
                Frame::decode(&mut r).expect("a valid frame");
            }
            self.seen.push(header.truncated_number.into());
        }
    }

    fn feedback(&self, largest: u64, runs: &[u64], figures: [u64; 6]) -> Vec<u8> {
        let varint = |out: &mut Vec<u8>, v: u64| fulmar::wire::buf::put_varint(out, v.min((1 << 62) - 1));
        let mut out = vec![3];
        varint(&mut out, largest);
        figures.iter().for_each(|v| varint(&mut out, *v));
        out.push(1);
        out.push(0);
        varint(&mut out, runs.iter().sum());
        out.push(0);
        let mut body = Vec::new();
        runs.iter().for_each(|n| varint(&mut body, *n));
        fulmar::wire::buf::put_bytes(&mut out, &body);
        out
    }
}

/// What the endpoint under test is: a server, or a client with one of the requests.
fn begin(kind: u8) -> (Node, Peer) {
    let server = kind % 6 < 2;
    let mut node = Node::new(server);
    let peer = if server { join(&mut node) } else { meet(&mut node, kind % 6) };
    (node, peer)
}

fn peer(cid: Cid, confirm: Option<[u8; 16]>) -> Peer {
    Peer { cid, confirm, from: addr(1), number: 0, offset: 0, seen: Vec::new(), last: Vec::new() }
}

fn join(node: &mut Node) -> Peer {
    let (handshake, share) = ClientHandshake::new(&Secret::Insecure, &[9; ENTROPY_BYTES]);
    let hello = Hello {
        version: VERSION,
        client_cid: Cid([4; 8]),
        security: Security::Insecure,
        share: share.0,
        params: params(),
        attempt: 0,
        cookie: None,
    };
    node.give(addr(1), &hello.encode());
    let (_, answer) = node.out.pop().expect("a Reply");
    let (reply, core) = Reply::decode(&answer).expect("a Reply");
    let shared = handshake.finish(&ServerShare(reply.share)).expect("another share");
    let keys = shared.keys(&Transcript::new().add(&hello.core()).add(core));
    peer(reply.server_cid, Some(keys.confirm))
}

fn meet(node: &mut Node, kind: u8) -> Peer {
    let root = SourceRoot { location: Location::Local(b"large".to_vec()), name: b"large".to_vec() };
    let dest = Dest {
        location: Location::Jail(b"got".to_vec()),
        into_dir: true,
        overwrite: Overwrite::Always,
        no_resume: false,
        name_prefix: Vec::new(),
    };
    let (overwrite, no_resume) = (Overwrite::Never, false);
    let (request, roots, dest) = match kind {
        2 => (Request::Put { dest: Vec::new(), into_dir: true, overwrite, no_resume }, vec![root], None),
        3 => {
            let (paths, compress) = (vec![Vec::new()], Compression::Auto);
            (Request::Get { paths, compress, chunk_size: 1024 }, Vec::new(), Some(dest))
        }
        4 => (Request::List { path: Vec::new() }, Vec::new(), None),
        _ => {
            let sim_back = String::new();
            (Request::Echo { sim_back, keep: false, overwrite, no_resume }, vec![root], Some(dest))
        }
    };
    node.endpoint.connect(node.now, addr(1), request, roots, dest);
    node.serve();
    let (_, first) = node.out.remove(0);
    let (hello, core) = Hello::decode(&first).expect("a Hello");
    let (share, shared) =
        ServerHandshake::respond(&Secret::Insecure, &[8; ENTROPY_BYTES], &ClientShare(hello.share))
            .expect("another share");
    let reply = Reply {
        client_cid: hello.client_cid,
        server_cid: Cid([3; 8]),
        share: share.0,
        params: params(),
        attempt: 0,
    };
    let _ = shared.keys(&Transcript::new().add(core).add(&reply.core()));
    node.give(addr(1), &reply.encode());
    peer(hello.client_cid, None)
}

/// A whole session, step by step.
pub fn session(data: &[u8]) {
    let input_bytes = data.len();
    let Some((kind, data)) = data.split_first() else { return };
    let (mut node, mut peer) = begin(*kind);
    let mut input = Unstructured::new(data);
    for _ in 0..MAX_STEPS {
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        take(step, &mut node, &mut peer);
        peer.look(&mut node);
        if input.is_empty() || node.endpoint.session_count() == 0 {
            break;
        }
    }
    // Everything that a session has taken up is given back, and figures can be read at any time.
    let _ = node.endpoint.refusals();
    if input_bytes.is_multiple_of(TO_THE_END) {
        node.pass(Duration::from_secs(200), MAX_LAST_WAKE_UPS);
    }
}

fn take(step: Step<'_>, node: &mut Node, peer: &mut Peer) {
    match step {
        Step::Payload(payload) => peer.send(node, payload),
        Step::Control(data) => {
            let mut payload = Vec::new();
            Frame::Control { offset: peer.offset, data }.encode(&mut payload);
            peer.offset += data.len() as u64;
            peer.send(node, &payload);
        }
        Step::Segment { file, chunk, offset, generation, encoded, ends, data } => {
            use fulmar::transfer::job::ChunkCodec;
            let codec = |zstd| if zstd { ChunkCodec::Zstd } else { ChunkCodec::Lz4 };
            let mut payload = Vec::new();
            Frame::Segment(fulmar::wire::frame::Segment {
                file: file.into(),
                chunk: chunk.into(),
                offset: offset.into(),
                generation: generation.into(),
                encoded: encoded.map(|(zstd, n)| (codec(zstd), n.into())),
                crc32: ends.then_some(0),
                data,
            })
            .encode(&mut payload);
            peer.send(node, &payload);
        }
        Step::Feedback { behind, runs, received_us, received_bytes, window, credit } => {
            let newest = peer.seen.iter().max().copied().unwrap_or(0);
            let largest = newest.saturating_add_signed(-i64::from(behind));
            let runs: Vec<u64> = runs.into_iter().map(u64::from).collect();
            let figures = [received_us, 0, received_bytes, 0, window.into(), credit.into()];
            let payload = peer.feedback(largest, &runs, figures);
            peer.send(node, &payload);
        }
        Step::Acknowledge => {
            let Some(newest) = peer.seen.iter().max().copied() else { return };
            // From the newest down: what was seen, and what was skipped.
            let mut runs = vec![0u64];
            let mut received = true;
            for n in (newest.saturating_sub(500)..=newest).rev() {
                if peer.seen.contains(&n) != received {
                    received = !received;
                    runs.push(0);
                }
                *runs.last_mut().expect("never empty") += 1;
            }
            let us = (node.now - origin()).as_micros() as u64;
            let payload = peer.feedback(newest, &runs, [us, 0, node.sent as u64, 0, 1 << 20, 1 << 20]);
            peer.send(node, &payload);
        }
        Step::Skip(n) => peer.number += u64::from(n),
        Step::Replay(from) => {
            let last = peer.last.clone();
            node.give(addr(from), &last);
        }
        Step::Datagram(datagram) => node.give(peer.from, datagram),
        Step::Pass(ms) => node.pass(Duration::from_millis(ms.into()), MAX_WAKE_UPS),
        Step::Move(last) => peer.from = addr(last),
    }
}
