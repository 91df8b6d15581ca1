//! Role: one big file being received: its bytes in any order, its chunks checked, its digest.
//! Owns: the open partial and what of it is whole.
//! Implements: docs/PROTOCOL.md, "Files" (sinks).

use super::digest::{Layout, RangeSet, Received};
use super::error::{digest_mismatch, forbidden, from_io, refuse};
use super::fs::{File, FileOps};
use super::jail::{DirHandle, Preserve, permitted_mode};
use super::journal::{Identity, Journal};
use super::neighbours::Claim;
use super::partial::Staged;
use super::quota::disk_bytes;
use crate::codec::chunk::{crc32, decode_chunk};
use crate::transfer::job::{ChunkCodec, Meta, Overwrite, StoreError, StoreErrorKind};
use std::io;

/// So much is pushed out at once: a fraction of a second of any disk.
const PUSH_BYTES: u64 = 8 << 20;
/// Most chunks that are asked for again after a wrong digest; a file with more is better sent anew. A quarter of what a
/// sender lets wait (`transfer::sender::MAX_RESENDS`).
const MAX_BAD_CHUNKS: u64 = 1024;
/// A disk on which chunks go bad that often is not to be trusted.
const MAX_RECHECKS: u32 = 3;

/// A file being received.
#[derive(Debug)]
pub(crate) struct Sink {
    staged: Staged,
    file: File,
    received: Received,
    /// `None`: it is not to be resumed, or there is no room for a journal.
    journal: Option<Journal>,
    /// Its manifest path, for messages.
    pub(crate) shown: Vec<u8>,
    /// The destination that was set when it was begun.
    pub(crate) target: u64,
    /// Its path below that destination, for directories that wait for it.
    pub(crate) place: Vec<u8>,
    meta: Meta,
    /// Existing files.
    pub(crate) overwrite: Overwrite,
    buffer: Vec<u8>,
    /// Bytes from the beginning of which the writing to disk has been begun.
    pushed_bytes: u64,
    /// How often chunks were found changed at the end.
    rechecks: u32,
    stream: bool,
    preserve: Preserve,
}

/// Reads exactly `len` bytes at `offset` into `buffer`; a file that ends before is an `UnexpectedEof`.
pub(crate) fn read_exact_at(
    file: &dyn FileOps,
    offset: u64,
    len: usize,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    buffer.clear();
    buffer.reserve_exact(len);
    // The capacity may be larger than asked for: what is read beyond is cut off again.
    while buffer.len() < len {
        if file.read_at(offset + buffer.len() as u64, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    buffer.truncate(len);
    Ok(())
}

/// Writes all of `data` at `offset`.
pub(crate) fn write_all_at(file: &dyn FileOps, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let put = file.write_at(offset, data)?;
        if put == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data = &data[put..];
        offset += put as u64;
    }
    Ok(())
}

impl Sink {
    /// Takes over an open partial in which the chunks in `have` are whole.
    pub(crate) fn new(
        (staged, file): (Staged, File),
        (journal, have): (Option<Journal>, RangeSet),
        layout: Layout,
        (shown, target, place): (Vec<u8>, u64, Vec<u8>),
        meta: Meta,
        overwrite: Overwrite,
    ) -> Self {
        let received = Received::new(layout, have);
        Self {
            staged,
            file,
            received,
            journal,
            shown,
            target,
            place,
            meta,
            overwrite,
            buffer: Vec::new(),
            pushed_bytes: 0,
            rechecks: 0,
            preserve: Preserve::default(),
            stream: false,
        }
    }

    /// What of mode and time is set at the end.
    pub(crate) fn preserving(mut self, preserve: Preserve) -> Self {
        self.preserve = preserve;
        self
    }

    /// A file of unknown size, that nobody can go on with.
    pub(crate) fn into_stream(mut self) -> Self {
        self.stream = true;
        self
    }

    /// Whether it began as one of unknown size.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream
    }

    /// A stream has ended.
    pub(crate) fn set_size(&mut self, bytes: u64) {
        self.received.layout.size = bytes;
    }

    /// The chunks that are whole.
    pub(crate) fn have(&self) -> Vec<std::ops::Range<u64>> {
        self.received.whole().ranges().to_vec()
    }

    /// Writes plain bytes. Chunks that are whole are left alone: they have been checked and perhaps hashed.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let layout = self.received.layout;
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= layout.size);
        let end = end.ok_or_else(|| forbidden(&self.shown, "bytes came beyond its announced end"))?;
        let chunk_size = u64::from(layout.chunk_size);
        let mut at = offset;
        while at < end {
            let chunk = at / chunk_size;
            let stop = end.min((chunk + 1) * chunk_size);
            if !self.received.is_whole(chunk) {
                let piece = &data[(at - offset) as usize..(stop - offset) as usize];
                write_all_at(&*self.file, at, piece).map_err(|e| self.write_error(&e))?;
                self.received.pass(chunk, (at - chunk * chunk_size) as usize, piece);
            }
            at = stop;
        }
        Ok(())
    }

    /// Checks a chunk that has been written: `Ok(false)` if its CRC-32 does not fit.
    pub(crate) fn finish_chunk(&mut self, chunk: u64, crc: u32) -> Result<bool, StoreError> {
        if self.received.is_whole(chunk) {
            return Ok(true);
        }
        let (offset, len) = self.extent(chunk)?;
        if let Some(passed) = self.received.passed(chunk, len) {
            let ok = passed == crc || crate::planted("no_chunk_crc");
            if ok {
                self.store(chunk, crc, None)?;
            }
            return Ok(ok);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        match read_exact_at(&*self.file, offset, len, &mut buffer) {
            Ok(()) => {}
            // Its last bytes were never written: as good as a wrong checksum.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(self.write_error(&e)),
        }
        let ok = crc32(&buffer) == crc || crate::planted("no_chunk_crc");
        if ok {
            self.store(chunk, crc, Some(&buffer))?;
        }
        self.buffer = buffer;
        Ok(ok)
    }

    /// Decodes, checks and writes a whole chunk: `Ok(false)` if it does not decode or its CRC-32 does not fit.
    pub(crate) fn write_encoded(
        &mut self,
        chunk: u64,
        codec: ChunkCodec,
        crc: u32,
        data: &[u8],
    ) -> Result<bool, StoreError> {
        if self.received.is_whole(chunk) {
            return Ok(true);
        }
        let (offset, len) = self.extent(chunk)?;
        let Ok(plain) = decode_chunk(codec, data, len) else { return Ok(false) };
        if plain.len() != len || crc32(&plain) != crc {
            return Ok(false);
        }
        write_all_at(&*self.file, offset, &plain).map_err(|e| self.write_error(&e))?;
        self.store(chunk, crc, Some(&plain))?;
        Ok(true)
    }

    fn extent(&self, chunk: u64) -> Result<(u64, usize), StoreError> {
        let extent = self.received.layout.extent(chunk);
        extent.ok_or_else(|| forbidden(&self.shown, "a chunk came beyond its announced end"))
    }

    /// A checked chunk is on disk. Without `plain`, its bytes have passed through [`Received`].
    fn store(&mut self, chunk: u64, crc: u32, plain: Option<&[u8]>) -> Result<(), StoreError> {
        if let Some(journal) = &mut self.journal {
            journal.note(chunk, crc);
        }
        let file = &*self.file;
        let read = |offset, len, buffer: &mut Vec<u8>| read_exact_at(file, offset, len, buffer);
        match plain {
            Some(plain) => self.received.stored(chunk, plain, read),
            None => self.received.stored_in_passing(chunk, read),
        }
        .map_err(|e| self.write_error(&e))?;
        self.push_out();
        Ok(())
    }

    /// Has the system begin to write what will not be read again: the sync at the end, for which all sessions wait, finds
    /// little left to do then.
    fn push_out(&mut self) {
        let hashed_bytes = self.received.hashed_bytes();
        let bytes = hashed_bytes.saturating_sub(self.pushed_bytes);
        if bytes >= PUSH_BYTES {
            self.file.push_out(self.pushed_bytes, bytes);
            self.pushed_bytes = hashed_bytes;
        }
    }

    /// After a wrong digest: the chunks whose bytes are not those that were checked when they came, now no longer whole.
    /// None if that explains nothing, or has been tried too often.
    pub(crate) fn recheck(&mut self) -> Vec<u64> {
        let Some(journal) = self.journal.as_ref().filter(|_| self.rechecks < MAX_RECHECKS) else {
            return Vec::new();
        };
        self.rechecks += 1;
        let layout = self.received.layout;
        let whole = verified(&*self.file, journal, layout);
        if layout.count() - whole.len() > MAX_BAD_CHUNKS {
            return Vec::new();
        }
        let bad = (0..layout.count()).filter(|chunk| !whole.contains(*chunk)).collect();
        self.received = Received::new(layout, whole);
        bad
    }

    fn write_error(&self, error: &io::Error) -> StoreError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let why = "lost bytes of its partial; nothing else may write there; run the command again";
            return refuse(StoreErrorKind::Io, &self.shown, why);
        }
        from_io(&self.shown, "cannot be written", error)
    }

    /// True if it is on its way to this name.
    pub(crate) fn is_at(&self, dir: &DirHandle, name: &[u8]) -> bool {
        self.staged.dir.id == dir.id && self.staged.name == name
    }

    /// True if this is the same file, from the same source, on its way to the same name.
    pub(crate) fn is_for(&self, dir: &DirHandle, name: &[u8], identity: Identity) -> bool {
        let own = || Identity::new(&self.staged.name, self.received.layout, &self.meta);
        self.is_at(dir, name) && own() == identity
    }

    /// By what another process would claim it.
    pub(crate) fn claim(&self) -> Claim {
        Claim::new(&self.staged.dir, Identity::new(&self.staged.name, self.received.layout, &self.meta))
    }

    /// What it takes on the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file.stat().map_or(0, |stat| disk_bytes(&stat))
    }

    /// True if every chunk is whole.
    pub(crate) fn is_complete(&self) -> bool {
        self.received.is_complete()
    }

    /// Compares the digest, and sets mode and mtime: what is left is sync and rename.
    pub(crate) fn seal(&mut self, sha256: [u8; 32]) -> Result<(), StoreError> {
        let file = &*self.file;
        let read = |offset, len, buffer: &mut Vec<u8>| read_exact_at(file, offset, len, buffer);
        match self.received.finish(read).map_err(|e| self.write_error(&e))? {
            None => {
                let why = "was to be finished with chunks missing; run the command again";
                return Err(refuse(StoreErrorKind::Io, &self.shown, why));
            }
            Some(value) if value != sha256 && !crate::planted("no_digest") => {
                return Err(digest_mismatch(&self.shown));
            }
            Some(_) => {}
        }
        set_meta(&*self.file, &self.meta, self.preserve).map_err(|e| self.write_error(&e))
    }

    /// Gives up the hidden file and its handle, which holds the lock.
    pub(crate) fn into_staged(self) -> (Staged, File) {
        (self.staged, self.file)
    }

    /// Removes the partial.
    pub(crate) fn discard(self) {
        self.staged.discard();
    }
}

/// The chunks that `journal` names and that are still what it says, read back from the partial. They are written once
/// more: what is read may be in the page cache only, its write-back having failed and been reported to a handle that is
/// no more (fsync(2), "EIO"), and then no sync of ours would try again.
pub(crate) fn verified(file: &dyn FileOps, journal: &Journal, layout: Layout) -> RangeSet {
    let (mut have, mut buffer) = (RangeSet::default(), Vec::new());
    journal.read(layout, |chunk, crc| {
        // Bytes that are missing, or that the disk cannot read, come again.
        if let Some((offset, len)) = layout.extent(chunk)
            && read_exact_at(file, offset, len, &mut buffer).is_ok()
            && (crc32(&buffer) == crc || crate::planted("trusted_journal"))
            && write_all_at(file, offset, &buffer).is_ok()
        {
            have.insert(chunk);
        }
    });
    have
}

/// Sets mode and mtime of a file that is about to get its name.
pub(crate) fn set_meta(file: &dyn FileOps, meta: &Meta, preserve: Preserve) -> io::Result<()> {
    file.set_mode(preserve.new_mode.unwrap_or(permitted_mode(meta)))?;
    if preserve.mtime { file.set_times(meta) } else { Ok(()) }
}
