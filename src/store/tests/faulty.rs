//! The store on disk over a simulated disk that fails or crashes at the wrong moment: what the crash simulation found.

use super::*;
use crate::codec::chunk::Encoder;
use crate::sim::disk::{DiskFault, DiskFaultKind, Quirks, SimDisk};

const KEY: SessionKey = 1;

#[allow(clippy::disallowed_methods, reason = "an Instant cannot be made up: this one is only the origin")]
fn sim_disk(quirks: Quirks) -> SimDisk {
    SimDisk::new(1, quirks, std::time::Instant::now())
}

fn store(disk: &SimDisk) -> FileStore {
    FileStore::over(disk.mount(), FileOptions::default(), [7; 8], Encoder::default())
}

fn run(store: &mut FileStore, job: Job) -> Vec<Done> {
    let mut done = Vec::new();
    store.run(KEY, job, &mut done);
    store.idle(&mut done);
    done.into_iter().map(|(_, done)| done).collect()
}

fn dest(location: Location) -> Job {
    Job::SetDest(Dest {
        location,
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    })
}

fn small(file: u64, path: &[u8]) -> Job {
    let data = Bytes::from_static(b"some bytes");
    let inline = Some(Inline { sha256: sha256(&data), data });
    Job::Begin(Box::new(BeginEntry {
        file: FileId(file),
        path: path.to_vec(),
        kind: EntryKind::File,
        meta: META,
        size: 10,
        chunk_size: CHUNK,
        target: Vec::new(),
        inline,
    }))
}

fn committed(done: &[Done]) -> Vec<bool> {
    let result = |d: &Done| match d {
        Done::Committed { result, .. } => Some(result.is_ok()),
        _ => None,
    };
    done.iter().filter_map(result).collect()
}

#[test]
fn a_destination_made_by_a_killed_run_is_durable_when_the_next_one_is_done() {
    let disk = sim_disk(Quirks::default());
    let mut first = store(&disk);
    run(&mut first, dest(Location::Jail(b"new/deep".to_vec())));
    disk.kill();
    drop(first);
    let mut second = store(&disk);
    run(&mut second, dest(Location::Jail(b"new/deep".to_vec())));
    assert_eq!(committed(&run(&mut second, small(1, b"file"))), [true]);
    assert!(disk.read_durable(b"new/deep/file").is_some());
}

#[test]
fn a_directory_whose_sync_failed_is_synced_with_what_comes_next() {
    for times in [1, 2] {
        let disk = sim_disk(Quirks::default());
        let mut store = store(&disk);
        run(&mut store, dest(Location::Jail(b"new".to_vec())));
        disk.add_fault(DiskFault { at_op: 0, kind: DiskFaultKind::SyncError, times });
        assert_eq!(committed(&run(&mut store, small(1, b"one"))), [false]);
        let two = committed(&run(&mut store, small(2, b"two")));
        if two == [true] {
            assert!(disk.read_durable(b"new/two").is_some());
        }
        assert_eq!(committed(&run(&mut store, small(3, b"three"))), [true]);
        assert!(disk.read_durable(b"new/three").is_some());
    }
}

#[test]
fn what_comes_for_an_unusable_destination_fails_for_its_reason() {
    let disk = sim_disk(Quirks::default());
    let mut store = store(&disk);
    disk.add_fault(DiskFault { at_op: 0, kind: DiskFaultKind::NoSpace, times: 1 });
    run(&mut store, dest(Location::Jail(b"new".to_vec())));
    match run(&mut store, small(1, b"file")).as_slice() {
        [Done::Committed { result: Err(error), .. }] => assert_eq!(error.kind, StoreErrorKind::NoSpace),
        other => panic!("{other:?}"),
    }
}

#[test]
fn echo_works_without_locks() {
    let disk = sim_disk(Quirks { no_locks: true, ..Quirks::default() });
    let mut store = store(&disk);
    let done = run(&mut store, dest(Location::Scratch(b"echo-1".to_vec())));
    assert!(matches!(done.as_slice(), [Done::DestSet(Ok(()))]), "{done:?}");
}

fn big(file: u64, mtime_s: i64) -> Job {
    Job::Begin(Box::new(BeginEntry {
        file: FileId(file),
        path: b"big".to_vec(),
        kind: EntryKind::File,
        meta: Meta { mtime_s, ..META },
        size: 3000,
        chunk_size: CHUNK,
        target: Vec::new(),
        inline: None,
    }))
}

#[test]
fn two_writers_are_kept_apart_without_locks() {
    let disk = sim_disk(Quirks { no_locks: true, ..Quirks::default() });
    let mut store = store(&disk);
    let began = |store: &mut FileStore, session, job| {
        let mut done = Vec::new();
        store.run(session, dest(Location::Jail(b"new".to_vec())), &mut done);
        store.run(session, job, &mut done);
        match done.pop() {
            Some((_, Done::Began { result, .. })) => result.map_err(|e| e.kind),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(began(&mut store, 1, big(1, 1)), Ok(vec![]));
    assert_eq!(began(&mut store, 2, big(1, 2)), Err(StoreErrorKind::Busy), "another file");
    assert_eq!(began(&mut store, 3, big(1, 1)), Ok(vec![]), "the same file takes over");
}

fn whole(store: &mut FileStore, session: SessionKey, file: u64, from: u64) -> Vec<(SessionKey, Done)> {
    let mut done = Vec::new();
    let bytes = Bytes::from(vec![9; 3000]);
    for chunk in from..3 {
        let data = bytes.slice(chunk as usize * 1024..(chunk as usize * 1024 + 1024).min(3000));
        let crc = crc32(&data);
        let file = FileId(file);
        store.run(session, Job::Write { file, offset: chunk * 1024, data }, &mut done);
        store.run(session, Job::FinishChunk { file, chunk, crc32: crc }, &mut done);
    }
    done
}

/// What a failed write-back has lost is written again by whoever goes on with the partial.
#[test]
fn a_partial_that_outlived_a_failed_sync_is_durable_when_it_gets_its_name() {
    let disk = sim_disk(Quirks::default());
    let mut store = store(&disk);
    let mut done = Vec::new();
    for session in [1, 2] {
        store.run(session, dest(Location::Jail(b"new".to_vec())), &mut done);
    }
    store.run(1, big(1, 1), &mut done);
    whole(&mut store, 1, 1, 0);
    // Many small files of another session, so that the file system is synced as a whole, in vain.
    for n in 0..12 {
        store.run(2, small(n, format!("s{n}").as_bytes()), &mut done);
    }
    disk.add_fault(DiskFault { at_op: 0, kind: DiskFaultKind::SyncError, times: 1 });
    store.idle(&mut done);
    assert!(disk.counters().sync_errors == 1 && committed_all(&done).contains(&false));
    // The same file comes again, with a fresh handle.
    store.run(3, dest(Location::Jail(b"new".to_vec())), &mut done);
    store.run(3, big(1, 1), &mut done);
    store.run(3, Job::Commit { file: FileId(1), sha256: sha256(&[9; 3000]) }, &mut done);
    store.idle(&mut done);
    assert!(matches!(done.last(), Some((3, Done::Committed { result: Ok(_), .. }))), "{:?}", done.last());
    let seen = disk.read_durable(b"new/big").expect("it was reported as done");
    assert!(seen.bytes == vec![9; 3000]);
}

fn committed_all(done: &[(SessionKey, Done)]) -> Vec<bool> {
    let only: Vec<Done> = done.iter().map(|(_, d)| d.clone()).collect();
    committed(&only)
}

/// Its name has to be thought up anew by each run: nobody would come upon it again.
#[test]
fn temporary_files_of_a_killed_run_are_removed_by_the_next_one() {
    for no_locks in [false, true] {
        let disk = sim_disk(Quirks { no_locks, ..Quirks::default() });
        let mut first = store(&disk);
        run(&mut first, dest(Location::Jail(b"new".to_vec())));
        let mut done = Vec::new();
        first.run(KEY, small(1, b"a"), &mut done);
        first.run(KEY, small(2, b"b"), &mut done);
        assert!(done.is_empty(), "they wait for their sync");
        disk.kill();
        drop(first);
        let hidden = |disk: &SimDisk| disk.files().iter().filter(|path| is_hidden(path)).count();
        assert_eq!(hidden(&disk), 2);
        let mut second = FileStore::over(disk.mount(), FileOptions::default(), [8; 8], Encoder::default());
        run(&mut second, dest(Location::Jail(b"new".to_vec())));
        assert_eq!(committed(&run(&mut second, small(1, b"a"))), [true]);
        assert_eq!(committed(&run(&mut second, small(2, b"b"))), [true]);
        // Without locks nobody knows whose they are: a server removes what is old.
        assert_eq!(hidden(&disk), if no_locks { 2 } else { 0 });
    }
}

fn is_hidden(path: &[u8]) -> bool {
    crate::store::names::split_last(path).1.starts_with(b".fulmar-")
}

/// A batch of many drops the handles of small files, since it will be synced by file system; then a session takes its own
/// out, and few are left, which have no handle.
#[test]
fn small_files_are_durable_though_others_left_their_batch() {
    let disk = sim_disk(Quirks::default());
    let mut store = store(&disk);
    let mut done = Vec::new();
    for session in [1, 2] {
        store.run(session, dest(Location::Jail(b"new".to_vec())), &mut done);
    }
    store.idle(&mut done);
    done.clear();
    for n in 0..3 {
        store.run(1, small(n, format!("one{n}").as_bytes()), &mut done);
    }
    for n in 0..8 {
        store.run(2, small(n, format!("two{n}").as_bytes()), &mut done);
    }
    store.run(2, Job::EndSession, &mut done);
    assert!(committed_all(&done).is_empty(), "all are in one batch");
    store.idle(&mut done);
    assert_eq!(committed_all(&done), [true; 3]);
    for n in 0..3 {
        let seen = disk.read_durable(format!("new/one{n}").as_bytes()).expect("it was reported as done");
        assert_eq!(seen.bytes, b"some bytes");
    }
}

/// While a disk is never idle, a small file is still done after a while.
#[test]
fn a_batch_does_not_wait_for_the_end_of_a_big_file() {
    let disk = sim_disk(Quirks::default());
    let mut store = store(&disk);
    let mut done = Vec::new();
    for session in [1, 2] {
        store.run(session, dest(Location::Jail(b"new".to_vec())), &mut done);
    }
    store.run(1, big(1, 1), &mut done);
    store.run(2, small(1, b"small"), &mut done);
    let data = Bytes::from_static(b"a piece");
    for n in 0..200 {
        assert!(n < 150 || committed_all(&done) == [true], "after {n} jobs");
        store.run(1, Job::Write { file: FileId(1), offset: 0, data: data.clone() }, &mut done);
    }
}

#[test]
fn a_directory_ends_after_the_last_file_below_it() {
    let disk = sim_disk(Quirks::default());
    let mut store = store(&disk);
    let mut done = run(&mut store, dest(Location::Jail(b"new".to_vec())));
    let mut next = 0;
    let mut entry = |store: &mut FileStore, path: &[u8], kind: EntryKind| {
        next += 1;
        let size = if kind == EntryKind::File { 3000 } else { 0 };
        let chunk_size = if kind == EntryKind::File { CHUNK } else { 0 };
        let (file, path, target) = (FileId(next), path.to_vec(), Vec::new());
        let entry = BeginEntry { file, path, kind, meta: META, size, chunk_size, target, inline: None };
        (next, run(store, Job::Begin(Box::new(entry))))
    };
    for dir in [b"a".as_slice(), b"a/b", b"a-b", b"a/b/c"] {
        entry(&mut store, dir, EntryKind::Dir);
    }
    let files: Vec<u64> =
        [b"a/b/f".as_slice(), b"a/b.c", b"a-b/g"].map(|p| entry(&mut store, p, EntryKind::File).0).to_vec();
    let ends = [b"a/b/c".as_slice(), b"a/b", b"a", b"a-b"].map(|p| entry(&mut store, p, EntryKind::DirEnd));
    let waits: Vec<bool> = ends.iter().map(|(_, done)| done.is_empty()).collect();
    assert_eq!(waits, [false, true, true, true]);
    let ended = |done: &[Done]| -> Vec<u64> {
        let file = |d: &Done| match d {
            Done::Committed { file, result: Ok(_) } => Some(file.0),
            _ => None,
        };
        done.iter().filter_map(file).collect()
    };
    let (inner, outer, beside) = (ends[1].0, ends[2].0, ends[3].0);
    let mut commit = |store: &mut FileStore, file: u64| {
        whole(store, KEY, file, 0);
        done = run(store, Job::Commit { file: FileId(file), sha256: sha256(&[9; 3000]) });
        ended(&done)
    };
    assert_eq!(commit(&mut store, files[0]), [files[0], inner], "a file beside it keeps the outer one open");
    assert_eq!(commit(&mut store, files[2]), [files[2], beside]);
    assert_eq!(commit(&mut store, files[1]), [files[1], outer]);
}
