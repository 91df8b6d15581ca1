//! Two stores on one directory, as two worker processes have them.

use super::*;
use crate::store::neighbours::{CLAIM_BYTES, CLAIM_WAIT, Neighbours};
use crate::transfer::job::StoreErrorKind as K;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const SIZE: usize = 4500;

/// Two rigs on one directory; what one claims, the other hears of.
fn pair() -> (Rig, Rig) {
    let first = Rig::fast_disk();
    let jail = first.jail();
    let Backing::Disk(_, dir) = first.backing else { panic!("on disk") };
    let heard = Arc::new(Neighbours::new(|_: &[u8; CLAIM_BYTES]| {}));
    let to_first = Arc::clone(&heard);
    let asking = Arc::new(Neighbours::new(move |claim: &[u8; CLAIM_BYTES]| to_first.claimed(*claim)));
    let open =
        |neighbours| FileStore::open(&jail, FileOptions::default()).unwrap().with_neighbours(neighbours);
    let rig = |store, dir| Rig { backing: Backing::Disk(Box::new(store), dir), session: 1, next_file: 0 };
    let elsewhere = tempfile::tempdir().unwrap();
    (rig(open(heard), dir), rig(open(asking), elsewhere))
}

#[allow(clippy::disallowed_methods)] // Two threads meet in real time here.
fn now() -> Instant {
    Instant::now()
}

/// Runs `first` as a disk thread with nothing to do, until `stop`; what it said meanwhile.
fn idle_until(mut first: Rig, stop: &AtomicBool) -> (Rig, Vec<Done>) {
    let mut said = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        said.extend(first.idle());
        #[allow(clippy::disallowed_methods)] // As above.
        std::thread::sleep(first.store().look_within().unwrap_or(CLAIM_WAIT / 100));
    }
    (first, said)
}

#[test]
fn a_file_goes_on_in_another_process() {
    let data = noise(1, SIZE);
    let (mut first, mut second) = pair();
    first.set_dest(b"", true, Overwrite::Never).unwrap();
    assert_eq!(first.store().look_within(), None, "nothing to let go of");
    let old = first.open(b"f", SIZE as u64).unwrap();
    first.send_chunk(old, &data, 2, false);
    assert!(first.store().look_within().is_some());
    second.set_dest(b"", true, Overwrite::Never).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| idle_until(first, &stop));
        let mut entry = second.entry(b"f", EntryKind::File);
        entry.size = SIZE as u64;
        let new = entry.file;
        let begun = second.run_idle(Job::Begin(Box::new(entry))).pop();
        stop.store(true, Ordering::Relaxed);
        let (mut first, said) = first.join().unwrap();
        let Some(Done::Began { result: Ok(have), .. }) = begun else { panic!("{begun:?}") };
        assert!(have.iter().cloned().eq(std::iter::once(2..3)), "what has come is not sent again");
        let failed =
            |d: &Done| matches!(d, Done::SinkFailed { file, error } if *file == old && error.kind == K::Busy);
        assert!(said.iter().any(failed), "{said:?}");
        // Late words of the old session change nothing.
        assert!(first.send_chunk(old, &noise(9, SIZE), 2, false).is_empty());
        first.run(Job::EndSession);
        for chunk in [0, 1, 3, 4] {
            second.send_chunk(new, &data, chunk, false);
        }
        second.commit(new, &data).unwrap();
        assert!(std::fs::read(first.jail().join("f")).unwrap() == data);
    });
}

#[test]
fn another_file_of_the_same_name_has_to_wait_and_so_has_whoever_is_not_heard() {
    let (mut first, mut second) = pair();
    first.set_dest(b"", true, Overwrite::Never).unwrap();
    let old = first.open(b"f", SIZE as u64).unwrap();
    second.set_dest(b"", true, Overwrite::Never).unwrap();
    // Nobody looks at the claim.
    let start = now();
    assert_eq!(second.open(b"f", SIZE as u64).unwrap_err().kind, K::Busy);
    assert!(start.elapsed() >= CLAIM_WAIT);
    // It was of use all the same: whoever comes again gets the file.
    assert!(matches!(first.idle()[..], [Done::SinkFailed { file, .. }] if file == old));
    second.open(b"f", SIZE as u64).unwrap();
    // The second one has it now, and is claimed nothing from; the first one wants something else of that name.
    assert_eq!(first.open(b"f", 10_000).unwrap_err().kind, K::Busy);
    assert!(second.idle().is_empty());
}
