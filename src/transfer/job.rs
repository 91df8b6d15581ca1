//! Role: the language in which the pure core asks a store for work, and gets its answers.
//! Owns: no state; `Job` goes down through `Session::poll_job`, `Done` comes back through `Session::handle_done`.
//! Implements: docs/PROTOCOL.md, "Files".
//!
//! A store runs the jobs of one session in the order in which they were given. Jobs never block the event loop:
//! `net` runs them on a helper thread, `sim` inline.

use super::sync::{Offer, SyncOptions, Verdict};
use bytes::Bytes;
use std::ops::Range;

/// A file of one session and one direction, numbered by its sender from 0 up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// The size of a file that is a stream: known only at its end.
pub const UNKNOWN_SIZE: u64 = u64::MAX;

/// What a manifest entry describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory, before anything inside it.
    Dir,
    /// The same directory again, after everything inside it: now its mode and mtime can be set.
    DirEnd,
    /// A symbolic link; its target is bytes, never followed.
    Symlink,
}

/// Permission bits and modification time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Unix permission bits, `0o7777` at most.
    pub mode: u32,
    /// Modification time, seconds since 1970 (negative before).
    pub mtime_s: i64,
    /// Nanoseconds of the modification time, below 1,000,000,000.
    pub mtime_ns: u32,
}

/// How chunks are encoded on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Samples each chunk and compresses only what shrinks, by the method that suits the speed of the link.
    #[default]
    Auto,
    /// Always tries LZ4; a chunk that would grow goes raw all the same.
    Lz4,
    /// Always tries zstd at this level (1 to `MAX_ZSTD_LEVEL`); LZ4 if the peer does not understand zstd.
    Zstd(u8),
    /// Never.
    None,
}

/// Highest zstd level: beyond it zstd needs a multiple of the memory (its "ultra" levels) for nothing at these sizes.
pub const MAX_ZSTD_LEVEL: u8 = 19;
/// The level when none is named: zstd's own default.
pub const DEFAULT_ZSTD_LEVEL: u8 = 3;

/// What the encoder of a chunk should know of the way that the chunk will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeBudget {
    /// What the link carries, bytes a second; `None`: not known yet.
    pub link_bytes_per_sec: Option<u64>,
    /// The peer understands zstd.
    pub zstd: bool,
}

/// The encoding of one chunk on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkCodec {
    /// The plain bytes.
    Raw,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame with its content size, without dictionary and checksum.
    Zstd,
}

/// What to do when a file of that name is already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse the file (`StoreErrorKind::Exists`).
    #[default]
    Never,
    /// Replace it, atomically, when the new one is whole.
    Always,
}

/// Where a tree to be sent starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRoot {
    /// Where it lies.
    pub location: Location,
    /// What its manifest paths begin with (the base name, or several components); empty: the contents go without it.
    pub name: Vec<u8>,
}

/// Which name space a path belongs to. Paths are bytes, as on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A path that the local user named; used as it is.
    Local(Vec<u8>),
    /// A path from a peer, relative to the store's jail; resolved beneath it, never outside.
    Jail(Vec<u8>),
    /// A byte stream of the local user: standard input as a source, standard output as a destination.
    Stream,
    /// A path in the store's own scratch space, relative to the jail (echo copies); peers cannot name it.
    Scratch(Vec<u8>),
}

impl Location {
    /// The path; of a stream, what a command line calls it.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Local(path) | Self::Jail(path) | Self::Scratch(path) => path,
            Self::Stream => b"-",
        }
    }
}

/// Where received entries go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dest {
    /// `Jail` or `Scratch`.
    pub location: Location,
    /// True: entries go inside this directory (made when missing). False: the single root is given this very
    /// name, unless the name is an existing directory, then it goes inside.
    pub into_dir: bool,
    /// Existing files.
    pub overwrite: Overwrite,
    /// Starts every file anew, whatever an earlier run has left.
    pub no_resume: bool,
    /// Put before the last component of every file's name (`received_`), usually empty.
    pub name_prefix: Vec<u8>,
}

/// One entry found by a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEntry {
    /// Index into the walk's roots, in the order in which they were added.
    pub root: u32,
    /// Path below the root's own path, `/`-separated; empty for the root itself.
    pub below: Vec<u8>,
    /// Path in the manifest: the root's `name`, then `below`. Never empty, never with `.` or `..`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Mode and mtime (zero for symlinks' mode).
    pub meta: Meta,
    /// Bytes (files only); `UNKNOWN_SIZE` for a stream.
    pub size: u64,
    /// Link target (symlinks only).
    pub target: Vec<u8>,
    /// The whole contents, for files up to the inline limit given with `NextEntries`.
    pub inline: Option<Inline>,
}

/// A small file that rides in its manifest entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inline {
    /// The contents.
    pub data: Bytes,
    /// SHA-256 of `data`.
    pub sha256: [u8; 32],
}

/// Work for a store. Every variant says which `Done` answers it.
#[derive(Clone, Debug)]
pub enum Job {
    // ---- sending ----
    /// Adds a root to this session's walk. No answer.
    AddRoot(SourceRoot),
    /// Finds up to `max_entries` more entries, reading files of at most `inline_max_bytes` whole, in depth-first
    /// order (`Dir`, children sorted by name, `DirEnd`), `list_only`: one level, nothing read, no `DirEnd`.
    /// Answer: `Done::Entries`. A symlink root given by the local user is followed; one inside a tree never is.
    NextEntries {
        /// At most so many.
        max_entries: usize,
        /// Largest file that is read whole.
        inline_max_bytes: u64,
        /// One level, for a listing.
        list_only: bool,
    },
    /// Gives a found entry its id and how it is to be encoded. The file is opened at its first read. No answer.
    OpenSource {
        /// The file.
        file: FileId,
        /// Index of the root.
        root: u32,
        /// Path below the root.
        below: Vec<u8>,
        /// Bytes, as the walk found them.
        size: u64,
        /// Mode and time, as the walk found them.
        meta: Meta,
        /// Plain bytes per chunk.
        chunk_size: u32,
        /// Whether to compress.
        compress: Compression,
    },
    /// Reads and encodes one chunk. Answer: `Done::Chunk` or `Done::SourceFailed`.
    /// Chunks are asked for in ascending order the first time; any may be asked for again.
    ReadChunk {
        /// The file.
        file: FileId,
        /// Its index, from 0.
        chunk: u64,
        /// What to encode it for.
        budget: EncodeBudget,
    },
    /// All chunks have been read: the digest (hashing what was skipped), after checking that size and mtime are
    /// still those of the entry. Answer: `Done::SourceDigest` or `Done::SourceFailed` (`SourceChanged`).
    FinishSource {
        /// The file.
        file: FileId,
    },
    /// Goes on with the SHA-256 of an opened source, for a bounded time. Answer: `Done::SourceHashed`.
    HashSource {
        /// The file.
        file: FileId,
    },
    /// Looks again at a file that was offered, now that it is wanted. Answer: `Done::Found`.
    FindEntry {
        /// The offer.
        file: FileId,
        /// Index of the root.
        root: u32,
        /// Path below the root.
        below: Vec<u8>,
        /// Largest file that is read whole.
        inline_max_bytes: u64,
    },
    /// Forget the file. No answer.
    CloseSource {
        /// The file.
        file: FileId,
    },

    // ---- both ----
    /// What the client wishes beyond moving everything; before roots and destination. No answer.
    SetOptions(Box<SyncOptions>),

    // ---- receiving ----
    /// Where what follows goes; before any `Begin`. Answer: `Done::DestSet`.
    SetDest(Dest),
    /// This session goes on with what an earlier one of the same request began: a file that stands under its name
    /// already, with the size and mtime of its entry, is not refused but compared with it, and done if it is the same.
    /// Before any `Begin`. No answer.
    Continue,
    /// Starts an entry. Files without `inline`: `Done::Began`. Everything else: `Done::Committed`, when it is
    /// under its final name and synced (batched).
    Begin(Box<BeginEntry>),
    /// A file that may be there already. Answer: `Done::Offered`.
    Offer(Box<Offer>),
    /// Goes on with a comparison, for a bounded time. Answer: `Done::Offered`.
    Compare {
        /// The offer.
        file: FileId,
    },
    /// Plain bytes at a file offset. Answer: `Done::Written`, or `Done::SinkFailed` once.
    Write {
        /// The file.
        file: FileId,
        /// Where the bytes go.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// All bytes of a raw chunk were written: read it back, check its CRC-32, take it into the digest when its turn
    /// has come. Answer: `Done::ChunkStored` or `Done::SinkFailed`.
    FinishChunk {
        /// The file.
        file: FileId,
        /// Its index, from 0.
        chunk: u64,
        /// CRC-32 of the plain bytes.
        crc32: u32,
    },
    /// A whole encoded chunk: decode, check, write. Answer: `Done::ChunkStored` or `Done::SinkFailed`.
    WriteEncoded {
        /// The file.
        file: FileId,
        /// Its index, from 0.
        chunk: u64,
        /// How `data` is encoded.
        codec: ChunkCodec,
        /// CRC-32 of the plain bytes.
        crc32: u32,
        /// The bytes.
        data: Bytes,
    },
    /// A stream being received turned out to have this size. No answer.
    SetSize {
        /// The file.
        file: FileId,
        /// Bytes in all.
        bytes: u64,
    },
    /// All chunks are stored: compare the digest, sync, rename. Answer: `Done::Committed`.
    Commit {
        /// The file.
        file: FileId,
        /// SHA-256 of the whole file.
        sha256: [u8; 32],
    },
    /// Drop the file; the partial is kept for a later resume if `keep_partial`. No answer.
    Abort {
        /// The file.
        file: FileId,
        /// Keep what has come so far.
        keep_partial: bool,
    },
    /// Removes some of what the manifest did not name, from the directories that it did. Answer: `Done::Removed`.
    RemoveExtra,
    /// Removes a tree of the scratch space (an echo copy). No answer.
    RemoveScratch(Vec<u8>),

    /// The session is over: close everything it has open; partials are kept for resume. No answer; the last job.
    EndSession,
}

/// The entry of `Job::Begin`.
#[derive(Clone, Debug)]
pub struct BeginEntry {
    /// Its id.
    pub file: FileId,
    /// The manifest path, already checked: relative, no empty, `.` or `..` component, no NUL, within bounds.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Mode and mtime to set at the end.
    pub meta: Meta,
    /// Bytes (files only); `UNKNOWN_SIZE` for a stream.
    pub size: u64,
    /// Plain bytes per chunk (files only).
    pub chunk_size: u32,
    /// Link target (symlinks only).
    pub target: Vec<u8>,
    /// Contents (small files only).
    pub inline: Option<Inline>,
}

/// Answers of a store.
#[derive(Clone, Debug)]
pub enum Done {
    /// More entries; an `Err` names an entry that cannot be sent; `end`: the roots added so far are exhausted.
    Entries {
        /// What was found, or why not.
        entries: Vec<Result<SourceEntry, EntryError>>,
        /// Nothing is left of the roots added so far.
        end: bool,
    },
    /// An encoded chunk.
    Chunk {
        /// The file.
        file: FileId,
        /// Its index, from 0.
        chunk: u64,
        /// How `data` is encoded.
        codec: ChunkCodec,
        /// Length of the plain bytes.
        plain_bytes: u32,
        /// CRC-32 of the plain bytes.
        crc32: u32,
        /// The bytes.
        data: Bytes,
    },
    /// A stream has ended: it has so many bytes. In place of a chunk that does not exist.
    StreamEnded {
        /// The file.
        file: FileId,
        /// Bytes in all.
        bytes: u64,
    },
    /// A stream has no whole chunk yet: ask again.
    StreamWaits {
        /// The file.
        file: FileId,
        /// The chunk.
        chunk: u64,
    },
    /// SHA-256 of the whole source.
    SourceDigest {
        /// The file.
        file: FileId,
        /// SHA-256 of the whole file.
        sha256: [u8; 32],
    },
    /// The source cannot be read, or changed meanwhile.
    SourceFailed {
        /// It answers a `ReadChunk` (else a `FinishSource`).
        read: bool,
        /// The file.
        file: FileId,
        /// What went wrong.
        error: StoreError,
    },
    /// The SHA-256 of an opened source; `None`: not yet, ask again.
    SourceHashed {
        /// The file.
        file: FileId,
        /// The digest, or why there is none.
        result: Result<Option<[u8; 32]>, StoreError>,
    },
    /// An offered file as it is now.
    Found {
        /// The offer.
        file: FileId,
        /// The entry, or why it cannot be sent.
        result: Result<SourceEntry, EntryError>,
    },
    /// What became of an offer; `Equal` also for a directory or link that is there, when the client wished to compare.
    Offered {
        /// The offer.
        file: FileId,
        /// What the store makes of it.
        verdict: Verdict,
    },
    /// What was removed, or would be in a dry run.
    Removed {
        /// Paths below the destination.
        paths: Vec<(Vec<u8>, EntryKind)>,
        /// There is more to look at: ask again.
        more: bool,
        /// Why it ends here.
        error: Option<StoreError>,
    },
    /// The destination is usable, or not.
    DestSet(Result<(), StoreError>),
    /// The partial is open; `have` are chunk ranges that are whole already (resume). Or refused.
    Began {
        /// The file.
        file: FileId,
        /// What became of it.
        result: Result<Vec<Range<u64>>, StoreError>,
    },
    /// So many bytes were written: their share of the receive budget is free again.
    Written {
        /// The file.
        file: FileId,
        /// How many.
        bytes: u64,
    },
    /// A chunk is stored, or its CRC-32 does not fit (`ok: false`): it must be sent again.
    ChunkStored {
        /// The file.
        file: FileId,
        /// Its index, from 0.
        chunk: u64,
        /// Its CRC-32 fits.
        ok: bool,
    },
    /// Writing failed; further jobs of the file are ignored.
    SinkFailed {
        /// The file.
        file: FileId,
        /// What went wrong.
        error: StoreError,
    },
    /// The entry is visible under its name and synced (with the digest, files only), or failed.
    Committed {
        /// The file.
        file: FileId,
        /// What became of it.
        result: Result<Option<[u8; 32]>, StoreError>,
    },
}

/// A path that could not be walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryError {
    /// The manifest path (or the root's own path when there is none).
    pub path: Vec<u8>,
    /// What went wrong.
    pub error: StoreError,
}

/// What went wrong in a store, in terms that cross the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// The class, from which exit codes follow.
    pub kind: StoreErrorKind,
    /// One sentence naming the file and what to do. No local absolute paths when it goes to a peer.
    pub message: String,
}

/// Classes of store errors; the numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StoreErrorKind {
    /// No such file or directory.
    NotFound = 1,
    /// There already, and overwriting was not asked for.
    Exists = 2,
    /// Permission denied.
    Permission = 3,
    /// The disk is full.
    NoSpace = 4,
    /// A quota is exhausted.
    Quota = 5,
    /// A component is not a directory, or the name is a directory.
    WrongKind = 6,
    /// A name or path too long for the destination.
    NameTooLong = 7,
    /// A path that leads out of the served directory, or is otherwise forbidden.
    Forbidden = 8,
    /// Somebody else is writing this file now.
    Busy = 9,
    /// The source changed while it was read.
    SourceChanged = 10,
    /// The SHA-256 of what arrived is not that of the source.
    DigestMismatch = 11,
    /// A server limit (file size, number of files).
    Limit = 12,
    /// Any other I/O error.
    Io = 13,
}

impl StoreErrorKind {
    /// The class for a wire code.
    pub fn from_wire(code: u8) -> Option<Self> {
        use StoreErrorKind::*;
        [
            NotFound,
            Exists,
            Permission,
            NoSpace,
            Quota,
            WrongKind,
            NameTooLong,
            Forbidden,
            Busy,
            SourceChanged,
            DigestMismatch,
            Limit,
            Io,
        ]
        .into_iter()
        .find(|k| *k as u8 == code)
    }

    /// The process exit code that this class leads to: 6 integrity, 5 refused, 1 anything else.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::SourceChanged | Self::DigestMismatch => 6,
            Self::Io => 1,
            _ => 5,
        }
    }
}
