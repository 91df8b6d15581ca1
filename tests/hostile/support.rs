//! A real endpoint with a real store, and a scripted peer that speaks the protocol by hand: it has the key, and keeps to
//! no rule but those that a test gives it.

use fulmar::codec::aead::PacketKeys;
use fulmar::codec::handshake::{
    ClientHandshake, ClientShare, ENTROPY_BYTES, ServerHandshake, ServerShare, SessionKeys, Transcript,
};
use fulmar::endpoint::Endpoint;
use fulmar::endpoint::config::{EndpointConfig, Secret, ServerConfig};
use fulmar::session::event::{CloseReason, Event};
use fulmar::session::refusal::Refusal;
use fulmar::store::Store;
use fulmar::store::file::{FileOptions, FileStore};
use fulmar::transfer::Request;
use fulmar::transfer::job::{
    BeginEntry, Compression, Dest, EntryKind, FileId, Inline, Location, Meta, Overwrite, SourceRoot,
};
use fulmar::wire::buf::{Reader, put_bytes, put_varint};
use fulmar::wire::frame::{Frame, Segment};
use fulmar::wire::handshake::{Hello, Params, Reply, Security};
use fulmar::wire::message::Message;
use fulmar::wire::packet::{
    ProtectedHeader, TYPE_CONFIRM, TYPE_DATA, TYPE_HELLO, TYPE_REPLY, append_trailer, expand_number,
    strip_trailer,
};
use fulmar::wire::{Cid, VERSION};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn secret() -> Secret {
    Secret::Key(b"a key for hostile peers".to_vec().into())
}

pub(crate) fn addr(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], port))
}

/// Where the endpoint under test believes to be talked to from, unless a test says otherwise.
pub(crate) fn peer_addr() -> SocketAddr {
    addr(9, 999)
}

/// The endpoint under test, with its store, on a virtual clock.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    store: Box<dyn Store>,
    pub(crate) now: Instant,
    pub(crate) events: Vec<Event>,
    /// Datagrams that it sent, not yet looked at.
    pub(crate) out: Vec<(SocketAddr, Vec<u8>)>,
    /// Bytes that it sent so far.
    pub(crate) sent_bytes: u64,
    /// Its disk hangs: jobs stay where they are.
    pub(crate) hung: bool,
}

#[allow(clippy::disallowed_methods, reason = "an Instant cannot be made up: this one is only the origin")]
fn origin() -> Instant {
    Instant::now()
}

impl Node {
    /// A server for the directory.
    pub(crate) fn server(dir: &Path) -> Self {
        Self::server_with(dir, |_| {})
    }

    pub(crate) fn server_with(dir: &Path, change: impl FnOnce(&mut EndpointConfig)) -> Self {
        let mut config = EndpointConfig::new(secret());
        config.server = Some(ServerConfig::default());
        change(&mut config);
        Self::new(dir, config)
    }

    /// A client that receives into the directory.
    pub(crate) fn client(dir: &Path) -> Self {
        Self::new(dir, EndpointConfig::new(secret()))
    }

    fn new(dir: &Path, config: EndpointConfig) -> Self {
        let now = origin();
        let store = FileStore::open(dir, FileOptions::default()).expect("a directory");
        Self {
            endpoint: Endpoint::new(config, [7; 32], now),
            store: Box::new(store),
            now,
            events: Vec::new(),
            out: Vec::new(),
            sent_bytes: 0,
            hung: false,
        }
    }

    /// Starts a client's request.
    pub(crate) fn connect(&mut self, request: Request, roots: Vec<SourceRoot>) {
        let dest = Dest {
            location: Location::Jail(Vec::new()),
            into_dir: true,
            overwrite: Overwrite::Always,
            no_resume: false,
            name_prefix: Vec::new(),
        };
        let dest = (!matches!(request, Request::Put { .. })).then_some(dest);
        self.endpoint.connect(self.now, peer_addr(), request, roots, dest);
        self.serve();
    }

    /// A datagram arrives.
    pub(crate) fn give(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.endpoint.handle_datagram(self.now, from, None, &mut datagram.to_vec());
        self.serve();
    }

    /// All that can be done now: jobs, events, datagrams.
    pub(crate) fn serve(&mut self) {
        let (mut done, mut buf) = (Vec::new(), Vec::new());
        loop {
            let mut worked = false;
            while !self.hung
                && let Some((session, job)) = self.endpoint.poll_job()
            {
                self.store.run(session, job, &mut done);
                worked = true;
            }
            if !self.hung {
                self.store.idle(&mut done);
            }
            for (session, answer) in done.drain(..) {
                self.endpoint.handle_done(self.now, session, answer);
                worked = true;
            }
            while let Some((_, event)) = self.endpoint.poll_event() {
                self.events.push(event);
            }
            while let Some(t) = self.endpoint.poll_transmit(self.now, &mut buf, 16) {
                worked = true;
                self.sent_bytes += t.size as u64;
                let pieces = buf[..t.size].chunks(t.segment_size.unwrap_or(t.size));
                self.out.extend(pieces.map(|bytes| (t.remote, bytes.to_vec())));
            }
            if !worked {
                return;
            }
        }
    }

    /// Time goes by.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for steps in 0.. {
            assert!(steps < 1_000_000, "a loop without an end");
            let Some(next) = self.endpoint.poll_timeout().filter(|t| *t <= end) else { break };
            self.now = self.now.max(next);
            self.endpoint.handle_timeout(self.now);
            self.serve();
        }
        self.now = end;
    }

    pub(crate) fn refused(&self, why: Refusal) -> u64 {
        self.endpoint.refusals().get(why)
    }

    /// How the only session ended.
    pub(crate) fn closed(&self) -> Option<&CloseReason> {
        self.events.iter().find_map(|e| match e {
            Event::Closed(reason) => Some(reason),
            _ => None,
        })
    }

    /// Asserts that the session ended as a violation that says this, and that it was counted.
    pub(crate) fn expect_violation(&self, says: &str, why: Refusal) {
        match self.closed() {
            Some(CloseReason::Protocol(text)) => assert!(text.contains(says), "{text}"),
            other => panic!("closed by {other:?}, not by a violation ({says})"),
        }
        assert!(self.refused(why) > 0, "{}", self.endpoint.refusals());
    }

    /// Errors of files received, by path.
    pub(crate) fn failures(&self) -> Vec<(Vec<u8>, String)> {
        self.events
            .iter()
            .filter_map(|e| match e {
                Event::EntryFinished { path, error: Some(e), .. } => Some((path.clone(), e.message.clone())),
                _ => None,
            })
            .collect()
    }
}

/// The scripted peer.
pub(crate) struct Peer {
    seal: PacketKeys,
    open: PacketKeys,
    /// Connection ID of packets to the endpoint under test.
    pub(crate) cid: Cid,
    /// Of packets to this peer.
    pub(crate) own_cid: Cid,
    confirm: Option<[u8; 16]>,
    pub(crate) from: SocketAddr,
    pub(crate) next_number: u64,
    control_offset: u64,
    /// The other side's control stream, as far as it has come in order.
    stream: Vec<u8>,
    /// Numbers that the endpoint sent.
    pub(crate) numbers: Vec<u64>,
    /// CLOSE frames that it sent.
    pub(crate) closes: Vec<(u64, String)>,
    /// Datagrams that this peer sent, for replays.
    pub(crate) sent: Vec<Vec<u8>>,
    /// Whether these are kept.
    pub(crate) remember: bool,
}

pub(crate) fn generous() -> Params {
    Params {
        idle_timeout_ms: 60_000,
        max_datagram_bytes: 65_535,
        control_credit_bytes: 64 << 20,
        receive_window_bytes: 64 << 20,
        features: 1,
    }
}

/// A Hello as a client with the key sends it, and what it keeps.
pub(crate) fn hello(own_cid: u8, secret: &Secret) -> (ClientHandshake, Hello) {
    let (handshake, share) = ClientHandshake::new(secret, &[own_cid; ENTROPY_BYTES]);
    let security = match secret {
        Secret::Key(_) => Security::Aes128Gcm,
        Secret::Insecure => Security::Insecure,
    };
    let hello = Hello {
        version: VERSION,
        client_cid: Cid([own_cid; 8]),
        security,
        share: share.0,
        params: generous(),
        attempt: 0,
        cookie: None,
    };
    (handshake, hello)
}

/// What a client makes of a Reply.
pub(crate) fn finish(handshake: &ClientHandshake, hello: &Hello, reply: &[u8]) -> (Reply, SessionKeys) {
    let (reply, core) = Reply::decode(reply).expect("a Reply");
    let shared = handshake.finish(&ServerShare(reply.share)).expect("a valid share");
    let keys = shared.keys(&Transcript::new().add(&hello.core()).add(core));
    (reply, keys)
}

/// A Reply as a server with this secret answers a Hello, and its keys.
pub(crate) fn answer(
    hello: &[u8],
    secret: &Secret,
    server_cid: Cid,
    entropy: u8,
) -> (Hello, Reply, SessionKeys) {
    let (hello, core) = Hello::decode(hello).expect("a Hello");
    let (share, shared) =
        ServerHandshake::respond(secret, &[entropy; ENTROPY_BYTES], &ClientShare(hello.share))
            .expect("a valid share");
    let reply = Reply {
        client_cid: hello.client_cid,
        server_cid,
        share: share.0,
        params: generous(),
        attempt: hello.attempt,
    };
    let keys = shared.keys(&Transcript::new().add(core).add(&reply.core()));
    (hello, reply, keys)
}

impl Peer {
    fn new(seal: PacketKeys, open: PacketKeys, cid: Cid, own_cid: Cid, confirm: Option<[u8; 16]>) -> Self {
        Self {
            seal,
            open,
            cid,
            own_cid,
            confirm,
            from: peer_addr(),
            next_number: 0,
            control_offset: 0,
            stream: Vec::new(),
            numbers: Vec::new(),
            closes: Vec::new(),
            sent: Vec::new(),
            remember: true,
        }
    }

    /// A client with the key: the server under test has answered its Hello, and its Confirms will fit.
    pub(crate) fn join(node: &mut Node, own_cid: u8, from: SocketAddr) -> Self {
        let (handshake, hello) = hello(own_cid, &secret());
        node.give(from, &hello.encode());
        let at = node.out.iter().position(|(to, d)| *to == from && d[0] == TYPE_REPLY).expect("a Reply");
        let (_, reply) = node.out.remove(at);
        let (reply, keys) = finish(&handshake, &hello, &reply);
        let confirm = Some(keys.confirm);
        Self { from, ..Self::new(keys.client, keys.server, reply.server_cid, hello.client_cid, confirm) }
    }

    /// A server with the key, which answers the Hello of the client under test.
    pub(crate) fn meet(node: &mut Node) -> Self {
        let at = node.out.iter().position(|(_, d)| d[0] == TYPE_HELLO).expect("a Hello");
        let (_, first) = node.out.remove(at);
        let own_cid = Cid([0x51; 8]);
        let (hello, reply, keys) = answer(&first, &secret(), own_cid, 3);
        node.give(peer_addr(), &reply.encode());
        Self::new(keys.server, keys.client, hello.client_cid, own_cid, None)
    }

    /// The server has spoken: no more Confirms.
    pub(crate) fn data_only(&mut self) {
        self.confirm = None;
    }

    /// The next packet, sealed.
    pub(crate) fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let number = self.next_number;
        self.next_number += 1;
        let header = ProtectedHeader {
            cid: self.cid,
            truncated_number: number as u32,
            key_phase: false,
            confirm: self.confirm,
        };
        let mut out = Vec::new();
        header.encode(&mut out);
        let start = out.len();
        out.extend_from_slice(payload);
        self.seal.seal_packet(number, &mut out, 0, start);
        if self.confirm.is_some() {
            append_trailer(&mut out, 0);
        }
        out
    }

    /// Sends a payload, whatever it is.
    pub(crate) fn send_raw(&mut self, node: &mut Node, payload: &[u8]) {
        let packet = self.packet(payload);
        node.give(self.from, &packet);
        if self.remember {
            self.sent.push(packet);
        }
    }

    pub(crate) fn send(&mut self, node: &mut Node, frames: &[Frame<'_>]) {
        let mut payload = Vec::new();
        frames.iter().for_each(|f| f.encode(&mut payload));
        self.send_raw(node, &payload);
    }

    /// Says messages on the control stream, in as many packets as they need.
    pub(crate) fn say(&mut self, node: &mut Node, messages: &[Message]) {
        let (mut out, mut scratch) = (Vec::new(), Vec::new());
        messages.iter().for_each(|m| m.encode(&mut out, &mut scratch));
        self.say_raw(node, &out);
    }

    pub(crate) fn say_raw(&mut self, node: &mut Node, bytes: &[u8]) {
        for piece in bytes.chunks(30_000) {
            let offset = self.control_offset;
            self.control_offset += piece.len() as u64;
            self.send(node, &[Frame::Control { offset, data: piece }]);
        }
    }

    /// The same, but the first byte comes last: all becomes readable with one datagram.
    pub(crate) fn say_behind_a_gap(&mut self, node: &mut Node, bytes: &[u8]) {
        let start = self.control_offset;
        self.control_offset += 1;
        self.say_raw(node, &bytes[1..]);
        self.send(node, &[Frame::Control { offset: start, data: &bytes[..1] }]);
    }

    pub(crate) fn segment(&mut self, node: &mut Node, segment: Segment<'_>) {
        self.send(node, &[Frame::Segment(segment)]);
    }

    /// Reads what the endpoint has sent to this peer; returns the messages that became whole.
    pub(crate) fn read(&mut self, node: &mut Node) -> Vec<Message> {
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for (_, mut datagram) in std::mem::take(&mut node.out) {
            if datagram[0] != TYPE_CONFIRM && datagram[0] & !1 != TYPE_DATA {
                continue;
            }
            let len = if datagram[0] == TYPE_CONFIRM {
                strip_trailer(&datagram).expect("a CRC-32").len()
            } else {
                datagram.len()
            };
            let (header, start) = ProtectedHeader::decode(&datagram[..len]).expect("a header");
            if header.cid != self.own_cid {
                continue;
            }
            let (head, sealed) = datagram[..len].split_at_mut(start);
            let expected = self.numbers.iter().max().map_or(0, |n| n + 1);
            let number = expand_number(expected, header.truncated_number);
            let Ok(payload) = self.open.open(number, head, sealed) else { continue };
            self.numbers.push(number);
            let mut r = Reader::new(payload);
            while !r.is_empty() {
                match Frame::decode(&mut r).expect("a valid frame") {
                    Frame::Control { offset, data } => pieces.push((offset, data.to_vec())),
                    Frame::Close { code, text } => {
                        self.closes.push((code, String::from_utf8_lossy(text).into_owned()));
                    }
                    _ => {}
                }
            }
        }
        pieces.sort();
        for (offset, data) in pieces {
            let at = offset as usize;
            if at <= self.stream.len() && at + data.len() > self.stream.len() {
                let fresh = self.stream.len() - at;
                self.stream.extend_from_slice(&data[fresh..]);
            }
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Ok(Some((message, used))) = Message::decode(&self.stream[at..]) {
            found.extend(message);
            at += used;
        }
        found
    }
}

pub(crate) fn put() -> Message {
    Message::Request {
        client_id: "hostile".into(),
        request: Request::Put {
            dest: Vec::new(),
            into_dir: true,
            overwrite: Overwrite::Always,
            no_resume: false,
        },
    }
}

pub(crate) fn get(path: &[u8]) -> Request {
    Request::Get { paths: vec![path.to_vec()], compress: Compression::None, chunk_size: 1024 }
}

pub(crate) fn entry(file: u64, kind: EntryKind, path: &[u8]) -> BeginEntry {
    BeginEntry {
        file: FileId(file),
        path: path.to_vec(),
        kind,
        meta: Meta { mode: 0o644, mtime_s: 1, mtime_ns: 0 },
        size: 0,
        chunk_size: 1024,
        target: Vec::new(),
        inline: None,
    }
}

/// A small file with its contents.
pub(crate) fn inline(file: u64, path: &[u8], data: &[u8]) -> Message {
    let sha256 = Sha256::digest(data).into();
    Message::Entry(Box::new(BeginEntry {
        size: data.len() as u64,
        inline: Some(Inline { data: data.to_vec().into(), sha256 }),
        ..entry(file, EntryKind::File, path)
    }))
}

/// A file in chunks.
pub(crate) fn streamed(file: u64, path: &[u8], size: u64, chunk_size: u32) -> Message {
    Message::Entry(Box::new(BeginEntry { size, chunk_size, ..entry(file, EntryKind::File, path) }))
}

pub(crate) fn link(file: u64, path: &[u8], target: &[u8]) -> Message {
    Message::Entry(Box::new(BeginEntry { target: target.to_vec(), ..entry(file, EntryKind::Symlink, path) }))
}

pub(crate) fn dir(file: u64, path: &[u8]) -> Message {
    Message::Entry(Box::new(entry(file, EntryKind::Dir, path)))
}

/// An ENTRY with a path that the encoder's own side would never send.
pub(crate) fn raw_entry(file: u64, path: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    put_varint(&mut body, file);
    body.push(0);
    put_bytes(&mut body, path);
    [0o644, 2, 0, data.len() as u64].iter().for_each(|v| put_varint(&mut body, *v));
    body.push(1);
    body.extend_from_slice(data);
    body.extend_from_slice(&Sha256::digest(data));
    let mut out = vec![2];
    put_bytes(&mut out, &body);
    out
}

/// A FEEDBACK frame: `largest`, then runs from there down, the first of them received.
pub(crate) fn feedback(largest: u64, runs: &[u64]) -> Vec<u8> {
    feedback_with_window(largest, runs, 1 << 30)
}

/// The same, with the receive window given.
pub(crate) fn feedback_with_window(largest: u64, runs: &[u64], window: u64) -> Vec<u8> {
    let mut out = vec![3];
    for v in [largest, 1, 0, 1 << 20, 0, window, 1 << 20] {
        put_varint(&mut out, v);
    }
    out.push(1);
    put_varint(&mut out, 0);
    put_varint(&mut out, runs.iter().sum());
    out.push(0);
    let mut body = Vec::new();
    runs.iter().for_each(|n| put_varint(&mut body, *n));
    put_bytes(&mut out, &body);
    out
}

/// Names below a directory, hidden ones left out.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with(".fulmar-"))
        .collect();
    names.sort();
    names
}
