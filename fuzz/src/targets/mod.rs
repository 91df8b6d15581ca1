//! What each fuzz target does with its input. No input may panic; beyond that each target has a property of its own:
//! what decodes must encode to something that decodes to the same, and endpoints must stay within their bounds.

mod peer;

use fulmar::codec::aead::PacketKeys;
use fulmar::codec::chunk::{decode_chunk, encode_chunk};
use fulmar::impair::{Impairment, Spec};
use fulmar::store::named_chunks;
use fulmar::transfer::job::{ChunkCodec, Compression, Meta};
use fulmar::wire::buf::Reader;
use fulmar::wire::frame::Frame;
use fulmar::wire::handshake::{Hello, Reject, Reply, Retry};
use fulmar::wire::message::Message;
use fulmar::wire::packet::{ProtectedHeader, append_trailer, expand_number, strip_trailer};
use std::time::{Duration, Instant};

pub use peer::{handshake, sealed, session};

/// Handshake packets and headers. The CRC-32 is put right, or nothing would ever get past it.
pub fn packets(data: &[u8]) {
    let _ = strip_trailer(data);
    let _ = Hello::cid_of_any_version(data);
    if let Ok((header, len)) = ProtectedHeader::decode(data) {
        let mut again = Vec::new();
        header.encode(&mut again);
        // The phase bit of a Confirm is not looked at, and there is none in its type.
        assert_eq!(again, data[..len]);
    }
    if let Some((expected, rest)) = data.split_first_chunk::<8>()
        && let Some((truncated, _)) = rest.split_first_chunk::<4>()
    {
        let expected = u64::from_be_bytes(*expected) >> 2;
        let truncated = u32::from_be_bytes(*truncated);
        let number = expand_number(expected, truncated);
        assert_eq!(number as u32, truncated);
        assert!(number.abs_diff(expected) <= 1 << 32);
    }
    let mut whole = data.to_vec();
    append_trailer(&mut whole, 0);
    assert!(strip_trailer(&whole).is_ok());
    let _ = Hello::cid_of_any_version(&whole);
    if let Ok((hello, core)) = Hello::decode(&whole) {
        assert!(core.len() < whole.len());
        assert_eq!(Hello::decode(&hello.encode()).map(|(h, _)| h), Ok(hello));
    }
    if let Ok((reply, core)) = Reply::decode(&whole) {
        assert!(core.len() < whole.len());
        assert_eq!(Reply::decode(&reply.encode()).map(|(r, _)| r), Ok(reply));
    }
    if let Ok(retry) = Retry::decode(&whole) {
        assert_eq!(retry.encode(), whole);
    }
    if let Ok(reject) = Reject::decode(&whole) {
        assert!(Reject::decode(&reject.encode()).is_ok());
    }
}

/// Which frames a payload has, by kind: what the corpora are checked for.
pub fn frame_kinds(payload: &[u8]) -> Vec<String> {
    let (mut r, mut kinds) = (Reader::new(payload), Vec::new());
    while let Ok(frame) = Frame::decode(&mut r) {
        let text = format!("{frame:?}");
        kinds.push(text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned());
    }
    kinds
}

/// The frames of an opened packet.
pub fn frames(data: &[u8]) {
    let mut r = Reader::new(data);
    while let Ok(frame) = Frame::decode(&mut r) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        let mut second = Reader::new(&again);
        assert_eq!(Frame::decode(&mut second), Ok(frame.clone()));
        assert!(second.is_empty());
        if let Frame::Feedback(f) = &frame {
            let mut above = f.largest + 1;
            for block in f.blocks.iter() {
                let range = block.range();
                assert!(range.end <= above && !range.is_empty());
                let mut at = range.end;
                block.for_each_run(|run, _| {
                    assert!(run.end == at && !run.is_empty());
                    at = run.start;
                });
                assert_eq!(at, range.start);
                above = range.start;
            }
        }
        if r.is_empty() {
            break;
        }
    }
}

/// Which messages a control stream has, by kind.
pub fn message_kinds(stream: &[u8]) -> Vec<String> {
    let (mut at, mut kinds) = (0, Vec::new());
    while let Ok(Some((message, used))) = Message::decode(&stream[at..]) {
        at += used;
        let text = message.map_or("Extension".to_owned(), |m| format!("{m:?}"));
        kinds.push(text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned());
    }
    kinds
}

/// Messages of the control stream: requests, the manifest, results.
pub fn messages(data: &[u8]) {
    let (mut at, mut scratch) = (0, Vec::new());
    let _ = Message::next_is_entry(data);
    while let Ok(Some((message, used))) = Message::decode(&data[at..]) {
        assert!(used > 0 && used <= data.len() - at);
        at += used;
        let Some(message) = message else { continue };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        message.encode(&mut first, &mut scratch);
        let (again, n) = Message::decode(&first).expect("it was encoded").expect("whole");
        assert_eq!(n, first.len());
        again.expect("not an extension").encode(&mut second, &mut scratch);
        assert_eq!(first, second);
    }
}

/// Encoded chunks as a peer may send them, and chunks that are encoded here.
pub fn chunks(data: &[u8]) {
    let Some((head, body)) = data.split_first_chunk::<4>() else { return };
    let plain_bytes = usize::from(u16::from_be_bytes([head[0], head[1]])) << (head[2] % 8);
    let codec = [ChunkCodec::Raw, ChunkCodec::Lz4, ChunkCodec::Zstd][usize::from(head[3] % 3)];
    if let Ok(plain) = decode_chunk(codec, body, plain_bytes) {
        assert_eq!(plain.len(), plain_bytes);
    }
    if head[3] >= 0xf0 {
        let wish = [Compression::Auto, Compression::Lz4, Compression::Zstd(1), Compression::None];
        let encoded = encode_chunk(body.to_vec().into(), wish[usize::from(head[3] % 4)]);
        let plain = decode_chunk(encoded.codec, &encoded.data, body.len());
        assert_eq!(plain.as_deref(), Ok(body));
    }
}

/// The file that the journals of the corpus are about.
pub const JOURNAL_NAME: &[u8] = b"name";
/// Its size in bytes and chunk size.
pub const JOURNAL_LAYOUT: (u64, u32) = (100_000, 1024);
/// Its time.
pub const JOURNAL_META: Meta = Meta { mode: 0o644, mtime_s: 1_700_000_000, mtime_ns: 5 };

/// The journal beside a partial file: whatever a crash has made of it.
pub fn journal(data: &[u8]) {
    let named = named_chunks(data, JOURNAL_NAME, JOURNAL_LAYOUT, &JOURNAL_META);
    let chunks = JOURNAL_LAYOUT.0.div_ceil(JOURNAL_LAYOUT.1.into());
    for (i, (chunk, _)) in named.iter().flatten().enumerate() {
        assert!(*chunk < chunks && *chunk >= i as u64);
    }
    // It is about one file only.
    if named.is_some() {
        assert!(named_chunks(data, b"other", JOURNAL_LAYOUT, &JOURNAL_META).is_none());
        let later = Meta { mtime_s: 1_700_000_001, ..JOURNAL_META };
        assert!(named_chunks(data, JOURNAL_NAME, JOURNAL_LAYOUT, &later).is_none());
        let larger = (JOURNAL_LAYOUT.0 + 1, JOURNAL_LAYOUT.1);
        assert!(named_chunks(data, JOURNAL_NAME, larger, &JOURNAL_META).is_none());
    }
}

/// The text of `--sim` and what the model makes of it.
pub fn sim_spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(spec) = text.parse::<Spec>() else { return };
    let shown = spec.to_string();
    assert_eq!(shown.parse::<Spec>().expect("what it prints it reads"), spec, "{shown}");
    let start = origin();
    let mut link = Impairment::new(spec.outgoing.clone(), 1, start);
    let mut now = start;
    for i in 0..20u8 {
        link.submit(now, &[i; 100], i);
        now += Duration::from_micros(700);
        while let Some((datagram, _)) = link.poll(now) {
            assert_eq!(datagram.len(), 100);
            link.recycle(datagram);
        }
    }
    for _ in 0..100 {
        let Some(next) = link.poll_timeout() else { break };
        now = now.max(next);
        assert!(link.poll(now).is_some() || link.poll_timeout().is_none_or(|t| t > now));
    }
}

/// The beginning of time.
#[allow(clippy::disallowed_methods, reason = "an Instant cannot be made up: this one is only the origin")]
fn origin() -> Instant {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// The secrets of `sealed`: of the client, and of the server.
const FIXED_SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// With what `sealed` seals; derived once.
fn sealing_keys() -> &'static PacketKeys {
    static KEYS: std::sync::OnceLock<PacketKeys> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| PacketKeys::from_secret(&FIXED_SECRETS[0]))
}
