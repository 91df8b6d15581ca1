//! Vectors, round trips, damage and bounds of everything that goes on the wire; blocks against a naive model.

mod blocks;
mod messages;

use super::buf::{Reader, VARINT_MAX, put_bytes, put_varint, unzigzag, varint_len, zigzag};
use super::feedback::{BlockList, Feedback, build_block};
use super::frame::{CloseCode, Frame, Segment};
use super::handshake::{
    Hello, MAX_PARAMS_BYTES, MIN_DATAGRAM_BYTES, Params, Reject, RejectCode, Reply, Retry, Security,
};
use super::packet::{ProtectedHeader, append_trailer, expand_number, strip_trailer};
use super::*;
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::job::ChunkCodec;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn random_bytes(rng: &mut StdRng, max: usize) -> Vec<u8> {
    let mut v = vec![0; rng.random_range(0..=max)];
    rng.fill_bytes(&mut v);
    v
}

/// Values near the edges of every varint length as often as others.
pub(super) fn random_varint(rng: &mut StdRng, max: u64) -> u64 {
    let v = match rng.random_range(0..4) {
        0 => [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, VARINT_MAX][rng.random_range(0..9)],
        1 => rng.random_range(0..200),
        _ => rng.random::<u64>() >> rng.random_range(2..64),
    };
    v.min(max)
}

/// Every truncation and every flipped bit of `bytes`.
pub(super) fn each_damage(bytes: &[u8], mut f: impl FnMut(&[u8])) {
    (0..bytes.len()).for_each(|n| f(&bytes[..n]));
    let mut copy = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        copy[bit / 8] ^= 1 << (bit % 8);
        f(&copy);
        copy[bit / 8] ^= 1 << (bit % 8);
    }
}

// ---- varints ----

#[test]
fn varint_vectors_and_edges() {
    // RFC 9000, appendix A.1.
    for (bytes, value) in [
        (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0x7b, 0xbd], 15_293),
        (&[0x25], 37),
    ] {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out, bytes);
        let mut r = Reader::new(bytes);
        assert_eq!((r.varint(), r.end()), (Ok(value), Ok(())));
        (0..bytes.len())
            .for_each(|n| assert_eq!(Reader::new(&bytes[..n]).varint(), Err(WireError::Truncated)));
    }
    assert_eq!(Reader::new(&[0x40, 0x25]).varint(), Ok(37), "longer than needed is valid");
    for (edge, len) in [(0x3f, 1), (0x3fff, 2), (0x3fff_ffff, 4), (VARINT_MAX, 8)] {
        for v in [edge - 1, edge, (edge + 1).min(VARINT_MAX)] {
            let mut out = Vec::new();
            put_varint(&mut out, v);
            assert_eq!(out.len(), varint_len(v));
            assert!(v > edge || out.len() <= len);
            assert_eq!(Reader::new(&out).varint(), Ok(v));
        }
    }
    let mut out = Vec::new();
    put_varint(&mut out, u64::MAX);
    assert_eq!(Reader::new(&out).varint(), Ok(VARINT_MAX), "clamped");
    assert_eq!(Reader::new(&[7]).varint_max(6, "x"), Err(WireError::Bounds("x")));
    assert_eq!(Reader::new(&[3, 1, 2]).bytes(9, "x"), Err(WireError::Truncated));
    assert_eq!(Reader::new(&[3, 1, 2, 3]).bytes(2, "x"), Err(WireError::Bounds("x")));
}

#[test]
fn zigzag_is_its_own_inverse() {
    for v in [0, -1, 1, -2, i64::MAX, i64::MIN, 1_700_000_000, -62_135_596_800] {
        assert_eq!(unzigzag(zigzag(v)), v);
    }
    assert_eq!([zigzag(0), zigzag(-1), zigzag(1)], [0, 1, 2]);
}

#[test]
fn numbers_expand_to_the_nearest() {
    let naive = |expected: u64, low: u32| {
        let base = expected & !0xffff_ffff | u64::from(low);
        let candidates = [base.checked_sub(1 << 32), Some(base), Some(base + (1 << 32))];
        candidates.into_iter().flatten().min_by_key(|c| c.abs_diff(expected)).expect("one at least")
    };
    let mut rng = StdRng::seed_from_u64(1);
    for i in 0..20_000u64 {
        let expected = match i % 3 {
            0 => rng.random::<u64>() >> 3,
            1 => (rng.random_range(0..5u64) << 32) + rng.random_range(0..9u64),
            _ => (rng.random_range(1..5u64) << 32) - rng.random_range(1..9u64),
        };
        let near = expected.saturating_add_signed(rng.random_range(-1_000_000..1_000_000));
        assert_eq!(expand_number(expected, near as u32), near, "expected {expected}");
        let low: u32 = rng.random();
        let (a, b) = (expand_number(expected, low), naive(expected, low));
        assert!(a == b || a.abs_diff(expected) == b.abs_diff(expected), "{expected} {low}: {a} {b}");
    }
    // No overflow at the far ends.
    for expected in [0, 1, (1 << 62) - 1, 1 << 62] {
        for low in [0, 1, u32::MAX / 2, u32::MAX] {
            assert_eq!(expand_number(expected, low) as u32, low);
        }
    }
}

// ---- packets ----

#[test]
fn protected_headers() {
    let cid = Cid([1, 2, 3, 4, 5, 6, 7, 8]);
    for (confirm, phase, vector) in [
        (None, false, "400102030405060708deadbeef"),
        (None, true, "410102030405060708deadbeef"),
        (Some([9; 16]), false, "f40102030405060708deadbeef09090909090909090909090909090909"),
    ] {
        let h = ProtectedHeader { cid, truncated_number: 0xdead_beef, key_phase: phase, confirm };
        let mut out = Vec::new();
        h.encode(&mut out);
        assert_eq!(hex(&out), vector);
        let len = out.len();
        out.extend_from_slice(b"payload");
        assert_eq!(ProtectedHeader::decode(&out), Ok((h, len)));
        (0..len).for_each(|n| assert_eq!(ProtectedHeader::decode(&out[..n]), Err(WireError::Truncated)));
    }
    assert_eq!(ProtectedHeader::decode(&[0x42; 40]), Err(WireError::UnknownType(0x42)));
}

#[test]
fn trailers() {
    let mut packet = b"xx123456789".to_vec();
    append_trailer(&mut packet, 2);
    // The check value of CRC-32/ISO-HDLC.
    assert_eq!(hex(&packet[11..]), "cbf43926");
    assert_eq!(strip_trailer(&packet[2..]), Ok(&b"123456789"[..]));
    each_damage(&packet[2..], |bad| assert!(strip_trailer(bad).is_err()));
    assert_eq!(strip_trailer(&[1, 2, 3]), Err(WireError::Truncated));
}

pub(super) fn params(rng: &mut StdRng) -> Params {
    Params {
        idle_timeout_ms: random_varint(rng, VARINT_MAX),
        max_datagram_bytes: random_varint(rng, VARINT_MAX).max(MIN_DATAGRAM_BYTES),
        control_credit_bytes: random_varint(rng, VARINT_MAX),
        receive_window_bytes: random_varint(rng, VARINT_MAX),
        features: random_varint(rng, VARINT_MAX),
    }
}

fn hello() -> Hello {
    let params = Params {
        idle_timeout_ms: 60_000,
        max_datagram_bytes: 65_535,
        control_credit_bytes: 4 << 20,
        receive_window_bytes: 24 << 20,
        features: 0,
    };
    Hello {
        version: VERSION,
        client_cid: Cid([0xc1; 8]),
        security: Security::Aes128Gcm,
        share: [0x5a; 32],
        params,
        attempt: 2,
        cookie: None,
    }
}

#[test]
fn handshake_vectors() {
    let h = hello();
    let head = "f0666c6d7201c1c1c1c1c1c1c1c101";
    let params = "1b01048000ea6002048000ffff030480400000040481800000050100";
    let core = format!("{head}{}{params}", "5a".repeat(32));
    assert_eq!(hex(&h.core()), core);
    let packet = h.encode();
    assert_eq!(hex(&packet[..packet.len() - 4]), core + "0200");
    let with_cookie = Hello { cookie: Some([7; 16]), ..h.clone() };
    assert_eq!(with_cookie.core(), h.core(), "the cookie is not in the transcript");
    let retry = Retry { client_cid: Cid([2; 8]), cookie: [3; 16] }.encode();
    assert_eq!(hex(&retry[..25]), format!("f2{}{}", "02".repeat(8), "03".repeat(16)));
    let reject = Reject { client_cid: Cid([2; 8]), code: RejectCode::Busy, text: "no".into() }.encode();
    assert_eq!(hex(&reject[..13]), format!("f3{}04026e6f", "02".repeat(8)));
}

#[test]
fn handshake_packets_come_back_and_damage_is_noticed() {
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..30 {
        let mut cid = || Cid(rng.random());
        let (client_cid, server_cid) = (cid(), cid());
        let cookie = rng.random::<bool>().then(|| rng.random());
        let security = [Security::Insecure, Security::Aes128Gcm][rng.random_range(0..2)];
        let hello = Hello {
            version: VERSION,
            client_cid,
            security,
            share: rng.random(),
            params: params(&mut rng),
            attempt: rng.random(),
            cookie,
        };
        let packet = hello.encode();
        assert_eq!(Hello::decode(&packet), Ok((hello.clone(), &hello.core()[..])));
        assert_eq!(Hello::cid_of_any_version(&packet), Some((VERSION, client_cid)));
        each_damage(&packet, |bad| assert!(Hello::decode(bad).is_err()));
        let attempt = rng.random();
        let reply = Reply { client_cid, server_cid, share: rng.random(), params: params(&mut rng), attempt };
        let packet = reply.encode();
        assert_eq!(Reply::decode(&packet), Ok((reply.clone(), &reply.core()[..])));
        each_damage(&packet, |bad| assert!(Reply::decode(bad).is_err()));
        let retry = Retry { client_cid, cookie: rng.random() };
        assert_eq!(Retry::decode(&retry.encode()), Ok(retry.clone()));
        each_damage(&retry.encode(), |bad| assert!(Retry::decode(bad).is_err()));
        for code in [RejectCode::WrongKey, RejectCode::Security, RejectCode::Version, RejectCode::Busy] {
            let reject = Reject { client_cid, code, text: "a sentence, with ü".into() };
            assert_eq!(Reject::decode(&reject.encode()), Ok(reject.clone()));
            each_damage(&reject.encode(), |bad| assert!(Reject::decode(bad).is_err()));
        }
    }
}

/// Damage that passes the CRC-32: a peer that means it.
#[test]
fn handshake_packets_with_a_good_checksum_never_panic() {
    let mut rng = StdRng::seed_from_u64(3);
    let reject = Reject { client_cid: Cid([1; 8]), code: RejectCode::Busy, text: "busy".into() };
    let reply = Reply {
        client_cid: Cid([1; 8]),
        server_cid: Cid([2; 8]),
        share: [3; 32],
        params: params(&mut rng),
        attempt: 1,
    };
    let retry = Retry { client_cid: Cid([1; 8]), cookie: [3; 16] };
    for packet in [hello().encode(), reply.encode(), retry.encode(), reject.encode()] {
        each_damage(&packet[..packet.len() - 4], |bad| {
            let mut bad = bad.to_vec();
            append_trailer(&mut bad, 0);
            let _ = Hello::cid_of_any_version(&bad);
            if let Ok((h, _)) = Hello::decode(&bad) {
                assert_eq!(Hello::decode(&h.encode()).expect("decodes").0, h);
            }
            if let Ok((h, _)) = Reply::decode(&bad) {
                assert_eq!(Reply::decode(&h.encode()).expect("decodes").0, h);
            }
            if let Ok(h) = Retry::decode(&bad) {
                assert_eq!(Retry::decode(&h.encode()), Ok(h));
            }
            if let Ok(h) = Reject::decode(&bad) {
                assert!(Reject::decode(&h.encode()).is_ok());
            }
        });
    }
}

#[test]
fn handshake_bounds() {
    let with_list = |list: &[u8]| {
        let h = hello().core();
        let mut out = h[..15 + 32].to_vec();
        put_bytes(&mut out, list);
        out.extend([0, 0]);
        append_trailer(&mut out, 0);
        out
    };
    let decode = |packet: &[u8]| Hello::decode(packet).map(|(h, _)| h.params);
    let defaults = decode(&with_list(&[])).expect("all parameters have defaults");
    assert_eq!((defaults.max_datagram_bytes, defaults.receive_window_bytes), (MIN_DATAGRAM_BYTES, 0));
    // An unknown parameter is skipped, up to the bound of the list.
    let unknown = |n: usize| {
        let mut list = vec![0x3f];
        put_bytes(&mut list, &vec![0; n]);
        list
    };
    assert_eq!(unknown(MAX_PARAMS_BYTES - 3).len(), MAX_PARAMS_BYTES);
    assert_eq!(decode(&with_list(&unknown(MAX_PARAMS_BYTES - 3))), Ok(defaults));
    assert_eq!(decode(&with_list(&unknown(MAX_PARAMS_BYTES - 2))), Err(WireError::Bounds("parameters")));
    assert_eq!(decode(&with_list(&[2, 2, 0x44, 0xcf])), Err(WireError::Bounds("max_datagram_bytes")));
    assert_eq!(decode(&with_list(&[2, 3, 0x44, 0xd0, 0])), Err(WireError::Trailing));
    assert_eq!(decode(&with_list(&[2, 1])), Err(WireError::Truncated));
    // A cookie has 16 bytes or none.
    for (n, ok) in [(0, true), (15, false), (16, true), (17, false)] {
        let mut out = hello().core();
        out.push(0);
        put_bytes(&mut out, &vec![1; n]);
        append_trailer(&mut out, 0);
        assert_eq!(Hello::decode(&out).is_ok(), ok, "{n} bytes");
    }
    let mut other = hello();
    other.version = 9;
    assert_eq!(Hello::decode(&other.encode()).map(|_| ()), Err(WireError::Bounds("version")));
    assert_eq!(Hello::cid_of_any_version(&other.encode()), Some((9, other.client_cid)));
    // Texts are cut when written, and refused when too long.
    let reject = Reject { client_cid: Cid([1; 8]), code: RejectCode::Busy, text: "x".repeat(600) };
    assert_eq!(Reject::decode(&reject.encode()).map(|r| r.text.len()), Ok(MAX_TEXT_BYTES));
    let mut long = reject.encode()[..10].to_vec();
    put_bytes(&mut long, &[b'x'; MAX_TEXT_BYTES + 1]);
    append_trailer(&mut long, 0);
    assert_eq!(Reject::decode(&long), Err(WireError::Bounds("text")));
}

// ---- frames ----

fn no_feedback<'a>(largest: u64) -> Feedback<'a> {
    Feedback {
        largest,
        received_us: 1,
        delay_us: 2,
        received_bytes: 3,
        ce_count: 4,
        receive_window_bytes: 5,
        control_credit: 6,
        blocks: BlockList::default(),
    }
}

pub(super) fn one_frame(bytes: &[u8]) -> Result<Frame<'_>, WireError> {
    let mut r = Reader::new(bytes);
    let frame = Frame::decode(&mut r)?;
    r.end()?;
    Ok(frame)
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

#[test]
fn frame_vectors() {
    let segment =
        Segment { file: 1, chunk: 2, offset: 3, generation: 0, encoded: None, crc32: None, data: b"abc" };
    let full =
        Segment { generation: 4, encoded: Some((ChunkCodec::Lz4, 6)), crc32: Some(0x0102_0304), ..segment };
    for (frame, vector) in [
        (Frame::Padding, "00"),
        (Frame::Ping, "01"),
        (Frame::Floor { distance: 64, max_packets: 5, max_delay_us: 1000 }, "0240400543e8"),
        (Frame::Feedback(no_feedback(9)), "030901020304050600"),
        (Frame::Control { offset: 64, data: b"hi" }, "044040026869"),
        (Frame::Close { code: CloseCode::Refused as u64, text: b"no" }, "0503026e6f"),
        (Frame::PathChallenge([1; 8]), "060101010101010101"),
        (Frame::PathResponse([2; 8]), "070202020202020202"),
        (Frame::Segment(segment), "2101020303616263"),
        (Frame::Segment(full), "2f0102030401060102030403616263"),
        (Frame::Extension(0x40), "404000"),
    ] {
        assert_eq!(hex(&encoded(&frame)), vector, "{frame:?}");
        assert_eq!(one_frame(&encoded(&frame)), Ok(frame));
    }
    let mut last = Vec::new();
    segment.encode(&mut last, true);
    assert_eq!(hex(&last), "20010203616263");
    assert_eq!(one_frame(&last), Ok(Frame::Segment(segment)));
    assert_eq!(one_frame(&[0x08]), Err(WireError::UnknownType(8)));
    assert_eq!(one_frame(&[0x30]), Err(WireError::UnknownType(0x30)));
}

#[test]
fn what_asks_for_feedback() {
    for f in [Frame::Padding, Frame::Close { code: 0, text: b"" }, Frame::Feedback(no_feedback(1))] {
        assert!(!f.is_ack_eliciting(), "{f:?}");
    }
    for f in [Frame::Ping, Frame::Control { offset: 0, data: b"" }, Frame::Extension(0x41)] {
        assert!(f.is_ack_eliciting(), "{f:?}");
    }
}

fn random_segment<'a>(rng: &mut StdRng, data: &'a [u8]) -> Segment<'a> {
    let limit = u64::from(MAX_CHUNK_SIZE) - data.len() as u64;
    let offset = random_varint(rng, limit) as u32;
    let room = MAX_CHUNK_SIZE - offset - data.len() as u32;
    Segment {
        file: random_varint(rng, 1 << 48),
        chunk: random_varint(rng, MAX_FILE_BYTES),
        offset,
        generation: random_varint(rng, MAX_GENERATION.into()) as u32,
        encoded: rng.random::<bool>().then(|| {
            (
                [ChunkCodec::Lz4, ChunkCodec::Zstd][rng.random_range(0..2)],
                offset + data.len() as u32 + rng.random_range(0..=room),
            )
        }),
        crc32: rng.random::<bool>().then(|| rng.random()),
        data,
    }
}

fn random_frame<'a>(rng: &mut StdRng, data: &'a [u8]) -> Frame<'a> {
    match rng.random_range(0..10) {
        0 => Frame::Padding,
        1 => Frame::Ping,
        2 => Frame::Floor {
            distance: random_varint(rng, VARINT_MAX),
            max_packets: random_varint(rng, VARINT_MAX),
            max_delay_us: random_varint(rng, VARINT_MAX),
        },
        3 => Frame::Feedback(Feedback {
            largest: random_varint(rng, VARINT_MAX),
            received_us: random_varint(rng, VARINT_MAX),
            delay_us: random_varint(rng, VARINT_MAX),
            received_bytes: random_varint(rng, VARINT_MAX),
            ce_count: random_varint(rng, VARINT_MAX),
            receive_window_bytes: random_varint(rng, VARINT_MAX),
            control_credit: random_varint(rng, VARINT_MAX),
            blocks: BlockList::default(),
        }),
        4 => Frame::Control { offset: random_varint(rng, MAX_FILE_BYTES), data },
        5 => Frame::Close { code: random_varint(rng, VARINT_MAX), text: &data[..data.len().min(512)] },
        6 => Frame::PathChallenge(rng.random()),
        7 => Frame::PathResponse(rng.random()),
        8 => Frame::Extension(random_varint(rng, VARINT_MAX).max(0x40)),
        _ => Frame::Segment(random_segment(rng, data)),
    }
}

#[test]
fn frames_come_back() {
    let mut rng = StdRng::seed_from_u64(4);
    for _ in 0..5000 {
        let data = random_bytes(&mut rng, 1400);
        let frames: Vec<Frame<'_>> = (0..4).map(|_| random_frame(&mut rng, &data)).collect();
        let mut out = Vec::new();
        frames.iter().for_each(|f| f.encode(&mut out));
        let mut r = Reader::new(&out);
        for f in &frames {
            assert_eq!(Frame::decode(&mut r).as_ref(), Ok(f));
        }
        assert!(r.is_empty());
    }
}

#[test]
fn segment_overhead_is_exact() {
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..5000 {
        let data = random_bytes(&mut rng, 300);
        let s = random_segment(&mut rng, &data);
        let encoded = s.encoded.map(|(_, n)| n);
        let overhead = Segment::overhead(s.file, s.chunk, s.offset, s.generation, encoded, s.crc32.is_some());
        let (mut last, mut inner) = (Vec::new(), Vec::new());
        s.encode(&mut last, true);
        s.encode(&mut inner, false);
        assert_eq!(last.len(), overhead + data.len());
        assert_eq!(inner.len(), last.len() + varint_len(data.len() as u64));
    }
}

/// Decodes a payload; whatever decodes must encode to something that decodes to the same.
fn check_payload(payload: &[u8]) {
    let mut r = Reader::new(payload);
    while !r.is_empty() {
        let Ok(frame) = Frame::decode(&mut r) else { return };
        let again = encoded(&frame);
        let decoded = one_frame(&again).unwrap_or_else(|e| panic!("{frame:?} encodes badly: {e}"));
        assert_eq!(decoded, frame);
        if let Frame::Feedback(f) = &frame {
            blocks::check_claims(f);
        }
    }
}

#[test]
fn damaged_frames_never_panic() {
    let mut rng = StdRng::seed_from_u64(6);
    for i in 0..300 {
        let data = random_bytes(&mut rng, 40);
        let mut out = Vec::new();
        if i % 3 == 0 {
            blocks::encode_random_feedback(&mut rng, &mut out);
        }
        (0..3).for_each(|_| random_frame(&mut rng, &data).encode(&mut out));
        check_payload(&out);
        each_damage(&out, check_payload);
    }
}

#[test]
fn garbage_never_panics() {
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..60_000 {
        let mut junk = random_bytes(&mut rng, 80);
        if let Some(first) = junk.first_mut() {
            // Known types, mostly: unknown ones end at once.
            *first = [2, 3, 3, 3, 4, 5, 0x20, 0x27, 0x2f, *first][rng.random_range(0..10)];
        }
        check_payload(&junk);
        let _ = Hello::decode(&junk);
        let _ = ProtectedHeader::decode(&junk);
    }
}

#[test]
fn frame_bounds() {
    let varints = |kind: u8, values: &[u64]| {
        let mut out = vec![kind];
        values.iter().for_each(|v| put_varint(&mut out, *v));
        out
    };
    let limit = u64::from(MAX_CHUNK_SIZE);
    // file, chunk, offset of a segment that takes the rest
    assert!(one_frame(&varints(0x20, &[1 << 48, MAX_FILE_BYTES, limit])).is_ok());
    for bad in [[(1 << 48) + 1, 0, 0], [0, MAX_FILE_BYTES + 1, 0], [0, 0, limit + 1]] {
        assert!(matches!(one_frame(&varints(0x20, &bad)), Err(WireError::Bounds(_))), "{bad:?}");
    }
    let mut over = varints(0x20, &[0, 0, limit]);
    over.push(1);
    assert_eq!(one_frame(&over), Err(WireError::Bounds("segment")));
    let with_encoded = |codec: u8, total: u64, n: usize| {
        let mut out = varints(0x22, &[0, 0, 0]);
        out.push(codec);
        put_varint(&mut out, total);
        out.extend(vec![0; n]);
        out
    };
    assert!(one_frame(&with_encoded(1, 10, 10)).is_ok());
    assert_eq!(one_frame(&with_encoded(1, 10, 11)), Err(WireError::Bounds("segment")));
    assert_eq!(one_frame(&with_encoded(0, 10, 1)), Err(WireError::Bounds("codec")));
    assert!(one_frame(&with_encoded(2, 10, 10)).is_ok());
    assert_eq!(one_frame(&with_encoded(3, 10, 1)), Err(WireError::Bounds("codec")));
    assert_eq!(one_frame(&with_encoded(1, limit + 1, 1)), Err(WireError::Bounds("encoded length")));
    let generation = |g: u64| varints(0x24, &[0, 0, 0, g]);
    assert!(one_frame(&generation(MAX_GENERATION.into())).is_ok());
    assert_eq!(one_frame(&generation(u64::from(MAX_GENERATION) + 1)), Err(WireError::Bounds("generation")));
    assert_eq!(one_frame(&varints(4, &[MAX_FILE_BYTES + 1, 0])), Err(WireError::Bounds("control offset")));
    assert_eq!(one_frame(&varints(4, &[0, 65_536])), Err(WireError::Bounds("control length")));
    assert_eq!(one_frame(&varints(5, &[0, MAX_TEXT_BYTES as u64 + 1])), Err(WireError::Bounds("close text")));
    let mut extension = Vec::new();
    put_varint(&mut extension, 0x77);
    put_varint(&mut extension, 65_536);
    assert_eq!(one_frame(&extension), Err(WireError::Bounds("extension length")));
}
