//! Role: standard output as the destination of one file: chunks are checked and written strictly in order.
//! Owns: the chunks that came early, and the answers that are owed for them.
//! Implements: docs/PROTOCOL.md, "Streams".
//!
//! Answers are given when bytes have left: so chunks that come early, and a reader that is slow, count against the
//! receive budget, and the sender slows down. When a chunk came wrong, all that is owed is given out once, so that the
//! room which its second coming needs is there.

use super::digest::{Layout, Sequential, sha256};
use super::error::{digest_mismatch, forbidden, from_io, refuse, wrong_kind};
use super::fs::real::retry;
use super::{SessionKey, Store};
use crate::codec::chunk::{crc32, decode_chunk};
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::job::{
    BeginEntry, ChunkCodec, Done, EntryKind, FileId, Job, StoreError, StoreErrorKind, UNKNOWN_SIZE,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Between two looks at whether the program is to end, while the reader takes nothing.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A pipe that is ready takes so many bytes without blocking (PIPE_BUF of Linux, pipe(7)).
const PIPE_BYTES: usize = 4096;

/// Where the bytes go.
#[derive(Debug)]
struct Output {
    file: File,
    /// A regular file or a block device never waits for a reader.
    may_block: bool,
    /// Set by the signal handler: whoever waits gives up.
    signal: Arc<AtomicI32>,
}

impl Output {
    fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut piece = data;
            if self.may_block {
                let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
                while retry(|| poll(&mut fds, Some(&WAIT)))? == 0 {
                    if self.signal.load(Ordering::Relaxed) != 0 {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                }
                piece = &data[..data.len().min(PIPE_BYTES)];
            }
            match rustix::io::write(&self.file, piece) {
                Ok(put) => data = &data[put..],
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Chunk {
    data: Vec<u8>,
    whole: bool,
    /// Bytes for which `Written` is owed.
    owed_bytes: u64,
    /// `ChunkStored` is owed.
    owed: bool,
}

#[derive(Debug)]
struct Receiving {
    file: FileId,
    shown: Vec<u8>,
    layout: Layout,
    digest: Sequential,
    chunks: BTreeMap<u64, Chunk>,
}

/// A store that takes one file and writes it to standard output.
#[derive(Debug)]
pub struct StdoutStore {
    output: Output,
    receiving: Option<Receiving>,
    /// One file has been begun: there is no place for another.
    used: bool,
}

type Answers<'a> = &'a mut dyn FnMut(Done);

impl StdoutStore {
    /// Writes to standard output until `signal` is not zero.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn new(signal: Arc<AtomicI32>) -> io::Result<Self> {
        let file: File = std::io::stdout().as_fd().try_clone_to_owned()?.into();
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        let may_block = !matches!(kind, FileType::RegularFile | FileType::BlockDevice);
        Ok(Self { output: Output { file, may_block, signal }, receiving: None, used: false })
    }

    fn begin(&mut self, entry: BeginEntry, out: Answers<'_>) {
        let file = entry.file;
        if entry.kind == EntryKind::DirEnd {
            // Its beginning was refused already.
            return out(Done::Committed { file, result: Ok(None) });
        }
        let inline = entry.inline.is_some();
        match self.try_begin(entry) {
            Ok(Some(digest)) => out(Done::Committed { file, result: Ok(Some(digest)) }),
            Ok(None) => out(Done::Began { file, result: Ok(Vec::new()) }),
            Err(error) if inline => out(Done::Committed { file, result: Err(error) }),
            Err(error) => out(Done::Began { file, result: Err(error) }),
        }
    }

    fn try_begin(&mut self, entry: BeginEntry) -> Result<Option<[u8; 32]>, StoreError> {
        if entry.kind != EntryKind::File {
            let why = "is not a file, and only a file can go to standard output; get it into a directory";
            return Err(wrong_kind(&entry.path, why));
        }
        if std::mem::replace(&mut self.used, true) {
            return Err(refuse(StoreErrorKind::Forbidden, &entry.path, "is a second file; name only one"));
        }
        if let Some(inline) = entry.inline {
            if sha256(&inline.data) != inline.sha256 || inline.data.len() as u64 != entry.size {
                return Err(digest_mismatch(&entry.path));
            }
            self.output.write(&inline.data).map_err(|e| stdout_error(&e))?;
            return Ok(Some(inline.sha256));
        }
        if entry.chunk_size == 0 || entry.chunk_size > MAX_CHUNK_SIZE || entry.size == UNKNOWN_SIZE {
            return Err(forbidden(&entry.path, "was announced with an impossible size"));
        }
        let layout = Layout { size: entry.size, chunk_size: entry.chunk_size };
        let (digest, chunks) = (Sequential::default(), BTreeMap::new());
        self.receiving = Some(Receiving { file: entry.file, shown: entry.path, layout, digest, chunks });
        Ok(None)
    }

    /// Runs a step; if it fails, the file is over.
    fn step(
        &mut self,
        file: FileId,
        out: Answers<'_>,
        step: impl FnOnce(&mut Receiving, &mut Output, &mut dyn FnMut(Done)) -> Result<(), StoreError>,
    ) {
        let Some(receiving) = self.receiving.as_mut().filter(|r| r.file == file) else { return };
        if let Err(error) = step(receiving, &mut self.output, out) {
            self.receiving = None;
            out(Done::SinkFailed { file, error });
        }
    }

    fn commit(&mut self, file: FileId, wanted: [u8; 32], out: Answers<'_>) {
        let Some(r) = self.receiving.take_if(|r| r.file == file) else { return };
        let result = if r.digest.next() == r.layout.count() && r.digest.value() == wanted {
            Ok(Some(wanted))
        } else {
            let why = "went to standard output with another SHA-256 than it was sent with; do not use it";
            Err(refuse(StoreErrorKind::DigestMismatch, &r.shown, why))
        };
        out(Done::Committed { file, result });
    }
}

fn stdout_error(error: &io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        let message = "standard output: whoever read it has gone; the rest was not written".into();
        return StoreError { kind: StoreErrorKind::Io, message };
    }
    from_io(b"standard output", "cannot be written", error)
}

impl Receiving {
    fn extent(&self, chunk: u64) -> Result<usize, StoreError> {
        let extent = self.layout.extent(chunk).map(|(_, len)| len);
        extent.ok_or_else(|| forbidden(&self.shown, "a chunk came beyond its announced end"))
    }

    fn is_out(&self, chunk: u64) -> bool {
        chunk < self.digest.next()
    }

    fn write(&mut self, offset: u64, data: &[u8], out: Answers<'_>) -> Result<(), StoreError> {
        let (size, file) = (u64::from(self.layout.chunk_size), self.file);
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let (chunk, inside) = (at / size, (at % size) as usize);
            let len = self.extent(chunk)?;
            let piece = &rest[..rest.len().min(len.saturating_sub(inside))];
            if piece.is_empty() {
                return Err(forbidden(&self.shown, "bytes came beyond its announced end"));
            }
            let bytes = piece.len() as u64;
            let c = self.chunks.get(&chunk).map(|c| c.whole);
            if self.is_out(chunk) || c == Some(true) {
                out(Done::Written { file, bytes });
            } else {
                let c = self.chunks.entry(chunk).or_default();
                c.data.resize(len, 0);
                c.data[inside..inside + piece.len()].copy_from_slice(piece);
                c.owed_bytes += bytes;
            }
            rest = &rest[piece.len()..];
            at += bytes;
        }
        Ok(())
    }

    /// A chunk is there, in plain bytes: right or not.
    fn settle(
        &mut self,
        chunk: u64,
        plain: Option<Vec<u8>>,
        output: &mut Output,
        out: Answers<'_>,
    ) -> Result<(), StoreError> {
        let file = self.file;
        let Some(plain) = plain else {
            if let Some(c) = self.chunks.remove(&chunk) {
                out(Done::Written { file, bytes: c.owed_bytes });
            }
            out(Done::ChunkStored { file, chunk, ok: false });
            self.chunks.iter_mut().for_each(|(n, c)| c.pay(file, *n, out));
            return Ok(());
        };
        let c = self.chunks.entry(chunk).or_default();
        (c.data, c.whole, c.owed) = (plain, true, true);
        while let Some(mut next) = self.chunks.first_entry() {
            let number = *next.key();
            if number != self.digest.next() || !next.get().whole {
                break;
            }
            output.write(&next.get().data).map_err(|e| stdout_error(&e))?;
            self.digest.take(number, &next.get().data);
            next.get_mut().pay(file, number, out);
            next.remove();
        }
        Ok(())
    }

    fn finish_raw(
        &mut self,
        chunk: u64,
        crc: u32,
        output: &mut Output,
        out: Answers<'_>,
    ) -> Result<(), StoreError> {
        let len = self.extent(chunk)?;
        let known = self.chunks.get_mut(&chunk);
        if self.digest.next() > chunk || known.as_ref().is_some_and(|c| c.whole) {
            out(Done::ChunkStored { file: self.file, chunk, ok: true });
            return Ok(());
        }
        let data = known.map(|c| std::mem::take(&mut c.data)).unwrap_or_default();
        let good = data.len() == len && crc32(&data) == crc;
        self.settle(chunk, good.then_some(data), output, out)
    }

    fn finish_encoded(
        &mut self,
        (chunk, codec, crc): (u64, ChunkCodec, u32),
        data: &[u8],
        output: &mut Output,
        out: Answers<'_>,
    ) -> Result<(), StoreError> {
        let len = self.extent(chunk)?;
        if self.is_out(chunk) || self.chunks.get(&chunk).is_some_and(|c| c.whole) {
            out(Done::ChunkStored { file: self.file, chunk, ok: true });
            return Ok(());
        }
        let plain = decode_chunk(codec, data, len).ok().filter(|p| p.len() == len && crc32(p) == crc);
        self.settle(chunk, plain.map(Into::into), output, out)
    }
}

impl Chunk {
    /// Gives out the answers that are owed.
    fn pay(&mut self, file: FileId, chunk: u64, out: Answers<'_>) {
        let bytes = std::mem::take(&mut self.owed_bytes);
        if bytes > 0 {
            out(Done::Written { file, bytes });
        }
        if std::mem::take(&mut self.owed) {
            out(Done::ChunkStored { file, chunk, ok: true });
        }
    }
}

impl Store for StdoutStore {
    fn run(&mut self, session: SessionKey, job: Job, done: &mut Vec<(SessionKey, Done)>) {
        let out: Answers<'_> = &mut |answer| done.push((session, answer));
        match job {
            Job::SetDest(_) => out(Done::DestSet(Ok(()))),
            Job::Begin(entry) => self.begin(*entry, out),
            Job::Write { file, offset, data } => {
                self.step(file, out, |r, _, out| r.write(offset, &data, out));
            }
            Job::FinishChunk { file, chunk, crc32 } => {
                self.step(file, out, |r, output, out| r.finish_raw(chunk, crc32, output, out));
            }
            Job::WriteEncoded { file, chunk, codec, crc32, data } => {
                self.step(file, out, |r, output, out| {
                    r.finish_encoded((chunk, codec, crc32), &data, output, out)
                });
            }
            Job::Commit { file, sha256 } => self.commit(file, sha256, out),
            Job::Abort { file, .. } => {
                self.receiving.take_if(|r| r.file == file);
            }
            // Nothing is sent from here, compared or removed.
            _ => {}
        }
    }

    fn idle(&mut self, _: &mut Vec<(SessionKey, Done)>) {}
}
