//! Role: messages on the control stream.
//! Owns: nothing. Implements: docs/PROTOCOL.md, "Control messages".

use super::buf::{Reader, put_bytes, put_varint, unzigzag, zigzag};
use super::sync::{
    put_offer, put_options, put_ranges, put_removed, read_offer, read_options, read_ranges, read_removed,
};
use super::{
    MAX_FILE_BYTES, MAX_GET_PATHS, MAX_INLINE_BYTES, MAX_LABEL_BYTES, MAX_MESSAGE_BYTES, MAX_PATH_BYTES,
    MAX_TARGET_BYTES, MAX_TEXT_BYTES, WireError,
};
use crate::transfer::job::{
    BeginEntry, Compression, EntryKind, FileId, Inline, MAX_ZSTD_LEVEL, Meta, Overwrite, StoreError,
    StoreErrorKind, UNKNOWN_SIZE,
};
use crate::transfer::sync::{Offer, SyncOptions};
use crate::transfer::{MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Request};
use bytes::Bytes;
use std::ops::Range;

const REQUEST: u64 = 1;
const ENTRY: u64 = 2;
const ENTRY_FAILED: u64 = 3;
const MANIFEST_END: u64 = 4;
const DIGEST: u64 = 5;
const ABANDON: u64 = 6;
const HAVE: u64 = 7;
const RESULT: u64 = 8;
const RESEND: u64 = 9;
const REQUEST_FAILED: u64 = 10;
const CONTINUE: u64 = FIRST_EXTENSION;
const SEND_LIMIT: u64 = FIRST_EXTENSION + 1;
const OPTIONS: u64 = 11;
const OFFER: u64 = 12;
const UNCHANGED: u64 = 13;
const WANT: u64 = 14;
const STREAM_END: u64 = 15;
const REMOVED: u64 = 16;
const REMOVAL_END: u64 = 17;
/// A GET's compression byte above this is a zstd level plus this.
const ZSTD_BASE: u8 = 2;
/// From here on, unknown messages are skipped.
pub const FIRST_EXTENSION: u64 = 0x40;

/// One message of the control stream.
#[derive(Clone, Debug)]
pub enum Message {
    /// Client to server, first: what is wanted.
    Request {
        /// `--client-id`.
        client_id: String,
        /// What is wanted.
        request: Request,
    },
    /// Sender to receiver: the next manifest entry.
    Entry(Box<BeginEntry>),
    /// Sender to receiver: something that cannot be sent.
    EntryFailed {
        /// Its path.
        path: Vec<u8>,
        /// Why.
        error: StoreError,
    },
    /// Sender to receiver: no more entries.
    ManifestEnd,
    /// Sender to receiver: SHA-256 of the whole source.
    Digest {
        /// Which file.
        file: FileId,
        /// Its digest.
        sha256: [u8; 32],
    },
    /// Sender to receiver: the file will not be finished.
    Abandon {
        /// Which file.
        file: FileId,
        /// Why.
        error: StoreError,
    },
    /// Receiver to sender: chunks that are whole already.
    Have {
        /// Which file.
        file: FileId,
        /// Chunk ranges, ascending.
        ranges: Vec<Range<u64>>,
    },
    /// Receiver to sender: an entry is done for good.
    Result {
        /// Which entry.
        file: FileId,
        /// The receiver's digest (files), or why not.
        result: Result<Option<[u8; 32]>, StoreError>,
    },
    /// Receiver to sender: the CRC-32 of a chunk did not fit; send it again, as the next generation.
    Resend {
        /// Which file.
        file: FileId,
        /// Which chunk.
        chunk: u64,
    },
    /// Server to client: the request as a whole is refused.
    RequestFailed(StoreError),
    /// Client to server, after the request: an earlier session has begun it; what stands there already and is the same
    /// is done.
    Continue,
    /// Client to server, before the request: what else is wished (feature bit 1).
    Options(Box<SyncOptions>),
    /// Receiver to sender, at any time after the request: send at most this much, IP bytes a second; 0: no limit.
    SendLimit(u64),
    /// Sender to receiver: a file that need not travel if it is there (feature bit 1).
    Offer(Box<Offer>),
    /// Receiver to sender: these entries are there, equal (feature bit 1).
    Unchanged(Vec<Range<u64>>),
    /// Receiver to sender: these offered files are wanted (feature bit 1).
    Want(Vec<Range<u64>>),
    /// Server to client: what was removed, or would be in a dry run (feature bit 1).
    Removed(Vec<(Vec<u8>, EntryKind)>),
    /// Server to client: nothing more is removed, and why if that was not all (feature bit 1).
    RemovalEnd(Option<StoreError>),
    /// Sender to receiver: a stream has ended (feature bit 2).
    StreamEnd {
        /// Which file.
        file: FileId,
        /// Its size.
        bytes: u64,
    },
}

fn put_error(out: &mut Vec<u8>, e: &StoreError) {
    out.push(e.kind as u8);
    let text = e.message.as_bytes();
    put_bytes(out, &text[..text.len().min(MAX_TEXT_BYTES)]);
}

fn read_error(r: &mut Reader<'_>) -> Result<StoreError, WireError> {
    let kind = StoreErrorKind::from_wire(r.u8()?).unwrap_or(StoreErrorKind::Io);
    let message = String::from_utf8_lossy(r.bytes(MAX_TEXT_BYTES, "text")?).into_owned();
    Ok(StoreError { kind, message })
}

fn put_request(out: &mut Vec<u8>, client_id: &str, request: &Request) {
    let label = client_id.as_bytes();
    put_bytes(out, &label[..label.len().min(MAX_LABEL_BYTES)]);
    let policy =
        |o: &Overwrite, no_resume: bool| u8::from(*o == Overwrite::Always) << 1 | u8::from(no_resume) << 2;
    match request {
        Request::Put { dest, into_dir, overwrite, no_resume } => {
            out.push(1);
            out.push(u8::from(*into_dir) | policy(overwrite, *no_resume));
            put_bytes(out, dest);
        }
        Request::Get { paths, compress, chunk_size } => {
            out.push(2);
            out.push(match compress {
                Compression::Auto => 0,
                Compression::Lz4 => 1,
                Compression::None => 2,
                Compression::Zstd(level) => ZSTD_BASE + (*level).clamp(1, MAX_ZSTD_LEVEL),
            });
            put_varint(out, (*chunk_size).into());
            put_varint(out, paths.len() as u64);
            paths.iter().for_each(|p| put_bytes(out, p));
        }
        Request::List { path } => {
            out.push(3);
            put_bytes(out, path);
        }
        Request::Echo { sim_back, keep, overwrite, no_resume } => {
            out.push(4);
            out.push(u8::from(*keep) | policy(overwrite, *no_resume));
            put_bytes(out, sim_back.as_bytes());
        }
    }
}

fn read_request(r: &mut Reader<'_>) -> Result<Message, WireError> {
    let client_id = String::from_utf8_lossy(r.bytes(MAX_LABEL_BYTES, "label")?).into_owned();
    let kind = r.u8()?;
    let path = |r: &mut Reader<'_>| Ok::<_, WireError>(r.bytes(MAX_PATH_BYTES, "path")?.to_vec());
    let replace = |flags: u8| if flags & 2 != 0 { Overwrite::Always } else { Overwrite::Never };
    let no_resume = |flags: u8| flags & 4 != 0;
    let request = match kind {
        1 => {
            let flags = r.u8()?;
            Request::Put {
                into_dir: flags & 1 != 0,
                overwrite: replace(flags),
                no_resume: no_resume(flags),
                dest: path(r)?,
            }
        }
        2 => {
            let compress = match r.u8()? {
                0 => Compression::Auto,
                1 => Compression::Lz4,
                2 => Compression::None,
                n if (1..=MAX_ZSTD_LEVEL).contains(&(n - ZSTD_BASE)) => Compression::Zstd(n - ZSTD_BASE),
                _ => return Err(WireError::Bounds("compression")),
            };
            let chunk_size = read_chunk_size(r)?;
            let count = r.varint_max(MAX_GET_PATHS as u64, "paths")?;
            let paths = (0..count).map(|_| path(r)).collect::<Result<_, _>>()?;
            Request::Get { paths, compress, chunk_size }
        }
        3 => Request::List { path: path(r)? },
        4 => {
            let flags = r.u8()?;
            let sim = String::from_utf8_lossy(r.bytes(MAX_TEXT_BYTES, "sim")?).into_owned();
            Request::Echo {
                sim_back: sim,
                keep: flags & 1 != 0,
                overwrite: replace(flags),
                no_resume: no_resume(flags),
            }
        }
        k => return Err(WireError::UnknownType(k.into())),
    };
    Ok(Message::Request { client_id, request })
}

fn read_chunk_size(r: &mut Reader<'_>) -> Result<u32, WireError> {
    let n = r.varint_max(MAX_CHUNK_SIZE.into(), "chunk size")? as u32;
    if n < MIN_CHUNK_SIZE { Err(WireError::Bounds("chunk size")) } else { Ok(n) }
}

/// Whether a manifest path is acceptable: relative, no empty, `.` or `..` component, no NUL.
pub fn path_is_clean(path: &[u8]) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH_BYTES
        && !path.contains(&0)
        && path.split(|b| *b == b'/').all(|c| !c.is_empty() && c != b"." && c != b"..")
}

pub(super) fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    put_varint(out, meta.mode.into());
    put_varint(out, zigzag(meta.mtime_s));
    put_varint(out, meta.mtime_ns.into());
}

/// As an ENTRY and an OFFER have them.
pub(super) fn read_path_and_meta(r: &mut Reader<'_>) -> Result<(Vec<u8>, Meta), WireError> {
    let path = r.bytes(MAX_PATH_BYTES, "path")?.to_vec();
    if !path_is_clean(&path) {
        return Err(WireError::Bounds("path"));
    }
    let meta = Meta {
        mode: r.varint_max(0o7777, "mode")? as u32,
        mtime_s: unzigzag(r.varint()?),
        mtime_ns: r.varint_max(999_999_999, "nanoseconds")? as u32,
    };
    Ok((path, meta))
}

fn put_entry(out: &mut Vec<u8>, e: &BeginEntry) {
    put_varint(out, e.file.0);
    out.push(match e.kind {
        EntryKind::File => 0,
        EntryKind::Dir => 1,
        EntryKind::DirEnd => 2,
        EntryKind::Symlink => 3,
    });
    put_bytes(out, &e.path);
    put_meta(out, &e.meta);
    match e.kind {
        EntryKind::File => {
            put_varint(out, if e.size == UNKNOWN_SIZE { 0 } else { e.size });
            match &e.inline {
                None if e.size == UNKNOWN_SIZE => {
                    out.push(2);
                    put_varint(out, e.chunk_size.into());
                }
                Some(i) => {
                    out.push(1);
                    out.extend_from_slice(&i.data);
                    out.extend_from_slice(&i.sha256);
                }
                None => {
                    out.push(0);
                    put_varint(out, e.chunk_size.into());
                }
            }
        }
        EntryKind::Symlink => put_bytes(out, &e.target),
        EntryKind::Dir | EntryKind::DirEnd => {}
    }
}

fn read_entry(r: &mut Reader<'_>) -> Result<BeginEntry, WireError> {
    let file = FileId(r.varint_max(1 << 48, "file")?);
    let kind = match r.u8()? {
        0 => EntryKind::File,
        1 => EntryKind::Dir,
        2 => EntryKind::DirEnd,
        3 => EntryKind::Symlink,
        _ => return Err(WireError::Bounds("entry kind")),
    };
    let (path, meta) = read_path_and_meta(r)?;
    let mut e =
        BeginEntry { file, path, kind, meta, size: 0, chunk_size: 0, target: Vec::new(), inline: None };
    match kind {
        EntryKind::File => {
            e.size = r.varint_max(MAX_FILE_BYTES, "size")?;
            match r.u8()? {
                0 => e.chunk_size = read_chunk_size(r)?,
                1 if e.size <= MAX_INLINE_BYTES as u64 => {
                    let data = Bytes::copy_from_slice(r.take(e.size as usize)?);
                    e.inline = Some(Inline { data, sha256: r.array()? });
                }
                2 if e.size == 0 => {
                    e.size = UNKNOWN_SIZE;
                    e.chunk_size = read_chunk_size(r)?;
                }
                _ => return Err(WireError::Bounds("inline")),
            }
        }
        EntryKind::Symlink => {
            e.target = r.bytes(MAX_TARGET_BYTES, "target")?.to_vec();
            if e.target.is_empty() || e.target.contains(&0) {
                return Err(WireError::Bounds("target"));
            }
        }
        EntryKind::Dir | EntryKind::DirEnd => {}
    }
    Ok(e)
}

impl Message {
    /// Whether the next message of a stream's contiguous bytes is a manifest entry.
    pub fn next_is_entry(stream: &[u8]) -> bool {
        matches!(Reader::new(stream).varint(), Ok(ENTRY | OFFER))
    }

    fn kind(&self) -> u64 {
        match self {
            Self::Request { .. } => REQUEST,
            Self::Entry(_) => ENTRY,
            Self::EntryFailed { .. } => ENTRY_FAILED,
            Self::ManifestEnd => MANIFEST_END,
            Self::Digest { .. } => DIGEST,
            Self::Abandon { .. } => ABANDON,
            Self::Have { .. } => HAVE,
            Self::Result { .. } => RESULT,
            Self::Resend { .. } => RESEND,
            Self::RequestFailed(_) => REQUEST_FAILED,
            Self::Continue => CONTINUE,
            Self::Options(_) => OPTIONS,
            Self::SendLimit(_) => SEND_LIMIT,
            Self::Offer(_) => OFFER,
            Self::Unchanged(_) => UNCHANGED,
            Self::Want(_) => WANT,
            Self::StreamEnd { .. } => STREAM_END,
            Self::Removed(_) => REMOVED,
            Self::RemovalEnd(_) => REMOVAL_END,
        }
    }

    /// Appends the message: type, length, body. `scratch` is cleared and used for the body.
    pub fn encode(&self, out: &mut Vec<u8>, scratch: &mut Vec<u8>) {
        scratch.clear();
        match self {
            Self::Request { client_id, request } => put_request(scratch, client_id, request),
            Self::Entry(e) => put_entry(scratch, e),
            Self::EntryFailed { path, error } => {
                put_bytes(scratch, &path[..path.len().min(MAX_PATH_BYTES)]);
                put_error(scratch, error);
            }
            Self::ManifestEnd | Self::Continue => {}
            Self::Digest { file, sha256 } => {
                put_varint(scratch, file.0);
                scratch.extend_from_slice(sha256);
            }
            Self::Abandon { file, error } => {
                put_varint(scratch, file.0);
                put_error(scratch, error);
            }
            Self::Have { file, ranges } => {
                put_varint(scratch, file.0);
                put_ranges(scratch, ranges);
            }
            Self::Result { file, result } => {
                put_varint(scratch, file.0);
                match result {
                    Ok(digest) => {
                        scratch.push(0);
                        put_bytes(scratch, digest.as_ref().map_or(&[][..], |d| &d[..]));
                    }
                    Err(e) => put_error(scratch, e),
                }
            }
            Self::Resend { file, chunk } => {
                put_varint(scratch, file.0);
                put_varint(scratch, *chunk);
            }
            Self::RequestFailed(e) => put_error(scratch, e),
            Self::Options(o) => put_options(scratch, o),
            Self::SendLimit(rate) => put_varint(scratch, *rate),
            Self::Offer(o) => put_offer(scratch, o),
            Self::Unchanged(ranges) | Self::Want(ranges) => put_ranges(scratch, ranges),
            Self::Removed(paths) => put_removed(scratch, paths),
            Self::RemovalEnd(None) => scratch.push(0),
            Self::RemovalEnd(Some(e)) => put_error(scratch, e),
            Self::StreamEnd { file, bytes } => {
                put_varint(scratch, file.0);
                put_varint(scratch, *bytes);
            }
        }
        put_varint(out, self.kind());
        put_bytes(out, scratch);
    }

    /// Decodes the next message of a stream's contiguous bytes. `Ok(None)`: not whole yet. Else the message (`None` for a skipped
    /// extension) and the bytes it took.
    pub fn decode(stream: &[u8]) -> Result<Option<(Option<Self>, usize)>, WireError> {
        let mut r = Reader::new(stream);
        let head = (r.varint(), r.varint());
        let (Ok(kind), Ok(len)) = head else { return Ok(None) };
        if len > MAX_MESSAGE_BYTES as u64 {
            return Err(WireError::Bounds("message length"));
        }
        let Ok(body) = r.take(len as usize) else { return Ok(None) };
        let used = stream.len() - r.remaining();
        let mut b = Reader::new(body);
        let file = |b: &mut Reader<'_>| Ok::<_, WireError>(FileId(b.varint_max(1 << 48, "file")?));
        let message = match kind {
            REQUEST => read_request(&mut b)?,
            ENTRY => Self::Entry(Box::new(read_entry(&mut b)?)),
            ENTRY_FAILED => Self::EntryFailed {
                path: b.bytes(MAX_PATH_BYTES, "path")?.to_vec(),
                error: read_error(&mut b)?,
            },
            MANIFEST_END => Self::ManifestEnd,
            DIGEST => Self::Digest { file: file(&mut b)?, sha256: b.array()? },
            ABANDON => Self::Abandon { file: file(&mut b)?, error: read_error(&mut b)? },
            HAVE => {
                let file = file(&mut b)?;
                Self::Have { file, ranges: read_ranges(&mut b)? }
            }
            RESULT => Self::Result { file: file(&mut b)?, result: read_result(&mut b)? },
            RESEND => Self::Resend { file: file(&mut b)?, chunk: b.varint_max(MAX_FILE_BYTES, "chunk")? },
            REQUEST_FAILED => Self::RequestFailed(read_error(&mut b)?),
            CONTINUE => Self::Continue,
            OPTIONS => Self::Options(Box::new(read_options(&mut b)?)),
            SEND_LIMIT => Self::SendLimit(b.varint()?),
            OFFER => Self::Offer(Box::new(read_offer(&mut b)?)),
            UNCHANGED => Self::Unchanged(read_ranges(&mut b)?),
            WANT => Self::Want(read_ranges(&mut b)?),
            REMOVED => Self::Removed(read_removed(&mut b)?),
            REMOVAL_END if body == [0] => {
                b.u8()?;
                Self::RemovalEnd(None)
            }
            REMOVAL_END => Self::RemovalEnd(Some(read_error(&mut b)?)),
            STREAM_END => {
                Self::StreamEnd { file: file(&mut b)?, bytes: b.varint_max(MAX_FILE_BYTES, "size")? }
            }
            k if k >= FIRST_EXTENSION => return Ok(Some((None, used))),
            k => return Err(WireError::UnknownType(k)),
        };
        b.end()?;
        Ok(Some((Some(message), used)))
    }
}

fn read_result(b: &mut Reader<'_>) -> Result<Result<Option<[u8; 32]>, StoreError>, WireError> {
    let code = b.u8()?;
    if code == 0 {
        let digest = b.bytes(32, "digest")?;
        return match digest.len() {
            0 => Ok(Ok(None)),
            _ => Ok(Ok(Some(digest.try_into().map_err(|_| WireError::Bounds("digest"))?))),
        };
    }
    let kind = StoreErrorKind::from_wire(code).unwrap_or(StoreErrorKind::Io);
    let message = String::from_utf8_lossy(b.bytes(MAX_TEXT_BYTES, "text")?).into_owned();
    Ok(Err(StoreError { kind, message }))
}
