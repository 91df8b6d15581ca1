//! What a sender must find and read, whichever store it is.

use super::*;
use StoreErrorKind as K;

/// Walks to the end, `max` entries at a time.
pub(super) fn walk(rig: &mut Rig, max: usize, list_only: bool) -> Vec<Result<SourceEntry, EntryError>> {
    let mut out = Vec::new();
    for _ in 0..10_000 {
        let job = Job::NextEntries { max_entries: max, inline_max_bytes: 2048, list_only };
        match rig.run(job).pop() {
            Some(Done::Entries { entries, end }) => {
                assert!(entries.len() <= max);
                out.extend(entries);
                if end {
                    return out;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the walk does not end");
}

fn jail_root(rig: &mut Rig, at: &[u8], name: &[u8]) {
    rig.run(Job::AddRoot(SourceRoot { location: Location::Jail(at.to_vec()), name: name.to_vec() }));
}

fn plant_tree(rig: &mut Rig) {
    let file = |data: &[u8]| Seen::File(data.to_vec(), META);
    rig.plant(b"t/a/x", &file(b"x"));
    rig.plant(b"t/a-b", &file(b"dash"));
    rig.plant(b"t/a/.fulmar-abc.part", &file(b"hidden"));
    rig.plant(b"t/.fulmar-dir/x", &file(b"hidden"));
    rig.plant(b"t/b/empty", &Seen::Dir);
    rig.plant(b"t/big", &file(&noise(3, 5000)));
    rig.plant(b"t/l\xff", &Seen::Link(b"../../out".to_vec()));
    rig.plant(b"t/zero", &file(b""));
}

fn told(entries: &[Result<SourceEntry, EntryError>]) -> Vec<(EntryKind, Vec<u8>)> {
    entries.iter().map(|e| e.as_ref().unwrap()).map(|e| (e.kind, e.path.clone())).collect()
}

#[test]
fn walks_are_depth_first_and_sorted() {
    use EntryKind::*;
    for max in [1, 2, 3, 100] {
        Rig::both(|rig| {
            plant_tree(rig);
            jail_root(rig, b"t", b"n");
            let entries = walk(rig, max, false);
            let expected: &[(EntryKind, &[u8])] = &[
                (Dir, b"n"),
                (Dir, b"n/a"),
                (File, b"n/a/x"),
                (DirEnd, b"n/a"),
                (File, b"n/a-b"),
                (Dir, b"n/b"),
                (Dir, b"n/b/empty"),
                (DirEnd, b"n/b/empty"),
                (DirEnd, b"n/b"),
                (File, b"n/big"),
                (Symlink, b"n/l\xff"),
                (File, b"n/zero"),
                (DirEnd, b"n"),
            ];
            let expected: Vec<_> = expected.iter().map(|(k, p)| (*k, p.to_vec())).collect();
            assert_eq!(told(&entries), expected);
            for entry in entries.into_iter().map(Result::unwrap) {
                let plain = entry.kind == File;
                assert_eq!(plain && entry.size <= 2048, entry.inline.is_some());
                if plain {
                    assert_eq!(entry.meta, META);
                }
                if let Some(inline) = entry.inline {
                    assert_eq!((inline.data.len() as u64, sha256(&inline.data)), (entry.size, inline.sha256));
                }
                if entry.kind == Symlink {
                    assert_eq!((entry.target.as_slice(), entry.meta.mode), (b"../../out".as_slice(), 0));
                }
            }
        });
    }
}

#[test]
fn roots_of_all_kinds() {
    use EntryKind::*;
    Rig::both(|rig| {
        plant_tree(rig);
        jail_root(rig, b"t/big", b"renamed");
        jail_root(rig, b"t/zero", b"");
        jail_root(rig, b"t/b", b"");
        jail_root(rig, b"missing", b"m");
        jail_root(rig, b"../t", b"m");
        jail_root(rig, b"/t", b"m");
        jail_root(rig, b"t/.fulmar-dir", b"m");
        let mut entries = walk(rig, 2, false);
        let errors: Vec<_> =
            entries.extract_if(.., |e| e.is_err()).map(|e| e.unwrap_err().error.kind).collect();
        assert_eq!(errors, [K::NotFound, K::Forbidden, K::Forbidden, K::Forbidden]);
        let expected = [(File, b"renamed".to_vec()), (File, b"zero".to_vec())];
        assert_eq!(told(&entries)[..2], expected);
        assert_eq!(told(&entries)[2..], [(Dir, b"empty".to_vec()), (DirEnd, b"empty".to_vec())]);
        assert_eq!(entries[0].as_ref().unwrap().below, b"");
        // More roots later: the walk goes on.
        jail_root(rig, b"t/a", b"late");
        assert_eq!(walk(rig, 10, false).len(), 3);
        rig.session = 2;
        jail_root(rig, b"", b"");
        assert_eq!(walk(rig, 100, false).len(), 13);
    });
}

#[test]
fn lists_are_one_level_deep() {
    use EntryKind::*;
    Rig::both(|rig| {
        plant_tree(rig);
        jail_root(rig, b"t", b"");
        let expected: &[(EntryKind, &[u8])] =
            &[(Dir, b"a"), (File, b"a-b"), (Dir, b"b"), (File, b"big"), (Symlink, b"l\xff"), (File, b"zero")];
        let expected: Vec<_> = expected.iter().map(|(k, p)| (*k, p.to_vec())).collect();
        let entries = walk(rig, 2, true);
        assert_eq!(told(&entries), expected);
        assert!(entries.iter().all(|e| e.as_ref().unwrap().inline.is_none()));
        assert_eq!(entries[3].as_ref().unwrap().size, 5000);
        rig.session = 2;
        jail_root(rig, b"t/big", b"");
        assert_eq!(told(&walk(rig, 2, true)), [(File, b"big".to_vec())]);
    });
}

pub(super) fn open_source(rig: &mut Rig, entry: &SourceEntry) -> FileId {
    let file = rig.file_id();
    rig.run(Job::OpenSource {
        file,
        root: entry.root,
        below: entry.below.clone(),
        size: entry.size,
        meta: entry.meta,
        chunk_size: CHUNK,
        compress: Compression::Auto,
    });
    file
}

fn big_source(rig: &mut Rig) -> (FileId, Vec<u8>) {
    let data = noise(9, 5000);
    rig.plant(b"s/d/big", &Seen::File(data.clone(), META));
    jail_root(rig, b"s", b"n");
    let entry = walk(rig, 100, false).into_iter().map(Result::unwrap).find(|e| e.size == 5000).unwrap();
    assert_eq!(entry.below, b"d/big");
    (open_source(rig, &entry), data)
}

fn read(rig: &mut Rig, file: FileId, chunk: u64) -> Result<Vec<u8>, StoreError> {
    match rig.run(Job::ReadChunk { file, chunk, budget: Default::default() }).pop() {
        Some(Done::Chunk { codec, plain_bytes, crc32: crc, data, .. }) => {
            let plain = crate::codec::chunk::decode_chunk(codec, &data, plain_bytes as usize).unwrap();
            assert_eq!(crc32(&plain), crc);
            Ok(plain.to_vec())
        }
        Some(Done::SourceFailed { error, .. }) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn finish(rig: &mut Rig, file: FileId) -> Result<[u8; 32], StoreError> {
    match rig.run(Job::FinishSource { file }).pop() {
        Some(Done::SourceDigest { sha256, .. }) => Ok(sha256),
        Some(Done::SourceFailed { error, .. }) => Err(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sources_are_read_hashed_and_read_again() {
    Rig::both(|rig| {
        let (file, data) = big_source(rig);
        // Some are skipped, one is asked for twice, one is out of order.
        for chunk in [0, 1, 1, 4, 3] {
            let start = chunk as usize * 1024;
            assert_eq!(read(rig, file, chunk).unwrap(), data[start..data.len().min(start + 1024)]);
        }
        assert_eq!(finish(rig, file).unwrap(), sha256(&data));
        assert_eq!(read(rig, file, 2).unwrap(), data[2048..3072]);
        assert_eq!(finish(rig, file).unwrap(), sha256(&data));
        assert!(read(rig, file, 5).is_err());
        rig.run(Job::CloseSource { file });
        assert!(rig.run(Job::ReadChunk { file, chunk: 0, budget: Default::default() }).is_empty());
    });
}

#[test]
fn a_source_that_changes_is_noticed() {
    let other = Meta { mtime_ns: 5, ..META };
    for (len, meta) in [(5000, other), (4000, META), (6000, META)] {
        Rig::both(|rig| {
            let (file, _) = big_source(rig);
            read(rig, file, 0).unwrap();
            rig.plant(b"s/d/big", &Seen::File(noise(1, len), meta));
            let error = (1..5).find_map(|chunk| read(rig, file, chunk).err());
            let error = error.unwrap_or_else(|| finish(rig, file).unwrap_err());
            assert_eq!(error.kind, K::SourceChanged);
            assert!(error.message.starts_with("n/d/big: changed while it was being read"), "{error}");
        });
    }
}
