//! What a receiver must do, whichever store it is.

use super::*;
use StoreErrorKind as K;

fn rig_at_top(rig: &mut Rig) {
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
}

#[test]
fn files_arrive_whole_with_mode_and_time() {
    Rig::both(|rig| {
        rig_at_top(rig);
        for len in [0usize, 1, 1023, 1024, 1025, 5000] {
            let data = noise(len as u64, len);
            let (small, big) = (format!("small{len}"), format!("d/e/big{len}"));
            rig.put_inline(small.as_bytes(), &data).unwrap();
            rig.put_big(big.as_bytes(), &data).unwrap();
            assert_eq!(rig.seen(small.as_bytes()), Some(Seen::File(data.clone(), META)));
            assert_eq!(rig.seen(big.as_bytes()), Some(Seen::File(data, META)));
        }
        assert!(rig.all().keys().all(|p| !p.windows(8).any(|w| w == b".fulmar-")));
    });
}

#[test]
fn names_are_bytes() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let long = vec![b'n'; 255];
        let names: &[&[u8]] = &[b"new\nline", b"\xff\xfe", b" ", b"-rf", b"...", &long, "é".as_bytes()];
        for name in names {
            rig.put_inline(name, b"x").unwrap();
            let dir = [b"dir/", *name].concat();
            rig.put_dir(&dir).unwrap();
            rig.put_big(&[dir.as_slice(), b"/", name].concat(), b"yy").unwrap();
            rig.put_link(&[dir.as_slice(), b"/l"].concat(), name).unwrap();
        }
        for name in names {
            assert_eq!(rig.data(name).unwrap(), b"x");
            assert_eq!(rig.data(&[b"dir/", *name, b"/", name].concat()).unwrap(), b"yy");
            assert_eq!(rig.seen(&[b"dir/", *name, b"/l"].concat()), Some(Seen::Link(name.to_vec())));
        }
        assert_eq!(kind(rig.put_inline(&[b'n'; 256], b"x")), K::NameTooLong);
    });
}

#[test]
fn strange_paths_are_refused() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let bad: &[&[u8]] = &[b"../x", b"/x", b"a/../../x", b"", b".", b"a//b", b"n\0n", b".fulmar-1.part"];
        for bad in bad {
            assert_eq!(kind(rig.put_inline(bad, b"x")), K::Forbidden, "{bad:?}");
            assert_eq!(kind(rig.open(bad, 5)), K::Forbidden, "{bad:?}");
            assert_eq!(kind(rig.put_dir(bad)), K::Forbidden, "{bad:?}");
            assert_eq!(kind(rig.put_dir_end(bad)), K::Forbidden, "{bad:?}");
            assert_eq!(kind(rig.put_link(bad, b"t")), K::Forbidden, "{bad:?}");
        }
        assert_eq!(kind(rig.set_dest(b"../out", true, Overwrite::Never)), K::Forbidden);
        assert_eq!(kind(rig.set_dest(b"/tmp", true, Overwrite::Never)), K::Forbidden);
        assert!(rig.all().is_empty());
    });
}

#[test]
fn existing_files_stay_unless_told() {
    Rig::both(|rig| {
        let old = Seen::File(b"old".to_vec(), META);
        rig.plant(b"f", &old);
        rig.plant(b"l", &Seen::Link(b"nowhere".to_vec()));
        rig.plant(b"d", &Seen::Dir);
        rig_at_top(rig);
        for name in [b"f".as_slice(), b"l"] {
            let error = rig.put_inline(name, b"new").unwrap_err();
            assert_eq!(error.kind, K::Exists);
            assert!(error.message.ends_with("exists; use --overwrite always to replace it"));
            assert_eq!(kind(rig.open(name, 3)), K::Exists);
            assert_eq!(kind(rig.put_link(name, b"t")), K::Exists);
        }
        assert_eq!(rig.seen(b"f"), Some(old));
        for overwrite in [Overwrite::Never, Overwrite::Always] {
            rig.set_dest(b"", true, overwrite).unwrap();
            assert_eq!(kind(rig.put_inline(b"d", b"new")), K::WrongKind);
            assert_eq!(kind(rig.open(b"d", 3)), K::WrongKind);
            assert_eq!(kind(rig.put_link(b"d", b"t")), K::WrongKind);
            assert_eq!(kind(rig.put_dir(b"f")), K::WrongKind);
            assert_eq!(kind(rig.put_dir(b"l")), K::WrongKind);
            assert_eq!(kind(rig.put_inline(b"f/x", b"new")), K::WrongKind);
            rig.put_dir(b"d").unwrap();
        }
        rig.put_inline(b"f", b"new").unwrap();
        rig.put_big(b"l", b"newer").unwrap();
        assert_eq!((rig.data(b"f"), rig.data(b"l")), (Some(b"new".to_vec()), Some(b"newer".to_vec())));
    });
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let file = rig.open(b"f", 3).unwrap();
        rig.send_chunk(file, b"new", 0, false);
        rig.plant(b"f", &Seen::File(b"old".to_vec(), META));
        assert_eq!(kind(rig.commit(file, b"new")), K::Exists);
        assert_eq!(rig.data(b"f").unwrap(), b"old");
        assert_eq!(rig.all().len(), 1);
    });
}

#[test]
fn links_are_made_and_never_followed() {
    Rig::both(|rig| {
        rig.plant(b"inside/x", &Seen::File(b"old".to_vec(), META));
        rig.set_dest(b"", true, Overwrite::Always).unwrap();
        for target in [b"/etc".as_slice(), b"..", b"inside", b"nowhere"] {
            rig.put_link(b"a", target).unwrap();
            assert_eq!(kind(rig.put_inline(b"a/x", b"evil")), K::Forbidden);
            assert_eq!(kind(rig.open(b"a/x", 4)), K::Forbidden);
            assert_eq!(kind(rig.put_dir(b"a/y")), K::Forbidden);
            assert_eq!(kind(rig.put_link(b"a/y", b"t")), K::Forbidden);
            assert_eq!(kind(rig.put_inline(b"a/deep/x", b"evil")), K::Forbidden);
            assert_eq!(kind(rig.put_dir(b"a")), K::WrongKind);
            assert!(rig.put_dir_end(b"a").is_err());
        }
        assert_eq!(rig.data(b"inside/x").unwrap(), b"old");
        assert_eq!(rig.all().len(), 3);
    });
}

#[test]
fn a_link_still_in_the_batch_is_in_the_way_too() {
    Rig::both(|rig| {
        rig.plant(b"inside/x", &Seen::File(b"old".to_vec(), META));
        rig_at_top(rig);
        let mut link = rig.entry(b"a", EntryKind::Symlink);
        link.target = b"inside".to_vec();
        rig.run(Job::Begin(Box::new(link)));
        assert_eq!(kind(rig.put_inline(b"a/x", b"evil")), K::Forbidden);
        assert_eq!(rig.seen(b"a"), Some(Seen::Link(b"inside".to_vec())));
        assert_eq!(rig.data(b"inside/x").unwrap(), b"old");
    });
}

#[test]
fn a_wrong_digest_leaves_nothing_visible() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let mut entry = rig.entry(b"small", EntryKind::File);
        entry.size = 3;
        entry.inline = Some(Inline { data: Bytes::from_static(b"abc"), sha256: [7; 32] });
        assert_eq!(kind(rig.begin(entry)), K::DigestMismatch);
        let data = noise(1, 3000);
        let file = rig.open(b"big", 3000).unwrap();
        for chunk in 0..3 {
            rig.send_chunk(file, &data, chunk, false);
        }
        assert_eq!(kind(rig.commit(file, b"other")), K::DigestMismatch);
        assert!(rig.all().is_empty(), "{:?}", rig.all());
    });
}

#[test]
fn chunks_are_checked_and_whole_ones_left_alone() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let data = noise(2, 2500);
        let file = rig.open(b"f", 2500).unwrap();
        // Missing bytes, wrong bytes, wrong checksum, an undecodable block.
        let stored = |done: Vec<Done>| match done.last() {
            Some(Done::ChunkStored { ok, .. }) => *ok,
            other => panic!("{other:?}"),
        };
        assert!(!stored(rig.run(Job::FinishChunk { file, chunk: 2, crc32: crc32(&data[2048..]) })));
        let bad = Bytes::from(vec![1; 1024]);
        rig.run(Job::Write { file, offset: 0, data: bad.clone() });
        assert!(!stored(rig.run(Job::FinishChunk { file, chunk: 0, crc32: crc32(&data[..1024]) })));
        let raw = ChunkCodec::Raw;
        assert!(!stored(rig.run(Job::WriteEncoded {
            file,
            chunk: 0,
            codec: raw,
            crc32: 1,
            data: bad.clone()
        })));
        let codec = ChunkCodec::Lz4;
        let crc = crc32(&data[..1024]);
        let cut = Bytes::from_static(b"\xf0\xff");
        assert!(!stored(rig.run(Job::WriteEncoded { file, chunk: 0, codec, crc32: crc, data: cut })));
        let short = Bytes::copy_from_slice(&data[..1000]);
        let crc = crc32(&short);
        assert!(!stored(rig.run(Job::WriteEncoded { file, chunk: 0, codec: raw, crc32: crc, data: short })));
        // An early commit is refused, but only at its own price: this is another file.
        let early = rig.open(b"early", 2500).unwrap();
        rig.send_chunk(early, &data, 1, false);
        assert_eq!(kind(rig.commit(early, &data)), K::Io);
        for chunk in [1, 0, 2] {
            assert!(stored(rig.send_chunk(file, &data, chunk, chunk == 0)));
        }
        // Late and hostile bytes do not touch what has been checked.
        let done = rig.run(Job::Write { file, offset: 512, data: bad });
        assert!(matches!(done[..], [Done::Written { bytes: 1024, .. }]), "{done:?}");
        assert!(stored(rig.send_chunk(file, &data, 1, true)));
        rig.commit(file, &data).unwrap();
        assert_eq!(rig.data(b"f").unwrap(), data);
        assert_eq!(rig.all().len(), 1);
    });
}

#[test]
fn bytes_beyond_the_end_fail_the_file_once() {
    Rig::both(|rig| {
        rig_at_top(rig);
        for (offset, len) in [(2500, 1), (2499, 2), (u64::MAX, 2), (u64::MAX - 1, 1)] {
            let file = rig.open(b"f", 2500).unwrap();
            let done = rig.run(Job::Write { file, offset, data: Bytes::from(vec![0; len]) });
            assert!(matches!(done[..], [Done::SinkFailed { .. }]), "{done:?}");
            assert!(rig.run(Job::Write { file, offset: 0, data: Bytes::from_static(b"x") }).is_empty());
            assert!(rig.run(Job::FinishChunk { file, chunk: 0, crc32: 0 }).is_empty());
            assert!(rig.run_idle(Job::Commit { file, sha256: [0; 32] }).is_empty());
            rig.run(Job::Abort { file, keep_partial: false });
        }
        let file = rig.open(b"f", 2500).unwrap();
        let done = rig.run(Job::FinishChunk { file, chunk: u64::MAX, crc32: 0 });
        assert!(matches!(done[..], [Done::SinkFailed { .. }]), "{done:?}");
        assert!(rig.all().is_empty());
    });
}

#[test]
fn two_writers_are_kept_apart() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let file = rig.open(b"f", 10).unwrap();
        assert_eq!(kind(rig.open(b"f", 10)), K::Busy);
        rig.session = 2;
        rig_at_top(rig);
        assert_eq!(kind(rig.open(b"f", 11)), K::Busy);
        rig.session = 1;
        rig.run(Job::Abort { file, keep_partial: false });
        rig.session = 2;
        let file = rig.open(b"f", 1).unwrap();
        rig.send_chunk(file, b"x", 0, true);
        rig.commit(file, b"x").unwrap();
        assert_eq!(rig.all().len(), 1);
    });
}

#[test]
fn destinations_follow_the_rules() {
    Rig::both(|rig| {
        rig.plant(b"dir", &Seen::Dir);
        rig.plant(b"file", &Seen::File(b"old".to_vec(), META));
        rig.set_dest(b"new/place", true, Overwrite::Never).unwrap();
        rig.put_inline(b"a", b"1").unwrap();
        rig.set_dest(b"renamed", false, Overwrite::Never).unwrap();
        rig.put_dir(b"root").unwrap();
        rig.put_inline(b"root/a", b"2").unwrap();
        assert_eq!(kind(rig.put_inline(b"other", b"x")), K::Forbidden);
        rig.set_dest(b"dir", false, Overwrite::Never).unwrap();
        rig.put_big(b"a", b"3").unwrap();
        rig.set_dest(b"file", false, Overwrite::Never).unwrap();
        assert_eq!(kind(rig.put_inline(b"a", b"x")), K::Exists);
        rig.set_dest(b"file", false, Overwrite::Always).unwrap();
        rig.put_inline(b"a", b"4").unwrap();
        assert_eq!(kind(rig.set_dest(b"file", true, Overwrite::Never)), K::WrongKind);
        let location = Location::Jail(b"dir".to_vec());
        let name_prefix = b"received_".to_vec();
        rig.set_dest_full(Dest {
            location,
            into_dir: true,
            overwrite: Overwrite::Never,
            no_resume: false,
            name_prefix,
        })
        .unwrap();
        rig.put_inline(b"sub/a", b"5").unwrap();
        for (place, data) in [
            (b"new/place/a".as_slice(), b"1"),
            (b"renamed/a", b"2"),
            (b"dir/a", b"3"),
            (b"file", b"4"),
            (b"dir/sub/received_a", b"5"),
        ] {
            assert_eq!(rig.data(place).as_deref(), Some(data.as_slice()), "{place:?}");
        }
    });
}

#[test]
fn directory_ends_wait_for_big_files_below() {
    Rig::both(|rig| {
        rig_at_top(rig);
        rig.put_dir(b"d").unwrap();
        rig.put_dir(b"d/e").unwrap();
        rig.put_dir(b"db").unwrap();
        let file = rig.open(b"d/e/f", 1).unwrap();
        for name in [b"d/e".as_slice(), b"d"] {
            let end = rig.entry(name, EntryKind::DirEnd);
            assert!(rig.run_idle(Job::Begin(Box::new(end))).is_empty());
        }
        rig.put_dir_end(b"db").unwrap();
        rig.send_chunk(file, b"x", 0, false);
        let done = rig.run_idle(Job::Commit { file, sha256: sha256(b"x") });
        assert_eq!(done.len(), 3, "{done:?}");
        assert!(done.iter().all(|d| matches!(d, Done::Committed { result: Ok(_), .. })), "{done:?}");
        assert!(matches!(done[0], Done::Committed { file: f, .. } if f == file));
    });
}

#[test]
fn a_session_that_ends_leaves_nothing_half_done() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let file = rig.open(b"big", 5000).unwrap();
        rig.send_chunk(file, &noise(1, 5000), 0, false);
        assert!(rig.run(Job::EndSession).is_empty());
        assert!(rig.run(Job::FinishChunk { file, chunk: 1, crc32: 0 }).is_empty());
        assert!(rig.all().keys().all(|p| p.starts_with(b".fulmar-")), "{:?}", rig.all());
        rig.session = 2;
        rig_at_top(rig);
        rig.put_big(b"big", &noise(1, 5000)).unwrap();
        assert_eq!(rig.all().len(), 1);
    });
}

#[test]
fn echo_copies_live_in_scratch_space_and_go() {
    Rig::both(|rig| {
        let location = Location::Scratch(b"7".to_vec());
        let dest = Dest {
            location,
            into_dir: true,
            overwrite: Overwrite::Never,
            no_resume: false,
            name_prefix: Vec::new(),
        };
        rig.set_dest_full(dest.clone()).unwrap();
        rig.put_inline(b"small", b"s").unwrap();
        rig.put_big(b"d/big", &noise(1, 3000)).unwrap();
        let root =
            |name: &[u8]| SourceRoot { location: Location::Scratch(name.to_vec()), name: b"n".to_vec() };
        rig.run(Job::AddRoot(root(b"7/small")));
        rig.run(Job::AddRoot(root(b"7")));
        let entries = walks::walk(rig, 10, false);
        let names: Vec<&[u8]> = entries.iter().map(|e| e.as_ref().unwrap().path.as_slice()).collect();
        assert_eq!(names, [b"n".as_slice(), b"n", b"n/d", b"n/d/big", b"n/d", b"n/small", b"n"]);
        // A peer cannot name it.
        let area = rig.all().into_keys().find(|p| p.starts_with(b".fulmar-scratch")).unwrap_or_default();
        if rig.is_disk() {
            assert!(!area.is_empty());
            assert_eq!(kind(rig.set_dest(&area, true, Overwrite::Always)), K::Forbidden);
        }
        rig.run(Job::RemoveScratch(b"7".to_vec()));
        rig.run(Job::RemoveScratch(b"7".to_vec()));
        rig.run(Job::RemoveScratch(b"../jail".to_vec()));
        assert!(!rig.all().keys().any(|p| p.ends_with(b"small")));
        rig.set_dest_full(dest).unwrap();
        rig.put_inline(b"again", b"s").unwrap();
        rig.run(Job::EndSession);
        assert!(!rig.all().keys().any(|p| p.ends_with(b"again")));
    });
}

#[test]
fn entries_before_a_destination_are_refused() {
    Rig::both(|rig| {
        assert_eq!(kind(rig.put_inline(b"a", b"x")), K::Io);
        assert_eq!(kind(rig.open(b"a", 1)), K::Io);
        rig_at_top(rig);
        let mut entry = rig.entry(b"a", EntryKind::File);
        entry.chunk_size = 0;
        let done = rig.run(Job::Begin(Box::new(entry)));
        assert!(matches!(&done[..], [Done::Began { result: Err(e), .. }] if e.kind == K::Forbidden));
    });
}

#[test]
fn a_claim_beyond_the_disk_is_refused_at_once() {
    Rig::both(|rig| {
        rig_at_top(rig);
        for size in [u64::MAX - 1, 1 << 62, 1 << 50] {
            assert_eq!(kind(rig.open(b"huge", size)), K::NoSpace);
        }
        assert!(rig.all().is_empty());
    });
}

#[test]
fn special_bits_do_not_arrive() {
    Rig::both(|rig| {
        rig_at_top(rig);
        let mut entry = rig.entry(b"f", EntryKind::File);
        entry.meta.mode = 0o6755;
        entry.inline = Some(Inline { data: Bytes::new(), sha256: sha256(b"") });
        rig.begin(entry).unwrap();
        assert_eq!(rig.seen(b"f"), Some(Seen::File(Vec::new(), Meta { mode: 0o755, ..META })));
    });
}
