//! Role: directories as handles: every path of a peer is resolved beneath one, never by name from the root.
//! Owns: the jail's handle, and a cache of directory handles.
//! Implements: docs/PROTOCOL.md, "Files" (paths).
//!
//! Two ways of resolution. A path that names a destination or a source root goes through cap-std (openat2 with
//! RESOLVE_BENEATH where the kernel has it): links inside the jail are followed, none leads out. Whatever lies
//! below such a root is opened one component at a time with O_NOFOLLOW: no link is followed at all, so that a link
//! which a peer has sent, or which somebody puts there at the wrong moment, leads nowhere.

use super::error::{from_io, wrong_kind};
use super::fs::{DirOps, Disk, File, FileType, How, Local};
use super::names::{HIDDEN_PREFIX, split_first, split_last};
use crate::transfer::job::{Meta, StoreError};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

/// Directory handles kept open for receiving. Own choice: deeper than trees mostly are, few beside RLIMIT_NOFILE.
const CACHED_DIRS: usize = 64;

/// An open directory with its identity.
#[derive(Debug)]
pub(crate) struct DirHandle {
    ops: Box<dyn DirOps>,
    /// Device and inode number.
    pub(crate) id: (u64, u64),
    /// It has the shared lock, or there is none to be had.
    held: AtomicBool,
}

impl std::ops::Deref for DirHandle {
    type Target = dyn DirOps;

    fn deref(&self) -> &Self::Target {
        &*self.ops
    }
}

impl DirHandle {
    /// Takes an open directory.
    pub(crate) fn new(ops: Box<dyn DirOps>) -> io::Result<Self> {
        let id = ops.stat_self()?.id;
        Ok(Self { ops, id, held: AtomicBool::new(false) })
    }

    /// Takes the directory's shared lock, which is held until the handle is closed. A file system without locks has none.
    pub(crate) fn hold(&self) {
        if let Err(error) = self.ops.lock_shared() {
            log::debug!("a directory could not be locked: {error}");
        }
        self.held.store(true, Ordering::Relaxed);
    }

    /// Whether that was done.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Opens the directory `name` in this one; a link there is an error (ELOOP).
    pub(crate) fn open_dir(&self, name: &[u8]) -> io::Result<Self> {
        match self.ops.open_dir(name) {
            Ok(dir) => Self::new(dir),
            // With O_DIRECTORY, Linux reports a link as "not a directory".
            Err(error) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
                let link = self.stat(name).is_ok_and(|s| s.kind == FileType::Symlink);
                Err(if link { Errno::LOOP.into() } else { error })
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a directory below this one, following no link; an empty path is this directory itself.
    pub(crate) fn open_dir_below(&self, path: &[u8]) -> io::Result<Self> {
        let mut at = Self { ops: self.ops.duplicate()?, id: self.id, held: AtomicBool::new(false) };
        let mut rest = path;
        while !rest.is_empty() {
            let (name, tail) = split_first(rest);
            at = at.open_dir(name)?;
            rest = tail;
        }
        Ok(at)
    }

    /// Opens the file `name` for reading; neither a link nor a pipe's missing writer can hold it up.
    pub(crate) fn open_file(&self, name: &[u8]) -> io::Result<File> {
        self.ops.open_file(name, How::Read)
    }

    /// Makes the directory `name`; `Ok(false)`: it was there.
    pub(crate) fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<bool> {
        match self.ops.make_dir(name, mode) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a name that is not a directory; errors do not matter to the caller.
    pub(crate) fn unlink(&self, name: &[u8]) {
        let _ = self.ops.unlink(name);
    }
}

/// What of mode and time is taken over from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preserve {
    /// The modification time.
    pub(crate) mtime: bool,
    /// `None`: the mode; else the mode that files get instead, that of new ones.
    pub(crate) new_mode: Option<u32>,
}

impl Default for Preserve {
    fn default() -> Self {
        Self { mtime: true, new_mode: None }
    }
}

impl Preserve {
    /// As the client wishes.
    pub(crate) fn new(no_mode: bool, no_mtime: bool) -> Self {
        let new_mode = no_mode.then(|| {
            // The only way to learn it is to set it; nobody else makes files meanwhile but this thread.
            let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
            rustix::process::umask(mask);
            0o666 & !mask.bits()
        });
        Self { mtime: !no_mtime, new_mode }
    }
}

/// The modes that a store sets for a peer: no set-user-ID, set-group-ID or sticky bit, which would hand the
/// server's identity to whoever uploads.
pub(crate) fn permitted_mode(meta: &Meta) -> u32 {
    meta.mode & 0o777
}

/// The directory that peers live in.
#[derive(Debug)]
pub(crate) struct Jail {
    disk: Box<dyn Disk>,
}

impl Jail {
    /// The jail that a disk is.
    pub(crate) fn over(disk: Box<dyn Disk>) -> Self {
        Self { disk }
    }

    /// A new handle of the jail itself.
    pub(crate) fn handle(&self) -> io::Result<DirHandle> {
        self.disk.top()
    }

    /// Opens what the local user named; links are followed.
    pub(crate) fn open_local(&self, path: &[u8]) -> io::Result<Local> {
        self.disk.open_local(path)
    }

    /// By which the age of files is told.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        self.disk.wall_clock()
    }

    /// A clock that never goes back.
    pub(crate) fn now(&self) -> Instant {
        self.disk.now()
    }

    /// Opens a directory beneath; links inside the jail are followed.
    pub(crate) fn open_dir(&self, path: &[u8]) -> io::Result<DirHandle> {
        if path.is_empty() {
            return self.handle();
        }
        self.disk.open_dir(&self.real_path(path)?)
    }

    /// A path with its links resolved; neither itself nor by a link may it lead to our own hidden files.
    fn real_path(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let real = self.disk.resolve(path)?;
        let hidden = real.split(|&b| b == b'/').any(|part| part.starts_with(HIDDEN_PREFIX));
        if hidden { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(real) }
    }

    /// Where a path really lies, if that is beneath: its parent directory and last component, links resolved.
    pub(crate) fn locate(&self, path: &[u8]) -> io::Result<(DirHandle, Vec<u8>)> {
        let real = self.real_path(path)?;
        let (parent, name) = split_last(&real);
        Ok((self.open_dir(parent)?, name.to_vec()))
    }

    /// Opens the directory `path`, making what is missing. Every directory above it goes to `touched`: even if nothing
    /// is missing, an earlier run may have made it and been killed before its name was durable.
    pub(crate) fn ensure_dir(&self, path: &[u8], touched: Touched<'_>) -> Result<Arc<DirHandle>, StoreError> {
        let doing = "cannot be used as the destination";
        let mut have = path;
        loop {
            match self.open_dir(have) {
                Ok(dir) => {
                    let mut above = have;
                    while !above.is_empty() {
                        above = split_last(above).0;
                        touched(Arc::new(self.open_dir(above).map_err(|e| from_io(path, doing, &e))?));
                    }
                    let missing = path[have.len()..].strip_prefix(b"/").unwrap_or(&path[have.len()..]);
                    return ensure_below(Arc::new(dir), missing, 0o777, path, Some(touched));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && !have.is_empty() => {
                    have = split_last(have).0
                }
                Err(e) => return Err(from_io(path, doing, &e)),
            }
        }
    }
}

/// Takes directories that got new entries.
pub(crate) type Touched<'a> = &'a mut dyn FnMut(Arc<DirHandle>);

/// Opens `path` below `dir` without following any link, making directories that are missing, if `touched` is given.
pub(crate) fn ensure_below(
    dir: Arc<DirHandle>,
    path: &[u8],
    mode: u32,
    shown: &[u8],
    mut touched: Option<Touched<'_>>,
) -> Result<Arc<DirHandle>, StoreError> {
    let mut at = dir;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, tail) = split_first(rest);
        let next = match (at.open_dir(name), &mut touched) {
            (Err(e), Some(touched)) if e.kind() == io::ErrorKind::NotFound => {
                let fail = |e: io::Error| from_io(shown, "has a directory that cannot be made", &e);
                if at.make_dir(name, mode).map_err(fail)? {
                    touched(Arc::clone(&at));
                }
                at.open_dir(name)
            }
            (other, _) => other,
        };
        at = Arc::new(next.map_err(|e| parent_error(shown, &e))?);
        rest = tail;
    }
    Ok(at)
}

/// The error for an entry one of whose parent directories cannot be opened.
fn parent_error(shown: &[u8], error: &io::Error) -> StoreError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => {
            super::error::forbidden(shown, "leads through a link; nothing is written through links")
        }
        Some(Errno::NOTDIR) => {
            wrong_kind(shown, "a file stands where a directory is needed; rename one of them")
        }
        _ => from_io(shown, "cannot be written", error),
    }
}

/// Parent directories of received entries, the most recently used first.
#[derive(Debug, Default)]
pub(crate) struct DirCache {
    /// Destination, path below it, handle.
    dirs: VecDeque<(u64, Vec<u8>, Arc<DirHandle>)>,
}

impl DirCache {
    /// Opens the directory `path` below the destination `dest` with handle `base`, as `ensure_below` does.
    pub(crate) fn parent(
        &mut self,
        (dest, base): (u64, &Arc<DirHandle>),
        path: &[u8],
        shown: &[u8],
        touched: Option<Touched<'_>>,
    ) -> Result<Arc<DirHandle>, StoreError> {
        if path.is_empty() {
            return Ok(Arc::clone(base));
        }
        if let Some(dir) = self.find(dest, path) {
            return Ok(dir);
        }
        let (above, name) = split_last(path);
        let dir = match self.find(dest, above) {
            Some(dir) => ensure_below(dir, name, 0o777, shown, touched)?,
            None => ensure_below(Arc::clone(base), path, 0o777, shown, touched)?,
        };
        if self.dirs.len() == CACHED_DIRS {
            self.dirs.pop_back();
        }
        self.dirs.push_front((dest, path.to_vec(), Arc::clone(&dir)));
        Ok(dir)
    }

    fn find(&mut self, dest: u64, path: &[u8]) -> Option<Arc<DirHandle>> {
        let at = self.dirs.iter().position(|(d, p, _)| *d == dest && p == path)?;
        if at > 0 {
            let hit = self.dirs.remove(at)?;
            self.dirs.push_front(hit);
        }
        self.dirs.front().map(|(_, _, dir)| Arc::clone(dir))
    }

    /// Forgets the handles of a destination (all of them, if `None`).
    pub(crate) fn forget(&mut self, dest: Option<u64>) {
        self.dirs.retain(|(d, _, _)| dest.is_some_and(|gone| gone != *d));
    }
}

/// Removes a tree below `dir`, following no link. For our own scratch space only. However deep the tree is, one
/// handle is open at a time: the way up is `..`, checked against what the way down has seen.
pub(crate) fn remove_tree(dir: &DirHandle, name: &[u8]) -> io::Result<()> {
    if dir.stat(name)?.kind != FileType::Directory {
        return dir.ops.unlink(name);
    }
    let mut at = dir.open_own_dir(name)?;
    let mut above = vec![(dir.id, name.to_vec())];
    while let Some((parent, name)) = above.last() {
        if let Some(child) = at.unlink_files()? {
            let inner = at.open_own_dir(&child)?;
            above.push((at.id, child));
            at = inner;
            continue;
        }
        let up = DirHandle::new(at.ops.open_parent()?)?;
        if up.id != *parent {
            return Err(io::Error::other("a directory was moved while it was being removed"));
        }
        up.remove_dir(name)?;
        at = up;
        above.pop();
    }
    Ok(())
}

impl DirHandle {
    /// Opens a directory of ours to remove what is in it, whatever mode it was given.
    fn open_own_dir(&self, name: &[u8]) -> io::Result<Self> {
        let opened = match self.open_dir(name) {
            Err(e) if e.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
                self.set_mode_of(name, 0o700)?;
                self.open_dir(name)
            }
            other => other,
        }?;
        opened.set_mode(0o700)?;
        Ok(opened)
    }

    /// Removes what is not a directory, up to the first directory, which is returned.
    fn unlink_files(&self) -> io::Result<Option<Vec<u8>>> {
        for item in self.list()? {
            let (name, _) = item?;
            if self.stat(&name)?.kind == FileType::Directory {
                return Ok(Some(name));
            }
            self.ops.unlink(&name)?;
        }
        Ok(None)
    }
}
