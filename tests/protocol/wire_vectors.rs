//! tests/vectors/wire.json: frames, messages and packets with their fields, and bytes that must be refused.

use super::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/wire.json");

fn frame_vectors() -> Vec<Value> {
    let mut out = Vec::new();
    let mut add = |name: &str, frame: Frame<'_>, fields: Value| {
        let bytes = payload(std::slice::from_ref(&frame));
        assert_eq!(frames(&bytes), [frame], "{name}");
        out.push(json!({ "name": name, "hex": hex(&bytes), "fields": fields }));
    };
    add("PADDING", Frame::Padding, json!({}));
    add("PING", Frame::Ping, json!({}));
    let floor = Frame::Floor { distance: 16_000, max_packets: 64, max_delay_us: 25_000 };
    add("FLOOR", floor, json!({ "distance": 16_000, "max_packets": 64, "max_delay_us": 25_000 }));
    let control = Frame::Control { offset: 1 << 31, data: b"abc" };
    add("CONTROL", control, json!({ "offset": 1u64 << 31, "data": hex(b"abc") }));
    let close = Frame::Close { code: 3, text: b"no room" };
    add("CLOSE", close, json!({ "code": 3, "text": "no room" }));
    add("PATH_CHALLENGE", Frame::PathChallenge(*b"12345678"), json!({ "data": hex(b"12345678") }));
    add("PATH_RESPONSE", Frame::PathResponse(*b"12345678"), json!({ "data": hex(b"12345678") }));
    add("extension", Frame::Extension(0x4a), json!({ "type": 0x4a }));
    for bits in 0..8u32 {
        let (encoded, generation, ends) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let segment = Segment {
            file: 5,
            chunk: 300,
            offset: 70_000,
            generation: if generation { 2 } else { 0 },
            encoded: encoded.then_some((ChunkCodec::Lz4, 70_004)),
            crc32: ends.then_some(0x0102_0304),
            data: b"data",
        };
        let fields = json!({
            "file": 5, "chunk": 300, "offset": 70_000, "generation": segment.generation,
            "encoded_bytes": segment.encoded.map(|e| e.1), "crc32": segment.crc32, "data": hex(b"data"),
        });
        add("SEGMENT", Frame::Segment(segment), fields);
    }
    let zstd = Segment {
        file: 5,
        chunk: 300,
        offset: 70_000,
        generation: 0,
        encoded: Some((ChunkCodec::Zstd, 70_004)),
        crc32: Some(0x0102_0304),
        data: b"data",
    };
    let fields = json!({
        "file": 5, "chunk": 300, "offset": 70_000, "generation": 0,
        "encoded_bytes": 70_004, "crc32": zstd.crc32, "data": hex(b"data"),
    });
    add("SEGMENT: zstd", Frame::Segment(zstd), fields);
    out
}

type Pattern = (&'static str, std::ops::Range<u64>, fn(u64) -> bool, usize);

/// Feedback: received numbers from a seed-free pattern, as runs and as bits.
fn feedback_vectors() -> Vec<Value> {
    let mut out = Vec::new();
    let cases: [Pattern; 5] = [
        ("all received", 100..1000, |_| true, 200),
        ("one missing", 0..10, |n| n != 4, 200),
        ("the lowest missing", 5..30, |n| n > 20, 200),
        ("every third missing, as bits", 0..4000, |n| n % 3 != 1 || n == 3999, 100),
        ("a long gap", 0..300_000, |n| !(17..299_000).contains(&n), 100),
    ];
    for (name, range, is_received, budget) in cases {
        let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
        for n in range.clone().filter(|n| is_received(*n)) {
            match runs.last_mut() {
                Some(r) if r.end == n => r.end += 1,
                _ => runs.push(n..n + 1),
            }
        }
        let mut scratch = Vec::new();
        let block = build_block(range.clone(), runs.iter().rev().cloned(), budget, &mut scratch);
        let block = block.expect("a block");
        let described = block.range();
        let mut f = feedback(range.end - 1, [1_000_000, 250, 900_000, 0, 1 << 20, 4 << 20]);
        f.blocks.push(block);
        let bytes = payload(&[Frame::Feedback(f)]);
        assert_eq!(payload(&frames(&bytes)), bytes);
        let missing: Vec<[u64; 2]> = {
            let inside = runs.iter().map(|r| r.start.max(described.start)..r.end);
            let mut gaps = Vec::new();
            let mut next = described.start;
            for r in inside.filter(|r| r.end > r.start) {
                if r.start > next {
                    gaps.push([next, r.start - 1]);
                }
                next = r.end;
            }
            gaps
        };
        out.push(json!({
            "name": name, "hex": hex(&bytes), "largest": range.end - 1,
            "described": [described.start, described.end - 1],
            "missing_first_to_last": missing,
        }));
    }
    out
}

fn error(kind: StoreErrorKind, message: &str) -> StoreError {
    StoreError { kind, message: message.into() }
}

fn request_messages() -> Vec<(&'static str, Message)> {
    let ask = |request| Message::Request { client_id: "lab".into(), request };
    let put = |into_dir, overwrite| Request::Put {
        dest: b"in/box".to_vec(),
        into_dir,
        overwrite,
        no_resume: false,
    };
    let get = |compress| Request::Get {
        paths: vec![b"a".to_vec(), b"b/c".to_vec()],
        compress,
        chunk_size: DEFAULT_CHUNK_SIZE,
    };
    let echo = Request::Echo {
        sim_back: "loss=5%".into(),
        keep: true,
        overwrite: Overwrite::Always,
        no_resume: false,
    };
    let anew = Request::Put {
        dest: b"in/box".to_vec(),
        into_dir: false,
        overwrite: Overwrite::Never,
        no_resume: true,
    };
    let compare = SyncOptions { compare: Some(Compare::SizeAndTime), ..SyncOptions::default() };
    let pattern = |kind, text: &[u8]| fulmar::transfer::sync::Pattern { kind, text: text.to_vec() };
    let all = SyncOptions {
        compare: Some(Compare::Digest),
        dry_run: true,
        delete: Some(Delete::InDest),
        no_mtime: true,
        no_mode: true,
        patterns: vec![
            pattern(PatternKind::Exclude, b"*.o"),
            pattern(PatternKind::Include, b"keep.o"),
            pattern(PatternKind::IgnoreFile, b".gitignore"),
        ],
    };
    vec![
        ("REQUEST: PUT, new name, do not resume", ask(anew)),
        ("OPTIONS: compare", Message::Options(Box::new(compare))),
        ("OPTIONS: all of them", Message::Options(Box::new(all))),
        ("REQUEST: PUT, new name", ask(put(false, Overwrite::Never))),
        ("REQUEST: PUT, into a directory, overwrite", ask(put(true, Overwrite::Always))),
        ("REQUEST: GET, auto", ask(get(Compression::Auto))),
        ("REQUEST: GET, LZ4", ask(get(Compression::Lz4))),
        ("REQUEST: GET, none", ask(get(Compression::None))),
        ("REQUEST: GET, zstd level 1", ask(get(Compression::Zstd(1)))),
        ("REQUEST: GET, zstd level 19", ask(get(Compression::Zstd(19)))),
        ("REQUEST: LIST", ask(Request::List { path: b"b".to_vec() })),
        ("REQUEST: ECHO, keep, overwrite", ask(echo)),
        ("CONTINUE", Message::Continue),
    ]
}

fn transfer_messages() -> Vec<(&'static str, Message)> {
    let file = BeginEntry {
        size: 1 << 33,
        chunk_size: DEFAULT_CHUNK_SIZE,
        ..entry(1, b"dir/big.iso", EntryKind::File)
    };
    let inline = Inline { data: Bytes::from_static(b"hi"), sha256: sha256(b"hi") };
    let small = BeginEntry { size: 2, inline: Some(inline), ..entry(2, b"dir/hi", EntryKind::File) };
    let mut dir = entry(0, b"dir", EntryKind::Dir);
    dir.meta = Meta { mode: 0o2755, mtime_s: -1, mtime_ns: 999_999_999 };
    let mut link = entry(3, b"dir/link", EntryKind::Symlink);
    (link.target, link.meta.mode) = (b"../elsewhere".to_vec(), 0);
    let end = BeginEntry { file: FileId(4), kind: EntryKind::DirEnd, ..dir.clone() };
    let stream = BeginEntry {
        size: fulmar::transfer::job::UNKNOWN_SIZE,
        chunk_size: DEFAULT_CHUNK_SIZE,
        ..entry(5, b"x.tar", EntryKind::File)
    };
    let file_id = FileId(1);
    let offer = Offer {
        file: FileId(7),
        path: b"dir/hi".to_vec(),
        meta: Meta { mode: 0o644, mtime_s: 1_700_000_000, mtime_ns: 1 },
        size: 2,
        sha256: None,
    };
    let entry_of = |e: BeginEntry| Message::Entry(Box::new(e));
    vec![
        ("ENTRY: directory, before 1970", entry_of(dir)),
        ("ENTRY: file in segments", entry_of(file)),
        ("ENTRY: file with contents", entry_of(small)),
        ("ENTRY: symbolic link", entry_of(link)),
        ("ENTRY: end of directory", entry_of(end)),
        ("ENTRY: stream", entry_of(stream)),
        ("STREAM_END", Message::StreamEnd { file: FileId(5), bytes: 1 << 33 }),
        (
            "ENTRY_FAILED",
            Message::EntryFailed {
                path: b"dir/pipe".to_vec(),
                error: error(StoreErrorKind::Forbidden, "a pipe"),
            },
        ),
        ("MANIFEST_END", Message::ManifestEnd),
        ("DIGEST", Message::Digest { file: file_id, sha256: sha256(b"x") }),
        (
            "ABANDON",
            Message::Abandon { file: file_id, error: error(StoreErrorKind::SourceChanged, "changed") },
        ),
        ("HAVE", Message::Have { file: file_id, ranges: vec![0..3, 10..11, 20_000..32_768] }),
        ("RESULT: file", Message::Result { file: file_id, result: Ok(Some(sha256(b"x"))) }),
        ("RESULT: directory, end or link", Message::Result { file: FileId(0), result: Ok(None) }),
        (
            "RESULT: error",
            Message::Result { file: file_id, result: Err(error(StoreErrorKind::NoSpace, "disk full")) },
        ),
        ("RESEND", Message::Resend { file: file_id, chunk: 32_767 }),
        ("OFFER", Message::Offer(Box::new(offer.clone()))),
        (
            "OFFER: with digest",
            Message::Offer(Box::new(Offer { sha256: Some(sha256(b"hi")), file: FileId(8), ..offer })),
        ),
        ("UNCHANGED", Message::Unchanged(vec![0..3, 5..10_000])),
        (
            "REMOVED",
            Message::Removed(vec![(b"old".to_vec(), EntryKind::File), (b"d/e".to_vec(), EntryKind::Dir)]),
        ),
        ("REMOVAL_END: done", Message::RemovalEnd(None)),
        (
            "REMOVAL_END: refused",
            Message::RemovalEnd(Some(error(StoreErrorKind::Forbidden, "an entry failed"))),
        ),
        ("WANT", Message::Want(std::iter::once(3..5).collect())),
        ("REQUEST_FAILED", Message::RequestFailed(error(StoreErrorKind::Permission, "read-only"))),
    ]
}

fn message_vectors() -> Vec<Value> {
    let all = request_messages().into_iter().chain(transfer_messages());
    all.map(|(name, message)| {
        let bytes = stream(std::slice::from_ref(&message));
        let decoded = messages(&bytes);
        assert_eq!(format!("{decoded:?}"), format!("{:?}", [&message]), "{name}");
        // One byte less is not whole yet; never an error.
        assert!(Message::decode(&bytes[..bytes.len() - 1]).expect("no error").is_none());
        json!({ "name": name, "hex": hex(&bytes) })
    })
    .collect()
}

fn handshake_vectors() -> Vec<Value> {
    let retry = Retry { client_cid: CLIENT_CID, cookie: *b"sixteen byte bun" };
    assert_eq!(Retry::decode(&retry.encode()), Ok(retry.clone()));
    let reject =
        Reject { client_cid: CLIENT_CID, code: RejectCode::WrongKey, text: "the key differs".into() };
    assert_eq!(Reject::decode(&reject.encode()), Ok(reject.clone()));
    // The second sending, and the answer to it: the cores are those of the first.
    let (first, first_reply, _) = handshake();
    let hello = Hello { attempt: 1, cookie: Some(retry.cookie), ..first.clone() };
    assert_eq!(Hello::decode(&hello.encode()), Ok((hello.clone(), &first.core()[..])));
    let reply = Reply { attempt: 1, ..first_reply.clone() };
    assert_eq!(Reply::decode(&reply.encode()), Ok((reply.clone(), &first_reply.core()[..])));
    vec![
        json!({ "name": "Retry", "hex": hex(&retry.encode()), "cookie": hex(&retry.cookie) }),
        json!({ "name": "Reject", "hex": hex(&reject.encode()), "code": 1, "text": reject.text }),
        json!({
            "name": "Hello with cookie", "hex": hex(&hello.encode()), "cookie": hex(&retry.cookie),
            "attempt": 1, "core": hex(&hello.core()),
        }),
        json!({
            "name": "Reply to it", "hex": hex(&reply.encode()), "attempt": 1, "core": hex(&reply.core()),
        }),
    ]
}

/// Payloads and messages that break a bound.
fn refused() -> Vec<Value> {
    let frames = [
        ("unknown frame type 0x08", "08", "unknown type 0x8"),
        ("unknown frame type 0x30", "3000", "unknown type 0x30"),
        ("truncated FLOOR", "0200", "truncated"),
        ("CONTROL shorter than its length", "04000361", "truncated"),
        ("segment beyond the encoded length", "2205000a0105616263", "segment out of bounds"),
        ("codec 3", "2205000003056162", "codec out of bounds"),
        ("encoded length above 4 MiB", "22050000018040000161", "encoded length out of bounds"),
        ("generation 1,001", "2505000043e90161", "generation out of bounds"),
        ("five blocks", "030a00000000000005", "blocks out of bounds"),
        ("a block that reaches below 0", "0301000000000000010003000103", "block out of bounds"),
        ("a block of no numbers", "03010000000000000100000000", "block out of bounds"),
        ("runs that do not add up", "030500000000000001000300020101", "runs out of bounds"),
        ("block kind 2", "0305000000000000010001020101", "block kind out of bounds"),
        ("extension shorter than its length", "404a0561", "truncated"),
    ];
    let messages = [
        ("unknown message type 32", "2000", "unknown type 0x20"),
        ("OPTIONS with an unknown flag", "0b0340800000", "option flags out of bounds"),
        ("OPTIONS: digest without compare", "0b020200", "option flags out of bounds"),
        ("OFFER with a digest of 2 bytes", "0c0a0001610000000002aabb", "digest out of bounds"),
        ("WANT with an empty range", "0e03010000", "range out of bounds"),
        ("body above 65,536 bytes", "0480010001", "message length out of bounds"),
        ("MANIFEST_END with a body", "040100", "trailing bytes"),
        ("path with ..", "02070100042e2e2f61", "path out of bounds"),
        ("absolute path", "02050100022f61", "path out of bounds"),
        ("mode above 0o7777", "0206010101615000", "mode out of bounds"),
        ("DIGEST of 3 bytes", "050400010203", "truncated"),
        ("HAVE with an empty range", "070401010000", "range out of bounds"),
        ("HAVE out of order", "0706010205010101", "range out of bounds"),
        ("RESULT with a digest of 5 bytes", "08080000056162636465", "digest out of bounds"),
        ("request kind 5", "01020005", "unknown type 0x5"),
        ("compression 22", "0103000216", "compression out of bounds"),
        ("chunk size 1,023", "010500020043ff", "chunk size out of bounds"),
    ];
    let mut out = Vec::new();
    for (name, text, why) in frames {
        let bytes = unhex(text);
        let error = Frame::decode(&mut Reader::new(&bytes)).expect_err(name);
        assert_eq!(error.to_string(), why, "{name}");
        out.push(json!({ "name": name, "kind": "frame", "hex": text, "why": why }));
    }
    for (name, text, why) in messages {
        let error = Message::decode(&unhex(text)).expect_err(name);
        assert_eq!(error.to_string(), why, "{name}");
        out.push(json!({ "name": name, "kind": "message", "hex": text, "why": why }));
    }
    out
}

fn varints() -> Vec<Value> {
    [0u64, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1]
        .map(|v| {
            let mut out = Vec::new();
            fulmar::wire::buf::put_varint(&mut out, v);
            assert_eq!(Reader::new(&out).varint(), Ok(v));
            json!({ "value": v, "hex": hex(&out) })
        })
        .to_vec()
}

#[test]
fn wire_json() {
    let mut all = Map::new();
    all.insert("about".into(), "Encodings of docs/PROTOCOL.md. Byte strings in hex.".into());
    all.insert("varints".into(), varints().into());
    all.insert("frames".into(), frame_vectors().into());
    all.insert("feedback".into(), feedback_vectors().into());
    all.insert("messages".into(), message_vectors().into());
    all.insert("handshake_packets".into(), handshake_vectors().into());
    all.insert("refused".into(), refused().into());
    let text = serde_json::to_string_pretty(&Value::from(all)).expect("JSON") + "\n";
    if std::env::var_os("FULMAR_WRITE_VECTORS").is_some() {
        std::fs::write(PATH, text).expect("the file is writable");
        return;
    }
    assert_eq!(text, std::fs::read_to_string(PATH).expect("the file is there"));
}
