//! `--quota`: what counts, what is refused, and that the count stays true.

use super::*;
use StoreErrorKind as K;

const LIMIT: u64 = 200_000;

fn rig(limit: u64) -> Rig {
    let mut rig = Rig::fast_disk();
    reopen(&mut rig, limit);
    rig
}

fn reopen(rig: &mut Rig, limit: u64) {
    let jail = rig.jail();
    let Backing::Disk(store, _) = &mut rig.backing else { panic!("not on disk") };
    **store =
        FileStore::open(&jail, FileOptions { quota_bytes: Some(limit), ..FileOptions::default() }).unwrap();
    rig.set_dest(b"", true, Overwrite::Always).unwrap();
}

fn used(rig: &mut Rig) -> u64 {
    let Backing::Disk(store, _) = &mut rig.backing else { panic!("not on disk") };
    store.quota_used_bytes().unwrap()
}

/// What is there, counted by another way than the store's.
fn there(dir: &Path) -> u64 {
    let mut bytes = 0;
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        bytes += if path.is_dir() {
            there(&path)
        } else {
            std::fs::symlink_metadata(&path).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512)
        };
    }
    bytes
}

/// Journals are small, and not counted before the tree is counted again.
fn assert_true(rig: &mut Rig) {
    let (used, there) = (used(rig), there(&rig.jail()));
    assert!(used <= there && there <= used + 2 * 4096, "counted {used}, there are {there}");
}

#[test]
fn what_does_not_fit_is_refused_and_what_fits_is_counted() {
    let mut rig = rig(LIMIT);
    rig.put_inline(b"a", &[1; 10_000]).unwrap();
    assert_true(&mut rig);
    let data = noise(1, 150_000);
    let file = rig.open(b"big", 150_000).unwrap();
    // Announced bytes count before they come.
    assert_eq!(rig.open(b"other", 50_000).unwrap_err().kind, K::Quota);
    assert_eq!(rig.put_inline(b"b", &[2; 40_000]).unwrap_err().kind, K::Quota);
    rig.put_inline(b"c", &[2; 8_000]).unwrap();
    for chunk in 0..data.len().div_ceil(CHUNK as usize) as u64 {
        rig.send_chunk(file, &data, chunk, false);
    }
    rig.commit(file, &data).unwrap();
    assert_true(&mut rig);
    let error = rig.open(b"other", 50_000).unwrap_err();
    assert!(error.message.contains("other") && error.message.contains("quota"), "{error}");
    assert_eq!(error.kind.exit_code(), 5);
    assert!(rig.all().keys().all(|name| !name.ends_with(b".part")), "nothing is left of what was refused");
    // In place of another file, beside which it has room.
    rig.put_inline(b"a", &[3; 12_000]).unwrap();
    assert_true(&mut rig);
}

#[test]
fn partials_count_and_give_their_room_back() {
    let mut rig = rig(LIMIT);
    let data = noise(1, 150_000);
    let file = rig.open(b"big", 150_000).unwrap();
    for chunk in 0..60 {
        rig.send_chunk(file, &data, chunk, true);
    }
    rig.run(Job::Abort { file, keep_partial: true });
    assert_true(&mut rig);
    assert!(used(&mut rig) > 55_000);
    assert_eq!(rig.open(b"other", 150_000).unwrap_err().kind, K::Quota);
    // The same file goes on: what is there needs no room again. The process is another one.
    reopen(&mut rig, LIMIT);
    let file = rig.open(b"big", 150_000).unwrap();
    assert_eq!(rig.open(b"other", 60_000).unwrap_err().kind, K::Quota);
    rig.run(Job::Abort { file, keep_partial: false });
    assert_true(&mut rig);
    assert!(used(&mut rig) < 10_000);
    let file = rig.open(b"other", 150_000).unwrap();
    rig.send_chunk(file, &data, 0, true);
    rig.run(Job::EndSession);
    assert_true(&mut rig);
}

#[test]
fn random_operations_keep_the_count_true() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let mut rng = StdRng::seed_from_u64(7);
    let mut rig = rig(300_000);
    for round in 0..300 {
        let name = [b'a' + rng.random_range(0..6u8)];
        let size = rng.random_range(0..40_000usize);
        let data = noise(round, size);
        if rng.random() {
            let _ = rig.put_inline(&name, &data[..size.min(16_384)]);
        } else if let Ok(file) = rig.open(&name, size as u64) {
            let chunks = size.div_ceil(CHUNK as usize) as u64;
            let sent = if rng.random() { chunks } else { rng.random_range(0..=chunks) };
            for chunk in 0..sent {
                rig.send_chunk(file, &data, chunk, rng.random());
            }
            match rng.random_range(0..4) {
                0 => drop(rig.run(Job::Abort { file, keep_partial: true })),
                1 => drop(rig.run(Job::Abort { file, keep_partial: false })),
                2 => {
                    rig.run(Job::EndSession);
                    rig.set_dest(b"", true, Overwrite::Always).unwrap();
                }
                _ => drop(rig.commit(file, &data)),
            }
        }
        let (used, there) = (used(&mut rig), there(&rig.jail()));
        // Up to six partials have a journal of a block each.
        assert!(
            used <= there && there <= used + 6 * 4096,
            "round {round}: counted {used}, there are {there}"
        );
    }
}
