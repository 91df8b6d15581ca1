//! Role: what a receiver knows of one entry that has no result yet, and of its chunks in assembly.
//! Owns: both.
//! Implements: docs/PROTOCOL.md, "Chunks".

use crate::arq::rangeset::RangeSet;
use crate::transfer::job::{ChunkCodec, EntryKind};
use std::collections::HashMap;

/// Most stretches of stored chunks in one file: a sender goes through it in order, so an honest one leaves as many gaps as
/// it has chunks in flight. Beyond, only chunks beside stored ones are taken.
const MAX_STORED_RANGES: usize = 65_536;

#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) generation: u32,
    pub(super) encoded: Option<(ChunkCodec, u32)>,
    pub(super) received: RangeSet,
    pub(super) crc32: Option<u32>,
    pub(super) data: Vec<u8>,
}

impl Assembly {
    /// Bytes in memory that have arrived (raw chunks are written as they come).
    pub(super) fn assembled_bytes(&self) -> u64 {
        if self.encoded.is_some() { self.received.len() } else { 0 }
    }
}

#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) size: u64,
    pub(super) chunk_size: u32,
    pub(super) inline_bytes: u64,
    pub(super) open: HashMap<u64, Assembly>,
    /// Chunks that the store checks: their generation, and the encoded bytes on their way there.
    pub(super) finishing: HashMap<u64, (u32, u64)>,
    /// Bytes of this file on their way to the store.
    pub(super) queued_bytes: u64,
    pub(super) stored: RangeSet,
    /// The least generation wanted of chunks that came wrong.
    pub(super) wanted_generation: HashMap<u64, u32>,
    pub(super) digest: Option<[u8; 32]>,
    pub(super) commit_asked: bool,
    /// A stream of which the end is not known yet; `size` is then the most that it can have.
    pub(super) open_ended: bool,
    /// The chunk of a stream that came shorter than the others, which can only be its last, and its length.
    pub(super) short: Option<(u64, u64)>,
    pub(super) counted_bytes: u64,
}

impl Incoming {
    /// An entry that is settled by one answer of the store.
    pub(super) fn settled_by_store(path: Vec<u8>, kind: EntryKind, size: u64, inline_bytes: u64) -> Self {
        Self {
            path,
            kind,
            size,
            chunk_size: 0,
            inline_bytes,
            open: HashMap::new(),
            finishing: HashMap::new(),
            queued_bytes: 0,
            stored: RangeSet::new(),
            wanted_generation: HashMap::new(),
            digest: None,
            commit_asked: false,
            open_ended: false,
            short: None,
            counted_bytes: size,
        }
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.chunk_size > 0
    }

    pub(super) fn chunk_count(&self) -> u64 {
        if self.is_chunked() { self.size.div_ceil(self.chunk_size.into()) } else { 0 }
    }

    /// Whether one more stored chunk, here, would be one stretch too many.
    pub(super) fn is_scattered(&self, chunk: u64) -> bool {
        self.stored.range_count() >= MAX_STORED_RANGES
            && chunk > 0
            && !self.stored.touches(&(chunk..chunk + 1))
    }

    pub(super) fn plain_bytes(&self, chunk: u64) -> u64 {
        (self.size - chunk * u64::from(self.chunk_size)).min(self.chunk_size.into())
    }
}
