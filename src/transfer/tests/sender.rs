//! The sending side.

use super::*;
use crate::arq::rangeset::RangeSet;
use crate::session::event::Event;
use crate::transfer::sender::MAX_UNRESOLVED;
use std::collections::HashMap;

#[test]
fn every_byte_goes_once_when_nothing_is_lost() {
    for seed in 0..60u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let chunk = [1024, 5000, 65_536][seed as usize % 3];
        let compress = [Compression::None, Compression::Lz4][seed as usize / 3 % 2];
        let size = [17_000, 65_536, 65_537, 200_000][seed as usize % 4];
        let data = bytes(seed, size, true);
        let mut s = Source::new(&[(b"f", data.clone())], chunk, compress, 1 << 20);
        s.work();
        let mut sent: HashMap<u64, RangeSet> = HashMap::new();
        let mut ends = 0;
        while let Some((r, frame)) = s.segment(rng.random_range(64..1400)) {
            let seg = segment_of(&frame);
            let plain = (size as u64 - seg.chunk * u64::from(chunk)).min(chunk.into());
            let total = seg.encoded.map_or(plain, |(_, n)| n.into());
            let range = u64::from(seg.offset)..u64::from(seg.offset) + seg.data.len() as u64;
            assert_eq!((r.offset, r.len as usize, r.attempt), (seg.offset, seg.data.len(), 1));
            assert_eq!(
                seg.crc32.is_some(),
                range.end == total,
                "the CRC rides on the segment that ends the chunk"
            );
            if let Some(crc) = seg.crc32 {
                let start = (seg.chunk * u64::from(chunk)) as usize;
                assert_eq!(crc, crc32fast::hash(&data[start..start + plain as usize]));
                ends += 1;
            }
            if seg.encoded.is_none() {
                let start = (seg.chunk * u64::from(chunk)) as usize + seg.offset as usize;
                assert_eq!(seg.data, &data[start..start + seg.data.len()]);
            }
            assert_eq!(sent.entry(seg.chunk).or_default().insert(range.clone()), range.end - range.start);
            if sent[&seg.chunk].contains_range(0..total) {
                assert_eq!(sent[&seg.chunk].range_count(), 1);
            }
            assert!(s.sender.is_wanted(&r));
            s.sender.on_acked(&r);
            s.sender.on_lost(&r);
            assert!(!s.sender.has_repair(), "acknowledged bytes are not repaired");
            s.work();
        }
        let count = size.div_ceil(chunk as usize);
        assert_eq!((sent.len(), ends), (count, count), "seed {seed}");
        assert!(s.sender.is_tail());
    }
}

#[test]
fn repairs_are_cut_to_the_room_and_counted() {
    let mut s = Source::new(&[(b"f", bytes(1, 30_000, false))], 65_536, Compression::None, 1 << 20);
    s.work();
    let (first, _) = s.segment(1400).expect("data");
    let (second, _) = s.segment(1400).expect("data");
    s.sender.on_lost(&first);
    s.sender.on_lost(&first);
    let mut repaired = RangeSet::new();
    while s.sender.has_repair() {
        let Some((r, _)) = s.segment(200) else { break };
        if r.attempt == 1 {
            break; // Fresh again: the second report of the same loss was superfluous.
        }
        assert_eq!(r.attempt, 2);
        repaired.insert(r.offset.into()..(r.offset + r.len).into());
        s.sender.on_acked(&r);
    }
    assert!(repaired.contains_range(0..first.len.into()), "{repaired:?}");
    assert!(s.sender.next_segment(63, true).is_none(), "not worth a frame");
    assert!(s.sender.next_segment(1400, false).is_none(), "no fresh data without room at the peer");
    s.sender.on_lost(&second);
    assert!(s.sender.next_segment(1400, false).is_some(), "but repairs");
}

#[test]
fn the_budget_bounds_what_is_read_ahead() {
    let chunk = 10_000;
    let mut s = Source::new(&[(b"f", bytes(1, 300_000, false))], chunk, Compression::None, 45_000);
    let mut reads = 0;
    let mut done = Vec::new();
    for _ in 0..20 {
        s.sender.pump(0);
        while let Some(job) = s.sender.poll_job() {
            reads += u64::from(matches!(job, Job::ReadChunk { .. }));
            s.store.run(1, job, &mut done);
        }
        done.drain(..).for_each(|(_, d)| s.sender.handle_done(d));
    }
    assert_eq!(reads, 4, "as many chunks as the budget holds");
    let mut acked = 0;
    while acked < chunk {
        let (r, _) = s.segment(1400).expect("data");
        s.sender.on_acked(&r);
        acked += r.len;
    }
    s.sender.pump(0);
    let next = std::iter::from_fn(|| s.sender.poll_job()).filter(|j| matches!(j, Job::ReadChunk { .. }));
    assert_eq!(next.count() as u32, acked / chunk);
    // One chunk is always allowed.
    let mut s = Source::new(&[(b"f", bytes(1, 30_000, false))], chunk, Compression::None, 1);
    s.work();
    assert!(s.sender.has_fresh());
}

#[test]
fn what_the_receiver_has_is_not_sent() {
    let mut s = Source::new(&[(b"f", bytes(1, 100_000, false))], 10_000, Compression::None, 30_000);
    s.work();
    assert!(
        s.sender.handle_message(Message::Have { file: FileId(0), ranges: vec![1..2, 3..9, 20..1 << 50] })
    );
    let mut chunks = std::collections::BTreeSet::new();
    while let Some((r, frame)) = s.segment(1400) {
        chunks.insert(segment_of(&frame).chunk);
        s.sender.on_acked(&r);
        s.work();
    }
    assert_eq!(chunks.into_iter().collect::<Vec<_>>(), [0, 2, 9]);
}

#[test]
fn a_chunk_asked_for_again_is_another_generation() {
    let mut s = Source::new(&[(b"f", bytes(1, 30_000, false))], 10_000, Compression::None, 1 << 20);
    s.work();
    let mut old = Vec::new();
    while let Some((r, frame)) = s.segment(1400) {
        assert_eq!(segment_of(&frame).generation, 0);
        old.push(r);
    }
    assert!(s.sender.handle_message(Message::Resend { file: FileId(0), chunk: 1 }));
    s.work();
    let mut bytes = 0;
    while let Some((_, frame)) = s.segment(1400) {
        let seg = segment_of(&frame);
        assert_eq!((seg.chunk, seg.generation), (1, 1));
        bytes += seg.data.len();
    }
    assert_eq!(bytes, 10_000);
    // What was lost of the old generation is not repaired, of the other chunks it is.
    old.iter().for_each(|r| s.sender.on_lost(r));
    let mut repaired = 0;
    while let Some((_, frame)) = s.segment(1400) {
        assert_ne!(segment_of(&frame).chunk, 1);
        repaired += segment_of(&frame).data.len();
    }
    assert_eq!(repaired, 20_000);
}

#[test]
fn messages_that_fit_nothing() {
    let mut s = Source::new(&[(b"f", bytes(1, 30_000, false))], 10_000, Compression::None, 1);
    s.work();
    let no = FileId(1);
    assert!(!s.sender.handle_message(Message::Resend { file: no, chunk: 0 }));
    assert!(!s.sender.handle_message(Message::Have { file: no, ranges: Vec::new() }));
    assert!(!s.sender.handle_message(Message::Result { file: no, result: Ok(None) }));
    assert!(!s.sender.handle_message(Message::Resend { file: FileId(0), chunk: 1 }), "not read yet");
    assert!(!s.sender.handle_message(Message::ManifestEnd), "wrong direction");
    let refused = Err(StoreError { kind: StoreErrorKind::Exists, message: "there".into() });
    assert!(s.sender.handle_message(Message::Result { file: FileId(0), result: refused }));
    assert!(s.sender.is_finished() && !s.sender.has_fresh(), "a refused file is not sent");
    assert!(s.sender.handle_message(Message::Resend { file: FileId(0), chunk: 1 }), "late, but no lie");
}

#[test]
fn the_manifest_has_a_window() {
    let mut s = Sender::new(1024, Compression::None, 1);
    s.add_root(root(b"d"));
    s.finish_roots();
    let entry = |i: u64| SourceEntry {
        root: 0,
        below: Vec::new(),
        path: format!("d/{i}").into_bytes(),
        kind: EntryKind::Dir,
        meta: Meta::default(),
        size: 0,
        target: Vec::new(),
        inline: None,
    };
    let mut given = 0;
    let mut work = |s: &mut Sender| {
        s.pump(0);
        while let Some(job) = s.poll_job() {
            if let Job::NextEntries { max_entries, .. } = job {
                let entries = (0..max_entries as u64).map(|i| Ok(entry(given + i))).collect();
                given += max_entries as u64;
                s.handle_done(Done::Entries { entries, end: false });
            }
        }
        s.pump(0);
        assert!(given <= MAX_UNRESOLVED as u64 + 1024, "the walk waits too: {given}");
        std::iter::from_fn(|| s.poll_message()).count()
    };
    let announced: usize = (0..1000).map(|_| work(&mut s)).sum();
    assert_eq!(announced, MAX_UNRESOLVED);
    assert!(s.handle_message(Message::Result { file: FileId(5), result: Ok(None) }));
    assert_eq!(work(&mut s), 1);
}

#[test]
fn a_result_without_the_digest_of_the_source_is_no_success() {
    for (read_whole, digest) in [(false, None), (false, Some([7; 32])), (true, None), (true, Some([7; 32]))] {
        let budget = if read_whole { 1 << 20 } else { 1 };
        let mut s = Source::new(&[(b"f", bytes(1, 30_000, false))], 10_000, Compression::None, budget);
        s.work();
        assert!(s.sender.handle_message(Message::Result { file: FileId(0), result: Ok(digest) }), "no lie");
        let mut events = std::iter::from_fn(|| s.sender.poll_event());
        let failed = events.any(|e| match e {
            Event::EntryFinished { error, .. } => {
                error.is_some_and(|e| e.kind == StoreErrorKind::DigestMismatch)
            }
            _ => false,
        });
        assert!(failed, "read whole: {read_whole}, digest: {}", digest.is_some());
    }
}

/// A HAVE or RESEND looks at the chunks that it names, not at all that are held.
#[test]
#[allow(clippy::disallowed_methods, reason = "what is measured is work, roughly")]
fn messages_about_chunks_cost_the_same_however_many_are_held() {
    let chunks = 30_000;
    let data = bytes(1, 1024 * chunks, false);
    let mut s = Source::new(&[(b"f", data)], 1024, Compression::None, 64 << 20);
    s.work();
    assert!(s.sender.has_fresh());
    let start = std::time::Instant::now();
    let file = FileId(0);
    for n in 0..300_000u64 {
        let chunk = n % 500;
        let ranges = std::iter::once(chunk..chunk + 1).collect();
        assert!(s.sender.handle_message(Message::Have { file, ranges }));
        if n % 10 == 0 {
            assert!(s.sender.handle_message(Message::Resend { file, chunk: 1000 + n / 10 % 500 }));
        }
    }
    let taken = start.elapsed().as_secs_f64();
    assert!(taken < 4.0, "{taken:.2} s for 330,000 messages");
    // What the receiver has is not sent, what it wants again is, with a higher generation, and all else once.
    s.work();
    let mut first_of: HashMap<u64, u32> = HashMap::new();
    while let Some((r, frame)) = s.segment(1400) {
        let seg = segment_of(&frame);
        first_of.insert(seg.chunk, seg.generation);
        s.sender.on_acked(&r);
        s.work();
    }
    assert_eq!(first_of.len(), chunks - 500);
    let again = (1000..1500).all(|c| first_of[&c] == 60);
    assert!(again && first_of.iter().filter(|(_, g)| **g > 0).count() == 500);
    assert!(s.sender.is_tail());
}

/// Nothing is read for a peer that has no room; what has been read stays.
#[test]
fn nothing_is_read_for_a_peer_without_room() {
    let mut s = Source::new(&[(b"f", bytes(1, 1 << 20, false))], 65_536, Compression::None, 1 << 20);
    s.sender.set_peer_takes(false);
    s.work();
    assert!(s.sender.held_bytes() == 0 && !s.sender.has_fresh() && s.sender.would_read());
    assert!(!s.sender.is_tail());
    s.sender.set_peer_takes(true);
    s.work();
    assert_eq!(s.sender.held_bytes(), 1 << 20);
    assert!(!s.sender.would_read());
}

/// A manifest waits while what was said is not acknowledged.
#[test]
fn a_manifest_waits_for_room_in_the_control_stream() {
    let files: Vec<(Vec<u8>, Vec<u8>)> =
        (0..100).map(|i| (format!("f{i}").into_bytes(), Vec::new())).collect();
    let named: Vec<(&[u8], Vec<u8>)> = files.iter().map(|(n, d)| (n.as_slice(), d.clone())).collect();
    let mut s = Source::new(&named, 65_536, Compression::None, 1 << 20);
    let mut done = Vec::new();
    for _ in 0..50 {
        s.sender.pump(u64::MAX);
        assert!(s.sender.poll_message().is_none());
        while let Some(job) = s.sender.poll_job() {
            s.store.run(1, job, &mut done);
        }
        done.drain(..).for_each(|(_, d)| s.sender.handle_done(d));
    }
    assert_eq!(s.work().len(), 101, "entries, and the end");
}
