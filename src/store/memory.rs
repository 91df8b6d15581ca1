//! Role: a store without a disk, for simulation, tests and benchmarks, under the same rules as `file`.
//! Owns: one tree of files, directories and links, the partials, and per session its walk, sources and sinks.
//! Implements: docs/PROTOCOL.md, "Files".

mod offers;
mod sink;
mod source;

use super::names::join;
use super::{SessionKey, Store, may_begin_session};
use crate::codec::chunk::Encoder;
use crate::transfer::job::{Done, EntryKind, FileId, Job, Location, Meta, StoreErrorKind};
use crate::transfer::sync::SyncOptions;
use bytes::Bytes;
use sink::{Partial, Receiving};
use source::Sending;
use std::collections::{BTreeMap, HashMap};

/// Files larger than this are refused as if the disk were full, unless `set_capacity` says otherwise.
/// Own choice: more than any benchmark needs, less than would hurt a test machine (pages are touched lazily).
const DEFAULT_CAPACITY_BYTES: u64 = 8 << 30;
/// The file in the tree that stands for standard input.
const STREAM: &[u8] = b".fulmar-stdin";
/// Where `Location::Scratch` lies in the tree; peers cannot name it.
const SCRATCH_DIR: &[u8] = b".fulmar-scratch-memory";

/// Bytes of a file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// As they are.
    Bytes(Bytes),
    /// Made up while they are read: reproducible noise of any size that costs no memory.
    Pattern {
        /// Another seed, other bytes.
        seed: u64,
        /// Length in bytes.
        size: u64,
    },
}

impl Content {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { size, .. } => *size,
        }
    }

    /// Up to `len` bytes from `offset` on; fewer at the end.
    pub fn read(&self, offset: u64, len: usize) -> Bytes {
        let end = self.size().min(offset.saturating_add(len as u64));
        let start = offset.min(end);
        match self {
            Self::Bytes(bytes) => bytes.slice(start as usize..end as usize),
            Self::Pattern { seed, .. } => {
                let mut out = Vec::with_capacity((end - start) as usize + 16);
                let skip = (start % 8) as usize;
                for word in start / 8..end.div_ceil(8) {
                    out.extend_from_slice(&splitmix64(seed.wrapping_add(word)).to_le_bytes());
                }
                Bytes::from(out).slice(skip..skip + (end - start) as usize)
            }
        }
    }
}

/// One step of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), used as a hash of the position.
fn splitmix64(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(Content, Meta),
    /// A directory.
    Dir(Meta),
    /// A symbolic link with its target.
    Symlink(Vec<u8>, Meta),
}

/// All nodes by path. The map's order is the walk's order: keys have NUL for `/`, so that a directory is followed
/// by everything inside it before any sibling (`a`, `a/x`, `a-b`).
#[derive(Debug, Default)]
struct Tree(BTreeMap<Vec<u8>, Node>);

/// The map key of a path.
fn key(path: &[u8]) -> Vec<u8> {
    path.iter().map(|&b| if b == b'/' { 0 } else { b }).collect()
}

/// The path of a map key.
fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect()
}

impl Tree {
    fn get(&self, path: &[u8]) -> Option<&Node> {
        self.0.get(&key(path))
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || matches!(self.get(path), Some(Node::Dir(_)))
    }

    fn insert(&mut self, path: &[u8], node: Node) {
        self.make_parents(path);
        self.0.insert(key(path), node);
    }

    fn make_parents(&mut self, path: &[u8]) {
        let mut at = path;
        while let Some(slash) = at.iter().rposition(|&b| b == b'/') {
            at = &at[..slash];
            self.0.entry(key(at)).or_insert_with(|| Node::Dir(Meta { mode: 0o755, ..Meta::default() }));
        }
    }

    /// Removes a node and everything below it.
    fn remove(&mut self, path: &[u8]) {
        let top = key(path);
        let below = [top.as_slice(), &[0]].concat();
        self.0.retain(|k, _| *k != top && !k.starts_with(&below));
    }
}

/// Faults to be injected; each is off by default.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// Bytes that may still be written, then every write fails so.
    write_fails: Option<(u64, StoreErrorKind)>,
    /// The chunk of which one byte is flipped once before its check.
    flip_chunk: Option<u64>,
    /// The chunk of which one byte is flipped once after its check.
    rot_chunk: Option<u64>,
}

#[derive(Debug, Default)]
struct SessionState {
    sending: Sending,
    receiving: Receiving,
    options: SyncOptions,
}

/// A store in memory. See the module's head.
#[derive(Debug)]
pub struct MemoryStore {
    tree: Tree,
    /// Kept partials by final path (scratch area included).
    partials: HashMap<Vec<u8>, Partial>,
    sessions: HashMap<SessionKey, SessionState>,
    faults: Faults,
    capacity_bytes: u64,
    /// Without a clock: what it chooses depends on what came before alone.
    encoder: Encoder,
    /// Files that another session has just taken over, and why.
    taken: Vec<(SessionKey, FileId, crate::transfer::job::StoreError)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            tree: Tree::default(),
            partials: HashMap::new(),
            sessions: HashMap::new(),
            faults: Faults::default(),
            capacity_bytes: DEFAULT_CAPACITY_BYTES,
            encoder: Encoder::default(),
            taken: Vec::new(),
        }
    }

    /// Puts a file into the tree (parents are made), replacing what was there; later reads see it, so this also is
    /// how a source changes in mid-transfer. Local and jail paths share the one tree; leading slashes are dropped.
    pub fn insert_file(&mut self, path: &[u8], content: Content, meta: Meta) {
        self.tree.insert(stripped(path), Node::File(content, meta));
    }

    /// Puts plain bytes into the tree, with mode 0644 and mtime 0.
    pub fn insert(&mut self, path: &[u8], data: impl Into<Bytes>) {
        self.insert_file(path, Content::Bytes(data.into()), Meta { mode: 0o644, ..Meta::default() });
    }

    /// Puts an (empty) directory into the tree.
    pub fn insert_dir(&mut self, path: &[u8], meta: Meta) {
        self.tree.insert(stripped(path), Node::Dir(meta));
    }

    /// Puts a symbolic link into the tree.
    pub fn insert_symlink(&mut self, path: &[u8], target: &[u8]) {
        self.tree.insert(stripped(path), Node::Symlink(target.to_vec(), Meta::default()));
    }

    /// What standard input holds.
    pub fn insert_stream(&mut self, content: Content) {
        self.tree.insert(STREAM, Node::File(content, Meta { mode: 0o644, ..Meta::default() }));
    }

    /// Removes a node and everything below it.
    pub fn remove(&mut self, path: &[u8]) {
        self.tree.remove(stripped(path));
    }

    /// The whole contents of the file under this name, if it is one.
    pub fn get(&self, path: &[u8]) -> Option<Bytes> {
        match self.tree.get(stripped(path))? {
            Node::File(content, _) => Some(content.read(0, content.size() as usize)),
            _ => None,
        }
    }

    /// What stands under this name.
    pub fn node(&self, path: &[u8]) -> Option<&Node> {
        self.tree.get(stripped(path))
    }

    /// All nodes with their paths, depth first, each directory's names in order; scratch space left out.
    pub fn nodes(&self) -> impl Iterator<Item = (Vec<u8>, &Node)> {
        self.tree
            .0
            .iter()
            .filter(|(k, _)| !k.starts_with(SCRATCH_DIR) && *k != STREAM)
            .map(|(k, node)| (path_of(k), node))
    }

    /// How many partials are kept for resume, and how many files are open for writing.
    pub fn partial_count(&self) -> (usize, usize) {
        let open = self.sessions.values().map(|s| s.receiving.open_count()).sum();
        (self.partials.len(), open)
    }

    /// The process that had this store open is gone, and another one opens it: what was under way is kept as partials.
    pub fn reopen(&mut self) {
        let sessions: Vec<SessionKey> = self.sessions.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.end_session(session));
    }

    /// Everything kept for resume is lost, as if the partials had expired.
    pub fn clear_partials(&mut self) {
        self.partials.clear();
    }

    /// Fault: after `bytes` more written bytes every write fails with `kind`; `None` heals.
    pub fn fail_writes_after(&mut self, fault: Option<(u64, StoreErrorKind)>) {
        self.faults.write_fails = fault;
    }

    /// Fault: the next time that chunk number `chunk` of any file is checked, one of its bytes has been flipped.
    pub fn flip_chunk_once(&mut self, chunk: u64) {
        self.faults.flip_chunk = Some(chunk);
    }

    /// Fault: chunk number `chunk` of a file loses a bit after it was checked, and before it is in the digest.
    pub fn rot_chunk_once(&mut self, chunk: u64) {
        self.faults.rot_chunk = Some(chunk);
    }

    /// Files larger than this are refused at `Begin` as if the disk were full.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// The path in the one tree that a location stands for.
    fn tree_path(location: &Location) -> Vec<u8> {
        match location {
            Location::Local(path) => stripped(path).to_vec(),
            Location::Jail(path) => path.clone(),
            Location::Stream => STREAM.to_vec(),
            Location::Scratch(path) => join(SCRATCH_DIR, path),
        }
    }
}

/// A path without the slashes at its ends.
fn stripped(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&b| b != b'/').map_or(start, |at| at + 1);
    &path[start..end]
}

impl Store for MemoryStore {
    fn run(&mut self, session: SessionKey, job: Job, done: &mut Vec<(SessionKey, Done)>) {
        if !self.sessions.contains_key(&session) && !may_begin_session(&job) {
            return;
        }
        let out = &mut |answer| done.push((session, answer));
        match job {
            Job::AddRoot(root) => self.sending(session).add_root(root),
            Job::NextEntries { max_entries, inline_max_bytes, list_only } => {
                out(self.next_entries(session, max_entries, inline_max_bytes, list_only));
            }
            Job::OpenSource { file, root, below, size, meta, chunk_size, compress } => {
                self.sending(session).open(file, root, below, size, meta, chunk_size, compress);
            }
            Job::ReadChunk { file, chunk, budget } => self.read_chunk(session, (file, chunk), budget, out),
            Job::FinishSource { file } => self.finish_source(session, file, out),
            Job::HashSource { file } => self.hash_source(session, file, out),
            Job::FindEntry { file, root, below, inline_max_bytes } => {
                out(self.find_entry(session, file, root, &below, inline_max_bytes));
            }
            Job::SetOptions(options) => self.sessions.entry(session).or_default().options = *options,
            Job::Offer(offer) => self.offer(session, *offer, out),
            Job::Compare { .. } => {}
            Job::CloseSource { file } => self.sending(session).close(file),
            Job::SetDest(dest) => out(Done::DestSet(self.set_dest(session, &dest))),
            Job::Continue => self.receiving(session).set_continued(),
            Job::Begin(entry) => self.begin(session, *entry, out),
            Job::Write { file, offset, data } => self.write(session, file, offset, &data, out),
            Job::FinishChunk { file, chunk, crc32 } => self.finish_chunk(session, file, chunk, crc32, out),
            Job::WriteEncoded { file, chunk, codec, crc32, data } => {
                self.write_encoded(session, file, chunk, codec, crc32, &data, out);
            }
            Job::SetSize { file, bytes } => self.set_size(session, file, bytes),
            Job::Commit { file, sha256 } => self.commit(session, file, sha256, out),
            Job::Abort { file, keep_partial } => self.abort(session, file, keep_partial, out),
            // The memory store remembers no manifest: a removal finds nothing.
            Job::RemoveExtra => out(Done::Removed { paths: Vec::new(), more: false, error: None }),
            Job::RemoveScratch(path) => self.tree.remove(&join(SCRATCH_DIR, &path)),
            Job::EndSession => self.end_session(session),
        }
        for (session, file, error) in std::mem::take(&mut self.taken) {
            done.push((session, Done::SinkFailed { file, error }));
            self.release_ends(session, &mut |answer| done.push((session, answer)));
        }
    }

    fn idle(&mut self, _done: &mut Vec<(SessionKey, Done)>) {}
}

impl MemoryStore {
    fn sending(&mut self, session: SessionKey) -> &mut Sending {
        &mut self.sessions.entry(session).or_default().sending
    }

    fn receiving(&mut self, session: SessionKey) -> &mut Receiving {
        &mut self.sessions.entry(session).or_default().receiving
    }

    fn end_session(&mut self, session: SessionKey) {
        let Some(state) = self.sessions.remove(&session) else { return };
        let (sinks, scratch) = state.receiving.into_parts();
        for sink in sinks {
            self.keep_partial(sink);
        }
        for path in scratch {
            self.tree.remove(&join(SCRATCH_DIR, &path));
        }
    }
}

/// What a sent entry of this node is called in the manifest.
fn kind_of(node: &Node) -> EntryKind {
    match node {
        Node::File(..) => EntryKind::File,
        Node::Dir(_) => EntryKind::Dir,
        Node::Symlink(..) => EntryKind::Symlink,
    }
}

/// Answers of one job.
type Out<'a> = &'a mut dyn FnMut(Done);

/// A file of a session.
type Files<T> = HashMap<FileId, T>;
