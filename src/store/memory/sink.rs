//! Role: the receiving half of the memory store: entries, chunks, commits, partials.
//! Owns: per session, the destination, the files being received and the directory ends that wait for them.
//! Implements: docs/PROTOCOL.md, "Files" (sinks).

use super::{Content, Files, MemoryStore, Node, Out, SCRATCH_DIR};
use crate::codec::chunk::{crc32, decode_chunk};
use crate::store::SessionKey;
use crate::store::dest::{DestPlan, Space, checked};
use crate::store::digest::{Layout, RangeSet, Received, sha256};
use crate::store::error::{busy, digest_mismatch, exists, forbidden, refuse, wrong_kind};
use crate::store::names::{is_below, join, split_first};
use crate::transfer::job::{
    BeginEntry, ChunkCodec, Dest, Done, EntryKind, FileId, Location, Meta, Overwrite, StoreError,
    StoreErrorKind, UNKNOWN_SIZE,
};
use crate::wire::MAX_FILE_BYTES;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;

/// What is kept of an unfinished file.
#[derive(Debug)]
pub(super) struct Partial {
    data: Vec<u8>,
    layout: Layout,
    meta: Meta,
    whole: RangeSet,
}

/// A file being received.
#[derive(Debug)]
pub(super) struct Sink {
    /// Where it will stand in the tree.
    place: Vec<u8>,
    /// Its manifest path, for messages.
    shown: Vec<u8>,
    data: Vec<u8>,
    received: Received,
    meta: Meta,
    overwrite: Overwrite,
    /// It stands under its name already: an earlier session of the request has brought it.
    standing: bool,
    /// What the chunks were when they were checked.
    crcs: HashMap<u64, u32>,
    /// It began with an unknown size.
    stream: bool,
}

#[derive(Debug)]
struct WaitingEnd {
    file: FileId,
    place: Vec<u8>,
    shown: Vec<u8>,
    meta: Meta,
}

#[derive(Debug, Default)]
pub(super) struct Receiving {
    pub(super) plan: Option<DestPlan>,
    /// An earlier session of the same request may have brought files already.
    continued: bool,
    sinks: Files<Sink>,
    waiting: Vec<WaitingEnd>,
    scratch: Vec<Vec<u8>>,
}

impl Receiving {
    pub(super) fn set_continued(&mut self) {
        self.continued = true;
    }

    pub(super) fn open_count(&self) -> usize {
        self.sinks.len()
    }

    pub(super) fn into_parts(self) -> (impl Iterator<Item = Sink>, Vec<Vec<u8>>) {
        (self.sinks.into_values(), self.scratch)
    }
}

impl MemoryStore {
    pub(super) fn set_dest(&mut self, session: SessionKey, dest: &Dest) -> Result<(), StoreError> {
        let (space, path) = checked(dest)?;
        let base = Self::tree_path(&dest.location);
        self.no_link_above(&base, path)?;
        let plan = DestPlan::new(dest, self.tree.is_dir(&base))?;
        let base = in_space(space, &plan.base);
        match self.tree.get(&base) {
            None | Some(Node::Dir(_)) => {}
            Some(_) => {
                return Err(wrong_kind(path, "is not a directory; name a directory or choose another name"));
            }
        }
        if !base.is_empty() && !self.tree.is_dir(&base) && !self.session_options(session).dry_run {
            self.tree.insert(&base, Node::Dir(Meta { mode: 0o755, ..Meta::default() }));
        }
        let receiving = self.receiving(session);
        if space == Space::Scratch {
            receiving.scratch.push(split_first(path).0.to_vec());
        }
        receiving.plan = Some(plan);
        Ok(())
    }

    /// No proper ancestor of `place` may be a link or a file.
    pub(super) fn no_link_above(&self, place: &[u8], shown: &[u8]) -> Result<(), StoreError> {
        let mut at = place;
        while let Some(slash) = at.iter().rposition(|&b| b == b'/') {
            at = &at[..slash];
            match self.tree.get(at) {
                Some(Node::Symlink(..)) => {
                    return Err(forbidden(shown, "leads through a link; nothing is written through links"));
                }
                Some(Node::File(..)) => {
                    return Err(wrong_kind(
                        shown,
                        "a file stands where a directory is needed; rename one of them",
                    ));
                }
                Some(Node::Dir(_)) | None => {}
            }
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, session: SessionKey, entry: BeginEntry, out: Out<'_>) {
        let file = entry.file;
        let streamed = entry.kind == EntryKind::File && entry.inline.is_none();
        if self.session_options(session).offers()
            && let Some(answer) = self.begin_compared(session, &entry)
        {
            return out(answer);
        }
        let result = self.begin_entry(session, entry);
        match result {
            Ok(Begun::Open(have)) => out(Done::Began { file, result: Ok(have) }),
            Ok(Begun::Placed(digest)) => out(Done::Committed { file, result: Ok(digest) }),
            Ok(Begun::Waits) => self.release_ends(session, out),
            Err(error) if streamed => out(Done::Began { file, result: Err(error) }),
            Err(error) => out(Done::Committed { file, result: Err(error) }),
        }
    }

    fn begin_entry(&mut self, session: SessionKey, entry: BeginEntry) -> Result<Begun, StoreError> {
        let receiving = self.receiving(session);
        let Some(plan) = &mut receiving.plan else {
            return Err(refuse(StoreErrorKind::Io, &entry.path, "came before its destination was set"));
        };
        let (space, overwrite, no_resume) = (plan.space, plan.overwrite, plan.no_resume);
        let place = plan.place(&entry.path, entry.kind)?;
        let place = in_space(space, &join(&plan.base, &place));
        self.no_link_above(&place, &entry.path)?;
        if entry.kind != EntryKind::DirEnd {
            self.tree.make_parents(&place);
        }
        match entry.kind {
            EntryKind::Dir => match self.tree.get(&place) {
                None => self.tree.insert(&place, Node::Dir(Meta { mode: 0o755, ..Meta::default() })),
                Some(Node::Dir(_)) => {}
                Some(_) => {
                    let why = "a file stands where a directory is needed; rename one of them";
                    return Err(wrong_kind(&entry.path, why));
                }
            },
            EntryKind::DirEnd => {
                let end = WaitingEnd { file: entry.file, place, shown: entry.path, meta: entry.meta };
                self.receiving(session).waiting.push(end);
                return Ok(Begun::Waits);
            }
            EntryKind::Symlink => {
                self.may_place(&place, &entry.path, overwrite)?;
                let meta = Meta { mode: 0, ..entry.meta };
                self.tree.insert(&place, Node::Symlink(entry.target, meta));
            }
            EntryKind::File => return self.begin_file(session, place, (overwrite, no_resume), entry),
        }
        Ok(Begun::Placed(None))
    }

    fn begin_file(
        &mut self,
        session: SessionKey,
        place: Vec<u8>,
        (overwrite, no_resume): (Overwrite, bool),
        entry: BeginEntry,
    ) -> Result<Begun, StoreError> {
        if let Some(content) = self.standing(session, &place, &entry) {
            let layout = Layout { size: entry.size, chunk_size: entry.chunk_size.max(1) };
            if let Some(inline) = entry.inline {
                if inline.data == content {
                    return Ok(Begun::Placed(Some(inline.sha256)));
                }
                return Err(exists(&entry.path));
            }
            let mut whole = RangeSet::default();
            (0..layout.count()).for_each(|chunk| whole.insert(chunk));
            let have = whole.ranges().to_vec();
            let received = Received::new(layout, whole);
            let (shown, data, meta) = (entry.path, content.to_vec(), entry.meta);
            let sink = Sink {
                place,
                shown,
                data,
                received,
                meta,
                overwrite,
                standing: true,
                crcs: HashMap::new(),
                stream: false,
            };
            self.receiving(session).sinks.insert(entry.file, sink);
            return Ok(Begun::Open(have));
        }
        self.may_place(&place, &entry.path, overwrite)?;
        if let Some(inline) = entry.inline {
            let digest = sha256(&inline.data);
            if digest != inline.sha256 || inline.data.len() as u64 != entry.size {
                return Err(digest_mismatch(&entry.path));
            }
            self.spend(&entry.path, entry.size)?;
            self.tree.insert(&place, Node::File(Content::Bytes(inline.data), permitted(entry.meta)));
            return Ok(Begun::Placed(Some(digest)));
        }
        if entry.chunk_size == 0 {
            return Err(forbidden(&entry.path, "was announced with chunks of zero bytes"));
        }
        let stream = entry.size == UNKNOWN_SIZE;
        let most = MAX_FILE_BYTES / u64::from(entry.chunk_size) * u64::from(entry.chunk_size);
        let size = if stream { most } else { entry.size };
        let layout = Layout { size, chunk_size: entry.chunk_size };
        let holder = self.sessions.iter().find_map(|(session, state)| {
            let file = state.receiving.sinks.iter().find(|(_, sink)| sink.place == place);
            file.map(|(file, sink)| (*session, *file, is_same_source(sink, layout, &entry.meta)))
        });
        if let Some((holder, file, same)) = holder {
            if holder == session || !same {
                return Err(busy(&entry.path));
            }
            // The same file once more: its first sender is most likely no more. The later one goes on.
            if let Some(sink) = self.receiving(holder).sinks.remove(&file) {
                self.taken.push((holder, file, busy(&sink.shown)));
                self.keep_partial(sink);
            }
        }
        if !stream && entry.size > self.capacity_bytes {
            return Err(full(&entry.path));
        }
        let kept = self.partials.remove(&place).filter(|p| {
            let time = |m: &Meta| (m.mtime_s, m.mtime_ns);
            let same = (p.layout.size, p.layout.chunk_size) == (layout.size, layout.chunk_size);
            !no_resume && same && time(&p.meta) == time(&entry.meta)
        });
        let (data, whole) = match kept {
            Some(partial) => (partial.data, partial.whole),
            None if stream => (Vec::new(), RangeSet::default()),
            None => (vec![0; entry.size as usize], RangeSet::default()),
        };
        let have = whole.ranges().to_vec();
        let received = Received::new(layout, whole);
        let (shown, meta, crcs) = (entry.path, entry.meta, HashMap::new());
        let sink = Sink { place, shown, data, received, meta, overwrite, standing: false, crcs, stream };
        self.receiving(session).sinks.insert(entry.file, sink);
        Ok(Begun::Open(have))
    }

    /// The contents of the file that stands there, if an earlier session of the request may have brought it.
    fn standing(&mut self, session: SessionKey, place: &[u8], entry: &BeginEntry) -> Option<Bytes> {
        if !self.receiving(session).continued {
            return None;
        }
        match self.tree.get(place)? {
            Node::File(content, meta)
                if content.size() == entry.size
                    && (meta.mtime_s, meta.mtime_ns) == (entry.meta.mtime_s, entry.meta.mtime_ns) =>
            {
                Some(content.read(0, entry.size as usize))
            }
            _ => None,
        }
    }

    /// Whether a file or link may take this name.
    fn may_place(&self, place: &[u8], shown: &[u8], overwrite: Overwrite) -> Result<(), StoreError> {
        match self.tree.get(place) {
            Some(Node::Dir(_)) => {
                Err(wrong_kind(shown, "is a directory at the destination; rename one of them"))
            }
            Some(_) if overwrite == Overwrite::Never => Err(exists(shown)),
            _ => Ok(()),
        }
    }

    /// Counts written bytes against the injected fault.
    fn spend(&mut self, shown: &[u8], bytes: u64) -> Result<(), StoreError> {
        match &mut self.faults.write_fails {
            Some((left, kind)) if *left < bytes => {
                Err(refuse(*kind, shown, "cannot be written: an injected fault; try again without it"))
            }
            Some((left, _)) => {
                *left -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn write(
        &mut self,
        session: SessionKey,
        file: FileId,
        offset: u64,
        data: &Bytes,
        out: Out<'_>,
    ) {
        let Some(sink) = self.receiving(session).sinks.get_mut(&file) else { return };
        let shown = sink.shown.clone();
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= sink.received.layout.size);
        let Some(end) = end else {
            return self.fail(session, file, forbidden(&shown, "bytes came beyond its announced end"), out);
        };
        if let Err(error) = self.spend(&shown, data.len() as u64) {
            return self.fail(session, file, error, out);
        }
        let capacity = self.capacity_bytes;
        let Some(sink) = self.receiving(session).sinks.get_mut(&file) else { return };
        if !sink.reach(end, capacity) {
            return self.fail(session, file, full(&shown), out);
        }
        let chunk_size = u64::from(sink.received.layout.chunk_size);
        let mut at = offset;
        while at < end {
            let chunk = at / chunk_size;
            let stop = end.min((chunk + 1) * chunk_size);
            if !sink.received.is_whole(chunk) {
                let piece = &data[(at - offset) as usize..(stop - offset) as usize];
                sink.data[at as usize..stop as usize].copy_from_slice(piece);
            }
            at = stop;
        }
        out(Done::Written { file, bytes: data.len() as u64 });
    }

    pub(super) fn finish_chunk(
        &mut self,
        session: SessionKey,
        file: FileId,
        chunk: u64,
        crc: u32,
        out: Out<'_>,
    ) {
        let (flip, rot) = (self.faults.flip_chunk == Some(chunk), self.faults.rot_chunk);
        let Some(sink) = self.receiving(session).sinks.get_mut(&file) else { return };
        if sink.received.is_whole(chunk) {
            return out(Done::ChunkStored { file, chunk, ok: true });
        }
        let Some(range) = extent(sink, chunk) else {
            let error = forbidden(&sink.shown, "a chunk came beyond its announced end");
            return self.fail(session, file, error, out);
        };
        if flip {
            sink.data[range.start] ^= 1;
        }
        let ok = crc32(&sink.data[range.clone()]) == crc;
        if ok && sink.store(chunk, range, rot) {
            self.faults.rot_chunk = None;
        }
        if flip {
            self.faults.flip_chunk = None;
        }
        out(Done::ChunkStored { file, chunk, ok });
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one job")]
    pub(super) fn write_encoded(
        &mut self,
        session: SessionKey,
        file: FileId,
        chunk: u64,
        codec: ChunkCodec,
        crc: u32,
        data: &Bytes,
        out: Out<'_>,
    ) {
        let (flip, rot) = (self.faults.flip_chunk == Some(chunk), self.faults.rot_chunk);
        let Some(sink) = self.receiving(session).sinks.get_mut(&file) else { return };
        if sink.received.is_whole(chunk) {
            return out(Done::ChunkStored { file, chunk, ok: true });
        }
        let Some(range) = extent(sink, chunk) else {
            let error = forbidden(&sink.shown, "a chunk came beyond its announced end");
            return self.fail(session, file, error, out);
        };
        let shown = sink.shown.clone();
        let plain = decode_chunk(codec, data, range.len()).ok().filter(|p| crc32(p) == crc && !flip);
        if flip {
            self.faults.flip_chunk = None;
        }
        let Some(plain) = plain else {
            return out(Done::ChunkStored { file, chunk, ok: false });
        };
        let capacity = self.capacity_bytes;
        let reached = self.receiving(session).sinks.get_mut(&file);
        if !reached.is_some_and(|sink| sink.reach(range.end as u64, capacity)) {
            return self.fail(session, file, full(&shown), out);
        }
        if let Err(error) = self.spend(&shown, plain.len() as u64) {
            return self.fail(session, file, error, out);
        }
        let Some(sink) = self.receiving(session).sinks.get_mut(&file) else { return };
        sink.data[range.clone()].copy_from_slice(&plain);
        if sink.store(chunk, range, rot) {
            self.faults.rot_chunk = None;
        }
        out(Done::ChunkStored { file, chunk, ok: true });
    }

    pub(super) fn commit(&mut self, session: SessionKey, file: FileId, sha256: [u8; 32], out: Out<'_>) {
        let Some(mut sink) = self.receiving(session).sinks.remove(&file) else { return };
        if sink.finish().is_some_and(|value| value != sha256) {
            let bad = sink.recheck();
            if !bad.is_empty() {
                bad.into_iter().for_each(|chunk| out(Done::ChunkStored { file, chunk, ok: false }));
                self.receiving(session).sinks.insert(file, sink);
                return;
            }
        }
        let result = self.commit_sink(sink, sha256);
        out(Done::Committed { file, result });
        self.release_ends(session, out);
    }

    fn commit_sink(&mut self, mut sink: Sink, sha256: [u8; 32]) -> Result<Option<[u8; 32]>, StoreError> {
        match sink.finish() {
            None => {
                let why = "was to be finished with chunks missing; run the command again";
                return Err(refuse(StoreErrorKind::Io, &sink.shown, why));
            }
            Some(value) if value != sha256 => return Err(digest_mismatch(&sink.shown)),
            Some(_) if sink.standing => return Ok(Some(sha256)),
            Some(_) => {}
        }
        self.no_link_above(&sink.place, &sink.shown)?;
        self.may_place(&sink.place, &sink.shown, sink.overwrite)?;
        let content = Content::Bytes(Bytes::from(sink.data));
        self.tree.insert(&sink.place, Node::File(content, permitted(sink.meta)));
        Ok(Some(sha256))
    }

    pub(super) fn abort(&mut self, session: SessionKey, file: FileId, keep: bool, out: Out<'_>) {
        if let Some(sink) = self.receiving(session).sinks.remove(&file)
            && keep
        {
            self.keep_partial(sink);
        }
        self.release_ends(session, out);
    }

    /// A stream has ended: what it was given beyond is cut off.
    pub(super) fn set_size(&mut self, session: SessionKey, file: FileId, bytes: u64) {
        if let Some(sink) = self.receiving(session).sinks.get_mut(&file) {
            sink.received.layout.size = bytes;
            sink.data.resize(bytes as usize, 0);
        }
    }

    pub(super) fn keep_partial(&mut self, sink: Sink) {
        if sink.standing || sink.place.starts_with(SCRATCH_DIR) || sink.stream {
            return;
        }
        let whole = sink.received.whole().clone();
        let partial = Partial { data: sink.data, layout: sink.received.layout, meta: sink.meta, whole };
        self.partials.insert(sink.place, partial);
    }

    /// Writing failed: the file is forgotten, its partial kept for a later run.
    fn fail(&mut self, session: SessionKey, file: FileId, error: StoreError, out: Out<'_>) {
        if let Some(sink) = self.receiving(session).sinks.remove(&file) {
            self.keep_partial(sink);
        }
        out(Done::SinkFailed { file, error });
        self.release_ends(session, out);
    }

    /// Ends the directories below which no file is open any more.
    pub(super) fn release_ends(&mut self, session: SessionKey, out: Out<'_>) {
        let receiving = self.receiving(session);
        let waiting = std::mem::take(&mut receiving.waiting);
        let (blocked, free): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|end| receiving.sinks.values().any(|sink| is_below(&sink.place, &end.place)));
        receiving.waiting = blocked;
        for end in free {
            let result = match self.tree.0.get_mut(&super::key(&end.place)) {
                Some(Node::Dir(meta)) => {
                    *meta = permitted(end.meta);
                    Ok(None)
                }
                Some(Node::Symlink(..)) => {
                    Err(forbidden(&end.shown, "leads through a link; nothing is written through links"))
                }
                Some(Node::File(..)) => {
                    Err(wrong_kind(&end.shown, "is not a directory; run the command again"))
                }
                None => {
                    let why = "there is no such directory any more; run the command again";
                    Err(refuse(StoreErrorKind::NotFound, &end.shown, why))
                }
            };
            out(Done::Committed { file: end.file, result });
        }
    }
}

fn full(shown: &[u8]) -> StoreError {
    let why = "there is not enough space on the disk; free some and run the command again";
    refuse(StoreErrorKind::NoSpace, shown, why)
}

impl Sink {
    /// A stream grows with what comes. False: beyond what there is room for.
    fn reach(&mut self, end: u64, capacity: u64) -> bool {
        if self.stream && end <= capacity && (self.data.len() as u64) < end {
            self.data.resize(end as usize, 0);
        }
        !self.stream || end <= capacity
    }

    /// `rot`: the chunk that loses a bit now, unless it is in the digest already; true if it did.
    fn store(&mut self, chunk: u64, range: Range<usize>, rot: Option<u64>) -> bool {
        self.crcs.insert(chunk, crc32(&self.data[range.clone()]));
        let at = range.start;
        let data = &self.data;
        let read = |offset: u64, len: usize, buffer: &mut Vec<u8>| {
            buffer.clear();
            buffer.extend_from_slice(&data[offset as usize..offset as usize + len]);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = self.received.stored(chunk, &data[range], read);
        let rots = rot == Some(chunk) && self.received.hashed_bytes() <= at as u64;
        self.data[at] ^= u8::from(rots);
        rots
    }

    /// After a wrong digest: the chunks whose bytes are not those that were checked, now no longer whole.
    fn recheck(&mut self) -> Vec<u64> {
        let layout = self.received.layout;
        let (mut whole, mut bad) = (RangeSet::default(), Vec::new());
        for chunk in 0..layout.count() {
            let range = extent(self, chunk).unwrap_or_default();
            match self.crcs.get(&chunk) {
                Some(crc) if crc32(&self.data[range]) != *crc => bad.push(chunk),
                _ => whole.insert(chunk),
            }
        }
        if !bad.is_empty() {
            self.received = Received::new(layout, whole);
        }
        bad
    }

    fn finish(&mut self) -> Option<[u8; 32]> {
        let data = &self.data;
        let read = |offset: u64, len: usize, buffer: &mut Vec<u8>| {
            buffer.clear();
            buffer.extend_from_slice(&data[offset as usize..offset as usize + len]);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(value) = self.received.finish(read);
        value
    }
}

fn is_same_source(sink: &Sink, layout: Layout, meta: &Meta) -> bool {
    let of = |layout: Layout, meta: &Meta| (layout.size, layout.chunk_size, meta.mtime_s, meta.mtime_ns);
    of(sink.received.layout, &sink.meta) == of(layout, meta)
}

fn extent(sink: &Sink, chunk: u64) -> Option<Range<usize>> {
    let (offset, len) = sink.received.layout.extent(chunk)?;
    Some(offset as usize..offset as usize + len)
}

/// The modes that a store sets for a peer: no set-user-ID, set-group-ID or sticky bit.
fn permitted(meta: Meta) -> Meta {
    Meta { mode: meta.mode & 0o777, ..meta }
}

/// A path of a name space in the one tree.
pub(super) fn in_space(space: Space, path: &[u8]) -> Vec<u8> {
    MemoryStore::tree_path(&match space {
        Space::Jail => Location::Jail(path.to_vec()),
        Space::Scratch => Location::Scratch(path.to_vec()),
    })
}

enum Begun {
    /// A big file is open; these chunks are there already.
    Open(Vec<Range<u64>>),
    /// In place.
    Placed(Option<[u8; 32]>),
    /// A directory end that waits for the files below it.
    Waits,
}
