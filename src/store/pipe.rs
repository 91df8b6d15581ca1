//! Role: standard input as a source: bytes that come when they come, once, and end when they end.
//! Owns: what has been read of it and was not sent safely yet.
//! Implements: docs/PROTOCOL.md, "Streams".

use super::fs::File;
use crate::transfer::job::Meta;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long one job waits for bytes: other jobs wait meanwhile, and so does the end of the program.
const WAIT: Duration = Duration::from_millis(20);
/// Chunks are kept for this many bytes after they were read: a chunk that is asked for again was sent within what the
/// peer can have in flight, which its receive budget bounds (24 MiB here).
const RECENT_BYTES: usize = 32 << 20;

/// Standard input, as a handle of its own.
pub(crate) fn stdin() -> io::Result<File> {
    Ok(Box::new(std::io::stdin().as_fd().try_clone_to_owned()?))
}

/// Mode and time of a stream: those of a file that is made now.
#[allow(clippy::disallowed_methods, reason = "a stream has no time but that of its transfer")]
pub(crate) fn new_meta() -> Meta {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Meta { mode: 0o644, mtime_s: now.as_secs() as i64, mtime_ns: now.subsec_nanos() }
}

/// What a look at a stream brings.
pub(crate) enum Piece {
    /// A chunk; only the last one is shorter than the others.
    Data(Bytes),
    /// The end: so many bytes in all.
    Ended(u64),
    /// Nothing whole yet.
    Waits,
    /// It was read long ago and cannot be read again.
    Gone,
}

/// A stream that is read by chunks.
#[derive(Debug)]
pub(crate) struct PipeReader {
    file: File,
    chunk_size: usize,
    /// The chunk that is read next.
    next: u64,
    buffer: Vec<u8>,
    recent: VecDeque<(u64, Bytes)>,
    recent_bytes: usize,
    total: Option<u64>,
}

impl PipeReader {
    pub(crate) fn new(file: File, chunk_size: u32) -> Self {
        Self {
            file,
            chunk_size: chunk_size as usize,
            next: 0,
            buffer: Vec::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            total: None,
        }
    }

    /// The size, when the end has come.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// A chunk: the next one, or one of those that were read lately.
    pub(crate) fn read(&mut self, chunk: u64) -> io::Result<Piece> {
        if chunk < self.next {
            let kept = self.recent.iter().find(|(n, _)| *n == chunk);
            return Ok(kept.map_or(Piece::Gone, |(_, data)| Piece::Data(data.clone())));
        }
        if let Some(total) = self.total {
            return Ok(Piece::Ended(total));
        }
        self.buffer.reserve_exact(self.chunk_size - self.buffer.len());
        while self.buffer.len() < self.chunk_size {
            match self.file.read_stream(&mut self.buffer, WAIT)? {
                None => return Ok(Piece::Waits),
                Some(0) => return Ok(self.end()),
                Some(_) => {}
            }
        }
        let rest = self.buffer.split_off(self.chunk_size);
        let data = std::mem::replace(&mut self.buffer, rest);
        Ok(self.emit(data))
    }

    fn end(&mut self) -> Piece {
        let total = self.next * self.chunk_size as u64 + self.buffer.len() as u64;
        self.total = Some(total);
        match std::mem::take(&mut self.buffer) {
            data if data.is_empty() => Piece::Ended(total),
            data => self.emit(data),
        }
    }

    fn emit(&mut self, data: Vec<u8>) -> Piece {
        let data = Bytes::from(data);
        self.recent.push_back((self.next, data.clone()));
        self.recent_bytes += data.len();
        while self.recent_bytes > RECENT_BYTES
            && let Some((_, old)) = self.recent.pop_front()
        {
            self.recent_bytes -= old.len();
        }
        self.next += 1;
        Piece::Data(data)
    }
}
