//! The dissector, as tshark runs it: on a capture of a real lossy transfer, and on one with every packet and frame.

use crate::support::{Lab, PATIENCE, Running, Signal, need, noise, now, sha256sum, until, works};
use bytes::Bytes;
use fulmar::codec::aead::PacketKeys;
use fulmar::transfer::Request;
use fulmar::transfer::job::{
    BeginEntry, ChunkCodec, Compression, EntryKind, FileId, Inline, Meta, Overwrite, StoreError,
    StoreErrorKind,
};
use fulmar::wire::Cid;
use fulmar::wire::feedback::{BlockList, Feedback, build_block};
use fulmar::wire::frame::{Frame, Segment};
use fulmar::wire::handshake::{Hello, Params, Reject, RejectCode, Reply, Retry, Security};
use fulmar::wire::message::Message;
use fulmar::wire::packet::{ProtectedHeader, append_trailer};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DISSECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/wireshark/fulmar.lua");

/// A capture that has not grown for so long is whole.
const QUIET: Duration = Duration::from_millis(1500);

/// What tshark prints about a capture, with the dissector and a key log.
fn tshark(lab: &Lab, capture: &str, port: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg("tshark");
    command.env("HOME", lab.path("")).env_remove("FULMAR_KEYLOG");
    command.arg("-X").arg(format!("lua_script:{DISSECTOR}"));
    command.arg("-o").arg(format!("fulmar.keylog:{}", lab.path("keys").display()));
    command.args(["-d", &format!("udp.port=={port},fulmar")]);
    command.arg("-r").arg(lab.path(capture)).args(arguments);
    let output = command.output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("Lua"), "{stderr}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Lua Error"), "{text}");
    text
}

/// The fields of a capture that a test looks at, packet by packet; a field that comes several times in a packet is a list.
fn fields(lab: &Lab, port: &str, names: &[&str]) -> Vec<Vec<String>> {
    let mut arguments = vec!["-T", "fields", "-E", "separator=|"];
    names.iter().for_each(|name| arguments.extend(["-e", name]));
    let text = tshark(lab, "capture", port, &arguments);
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

#[test]
fn a_lossy_transfer_can_be_read_by_tshark() {
    need!(works("tshark", &["--version"]), "needs tshark");
    let briefly = ["5", "dumpcap", "-q", "-i", "lo", "-a", "duration:1", "-w", "/dev/null"];
    need!(works("timeout", &briefly), "needs dumpcap, and the right to capture");
    let lab = Lab::new();
    let file = lab.write("big.bin", noise(1, 400_000));
    lab.write("drop/there", "is already");
    let server = lab.serve(&[]);
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    let filter = format!("udp port {port}");
    let capture = lab.path("capture");
    let capture_name = capture.to_str().expect("UTF-8");
    let mut dump =
        Running::start(Command::new("dumpcap").args(["-q", "-i", "lo", "-f", &filter, "-w", capture_name]));
    dump.stderr.wait_for(&["File: "]);

    let spec = "loss=20%,corrupt=10%,delay=5ms,seed=7,loss-in=10%";
    let mut client = lab.client(&["put", "big.bin", &server.at(""), "--json", "--sim", spec]);
    let output = client.env("FULMAR_KEYLOG", lab.path("keys")).output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("FULMAR_KEYLOG is set: whoever reads"), "{stderr}");
    server.stop();
    // dumpcap says nothing about what it has not written yet.
    let (mut before, mut since) = (0, now());
    until("the capture to be written", || {
        let bytes = size_of(&capture);
        if std::mem::replace(&mut before, bytes) != bytes {
            since = now();
        }
        bytes > 400_000 && since.elapsed() > QUIET
    });
    dump.signal(Signal::INT);
    assert_eq!(dump.code(), Some(0));

    // Whoever has the key log can decrypt: nobody but the owner may read it.
    let meta = std::fs::metadata(lab.path("keys")).expect("there");
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let names = [
        "_ws.col.Info",
        "fulmar.entry.path",
        "fulmar.sha256",
        "fulmar.nack",
        "fulmar.repair",
        "fulmar.segment.path",
        "fulmar.corrupted",
        "fulmar.expert.malformed",
        "_ws.expert.message",
    ];
    let packets = fields(&lab, &port, &names);
    let column = |name: &str| -> Vec<&str> {
        let at = names.iter().position(|n| *n == name).expect("asked for");
        packets.iter().filter_map(|p| p.get(at)).map(String::as_str).filter(|v| !v.is_empty()).collect()
    };
    assert_eq!(column("fulmar.entry.path"), ["big.bin"]);
    let digest = sha256sum(&file);
    let digests = column("fulmar.sha256");
    assert!(!digests.is_empty() && digests.iter().all(|d| d.split(',').all(|d| d == digest)), "{digests:?}");
    assert!(column("fulmar.nack").iter().any(|n| n.chars().any(|c| c.is_ascii_digit())));
    assert!(column("fulmar.segment.path").iter().all(|list| list.split(',').all(|path| path == "big.bin")));
    for (name, why) in [("fulmar.repair", "20 % are lost"), ("fulmar.corrupted", "10 % are corrupted")] {
        assert!(!column(name).is_empty(), "{name}: {why}");
    }
    // Whatever was opened was understood. (A corrupted connection ID has no key, a corrupted type is no packet.)
    assert_eq!(column("fulmar.expert.malformed"), [""; 0]);
    let experts = column("_ws.expert.message").join("\n");
    assert_has(&experts, &["packets missing: ", "sent before", "corrupted on the way"]);
    let summary = column("_ws.col.Info").join("\n");
    assert_has(&summary, &["Hello (attempt 0)", "Reply (to attempt ", "FEEDBACK(largest ", ", missing "]);
    assert_has(
        &summary,
        &["[REQUEST ENTRY MANIFEST_END", "SEGMENT(0/", ", repair)", "[repair]", "[corrupted]"],
    );
    assert_has(&summary, &["RESULT"]);
}

/// Writes a capture file (pcap, raw IP) of UDP datagrams between a client and a server.
struct Capture(Vec<u8>);

impl Capture {
    const PORTS: [u16; 2] = [40_000, 41_000];

    fn new() -> Self {
        let mut file = Vec::new();
        for field in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 101] {
            file.extend_from_slice(&field.to_le_bytes());
        }
        Self(file)
    }

    fn add(&mut self, from_client: bool, payload: &[u8]) {
        let (from, to) = if from_client { (0, 1) } else { (1, 0) };
        let len = 28 + payload.len() as u16;
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from as u8, 10, 0, 0, to as u8];
        ip[2..4].copy_from_slice(&len.to_be_bytes());
        for field in [Self::PORTS[from], Self::PORTS[to], len - 20, 0] {
            ip.extend_from_slice(&field.to_be_bytes());
        }
        ip.extend_from_slice(payload);
        for field in [1_700_000_000, 0, u32::from(len), u32::from(len)] {
            self.0.extend_from_slice(&field.to_le_bytes());
        }
        self.0.extend_from_slice(&ip);
    }
}

const CLIENT: Cid = Cid([0xc1; 8]);
const SERVER: Cid = Cid([0x51; 8]);

/// A packet as the library seals it.
fn sealed(
    keys: &PacketKeys,
    cid: Cid,
    number: u64,
    phase: bool,
    confirm: Option<[u8; 16]>,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    ProtectedHeader { cid, truncated_number: number as u32, key_phase: phase, confirm }.encode(&mut packet);
    let start = packet.len();
    packet.extend_from_slice(payload);
    keys.seal_packet(number, &mut packet, 0, start);
    if confirm.is_some() {
        append_trailer(&mut packet, 0);
    }
    packet
}

fn stream_of(messages: &[Message]) -> Vec<u8> {
    let (mut stream, mut scratch) = (Vec::new(), Vec::new());
    messages.iter().for_each(|m| m.encode(&mut stream, &mut scratch));
    stream
}

/// The next stretch of a control stream.
fn control(offset: &mut u64, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    Frame::Control { offset: *offset, data }.encode(&mut payload);
    *offset += data.len() as u64;
    payload
}

fn entry(file: u64, path: &[u8], kind: EntryKind) -> Message {
    let meta = Meta { mode: 0o640, mtime_s: -3, mtime_ns: 7 };
    let (inline, target) = (None, if kind == EntryKind::Symlink { b"to/there".to_vec() } else { Vec::new() });
    let (size, chunk_size) = if kind == EntryKind::File { (600_000, 262_144) } else { (0, 0) };
    Message::Entry(Box::new(BeginEntry {
        file: FileId(file),
        path: path.to_vec(),
        kind,
        meta,
        size,
        chunk_size,
        target,
        inline,
    }))
}

fn manifest() -> Vec<Message> {
    let error = |kind, text: &str| StoreError { kind, message: text.into() };
    let Message::Entry(mut inline) = entry(4, b"a small\nfile", EntryKind::File) else { unreachable!() };
    inline.size = 3;
    inline.inline = Some(Inline { data: Bytes::from_static(b"abc"), sha256: [0xab; 32] });
    vec![
        entry(0, b"dir", EntryKind::Dir),
        entry(1, b"dir/link", EntryKind::Symlink),
        entry(2, b"dir/big", EntryKind::File),
        entry(3, b"dir", EntryKind::DirEnd),
        Message::Entry(inline),
        Message::EntryFailed {
            path: b"dir/pipe".to_vec(),
            error: error(StoreErrorKind::Forbidden, "a pipe"),
        },
        Message::ManifestEnd,
        Message::Digest { file: FileId(2), sha256: [0xcd; 32] },
        Message::Abandon { file: FileId(2), error: error(StoreErrorKind::SourceChanged, "changed") },
    ]
}

fn answers() -> Vec<Message> {
    let refused = StoreError { kind: StoreErrorKind::Exists, message: "there".into() };
    vec![
        Message::Have { file: FileId(2), ranges: vec![0..1, 5..70_000] },
        Message::Resend { file: FileId(2), chunk: 1 },
        Message::Result { file: FileId(0), result: Ok(None) },
        Message::Result { file: FileId(4), result: Ok(Some([0xab; 32])) },
        Message::Result { file: FileId(1), result: Err(refused.clone()) },
        Message::RequestFailed(refused),
    ]
}

/// Requests come once in a session, but the dissector reads them wherever they stand.
fn requests() -> Vec<Message> {
    let overwrite = Overwrite::Always;
    let put = Request::Put { dest: b"in".to_vec(), into_dir: true, overwrite, no_resume: true };
    let get = Request::Get {
        paths: vec![b"a".to_vec(), b"b".to_vec()],
        compress: Compression::Zstd(5),
        chunk_size: 4096,
    };
    let list = Request::List { path: b"listed".to_vec() };
    let echo = Request::Echo { sim_back: "loss=5%".into(), keep: true, overwrite, no_resume: false };
    [put, get, list, echo].map(|request| Message::Request { client_id: "lab 3".into(), request }).into()
}

fn feedback_frame(payload: &mut Vec<u8>) {
    let (mut runs, mut bits) = (Vec::new(), Vec::new());
    let mut blocks = BlockList::default();
    let top = build_block(900..1006, [1003..1006, 900..1002].into_iter(), 100, &mut runs).expect("fits");
    // Every second number: bits are shorter than runs.
    let single = (0..200).rev().map(|n| 2 * n..2 * n + 1).filter(|r| r.start != 6);
    let low = build_block(0..400, single, 60, &mut bits).expect("fits");
    assert!(blocks.push(top) && blocks.push(low));
    Frame::Feedback(Feedback {
        largest: 1005,
        received_us: 7_000_000,
        delay_us: 1000,
        received_bytes: 1 << 33,
        ce_count: 2,
        receive_window_bytes: 1 << 20,
        control_credit: 200_000,
        blocks,
    })
    .encode(payload);
}

fn segment(
    chunk: u64,
    offset: u32,
    generation: u32,
    encoded: Option<(ChunkCodec, u32)>,
    crc32: Option<u32>,
) -> Vec<u8> {
    let mut payload = Vec::new();
    Segment { file: 2, chunk, offset, generation, encoded, crc32, data: b"segment data" }
        .encode(&mut payload, true);
    payload
}

fn handshake(capture: &mut Capture) {
    let params = Params {
        idle_timeout_ms: 60_000,
        max_datagram_bytes: 1472,
        control_credit_bytes: 1 << 20,
        receive_window_bytes: 1 << 20,
        features: 1,
    };
    let hello = Hello {
        version: 1,
        client_cid: CLIENT,
        security: Security::Aes128Gcm,
        share: [1; 32],
        params,
        attempt: 0,
        cookie: None,
    };
    capture.add(true, &hello.encode());
    capture.add(false, &Retry { client_cid: CLIENT, cookie: [9; 16] }.encode());
    capture.add(true, &Hello { attempt: 1, cookie: Some([9; 16]), ..hello }.encode());
    let reply = Reply { client_cid: CLIENT, server_cid: SERVER, share: [2; 32], params, attempt: 1 };
    capture.add(false, &reply.encode());
    let mut flipped = reply.encode();
    flipped[30] ^= 0x10;
    capture.add(false, &flipped);
    let text = "the key is not this server's".to_owned();
    capture.add(false, &Reject { client_cid: CLIENT, code: RejectCode::WrongKey, text }.encode());
}

/// Everything that the protocol can say, in one capture.
fn everything(capture: &mut Capture, client: &PacketKeys, server: &PacketKeys) {
    handshake(capture);
    let (mut up, mut down) = (0, 0);
    let mut payload = Vec::new();
    Frame::Floor { distance: 0, max_packets: 8, max_delay_us: 10_000 }.encode(&mut payload);
    payload.extend(control(&mut up, &stream_of(&requests())));
    let confirm = Some([7; 16]);
    capture.add(true, &sealed(client, SERVER, 0, false, confirm, &payload));
    let mut torn = sealed(client, SERVER, 1, false, confirm, &payload);
    torn[40] ^= 1;
    capture.add(true, &torn);

    // The manifest in two packets that come in the wrong order, and one of them twice.
    let stream = stream_of(&manifest());
    let (head, rest) = stream.split_at(100);
    let first = sealed(client, SERVER, 2, false, None, &control(&mut up, head));
    let second = sealed(client, SERVER, 3, false, None, &control(&mut up, rest));
    capture.add(true, &second);
    capture.add(true, &first);
    capture.add(true, &first);

    let mut payload = vec![0, 0, 0];
    Frame::Ping.encode(&mut payload);
    Frame::PathChallenge([0xaa; 8]).encode(&mut payload);
    Frame::PathResponse([0xbb; 8]).encode(&mut payload);
    Frame::Extension(0x41).encode(&mut payload);
    // A train, as it is captured before it is cut.
    let mut train = sealed(client, SERVER, 4, false, None, &payload);
    let equal = train.len();
    for (number, chunk) in [(5, 0), (7, 1)] {
        let mut payload = segment(chunk, 0, 0, None, None);
        while DATA_BYTES + payload.len() + client.tag_bytes() < equal {
            payload.insert(0, 0);
        }
        train.extend(sealed(client, SERVER, number, false, None, &payload));
    }
    capture.add(true, &train);
    capture.add(true, &sealed(client, SERVER, 8, false, None, &segment(0, 0, 0, None, None)));
    capture.add(
        true,
        &sealed(
            client,
            SERVER,
            9,
            false,
            None,
            &segment(1, 12, 1, Some((ChunkCodec::Zstd, 24)), Some(0x1234_5678)),
        ),
    );
    // The next generation of keys, then a packet that it has overtaken.
    let next = client.next_generation();
    capture.add(
        true,
        &sealed(&next, SERVER, 11, true, None, &segment(0, 24, 0, Some((ChunkCodec::Lz4, 48)), None)),
    );
    capture.add(true, &sealed(client, SERVER, 10, false, None, &[1]));
    capture.add(true, &sealed(&next.next_generation(), SERVER, 12, false, None, &[1]));
    // Authentic, and yet no frame.
    capture.add(true, &sealed(&next.next_generation(), SERVER, 13, false, None, &[1, 0x1f]));

    let mut payload = Vec::new();
    feedback_frame(&mut payload);
    payload.extend(control(&mut down, &stream_of(&answers())));
    Frame::Close { code: 3, text: b"no more" }.encode(&mut payload);
    capture.add(false, &sealed(server, CLIENT, 0, false, None, &payload));
    capture.add(false, &sealed(server, Cid([0x99; 8]), 0, false, None, &payload));
    capture.add(false, b"\x7fnot a packet at all");
}

const DATA_BYTES: usize = fulmar::wire::packet::DATA_HEADER_BYTES;

fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

#[test]
fn every_packet_frame_and_message_is_dissected() {
    need!(works("tshark", &["--version"]), "needs tshark");
    let lab = Lab::new();
    let (client, server) = (PacketKeys::from_secret(&[0x11; 32]), PacketKeys::from_secret(&[0x22; 32]));
    let mut capture = Capture::new();
    everything(&mut capture, &client, &server);
    lab.write("capture", &capture.0);
    let line = |label, cid: Cid, byte: &str| format!("FULMAR1_{label}_SECRET {cid:?} {}\n", byte.repeat(32));
    lab.write("keys", line("CLIENT", SERVER, "11") + &line("SERVER", CLIENT, "22"));
    let port = Capture::PORTS[1].to_string();

    let summary = tshark(&lab, "capture", &port, &[]);
    assert_has(
        &summary,
        &["Hello (attempt 0)", "Hello (attempt 1, with a cookie)", "Retry (come again with a cookie)"],
    );
    assert_has(
        &summary,
        &["Reply (to attempt 1)", "[corrupted] Reply", "Reject (wrong key)", "[corrupted] Confirm #1"],
    );
    assert_has(&summary, &["Confirm #0  FLOOR(0) CONTROL(0, ", "[REQUEST REQUEST REQUEST REQUEST]"]);
    assert_has(&summary, &["[ENTRY ENTRY ENTRY ENTRY ENTRY ENTRY_FAILED ...]"]);
    assert_has(
        &summary,
        &["[3 datagrams] Data #4  PING PATH_CHALLENGE PATH_RESPONSE EXTENSION(65) | Data #5"],
    );
    assert_has(&summary, &["[repair] Data #8  SEGMENT(2/0+0, 12, repair)", "Data #9  SEGMENT(2/1+12, 12)"]);
    assert_has(&summary, &["Data #0  FEEDBACK(largest 1005, missing 1002 ", "CLOSE(refused: no more)"]);
    assert_has(&summary, &["[HAVE RESEND RESULT RESULT RESULT REQUEST_FAILED]", "not a fulmar packet"]);

    let text = tshark(&lab, "capture", &port, &["-V", "-O", "fulmar"]);
    assert_has(
        &text,
        &[
            "Security: SPAKE2, AES-128-GCM (1)",
            "features: 1",
            "Cookie: 0909",
            "Text: the key is not this server's",
        ],
    );
    assert_has(
        &text,
        &[
            "Client's label: lab 3",
            "Request: ECHO (4)",
            "Impairment of the way back: loss=5%",
            "Keep the server's copy: True",
        ],
    );
    assert_has(
        &text,
        &[
            "Compression (0 auto, 1 LZ4, 2 none, n + 2: zstd level n): 7",
            "Do not resume: True",
            "Path: listed",
        ],
    );
    assert_has(
        &text,
        &["Kind: end of directory (2)", "Target: to/there", "Mode: 0640", "mtime, seconds since 1970: -3"],
    );
    assert_has(
        &text,
        &[
            "ENTRY 4 a small?file",
            "Contents: 616263",
            "ENTRY_FAILED dir/pipe: forbidden path",
            "ABANDON 2: source changed",
        ],
    );
    assert_has(
        &text,
        &["HAVE 2, 2 ranges", "Chunks: 69995", "RESEND 2/1", "RESULT 1: exists already", "RESULT 4 done"],
    );
    assert_has(
        &text,
        &[
            "Missing: 1002",
            "Received: 1003-1005",
            "Kind: bits (1)",
            "Missing: 5-7",
            "Bytes received in all: 8589934592",
        ],
    );
    assert_has(
        &text,
        &["PADDING, ", "Challenge: aaaaaaaaaaaaaaaa", "Challenge: bbbbbbbbbbbbbbbb", "EXTENSION(65)"],
    );
    assert_has(
        &text,
        &[
            "Codec: zstd (2)",
            "Codec: LZ4 (1)",
            "CRC-32 of the plain chunk: 0x12345678",
            "Generation of the encoding: 1",
        ],
    );
    assert_has(
        &text,
        &[
            "[Path: dir/big]",
            "[Generation of keys: 1]",
            "[Generation of keys: 2]",
            "[Packet numbers left out before this packet: 1]",
        ],
    );
    assert_has(
        &text,
        &[
            "sent before in frame ",
            "this packet number was seen in frame ",
            "violation: unknown frame type 31",
        ],
    );
    assert_has(
        &text,
        &[
            "no secret for this connection ID in the key log",
            "unknown first byte: corrupted, or not of fulmar",
        ],
    );
    assert_eq!(
        text.matches("violation: ").count(),
        2,
        "one packet, whose expert information is said twice:\n{text}"
    );
    assert_eq!(text.matches("[Corrupted on the way: True]").count(), 2, "{text}");

    // Without encryption there is nothing to decrypt; the port speaks for itself by the Hello.
    let mut capture = Capture::new();
    everything(&mut capture, &PacketKeys::crc(), &PacketKeys::crc());
    lab.write("capture", &capture.0);
    lab.write("keys", "");
    let summary = tshark(&lab, "capture", "9", &[]);
    assert_has(
        &summary,
        &["Confirm #0  FLOOR(0) CONTROL(0, ", "FEEDBACK(largest 1005, missing 1002 ", "[repair] Data #8"],
    );
}
