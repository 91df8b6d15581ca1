//! Role: the bodies of OPTIONS, OFFER, UNCHANGED and WANT.
//! Owns: nothing.
//! Implements: docs/PROTOCOL.md, "Options", "Offers".

use super::buf::{Reader, put_bytes, put_varint};
use super::message::{put_meta, read_path_and_meta};
use super::{MAX_FILE_BYTES, MAX_HAVE_RANGES, MAX_MESSAGE_BYTES, MAX_PATH_BYTES, WireError};
use crate::transfer::job::{EntryKind, FileId};
use crate::transfer::sync::{
    Compare, Delete, MAX_PATTERN_BYTES, MAX_PATTERNS, Offer, Pattern, PatternKind, SyncOptions,
};
use std::ops::Range;

const COMPARE: u64 = 1;
const DIGEST: u64 = 1 << 1;
const DRY_RUN: u64 = 1 << 2;
const DELETE: u64 = 1 << 3;
const DELETE_IN_DEST: u64 = 1 << 4;
const NO_MTIME: u64 = 1 << 5;
const NO_MODE: u64 = 1 << 6;
const ALL: u64 = (1 << 7) - 1;

pub(super) fn put_options(out: &mut Vec<u8>, o: &SyncOptions) {
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let flags = flag(o.compare.is_some(), COMPARE)
        | flag(o.compare == Some(Compare::Digest), DIGEST)
        | flag(o.dry_run, DRY_RUN)
        | flag(o.delete.is_some(), DELETE)
        | flag(o.delete == Some(Delete::InDest), DELETE_IN_DEST)
        | flag(o.no_mtime, NO_MTIME)
        | flag(o.no_mode, NO_MODE);
    put_varint(out, flags);
    put_varint(out, o.patterns.len() as u64);
    for p in &o.patterns {
        out.push(match p.kind {
            PatternKind::Exclude => 0,
            PatternKind::Include => 1,
            PatternKind::IgnoreFile => 2,
        });
        put_bytes(out, &p.text);
    }
}

pub(super) fn read_options(r: &mut Reader<'_>) -> Result<SyncOptions, WireError> {
    // A wish that is not understood must not be passed over: it may be "change nothing".
    let flags = r.varint_max(ALL, "option flags")?;
    let has = |bit: u64| flags & bit != 0;
    let compare = match (has(COMPARE), has(DIGEST)) {
        (true, false) => Some(Compare::SizeAndTime),
        (true, true) => Some(Compare::Digest),
        (false, false) => None,
        (false, true) => return Err(WireError::Bounds("option flags")),
    };
    let delete = match (has(DELETE), has(DELETE_IN_DEST)) {
        (true, false) => Some(Delete::InSent),
        (true, true) => Some(Delete::InDest),
        (false, false) => None,
        (false, true) => return Err(WireError::Bounds("option flags")),
    };
    let count = r.varint_max(MAX_PATTERNS as u64, "patterns")?;
    let mut patterns = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let kind = match r.u8()? {
            0 => PatternKind::Exclude,
            1 => PatternKind::Include,
            2 => PatternKind::IgnoreFile,
            _ => return Err(WireError::Bounds("pattern kind")),
        };
        patterns.push(Pattern { kind, text: r.bytes(MAX_PATTERN_BYTES, "pattern")?.to_vec() });
    }
    Ok(SyncOptions {
        compare,
        dry_run: has(DRY_RUN),
        delete,
        no_mtime: has(NO_MTIME),
        no_mode: has(NO_MODE),
        patterns,
    })
}

pub(super) fn put_offer(out: &mut Vec<u8>, o: &Offer) {
    put_varint(out, o.file.0);
    put_bytes(out, &o.path);
    put_meta(out, &o.meta);
    put_varint(out, o.size);
    put_bytes(out, o.sha256.as_ref().map_or(&[][..], |d| &d[..]));
}

pub(super) fn read_offer(r: &mut Reader<'_>) -> Result<Offer, WireError> {
    let file = FileId(r.varint_max(1 << 48, "file")?);
    let (path, meta) = read_path_and_meta(r)?;
    let size = r.varint_max(MAX_FILE_BYTES, "size")?;
    let digest = r.bytes(32, "digest")?;
    let sha256 = match digest.len() {
        0 => None,
        _ => Some(digest.try_into().map_err(|_| WireError::Bounds("digest"))?),
    };
    Ok(Offer { file, path, meta, size, sha256 })
}

pub(super) fn put_ranges(out: &mut Vec<u8>, ranges: &[Range<u64>]) {
    put_varint(out, ranges.len() as u64);
    for r in ranges {
        put_varint(out, r.start);
        put_varint(out, r.end - r.start);
    }
}

pub(super) fn read_ranges(b: &mut Reader<'_>) -> Result<Vec<Range<u64>>, WireError> {
    let n = b.varint_max(MAX_HAVE_RANGES as u64, "ranges")?;
    let mut ranges: Vec<Range<u64>> = Vec::with_capacity(n as usize);
    for _ in 0..n {
        let start = b.varint_max(MAX_FILE_BYTES, "range")?;
        let len = b.varint_max(MAX_FILE_BYTES, "range")?;
        if len == 0 || ranges.last().is_some_and(|r| start < r.end) {
            return Err(WireError::Bounds("range"));
        }
        ranges.push(start..start + len);
    }
    Ok(ranges)
}

pub(super) fn put_removed(out: &mut Vec<u8>, paths: &[(Vec<u8>, EntryKind)]) {
    put_varint(out, paths.len() as u64);
    for (path, kind) in paths {
        out.push(match kind {
            EntryKind::File => 0,
            EntryKind::Dir | EntryKind::DirEnd => 1,
            EntryKind::Symlink => 3,
        });
        put_bytes(out, path);
    }
}

pub(super) fn read_removed(r: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, EntryKind)>, WireError> {
    // Each takes two bytes at least, so the body bounds them.
    let count = r.varint_max(MAX_MESSAGE_BYTES as u64 / 2, "paths")?;
    let mut paths = Vec::new();
    for _ in 0..count {
        let kind = match r.u8()? {
            0 => EntryKind::File,
            1 => EntryKind::Dir,
            3 => EntryKind::Symlink,
            _ => return Err(WireError::Bounds("entry kind")),
        };
        paths.push((r.bytes(MAX_PATH_BYTES, "path")?.to_vec(), kind));
    }
    Ok(paths)
}
