//! The document and the code say the same: the hexadecimal blocks of docs/PROTOCOL.md are rebuilt with the real
//! encoders and decoded with the real decoders, and tests/vectors/wire.json is compared with both.
//! With `FULMAR_WRITE_VECTORS=1` the JSON file is written instead.

use bytes::Bytes;
use fulmar::codec::aead::PacketKeys;
use fulmar::codec::handshake::{ClientHandshake, ServerHandshake, SessionKeys, Transcript};
use fulmar::endpoint::config::Secret;
use fulmar::transfer::job::{
    BeginEntry, ChunkCodec, Compression, EntryKind, FileId, Inline, Meta, Overwrite, StoreError,
    StoreErrorKind,
};
use fulmar::transfer::sync::{Compare, Delete, Offer, PatternKind, SyncOptions};
use fulmar::transfer::{DEFAULT_CHUNK_SIZE, Request};
use fulmar::wire::Cid;
use fulmar::wire::buf::Reader;
use fulmar::wire::feedback::{BlockList, Feedback, build_block};
use fulmar::wire::frame::{Frame, Segment};
use fulmar::wire::handshake::{Hello, Params, Reject, RejectCode, Reply, Retry, Security};
use fulmar::wire::message::Message;
use fulmar::wire::packet::{ProtectedHeader, append_trailer, expand_number, strip_trailer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

const DOCUMENT: &str = include_str!("../docs/PROTOCOL.md");
const HANDSHAKE: &str = include_str!("vectors/handshake.json");
const CLIENT_CID: Cid = Cid([0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8]);
const SERVER_CID: Cid = Cid([0x00, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "hex: {text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// The blocks that begin with "```hex NAME": what stands before each line's `|`.
fn blocks() -> HashMap<String, Vec<u8>> {
    let mut found = HashMap::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else { continue };
        let digits: String = lines
            .by_ref()
            .take_while(|l| *l != "```")
            .flat_map(|l| l.split('|').next().unwrap_or_default().split_whitespace())
            .collect();
        assert!(found.insert(name.to_owned(), unhex(&digits)).is_none(), "{name} twice");
    }
    found
}

fn params() -> Params {
    Params {
        idle_timeout_ms: 60_000,
        max_datagram_bytes: 65_535,
        control_credit_bytes: 4 << 20,
        receive_window_bytes: 24 << 20,
        features: 0,
    }
}

fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

fn stream(messages: &[Message]) -> Vec<u8> {
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    messages.iter().for_each(|m| m.encode(&mut out, &mut scratch));
    out
}

fn payload(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|f| f.encode(&mut out));
    out
}

fn entry(file: u64, path: &[u8], kind: EntryKind) -> BeginEntry {
    BeginEntry {
        file: FileId(file),
        path: path.to_vec(),
        kind,
        meta: Meta { mode: 0o644, mtime_s: 1_700_000_000, mtime_ns: 0 },
        size: 0,
        chunk_size: 0,
        target: Vec::new(),
        inline: None,
    }
}

fn put_messages() -> [Message; 3] {
    let contents = b"hello\n";
    let inline = Inline { data: Bytes::from_static(contents), sha256: sha256(contents) };
    let request =
        Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Never, no_resume: false };
    [
        Message::Request { client_id: "demo".into(), request },
        Message::Entry(Box::new(BeginEntry {
            size: 6,
            inline: Some(inline),
            ..entry(0, b"hello.txt", EntryKind::File)
        })),
        Message::ManifestEnd,
    ]
}

fn feedback(largest: u64, fields: [u64; 6]) -> Feedback<'static> {
    let [received_us, delay_us, received_bytes, ce_count, receive_window_bytes, control_credit] = fields;
    let blocks = BlockList::default();
    Feedback {
        largest,
        received_us,
        delay_us,
        received_bytes,
        ce_count,
        receive_window_bytes,
        control_credit,
        blocks,
    }
}

/// Both handshakes of the example, from the entropy of the first session in handshake.json.
fn handshake() -> (Hello, Reply, SessionKeys) {
    let vectors: Value = serde_json::from_str(HANDSHAKE).expect("JSON");
    let session = &vectors["sessions"][0];
    let field = |name: &str| unhex(session[name].as_str().expect("a string"));
    let entropy = |name: &str| field(name).try_into().expect("64 bytes");
    let secret = Secret::Key(field("password").into());
    let (client, x) = ClientHandshake::new(&secret, &entropy("client_entropy"));
    let (y, _) = ServerHandshake::respond(&secret, &entropy("server_entropy"), &x).expect("a valid share");
    let hello = Hello {
        version: 1,
        client_cid: CLIENT_CID,
        security: Security::Aes128Gcm,
        share: x.0,
        params: params(),
        attempt: 0,
        cookie: None,
    };
    let reply =
        Reply { client_cid: CLIENT_CID, server_cid: SERVER_CID, share: y.0, params: params(), attempt: 0 };
    let transcript = Transcript::new().add(&hello.core()).add(&reply.core());
    let keys = client.finish(&y).expect("a valid share").keys(&transcript);
    (hello, reply, keys)
}

fn packet(keys: &PacketKeys, cid: Cid, number: u64, confirm: Option<[u8; 16]>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = ProtectedHeader { cid, truncated_number: number as u32, key_phase: false, confirm };
    header.encode(&mut out);
    let start = out.len();
    out.extend_from_slice(payload);
    keys.seal_packet(number, &mut out, 0, start);
    if confirm.is_some() {
        append_trailer(&mut out, 0);
    }
    out
}

/// The payload of a packet of the document, opened as a receiver does.
fn open(keys: &PacketKeys, packet: &[u8], cid: Cid) -> Vec<u8> {
    let body = if packet[0] == 0xf4 { strip_trailer(packet).expect("a valid CRC-32") } else { packet };
    let (header, length) = ProtectedHeader::decode(body).expect("a header");
    assert_eq!(header.cid, cid);
    let number = expand_number(0, header.truncated_number);
    let mut sealed = body[length..].to_vec();
    keys.open(number, &body[..length], &mut sealed).expect("it opens").to_vec()
}

fn frames(payload: &[u8]) -> Vec<Frame<'_>> {
    let mut reader = Reader::new(payload);
    let mut found = Vec::new();
    while !reader.is_empty() {
        found.push(Frame::decode(&mut reader).expect("a valid frame"));
    }
    found
}

fn messages(mut stream: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while !stream.is_empty() {
        let (message, used) = Message::decode(stream).expect("valid").expect("whole");
        found.extend(message);
        stream = &stream[used..];
    }
    found
}

#[test]
fn the_handshake_of_the_document() {
    let (blocks, (hello, reply, keys)) = (blocks(), handshake());
    assert_eq!(hex(&hello.encode()), hex(&blocks["hello"]));
    assert_eq!(hex(&reply.encode()), hex(&blocks["reply"]));
    let (decoded, core) = Hello::decode(&blocks["hello"]).expect("a valid Hello");
    assert_eq!((decoded, core), (hello.clone(), &hello.core()[..]));
    let (decoded, core) = Reply::decode(&blocks["reply"]).expect("a valid Reply");
    assert_eq!((decoded, core), (reply.clone(), &reply.core()[..]));
    // The values between are in the tables.
    assert!(DOCUMENT.contains(&hex(&keys.confirm)));
    assert!(DOCUMENT.contains(&hex(&Transcript::new().add(&hello.core()).add(&reply.core()).hash())));
}

#[test]
fn the_session_of_the_document() {
    let (blocks, (_, _, keys)) = (blocks(), handshake());
    let put = stream(&put_messages());
    let floor = Frame::Floor { distance: 0, max_packets: 4, max_delay_us: 20_000 };
    let first = payload(&[floor.clone(), Frame::Control { offset: 0, data: &put }]);
    assert_eq!(hex(&first), hex(&blocks["confirm-payload"]));
    let confirm = packet(&keys.client, SERVER_CID, 0, Some(keys.confirm), &first);
    assert_eq!(hex(&confirm), hex(&blocks["confirm-packet"]));

    let received = (confirm.len() - 4) as u64;
    let mut told = feedback(0, [52_000, 300, received, 0, 24 << 20, (4 << 20) + put.len() as u64]);
    let mut scratch = Vec::new();
    told.blocks.push(build_block(0..1, std::iter::once(0..1), 100, &mut scratch).expect("a block"));
    let result = stream(&[Message::Result { file: FileId(0), result: Ok(Some(sha256(b"hello\n"))) }]);
    let answer = payload(&[Frame::Feedback(told), floor, Frame::Control { offset: 0, data: &result }]);
    assert_eq!(hex(&answer), hex(&blocks["data-payload"]));
    let answer = packet(&keys.server, CLIENT_CID, 0, None, &answer);
    assert_eq!(hex(&answer), hex(&blocks["data-packet"]));

    let close = payload(&[Frame::Close { code: 0, text: b"done" }]);
    assert_eq!(hex(&close), hex(&blocks["close-payload"]));
    assert_eq!(hex(&packet(&keys.client, SERVER_CID, 1, None, &close)), hex(&blocks["close-packet"]));

    // And the other way: packets open to the payloads, which hold these frames and messages.
    for (name, keys, cid) in [
        ("confirm", &keys.client, SERVER_CID),
        ("data", &keys.server, CLIENT_CID),
        ("close", &keys.client, SERVER_CID),
    ] {
        let opened = open(keys, &blocks[&format!("{name}-packet")], cid);
        assert_eq!(hex(&opened), hex(&blocks[&format!("{name}-payload")]));
    }
    let first = frames(&blocks["confirm-payload"]);
    let [Frame::Floor { .. }, Frame::Control { offset: 0, data }] = first[..] else { panic!("{first:?}") };
    assert_eq!(format!("{:?}", messages(data)), format!("{:?}", put_messages()));
}

#[test]
fn the_frames_of_the_document() {
    let blocks = blocks();
    let mut both = Vec::new();
    let tail = Segment {
        file: 3,
        chunk: 0,
        offset: 1024,
        generation: 0,
        encoded: None,
        crc32: Some(fulmar::codec::chunk::crc32(b"abcdefghij")),
        data: b"tail",
    };
    tail.encode(&mut both, false);
    let encoded = Segment {
        file: 4,
        chunk: 70_000,
        offset: 0,
        generation: 1,
        encoded: Some((ChunkCodec::Lz4, 180_000)),
        crc32: None,
        data: b"lz4 bytes to the end of the packet",
    };
    encoded.encode(&mut both, true);
    assert_eq!(hex(&both), hex(&blocks["segments-payload"]));
    assert_eq!(frames(&blocks["segments-payload"]), [Frame::Segment(tail), Frame::Segment(encoded)]);

    let decoded = frames(&blocks["feedback-payload"]);
    let [Frame::Feedback(f)] = &decoded[..] else { panic!("{decoded:?}") };
    assert_eq!(hex(&payload(&decoded)), hex(&blocks["feedback-payload"]));
    let mut missing = Vec::new();
    for block in f.blocks.iter() {
        block.for_each_run(|range, received| {
            if !received {
                missing.extend(range);
            }
        });
    }
    assert_eq!(missing, [1002, 896, 890]);
    assert_eq!(f.blocks.iter().map(|b| b.range()).collect::<Vec<_>>(), [900..1006, 890..900]);
}

/// Every section that a module says it implements is a heading of the document.
#[test]
fn the_sections_named_in_the_code_exist() {
    let headings: Vec<&str> =
        DOCUMENT.lines().filter_map(|l| l.strip_prefix("## ").or(l.strip_prefix("### "))).collect();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut named = 0;
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).expect("a folder") {
            let path = item.expect("an item").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            for rest in text.lines().filter_map(|l| l.split_once("docs/PROTOCOL.md, ")).map(|(_, r)| r) {
                let own = rest.split(';').next().unwrap_or_default();
                for name in own.split('"').skip(1).step_by(2) {
                    assert!(headings.contains(&name), "{}: no section {name:?}", path.display());
                    named += 1;
                }
            }
        }
    }
    assert!(named > 30, "the references are written in another way now: {named}");
}

#[path = "protocol/constants.rs"]
mod constants;
#[path = "protocol/wire_vectors.rs"]
mod wire_vectors;
