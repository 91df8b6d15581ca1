//! Resume on disk: what a journal is believed, what it is not, and what becomes of leftovers.

use super::super::digest::Layout;
use super::super::journal::{HEADER_BYTES, Identity, SLOT_BYTES};
use super::super::names::{journal_name, partial_name};
use super::*;
use StoreErrorKind as K;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, SystemTime};

const NAME: &[u8] = b"f";
/// Five chunks, the last one short.
const SIZE: usize = 4 * CHUNK as usize + 100;

fn top() -> Rig {
    let mut rig = Rig::fast_disk();
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
    rig
}

fn part(rig: &Rig) -> PathBuf {
    rig.jail().join(path(&partial_name(NAME)))
}

fn journal(rig: &Rig) -> PathBuf {
    rig.jail().join(path(&journal_name(NAME)))
}

/// Begins the file and says what is whole already.
fn begin(rig: &mut Rig, change: impl FnOnce(&mut BeginEntry)) -> (FileId, Vec<u64>) {
    let mut entry = rig.entry(NAME, EntryKind::File);
    entry.size = SIZE as u64;
    change(&mut entry);
    let id = entry.file;
    match rig.run(Job::Begin(Box::new(entry))).pop() {
        Some(Done::Began { result: Ok(have), .. }) => (id, have.into_iter().flatten().collect()),
        other => panic!("{other:?}"),
    }
}

/// As after a kill -9: the files are there, their store is not.
fn crash(rig: &mut Rig) {
    let jail = rig.jail();
    let Backing::Disk(store, _) = &mut rig.backing else { panic!("not on disk") };
    **store = FileStore::open(&jail, FileOptions::default()).unwrap();
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
}

/// A rig in which these chunks came before a crash.
fn broken(data: &[u8], chunks: &[u64]) -> Rig {
    let mut rig = top();
    let (file, have) = begin(&mut rig, |_| {});
    assert!(have.is_empty());
    for &chunk in chunks {
        rig.send_chunk(file, data, chunk, chunk % 2 == 0);
    }
    crash(&mut rig);
    rig
}

/// Sends what is missing and commits: the file must be right, and nothing may be left beside it.
fn finish(rig: &mut Rig, file: FileId, have: &[u64], data: &[u8]) {
    for chunk in (0..5).filter(|chunk| !have.contains(chunk)) {
        rig.send_chunk(file, data, chunk, false);
    }
    rig.commit(file, data).unwrap();
    assert!(rig.data(NAME).unwrap() == data);
    assert_eq!(rig.all().len(), 1, "{:?}", rig.all().keys());
}

#[test]
fn a_later_run_goes_on_where_the_first_broke_off() {
    let data = noise(1, SIZE);
    for chunks in [&[0, 1, 2, 3, 4][..], &[4, 1], &[2], &[0], &[]] {
        let mut rig = broken(&data, chunks);
        let (file, have) = begin(&mut rig, |_| {});
        let mut expected = chunks.to_vec();
        expected.sort_unstable();
        assert_eq!(have, expected);
        finish(&mut rig, file, &have, &data);
    }
}

#[test]
fn sessions_that_end_and_aborts_leave_something_to_go_on_with() {
    let data = noise(1, SIZE);
    for end in [Job::EndSession, Job::Abort { file: FileId(1), keep_partial: true }] {
        let mut rig = top();
        let (file, _) = begin(&mut rig, |_| {});
        assert_eq!(file, FileId(1));
        rig.send_chunk(file, &data, 3, false);
        rig.run(end);
        rig.set_dest(b"", true, Overwrite::Never).unwrap();
        let (file, have) = begin(&mut rig, |_| {});
        assert_eq!(have, [3]);
        finish(&mut rig, file, &have, &data);
    }
}

#[test]
fn another_source_or_no_resume_begins_anew() {
    let data = noise(1, SIZE);
    let changes: [fn(&mut BeginEntry); 4] =
        [|e| e.size -= 1, |e| e.chunk_size *= 2, |e| e.meta.mtime_s += 1, |e| e.meta.mtime_ns -= 1];
    for change in changes {
        let mut rig = broken(&data, &[0, 2]);
        assert!(begin(&mut rig, change).1.is_empty());
        assert_eq!(std::fs::metadata(part(&rig)).unwrap().len(), 0);
    }
    let mut rig = broken(&data, &[0, 2]);
    assert_eq!(begin(&mut rig, |e| e.meta.mode = 0o600).1, [0, 2], "the mode changes nothing inside");
    crash(&mut rig);
    let location = Location::Jail(Vec::new());
    let (overwrite, name_prefix) = (Overwrite::Never, Vec::new());
    rig.set_dest_full(Dest { location, into_dir: true, overwrite, no_resume: true, name_prefix }).unwrap();
    let (file, have) = begin(&mut rig, |_| {});
    assert!(have.is_empty());
    finish(&mut rig, file, &have, &data);
}

#[test]
fn both_stores_resume_alike() {
    let data = noise(1, SIZE);
    Rig::both(|rig| {
        rig.set_dest(b"", true, Overwrite::Never).unwrap();
        let (file, _) = begin(rig, |_| {});
        rig.send_chunk(file, &data, 1, false);
        rig.send_chunk(file, &data, 4, true);
        rig.run(Job::Abort { file, keep_partial: true });
        let (file, have) = begin(rig, |e| e.meta.mode = 0o444);
        assert_eq!(have, [1, 4]);
        rig.run(Job::Abort { file, keep_partial: true });
        let (file, have) = begin(rig, |e| e.meta.mtime_s += 1);
        assert!(have.is_empty());
        finish(rig, file, &have, &data);
    });
}

#[test]
fn the_same_file_once_more_takes_over_from_a_session_that_may_be_dead() {
    let data = noise(1, SIZE);
    Rig::both(|rig| {
        rig.set_dest(b"", true, Overwrite::Never).unwrap();
        rig.put_dir(b"d").unwrap();
        let mut entry = rig.entry(b"d/f", EntryKind::File);
        entry.size = SIZE as u64;
        let old = entry.file;
        rig.run(Job::Begin(Box::new(entry.clone())));
        rig.send_chunk(old, &data, 2, false);
        let end = rig.entry(b"d", EntryKind::DirEnd);
        assert!(rig.run(Job::Begin(Box::new(end))).is_empty());
        rig.session = 2;
        rig.set_dest(b"", true, Overwrite::Never).unwrap();
        entry.file = rig.file_id();
        let new = entry.file;
        let mut done = Vec::new();
        rig.store().run(2, Job::Begin(Box::new(entry)), &mut done);
        rig.store().idle(&mut done);
        let failed = |(s, d): &(SessionKey, Done)| {
            *s == 1 && matches!(d, Done::SinkFailed { file, error } if *file == old && error.kind == K::Busy)
        };
        assert!(done.iter().any(failed), "{done:?}");
        let begun = |(s, d): &(SessionKey, Done)| {
            *s == 2
                && matches!(d, Done::Began { result: Ok(have), .. } if have.iter().cloned().eq(std::iter::once(2..3)))
        };
        assert!(done.iter().any(begun), "{done:?}");
        // The end of the directory that waited for the file.
        assert!(done.iter().any(|(s, d)| *s == 1 && matches!(d, Done::Committed { .. })), "{done:?}");
        // Late words of the old session change nothing.
        rig.session = 1;
        assert!(rig.send_chunk(old, &noise(9, SIZE), 2, false).is_empty());
        assert!(rig.run_idle(Job::Commit { file: old, sha256: sha256(&data) }).is_empty());
        rig.run(Job::EndSession);
        rig.session = 2;
        for chunk in [0, 1, 3, 4] {
            rig.send_chunk(new, &data, chunk, false);
        }
        rig.commit(new, &data).unwrap();
        assert!(rig.data(b"d/f").unwrap() == data);
    });
}

#[test]
fn a_journal_torn_at_any_byte_costs_what_was_torn() {
    let data = noise(1, SIZE);
    let rig = broken(&data, &[0, 1, 2, 3, 4]);
    let (whole, bytes) = (std::fs::read(journal(&rig)).unwrap(), std::fs::read(part(&rig)).unwrap());
    assert_eq!(whole.len(), HEADER_BYTES + 5 * SLOT_BYTES);
    let mut rig = rig;
    for len in 0..=whole.len() {
        std::fs::write(journal(&rig), &whole[..len]).unwrap();
        std::fs::write(part(&rig), &bytes).unwrap();
        let (_, have) = begin(&mut rig, |_| {});
        let slots = len.saturating_sub(HEADER_BYTES) / SLOT_BYTES;
        assert_eq!(have, (0..slots as u64).collect::<Vec<_>>(), "{len} bytes");
        crash(&mut rig);
    }
}

#[test]
fn flipped_bits_cost_their_chunk_at_most_and_are_never_believed() {
    let data = noise(1, SIZE);
    let mut rig = broken(&data, &[0, 1, 2, 3, 4]);
    let (whole, bytes) = (std::fs::read(journal(&rig)).unwrap(), std::fs::read(part(&rig)).unwrap());
    for bit in 0..whole.len() * 8 {
        let mut torn = whole.clone();
        torn[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(journal(&rig), &torn).unwrap();
        std::fs::write(part(&rig), &bytes).unwrap();
        let (_, have) = begin(&mut rig, |_| {});
        let hit = (bit / 8).checked_sub(HEADER_BYTES).map(|at| (at / SLOT_BYTES) as u64);
        let expected: Vec<u64> = (0..5).filter(|chunk| hit.is_some_and(|hit| hit != *chunk)).collect();
        assert_eq!(have, expected, "bit {bit}");
        crash(&mut rig);
    }
    // The same in the partial: the journal's word alone is not enough.
    for byte in (0..SIZE).step_by(97) {
        let mut torn = bytes.clone();
        torn[byte] ^= 0x10;
        std::fs::write(journal(&rig), &whole).unwrap();
        std::fs::write(part(&rig), &torn).unwrap();
        let (_, have) = begin(&mut rig, |_| {});
        let expected: Vec<u64> = (0..5).filter(|chunk| *chunk != byte as u64 / u64::from(CHUNK)).collect();
        assert_eq!(have, expected, "byte {byte}");
        crash(&mut rig);
    }
}

/// A power cut: of what was written since the last crash, any parts of either file may be missing, or be what the
/// blocks held before. Whatever is left, the end is the right file.
#[test]
fn crashes_at_random_never_make_a_wrong_file() {
    let seeds = std::env::var("FULMAR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(200u64);
    for seed in 0..seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let (data, stale) = (noise(seed, SIZE), noise(seed + 1, SIZE));
        let mut rig = top();
        for _ in 0..rng.random_range(1..5) {
            let (file, have) = begin(&mut rig, |_| {});
            for &chunk in &have {
                let at = chunk as usize * CHUNK as usize;
                let end = SIZE.min(at + CHUNK as usize);
                assert!(std::fs::read(part(&rig)).unwrap()[at..end] == data[at..end], "seed {seed}");
            }
            for _ in 0..rng.random_range(0..4) {
                rig.send_chunk(file, &data, rng.random_range(0..5), rng.random());
            }
            crash(&mut rig);
            for file in [part(&rig), journal(&rig)] {
                let mut bytes = std::fs::read(&file).unwrap();
                for _ in 0..rng.random_range(0..3) {
                    if bytes.is_empty() || rng.random_bool(0.3) {
                        continue;
                    }
                    let start = rng.random_range(0..bytes.len());
                    let end = rng.random_range(start..=bytes.len());
                    match rng.random_range(0..3) {
                        0 => bytes[start..end].fill(0),
                        1 => bytes[start..end].copy_from_slice(&stale[start..end]),
                        _ => bytes.truncate(start),
                    }
                }
                std::fs::write(&file, bytes).unwrap();
            }
            if rng.random_bool(0.1) {
                std::fs::remove_file(if rng.random() { part(&rig) } else { journal(&rig) }).unwrap();
            }
        }
        let (file, have) = begin(&mut rig, |_| {});
        finish(&mut rig, file, &have, &data);
    }
}

#[test]
fn slots_of_another_file_do_not_fit() {
    let layout = Layout { size: SIZE as u64, chunk_size: CHUNK };
    let one = Identity::new(b"a", layout, &META);
    let slot = one.slot(3, 7);
    assert_eq!(one.read_slot(3, &slot), Some(7));
    assert_eq!(one.read_slot(4, &slot), None);
    assert_eq!(one.read_slot(3, &slot[..7]), None);
    assert_eq!(one.read_slot(3, &[0; SLOT_BYTES]), None);
    assert_eq!(Identity::new(b"b", layout, &META).read_slot(3, &slot), None);
    let meta = Meta { mtime_s: META.mtime_s - 1, ..META };
    assert_eq!(Identity::new(b"a", layout, &meta).read_slot(3, &slot), None);
}

#[test]
fn a_wrong_digest_makes_the_next_run_clean() {
    let data = noise(1, SIZE);
    let mut rig = top();
    let (file, _) = begin(&mut rig, |_| {});
    for chunk in 0..5 {
        rig.send_chunk(file, &data, chunk, false);
    }
    assert_eq!(kind(rig.commit(file, b"other")), K::DigestMismatch);
    assert!(rig.all().is_empty(), "{:?}", rig.all().keys());
}

#[test]
fn a_peer_that_breaks_the_rules_leaves_nothing() {
    let mut rig = top();
    let (file, _) = begin(&mut rig, |_| {});
    rig.send_chunk(file, &noise(1, SIZE), 0, false);
    rig.run(Job::Write { file, offset: SIZE as u64, data: Bytes::from_static(b"x") });
    assert!(rig.all().is_empty(), "{:?}", rig.all().keys());
}

#[test]
fn whatever_stands_in_place_of_a_journal_is_not_written_through() {
    let data = noise(1, SIZE);
    let mut rig = top();
    let outside = rig.jail().parent().unwrap().join("outside");
    std::fs::write(&outside, b"precious").unwrap();
    std::os::unix::fs::symlink(&outside, journal(&rig)).unwrap();
    let (file, _) = begin(&mut rig, |_| {});
    rig.run(Job::Abort { file, keep_partial: false });
    std::fs::hard_link(&outside, journal(&rig)).unwrap();
    let (file, _) = begin(&mut rig, |_| {});
    rig.run(Job::Abort { file, keep_partial: false });
    // With a directory in its place there is no journal; the file comes all the same.
    std::fs::create_dir(journal(&rig)).unwrap();
    let (file, have) = begin(&mut rig, |_| {});
    assert!(have.is_empty());
    rig.send_chunk(file, &data, 0, false);
    rig.run(Job::Abort { file, keep_partial: true });
    std::fs::remove_dir(journal(&rig)).unwrap();
    let (file, have) = begin(&mut rig, |_| {});
    assert!(have.is_empty());
    finish(&mut rig, file, &[], &data);
    assert_eq!(std::fs::read(outside).unwrap(), b"precious");
}

#[test]
fn a_partial_longer_than_its_file_is_cut() {
    let data = noise(1, SIZE);
    let mut rig = broken(&data, &[0, 1, 2, 3, 4]);
    let mut bytes = std::fs::read(part(&rig)).unwrap();
    bytes.extend_from_slice(b"appended by somebody");
    std::fs::write(part(&rig), bytes).unwrap();
    let (file, have) = begin(&mut rig, |_| {});
    assert_eq!(have.len(), 5);
    finish(&mut rig, file, &have, &data);
}

#[test]
fn stale_leftovers_go_and_what_is_in_use_stays() {
    let data = noise(1, SIZE);
    let mut rig = broken(&data, &[1]);
    let deep = rig.jail().join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    let jail = rig.jail();
    let temp = |name: &str| {
        std::fs::write(deep.join(name), b"x").unwrap();
        deep.join(name)
    };
    let orphan = temp(".fulmar-0123.journal");
    let inline = temp(".fulmar-0123456789abcdef-1.tmp");
    let other = temp(".fulmar-unknown");
    let visible = temp("file.part");
    std::os::unix::fs::symlink(&jail, deep.join("loop")).unwrap();
    #[allow(clippy::disallowed_methods, reason = "files are as old as the clock says")]
    let now = SystemTime::now();
    let sweep = |ttl: u64, later: u64| {
        let open =
            super::super::jail::Jail::over(Box::new(super::super::fs::real::RealDisk::open(&jail).unwrap()));
        let mut sweep = super::super::sweep::Sweep::new(Duration::from_secs(ttl), b".fulmar-mine-".to_vec());
        // However small the steps are.
        for _ in 0..200 {
            sweep.step(&open, now + Duration::from_secs(later), 1);
        }
    };
    sweep(3600, 0);
    assert!(part(&rig).exists() && journal(&rig).exists() && orphan.exists() && inline.exists());
    // Resumed by somebody: it stays, however old it is.
    let (file, _) = begin(&mut rig, |_| {});
    sweep(3600, 7200);
    assert!(part(&rig).exists() && journal(&rig).exists());
    assert!(!orphan.exists() && !inline.exists());
    assert!(other.exists() && visible.exists());
    rig.run(Job::Abort { file, keep_partial: true });
    sweep(3600, 7200);
    assert!(!part(&rig).exists() && !journal(&rig).exists());
}

#[test]
fn a_store_removes_stale_partials_when_it_opens() {
    let rig = broken(&noise(1, SIZE), &[1]);
    let ttl = |secs| FileOptions { partial_ttl: Some(Duration::from_secs(secs)), ..FileOptions::default() };
    drop(FileStore::open(&rig.jail(), ttl(3600)).unwrap());
    assert_eq!(rig.all().len(), 2);
    drop(FileStore::open(&rig.jail(), ttl(0)).unwrap());
    assert!(rig.all().is_empty());
}

/// A chunk that was whole changes on the disk before it is in the digest, after a restart or within one run.
#[test]
fn a_chunk_that_changed_on_the_disk_is_found_and_comes_again() {
    use std::os::unix::fs::FileExt;
    let data = noise(1, SIZE);
    for resumed in [true, false] {
        let mut rig = if resumed { broken(&data, &[1, 2, 3]) } else { top() };
        let (file, have) = begin(&mut rig, |_| {});
        assert_eq!(have.len(), if resumed { 3 } else { 0 });
        for chunk in (1..4).filter(|chunk| !have.contains(chunk)) {
            rig.send_chunk(file, &data, chunk, false);
        }
        let disk = std::fs::OpenOptions::new().write(true).open(part(&rig)).unwrap();
        disk.write_all_at(b"rot", 2 * u64::from(CHUNK) + 17).unwrap();
        rig.send_chunk(file, &data, 0, false);
        rig.send_chunk(file, &data, 4, false);
        let done = rig.run_idle(Job::Commit { file, sha256: sha256(&data) });
        assert!(matches!(done[..], [Done::ChunkStored { chunk: 2, ok: false, .. }]), "{done:?}");
        rig.send_chunk(file, &data, 2, resumed);
        rig.commit(file, &data).unwrap();
        assert!(rig.data(NAME).unwrap() == data);
        assert_eq!(rig.all().len(), 1, "{:?}", rig.all().keys());
    }
}
