//! Role: which chunks of a file are whole, and the SHA-256 of a file whose chunks come in any order.
//! Owns: per file, a set of chunk ranges and one running digest with its cursor.
//! Implements: docs/PROTOCOL.md, "Files" (digests).
//!
//! SHA-256 is sequential. A chunk that is next in line is hashed while its bytes pass on their way to the disk; one that
//! is early waits there, and is read back (from the page cache, as a rule) when its turn has come.

use crc32fast::Hasher;
use ring::digest::{Context, SHA256};
use std::ops::Range;

/// How many waiting chunks one stored chunk may pull into the digest. More than one, so that the cursor catches
/// up; few, so that filling a gap before a thousand waiting chunks does not stall every other session.
const CATCH_UP_CHUNKS: usize = 4;

/// How a file divides into chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Plain bytes per chunk; not zero.
    pub(crate) chunk_size: u32,
}

impl Layout {
    /// Number of chunks; none for an empty file.
    pub(crate) fn count(self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size))
    }

    /// Offset and length of a chunk, if there is such a chunk.
    pub(crate) fn extent(self, chunk: u64) -> Option<(u64, usize)> {
        if chunk >= self.count() {
            return None;
        }
        let offset = chunk * u64::from(self.chunk_size);
        let len = (self.size - offset).min(u64::from(self.chunk_size));
        Some((offset, len as usize))
    }
}

/// A set of numbers as sorted, disjoint, non-adjacent ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// True if `n` is in the set.
    pub(crate) fn contains(&self, n: u64) -> bool {
        let at = self.0.partition_point(|r| r.end <= n);
        self.0.get(at).is_some_and(|r| r.start <= n)
    }

    /// Adds one number.
    pub(crate) fn insert(&mut self, n: u64) {
        let at = self.0.partition_point(|r| r.end < n);
        match self.0.get_mut(at) {
            Some(r) if r.start <= n && n < r.end => {}
            Some(r) if r.end == n => {
                r.end = n + 1;
                if self.0.get(at + 1).is_some_and(|next| next.start == n + 1) {
                    let next = self.0.remove(at + 1);
                    self.0[at].end = next.end;
                }
            }
            Some(r) if r.start == n + 1 => r.start = n,
            _ => self.0.insert(at, n..n + 1),
        }
    }

    /// How many numbers are in the set.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// True if there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

/// A digest that takes chunks strictly in order.
#[derive(Clone)]
pub(crate) struct Sequential {
    context: Context,
    next: u64,
}

impl Default for Sequential {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), next: 0 }
    }
}

impl std::fmt::Debug for Sequential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequential").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Sequential {
    /// The chunk that must come next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes `chunk` in, if it is the next one; says whether it was.
    pub(crate) fn take(&mut self, chunk: u64, plain: &[u8]) -> bool {
        let due = chunk == self.next;
        if due {
            self.context.update(plain);
            self.next += 1;
        }
        due
    }

    /// The digest of all that was taken in.
    pub(crate) fn value(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.context.clone().finish().as_ref());
        out
    }
}

/// A chunk whose plain bytes come in order: checksum and digest are ready with its last byte, and it need not be read back.
#[derive(Clone)]
struct Passing {
    chunk: u64,
    bytes: usize,
    crc: Hasher,
    /// With this chunk in it, if it was next in line. Taken over once the checksum has been found right.
    context: Option<Context>,
}

impl Passing {
    fn new(chunk: u64, digest: &Sequential) -> Self {
        let context = (digest.next == chunk).then(|| digest.context.clone());
        Self { chunk, bytes: 0, crc: Hasher::new(), context }
    }

    fn take(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        self.crc.update(piece);
        if let Some(context) = &mut self.context {
            context.update(piece);
        }
    }
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing")
            .field("chunk", &self.chunk)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of one buffer.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&SHA256, data).as_ref());
    out
}

/// The chunks of a file being received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// How the file divides.
    pub(crate) layout: Layout,
    whole: RangeSet,
    digest: Sequential,
    passing: Option<Passing>,
}

impl Received {
    /// Nothing received yet, except the chunks in `have`.
    pub(crate) fn new(layout: Layout, have: RangeSet) -> Self {
        Self { layout, whole: have, digest: Sequential::default(), passing: None }
    }

    /// Bytes from the beginning that are in the digest.
    pub(crate) fn hashed_bytes(&self) -> u64 {
        (self.digest.next() * u64::from(self.layout.chunk_size)).min(self.layout.size)
    }

    /// True if this chunk is stored and checked; it must not be written again.
    pub(crate) fn is_whole(&self, chunk: u64) -> bool {
        self.whole.contains(chunk)
    }

    /// True if every chunk is.
    pub(crate) fn is_complete(&self) -> bool {
        self.whole.len() == self.layout.count()
    }

    /// The chunks that are whole.
    pub(crate) fn whole(&self) -> &RangeSet {
        &self.whole
    }

    /// Plain bytes of a chunk, `at` bytes after its beginning, have been written.
    pub(crate) fn pass(&mut self, chunk: u64, at: usize, piece: &[u8]) {
        let passing = match self.passing.take() {
            Some(passing) if passing.chunk == chunk && passing.bytes == at => Some(passing),
            _ => (at == 0).then(|| Passing::new(chunk, &self.digest)),
        };
        self.passing = passing.map(|mut passing| {
            passing.take(piece);
            passing
        });
    }

    /// The CRC-32 of a chunk if all its `bytes` were the last that passed, in order, and none has been written twice.
    pub(crate) fn passed(&self, chunk: u64, bytes: usize) -> Option<u32> {
        let passing = self.passing.as_ref().filter(|p| p.chunk == chunk && p.bytes == bytes)?;
        Some(passing.crc.clone().finalize())
    }

    /// A chunk has been stored, has passed and is right. `read` as for [`Received::stored`].
    pub(crate) fn stored_in_passing<E>(
        &mut self,
        chunk: u64,
        read: impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole.insert(chunk);
        if let Some(Passing { chunk: passed, context: Some(context), .. }) = self.passing.take()
            && passed == chunk
            && chunk == self.digest.next
        {
            self.digest = Sequential { context, next: chunk + 1 };
        }
        self.catch_up(CATCH_UP_CHUNKS, read)
    }

    /// A chunk has been stored and checked. `read` reads bytes at an offset into a buffer that it fills.
    pub(crate) fn stored<E>(
        &mut self,
        chunk: u64,
        plain: &[u8],
        read: impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole.insert(chunk);
        self.digest.take(chunk, plain);
        // Whether or not this one was due: chunks of an earlier run wait to be hashed too.
        self.catch_up(CATCH_UP_CHUNKS, read)
    }

    /// Hashes up to `limit` waiting chunks.
    fn catch_up<E>(
        &mut self,
        limit: usize,
        mut read: impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = Vec::new();
        for _ in 0..limit {
            let next = self.digest.next();
            if !self.whole.contains(next) {
                break;
            }
            let Some((offset, len)) = self.layout.extent(next) else { break };
            read(offset, len, &mut buffer)?;
            self.digest.take(next, &buffer);
        }
        Ok(())
    }

    /// The digest of the whole file; `None` if chunks are missing.
    pub(crate) fn finish<E>(
        &mut self,
        read: impl FnMut(u64, usize, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Option<[u8; 32]>, E> {
        if !self.is_complete() {
            return Ok(None);
        }
        self.catch_up(usize::MAX, read)?;
        Ok(Some(self.digest.value()))
    }
}
