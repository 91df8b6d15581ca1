//! The parts without I/O: names, destination rules, range sets, sequential digests, error classes.

use crate::codec::chunk::crc32;
use crate::store::dest::DestPlan;
use crate::store::digest::{Layout, RangeSet, Received, sha256};
use crate::store::error::{from_io, kind_of, shown};
use crate::store::names::*;
use crate::transfer::job::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

#[test]
fn peers_cannot_name_strange_paths() {
    use StoreErrorKind::{Forbidden, NameTooLong};
    let long = [b'x'; 256];
    let bad: &[(&[u8], StoreErrorKind)] = &[
        (b"", Forbidden),
        (b"/", Forbidden),
        (b"/etc/passwd", Forbidden),
        (b"..", Forbidden),
        (b"a/../b", Forbidden),
        (b"a/..", Forbidden),
        (b".", Forbidden),
        (b"./a", Forbidden),
        (b"a/./b", Forbidden),
        (b"a//b", Forbidden),
        (b"a/", Forbidden),
        (b"a\0b", Forbidden),
        (b".fulmar-x", Forbidden),
        (b"a/.fulmar-0123.part/b", Forbidden),
        (&long, NameTooLong),
    ];
    for (path, kind) in bad {
        assert_eq!(check_relative(path, false).unwrap_err().kind, *kind, "{path:?}");
    }
    for good in [b"a".as_slice(), b"...", b"..a", b".fulmar", b"a/b\n/\xff\xfe", b" ", &long[..255]] {
        assert_eq!(check_relative(good, false), Ok(()), "{good:?}");
    }
    assert_eq!(check_relative(b"", true), Ok(()));
}

#[test]
fn partial_names_fit_and_differ() {
    let name = partial_name(&[b'n'; 255]);
    assert!(name.starts_with(b".fulmar-") && name.ends_with(b".part") && name.len() == 8 + 24 + 5);
    assert_ne!(name, partial_name(&[b'n'; 254]));
}

#[test]
fn destination_rules() {
    use EntryKind::{Dir, File, Symlink};
    let dest = |path: &[u8], into_dir, prefix: &[u8]| Dest {
        location: Location::Jail(path.to_vec()),
        into_dir,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: prefix.to_vec(),
    };
    type Row<'a> = (&'a [u8], bool, bool, &'a [u8], &'a [u8], EntryKind, &'a [u8]);
    // destination, into_dir, is a directory, prefix, entry, kind, expected place
    let table: &[Row<'_>] = &[
        (b"", true, true, b"", b"a", File, b"a"),
        (b"", false, true, b"", b"a/b", File, b"a/b"),
        (b"d", true, false, b"", b"a", File, b"d/a"),
        (b"d", true, true, b"", b"a/b", File, b"d/a/b"),
        (b"d", false, true, b"", b"a/b", File, b"d/a/b"),
        (b"d", false, false, b"", b"a", File, b"d"),
        (b"d", false, false, b"", b"a/b/c", File, b"d/b/c"),
        (b"p/d", false, false, b"", b"a/b", Dir, b"p/d/b"),
        (b"p/d", false, false, b"", b"a", Symlink, b"p/d"),
        (b"", true, true, b"received_", b"a", File, b"received_a"),
        (b"", true, true, b"received_", b"a/b", File, b"a/received_b"),
        (b"", true, true, b"received_", b"a", Dir, b"a"),
        (b"d", false, false, b"r_", b"a", File, b"r_d"),
    ];
    for (path, into, is_dir, prefix, entry, kind, expected) in table {
        let mut plan = DestPlan::new(&dest(path, *into, prefix), *is_dir).unwrap();
        let place = plan.place(entry, *kind).unwrap();
        assert_eq!(join(&plan.base, &place), *expected, "{path:?} {entry:?}");
    }
    let mut plan = DestPlan::new(&dest(b"d", false, b""), false).unwrap();
    plan.place(b"a/x", File).unwrap();
    plan.place(b"a/y", File).unwrap();
    assert_eq!(plan.place(b"b", File).unwrap_err().kind, StoreErrorKind::Forbidden);
    let local = Dest { location: Location::Local(b"/tmp".to_vec()), ..dest(b"", true, b"") };
    assert_eq!(DestPlan::new(&local, true).unwrap_err().kind, StoreErrorKind::Forbidden);
    assert!(DestPlan::new(&dest(b"../d", true, b""), true).is_err());
    assert!(DestPlan::new(&dest(b"d", true, b"a/b"), true).is_err());
    let mut plan = DestPlan::new(&dest(b"", true, b"received_"), true).unwrap();
    assert_eq!(plan.place(&[b'n'; 250], File).unwrap_err().kind, StoreErrorKind::NameTooLong);
    let mut plan = DestPlan::new(&dest(b"", true, b".fulmar-"), true).unwrap();
    assert_eq!(plan.place(b"x", File).unwrap_err().kind, StoreErrorKind::Forbidden);
}

#[test]
fn range_sets_match_a_naive_set() {
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut set, mut naive) = (RangeSet::default(), BTreeSet::new());
        for _ in 0..200 {
            let n = rng.random_range(0..120);
            set.insert(n);
            naive.insert(n);
            assert_eq!(set.len(), naive.len() as u64, "seed {seed}");
        }
        for n in 0..125 {
            assert_eq!(set.contains(n), naive.contains(&n), "seed {seed} n {n}");
        }
        assert!(set.ranges().windows(2).all(|w| w[0].end < w[1].start), "seed {seed}: {set:?}");
    }
}

#[test]
fn digests_come_out_right_in_any_order() {
    for seed in 0..30u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let size = rng.random_range(0..5000usize);
        let data = super::noise(seed, size);
        let layout = Layout { size: size as u64, chunk_size: 100 };
        let mut received = Received::new(layout, RangeSet::default());
        let read = |offset: u64, len: usize, buffer: &mut Vec<u8>| {
            buffer.clear();
            buffer.extend_from_slice(&data[offset as usize..offset as usize + len]);
            Ok::<(), ()>(())
        };
        let mut order: Vec<u64> = (0..layout.count()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        for chunk in order {
            assert_eq!(received.clone().finish(read), Ok(None));
            let (offset, len) = layout.extent(chunk).unwrap();
            received.stored(chunk, &data[offset as usize..offset as usize + len], read).unwrap();
        }
        assert_eq!(received.finish(read), Ok(Some(sha256(&data))), "seed {seed}");
    }
    let layout = Layout { size: 1025, chunk_size: 1024 };
    assert_eq!((layout.count(), layout.extent(1), layout.extent(2)), (2, Some((1024, 1)), None));
    assert_eq!(Layout { size: 0, chunk_size: 1024 }.count(), 0);
}

/// A file of three chunks, the last one short, and a reader of it that counts what it reads.
struct Passage {
    data: Vec<u8>,
    read_bytes: std::cell::Cell<usize>,
}

impl Passage {
    const LAYOUT: Layout = Layout { size: 250, chunk_size: 100 };

    fn new() -> (Self, Received) {
        let passage = Self { data: super::noise(7, 250), read_bytes: std::cell::Cell::new(0) };
        (passage, Received::new(Self::LAYOUT, RangeSet::default()))
    }

    fn plain(&self, chunk: u64) -> &[u8] {
        let (offset, len) = Self::LAYOUT.extent(chunk).unwrap();
        &self.data[offset as usize..offset as usize + len]
    }

    fn read(&self) -> impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), ()> {
        |offset, len, buffer| {
            self.read_bytes.set(self.read_bytes.get() + len);
            buffer.clear();
            buffer.extend_from_slice(&self.data[offset as usize..offset as usize + len]);
            Ok(())
        }
    }

    /// The pieces `cuts` of a chunk are written, as they are in the file.
    fn write(&self, received: &mut Received, chunk: u64, cuts: &[Range<usize>]) {
        for cut in cuts {
            received.pass(chunk, cut.start, &self.plain(chunk)[cut.clone()]);
        }
    }

    /// What the sink does once a chunk has been written; true if it had to be read back to be checked.
    fn finish(&self, received: &mut Received, chunk: u64) -> bool {
        let plain = self.plain(chunk);
        match received.passed(chunk, plain.len()) {
            Some(crc) => {
                assert_eq!(crc, crc32(plain), "chunk {chunk}");
                received.stored_in_passing(chunk, self.read()).unwrap();
                false
            }
            None => {
                received.stored(chunk, plain, self.read()).unwrap();
                true
            }
        }
    }

    fn assert_digest(&self, received: &mut Received) {
        assert_eq!(received.finish(self.read()), Ok(Some(sha256(&self.data))));
    }
}

#[test]
#[allow(clippy::single_range_in_vec_init, reason = "a chunk written in one piece")]
fn chunks_in_order_are_never_read_back() {
    let (passage, mut received) = Passage::new();
    let cuts: [&[Range<usize>]; 3] = [&[0..40, 40..41, 41..100], &[0..100], &[0..50]];
    for (chunk, cuts) in (0u64..).zip(cuts) {
        passage.write(&mut received, chunk, cuts);
        assert!(!passage.finish(&mut received, chunk));
        assert_eq!(received.hashed_bytes(), (100 * (chunk + 1)).min(250));
    }
    passage.assert_digest(&mut received);
    assert_eq!(passage.read_bytes.get(), 0);
}

#[test]
#[allow(clippy::single_range_in_vec_init, reason = "a chunk written in one piece")]
fn pieces_out_of_order_or_twice_are_read_back() {
    let table: [&[Range<usize>]; 8] = [
        &[50..100, 0..50],
        &[0..50, 50..100, 50..100],
        &[0..50, 50..100, 0..50],
        &[0..50, 40..100],
        &[0..40, 60..100, 40..60],
        &[0..100, 99..100],
        &[50..100],
        &[],
    ];
    for cuts in table {
        let (passage, mut received) = Passage::new();
        passage.write(&mut received, 0, cuts);
        assert!(passage.finish(&mut received, 0), "{cuts:?}");
        // The next ones are not affected.
        passage.write(&mut received, 1, &[0..100]);
        assert!(!passage.finish(&mut received, 1), "{cuts:?}");
        passage.write(&mut received, 2, &[0..50]);
        assert!(!passage.finish(&mut received, 2), "{cuts:?}");
        passage.assert_digest(&mut received);
    }
    // A chunk that is begun anew passes, whatever was written of it before.
    let (passage, mut received) = Passage::new();
    passage.write(&mut received, 0, &[0..30, 20..40, 0..60, 60..100]);
    assert!(!passage.finish(&mut received, 0));
    // Of two chunks whose pieces alternate, the one that began anew last passes.
    passage.write(&mut received, 1, &[0..60]);
    passage.write(&mut received, 2, &[0..50]);
    passage.write(&mut received, 1, &[60..100]);
    assert!(passage.finish(&mut received, 2) && passage.finish(&mut received, 1));
    passage.assert_digest(&mut received);
}

#[test]
#[allow(clippy::single_range_in_vec_init, reason = "a chunk written in one piece")]
fn a_wrong_checksum_leaves_the_digest_as_it_was() {
    let (passage, mut received) = Passage::new();
    passage.write(&mut received, 0, &[0..100]);
    assert!(!passage.finish(&mut received, 0));
    // Damaged on its way, and so refused: nothing is stored.
    let mut wrong = passage.plain(1).to_vec();
    wrong[50] ^= 1;
    received.pass(1, 0, &wrong);
    assert_ne!(received.passed(1, 100), Some(crc32(passage.plain(1))));
    assert_eq!((received.hashed_bytes(), received.is_whole(1)), (100, false));
    assert_eq!(received.clone().finish(passage.read()), Ok(None));
    // A part of it alone does not mend what has passed; all of it does.
    passage.write(&mut received, 1, &[50..100]);
    assert_eq!(received.passed(1, 100), None);
    passage.write(&mut received, 1, &[0..50, 50..100]);
    assert!(!passage.finish(&mut received, 1));
    passage.write(&mut received, 2, &[0..50]);
    assert!(!passage.finish(&mut received, 2));
    passage.assert_digest(&mut received);
    assert_eq!(passage.read_bytes.get(), 0);
}

#[test]
#[allow(clippy::single_range_in_vec_init, reason = "a chunk written in one piece")]
fn early_chunks_are_checked_in_passing_and_hashed_in_their_turn() {
    let (passage, mut received) = Passage::new();
    for chunk in [2, 1] {
        let cuts = 0..passage.plain(chunk).len();
        passage.write(&mut received, chunk, &[cuts]);
        assert!(!passage.finish(&mut received, chunk));
    }
    assert_eq!((received.hashed_bytes(), passage.read_bytes.get()), (0, 0));
    // It begins before its turn and ends in its turn: the digest must not begin in the middle of it.
    passage.write(&mut received, 0, &[0..100]);
    assert!(!passage.finish(&mut received, 0));
    assert_eq!((received.hashed_bytes(), passage.read_bytes.get()), (250, 150));
    passage.assert_digest(&mut received);

    let (passage, mut received) = Passage::new();
    passage.write(&mut received, 1, &[0..50]);
    // The one before it comes encoded, in one piece, and is not seen passing.
    received.stored(0, passage.plain(0), passage.read()).unwrap();
    passage.write(&mut received, 1, &[50..100]);
    assert!(!passage.finish(&mut received, 1));
    assert_eq!((received.hashed_bytes(), passage.read_bytes.get()), (200, 100));
    // What has passed is used once, and neither for another chunk nor for another length.
    assert_eq!((received.passed(1, 100), received.passed(2, 50)), (None, None));
    passage.write(&mut received, 2, &[0..50]);
    assert_eq!((received.passed(2, 49), received.passed(1, 50)), (None, None));
    assert!(!passage.finish(&mut received, 2));
    passage.assert_digest(&mut received);
}

/// Chunks in any order, their pieces too, cut anywhere and written again now and then; checksums that are wrong; and the
/// bookkeeping begun anew with what is whole, as after a recheck.
#[test]
fn digests_come_out_right_however_chunks_pass() {
    let (mut passed, mut read_back, mut refused, mut rechecks) = (0, 0, 0, 0);
    for seed in 0..300u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (passage, mut received) = Passage::new();
        while !received.is_complete() {
            let chunk = rng.random_range(0..3);
            if received.is_whole(chunk) {
                continue;
            }
            let plain = passage.plain(chunk);
            // What is in the file: the sink reads this if the chunk has not passed.
            let (mut disk, mut at) = (vec![0; plain.len()], 0);
            let orderly = rng.random_range(0..3) > 0;
            while at < plain.len() {
                let end = rng.random_range(at + 1..=plain.len());
                let mut piece = plain[at..end].to_vec();
                if rng.random_range(0..20) == 0 {
                    piece[0] ^= 0x10;
                }
                disk[at..end].copy_from_slice(&piece);
                received.pass(chunk, at, &piece);
                if !orderly && rng.random_range(0..3) == 0 {
                    let again = rng.random_range(0..end);
                    disk[again..end].copy_from_slice(&plain[again..end]);
                    received.pass(chunk, again, &plain[again..end]);
                }
                at = end;
                if rng.random_range(0..12) == 0 {
                    // A piece of another chunk in between.
                    let other = (chunk + 1) % 3;
                    if !received.is_whole(other) {
                        received.pass(other, 0, &passage.plain(other)[..10]);
                    }
                }
            }
            let crc = received.passed(chunk, plain.len());
            assert!(
                crc.is_none_or(|crc| crc == crc32(&disk)),
                "seed {seed}: what passed is not what was written"
            );
            if crc.unwrap_or_else(|| crc32(&disk)) != crc32(plain) {
                refused += 1;
            } else if passage.finish(&mut received, chunk) {
                read_back += 1;
            } else {
                passed += 1;
            }
            if rng.random_range(0..10) == 0 {
                rechecks += 1;
                received = Received::new(Passage::LAYOUT, received.whole().clone());
            }
        }
        passage.assert_digest(&mut received);
    }
    assert!(passed > 300 && read_back > 50 && refused > 50 && rechecks > 50);
}

#[test]
fn errors_are_classed_and_say_what_to_do() {
    use StoreErrorKind as K;
    use rustix::io::Errno;
    let table = [
        (Errno::NOSPC, K::NoSpace),
        (Errno::DQUOT, K::Quota),
        (Errno::ACCESS, K::Permission),
        (Errno::PERM, K::Permission),
        (Errno::ROFS, K::Permission),
        (Errno::NAMETOOLONG, K::NameTooLong),
        (Errno::NOENT, K::NotFound),
        (Errno::NOTDIR, K::WrongKind),
        (Errno::ISDIR, K::WrongKind),
        (Errno::XDEV, K::Forbidden),
        (Errno::LOOP, K::Forbidden),
        (Errno::EXIST, K::Exists),
        (Errno::IO, K::Io),
    ];
    for (errno, kind) in table {
        let error = from_io(b"dir/file", "cannot be written", &errno.into());
        assert_eq!(error.kind, kind);
        assert!(error.message.starts_with("dir/file"), "{error}");
        assert!(error.message.contains(';') && !error.message.contains("os error"), "{error}");
    }
    let escaped = io::Error::new(io::ErrorKind::PermissionDenied, "a path led outside of the filesystem");
    assert_eq!(kind_of(&escaped), K::Forbidden);
    assert_eq!(shown(b"a\nb\x1b[31m\xff"), "a\\nb\\u{1b}[31m\u{fffd}");
}
