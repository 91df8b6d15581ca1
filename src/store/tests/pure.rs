//! The parts without I/O: names, destination rules, range sets, sequential digests, error classes.

use crate::store::dest::DestPlan;
use crate::store::digest::{Layout, RangeSet, Received, sha256};
use crate::store::error::{from_io, kind_of, shown};
use crate::store::names::*;
use crate::transfer::job::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::io;

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
