//! Role: the sending half of the memory store: walks and chunk reads.
//! Owns: per session, the cursor of its walk and its sources' digests.
//! Implements: docs/PROTOCOL.md, "Files" (sources).

use super::{Content, Files, MemoryStore, Node, Out, key, kind_of, path_of};
use crate::store::SessionKey;
use crate::store::digest::{Layout, Sequential, sha256};
use crate::store::error::{refuse, source_changed};
use crate::store::names::{HIDDEN_PREFIX, check_relative, join, split_last};
use crate::transfer::filter::Filter;
use crate::transfer::job::{
    Compression, Done, EncodeBudget, EntryError, EntryKind, FileId, Inline, Location, Meta, SourceEntry,
    SourceRoot, StoreError, StoreErrorKind, UNKNOWN_SIZE,
};
use bytes::Bytes;
use std::ops::Bound;

#[derive(Debug)]
pub(super) struct Source {
    tree_path: Vec<u8>,
    shown: Vec<u8>,
    pub(super) layout: Layout,
    meta: Meta,
    compress: Compression,
    pub(super) digest: Sequential,
    /// A stream; whether it had nothing to give the last time.
    stream: Option<bool>,
}

impl Source {
    /// Of a stream: its bytes, and whether it makes its reader wait this time.
    fn stream_state(&mut self, tree: &Nodes) -> Option<(u64, bool)> {
        let waits = self.stream.as_mut()?;
        *waits = !*waits;
        match tree.get(&key(&self.tree_path)) {
            Some(Node::File(content, _)) => Some((content.size(), *waits)),
            _ => Some((0, *waits)),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Sending {
    pub(super) roots: Vec<SourceRoot>,
    /// The root being walked.
    at: usize,
    /// Where the next node below it is looked for, as a key; `None`: not begun.
    from: Option<Bound<Vec<u8>>>,
    /// Keys of the directories whose end is still to be told.
    open_dirs: Vec<Vec<u8>>,
    pub(super) sources: Files<Source>,
}

impl Sending {
    pub(super) fn add_root(&mut self, root: SourceRoot) {
        self.roots.push(root);
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one job")]
    pub(super) fn open(
        &mut self,
        file: FileId,
        root: u32,
        below: Vec<u8>,
        size: u64,
        meta: Meta,
        chunk_size: u32,
        compress: Compression,
    ) {
        let Some(root) = self.roots.get(root as usize) else { return };
        let tree_path = join(&MemoryStore::tree_path(&root.location), &below);
        let shown = join(&root.name, &below);
        let layout = Layout { size, chunk_size: chunk_size.max(1) };
        let digest = Sequential::default();
        let stream = (size == UNKNOWN_SIZE).then_some(false);
        self.sources.insert(file, Source { tree_path, shown, layout, meta, compress, digest, stream });
    }

    pub(super) fn close(&mut self, file: FileId) {
        self.sources.remove(&file);
    }
}

impl MemoryStore {
    pub(super) fn next_entries(
        &mut self,
        session: SessionKey,
        max_entries: usize,
        inline_max_bytes: u64,
        list_only: bool,
    ) -> Done {
        let state = self.sessions.entry(session).or_default();
        // It was compiled before the options were taken.
        let filter = Filter::new(&state.options.patterns).unwrap_or_default();
        let (sending, tree) = (&mut state.sending, &self.tree.0);
        let mut entries = Vec::new();
        while entries.len() < max_entries {
            let Some(root) = sending.roots.get(sending.at) else { break };
            let base = Self::tree_path(&root.location);
            let walk = Walk { root: sending.at as u32, name: &root.name, base: &base, inline_max_bytes };
            let base_key = key(&base);
            let Some(from) = &sending.from else {
                match walk.first(&root.location, tree.get(&base_key)) {
                    Ok(is_dir) => {
                        sending.from = Some(Bound::Excluded(base_key.clone()));
                        if root.location == Location::Stream {
                            entries.push(Ok(walk.stream_entry()));
                        } else if !(is_dir && (list_only || root.name.is_empty())) {
                            let node = tree
                                .get(&base_key)
                                .unwrap_or(&Node::Dir(Meta { mode: 0o755, ..Meta::default() }))
                                .clone();
                            entries.push(Ok(walk.entry(b"", &node, kind_of(&node), list_only)));
                        }
                        if is_dir && !list_only {
                            sending.open_dirs.push(base_key);
                        }
                    }
                    Err(error) => {
                        entries.push(Err(error));
                        (sending.at, sending.from) = (sending.at + 1, None);
                    }
                }
                continue;
            };
            let next = tree.range::<[u8], _>((from.as_ref().map(Vec::as_slice), Bound::Unbounded)).next();
            let next = next.filter(|(k, _)| below_key(k, &base_key));
            if let Some(dir) = sending.open_dirs.pop_if(|d| !next.is_some_and(|(k, _)| below_key(k, d))) {
                let below = walk.below(&dir);
                if let Some(node) = tree.get(&dir).filter(|_| !join(walk.name, &below).is_empty()) {
                    entries.push(Ok(walk.entry(&below, node, EntryKind::DirEnd, list_only)));
                }
                continue;
            }
            let Some((found, node)) = next else {
                (sending.at, sending.from) = (sending.at + 1, None);
                continue;
            };
            let below = walk.below(found);
            let hidden = split_last(&below).1.starts_with(HIDDEN_PREFIX)
                || filter.leaves_out(&below, matches!(node, Node::Dir(_)), &[]);
            sending.from = Some(if list_only || hidden {
                // Past everything below it: keys of its children go on with NUL, which no name holds.
                Bound::Included([found.as_slice(), &[1]].concat())
            } else {
                Bound::Excluded(found.clone())
            });
            if matches!(node, Node::Dir(_)) && !list_only && !hidden {
                sending.open_dirs.push(found.clone());
            }
            if !hidden {
                entries.push(Ok(walk.entry(&below, node, kind_of(node), list_only)));
            }
        }
        Done::Entries { entries, end: sending.at >= sending.roots.len() }
    }

    pub(super) fn read_chunk(
        &mut self,
        session: SessionKey,
        (file, chunk): (FileId, u64),
        budget: EncodeBudget,
        out: Out<'_>,
    ) {
        let state = self.sessions.entry(session).or_default();
        let Some(source) = state.sending.sources.get_mut(&file) else { return };
        let mut compress = source.compress;
        if let Some((bytes, waits)) = source.stream_state(&self.tree.0) {
            let at = chunk * u64::from(source.layout.chunk_size);
            // As a pipe does: nothing is there at first, every second time.
            if waits && chunk % 2 == 1 {
                return out(Done::StreamWaits { file, chunk });
            }
            if at >= bytes {
                source.layout.size = bytes;
                return out(Done::StreamEnded { file, bytes });
            }
            if bytes - at < u64::from(source.layout.chunk_size) {
                compress = Compression::None;
            }
        }
        match read(&self.tree.0, source, chunk) {
            Ok(plain) => {
                source.digest.take(chunk, &plain);
                let plain_bytes = plain.len() as u32;
                let encoded = self.encoder.encode(plain, compress, budget, 1);
                let (codec, crc32, data) = (encoded.codec, encoded.crc32, encoded.data);
                out(Done::Chunk { file, chunk, codec, plain_bytes, crc32, data });
            }
            Err(error) => out(Done::SourceFailed { file, read: true, error }),
        }
    }

    pub(super) fn finish_source(&mut self, session: SessionKey, file: FileId, out: Out<'_>) {
        let state = self.sessions.entry(session).or_default();
        let Some(source) = state.sending.sources.get_mut(&file) else { return };
        let result = (|| {
            node_of(&self.tree.0, source)?;
            while source.digest.next() < source.layout.count() {
                let chunk = source.digest.next();
                let plain = read(&self.tree.0, source, chunk)?;
                source.digest.take(chunk, &plain);
            }
            Ok(source.digest.value())
        })();
        out(match result {
            Ok(sha256) => Done::SourceDigest { file, sha256 },
            Err(error) => Done::SourceFailed { file, read: false, error },
        });
    }
}

/// True if `k` is strictly below the directory with key `dir`.
fn below_key(k: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (k.len() > dir.len() && k.starts_with(dir) && k[dir.len()] == 0)
}

type Nodes = std::collections::BTreeMap<Vec<u8>, Node>;

/// The file of a source, if it still is what the walk found.
fn node_of<'a>(tree: &'a Nodes, source: &Source) -> Result<&'a Content, StoreError> {
    match tree.get(&key(&source.tree_path)) {
        Some(Node::File(content, meta)) => {
            let same = source.stream.is_some()
                || content.size() == source.layout.size
                    && (meta.mtime_s, meta.mtime_ns) == (source.meta.mtime_s, source.meta.mtime_ns);
            if same { Ok(content) } else { Err(source_changed(&source.shown)) }
        }
        Some(_) => Err(source_changed(&source.shown)),
        None => Err(not_found(&source.shown)),
    }
}

pub(super) fn not_found(path: &[u8]) -> StoreError {
    refuse(
        StoreErrorKind::NotFound,
        path,
        "cannot be read: there is no such file or directory; check the name",
    )
}

pub(super) fn read(tree: &Nodes, source: &Source, chunk: u64) -> Result<Bytes, StoreError> {
    let content = node_of(tree, source)?;
    let extent = source.layout.extent(chunk);
    let (offset, len) =
        extent.ok_or_else(|| refuse(StoreErrorKind::Io, &source.shown, "has no such chunk"))?;
    Ok(content.read(offset, len))
}

pub(super) struct Walk<'a> {
    pub(super) root: u32,
    pub(super) name: &'a [u8],
    pub(super) base: &'a [u8],
    pub(super) inline_max_bytes: u64,
}

impl Walk<'_> {
    /// Checks the root itself; says whether it is a directory.
    fn first(&self, location: &Location, node: Option<&Node>) -> Result<bool, EntryError> {
        let path = join(self.name, b"");
        let path = if path.is_empty() { self.base.to_vec() } else { path };
        if let Location::Jail(p) | Location::Scratch(p) = location
            && let Err(error) = check_relative(p, true)
        {
            return Err(EntryError { path, error });
        }
        match node {
            Some(Node::Symlink(..)) => {
                let why = "links are not followed by the memory store; name what it points to";
                Err(EntryError { error: refuse(StoreErrorKind::Forbidden, &path, why), path })
            }
            Some(node) => Ok(matches!(node, Node::Dir(_))),
            None if self.base.is_empty() => Ok(true),
            None => Err(EntryError { error: not_found(&path), path }),
        }
    }

    fn below(&self, found: &[u8]) -> Vec<u8> {
        let skip = if self.base.is_empty() { 0 } else { self.base.len() + 1 };
        path_of(found.get(skip..).unwrap_or_default())
    }

    fn stream_entry(&self) -> SourceEntry {
        let meta = Meta { mode: 0o644, ..Meta::default() };
        let node = Node::File(Content::Bytes(Bytes::new()), meta);
        SourceEntry { size: UNKNOWN_SIZE, inline: None, ..self.entry(b"", &node, EntryKind::File, true) }
    }

    pub(super) fn entry(&self, below: &[u8], node: &Node, kind: EntryKind, list_only: bool) -> SourceEntry {
        let mut path = join(self.name, below);
        if path.is_empty() {
            path = split_last(self.base).1.to_vec();
        }
        let mut entry = SourceEntry {
            root: self.root,
            below: below.to_vec(),
            path,
            kind,
            meta: Meta::default(),
            size: 0,
            target: Vec::new(),
            inline: None,
        };
        match node {
            Node::File(content, meta) => {
                (entry.meta, entry.size) = (*meta, content.size());
                if !list_only && entry.size <= self.inline_max_bytes {
                    let data = content.read(0, entry.size as usize);
                    let sha256 = sha256(&data);
                    entry.inline = Some(Inline { data, sha256 });
                }
            }
            Node::Dir(meta) => entry.meta = *meta,
            Node::Symlink(target, meta) => {
                entry.target = target.clone();
                entry.meta = Meta { mode: 0, ..*meta };
            }
        }
        entry
    }
}
