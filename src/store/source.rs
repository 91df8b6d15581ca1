//! Role: files being sent: opened when first read, read by chunk, hashed as they go by.
//! Owns: per file its digest; over all sessions the list of handles that are open.
//! Implements: docs/PROTOCOL.md, "Files" (sources).

use super::SessionKey;
use super::buffers::Buffers;
use super::digest::{Layout, Sequential};
use super::error::{from_io, refuse, source_changed};
use super::fs::{File, FileOps, FileType};
use super::pipe::{Piece, PipeReader};
use super::sink::read_exact_at;
use crate::codec::chunk::{EncodedChunk, Encoder};
use crate::transfer::job::{
    Compression, EncodeBudget, FileId, Meta, StoreError, StoreErrorKind, UNKNOWN_SIZE,
};
use std::collections::VecDeque;

/// Handles of sources open at once, over all sessions; the one opened longest ago is closed first, and opened
/// again when it is read. Own choice: a quarter of the usual RLIMIT_NOFILE of 1024.
const MAX_OPEN: usize = 256;

/// Why there is no chunk of a stream.
#[derive(Debug)]
pub(crate) enum StreamStop {
    /// It has ended, with so many bytes.
    Ended(u64),
    /// Nothing has come yet.
    Waits,
}

/// A file being sent.
#[derive(Debug)]
pub(crate) struct Source {
    /// Index of its root.
    pub(crate) root: u32,
    /// Path below that root.
    pub(crate) below: Vec<u8>,
    /// Manifest path, for messages.
    shown: Vec<u8>,
    layout: Layout,
    meta: Meta,
    compress: Compression,
    digest: Sequential,
    file: Option<File>,
    /// Standard input, in place of a file.
    stream: Option<PipeReader>,
    /// Device and inode number at the first opening.
    id: Option<(u64, u64)>,
}

impl Source {
    /// Not open yet.
    pub(crate) fn new(
        (root, below, shown): (u32, Vec<u8>, Vec<u8>),
        layout: Layout,
        meta: Meta,
        compress: Compression,
    ) -> Self {
        let digest = Sequential::default();
        Self { root, below, shown, layout, meta, compress, digest, file: None, stream: None, id: None }
    }

    /// True if its handle is open.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some() || self.stream.is_some()
    }

    /// True if it is a stream, once it is open.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes a fresh handle, if it is that of the file which the walk found.
    pub(crate) fn set_file(&mut self, file: File) -> Result<(), StoreError> {
        if self.layout.size == UNKNOWN_SIZE {
            self.stream = Some(PipeReader::new(file, self.layout.chunk_size));
            return Ok(());
        }
        let id = file.stat().map_err(|e| from_io(&self.shown, "cannot be read", &e))?.id;
        self.check(&*file)?;
        if *self.id.get_or_insert(id) != id {
            return Err(source_changed(&self.shown));
        }
        self.file = Some(file);
        Ok(())
    }

    /// Closes the handle; it may be opened again.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// Size and mtime must be those of the entry.
    fn check(&self, file: &dyn FileOps) -> Result<(), StoreError> {
        let stat = file.stat().map_err(|e| from_io(&self.shown, "cannot be read", &e))?;
        let same = stat.kind == FileType::RegularFile
            && stat.size == self.layout.size
            && (stat.meta.mtime_s, stat.meta.mtime_ns) == (self.meta.mtime_s, self.meta.mtime_ns);
        if same { Ok(()) } else { Err(source_changed(&self.shown)) }
    }

    fn file(&self) -> Result<&dyn FileOps, StoreError> {
        let closed = || refuse(StoreErrorKind::Io, &self.shown, "was read while it was closed");
        self.file.as_deref().ok_or_else(closed)
    }

    fn read(&self, chunk: u64, mut plain: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let none = || refuse(StoreErrorKind::Io, &self.shown, "has no such chunk; run the command again");
        let (offset, len) = self.layout.extent(chunk).ok_or_else(none)?;
        let read = read_exact_at(self.file()?, offset, len, &mut plain);
        read.map_err(|e| from_io(&self.shown, "cannot be read", &e))?;
        Ok(plain)
    }

    /// Reads and encodes a chunk; returns the number of plain bytes with it.
    pub(crate) fn chunk(
        &mut self,
        chunk: u64,
        (encoder, buffers): (&mut Encoder, &Buffers),
        (budget, sharers): (EncodeBudget, usize),
    ) -> Result<(u32, EncodedChunk), StoreError> {
        let plain = self.read(chunk, buffers.take())?;
        self.digest.take(chunk, &plain);
        let plain_bytes = plain.len() as u32;
        Ok((plain_bytes, encoder.encode(buffers.share(plain), self.compress, budget, sharers)))
    }

    /// The next chunk of a stream, or one that was read lately; `Err` in the inner result: there is none, and why.
    pub(crate) fn stream_chunk(
        &mut self,
        chunk: u64,
        encoder: &mut Encoder,
        (budget, sharers): (EncodeBudget, usize),
    ) -> Result<Result<(u32, EncodedChunk), StreamStop>, StoreError> {
        let Some(stream) = &mut self.stream else {
            return Err(refuse(StoreErrorKind::Io, &self.shown, "was read while it was closed"));
        };
        let piece = stream.read(chunk).map_err(|e| from_io(&self.shown, "cannot be read", &e))?;
        if let Some(total) = stream.total() {
            self.layout.size = total;
        }
        let plain = match piece {
            Piece::Data(plain) => plain,
            Piece::Ended(bytes) => return Ok(Err(StreamStop::Ended(bytes))),
            Piece::Waits => return Ok(Err(StreamStop::Waits)),
            Piece::Gone => {
                let why = "came wrong and cannot be read a second time; run the command again";
                return Err(refuse(StoreErrorKind::Io, &self.shown, why));
            }
        };
        self.digest.take(chunk, &plain);
        let plain_bytes = plain.len() as u32;
        // The receiver learns the length of the last chunk from a raw one only.
        let whole = plain_bytes == self.layout.chunk_size;
        let compress = if whole { self.compress } else { Compression::None };
        Ok(Ok((plain_bytes, encoder.encode(plain, compress, budget, sharers))))
    }

    /// Hashes about `bytes` more of it; the digest when all is hashed and it did not change meanwhile.
    pub(crate) fn hash_step(&mut self, bytes: u64) -> Result<Option<[u8; 32]>, StoreError> {
        let (mut left, mut plain) = (bytes, Vec::new());
        while left > 0 && self.digest.next() < self.layout.count() {
            let chunk = self.digest.next();
            plain = self.read(chunk, plain)?;
            left = left.saturating_sub(plain.len() as u64);
            self.digest.take(chunk, &plain);
        }
        if self.digest.next() < self.layout.count() { Ok(None) } else { self.finish().map(Some) }
    }

    /// The digest of the whole file, if it did not change meanwhile.
    pub(crate) fn finish(&mut self) -> Result<[u8; 32], StoreError> {
        let mut plain = Vec::new();
        while self.digest.next() < self.layout.count() {
            let chunk = self.digest.next();
            plain = self.read(chunk, plain)?;
            self.digest.take(chunk, &plain);
        }
        if self.stream.is_none() {
            self.check(self.file()?)?;
        }
        Ok(self.digest.value())
    }
}

/// Which sources are open, the longest open first.
#[derive(Debug, Default)]
pub(crate) struct OpenSources(VecDeque<(SessionKey, FileId)>);

impl OpenSources {
    /// Notes an opened source; returns the one to be closed for it.
    pub(crate) fn push(&mut self, session: SessionKey, file: FileId) -> Option<(SessionKey, FileId)> {
        self.0.push_back((session, file));
        if self.0.len() > MAX_OPEN { self.0.pop_front() } else { None }
    }

    /// Forgets one that has been closed.
    pub(crate) fn remove(&mut self, session: SessionKey, file: FileId) {
        self.0.retain(|&open| open != (session, file));
    }

    /// Forgets those of a session.
    pub(crate) fn remove_session(&mut self, session: SessionKey) {
        self.0.retain(|(s, _)| *s != session);
    }
}
