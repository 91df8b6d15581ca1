//! Role: the few things that a store asks of a file system, as traits: partials, journals, syncs and renames are the
//! same code over a real disk (`real`) and over a simulated one that crashes and fails (`sim::disk`).
//! Owns: nothing; handles.
//! Implements: docs/PROTOCOL.md, "Files"; docs/SIMULATION.md, "Disks".

pub(crate) mod real;

use super::jail::DirHandle;
use crate::transfer::job::Meta;
pub(crate) use rustix::fs::FileType;
use std::fmt::Debug;
use std::io;
use std::time::{Duration, Instant, SystemTime};

/// What stands under a name, or behind a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    /// Device and inode number.
    pub(crate) id: (u64, u64),
    /// What it is.
    pub(crate) kind: FileType,
    /// Bytes (files).
    pub(crate) size: u64,
    /// Names that it has.
    pub(crate) links: u64,
    /// Mode and mtime.
    pub(crate) meta: Meta,
    /// When anything about it changed last (ctime).
    pub(crate) changed: SystemTime,
    /// Bytes that it takes on the disk.
    pub(crate) allocated_bytes: u64,
}

/// How a file is opened; never through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// To be read.
    Read,
    /// To be read and written, made with mode 0600 if it is missing.
    Create,
    /// The same, but it must be missing.
    CreateNew,
}

/// An open file. Errors carry the system's code.
pub(crate) trait FileOps: Debug + Send + Sync {
    /// What it is now.
    fn stat(&self) -> io::Result<Stat>;
    /// Reads at `offset` into the spare capacity of `buffer`: how much; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut Vec<u8>) -> io::Result<usize>;
    /// Writes at `offset`: how much was written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize>;
    /// Makes its bytes, length, mode and times durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts it off, or lets it end with a hole.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Sets its mode.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// Sets its mtime; the access time stays.
    fn set_times(&self, meta: &Meta) -> io::Result<()>;
    /// Takes its lock, or fails at once (EWOULDBLOCK); it is held until the handle is closed.
    fn lock(&self) -> io::Result<()>;
    /// The first offset from `offset` on that may not lie in a hole; `None` if there is none.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Bytes free for us on its file system; `None` if that is not told.
    fn free_bytes(&self) -> Option<u64>;
    /// Has the system begin to write this part to the disk, without waiting for it; nothing is promised.
    fn push_out(&self, offset: u64, bytes: u64);
    /// Sets aside room for `bytes`; its length stays.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Reads what comes next of a stream into the spare capacity of `buffer`: how much, 0 at its end; `None`: nothing
    /// has come within the wait.
    fn read_stream(&self, buffer: &mut Vec<u8>, wait: Duration) -> io::Result<Option<usize>>;
}

/// An open file.
pub(crate) type File = Box<dyn FileOps>;

/// An open directory. Names are single components; no link is followed.
pub(crate) trait DirOps: Debug + Send + Sync {
    /// What it is now.
    fn stat_self(&self) -> io::Result<Stat>;
    /// What stands under `name`.
    fn stat(&self, name: &[u8]) -> io::Result<Stat>;
    /// Opens a directory.
    fn open_dir(&self, name: &[u8]) -> io::Result<Box<dyn DirOps>>;
    /// Opens the directory that this one is in.
    fn open_parent(&self) -> io::Result<Box<dyn DirOps>>;
    /// Another handle of this directory.
    fn duplicate(&self) -> io::Result<Box<dyn DirOps>>;
    /// Opens a file; neither a link nor a pipe's missing writer can hold it up.
    fn open_file(&self, name: &[u8], how: How) -> io::Result<File>;
    /// Makes a directory.
    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()>;
    /// Makes a symbolic link.
    fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()>;
    /// The target of a symbolic link.
    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>>;
    /// Sets the mtime of a link itself.
    fn set_link_times(&self, name: &[u8], meta: &Meta) -> io::Result<()>;
    /// Sets the mode of what stands under a name.
    fn set_mode_of(&self, name: &[u8], mode: u32) -> io::Result<()>;
    /// Removes a name that is no directory.
    fn unlink(&self, name: &[u8]) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, name: &[u8]) -> io::Result<()>;
    /// Gives `from` the name `to`; what is there is replaced if `replace`, else in the way (EEXIST).
    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()>;
    /// Gives the file `from` the name `to` as well; what is there is in the way (EEXIST).
    fn link(&self, from: &[u8], to: &[u8]) -> io::Result<()>;
    /// Makes its entries durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes the whole file system durable that it is on.
    fn sync_file_system(&self) -> io::Result<()>;
    /// Sets its mode.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// Sets its mtime; the access time stays.
    fn set_times(&self, meta: &Meta) -> io::Result<()>;
    /// Takes its lock, as for files.
    fn lock(&self) -> io::Result<()>;
    /// Takes its lock together with others that share it, in place of the one that this handle may have. Whoever has it
    /// alone is waited for a little.
    fn lock_shared(&self) -> io::Result<()>;
    /// What is in it, in no order, without `.` and `..`.
    fn list(&self) -> io::Result<Listing>;
}

/// The entries of a directory as they are read: name and type (`Unknown` where the file system does not tell).
pub(crate) struct Listing(pub(crate) Box<dyn Iterator<Item = io::Result<(Vec<u8>, FileType)>> + Send>);

impl Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listing")
    }
}

impl Iterator for Listing {
    type Item = io::Result<(Vec<u8>, FileType)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// What a path that the local user named leads to.
#[derive(Debug)]
pub(crate) enum Local {
    /// A directory.
    Dir(DirHandle),
    /// A file, to be read.
    File(File),
    /// A pipe, a socket or a device.
    Special,
}

/// A disk: one directory that is the jail of all peers, and what the local user may name.
pub(crate) trait Disk: Debug + Send {
    /// A new handle of the jail itself.
    fn top(&self) -> io::Result<DirHandle>;
    /// A path below the jail with its links resolved; an error if that is not below the jail.
    fn resolve(&self, path: &[u8]) -> io::Result<Vec<u8>>;
    /// Opens a directory below the jail; links are followed, none leads out.
    fn open_dir(&self, path: &[u8]) -> io::Result<DirHandle>;
    /// Opens what the local user named; links are followed.
    fn open_local(&self, path: &[u8]) -> io::Result<Local>;
    /// What its clock says, by which the age of files is told.
    fn wall_clock(&self) -> SystemTime;
    /// A clock that never goes back.
    fn now(&self) -> Instant;
}
