//! What only the memory store can do: faults on demand, resume, made-up contents.

use super::*;
use StoreErrorKind as K;

fn store(rig: &mut Rig) -> &mut MemoryStore {
    match &mut rig.backing {
        Backing::Memory(store) => store,
        Backing::Disk(..) => panic!("not in memory"),
    }
}

fn top() -> Rig {
    let mut rig = Rig::memory();
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
    rig
}

#[test]
fn patterns_read_the_same_in_any_pieces() {
    let content = Content::Pattern { seed: 7, size: 10_001 };
    let whole = content.read(0, usize::MAX);
    assert_eq!(whole.len(), 10_001);
    for (offset, len) in [(0, 1), (1, 7), (7, 9), (8, 8), (9_999, 100), (10_001, 5), (20_000, 5)] {
        let end = (offset + len).min(10_001);
        assert_eq!(content.read(offset as u64, len), whole.slice(offset.min(end)..end));
    }
    assert_ne!(Content::Pattern { seed: 9_000, size: 100 }.read(0, 100), whole.slice(..100));
}

#[test]
fn partials_are_resumed() {
    let mut rig = top();
    let data = noise(1, 5000);
    let file = rig.open(b"f", 5000).unwrap();
    for chunk in [0, 1, 3] {
        rig.send_chunk(file, &data, chunk, true);
    }
    rig.run(Job::EndSession);
    assert_eq!(store(&mut rig).partial_count(), (1, 0));
    rig.session = 2;
    rig.set_dest(b"", true, Overwrite::Never).unwrap();
    let mut entry = rig.entry(b"f", EntryKind::File);
    entry.size = 5000;
    let file = entry.file;
    let done = rig.run(Job::Begin(Box::new(entry)));
    assert!(matches!(&done[..], [Done::Began { result: Ok(have), .. }] if *have == [0..2, 3..4]), "{done:?}");
    for chunk in [2, 4] {
        rig.send_chunk(file, &data, chunk, false);
    }
    rig.commit(file, &data).unwrap();
    assert_eq!(store(&mut rig).get(b"/f").unwrap(), data);
    assert_eq!(store(&mut rig).partial_count(), (0, 0));
    // Another size: nothing is taken over.
    let file = rig.open(b"g", 5000).unwrap();
    rig.send_chunk(file, &data, 0, true);
    rig.run(Job::Abort { file, keep_partial: true });
    let file = rig.open(b"g", 3000).unwrap();
    rig.run(Job::Abort { file, keep_partial: false });
    assert_eq!(store(&mut rig).partial_count(), (0, 0));
}

#[test]
fn faults_strike_when_told() {
    let mut rig = top();
    let data = noise(1, 5000);
    store(&mut rig).flip_chunk_once(1);
    let file = rig.open(b"f", 5000).unwrap();
    for encoded in [false, true] {
        let done = rig.send_chunk(file, &data, 1, encoded);
        let ok = encoded;
        assert!(matches!(done.last(), Some(Done::ChunkStored { ok: found, .. }) if *found == ok), "{done:?}");
    }
    store(&mut rig).fail_writes_after(Some((1500, K::Quota)));
    let first = rig.send_chunk(file, &data, 0, false);
    assert!(matches!(first.last(), Some(Done::ChunkStored { ok: true, .. })));
    let second = rig.send_chunk(file, &data, 2, false);
    let failed = |d: &&Done| matches!(d, Done::SinkFailed { error, .. } if error.kind == K::Quota);
    assert_eq!(second.iter().filter(failed).count(), 1);
    assert!(matches!(second.last(), Some(Done::SinkFailed { .. })), "{second:?}");
    assert_eq!(kind(rig.put_inline(b"g", &data)), K::Quota);
    store(&mut rig).fail_writes_after(None);
    store(&mut rig).set_capacity(4000);
    assert_eq!(kind(rig.open(b"f", 5000)), K::NoSpace);
    store(&mut rig).set_capacity(5000);
    rig.put_big(b"f", &data).unwrap();
}
