//! Control messages.

use super::*;
use crate::transfer::job::{
    BeginEntry, Compression, EntryKind, FileId, Inline, Meta, Overwrite, StoreError, StoreErrorKind,
};
use crate::transfer::{MIN_CHUNK_SIZE, Request};
use crate::wire::message::{FIRST_EXTENSION, Message, path_is_clean};

fn encode(m: &Message) -> Vec<u8> {
    let (mut out, mut scratch) = (Vec::new(), vec![1, 2, 3]);
    m.encode(&mut out, &mut scratch);
    out
}

/// The only message of `bytes`.
fn decode(bytes: &[u8]) -> Result<Option<Message>, WireError> {
    match Message::decode(bytes)? {
        Some((m, used)) => {
            assert_eq!(used, bytes.len());
            Ok(m)
        }
        None => Err(WireError::Truncated),
    }
}

fn raw(kind: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, kind);
    put_bytes(&mut out, body);
    out
}

fn error(kind: StoreErrorKind, message: &str) -> StoreError {
    StoreError { kind, message: message.into() }
}

fn file_entry(size: u64) -> BeginEntry {
    BeginEntry {
        file: FileId(1),
        path: b"d/f".to_vec(),
        kind: EntryKind::File,
        meta: Meta { mode: 0o644, mtime_s: -1, mtime_ns: 5 },
        size,
        chunk_size: 262_144,
        target: Vec::new(),
        inline: None,
    }
}

#[test]
fn message_vectors() {
    let digest = [0xd1; 32];
    let put =
        Request::Put { dest: b"x".to_vec(), into_dir: true, overwrite: Overwrite::Always, no_resume: false };
    let get = Request::Get {
        paths: vec![b"a".to_vec(), Vec::new()],
        compress: Compression::None,
        chunk_size: 1024,
    };
    let echo = Request::Echo {
        sim_back: "loss=1%".into(),
        keep: true,
        overwrite: Overwrite::Never,
        no_resume: false,
    };
    let anew =
        Request::Put { dest: b"x".to_vec(), into_dir: false, overwrite: Overwrite::Never, no_resume: true };
    let request = |request| Message::Request { client_id: "me".into(), request };
    let link = BeginEntry {
        kind: EntryKind::Symlink,
        target: b"t".to_vec(),
        chunk_size: 0,
        size: 0,
        meta: Meta::default(),
        ..file_entry(0)
    };
    let dir = BeginEntry { kind: EntryKind::Dir, target: Vec::new(), ..link.clone() };
    let inline =
        BeginEntry { inline: Some(Inline { data: (&b"hi"[..]).into(), sha256: digest }), ..file_entry(2) };
    for (m, vector) in [
        (request(put), "0107026d6501030178".into()),
        (request(anew), "0107026d6501040178".into()),
        (request(get), "010b026d650202440002016100".into()),
        (request(Request::List { path: b"p".to_vec() }), "0106026d65030170".into()),
        (request(echo), "010d026d650401076c6f73733d3125".into()),
        (Message::Entry(Box::new(file_entry(70_000))), "0213010003642f6641a40105800111700080040000".into()),
        (Message::Entry(Box::new(inline)), format!("022e010003642f6641a4010502016869{}", hex(&digest))),
        (Message::Entry(Box::new(dir)), "0209010103642f66000000".into()),
        (Message::Entry(Box::new(link)), "020b010303642f660000000174".into()),
        (
            Message::EntryFailed { path: b"f".to_vec(), error: error(StoreErrorKind::Permission, "no") },
            "0306016603026e6f".into(),
        ),
        (Message::ManifestEnd, "0400".into()),
        (Message::Digest { file: FileId(2), sha256: digest }, format!("052102{}", hex(&digest))),
        (Message::Abandon { file: FileId(2), error: error(StoreErrorKind::Io, "") }, "0603020d00".into()),
        (Message::Have { file: FileId(2), ranges: vec![0..3, 5..6] }, "0706020200030501".into()),
        (Message::Result { file: FileId(2), result: Ok(None) }, "0803020000".into()),
        (
            Message::Result { file: FileId(2), result: Ok(Some(digest)) },
            format!("0823020020{}", hex(&digest)),
        ),
        (
            Message::Result { file: FileId(2), result: Err(error(StoreErrorKind::Exists, "x")) },
            "080402020178".into(),
        ),
        (Message::Resend { file: FileId(2), chunk: 64 }, "0903024040".into()),
        (Message::RequestFailed(error(StoreErrorKind::Limit, "x")), "0a030c0178".into()),
    ] {
        let bytes = encode(&m);
        assert_eq!(hex(&bytes), vector, "{m:?}");
        let back = decode(&bytes).expect("decodes").expect("known");
        if !matches!(m, Message::Entry(_)) {
            assert_eq!(format!("{back:?}"), format!("{m:?}"));
        }
        assert_eq!(encode(&back), bytes);
    }
}

fn random_path(rng: &mut StdRng) -> Vec<u8> {
    let parts = rng.random_range(1..4);
    let part = |rng: &mut StdRng| -> Vec<u8> {
        let n = rng.random_range(3..12);
        (0..n).map(|_| [b'a', b'.', b'\n', 0xff, b' ', b'z'][rng.random_range(0..6)]).chain([b'x']).collect()
    };
    (0..parts).map(|_| part(rng)).collect::<Vec<_>>().join(&b'/')
}

fn random_error(rng: &mut StdRng) -> StoreError {
    let kind = StoreErrorKind::from_wire(rng.random_range(1..=13)).expect("a kind");
    error(kind, &"é".repeat(rng.random_range(0..200)))
}

fn random_entry(rng: &mut StdRng) -> BeginEntry {
    let kind =
        [EntryKind::File, EntryKind::Dir, EntryKind::DirEnd, EntryKind::Symlink][rng.random_range(0..4)];
    let mut e = BeginEntry {
        file: FileId(random_varint(rng, 1 << 48)),
        path: random_path(rng),
        kind,
        meta: Meta {
            mode: rng.random_range(0..=0o7777),
            mtime_s: rng.random::<i64>() >> rng.random_range(3..60),
            mtime_ns: rng.random_range(0..1_000_000_000),
        },
        size: 0,
        chunk_size: 0,
        target: Vec::new(),
        inline: None,
    };
    match kind {
        EntryKind::File if rng.random() => {
            let data = random_bytes(rng, 300);
            e.size = data.len() as u64;
            e.inline = Some(Inline { data: data.into(), sha256: rng.random() });
        }
        EntryKind::File => {
            e.size = random_varint(rng, MAX_FILE_BYTES);
            e.chunk_size = rng.random_range(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE);
        }
        EntryKind::Symlink => e.target = random_path(rng),
        _ => {}
    }
    e
}

fn random_request(rng: &mut StdRng) -> Request {
    let overwrite = [Overwrite::Never, Overwrite::Always][rng.random_range(0..2)];
    match rng.random_range(0..4) {
        0 => Request::Put {
            dest: random_path(rng),
            into_dir: rng.random(),
            overwrite,
            no_resume: rng.random(),
        },
        1 => Request::Get {
            paths: (0..rng.random_range(0..20)).map(|_| random_path(rng)).collect(),
            compress: [
                Compression::Auto,
                Compression::Lz4,
                Compression::None,
                Compression::Zstd(rng.random_range(1..=19)),
            ][rng.random_range(0..4)],
            chunk_size: rng.random_range(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE),
        },
        2 => Request::List { path: random_path(rng) },
        _ => Request::Echo {
            sim_back: "loss=1%".into(),
            keep: rng.random(),
            overwrite,
            no_resume: rng.random(),
        },
    }
}

fn random_message(rng: &mut StdRng) -> Message {
    let file = FileId(random_varint(rng, 1 << 48));
    match rng.random_range(0..13) {
        12 => Message::SendLimit(random_varint(rng, (1 << 62) - 1)),
        11 => Message::Continue,
        0 => Message::Request { client_id: "née".into(), request: random_request(rng) },
        1 | 2 => Message::Entry(Box::new(random_entry(rng))),
        3 => Message::EntryFailed { path: random_path(rng), error: random_error(rng) },
        4 => Message::ManifestEnd,
        5 => Message::Digest { file, sha256: rng.random() },
        6 => Message::Abandon { file, error: random_error(rng) },
        7 => {
            let mut at = 0;
            let mut range = || {
                let start = at + rng.random_range(0..100u64);
                at = start + rng.random_range(1..100_000u64);
                start..at
            };
            Message::Have { file, ranges: (0..20).map(|_| range()).collect() }
        }
        8 => Message::Result {
            file,
            result: match rng.random_range(0..3) {
                0 => Ok(None),
                1 => Ok(Some(rng.random())),
                _ => Err(random_error(rng)),
            },
        },
        9 => Message::Resend { file, chunk: random_varint(rng, MAX_FILE_BYTES) },
        _ => Message::RequestFailed(random_error(rng)),
    }
}

#[test]
fn messages_come_back() {
    let mut rng = StdRng::seed_from_u64(21);
    for _ in 0..5000 {
        let m = random_message(&mut rng);
        let bytes = encode(&m);
        let back = decode(&bytes).expect("decodes").expect("known");
        assert_eq!(format!("{back:?}"), format!("{m:?}"));
        // As a stream: nothing before the last byte, and what follows is left alone.
        assert!(matches!(Message::decode(&bytes[..bytes.len() - 1]), Ok(None)));
        let mut stream = bytes.clone();
        stream.extend_from_slice(&bytes);
        assert_eq!(Message::decode(&stream).expect("decodes").map(|(_, used)| used), Some(bytes.len()));
    }
}

fn check_stream(bytes: &[u8]) {
    if let Ok(Some((Some(m), used))) = Message::decode(bytes) {
        assert!(used <= bytes.len());
        let again = encode(&m);
        assert!(matches!(Message::decode(&again), Ok(Some((Some(_), n))) if n == again.len()), "{m:?}");
    }
}

#[test]
fn damaged_messages_never_panic() {
    let mut rng = StdRng::seed_from_u64(22);
    for _ in 0..1000 {
        each_damage(&encode(&random_message(&mut rng)), check_stream);
    }
    for _ in 0..60_000 {
        let mut junk = random_bytes(&mut rng, 60);
        if let Some(first) = junk.first_mut() {
            *first %= 12;
        }
        check_stream(&junk);
        check_stream(&raw(rng.random_range(1..11), &junk));
    }
}

#[test]
fn extensions_are_skipped_and_unknown_messages_refused() {
    // The first of them is known: CONTINUE.
    assert!(matches!(Message::decode(&raw(FIRST_EXTENSION, b"")), Ok(Some((Some(Message::Continue), _)))));
    assert!(matches!(Message::decode(&raw(FIRST_EXTENSION, b"x")), Err(WireError::Trailing)));
    let stream = raw(FIRST_EXTENSION + 2, b"whatever");
    assert!(matches!(Message::decode(&stream), Ok(Some((None, 11)))));
    assert!(matches!(Message::decode(&raw(32, b"")), Err(WireError::UnknownType(32))));
    assert!(matches!(Message::decode(&raw(4, b"x")), Err(WireError::Trailing)));
    assert!(matches!(Message::decode(&raw(9, &[1])), Err(WireError::Truncated)));
}

#[test]
fn message_bounds() {
    let bad = |kind: u64, body: &[u8], name: &'static str| {
        assert_eq!(decode(&raw(kind, body)).map(|_| ()), Err(WireError::Bounds(name)));
    };
    // The length is judged before the body arrives.
    let mut long = vec![4];
    put_varint(&mut long, MAX_MESSAGE_BYTES as u64 + 1);
    assert!(matches!(Message::decode(&long), Err(WireError::Bounds("message length"))));
    let mut longest = vec![4];
    put_varint(&mut longest, MAX_MESSAGE_BYTES as u64);
    assert!(matches!(Message::decode(&longest), Ok(None)));

    let entry = |e: BeginEntry| decode(&encode(&Message::Entry(Box::new(e)))).map(|_| ());
    let with_path = |path: Vec<u8>| entry(BeginEntry { path, ..file_entry(1) });
    assert_eq!(with_path(vec![b'x'; MAX_PATH_BYTES]), Ok(()));
    assert_eq!(with_path(vec![b'x'; MAX_PATH_BYTES + 1]), Err(WireError::Bounds("path")));
    for path in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "../a", "a\0"] {
        assert_eq!(with_path(path.into()), Err(WireError::Bounds("path")), "{path:?}");
        assert!(!path_is_clean(path.as_bytes()));
    }
    for path in ["a", "...", "a/..b", ".a", "a\nb", "a\\..\\b"] {
        assert_eq!(with_path(path.into()), Ok(()), "{path:?}");
    }
    assert_eq!(entry(file_entry(MAX_FILE_BYTES)), Ok(()));
    assert_eq!(entry(file_entry(MAX_FILE_BYTES + 1)), Err(WireError::Bounds("size")));
    let chunks = |chunk_size| entry(BeginEntry { chunk_size, ..file_entry(1) });
    assert_eq!((chunks(MIN_CHUNK_SIZE), chunks(MAX_CHUNK_SIZE)), (Ok(()), Ok(())));
    assert_eq!(chunks(MIN_CHUNK_SIZE - 1), Err(WireError::Bounds("chunk size")));
    assert_eq!(chunks(MAX_CHUNK_SIZE + 1), Err(WireError::Bounds("chunk size")));
    let meta =
        |mode, mtime_ns| entry(BeginEntry { meta: Meta { mode, mtime_s: 0, mtime_ns }, ..file_entry(1) });
    assert_eq!(meta(0o7777, 999_999_999), Ok(()));
    assert_eq!(meta(0o10000, 0), Err(WireError::Bounds("mode")));
    assert_eq!(meta(0, 1_000_000_000), Err(WireError::Bounds("nanoseconds")));
    let file = |id| entry(BeginEntry { file: FileId(id), ..file_entry(1) });
    assert_eq!(file(1 << 48), Ok(()));
    assert_eq!(file((1 << 48) + 1), Err(WireError::Bounds("file")));
    let inline = |n: usize| {
        entry(BeginEntry {
            inline: Some(Inline { data: vec![0; n].into(), sha256: [0; 32] }),
            ..file_entry(n as u64)
        })
    };
    assert_eq!((inline(0), inline(MAX_INLINE_BYTES)), (Ok(()), Ok(())));
    assert_eq!(inline(MAX_INLINE_BYTES + 1), Err(WireError::Bounds("inline")));
    let link = |target: Vec<u8>| entry(BeginEntry { kind: EntryKind::Symlink, target, ..file_entry(0) });
    assert_eq!(link(vec![b'x'; MAX_TARGET_BYTES]), Ok(()));
    assert_eq!(link(vec![b'x'; MAX_TARGET_BYTES + 1]), Err(WireError::Bounds("target")));
    assert_eq!(link(Vec::new()), Err(WireError::Bounds("target")));
    assert_eq!(link(b"a\0b".to_vec()), Err(WireError::Bounds("target")));

    // The largest entry that a sender may make fits a message.
    let largest = BeginEntry {
        path: vec![b'x'; MAX_PATH_BYTES],
        inline: Some(Inline { data: vec![0; MAX_INLINE_BYTES].into(), sha256: [0; 32] }),
        ..file_entry(MAX_INLINE_BYTES as u64)
    };
    assert_eq!(entry(largest), Ok(()));

    bad(7, &[0, 1, 5, 0], "range");
    bad(7, &[0, 2, 5, 2, 6, 1], "range");
    let have = |n: usize| {
        let mut body = vec![0];
        put_varint(&mut body, n as u64);
        (0..n as u64).for_each(|i| {
            put_varint(&mut body, 2 * i);
            put_varint(&mut body, 1);
        });
        decode(&raw(7, &body)).map(|_| ())
    };
    assert_eq!(have(MAX_HAVE_RANGES), Ok(()));
    assert_eq!(have(MAX_HAVE_RANGES + 1), Err(WireError::Bounds("ranges")));
    bad(8, &[0, 0, 3, 1, 2, 3], "digest");
    bad(8, &[&[0, 0, 33][..], &[0; 33]].concat(), "digest");
    let get = |n: usize| {
        let mut body = vec![0, 2, 0];
        put_varint(&mut body, 1024);
        put_varint(&mut body, n as u64);
        body.extend(vec![0; n]);
        decode(&raw(1, &body)).map(|_| ())
    };
    assert_eq!(get(MAX_GET_PATHS), Ok(()));
    assert_eq!(get(MAX_GET_PATHS + 1), Err(WireError::Bounds("paths")));
    let label = |n: usize| {
        let mut body = Vec::new();
        put_bytes(&mut body, &vec![b'x'; n]);
        body.extend([3, 0]);
        decode(&raw(1, &body)).map(|_| ())
    };
    assert_eq!(label(MAX_LABEL_BYTES), Ok(()));
    assert_eq!(label(MAX_LABEL_BYTES + 1), Err(WireError::Bounds("label")));
    assert_eq!(decode(&raw(1, &[0, 9])).map(|_| ()), Err(WireError::UnknownType(9)));
    let text = |n: usize| {
        let mut body = vec![1];
        put_bytes(&mut body, &vec![b'x'; n]);
        decode(&raw(10, &body)).map(|_| ())
    };
    assert_eq!(text(MAX_TEXT_BYTES), Ok(()));
    assert_eq!(text(MAX_TEXT_BYTES + 1), Err(WireError::Bounds("text")));
}
