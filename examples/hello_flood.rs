//! Floods a server with handshake packets of strangers and says what comes back.
//!
//! ```text
//! cargo run --release --example hello_flood -- HOST:PORT [rate=50000] [seconds=10] [kind=fresh] [sockets=64]
//! ```
//!
//! Kinds: `fresh` (each Hello a client of its own), `repeat` (one Hello per socket, again and again), `cookie` (fresh, and each
//! Retry is answered with its cookie), `junk` (random bytes behind the type of a Hello), `confirm` (Confirms of nobody),
//! `version` (Hellos of another version). The last line is JSON; `amplification` is bytes received / bytes sent, UDP payload.
//! Packets leave in batches of equal ones from one socket (UDP segmentation where the kernel has it), so that making the flood
//! costs little beside what it does. Exit code 1 if more than three times as much came back as was sent (RFC 9000, section 8.1).

#![allow(clippy::disallowed_methods, reason = "it works in real time")]

use fulmar::codec::handshake::{ClientHandshake, ENTROPY_BYTES};
use fulmar::endpoint::config::Secret;
use fulmar::wire::handshake::{Hello, Params, Retry, Security};
use fulmar::wire::packet::TYPE_RETRY;
use fulmar::wire::{Cid, VERSION};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

/// Shares that are used in turn: making one costs more than sending a thousand packets.
const SHARES: usize = 64;
/// Pause between two bursts.
const BEAT: Duration = Duration::from_micros(500);

/// Most batches of a burst.
const MAX_BURST: usize = 64;
/// Most packets of a batch: what one message with UDP segmentation holds.
const MAX_BATCH: u64 = 32;

struct Options {
    target: SocketAddr,
    rate: f64,
    seconds: f64,
    kind: String,
    sockets: usize,
}

impl Options {
    fn parse() -> Self {
        let mut args = std::env::args().skip(1);
        let target = args.next().expect("HOST:PORT is needed; see the head of examples/hello_flood.rs");
        let target = target.to_socket_addrs().expect("an address").next().expect("an address");
        let mut o = Self { target, rate: 50_000.0, seconds: 10.0, kind: "fresh".into(), sockets: 64 };
        for arg in args {
            let (name, value) = arg.split_once('=').expect("NAME=VALUE");
            let number = || value.parse::<f64>().expect("a number");
            match name {
                "rate" => o.rate = number(),
                "seconds" => o.seconds = number(),
                "sockets" => o.sockets = (number() as usize).max(1),
                "kind" => o.kind = value.into(),
                _ => panic!("unknown option {name}"),
            }
        }
        o
    }
}

fn hellos(rng: &mut StdRng) -> Vec<Hello> {
    let hello = |_| {
        let mut entropy = [0; ENTROPY_BYTES];
        rng.fill_bytes(&mut entropy);
        let (_, share) = ClientHandshake::new(&Secret::Key(b"a guess".to_vec().into()), &entropy);
        Hello {
            version: VERSION,
            client_cid: Cid([0; 8]),
            security: Security::Aes128Gcm,
            share: share.0,
            params: Params {
                idle_timeout_ms: 60_000,
                max_datagram_bytes: 65_535,
                control_credit_bytes: 4 << 20,
                receive_window_bytes: 24 << 20,
                features: 1,
            },
            attempt: 0,
            cookie: None,
        }
    };
    (0..SHARES).map(hello).collect()
}

struct Flood {
    rng: StdRng,
    hellos: Vec<Hello>,
    kind: String,
    sent: u64,
}

impl Flood {
    /// The next packet to leave from this socket.
    fn packet(&mut self, socket: usize) -> Vec<u8> {
        let hello = &mut self.hellos[self.sent as usize % SHARES];
        hello.client_cid.0 = (self.sent | 1 << 63).to_be_bytes();
        match self.kind.as_str() {
            "fresh" | "cookie" => hello.encode(),
            "repeat" => {
                let hello = &mut self.hellos[socket % SHARES];
                hello.client_cid.0 = (socket as u64 | 1 << 62).to_be_bytes();
                hello.encode()
            }
            "version" => {
                hello.version = VERSION + 1;
                hello.encode()
            }
            "junk" | "confirm" => {
                let mut bytes = vec![0; 120];
                self.rng.fill_bytes(&mut bytes);
                bytes[0] = if self.kind == "junk" { 0xf0 } else { 0xf4 };
                bytes
            }
            other => panic!("unknown kind {other}"),
        }
    }

    /// Sends so many packets from this socket, all of one size; how many the socket took, and their bytes.
    fn send(
        &mut self,
        number: usize,
        socket: &UdpSocket,
        state: &UdpSocketState,
        target: SocketAddr,
        count: u64,
    ) -> (u64, u64) {
        let mut batch = Vec::with_capacity(16 * 1024);
        let mut size = 0;
        for _ in 0..count {
            let packet = self.packet(number);
            self.sent += 1;
            debug_assert!(size == 0 || size == packet.len());
            size = packet.len();
            batch.extend_from_slice(&packet);
        }
        let (mut packets, mut bytes) = (0, 0);
        for part in batch.chunks(size * state.max_gso_segments().max(1)) {
            let segment_size = (part.len() > size).then_some(size);
            let transmit =
                Transmit { destination: target, ecn: None, contents: part, segment_size, src_ip: None };
            if state.try_send(UdpSockRef::from(socket), &transmit).is_ok() {
                packets += (part.len() / size) as u64;
                bytes += part.len() as u64;
            }
        }
        (packets, bytes)
    }

    /// What to send back for an answer.
    fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        if self.kind != "cookie" || packet.first() != Some(&TYPE_RETRY) {
            return None;
        }
        let retry = Retry::decode(packet).ok()?;
        let number = u64::from_be_bytes(retry.client_cid.0) & !(1 << 63);
        let mut hello = self.hellos[number as usize % SHARES].clone();
        (hello.client_cid, hello.cookie) = (retry.client_cid, Some(retry.cookie));
        Some(hello.encode())
    }
}

fn main() {
    let o = Options::parse();
    let any: SocketAddr = match o.target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let sockets: Vec<UdpSocket> = (0..o.sockets)
        .map(|_| {
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.set_nonblocking(true).expect("set");
            socket
        })
        .collect();
    let states: Vec<UdpSocketState> =
        sockets.iter().map(|socket| UdpSocketState::new(socket.into()).expect("a socket")).collect();
    let mut rng = StdRng::seed_from_u64(u64::from(std::process::id()));
    let mut flood = Flood { hellos: hellos(&mut rng), rng, kind: o.kind.clone(), sent: 0 };
    let (mut bytes_sent, mut bytes_back, mut answers, mut blocked) = (0u64, 0u64, [0u64; 256], 0u64);
    let (mut packets_sent, mut turn) = (0u64, 0);
    let (start, mut buf) = (Instant::now(), vec![0; 65_536]);
    let mut meta = [RecvMeta::default()];
    let mut reading = 0;
    while start.elapsed().as_secs_f64() < o.seconds {
        // Bounded: a machine that cannot keep up must still come to read and to look at the clock.
        for _ in 0..MAX_BURST {
            let due = (start.elapsed().as_secs_f64() * o.rate) as u64;
            let count = due.saturating_sub(flood.sent).min(MAX_BATCH);
            if count == 0 {
                break;
            }
            turn = (turn + 1) % sockets.len();
            let (packets, bytes) = flood.send(turn, &sockets[turn], &states[turn], o.target, count);
            bytes_sent += bytes;
            packets_sent += packets;
            blocked += count - packets;
        }
        // Some sockets in each turn, all before long.
        for _ in 0..sockets.len().min(16) {
            reading = (reading + 1) % sockets.len();
            let (socket, state) = (&sockets[reading], &states[reading]);
            while let Ok(1) = state.recv(socket.into(), &mut [IoSliceMut::new(&mut buf)], &mut meta) {
                bytes_back += meta[0].len as u64;
                for packet in buf[..meta[0].len].chunks(meta[0].stride.max(1)) {
                    answers[usize::from(packet[0])] += 1;
                    if let Some(again) = flood.answer(packet)
                        && socket.send_to(&again, o.target).is_ok()
                    {
                        bytes_sent += again.len() as u64;
                    }
                }
            }
        }
        if flood.sent as f64 >= start.elapsed().as_secs_f64() * o.rate {
            std::thread::sleep(BEAT);
        }
    }
    let took = start.elapsed().as_secs_f64();
    let amplification = bytes_back as f64 / bytes_sent.max(1) as f64;
    println!(
        "{{\"kind\":\"{}\",\"packets_sent\":{},\"packets_per_sec\":{:.0},\"blocked\":{blocked},\"bytes_sent\":{bytes_sent},\
         \"bytes_back\":{bytes_back},\"replies\":{},\"retries\":{},\"rejects\":{},\"amplification\":{amplification:.4}}}",
        o.kind,
        packets_sent,
        packets_sent as f64 / took,
        answers[0xf1],
        answers[0xf2],
        answers[0xf3],
    );
    std::process::exit(i32::from(amplification > 3.0));
}
