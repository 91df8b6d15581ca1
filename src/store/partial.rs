//! Role: hidden files that hold what is not whole yet, their locks, and the step that makes them visible.
//! Owns: open partials; the counter that names temporary files.
//! Implements: docs/PROTOCOL.md, "Files" (partials).
//!
//! The partial of a big file has a name that follows from the final one, so that a later run finds it, and a lock
//! (flock) that keeps two writers apart. Small files get a name of their own each: they are written in one go, are
//! never resumed, and their handles need not stay open until the batch is synced.

use super::error::{busy, exists, from_io, wrong_kind};
use super::fs::{File, FileOps, FileType, How};
use super::jail::DirHandle;
use super::names::{HIDDEN_PREFIX, TEMP_SUFFIX, journal_name, partial_name, push_hex, split_last};
use crate::transfer::job::{Meta, Overwrite, StoreError, StoreErrorKind};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

/// How often a partial is opened again after its last holder renamed or removed it in the same moment.
const LOCK_ATTEMPTS: usize = 8;

/// Names for temporary files, unlike those of any other process.
#[derive(Debug)]
pub(crate) struct TempNames {
    prefix: Vec<u8>,
    next: u64,
}

impl TempNames {
    /// `nonce` tells this process apart.
    pub(crate) fn new(nonce: [u8; 8]) -> Self {
        let mut prefix = HIDDEN_PREFIX.to_vec();
        push_hex(&mut prefix, &nonce);
        prefix.push(b'-');
        Self { prefix, next: 0 }
    }

    /// What all of them begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn next(&mut self) -> Vec<u8> {
        self.next += 1;
        let mut name = self.prefix.clone();
        name.extend_from_slice(format!("{:x}", self.next).as_bytes());
        name.extend_from_slice(TEMP_SUFFIX);
        name
    }
}

/// A hidden file (or link) and the name that it is to get.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The directory of both names.
    pub(crate) dir: Arc<DirHandle>,
    temp: Vec<u8>,
    /// Beside a partial, its journal may stand.
    journal: Option<Vec<u8>>,
    /// The name that it is to get.
    pub(crate) name: Vec<u8>,
}

impl Staged {
    /// Creates a temporary file for `name`.
    pub(crate) fn create(
        dir: Arc<DirHandle>,
        name: &[u8],
        temps: &mut TempNames,
    ) -> io::Result<(Self, File)> {
        let temp = temps.next();
        let file = (**dir).open_file(&temp, How::CreateNew)?;
        Ok((Self { dir, temp, journal: None, name: name.to_vec() }, file))
    }

    /// Creates a link under a temporary name.
    pub(crate) fn create_link(
        dir: Arc<DirHandle>,
        name: &[u8],
        target: &[u8],
        temps: &mut TempNames,
    ) -> io::Result<Self> {
        let temp = temps.next();
        dir.make_link(&temp, target)?;
        Ok(Self { dir, temp, journal: None, name: name.to_vec() })
    }

    /// Sets the mtime of a staged link.
    pub(crate) fn set_link_times(&self, meta: &Meta) -> io::Result<()> {
        self.dir.set_link_times(&self.temp, meta)
    }

    /// Opens and locks the partial of `name`, with whatever an earlier run has left in it.
    pub(crate) fn open_partial(
        dir: Arc<DirHandle>,
        name: &[u8],
        shown: &[u8],
    ) -> Result<(Self, File), StoreError> {
        let temp = partial_name(name);
        let fail = |e: io::Error| from_io(shown, "cannot be written", &e);
        for _ in 0..LOCK_ATTEMPTS {
            let file = (**dir).open_file(&temp, How::Create).map_err(fail)?;
            match file.lock() {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error()) => {
                    return Err(busy(shown));
                }
                // A file system without locks: the name alone must do.
                Err(e) if lacks_locks(&e) => {}
                Err(e) => return Err(fail(e)),
            }
            // Its last holder may have given it its final name between our open and our lock.
            let opened = file.stat().map_err(fail)?;
            let named = dir.stat(&temp).ok();
            if named.is_none_or(|s| s.id != opened.id) {
                continue;
            }
            // A hard link would let somebody read or change what we write.
            if opened.kind != FileType::RegularFile || opened.links != 1 {
                return Err(wrong_kind(shown, "has a strange file in place of its partial; remove it"));
            }
            file.set_mode(0o600).map_err(fail)?;
            let journal = Some(journal_name(name));
            return Ok((Self { dir, temp, journal, name: name.to_vec() }, file));
        }
        Err(busy(shown))
    }

    /// Gives it its final name. Nothing is replaced with `Overwrite::Never`, whatever appeared meanwhile.
    pub(crate) fn publish(&self, overwrite: Overwrite, shown: &[u8]) -> Result<(), StoreError> {
        let (dir, temp, name) = (&self.dir, self.temp.as_slice(), self.name.as_slice());
        let result = match overwrite {
            Overwrite::Always => dir.rename(temp, name, true),
            Overwrite::Never => {
                match dir.rename(temp, name, false) {
                    // File systems without RENAME_NOREPLACE (man 2 rename): a hard link does not replace either.
                    Err(e) if lacks_noreplace(&e) => dir.link(temp, name).inspect(|()| dir.unlink(temp)),
                    other => other,
                }
            }
        };
        // Only now: a partial that is whole but lost its journal would have to come again.
        result.inspect(|()| self.drop_journal()).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists if overwrite == Overwrite::Never => {
                may_place(dir, name, overwrite, shown).err().unwrap_or_else(|| exists(&placed(shown, name)))
            }
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                wrong_kind(shown, "is a directory at the destination; rename one of them")
            }
            _ => from_io(shown, "cannot be given its name", &e),
        })
    }

    /// Removes the hidden file, and its journal.
    pub(crate) fn discard(&self) {
        self.drop_journal();
        self.dir.unlink(&self.temp);
    }

    fn drop_journal(&self) {
        if let Some(journal) = &self.journal {
            self.dir.unlink(journal);
        }
    }
}

/// True if locking failed because the file system knows no locks.
pub(crate) fn lacks_locks(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::NOLCK | Errno::OPNOTSUPP))
}

fn lacks_noreplace(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// The path in messages about what is there already: that of the entry, but with the name that it was to get.
fn placed(shown: &[u8], name: &[u8]) -> Vec<u8> {
    let (above, last) = split_last(shown);
    match (above, last == name) {
        (_, true) => shown.to_vec(),
        (b"", _) => name.to_vec(),
        _ => [above, b"/", name].concat(),
    }
}

/// Whether a file or link may take `name`: the early answer; `publish` has the last word.
pub(crate) fn may_place(
    dir: &DirHandle,
    name: &[u8],
    overwrite: Overwrite,
    shown: &[u8],
) -> Result<(), StoreError> {
    match dir.stat(name) {
        Ok(stat) if stat.kind == FileType::Directory => {
            Err(wrong_kind(shown, "is a directory at the destination; rename one of them"))
        }
        Ok(_) if overwrite == Overwrite::Never => Err(exists(&placed(shown, name))),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(from_io(shown, "cannot be written", &error)),
    }
}

/// Refuses a file that cannot fit, before its bytes travel; with `allocate`, the space is set aside as well.
pub(crate) fn reserve(file: &dyn FileOps, size: u64, allocate: bool, shown: &[u8]) -> Result<(), StoreError> {
    let full = |free: u64| {
        let why = format!(
            "{} needs {size} bytes, but the disk has {free} free; free some space and run the command again",
            super::error::shown(shown)
        );
        StoreError { kind: StoreErrorKind::NoSpace, message: why }
    };
    if i64::try_from(size).is_err() {
        return Err(full(i64::MAX as u64));
    }
    // Where that is not told, writing will tell.
    if let Some(free) = file.free_bytes() {
        // What an earlier run has left takes no room again.
        let there = file.stat().map_or(0, |s| s.allocated_bytes);
        if size.saturating_sub(there) > free {
            return Err(full(free));
        }
    }
    if allocate && size > 0 {
        match file.allocate(size) {
            Err(e) if e.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
            Err(e) if e.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {}
            other => other.map_err(|e| from_io(shown, "cannot be written", &e))?,
        }
    }
    Ok(())
}
