//! Little that asks for much: memory, work, answers. Each test measures what the endpoint holds at most, beyond what it
//! held before, in bytes of the allocator; so each of them runs alone.

use crate::support::*;
use crate::{ALLOCATOR, alone};
use fulmar::session::refusal::Refusal;
use fulmar::transfer::job::{ChunkCodec, FileId, StoreError, StoreErrorKind};
use fulmar::wire::frame::{Frame, Segment};
use fulmar::wire::message::Message;
use std::fs::File;
use std::path::Path;

const MIB: usize = 1 << 20;

/// Runs `bomb`, and checks the most memory that was in use beyond that at its beginning.
fn within(most_bytes: usize, bomb: impl FnOnce()) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    bomb();
    let used = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(used <= most_bytes, "{used} bytes were in use at once, more than {most_bytes}");
}

/// A server in a PUT.
fn putting(dir: &Path) -> (Node, Peer) {
    let mut node = Node::server(dir);
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.remember = false;
    peer.say(&mut node, &[put()]);
    (node, peer)
}

/// A server that sends a file of so many bytes (a hole) to a client that keeps no rule.
fn serving(dir: &Path, bytes: u64) -> (Node, Peer) {
    File::create(dir.join("f")).and_then(|f| f.set_len(bytes)).expect("made");
    let mut node = Node::server(dir);
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.remember = false;
    peer.say(&mut node, &[Message::Request { client_id: String::new(), request: get(b"f") }]);
    node.pass(ms(20));
    peer.read(&mut node);
    (node, peer)
}

fn raw(file: u64, chunk: u64, offset: u32, data: &[u8]) -> Segment<'_> {
    Segment { file, chunk, offset, generation: 0, encoded: None, crc32: None, data }
}

#[test]
fn acknowledgements_of_what_was_not_received_are_caught() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = serving(dir.path(), 1 << 30);
    within(64 * MIB, || {
        for _ in 0..20_000 {
            if node.closed().is_some() {
                break;
            }
            // All that was sent, skipped numbers too, for it cannot know them.
            let largest = peer.numbers.iter().copied().max().expect("packets");
            peer.send_raw(&mut node, &feedback(largest, &[largest.min(2000) + 1]));
            node.pass(ms(5));
            peer.read(&mut node);
        }
    });
    node.expect_violation("never sent", Refusal::Feedback);
}

#[test]
fn acknowledgements_of_the_future_are_caught() {
    let _alone = alone();
    for ahead in [1, 1000, 1 << 40, (1 << 62) - 2] {
        let dir = tempfile::tempdir().expect("made");
        let (mut node, mut peer) = serving(dir.path(), 1 << 20);
        let largest = peer.numbers.iter().copied().max().expect("packets") + 1000;
        peer.send_raw(&mut node, &feedback((largest + ahead).min((1 << 62) - 1), &[1]));
        node.pass(ms(100));
        node.expect_violation("not sent yet", Refusal::Feedback);
    }
}

/// "All is missing", again and again: repairs stay within rate control, and the memory within the window.
#[test]
fn floods_of_nacks_neither_multiply_traffic_nor_memory() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = serving(dir.path(), 1 << 30);
    let before = node.sent_bytes;
    within(64 * MIB, || {
        for _ in 0..3000 {
            let largest = peer.numbers.iter().copied().max().expect("packets");
            let missing = feedback(largest, &[0, largest.min(500_000) + 1]);
            peer.send_raw(&mut node, &missing.repeat(4));
            node.pass(ms(1));
            peer.read(&mut node);
        }
    });
    // Three seconds; a path that loses everything gets no faster than it began: 64 packets in a round trip of 20 ms.
    let sent = node.sent_bytes - before;
    assert!(sent < 15_000_000, "{sent} bytes in 3 s");
    // Thousands in one packet are refused altogether.
    let one = feedback(0, &[0, 1]);
    peer.send_raw(&mut node, &one.repeat(1000));
    node.pass(ms(100));
    node.expect_violation("too much feedback", Refusal::Feedback);
}

/// Frames around claims that do not fit the chunk: none is decoded, each costs no more than the chunk's own size.
#[test]
fn decompression_bombs_do_not_go_off() {
    let _alone = alone();
    let plain = 4 * MIB;
    let zeros = vec![0u8; 64 * MIB];
    let large = zstd::bulk::compress(&zeros, 3).expect("compressed");
    let fitting = zstd::bulk::compress(&zeros[..plain], 3).expect("compressed");
    // No content size; the largest window that the format knows (RFC 8878, section 3.1.1.1.2).
    let windowed = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff][..], &[0x01, 0x00, 0x00]].concat();
    // A content size of 2^63 in a frame of a few bytes.
    let claiming =
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 63).to_le_bytes(), &[0x01, 0x00, 0x00]].concat();
    let mut lz4 = lz4_flex::block::compress(&zeros[..plain + 1]);
    let longer_lz4 = lz4_flex::block::compress(&zeros);
    lz4.truncate(lz4.len().min(plain));
    let twice = [fitting.clone(), fitting.clone()].concat();
    drop(zeros);
    let bombs: Vec<(ChunkCodec, Vec<u8>)> = vec![
        (ChunkCodec::Zstd, large),
        (ChunkCodec::Zstd, windowed),
        (ChunkCodec::Zstd, claiming),
        (ChunkCodec::Zstd, twice),
        (ChunkCodec::Lz4, lz4),
        (ChunkCodec::Lz4, longer_lz4),
        (ChunkCodec::Zstd, b"no frame at all".to_vec()),
    ];
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    within(3 * plain + 4 * MIB, || {
        for (file, (codec, bomb)) in bombs.iter().enumerate() {
            let file = file as u64;
            peer.say(
                &mut node,
                &[streamed(file, format!("bomb{file}").as_bytes(), plain as u64, plain as u32)],
            );
            for generation in 0..3 {
                for (i, piece) in bomb.chunks(50_000).enumerate() {
                    let offset = (i * 50_000) as u32;
                    let ends = offset as usize + piece.len() == bomb.len();
                    let segment = Segment {
                        file,
                        chunk: 0,
                        offset,
                        generation,
                        encoded: Some((*codec, bomb.len() as u32)),
                        crc32: ends.then_some(0),
                        data: piece,
                    };
                    peer.segment(&mut node, segment);
                }
            }
        }
        node.pass(ms(100));
    });
    let again = peer.read(&mut node).iter().filter(|m| matches!(m, Message::Resend { .. })).count();
    assert_eq!(again, 3 * bombs.len(), "each was refused");
    assert!(names(dir.path()).is_empty() && node.closed().is_none());
    // A chunk that never comes right ends its file.
    for generation in 3..=1000 {
        let segment = Segment {
            file: 6,
            chunk: 0,
            offset: 0,
            generation,
            encoded: Some((ChunkCodec::Zstd, 4)),
            crc32: Some(0),
            data: b"nope",
        };
        peer.segment(&mut node, segment);
    }
    node.pass(ms(100));
    assert_eq!(node.refused(Refusal::Digest), 1);
}

#[test]
fn a_manifest_without_end_is_stopped() {
    let _alone = alone();
    // The disk hangs, so nothing is ever answered, and no more is read: of short names because of the jobs that wait, of long
    // ones because of their bytes. Who goes on all the same is beyond the credit.
    for name_bytes in [10, 4000] {
        let dir = tempfile::tempdir().expect("made");
        let (mut node, mut peer) = putting(dir.path());
        node.hung = true;
        within(48 * MIB, || {
            for first in (0..120_000u64).step_by(200) {
                let long = "n".repeat(200);
                let name = |n: u64| {
                    let mut path = format!("{n:09}");
                    while path.len() + 201 < name_bytes {
                        path = format!("{path}/{long}");
                    }
                    path
                };
                let batch: Vec<Message> =
                    (first..first + 200).map(|n| inline(n, name(n).as_bytes(), b"x")).collect();
                peer.say(&mut node, &batch);
                if node.closed().is_some() {
                    break;
                }
            }
            node.pass(ms(100));
        });
        assert!(node.closed().is_some(), "{name_bytes}: {}", node.endpoint.refusals());
        assert_eq!(node.refused(Refusal::Credit), 1, "{}", node.endpoint.refusals());
    }
}

#[test]
fn links_with_long_targets_count_against_the_budget() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server_with(dir.path(), |c| c.receive_budget_bytes = 1 << 20);
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.remember = false;
    peer.say(&mut node, &[put()]);
    node.hung = true;
    within(6 * MIB, || {
        for n in 0..1000 {
            peer.say(&mut node, &[link(n, format!("l{n}").as_bytes(), &[b't'; 4096])]);
        }
        node.pass(ms(100));
    });
    assert_eq!(node.refused(Refusal::Credit), 1, "more than the credit: {}", node.endpoint.refusals());
}

#[test]
fn gigantic_claims_are_refused_and_do_not_overflow() {
    let _alone = alone();
    for from_server in [false, true] {
        let dir = tempfile::tempdir().expect("made");
        let (mut node, mut peer) = if from_server {
            let mut node = Node::client(dir.path());
            node.connect(get(b""), Vec::new());
            let peer = Peer::meet(&mut node);
            (node, peer)
        } else {
            putting(dir.path())
        };
        within(4 * MIB, || {
            for n in 0..200 {
                let size = (1 << 60) - (n % 3);
                peer.say(&mut node, &[streamed(n, format!("f{n}").as_bytes(), size, 1024)]);
            }
            node.pass(ms(500));
        });
        assert_eq!(node.refused(Refusal::Size), 200, "{}", node.endpoint.refusals());
        assert!(names(dir.path()).is_empty());
        assert_eq!(node.closed(), None);
        // One more than the format has room for.
        let mut message = vec![2u8];
        let body = [
            &[0x40, 200, 0, 1, b'f', 0x41, 0xa4, 2, 0][..],
            &(0xc000_0000_0000_0000u64 | ((1 << 60) + 1)).to_be_bytes(),
            &[0, 0x44, 0],
        ]
        .concat();
        message.push(body.len() as u8);
        message.extend(body);
        peer.say_raw(&mut node, &message);
        node.pass(ms(100));
        node.expect_violation("size", Refusal::Message);
    }
}

#[test]
fn scattered_bytes_hold_little_memory() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    peer.say(&mut node, &[streamed(0, b"f", 100 << 20, 4 << 20)]);
    node.pass(ms(10));
    within(12 * MIB, || {
        // 25 chunks, every second byte, 4,096 gaps in each are allowed.
        for first in (0..4000u32).step_by(200) {
            for chunk in 0..25 {
                let mut payload = Vec::new();
                for i in first..first + 200 {
                    raw(0, chunk, 2 * i, b"x").encode(&mut payload, false);
                }
                peer.send_raw(&mut node, &payload);
            }
        }
    });
    assert!(node.refused(Refusal::NoRoom) > 100, "{}", node.endpoint.refusals());
    assert_eq!(node.closed(), None);
}

#[test]
fn segments_of_files_to_come_are_bounded_and_cheap() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    within(16 * MIB, || {
        for n in 0..200 {
            let mut payload = Vec::new();
            for i in 0..200u64 {
                raw(8000 - i % 100, n, 0, b"x").encode(&mut payload, false);
            }
            peer.send_raw(&mut node, &payload);
        }
    });
    assert!(node.refused(Refusal::NoRoom) > 50, "{}", node.endpoint.refusals());
    // And entries that come now do not each look through them all.
    let entries: Vec<Message> = (0..5000).map(|n| inline(n, format!("e{n}").as_bytes(), b"")).collect();
    peer.say(&mut node, &entries);
    node.pass(ms(1000));
    assert_eq!(node.closed(), None);
    assert_eq!(names(dir.path()).len(), 5000);
}

#[test]
fn control_stream_gaps_are_bounded() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    within(4 * MIB, || {
        for n in 0..100u64 {
            let mut payload = Vec::new();
            for i in 0..500 {
                Frame::Control { offset: 1000 + 2 * (500 * n + i), data: b"x" }.encode(&mut payload);
            }
            peer.send_raw(&mut node, &payload);
        }
    });
    assert!(node.refused(Refusal::NoRoom) > 50, "{}", node.endpoint.refusals());
    peer.send(&mut node, &[Frame::Control { offset: 1 << 60, data: b"x" }]);
    node.pass(ms(100));
    node.expect_violation("credit", Refusal::Credit);
}

#[test]
fn numbers_full_of_gaps_are_bounded() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    within(4 * MIB, || {
        for _ in 0..40_000 {
            peer.next_number += 1;
            peer.send(&mut node, &[Frame::Ping]);
            node.out.clear();
        }
    });
    assert!(node.refused(Refusal::NoRoom) > 20_000, "{}", node.endpoint.refusals());
    assert_eq!(node.closed(), None);
}

#[test]
fn claims_to_have_scattered_chunks_are_bounded() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = serving(dir.path(), 1 << 30);
    within(16 * MIB, || {
        for n in 0..150u64 {
            let ranges = (0..2048).map(|i| 2 * (2048 * n + i)).map(|c| c..c + 1).collect();
            peer.say(&mut node, &[Message::Have { file: FileId(0), ranges }]);
        }
    });
    assert_eq!(node.closed(), None);
}

#[test]
fn wishes_for_chunks_again_are_bounded() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = serving(dir.path(), 1 << 30);
    // One that was not sent yet.
    peer.say(&mut node, &[Message::Resend { file: FileId(0), chunk: (1 << 20) - 1 }]);
    node.pass(ms(100));
    node.expect_violation("unknown file", Refusal::OutOfPlace);
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = serving(dir.path(), 1 << 30);
    within(64 * MIB, || {
        for chunk in 0..100_000 {
            peer.say(&mut node, &[Message::Resend { file: FileId(0), chunk: chunk % 16 }]);
            if node.closed().is_some() {
                break;
            }
        }
    });
    node.pass(ms(100));
    node.expect_violation("unknown file", Refusal::OutOfPlace);
}

/// Wrong contents in every chunk of a file: what is remembered of them is bounded, and the file ends.
#[test]
fn chunks_that_all_come_wrong_end_their_file() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    peer.say(&mut node, &[streamed(0, b"f", 64 << 20, 1024)]);
    within(8 * MIB, || {
        for chunk in 0..5000 {
            let segment = Segment { crc32: Some(1), ..raw(0, chunk, 0, &[0; 1024]) };
            peer.segment(&mut node, segment);
            node.out.clear();
        }
        node.pass(ms(100));
    });
    assert_eq!(node.refused(Refusal::Digest), 1, "{}", node.endpoint.refusals());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn other_frames_in_masses_do_nothing() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    node.pass(ms(500));
    let before = node.sent_bytes;
    within(4 * MIB, || {
        for n in 0..300u64 {
            let mut payload = Vec::new();
            for i in 0..1000 {
                Frame::Floor { distance: (1 << 62) - 1 - i, max_packets: i, max_delay_us: 1 << (n % 62) }
                    .encode(&mut payload);
                Frame::PathChallenge([i as u8; 8]).encode(&mut payload);
                Frame::PathResponse([i as u8; 8]).encode(&mut payload);
                Frame::Extension(64 + i).encode(&mut payload);
                Frame::Padding.encode(&mut payload);
            }
            peer.send_raw(&mut node, &payload);
            node.out.clear();
        }
    });
    let answered = node.sent_bytes - before;
    assert!(answered < 100_000, "{answered} bytes for 300 packets");
    assert_eq!(node.closed(), None);
}

/// Encoded chunks that are whole wait for a disk that hangs: they are bounded like those in assembly.
#[test]
fn encoded_chunks_do_not_pile_up_before_a_slow_disk() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server_with(dir.path(), |c| c.receive_budget_bytes = 2 << 20);
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.remember = false;
    peer.say(&mut node, &[put(), streamed(0, b"f", 400 << 20, 4 << 20)]);
    node.pass(ms(10));
    node.hung = true;
    let piece = vec![7u8; 32 * 1024];
    within(16 * MIB, || {
        for chunk in 0..60 {
            for i in 0..32u32 {
                let segment = Segment {
                    encoded: Some((ChunkCodec::Zstd, 1 << 20)),
                    crc32: (i == 31).then_some(0),
                    ..raw(0, chunk, i * 32 * 1024, &piece)
                };
                peer.segment(&mut node, segment);
                node.out.clear();
            }
        }
    });
    assert!(node.refused(Refusal::NoRoom) > 1000, "{}", node.endpoint.refusals());
    assert_eq!(node.closed(), None);
}

/// Entries that are given up at once are settled, but their jobs, with contents, still wait for the disk.
#[test]
fn entries_that_are_given_up_do_not_pile_up_before_a_slow_disk() {
    let _alone = alone();
    for contents in [0, 16_000] {
        let dir = tempfile::tempdir().expect("made");
        let mut node = Node::server_with(dir.path(), |c| c.receive_budget_bytes = 1 << 20);
        let mut peer = Peer::join(&mut node, 1, peer_addr());
        peer.remember = false;
        peer.say(&mut node, &[put()]);
        node.hung = true;
        let data = vec![7u8; contents];
        within(10 * MIB, || {
            for n in 0..40_000 {
                let error = StoreError { kind: StoreErrorKind::Io, message: String::new() };
                let name = format!("e{n}");
                let first = if contents > 0 {
                    inline(n, name.as_bytes(), &data)
                } else {
                    streamed(n, name.as_bytes(), 1 << 20, 1024)
                };
                peer.say(&mut node, &[first, Message::Abandon { file: FileId(n), error }]);
                node.out.clear();
                if node.closed().is_some() {
                    break;
                }
            }
            node.pass(ms(100));
        });
        assert_eq!(node.refused(Refusal::Credit), 1, "no more is read: {}", node.endpoint.refusals());
    }
}

/// A stretch of the control stream becomes readable at once when its first byte comes last: others have turns meanwhile.
#[test]
fn floods_of_messages_are_worked_through_in_turns() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = serving(dir.path(), 1 << 30);
    node.pass(ms(100));
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    for n in 0..150_000u64 {
        let first = (1 << 19) + n % 1000;
        let have = Message::Have { file: FileId(0), ranges: std::iter::once(first..first + 1).collect() };
        have.encode(&mut out, &mut scratch);
    }
    // What follows them ends the session, so that it shows when it is read.
    Message::Resend { file: FileId(7), chunk: 0 }.encode(&mut out, &mut scratch);
    peer.say_behind_a_gap(&mut node, &out);
    assert_eq!(node.closed(), None, "everything was read in one turn");
    peer.send(&mut node, &[Frame::Ping]);
    assert_eq!(node.closed(), None, "nor do other datagrams hurry it");
    node.pass(ms(100));
    node.expect_violation("unknown file", Refusal::OutOfPlace);
}

/// Nothing is read for sessions that ask for files and let nothing come.
#[test]
fn sessions_without_a_window_hold_little() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    File::create(dir.path().join("f")).and_then(|f| f.set_len(1 << 30)).expect("made");
    let mut node = Node::server_with(dir.path(), |c| c.send_budget_bytes = 4 << 20);
    let mut peers: Vec<Peer> = Vec::new();
    within(12 * MIB, || {
        for n in 1..=8u8 {
            let mut peer = Peer::join(&mut node, n, addr(n, 999));
            peer.remember = false;
            peer.send(&mut node, &[Frame::Ping]);
            node.pass(ms(100));
            peer.read(&mut node);
            let largest = peer.numbers.iter().copied().max().expect("packets");
            peer.send_raw(&mut node, &feedback_with_window(largest, &[1], 0));
            peer.say(&mut node, &[Message::Request { client_id: String::new(), request: get(b"f") }]);
            peers.push(peer);
            for _ in 0..3 {
                node.pass(ms(1000));
                node.out.clear();
                peers.iter_mut().for_each(|p| p.send(&mut node, &[Frame::Ping]));
            }
        }
    });
    assert_eq!((node.endpoint.session_count(), node.closed()), (8, None));
}

/// Control streams that cannot be read, since their beginning is missing, are bounded over all sessions.
#[test]
fn control_streams_with_a_gap_hold_little_together() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server_with(dir.path(), |c| c.receive_budget_bytes = 2 << 20);
    let mut peers: Vec<Peer> = (1..=24).map(|n| Peer::join(&mut node, n, addr(n, 999))).collect();
    within(10 * MIB, || {
        for peer in &mut peers {
            peer.remember = false;
            for i in 0..30u64 {
                let piece = Frame::Control { offset: 1 + i * 30_000, data: &[2; 30_000] };
                peer.send(&mut node, &[piece]);
                node.out.clear();
            }
        }
    });
    assert!(node.refused(Refusal::NoRoom) > 100, "{}", node.endpoint.refusals());
    assert_eq!(node.closed(), None);
}

/// Sessions that begin encoded chunks and do not go on keep nobody else's out for long.
#[test]
fn chunks_that_do_not_come_keep_no_others_out() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server_with(dir.path(), |c| c.receive_budget_bytes = 2 << 20);
    let mut peers: Vec<Peer> = (1..=9).map(|n| Peer::join(&mut node, n, addr(n, 999))).collect();
    let encoded = |n, ends, data| Segment {
        encoded: Some((ChunkCodec::Lz4, n)),
        crc32: if ends { Some(0) } else { None },
        ..raw(0, 0, 0, data)
    };
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.remember = false;
        peer.say(&mut node, &[put(), streamed(0, format!("f{n}").as_bytes(), 4 << 20, 4 << 20)]);
        node.pass(ms(10));
        if n < 8 {
            peer.segment(&mut node, encoded(4 << 20, false, b"x"));
        }
    }
    let honest = 8;
    let mut waited = 0;
    loop {
        let before = node.refused(Refusal::NoRoom);
        peers[honest].segment(&mut node, encoded(100_000, false, &[1; 1000]));
        if node.refused(Refusal::NoRoom) == before {
            break;
        }
        waited += 1;
        assert!(waited < 10, "no room after {waited} s: {}", node.endpoint.refusals());
        node.pass(ms(1000));
        node.out.clear();
        peers.iter_mut().for_each(|p| p.send(&mut node, &[Frame::Ping]));
    }
    assert_eq!(node.closed(), None);
}

/// Each generation of a chunk clears its memory: only one that was asked for begins.
#[test]
fn generations_that_nobody_asked_for_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = putting(dir.path());
    peer.say(&mut node, &[streamed(0, b"f", 4 << 20, 4 << 20)]);
    node.pass(ms(10));
    for generation in 0..2 {
        let encoded = Some((ChunkCodec::Lz4, 4 << 20));
        peer.segment(&mut node, Segment { generation, encoded, ..raw(0, 0, 0, b"x") });
    }
    node.pass(ms(100));
    node.expect_violation("not asked for", Refusal::Segment);
}
