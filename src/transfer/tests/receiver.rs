//! The receiving side.

use super::*;
use crate::session::event::Event;
use crate::transfer::receiver::{MAX_EARLY_BYTES, MAX_OPEN_CHUNKS};
use crate::transfer::sender::{MAX_STREAMED, MAX_UNRESOLVED};

fn entry(file: u64, size: u64, chunk_size: u32) -> BeginEntry {
    BeginEntry {
        file: FileId(file),
        path: format!("f{file}").into_bytes(),
        kind: EntryKind::File,
        meta: Meta { mode: 0o644, ..Meta::default() },
        size,
        chunk_size,
        target: Vec::new(),
        inline: None,
    }
}

fn announce(r: &mut Receiver, e: BeginEntry) -> Result<(), &'static str> {
    r.handle_message(Message::Entry(Box::new(e)))
}

fn raw<'a>(chunk: u64, offset: u32, data: &'a [u8], crc32: Option<u32>) -> Segment<'a> {
    Segment { file: 0, chunk, offset, generation: 0, encoded: None, crc32, data }
}

fn jobs(r: &mut Receiver) -> Vec<Job> {
    std::iter::from_fn(|| r.poll_job()).collect()
}

fn violates(s: Segment<'_>) -> bool {
    let mut r = Receiver::new(1 << 20);
    announce(&mut r, entry(0, 5000, 2048)).expect("in order");
    matches!(r.on_segment(&s), Accept::Violation(_))
}

#[test]
fn segments_that_contradict_the_manifest() {
    let d = [0u8; 2049];
    assert!(!violates(raw(0, 0, &d[..100], None)));
    assert!(!violates(raw(0, 0, &d[..2048], Some(1))));
    assert!(violates(raw(0, 0, &d[..2048], None)), "the end of a chunk has its CRC");
    assert!(violates(raw(0, 0, &d[..2047], Some(1))), "and nothing else has");
    assert!(violates(raw(0, 0, &d[..2049], Some(1))));
    assert!(violates(raw(0, 1, &d[..2048], Some(1))));
    assert!(violates(raw(3, 0, &d[..1], None)), "beyond the file");
    assert!(violates(raw(1 << 50, 0, &d[..1], None)));
    // The last chunk is shorter.
    assert!(!violates(raw(2, 0, &d[..904], Some(1))));
    assert!(violates(raw(2, 0, &d[..905], None)));
    let lz4 =
        |n, len: usize, crc32| Segment { encoded: Some((ChunkCodec::Lz4, n)), ..raw(0, 0, &d[..len], crc32) };
    assert!(!violates(lz4(2000, 2000, Some(1))));
    assert!(violates(lz4(2049, 100, None)), "longer than the plain bytes");
    // A listing and a finished manifest get none.
    let mut r = Receiver::new(1 << 20);
    r.set_listing();
    assert!(matches!(r.on_segment(&raw(0, 0, &d[..1], None)), Accept::Violation(_)));
    let mut r = Receiver::new(1 << 20);
    r.handle_message(Message::ManifestEnd).expect("fine");
    assert!(matches!(r.on_segment(&raw(0, 0, &d[..1], None)), Accept::Violation(_)));
    // A change of encoding needs a new generation.
    let mut r = Receiver::new(1 << 20);
    announce(&mut r, entry(0, 5000, 2048)).expect("in order");
    assert_eq!(r.on_segment(&lz4(2000, 10, None)), Accept::Yes);
    assert!(matches!(r.on_segment(&raw(0, 10, &d[..10], None)), Accept::Violation(_)));
    assert!(matches!(r.on_segment(&lz4(1999, 10, None)), Accept::Violation(_)));
    assert_eq!(r.on_segment(&Segment { generation: 1, ..raw(0, 10, &d[..10], None) }), Accept::Yes);
}

#[test]
fn the_manifest_comes_in_order() {
    let mut r = Receiver::new(1 << 20);
    assert!(announce(&mut r, entry(1, 1, 1024)).is_err());
    announce(&mut r, entry(0, 1, 1024)).expect("in order");
    assert!(announce(&mut r, entry(0, 1, 1024)).is_err());
    assert!(r.handle_message(Message::Digest { file: FileId(1), sha256: [0; 32] }).is_err());
    let error = StoreError { kind: StoreErrorKind::Io, message: String::new() };
    assert!(r.handle_message(Message::Abandon { file: FileId(1), error: error.clone() }).is_err());
    assert!(r.handle_message(Message::Have { file: FileId(0), ranges: Vec::new() }).is_err());
    r.handle_message(Message::Abandon { file: FileId(0), error }).expect("known");
    assert!(jobs(&mut r).iter().any(|j| matches!(j, Job::Abort { keep_partial: true, .. })));
    r.handle_message(Message::ManifestEnd).expect("fine");
    assert!(r.is_finished());
    assert!(announce(&mut r, entry(1, 1, 1024)).is_err(), "after the end");
    // Late words about a finished file are no lie.
    r.handle_message(Message::Digest { file: FileId(0), sha256: [0; 32] }).expect("known");
    assert_eq!(r.on_segment(&raw(0, 0, &[0; 1], Some(0))), Accept::Yes);
}

#[test]
fn unanswered_entries_are_bounded() {
    let mut r = Receiver::new(1 << 30);
    let most = 2 * MAX_UNRESOLVED as u64;
    let dir = |i| BeginEntry { kind: EntryKind::Dir, ..entry(i, 0, 0) };
    (0..most).for_each(|i| announce(&mut r, dir(i)).expect("within the window"));
    assert!(announce(&mut r, dir(most)).is_err());
    assert_eq!(r.open_entries() as u64, most);
    // Those with chunks are open files, and fewer.
    let mut r = Receiver::new(1 << 30);
    let most = 2 * MAX_STREAMED as u64;
    (0..most).for_each(|i| announce(&mut r, entry(i, 1, 1024)).expect("within the window"));
    assert!(announce(&mut r, entry(most, 1, 1024)).is_err());
    let mut r = Receiver::new(1 << 20);
    r.set_max_file_bytes(100);
    announce(&mut r, entry(0, 101, 1024)).expect("refused, not wrong");
    let refused = matches!(r.poll_message(), Some(Message::Result { result: Err(e), .. }) if e.kind == StoreErrorKind::Limit);
    assert!(refused && r.open_entries() == 0);
}

/// Digests come by the control stream: a receiver that waits for them must go on reading it.
#[test]
fn files_that_wait_for_their_digest_do_not_stop_the_control_stream() {
    for budget in [256 * 1024, 24 << 20] {
        let mut r = Receiver::new(budget);
        for i in 0..MAX_STREAMED as u64 {
            announce(&mut r, entry(i, 20_000, 1024)).expect("within the window");
        }
        assert!(!r.is_congested() && r.window_bytes() > 0, "budget {budget}");
    }
    // The end of a directory waits for such files too.
    let mut r = Receiver::new(256 * 1024);
    announce(&mut r, entry(0, 20_000, 1024)).expect("in order");
    for i in 1..4000 {
        let end = BeginEntry { kind: EntryKind::DirEnd, path: vec![b'd'; 200], ..entry(i, 0, 0) };
        announce(&mut r, end).expect("within the window");
    }
    assert!(!r.is_congested() && r.window_bytes() > 0);
    // Inline contents do stop it, until the store has them.
    let mut s = Sink::new(256 * 1024);
    let mut i = 0;
    while !s.receiver.is_congested() {
        let data = bytes(i, 16_000, false);
        let inline = Inline { sha256: sha2_of(&data), data: data.into() };
        announce(&mut s.receiver, BeginEntry { inline: Some(inline), ..entry(i, 16_000, 0) })
            .expect("in order");
        i += 1;
        assert!(i < 20, "never");
    }
    s.work();
    assert!(!s.receiver.is_congested() && s.receiver.used_bytes() == 0);
}

fn sha2_of(data: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(data).into()
}

#[test]
fn early_segments_wait_for_their_entry() {
    let mut s = Sink::new(1 << 20);
    let data = bytes(1, 5000, false);
    let crc = crc32fast::hash(&data);
    assert_eq!(s.receiver.on_segment(&raw(0, 2500, &data[2500..], Some(crc))), Accept::Yes);
    assert_eq!(s.receiver.on_segment(&raw(0, 0, &data[..2500], None)), Accept::Yes);
    assert!(s.receiver.used_bytes() >= 5000);
    announce(&mut s.receiver, entry(0, 5000, 8192)).expect("in order");
    s.receiver.handle_message(Message::Digest { file: FileId(0), sha256: sha2_of(&data) }).expect("known");
    let answers = s.work();
    assert!(matches!(answers[..], [Message::Result { result: Ok(Some(_)), .. }]), "{answers:?}");
    assert!(s.store.get(b"f0").is_some_and(|d| d == data));
    assert_eq!(s.receiver.used_bytes(), 0);
    // One that contradicts its entry is noticed then.
    let mut r = Receiver::new(1 << 20);
    assert_eq!(r.on_segment(&raw(7, 0, &data[..10], None)), Accept::Yes);
    assert!(announce(&mut r, entry(0, 5000, 8192)).is_err());
}

#[test]
fn early_segments_are_bounded() {
    let d = [0u8; 1000];
    for (budget, room) in [(1 << 30, MAX_EARLY_BYTES as u64), (100_000, 50_000)] {
        let mut r = Receiver::new(budget);
        let mut kept = 0;
        while r.on_segment(&raw(kept, 0, &d, None)) == Accept::Yes {
            kept += 1;
            assert!(kept < 10_000, "for ever");
        }
        assert!(r.used_bytes() <= room, "{} bytes", r.used_bytes());
        assert_eq!(r.on_segment(&raw(0, 0, &d, None)), Accept::NotNow);
        let far = Segment { file: MAX_UNRESOLVED as u64 + 1, ..raw(0, 0, &d[..1], None) };
        assert_eq!(Receiver::new(budget).on_segment(&far), Accept::NotNow);
    }
}

#[test]
fn open_chunks_are_bounded() {
    let mut r = Receiver::new(1 << 30);
    announce(&mut r, entry(0, 1 << 40, 1024)).expect("in order");
    for chunk in 0..MAX_OPEN_CHUNKS as u64 {
        assert_eq!(r.on_segment(&raw(chunk, 0, &[0], None)), Accept::Yes);
    }
    assert_eq!(r.on_segment(&raw(MAX_OPEN_CHUNKS as u64, 0, &[0], None)), Accept::NotNow);
    assert_eq!(r.on_segment(&raw(0, 1, &[0; 1023], Some(0))), Accept::Yes, "an open one goes on");
    assert_eq!(r.on_segment(&raw(MAX_OPEN_CHUNKS as u64, 0, &[0], None)), Accept::Yes);
}

fn lz4(chunk: u64, n: u32, data: &[u8]) -> Segment<'_> {
    Segment { encoded: Some((ChunkCodec::Lz4, n)), ..raw(chunk, 0, data, None) }
}

#[test]
fn assembly_keeps_to_the_budget() {
    let mut r = Receiver::new(250_000);
    announce(&mut r, entry(0, 1 << 30, 1 << 20)).expect("in order");
    assert_eq!(r.on_segment(&lz4(0, 200_000, &[0; 1000])), Accept::Yes);
    assert_eq!(r.on_segment(&lz4(1, 50_001, &[0; 1000])), Accept::NotNow);
    assert_eq!(r.on_segment(&lz4(1, 50_000, &[0; 1000])), Accept::Yes);
    assert_eq!(r.used_bytes(), 250_000);
    assert_eq!(r.window_bytes(), 248_000, "what assembly waits for may come");
    // One chunk is always allowed, however large: otherwise it could never arrive.
    let mut r = Receiver::new(250_000);
    announce(&mut r, entry(0, 1 << 30, 1 << 20)).expect("in order");
    assert_eq!(r.on_segment(&lz4(0, 1_000_000, &[0; 1000])), Accept::Yes);
    assert_eq!(r.window_bytes(), 999_000);
    // A new generation takes the place of the old one.
    assert_eq!(r.on_segment(&Segment { generation: 1, ..lz4(0, 900_000, &[0; 500]) }), Accept::Yes);
    assert_eq!((r.used_bytes(), r.window_bytes()), (900_000, 899_500));
    assert_eq!(r.on_segment(&lz4(0, 1_000_000, &[0; 1000])), Accept::Yes, "late, and ignored");
    assert_eq!(r.used_bytes(), 900_000);
}

#[test]
fn raw_segments_keep_to_twice_the_budget() {
    let mut r = Receiver::new(100_000);
    announce(&mut r, entry(0, 1 << 30, 1 << 20)).expect("in order");
    let d = [0u8; 1000];
    let taken = (0..1000).filter(|i| r.on_segment(&raw(0, i * 1000, &d, None)) == Accept::Yes).count();
    assert_eq!((taken, r.window_bytes()), (200, 0));
    r.handle_done(Done::Written { file: FileId(0), bytes: 150_000 });
    assert_eq!(r.window_bytes(), 50_000);
    // A file that fails gives everything back.
    let error = StoreError { kind: StoreErrorKind::NoSpace, message: "full".into() };
    r.handle_done(Done::SinkFailed { file: FileId(0), error });
    assert_eq!((r.used_bytes(), r.window_bytes()), (0, 100_000));
    r.handle_done(Done::Written { file: FileId(0), bytes: 50_000 });
    assert_eq!(r.used_bytes(), 0);
}

/// Encoded chunks give their bytes back when the store has taken them.
#[test]
fn compressed_chunks_free_the_budget() {
    let budget = 100_000;
    let files: Vec<(&[u8], Vec<u8>)> = vec![(b"f", bytes(9, 3_000_000, true))];
    let sink = carry(1, &files, 65_536, Compression::Lz4, budget);
    assert!(sink.receiver.counters().chunk_bytes_encoded > 2 * budget, "the file is much larger");
}

#[test]
fn duplicates_change_nothing() {
    let mut s = Sink::new(1 << 20);
    let data = bytes(1, 3000, false);
    let crc = Some(crc32fast::hash(&data));
    announce(&mut s.receiver, entry(0, 3000, 4096)).expect("in order");
    for _ in 0..3 {
        assert_eq!(s.receiver.on_segment(&raw(0, 0, &data[..2000], None)), Accept::Yes);
    }
    assert!(s.receiver.used_bytes() <= 2000);
    for _ in 0..3 {
        assert_eq!(s.receiver.on_segment(&raw(0, 1500, &data[1500..], crc)), Accept::Yes);
    }
    s.receiver.handle_message(Message::Digest { file: FileId(0), sha256: sha2_of(&data) }).expect("known");
    let answers = s.work();
    assert!(matches!(answers[..], [Message::Result { result: Ok(Some(_)), .. }]), "{answers:?}");
    assert_eq!(s.receiver.on_segment(&raw(0, 0, &data[..2000], None)), Accept::Yes);
    assert!(s.work().is_empty());
    assert!(s.store.get(b"f0").is_some_and(|d| d == data));
}

#[test]
fn a_bad_chunk_is_asked_for_again_and_a_bad_digest_fails_the_file() {
    let mut s = Sink::new(1 << 20);
    let data = bytes(1, 3000, false);
    let crc = crc32fast::hash(&data);
    announce(&mut s.receiver, entry(0, 3000, 4096)).expect("in order");
    assert_eq!(s.receiver.on_segment(&raw(0, 0, &data, Some(crc ^ 1))), Accept::Yes);
    assert!(matches!(s.work()[..], [Message::Resend { file: FileId(0), chunk: 0 }]));
    // The old generation does not count any more, whatever it says.
    assert_eq!(s.receiver.on_segment(&raw(0, 0, &data, Some(crc))), Accept::Yes);
    assert!(s.work().is_empty());
    assert_eq!(s.receiver.on_segment(&Segment { generation: 1, ..raw(0, 0, &data, Some(crc)) }), Accept::Yes);
    s.receiver.handle_message(Message::Digest { file: FileId(0), sha256: [1; 32] }).expect("known");
    let answers = s.work();
    let bad = matches!(&answers[..], [Message::Result { result: Err(e), .. }] if e.kind == StoreErrorKind::DigestMismatch);
    assert!(bad, "{answers:?}");
    let events: Vec<Event> = std::iter::from_fn(|| s.receiver.poll_event()).collect();
    assert!(events.iter().any(|e| matches!(e, Event::EntryFinished { error: Some(_), .. })));
    assert!(s.store.get(b"f0").is_none());
}

#[test]
fn what_is_there_already_is_told_and_its_assembly_dropped() {
    let mut r = Receiver::new(100_000);
    announce(&mut r, entry(0, 100_000, 20_000)).expect("in order");
    jobs(&mut r);
    assert_eq!(r.on_segment(&lz4(1, 15_000, &[0; 1000])), Accept::Yes);
    assert_eq!(r.on_segment(&lz4(3, 15_000, &[0; 1000])), Accept::Yes);
    r.handle_done(Done::Began { file: FileId(0), result: Ok(vec![0..2, 4..5]) });
    assert!(matches!(r.poll_message(), Some(Message::Have { ranges, .. }) if ranges == [0..2, 4..5]));
    assert_eq!(r.used_bytes(), 15_000, "chunk 3 only");
    assert_eq!(r.counters().bytes_done, 60_000);
    let refused = StoreError { kind: StoreErrorKind::Exists, message: "there".into() };
    r.handle_done(Done::Committed { file: FileId(0), result: Err(refused) });
    assert_eq!((r.used_bytes(), r.window_bytes(), r.open_entries()), (0, 100_000, 0));
}
