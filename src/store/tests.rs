//! Role: tests of the stores. Everything that both must do alike runs against both (`rules`, `random`, `walks`);
//! what only one of them can do is in `disk` and `memory`, the pure parts are in `pure`.
//! Owns: nothing.
//! Implements: docs/PROTOCOL.md, "Files".

mod disk;
mod faulty;
mod memory;
mod neighbours;
mod pure;
mod quota;
mod random;
mod resume;
mod rules;
mod walks;

use super::digest::sha256;
use super::file::{FileOptions, FileStore};
use super::memory::{Content, MemoryStore, Node};
use super::{SessionKey, Store};
use crate::codec::chunk::{crc32, encode_chunk};
use crate::transfer::job::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What stands under a name, as far as both stores must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    File(Vec<u8>, Meta),
    /// Mode and mtime only where a directory end has set them.
    Dir,
    Link(Vec<u8>),
}

pub(super) enum Backing {
    Disk(Box<FileStore>, tempfile::TempDir),
    Memory(Box<MemoryStore>),
}

/// A store and the session that a test speaks for.
pub(super) struct Rig {
    pub(super) backing: Backing,
    pub(super) session: SessionKey,
    next_file: u64,
}

pub(super) const META: Meta = Meta { mode: 0o640, mtime_s: 1_600_000_000, mtime_ns: 123_456_789 };
pub(super) const CHUNK: u32 = 1024;

pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl Rig {
    pub(super) fn disk() -> Self {
        Self::disk_in(&std::env::temp_dir())
    }

    /// On a memory-backed file system where there is one, for tests of many small syncs.
    pub(super) fn fast_disk() -> Self {
        let fast = Path::new("/dev/shm");
        if fast.is_dir() { Self::disk_in(fast) } else { Self::disk() }
    }

    fn disk_in(base: &Path) -> Self {
        let dir = tempfile::tempdir_in(base).unwrap();
        let jail = dir.path().join("jail");
        std::fs::create_dir(&jail).unwrap();
        let store = FileStore::open(&jail, FileOptions::default()).unwrap();
        Self { backing: Backing::Disk(Box::new(store), dir), session: 1, next_file: 0 }
    }

    pub(super) fn memory() -> Self {
        Self { backing: Backing::Memory(Box::default()), session: 1, next_file: 0 }
    }

    /// Runs a test against both stores.
    pub(super) fn both(test: impl Fn(&mut Self)) {
        test(&mut Self::memory());
        test(&mut Self::fast_disk());
    }

    pub(super) fn jail(&self) -> PathBuf {
        match &self.backing {
            Backing::Disk(_, dir) => dir.path().join("jail"),
            Backing::Memory(_) => panic!("not on disk"),
        }
    }

    pub(super) fn is_disk(&self) -> bool {
        matches!(self.backing, Backing::Disk(..))
    }

    pub(super) fn store(&mut self) -> &mut dyn Store {
        match &mut self.backing {
            Backing::Disk(store, _) => &mut **store,
            Backing::Memory(store) => &mut **store,
        }
    }

    /// Runs a job without letting the batch end.
    pub(super) fn run(&mut self, job: Job) -> Vec<Done> {
        let (session, mut done) = (self.session, Vec::new());
        self.store().run(session, job, &mut done);
        assert!(done.iter().all(|(s, _)| *s == session));
        done.into_iter().map(|(_, d)| d).collect()
    }

    pub(super) fn idle(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        self.store().idle(&mut done);
        done.into_iter().map(|(_, d)| d).collect()
    }

    pub(super) fn run_idle(&mut self, job: Job) -> Vec<Done> {
        let mut done = self.run(job);
        done.extend(self.idle());
        done
    }

    pub(super) fn set_dest(
        &mut self,
        at: &[u8],
        into_dir: bool,
        overwrite: Overwrite,
    ) -> Result<(), StoreError> {
        let location = Location::Jail(at.to_vec());
        self.set_dest_full(Dest { location, into_dir, overwrite, no_resume: false, name_prefix: Vec::new() })
    }

    pub(super) fn set_dest_full(&mut self, dest: Dest) -> Result<(), StoreError> {
        match self.run_idle(Job::SetDest(dest)).pop() {
            Some(Done::DestSet(result)) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn file_id(&mut self) -> FileId {
        self.next_file += 1;
        FileId(self.next_file)
    }

    pub(super) fn entry(&mut self, at: &[u8], kind: EntryKind) -> BeginEntry {
        BeginEntry {
            file: self.file_id(),
            path: at.to_vec(),
            kind,
            // Directories must stay passable for whoever runs the tests.
            meta: Meta { mode: if kind == EntryKind::File { META.mode } else { 0o750 }, ..META },
            size: 0,
            chunk_size: CHUNK,
            target: Vec::new(),
            inline: None,
        }
    }

    /// Begins an entry that is answered with `Committed`.
    pub(super) fn begin(&mut self, entry: BeginEntry) -> Result<Option<[u8; 32]>, StoreError> {
        let id = entry.file;
        match self.run_idle(Job::Begin(Box::new(entry))).pop() {
            Some(Done::Committed { file, result }) => {
                assert_eq!(file, id);
                result
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn put_inline(&mut self, at: &[u8], data: &[u8]) -> Result<(), StoreError> {
        let mut entry = self.entry(at, EntryKind::File);
        entry.size = data.len() as u64;
        entry.inline = Some(Inline { data: Bytes::copy_from_slice(data), sha256: sha256(data) });
        self.begin(entry).map(|digest| assert_eq!(digest, Some(sha256(data))))
    }

    pub(super) fn put_dir(&mut self, at: &[u8]) -> Result<(), StoreError> {
        let entry = self.entry(at, EntryKind::Dir);
        self.begin(entry).map(|digest| assert_eq!(digest, None))
    }

    pub(super) fn put_dir_end(&mut self, at: &[u8]) -> Result<(), StoreError> {
        let entry = self.entry(at, EntryKind::DirEnd);
        self.begin(entry).map(|digest| assert_eq!(digest, None))
    }

    pub(super) fn put_link(&mut self, at: &[u8], target: &[u8]) -> Result<(), StoreError> {
        let mut entry = self.entry(at, EntryKind::Symlink);
        entry.target = target.to_vec();
        self.begin(entry).map(|digest| assert_eq!(digest, None))
    }

    /// Opens a big file for writing.
    pub(super) fn open(&mut self, at: &[u8], size: u64) -> Result<FileId, StoreError> {
        let mut entry = self.entry(at, EntryKind::File);
        entry.size = size;
        let id = entry.file;
        match self.run_idle(Job::Begin(Box::new(entry))).pop() {
            Some(Done::Began { file, result }) => {
                assert_eq!(file, id);
                result.map(|_| id)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sends one chunk of `data`, plain in pieces or encoded.
    pub(super) fn send_chunk(&mut self, file: FileId, data: &[u8], chunk: u64, encoded: bool) -> Vec<Done> {
        let start = chunk as usize * CHUNK as usize;
        let plain = &data[start..data.len().min(start + CHUNK as usize)];
        if encoded {
            let e = encode_chunk(Bytes::copy_from_slice(plain), Compression::Lz4);
            return self.run(Job::WriteEncoded { file, chunk, codec: e.codec, crc32: e.crc32, data: e.data });
        }
        let mut done = Vec::new();
        for (i, piece) in plain.chunks(300).enumerate() {
            let offset = (start + i * 300) as u64;
            done.extend(self.run(Job::Write { file, offset, data: Bytes::copy_from_slice(piece) }));
        }
        done.extend(self.run(Job::FinishChunk { file, chunk, crc32: crc32(plain) }));
        done
    }

    pub(super) fn commit(&mut self, file: FileId, data: &[u8]) -> Result<(), StoreError> {
        match self.run_idle(Job::Commit { file, sha256: sha256(data) }).pop() {
            Some(Done::Committed { result, .. }) => result.map(|d| assert_eq!(d, Some(sha256(data)))),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn put_big(&mut self, at: &[u8], data: &[u8]) -> Result<(), StoreError> {
        let file = self.open(at, data.len() as u64)?;
        let count = data.len().div_ceil(CHUNK as usize) as u64;
        for chunk in (0..count).rev() {
            let done = self.send_chunk(file, data, chunk, chunk % 2 == 0);
            let ok = matches!(done.last(), Some(Done::ChunkStored { ok: true, .. }));
            assert!(ok, "{done:?}");
        }
        self.commit(file, data)
    }

    /// Puts something there by other means than the store.
    pub(super) fn plant(&mut self, at: &[u8], seen: &Seen) {
        match &mut self.backing {
            Backing::Memory(store) => match seen {
                Seen::File(data, meta) => {
                    store.insert_file(at, Content::Bytes(Bytes::copy_from_slice(data)), *meta)
                }
                Seen::Dir => store.insert_dir(at, META),
                Seen::Link(target) => store.insert_symlink(at, target),
            },
            Backing::Disk(_, dir) => {
                let full = dir.path().join("jail").join(path(at));
                std::fs::create_dir_all(full.parent().unwrap()).unwrap();
                match seen {
                    Seen::File(data, meta) => write_file(&full, data, *meta),
                    Seen::Dir => std::fs::create_dir_all(&full).unwrap(),
                    Seen::Link(target) => std::os::unix::fs::symlink(path(target), &full).unwrap(),
                }
            }
        }
    }

    /// Everything that is visible; hidden files are listed too, since there should be none.
    pub(super) fn all(&self) -> BTreeMap<Vec<u8>, Seen> {
        let mut out = BTreeMap::new();
        match &self.backing {
            Backing::Memory(store) => {
                for (p, node) in store.nodes() {
                    let seen = match node {
                        Node::File(content, meta) => {
                            Seen::File(content.read(0, content.size() as usize).to_vec(), *meta)
                        }
                        Node::Dir(_) => Seen::Dir,
                        Node::Symlink(target, _) => Seen::Link(target.clone()),
                    };
                    out.insert(p, seen);
                }
            }
            Backing::Disk(_, dir) => gather(&dir.path().join("jail"), b"", &mut out),
        }
        out
    }

    pub(super) fn seen(&self, at: &[u8]) -> Option<Seen> {
        self.all().remove(at)
    }

    pub(super) fn data(&self, at: &[u8]) -> Option<Vec<u8>> {
        match self.seen(at) {
            Some(Seen::File(data, _)) => Some(data),
            _ => None,
        }
    }
}

pub(super) fn write_file(full: &Path, data: &[u8], meta: Meta) {
    std::fs::write(full, data).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(meta.mtime_s as u64, meta.mtime_ns);
    std::fs::File::options().write(true).open(full).unwrap().set_modified(time).unwrap();
    std::fs::set_permissions(full, std::fs::Permissions::from_mode(meta.mode)).unwrap();
}

fn gather(dir: &Path, below: &[u8], out: &mut BTreeMap<Vec<u8>, Seen>) {
    for item in std::fs::read_dir(dir).unwrap() {
        let item = item.unwrap();
        let at = super::names::join(below, item.file_name().as_bytes());
        let meta = std::fs::symlink_metadata(item.path()).unwrap();
        let seen = if meta.is_dir() {
            gather(&item.path(), &at, out);
            Seen::Dir
        } else if meta.is_symlink() {
            Seen::Link(std::fs::read_link(item.path()).unwrap().into_os_string().into_vec())
        } else {
            let mode = meta.mode() & 0o7777;
            let meta = Meta { mode, mtime_s: meta.mtime(), mtime_ns: meta.mtime_nsec() as u32 };
            Seen::File(std::fs::read(item.path()).unwrap(), meta)
        };
        out.insert(at, seen);
    }
}

pub(super) fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind
}

/// Reproducible bytes that compress a little.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut data = Content::Pattern { seed, size: len as u64 }.read(0, len).to_vec();
    data.iter_mut().skip(7).step_by(3).for_each(|b| *b = 0);
    data
}

/// True for root; says on the test's output what is left out otherwise.
pub(super) fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root ({what})");
    }
    root
}
